/* SPDX-License-Identifier: MIT */
/*
 * The files in order: by rank, and by when they are due.
 *
 * Tables of their own, by state, for what may not be copied now, a backlog of any
 * length, is not to be read for what may be released. What changes is noted in
 * memory and written when the transaction ends, in the order of the tables. As
 * indexes of files they would be written row by row: files are found by
 * directory, ranks are at random over all of them, so that each row costs a way
 * down to another page, and most pages are written by each transaction. That was
 * most of what adopting costs: of SQLite's 6.8 us a row, a million of them, 4 us
 * less so.
 *
 * Rejected: indexes that are made when the walk is over. Nothing could be chosen
 * until then, and it takes 2 us a row and index, of one CPU while the scanner's
 * has nothing to do.
 *
 * A row may change several times in a transaction: what is noted of one place is
 * added up.
 */
#include "catalog_int.h"

#include <errno.h>
#include <stdlib.h>

#include "util.h"

#define PLACES_MAX  262144 /* then they are written though it has not ended */
#define PLACES_KEEP 4096   /* room that is kept */

enum order {
	BY_RANK,
	BY_DUE,
};

struct catalog_place {
	int64_t at, key;
	uint8_t order, state;
	int8_t n; /* 1: is there now; -1: no longer */
};

static int compare(const void *a, const void *b)
{
	const struct catalog_place *x = a, *y = b;

	if (x->order != y->order)
		return x->order - y->order;
	if (x->state != y->state)
		return x->state - y->state;
	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return (x->key > y->key) - (x->key < y->key);
}

static int write_place(struct catalog *c, const struct catalog_place *p, int n)
{
	enum catalog_sql which;

	if (!n)
		return 0;
	if (p->order == BY_RANK)
		which = n > 0 ? CQ_RANK_ADD : CQ_RANK_DEL;
	else
		which = n > 0 ? CQ_DUE_ADD : CQ_DUE_DEL;
	return catalog_db_do(&c->db, which, p->state, p->at, p->key);
}

void catalog_order_forget(struct catalog *c)
{
	c->nplaces = 0;
	if (c->places_cap <= PLACES_KEEP)
		return;
	free(c->places);
	c->places = NULL;
	c->places_cap = 0;
}

int catalog_order_flush(struct catalog *c)
{
	const struct catalog_place *p = c->places;
	size_t n = c->nplaces;
	int err = 0;

	if (n)
		qsort(c->places, n, sizeof(*c->places), compare);
	for (size_t i = 0, next; !err && i < n; i = next) {
		int sum = 0;

		for (next = i; next < n && !compare(&p[i], &p[next]); next++)
			sum += p[next].n;
		err = write_place(c, &p[i], sum);
	}
	catalog_order_forget(c);
	return err;
}

static int push(struct catalog *c, const struct catalog_row *row,
		enum order order, int n)
{
	int64_t at = order == BY_RANK ? row->rank : row->due;
	int err;

	if (at == INT64_MAX)
		return 0;
	if (c->nplaces >= PLACES_MAX) {
		err = catalog_order_flush(c);
		if (err)
			return err;
	}
	if (c->nplaces == c->places_cap) {
		size_t cap = 2 * c->places_cap + 256;
		void *places = reallocarray(c->places, cap, sizeof(*c->places));

		if (!places)
			return -ENOMEM;
		c->places = places;
		c->places_cap = cap;
	}
	c->places[c->nplaces++] = (struct catalog_place){
		.at = at,
		.key = (int64_t)row->key,
		.order = (uint8_t)order,
		.state = (uint8_t)row->state,
		.n = (int8_t)n,
	};
	return 0;
}

int catalog_order_note(struct catalog *c, const struct catalog_row *old,
		       const struct catalog_row *new)
{
	bool moved = !old || !new || old->state != new->state;
	int err = 0;

	if (old && (moved || old->rank != new->rank))
		err = push(c, old, BY_RANK, -1);
	if (!err && new && (moved || old->rank != new->rank))
		err = push(c, new, BY_RANK, 1);
	if (!err && old && (moved || old->due != new->due))
		err = push(c, old, BY_DUE, -1);
	if (!err && new && (moved || old->due != new->due))
		err = push(c, new, BY_DUE, 1);
	return err;
}
