/* SPDX-License-Identifier: MIT */
/*
 * Walking the front by descriptors of its directories.
 *
 * Never through the mount: that would show what is to be checked. One frame a
 * level; of deep trees only the last OPEN_LEVELS directories are kept open, the
 * others are opened again by handle, at the position that was reached. Other
 * file systems below are not ours.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check_int.h"
#include "cleanup.h"

#define OPEN_LEVELS 64
#define DIR_FLAGS   (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

struct frame {
	DIR *dir; /* NULL: closed at pos for now */
	long pos;
	struct front_handle handle;
	size_t path_len;
};

struct walk {
	struct check *c;
	struct frame *frames;
	size_t n, cap;
};

/* c->path becomes its first len bytes, "/" and name. */
static int set_path(struct check *c, size_t len, const char *name)
{
	size_t need = len + strlen(name) + 2;

	if (need > c->path_cap) {
		char *path = realloc(c->path, need + PATH_MAX);

		if (!path)
			return -ENOMEM;
		c->path = path;
		c->path_cap = need + PATH_MAX;
	}
	c->path_len = len + (size_t)sprintf(c->path + len, "/%s", name);
	return 0;
}

static int open_dir(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, DIR_FLAGS | O_NOATIME);

	if (fd < 0 && errno == EPERM)
		fd = openat(dirfd, name, DIR_FLAGS);
	return fd < 0 ? -errno : fd;
}

static void frame_close(struct frame *frame)
{
	if (frame->dir)
		closedir(frame->dir);
	frame->dir = NULL;
}

/* Takes fd over. */
static int push(struct walk *walk, int fd, size_t path_len)
{
	_cleanup_close_ int held = fd;
	struct front *front = walk->c->parts.front;
	struct frame *frame;
	int err;

	if (walk->n == walk->cap) {
		size_t cap = walk->cap ? walk->cap * 2 : 16;

		frame = reallocarray(walk->frames, cap, sizeof(*frame));
		if (!frame)
			return -ENOMEM;
		walk->frames = frame;
		walk->cap = cap;
	}
	frame = &walk->frames[walk->n];
	*frame = (struct frame){.path_len = path_len};
	err = front_handle_at(front, fd, "", &frame->handle);
	if (err)
		return err;
	frame->dir = fdopendir(fd);
	if (!frame->dir)
		return -errno;
	steal_fd(&held);
	if (front->by_handle && walk->n >= OPEN_LEVELS) {
		struct frame *old = &walk->frames[walk->n - OPEN_LEVELS];

		if (old->dir)
			old->pos = telldir(old->dir);
		frame_close(old);
	}
	walk->n++;
	return 0;
}

static int reopen(struct walk *walk, struct frame *frame)
{
	int fd;

	if (frame->dir)
		return 0;
	fd = front_open_handle(walk->c->parts.front, &frame->handle,
			       O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	frame->dir = fdopendir(fd);
	if (!frame->dir) {
		int err = -errno;

		close(fd);
		return err;
	}
	seekdir(frame->dir, frame->pos);
	return 0;
}

static void unreadable(struct check *c, int err)
{
	/* Removed meanwhile, it is no finding. */
	if (err == -ENOENT || err == -ENOTDIR || err == -ESTALE)
		return;
	c->blind = true;
	check_found(c, CHECK_UNREADABLE, NULL, -1, 0, false, "%s",
		    strerror(-err));
}

/* The type of an entry that is ours to look at, else 0. */
static mode_t entry_type(struct check *c, int dirfd, const struct dirent *entry,
			 bool root)
{
	const char *name = entry->d_name;
	struct stat st;

	if (!strcmp(name, ".") || !strcmp(name, "..") ||
	    (root && !strcmp(name, TIERFS_META_DIR)))
		return 0;
	if (entry->d_type == DT_REG)
		return S_IFREG;
	if (entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN)
		return 0;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		unreadable(c, -errno);
		return 0;
	}
	if (st.st_dev != c->parts.front->dev)
		return 0;
	return S_ISDIR(st.st_mode) || S_ISREG(st.st_mode) ? st.st_mode & S_IFMT
							  : 0;
}

static int enter(struct walk *walk, int dirfd, const char *name)
{
	struct check *c = walk->c;
	int fd = open_dir(dirfd, name);
	int err = fd < 0 ? fd : push(walk, fd, c->path_len);

	if (err == -ENOMEM)
		return err;
	if (err)
		unreadable(c, err);
	return 0;
}

/* One entry of the last frame; false: it has no more. */
static bool step(struct walk *walk, check_visit *fn)
{
	struct frame *frame = &walk->frames[walk->n - 1];
	struct check *c = walk->c;
	struct dirent *entry = NULL;
	int err, fd;
	mode_t type;

	err = reopen(walk, frame);
	if (!err) {
		errno = 0;
		entry = readdir(frame->dir);
		err = entry ? 0 : -errno;
	}
	if (!entry) {
		if (c->path)
			c->path[c->path_len = frame->path_len] = '\0';
		if (err)
			unreadable(c, err);
		frame_close(frame);
		return false;
	}
	c->err = set_path(c, frame->path_len, entry->d_name);
	if (c->err)
		return true;
	fd = dirfd(frame->dir);
	type = entry_type(c, fd, entry, walk->n == 1);
	if (!type)
		return true;
	fn(c, fd, entry->d_name);
	if (!c->err && S_ISDIR(type))
		c->err = enter(walk, fd, entry->d_name);
	return true;
}

int check_walk(struct check *c, check_visit *fn)
{
	struct walk walk = {.c = c};
	int fd, err;

	fd = open_dir(c->parts.front->root_fd, ".");
	err = fd < 0 ? fd : push(&walk, fd, 0);
	while (!err && walk.n > 0 && !check_tick(c))
		if (!step(&walk, fn))
			walk.n--;
	while (walk.n > 0)
		frame_close(&walk.frames[--walk.n]);
	free(walk.frames);
	return err ? err : c->err;
}

void check_walk_dir(struct check *c, int parent, const char *what,
		    check_visit *fn)
{
	struct dirent *entry;
	DIR *dir = NULL;
	int fd;

	c->err = c->err ? c->err : set_path(c, 0, what);
	if (c->err)
		return;
	fd = open_dir(parent, ".");
	if (fd >= 0)
		dir = fdopendir(fd);
	if (!dir) {
		unreadable(c, fd < 0 ? fd : -errno);
		cleanup_close(&fd);
		return;
	}
	while (!check_tick(c) && (errno = 0, entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		c->err = set_path(c, strlen(what) + 1, entry->d_name);
		if (!c->err)
			fn(c, fd, entry->d_name);
	}
	if (!c->err && errno)
		unreadable(c, -errno);
	closedir(dir);
}
