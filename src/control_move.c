/* SPDX-License-Identifier: MIT */
/*
 * Commands that move data: what is to be done with each file that is named,
 * or found below a directory. How it is run is told in control_run.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "control_int.h"

/* ---- one file ------------------------------------------------------------------------- */

/* Is the node itself pinned, not by a directory above? */
static int pinned_itself(struct control *control, struct node *node, bool *ret)
{
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	struct spill_ea ea;
	int err;

	err = node_fd_get(node, &fd);
	if (err)
		return err;
	err = front_ea_get(control->parts->front, fd.fd, &ea);
	if (err && err != -ENODATA)
		return err;
	*ret = !err && (ea.flags & TIERFS_EA_F_PINNED);
	return 0;
}

void move_pin(struct control_cmd *cmd, struct node *node, const char *as,
	      bool *ret_restore)
{
	bool pin = cmd->op == CONTROL_PIN, was = false;
	enum spill_state state = SPILL_NONE;
	struct tier_file_status status;
	const char *reason = "";
	int err;

	err = pinned_itself(cmd->control, node, &was);
	if (!err && was != pin)
		err = tier_pin(cmd->control->tier, node, pin);
	if (!err && node->type == S_IFREG)
		err = tier_state(cmd->control->tier, node, &state);
	if (err) {
		move_error(cmd, as, err);
		return;
	}
	if (pin && (state == SPILL_RELEASED || state == SPILL_DIRTY)) {
		*ret_restore = true;
		return;
	}
	if (!pin && node->type == S_IFREG &&
	    !tier_file_status(cmd->control->tier, node, &status) &&
	    status.pinned)
		reason = "a directory above is still pinned";
	move_result(cmd, as, was == pin ? "already" : "done", reason, 0);
}

static void unkeep(struct control_cmd *cmd, struct node *node, const char *as)
{
	struct batches *batches = cmd->control->parts->batches;
	struct front_handle handle = node_handle(node);
	bool kept = batch_kept_until(batches, &handle) != 0;
	int err = kept ? batch_keep(batches, &handle, 0) : 0;

	if (err)
		move_error(cmd, as, err);
	else
		move_result(cmd, as, kept ? "done" : "already", "", 0);
}

/* Takes over the reference to node. A file that is moving is the tier's to
 * decide about. */
static void move_or_list(struct control_cmd *cmd, struct node *node,
			 const struct stat *st, const char *path,
			 const char *as, bool named)
{
	_cleanup_(node_unrefp) struct node *held = node;
	struct tier_file_status status;
	bool restores = cmd->op == CONTROL_RESTORE || cmd->op == CONTROL_PIN;

	if (restores && !tier_file_status(cmd->control->tier, node, &status) &&
	    (status.state == SPILL_RELEASED || status.state == SPILL_DIRTY)) {
		list_add(cmd, steal_ptr(&held), st, &status, path, as, named);
		return;
	}
	/* A hard link, or named twice: the tier would refuse the second. */
	if ((st->st_nlink > 1 || named) && move_pending(cmd, node)) {
		move_result(cmd, as, "already", "asked for by another name", 0);
		return;
	}
	move_add(cmd, steal_ptr(&held), st->st_size, path, as);
}

void move_file(struct control_cmd *cmd, struct node *node,
	       const struct stat *st, const char *path, const char *as,
	       bool named)
{
	_cleanup_(node_unrefp) struct node *held = node;
	enum spill_state state;
	bool restore = false;

	if (cmd->op == CONTROL_DRAIN || cmd->op == CONTROL_MEASURE) {
		if (cmd->op == CONTROL_DRAIN)
			drain_file(cmd, node, as);
		else
			drain_measure(cmd, node);
		return;
	}
	if (!peer_owns(cmd->conn, st)) {
		move_result(cmd, as, "refused",
			    "permission denied: not the owner", 0);
		return;
	}
	if (cmd->op == CONTROL_UNKEEP) {
		unkeep(cmd, node, as);
		return;
	}
	if (cmd->restoring) {
		if (tier_state(cmd->control->tier, node, &state) ||
		    (state != SPILL_RELEASED && state != SPILL_DIRTY))
			return;
	} else if (cmd->op == CONTROL_PIN || cmd->op == CONTROL_UNPIN) {
		move_pin(cmd, node, as, &restore);
		if (!restore)
			return;
	} else if (st->st_size == 0) {
		move_result(cmd, as, "already", "is empty", 0);
		return;
	}
	move_or_list(cmd, steal_ptr(&held), st, path, as, named);
}

/* ---- what was named ------------------------------------------------------------------ */

static void move_dir(struct control_cmd *cmd, int fd, struct node *node,
		     const struct stat *st, const char *path, const char *as)
{
	bool ignored = false;

	if (cmd->op == CONTROL_PIN || cmd->op == CONTROL_UNPIN) {
		if (!peer_owns(cmd->conn, st)) {
			move_result(cmd, as, "refused",
				    "permission denied: not the owner", 0);
			return;
		}
		move_pin(cmd, node, as, &ignored);
		if (cmd->op == CONTROL_UNPIN && !cmd->recursive)
			return;
		cmd->restoring = cmd->op == CONTROL_PIN;
	} else if (!cmd->recursive) {
		move_result(cmd, as, "refused", "is a directory (use -r)", 0);
		return;
	}
	walk_tree(cmd, fd, node, path, as);
	cmd->restoring = false;
}

void move_named(struct control_cmd *cmd, const char *path, const char *as)
{
	_cleanup_(node_unrefp) struct node *node = NULL;
	_cleanup_close_ int fd = -1;
	struct stat st;
	int err;

	job_named(cmd, path);
	err = peer_node(cmd->conn, path, NULL, &fd, &node);
	if (!err)
		err = tier_getattr(cmd->control->tier, node, &st, NULL);
	if (err)
		move_error(cmd, as, err);
	else if (S_ISDIR(st.st_mode))
		move_dir(cmd, fd, node, &st, path, as);
	else if (S_ISREG(st.st_mode))
		move_file(cmd, steal_ptr(&node), &st, path, as, true);
	else if (!peer_owns(cmd->conn, &st))
		move_result(cmd, as, "refused",
			    "permission denied: not the owner", 0);
	else
		move_result(cmd, as, "already", "not a regular file", 0);
}

void control_move(struct control_cmd *cmd)
{
	do {
		json_t *value;
		size_t i;

		json_array_foreach(cmd->paths, i, value)
		{
			_cleanup_free_ char *path = NULL;
			_cleanup_free_ char *as = NULL;

			if (cmd->stopping)
				break;
			if (control_get_path(value, &path, &as))
				continue; /* was checked */
			move_named(cmd, path, as);
		}
		if (cmd->more)
			move_submit(cmd);
	} while (move_next_paths(cmd));
	move_finish(cmd);
}
