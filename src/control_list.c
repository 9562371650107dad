/* SPDX-License-Identifier: MIT */
/*
 * What is to be restored, collected first, so that it is read in the order of
 * the medium: by target and oid, which is the order in which it was migrated.
 * The mover keeps that order among what is at the tier, but that are some
 * thousand files in the order in which a walk finds them.
 *
 * An entry is a name and two numbers; a node would take three times that, and
 * is looked up again, with the asker's rights, when its turn comes. A command's
 * list holds LIST_BYTES (some 150,000 files), all lists together
 * LIST_BYTES_ALL; a list that is full is read and begun anew: each such part is
 * in order, which is good enough for a disk.
 *
 * With a budget the list is a heap as well, with what was used longest ago on
 * top: what does not fit in the budget, or in the memory, falls out there. What
 * was named itself comes before what was found below a directory, in the order
 * in which it was named.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "control_int.h"
#include "util.h"

#define LIST_BYTES     (32ull << 20)
#define LIST_BYTES_ALL (96ull << 20)
#define LIST_BYTES_MIN (1ull << 20) /* each may have, in any case */

struct entry {
	uint64_t oid;
	int64_t used; /* the higher the sooner, with a budget */
	uint64_t size, need;
	uint8_t target;
	bool named;
	char *path; /* and as, behind its end */
};

struct control_list {
	struct entry *entries;
	size_t n, cap;
	uint64_t bytes;	    /* of memory */
	uint64_t need;	    /* on the front */
	uint64_t left;	    /* files that the budget has no room for */
	uint64_t left_need; /* what they need */
	bool forgot;	    /* one of them would have fitted */
	uint64_t nnamed;
};

static uint64_t entry_bytes(const struct entry *entry)
{
	size_t len = strlen(entry->path) + 1;

	/* With what malloc() adds. */
	return sizeof(*entry) + len + strlen(entry->path + len) + 24;
}

/* ---- the heap: entries[0] was used longest ago ------------------------------- */

static void swap(struct control_list *list, size_t a, size_t b)
{
	struct entry entry = list->entries[a];

	list->entries[a] = list->entries[b];
	list->entries[b] = entry;
}

static void sift_up(struct control_list *list)
{
	size_t at = list->n - 1;

	while (at > 0 &&
	       list->entries[at].used < list->entries[(at - 1) / 2].used) {
		swap(list, at, (at - 1) / 2);
		at = (at - 1) / 2;
	}
}

static void pop(struct control_cmd *cmd)
{
	struct control_list *list = cmd->list;
	struct entry *e = list->entries;
	uint64_t bytes = entry_bytes(&e[0]);
	size_t at = 0;

	list->left++;
	list->left_need += e[0].need;
	list->need -= e[0].need;
	list->bytes -= bytes;
	atomic_fetch_sub(&cmd->control->listed, bytes);
	free(e[0].path);
	e[0] = e[--list->n];
	for (;;) {
		size_t least = at, l = 2 * at + 1, r = l + 1;

		if (l < list->n && e[l].used < e[least].used)
			least = l;
		if (r < list->n && e[r].used < e[least].used)
			least = r;
		if (least == at)
			return;
		swap(list, at, least);
		at = least;
	}
}

/* ---- the budget ------------------------------------------------------------------- */

bool list_budget(struct control_cmd *cmd, const json_t *obj,
		 char why[PROTO_WHY_LEN])
{
	const struct tier_tunables *tune = tier_tunables(cmd->control->tier);
	const json_t *budget = json_object_get(obj, "budget");
	const json_t *keep = json_object_get(obj, "keep");
	char asked[SIZE_TEXT_LEN], has[SIZE_TEXT_LEN];
	uint64_t used = 0, avail = 0, room;
	double high, low;

	cmd->keep_until = json_integer_value(keep);
	if (keep && (cmd->keep_until <= realtime_ns() / NSEC_PER_SEC ||
		     cmd->keep_until >= INT64_MAX / NSEC_PER_SEC)) {
		snprintf(why, PROTO_WHY_LEN,
			 "keep: in the past, or too far away (pin them)");
		return false;
	}
	cmd->keep_until *= NSEC_PER_SEC;
	cmd->limited = budget != NULL;
	if (!budget)
		return true;
	if (json_integer_value(budget) <= 0) {
		snprintf(why, PROTO_WHY_LEN, "budget: nothing");
		return false;
	}
	cmd->budget = (uint64_t)json_integer_value(budget);
	if (front_usage(cmd->control->parts->front, &used, &avail))
		return true; /* it is found again when files are restored */
	tier_watermarks(tune, used + avail, &high, &low);
	room = (uint64_t)((double)(used + avail) * high / 100);
	room = room > used ? room - used : 0;
	if (cmd->budget <= room)
		return true;
	snprintf(why, PROTO_WHY_LEN,
		 "a budget of %s is more than the front has room for up to "
		 "high (%.3g%%): %s",
		 size_text(cmd->budget, asked), high, size_text(room, has));
	return false;
}

/* ---- taking up --------------------------------------------------------------------- */

static bool is_full(const struct control_cmd *cmd)
{
	const struct control_list *list = cmd->list;

	return list->bytes > LIST_BYTES ||
	       (list->bytes > LIST_BYTES_MIN &&
		atomic_load(&cmd->control->listed) > LIST_BYTES_ALL);
}

static int push(struct control_cmd *cmd, const struct entry *entry)
{
	struct control_list *list = cmd->list;
	uint64_t bytes = entry_bytes(entry);

	if (list->n == list->cap) {
		size_t cap = list->cap ? list->cap * 2 : 64;
		struct entry *more = reallocarray(list->entries, cap,
						  sizeof(*list->entries));

		if (!more)
			return -ENOMEM;
		list->entries = more;
		list->cap = cap;
	}
	list->entries[list->n++] = *entry;
	list->need += entry->need;
	list->bytes += bytes;
	atomic_fetch_add(&cmd->control->listed, bytes);
	return 0;
}

static void push_budget(struct control_cmd *cmd, struct entry *entry)
{
	struct control_list *list = cmd->list;

	if (entry->need > cmd->budget) {
		list->left++;
		list->left_need += entry->need;
		free(entry->path);
		return;
	}
	if (push(cmd, entry)) {
		move_error(cmd, entry->path, -ENOMEM);
		free(entry->path);
		return;
	}
	sift_up(list);
	while (list->need > cmd->budget)
		pop(cmd);
	while (is_full(cmd)) {
		list->forgot = true;
		pop(cmd);
	}
}

static char *two_names(const char *path, const char *as)
{
	size_t a = strlen(path) + 1, b = strlen(as) + 1;
	char *ret = malloc(a + b);

	if (ret) {
		memcpy(ret, path, a);
		memcpy(ret + a, as, b);
	}
	return ret;
}

void list_add(struct control_cmd *cmd, struct node *node, const struct stat *st,
	      const struct tier_file_status *status, const char *path,
	      const char *as, bool named)
{
	_cleanup_(node_unrefp) struct node *held = node;
	struct entry entry = {
		.size = (uint64_t)st->st_size,
		.need = min_t(uint64_t, st->st_size,
			      (uint64_t)st->st_blocks * 512),
		.used = timespec_to_ns(st->st_atim),
		.named = named,
	};

	if (!cmd->list)
		cmd->list = calloc(1, sizeof(*cmd->list));
	entry.path = cmd->list ? two_names(path, as) : NULL;
	if (!entry.path) {
		move_error(cmd, as, -ENOMEM);
		return;
	}
	if (named)
		entry.used = INT64_MAX - (int64_t)cmd->list->nnamed++;
	if (status->ncopies) {
		entry.oid = status->copies[0].oid;
		entry.target = status->copies[0].target;
	}
	if (cmd->limited) {
		push_budget(cmd, &entry);
		return;
	}
	if (push(cmd, &entry)) {
		free(entry.path);
		/* Out of order, then. */
		move_add(cmd, steal_ptr(&held), st->st_size, path, as);
		return;
	}
	cmd->files++;
	cmd->bytes += entry.size;
	if (is_full(cmd))
		list_flush(cmd);
}

/* ---- giving out ---------------------------------------------------------------------- */

static int by_medium(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (x->target != y->target)
		return x->target < y->target ? -1 : 1;
	return x->oid < y->oid ? -1 : x->oid > y->oid;
}

static void give(struct control_cmd *cmd, const struct entry *entry)
{
	const char *as = entry->path + strlen(entry->path) + 1;
	_cleanup_(node_unrefp) struct node *node = NULL;
	struct stat st;
	int err;

	if (cmd->stopping) {
		if (entry->named)
			move_result(cmd, as, "failed", "interrupted", 0);
		return;
	}
	err = peer_node(cmd->conn, entry->path, NULL, NULL, &node);
	if (!err)
		err = tier_getattr(cmd->control->tier, node, &st, NULL);
	/* It is looked for a second time: what has gone since, has gone. */
	if (err == -ENOENT && !entry->named)
		return;
	if (err)
		move_error(cmd, as, err);
	else if (!peer_owns(cmd->conn, &st))
		move_result(cmd, as, "refused",
			    "permission denied: not the owner", 0);
	else if (!S_ISREG(st.st_mode))
		move_result(cmd, as, "already", "not a regular file", 0);
	else if ((entry->named || st.st_nlink > 1) && move_pending(cmd, node))
		move_result(cmd, as, "already", "asked for by another name", 0);
	else
		move_add(cmd, steal_ptr(&node), st.st_size, entry->path, as);
}

static void tell_left(struct control_cmd *cmd)
{
	struct control_list *list = cmd->list;
	char size[SIZE_TEXT_LEN], why[160];

	if (!list->left)
		return;
	snprintf(why, sizeof(why), "%llu files (%s) left out: %s",
		 (unsigned long long)list->left,
		 size_text(list->left_need, size),
		 list->forgot ? "too many at once, ask again"
			      : "the budget is used up");
	move_result(cmd, cmd->control->mountpoint, "skipped", why, 0);
	list->left = list->left_need = 0;
}

void list_flush(struct control_cmd *cmd)
{
	struct control_list *list = cmd->list;
	bool counted = !cmd->limited;

	if (!list)
		return;
	if (list->n > 1)
		qsort(list->entries, list->n, sizeof(*list->entries),
		      by_medium);
	for (size_t i = 0; i < list->n; i++) {
		struct entry *entry = &list->entries[i];

		if (counted) {
			cmd->files--;
			cmd->bytes -= entry->size;
		}
		give(cmd, entry);
		atomic_fetch_sub(&cmd->control->listed, entry_bytes(entry));
		free(entry->path);
	}
	list->n = 0;
	list->bytes = list->need = 0;
	tell_left(cmd);
}

void list_free(struct control_cmd *cmd)
{
	struct control_list *list = cmd->list;

	if (!list)
		return;
	for (size_t i = 0; i < list->n; i++)
		free(list->entries[i].path);
	atomic_fetch_sub(&cmd->control->listed, list->bytes);
	free(list->entries);
	free(list);
	cmd->list = NULL;
}
