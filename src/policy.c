/* SPDX-License-Identifier: MIT */
/*
 * The policy's thread, and what it shares.
 *
 * Rejected: a pool of workers that choose and wait for what they chose. A target
 * that hangs would have all of them. One thread chooses, and the tier's requests
 * come back when they come; so it is there for the rest, and at the end it is
 * joined without waiting for any target. What is in flight then is cancelled,
 * and ends with tier_quiesce(); policy_free() takes it up.
 *
 * Lock order: catalog's judge and the tier's callbacks take policy->lock, which
 * is a leaf. run_lock is taken by control's threads alone, above it.
 */
#include "policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "log.h"
#include "policy_int.h"

/* What is done in the next moments is taken up together. */
#define TOGETHER_NS   (20 * NSEC_PER_MSEC)
#define FULL_TRIAL_NS (10 * MINUTE_NS)
#define RECOUNT_NS    NSEC_PER_SEC

/* ---- the thread ---------------------------------------------------------------- */

static void free_steps(struct cds_list_head *list)
{
	struct policy_step *step, *next;

	cds_list_for_each_entry_safe (step, next, list, link)
		policy_step_free(step);
}

static void collect(struct policy *policy)
{
	struct policy_run *runs[] = {&policy->room, &policy->copy,
				     &policy->back};
	struct cds_list_head list;

	for (size_t i = 0; i < ARRAY_SIZE(runs); i++) {
		policy_collect(policy, runs[i], &list);
		free_steps(&list);
	}
}

static void publish(struct policy *policy, const struct policy_turn *turn)
{
	pthread_mutex_lock(&policy->lock);
	policy->doing = turn->doing;
	memcpy(policy->detail, turn->detail, sizeof(policy->detail));
	policy->next_due = turn->next_due;
	pthread_mutex_unlock(&policy->lock);
}

/* With policy->lock. */
static bool something_done(struct policy *policy)
{
	return !cds_list_empty(&policy->room.done) ||
	       !cds_list_empty(&policy->copy.done) ||
	       !cds_list_empty(&policy->back.done);
}

/* Until then (monotonic), or until there is something to do. */
static void sleep_until(struct policy *policy, int64_t until)
{
	int64_t soonest = monotonic_ns() + TOGETHER_NS;
	struct timespec ts = timespec_from_ns(until);

	pthread_mutex_lock(&policy->lock);
	while (!atomic_load(&policy->stopping) && !policy->poked &&
	       !something_done(policy)) {
		if (until == INT64_MAX)
			pthread_cond_wait(&policy->cond, &policy->lock);
		else if (pthread_cond_timedwait(&policy->cond, &policy->lock,
						&ts) == ETIMEDOUT)
			break;
	}
	ts = timespec_from_ns(soonest);
	while (!atomic_load(&policy->stopping) &&
	       pthread_cond_timedwait(&policy->cond, &policy->lock, &ts) !=
		       ETIMEDOUT)
		;
	policy->poked = false;
	pthread_mutex_unlock(&policy->lock);
}

static bool by_itself(struct policy *policy)
{
	bool by_hand;

	pthread_mutex_lock(&policy->lock);
	by_hand = policy->by_hand;
	pthread_mutex_unlock(&policy->lock);
	return !by_hand &&
	       atomic_load(&tier_tunables(policy->tier)->policy_auto);
}

static void *work(void *arg)
{
	struct policy *policy = arg;
	struct policy_turn turn = {.policy = policy, .next_due = INT64_MIN};
	bool counted = false;

	turn.release.after = turn.copy.after = turn.ahead.after = INT64_MIN;
	turn.uncache.after = INT64_MIN;
	while (!atomic_load(&policy->stopping)) {
		collect(policy);
		if (by_itself(policy)) {
			policy_turn(&turn);
		} else {
			/* What is due is asked for when it is on again. */
			turn.next_due = INT64_MIN;
			turn.wake = INT64_MAX;
			turn.doing = POLICY_IDLE;
			turn.detail[0] = '\0';
		}
		publish(policy, &turn);
		if (!counted && !(counted = policy_recount(policy)))
			turn.wake = min_t(int64_t, turn.wake,
					  monotonic_ns() + RECOUNT_NS);
		sleep_until(policy, turn.wake);
	}
	if (turn.sees)
		policy_eye_close(&turn.eye);
	policy_cancel(policy, &policy->room);
	policy_cancel(policy, &policy->copy);
	policy_cancel(policy, &policy->back);
	return NULL;
}

void policy_poke(struct policy *policy)
{
	pthread_mutex_lock(&policy->lock);
	policy->poked = true;
	pthread_cond_signal(&policy->cond);
	pthread_mutex_unlock(&policy->lock);
}

/* ---- may it? -------------------------------------------------------------------- */

bool policy_online(struct policy *policy)
{
	const struct tier_parts *parts = tier_parts(policy->tier);

	for (unsigned int i = 0; i < parts->ntargets; i++)
		if (parts->targets[i] &&
		    target_online(parts->targets[i], NULL, 0))
			return true;
	return false;
}

/* The best that any target can do; its room in *ret_free, and why not more. */
static enum target_condition
best_target(struct policy *policy, uint64_t *ret_free, char *why, size_t len)
{
	const struct tier_parts *parts = tier_parts(policy->tier);
	enum target_condition best = TARGET_OFFLINE;
	uint64_t most = 0;
	char text[160];

	if (why)
		snprintf(why, len, "no target is online");
	for (unsigned int i = 0; i < parts->ntargets; i++) {
		struct target *target = parts->targets[i];
		enum target_condition condition;
		struct target_usage usage;

		if (!target)
			continue;
		condition = target_condition(target, text, sizeof(text));
		/* One that failed a moment ago is the breaker's matter. */
		if (condition == TARGET_FAILING)
			condition = TARGET_OK;
		if (condition <= best && why && condition != TARGET_OK &&
		    best != TARGET_OK)
			snprintf(why, len, "target %s: %.120s",
				 target_name(target), text);
		if (condition > best && why && condition != TARGET_OK)
			snprintf(why, len, "target %s: %.120s",
				 target_name(target), text);
		best = max_t(enum target_condition, best, condition);
		target_usage(target, &usage);
		if (condition == TARGET_OK && usage.bytes > usage.used)
			most = max_t(uint64_t, most, usage.bytes - usage.used);
	}
	*ret_free = most;
	return best;
}

/* A target that is full is tried now and then: somebody may have made room. May
 * it be? Who does so says it. */
static bool may_try_full(struct policy *policy)
{
	int64_t now = monotonic_ns();
	bool ret;

	pthread_mutex_lock(&policy->lock);
	if (!policy->full_trial)
		policy->full_trial = now + FULL_TRIAL_NS;
	ret = policy->full_trial <= now;
	pthread_mutex_unlock(&policy->lock);
	return ret;
}

void policy_full_tried(struct policy *policy)
{
	pthread_mutex_lock(&policy->lock);
	policy->full_trial = monotonic_ns() + FULL_TRIAL_NS;
	pthread_mutex_unlock(&policy->lock);
}

static enum policy_bar breaker_bar(struct policy *policy, char *why, size_t len,
				   struct policy_limit *limit,
				   int64_t *ret_until)
{
	enum policy_bar ret = BAR_NONE;
	uint32_t allowed;

	pthread_mutex_lock(&policy->lock);
	allowed = breaker_allows(&policy->breaker, realtime_ns());
	if (!allowed) {
		ret = BAR_BREAKER;
		*ret_until = policy->breaker.until;
		if (why)
			snprintf(why, len, "too much failed: %s",
				 policy->breaker.why);
	} else if (allowed != UINT32_MAX) {
		limit->files = allowed;
	}
	pthread_mutex_unlock(&policy->lock);
	return ret;
}

bool policy_hours(struct policy *policy, const struct policy_room *room,
		  char *why, size_t len, int64_t *ret_until)
{
	struct policy_windows hours;

	pthread_mutex_lock(&policy->lock);
	hours = policy->setup.hours;
	pthread_mutex_unlock(&policy->lock);
	if (policy_windows_open(&hours, realtime_ns(), room->percent,
				ret_until))
		return true;
	/* Or the writers would find a full front. */
	if (room->full)
		return true;
	if (why)
		snprintf(why, len, "outside of the hours for it");
	return false;
}

enum policy_bar policy_bar(struct policy *policy,
			   const struct policy_room *room, bool by_hand,
			   char *why, size_t len, struct policy_limit *limit,
			   int64_t *ret_until)
{
	enum target_condition condition;
	enum policy_bar ret;

	*limit = (struct policy_limit){SIZE_MAX, UINT64_MAX};
	*ret_until = INT64_MAX;
	if (tier_draining(policy->tier)) {
		if (why)
			snprintf(why, len, "the file system is being drained");
		return BAR_DRAINING;
	}
	condition = best_target(policy, &limit->bytes, why, len);
	if (condition == TARGET_OK && !limit->bytes) {
		condition = TARGET_FULL;
		if (why)
			snprintf(why, len, "no target has room");
	}
	if (condition == TARGET_FULL && (by_hand || may_try_full(policy))) {
		*limit = (struct policy_limit){1, UINT64_MAX};
	} else if (condition != TARGET_OK) {
		/* It is looked at again by the clock. */
		*ret_until = realtime_ns() + 2 * NSEC_PER_SEC;
		return BAR_TARGET;
	}
	if (by_hand)
		return BAR_NONE;
	ret = breaker_bar(policy, why, len, limit, ret_until);
	if (ret)
		return ret;
	return policy_hours(policy, room, why, len, ret_until) ? BAR_NONE
							       : BAR_WINDOW;
}

/* ---- what is known ---------------------------------------------------------------- */

static const char *const doing_names[] = {
	[POLICY_MANUAL] = "manual",	  [POLICY_IDLE] = "idle",
	[POLICY_RELEASING] = "releasing", [POLICY_MIGRATING] = "migrating",
	[POLICY_RESTORING] = "restoring", [POLICY_WINDOW] = "window",
	[POLICY_GATHERING] = "gathering", [POLICY_TARGET] = "target",
	[POLICY_BREAKER] = "breaker",	  [POLICY_DRAINING] = "draining",
	[POLICY_BY_HAND] = "run",
};

const char *policy_doing_name(enum policy_doing doing)
{
	return doing_names[doing];
}

const char *policy_cause_text(enum policy_cause cause)
{
	static const char *const texts[] = {
		[CAUSE_ROOM] = "the front needs room",
		[CAUSE_RELEASE] = "due: release_after",
		[CAUSE_DUE] = "due: migrate_after",
		[CAUSE_AHEAD] = "ahead of need",
		[CAUSE_HOT] = "hot",
	};

	return texts[cause];
}

static void moved_of(const struct policy *policy, struct policy_status *ret)
{
	const struct policy_moved *both = &policy->moved[TIER_MIGRATE_RELEASE];

	ret->migrated = policy->moved[TIER_MIGRATE];
	ret->released = policy->moved[TIER_RELEASE];
	ret->restored = policy->moved[TIER_RESTORE];
	ret->migrated.files += both->files;
	ret->migrated.bytes += both->bytes;
	ret->released.files += both->files;
	ret->released.bytes += both->bytes;
}

static void held_of(const struct policy *policy, struct policy_status *ret)
{
	for (unsigned int i = 0; i < HOLD_KINDS; i++) {
		const struct policy_hold_kind *kind = &policy->holds.kinds[i];
		struct policy_held *held = &ret->held[ret->nheld];

		if (!kind->files)
			continue;
		memcpy(held->reason, kind->reason, sizeof(held->reason));
		held->files = kind->files;
		held->bytes = kind->bytes;
		ret->nheld++;
	}
}

void policy_status(struct policy *policy, struct policy_status *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->automatic = atomic_load(&tier_tunables(policy->tier)->policy_auto);
	pthread_mutex_lock(&policy->lock);
	ret->strategy = policy_rules_strategy(policy->setup.rules);
	snprintf(ret->file, sizeof(ret->file), "%s",
		 policy->setup.file ? policy->setup.file : "");
	ret->doing = policy->doing;
	if (policy->by_hand)
		ret->doing = POLICY_BY_HAND;
	else if (!ret->automatic)
		ret->doing = POLICY_MANUAL;
	memcpy(ret->detail, policy->detail, sizeof(ret->detail));
	moved_of(policy, ret);
	ret->refused = policy->refused;
	ret->failed = policy->failed;
	holds_expire(&policy->holds, realtime_ns());
	held_of(policy, ret);
	ret->in_flight = policy->nlive;
	ret->last_pass = policy->last_pass;
	ret->next_due =
		policy->next_due == INT64_MIN ? INT64_MAX : policy->next_due;
	ret->retry_at = policy->breaker.until;
	pthread_mutex_unlock(&policy->lock);
}

/* ---- life -------------------------------------------------------------------------- */

static void setup_free(struct policy_setup *setup)
{
	policy_rules_unref(setup->rules);
	free((char *)setup->file);
}

static int take_setup(struct policy *policy, const struct policy_setup *setup)
{
	struct policy_judge *judge = calloc(1, sizeof(*judge)), *old;
	char *file = setup->file ? strdup(setup->file) : NULL;
	struct policy_setup before;

	if (!judge || (setup->file && !file)) {
		free(judge);
		free(file);
		return -ENOMEM;
	}
	*judge = (struct policy_judge){.policy = policy,
				       .rules = setup->rules,
				       .promote = setup->promote};
	pthread_mutex_lock(&policy->lock);
	old = policy->judge;
	before = policy->setup;
	policy->judge = judge;
	policy->setup = *setup;
	policy->setup.rules = policy_rules_ref(setup->rules);
	policy->setup.file = file;
	pthread_mutex_unlock(&policy->lock);
	catalog_judge(policy->catalog, policy_judge, policy_judged, judge,
		      policy_rules_half_life(setup->rules),
		      policy_rules_fingerprint(setup->rules));
	free(old);
	setup_free(&before);
	return 0;
}

/* Nobody judges any more; the rows stay judged by these rules. */
static void end_judging(struct policy *policy)
{
	catalog_judge(policy->catalog, NULL, NULL, NULL,
		      policy_rules_half_life(policy->setup.rules),
		      policy_rules_fingerprint(policy->setup.rules));
}

int policy_start(struct tier *tier, struct catalog *catalog,
		 const struct policy_setup *setup, struct policy **ret)
{
	struct policy *policy = calloc(1, sizeof(*policy));
	pthread_condattr_t attr;
	int err;

	if (!policy)
		return -ENOMEM;
	policy->tier = tier;
	policy->catalog = catalog;
	policy->next_due = INT64_MAX;
	policy->wake_due = INT64_MIN;
	pthread_mutex_init(&policy->lock, NULL);
	pthread_mutex_init(&policy->run_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&policy->cond, &attr);
	pthread_condattr_destroy(&attr);
	policy_run_init(&policy->room, &policy->cond);
	policy_run_init(&policy->copy, &policy->cond);
	policy_run_init(&policy->back, &policy->cond);
	RB_INIT(&policy->live);
	holds_init(&policy->holds);
	err = take_setup(policy, setup);
	if (!err)
		err = thread_start(&policy->thread, "policy", work, policy);
	if (err) {
		atomic_store(&policy->stopping, true);
		if (policy->judge)
			end_judging(policy);
		policy_free(policy);
		return err;
	}
	*ret = policy;
	return 0;
}

int policy_change(struct policy *policy, const struct policy_setup *setup)
{
	int err = take_setup(policy, setup);

	if (!err)
		policy_poke(policy);
	return err;
}

void policy_stop(struct policy *policy)
{
	end_judging(policy);
	pthread_mutex_lock(&policy->lock);
	atomic_store(&policy->stopping, true);
	pthread_cond_signal(&policy->cond);
	pthread_mutex_unlock(&policy->lock);
	pthread_join(policy->thread, NULL);
}

void policy_free(struct policy *policy)
{
	if (!policy)
		return;
	/* All that was in flight is there. */
	policy_run_end(&policy->room);
	policy_run_end(&policy->copy);
	policy_run_end(&policy->back);
	holds_free(&policy->holds);
	free(policy->judge);
	setup_free(&policy->setup);
	pthread_cond_destroy(&policy->cond);
	pthread_mutex_destroy(&policy->lock);
	pthread_mutex_destroy(&policy->run_lock);
	free(policy);
}
