// SPDX-License-Identifier: MIT
/*
 * What to compare with: caches that bring files in and throw them out at once,
 * at no cost in time.
 *
 * LRU is what a cache in front of the disk would do: each access, a backup's
 * too, brings the file in, and what was not used for longest goes. With an
 * infinite front nothing goes: what it misses is used for the first time, but
 * for backups.
 *
 * Belady's MIN throws out what is read last. It is optimal for pages of one
 * size if every request has to bring its page in; with files of different sizes
 * the optimum is NP-hard. Here are the two greedy forms that are usual (Belady
 * and Belady-Size in Berger, Beckmann, Harchol-Balter: "Practical bounds on
 * optimal caching with variable object sizes", 2018): the farthest next read
 * goes, or the largest product of time to it and size. A file that would be the
 * first to go is not brought in; one that is written has to be. So they are
 * achievable by one who knows the future, hence no upper bounds: those are in
 * bound.c. The first is good at bytes, the second at requests.
 *
 * An update of a file that is not there goes to a log, which takes no room
 * here. What was written and is thrown out is copied to the target then, once
 * for each time that it was written. A file that will not be read any more is
 * copied, too.
 */
#include "trace.h"

#include <bsd/sys/tree.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

#define CLASSES 65 /* sizes by powers of two: within one the farthest is best */

struct item {
	RB_ENTRY(item) by_key;
	int64_t key; /* the last access, or the next read */
	uint64_t size;
	bool exists, resident, dirty; /* dirty: no copy on the target */
};
RB_HEAD(items, item);

static int item_cmp(const struct item *a, const struct item *b)
{
	if (a->key != b->key)
		return a->key < b->key ? -1 : 1;
	return a < b ? -1 : a > b;
}
/* RB_GENERATE_STATIC lacks a macro of BSD's. */
RB_GENERATE_INTERNAL(items, item, by_key, item_cmp,
		     __attribute__((unused)) static)

struct cache {
	const struct trace *trace;
	enum trace_cache kind;
	struct items classes[CLASSES];
	struct item *items, **out; /* out: what is to go */
	uint64_t front, used;
	int64_t *next;
	struct trace_disk disk;
	struct trace_count count;
	int64_t now;
};

const char *trace_cache_name(enum trace_cache cache)
{
	static const char *const names[TRACE_CACHES] = {
		[CACHE_LRU] = "lru",
		[CACHE_INFINITE] = "infinite",
		[CACHE_BELADY] = "belady",
		[CACHE_BELADY_SIZE] = "belady-size",
	};

	return names[cache];
}

static bool knows(const struct cache *c)
{
	return c->kind == CACHE_BELADY || c->kind == CACHE_BELADY_SIZE;
}

static struct items *class_of(struct cache *c, const struct item *i)
{
	int bits = i->size ? 64 - __builtin_clzll(i->size) : 0;

	return &c->classes[c->kind == CACHE_BELADY_SIZE ? bits : 0];
}

/* The higher, the sooner it goes. */
static double score(const struct cache *c, const struct item *i)
{
	if (!knows(c))
		return -(double)i->key;
	if (i->key == INT64_MAX)
		return INFINITY;
	if (c->kind == CACHE_BELADY)
		return (double)i->key;
	return (double)(i->key - c->now) * (double)i->size;
}

static struct item *first_to_go(struct cache *c)
{
	struct item *best = NULL;

	for (int k = 0; k < CLASSES; k++) {
		struct item *i = knows(c) ? RB_MAX(items, &c->classes[k])
					  : RB_MIN(items, &c->classes[k]);

		if (i && (!best || score(c, i) > score(c, best)))
			best = i;
	}
	return best;
}

static void hide(struct cache *c, struct item *i)
{
	RB_REMOVE(items, class_of(c, i), i);
	c->used -= i->size;
}

static void show(struct cache *c, struct item *i)
{
	RB_INSERT(items, class_of(c, i), i);
	c->used += i->size;
}

static void leave(struct cache *c, struct item *i)
{
	i->resident = false;
	c->count.released++;
	if (!i->dirty)
		return;
	i->dirty = false;
	c->count.migrations++;
	c->count.migrated += i->size;
	trace_disk_use(&c->disk, &c->count, c->now, c->now);
}

/* Makes room for i, which is not there. must: even if others are worth more.
 * False: there is none for it. */
static bool make_room(struct cache *c, const struct item *i, bool must)
{
	struct item *first;
	size_t n = 0;

	if (i->size > c->front)
		return false;
	while (c->used + i->size > c->front) {
		first = first_to_go(c);
		if (!must && knows(c) && score(c, first) <= score(c, i)) {
			while (n)
				show(c, c->out[--n]);
			return false;
		}
		hide(c, first);
		c->out[n++] = first;
	}
	while (n)
		leave(c, c->out[--n]);
	return true;
}

static void do_read(struct cache *c, struct item *i, bool backup)
{
	struct trace_count *n = &c->count;
	bool hit = i->resident;

	*(backup ? &n->backups : &n->reads) += 1;
	*(backup ? &n->backup_bytes : &n->read_bytes) += i->size;
	if (hit) {
		*(backup ? &n->backup_hits : &n->hits) += 1;
		*(backup ? &n->backup_hit_bytes : &n->hit_bytes) += i->size;
		return;
	}
	n->target_read += i->size;
	trace_disk_use(&c->disk, n, c->now, c->now);
	if ((backup && c->kind != CACHE_LRU) || !make_room(c, i, false))
		return;
	n->restores++;
	n->restored += i->size;
	i->resident = true;
	show(c, i);
}

static void do_write(struct cache *c, struct item *i,
		     const struct trace_event *e)
{
	if (e->kind == TRACE_UPDATE && !i->resident) {
		c->count.written += e->bytes; /* to a log */
		return;
	}
	if (e->kind != TRACE_UPDATE)
		i->size = e->bytes;
	i->exists = true;
	if (!make_room(c, i, true)) {
		i->resident = i->dirty = false;
		c->count.enospc++;
		c->count.denied += e->bytes;
		return;
	}
	c->count.written += e->bytes;
	i->resident = i->dirty = true;
	show(c, i);
}

static void play(struct cache *c, const struct trace_event *e, int64_t next)
{
	struct item *i = &c->items[e->file];

	c->now = e->at;
	if (i->resident)
		hide(c, i);
	if (e->kind != TRACE_BACKUP || !knows(c))
		i->key = knows(c) ? next : e->at;
	switch (e->kind) {
	case TRACE_READ:
	case TRACE_BACKUP:
		if (i->resident)
			show(c, i);
		do_read(c, i, e->kind == TRACE_BACKUP);
		break;
	case TRACE_UNLINK:
		i->exists = i->resident = i->dirty = false;
		break;
	default:
		do_write(c, i, e);
		break;
	}
}

/* As trace_initial() has it: what is there has its copy. */
static int fill(struct cache *c, uint64_t front)
{
	const struct trace *t = c->trace;
	bool *there;
	int err = trace_initial(t, front, &there);

	if (err)
		return err;
	for (uint32_t k = 0; k < t->nfiles; k++) {
		struct item *i = &c->items[k];

		i->exists = t->files[k].initial;
		i->size = t->files[k].size;
		i->key = knows(c) ? c->next[t->nevents + k] : t->files[k].atime;
		i->resident = there[k];
		if (i->resident)
			show(c, i);
	}
	free(there);
	return 0;
}

static int run(struct cache *c, struct trace_result *ret)
{
	const struct trace *t = c->trace;
	bool counting = false;

	for (size_t k = 0; k < t->nevents; k++) {
		const struct trace_event *e = &t->events[k];
		uint64_t reads = c->count.reads, hits = c->count.hits;
		size_t hour = (size_t)((e->at - t->start) / TRACE_HOUR);

		if (!counting && e->at >= t->counted) {
			memset(&c->count, 0, sizeof(c->count));
			reads = hits = 0;
			counting = true;
		}
		play(c, e, c->next[k]);
		c->count.full = fmax(c->count.full, 100.0 * (double)c->used /
							    (double)c->front);
		if (hour < TRACE_HOURS) {
			ret->hour_reads[hour] +=
				(uint32_t)(c->count.reads - reads);
			ret->hour_hits[hour] +=
				(uint32_t)(c->count.hits - hits);
			ret->hour_use[hour] = (float)(100.0 * (double)c->used /
						      (double)c->front);
		}
	}
	ret->count = c->count;
	ret->hours = (uint32_t)min_t(int64_t, TRACE_HOURS,
				     (t->end - t->start) / TRACE_HOUR);
	return 0;
}

int trace_cache(const struct trace *trace, enum trace_cache cache,
		uint64_t front, struct trace_result *ret)
{
	struct cache c = {.trace = trace,
			  .kind = cache,
			  .front = cache == CACHE_INFINITE ? UINT64_MAX : front,
			  .disk = {INT64_MIN / 2}};
	int err = -ENOMEM;

	for (int k = 0; k < CLASSES; k++)
		RB_INIT(&c.classes[k]);
	memset(ret, 0, sizeof(*ret));
	ret->front = front;
	c.items = calloc(trace->nfiles + 1, sizeof(*c.items));
	c.out = calloc(trace->nfiles + 1, sizeof(*c.out));
	if (c.items && c.out)
		err = trace_next_reads(trace, &c.next);
	if (!err)
		err = fill(&c, front);
	if (!err)
		err = run(&c, ret);
	free(c.items);
	free(c.out);
	free(c.next);
	return err;
}
