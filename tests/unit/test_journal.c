/* SPDX-License-Identifier: MIT */
#include "journal_env.h"

static void test_round_trip(void **state)
{
	static const uint64_t oids[] = {1,	   22,	       46,
					INT64_MAX, 1ULL << 63, UINT64_MAX};
	struct env *env = *state;
	_cleanup_free_ struct intent *all = NULL;
	struct intent in[ARRAY_SIZE(oids)];
	struct journal *j = must_open(env->fd);
	struct stat st;
	size_t n = 99;

	assert_true(journal_created(j));
	assert_int_equal(journal_intents(j, &all, &n), 0);
	assert_int_equal(n, 0);
	for (size_t i = 0; i < ARRAY_SIZE(oids); i++)
		in[i] = sample(oids[i]);
	assert_int_equal(journal_add(j, in, ARRAY_SIZE(oids)), 0);
	for (size_t i = 0; i < ARRAY_SIZE(oids); i++)
		assert_int_equal(in[i].id, i + 1);
	journal_done(j, (uint64_t[]){in[1].id, in[2].id}, 2);
	journal_close(j);

	assert_int_equal(fstatat(env->fd, "journal.db", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(fstatat(env->fd, "journal.db-shm", &st, 0), -1);

	j = must_open(env->fd);
	assert_false(journal_created(j));
	assert_int_equal(journal_intents(j, &all, &n), 0);
	assert_int_equal(n, 4);
	for (size_t i = 0; i < n; i++) {
		assert_true(all[i].oid == oids[i ? i + 2 : 0]);
		assert_true(all[i].id == in[i ? i + 2 : 0].id);
		assert_sample(&all[i]);
	}
	in[0] = sample(5);
	assert_int_equal(journal_add(j, in, 1), 0);
	assert_int_equal(in[0].id, ARRAY_SIZE(oids) + 1);
	journal_close(j);
}

static void test_values(void **state)
{
	struct env *env = *state;
	struct journal *j = must_open(env->fd);
	char buf[8];

	assert_int_equal(journal_get(j, "a", buf, sizeof(buf)), -ENOENT);
	journal_put(j, "a", "old", 3);
	journal_put(j, "b", "", 0);
	journal_put(j, "a", "newer", 5);
	assert_int_equal(journal_get(j, "a", buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "newer", 5);
	assert_int_equal(journal_get(j, "a", buf, 4), -ERANGE);
	assert_int_equal(journal_get(j, "b", buf, 0), 0);
	journal_put(j, "a", "last", 4);
	journal_close(j);
	j = must_open(env->fd);
	assert_int_equal(journal_get(j, "a", buf, sizeof(buf)), 4);
	assert_memory_equal(buf, "last", 4);
	journal_close(j);
}

/* Nobody asks for anything, and yet it is committed. */
static void test_lazy_in_time(void **state)
{
	struct env *env = *state;
	struct journal *j = must_open(env->fd);
	struct intent intent = sample(1);
	int64_t took = INT64_MAX;

	/* Within a second, and some more for the commit: on a busy machine not
	 * each time. */
	for (unsigned int i = 1; i <= 5 && took > 3 * NSEC_PER_SEC / 2; i++) {
		struct journal_stats stats;
		int64_t start;

		assert_int_equal(journal_add(j, &intent, 1), 0);
		start = monotonic_ns();
		journal_done(j, &intent.id, 1);
		do {
			usleep(10000);
			journal_stats(j, &stats);
			took = monotonic_ns() - start;
		} while (stats.done < i && took < 30 * NSEC_PER_SEC);
		assert_int_equal(stats.done, i);
	}
	assert_true(took <= 3 * NSEC_PER_SEC / 2);
	journal_close(j);
}

struct async_add {
	struct journal_req req;
	struct intent intent;
	struct journal *j;
	_Atomic(int) calls;
	int err;
	pthread_t thread;
};

static void async_done(struct journal_req *req, int err)
{
	struct async_add *add = container_of(req, struct async_add, req);

	add->err = err;
	add->thread = pthread_self();
	if (!err) /* allowed here */
		journal_done(add->j, &add->intent.id, 1);
	add->calls++;
}

static void test_async(void **state)
{
	struct env *env = *state;
	struct journal *j = must_open(env->fd);
	struct async_add adds[100] = {0};

	sync_sleep_us = 1000;
	for (int i = 0; i < 100; i++) {
		adds[i].intent = sample(i);
		adds[i].j = j;
		adds[i].req.intents = &adds[i].intent;
		adds[i].req.n = 1;
		adds[i].req.done = async_done;
		journal_add_async(j, &adds[i].req);
	}
	journal_close(j); /* commits what is queued, drops included */
	for (int i = 0; i < 100; i++) {
		assert_int_equal(adds[i].calls, 1);
		assert_int_equal(adds[i].err, 0);
		assert_int_equal(adds[i].intent.id, i + 1);
		assert_false(pthread_equal(adds[i].thread, pthread_self()));
	}
	sync_sleep_us = 0;
	j = must_open(env->fd);
	assert_int_equal(count_intents(j), 0);
	journal_close(j);
}

#define THREADS 16
#define EACH	50

static void *adder(void *arg)
{
	for (int i = 0; i < EACH; i++) {
		struct intent intent = sample(i);

		if (journal_add(arg, &intent, 1))
			return arg;
	}
	return NULL;
}

static void test_group_commit(void **state)
{
	struct env *env = *state;
	struct journal *j = must_open(env->fd);
	struct journal_stats stats;
	pthread_t threads[THREADS];
	struct intent intent = sample(1);
	unsigned int before;
	void *ret;

	assert_int_equal(journal_add(j, &intent, 1), 0);
	before = syncs;
	for (int i = 0; i < 20; i++)
		assert_int_equal(journal_add(j, &intent, 1), 0);
	assert_int_equal(syncs - before, 20); /* one a commit */

	sync_sleep_us = 2000; /* an SSD's fsync */
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, adder, j);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &ret);
		assert_null(ret);
	}
	journal_stats(j, &stats);
	assert_int_equal(stats.added, THREADS * EACH + 21);
	assert_int_equal(stats.queued, 0);
	assert_true(stats.commits < 21 + THREADS * EACH / 4);
	assert_int_equal(count_intents(j), THREADS * EACH + 21);
	journal_close(j);
}

static void test_counts(void **state)
{
	struct env *env = *state;
	struct journal *j = must_open(env->fd);
	struct journal_stats stats;
	uint64_t began = (uint64_t)time(NULL) - 60, next = 0, first;

	for (int i = 1; i < 300; i++) {
		assert_int_equal(journal_alloc(j, i, &first), 0);
		/* A new database begins past all that a lost one gave out. */
		assert_true(first > began << 20);
		assert_true(first == next || i == 1);
		next = first + i;
	}
	journal_stats(j, &stats);
	assert_true(stats.commits < 15);
	journal_close(j);
	j = must_open(env->fd); /* a clean end wastes none */
	assert_int_equal(journal_alloc(j, 1000000, &first), 0);
	assert_true(first == next);
	assert_int_equal(journal_alloc(j, 1, &first), 0);
	assert_true(first == next + 1000000);
	assert_int_equal(journal_alloc(j, 1ULL << 56, &first), -EOVERFLOW);
	assert_true(first == next + 1000000);
	journal_close(j);
}

static char *slurp(struct env *env, size_t *ret_len)
{
	_cleanup_close_ int fd = openat(env->fd, "journal.db", O_RDONLY);
	struct stat st;
	char *buf;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	buf = malloc(st.st_size + 1);
	assert_non_null(buf);
	assert_int_equal(pread_full(fd, buf, st.st_size, 0), 0);
	*ret_len = st.st_size;
	return buf;
}

static void assert_refused(struct env *env, int err)
{
	_cleanup_free_ char *before = NULL, *after = NULL, *why = NULL;
	struct journal *j = (void *)1;
	size_t len, len2;

	before = slurp(env, &len);
	assert_int_equal(journal_open(env->fd, &j, &why), err);
	assert_ptr_equal(j, (void *)1);
	assert_non_null(why);
	assert_non_null(strstr(why, "journal.db"));
	after = slurp(env, &len2);
	assert_int_equal(len, len2);
	assert_memory_equal(before, after, len);
}

static void scribble(struct env *env, const void *data, size_t len, off_t off)
{
	_cleanup_close_ int fd =
		openat(env->fd, "journal.db", O_RDWR | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite_full(fd, data, len, off), 0);
}

static void exec_sql(struct env *env, const char *sql)
{
	char path[128];
	sqlite3 *db;

	snprintf(path, sizeof(path), "%s/journal.db", env->dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static void fill(struct env *env, int n)
{
	struct journal *j = must_open(env->fd);

	for (int i = 0; i < n; i++) {
		struct intent many[100];

		for (int k = 0; k < 100; k++)
			many[k] = sample(k + i * 100);
		assert_int_equal(journal_add(j, many, 100), 0);
	}
	journal_close(j);
}

static void test_damaged(void **state)
{
	struct env *env = *state;
	char junk[4096];

	memset(junk, 0x5a, sizeof(junk));
	scribble(env, junk, sizeof(junk), 0);
	assert_refused(env, -EBADMSG);
	unlinkat(env->fd, "journal.db", 0);

	fill(env, 20);
	/* With it, SQLite would take the page from there. */
	unlinkat(env->fd, "journal.db-wal", 0);
	scribble(env, junk, sizeof(junk), 6 * 4096);
	assert_refused(env, -EBADMSG);
	unlinkat(env->fd, "journal.db", 0);

	exec_sql(env, "CREATE TABLE t(a)");
	assert_refused(env, -EBADMSG);
	unlinkat(env->fd, "journal.db", 0);

	assert_int_equal(symlinkat("elsewhere", env->fd, "journal.db"), 0);
	{
		_cleanup_free_ char *why = NULL;
		struct journal *j;

		assert_int_equal(journal_open(env->fd, &j, &why), -ELOOP);
		assert_int_equal(faccessat(env->fd, "elsewhere", F_OK, 0), -1);
	}
}

static void test_newer(void **state)
{
	struct env *env = *state;

	fill(env, 1);
	exec_sql(env, "PRAGMA user_version = 2");
	assert_refused(env, -EPROTONOSUPPORT);
	exec_sql(env, "PRAGMA user_version = 0");
	assert_refused(env, -EBADMSG);
	exec_sql(env, "PRAGMA user_version = 1");
	fill(env, 1);
}

/* The disk's error is not taken for damage. */
static void test_unreadable(void **state)
{
	_cleanup_free_ char *why = NULL;
	struct env *env = *state;
	struct journal *j;

	fill(env, 20);
	unlinkat(env->fd, "journal.db-wal", 0);
	fail_pread = EIO;
	assert_int_equal(journal_open(env->fd, &j, &why), -EIO);
	assert_non_null(strstr(why, "cannot be read"));
	fail_pread = 0;
	fill(env, 1);
}

static void test_busy(void **state)
{
	struct env *env = *state;
	struct journal *j = must_open(env->fd);
	int status;
	pid_t pid = fork();

	if (!pid) {
		struct journal *k;
		char *why;

		_exit(journal_open(env->fd, &k, &why) == -EBUSY ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	journal_close(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_round_trip),	 TEST(test_values),
		TEST(test_lazy_in_time), TEST(test_async),
		TEST(test_group_commit), TEST(test_counts),
		TEST(test_damaged),	 TEST(test_newer),
		TEST(test_unreadable),	 TEST(test_busy),
	};

	return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
