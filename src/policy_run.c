/* SPDX-License-Identifier: MIT */
/*
 * A pass by hand: chosen whole, then done in order.
 *
 * The plan is the dry run's. Each file is looked at again before its turn, for
 * the pass may take hours: what its rule does not say any more is not done, and
 * told as refused. Nothing is added meanwhile; the thread chooses nothing either,
 * so that nobody takes the plan's files.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "policy_int.h"

#define BATCH_FILES 2048
#define BATCH_BYTES (1ULL << 30)
#define WAIT_NS	    (200 * NSEC_PER_MSEC)
#define FRESH_NS    (2 * NSEC_PER_SEC)

struct by_hand {
	struct policy *policy;
	const struct policy_runner *runner;
	struct policy_eye eye;
	struct policy_run run;
	pthread_cond_t cond;
	bool stopped;
};

static void tell(const struct policy_runner *runner,
		 const struct policy_step *step)
{
	const struct policy_done done = {
		.op = step->op,
		.cause = step->cause,
		.path = step->path,
		.rule = step->rule,
		.size = step->size,
		.result = step->req.result,
		.reason = step->req.reason,
		.bytes = step->req.bytes,
	};

	runner->each(runner->arg, &done);
}

/* Is what it was chosen for still so? */
static bool still(struct policy_eye *eye, const struct policy_step *step)
{
	struct policy_look look;
	struct catalog_row row;
	enum policy_cause cause;
	enum tier_op op;
	bool ret;

	if (catalog_get(eye->rows, step->key, &row) ||
	    policy_look_row(eye, &row, &look))
		return false;
	if (step->cause == CAUSE_DUE || step->cause == CAUSE_RELEASE)
		ret = policy_due_op(&look, eye->now, &op, &cause) &&
		      cause == step->cause;
	else
		ret = !look.verdict.keep && look.verdict.rank != INT64_MAX;
	ret = ret && !look.status.pinned;
	policy_look_end(&look);
	return ret;
}

static void stop(struct by_hand *b)
{
	if (!b->stopped)
		policy_cancel(b->policy, &b->run);
	b->stopped = true;
}

/* Until nothing is in flight. */
static void wait_all(struct by_hand *b)
{
	struct policy *policy = b->policy;
	struct cds_list_head done;
	bool left = true;

	while (left) {
		struct timespec ts = timespec_from_ns(monotonic_ns() + WAIT_NS);

		pthread_mutex_lock(&policy->lock);
		if (cds_list_empty(&b->run.done) && b->run.in_flight.files)
			pthread_cond_timedwait(&b->cond, &policy->lock, &ts);
		pthread_mutex_unlock(&policy->lock);
		policy_collect(policy, &b->run, &done);
		pthread_mutex_lock(&policy->lock);
		left = b->run.in_flight.files;
		pthread_mutex_unlock(&policy->lock);
		if (b->runner->stop(b->runner->arg))
			stop(b);
	}
}

static void refuse(struct policy_step *step)
{
	step->req.result = TIER_REFUSED;
	strcpy(step->req.reason, "its rule does not say so any more");
}

/* Takes the next steps that can go together from list: how many. */
static size_t next_batch(struct by_hand *b, struct cds_list_head *list,
			 struct policy_step **steps, bool fresh)
{
	struct policy_step *step, *next;
	uint64_t bytes = 0;
	size_t n = 0;

	cds_list_for_each_entry_safe (step, next, list, link) {
		if (n == BATCH_FILES || bytes >= BATCH_BYTES ||
		    (n && step->op != steps[0]->op))
			break;
		if (step->op != TIER_RELEASE)
			bytes += step->weight;
		if (!fresh && !still(&b->eye, step))
			refuse(step);
		cds_list_del(&step->link);
		steps[n++] = step;
	}
	return n;
}

static int do_batch(struct by_hand *b, struct policy_step **steps, size_t n)
{
	struct cds_list_head list;
	int err = 0;

	CDS_INIT_LIST_HEAD(&list);
	for (size_t i = 0; i < n; i++)
		if (!steps[i]->req.reason[0])
			cds_list_add_tail(&steps[i]->link, &list);
	if (!cds_list_empty(&list))
		err = policy_submit(b->policy, &b->run, MOVER_ASKED, &list, n);
	if (!err)
		wait_all(b);
	for (size_t i = 0; i < n; i++) {
		if (!err)
			tell(b->runner, steps[i]);
		policy_step_free(steps[i]);
	}
	return err;
}

static int do_plan(struct by_hand *b, struct policy_plan *plan)
{
	int64_t chosen = monotonic_ns();
	_cleanup_free_ struct policy_step **steps =
		calloc(BATCH_FILES, sizeof(struct policy_step *));
	int err = steps ? 0 : -ENOMEM;

	RB_INIT(&plan->steps); /* they go to those in flight */
	while (!err && !cds_list_empty(&plan->list)) {
		bool fresh = monotonic_ns() - chosen < FRESH_NS;
		size_t n;

		if (b->stopped || b->runner->stop(b->runner->arg))
			return -ECANCELED;
		if (!fresh)
			policy_eye_blink(&b->eye);
		n = next_batch(b, &plan->list, steps, fresh);
		err = do_batch(b, steps, n);
	}
	return b->stopped ? -ECANCELED : err;
}

static void set_by_hand(struct policy *policy, bool by_hand)
{
	pthread_mutex_lock(&policy->lock);
	policy->by_hand = by_hand;
	if (by_hand)
		breaker_close(&policy->breaker);
	pthread_mutex_unlock(&policy->lock);
	policy_poke(policy);
}

static int pass(struct by_hand *b)
{
	struct policy_plan plan;
	struct policy_pick pick = {.eye = &b->eye,
				   .plan = &plan,
				   .by_hand = true,
				   .rows_most = SIZE_MAX};
	struct policy_step *step;
	int ret, err = 0;

	policy_plan_init(&plan);
	ret = policy_pick_all(&pick);
	if (ret >= 0 && b->runner->dry)
		cds_list_for_each_entry (step, &plan.list, link)
			tell(b->runner, step);
	else if (ret >= 0)
		err = do_plan(b, &plan);
	policy_plan_clear(&plan);
	return err ? err : ret;
}

int policy_run(struct policy *policy, const struct policy_runner *runner)
{
	struct by_hand b = {.policy = policy, .runner = runner};
	pthread_condattr_t attr;
	int ret;

	if (pthread_mutex_trylock(&policy->run_lock))
		return -EBUSY;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&b.cond, &attr);
	pthread_condattr_destroy(&attr);
	policy_run_init(&b.run, &b.cond);
	if (!runner->dry)
		set_by_hand(policy, true);
	ret = policy_eye_open(policy, &b.eye);
	if (!ret) {
		ret = pass(&b);
		policy_eye_close(&b.eye);
	}
	policy_run_end(&b.run);
	if (!runner->dry)
		set_by_hand(policy, false);
	pthread_cond_destroy(&b.cond);
	pthread_mutex_unlock(&policy->run_lock);
	return ret;
}
