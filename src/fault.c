/* SPDX-License-Identifier: MIT */
/*
 * Faults: a list of names, how often each was passed, and one that is armed.
 *
 * SIGKILL, not exit: no handler, no destructor, nothing that a crash would not
 * do either. What is in the page cache survives it; power cuts are for the
 * action that a test sets.
 */
#include "fault.h"

#ifdef TIERFS_FAULTS

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util.h"

const char *const fault_names[] = {
	/* tier_migrate.c, mover_copy.c */
	"migrate-journaled",
	"migrate-marked",
	"copy-created",
	"migrate-copied",
	"migrate-committed",
	"migrate-synced",
	"migrate-undone",
	/* tier_release.c */
	"release-journaled",
	"release-marked",
	"release-synced",
	"release-cut",
	"release-dropped",
	/* tier_restore.c: by a swap */
	"restore-copied",
	"restore-journaled",
	"restore-prepared",
	"restore-linked",
	"restore-exchanged",
	"restore-cut",
	"restore-holder",
	"restore-removed",
	"restore-swapped",
	/* tier_apply.c */
	"apply-journaled",
	"apply-replayed",
	"apply-synced",
	/* tier_fill.c: in place */
	"fill-journaled",
	"fill-copied",
	"fill-synced",
	"fill-cut",
	"fill-times",
	"fill-done",
	/* tier_open.c */
	"write-journaled",
	"write-marked",
	"write-dropped",
	"write-settled",
	"move-cancelled",
	/* tier_dirty.c */
	"dirty-marked",
	"dirty-appended",
	"dirty-synced",
	"dirty-flushed",
	"dirty-settled",
	"dirty-cut",
	/* tier_ns.c */
	"unlink-moved",
	"rename-linked",
	"rename-over",
	/* tier.c, tier_delete.c */
	"sync-synced",
	"delete-object",
	"delete-synced",
	"delete-holder",
	"delete-orphan",
	"delete-done",
	/* recover.c */
	"recover-dropped",
	"recover-cut",
	"recover-times",
	"recover-log",
	"recover-stripped",
	"recover-slot",
	"recover-intent",
	"recover-staging",
	"recover-orphan",
	NULL,
};

#define N_FAULTS (ARRAY_SIZE(fault_names) - 1)
#define ANY	 N_FAULTS
#define NONE	 (N_FAULTS + 1)

static _Atomic(unsigned int) passed[N_FAULTS + 1];
static _Atomic(size_t) armed = NONE;
static _Atomic(unsigned int) armed_nth;
static _Atomic(fault_action *) armed_action;

static size_t find(const char *name)
{
	size_t i = 0;

	if (!strcmp(name, "*"))
		return ANY;
	while (i < N_FAULTS && strcmp(fault_names[i], name))
		i++;
	return i < N_FAULTS ? i : NONE;
}

static void die(const char *name)
{
	(void)name;
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

void fault_point(const char *name)
{
	size_t i = find(name), a = atomic_load(&armed);
	unsigned int n, any;
	fault_action *action;

	if (i >= N_FAULTS) {
		fprintf(stderr, "fault point '%s' is not in the list\n", name);
		abort();
	}
	n = atomic_fetch_add(&passed[i], 1) + 1;
	any = atomic_fetch_add(&passed[ANY], 1) + 1;
	if ((a != i || n != atomic_load(&armed_nth)) &&
	    (a != ANY || any != atomic_load(&armed_nth)))
		return;
	if (!atomic_compare_exchange_strong(&armed, &a, NONE))
		return;
	action = atomic_load(&armed_action);
	(action ? action : die)(name);
}

int fault_arm(const char *name, unsigned int nth, fault_action *action)
{
	size_t i = name ? find(name) : NONE;

	if (name && i == NONE)
		return -EINVAL;
	atomic_store(&armed, NONE);
	for (size_t k = 0; k <= N_FAULTS; k++)
		atomic_store(&passed[k], 0);
	atomic_store(&armed_nth, nth);
	atomic_store(&armed_action, action);
	atomic_store(&armed, i);
	return 0;
}

unsigned int fault_passed(const char *name)
{
	size_t i = find(name);

	return i == NONE ? 0 : atomic_load(&passed[i]);
}

/* Before main: a misspelt name must not look like a test that passed. */
__attribute__((constructor)) static void from_environment(void)
{
	const char *env = getenv("TIERFS_FAULT");
	char name[64], *end;
	unsigned long nth = 1;
	size_t len;

	if (!env)
		return;
	len = strcspn(env, ":");
	snprintf(name, sizeof(name), "%.*s", (int)len, env);
	if (env[len] == ':') {
		nth = strtoul(env + len + 1, &end, 10);
		if (*end || end == env + len + 1)
			nth = 0;
	}
	if (!nth || fault_arm(name, (unsigned int)nth, NULL)) {
		fprintf(stderr, "TIERFS_FAULT=%s: no such fault\n", env);
		_exit(2);
	}
}

#endif
