/* SPDX-License-Identifier: MIT */

/*
 * Extended attributes and inode flags. What a file surely does not have costs no
 * system call (node_look.c).
 *
 * The daemon's own attributes are not there for clients, except for the
 * virtual one that names the state.
 *
 * A value is asked for each time: the kernel caches ACLs alone. "ls -l" asks for
 * each file's security.selinux, whether there is SELinux or not, and this was
 * all that a warm one cost, 38 us a file for 6 of the bare front. It stops
 * asking about a file system that says EOPNOTSUPP. So where the kernel has no
 * SELinux, a file without the label is told of in that way; one that has it
 * shows it.
 */

#include "fs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#define TRUSTED	   "trusted."
#define ACL_ACCESS "system.posix_acl_access"
#define SELINUX	   "security.selinux"

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

bool fs_selinux_known(void)
{
	FILE *in = fopen("/proc/filesystems", "re");
	bool found = false;
	char line[80];

	if (!in)
		return true;
	while (!found && fgets(line, sizeof(line), in))
		found = strstr(line, "\tselinuxfs\n");
	fclose(in);
	return found;
}

void fs_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct node *node = fs_node(req, ino);
	_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;
	_cleanup_free_ char *buf = NULL;
	ssize_t len;

	fs_turn(req);
	if (!strcmp(name, TIERFS_EA_STATE)) {
		get_state(req, node, size);
		return;
	}
	if (hidden(name) || node_xattr_absent(node, name)) {
		fuse_reply_err(req, ENODATA);
		return;
	}
	buf = size ? malloc(size) : NULL;
	len = size && !buf ? -ENOMEM : node_fd_get(node, &nfd);
	if (!len)
		len = getxattr_fd(nfd.fd, name, buf, size);
	if (len == -ENODATA && !fs_of(req)->selinux && !strcmp(name, SELINUX))
		len = -EOPNOTSUPP;
	reply_value(req, buf, len, size);
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
	struct node *node = fs_node(req, ino);
	_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;
	_cleanup_free_ char *list = NULL;
	ssize_t len;
	int err;

	fs_turn(req);
	if (node_xattrs_none(node)) {
		reply_value(req, NULL, 0, size);
		return;
	}
	list = malloc(XATTR_LIST_MAX);
	err = list ? node_fd_get(node, &nfd) : -ENOMEM;
	if (err) {
		fs_reply_err(req, err);
		return;
	}
	len = listxattr_fd(nfd.fd, list, XATTR_LIST_MAX);
	if (len > 0)
		len = (ssize_t)filter(list, (size_t)len,
				      fuse_req_ctx(req)->uid == 0);
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
	fs_become_root();
	tier_meta_begin(fs_tier(req), node);
	/* What is made in it inherits the one that it has then. */
	if (!S_ISREG(node->type))
		node_dir_lock(node);
	err = node_fd_get(node, &nfd);
	if (!err) {
		proc_fd_path(nfd.fd, proc);
		if ((value ? setxattr(proc, name, value, size, flags)
			   : removexattr(proc, name)) < 0)
			err = -errno;
		else if (value && !strcmp(name, ACL_ACCESS))
			err = fs_drop_sgid(req, nfd.fd, true);
		if (value)
			node_xattr_given(node);
	}
	if (!S_ISREG(node->type))
		node_dir_unlock(node);
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

/* Does it forbid to change the file? */
static bool forbids(const struct fs_flags *set)
{
	if (set->cmd == FS_IOC_SETFLAGS)
		return set->arg.flags & (FS_IMMUTABLE_FL | FS_APPEND_FL);
	return set->arg.fsx.fsx_xflags & (FS_XFLAG_IMMUTABLE | FS_XFLAG_APPEND);
}

/* Not the descriptor of a handle: it may be of an object, or O_PATH. */
static int flags_fd(struct node *node)
{
	return node_open(node, O_RDONLY | O_NONBLOCK | O_NOATIME);
}

static int set_flags(fuse_req_t req, struct node *node,
		     const struct fs_flags *set)
{
	int fd = -1, err;

	fs_become_root();
	tier_meta_begin(fs_tier(req), node);
	/* After the lock: a swap may have given the node another file. */
	err = fd = flags_fd(node);
	if (fd >= 0) {
		err = ioctl(fd, set->cmd, &set->arg) < 0 ? -errno : 0;
		close(fd);
	}
	tier_meta_end(fs_tier(req), node);
	/* The kernel does not see that the ctime is another. */
	if (!err)
		fuse_lowlevel_notify_inval_inode(fs_of(req)->se, fs_ino(node),
						 -1, 0);
	return err;
}

static int untier_begin(struct fs_use *use)
{
	struct tier *tier = use->park.fs->parts.tier;
	int err = 0;

	if (!use->opened)
		err = tier_open(tier, use->node, use->flags, &use->wait);
	if (err)
		return err;
	use->opened = true;
	return tier_untier(tier, use->node, &use->wait);
}

static void untier_finish(struct fs_use *use, int err)
{
	fuse_req_t req = use->park.req;

	if (!err)
		err = set_flags(req, use->node, &use->set);
	if (use->opened)
		tier_close(fs_tier(req), use->node, use->flags);
	if (err)
		fs_reply_err(req, err);
	else
		fuse_reply_ioctl(req, 0, NULL, 0);
	fs_use_free(use);
}

/* For a file that must not have copies then. */
static void untier_set_flags(fuse_req_t req, struct node *node,
			     const struct fs_flags *set)
{
	struct fs_use *use =
		fs_use_new(req, node_ref(node), O_WRONLY, untier_finish);

	if (!use)
		return;
	use->begin = untier_begin;
	use->set = *set;
	fs_use_start(use);
}

static void get_flags(fuse_req_t req, struct node *node, unsigned int cmd,
		      size_t size)
{
	_cleanup_close_ int fd = flags_fd(node);
	struct fs_flags get;

	if (fd < 0)
		fs_reply_err(req, fd);
	else if (ioctl(fd, cmd, &get.arg) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_ioctl(req, 0, &get.arg, size);
}

void fs_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg,
	      struct fuse_file_info *fi, unsigned int flags, const void *in,
	      size_t in_size, size_t out_size)
{
	struct node *node = fs_node(req, ino);
	struct fs_flags set = {.cmd = cmd};
	bool sets;
	size_t size = ioctl_size(cmd, &sets);
	int err;

	if (!size || (!S_ISREG(node->type) && !S_ISDIR(node->type))) {
		fuse_reply_err(req, ENOTTY);
		return;
	}
	if (sets ? in_size < size : out_size < size) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (!sets) {
		get_flags(req, node, cmd, size);
		return;
	}
	memcpy(&set.arg, in, size);
	if (S_ISREG(node->type) && forbids(&set) &&
	    atomic_load(&node->flags) & NODE_EA) {
		untier_set_flags(req, node, &set);
		return;
	}
	err = set_flags(req, node, &set);
	if (err)
		fs_reply_err(req, err);
	else
		fuse_reply_ioctl(req, 0, NULL, 0);
}
