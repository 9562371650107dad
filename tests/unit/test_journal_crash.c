/* SPDX-License-Identifier: MIT */
#include "journal_env.h"

/* Kills, full and failing disks, directories that are not where they were. */

/* What a child tells before it is killed. */
#define KILL_MAX 500000
struct told {
	uint64_t base; /* the first count */
	_Atomic(unsigned int) adds, dones;
	_Atomic(uint64_t) acked[KILL_MAX]; /* oid, by id */
	_Atomic(bool) dropped[KILL_MAX];   /* asked for */
	_Atomic(uint8_t) given[KILL_MAX];  /* counts, from base on */
	_Atomic(unsigned int) twice, most;
};

struct child {
	struct journal *j;
	struct told *told;
	uint64_t seed;
};

static void *child_thread(void *arg)
{
	struct child *c = arg;

	for (uint64_t i = 0;; i++) {
		struct intent two[2];
		uint64_t first, at;

		two[0] = sample(c->seed + 2 * i);
		two[1] = sample(c->seed + 2 * i + 1);
		if (journal_add(c->j, two, 2) || two[1].id >= KILL_MAX)
			return NULL;
		for (int k = 0; k < 2; k++)
			c->told->acked[two[k].id] = two[k].oid;
		c->told->adds++;
		if (i % 3 == 0) {
			c->told->dropped[two[0].id] = true;
			journal_done(c->j, &two[0].id, 1);
		}
		if (journal_alloc(c->j, 1 + i % 40, &first))
			return NULL;
		at = first - c->told->base;
		if (at + 40 > KILL_MAX)
			return NULL;
		for (uint64_t k = at; k < at + 1 + i % 40; k++)
			if (c->told->given[k]++)
				c->told->twice++;
	}
}

static void run_and_kill(struct env *env, struct told *told, uint64_t seed)
{
	struct child c[4];
	unsigned int before = told->adds;
	pthread_t thread;
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) {
		struct journal *j = NULL;
		char *why;

		if (journal_open(env->fd, &j, &why))
			_exit(1);
		for (int i = 0; i < 4; i++) {
			c[i] = (struct child){j, told, seed + (i << 20)};
			pthread_create(&thread, NULL, child_thread, &c[i]);
		}
		pause();
		_exit(2);
	}
	for (int i = 0; i < 12000 && told->adds < before + 100; i++)
		usleep(5000);
	/* It was at work, and is. */
	assert_true(told->adds >= before + 100);
	usleep(50000);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

static void test_kill(void **state)
{
	struct env *env = *state;
	struct journal *j = must_open(env->fd);
	struct told *told;

	told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(told, MAP_FAILED);
	assert_int_equal(journal_alloc(j, 1, &told->base), 0);
	journal_close(j);
	for (int round = 0; round < 8; round++) {
		_cleanup_free_ struct intent *all = NULL;
		size_t n, at = 0;

		memset(told->acked, 0, sizeof(told->acked));
		memset(told->dropped, 0, sizeof(told->dropped));
		run_and_kill(env, told, 1 + ((uint64_t)round << 32));
		assert_int_equal(told->twice, 0);

		j = must_open(env->fd);
		assert_int_equal(journal_intents(j, &all, &n), 0);
		for (uint64_t id = 1; id < KILL_MAX; id++) {
			while (at < n && all[at].id < id)
				at++;
			if (!told->acked[id])
				continue;
			if (at == n || all[at].id != id) {
				assert_true(told->dropped[id]);
				continue;
			}
			assert_true(all[at].oid == told->acked[id]);
			assert_sample(&all[at]);
		}
		for (size_t i = 0; i < n; i++)
			journal_done(j, &all[i].id, 1);
		journal_close(j);
	}
	assert_true(told->given[KILL_MAX - 1] == 0);
	munmap(told, sizeof(*told));
}

static void one_failure(struct journal *j, _Atomic(int) *fault, int err)
{
	struct intent kept = sample(1), lost = sample(2);
	size_t before = count_intents(j);
	uint64_t first, again;
	char buf[8];

	assert_int_equal(journal_add(j, &kept, 1), 0);
	assert_int_equal(journal_alloc(j, 1, &first), 0);
	lost.id = 77;
	*fault = err;
	journal_done(j, &kept.id, 1);
	journal_put(j, "k", "v1", 2);
	assert_int_equal(journal_add(j, &lost, 1), -err);
	assert_int_equal(lost.id, 77);
	journal_put(j, "k", "v22", 3);
	assert_int_equal(journal_add(j, &lost, 1), -err);
	again = 0;
	assert_int_equal(journal_alloc(j, 10000, &again), -err);
	assert_int_equal(again, 0);
	*fault = 0;
	assert_int_equal(journal_alloc(j, 1, &again), 0);
	assert_true(again > first);
	/* The drop and the newest value were kept for this commit. */
	assert_int_equal(journal_get(j, "k", buf, sizeof(buf)), 3);
	assert_memory_equal(buf, "v22", 3);
	assert_int_equal(count_intents(j), before);
	assert_int_equal(journal_add(j, &lost, 1), 0);
	assert_true(lost.id > kept.id);
	assert_int_equal(count_intents(j), before + 1);
}

static void test_failures(void **state)
{
	struct env *env = *state;
	struct journal *j = must_open(env->fd);
	struct journal_stats stats;

	for (int i = 0; i < 20; i++) {
		one_failure(j, &fail_pwrite, ENOSPC);
		one_failure(j, &fail_pwrite, EIO);
		one_failure(j, &fail_sync, EIO);
	}
	journal_stats(j, &stats);
	assert_true(stats.failed >= 180);
	/* The last commit fails: closes all the same, and leaves the intent. */
	{
		struct intent intent = sample(9);

		assert_int_equal(journal_add(j, &intent, 1), 0);
		fail_sync = EIO;
		journal_done(j, &intent.id, 1);
		journal_close(j);
		fail_sync = 0;
	}
	j = must_open(env->fd);
	assert_true(count_intents(j) >= 60);
	journal_close(j);
}

/* The WAL starts again from its beginning: it does not grow with use. */
static void test_wal_bounded(void **state)
{
	struct env *env = *state;
	struct journal *j = must_open(env->fd);
	struct stat st;

	for (int i = 0; i < 2000; i++) {
		struct intent intent = sample(i);

		assert_int_equal(journal_add(j, &intent, 1), 0);
		journal_done(j, &intent.id, 1);
	}
	assert_int_equal(fstatat(env->fd, "journal.db-wal", &st, 0), 0);
	assert_true(st.st_size < 2 << 20);
	journal_close(j);
}

/* The directory gets another name, and another directory its old one. */
static void test_renamed(void **state)
{
	struct env *env = *state;
	char a[80], b[80];
	struct journal *j;
	struct intent intent = sample(3);
	int fd;

	snprintf(a, sizeof(a), "%s/a", env->dir);
	snprintf(b, sizeof(b), "%s/b", env->dir);
	assert_int_equal(mkdir(a, 0700), 0);
	fd = open(a, O_RDONLY | O_DIRECTORY);
	j = must_open(fd);
	assert_int_equal(rename(a, b), 0);
	assert_int_equal(mkdir(a, 0700), 0);
	assert_int_equal(journal_add(j, &intent, 1), 0);
	journal_close(j);
	j = must_open(fd);
	assert_int_equal(count_intents(j), 1);
	journal_close(j);
	assert_int_equal(rmdir(a), 0); /* nothing was put there */
	close(fd);
}

/* In a mount namespace of its own; the exit status says where it failed. */
#define CHECK(cond)                                                            \
	do {                                                                   \
		if (!(cond)) {                                                 \
			fprintf(stderr, "line %d: %s\n", __LINE__, #cond);     \
			_exit(1);                                              \
		}                                                              \
	} while (0)

static void run_in_namespace(struct env *env, void (*run)(struct env *env))
{
	int status;
	pid_t pid;

	if (geteuid() != 0)
		skip();
	pid = fork();
	if (!pid) {
		if (unshare(CLONE_NEWNS) < 0)
			_exit(77);
		CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
		run(env);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

static void add_many(struct journal *j, int n, size_t batch)
{
	struct intent many[64];
	uint64_t ids[64];

	for (int i = 0; i < n; i++) {
		for (size_t k = 0; k < batch; k++)
			many[k] = sample(i * batch + k);
		CHECK(journal_add(j, many, batch) == 0);
		for (size_t k = 0; k < batch; k++)
			ids[k] = many[k].id;
		if (i + 1 < n)
			journal_done(j, ids, batch);
	}
}

static void overmounted(struct env *env)
{
	char meta[80];
	struct journal *j = NULL;
	struct intent *all;
	struct stat st;
	char *why;
	size_t n;
	int fd;

	snprintf(meta, sizeof(meta), "%s/.tierfs", env->dir);
	CHECK(mkdir(meta, 0700) == 0);
	fd = open(meta, O_RDONLY | O_DIRECTORY);
	CHECK(journal_open(fd, &j, &why) == 0);
	CHECK(mount("over", env->dir, "tmpfs", 0, NULL) == 0);
	CHECK(mkdir(meta, 0700) == 0); /* a trap with the same path */
	add_many(j, 1000, 1);
	journal_close(j);
	/* Everything is opened anew below the mount. */
	CHECK(journal_open(fd, &j, &why) == 0);
	CHECK(!journal_created(j));
	add_many(j, 1000, 1);
	CHECK(journal_intents(j, &all, &n) == 0 && n == 2);
	journal_close(j);
	CHECK(rmdir(meta) == 0); /* nothing fell into it */
	CHECK(umount(env->dir) == 0);
	CHECK(stat(meta, &st) == 0 && st.st_nlink == 2);
	CHECK(faccessat(fd, "journal.db", F_OK, 0) == 0);
}

static void test_overmounted(void **state)
{
	run_in_namespace(*state, overmounted);
}

/* Not a block is free, and intents commit. */
static void full(struct env *env)
{
	static char block[65536];
	struct journal *j = NULL;
	struct intent *all;
	char *why;
	size_t n;
	int fd, out;

	CHECK(mount("small", env->dir, "tmpfs", 0, "size=16m") == 0);
	fd = open(env->dir, O_RDONLY | O_DIRECTORY);
	CHECK(journal_open(fd, &j, &why) == 0);
	out = openat(fd, "filler", O_WRONLY | O_CREAT, 0600);
	while (write(out, block, sizeof(block)) > 0)
		;
	while (write(out, block, 1) > 0)
		;
	CHECK(errno == ENOSPC);
	add_many(j, 3000, 64);
	journal_close(j);
	CHECK(journal_open(fd, &j, &why) == 0);
	add_many(j, 100, 64);
	CHECK(journal_intents(j, &all, &n) == 0 && n == 128);
	journal_close(j);
}

static void test_full(void **state)
{
	run_in_namespace(*state, full);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_kill),	TEST(test_failures),
		TEST(test_wal_bounded), TEST(test_renamed),
		TEST(test_overmounted), TEST(test_full),
	};

	return cmocka_run_group_tests_name("journal_crash", tests, NULL, NULL);
}
