/* SPDX-License-Identifier: MIT */

/*
 * Directories.
 *
 * The kernel caches what was read and asks again only after a change. So of
 * opening and closing a directory that is cached nothing would be left but two
 * requests: they are declined (ENOSYS, once), and there is no handle. A request
 * to read opens the front's directory for itself, which costs less than they
 * did. The offsets are the front's cookies: reading on is a seek.
 */

#include "fs_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DIR_MIN	    2048
/* What an entry takes in an answer of READDIRPLUS, in terms of the front's. */
#define PLUS_FACTOR 5

/* The front's directory while one request reads it. */
struct dir_read {
	int fd;
	size_t ask; /* bytes at a time */
	size_t pos, len;
	fuse_req_t req;
	struct fs_ahead *ahead; /* in buf; NULL: nobody looks ahead */
	char buf[FS_DIRENTS] __attribute__((aligned(8)));
};

void fs_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (fs_of(req)->no_opendir) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	fi->cache_readdir = 1;
	fi->keep_cache = 1;
	fuse_reply_open(req, fi);
}

void fs_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, 0);
}

void fs_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync,
		 struct fuse_file_info *fi)
{
	_cleanup_close_ int fd =
		node_open(fs_node(req, ino), O_RDONLY | O_DIRECTORY);
	int err;

	if (fd < 0) {
		fs_reply_err(req, fd);
		return;
	}
	err = datasync ? fdatasync(fd) : fsync(fd);
	fuse_reply_err(req, err < 0 ? errno : 0);
}

/* The next entry, NULL at the end or with -errno in *ret_err. */
static const struct fs_dirent *dir_next(struct dir_read *dir, int *ret_err)
{
	if (dir->pos == dir->len) {
		long n = syscall(SYS_getdents64, dir->fd, dir->buf, dir->ask);

		fs_ahead_end(dir->ahead);
		dir->ahead = NULL;
		dir->pos = dir->len = 0;
		if (n <= 0) {
			/* ENOENT: the directory was removed. */
			*ret_err = n < 0 && errno != ENOENT ? -errno : 0;
			return NULL;
		}
		dir->len = n;
		dir->ahead =
			fs_ahead_begin(dir->req, dir->fd, dir->buf, dir->len);
	}
	fs_ahead_at(dir->ahead, dir->pos);
	return fs_dirent_at(dir->buf, dir->pos);
}

struct dir_fill {
	fuse_req_t req;
	struct node *dir;
	bool plus;
	char *buf;
	size_t size, used;
};

/* 1: added or passed over; 0: no room left; -errno. */
static int fill_entry(struct dir_fill *fill, const struct fs_dirent *ent)
{
	_cleanup_(node_unrefp) struct node *node = NULL;
	size_t room = fill->size - fill->used, need;
	char *at = fill->buf + fill->used;
	struct fuse_entry_param entry = {0};
	const char *name = ent->name;
	struct stat st;
	int err;

	entry.attr.st_ino = ent->ino;
	entry.attr.st_mode = (mode_t)ent->type << 12;
	if (fs_hidden(fill->dir, name))
		return 1;
	/* Before the look-up: a reference must not be given for nothing. */
	need = fill->plus ? fuse_add_direntry_plus(fill->req, NULL, 0, name,
						   &entry, 0)
			  : fuse_add_direntry(fill->req, NULL, 0, name,
					      &entry.attr, 0);
	if (need > room)
		return 0;
	if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
		err = node_lookup(fill->dir, name, &st, &node);
		if (!err)
			err = fs_entry(fill->req, node, &st, &entry);
		if (err == -ENOENT)
			return 1;
		/* What cannot be looked at is listed all the same: the kernel
		 * asks again when somebody wants to know. */
		if (!err && fill->plus)
			node_kept(node);
		if (err)
			entry.ino = 0;
	}
	if (fill->plus)
		fuse_add_direntry_plus(fill->req, at, room, name, &entry,
				       ent->off);
	else
		fuse_add_direntry(fill->req, at, room, name, &entry.attr,
				  ent->off);
	fill->used += need;
	if (fill->plus && node && S_ISDIR(node->type))
		fs_walk_found(fs_of(fill->req), fill->dir, ent);
	return 1;
}

static int read_entries(struct dir_fill *fill, off_t off)
{
	struct dir_read dir;
	const struct fs_dirent *ent;
	_cleanup_close_ int fd = node_open(fill->dir, O_RDONLY | O_DIRECTORY);
	int err = 0;

	if (fd < 0)
		return fd;
	if (off && lseek(fd, off, SEEK_SET) < 0)
		return -errno;
	if (fill->plus && !off)
		fs_walk_begin(fill->req, fill->dir, fd);
	dir.fd = fd;
	dir.pos = dir.len = 0;
	dir.req = fill->req;
	dir.ahead = NULL;
	dir.ask = fill->plus ? fill->size / PLUS_FACTOR : fill->size;
	if (dir.ask < DIR_MIN)
		dir.ask = DIR_MIN;
	else if (dir.ask > sizeof(dir.buf))
		dir.ask = sizeof(dir.buf);
	while ((ent = dir_next(&dir, &err)) && fill_entry(fill, ent) > 0)
		dir.pos += ent->reclen;
	fs_ahead_end(dir.ahead);
	return err;
}

static void read_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		     bool plus)
{
	_cleanup_free_ char *buf = malloc(size);
	struct dir_fill fill = {
		.req = req,
		.dir = fs_node(req, ino),
		.plus = plus,
		.buf = buf,
		.size = size,
	};
	int err;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	err = read_entries(&fill, off);
	if (err && fill.used == 0)
		fs_reply_err(req, err);
	else
		fuse_reply_buf(req, buf, fill.used);
}

void fs_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, false);
}

void fs_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, true);
}
