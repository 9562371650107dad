/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

/* Runs with stderr in a pipe; returns what was written. */
static size_t captured(void (*fn)(void), char *buf, size_t size)
{
	int pipefd[2], saved = dup(STDERR_FILENO);
	ssize_t n;

	assert_int_equal(pipe2(pipefd, O_NONBLOCK | O_CLOEXEC), 0);
	dup2(pipefd[1], STDERR_FILENO);
	fn();
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(pipefd[1]);
	n = read(pipefd[0], buf, size - 1);
	close(pipefd[0]);
	assert_true(n >= 0);
	buf[n] = '\0';
	return (size_t)n;
}

static void say_levels(void)
{
	log_set_level(LOG_LEVEL_INFO);
	log_debug("not shown");
	log_info("shown %d", 1);
	log_set_level(LOG_LEVEL_DEBUG);
	log_debug("shown %d", 2);
	log_set_level(LOG_LEVEL_INFO);
}

static void levels(void **state)
{
	char buf[4096];

	captured(say_levels, buf, sizeof(buf));
	assert_string_equal(buf, "tierfs: shown 1\ntierfs: shown 2\n");
}

static void say_to_both(void)
{
	log_to_system("test_log");
	log_info("to the system alone");
	log_warn("to both");
	log_leave_stderr();
	log_error("to the system alone");
}

/* The last test of stderr: there is no way back. */
static void system_and_starter(void **state)
{
	char buf[4096];

	(void)state;
	captured(say_to_both, buf, sizeof(buf));
	assert_string_equal(buf, "tierfs: to both\n");
}

static void say_odd(void)
{
	errno = EXDEV;
	log_warn("a\nb\033[2J\x7f \xc3\xa4");
	assert_int_equal(errno, EXDEV);
	log_error("%01000d", 7);
}

static void odd_texts(void **state)
{
	struct log_kept kept[2];
	char buf[4096];
	const char *end;

	captured(say_odd, buf, sizeof(buf));
	end = strchr(buf, '\n');
	assert_non_null(end);
	assert_memory_equal(buf, "tierfs: a?b?[2J? \xc3\xa4\n", end - buf + 1);
	/* Cut, and still one line. */
	assert_int_equal(strlen(end + 1), 8 + LOG_LINE_MAX - 1 + 1);
	assert_int_equal(log_last(kept, 2), 2);
	assert_int_equal(kept[0].level, LOG_LEVEL_ERROR);
	assert_int_equal(strlen(kept[0].text), LOG_LINE_MAX - 1);
	assert_string_equal(kept[1].text, "a?b?[2J? \xc3\xa4");
	assert_true(kept[0].when >= kept[1].when && kept[1].when > 0);
}

static void say_many(void)
{
	int i;

	for (i = 0; i < LOG_KEEP + 5; i++)
		log_warn("warning %d", i);
	log_info("not kept");
}

static void the_last_are_kept(void **state)
{
	struct log_kept kept[LOG_KEEP + 10];
	char buf[4096];

	captured(say_many, buf, sizeof(buf));
	assert_int_equal(log_last(kept, LOG_KEEP + 10), LOG_KEEP);
	assert_string_equal(kept[0].text, "warning 20");
	assert_string_equal(kept[LOG_KEEP - 1].text, "warning 5");
	assert_int_equal(log_last(kept, 3), 3);
	assert_string_equal(kept[2].text, "warning 18");
	assert_int_equal(log_last(kept, 0), 0);
}

static void *say_from_thread(void *arg)
{
	struct log_kept kept[LOG_KEEP];
	int i;

	for (i = 0; i < 200; i++) {
		log_warn("thread");
		log_last(kept, LOG_KEEP);
	}
	return NULL;
}

static void say_from_threads(void)
{
	pthread_t threads[4];
	int i;

	for (i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL,
						say_from_thread, NULL),
				 0);
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

static void threads(void **state)
{
	static char buf[65536];
	size_t n = captured(say_from_threads, buf, sizeof(buf)), i;

	assert_int_equal(n, 800 * 15);
	for (i = 0; i < n; i += 15)
		assert_memory_equal(buf + i, "tierfs: thread\n", 15);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(levels),
		cmocka_unit_test(odd_texts),
		cmocka_unit_test(the_last_are_kept),
		cmocka_unit_test(threads),
		cmocka_unit_test(system_and_starter),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
