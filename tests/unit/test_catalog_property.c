/* SPDX-License-Identifier: MIT */
/*
 * Whatever is done, told, dropped and lost: when the walk is through, each row
 * and each directory's histogram is what a fresh walk over the front says.
 *
 * TIERFS_TEST_SEED=N repeats a run, TIERFS_TEST_ROUNDS=N makes it longer.
 */
#include "catalog_check.h"

#include <signal.h>
#include <sys/wait.h>

struct world {
	struct env *env;
	unsigned int seed;
	unsigned int done;
};

static unsigned int pick(struct world *w, unsigned int n)
{
	return (unsigned int)rand_r(&w->seed) % n;
}

/* A path that may be there or not, "/" first. */
static void random_path(struct world *w, char ret[256])
{
	unsigned int depth = pick(w, 4);
	size_t len = 0;

	for (unsigned int i = 0; i < depth; i++)
		len += (size_t)sprintf(ret + len, "/d%u", pick(w, 4));
	sprintf(ret + len, pick(w, 3) ? "/f%u" : "/d%u", pick(w, 4));
}

/* What a path leads to, and where it is; false: nowhere. */
struct place {
	char path[256];
	struct front_handle file, parent;
	const char *name;
	bool is_dir, linked;
};

static bool look_up(struct world *w, struct place *p)
{
	struct front *front = w->env->front;
	struct catalog_seen seen;
	char dir[256];

	p->name = strrchr(p->path, '/') + 1;
	snprintf(dir, sizeof(dir), "%.*s", (int)(p->name - 1 - p->path),
		 p->path);
	p->file.len = 0;
	if (front_handle_at(front, front->root_fd, *dir ? dir + 1 : "",
			    &p->parent))
		return false;
	if (!catalog_look(front, front->root_fd, p->path + 1, &seen)) {
		p->file = seen.handle;
		p->is_dir = S_ISDIR(seen.type);
		p->linked = !p->is_dir && seen.nlink > 1;
	}
	return true;
}

static bool there(struct world *w, struct place *p)
{
	random_path(w, p->path);
	return look_up(w, p) && p->file.len;
}

static void tell_new(struct world *w, struct place *p)
{
	assert_true(look_up(w, p) && p->file.len);
	catalog_named(w->env->c, &p->file, &p->parent, p->name);
	w->done++;
}

static void do_create(struct world *w)
{
	struct place p;
	int fd;

	random_path(w, p.path);
	fd = openat(w->env->front->root_fd, p.path + 1,
		    O_WRONLY | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		return;
	assert_int_equal(ftruncate(fd, pick(w, 100000)), 0);
	close(fd);
	tell_new(w, &p);
}

static void do_mkdir(struct world *w)
{
	struct place p;

	random_path(w, p.path);
	if (!mkdirat(w->env->front->root_fd, p.path + 1, 0700))
		tell_new(w, &p);
}

static void tell_lost(struct world *w, const struct place *p)
{
	(p->linked ? catalog_unlinked : catalog_unnamed)(w->env->c, &p->file,
							 &p->parent, p->name);
}

static void do_remove(struct world *w)
{
	int root = w->env->front->root_fd, fd;
	struct stat st;
	struct place p;

	if (!there(w, &p))
		return;
	fd = openat(root, p.path + 1, O_PATH | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (unlinkat(root, p.path + 1, p.is_dir ? AT_REMOVEDIR : 0) == 0) {
		assert_int_equal(fstat(fd, &st), 0);
		if (!p.is_dir && !st.st_nlink && pick(w, 4))
			catalog_removed(w->env->c, &p.file, &p.parent, p.name);
		else
			tell_lost(w, &p);
		w->done++;
	}
	close(fd);
}

static void do_rename(struct world *w, unsigned int flags)
{
	int root = w->env->front->root_fd;
	struct catalog *c = w->env->c;
	struct place from, to;

	random_path(w, to.path);
	if (!there(w, &from) || !look_up(w, &to) ||
	    (to.file.len && front_handle_equal(&from.file, &to.file)) ||
	    renameat2(root, from.path + 1, root, to.path + 1, flags) < 0)
		return;
	if (to.file.len && !(flags & RENAME_EXCHANGE))
		tell_lost(w, &to);
	catalog_renamed(c, &from.file, &from.parent, from.name, &to.parent,
			to.name);
	if (flags & RENAME_EXCHANGE)
		catalog_renamed(c, &to.file, &to.parent, to.name, &from.parent,
				from.name);
	w->done++;
}

static void do_link(struct world *w)
{
	int root = w->env->front->root_fd;
	struct place from, to;

	if (!there(w, &from) || from.is_dir)
		return;
	random_path(w, to.path);
	if (!linkat(root, from.path + 1, root, to.path + 1, 0))
		tell_new(w, &to);
}

static void do_change(struct world *w)
{
	struct spill_ea ea = {.state = pick(w, SPILL_STATES),
			      .size = pick(w, 1 << 20),
			      .flags = pick(w, 2) ? TIERFS_EA_F_PINNED : 0,
			      .copies = {{.oid = 7}}};
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
				    {.tv_sec = pick(w, 2000000000)}};
	struct place p;
	int fd;

	if (!there(w, &p) || p.is_dir)
		return;
	fd = openat(w->env->front->root_fd, p.path + 1, O_RDWR);
	assert_true(fd >= 0);
	ea.ncopies = ea.state != SPILL_NONE;
	switch (pick(w, 3)) {
	case 0:
		assert_int_equal(ftruncate(fd, pick(w, 5000)), 0);
		break;
	case 1:
		assert_int_equal(futimens(fd, times), 0);
		break;
	default:
		assert_int_equal(front_ea_set(w->env->front, fd, &ea), 0);
	}
	close(fd);
	if (pick(w, 2))
		catalog_changed(w->env->c, &p.file, &p.parent, p.name);
	else
		catalog_changed(w->env->c, &p.file, NULL, NULL);
	w->done++;
}

static void do_swap(struct world *w)
{
	struct front *front = w->env->front;
	struct place p, old;
	int fd;

	/* With several names there are no swaps. */
	if (!there(w, &p) || p.is_dir || p.linked)
		return;
	old = p;
	old.name = NULL;
	fd = openat(front->staging_fd, "new", O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(
		renameat(front->staging_fd, "new", front->root_fd, p.path + 1),
		0);
	assert_true(look_up(w, &p));
	catalog_swapped(w->env->c, &old.file, &p.file, &p.parent, p.name);
	w->done++;
}

static void do_something(struct world *w)
{
	struct place p;

	switch (pick(w, 16)) {
	case 0 ... 2:
		do_create(w);
		break;
	case 3 ... 4:
		do_mkdir(w);
		break;
	case 5 ... 6:
		do_remove(w);
		break;
	case 7 ... 8:
		do_rename(w, 0);
		break;
	case 9:
		do_rename(w, RENAME_EXCHANGE);
		break;
	case 10:
		do_link(w);
		break;
	case 11 ... 13:
		do_change(w);
		break;
	case 14:
		do_swap(w);
		break;
	default:
		if (there(w, &p) && !p.is_dir)
			catalog_accessed(w->env->c, &p.file, &p.parent, p.name);
	}
}

static unsigned int from_env(const char *name, unsigned int other)
{
	const char *value = getenv(name);

	return value ? (unsigned int)atoi(value) : other;
}

static void test_told_dropped_lost(void **state)
{
	struct world w = {.env = *state};
	unsigned int rounds = from_env("TIERFS_TEST_ROUNDS", 40);

	w.seed = from_env("TIERFS_TEST_SEED", (unsigned int)realtime_ns());
	print_message("seed %u\n", w.seed);
	w.env->walk = true;
	w.env->walk_rate = 300;
	w.env->rules = 1;
	env_open(w.env);
	for (unsigned int i = 0; i < rounds; i++) {
		static const size_t limits[] = {65536, 65536, 5, 1, 0};
		unsigned int n = 1 + pick(&w, 300);
		bool walk;

		catalog_set_limit(w.env->c, limits[pick(&w, 5)]);
		for (unsigned int k = 0; k < n; k++) {
			do_something(&w);
			if (!pick(&w, 100))
				usleep(pick(&w, 3000));
		}
		if (!pick(&w, 4)) {
			/* Crashes; what is done then nobody is told. */
			struct catalog *c = w.env->c;

			catalog_reader_close(w.env->r);
			catalog_abandon(c);
			w.env->c = NULL;
			for (unsigned int k = pick(&w, 30); k > 0; k--)
				do_something(&w);
			/* While it walks, slowly: what it saw gets old. */
			env_open(w.env);
			catalog_set_limit(w.env->c, 65536);
			for (unsigned int k = 0; k < 150; k++) {
				do_something(&w);
				usleep(2000);
			}
		} else if (!pick(&w, 4)) {
			env_close(w.env);
			env_open(w.env);
		}
		if (!pick(&w, 4))
			env_judge(w.env, i + 2);
		walk = pick(&w, 3);
		settled(w.env, walk);
		if (!walk)
			continue;
		assert_catalog_true(w.env);
	}
	settled(w.env, true);
	assert_catalog_true(w.env);
	assert_true(w.done > rounds * 10);
}

static bool count_row(void *arg, const struct catalog_row *row)
{
	++*(unsigned int *)arg;
	return true;
}

static void ask(struct env *env)
{
	struct histogram h;
	unsigned int n = 0;
	uint64_t position;
	int64_t next;
	int err;

	err = catalog_report(env->r, env->c->root_key, &h);
	assert_int_equal(err, 0);
	histogram_free(&h);
	for (int state = 0; state < SPILL_STATES; state++) {
		assert_int_equal(catalog_coldest(env->r, state, INT64_MIN, 100,
						 count_row, &n),
				 0);
		assert_int_equal(catalog_due(env->r, state, INT64_MAX, 100,
					     count_row, &n),
				 0);
		assert_int_equal(catalog_position(env->r, state, 50, &position),
				 0);
	}
	assert_int_equal(catalog_next_due(env->r, &next), 0);
}

/* A tree that nobody told of, at work while it is adopted. */
static void test_first_walk(void **state)
{
	struct world w = {.env = *state};
	unsigned int rounds = from_env("TIERFS_TEST_ROUNDS", 40) / 8;

	w.seed = from_env("TIERFS_TEST_SEED", (unsigned int)realtime_ns());
	print_message("seed %u\n", w.seed);
	w.env->walk = true;
	w.env->walk_rate = 1000;
	w.env->rules = 1;
	for (unsigned int i = 0; i < rounds; i++) {
		for (unsigned int k = 0; k < 400; k++)
			do_something(&w);
		assert_int_equal(catalog_schema_remove(w.env->front), 0);
		env_open(w.env);
		if (pick(&w, 2))
			catalog_set_limit(w.env->c, 3);
		for (unsigned int k = 0; k < 300; k++) {
			do_something(&w);
			usleep(pick(&w, 1000));
			if (!pick(&w, 50))
				ask(w.env);
		}
		settled(w.env, true);
		assert_catalog_true(w.env);
		env_close(w.env);
	}
	env_open(w.env);
}

/* Without a walk, events alone keep it true. */
static void test_told(void **state)
{
	struct world w = {.env = *state};
	unsigned int rounds = from_env("TIERFS_TEST_ROUNDS", 40);
	struct catalog_stats stats;

	w.seed = from_env("TIERFS_TEST_SEED", (unsigned int)realtime_ns());
	print_message("seed %u\n", w.seed);
	w.env->walk = false;
	w.env->rules = 1;
	env_open(w.env);
	for (unsigned int i = 0; i < rounds; i++) {
		for (unsigned int n = 1 + pick(&w, 300); n > 0; n--) {
			do_something(&w);
			if (!pick(&w, 100))
				usleep(pick(&w, 3000));
		}
		settled(w.env, false);
		catalog_stats(w.env->c, &stats);
		assert_int_equal(stats.dropped, 0);
		assert_catalog_true(w.env);
	}
}

/* A process that works on it is killed at any time. */
static void test_killed(void **state)
{
	struct world w = {.env = *state};
	unsigned int rounds = from_env("TIERFS_TEST_ROUNDS", 40) / 6;

	w.seed = from_env("TIERFS_TEST_SEED", (unsigned int)realtime_ns());
	print_message("seed %u\n", w.seed);
	w.env->walk = true;
	w.env->rules = 1;
	for (unsigned int i = 0; i < rounds; i++) {
		unsigned int ms = 20 + pick(&w, 250);
		pid_t pid;
		int status;

		w.seed++;
		pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			alarm(60);
			env_open(w.env);
			for (;;)
				do_something(&w);
		}
		usleep(ms * 1000);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		env_open(w.env);
		settled(w.env, true);
		assert_catalog_true(w.env);
		env_close(w.env);
	}
	env_open(w.env);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_told),
		TEST(test_first_walk),
		TEST(test_told_dropped_lost),
		TEST(test_killed),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
