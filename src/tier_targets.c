/* SPDX-License-Identifier: MIT */
/*
 * Looking after the targets: who is gone, who is back, and saying so.
 *
 * The waker's clock looks at what is known of each target (target_condition(),
 * which never blocks) and says what changed, once: however many requests fail
 * meanwhile, a target has one line when it goes and one when it is back. Only a
 * probe brings news from the medium; it may hang there, so each target has a
 * job of its own, and the clock sees the stall.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "tier_impl.h"
#include "util.h"

struct probe {
	struct mover_job job;
	struct tier *tier;
	unsigned int number;
};

/* What became better: the condition that is over. */
static const char *const better[] = {
	[TARGET_OFFLINE] = "is online again",
	[TARGET_STALLED] = "answers again",
	[TARGET_READONLY] = "can be written again",
	[TARGET_FULL] = "has room again",
	[TARGET_FAILING] = "has not failed any more",
};

static void say(const char *name, enum target_condition was,
		enum target_condition is, const char *why)
{
	switch (is) {
	case TARGET_OFFLINE:
		log_error("target %s is offline: %s", name, why);
		break;
	case TARGET_STALLED:
		log_error("target %s is stalled: %s", name, why);
		break;
	case TARGET_READONLY:
		log_error("target %s can only be read: %s", name, why);
		break;
	case TARGET_FULL:
		log_warn("target %s is full: %s", name, why);
		break;
	case TARGET_FAILING:
		log_error("target %s fails: %s", name, why);
		break;
	case TARGET_OK:
		log_info("target %s %s", name, better[was]);
		break;
	}
}

static void look(struct tier *tier, unsigned int number)
{
	struct tier_watch *watch = &tier->watch[number];
	struct target *target = tier->parts.targets[number];
	enum target_condition is, was;
	bool changed;
	char why[sizeof(watch->why)];

	pthread_mutex_lock(&tier->watch_lock);
	is = target_condition(target, why, sizeof(why));
	was = watch->told;
	/* Offline for another reason now: the wrong disk was plugged in. */
	changed = is != was || (is == TARGET_OFFLINE && *watch->why &&
				strcmp(watch->why, why) != 0);
	watch->told = is;
	memcpy(watch->why, why, sizeof(why));
	pthread_mutex_unlock(&tier->watch_lock);
	if (changed)
		say(target_name(target), was, is, why);
	if (is != was && is == TARGET_OK)
		tier_stale_retry(tier, number);
}

/* ---- probing ------------------------------------------------------------- */

static void probe_run(struct mover_job *job)
{
	struct probe *probe = container_of(job, struct probe, job);
	struct tier *tier = probe->tier;

	if (!atomic_load(&job->ctl.cancelled)) {
		target_probe(tier->parts.targets[probe->number]);
		look(tier, probe->number);
	}
	atomic_store(&tier->watch[probe->number].probing, false);
}

static void probe_free(struct mover_job *job)
{
	free(container_of(job, struct probe, job));
}

static void probe_start(struct tier *tier, unsigned int number)
{
	struct tier_watch *watch = &tier->watch[number];
	struct probe *probe;

	if (atomic_exchange(&watch->probing, true))
		return;
	probe = calloc(1, sizeof(*probe));
	if (probe) {
		probe->tier = tier;
		probe->number = number;
		probe->job.op = "probe";
		probe->job.prio = MOVER_IDLE;
		probe->job.lane = number + 1;
		probe->job.refs = 1;
		probe->job.run = probe_run;
		probe->job.free = probe_free;
		snprintf(probe->job.target, sizeof(probe->job.target), "%s",
			 target_name(tier->parts.targets[number]));
		if (!mover_submit(tier->parts.mover, &probe->job, NULL))
			return;
		free(probe);
	}
	atomic_store(&watch->probing, false);
}

#define PROBE_TICKS 2

void tier_targets_tick(struct tier *tier)
{
	tier->ticks++;
	for (unsigned int i = 0; i < tier->parts.ntargets; i++) {
		struct target *target = tier->parts.targets[i];

		if (!target)
			continue;
		if (tier->ticks % PROBE_TICKS == 0 ||
		    (target_online(target, NULL, 0) && target_suspect(target)))
			probe_start(tier, i);
		look(tier, i);
	}
}

void tier_targets_init(struct tier *tier)
{
	pthread_mutex_init(&tier->watch_lock, NULL);
	for (unsigned int i = 0; i < tier->parts.ntargets; i++) {
		struct target *target = tier->parts.targets[i];

		tier->watch[i].told = TARGET_OK;
		/* Whoever opened it has said so. */
		if (target && !target_online(target, tier->watch[i].why,
					     sizeof(tier->watch[i].why)))
			tier->watch[i].told = TARGET_OFFLINE;
	}
}

void tier_targets_patience(struct tier *tier, uint64_t ns)
{
	for (unsigned int i = 0; i < tier->parts.ntargets; i++)
		if (tier->parts.targets[i])
			target_set_patience(tier->parts.targets[i], ns);
}

/* ---- failures of single files --------------------------------------------- */

#define AGAIN_NS (60 * NSEC_PER_SEC)

void tier_log_failure(struct tier *tier, uint8_t number, const char *what,
		      const char *path, int err)
{
	struct target *target = tier_target(tier, number);
	int64_t now = monotonic_ns();
	bool tell = false;

	/* Those of the medium are in its condition. */
	if (target && !target_is_medium_error(err)) {
		struct tier_watch *watch = &tier->watch[number];

		pthread_mutex_lock(&tier->watch_lock);
		tell = !watch->file_told || now - watch->file_told > AGAIN_NS;
		if (tell)
			watch->file_told = now;
		pthread_mutex_unlock(&tier->watch_lock);
	}
	if (tell)
		log_error("target %s: %s %s: %s", target_name(target), what,
			  path, strerror(-err));
	else
		log_debug("target %s: %s %s: %s",
			  target ? target_name(target) : "?", what, path,
			  strerror(-err));
}
