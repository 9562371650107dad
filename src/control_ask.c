/* SPDX-License-Identifier: MIT */
/*
 * What is asked for with --no-wait, on its way into batches.db.
 *
 * Each path is looked at with the asker's rights, so that what is missing, or
 * not his, is said at once; what remains is stored as it comes, some hundred
 * paths a transaction. With the last of them the batch is made whole and
 * durable, and only then the end of the answer says "done". A client that goes
 * away before has asked for nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "control_int.h"
#include "util.h"

#define ITEMS	   256
#define ITEMS_REST 1000000 /* in a batch of who is not root */

struct ask {
	struct control_cmd *cmd;
	struct batch batch;
	struct batch_item items[ITEMS]; /* not stored yet */
	size_t n;
	uint64_t stored;
	bool added; /* the batch is in batches.db */
};

/* A result "queued": it names the batch. */
static void queued(struct ask *ask, const char *as)
{
	json_t *data =
		json_pack("{s:s, s:s, s:s, s:s, s:i, s:I}", "path", "", "op",
			  ask->batch.op, "result", "queued", "reason", "",
			  "bytes", 0, "id", (json_int_t)ask->batch.id);

	if (data && proto_set_path(data, "path", as)) {
		json_decref(data);
		data = NULL;
	}
	conn_result(ask->cmd->conn, data);
}

static void store(struct ask *ask)
{
	struct batches *batches = ask->cmd->control->parts->batches;
	int err = 0;

	if (!ask->n)
		return;
	if (!ask->added)
		err = batch_add(batches, &ask->batch);
	ask->added = ask->added || !err;
	if (!err)
		err = batch_add_items(batches, ask->batch.id, ask->stored,
				      ask->items, ask->n);
	for (size_t i = 0; i < ask->n; i++) {
		if (err)
			move_error(ask->cmd, ask->items[i].as, err);
		else
			queued(ask, ask->items[i].as);
	}
	if (!err)
		ask->stored += ask->n;
	batch_items_free(ask->items, ask->n);
	ask->n = 0;
}

static void add(struct ask *ask, const char *path, const char *as,
		const struct stat *st)
{
	struct batch_item item = {strdup(path), strdup(as)};
	bool many = ask->stored + ask->n >= ITEMS_REST &&
		    ask->cmd->conn->peer.uid != 0;

	if (many)
		move_result(ask->cmd, as, "refused", "too many paths", 0);
	else if (!item.path || !item.as)
		move_error(ask->cmd, as, -ENOMEM);
	if (many || !item.path || !item.as) {
		batch_items_free(&item, 1);
		return;
	}
	if (!ask->batch.label)
		ask->batch.label = strdup(path);
	if (S_ISREG(st->st_mode)) {
		ask->batch.files++;
		ask->batch.bytes += st->st_size;
	}
	ask->items[ask->n++] = item;
	if (ask->n == ITEMS)
		store(ask);
}

/* Can there be anything to do? Else the result has been said. */
static bool sensible(struct control_cmd *cmd, struct node *node,
		     const struct stat *st, const char *as)
{
	bool dir = S_ISDIR(st->st_mode), pins = false;

	if (!peer_owns(cmd->conn, st) &&
	    !(dir && cmd->op != CONTROL_PIN && cmd->op != CONTROL_UNPIN)) {
		move_result(cmd, as, "refused",
			    "permission denied: not the owner", 0);
		return false;
	}
	if (!dir && !S_ISREG(st->st_mode)) {
		move_result(cmd, as, "already", "not a regular file", 0);
		return false;
	}
	/* Of pins only what takes long is left for later. */
	if (cmd->op == CONTROL_PIN || cmd->op == CONTROL_UNPIN) {
		move_pin(cmd, node, as, &pins);
		return pins ||
		       (dir && (cmd->op == CONTROL_PIN || cmd->recursive));
	}
	if (dir && !cmd->recursive) {
		move_result(cmd, as, "refused", "is a directory (use -r)", 0);
		return false;
	}
	if (!dir && st->st_size == 0) {
		move_result(cmd, as, "already", "is empty", 0);
		return false;
	}
	return true;
}

static void ask_path(void *arg, struct control_cmd *cmd, const json_t *value)
{
	struct ask *ask = arg;
	_cleanup_(node_unrefp) struct node *node = NULL;
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *as = NULL;
	struct stat st;
	int err;

	if (control_get_path(value, &path, &as))
		return; /* was checked */
	err = peer_node(cmd->conn, path, NULL, NULL, &node);
	if (!err)
		err = tier_getattr(cmd->control->tier, node, &st, NULL);
	if (err)
		move_error(cmd, as, err);
	else if (sensible(cmd, node, &st, as))
		add(ask, path, as, &st);
}

static int begin(struct ask *ask)
{
	struct control_cmd *cmd = ask->cmd;
	struct peer peer;
	int err = peer_copy(&cmd->conn->peer, &peer);

	if (err)
		return err;
	ask->batch = (struct batch){
		.id = mover_next_id(cmd->control->parts->mover),
		.recursive = cmd->recursive,
		.release = cmd->release,
		.uid = peer.uid,
		.gid = peer.gid,
		.groups = peer.groups,
		.ngroups = peer.ngroups,
		.budget = cmd->limited ? cmd->budget : UINT64_MAX,
		.keep_until = cmd->keep_until,
		.asked_ns = realtime_ns(),
		.state = BATCH_ASKED,
	};
	snprintf(ask->batch.op, sizeof(ask->batch.op), "%s", cmd->name);
	return 0;
}

/* It is whole, and its asker can go. */
static int finish(struct ask *ask)
{
	struct control *control = ask->cmd->control;
	int err;

	if (ask->stored > 1) {
		free(ask->batch.label);
		if (asprintf(&ask->batch.label, "%llu files",
			     (unsigned long long)ask->stored) < 0)
			ask->batch.label = NULL;
	}
	err = batch_ready(control->parts->batches, &ask->batch);
	if (err)
		return err;
	/* Without memory it waits for the next mount. */
	err = batches_queue(control, &ask->batch);
	ask->batch.label = NULL;
	ask->batch.groups = NULL;
	return err;
}

void control_ask(struct control_cmd *cmd, uint64_t *ret_id)
{
	_cleanup_free_ struct ask *ask = calloc(1, sizeof(*ask));
	int err;

	*ret_id = 0;
	err = ask ? 0 : -ENOMEM;
	if (ask)
		ask->cmd = cmd;
	if (!err && !batches_room(cmd->control, cmd->conn->peer.uid))
		err = -EDQUOT;
	if (!err)
		err = begin(ask);
	if (err) {
		move_result(cmd, cmd->name, "failed",
			    err == -EDQUOT ? "too many batches wait already"
					   : "out of memory",
			    0);
		return;
	}
	do {
		move_each_path(cmd, ask_path, ask);
		store(ask);
	} while (move_next_paths(cmd));
	if (ask->added && ask->stored && !cmd->stopping && !cmd->error[0]) {
		err = finish(ask);
		if (err)
			move_error(cmd, "batch", err);
		else
			*ret_id = ask->batch.id;
	}
	if (ask->added && !*ret_id)
		batch_drop(cmd->control->parts->batches, ask->batch.id);
	batch_clear(&ask->batch);
}
