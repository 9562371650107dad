/* SPDX-License-Identifier: MIT */
/*
 * What the thread does when it is awake, and when it is to wake.
 *
 * A turn begins what can be begun, and waits for nothing; what is done is
 * collected in a later one. Room first, for which nothing is copied while enough
 * is migrated; then what is due; then what keeps ahead.
 *
 * It wakes
 *  - for room: statfs() of the front, which costs microseconds, when what comes
 *    in at 2 GB/s could have reached `high`: after between 1 s (as often as the
 *    tier's clock ticks anyway) and 30 s. Writes by passthrough tell nobody
 *    anything, so only asking helps.
 *  - for what is due: when the catalog says that the next is. Rows that are due
 *    sooner wake it when they are written.
 *  - when something is done, with what else is done in the next moments.
 * With nothing to do nothing but the statfs() happens: no query, no target.
 *
 * Copying starts a disk. So few files are gathered, but not for longer than a
 * tenth of the age at which they went; what is due while the disk turns goes with
 * them. What is written in a rule's hours is gathered until then.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "policy_int.h"

#define ROOM_RATE      2000000000ULL /* bytes a second that may come in */
#define ROOM_LEAST_NS  NSEC_PER_SEC
#define ROOM_MOST_NS   (30 * NSEC_PER_SEC)
#define ROOM_BUSY_NS   (100 * NSEC_PER_MSEC)
#define UNCACHE_FILES  1024 /* a turn */
#define UNCACHE_BYTES  (1ULL << 30)
#define UNCACHE_LEAST  (1U << 20) /* smaller files have few pages */
#define END_LEAST_NS   NSEC_PER_SEC
#define END_MOST_NS    MINUTE_NS
#define LOOK_AGAIN_NS  (2 * NSEC_PER_SEC)
#define BARRED_NS      MINUTE_NS
#define TARGET_LOOK_NS (2 * NSEC_PER_SEC)
#define BROKEN_NS      (10 * NSEC_PER_SEC)
#define GATHER_BYTES   (256ULL << 20)
#define GATHER_FILES   2048
#define GATHER_MOST_NS (10 * MINUTE_NS)
#define AWAKE_NS       (20 * NSEC_PER_SEC)
#define ROWS_A_TURN    20000
#define SUBMIT_FILES   2048

static void wake_at(struct policy_turn *t, int64_t when)
{
	if (when < t->wake)
		t->wake = when;
}

/* when is ns since the epoch. */
static void wake_when(struct policy_turn *t, int64_t when)
{
	int64_t in = when == INT64_MAX ? INT64_MAX : when - t->eye.now;

	if (in < INT64_MAX / 2)
		wake_at(t, t->now + max_t(int64_t, in, 0));
}

static void doing(struct policy_turn *t, enum policy_doing doing)
{
	if (t->doing == POLICY_IDLE)
		t->doing = doing;
}

/* How much more may be in flight; nothing until half is done, so that jobs are
 * large. */
static struct policy_limit room_in(struct policy *policy,
				   const struct policy_run *run, size_t files,
				   uint64_t bytes)
{
	struct policy_limit ret = {0};

	pthread_mutex_lock(&policy->lock);
	if (run->in_flight.files <= files / 2 &&
	    run->in_flight.bytes <= bytes / 2) {
		ret.files = files - run->in_flight.files;
		ret.bytes = bytes - run->in_flight.bytes;
	}
	pthread_mutex_unlock(&policy->lock);
	return ret;
}

static uint64_t bytes_in(struct policy *policy, const struct policy_run *run)
{
	uint64_t ret;

	pthread_mutex_lock(&policy->lock);
	ret = run->in_flight.bytes;
	pthread_mutex_unlock(&policy->lock);
	return ret;
}

static struct policy_limit least(struct policy_limit a, struct policy_limit b)
{
	return (struct policy_limit){min_t(size_t, a.files, b.files),
				     min_t(uint64_t, a.bytes, b.bytes)};
}

/* What may be copied beside what is. A trial of a few files is one. */
static struct policy_limit copy_limit(struct policy_turn *t)
{
	struct policy_run *run = &t->policy->copy;
	uint64_t coming = bytes_in(t->policy, run);
	struct policy_limit limit = {0};

	if (!t->may_copy || (t->may.files != SIZE_MAX && coming))
		return limit;
	limit = least(room_in(t->policy, run, COPY_FILES, COPY_BYTES), t->may);
	/* What comes to the targets has its room there. */
	if (t->may.bytes != UINT64_MAX)
		limit.bytes = min_t(
			uint64_t, limit.bytes,
			t->may.bytes - min_t(uint64_t, coming, t->may.bytes));
	return limit;
}

static void pick_begin(struct policy_turn *t, struct policy_pick *pick,
		       struct policy_plan *plan)
{
	policy_plan_init(plan);
	*pick = (struct policy_pick){
		.eye = &t->eye, .plan = plan, .rows_most = ROWS_A_TURN};
}

/* Does the plan. */
static size_t submit(struct policy_turn *t, struct policy_run *run,
		     struct policy_plan *plan)
{
	size_t n = plan->n;

	RB_INIT(&plan->steps); /* they go to those in flight */
	while (!cds_list_empty(&plan->list) &&
	       !policy_submit(t->policy, run, MOVER_IDLE, &plan->list,
			      SUBMIT_FILES))
		;
	policy_plan_clear(plan);
	return n;
}

/* Chooses by rank from where the cursor is, and does it: how many. */
static size_t cold(struct policy_turn *t, struct policy_run *run,
		   enum tier_op op, enum policy_cause cause,
		   struct policy_cursor *cursor, struct policy_limit limit)
{
	struct policy_plan plan;
	struct policy_pick pick;
	int err;

	if (t->now < cursor->again) {
		wake_at(t, cursor->again);
		return 0;
	}
	pick_begin(t, &pick, &plan);
	pick.small = t->small && cause == CAUSE_ROOM;
	err = policy_pick_coldest(&pick, op, cause, cursor->after, limit);
	/* Files of the same rank are passed over again. */
	if (pick.last > cursor->after + 1)
		cursor->after = pick.last - 1;
	if (err || !pick.more) {
		/* Rows come a little later than what happens. */
		cursor->pause =
			max_t(int64_t, END_LEAST_NS,
			      min_t(int64_t, 2 * cursor->pause, END_MOST_NS));
		if (plan.n)
			cursor->pause = END_LEAST_NS;
		cursor->after = INT64_MIN;
		cursor->again = t->now + cursor->pause;
	} else if (!plan.n) {
		wake_at(t, t->now); /* that was a part of the rows */
	}
	return submit(t, run, &plan);
}

/* ---- room ------------------------------------------------------------------------ */

/* The use from which on it is near high. */
static double room_near(const struct policy_room *room)
{
	return room->high - (room->high - room->low) / 4;
}

static int64_t room_pause(const struct policy_room *room)
{
	double near = room_near(room);
	double next = room->percent < near ? near : room->high;
	double far = (double)room->total * next / 100 - (double)room->used;
	int64_t pause = far > 0 ? (int64_t)(far / ROOM_RATE * NSEC_PER_SEC) : 0;

	return max_t(int64_t, ROOM_LEAST_NS,
		     min_t(int64_t, pause, ROOM_MOST_NS));
}

static void make_room(struct policy_turn *t)
{
	struct policy *policy = t->policy;
	struct policy_room *room = &t->room;
	struct policy_limit limit;
	uint64_t coming;

	if (room->full && !t->making_room) {
		t->making_room = true;
		t->small = false;
		t->release = t->copy =
			(struct policy_cursor){.after = INT64_MIN};
	}
	if (!room->over)
		t->making_room = t->room_short = false;
	coming = bytes_in(policy, &policy->room);
	if (coming)
		doing(t, POLICY_RELEASING);
	wake_at(t, t->now + room_pause(room));
	if (!t->making_room)
		return;
	if (!policy_online(policy)) {
		/* What is dropped now could not be read. */
		doing(t, POLICY_TARGET);
		snprintf(t->detail, sizeof(t->detail), "no target is online");
		return;
	}
	wake_at(t, t->now + ROOM_BUSY_NS);
	limit = room_in(policy, &policy->room, ROOM_FILES, UINT64_MAX);
	limit.bytes = room->over > coming ? room->over - coming : 0;
	if (!limit.files || !limit.bytes)
		return;
	t->room_short = !cold(t, &policy->room, TIER_RELEASE, CAUSE_ROOM,
			      &t->release, limit) &&
			!coming && t->release.again > t->now;
	if (t->room_short)
		t->wake = t->now + ROOM_LEAST_NS;
	doing(t, POLICY_RELEASING);
}

/*
 * Most of the time of a release is that of its pages to leave the cache. They
 * will, and of all files these are the ones that nobody uses: so near high they
 * leave beforehand, those of the files that a release down to low would take,
 * some a turn. Then again after longer and longer pauses, as rows come late and
 * files are read.
 */
static void uncache(struct policy_turn *t)
{
	struct policy_cursor *cursor = &t->uncache;
	struct policy_limit limit = {.files = UNCACHE_FILES};
	struct policy_step *step;
	struct policy_plan plan;
	struct policy_pick pick;

	if (t->room.percent < room_near(&t->room)) {
		*cursor = (struct policy_cursor){.after = INT64_MIN};
		t->uncached = 0;
		return;
	}
	if (t->making_room || t->now < cursor->again)
		return;
	if (t->uncached < t->room.over)
		limit.bytes = min_t(uint64_t, UNCACHE_BYTES,
				    t->room.over - t->uncached);
	pick_begin(t, &pick, &plan);
	pick.by_hand = true; /* nothing is held for it */
	pick.least = UNCACHE_LEAST;
	pick.skip = cursor->skip;
	policy_pick_coldest(&pick, TIER_RELEASE, CAUSE_ROOM, cursor->after,
			    limit);
	cds_list_for_each_entry (step, &plan.list, link)
		tier_uncache(t->policy->tier, step->node);
	t->uncached += pick.taken.bytes;
	if (pick.more && pick.last > INT64_MIN && t->uncached < t->room.over) {
		cursor->after = pick.last - 1;
		cursor->skip = pick.ties;
		wake_at(t, t->now);
	} else {
		cursor->pause = max_t(int64_t, END_LEAST_NS, 2 * cursor->pause);
		cursor->again = t->now + cursor->pause;
		cursor->after = INT64_MIN;
		cursor->skip = 0;
		t->uncached = 0;
		wake_at(t, cursor->again);
	}
	policy_plan_clear(&plan);
}

/* What is migrated does not suffice: copies the coldest, and drops them. */
static void copy_for_room(struct policy_turn *t, struct policy_limit limit)
{
	struct policy *policy = t->policy;
	uint64_t coming = bytes_in(policy, &policy->copy);

	if (t->room.over <= coming || !limit.files)
		return;
	limit.bytes = min_t(uint64_t, limit.bytes, t->room.over - coming);
	cold(t, &policy->copy, TIER_MIGRATE_RELEASE, CAUSE_ROOM, &t->copy,
	     limit);
}

/* What is large is gone, or cannot go: what is small goes, too. */
static void small_too(struct policy_turn *t)
{
	if (!t->room_short || t->small ||
	    (t->may_copy && (t->copy.again <= t->now ||
			     bytes_in(t->policy, &t->policy->copy))))
		return;
	t->small = true;
	t->release = t->copy = (struct policy_cursor){.after = INT64_MIN};
	wake_at(t, t->now);
}

/* ---- what is due -------------------------------------------------------------------- */

struct gather {
	struct policy_turn *turn;
	uint64_t bytes;
	int64_t deadline;
	size_t rows;
};

static bool gather(void *arg, const struct catalog_row *row)
{
	struct gather *g = arg;
	int64_t age = row->due - row->access, spare = age / 10;

	spare = max_t(int64_t, 0, min_t(int64_t, spare, GATHER_MOST_NS));
	g->deadline = min_t(int64_t, g->deadline, row->due + spare);
	g->bytes += row->size;
	return g->bytes < GATHER_BYTES && g->deadline > g->turn->eye.now &&
	       ++g->rows < GATHER_FILES;
}

/* Is it time for what is due? */
static bool gathered(struct policy_turn *t)
{
	struct gather g = {.turn = t, .deadline = INT64_MAX};

	if (t->now < t->awake)
		return true;
	if (catalog_due(t->eye.rows, SPILL_NONE, t->eye.now, GATHER_FILES,
			gather, &g))
		return false;
	if (g.bytes >= GATHER_BYTES || g.rows >= GATHER_FILES ||
	    g.deadline <= t->eye.now)
		return true;
	wake_when(t, g.deadline);
	if (g.bytes)
		doing(t, POLICY_GATHERING);
	return false;
}

/* Looks when the next is due, if that may have changed. What is written while it
 * looks has it look once more. */
static void ask_next(struct policy_turn *t)
{
	struct policy *policy = t->policy;

	atomic_store(&policy->wake_due, INT64_MAX);
	if (atomic_exchange(&policy->judged, false) ||
	    t->next_due <= t->eye.now) {
		if (catalog_next_due(t->eye.rows, &t->next_due))
			t->next_due = t->eye.now + LOOK_AGAIN_NS;
	}
	atomic_store(&policy->wake_due, t->next_due);
}

/* Does what is due for this cause: how many. */
static size_t do_due(struct policy_turn *t, struct policy_run *run,
		     enum policy_cause cause, struct policy_limit limit)
{
	struct policy_pick pick;
	struct policy_plan plan;

	if (!limit.files || !limit.bytes)
		return 0;
	pick_begin(t, &pick, &plan);
	policy_pick_due(&pick, cause, limit);
	return submit(t, run, &plan);
}

/* Below low, and within what restores may bring back. */
static struct policy_limit back_limit(struct policy_turn *t)
{
	struct policy_run *run = &t->policy->back;
	struct policy_limit limit =
		room_in(t->policy, run, BACK_FILES, BACK_BYTES);
	uint64_t coming = bytes_in(t->policy, run);

	limit.bytes =
		min_t(uint64_t, limit.bytes,
		      t->room.spare > coming ? t->room.spare - coming : 0);
	return t->eye.promote > 0 ? limit : (struct policy_limit){0};
}

static void due(struct policy_turn *t)
{
	struct policy *policy = t->policy;
	struct policy_limit limit;
	size_t n = 0;

	if (t->next_due > t->eye.now) {
		t->due_again = 0;
		wake_when(t, t->next_due);
		return;
	}
	if (t->now < t->due_again) {
		wake_at(t, t->due_again);
		return;
	}
	if (policy_online(policy)) {
		limit = room_in(policy, &policy->room, ROOM_FILES, UINT64_MAX);
		n += do_due(t, &policy->room, CAUSE_RELEASE, limit);
		n += do_due(t, &policy->back, CAUSE_HOT, back_limit(t));
	}
	limit = copy_limit(t);
	if (limit.files && gathered(t)) {
		size_t copies = do_due(t, &policy->copy, CAUSE_DUE, limit);

		if (copies)
			t->awake = t->now + AWAKE_NS;
		n += copies;
	}
	/* What is due but not to be done now is not asked for at once. */
	t->due_again = t->now + ROOM_BUSY_NS;
	if (!n)
		t->due_again += t->may_copy ? LOOK_AGAIN_NS : BARRED_NS;
	wake_at(t, t->due_again);
}

/* ---- keeping ahead --------------------------------------------------------------------- */

static void keep_ahead(struct policy_turn *t, struct policy_limit limit)
{
	struct policy *policy = t->policy;
	uint64_t have = t->room.copied + bytes_in(policy, &policy->copy);

	if (t->room.ahead <= have || !limit.files)
		return;
	limit.bytes = min_t(uint64_t, limit.bytes, t->room.ahead - have);
	if (cold(t, &policy->copy, TIER_MIGRATE, CAUSE_AHEAD, &t->ahead, limit))
		t->awake = t->now + AWAKE_NS;
}

/* ---- all -------------------------------------------------------------------------------- */

static void copy(struct policy_turn *t)
{
	static const enum policy_doing bars[] = {
		[BAR_DRAINING] = POLICY_DRAINING,
		[BAR_TARGET] = POLICY_TARGET,
		[BAR_BREAKER] = POLICY_BREAKER,
		[BAR_WINDOW] = POLICY_WINDOW,
	};
	struct policy *policy = t->policy;
	enum policy_bar bar;
	int64_t until;
	bool wanted;

	ask_next(t);
	wanted = t->next_due <= t->eye.now || t->room_short ||
		 t->room.ahead > t->room.copied;
	bar = policy_bar(policy, &t->room, false, t->detail, sizeof(t->detail),
			 &t->may, &until);
	/* What failed is held, so that for the breaker nothing seems to be due. */
	if (bar && (wanted || bar == BAR_BREAKER)) {
		doing(t, bars[bar]);
		wake_when(t, until);
	} else if (t->doing != POLICY_TARGET) {
		t->detail[0] = '\0';
	}
	t->may_copy = !bar;
	/* What could not be done can be looked for again. */
	if (t->barred && !bar)
		t->due_again = t->copy.again = t->ahead.again = 0;
	t->barred = bar;
	if (t->may_copy && t->room_short)
		copy_for_room(t, copy_limit(t));
	small_too(t);
	due(t);
	if (t->may_copy && !t->room_short)
		keep_ahead(t, copy_limit(t));
	if (t->may.files == 1 && bytes_in(policy, &policy->copy))
		policy_full_tried(policy);
	if (bytes_in(policy, &policy->copy))
		doing(t, POLICY_MIGRATING);
	if (bytes_in(policy, &policy->back))
		doing(t, POLICY_RESTORING);
}

void policy_turn(struct policy_turn *t)
{
	struct policy *policy = t->policy;

	t->now = monotonic_ns();
	t->wake = t->now + ROOM_MOST_NS;
	t->doing = POLICY_IDLE;
	t->detail[0] = '\0';
	if (!t->sees && policy_eye_open(policy, &t->eye)) {
		snprintf(t->detail, sizeof(t->detail),
			 "the catalog cannot be read");
		t->wake = t->now + BROKEN_NS;
		return;
	}
	t->sees = true;
	policy_eye_blink(&t->eye);
	pthread_mutex_lock(&policy->lock);
	holds_expire(&policy->holds, t->eye.now);
	pthread_mutex_unlock(&policy->lock);
	if (policy_room(policy, &t->room)) {
		t->wake = t->now + BROKEN_NS;
		return;
	}
	if (tier_draining(policy->tier)) {
		doing(t, POLICY_DRAINING);
		t->wake = t->now + TARGET_LOOK_NS;
		return;
	}
	make_room(t);
	uncache(t);
	copy(t);
}
