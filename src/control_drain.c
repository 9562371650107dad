/* SPDX-License-Identifier: MIT */
/*
 * tierctl drain: everything back, until the front is a plain directory.
 *
 *   1. no more is migrated or released, from now until the daemon ends
 *      (or the drain is stopped)
 *   2. a walk restores what is released
 *   3. a walk takes the tier's attributes from all files, pins included, and
 *      leaves their objects to be deleted; from then on files show the inode
 *      numbers and birth times that they have on the front
 *   4. the objects are deleted, and what .tierfs kept for the files
 *
 * A file that something else moves meanwhile is met again: 2 and 3 are repeated
 * a few times. Stopped or killed anywhere, the files are as good as any, and a
 * further drain goes on with what is left.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "control_int.h"
#include "util.h"

#define ROUNDS	      5
#define DRAIN_BATCH   1024
#define PATIENCE_NS   (10 * NSEC_PER_SEC)
#define RESERVE_SHIFT 7 /* as a restore leaves on the front */

struct control_drain {
	struct node *nodes[DRAIN_BATCH]; /* references */
	char *as[DRAIN_BATCH];
	unsigned int n;
	unsigned int busy; /* met while they were moved */
	bool last;	   /* those are failures now */
};

/* ---- room ---------------------------------------------------------------- */

/* Counts what is released, as du would. */
void drain_measure(struct control_cmd *cmd, struct node *node)
{
	struct tier_file_status status;
	struct stat st;

	if (!tier_file_status(cmd->control->tier, node, &status) &&
	    (status.state == SPILL_RELEASED || status.state == SPILL_DIRTY) &&
	    !tier_getattr(cmd->control->tier, node, &st, NULL))
		cmd->need += min_t(uint64_t, (uint64_t)st.st_size,
				   (uint64_t)st.st_blocks * 512);
}

static void walk(struct control_cmd *cmd, enum control_op op)
{
	_cleanup_(node_unrefp) struct node *node = NULL;
	const char *as = cmd->control->mountpoint;
	_cleanup_close_ int fd = -1;
	int err;

	cmd->op = op;
	cmd->restoring = op == CONTROL_RESTORE;
	err = peer_node(cmd->conn, "/", NULL, &fd, &node);
	if (err)
		move_error(cmd, as, err);
	else
		walk_tree(cmd, fd, node, "/", as);
}

/* False: it has been said that there is none. */
static bool has_room(struct control_cmd *cmd)
{
	char need[SIZE_TEXT_LEN], has[SIZE_TEXT_LEN], why[128];
	struct control *control = cmd->control;
	uint64_t used, avail, spare;
	struct tier_counts counts;
	int err;

	err = front_usage(control->parts->front, &used, &avail);
	if (err) {
		move_error(cmd, control->mountpoint, err);
		return false;
	}
	spare = (used + avail) >> RESERVE_SHIFT;
	spare = avail > spare ? avail - spare : 0;
	tier_counts(control->tier, &counts);
	/* Holes need no room, but who has room for them need not look. */
	cmd->need = (uint64_t)(counts.bytes[SPILL_RELEASED] +
			       counts.bytes[SPILL_DIRTY]);
	if (tier_is_counted(control->tier) && cmd->need <= spare)
		return true;
	cmd->need = 0;
	walk(cmd, CONTROL_MEASURE);
	if (cmd->need <= spare || cmd->stopping)
		return true;
	snprintf(why, sizeof(why), "no room on the front: needs %s, has %s",
		 size_text(cmd->need, need), size_text(spare, has));
	move_result(cmd, control->mountpoint, "refused", why, 0);
	return false;
}

/* ---- leaving ---------------------------------------------------------------- */

static void leave_batch(struct control_cmd *cmd)
{
	struct control_drain *drain = cmd->drain;
	int errs[DRAIN_BATCH];

	if (drain->n)
		tier_leave(cmd->control->tier, drain->nodes, drain->n, errs);
	for (unsigned int i = 0; i < drain->n; i++) {
		if (errs[i] == -EBUSY && !drain->last)
			drain->busy++;
		else if (errs[i] == -EBUSY)
			move_result(cmd, drain->as[i], "failed",
				    "it is being moved", 0);
		else if (errs[i])
			move_error(cmd, drain->as[i], errs[i]);
		node_unref(drain->nodes[i]);
		free(drain->as[i]);
	}
	drain->n = 0;
}

void drain_file(struct control_cmd *cmd, struct node *node, const char *as)
{
	struct control_drain *drain = cmd->drain;
	char *copy;

	if (!(atomic_load(&node->flags) & NODE_EA))
		return;
	copy = strdup(as);
	if (!copy) {
		move_error(cmd, as, -ENOMEM);
		return;
	}
	drain->nodes[drain->n] = node_ref(node);
	drain->as[drain->n++] = copy;
	if (drain->n == DRAIN_BATCH)
		leave_batch(cmd);
}

/* ---- the end ------------------------------------------------------------------ */

/* Waits until what is to be deleted is. */
static void wait_deleted(struct control_cmd *cmd)
{
	struct tier *tier = cmd->control->tier;
	int64_t until = monotonic_ns() + PATIENCE_NS;
	size_t before = SIZE_MAX, left;
	bool running;

	while ((left = tier_stale_left(tier, &running)) && !cmd->stopping) {
		if (left != before || running)
			until = monotonic_ns() + PATIENCE_NS;
		before = left;
		if (monotonic_ns() >= until)
			break;
		move_pump(cmd, 50);
	}
	if (left && !cmd->stopping)
		move_result(cmd, cmd->control->mountpoint, "failed",
			    "objects are left on a target that is not there",
			    0);
}

/* Removes what held inode numbers; or only counts what is there. */
static unsigned int sweep(int parent, bool remove)
{
	int fd = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	unsigned int n = 0;
	struct stat st;

	if (!dir && fd >= 0)
		close(fd);
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' ||
		    fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (!remove || st.st_size > 0 ||
		    unlinkat(fd, entry->d_name, 0) < 0)
			n++;
	}
	if (dir)
		closedir(dir);
	return n;
}

static int count_object(void *arg, uint64_t oid, uint64_t size)
{
	(void)oid;
	(void)size;
	++*(unsigned long *)arg;
	return 0;
}

static void look_around(struct control_cmd *cmd)
{
	const struct tier_parts *parts = cmd->control->parts;
	const char *top = cmd->control->mountpoint;
	unsigned int n = sweep(parts->front->orphans_fd, false);
	char why[160];

	if (n) {
		snprintf(why, sizeof(why),
			 "%u removed files are still open; their objects are "
			 "deleted when they are closed",
			 n);
		move_result(cmd, top, "failed", why, 0);
	}
	for (unsigned int i = 0; i < parts->ntargets; i++) {
		struct target *target = parts->targets[i];
		unsigned long left = 0;
		int err;

		if (!target)
			continue;
		err = target_each(target, count_object, &left);
		if (err)
			move_error(cmd, target_path(target), err);
		if (!left || n)
			continue;
		snprintf(why, sizeof(why),
			 "%lu objects are left that no file names; tierctl "
			 "check tells whose they were",
			 left);
		move_result(cmd, target_path(target), "failed", why, 0);
	}
}

static void finish(struct control_cmd *cmd)
{
	wait_deleted(cmd);
	if (cmd->failed || cmd->stopping)
		return;
	/* No file shows another's number any more. */
	sweep(cmd->control->parts->front->inodes_fd, true);
	look_around(cmd);
}

static void rounds(struct control_cmd *cmd)
{
	struct control_drain *drain = cmd->drain;

	for (int i = 0; i < ROUNDS && !cmd->stopping && !cmd->failed; i++) {
		walk(cmd, CONTROL_RESTORE);
		move_finish(cmd);
		if (cmd->failed || cmd->stopping)
			break;
		drain->busy = 0;
		drain->last = i == ROUNDS - 1;
		walk(cmd, CONTROL_DRAIN);
		leave_batch(cmd);
		if (!drain->busy)
			break;
		for (int k = 0; k < 10 && !cmd->stopping; k++)
			move_pump(cmd, 50 << i);
	}
	if (!cmd->failed && !cmd->stopping)
		finish(cmd);
}

void control_drain(struct control_cmd *cmd)
{
	struct tier *tier = cmd->control->tier;

	cmd->drain = calloc(1, sizeof(*cmd->drain));
	if (!cmd->drain) {
		move_error(cmd, cmd->control->mountpoint, -ENOMEM);
		return;
	}
	if (has_room(cmd)) {
		tier_set_draining(tier, true);
		rounds(cmd);
	}
	if (cmd->failed || cmd->stopping)
		tier_set_draining(tier, false);
	free(cmd->drain);
}
