/* SPDX-License-Identifier: MIT */
/*
 * Opening takes the lock before it reads or makes anything, so two daemons
 * cannot both find a directory that is no front yet.
 *
 * The format file is written last, when the subdirectories are there and the
 * probes have passed; its fsync of .tierfs covers them, and the root's was
 * before. A crash leaves either a front or a .tierfs without a format file,
 * which the next opening completes. But where there is a journal, a format
 * file that is missing was lost: a new UUID would make every target a
 * stranger, so that is refused.
 *
 * Under which name the spill EA is set is decided once, and recorded: a daemon
 * that may not read trusted.* would take every stub for an empty file, and the
 * next write to it for all there is.
 *
 * All descriptors are opened in a mount of our own where that may be made: a
 * copy of the front's, in no namespace. The kernel opens a backing file again
 * in the mount of the registered descriptor, so this is where "noatime" is said
 * for what passes through. And what is mounted below the front, or over it,
 * later is not seen there. The directory as it was given stays open, so that its
 * file system cannot be unmounted behind our back.
 *
 * .tierfs belongs to the daemon and nobody else writes in it, or what it holds
 * is not believed: who can write in the front's root could have made it.
 */
#include "front.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include "cleanup.h"
#include "config.h"
#include "front_format.h"
#include "util.h"

#define DIR_FLAGS  (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define PROBE_FILE "probe"
#define OTHER_CASE ".TIERFS" /* of TIERFS_META_DIR */
#define EA_ROOM	   256	     /* usually all of it */
#define ENOMEM_US  20000     /* until it is believed */

static void front_closep(struct front **front)
{
	front_close(*front);
}

static uint64_t atime_attr(unsigned long flags)
{
	if (flags & ST_NOATIME)
		return MOUNT_ATTR_NOATIME;
	return flags & ST_RELATIME ? MOUNT_ATTR_RELATIME
				   : MOUNT_ATTR_STRICTATIME;
}

/* Opens root_fd, in a mount of our own if there can be one. */
static int make_mount(struct front *front)
{
	struct mount_attr attr = {.propagation = MS_PRIVATE};
	int at = front->given_fd;

	front->mount_fd =
		open_tree(front->given_fd, "",
			  AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (front->mount_fd >= 0 &&
	    mount_setattr(front->mount_fd, "", AT_EMPTY_PATH, &attr,
			  sizeof(attr)) < 0)
		cleanup_close(&front->mount_fd);
	if (front->mount_fd >= 0)
		at = front->mount_fd;
	front->root_fd = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return front->root_fd < 0 ? -errno : 0;
}

int front_set_noatime(struct front *front, bool noatime)
{
	struct mount_attr attr = {
		.attr_clr = MOUNT_ATTR__ATIME,
		.attr_set = noatime ? MOUNT_ATTR_NOATIME : front->atime_attr,
	};

	if (front->mount_fd < 0)
		return -EOPNOTSUPP;
	return mount_setattr(front->mount_fd, "", AT_EMPTY_PATH, &attr,
			     sizeof(attr)) < 0
		       ? -errno
		       : 0;
}

static int open_root(struct front *front, char **ret_why)
{
	struct statvfs vfs;
	struct statfs fs;
	struct stat st;

	front->given_fd = open(front->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (front->given_fd < 0 || fstat(front->given_fd, &st) < 0 ||
	    fstatvfs(front->given_fd, &vfs) < 0 ||
	    fstatfs(front->given_fd, &fs) < 0)
		return fail_why(ret_why, -errno, "front %s: %s", front->path,
				strerror(errno));
	/* Mounted over itself, and asked for again: the lock is below. */
	if (fs.f_type == FUSE_SUPER_MAGIC)
		return fail_why(ret_why, -EBUSY,
				"front %s: a FUSE file system is mounted there "
				"(another tierfs?)",
				front->path);
	if (vfs.f_flag & ST_RDONLY)
		return fail_why(ret_why, -EROFS,
				"front %s: the file system is mounted "
				"read-only; tierfs must be able to write there",
				front->path);
	front->dev = st.st_dev;
	front->atime_attr = atime_attr(vfs.f_flag);
	if (make_mount(front))
		return fail_why(ret_why, -errno, "front %s: %s", front->path,
				strerror(errno));
	return 0;
}

/* Makes name below dirfd where it is missing, and opens it. */
static int open_subdir(int dirfd, const char *name)
{
	int fd;

	if (mkdirat(dirfd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dirfd, name, DIR_FLAGS);
	return fd < 0 ? -errno : fd;
}

static int open_meta(struct front *front, char **ret_why)
{
	struct stat st, given;
	int fd;

	fd = open_subdir(front->root_fd, TIERFS_META_DIR);
	if (fd < 0)
		return fail_why(ret_why, fd, "front %s: cannot make %s: %s",
				front->path, TIERFS_META_DIR, strerror(-fd));
	front->meta_fd = fd;
	if (fstat(fd, &st) < 0)
		return fail_why(ret_why, -errno, "%s/%s: %s", front->path,
				TIERFS_META_DIR, strerror(errno));
	/* A mount that ours does not show. */
	if (fstatat(front->given_fd, TIERFS_META_DIR, &given,
		    AT_SYMLINK_NOFOLLOW) < 0 ||
	    given.st_dev != st.st_dev || st.st_dev != front->dev)
		return fail_why(ret_why, -EXDEV,
				"%s/%s is on another file system", front->path,
				TIERFS_META_DIR);
	if (st.st_uid != geteuid() || (st.st_mode & 022))
		return fail_why(ret_why, -EACCES,
				"%s/%s belongs to uid %u with mode %04o, not "
				"to the daemon alone",
				front->path, TIERFS_META_DIR,
				(unsigned int)st.st_uid,
				(unsigned int)(st.st_mode & 07777));
	front->meta_ino = st.st_ino;
	/* Other spellings of it would not be hidden; and the kernel caches of
	 * FUSE tell names apart. */
	if (!fstatat(front->root_fd, OTHER_CASE, &st, AT_SYMLINK_NOFOLLOW) &&
	    st.st_ino == front->meta_ino)
		return fail_why(ret_why, -EOPNOTSUPP,
				"front %s: upper and lower case are the same "
				"in its names",
				front->path);
	return 0;
}

/* Can fd have the EA name, as long as it may be? */
static int probe_ea(int fd, const char *name)
{
	uint8_t value[TIERFS_EA_MAX], back[TIERFS_EA_MAX];

	memset(value, 0xa5, sizeof(value));
	if (fsetxattr(fd, name, value, sizeof(value), 0) < 0)
		return -errno;
	if (fgetxattr(fd, name, back, sizeof(back)) != sizeof(back) ||
	    memcmp(value, back, sizeof(back)))
		return -EIO;
	if (fremovexattr(fd, name) < 0)
		return -errno;
	return 0;
}

static bool knows_ea(struct front *front, const char *name)
{
	return fgetxattr(front->root_fd, name, NULL, 0) >= 0 ||
	       errno == ENODATA;
}

/* Chooses the EA's name, or checks that the recorded one can be used. On a full
 * front it could be once, which must do: it is mounted to make room. */
static int probe_eas(struct front *front, int fd, bool known, char **ret_why)
{
	bool trusted = known ? front->trusted : true;
	const char *name = trusted ? TIERFS_EA_TRUSTED : TIERFS_EA_USER;
	int err;

	err = fd < 0 ? -ENOSPC : probe_ea(fd, name);
	if (known && is_no_room(err))
		err = 0;
	if (!known && (err == -EPERM || err == -EOPNOTSUPP)) {
		trusted = false;
		name = TIERFS_EA_USER;
		err = probe_ea(fd, name);
	}
	if (err == -EPERM && trusted)
		return fail_why(ret_why, -EOPNOTSUPP,
				"front %s uses the attribute %s, which takes "
				"CAP_SYS_ADMIN",
				front->path, name);
	if (err)
		return fail_why(ret_why, is_no_room(err) ? err : -EOPNOTSUPP,
				"front %s: extended attributes do not work "
				"there (%s: %s)",
				front->path, name, strerror(-err));
	front->trusted = trusted;
	front->ea_spill = name;
	front->plain_xattrs = knows_ea(front, "user.tierfs") &&
			      knows_ea(front, "system.posix_acl_access");
	return 0;
}

static int probe_handles(struct front *front, int fd, char **ret_why)
{
	struct front_handle handle;
	int err;

	err = front_handle_at(front, fd, "", &handle);
	if (err)
		return fail_why(ret_why, -EOPNOTSUPP,
				"front %s: its file system gives no usable "
				"file handles (%s)",
				front->path, strerror(-err));
	fd = front_open_handle(front, &handle, O_PATH);
	if (fd >= 0)
		close(fd);
	front->by_handle = fd >= 0;
	return 0;
}

static int probe(struct front *front, bool known, char **ret_why)
{
	_cleanup_close_ int fd = -1;
	int err;

	/* A probe that a crash left may be anything. */
	unlinkat(front->meta_fd, PROBE_FILE, 0);
	fd = openat(front->meta_fd, PROBE_FILE,
		    O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 && !(known && is_no_room(-errno)))
		return fail_why(ret_why, -errno, "front %s: cannot write: %s",
				front->path, strerror(errno));
	err = probe_eas(front, fd, known, ret_why);
	if (!err)
		err = probe_handles(front, fd < 0 ? front->meta_fd : fd,
				    ret_why);
	unlinkat(front->meta_fd, PROBE_FILE, 0);
	return err;
}

static int new_uuid(char ret[37])
{
	_cleanup_close_ int fd = -1;
	char buf[37] = "";
	int err;

	fd = open("/proc/sys/kernel/random/uuid", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = pread_full(fd, buf, 36, 0);
	if (err)
		return err;
	if (!front_uuid_valid(buf))
		return -EIO;
	memcpy(ret, buf, sizeof(buf));
	return 0;
}

static int open_subdirs(struct front *front, char **ret_why)
{
	const struct {
		const char *name;
		int *fd;
	} dirs[] = {
		{"staging", &front->staging_fd},
		{"inodes", &front->inodes_fd},
		{"orphans", &front->orphans_fd},
	};
	size_t i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(dirs); i++) {
		fd = open_subdir(front->meta_fd, dirs[i].name);
		if (fd < 0)
			return fail_why(ret_why, fd, "%s/%s/%s: %s",
					front->path, TIERFS_META_DIR,
					dirs[i].name, strerror(-fd));
		*dirs[i].fd = fd;
	}
	return 0;
}

/* Reads the format file; -ENOENT: the front is new, and may be. */
static int read_format(struct front *front, const char *name, char **ret_why)
{
	int err;

	err = front_format_read(front, ret_why);
	if (err == -ENOENT &&
	    faccessat(front->meta_fd, "journal.db", F_OK, 0) == 0)
		return fail_why(ret_why, -EBADMSG,
				"%s/%s has a journal but no format file",
				front->path, TIERFS_META_DIR);
	if (!err && strcmp(front->name, name))
		return fail_why(ret_why, -EEXIST,
				"front %s has the name '%s', not '%s'",
				front->path, front->name, name);
	return err;
}

static int make_format(struct front *front, const char *name, char **ret_why)
{
	int err;

	snprintf(front->name, sizeof(front->name), "%s", name);
	err = new_uuid(front->uuid);
	if (err)
		return fail_why(ret_why, err, "cannot make a UUID: %s",
				strerror(-err));
	if (fsync(front->root_fd) < 0)
		return fail_why(ret_why, -errno, "front %s: %s", front->path,
				strerror(errno));
	err = front_format_write(front);
	if (err)
		return fail_why(ret_why, err, "%s/%s/%s: %s", front->path,
				TIERFS_META_DIR, FRONT_FORMAT_FILE,
				strerror(-err));
	return 0;
}

int front_open(const char *path, const char *name, struct front **ret,
	       char **ret_why)
{
	_cleanup_(front_closep) struct front *front = NULL;
	bool known;
	int err;

	if (!config_name_valid(name))
		return fail_why(ret_why, -EINVAL, "'%s' is not a name", name);
	front = calloc(1, sizeof(*front));
	if (!front)
		return -ENOMEM;
	front->given_fd = front->mount_fd = front->root_fd = -1;
	front->meta_fd = front->lock_fd = -1;
	front->staging_fd = front->inodes_fd = front->orphans_fd = -1;
	front->path = strdup(path);
	if (!front->path)
		return -ENOMEM;
	err = open_root(front, ret_why);
	if (!err)
		err = open_meta(front, ret_why);
	if (!err)
		err = front_lock(front, ret_why);
	if (err)
		return err;
	err = read_format(front, name, ret_why);
	if (err && err != -ENOENT)
		return err;
	known = err == 0;
	err = probe(front, known, ret_why);
	if (!err)
		err = open_subdirs(front, ret_why);
	if (!err && !known)
		err = make_format(front, name, ret_why);
	if (err)
		return err;
	*ret = steal_ptr(&front);
	return 0;
}

int front_known_name(const char *path, char ret[TIERFS_NAME_MAX],
		     char **ret_why)
{
	_cleanup_(front_closep) struct front *front = calloc(1, sizeof(*front));
	int err;

	if (!front)
		return -ENOMEM;
	front->root_fd = front->meta_fd = front->lock_fd = -1;
	front->staging_fd = front->inodes_fd = front->orphans_fd = -1;
	front->path = strdup(path);
	if (!front->path)
		return -ENOMEM;
	err = open_root(front, ret_why);
	if (err)
		return err;
	front->meta_fd = openat(front->root_fd, TIERFS_META_DIR, DIR_FLAGS);
	err = front->meta_fd < 0 ? -errno : front_format_read(front, ret_why);
	if (err == -ENOENT)
		return fail_why(ret_why, err, "%s is not the front of a tierfs",
				path);
	if (err && front->meta_fd < 0)
		return fail_why(ret_why, err, "%s/%s: %s", path,
				TIERFS_META_DIR, strerror(-err));
	if (!err)
		memcpy(ret, front->name, TIERFS_NAME_MAX);
	return err;
}

void front_close(struct front *front)
{
	if (!front)
		return;
	cleanup_close(&front->staging_fd);
	cleanup_close(&front->inodes_fd);
	cleanup_close(&front->orphans_fd);
	cleanup_close(&front->meta_fd);
	cleanup_close(&front->root_fd);
	cleanup_close(&front->mount_fd);
	cleanup_close(&front->given_fd);
	cleanup_close(&front->lock_fd); /* last: the front is free now */
	free(front->path);
	free(front);
}

int front_add_target(struct front *front, const char *name, const char *uuid,
		     unsigned int *ret_number)
{
	struct front_target *target;
	unsigned int i;
	int err;

	if (!config_name_valid(name) || !front_uuid_valid(uuid))
		return -EINVAL;
	for (i = 0; i < front->ntargets; i++)
		if (!strcmp(front->targets[i].name, name) ||
		    !strcmp(front->targets[i].uuid, uuid))
			return -EEXIST;
	if (i == TIERFS_TARGETS_MAX)
		return -ENOSPC;
	target = &front->targets[i];
	snprintf(target->name, sizeof(target->name), "%s", name);
	snprintf(target->uuid, sizeof(target->uuid), "%s", uuid);
	front->ntargets++;
	err = front_format_write(front);
	if (err) {
		front->ntargets--;
		return err;
	}
	*ret_number = i;
	return 0;
}

/* struct file_handle with its room; the kernel's has a flexible end. */
union handle_room {
	struct file_handle fh;
	uint8_t room[sizeof(struct file_handle) + FRONT_HANDLE_BYTES];
};

int front_handle_at(struct front *front, int dirfd, const char *name,
		    struct front_handle *ret)
{
	union handle_room h = {.fh.handle_bytes = FRONT_HANDLE_BYTES};
	int mount_id;

	if (name_to_handle_at(dirfd, name, &h.fh, &mount_id,
			      *name ? 0 : AT_EMPTY_PATH) < 0)
		return -errno; /* EOVERFLOW among them */
	if (h.fh.handle_bytes == 0 || h.fh.handle_bytes > FRONT_HANDLE_BYTES ||
	    h.fh.handle_type < 0 || h.fh.handle_type > UINT8_MAX)
		return -EOVERFLOW;
	memset(ret, 0, sizeof(*ret));
	ret->type = (uint8_t)h.fh.handle_type;
	ret->len = (uint8_t)h.fh.handle_bytes;
	memcpy(ret->bytes, h.fh.f_handle, ret->len);
	return 0;
}

int front_open_handle(struct front *front, const struct front_handle *handle,
		      int flags)
{
	union handle_room h = {
		.fh.handle_bytes = handle->len,
		.fh.handle_type = handle->type,
	};
	int fd;

	if (handle->len == 0 || handle->len > FRONT_HANDLE_BYTES)
		return -ESTALE;
	memcpy(h.fh.f_handle, handle->bytes, handle->len);
	/* ext4 says so, too, of a number that was another file's and is being
	 * given to a new one just now: iget_locked() has no inode for it, as
	 * long as that is I_CREATING (Linux 6.18). */
	for (useconds_t us = 10;
	     (fd = open_by_handle_at(front->root_fd, &h.fh,
				     flags | O_CLOEXEC)) < 0 &&
	     errno == ENOMEM && us < ENOMEM_US;
	     us *= 2)
		usleep(us);
	return fd < 0 ? -errno : fd;
}

bool front_handle_equal(const struct front_handle *a,
			const struct front_handle *b)
{
	return a->type == b->type && a->len == b->len &&
	       !memcmp(a->bytes, b->bytes, a->len);
}

/* name NULL: of fd itself. */
static ssize_t get_ea(struct front *front, int fd, const char *name, void *buf,
		      size_t size)
{
	return name ? getxattr_at(fd, name, front->ea_spill, buf, size)
		    : getxattr_fd(fd, front->ea_spill, buf, size);
}

static int decode_ea(struct front *front, int fd, const char *name,
		     struct spill_ea *ret)
{
	_cleanup_free_ uint8_t *all = NULL;
	uint8_t buf[EA_ROOM], *value = buf;
	ssize_t len = get_ea(front, fd, name, buf, sizeof(buf));

	/* A newer version's, or none of ours: worth telling apart. */
	if (len == -ERANGE) {
		value = all = malloc(XATTR_SIZE_MAX);
		if (!all)
			return -ENOMEM;
		len = get_ea(front, fd, name, all, XATTR_SIZE_MAX);
	}
	if (len < 0)
		return (int)len;
	return spill_ea_decode(value, (size_t)len, ret);
}

int front_ea_get_at(struct front *front, int dirfd, const char *name,
		    struct spill_ea *ret)
{
	return decode_ea(front, dirfd, name, ret);
}

int front_ea_get(struct front *front, int fd, struct spill_ea *ret)
{
	return decode_ea(front, fd, NULL, ret);
}

int front_ea_set(struct front *front, int fd, const struct spill_ea *ea)
{
	uint8_t buf[TIERFS_EA_MAX];
	int len;

	if (spill_ea_is_empty(ea)) {
		len = removexattr_fd(fd, front->ea_spill);
		return len == -ENODATA ? 0 : len;
	}
	len = spill_ea_encode(ea, buf, sizeof(buf));
	if (len < 0)
		return len;
	return setxattr_fd(fd, front->ea_spill, buf, (size_t)len);
}

int front_usage(struct front *front, uint64_t *ret_used, uint64_t *ret_avail)
{
	struct statvfs vfs;

	if (fstatvfs(front->root_fd, &vfs) < 0)
		return -errno;
	*ret_used = (uint64_t)(vfs.f_blocks - vfs.f_bfree) * vfs.f_frsize;
	*ret_avail = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	return 0;
}
