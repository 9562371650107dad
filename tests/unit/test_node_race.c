/* SPDX-License-Identifier: MIT */

/*
 * A node is made by one while another, who had it before, migrates and releases
 * the file: between the look at the EAs and what follows from it. Here that
 * look-up is held up, by a listxattr_fd() of our own that the linker puts in
 * (--wrap).
 */

#include "rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

#define SIZE 70000

static _Thread_local bool holding;
static sem_t go, done;

ssize_t __real_listxattr_fd(int fd, char *buf, size_t size);
ssize_t __wrap_listxattr_fd(int fd, char *buf, size_t size);

ssize_t __wrap_listxattr_fd(int fd, char *buf, size_t size)
{
	ssize_t ret = __real_listxattr_fd(fd, buf, size);
	struct timespec until;

	if (!holding)
		return ret;
	holding = false;
	sem_post(&go);
	/* If the other needs what is held here, it goes on by itself. */
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 1;
	sem_timedwait(&done, &until);
	return ret;
}

static void *release_it(void *arg)
{
	struct node *node;

	sem_wait(&go);
	node = look("a");
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	node_unref(node);
	sem_post(&done);
	return arg;
}

static void test_race(void **state)
{
	struct node *node;
	pthread_t thread;
	struct stat st;
	int fd;

	(void)state;
	sem_init(&go, 0, 0);
	sem_init(&done, 0, 0);
	rig_make("/tmp/test_node_race");
	rig_up();
	make("a", SIZE);
	fd = openat(rig.front->root_fd, "a", O_PATH);
	assert_true(fd >= 0);
	assert_int_equal(pthread_create(&thread, NULL, release_it, NULL), 0);
	holding = true;
	assert_int_equal(node_from_fd(rig.nodes, fd, NULL, &node), 0);
	assert_false(holding);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(tier_getattr(rig.tier, node, &st, NULL), 0);
	assert_int_equal(st.st_size, SIZE);
	assert_int_equal(state_of(node), SPILL_RELEASED);
	close(fd);
	node_unref(node);
	rig_down();
	assert_int_equal(rig_remove(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_race),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
