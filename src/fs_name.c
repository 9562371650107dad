/* SPDX-License-Identifier: MIT */

/* Names: making, removing, renaming, linking. */

#include "fs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int fs_make_begin(fuse_req_t req, struct node *parent, const char *name,
		  struct node_fd *ret_dir)
{
	int err;

	if (fs_hidden(parent, name))
		return -EPERM;
	err = node_fd_get(parent, ret_dir);
	if (err)
		return err;
	tier_counting_begin(fs_tier(req));
	fs_become(req);
	return 0;
}

static int make_node(fuse_req_t req, struct node *parent, const char *name,
		     mode_t mode, dev_t rdev, const char *link,
		     struct stat *ret_stat, struct node **ret)
{
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	int err;

	err = fs_make_begin(req, parent, name, &dir);
	if (err)
		return err;
	if (S_ISDIR(mode))
		err = mkdirat(dir.fd, name, mode & 07777);
	else if (S_ISLNK(mode))
		err = symlinkat(link, dir.fd, name);
	else
		err = mknodat(dir.fd, name, mode, rdev);
	err = err < 0 ? -errno : node_lookup(parent, name, ret_stat, ret);
	if (!err && (S_ISREG(mode) || S_ISDIR(mode)))
		tier_created(fs_tier(req), *ret, parent, name);
	tier_counting_end(fs_tier(req));
	return err;
}

static void make(fuse_req_t req, fuse_ino_t parent, const char *name,
		 mode_t mode, dev_t rdev, const char *link)
{
	_cleanup_(node_unrefp) struct node *node = NULL;
	struct stat st;
	int err;

	fs_turn(req);
	err = make_node(req, fs_node(req, parent), name, mode, rdev, link, &st,
			&node);
	if (err)
		fs_reply_err(req, err);
	else
		fs_reply_node(req, node, &st);
}

void fs_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	      dev_t rdev)
{
	make(req, parent, name, mode & S_IFMT ? mode : mode | S_IFREG, rdev,
	     NULL);
}

void fs_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	make(req, parent, name, S_IFDIR | (mode & 07777), 0, NULL);
}

void fs_symlink(fuse_req_t req, const char *link, fuse_ino_t parent,
		const char *name)
{
	make(req, parent, name, S_IFLNK, 0, link);
}

void fs_readlink(fuse_req_t req, fuse_ino_t ino)
{
	_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;
	char target[PATH_MAX + 1];
	int err = node_fd_get(fs_node(req, ino), &nfd);
	ssize_t len;

	if (err) {
		fs_reply_err(req, err);
		return;
	}
	len = readlinkat(nfd.fd, "", target, sizeof(target) - 1);
	if (len < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	target[len] = '\0';
	fuse_reply_readlink(req, target);
}

void fs_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct node *dir = fs_node(req, parent);
	int err = -ENOENT;

	fs_turn(req);
	if (!fs_hidden(dir, name)) {
		fs_become_root();
		err = tier_unlink(fs_tier(req), dir, name);
	}
	fs_reply_err(req, err);
}

void fs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct node *dir = fs_node(req, parent);
	int err = -ENOENT;

	if (!fs_hidden(dir, name)) {
		fs_become_root();
		err = tier_rmdir(fs_tier(req), dir, name);
	}
	fs_reply_err(req, err);
}

void fs_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
	       fuse_ino_t newparent, const char *newname, unsigned int flags)
{
	struct node *dir = fs_node(req, parent);
	struct node *newdir = fs_node(req, newparent);
	int err = 0;

	fs_turn(req);
	if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE))
		err = -EINVAL;
	else if (fs_hidden(dir, name))
		err = -ENOENT;
	else if (fs_hidden(newdir, newname))
		err = -EPERM;
	if (!err) {
		fs_become_root();
		err = tier_rename(fs_tier(req), dir, name, newdir, newname,
				  flags);
	}
	fs_reply_err(req, err);
}

static int link_begin(struct fs_use *use)
{
	fs_become_root();
	return tier_link(use->park.fs->parts.tier, use->node, use->newparent,
			 use->newname, &use->wait);
}

static void link_finish(struct fs_use *use, int err)
{
	fuse_req_t req = use->park.req;
	struct node *node = use->node;
	struct fuse_entry_param entry;

	if (!err)
		err = fs_entry(req, node, NULL, &entry);
	if (err) {
		fs_reply_err(req, err);
	} else {
		node_kept(node);
		if (fuse_reply_entry(req, &entry) < 0)
			node_forget(node, 1);
	}
	fs_use_free(use);
}

void fs_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent,
	     const char *newname)
{
	struct node *dir = fs_node(req, newparent);
	struct fs_use *use;

	if (fs_hidden(dir, newname)) {
		fs_reply_err(req, -EPERM);
		return;
	}
	use = fs_use_new(req, node_ref(fs_node(req, ino)), 0, link_finish);
	if (!use)
		return;
	use->begin = link_begin;
	use->newparent = node_ref(dir);
	use->newname = strdup(newname);
	if (use->newname) {
		fs_use_start(use);
	} else {
		fs_reply_err(req, -ENOMEM);
		fs_use_free(use);
	}
}
