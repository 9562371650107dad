/* SPDX-License-Identifier: MIT */

/* Attributes. What they show of a tiered file is the tier's. */

#include "fs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452 /* the same number on every architecture */
#endif

int fs_errno(int err)
{
	switch (err) {
	case -ESTALE:
		return ENOENT;
	case -EREMOTE:
	case -EPROTONOSUPPORT: /* the spill EA, or the log */
	case -EBADMSG:
		return EIO;
	default:
		return -err;
	}
}

bool fs_hidden(struct node *parent, const char *name)
{
	return parent == node_root(parent->table) &&
	       !strcmp(name, TIERFS_META_DIR);
}

/* The daemon's directory is not counted either. */
static void hide_link(const struct node *node, struct stat *st)
{
	if (fs_ino(node) == FUSE_ROOT_ID && st->st_nlink > 2)
		st->st_nlink--;
}

int fs_entry(fuse_req_t req, struct node *node, const struct stat *st,
	     struct fuse_entry_param *ret)
{
	struct fuse_entry_param entry = {
		.ino = fs_ino(node),
		.entry_timeout = FS_TIMEOUT,
	};
	bool is_volatile = false;
	int err;

	if (st) {
		entry.attr = *st;
		err = tier_adjust(fs_tier(req), node, &entry.attr,
				  &is_volatile);
	} else {
		err = tier_getattr(fs_tier(req), node, &entry.attr,
				   &is_volatile);
	}
	if (err)
		return err;
	entry.attr_timeout = is_volatile ? 0 : FS_TIMEOUT;
	*ret = entry;
	return 0;
}

void fs_reply_node(fuse_req_t req, struct node *node, const struct stat *st)
{
	struct fuse_entry_param entry;
	int err = fs_entry(req, node, st, &entry);

	if (err) {
		fs_reply_err(req, err);
		return;
	}
	node_kept(node);
	if (fuse_reply_entry(req, &entry) < 0)
		node_forget(node, 1);
}

void fs_reply_lookup(fuse_req_t req, struct node *parent, const char *name)
{
	struct fuse_entry_param none = {.entry_timeout = FS_TIMEOUT,
					.attr_timeout = FS_TIMEOUT};
	_cleanup_(node_unrefp) struct node *node = NULL;
	struct stat st;
	int err = fs_hidden(parent, name)
			  ? -ENOENT
			  : node_lookup(parent, name, &st, &node);

	if (err == -ENOENT)
		fuse_reply_entry(req, &none);
	else if (err)
		fs_reply_err(req, err);
	else
		fs_reply_node(req, node, &st);
}

void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fs_turn(req);
	fs_reply_lookup(req, fs_node(req, parent), name);
}

/*
 * Over io_uring nothing else comes by /dev/fuse but interrupts. Whoever removes
 * a file would wake the thread that waits there, on another CPU mostly, for each:
 * dearer than what it has to do, and paid in the middle of an unlink(2). While it
 * sleeps nobody wakes it, and the kernel hands over in one piece what it has to
 * forget; an interrupt is late by as much.
 */
static void let_gather(struct fs *fs)
{
	const struct timespec moment = {.tv_nsec = 1000 * 1000};

	if (atomic_load(&fs->uring))
		nanosleep(&moment, NULL);
}

void fs_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	struct fs *fs = fs_of(req);

	if (ino != FUSE_ROOT_ID)
		tier_forget(fs_tier(req), fs_node(req, ino), nlookup);
	fuse_reply_none(req);
	let_gather(fs);
}

void fs_forget_multi(fuse_req_t req, size_t count,
		     struct fuse_forget_data *forgets)
{
	struct fs *fs = fs_of(req);

	for (size_t i = 0; i < count; i++)
		if (forgets[i].ino != FUSE_ROOT_ID)
			tier_forget(fs_tier(req), fs_node(req, forgets[i].ino),
				    forgets[i].nlookup);
	fuse_reply_none(req);
	let_gather(fs);
}

void fs_reply_getattr(fuse_req_t req, struct node *node)
{
	bool is_volatile = false;
	struct stat st;
	int err = tier_getattr(fs_tier(req), node, &st, &is_volatile);

	if (err) {
		fs_reply_err(req, err);
		return;
	}
	hide_link(node, &st);
	fuse_reply_attr(req, &st, is_volatile ? 0 : FS_TIMEOUT);
}

void fs_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fs_turn(req);
	fs_reply_getattr(req, fs_node(req, ino));
}

/* The birth time a restore has kept. */
static void show_btime(struct node *node, int fd, struct statx *stx)
{
	uint8_t raw[8];
	uint64_t ns = 0;
	struct timespec ts;

	if (!(atomic_load(&node->flags) & NODE_EA) ||
	    !(stx->stx_mask & STATX_BTIME) ||
	    getxattr_fd(fd, TIERFS_EA_BTIME_TRUSTED, raw, sizeof(raw)) !=
		    sizeof(raw))
		return;
	for (int i = 7; i >= 0; i--)
		ns = ns << 8 | raw[i];
	ts = timespec_from_ns(ns);
	stx->stx_btime.tv_sec = ts.tv_sec;
	stx->stx_btime.tv_nsec = ts.tv_nsec;
}

void fs_statx(fuse_req_t req, fuse_ino_t ino, int flags, int mask,
	      struct fuse_file_info *fi)
{
	struct node *node = fs_node(req, ino);
	_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;
	bool is_volatile = false;
	struct statx stx;
	struct stat st;
	int err;

	err = tier_getattr(fs_tier(req), node, &st, &is_volatile);
	if (!err)
		err = node_fd_get(node, &nfd);
	if (!err &&
	    statx(nfd.fd, "", AT_EMPTY_PATH | (flags & AT_STATX_SYNC_TYPE),
		  STATX_BASIC_STATS | mask, &stx) < 0)
		err = -errno;
	if (err) {
		fs_reply_err(req, err);
		return;
	}
	hide_link(node, &st);
	stx.stx_nlink = st.st_nlink;
	stx.stx_uid = st.st_uid;
	stx.stx_gid = st.st_gid;
	stx.stx_mode = st.st_mode;
	stx.stx_ino = st.st_ino;
	stx.stx_size = st.st_size;
	stx.stx_blocks = st.st_blocks;
	stx.stx_atime.tv_sec = st.st_atim.tv_sec;
	stx.stx_atime.tv_nsec = st.st_atim.tv_nsec;
	stx.stx_mtime.tv_sec = st.st_mtim.tv_sec;
	stx.stx_mtime.tv_nsec = st.st_mtim.tv_nsec;
	stx.stx_ctime.tv_sec = st.st_ctim.tv_sec;
	stx.stx_ctime.tv_nsec = st.st_ctim.tv_nsec;
	show_btime(node, nfd.fd, &stx);
	fuse_reply_statx(req, 0, &stx, is_volatile ? 0 : FS_TIMEOUT);
}

static int change_mode(int fd, mode_t mode)
{
	char proc[PROC_FD_LEN];

	if (syscall(SYS_fchmodat2, fd, "", mode, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != ENOSYS)
		return -errno;
	return chmod(proc_fd_path(fd, proc), mode) < 0 ? -errno : 0;
}

int fs_drop_sgid(fuse_req_t req, int fd, bool acl)
{
	struct stat st;

	if (fuse_req_ctx(req)->uid == 0)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!(st.st_mode & S_ISGID) || fs_in_group(req, st.st_gid))
		return 0;
	if (!acl && (!S_ISREG(st.st_mode) || st.st_mode & S_IXGRP))
		return 0;
	return change_mode(fd, st.st_mode & 07777 & ~S_ISGID);
}

static int change_owner(fuse_req_t req, int fd, const struct stat *attr,
			int to_set)
{
	uid_t uid = to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1;
	gid_t gid = to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1;
	int err = fs_drop_sgid(req, fd, false);

	if (!err && fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0)
		err = -errno;
	return err;
}

static int change_times(fuse_req_t req, struct node *node, int fd,
			const struct stat *attr, int to_set)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
				    {.tv_nsec = UTIME_OMIT}};

	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		times[0].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_ATIME)
		times[0] = attr->st_atim;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		times[1].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_MTIME)
		times[1] = attr->st_mtim;
	if (utimensat(fd, "", times, AT_EMPTY_PATH) < 0)
		return -errno;
	tier_meta_times(fs_tier(req), node, times);
	return 0;
}

int fs_setattr_meta(fuse_req_t req, struct node *node, const struct stat *attr,
		    int to_set)
{
	int times = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME |
		    FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW;
	_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;
	int err;

	if (!(to_set & (times | FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID |
			FUSE_SET_ATTR_GID)))
		return 0;
	fs_become_root();
	tier_meta_begin(fs_tier(req), node);
	err = node_fd_get(node, &nfd);
	if (!err && to_set & FUSE_SET_ATTR_MODE)
		err = change_mode(nfd.fd, attr->st_mode & 07777);
	if (!err && to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
		err = change_owner(req, nfd.fd, attr, to_set);
	if (!err && to_set & times)
		err = change_times(req, node, nfd.fd, attr, to_set);
	tier_meta_end(fs_tier(req), node);
	return err;
}

void fs_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		struct fuse_file_info *fi)
{
	struct node *node = fs_node(req, ino);
	int err;

	fs_turn(req);
	if (to_set & FUSE_SET_ATTR_SIZE) {
		fs_truncate(req, node, attr, to_set, fi != NULL);
		return;
	}
	/* Nothing asked for: chown(-1, -1), or a write that passes through and
	 * clears setuid. What the former does on the front is right for both,
	 * but where root writes to a setuid file that has capabilities: the
	 * bit goes with them, for the two requests are the same. */
	if (!(to_set & ~(FUSE_SET_ATTR_KILL_SUID | FUSE_SET_ATTR_KILL_SGID |
			 FUSE_SET_ATTR_CTIME))) {
		attr->st_uid = (uid_t)-1;
		attr->st_gid = (gid_t)-1;
		to_set |= FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
	}
	err = fs_setattr_meta(req, node, attr, to_set);
	if (err)
		fs_reply_err(req, err);
	else
		fs_reply_getattr(req, node);
}

void fs_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;

	fs_uring_seen(req);
	if (fstatvfs(fs_of(req)->parts.front->root_fd, &st) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &st);
}
