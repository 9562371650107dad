/* SPDX-License-Identifier: MIT */
/*
 * What a file has beside its data, for the inode that takes its place.
 *
 * Pure copying from one descriptor to another: the caller holds the locks that
 * keep the original from changing.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cleanup.h"
#include "tier_impl.h"
#include "util.h"

#define XATTR_CAPS "security.capability"

static int copy_xattr(int from, int to, const char *name)
{
	_cleanup_free_ char *value = NULL;
	ssize_t len;

	len = fgetxattr(from, name, NULL, 0);
	if (len < 0)
		return errno == ENODATA ? 0 : -errno;
	value = malloc((size_t)len + 1);
	if (!value)
		return -ENOMEM;
	len = fgetxattr(from, name, value, (size_t)len);
	if (len < 0)
		return -errno;
	return fsetxattr(to, name, value, (size_t)len, 0) < 0 ? -errno : 0;
}

/* ACLs are xattrs (system.posix_acl_access), capabilities as well. */
static int copy_xattrs(int from, int to)
{
	_cleanup_free_ char *list = NULL;
	ssize_t len;
	int ret;

	len = flistxattr(from, NULL, 0);
	if (len <= 0)
		return len < 0 ? -errno : 0;
	list = malloc((size_t)len);
	if (!list)
		return -ENOMEM;
	len = flistxattr(from, list, (size_t)len);
	if (len < 0)
		return -errno;
	for (char *name = list; name < list + len; name += strlen(name) + 1) {
		if (!strncmp(name, TIERFS_EA_PREFIX_TRUSTED,
			     strlen(TIERFS_EA_PREFIX_TRUSTED)) ||
		    !strncmp(name, TIERFS_EA_PREFIX_USER,
			     strlen(TIERFS_EA_PREFIX_USER)))
			continue;
		ret = copy_xattr(from, to, name);
		if (ret)
			return ret;
	}
	return 0;
}

/* Inode flags (nodump, noatime, ...) and the project of quotas. A file system
 * without them has nothing to copy. Some are ext4's alone (compress, secure
 * deletion); a few cannot be set later, or are not the user's: left alone. */
static int copy_flags(int from, int to)
{
	const int both = FS_SECRM_FL | FS_UNRM_FL | FS_COMPR_FL | FS_NOTAIL_FL;
	struct fsxattr fx, old;
	int flags, now;

	if (ioctl(from, FS_IOC_GETFLAGS, &flags) == 0 &&
	    ioctl(to, FS_IOC_GETFLAGS, &now) == 0 && (flags ^ now) & both) {
		now = (now & ~both) | (flags & both);
		if (ioctl(to, FS_IOC_SETFLAGS, &now) < 0)
			return -errno;
	}
	if (ioctl(from, FS_IOC_FSGETXATTR, &fx) < 0 ||
	    ioctl(to, FS_IOC_FSGETXATTR, &old) < 0)
		return 0;
	if (fx.fsx_xflags == old.fsx_xflags && fx.fsx_projid == old.fsx_projid)
		return 0;
	old.fsx_xflags = fx.fsx_xflags & ~(uint32_t)FS_XFLAG_HASATTR;
	old.fsx_projid = fx.fsx_projid;
	return ioctl(to, FS_IOC_FSSETXATTR, &old) < 0 ? -errno : 0;
}

/* The birth time is the old inode's too; kept in an EA of its own. */
static int copy_btime(int from, int to)
{
	const char *name = TIERFS_EA_BTIME_TRUSTED;
	struct statx stx;
	uint64_t ns;

	if (fgetxattr(from, name, &ns, sizeof(ns)) != sizeof(ns)) {
		if (statx(from, "", AT_EMPTY_PATH, STATX_BTIME, &stx) < 0 ||
		    !(stx.stx_mask & STATX_BTIME))
			return 0;
		ns = htole64((uint64_t)stx.stx_btime.tv_sec * NSEC_PER_SEC +
			     stx.stx_btime.tv_nsec);
	}
	return fsetxattr(to, name, &ns, sizeof(ns), 0) < 0 ? -errno : 0;
}

int tier_copy_metadata(int from, int to, const struct stat *st, bool trusted)
{
	const struct timespec times[2] = {st->st_atim, st->st_mtim};
	int ret;

	if (fchown(to, st->st_uid, st->st_gid) < 0)
		return -errno;
	/* After chown, which clears setuid bits; before the ACL's mask. */
	if (fchmod(to, st->st_mode & 07777) < 0)
		return -errno;
	ret = copy_xattrs(from, to);
	if (!ret)
		ret = copy_flags(from, to);
	if (!ret && trusted)
		ret = copy_btime(from, to);
	if (!ret && futimens(to, times) < 0)
		ret = -errno;
	return ret;
}

/*
 * The copy is on the inode before what takes the original away, in the same
 * journal, so a crash leaves at least one of them; recovery puts it back with
 * the times.
 */
int tier_caps_keep(int fd, bool trusted)
{
	uint8_t caps[XATTR_CAPS_SZ];
	ssize_t len;

	len = fgetxattr(fd, XATTR_CAPS, caps, sizeof(caps));
	if (len < 0)
		return errno == ENODATA || errno == EOPNOTSUPP ? 0 : -errno;
	if (!trusted)
		return -EPERM;
	if (fsetxattr(fd, TIERFS_EA_CAPS_TRUSTED, caps, (size_t)len, 0) < 0)
		return -errno;
	return 1;
}

void tier_caps_back(int fd)
{
	uint8_t caps[XATTR_CAPS_SZ];
	ssize_t len;

	len = fgetxattr(fd, TIERFS_EA_CAPS_TRUSTED, caps, sizeof(caps));
	if (len < 0)
		return;
	if (fsetxattr(fd, XATTR_CAPS, caps, (size_t)len, 0) == 0)
		fremovexattr(fd, TIERFS_EA_CAPS_TRUSTED);
}
