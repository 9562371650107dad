/* SPDX-License-Identifier: MIT */
/*
 * Is the directory at the path the target that the front knows?
 *
 * The classic mistake is a disk that is not mounted: its mountpoint is an
 * empty directory on another file system, and everything written there is
 * hidden when the disk comes. So only an identity that names the front, and
 * the target's own UUID, makes a known target online. A new one is claimed by
 * writing the identity, which is durable, with the directory's own entry,
 * before the claim is answered: the front remembers the UUID after that.
 *
 * A crash inside the claim leaves an empty directory, or one with the
 * unfinished file identity.new alone: both count as empty. A crash after it
 * and before the front noted the UUID leaves an identity that is ours, which
 * is adopted.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "target_dir.h"
#include "util.h"

#define IDENTITY     "identity"
#define IDENTITY_MAX 4096

__attribute__((format(printf, 3, 4))) static int say(char **ret_why, int err,
						     const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	free(*ret_why);
	*ret_why = text;
	return err;
}

/* KEY=VALUE at *text, which is moved behind it: the value, NULL: not that. */
static const char *identity_line(const char **text, const char *end,
				 const char *key, size_t *ret_len)
{
	const char *line = *text, *value = line + strlen(key);
	const char *nl = memchr(line, '\n', (size_t)(end - line));

	if (!nl || nl <= value || memcmp(line, key, strlen(key)) ||
	    *value != '=')
		return NULL;
	*text = nl + 1;
	*ret_len = (size_t)(nl - value - 1);
	return value + 1;
}

static bool identity_uuid(const char **text, const char *end, const char *key,
			  char ret[TARGET_UUID_LEN])
{
	size_t len = 0;
	const char *value = identity_line(text, end, key, &len);

	if (!value || len != TARGET_UUID_LEN - 1)
		return false;
	memcpy(ret, value, len);
	ret[len] = '\0';
	return strspn(ret, "0123456789abcdef-") == len;
}

/* 1: a later version than this one, 0: this one, -EBADMSG. */
static int identity_version(const char **text, const char *end)
{
	size_t len = 0;
	const char *value = identity_line(text, end, "version", &len);

	if (!value || !len || value[0] == '0')
		return -EBADMSG;
	for (size_t i = 0; i < len; i++)
		if (value[i] < '0' || value[i] > '9')
			return -EBADMSG;
	return len != 1 || value[0] != '0' + TIERFS_FORMAT_VERSION;
}

int dir_identity_parse(const char *text, size_t len, struct dir_identity *ret)
{
	struct dir_identity id = {0};
	const char *end = text + len;
	int newer = identity_version(&text, end);

	if (newer)
		return newer < 0 ? newer : -EPROTONOSUPPORT;
	if (!identity_uuid(&text, end, "front", id.front) ||
	    !identity_uuid(&text, end, "uuid", id.uuid) || text != end)
		return -EBADMSG;
	*ret = id;
	return 0;
}

int dir_identity_text(const struct dir_identity *id, char **ret)
{
	return asprintf(ret, "version=%d\nfront=%s\nuuid=%s\n",
			TIERFS_FORMAT_VERSION, id->front, id->uuid);
}

/* medium: not from the page cache. */
static int identity_read(int rootfd, bool medium, struct dir_identity *ret)
{
	_cleanup_free_ char *buf = NULL;
	_cleanup_close_ int fd = -1;
	ssize_t len;

	buf = aligned_alloc(TARGET_ALIGN, IDENTITY_MAX);
	if (!buf)
		return -ENOMEM;
	if (medium)
		fd = openat(rootfd, IDENTITY,
			    O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_DIRECT);
	if (fd < 0)
		fd = openat(rootfd, IDENTITY,
			    O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (medium)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	len = pread(fd, buf, IDENTITY_MAX, 0);
	if (len < 0)
		return -errno;
	if (len == IDENTITY_MAX)
		return -EBADMSG;
	return dir_identity_parse(buf, (size_t)len, ret);
}

/* Of one that exists: is it this front's, and the one it knows? */
static int identity_fits(const struct target *target,
			 const struct dir_identity *id, char **ret_why)
{
	if (strcmp(id->front, target->front_uuid) != 0)
		return say(ret_why, -EEXIST,
			   "%s/%s belongs to another front (%s, not %s)",
			   target->path, target->fsname, id->front,
			   target->front_uuid);
	if (target->uuid[0] && strcmp(id->uuid, target->uuid) != 0)
		return say(ret_why, -EEXIST,
			   "%s/%s is another target (%s, not %s)", target->path,
			   target->fsname, id->uuid, target->uuid);
	return 0;
}

static int identity_unreadable(const struct target *target, int err,
			       char **ret_why)
{
	const char *what = strerrordesc_np(-err);

	if (err == -EBADMSG)
		what = "not an identity file";
	else if (err == -EPROTONOSUPPORT)
		what = "written by a newer version";
	return say(ret_why, err, "%s/%s/" IDENTITY ": %s", target->path,
		   target->fsname, what);
}

int dir_identity_check(struct target *target, int rootfd, char **ret_why)
{
	struct dir_identity id;
	int ret;

	ret = identity_read(rootfd, true, &id);
	if (ret < 0)
		return identity_unreadable(target, ret, ret_why);
	return identity_fits(target, &id, ret_why);
}

/* 1: nothing there, but for what an interrupted claim left. */
static int is_empty(int rootfd)
{
	_cleanup_close_ int fd = -1;
	struct dirent *entry;
	int ret = 1;
	DIR *dir;

	fd = openat(rootfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir)
		return -errno;
	steal_fd(&fd);
	errno = 0;
	while (ret > 0 && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") != 0 &&
		    strcmp(entry->d_name, "..") != 0 &&
		    strcmp(entry->d_name, IDENTITY ".new") != 0)
			ret = 0;
	}
	if (ret > 0 && errno)
		ret = -errno;
	closedir(dir);
	return ret;
}

static int new_uuid(char ret[TARGET_UUID_LEN])
{
	_cleanup_close_ int fd = -1;
	int err;

	fd = open("/proc/sys/kernel/random/uuid", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = pread_full(fd, ret, TARGET_UUID_LEN - 1, 0);
	ret[TARGET_UUID_LEN - 1] = '\0';
	return err;
}

static int identity_write(struct target *target, int rootfd,
			  struct dir_identity *ret_id, char **ret_why)
{
	_cleanup_free_ char *text = NULL;
	struct dir_identity id = {0};
	int len, ret;

	ret = is_empty(rootfd);
	if (ret == 0)
		return say(ret_why, -ENOTEMPTY,
			   "%s/%s is not empty and not a target (no " IDENTITY
			   " in it)",
			   target->path, target->fsname);
	if (ret > 0)
		ret = new_uuid(id.uuid);
	if (ret < 0)
		return ret;
	memcpy(id.front, target->front_uuid, sizeof(id.front));
	len = dir_identity_text(&id, &text);
	if (len < 0)
		return -ENOMEM;
	ret = write_file_durably(rootfd, IDENTITY, text, len);
	if (ret < 0)
		return say(ret_why, ret, "%s/%s/" IDENTITY ": %s", target->path,
			   target->fsname, strerrordesc_np(-ret));
	*ret_id = id;
	return 0;
}

/* A new target: finds or makes the identity, and makes it durable. */
static int claim(struct target *target, int dirfd, int rootfd, char **ret_why)
{
	struct dir_identity id;
	int ret;

	ret = identity_read(rootfd, false, &id);
	if (ret == -ENOENT) {
		ret = identity_write(target, rootfd, &id, ret_why);
		if (ret < 0)
			return ret;
	} else if (ret < 0) {
		identity_unreadable(target, ret, ret_why);
		return ret == -EBADMSG ? -ENOTEMPTY : ret;
	}
	ret = identity_fits(target, &id, ret_why);
	if (ret < 0)
		return ret;
	if (fsync(rootfd) < 0 || fsync(dirfd) < 0)
		return say(ret_why, -errno, "%s: %s", target->path,
			   strerrordesc_np(errno));
	memcpy(target->uuid, id.uuid, sizeof(target->uuid));
	return 0;
}

/* The descriptor of PATH/FSNAME, made if the target is new. */
static int open_root(struct target *target, int dirfd, char **ret_why)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	bool is_new = !target->uuid[0];
	int fd, err;

	fd = openat(dirfd, target->fsname, flags);
	if (fd < 0 && errno == ENOENT && is_new) {
		if (mkdirat(dirfd, target->fsname, 0700) == 0 ||
		    errno == EEXIST)
			fd = openat(dirfd, target->fsname, flags);
	}
	if (fd >= 0)
		return fd;
	err = -errno;
	if (err == -ENOENT)
		return say(ret_why, err, "%s: not mounted? It has no \"%s\"",
			   target->path, target->fsname);
	say(ret_why, err, "%s/%s: %s", target->path, target->fsname,
	    strerrordesc_np(-err));
	return err == -ENOTDIR || err == -ELOOP ? -ENOTEMPTY : err;
}

static unsigned int find_caps(int rootfd)
{
	unsigned int caps = TARGET_CAP_RANGE_READ | TARGET_CAP_SPARSE |
			    TARGET_CAP_SEEK_ORDER | TARGET_CAP_XATTR;
	_cleanup_close_ int fd = -1;

	if (getxattr_fd(rootfd, TIERFS_EA_ORIGIN_USER, NULL, 0) == -EOPNOTSUPP)
		caps &= ~TARGET_CAP_XATTR;
	fd = openat(rootfd, IDENTITY, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd >= 0)
		caps |= TARGET_CAP_DIRECT;
	return caps;
}

int dir_attach(struct target *target, char **ret_why)
{
	struct target_dir *dir = container_of(target, struct target_dir, base);
	_cleanup_close_ int dirfd = -1, rootfd = -1;
	struct dir_root *root;
	struct stat st;
	int ret;

	dirfd = open(target->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return say(ret_why, -errno, "%s: %s", target->path,
			   strerrordesc_np(errno));
	rootfd = open_root(target, dirfd, ret_why);
	if (rootfd < 0)
		return rootfd;
	if (target->uuid[0])
		ret = dir_identity_check(target, rootfd, ret_why);
	else
		ret = claim(target, dirfd, rootfd, ret_why);
	if (ret < 0)
		return ret;
	if (fstat(rootfd, &st) < 0)
		return -errno;
	root = calloc(1, sizeof(*root));
	if (!root)
		return -ENOMEM;
	atomic_store(&target->caps, find_caps(rootfd));
	root->fd = steal_fd(&rootfd);
	root->dev = st.st_dev;
	root->ino = st.st_ino;
	root->refs = 1;
	pthread_mutex_lock(&dir->lock);
	dir->root = root;
	pthread_mutex_unlock(&dir->lock);
	return 0;
}
