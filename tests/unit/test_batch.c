/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "batch.h"
#include "cleanup.h"
#include "util.h"

struct env {
	char path[64];
	int fd;
};

static int setup(void **state)
{
	struct env *env = calloc(1, sizeof(*env));

	strcpy(env->path, "/tmp/test_batch.XXXXXX");
	assert_ptr_not_equal(mkdtemp(env->path), NULL);
	env->fd = open(env->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(env->fd >= 0);
	*state = env;
	return 0;
}

static int teardown(void **state)
{
	struct env *env = *state;
	DIR *dir = fdopendir(env->fd);
	struct dirent *entry;

	while ((entry = readdir(dir)))
		unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	rmdir(env->path);
	free(env);
	return 0;
}

static struct batches *must_open(struct env *env)
{
	struct batches *b = NULL;
	char *why = NULL;

	assert_int_equal(batches_open(env->fd, &b, &why), 0);
	if (why)
		print_message("%s\n", why);
	assert_null(why);
	return b;
}

static struct front_handle handle(unsigned int n)
{
	struct front_handle ret = {.type = 1, .len = 8};

	memcpy(ret.bytes, &n, sizeof(n));
	return ret;
}

/* ---- what is stored is read ------------------------------------------------- */

static gid_t groups[] = {7, 8, 9};

static struct batch sample(uint64_t id)
{
	return (struct batch){
		.id = id,
		.op = "restore",
		.recursive = id & 1,
		.release = id & 2,
		.uid = 1000,
		.gid = 100,
		.groups = groups,
		.ngroups = 3,
		.budget = UINT64_MAX,
		.keep_until = 12345,
		.label = "/a\xff"
			 "b",
		.files = 2,
		.bytes = 3,
		.asked_ns = 17,
	};
}

static int add(struct batches *b, uint64_t id, uint64_t n)
{
	struct batch batch = sample(id);
	int err = batch_add(b, &batch);

	for (uint64_t i = 0; !err && i < n; i++) {
		char path[64];
		struct batch_item item = {path, path};

		snprintf(path, sizeof(path), "/%llu/new\nline%llu",
			 (unsigned long long)id, (unsigned long long)i);
		err = batch_add_items(b, id, i, &item, 1);
	}
	return err ? err : batch_ready(b, &batch);
}

struct found {
	struct batch all[4096];
	size_t n;
};

static void find(void *arg, struct batch *batch)
{
	struct found *found = arg;

	assert_true(found->n < ARRAY_SIZE(found->all));
	found->all[found->n++] = *batch;
}

static struct found *list(struct batches *b)
{
	struct found *found = calloc(1, sizeof(*found));

	assert_int_equal(batch_each(b, find, found), 0);
	return found;
}

static void found_free(struct found *found)
{
	for (size_t i = 0; i < found->n; i++)
		batch_clear(&found->all[i]);
	free(found);
}

static uint64_t count_items(struct batches *b, uint64_t id)
{
	struct batch_item items[100];
	uint64_t first = 0;
	ssize_t n;

	while ((n = batch_items(b, id, first, items, 100)) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			char path[64];

			snprintf(path, sizeof(path), "/%llu/new\nline%llu",
				 (unsigned long long)id,
				 (unsigned long long)(first + i));
			assert_string_equal(items[i].path, path);
			assert_string_equal(items[i].as, path);
		}
		batch_items_free(items, n);
		first += n;
	}
	assert_int_equal(n, 0);
	return first;
}

static void test_stored(void **state)
{
	struct env *env = *state;
	struct batches *b = must_open(env);
	struct batch batch = sample(5), want = sample(5);
	struct found *found;

	assert_int_equal(batches_last_id(b), 0);
	assert_int_equal(add(b, 5, 250), 0);
	batch.counts = (struct batch_counts){1, 2, 3, 4, 5};
	strcpy(batch.reasons[0], "first: why");
	strcpy(batch.reasons[1], "second: why");
	assert_int_equal(batch_note(b, &batch), 0);
	/* One whose paths never were complete. */
	want.id = 6;
	assert_int_equal(batch_add(b, &want), 0);
	batches_close(b);

	b = must_open(env);
	assert_int_equal(batches_last_id(b), 6);
	found = list(b);
	assert_int_equal(found->n, 1);
	batch = found->all[0];
	want = sample(5);
	assert_true(batch.id == 5 && batch.recursive && !batch.release);
	assert_true(batch.uid == 1000 && batch.gid == 100);
	assert_int_equal(batch.ngroups, 3);
	assert_memory_equal(batch.groups, groups, sizeof(groups));
	assert_true(batch.budget == UINT64_MAX && batch.keep_until == 12345);
	assert_string_equal(batch.label, want.label);
	assert_string_equal(batch.op, "restore");
	assert_true(batch.files == 2 && batch.bytes == 3);
	assert_true(batch.asked_ns == 17 && !batch.ended_ns);
	assert_int_equal(batch.state, BATCH_WAITING);
	assert_true(batch.counts.done == 1 && batch.counts.already == 2 &&
		    batch.counts.refused == 3 && batch.counts.failed == 4 &&
		    batch.counts.moved == 5);
	assert_string_equal(batch.reasons[0], "first: why");
	assert_string_equal(batch.reasons[1], "second: why");
	assert_string_equal(batch.reasons[2], "");
	assert_int_equal(count_items(b, 5), 250);
	found_free(found);
	assert_int_equal(batch_drop(b, 5), 0);
	assert_int_equal(count_items(b, 5), 0);
	/* An id is not given out again, whatever was dropped. */
	assert_int_equal(batches_last_id(b), 6);
	batches_close(b);
}

static void test_ended(void **state)
{
	struct env *env = *state;
	struct batches *b = must_open(env);
	int64_t now = realtime_ns();
	struct found *found;

	for (uint64_t id = 1; id <= BATCH_ENDED_MAX + 20; id++) {
		struct batch batch = sample(id);

		assert_int_equal(add(b, id, 2), 0);
		batch.state = BATCH_FAILED;
		/* The first ones long ago. */
		batch.ended_ns = id <= 10 ? (int64_t)id : now + (int64_t)id;
		assert_int_equal(batch_end(b, &batch), 0);
		assert_int_equal(count_items(b, id), 0);
	}
	found = list(b);
	assert_int_equal(found->n, BATCH_ENDED_MAX);
	assert_int_equal(found->all[0].id, 21);
	assert_int_equal(found->all[0].state, BATCH_FAILED);
	found_free(found);
	batches_close(b);
}

/* ---- what is kept --------------------------------------------------------------- */

static void test_keep(void **state)
{
	struct env *env = *state;
	struct batches *b = must_open(env);
	int64_t later = realtime_ns() + 3600 * NSEC_PER_SEC;
	struct front_handle h = handle(1), other = handle(2);

	assert_int_equal(batch_kept_until(NULL, &h), 0);
	assert_int_equal(batch_kept_until(b, &h), 0);
	assert_int_equal(batch_keep(b, &h, later), 0);
	assert_true(batch_kept_until(b, &h) == later);
	assert_int_equal(batch_kept_until(b, &other), 0);
	assert_int_equal(batch_keep(b, &other, realtime_ns() - 1), 0);
	assert_int_equal(batch_kept_until(b, &other), 0);
	assert_int_equal(batch_keep(b, &h, later + 1), 0);
	for (unsigned int i = 100; i < 5000; i++) {
		h = handle(i);
		assert_int_equal(batch_keep(b, &h, later + i), 0);
	}
	h = handle(200);
	assert_int_equal(batch_keep(b, &h, 0), 0);
	assert_int_equal(batch_keep_sync(b), 0);
	batches_close(b);

	b = must_open(env);
	h = handle(1);
	assert_true(batch_kept_until(b, &h) == later + 1);
	assert_int_equal(batch_kept_until(b, &other), 0);
	for (unsigned int i = 100; i < 5000; i++) {
		h = handle(i);
		assert_true(batch_kept_until(b, &h) ==
			    (i == 200 ? 0 : later + i));
	}
	batches_close(b);
}

/* ---- crashes ----------------------------------------------------------------------- */

struct told {
	_Atomic(uint64_t) next;	   /* the id that is being added */
	_Atomic(bool) acked[4096]; /* batch_ready() came back */
	_Atomic(bool) ended[4096]; /* batch_end() was called */
	_Atomic(bool) kept[4096];  /* and synced */
};

/* The parent has had a thread of liburcu's, the child starts its own. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}

static void work(struct env *env, struct told *told)
{
	struct batches *b = NULL;
	char *why = NULL;

	if (batches_open(env->fd, &b, &why) || why)
		_exit(1);
	for (;;) {
		uint64_t id = ++told->next;
		struct front_handle h = handle((unsigned int)id);
		struct batch batch = sample(id);

		if (id >= 4000)
			_exit(2);
		if (add(b, id, id % 7))
			_exit(3);
		told->acked[id] = true;
		if (batch_keep(b, &h, INT64_MAX) || batch_keep_sync(b))
			_exit(4);
		told->kept[id] = true;
		if (id % 3)
			continue;
		told->ended[id] = true;
		batch.state = BATCH_DONE;
		batch.ended_ns = realtime_ns();
		if (batch_end(b, &batch))
			_exit(5);
	}
}

static void compare(struct env *env, struct told *told)
{
	struct batches *b = must_open(env);
	struct found *found = list(b);
	uint64_t next = told->next;
	size_t at = 0;

	for (uint64_t id = 1; id <= next; id++) {
		const struct batch *batch = NULL;
		struct front_handle h = handle((unsigned int)id);

		while (at < found->n && found->all[at].id < id)
			at++;
		if (at < found->n && found->all[at].id == id)
			batch = &found->all[at];
		if (told->kept[id])
			assert_true(batch_kept_until(b, &h) == INT64_MAX);
		if (!told->acked[id])
			continue;
		if (told->ended[id]) /* so may be forgotten, or not yet be */
			continue;
		assert_non_null(batch);
		assert_int_equal(batch->state, BATCH_WAITING);
		assert_int_equal(count_items(b, id), id % 7);
	}
	for (size_t i = 0; i < found->n; i++)
		assert_int_not_equal(found->all[i].state, BATCH_ASKED);
	found_free(found);
	batches_close(b);
}

static void test_kill(void **state)
{
	struct env *env = *state;
	struct told *told;

	told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(told, MAP_FAILED);
	srandom((unsigned int)getpid());
	for (int round = 0; round < 20; round++) {
		uint64_t before = told->next;
		pid_t pid = fork();
		int status;

		assert_true(pid >= 0);
		if (!pid)
			work(env, told);
		for (int i = 0; i < 12000 && told->next < before + 5; i++)
			usleep(1000);
		assert_true(told->next >= before + 5);
		usleep((useconds_t)random() % 20000);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		compare(env, told);
	}
	print_message("%llu batches\n", (unsigned long long)told->next);
	munmap(told, sizeof(*told));
}

/* ---- what is no batches.db ------------------------------------------------------------- */

static void scribble(struct env *env, off_t off, const void *bytes, size_t len)
{
	_cleanup_close_ int fd = openat(env->fd, "batches.db", O_RDWR);

	assert_true(fd >= 0);
	/* Its log would hide it. */
	unlinkat(env->fd, "batches.db-wal", 0);
	assert_int_equal(pwrite(fd, bytes, len, off), len);
}

static void put_aside(struct env *env, const char *what)
{
	struct batches *b = NULL;
	char *why = NULL;

	assert_int_equal(batches_open(env->fd, &b, &why), 0);
	assert_non_null(why);
	assert_non_null(strstr(why, what));
	assert_non_null(strstr(why, "batches.db.bad"));
	free(why);
	assert_int_equal(faccessat(env->fd, "batches.db.bad", F_OK, 0), 0);
	assert_int_equal(add(b, 100, 1), 0);
	batches_close(b);
}

static void test_bad(void **state)
{
	struct env *env = *state;
	char noise[8192];

	batches_close(must_open(env));
	memset(noise, 0x5a, sizeof(noise));
	scribble(env, 0, noise, sizeof(noise));
	put_aside(env, "damaged");
	/* Its version, at 60. */
	scribble(env, 60, "\0\0\0\x02", 4);
	put_aside(env, "newer");
	/* An inner page. */
	scribble(env, 4096, noise, 4096);
	put_aside(env, "damaged");
	batches_close(must_open(env));
}

/* Where none can be made, all else works. */
static void test_none(void **state)
{
	struct env *env = *state;
	struct front_handle h = handle(1);
	struct batches *b = NULL;
	struct batch batch = sample(1);
	struct found *found;
	char *why = NULL;

	assert_int_equal(mkdirat(env->fd, "batches.db", 0700), 0);
	assert_int_equal(batches_open(env->fd, &b, &why), 0);
	assert_non_null(why);
	free(why);
	assert_true(batch_add(b, &batch) < 0);
	assert_true(batch_ready(b, &batch) < 0);
	assert_int_equal(batches_last_id(b), 0);
	found = list(b);
	assert_int_equal(found->n, 0);
	found_free(found);
	assert_true(batch_keep(b, &h, INT64_MAX) < 0);
	/* For this mount it holds. */
	assert_true(batch_kept_until(b, &h) == INT64_MAX);
	batches_close(b);
	unlinkat(env->fd, "batches.db", AT_REMOVEDIR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_stored, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ended, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keep, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kill, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad, setup, teardown),
		cmocka_unit_test_setup_teardown(test_none, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
