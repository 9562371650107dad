/* SPDX-License-Identifier: MIT */
/*
 * Choosing: from the catalog's rows to steps, in the order in which they are
 * done.
 *
 * One code for the thread, for `policy run` and for its dry run, which differ
 * only in what is done with the plan. A row is a hint: each file is looked at,
 * and what the catalog has not noticed yet is told to it.
 *
 * Keeping ahead: between `low` and `high` the front can take
 *
 *	H = (high - low) / 100 * (used + available)
 *
 * bytes before room has to be made, and then H bytes have to go to come to `low`
 * again. If at least H bytes of files on the front are migrated, that release
 * copies nothing. So from the moment that `high` is no further away than 2 H
 * (use above low - (high - low)) the coldest are copied until 5/4 H are: a fifth
 * may turn out to be open, pinned or warm again. Below that there is no hurry,
 * and what is written may yet be deleted; above it a target must write as fast
 * as half of what comes in for the release to find all it needs.
 *
 * Small files go when what is large is gone, copied or not, and are not copied
 * ahead of that: who asks for room asks for them in a second turn.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "policy_int.h"

/* Rows that are read at once. */
#define PAGE	 1024
/* That many of what is due may be held or in flight. */
#define DUE_MOST (PAGE << 6)

#define STATE_FLAGS (CATALOG_PINNED | CATALOG_FOREIGN | CATALOG_DAMAGED)

int policy_step_cmp(const struct policy_step *a, const struct policy_step *b);

int policy_step_cmp(const struct policy_step *a, const struct policy_step *b)
{
	return a->key < b->key ? -1 : a->key > b->key;
}

RB_GENERATE(policy_steps, policy_step, by_key, policy_step_cmp)

/* ---- plans ------------------------------------------------------------------- */

void policy_plan_init(struct policy_plan *plan)
{
	memset(plan, 0, sizeof(*plan));
	CDS_INIT_LIST_HEAD(&plan->list);
	RB_INIT(&plan->steps);
}

void policy_step_free(struct policy_step *step)
{
	if (step->node)
		node_unref(step->node);
	free(step->path);
	free(step);
}

void policy_plan_clear(struct policy_plan *plan)
{
	struct policy_step *step, *next;

	cds_list_for_each_entry_safe (step, next, &plan->list, link)
		policy_step_free(step);
	policy_plan_init(plan);
}

static bool chosen(struct policy_plan *plan, uint64_t key)
{
	struct policy_step like = {.key = key};

	return RB_FIND(policy_steps, &plan->steps, &like);
}

/* Rules name targets of the configuration; the front has its own numbers. */
static uint8_t only_target(struct tier *tier, int wanted)
{
	const struct tier_parts *parts = tier_parts(tier);

	for (unsigned int i = 0; wanted >= 0 && i < parts->ntargets; i++)
		if (parts->targets[i] &&
		    !strcmp(target_name(parts->targets[i]),
			    parts->config->targets[wanted].name))
			return (uint8_t)(i + 1);
	return 0;
}

/* Takes over what look holds. */
static int add(struct policy_pick *pick, const struct catalog_row *row,
	       struct policy_look *look, enum tier_op op,
	       enum policy_cause cause)
{
	struct policy_plan *plan = pick->plan;
	struct policy_step *step = calloc(1, sizeof(*step));

	if (!step)
		return -ENOMEM;
	step->key = row->key;
	step->handle = row->handle;
	step->was = row->state;
	step->node = steal_ptr(&look->node);
	step->path = steal_ptr(&look->path);
	snprintf(step->rule, sizeof(step->rule), "%s",
		 look->verdict.rule.name ? look->verdict.rule.name : "");
	step->op = op;
	step->cause = cause;
	step->only = only_target(pick->eye->policy->tier, look->verdict.target);
	step->size = look->status.size;
	step->weight = op == TIER_RELEASE ? look->status.front_bytes
					  : look->status.size;
	cds_list_add_tail(&step->link, &plan->list);
	RB_INSERT(policy_steps, &plan->steps, step);
	plan->n++;
	if (op == TIER_MIGRATE)
		plan->copied += step->size;
	else if (op != TIER_RESTORE)
		plan->freed += look->status.front_bytes;
	pick->taken.files++;
	pick->taken.bytes += step->weight;
	return 0;
}

/* ---- a row ------------------------------------------------------------------- */

static void hold(struct policy_pick *pick, const struct catalog_row *row,
		 const char *why)
{
	struct policy *policy = pick->eye->policy;

	if (pick->by_hand)
		return;
	pthread_mutex_lock(&policy->lock);
	holds_add(&policy->holds, row->key, row->size, why, pick->eye->now);
	pthread_mutex_unlock(&policy->lock);
	/* What is due only moves when its row is written. */
	if (row->due <= pick->eye->now)
		catalog_refresh(policy->catalog, &row->handle);
}

/* Is it out of the question, without a look at the file? */
static bool passed_over(struct policy_pick *pick, const struct catalog_row *row)
{
	struct policy_eye *eye = pick->eye;
	struct policy *policy = eye->policy;
	struct policy_step like = {.key = row->key};
	bool ret;

	if (row->flags & STATE_FLAGS || chosen(pick->plan, row->key))
		return true;
	pthread_mutex_lock(&policy->lock);
	ret = RB_FIND(policy_steps, &policy->live, &like) ||
	      (!pick->by_hand && holds_until(&policy->holds, row->key,
					     (int)row->state, eye->now));
	pthread_mutex_unlock(&policy->lock);
	if (!ret && eye->home_path && eye->home == row->home &&
	    eye->home_pinned) {
		hold(pick, row, "pinned");
		ret = true;
	}
	return ret;
}

/* May go on: false, a limit is reached. */
static bool within(struct policy_pick *pick)
{
	if (atomic_load(&pick->eye->policy->stopping)) {
		pick->err = -ECANCELED;
		return false;
	}
	if (pick->taken.files < pick->limit.files &&
	    pick->taken.bytes < pick->limit.bytes &&
	    pick->rows < pick->rows_most)
		return true;
	pick->more = true;
	return false;
}

/* Looks at the row's file: 0, or it is not to be moved. */
static int look_at(struct policy_pick *pick, const struct catalog_row *row,
		   struct policy_look *look)
{
	struct policy_eye *eye = pick->eye;
	int err = policy_look_row(eye, row, look);

	if (err == -ENOMEM || err == -EIO) {
		pick->err = err;
	} else if (err == -ESTALE) {
		catalog_refresh(eye->policy->catalog, &row->handle);
		hold(pick, row, "not where the catalog has it");
	} else if (err) {
		hold(pick, row, "its attributes cannot be read");
	}
	if (err)
		return err;
	if (look->status.pinned) {
		/* Not itself: that is known to the catalog. */
		eye->home_pinned = true;
		hold(pick, row, "pinned");
		err = -EPERM;
	} else if (look->status.damaged) {
		err = -EPERM;
	}
	if (err)
		policy_look_end(look);
	return err;
}

/* What the row says is not so any more. */
static void outdated(struct policy_pick *pick, const struct catalog_row *row)
{
	struct policy *policy = pick->eye->policy;

	catalog_refresh(policy->catalog, &row->handle);
	if (pick->by_hand)
		return;
	pthread_mutex_lock(&policy->lock);
	holds_done(&policy->holds, row->key, (int)row->state, pick->eye->now);
	pthread_mutex_unlock(&policy->lock);
}

/* ---- by rank ------------------------------------------------------------------- */

static bool take_cold(void *arg, const struct catalog_row *row)
{
	struct policy_pick *pick = arg;
	struct policy_look look;

	if (!within(pick) || (row->rank >= RANK_SMALL && !pick->small))
		return false;
	if (pick->last != row->rank)
		pick->ties = 0;
	pick->ties++;
	pick->last = row->rank;
	if (pick->page++ < pick->skip)
		return true;
	pick->rows++;
	if (row->size < pick->least) {
		pick->taken.bytes += row->front_bytes;
		return true;
	}
	if (row->rank == INT64_MAX || passed_over(pick, row) ||
	    look_at(pick, row, &look))
		return !pick->err;
	if (look.verdict.keep || look.verdict.rank == INT64_MAX ||
	    (look.verdict.rank >= RANK_SMALL && !pick->small) ||
	    look.status.state != row->state || look.status.size == 0)
		outdated(pick, row);
	else if (pick->op != TIER_MIGRATE && look.status.open)
		hold(pick, row, "in use: open");
	else if (look.status.front_bytes)
		pick->err = add(pick, row, &look, pick->op, pick->cause);
	policy_look_end(&look);
	return !pick->err;
}

static void begin(struct policy_pick *pick, struct policy_limit limit)
{
	pick->limit = limit;
	pick->taken = (struct policy_limit){0};
	pick->rows = 0;
	pick->more = false;
	pick->err = 0;
}

int policy_pick_coldest(struct policy_pick *pick, enum tier_op op,
			enum policy_cause cause, int64_t after,
			struct policy_limit limit)
{
	enum spill_state state =
		op == TIER_RELEASE ? SPILL_MIGRATED : SPILL_NONE;
	size_t page = PAGE;
	int err;

	begin(pick, limit);
	pick->op = op;
	pick->cause = cause;
	pick->last = after;
	if (!limit.files || !limit.bytes)
		return 0;
	/* Rows of the rank of the last come again with the next page. */
	for (;;) {
		pick->page = pick->ties = 0;
		err = catalog_coldest(pick->eye->rows, state, after, page,
				      take_cold, pick);
		if (err || pick->err || pick->more || pick->page < page)
			break;
		if (pick->last - 1 > after) {
			after = pick->last - 1;
			pick->skip = 0;
		} else {
			page *= 2;
		}
	}
	return err ? err : pick->err;
}

/* ---- what is due ------------------------------------------------------------------ */

bool policy_due_op(const struct policy_look *look, int64_t now,
		   enum tier_op *op, enum policy_cause *cause)
{
	const struct rule_verdict *verdict = &look->verdict;

	if (verdict->keep || look->status.size == 0)
		return false;
	if (look->status.state == SPILL_NONE && verdict->migrate_at <= now) {
		*op = verdict->release_at <= now && !look->status.open
			      ? TIER_MIGRATE_RELEASE
			      : TIER_MIGRATE;
		*cause = CAUSE_DUE;
		return true;
	}
	if (look->hot) {
		*op = TIER_RESTORE;
		*cause = CAUSE_HOT;
		return true;
	}
	if (look->status.state == SPILL_MIGRATED &&
	    verdict->release_at <= now) {
		*op = TIER_RELEASE;
		*cause = CAUSE_RELEASE;
		return true;
	}
	return false;
}

static void not_due(struct policy_pick *pick, const struct catalog_row *row)
{
	if (row->due <= pick->eye->now)
		outdated(pick, row);
}

static bool take_due(void *arg, const struct catalog_row *row)
{
	struct policy_pick *pick = arg;
	enum policy_cause cause;
	struct policy_look look;
	enum tier_op op;

	if (!within(pick))
		return false;
	/* Those of the page before. */
	if (pick->page++ < pick->skip)
		return true;
	pick->rows++;
	if (passed_over(pick, row) || look_at(pick, row, &look))
		return !pick->err;
	if (!policy_due_op(&look, pick->eye->now, &op, &cause))
		not_due(pick, row);
	else if (op == TIER_RELEASE && look.status.open)
		hold(pick, row, "in use: open");
	else if (op == TIER_RESTORE &&
		 look.status.size > pick->limit.bytes - pick->taken.bytes)
		/* Others would have to go for it, and then it for others. */
		hold(pick, row, "no room below low");
	else if (cause == pick->cause)
		pick->err = add(pick, row, &look, op, cause);
	policy_look_end(&look);
	return !pick->err;
}

/* In pages that begin anew, and grow: what is held or in flight is passed over. */
static int due_in(struct policy_pick *pick, enum spill_state state,
		  int64_t until)
{
	size_t page = PAGE;
	int err;

	for (pick->skip = 0;; pick->skip = page, page *= 4) {
		pick->page = 0;
		err = catalog_due(pick->eye->rows, state, until, page, take_due,
				  pick);
		if (err || pick->err || pick->more || pick->page < page)
			return err ? err : pick->err;
		if (page >= DUE_MOST) {
			pick->more = true;
			return 0;
		}
	}
}

int policy_pick_due(struct policy_pick *pick, enum policy_cause cause,
		    struct policy_limit limit)
{
	int64_t until = pick->eye->now;
	int err;

	/* What is held is due later, in the catalog, than it is. */
	if (pick->by_hand)
		until += HOLD_MOST_NS;
	begin(pick, limit);
	pick->cause = cause;
	if (!limit.files || !limit.bytes)
		return 0;
	switch (cause) {
	case CAUSE_DUE:
		return due_in(pick, SPILL_NONE, until);
	case CAUSE_HOT:
		return due_in(pick, SPILL_RELEASED, until);
	default:
		err = due_in(pick, SPILL_MIGRATED, until);
		/* Of these the catalog has not heard the end. */
		return err || pick->more ? err
					 : due_in(pick, SPILL_MIGRATING, until);
	}
}

/* ---- all ----------------------------------------------------------------------------- */

void policy_room_of(struct policy_room *room, uint64_t used, uint64_t total,
		    double high, double low, uint64_t copied)
{
	uint64_t floor = (uint64_t)((double)total * low / 100);
	double span = high - low;

	memset(room, 0, sizeof(*room));
	room->used = used;
	room->total = total;
	room->high = high;
	room->low = low;
	room->percent = total ? 100.0 * (double)used / (double)total : 0;
	room->over = used > floor ? used - floor : 0;
	room->spare = used < floor ? floor - used : 0;
	room->full = total && room->percent >= high;
	room->copied = copied;
	if (room->percent > low - span)
		room->ahead = (uint64_t)((double)total * span / 100 * 5 / 4);
}

int policy_room(struct policy *policy, struct policy_room *ret)
{
	const struct tier_tunables *tune = tier_tunables(policy->tier);
	struct tier_counts counts;
	uint64_t used, avail;
	double high, low;
	int err = front_usage(tier_parts(policy->tier)->front, &used, &avail);

	if (err)
		return err;
	tier_counts(policy->tier, &counts);
	tier_watermarks(tune, used + avail, &high, &low);
	policy_room_of(ret, used, used + avail, high, low,
		       counts.bytes[SPILL_MIGRATED] > 0
			       ? (uint64_t)counts.bytes[SPILL_MIGRATED]
			       : 0);
	return 0;
}

static size_t left(const struct policy_pick *pick)
{
	return POLICY_PASS_MAX > pick->plan->n ? POLICY_PASS_MAX - pick->plan->n
					       : 0;
}

/* Copies, as far as targets have room. */
static struct policy_limit copies(const struct policy_pick *pick, uint64_t room,
				  uint64_t bytes)
{
	return (struct policy_limit){.files = left(pick),
				     .bytes = min_t(uint64_t, room, bytes)};
}

/* The coldest, copied already or (at most may, which becomes less) not. */
static int room_by(struct policy_pick *pick, const struct policy_room *room,
		   enum tier_op op, uint64_t *may, bool *more)
{
	const struct policy_plan *plan = pick->plan;
	uint64_t bytes;
	int err;

	if (plan->freed >= room->over)
		return 0;
	bytes = room->over - plan->freed;
	err = policy_pick_coldest(
		pick, op, CAUSE_ROOM, INT64_MIN,
		op == TIER_RELEASE ? (struct policy_limit){left(pick), bytes}
				   : copies(pick, *may, bytes));
	*more |= pick->more && plan->freed < room->over;
	if (op != TIER_RELEASE)
		*may -= min_t(uint64_t, *may, pick->taken.bytes);
	return err;
}

/* What is small when what is large does not suffice. */
static int pick_room(struct policy_pick *pick, const struct policy_room *room,
		     bool copy, uint64_t *may, bool *more)
{
	int err = 0;

	for (int small = 0; !err && small < 2; small++) {
		pick->small = small;
		err = room_by(pick, room, TIER_RELEASE, may, more);
		if (!err && copy)
			err = room_by(pick, room, TIER_MIGRATE_RELEASE, may,
				      more);
	}
	pick->small = false;
	return err;
}

int policy_pick_all(struct policy_pick *pick)
{
	struct policy *policy = pick->eye->policy;
	struct policy_limit may = {.files = SIZE_MAX, .bytes = UINT64_MAX};
	const struct policy_plan *plan = pick->plan;
	struct policy_room room;
	bool copy, more = false;
	uint64_t have;
	int64_t until;
	int err = policy_room(policy, &room);

	if (err)
		return err;
	copy = !policy_bar(policy, &room, true, NULL, 0, &may, &until);
	if (room.full)
		err = pick_room(pick, &room, copy, &may.bytes, &more);
	if (!err) {
		err = policy_pick_due(
			pick, CAUSE_RELEASE,
			(struct policy_limit){left(pick), UINT64_MAX});
		more |= pick->more;
	}
	if (!err && copy) {
		err = policy_pick_due(pick, CAUSE_DUE,
				      copies(pick, may.bytes, UINT64_MAX));
		more |= pick->more;
		may.bytes -= min_t(uint64_t, may.bytes, pick->taken.bytes);
	}
	if (!err && room.spare && policy_online(policy))
		err = policy_pick_due(
			pick, CAUSE_HOT,
			(struct policy_limit){left(pick), room.spare});
	have = room.copied + plan->copied;
	if (!err && copy && room.ahead > have)
		err = policy_pick_coldest(
			pick, TIER_MIGRATE, CAUSE_AHEAD, INT64_MIN,
			copies(pick, may.bytes, room.ahead - have));
	return err ? err : more;
}
