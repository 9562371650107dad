/* SPDX-License-Identifier: MIT */

/*
 * Extended attributes and inode flags.
 *
 * The daemon's own attributes are not there for clients, except for the
 * virtual one that names the state.
 */

#include "fs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#define TRUSTED "trusted."

static bool starts(const char *name, const char *prefix)
{
	return !strncmp(name, prefix, strlen(prefix));
}

static bool hidden(const char *name)
{
	return starts(name, TIERFS_EA_PREFIX_TRUSTED) ||
	       starts(name, TIERFS_EA_PREFIX_USER);
}

/* Replies with a value as getxattr(2) and listxattr(2) do. */
static void reply_value(fuse_req_t req, const char *buf, ssize_t len,
			size_t size)
{
	if (len < 0)
		fs_reply_err(req, len);
	else if (size == 0)
		fuse_reply_xattr(req, len);
	else if ((size_t)len > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, buf, len);
}

static void get_state(fuse_req_t req, struct node *node, size_t size)
{
	enum spill_state state;
	const char *name;
	int err = S_ISREG(node->type) ? tier_state(fs_tier(req), node, &state)
				      : -ENODATA;

	if (err) {
		fs_reply_err(req, err);
		return;
	}
	name = spill_state_name(state);
	reply_value(req, name, strlen(name), size);
}

void fs_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct node *node = fs_node(req, ino);
	_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;
	_cleanup_free_ char *buf = NULL;
	int err;

	if (!strcmp(name, TIERFS_EA_STATE)) {
		get_state(req, node, size);
		return;
	}
	if (hidden(name)) {
		fuse_reply_err(req, ENODATA);
		return;
	}
	buf = size ? malloc(size) : NULL;
	err = size && !buf ? -ENOMEM : node_fd_get(node, &nfd);
	reply_value(req, buf, err ? err : getxattr_fd(nfd.fd, name, buf, size),
		    size);
}

/* Takes out of list what the client must not see: the new length. */
static size_t filter(char *list, size_t len, bool privileged)
{
	size_t kept = 0;

	for (size_t pos = 0; pos < len;) {
		size_t n = strlen(list + pos) + 1;

		if (!hidden(list + pos) &&
		    (privileged || !starts(list + pos, TRUSTED))) {
			memmove(list + kept, list + pos, n);
			kept += n;
		}
		pos += n;
	}
	return kept;
}

void fs_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;
	_cleanup_free_ char *list = malloc(XATTR_LIST_MAX);
	char proc[PROC_FD_LEN];
	ssize_t len;
	int err;

	err = list ? node_fd_get(fs_node(req, ino), &nfd) : -ENOMEM;
	if (err) {
		fs_reply_err(req, err);
		return;
	}
	len = listxattr(proc_fd_path(nfd.fd, proc), list, XATTR_LIST_MAX);
	len = len < 0 ? -errno
		      : (ssize_t)filter(list, len, fuse_req_ctx(req)->uid == 0);
	reply_value(req, list, len, size);
}

/* value NULL: remove. */
static void change_xattr(fuse_req_t req, fuse_ino_t ino, const char *name,
			 const char *value, size_t size, int flags)
{
	struct node *node = fs_node(req, ino);
	_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;
	char proc[PROC_FD_LEN];
	int err;

	if (hidden(name)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	/* An ACL that root sets keeps the setgid bit. */
	fs_become_root();
	tier_meta_begin(fs_tier(req), node);
	err = node_fd_get(node, &nfd);
	if (!err) {
		proc_fd_path(nfd.fd, proc);
		if ((value ? setxattr(proc, name, value, size, flags)
			   : removexattr(proc, name)) < 0)
			err = -errno;
	}
	tier_meta_end(fs_tier(req), node);
	fs_reply_err(req, err);
}

void fs_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name,
		 const char *value, size_t size, int flags)
{
	change_xattr(req, ino, name, value, size, flags);
}

void fs_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	change_xattr(req, ino, name, NULL, 0, 0);
}

/* ---- inode flags ---------------------------------------------------------- */

union ioctl_room {
	unsigned int flags;
	struct fsxattr fsx;
};

/* Bytes of the argument; 0: not for clients of a mount. */
static size_t ioctl_size(unsigned int cmd, bool *ret_sets)
{
	*ret_sets = false;
	switch (cmd) {
	case FS_IOC_SETFLAGS:
		*ret_sets = true;
		/* fall through */
	case FS_IOC_GETFLAGS:
	case FS_IOC_GETVERSION:
		return sizeof(unsigned int);
	case FS_IOC_FSSETXATTR:
		*ret_sets = true;
		/* fall through */
	case FS_IOC_FSGETXATTR:
		return sizeof(struct fsxattr);
	default:
		return 0;
	}
}

/* A descriptor for ioctl(2), which O_PATH is not. */
static int ioctl_fd(fuse_req_t req, struct node *node,
		    const struct fuse_file_info *fi, struct tier_data *data,
		    int *ret_own)
{
	int err;

	*ret_own = -1;
	data->fd = -1;
	if (S_ISDIR(node->type))
		return fs_dir_fd(fi);
	err = tier_data_get(fs_tier(req), node, false, data);
	if (!err)
		return data->fd;
	if (err == -EREMOTE)
		err = *ret_own = node_open(node, O_RDONLY | O_NONBLOCK);
	return err;
}

void fs_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg,
	      struct fuse_file_info *fi, unsigned int flags, const void *in,
	      size_t in_size, size_t out_size)
{
	struct node *node = fs_node(req, ino);
	union ioctl_room room = {0};
	struct tier_data data;
	bool sets;
	size_t size = ioctl_size(cmd, &sets);
	int fd, own, err = 0;

	if (!size || (!S_ISREG(node->type) && !S_ISDIR(node->type))) {
		fuse_reply_err(req, ENOTTY);
		return;
	}
	if (sets ? in_size < size : out_size < size) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (sets)
		memcpy(&room, in, size);
	fd = ioctl_fd(req, node, fi, &data, &own);
	if (fd < 0) {
		fs_reply_err(req, fd);
		return;
	}
	if (sets) {
		fs_become_root();
		tier_meta_begin(fs_tier(req), node);
	}
	if (ioctl(fd, cmd, &room) < 0)
		err = -errno;
	if (sets)
		tier_meta_end(fs_tier(req), node);
	cleanup_close(&own);
	if (data.fd >= 0)
		tier_data_put(&data);
	if (err)
		fs_reply_err(req, err);
	else
		fuse_reply_ioctl(req, 0, &room, sets ? 0 : size);
}
