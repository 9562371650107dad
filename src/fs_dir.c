/* SPDX-License-Identifier: MIT */

/*
 * Directories.
 *
 * A handle has a descriptor of its own and a buffer of getdents64(2). The
 * offsets are the front's cookies, so reading on after a seek is a seek. The
 * kernel caches what was read and asks again only after a change.
 */

#include "fs_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DIR_BUF (32 * 1024)

struct dirent_raw {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

struct fs_dirp {
	int fd;
	pthread_mutex_t lock; /* of what follows; leaf but for look-ups */
	off_t at;	      /* cookie of the next entry in buf */
	size_t pos, len;
	char buf[DIR_BUF] __attribute__((aligned(8)));
};

static struct fs_dirp *dirp_of(const struct fuse_file_info *fi)
{
	return (struct fs_dirp *)(uintptr_t)fi->fh;
}

static int fs_dir_fd(const struct fuse_file_info *fi)
{
	return dirp_of(fi)->fd;
}

static void dirp_free(struct fs_dirp *dirp)
{
	close(dirp->fd);
	pthread_mutex_destroy(&dirp->lock);
	free(dirp);
}

void fs_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node *node = fs_node(req, ino);
	struct fs_dirp *dirp = malloc(sizeof(*dirp));
	int fd;

	if (!dirp) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	fd = node_open(node, O_RDONLY | O_DIRECTORY);
	if (fd < 0) {
		free(dirp);
		fs_reply_err(req, fd);
		return;
	}
	dirp->fd = fd;
	dirp->at = 0;
	dirp->pos = dirp->len = 0;
	pthread_mutex_init(&dirp->lock, NULL);
	fi->fh = (uintptr_t)dirp;
	fi->cache_readdir = 1;
	fi->keep_cache = 1;
	if (fuse_reply_open(req, fi) < 0)
		dirp_free(dirp);
}

void fs_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	dirp_free(dirp_of(fi));
	fuse_reply_err(req, 0);
}

void fs_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync,
		 struct fuse_file_info *fi)
{
	int fd = fs_dir_fd(fi);
	int err = datasync ? fdatasync(fd) : fsync(fd);

	fuse_reply_err(req, err < 0 ? errno : 0);
}

/* The entry at off, NULL at the end or with -errno in *ret_err. */
static struct dirent_raw *dirp_entry(struct fs_dirp *dirp, off_t off,
				     int *ret_err)
{
	if (off != dirp->at) {
		if (lseek(dirp->fd, off, SEEK_SET) < 0) {
			*ret_err = -errno;
			return NULL;
		}
		dirp->at = off;
		dirp->pos = dirp->len = 0;
	}
	if (dirp->pos == dirp->len) {
		long n = syscall(SYS_getdents64, dirp->fd, dirp->buf,
				 sizeof(dirp->buf));

		if (n <= 0) {
			/* ENOENT: the directory was removed. */
			*ret_err = n < 0 && errno != ENOENT ? -errno : 0;
			dirp->pos = dirp->len = 0;
			return NULL;
		}
		dirp->pos = 0;
		dirp->len = n;
	}
	return (struct dirent_raw *)(dirp->buf + dirp->pos);
}

struct dir_fill {
	fuse_req_t req;
	struct node *dir;
	bool plus;
	char *buf;
	size_t size, used;
};

/* 1: added or passed over; 0: no room left; -errno. */
static int fill_entry(struct dir_fill *fill, const struct dirent_raw *ent)
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
	return 1;
}

static void read_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		     struct fuse_file_info *fi, bool plus)
{
	struct fs_dirp *dirp = dirp_of(fi);
	_cleanup_free_ char *buf = malloc(size);
	struct dir_fill fill = {
		.req = req,
		.dir = fs_node(req, ino),
		.plus = plus,
		.buf = buf,
		.size = size,
	};
	struct dirent_raw *ent;
	int err = 0;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	pthread_mutex_lock(&dirp->lock);
	while ((ent = dirp_entry(dirp, off, &err))) {
		int added = fill_entry(&fill, ent);

		if (added <= 0)
			break;
		off = dirp->at = ent->off;
		dirp->pos += ent->reclen;
	}
	pthread_mutex_unlock(&dirp->lock);
	if (err && fill.used == 0)
		fs_reply_err(req, err);
	else
		fuse_reply_buf(req, buf, fill.used);
}

void fs_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, fi, false);
}

void fs_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, fi, true);
}
