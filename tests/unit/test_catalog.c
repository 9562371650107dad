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
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_events),	    TEST(test_changed),
		TEST(test_states),	    TEST(test_links),
		TEST(test_heat_goes_along), TEST(test_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
