/* SPDX-License-Identifier: MIT */

/*
 * Intents that another thread has taken to report as done.
 *
 * A thread syncs the front for a migration that is just committed, and is held
 * up before it reports the intent. Meanwhile the file is released and restored,
 * and then everything dies. Recovery must not take the intent, which leads to
 * the old stub, for a copy that nobody names.
 */

#include "crash.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "fault.h"
#include "tier_impl.h"

static sem_t held, go;

static void hold(const char *name)
{
	struct timespec until;

	(void)name;
	sem_post(&held);
	/* With the others kept waiting for it, it goes on by itself. */
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 1;
	sem_timedwait(&go, &until);
}

static void *sync_main(void *arg)
{
	tier_sync(rig.tier);
	return arg;
}

static void begin_sync(const char *name)
{
	pthread_t thread;

	(void)name;
	fault_arm("sync-synced", 1, hold);
	pthread_create(&thread, NULL, sync_main, NULL);
	pthread_detach(thread);
	sem_wait(&held);
}

static void child_run(const void *arg, unsigned int nth)
{
	static const enum tier_op ops[] = {TIER_MIGRATE, TIER_RELEASE,
					   TIER_RESTORE};
	struct node *node;

	(void)arg;
	(void)nth;
	sem_init(&held, 0, 0);
	sem_init(&go, 0, 0);
	rig_up();
	new_file("a", 70000);
	node = look("a");
	assert_int_equal(fault_arm("migrate-committed", 1, begin_sync), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(ask(node, ops[i]), TIER_DONE);
	kill(getpid(), SIGKILL);
}

static void child_verify(const void *arg, unsigned int nth)
{
	(void)arg;
	(void)nth;
	verify();
}

static void test_late(void **state)
{
	(void)state;
	crash_forget();
	rig_make(test_prefix());
	assert_true(in_child(child_run, NULL, 0, "late"));
	in_child(child_verify, NULL, 0, "late");
	assert_int_equal(rig_remove(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_late),
	};

	crash_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
