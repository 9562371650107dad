// SPDX-License-Identifier: MIT
/*
 * The engine's turn (room, what is due, keeping ahead): that of policy_turn.c
 * and policy_pick.c in short, over files without data and in virtual time. What
 * decides is the daemon's own code: the rules, what is due and of which rank,
 * what is done about it, how much room there is and should be.
 */
#include "sim.h"

#include <errno.h>
#include <stdlib.h>

#include "util.h"

#define MIB	       (1ULL << 20)
#define TARGET_RATE    150000000.0 /* bytes a second */
#define TARGET_SEEK_NS 5000000LL
/* As in policy_turn.c. */
#define GATHER_BYTES   (256 * MIB)
#define GATHER_MOST_NS (10 * MINUTE_NS)
#define AWAKE_NS       (20 * NSEC_PER_SEC)
#define LOOK_AGAIN_NS  (2 * NSEC_PER_SEC)
/* As in tier_recall.c: what a restore leaves free. */
#define RESERVE_SHIFT  7

static int tie(const struct sim_file *a, const struct sim_file *b)
{
	return a < b ? -1 : a > b;
}

static int due_cmp(const struct sim_file *a, const struct sim_file *b)
{
	return a->due != b->due ? (a->due < b->due ? -1 : 1) : tie(a, b);
}

static int rank_cmp(const struct sim_file *a, const struct sim_file *b)
{
	return a->rank != b->rank ? (a->rank < b->rank ? -1 : 1) : tie(a, b);
}

/* RB_GENERATE_STATIC lacks a macro of BSD's. */
RB_GENERATE_INTERNAL(dues, sim_file, by_due, due_cmp,
		     __attribute__((unused)) static)
RB_GENERATE_INTERNAL(ranks, sim_file, by_rank, rank_cmp,
		     __attribute__((unused)) static)

/* ---- a file's place ------------------------------------------------------ */

uint64_t sim_front_bytes(const struct sim_file *f)
{
	if (f->state == SPILL_NONE || f->state == SPILL_MIGRATED)
		return f->size;
	return f->log;
}

static struct dues *due_tree(struct sim *s, const struct sim_file *f)
{
	return f->state == SPILL_RELEASED ? &s->hots : &s->dues;
}

void sim_hide(struct sim *s, struct sim_file *f)
{
	if (f->due != INT64_MAX)
		RB_REMOVE(dues, due_tree(s, f), f);
	if (f->rank != INT64_MAX)
		RB_REMOVE(ranks, &s->ranks[f->state == SPILL_MIGRATED], f);
	f->due = f->rank = INT64_MAX;
	s->used -= sim_front_bytes(f);
	if (f->state == SPILL_MIGRATED)
		s->copied -= f->size;
}

void sim_eval(const struct sim *s, const struct sim_file *f,
	      struct rule_verdict *ret)
{
	char path[64];
	const struct rule_facts facts = {
		.path = path,
		.size = f->size,
		.access = f->access,
		.mtime = f->mtime,
		.ctime = f->mtime,
		.heat = f->heat,
	};

	trace_path(s->trace, (uint32_t)(f - s->files), path, sizeof(path));
	policy_rules_eval(s->policy->rules, &facts, s->now, ret);
}

static bool is_hot(const struct sim *s, const struct sim_file *f)
{
	const struct trace_policy *p = s->policy;

	return policy_is_hot(p->rules, p->promote, f->heat, s->now);
}

static void judge(struct sim *s, struct sim_file *f)
{
	struct catalog_row row;
	struct rule_verdict v;

	/* What is in flight is passed over. */
	if (f->busy)
		return;
	row.state = f->state;
	row.flags = 0;
	row.pinned_above = false;
	row.size = f->size;
	sim_eval(s, f, &v);
	policy_judge_row(&v, s->now, is_hot(s, f), 0, &row);
	f->due = row.due;
	f->rank = row.rank;
}

/* After sim_hide() and a change. */
void sim_show(struct sim *s, struct sim_file *f)
{
	f->due = f->rank = INT64_MAX;
	if (!f->exists)
		return;
	judge(s, f);
	if (f->due != INT64_MAX)
		RB_INSERT(dues, due_tree(s, f), f);
	if (f->rank != INT64_MAX)
		RB_INSERT(ranks, &s->ranks[f->state == SPILL_MIGRATED], f);
	s->used += sim_front_bytes(f);
	if (f->state == SPILL_MIGRATED)
		s->copied += f->size;
}

int64_t sim_target_works(struct sim *s, uint64_t bytes)
{
	int64_t start = max_t(int64_t, s->now, s->target_busy);

	s->target_busy = start + TARGET_SEEK_NS +
			 (int64_t)((double)bytes / TARGET_RATE * NSEC_PER_SEC);
	trace_disk_use(&s->disk, &s->count, start, s->target_busy);
	return s->target_busy;
}

void sim_spoil(struct sim *s, struct sim_file *f)
{
	if (f->untouched)
		s->count.wasted += f->size;
	f->untouched = false;
}

/* ---- moving -------------------------------------------------------------- */

static void release(struct sim *s, struct sim_file *f)
{
	sim_hide(s, f);
	f->state = SPILL_RELEASED;
	f->reads = 0;
	f->untouched = false;
	s->count.released++;
	sim_show(s, f);
}

static void migrate(struct sim *s, struct sim_file *f, bool drop)
{
	struct sim_copy *copy = malloc(sizeof(*copy));

	if (!copy) {
		s->err = -ENOMEM;
		return;
	}
	sim_hide(s, f);
	f->busy = true;
	sim_show(s, f);
	*copy = (struct sim_copy){.file = f,
				  .version = f->version,
				  .size = f->size,
				  .drop = drop,
				  .done = sim_target_works(s, f->size)};
	*s->last = copy;
	s->last = &copy->next;
	s->in_flight_files++;
	s->in_flight += f->size;
	s->coming += drop ? f->size : 0;
}

static void end_copy(struct sim *s)
{
	struct sim_copy *copy = s->first;
	struct sim_file *f = copy->file;

	s->first = copy->next;
	if (!s->first)
		s->last = &s->first;
	s->in_flight_files--;
	s->in_flight -= copy->size;
	s->count.migrations++;
	s->count.migrated += copy->size;
	if (!f->exists || f->version != copy->version) {
		s->count.wasted += copy->size;
	} else {
		sim_hide(s, f);
		f->busy = false;
		f->state = SPILL_MIGRATED;
		f->untouched = true;
		sim_show(s, f);
		if (copy->drop)
			release(s, f);
	}
	s->coming -= copy->drop ? copy->size : 0;
	free(copy);
}

bool sim_may_restore(struct sim *s, uint64_t bytes)
{
	uint64_t limit = s->policy->restore_budget;

	if (s->used + bytes + (s->front >> RESERVE_SHIFT) > s->front)
		return false;
	return budget_take(&s->budget, limit ? limit : UINT64_MAX, bytes,
			   s->now);
}

void sim_restore(struct sim *s, struct sim_file *f)
{
	sim_hide(s, f);
	f->state = f->state == SPILL_DIRTY ? SPILL_NONE : SPILL_MIGRATED;
	f->log = f->entries = 0;
	s->count.restores++;
	s->count.restored += f->size;
	s->count.target_read += f->size;
	sim_target_works(s, f->size);
	sim_show(s, f);
}

/* ---- the engine's turn --------------------------------------------------- */

static struct sim_file *coldest(struct sim *s, bool copied, bool small)
{
	struct sim_file *f = RB_MIN(ranks, &s->ranks[copied]);

	return f && (small || f->rank < RANK_SMALL) ? f : NULL;
}

/* How many bytes more may be copied: nothing until half is done. */
static uint64_t copy_limit(const struct sim *s)
{
	if (s->in_flight > COPY_BYTES / 2 ||
	    s->in_flight_files > COPY_FILES / 2)
		return 0;
	return COPY_BYTES - s->in_flight;
}

static const struct policy_room *room(struct sim *s)
{
	policy_room_of(&s->room, s->used, s->front, s->policy->high,
		       s->policy->low, s->copied);
	return &s->room;
}

static void make_room(struct sim *s)
{
	struct sim_file *f;

	if (room(s)->full && !s->making_room) {
		s->making_room = true;
		s->small = false;
	}
	if (!s->room.over)
		s->making_room = s->room_short = false;
	if (!s->making_room)
		return;
	while (room(s)->over && (f = coldest(s, true, s->small)))
		release(s, f);
	s->room_short = s->room.over > s->coming;
	for (uint64_t limit = s->room_short ? copy_limit(s) : 0;
	     limit && s->room.over > s->coming &&
	     (f = coldest(s, false, s->small));) {
		limit -= min_t(uint64_t, limit, f->size);
		migrate(s, f, true);
	}
	if (s->room_short && !s->small && !s->in_flight) {
		s->small = true;
		make_room(s);
	}
}

/* Is it time for what is due? */
static bool gathered(struct sim *s)
{
	struct sim_file *f;
	uint64_t bytes = 0;

	if (s->now < s->awake)
		return true;
	RB_FOREACH(f, dues, &s->dues)
	{
		int64_t spare = (f->due - f->access) / 10;

		if (f->due > s->now)
			break;
		bytes += f->size;
		spare = max_t(int64_t, 0,
			      min_t(int64_t, spare, GATHER_MOST_NS));
		if (f->due + spare <= s->now || f->state != SPILL_NONE ||
		    bytes >= GATHER_BYTES)
			return true;
	}
	return false;
}

/* What got hot comes back as far as it fits below low: so it displaces nothing.
 * (One that does not fit would have others released, which leaves a little room
 * below low, for the next one.) */
static void do_hot(struct sim *s)
{
	struct sim_file *f, *next;

	if (!room(s)->spare || s->now < s->hot_again)
		return;
	s->hot_again = s->now + MINUTE_NS;
	for (f = RB_MIN(dues, &s->hots); f && room(s)->spare; f = next) {
		next = RB_NEXT(dues, &s->hots, f);
		if (!is_hot(s, f)) {
			RB_REMOVE(dues, &s->hots, f);
			f->due = INT64_MAX;
		} else if (f->size <= s->room.spare) {
			sim_restore(s, f);
		}
	}
}

static void do_due(struct sim *s)
{
	uint64_t limit = copy_limit(s);
	struct sim_file *f = RB_MIN(dues, &s->dues);
	enum policy_cause cause;
	enum tier_op op;

	if (!f || f->due > s->now || s->now < s->due_again)
		return;
	s->due_again = s->now + LOOK_AGAIN_NS;
	if (!limit || !gathered(s))
		return;
	while (limit && (f = RB_MIN(dues, &s->dues)) && f->due <= s->now) {
		struct policy_look look = {
			.status = {.state = f->state, .size = f->size}};

		sim_eval(s, f, &look.verdict);
		if (!policy_due_op(&look, s->now, &op, &cause)) {
			sim_hide(s, f);
			sim_show(s, f);
		} else if (op == TIER_RELEASE) {
			release(s, f);
		} else {
			limit -= min_t(uint64_t, limit, f->size);
			migrate(s, f, op == TIER_MIGRATE_RELEASE);
			s->awake = s->now + AWAKE_NS;
		}
	}
}

static void keep_ahead(struct sim *s)
{
	uint64_t ahead = room(s)->ahead, limit = copy_limit(s);
	struct sim_file *f;

	if (s->room_short)
		return;
	while (limit && s->copied + s->in_flight < ahead &&
	       (f = coldest(s, false, false))) {
		limit -= min_t(uint64_t, limit, f->size);
		migrate(s, f, false);
		s->awake = s->now + AWAKE_NS;
	}
}

void sim_turn(struct sim *s)
{
	make_room(s);
	do_hot(s);
	do_due(s);
	keep_ahead(s);
}

/* The engine, until then. */
void sim_run_until(struct sim *s, int64_t until)
{
	while (!s->err) {
		struct sim_file *f = RB_MIN(dues, &s->dues);
		int64_t next = s->first ? s->first->done : INT64_MAX;

		if (f)
			next = min_t(int64_t, next,
				     max_t(int64_t, f->due, s->due_again));
		if (next > until)
			break;
		s->now = max_t(int64_t, s->now, next);
		while (s->first && s->first->done <= s->now)
			end_copy(s);
		sim_turn(s);
	}
	s->now = max_t(int64_t, s->now, until);
}

/* ---- life ---------------------------------------------------------------- */

void sim_init(struct sim *s)
{
	RB_INIT(&s->dues);
	RB_INIT(&s->hots);
	RB_INIT(&s->ranks[0]);
	RB_INIT(&s->ranks[1]);
	s->last = &s->first;
}

void sim_free(struct sim *s)
{
	while (s->first) {
		struct sim_copy *copy = s->first;

		s->first = copy->next;
		free(copy);
	}
	free(s->files);
}
