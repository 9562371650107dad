// SPDX-License-Identifier: MIT
/*
 * The trace replayed against the daemon's policy.
 *
 * What decides is the daemon's own code: the rules (policy_rules_eval), heat,
 * the budget of restores. What is simulated is what they decide about: files
 * without data, a front that is so large, a target that reads and writes so
 * fast, one thing after the other, and sleeps after ten minutes. The turn of
 * the engine (room, what is due, keeping ahead) is that of policy_turn.c and
 * policy_pick.c in short, without what can fail.
 *
 * - Rows are judged as events come, and looked at when they are due. What is
 *   due is gathered, so that a disk that sleeps is woken seldom.
 * - Releasing takes no time; copying does, and what is written meanwhile is
 *   copied in vain. 1 GB/s comes in while a program writes, so the engine gets
 *   a turn every 256 MiB (of a small front, more often).
 * - A released file is read in place; past restore_after opens it is restored,
 *   if there is room and a budget for it. What gets hot comes back when the
 *   front is below low.
 * - A write that finds the front full has failed (enospc). So that all see the
 *   same requests after it, its file is then on the target as if it had been
 *   put there by hand.
 *
 * Not simulated: objects that are deleted, metadata, batches of small files.
 */
#include "sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

#define CHUNK (256ULL << 20)

/* ---- what programs do ---------------------------------------------------- */

static void count_read(struct sim *s, const struct sim_file *f, bool backup)
{
	struct trace_count *n = &s->count;
	bool hit = f->state == SPILL_NONE || f->state == SPILL_MIGRATED;

	*(backup ? &n->backups : &n->reads) += 1;
	*(backup ? &n->backup_bytes : &n->read_bytes) += f->size;
	if (hit) {
		*(backup ? &n->backup_hits : &n->hits) += 1;
		*(backup ? &n->backup_hit_bytes : &n->hit_bytes) += f->size;
		return;
	}
	n->target_read += f->size;
	sim_target_works(s, f->size);
}

static void do_read(struct sim *s, struct sim_file *f, bool backup)
{
	const struct trace_policy *p = s->policy;
	bool stub = f->state == SPILL_RELEASED || f->state == SPILL_DIRTY;
	struct rule_verdict v;

	count_read(s, f, backup);
	if (!backup || p->backup == BACKUP_PLAIN ||
	    (p->backup == BACKUP_IN_PLACE && !stub)) {
		sim_hide(s, f);
		f->access = s->now;
		f->heat = heat_touch(f->heat, s->now,
				     policy_rules_half_life(p->rules));
		sim_show(s, f);
	}
	f->untouched = false;
	if (!stub || (backup && p->backup != BACKUP_PLAIN))
		return;
	if (s->now - f->reads_at >= TIER_READS_NS) {
		f->reads = 0;
		f->reads_at = s->now;
	}
	f->reads++;
	sim_eval(s, f, &v);
	if ((!v.read_in_place ||
	     (p->restore_after != UINT32_MAX && f->reads > p->restore_after)) &&
	    sim_may_restore(s, f->size))
		sim_restore(s, f);
}

/* It found no room: see above. */
static void no_room(struct sim *s, struct sim_file *f, uint64_t size,
		    uint64_t denied)
{
	s->count.enospc++;
	s->count.denied += denied;
	f->state = SPILL_RELEASED;
	f->size = size;
	f->log = f->entries = f->reads = 0;
}

/* All of it anew. */
static void do_rewrite(struct sim *s, struct sim_file *f, uint64_t size)
{
	uint64_t left = size, part;
	uint64_t chunk = min_t(uint64_t, CHUNK, s->front / 64 + 1);
	bool denied = false;

	sim_hide(s, f);
	sim_spoil(s, f);
	f->version++;
	f->exists = f->busy = true;
	f->state = SPILL_NONE;
	f->size = f->log = f->entries = f->reads = 0;
	sim_show(s, f);
	for (; left && !denied && !s->err; left -= part) {
		part = min_t(uint64_t, left, chunk);
		sim_run_until(s, s->now);
		sim_turn(s);
		denied = s->used + part > s->front;
		if (denied)
			break;
		sim_hide(s, f);
		f->size += part;
		sim_show(s, f);
		s->count.written += part;
		sim_run_until(s, s->now + (int64_t)part); /* at 1 GB/s */
	}
	sim_hide(s, f);
	if (denied)
		no_room(s, f, size, left);
	f->busy = false;
	f->access = f->mtime = s->now;
	sim_show(s, f);
}

/* Some of it, in place. */
static void do_update(struct sim *s, struct sim_file *f, uint64_t bytes)
{
	const struct trace_policy *p = s->policy;
	bool stub = f->state == SPILL_RELEASED || f->state == SPILL_DIRTY;

	if (stub &&
	    (f->size < p->restore_below || f->entries >= p->dirty_entries ||
	     f->log + bytes > p->dirty_bytes)) {
		if (s->used + f->size > s->front) {
			s->count.enospc++;
			s->count.denied += bytes;
			return;
		}
		sim_restore(s, f);
		stub = false;
	}
	if (stub && s->used + bytes > s->front) {
		s->count.enospc++;
		s->count.denied += bytes;
		return;
	}
	sim_hide(s, f);
	sim_spoil(s, f);
	f->version++;
	f->busy = false;
	f->state = stub ? SPILL_DIRTY : SPILL_NONE;
	f->log += stub ? bytes : 0;
	f->entries += stub;
	f->access = f->mtime = s->now;
	s->count.written += bytes;
	sim_show(s, f);
}

static void play(struct sim *s, const struct trace_event *e)
{
	struct sim_file *f = &s->files[e->file];

	sim_run_until(s, e->at);
	switch (e->kind) {
	case TRACE_READ:
	case TRACE_BACKUP:
		do_read(s, f, e->kind == TRACE_BACKUP);
		break;
	case TRACE_CREATE:
		f->heat = HEAT_NONE;
		do_rewrite(s, f, e->bytes);
		break;
	case TRACE_REWRITE:
		do_rewrite(s, f, e->bytes);
		break;
	case TRACE_UPDATE:
		do_update(s, f, e->bytes);
		break;
	case TRACE_UNLINK:
		sim_hide(s, f);
		sim_spoil(s, f);
		f->version++;
		f->exists = f->busy = false;
		f->size = f->log = 0;
		break;
	default:
		break;
	}
	sim_turn(s);
}

/* ---- all ----------------------------------------------------------------- */

struct place {
	int64_t rank;
	uint32_t file;
	bool copied;
};

static int last_to_go(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	if (x->rank != y->rank)
		return x->rank > y->rank ? -1 : 1;
	return x->file < y->file ? -1 : x->file > y->file;
}

static int places(struct sim *s, struct place **ret)
{
	struct place *order = calloc(s->trace->nfiles + 1, sizeof(*order));
	struct rule_verdict v;

	if (!order)
		return -ENOMEM;
	for (uint32_t k = 0; k < s->trace->nfiles; k++) {
		sim_eval(s, &s->files[k], &v);
		order[k] = (struct place){v.keep ? INT64_MAX : v.rank, k,
					  v.migrate_at != INT64_MAX};
	}
	qsort(order, s->trace->nfiles, sizeof(*order), last_to_go);
	*ret = order;
	return 0;
}

/* As after years of this policy: what never goes is there, and of the rest,
 * with the copies that are made ahead, what would go last, until the front is
 * full to low. */
static int fill(struct sim *s)
{
	const struct trace *t = s->trace;
	uint64_t low = (uint64_t)((double)s->front * s->policy->low / 100);
	struct place *order;
	int err;

	for (uint32_t k = 0; k < t->nfiles; k++) {
		struct sim_file *f = &s->files[k];

		f->exists = t->files[k].initial;
		f->size = t->files[k].size;
		f->access = t->files[k].atime;
		f->mtime = t->files[k].mtime;
		f->heat = HEAT_NONE;
		f->state = SPILL_RELEASED;
		f->due = f->rank = INT64_MAX;
	}
	err = places(s, &order);
	for (uint32_t k = 0; !err && k < t->nfiles; k++) {
		struct sim_file *f = &s->files[order[k].file];
		bool stays = order[k].rank == INT64_MAX;

		if (f->exists && s->used + f->size <= (stays ? s->front : low))
			f->state = order[k].copied && !stays ? SPILL_MIGRATED
							     : SPILL_NONE;
		sim_show(s, f);
	}
	if (!err)
		free(order);
	return err;
}

/* Do the sums hold? */
static int check(const struct sim *s)
{
	uint64_t used = 0, copied = 0;

	for (uint32_t k = 0; k < s->trace->nfiles; k++) {
		const struct sim_file *f = &s->files[k];

		if (!f->exists)
			continue;
		used += sim_front_bytes(f);
		copied += f->state == SPILL_MIGRATED ? f->size : 0;
	}
	return used == s->used && copied == s->copied && used <= s->front
		       ? 0
		       : -EUCLEAN;
}

static void run(struct sim *s, struct trace_result *ret)
{
	const struct trace *t = s->trace;
	bool counting = false;

	for (size_t k = 0; k < t->nevents && !s->err; k++) {
		const struct trace_event *e = &t->events[k];
		size_t hour = (size_t)((e->at - t->start) / TRACE_HOUR);
		uint64_t reads, hits;
		double use;

		if (!counting && e->at >= t->counted) {
			sim_run_until(s, e->at);
			memset(&s->count, 0, sizeof(s->count));
			counting = true;
		}
		reads = s->count.reads;
		hits = s->count.hits;
		play(s, e);
		use = 100.0 * (double)s->used / (double)s->front;
		s->count.full = max_t(double, s->count.full, use);
		if (hour >= TRACE_HOURS)
			continue;
		ret->hour_reads[hour] += (uint32_t)(s->count.reads - reads);
		ret->hour_hits[hour] += (uint32_t)(s->count.hits - hits);
		ret->hour_use[hour] = (float)use;
	}
	ret->count = s->count;
	ret->hours = (uint32_t)min_t(int64_t, TRACE_HOURS,
				     (t->end - t->start) / TRACE_HOUR);
}

int trace_engine(const struct trace *trace, const struct trace_policy *policy,
		 uint64_t front, struct trace_result *ret)
{
	struct sim s = {.trace = trace,
			.policy = policy,
			.front = front,
			.now = trace->start,
			.disk = {INT64_MIN / 2}};

	sim_init(&s);
	memset(ret, 0, sizeof(*ret));
	ret->front = front;
	s.files = calloc(trace->nfiles + 1, sizeof(*s.files));
	s.err = s.files ? fill(&s) : -ENOMEM;
	if (!s.err)
		run(&s, ret);
	if (!s.err)
		s.err = check(&s);
	sim_free(&s);
	return s.err;
}
