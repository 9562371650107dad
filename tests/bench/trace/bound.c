// SPDX-License-Identifier: MIT
/*
 * What no policy can exceed, with files of different sizes.
 *
 * A hit needs its file on the front for all of the time since the access
 * before: size times that time, of the front's size times the whole. So the
 * hits that cost least, until all of that is spent, the last one in part, are
 * at least as many as any policy has (the relaxation of Berger, Beckmann and
 * Harchol-Balter's PFOO, 2018, here with fractions, so that it is a bound). It
 * forgets that the front may not be too full at any one moment, and what writes
 * need.
 *
 * That holds however time is measured. It is done by the clock and by the
 * number of requests, and the lower counts: the nights, when nobody reads,
 * would give hits away by the clock.
 */
#include "trace.h"

#include <errno.h>
#include <stdlib.h>

#include "util.h"

struct need {
	double cost;  /* size times time, for each unit of value */
	double value; /* a request, or its bytes */
};

static int cheapest_first(const void *a, const void *b)
{
	const struct need *x = a, *y = b;

	return x->cost < y->cost ? -1 : x->cost > y->cost;
}

static double spend(struct need *needs, size_t n, double budget)
{
	double sum = 0;

	qsort(needs, n, sizeof(*needs), cheapest_first);
	for (size_t i = 0; i < n; i++) {
		double cost = needs[i].cost * needs[i].value;

		if (cost > budget)
			return sum + needs[i].value * budget / cost;
		budget -= cost;
		sum += needs[i].value;
	}
	return sum;
}

/* What the hits of the days that count need. by_clock: time is the clock's,
 * else it is the number of requests. Returns how many; *ret_time is all time.
 */
static size_t find(const struct trace *t, bool by_clock, bool bytes,
		   bool backups, uint64_t front, struct need *needs,
		   double *last, double *ret_time)
{
	double requests = 0;
	size_t n = 0;

	for (uint32_t i = 0; i < t->nfiles; i++)
		last[i] = 0; /* it may have been there when counting began */
	for (size_t k = 0; k < t->nevents; k++) {
		const struct trace_event *e = &t->events[k];
		double now = by_clock ? (double)(e->at - t->counted) : requests;

		if (e->at < t->counted || (e->kind == TRACE_BACKUP && !backups))
			continue;
		if (e->kind != TRACE_BACKUP)
			requests++;
		if (e->kind == TRACE_READ && e->bytes <= front) {
			double value = bytes ? (double)e->bytes : 1;
			double cost = (double)e->bytes * (now - last[e->file]);

			needs[n++] = (struct need){
				.cost = value > 0 ? cost / value : 0,
				.value = value};
		}
		last[e->file] = now;
	}
	*ret_time = by_clock ? (double)(t->end - t->counted) : requests;
	return n;
}

int trace_bound(const struct trace *trace, uint64_t front, bool backups,
		struct trace_bound *ret)
{
	struct need *needs = calloc(trace->nevents + 1, sizeof(*needs));
	double *last = calloc(trace->nfiles + 1, sizeof(*last)), time;
	double best[2] = {-1, -1};

	if (!needs || !last) {
		free(needs);
		free(last);
		return -ENOMEM;
	}
	for (int way = 0; way < 4; way++) {
		size_t n = find(trace, way & 2, way & 1, backups, front, needs,
				last, &time);
		double sum = spend(needs, n, time * (double)front);

		if (best[way & 1] < 0 || sum < best[way & 1])
			best[way & 1] = sum;
	}
	ret->hits = best[0];
	ret->hit_bytes = best[1];
	free(needs);
	free(last);
	return 0;
}
