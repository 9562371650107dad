/* SPDX-License-Identifier: MIT */

/*
 * Killed at random moments, while threads do everything at once.
 *
 * TIERFS_SEED chooses what is done and when it is killed (but not how threads
 * interleave); TIERFS_ROUNDS how often.
 */

#include "crash.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

static void child_run(const void *arg, unsigned int round)
{
	(void)arg;
	rig_up();
	stress_run(round);
}

static void child_verify(const void *arg, unsigned int round)
{
	(void)arg;
	(void)round;
	rig_up();
	stress_verify();
	rig_down();
}

static unsigned long env(const char *name, unsigned long otherwise)
{
	const char *value = getenv(name);

	return value ? strtoul(value, NULL, 10) : otherwise;
}

/* Kills it after some time of work: not while it starts alone. */
static void kill_later(unsigned int *seed)
{
	unsigned int before = stress_ops();
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) {
		setenv("CMOCKA_TEST_ABORT", "1", 1);
		child_run(NULL, *seed);
		_exit(1);
	}
	for (int i = 0; i < 1000 && stress_ops() < before + 10; i++)
		usleep(2000);
	usleep((useconds_t)(rand_r(seed) % 400) * 1000);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("it failed before it was killed: 0x%x",
			 (unsigned int)status);
}

static void test_kill(void **state)
{
	unsigned int seed = (unsigned int)env("TIERFS_SEED", 1);
	unsigned long rounds = env("TIERFS_ROUNDS", 30);
	char what[64];

	(void)state;
	crash_forget();
	stress_init(seed, false);
	rig_make(test_prefix());
	for (unsigned long i = 0; i < rounds; i++) {
		kill_later(&seed);
		snprintf(what, sizeof(what), "round %lu", i);
		in_child(child_verify, NULL, 0, what);
	}
	stress_report();
	assert_int_equal(rig_remove(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kill),
	};

	crash_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
