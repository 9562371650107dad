/* SPDX-License-Identifier: MIT */
/*
 * Doing what was chosen.
 *
 * A step is in policy->live from its submission to its collection, so that no
 * file is chosen twice. The tier's callback comes on a worker, or from within
 * tier_submit(): it only puts the step into the list of who asked. Job ids are
 * copied after tier_submit() has returned, and a step is not given back before,
 * so nobody reads a request that the tier still writes to.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "log.h"
#include "policy_int.h"

void policy_run_init(struct policy_run *run, pthread_cond_t *cond)
{
	memset(run, 0, sizeof(*run));
	CDS_INIT_LIST_HEAD(&run->done);
	run->cond = cond;
}

void policy_run_end(struct policy_run *run)
{
	struct policy_step *step, *next;

	cds_list_for_each_entry_safe (step, next, &run->done, link)
		policy_step_free(step);
	CDS_INIT_LIST_HEAD(&run->done);
}

bool policy_in_flight(struct policy *policy, uint64_t key)
{
	struct policy_step like = {.key = key};
	bool found;

	pthread_mutex_lock(&policy->lock);
	found = RB_FIND(policy_steps, &policy->live, &like);
	pthread_mutex_unlock(&policy->lock);
	return found;
}

/* policy->lock is held. */
static void give_back(struct policy_step *step)
{
	cds_list_add_tail(&step->link, &step->run->done);
	pthread_cond_signal(step->run->cond);
}

static void step_done(struct tier_request *req)
{
	struct policy_step *step = container_of(req, struct policy_step, req);
	struct policy *policy = step->policy;

	pthread_mutex_lock(&policy->lock);
	step->finished = true;
	if (step->submitted)
		give_back(step);
	pthread_mutex_unlock(&policy->lock);
}

/* Takes up to n steps of the first one's op from list: how many. */
static size_t enlist(struct policy *policy, struct policy_run *run,
		     struct cds_list_head *list, struct policy_step **steps,
		     size_t n)
{
	enum tier_op op =
		cds_list_first_entry(list, struct policy_step, link)->op;
	struct policy_step *step, *next;
	size_t k = 0;

	pthread_mutex_lock(&policy->lock);
	cds_list_for_each_entry_safe (step, next, list, link) {
		if (k == n || step->op != op)
			break;
		cds_list_del(&step->link);
		step->policy = policy;
		step->run = run;
		step->req = (struct tier_request){.node = step->node,
						  .path = step->path,
						  .only = step->only,
						  .done = step_done};
		RB_INSERT(policy_steps, &policy->live, step);
		policy->nlive++;
		run->in_flight.files++;
		run->in_flight.bytes += step->weight;
		steps[k++] = step;
	}
	pthread_mutex_unlock(&policy->lock);
	return k;
}

int policy_submit(struct policy *policy, struct policy_run *run,
		  enum mover_prio prio, struct cds_list_head *list, size_t n)
{
	_cleanup_free_ struct policy_step **steps = NULL;
	_cleanup_free_ struct tier_request **reqs = NULL;

	if (cds_list_empty(list))
		return 0;
	steps = calloc(n, sizeof(struct policy_step *));
	reqs = calloc(n, sizeof(struct tier_request *));
	if (!steps || !reqs)
		return -ENOMEM;
	n = enlist(policy, run, list, steps, n);
	for (size_t i = 0; i < n; i++)
		reqs[i] = &steps[i]->req;
	tier_submit(policy->tier, steps[0]->op, prio, reqs, n);
	pthread_mutex_lock(&policy->lock);
	for (size_t i = 0; i < n; i++) {
		steps[i]->job_id = steps[i]->req.job_id;
		steps[i]->submitted = true;
		if (steps[i]->finished)
			give_back(steps[i]);
	}
	pthread_mutex_unlock(&policy->lock);
	return 0;
}

/* Failures of a target that is full are not its failing. */
static bool counts(struct policy *policy, const struct policy_step *step)
{
	const struct tier_parts *parts = tier_parts(policy->tier);

	if (step->req.result != TIER_FAILED ||
	    !strcmp(step->req.reason, "cancelled"))
		return step->req.result == TIER_DONE;
	for (unsigned int i = 0; i < parts->ntargets; i++) {
		struct target *target = parts->targets[i];

		if (target &&
		    target_condition(target, NULL, 0) == TARGET_FULL &&
		    strstr(step->req.reason, "full"))
			return false;
	}
	return true;
}

/* policy->lock is held. True: the breaker has opened. */
static bool settle(struct policy *policy, struct policy_step *step, int64_t now,
		   bool breaks)
{
	const struct tier_request *req = &step->req;
	struct policy_moved *moved = &policy->moved[step->op];

	RB_REMOVE(policy_steps, &policy->live, step);
	policy->nlive--;
	step->run->in_flight.files--;
	step->run->in_flight.bytes -= step->weight;
	if (req->result <= TIER_ALREADY) {
		holds_done(&policy->holds, step->key, (int)step->was, now);
		if (req->result == TIER_DONE) {
			moved->files++;
			moved->bytes += step->size;
			policy->last_pass = now;
		}
	} else {
		holds_add(&policy->holds, step->key, step->size, req->reason,
			  now);
		if (req->result == TIER_FAILED)
			policy->failed++;
		else
			policy->refused++;
	}
	return breaks &&
	       breaker_result(&policy->breaker, policy->setup.breaker,
			      req->result <= TIER_ALREADY, req->reason, now);
}

void policy_collect(struct policy *policy, struct policy_run *run,
		    struct cds_list_head *ret)
{
	struct policy_step *step;
	int64_t now = realtime_ns();
	char why[128] = "";

	CDS_INIT_LIST_HEAD(ret);
	pthread_mutex_lock(&policy->lock);
	cds_list_splice(&run->done, ret);
	CDS_INIT_LIST_HEAD(&run->done);
	pthread_mutex_unlock(&policy->lock);
	cds_list_for_each_entry (step, ret, link) {
		bool breaks = counts(policy, step);

		pthread_mutex_lock(&policy->lock);
		if (settle(policy, step, now, breaks))
			strcpy(why, policy->breaker.why);
		pthread_mutex_unlock(&policy->lock);
		/* Its row is to know until when it is held. */
		if (step->req.result > TIER_ALREADY)
			catalog_refresh(policy->catalog, &step->handle);
	}
	if (*why)
		log_warn("policy: too much fails, nothing is copied for a "
			 "while: %s",
			 why);
}

void policy_cancel(struct policy *policy, struct policy_run *run)
{
	struct mover *mover = tier_parts(policy->tier)->mover;
	_cleanup_free_ uint64_t *ids = NULL;
	struct policy_step *step;
	size_t n = 0;

	pthread_mutex_lock(&policy->lock);
	ids = calloc(policy->nlive + 1, sizeof(*ids));
	if (ids)
		RB_FOREACH(step, policy_steps, &policy->live)
	if (step->run == run && !step->finished && step->job_id &&
	    (!n || ids[n - 1] != step->job_id))
		ids[n++] = step->job_id;
	pthread_mutex_unlock(&policy->lock);
	for (size_t i = 0; i < n; i++)
		mover_cancel(mover, ids[i]);
}
