/* SPDX-License-Identifier: MIT */
/*
 * Judging rows: when each is due, and its rank.
 *
 * A row is judged when it is written. When the rules change all are judged once
 * more, some at a time in the order of their keys; how far that is is kept in
 * the database ("judged"), with the fingerprint of the rules. A row that is
 * written meanwhile is judged by the new rules anyhow. Rules know paths, and what
 * is below a pinned directory stays, so when one is moved, pinned or unpinned the
 * files below are judged once more; which, is in memory, so after a crash all
 * are.
 *
 * judge_lock is held while the judge is called, or told, so that who replaces it
 * knows that it will not be called any more.
 */
#include "catalog_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

#define HALF_LIFE (86400 * NSEC_PER_SEC)

void catalog_judge(struct catalog *c, catalog_judge_fn fn,
		   catalog_judged_fn judged, void *arg, int64_t half_life_ns,
		   uint64_t fingerprint)
{
	pthread_mutex_lock(&c->judge_lock);
	c->judge = fn;
	c->tell_judged = judged;
	c->judge_arg = arg;
	c->half_life_ns = half_life_ns > 0 ? half_life_ns : HALF_LIFE;
	c->fingerprint = fingerprint;
	c->judge_new = fn != NULL;
	atomic_store(&c->has_judge, fn != NULL);
	pthread_mutex_unlock(&c->judge_lock);
	pthread_mutex_lock(&c->lock);
	c->judging |= fn != NULL;
	pthread_mutex_unlock(&c->lock);
	catalog_queue_wake(&c->queue);
}

int64_t catalog_judge_touch(struct catalog *c, int64_t heat,
			    const struct catalog_access *access)
{
	int64_t half_life;

	pthread_mutex_lock(&c->judge_lock);
	half_life = c->half_life_ns ? c->half_life_ns : HALF_LIFE;
	pthread_mutex_unlock(&c->judge_lock);
	for (unsigned int i = 0; i < access->n; i++)
		heat = heat_touch(heat, access->last, half_life);
	return heat;
}

void catalog_judge_again(struct catalog *c)
{
	c->judge_all = true;
	c->judged = INT64_MIN;
	c->nmoved = 0;
}

static int moved_push(struct catalog *c, uint64_t dir)
{
	if (c->nmoved == c->moved_cap) {
		size_t cap = 2 * c->moved_cap + 64;
		void *moved = reallocarray(c->moved, cap, sizeof(dir));

		if (!moved)
			return -ENOMEM;
		c->moved = moved;
		c->moved_cap = cap;
	}
	c->moved[c->nmoved++] = dir;
	c->moved_after = INT64_MIN;
	return 0;
}

void catalog_judge_moved(struct catalog *c, uint64_t dir)
{
	c->path_dir = 0;
	if (!atomic_load(&c->has_judge)) {
		/* Whoever comes finds this, not the cursor. */
		catalog_judge_again(c);
		return;
	}
	/* The one that was at work begins anew when its turn comes. */
	if (!(c->judge_all && c->judged == INT64_MIN) && moved_push(c, dir))
		catalog_judge_again(c);
}

/* c->path is the path of home/name then. */
static int set_path(struct catalog *c, uint64_t home, const char *name)
{
	bool pinned;
	size_t need;
	char *path;
	int err;

	if (c->path_dir != home) {
		err = catalog_dir_path_of(&c->db, home, &path, &pinned);
		if (err)
			return err == -ENOENT ? -EBADMSG : err;
		free(c->path);
		c->path = path;
		c->path_len = strlen(path);
		c->path_cap = c->path_len + 1;
		c->path_dir = home;
		c->path_pinned = pinned;
	}
	need = c->path_len + 1 + strlen(name) + 1;
	if (need > c->path_cap) {
		path = realloc(c->path, need + NAME_MAX);
		if (!path)
			return -ENOMEM;
		c->path = path;
		c->path_cap = need + NAME_MAX;
	}
	c->path[c->path_len] = '/';
	strcpy(c->path + c->path_len + 1, name);
	return 0;
}

int catalog_judge_row(struct catalog *c, struct catalog_row *row)
{
	int err = 0;

	if (!atomic_load(&c->has_judge))
		return 0;
	pthread_mutex_lock(&c->judge_lock);
	if (c->judge) {
		err = set_path(c, row->home, row->name);
		row->pinned_above = c->path_pinned;
		if (!err)
			c->judge(c->judge_arg, c->path, row);
		if (!err)
			c->soonest = min_t(int64_t, c->soonest, row->due);
	}
	pthread_mutex_unlock(&c->judge_lock);
	return err;
}

void catalog_judge_done(struct catalog *c, bool committed)
{
	pthread_mutex_lock(&c->judge_lock);
	if (committed && c->tell_judged && c->soonest != INT64_MAX)
		c->tell_judged(c->judge_arg, c->soonest);
	c->soonest = INT64_MAX;
	pthread_mutex_unlock(&c->judge_lock);
}

/* Temperatures are of a half-life: so that each is now what it was. */
static int convert_heat(struct catalog *c, int64_t from, int64_t to)
{
	double now = (double)realtime_ns();
	double by = (now / (double)to - now / (double)from) *
		    (double)(1 << HEAT_SHIFT);
	char sql[128];

	snprintf(sql, sizeof(sql),
		 "UPDATE files SET heat = heat + %lld WHERE heat IS NOT NULL",
		 (long long)by);
	return catalog_db_exec(&c->db, sql);
}

int catalog_judge_check(struct catalog *c)
{
	int64_t half_life, old_half_life, fingerprint, old, judged;
	bool new;
	int err;

	pthread_mutex_lock(&c->judge_lock);
	new = c->judge_new;
	half_life = c->half_life_ns;
	fingerprint = (int64_t)c->fingerprint;
	c->judge_new = false;
	pthread_mutex_unlock(&c->judge_lock);
	if (!new)
		return 0;
	err = catalog_db_meta(&c->db, "fingerprint", &old);
	if (!err)
		err = catalog_db_meta(&c->db, "half_life", &old_half_life);
	if (!err)
		err = catalog_db_meta(&c->db, "judged", &judged);
	if (!err && old_half_life && old_half_life != half_life)
		err = convert_heat(c, old_half_life, half_life);
	if (!err && old_half_life != half_life)
		err = catalog_db_set_meta(&c->db, "half_life", half_life);
	if (!err && (old != fingerprint || !old_half_life)) {
		err = catalog_db_set_meta(&c->db, "fingerprint", fingerprint);
		judged = INT64_MIN;
	}
	if (!err && judged != INT64_MAX) {
		c->judge_all = true;
		c->judged = judged;
		err = catalog_db_set_meta(&c->db, "judged", judged);
	}
	if (err) {
		pthread_mutex_lock(&c->judge_lock);
		c->judge_new = c->judge != NULL;
		pthread_mutex_unlock(&c->judge_lock);
	}
	return err;
}

static int judge_one(struct catalog *c, struct catalog_row *row)
{
	const struct catalog_row old = {.key = row->key,
					.state = row->state,
					.due = row->due,
					.rank = row->rank};
	sqlite3_stmt *st;
	int err;

	err = catalog_judge_row(c, row);
	if (err || (old.due == row->due && old.rank == row->rank))
		return err;
	err = catalog_order_note(c, &old, row);
	if (err)
		return err;
	st = catalog_db_stmt(&c->db, CQ_FILE_JUDGED, &err);
	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)row->key);
	if (row->due == INT64_MAX)
		sqlite3_bind_null(st, 2);
	else
		sqlite3_bind_int64(st, 2, row->due);
	if (row->rank == INT64_MAX)
		sqlite3_bind_null(st, 3);
	else
		sqlite3_bind_int64(st, 3, row->rank);
	return catalog_db_step(&c->db, CQ_FILE_JUDGED);
}

/* Judges the rows of a statement that is bound. How many, -errno. */
static int judge_rows(struct catalog *c, enum catalog_sql which)
{
	sqlite3_stmt *st = c->db.st[which];
	int err = 0, n = 0;

	while (n < CATALOG_ROWS && (err = catalog_db_step(&c->db, which)) > 0) {
		err = catalog_row_read(st, &c->rows[n++]);
		if (err)
			break;
	}
	catalog_db_reset(&c->db, which);
	for (int i = 0; err >= 0 && i < n; i++)
		err = judge_one(c, &c->rows[i]);
	return err < 0 ? err : n;
}

/* Some rows of the last of the moved directories; then those below it. */
static int judge_moved(struct catalog *c)
{
	uint64_t dir = c->moved[c->nmoved - 1], keys[64];
	int64_t after = INT64_MIN;
	int err = 0, n;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, CQ_ROWS_OF, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)dir);
	sqlite3_bind_int64(st, 2, c->moved_after);
	sqlite3_bind_int64(st, 3, CATALOG_ROWS);
	n = judge_rows(c, CQ_ROWS_OF);
	if (n == CATALOG_ROWS)
		c->moved_after = (int64_t)c->rows[n - 1].key;
	if (n < 0 || n == CATALOG_ROWS)
		return n < 0 ? n : 0;
	c->nmoved--;
	c->moved_after = INT64_MIN;
	do {
		n = catalog_db_keys(&c->db, CQ_DIRS_OF, (int64_t)dir, after,
				    keys, 64);
		for (int i = 0; !err && i < n; i++)
			err = moved_push(c, keys[i]);
		if (n > 0)
			after = (int64_t)keys[n - 1];
	} while (!err && n == 64);
	return n < 0 ? n : err;
}

static int judge_after(struct catalog *c)
{
	int err = 0, n;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, CQ_FILES_AFTER, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, c->judged);
	sqlite3_bind_int64(st, 2, CATALOG_ROWS);
	n = judge_rows(c, CQ_FILES_AFTER);
	if (n < 0)
		return n;
	c->judge_all = n == CATALOG_ROWS;
	c->judged = c->judge_all ? (int64_t)c->rows[n - 1].key : INT64_MAX;
	return catalog_db_set_meta(&c->db, "judged", c->judged);
}

int catalog_judge_some(struct catalog *c, bool *ret_more)
{
	int err = 0;

	*ret_more = false;
	if (!atomic_load(&c->has_judge))
		return 0;
	for (int i = 0; !err && c->nmoved && i < 16; i++)
		err = judge_moved(c);
	for (int i = 0; !err && c->judge_all && i < 4; i++)
		err = judge_after(c);
	*ret_more = c->judge_all || c->nmoved;
	return err;
}
