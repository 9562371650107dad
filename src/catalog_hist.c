/* SPDX-License-Identifier: MIT */
/*
 * The histograms in the database: hist(dir, bucket, files, bytes).
 *
 * A row for each bucket of a directory's subtree that is not empty. Buckets are
 * states, sizes and ages, in that order of numbers. A change of a file is noted
 * for its directory in memory; when the transaction ends, what is noted is
 * added up the tree, and each directory's buckets are written once. The tree
 * must not change in between: who moves a directory flushes first.
 */
#include "catalog_int.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>

#include "util.h"

#define SIZE_BASE 16
#define AGE_BASE  100000 /* weeks may be negative, by some 15,000 */
#define AGE_MIN	  1000
#define UP_MAX	  100000

struct hist_delta {
	uint64_t dir;
	struct histogram h;
};

struct hist_pending {
	void *tree; /* tsearch(3) of struct hist_delta */
	struct hist_delta **all;
	size_t n, cap;
};

static int compare_dir(const void *a, const void *b)
{
	const struct hist_delta *x = a, *y = b;

	return (x->dir > y->dir) - (x->dir < y->dir);
}

int catalog_hist_start(struct catalog *c)
{
	c->pending = calloc(1, sizeof(*c->pending));
	return c->pending ? 0 : -ENOMEM;
}

static void nothing(void *p)
{
}

static void clear(struct hist_pending *p)
{
	tdestroy(p->tree, nothing);
	p->tree = NULL;
	for (size_t i = 0; i < p->n; i++) {
		histogram_free(&p->all[i]->h);
		free(p->all[i]);
	}
	p->n = 0;
}

void catalog_hist_forget(struct catalog *c)
{
	if (c->pending)
		clear(c->pending);
}

void catalog_hist_stop(struct catalog *c)
{
	if (!c->pending)
		return;
	clear(c->pending);
	free(c->pending->all);
	free(c->pending);
	c->pending = NULL;
}

static int delta_of(struct hist_pending *p, uint64_t dir,
		    struct histogram **ret)
{
	struct hist_delta key, *delta, *const *found;

	if (p->n && p->all[p->n - 1]->dir == dir) {
		*ret = &p->all[p->n - 1]->h;
		return 0;
	}
	key.dir = dir;
	found = tfind(&key, &p->tree, compare_dir);
	if (found) {
		*ret = &(*found)->h;
		return 0;
	}
	if (p->n == p->cap) {
		size_t cap = p->cap ? 2 * p->cap : 64;
		void *all = reallocarray(p->all, cap, sizeof(*p->all));

		if (!all)
			return -ENOMEM;
		p->all = all;
		p->cap = cap;
	}
	delta = calloc(1, sizeof(*delta));
	if (!delta)
		return -ENOMEM;
	delta->dir = dir;
	if (!tsearch(delta, &p->tree, compare_dir)) {
		free(delta);
		return -ENOMEM;
	}
	p->all[p->n++] = delta;
	*ret = &delta->h;
	return 0;
}

int catalog_hist_note(struct catalog *c, uint64_t dir,
		      const struct catalog_row *row, int n)
{
	struct histogram *h;
	int err;

	err = delta_of(c->pending, dir, &h);
	if (!err)
		err = histogram_add(h, row->state, row->size, row->mtime, n);
	return err;
}

/* ---- up the tree, and out -------------------------------------------------- */

static int write_cell(struct catalog *c, uint64_t dir, int64_t bucket,
		      const struct histogram_cell *cell, bool *trim)
{
	if (!cell->files && !cell->bytes)
		return 0;
	*trim |= cell->files < 0;
	return catalog_db_do(&c->db, CQ_HIST_ADD, (int64_t)dir, bucket,
			     cell->files, cell->bytes);
}

static int write_delta(struct catalog *c, uint64_t dir,
		       const struct histogram *h)
{
	bool trim = false;
	int err = 0;

	for (int i = 0; !err && i < SPILL_STATES; i++)
		err = write_cell(c, dir, i, &h->states[i], &trim);
	for (int i = 0; !err && i < HISTOGRAM_SIZES; i++)
		err = write_cell(c, dir, SIZE_BASE + i, &h->sizes[i], &trim);
	for (size_t i = 0; !err && i < h->nages; i++)
		err = write_cell(c, dir, AGE_BASE + h->ages[i].week,
				 &h->ages[i].cell, &trim);
	if (!err && trim)
		err = catalog_db_do(&c->db, CQ_HIST_TRIM, (int64_t)dir);
	return err;
}

static int parent_of(struct catalog *c, uint64_t dir, uint64_t *ret)
{
	struct catalog_dir *d;
	int err;

	d = malloc(sizeof(*d));
	if (!d)
		return -ENOMEM;
	err = catalog_dir_get(&c->db, dir, d);
	if (!err)
		*ret = d->parent;
	free(d);
	/* What is counted is in a directory that has a row. */
	return err == -ENOENT ? -EBADMSG : err;
}

int catalog_hist_flush(struct catalog *c)
{
	struct hist_pending up = {0};
	int err = 0;

	for (size_t i = 0; !err && i < c->pending->n; i++) {
		const struct hist_delta *own = c->pending->all[i];
		uint64_t dir = own->dir;

		if (histogram_is_empty(&own->h))
			continue;
		for (int n = 0; !err && dir; n++) {
			struct histogram *sum;

			err = n < UP_MAX ? delta_of(&up, dir, &sum) : -ELOOP;
			if (!err)
				err = histogram_sum(sum, &own->h, 1);
			if (!err)
				err = parent_of(c, dir, &dir);
		}
	}
	for (size_t i = 0; !err && i < up.n; i++)
		err = write_delta(c, up.all[i]->dir, &up.all[i]->h);
	clear(&up);
	free(up.all);
	clear(c->pending);
	return err;
}

int catalog_hist_subtree(struct catalog *c, uint64_t dir, uint64_t parent,
			 int sign)
{
	struct histogram h = {0}, *to;
	int err;

	if (!parent)
		return 0;
	err = catalog_hist_read(&c->db, dir, &h);
	if (!err)
		err = delta_of(c->pending, parent, &to);
	if (!err)
		err = histogram_sum(to, &h, sign);
	histogram_free(&h);
	return err;
}

static int read_cell(struct histogram *h, int64_t bucket,
		     struct histogram_cell cell)
{
	if (bucket >= 0 && bucket < SPILL_STATES)
		h->states[bucket] = cell;
	else if (bucket >= SIZE_BASE && bucket < SIZE_BASE + HISTOGRAM_SIZES)
		h->sizes[bucket - SIZE_BASE] = cell;
	else if (bucket < AGE_MIN)
		return -EBADMSG;
	else {
		/* In the order of the weeks: the primary key's. */
		void *ages =
			reallocarray(h->ages, h->nages + 1, sizeof(*h->ages));

		if (!ages)
			return -ENOMEM;
		h->ages = ages;
		h->ages[h->nages++] = (struct histogram_age){
			.week = bucket - AGE_BASE, .cell = cell};
	}
	return 0;
}

int catalog_hist_read(struct catalog_db *db, uint64_t dir,
		      struct histogram *ret)
{
	struct histogram h = {0};
	sqlite3_stmt *st;
	int err = 0;

	st = catalog_db_stmt(db, CQ_HIST_GET, &err);
	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)dir);
	while ((err = catalog_db_step(db, CQ_HIST_GET)) > 0) {
		struct histogram_cell cell = {
			.files = sqlite3_column_int64(st, 1),
			.bytes = sqlite3_column_int64(st, 2)};

		err = cell.files
			      ? read_cell(&h, sqlite3_column_int64(st, 0), cell)
			      : 0;
		if (err) {
			catalog_db_reset(db, CQ_HIST_GET);
			break;
		}
	}
	if (err) {
		histogram_free(&h);
		return err;
	}
	*ret = h;
	return 0;
}
