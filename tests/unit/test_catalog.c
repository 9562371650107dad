/* SPDX-License-Identifier: MIT */
#include "catalog_env.h"

static void test_events(void **state)
{
	struct env *env = *state;
	struct front_handle gone;

	env_open(env);
	put_dir(env, "/d");
	put_dir(env, "/d/e");
	put_file(env, "/f", 0);
	put_file(env, "/d/g", 1000);
	put_file(env, "/d/e/h", 5000);
	settled(env, false);
	assert_known(env, "/f");
	assert_known(env, "/d/g");
	assert_known(env, "/d/e/h");
	assert_int_equal(files_in(env, ""), 3);
	assert_int_equal(files_in(env, "/d"), 2);
	assert_int_equal(files_in(env, "/d/e"), 1);

	move_it(env, "/d/e", "/x");
	move_it(env, "/f", "/x/f");
	settled(env, false);
	assert_known(env, "/x/h");
	assert_known(env, "/x/f");
	assert_int_equal(files_in(env, "/d"), 1);
	assert_int_equal(files_in(env, "/x"), 2);
	assert_int_equal(files_in(env, ""), 3);

	gone = handle_of(env, "/d/g");
	take(env, "/d/g");
	take(env, "/d");
	settled(env, false);
	assert_null(path_of(env, &gone));
	assert_int_equal(files_in(env, ""), 2);
}

static const struct histogram *report(struct env *env, struct histogram *h)
{
	assert_int_equal(catalog_report(env->r, env->c->root_key, h), 0);
	return h;
}

static void test_changed(void **state)
{
	struct env *env = *state;
	struct front_handle file;
	struct catalog_row row;
	struct histogram h;
	int fd;

	env_open(env);
	put_file(env, "/f", 3);
	settled(env, false);
	fd = openat(env->front->root_fd, "f", O_WRONLY);
	assert_int_equal(ftruncate(fd, 9000), 0);
	assert_int_equal(fchown(fd, 12, 13), 0);
	close(fd);
	file = handle_of(env, "/f");
	catalog_changed(env->c, &file, NULL, NULL);
	settled(env, false);
	assert_int_equal(catalog_get(env->r, catalog_key(&file), &row), 0);
	assert_int_equal(row.size, 9000);
	assert_int_equal(row.uid, 12);
	assert_int_equal(row.gid, 13);
	assert_int_equal(row.nlink, 1);
	report(env, &h);
	assert_int_equal(h.states[SPILL_NONE].files, 1);
	assert_int_equal(h.states[SPILL_NONE].bytes, 9000);
	assert_int_equal(h.sizes[14].files, 1);
	assert_int_equal(h.nages, 1);
	histogram_free(&h);
}

static void set_ea(struct env *env, const char *path, const struct spill_ea *ea)
{
	int fd = openat(env->front->root_fd, path + 1, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(front_ea_set(env->front, fd, ea), 0);
	close(fd);
}

static void test_states(void **state)
{
	const struct spill_ea released = {.state = SPILL_RELEASED,
					  .size = 123456,
					  .flags = TIERFS_EA_F_PINNED,
					  .ncopies = 1,
					  .copies = {{.oid = 5}}};
	struct env *env = *state;
	struct catalog_row row;
	struct front_handle file;

	env_open(env);
	put_file(env, "/f", 0);
	set_ea(env, "/f", &released);
	tell(env, catalog_changed, "/f");
	settled(env, false);
	file = handle_of(env, "/f");
	assert_int_equal(catalog_get(env->r, catalog_key(&file), &row), 0);
	assert_int_equal(row.state, SPILL_RELEASED);
	assert_int_equal(row.size, 123456);
	assert_int_equal(row.flags, CATALOG_PINNED);
}

/* A file with several names is counted once, in one that it has. */
static void test_links(void **state)
{
	struct env *env = *state;

	env_open(env);
	put_dir(env, "/a");
	put_dir(env, "/b");
	put_file(env, "/a/f", 10);
	settled(env, false);
	assert_int_equal(linkat(env->front->root_fd, "a/f", env->front->root_fd,
				"b/g", 0),
			 0);
	tell(env, catalog_named, "/b/g");
	settled(env, false);
	assert_int_equal(files_in(env, ""), 1);
	assert_int_equal(files_in(env, "/a"), 1);
	take(env, "/a/f");
	settled(env, false);
	assert_int_equal(files_in(env, "/a"), 0);
	assert_int_equal(files_in(env, "/b"), 1);
	assert_known(env, "/b/g");
	take(env, "/b/g");
	settled(env, false);
	assert_int_equal(files_in(env, ""), 0);
}

static void test_heat_goes_along(void **state)
{
	struct env *env = *state;
	struct front_handle from, to, parent;
	struct catalog_row row, old;
	const char *name;

	env_open(env);
	put_file(env, "/f", 10);
	tell(env, catalog_accessed, "/f");
	settled(env, false);
	from = handle_of(env, "/f");
	assert_int_equal(catalog_get(env->r, catalog_key(&from), &old), 0);
	assert_true(old.heat != HEAT_NONE);
	make_file(env, "/new", 10);
	parent = parent_of(env, "/f", &name);
	to = handle_of(env, "/new");
	assert_int_equal(
		renameat(env->front->root_fd, "new", env->front->root_fd, "f"),
		0);
	catalog_swapped(env->c, &from, &to, &parent, name);
	settled(env, false);
	assert_int_equal(catalog_get(env->r, catalog_key(&to), &row), 0);
	assert_true(row.heat == old.heat);
	assert_true(row.access >= old.access);
	assert_null(path_of(env, &from));
	assert_int_equal(files_in(env, ""), 1);
}

/* What was written is there for the next mount. */
static void test_again(void **state)
{
	struct env *env = *state;
	struct catalog_stats stats;

	env_open(env);
	put_dir(env, "/d");
	put_file(env, "/d/f", 10);
	env_close(env);
	env_open(env);
	assert_known(env, "/d/f");
	catalog_stats(env->c, &stats);
	assert_int_equal(stats.files, 1);
	assert_int_equal(stats.dirs, 2);
	put_dir(env, "/d/e");
	env_close(env);
	env_open(env);
	catalog_stats(env->c, &stats);
	assert_int_equal(stats.dirs, 3);
}

struct judge {
	int64_t base;
	_Atomic(unsigned int) calls;
	/* Once it is told of what was written. */
	struct catalog_reader *rows;
	int64_t told;
	unsigned int unread;
};

/* Due by size, rank by the path's length. */
static void judge_it(void *arg, const char *path, struct catalog_row *row)
{
	struct judge *j = arg;

	atomic_fetch_add(&j->calls, 1);
	row->due = j->base + (int64_t)row->size;
	row->rank = row->size == 7 ? INT64_MAX : (int64_t)strlen(path);
}

static void judged(struct env *env)
{
	struct catalog_stats stats;

	do {
		settled(env, false);
		catalog_stats(env->c, &stats);
	} while (stats.judging);
}

struct found {
	char names[400];
};

static bool each_row(void *arg, const struct catalog_row *row)
{
	struct found *found = arg;

	strcat(found->names, row->name);
	return true;
}

static bool each_path(void *arg, const char *path,
		      const struct catalog_row *row)
{
	struct found *found = arg;

	strcat(found->names, path);
	return true;
}

static void assert_coldest(struct env *env, const char *names)
{
	struct found found = {""};

	assert_int_equal(catalog_coldest(env->r, SPILL_NONE, INT64_MIN, 100,
					 each_row, &found),
			 0);
	assert_string_equal(found.names, names);
}

/* What is told can be read. */
static void was_judged(void *arg, int64_t due)
{
	struct judge *judge = arg;
	int64_t next = INT64_MAX;

	if (catalog_next_due(judge->rows, &next) || next > due)
		judge->unread++;
	judge->told = due;
}

static void test_judged(void **state)
{
	struct judge judge = {.base = 1000};
	struct env *env = *state;

	env_open(env);
	judge.rows = env->r;
	put_file(env, "/b", 7);
	settled(env, false);
	catalog_judge(env->c, judge_it, was_judged, &judge, NSEC_PER_SEC, 1);
	judged(env);
	assert_int_equal(judge.told, 1007);
	for (int i = 6; i > 0; i--) {
		char name[8];

		snprintf(name, sizeof(name), "/f%d", i);
		put_file(env, name, i);
		judged(env);
		assert_int_equal(judge.told, 1000 + i);
	}
	catalog_judge(env->c, NULL, NULL, NULL, NSEC_PER_SEC, 1);
	assert_int_equal(judge.unread, 0);
}

static void test_judge(void **state)
{
	struct judge judge = {.base = 1000}, other = {.base = 5000};
	struct env *env = *state;
	struct found found = {""};
	unsigned int calls;
	uint64_t position;
	int64_t next;

	env_open(env);
	put_dir(env, "/d");
	put_dir(env, "/d/long");
	put_file(env, "/d/long/a", 5);
	put_file(env, "/d/bb", 6);
	put_file(env, "/c", 7);
	settled(env, false);
	assert_int_equal(catalog_next_due(env->r, &next), 0);
	assert_true(next == INT64_MAX);
	assert_coldest(env, "");

	catalog_judge(env->c, judge_it, NULL, &judge, NSEC_PER_SEC, 1);
	judged(env);
	assert_int_equal(judge.calls, 3);
	assert_int_equal(catalog_next_due(env->r, &next), 0);
	assert_int_equal(next, 1005);
	assert_int_equal(catalog_due(env->r, SPILL_MIGRATED, 1006, 100,
				     each_row, &found),
			 0);
	assert_string_equal(found.names, "");
	assert_int_equal(
		catalog_due(env->r, SPILL_NONE, 1006, 100, each_row, &found),
		0);
	assert_string_equal(found.names, "abb");
	assert_coldest(env, "bba");
	assert_int_equal(catalog_position(env->r, SPILL_NONE, 9, &position), 0);
	assert_int_equal(position, 1);

	/* What is below a directory that was moved has another path. */
	move_it(env, "/d/long", "/x");
	judged(env);
	assert_coldest(env, "abb");

	put_file(env, "/e", 8);
	judged(env);
	assert_coldest(env, "eabb");

	/* The same rules after a remount: nothing is judged anew. */
	env_close(env);
	env_open(env);
	calls = judge.calls;
	catalog_judge(env->c, judge_it, NULL, &judge, NSEC_PER_SEC, 1);
	judged(env);
	assert_int_equal(judge.calls, calls);
	catalog_judge(env->c, judge_it, NULL, &other, NSEC_PER_SEC, 2);
	judged(env);
	assert_int_equal(other.calls, 4);
	assert_int_equal(catalog_next_due(env->r, &next), 0);
	assert_int_equal(next, 5005);
	catalog_judge(env->c, NULL, NULL, NULL, NSEC_PER_SEC, 2);
	put_file(env, "/f", 8);
	judged(env);
	assert_int_equal(other.calls, 4);
}

static void test_find(void **state)
{
	struct catalog_filter filter = {.size_max = UINT64_MAX,
					.access_min = INT64_MIN,
					.access_max = INT64_MAX,
					.mtime_min = INT64_MIN,
					.mtime_max = INT64_MAX,
					.ctime_min = INT64_MIN,
					.ctime_max = INT64_MAX};
	struct env *env = *state;
	struct found found = {""};
	struct front_handle dir;

	env_open(env);
	put_dir(env, "/d");
	put_dir(env, "/d/e");
	put_file(env, "/d/a.c", 5);
	put_file(env, "/d/e/b.c", 6);
	put_file(env, "/d/e/b.h", 6);
	put_file(env, "/c.c", 7);
	settled(env, false);
	dir = handle_of(env, "/d");
	filter.name = "*.c";
	assert_int_equal(catalog_find(env->r, catalog_key(&dir), &filter,
				      each_path, &found),
			 0);
	assert_string_equal(found.names, "/d/a.c/d/e/b.c");
	filter.size_min = 6;
	found.names[0] = 0;
	assert_int_equal(catalog_find(env->r, env->c->root_key, &filter,
				      each_path, &found),
			 0);
	assert_string_equal(found.names, "/c.c/d/e/b.c");
	assert_int_equal(
		catalog_find(env->r, 12345678901, &filter, each_path, &found),
		-ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_events),
		TEST(test_changed),
		TEST(test_states),
		TEST(test_links),
		TEST(test_heat_goes_along),
		TEST(test_again),
		TEST(test_judge),
		TEST(test_judged),
		TEST(test_find),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
