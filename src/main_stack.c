/* SPDX-License-Identifier: MIT */

/*
 * From the front upwards, and back.
 *
 * What takes long and changes nothing, freeing a million nodes, comes after the
 * front's lock was given up: who mounts it again waits for that.
 *
 * What may hang with a target is marked (main_leave.h): then nothing below it is
 * reached.
 */

#include "main_stack.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "batch.h"
#include "catalog.h"
#include "cleanup.h"
#include "journal.h"
#include "log.h"
#include "main_leave.h"
#include "mover.h"
#include "policy.h"
#include "ring.h"
#include "tierfs/target.h"
#include "util.h"

#define RING_ENTRIES   128
#define RECALL_WORKERS 4
#define OTHER_WORKERS  2
#define FD_CACHE_MAX   8192

static int fail(char **ret_why, int err, const char *what)
{
	if (asprintf(ret_why, "%s: %s", what, strerror(-err)) < 0)
		*ret_why = NULL;
	return err;
}

/* The number under which the front knows a target, or -1. */
static int target_number(const struct front *front, const char *name)
{
	for (unsigned int i = 0; i < front->ntargets; i++)
		if (!strcmp(front->targets[i].name, name))
			return i;
	return -1;
}

static int open_target(struct stack *stack, const struct config_target *conf,
		       char **ret_why)
{
	struct front *front = stack->front;
	int number = target_number(front, conf->name);
	struct target_config config = {
		.name = conf->name,
		.path = conf->path,
		.fsname = front->name,
		.front_uuid = front->uuid,
		.uuid = number < 0 ? NULL : front->targets[number].uuid,
		.patience_ns = stack->config->recall_timeout_ns,
	};
	struct target *target;
	unsigned int added;
	int err = target_open(&config, &target, ret_why);

	if (err)
		return err;
	if (number < 0) {
		err = front_add_target(front, conf->name, target_uuid(target),
				       &added);
		if (err) {
			target_close(target);
			return fail(ret_why, err, "recording a new target");
		}
		number = added;
	} else {
		char why[256];

		if (!target_online(target, why, sizeof(why)))
			log_warn("target %s is offline: %s", conf->name, why);
	}
	stack->targets[number] = target;
	return 0;
}

static int open_targets(struct stack *stack, char **ret_why)
{
	for (unsigned int i = 0; i < stack->config->ntargets; i++) {
		int err =
			open_target(stack, &stack->config->targets[i], ret_why);

		if (err)
			return err;
	}
	for (unsigned int i = 0; i < stack->front->ntargets; i++)
		if (!stack->targets[i])
			log_warn("target %s is not given (spill=): what is "
				 "there alone cannot be read",
				 stack->front->targets[i].name);
	return 0;
}

static unsigned int fd_cache_size(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 64;
	return min_t(rlim_t, limit.rlim_cur / 4, FD_CACHE_MAX);
}

/* What changes without it is told nobody. */
static void without_catalog(struct front *front)
{
	int err = catalog_outdated(front);

	if (err)
		log_warn("the catalog cannot be marked as outdated (%s): "
			 "remove .tierfs/catalog.db before the next mount",
			 strerror(-err));
}

/* It is a cache: without it all works but what is asked of it. */
static void open_catalog(struct stack *stack)
{
	const struct catalog_config config = {
		.front = stack->front,
		.walk = true,
		.walk_rate = stack->config->walk_rate,
	};
	_cleanup_free_ char *why = NULL;
	int err;

	if (!stack->config->catalog || stack->config->ro) {
		without_catalog(stack->front);
		return;
	}
	err = catalog_open(&config, &stack->catalog, &why);
	if (err) {
		log_warn("no catalog: %s: report, find and policies have to do "
			 "without it",
			 why ? why : strerror(-err));
		without_catalog(stack->front);
	} else if (why) {
		log_warn("catalog: %s", why);
	}
}

static int open_tier(struct stack *stack, char **ret_why)
{
	struct tier_parts parts = {
		.config = stack->config,
		.front = stack->front,
		.nodes = stack->nodes,
		.journal = stack->journal,
		.mover = stack->mover,
		.targets = stack->targets,
		.ntargets = TIERFS_TARGETS_MAX,
		.ring = stack->ring,
		.limit = stack->limit,
		.catalog = stack->catalog,
		.batches = stack->batches,
	};
	int err = tier_start(&parts, &stack->tier);

	if (err)
		return fail(ret_why, err, "starting the tier");
	err = tier_recover(stack->tier);
	return err ? fail(ret_why, err, "recovering what was in flight") : 0;
}

/* What is wrong with it is no reason not to mount. */
static int open_batches(struct stack *stack)
{
	_cleanup_free_ char *why = NULL;
	int err = batches_open(stack->front->meta_fd, &stack->batches, &why);

	if (!err && why)
		log_warn("%s", why);
	return err;
}

static int open_all(struct stack *stack, char **ret_why)
{
	int err = front_open_wait(stack->config->front, stack->config->name,
				  &stack->front, ret_why);

	if (!err && stack->front->took_over) {
		log_warn("front %s: its last daemon is dead, but held by a "
			 "target that hangs: taken over",
			 stack->config->front);
		journal_ignore_locks();
	}
	if (!err)
		err = open_targets(stack, ret_why);
	if (err)
		return err;
	err = ring_start(RING_ENTRIES, &stack->ring);
	if (err)
		return fail(ret_why, err, "io_uring");
	err = journal_open(stack->front->meta_fd, &stack->journal, ret_why);
	if (err)
		return err;
	open_catalog(stack);
	err = open_batches(stack);
	if (!err)
		err = node_table_new(stack->front, fd_cache_size(),
				     &stack->nodes);
	if (!err)
		err = copy_limit_new(stack->config->bwlimit, &stack->limit);
	if (!err)
		err = mover_start(RECALL_WORKERS, OTHER_WORKERS,
				  stack->config->ntargets, &stack->mover);
	if (err)
		return fail(ret_why, err, "starting");
	mover_ids_after(stack->mover, batches_last_id(stack->batches));
	return open_tier(stack, ret_why);
}

int stack_open(const struct config *config, struct stack *stack, char **ret_why)
{
	int err;

	memset(stack, 0, sizeof(*stack));
	stack->config = config;
	err = open_all(stack, ret_why);
	if (err)
		stack_close(stack);
	return err;
}

static struct policy_setup policy_of(const struct config *config)
{
	return (struct policy_setup){.rules = config->rules,
				     .hours = config->background,
				     .promote = config->promote,
				     .breaker = config->breaker,
				     .file = config->file};
}

void stack_retune(struct stack *stack, const struct config *config)
{
	struct policy_setup setup = policy_of(config);

	tier_retune(stack->tier, config);
	if (stack->policy && policy_change(stack->policy, &setup))
		log_error("no memory for other rules: the old ones stay");
}

int stack_serve(struct stack *stack)
{
	struct policy_setup setup = policy_of(stack->config);

	if (stack->catalog)
		return policy_start(stack->tier, stack->catalog, &setup,
				    &stack->policy);
	if (stack->config->policy_auto && !stack->config->ro)
		log_warn("policy=auto, but without a catalog: nothing moves by "
			 "itself");
	return 0;
}

void stack_close(struct stack *stack)
{
	if (stack->policy)
		policy_stop(stack->policy);
	leave_may_hang(true);
	if (stack->tier)
		tier_quiesce(stack->tier);
	else if (stack->mover)
		mover_stop(stack->mover);
	leave_may_hang(false);
	leave_tier_ends();
	policy_free(stack->policy);
	if (stack->tier)
		tier_stop(stack->tier);
	catalog_close(stack->catalog);
	if (stack->journal)
		journal_close(stack->journal);
	batches_close(stack->batches);
	if (stack->mover)
		mover_free(stack->mover);
	if (stack->limit)
		copy_limit_free(stack->limit);
	leave_may_hang(true);
	for (unsigned int i = 0; i < TIERFS_TARGETS_MAX; i++)
		if (stack->targets[i])
			target_close(stack->targets[i]);
	leave_may_hang(false);
	if (stack->ring)
		ring_stop(stack->ring);
	if (stack->front)
		front_unlock(stack->front);
	node_table_free(stack->nodes);
	if (stack->front)
		front_close(stack->front);
	memset(stack, 0, sizeof(*stack));
}
