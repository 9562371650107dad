/* SPDX-License-Identifier: MIT */
/*
 * Walking a directory of the front for a command with -r.
 *
 * The walk holds one frame a level and no list of names, so its memory is
 * bounded by the depth, and that by PATH_MAX. Directories are opened with the
 * peer's rights, by name below the descriptor of their parent; names are
 * looked up as nodes below the parent's node. If the two are not the same
 * directory, someone renamed meanwhile, and it is reported. Of deep trees only
 * the last WALK_OPEN levels are kept open; others are opened again at the
 * position that was reached.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "control_int.h"

#define WALK_OPEN 32
#define WALK_PUMP 128 /* the client is looked at every so many names */

struct frame {
	DIR *dir; /* NULL: closed at pos for now */
	long pos;
	struct node *node;
	size_t path_len, as_len;
};

struct walk {
	struct control_cmd *cmd;
	struct frame *frames;
	unsigned int n, cap;
	unsigned int names;
	char path[PATH_MAX];
	char as[2 * PATH_MAX];
};

static void frame_close(struct frame *frame)
{
	if (frame->dir)
		closedir(frame->dir);
	frame->dir = NULL;
}

/* Enters a directory: takes over fd and the reference to node. */
static int walk_push(struct walk *walk, int fd, struct node *node)
{
	_cleanup_(node_unrefp) struct node *held = node;
	_cleanup_close_ int held_fd = fd;
	struct frame *frame;

	if (walk->n == walk->cap) {
		unsigned int cap = walk->cap ? walk->cap * 2 : 16;

		frame = reallocarray(walk->frames, cap, sizeof(*frame));
		if (!frame)
			return -ENOMEM;
		walk->frames = frame;
		walk->cap = cap;
	}
	frame = &walk->frames[walk->n];
	frame->dir = fdopendir(held_fd);
	if (!frame->dir)
		return -errno;
	steal_fd(&held_fd);
	frame->node = steal_ptr(&held);
	frame->path_len = strlen(walk->path);
	frame->as_len = strlen(walk->as);
	if (walk->n >= WALK_OPEN) {
		struct frame *old = &walk->frames[walk->n - WALK_OPEN];

		if (old->dir)
			old->pos = telldir(old->dir);
		frame_close(old);
	}
	walk->n++;
	return 0;
}

static void walk_pop(struct walk *walk)
{
	struct frame *frame = &walk->frames[--walk->n];

	frame_close(frame);
	node_unref(frame->node);
}

static int frame_reopen(struct frame *frame)
{
	int fd;

	if (frame->dir)
		return 0;
	fd = node_open(frame->node, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
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

/* Cuts the paths back to the frame's, and appends name ("": none). */
static int walk_name(struct walk *walk, const struct frame *frame,
		     const char *name)
{
	bool root = frame->path_len == 1; /* "/" */
	bool slash = frame->as_len > 0 && walk->as[frame->as_len - 1] == '/';
	size_t len = strlen(name);

	walk->path[frame->path_len] = '\0';
	walk->as[frame->as_len] = '\0';
	if (len == 0)
		return 0;
	if (frame->path_len + len + 2 > sizeof(walk->path) ||
	    frame->as_len + len + 2 > sizeof(walk->as))
		return -ENAMETOOLONG;
	sprintf(walk->path + frame->path_len, "%s%s", root ? "" : "/", name);
	sprintf(walk->as + frame->as_len, "%s%s", slash ? "" : "/", name);
	return 0;
}

static int walk_subdir(struct walk *walk, const struct frame *frame,
		       const char *name, struct node *node,
		       const struct stat *st)
{
	_cleanup_(node_unrefp) struct node *held = node;
	struct stat now;
	int fd;

	fd = peer_opendir(walk->cmd->conn, dirfd(frame->dir), name);
	if (fd < 0)
		return fd;
	if (fstat(fd, &now) < 0 || now.st_ino != st->st_ino) {
		close(fd);
		return -ESTALE;
	}
	/* Unpinning unpins directories too, and draining. */
	if (walk->cmd->op == CONTROL_UNPIN || walk->cmd->op == CONTROL_DRAIN)
		move_file(walk->cmd, node_ref(node), st, walk->path, walk->as,
			  false);
	return walk_push(walk, fd, steal_ptr(&held));
}

static int walk_entry(struct walk *walk, const struct frame *frame,
		      const char *name)
{
	_cleanup_(node_unrefp) struct node *node = NULL;
	struct control_cmd *cmd = walk->cmd;
	struct stat st;
	int err;

	err = walk_name(walk, frame, name);
	if (err)
		return err;
	err = node_lookup(frame->node, name, &st, &node);
	if (err)
		return err == -ENOENT ? 0 : err; /* gone meanwhile */
	if (S_ISDIR(st.st_mode))
		return walk_subdir(walk, frame, name, steal_ptr(&node), &st);
	if (!S_ISREG(st.st_mode))
		return 0;
	err = tier_adjust(cmd->control->tier, node, &st, NULL);
	if (err)
		return err;
	move_file(cmd, steal_ptr(&node), &st, walk->path, walk->as, false);
	return 0;
}

static bool walk_skips(const struct walk *walk, const struct dirent *entry)
{
	const char *name = entry->d_name;

	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return true;
	if (walk->frames[walk->n - 1].path_len == 1 &&
	    !strcmp(name, TIERFS_META_DIR))
		return true;
	return entry->d_type != DT_DIR && entry->d_type != DT_REG &&
	       entry->d_type != DT_UNKNOWN;
}

static void walk_run(struct walk *walk)
{
	struct control_cmd *cmd = walk->cmd;

	while (walk->n > 0 && !cmd->stopping) {
		/* A copy: walk_push() may move the frames. */
		struct frame frame;
		struct dirent *entry = NULL;
		int err;

		err = frame_reopen(&walk->frames[walk->n - 1]);
		frame = walk->frames[walk->n - 1];
		if (!err) {
			errno = 0;
			entry = readdir(frame.dir);
			err = entry ? 0 : -errno;
		}
		if (!entry) {
			walk_name(walk, &frame, "");
			if (err)
				move_error(cmd, walk->as, err);
			walk_pop(walk);
			continue;
		}
		if (walk_skips(walk, entry))
			continue;
		err = walk_entry(walk, &frame, entry->d_name);
		if (err)
			move_error(cmd, walk->as, err);
		if (++walk->names % WALK_PUMP == 0)
			move_pump(cmd, 0);
	}
	while (walk->n > 0)
		walk_pop(walk);
}

void walk_tree(struct control_cmd *cmd, int fd, struct node *node,
	       const char *path, const char *as)
{
	_cleanup_free_ struct walk *walk = calloc(1, sizeof(*walk));
	size_t len = strlen(path);
	int err, dir;

	if (!walk) {
		move_error(cmd, as, -ENOMEM);
		return;
	}
	walk->cmd = cmd;
	while (len > 1 && path[len - 1] == '/')
		len--;
	if (len >= sizeof(walk->path) || strlen(as) >= sizeof(walk->as)) {
		move_error(cmd, as, -ENAMETOOLONG);
		return;
	}
	memcpy(walk->path, path, len);
	strcpy(walk->as, as);
	dir = peer_opendir(cmd->conn, fd, ".");
	err = dir < 0 ? dir : walk_push(walk, dir, node_ref(node));
	if (err)
		move_error(cmd, as, err);
	else
		walk_run(walk);
	free(walk->frames);
}
