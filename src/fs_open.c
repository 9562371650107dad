/* SPDX-License-Identifier: MIT */

/*
 * Opening and closing, and truncation, which uses a file the same way.
 *
 * The kernel wants all handles of an inode in one I/O mode, and with
 * passthrough on one backing id. The mode is decided when the first handle is
 * opened, under node->lock, and kept until the last is released; the id is
 * registered outside of the lock, and given back if another thread was first.
 *
 * passthrough  the file is resident. The kernel reads and writes it with the
 *              credentials that the id is registered with. Those have
 *              CAP_FSETID: before each write the kernel looks at the mode that
 *              it knows of our file and at the writer, and has us clear setuid
 *              and setgid bits (fs_setattr()) if the writer may not keep them;
 *              the front must not clear them a second time, for root may.
 * cached       otherwise: page cache, mmap and readahead as usual. Where the
 *              session has passthrough, what is cached may have been changed
 *              past the page cache since, and is dropped at the open.
 *
 * The last close leaves the id to the next open (node_keep.c).
 *
 * The kernel does not see writes through a mapping of a passthrough file, so
 * the attributes it has are invalidated when one may be made (O_RDWR).
 *
 * fi->fh is the flags of the open and what the rules said of who opened it
 * (fs_who.c): a handle has no other state.
 */

#include "fs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool for_writing(int flags)
{
	return (flags & O_ACCMODE) != O_RDONLY;
}

/* Cuts the file to size, as the client would. */
static int cut(fuse_req_t req, struct node *node, off_t size, bool kill_priv)
{
	struct tier_data data;
	int err;

	do {
		err = tier_data_get(fs_tier(req), node, true, &data);
		if (err == -EREMOTE) {
			fs_become_stub_writer(req, !kill_priv, node);
			err = tier_truncate(fs_tier(req), node, (uint64_t)size);
		} else if (!err) {
			fs_become_writer(req, !kill_priv, data.fd);
			if (ftruncate(data.fd, size) < 0)
				err = -errno;
			tier_data_put(&data);
		}
	} while (err == -EALREADY); /* it was restored in between */
	return err;
}

/* ---- handles ---------------------------------------------------------------- */

/* May not be written whoever asks: our privileges must not help. */
static int check_writable(int fd, int flags)
{
	struct statx stx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &stx) < 0)
		return -errno;
	if (stx.stx_attributes & STATX_ATTR_IMMUTABLE)
		return -EPERM;
	if (stx.stx_attributes & STATX_ATTR_APPEND &&
	    (!(flags & O_APPEND) || flags & O_TRUNC))
		return -EPERM;
	return 0;
}

/* A backing id for node, 0: none, the handle will be served by us. */
static int register_backing(fuse_req_t req, struct node *node,
			    bool *ret_may_keep)
{
	struct fs *fs = fs_of(req);
	struct tier_data data;
	int id;

	if (tier_data_get(fs->parts.tier, node, false, &data) < 0)
		return 0;
	*ret_may_keep = !data.writable;
	fs_become_writer(req, true, data.fd);
	errno = 0;
	id = fuse_passthrough_open(req, data.fd);
	if (id <= 0) {
		int err = errno;

		if (err == EPERM || err == EOPNOTSUPP || err == ENOTTY ||
		    err == ELOOP || err == EINVAL)
			fs_passthrough_lost(fs, "registering a file", err);
		id = 0;
	}
	tier_data_put(&data);
	return id;
}

/* Counts a handle and fills in what the kernel is told of it. */
static void handle_add(struct fs_use *use)
{
	fuse_req_t req = use->park.req;
	struct fs *fs = use->park.fs;
	struct node *node = use->node;
	struct fuse_file_info *fi = &use->fi;
	bool session = atomic_load(&fs->passthrough) == FS_PT_ON;
	struct tier_handles *handles;
	struct node_kept backing = {.uid = fuse_req_ctx(req)->uid,
				    .gid = fuse_req_ctx(req)->gid};
	bool first, may_keep = true;
	int id = 0;
	bool keep;

	pthread_mutex_lock(&node->lock);
	handles = tier_handles(node);
	first = handles->count == 0 && session && tier_resident(node);
	pthread_mutex_unlock(&node->lock);
	if (first)
		id = node_keep_take(node, backing.uid, backing.gid);
	if (first && !id)
		id = register_backing(req, node, &may_keep);

	pthread_mutex_lock(&node->lock);
	if (handles->count++ == 0) {
		handles->passthrough = id > 0;
		backing.id = id;
		handles->backing = backing;
		handles->may_keep = may_keep;
		id = 0;
	}
	fi->backing_id = handles->backing.id;
	/* Each open in place counts, so its reads have to come here. */
	keep = !fs->session_pt && tier_resident(node) && !tier_damaged(node);
	pthread_mutex_unlock(&node->lock);
	if (id)
		fuse_passthrough_close(req, id);

	fi->fh = fs_handle_new(use->flags, &use->who);
	fi->noflush = 1;
	fi->keep_cache = keep;
	if (fi->backing_id && !use->is_create &&
	    (use->flags & O_ACCMODE) == O_RDWR)
		fuse_lowlevel_notify_inval_inode(fs->se, fs_ino(node), -1, 0);
}

/* For the next open. node->lock held. */
static bool may_keep(struct node *node, const struct tier_handles *handles)
{
	return handles->backing.id && handles->may_keep &&
	       tier_resident(node) &&
	       !(atomic_load(&node->flags) & NODE_UNLINKED);
}

static void handle_drop(fuse_req_t req, struct fs *fs, struct node *node,
			int flags)
{
	struct tier_handles *handles;
	int id = 0;

	pthread_mutex_lock(&node->lock);
	handles = tier_handles(node);
	if (--handles->count == 0) {
		if (!may_keep(node, handles) ||
		    !node_keep(node, &handles->backing))
			id = handles->backing.id;
		handles->backing.id = 0;
		handles->passthrough = false;
	}
	pthread_mutex_unlock(&node->lock);
	/* Before the use ends: a lease would be refused because of it. */
	if (id)
		fuse_passthrough_close(req, id);
	tier_close(fs->parts.tier, node, flags);
}

static int open_check(struct fs_use *use)
{
	_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;
	int err;

	if (!for_writing(use->flags) || use->is_create)
		return 0;
	err = node_fd_get(use->node, &nfd);
	if (!err)
		err = check_writable(nfd.fd, use->flags);
	return err;
}

/*
 * What the kernel is told of a file that it has made. While a file is open for
 * writing its attributes are not to be cached, as a mapping can change it
 * unseen; but nothing is mapped of one that is still empty, and what makes it
 * longer is seen by the kernel, which then asks. Not cached, it would ask at
 * once, before open(2) returns: one request in five. Nobody else knows the
 * file before this answer, as the kernel holds its directory.
 */
static int created_entry(struct fs_use *use, struct fuse_entry_param *ret)
{
	int err = 0;

	if (use->st.st_ino)
		*ret = (struct fuse_entry_param){.ino = fs_ino(use->node),
						 .entry_timeout = FS_TIMEOUT,
						 .attr = use->st};
	else
		err = fs_entry(use->park.req, use->node, NULL, ret);
	if (!err && ret->attr.st_size == 0)
		ret->attr_timeout = FS_TIMEOUT;
	return err;
}

static void open_finish(struct fs_use *use, int err)
{
	fuse_req_t req = use->park.req;
	struct fs *fs = use->park.fs;
	struct node *node = use->node;
	struct fuse_entry_param entry;
	bool opened = !err, counted = false;

	if (!err)
		err = open_check(use);
	if (!err && use->flags & O_TRUNC)
		err = cut(req, node, 0, use->fi.kill_suidgid);
	if (!err) {
		handle_add(use);
		counted = true;
		if (use->is_create)
			err = created_entry(use, &entry);
	}
	if (!err && use->is_create) {
		node_kept(node);
		if (fuse_reply_create(req, &entry, &use->fi) == 0)
			goto out;
		node_forget(node, 1);
	} else if (!err) {
		if (fuse_reply_open(req, &use->fi) == 0)
			goto out;
	}
	/* Not opened, or nobody is there to use it: the session ends, and with
	 * it the backing ids. */
	if (counted && err)
		handle_drop(req, fs, node, use->flags);
	else if (opened)
		tier_close(fs->parts.tier, node, use->flags);
	if (err)
		fs_reply_err(req, err);
out:
	fs_use_free(use);
}

static struct fs_use *open_new(fuse_req_t req, struct node *node,
			       const struct fuse_file_info *fi, bool is_create)
{
	int flags = fi->flags & ~(O_CREAT | O_EXCL | O_NOCTTY);
	struct fs_use *use;

	if (is_create)
		flags &= ~(O_TRUNC | O_TMPFILE);
	use = fs_use_new(req, node, flags, open_finish);
	if (use) {
		use->fi = *fi;
		use->is_create = is_create;
	}
	return use;
}

void fs_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs_use *use;

	fs_turn(req);
	use = open_new(req, node_ref(fs_node(req, ino)), fi, false);
	if (use)
		fs_use_start(use);
}

/* Makes the file, and opens it: what each of the two needs of the front is asked
 * once. A descriptor to read with serves to register it, whatever the client's. */
static int make_file(fuse_req_t req, struct node *parent, const char *name,
		     mode_t mode, struct stat *ret_stat, struct node **ret,
		     int *ret_fd)
{
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	_cleanup_close_ int fd = -1;
	int err;

	err = fs_make_begin(req, parent, name, &dir);
	if (err)
		return err;
	node_dir_lock(parent);
	fd = openat(dir.fd, name,
		    O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		    mode & 07777);
	err = fd < 0 ? -errno : node_made(parent, name, fd, ret_stat, ret);
	node_dir_unlock(parent);
	if (!err) {
		tier_created(fs_tier(req), *ret, parent, name);
		*ret_fd = steal_fd(&fd);
	}
	tier_counting_end(fs_tier(req));
	return err;
}

static int open_made(struct fs_use *use)
{
	return tier_open_made(use->park.fs->parts.tier, use->node, use->flags,
			      steal_fd(&use->made_fd));
}

void fs_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	       struct fuse_file_info *fi)
{
	struct fs_use *use;
	struct node *node;
	struct stat st;
	int err, fd;

	fs_turn(req);
	err = make_file(req, fs_node(req, parent), name, mode, &st, &node, &fd);
	if (err) {
		fs_reply_err(req, err);
		return;
	}
	use = open_new(req, node, fi, true);
	if (!use) {
		close(fd);
		return;
	}
	use->begin = open_made;
	use->made_fd = fd;
	use->st = st;
	fs_use_start(use);
}

/* The new file has no name: the descriptor keeps it. */
static int make_tmpfile(fuse_req_t req, struct node *parent, mode_t mode,
			struct node **ret)
{
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	_cleanup_close_ int fd = -1;
	char proc[PROC_FD_LEN];
	int err, pin;

	err = node_fd_get(parent, &dir);
	if (err)
		return err;
	fs_become(req);
	fd = openat(dir.fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode & 07777);
	if (fd < 0)
		return -errno;
	pin = open(proc_fd_path(fd, proc), O_PATH | O_CLOEXEC);
	if (pin < 0)
		return -errno;
	err = node_from_fd(parent->table, fd, NULL, ret);
	if (err) {
		close(pin);
		return err;
	}
	node_pin(*ret, pin);
	pthread_mutex_lock(&(*ret)->lock);
	node_unlinked(*ret); /* until it is linked */
	pthread_mutex_unlock(&(*ret)->lock);
	return 0;
}

void fs_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode,
		struct fuse_file_info *fi)
{
	struct fs_use *use;
	struct node *node;
	int err = make_tmpfile(req, fs_node(req, parent), mode, &node);

	if (err) {
		fs_reply_err(req, err);
		return;
	}
	use = open_new(req, node, fi, true);
	if (use)
		fs_use_start(use);
}

void fs_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	handle_drop(req, fs_of(req), fs_node(req, ino),
		    fs_handle_flags(fi->fh));
	fuse_reply_err(req, 0);
}

/* ---- truncate -------------------------------------------------------------- */

static int truncate_do(struct fs_use *use)
{
	fuse_req_t req = use->park.req;
	int err = 0;

	if (!use->has_handle) {
		_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;

		err = node_fd_get(use->node, &nfd);
		if (!err)
			err = check_writable(nfd.fd, O_TRUNC);
	}
	if (!err)
		err = cut(req, use->node, use->attr.st_size,
			  use->to_set & FUSE_SET_ATTR_KILL_SUID);
	if (!use->has_handle)
		tier_close(fs_tier(req), use->node, use->flags);
	else if (!err)
		tier_changed(fs_tier(req), use->node);
	if (!err)
		err = fs_setattr_meta(req, use->node, &use->attr, use->to_set);
	return err;
}

static void truncate_finish(struct fs_use *use, int err)
{
	fuse_req_t req = use->park.req;

	if (!err)
		err = truncate_do(use);
	if (err)
		fs_reply_err(req, err);
	else
		fs_reply_getattr(req, use->node);
	fs_use_free(use);
}

void fs_truncate(fuse_req_t req, struct node *node, const struct stat *attr,
		 int to_set, bool has_handle)
{
	int flags = O_WRONLY | (attr->st_size == 0 ? O_TRUNC : 0);
	struct fs_use *use =
		fs_use_new(req, node_ref(node), flags, truncate_finish);

	if (!use)
		return;
	use->attr = *attr;
	use->to_set = to_set;
	use->has_handle = has_handle;
	if (has_handle)
		truncate_finish(use, 0); /* in use for writing already */
	else
		fs_use_start(use);
}
