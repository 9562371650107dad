/* SPDX-License-Identifier: MIT */
/*
 * A file as it is now, and what the rules say of it.
 *
 * A row is what the file was a moment ago, and the judge's word what the rules
 * said then. Neither is acted on: they only say where to look. The file is found
 * by its handle or its path, the tier is asked for its state, and the rules are
 * evaluated again with its times of now.
 *
 * The judge says of a row when it is to be looked at next (due) and in which
 * order it goes when room is needed (rank). What was tried in vain is due when it
 * is not held any more: its place in the catalog is what keeps it from being
 * looked at again and again, so the set of what is held may be small.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "policy_int.h"

/* A verdict that might be another already is asked for again, but not at
 * once. */
#define RECHECK_NS MINUTE_NS

/* ---- judging ---------------------------------------------------------------- */

struct attr_source {
	struct front *front;
	const struct front_handle *handle;
	int fd; /* -1: not yet */
};

static int get_attr(void *arg, const char *name, void *buf, size_t size)
{
	struct attr_source *src = arg;

	if (src->fd < 0)
		src->fd = front_open_handle(src->front, src->handle, O_PATH);
	if (src->fd < 0)
		return src->fd;
	return (int)getxattr_fd(src->fd, name, buf, size);
}

static void eval(struct policy *policy, const struct policy_rules *rules,
		 const char *path, const struct catalog_row *row, int64_t now,
		 struct rule_verdict *ret)
{
	struct attr_source src = {
		.front = tier_parts(policy->tier)->front,
		.handle = &row->handle,
		.fd = -1,
	};
	const struct rule_facts facts = {
		.path = path,
		.size = row->size,
		.access = row->access,
		.mtime = row->mtime,
		.ctime = row->ctime,
		.uid = row->uid,
		.gid = row->gid,
		.heat = row->heat,
		.xattr = get_attr,
		.arg = &src,
	};

	policy_rules_eval(rules, &facts, now, ret);
	if (src.fd >= 0)
		close(src.fd);
}

void policy_judge_row(const struct rule_verdict *verdict, int64_t now, bool hot,
		      int64_t held, struct catalog_row *row)
{
	bool resident = row->state == SPILL_NONE ||
			row->state == SPILL_MIGRATING ||
			row->state == SPILL_MIGRATED;
	int64_t act = INT64_MAX;

	row->due = row->rank = INT64_MAX;
	if (row->size == 0 || row->pinned_above ||
	    row->flags & (CATALOG_PINNED | CATALOG_FOREIGN | CATALOG_DAMAGED))
		return; /* who changes that writes the row anew */
	if (!verdict->keep) {
		if (resident)
			row->rank = verdict->rank;
		if (row->state == SPILL_NONE)
			act = verdict->migrate_at;
		else if (row->state == SPILL_MIGRATED)
			act = verdict->release_at;
		else if (row->state == SPILL_RELEASED && hot)
			act = now;
	}
	/* Of one that is elsewhere nothing hangs on the rules. */
	if (resident && act > now && verdict->changes_at < act)
		act = max_t(int64_t, verdict->changes_at, now + RECHECK_NS);
	row->due = max_t(int64_t, act, held);
}

bool policy_is_hot(const struct policy_rules *rules, double promote,
		   int64_t heat, int64_t now)
{
	return promote > 0 &&
	       heat_at(heat, now, policy_rules_half_life(rules)) >= promote;
}

void policy_judge(void *arg, const char *path, struct catalog_row *row)
{
	struct policy_judge *judge = arg;
	struct policy *policy = judge->policy;
	int64_t now = realtime_ns(), held;
	struct rule_verdict verdict;

	eval(policy, judge->rules, path, row, now, &verdict);
	pthread_mutex_lock(&policy->lock);
	held = holds_until(&policy->holds, row->key, (int)row->state, now);
	if (!holds_why(&policy->holds, row->key))
		held = 0;
	pthread_mutex_unlock(&policy->lock);
	policy_judge_row(
		&verdict, now,
		policy_is_hot(judge->rules, judge->promote, row->heat, now),
		held, row);
}

void policy_judged(void *arg, int64_t due)
{
	struct policy_judge *judge = arg;
	struct policy *policy = judge->policy;

	if (due < atomic_load(&policy->wake_due)) {
		atomic_store(&policy->judged, true);
		policy_poke(policy);
	}
}

/* ---- looking ----------------------------------------------------------------- */

int policy_eye_open(struct policy *policy, struct policy_eye *ret)
{
	struct policy_eye eye = {.policy = policy};
	int err = catalog_reader_open(policy->catalog, &eye.rows);

	if (!err)
		err = catalog_reader_open(policy->catalog, &eye.paths);
	if (err) {
		policy_eye_close(&eye);
		return err;
	}
	*ret = eye;
	policy_eye_blink(ret);
	return 0;
}

void policy_eye_blink(struct policy_eye *eye)
{
	struct policy *policy = eye->policy;

	policy_rules_unref(eye->rules);
	pthread_mutex_lock(&policy->lock);
	eye->rules = policy_rules_ref(policy->setup.rules);
	eye->promote = policy->setup.promote;
	pthread_mutex_unlock(&policy->lock);
	eye->now = realtime_ns();
	free(eye->home_path);
	eye->home_path = NULL;
}

void policy_eye_close(struct policy_eye *eye)
{
	catalog_reader_close(eye->rows);
	catalog_reader_close(eye->paths);
	policy_rules_unref(eye->rules);
	free(eye->home_path);
	memset(eye, 0, sizeof(*eye));
}

/* The row's path: its directory's is kept, as neighbours come together. */
static int row_path(struct policy_eye *eye, const struct catalog_row *row,
		    char **ret)
{
	const char *dir;
	char *path;
	int err;

	if (!eye->home_path || eye->home != row->home) {
		free(eye->home_path);
		eye->home_path = NULL;
		err = catalog_dir_path(eye->paths, row->home, &eye->home_path);
		if (err)
			return err;
		eye->home = row->home;
	}
	dir = eye->home_path;
	if (!dir[1])
		dir = ""; /* "/" */
	if (asprintf(&path, "%s/%s", dir, row->name) < 0)
		return -ENOMEM;
	*ret = path;
	return 0;
}

/* What the front says, over what the row said. */
static int refresh(struct policy_eye *eye, struct policy_look *look,
		   const struct catalog_row *old)
{
	struct tier *tier = eye->policy->tier;
	struct catalog_row row = {.heat = HEAT_NONE};
	int err = tier_file_status(tier, look->node, &look->status);

	if (!err)
		err = tier_getattr(tier, look->node, &look->st, NULL);
	if (err)
		return err;
	look->access = timespec_to_ns(look->st.st_atim);
	row.handle = node_handle(look->node);
	if (old) {
		row.heat = old->heat;
		look->access = max_t(int64_t, look->access, old->access);
	}
	row.size = look->status.size;
	row.access = look->access;
	row.mtime = timespec_to_ns(look->st.st_mtim);
	row.ctime = timespec_to_ns(look->st.st_ctim);
	row.uid = look->st.st_uid;
	row.gid = look->st.st_gid;
	eval(eye->policy, eye->rules, look->path, &row, eye->now,
	     &look->verdict);
	look->hot = look->status.state == SPILL_RELEASED &&
		    policy_is_hot(eye->rules, eye->promote, row.heat, eye->now);
	return 0;
}

int policy_look_row(struct policy_eye *eye, const struct catalog_row *row,
		    struct policy_look *ret)
{
	struct node_table *table = tier_parts(eye->policy->tier)->nodes;
	struct policy_look look = {.node = node_find(table, &row->handle)};
	struct front_handle handle;
	int err = row_path(eye, row, &look.path);

	if (!err && !look.node)
		err = node_walk(table, look.path, &look.node);
	if (!err) {
		handle = node_handle(look.node);
		if (!front_handle_equal(&handle, &row->handle) ||
		    !S_ISREG(look.node->type) ||
		    atomic_load(&look.node->flags) & NODE_UNLINKED)
			err = -ESTALE;
	}
	if (!err)
		err = refresh(eye, &look, row);
	if (err) {
		policy_look_end(&look);
		return err == -ENOENT || err == -ENOTDIR ? -ESTALE : err;
	}
	*ret = look;
	return 0;
}

int policy_look_node(struct policy_eye *eye, struct node *node,
		     const struct catalog_row *row, struct policy_look *ret)
{
	struct policy_look look = {.node = node_ref(node)};
	char path[PATH_MAX];
	int err = 0;

	look.path = strdup(node_path(node, path, sizeof(path)));
	if (!look.path)
		err = -ENOMEM;
	if (!err)
		err = refresh(eye, &look, row);
	if (err) {
		policy_look_end(&look);
		return err;
	}
	*ret = look;
	return 0;
}

void policy_look_end(struct policy_look *look)
{
	free(look->path);
	if (look->node)
		node_unref(look->node);
	memset(look, 0, sizeof(*look));
}
