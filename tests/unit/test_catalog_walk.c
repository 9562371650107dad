/* SPDX-License-Identifier: MIT */
#include "catalog_check.h"

#include <sys/mount.h>

static int walk_setup(void **state)
{
	struct env *env;

	setup(state);
	env = *state;
	env->walk = true;
	return 0;
}

static void make_dir(struct env *env, const char *path)
{
	assert_int_equal(mkdirat(env->front->root_fd, path + 1, 0700), 0);
}

/* dirs directories, one in another, each with files. */
static void make_tree(struct env *env, const char *top, int dirs, int files)
{
	char path[2048], file[2100];
	size_t len;

	snprintf(path, sizeof(path), "%s", top);
	make_dir(env, path);
	for (int d = 0; d < dirs; d++) {
		for (int f = 0; f < files; f++) {
			snprintf(file, sizeof(file), "%s/f%d", path, f);
			make_file(env, file, (size_t)(d * 100 + f));
		}
		len = strlen(path);
		snprintf(path + len, sizeof(path) - len, "/d%d", d);
		make_dir(env, path);
	}
}

static void rename_quietly(struct env *env, const char *from, const char *to)
{
	assert_int_equal(renameat(env->front->root_fd, from + 1,
				  env->front->root_fd, to + 1),
			 0);
}

static void test_adopt(void **state)
{
	struct env *env = *state;

	make_tree(env, "/a", 20, 30);
	make_tree(env, "/b", 1, 9000);
	assert_int_equal(linkat(env->front->root_fd, "a/f1",
				env->front->root_fd, "b/link", 0),
			 0);
	assert_int_equal(symlinkat("a", env->front->root_fd, "s"), 0);
	env_open(env);
	settled(env, true);
	assert_catalog_true(env);
}

/* What nobody told of is found after an end that was not clean, and only then. */
static void test_unclean(void **state)
{
	struct env *env = *state;
	struct catalog_stats stats;

	make_tree(env, "/a", 5, 10);
	make_tree(env, "/gone", 5, 10);
	make_dir(env, "/to");
	env_open(env);
	settled(env, true);
	env_close(env);

	env_open(env);
	settled(env, true);
	catalog_stats(env->c, &stats);
	assert_int_equal(stats.walked, 0);
	catalog_reader_close(env->r);
	catalog_abandon(env->c);

	/* A directory, a file and a name elsewhere, others gone or new. */
	rename_quietly(env, "/a/d0/d1", "/to/moved");
	rename_quietly(env, "/a/f1", "/to/f");
	rename_quietly(env, "/a/f2", "/a/other");
	assert_int_equal(unlinkat(env->front->root_fd, "a/f3", 0), 0);
	rename_quietly(env, "/gone/d0/d1", "/kept");
	for (int i = 0; i < 10; i++) {
		char name[32];

		snprintf(name, sizeof(name), "gone/d0/f%d", i);
		unlinkat(env->front->root_fd, name, 0);
		snprintf(name, sizeof(name), "gone/f%d", i);
		unlinkat(env->front->root_fd, name, 0);
	}
	assert_int_equal(unlinkat(env->front->root_fd, "gone/d0", AT_REMOVEDIR),
			 0);
	assert_int_equal(unlinkat(env->front->root_fd, "gone", AT_REMOVEDIR),
			 0);
	make_tree(env, "/new", 3, 3);
	env_open(env);
	settled(env, true);
	catalog_stats(env->c, &stats);
	assert_true(stats.walked > 0);
	assert_catalog_true(env);
}

/* Ranks and dues were indexes once. What is known is kept. */
static void test_version_1(void **state)
{
	struct env *env = *state;
	struct catalog_stats stats;
	struct catalog_db db;

	make_tree(env, "/a", 20, 30);
	env->rules = 5;
	env_open(env);
	settled(env, true);
	env_close(env);
	assert_int_equal(catalog_db_open(env->front->meta_fd,
					 SQLITE_OPEN_READWRITE, &db),
			 0);
	assert_int_equal(
		catalog_db_exec(&db,
				"DROP TABLE ranks; DROP TABLE dues;"
				"CREATE INDEX files_rank ON files(state, rank)"
				" WHERE rank IS NOT NULL;"
				"CREATE INDEX files_state_due ON files(state,"
				" due) WHERE due IS NOT NULL;"
				"PRAGMA user_version = 1"),
		0);
	catalog_db_close(&db);
	env_open(env);
	settled(env, true);
	catalog_stats(env->c, &stats);
	assert_int_equal(stats.walked, 0);
	assert_catalog_true(env);
	env_close(env);
	env_open(env);
	settled(env, true);
	assert_catalog_true(env);
}

/* A walk that ended in the middle goes on where it was. */
static void test_restart(void **state)
{
	struct env *env = *state;
	struct catalog_stats stats;
	uint64_t walked = 0;

	make_tree(env, "/a", 50, 60);
	for (int i = 0; i < 1000 && !walked; i++) {
		env_open(env);
		while (!walked) {
			catalog_stats(env->c, &stats);
			walked = stats.files > 0 ? stats.walked : 0;
		}
		env_close(env);
	}
	assert_true(walked > 0);
	env_open(env);
	settled(env, true);
	catalog_stats(env->c, &stats);
	assert_catalog_true(env);
}

static int64_t meta(struct env *env, const char *key, const int64_t *set)
{
	struct catalog_db db;
	int64_t ret = -1;

	assert_int_equal(catalog_db_open(env->front->meta_fd,
					 SQLITE_OPEN_READWRITE, &db),
			 0);
	assert_int_equal(catalog_db_meta(&db, key, &ret), 0);
	if (set)
		assert_int_equal(catalog_db_set_meta(&db, key, *set), 0);
	catalog_db_close(&db);
	return ret;
}

/* Opens it, and abandons it in the middle of the walk. Files that were known at
 * first. */
static uint64_t die_walking(struct env *env, char **why)
{
	struct catalog_config config = {
		.front = env->front, .walk = true, .walk_rate = 400};
	struct catalog_stats stats, first;

	assert_int_equal(catalog_open(&config, &env->c, why), 0);
	catalog_stats(env->c, &first);
	for (int i = 0; i < 1000; i++) {
		catalog_stats(env->c, &stats);
		if (stats.files > first.files)
			break;
		usleep(10000);
	}
	assert_true(stats.files > first.files && stats.walking);
	catalog_abandon(env->c);
	env->c = NULL;
	return first.files;
}

/* A first walk syncs nothing, until it is through. What a power cut may have come
 * to meanwhile is not believed. */
static void test_filling(void **state)
{
	int64_t elsewhere = 4711;
	struct env *env = *state;
	char *why = NULL;

	if (!catalog_fill_place(env->front))
		skip(); /* the kernel does not tell mounts apart */
	make_tree(env, "/a", 50, 60);
	assert_int_equal(die_walking(env, &why), 0);
	assert_int_equal(meta(env, "filling", NULL),
			 catalog_fill_place(env->front));
	/* Here no power was cut. */
	assert_true(die_walking(env, &why) > 0);
	assert_null(why);
	meta(env, "filling", &elsewhere);
	assert_int_equal(die_walking(env, &why), 0);
	assert_non_null(why);
	assert_non_null(strstr(why, "power cut"));
	free(why);

	env_open(env);
	settled(env, true);
	assert_catalog_true(env);
	env_close(env);
	assert_int_equal(meta(env, "filling", &elsewhere), 0);

	/* A clean end in the middle is as good. */
	why = NULL;
	assert_int_equal(die_walking(env, &why), 0);
	free(why);
	env->walk_rate = 400;
	env_open(env);
	env_close(env);
	assert_int_equal(meta(env, "filling", NULL), 0);
	env->walk_rate = 0;
	env_open(env);
	settled(env, true);
	assert_catalog_true(env);
}

/* Nothing that was dropped is forgotten. */
static void test_dropped(void **state)
{
	struct env *env = *state;
	struct catalog_stats stats;
	char path[64], to[64];

	env_open(env);
	settled(env, true);
	catalog_set_limit(env->c, 3);
	for (int d = 0; d < 30; d++) {
		snprintf(path, sizeof(path), "/d%d", d);
		put_dir(env, path);
		for (int f = 0; f < 30; f++) {
			snprintf(path, sizeof(path), "/d%d/f%d", d, f);
			put_file(env, path, (size_t)f);
		}
		snprintf(path, sizeof(path), "/d%d/f3", d);
		snprintf(to, sizeof(to), "/d%d/g", d / 2);
		if (faccessat(env->front->root_fd, to + 1, F_OK, 0))
			move_it(env, path, to);
	}
	for (int d = 10; d < 20; d++) {
		snprintf(path, sizeof(path), "/d%d", d);
		snprintf(to, sizeof(to), "/d%d/sub", d - 10);
		move_it(env, path, to);
	}
	catalog_stats(env->c, &stats);
	assert_true(stats.dropped > 0);
	settled(env, true);
	assert_catalog_true(env);
}

static void resize(struct env *env, const char *path, off_t size)
{
	int fd = openat(env->front->root_fd, path + 1, O_WRONLY);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

/* A file that was changed by another name, which it lost again: nobody was told,
 * and the directory of that name does not lead to it. */
static void test_dropped_link(void **state)
{
	struct env *env = *state;
	int root = env->front->root_fd;
	struct front_handle file, dir;

	env_open(env);
	put_dir(env, "/a");
	put_dir(env, "/b");
	put_file(env, "/a/f", 10);
	settled(env, true);
	catalog_set_limit(env->c, 0);
	file = handle_of(env, "/a/f");
	dir = handle_of(env, "/b");
	assert_int_equal(linkat(root, "a/f", root, "b/g", 0), 0);
	catalog_named(env->c, &file, &dir, "g");
	resize(env, "/b/g", 20);
	catalog_changed(env->c, &file, &dir, "g");
	assert_int_equal(unlinkat(root, "b/g", 0), 0);
	catalog_unlinked(env->c, &file, &dir, "g");
	settled(env, true);
	assert_catalog_true(env);
}

/* Something new in dir with a number that is free again. */
static void make_numbered(struct env *env, const char *dir, uint64_t number,
			  void (*make)(struct env *env, const char *path),
			  char ret[64])
{
	struct front_handle handle;

	for (int i = 0; i < 10000; i++) {
		snprintf(ret, 64, "%s/n%d", dir, i);
		make(env, ret);
		handle = handle_of(env, ret);
		if (catalog_key(&handle) == number)
			return;
		tell(env, catalog_named, ret);
	}
	skip(); /* a file system that does not use them again */
}

static void make_small(struct env *env, const char *path)
{
	make_file(env, path, 10);
}

/* A file has the number of a directory whose end was not told of yet. */
static void test_dropped_number_of_dir(void **state)
{
	struct env *env = *state;
	int root = env->front->root_fd;
	struct front_handle dir, old, file;
	char path[64];

	env_open(env);
	put_dir(env, "/a");
	put_dir(env, "/b");
	put_dir(env, "/b/d");
	settled(env, true);
	dir = handle_of(env, "/b");
	old = handle_of(env, "/b/d");
	assert_int_equal(unlinkat(root, "b/d", AT_REMOVEDIR), 0);
	make_numbered(env, "/a", catalog_key(&old), make_small, path);
	tell(env, catalog_named, path);
	settled(env, false);
	resize(env, path, 20);
	file = handle_of(env, path);
	catalog_set_limit(env->c, 0);
	catalog_changed(env->c, &file, NULL, NULL);
	settled(env, true);
	catalog_unnamed(env->c, &old, &dir, "d");
	settled(env, true);
	assert_catalog_true(env);
}

/* A directory that was not told of yet has the number of a file that was. */
static void test_dropped_number_of_file(void **state)
{
	struct env *env = *state;
	struct front_handle dir, old;
	char path[64], below[96];

	env_open(env);
	put_dir(env, "/a");
	put_file(env, "/a/f", 10);
	settled(env, true);
	dir = handle_of(env, "/a");
	old = handle_of(env, "/a/f");
	assert_int_equal(unlinkat(env->front->root_fd, "a/f", 0), 0);
	make_numbered(env, "/a", catalog_key(&old), make_dir, path);
	settled(env, true);
	catalog_set_limit(env->c, 0);
	snprintf(below, sizeof(below), "%s/g", path);
	put_file(env, below, 10);
	settled(env, true);
	catalog_set_limit(env->c, 65536);
	tell(env, catalog_named, path);
	catalog_unnamed(env->c, &old, &dir, "f");
	settled(env, true);
	assert_catalog_true(env);
}

/* More marks than there is room for: all is walked. */
static void test_dropped_everywhere(void **state)
{
	struct env *env = *state;
	char path[64];

	for (int d = 0; d < 1500; d++) {
		snprintf(path, sizeof(path), "/d%d", d);
		make_dir(env, path);
	}
	env_open(env);
	settled(env, true);
	catalog_set_limit(env->c, 0);
	for (int d = 0; d < 1500; d++) {
		snprintf(path, sizeof(path), "/d%d/f", d);
		put_file(env, path, 1);
	}
	settled(env, true);
	assert_catalog_true(env);
}

static void damage(struct env *env)
{
	int fd = openat(env->front->meta_fd, CATALOG_NAME, O_RDWR);
	char junk[8192];
	struct stat st;

	assert_true(fd >= 0);
	memset(junk, 0x5a, sizeof(junk));
	assert_int_equal(fstat(fd, &st), 0);
	for (off_t off = 0; off < st.st_size; off += sizeof(junk))
		assert_int_equal(pwrite(fd, junk, sizeof(junk), off),
				 sizeof(junk));
	close(fd);
}

static void test_damaged(void **state)
{
	struct env *env = *state;
	struct catalog_config config = {.front = env->front, .walk = true};
	char *why = NULL;

	make_tree(env, "/a", 5, 50);
	env_open(env);
	settled(env, true);
	env_close(env);
	damage(env);
	assert_int_equal(catalog_open(&config, &env->c, &why), 0);
	assert_non_null(why);
	free(why);
	assert_int_equal(catalog_reader_open(env->c, &env->r), 0);
	settled(env, true);
	assert_catalog_true(env);
}

/* The same while it is in use. */
static void test_damaged_in_use(void **state)
{
	struct env *env = *state;
	uint32_t epoch;

	make_tree(env, "/a", 20, 20);
	env_open(env);
	settled(env, true);
	usleep(300000); /* its thread sleeps: the connection is ours */
	assert_int_equal(catalog_db_exec(&env->c->db,
					 "PRAGMA wal_checkpoint(TRUNCATE);"
					 "PRAGMA shrink_memory"),
			 0);
	epoch = atomic_load(&env->c->epoch);
	damage(env);
	/* A reader may be the first who notices. */
	for (int i = 0; i < 100 && atomic_load(&env->c->epoch) == epoch; i++) {
		struct catalog_reader *r = NULL;
		struct histogram h;

		if (!catalog_reader_open(env->c, &r) &&
		    !catalog_report(r, env->c->root_key, &h))
			histogram_free(&h);
		catalog_reader_close(r);
		tell(env, catalog_changed, "/a/f1");
		usleep(100000);
	}
	assert_true(atomic_load(&env->c->epoch) != epoch);
	settled(env, true);
	assert_catalog_true(env);
}

/* A full front loses nothing, once there is room again. */
static void test_full(void **state)
{
	struct env *env = *state;
	struct catalog_stats stats = {0};
	struct front *front = env->front;
	char path[64], *why = NULL;
	int fd;

	if (mount("tmpfs", env->dir, "tmpfs", 0, "size=8m") < 0)
		skip();
	if (front_open(env->dir, "t", &env->front, &why))
		fail_msg("%s", why);
	env->rules = 1;
	env_open(env);
	settled(env, true);
	fd = openat(env->front->root_fd, "big", O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	while (!fallocate(fd, 0, lseek(fd, 0, SEEK_END), 4096))
		;
	close(fd);
	for (int i = 0; i < 5000; i++) {
		snprintf(path, sizeof(path), "/f%d", i);
		put_file(env, path, 0);
	}
	for (int i = 0; i < 300 && !stats.err; i++) {
		usleep(100000);
		catalog_stats(env->c, &stats);
	}
	assert_int_equal(stats.err, -ENOSPC);
	assert_int_equal(unlinkat(env->front->root_fd, "big", 0), 0);
	for (int i = 0; i < 5000; i += 3) {
		snprintf(path, sizeof(path), "/f%d", i);
		take(env, path);
	}
	settled(env, true);
	assert_catalog_true(env);
	env_close(env);
	front_close(env->front);
	env->front = front;
	assert_int_equal(umount2(env->dir, MNT_DETACH), 0);
}

#define WALK_TEST(name)                                                        \
	cmocka_unit_test_setup_teardown(name, walk_setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WALK_TEST(test_adopt),
		WALK_TEST(test_version_1),
		WALK_TEST(test_unclean),
		WALK_TEST(test_restart),
		WALK_TEST(test_dropped),
		WALK_TEST(test_dropped_link),
		WALK_TEST(test_dropped_number_of_dir),
		WALK_TEST(test_dropped_number_of_file),
		WALK_TEST(test_dropped_everywhere),
		WALK_TEST(test_damaged),
		WALK_TEST(test_damaged_in_use),
		WALK_TEST(test_full),
		WALK_TEST(test_filling),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
