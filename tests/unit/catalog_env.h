/* SPDX-License-Identifier: MIT */
#ifndef TEST_CATALOG_ENV_H
#define TEST_CATALOG_ENV_H

/* What the tests of the catalog share: a front of their own, what is done to it
 * together with what is told. */

#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "catalog_int.h"
#include "cleanup.h"
#include "front.h"
#include "util.h"

#define PATIENCE (60 * NSEC_PER_SEC)

struct env {
	char dir[64];
	struct front *front;
	struct catalog *c;
	struct catalog_reader *r;
	bool walk;
	uint32_t walk_rate;
	unsigned int rules; /* judge, by those: another number, others */
};

/* Of all sorts: without a rank, not due, ranks that several have. */
static inline void env_judge_row(void *arg, const char *path,
				 struct catalog_row *row)
{
	const struct env *env = arg;
	uint64_t n = row->key + row->size + env->rules;

	row->rank = n % 4 ? (int64_t)(row->size % 97 + env->rules) : INT64_MAX;
	row->due = n % 3 ? row->mtime / 1000 + env->rules : INT64_MAX;
}

static inline void env_judge(struct env *env, unsigned int rules)
{
	catalog_judge(env->c, NULL, NULL, NULL, 0, 0);
	env->rules = rules;
	if (rules)
		catalog_judge(env->c, env_judge_row, NULL, env, 0, rules);
}

static inline void env_open(struct env *env)
{
	struct catalog_config config = {.front = env->front,
					.walk = env->walk,
					.walk_rate = env->walk_rate};
	char *why = NULL;

	assert_int_equal(catalog_open(&config, &env->c, &why), 0);
	if (why)
		fail_msg("%s", why);
	assert_int_equal(catalog_reader_open(env->c, &env->r), 0);
	if (env->rules)
		env_judge(env, env->rules);
}

static inline void env_close(struct env *env)
{
	catalog_reader_close(env->r);
	catalog_close(env->c);
	env->r = NULL;
	env->c = NULL;
}

static inline int setup(void **state)
{
	struct env *env = calloc(1, sizeof(*env));
	char *why = NULL;

	assert_non_null(env);
	strcpy(env->dir, "/tmp/test_catalog.XXXXXX");
	assert_non_null(mkdtemp(env->dir));
	if (front_open(env->dir, "t", &env->front, &why))
		fail_msg("%s", why);
	*state = env;
	return 0;
}

static inline int env_remove_one(const char *path, const struct stat *st,
				 int type, struct FTW *ftw)
{
	return remove(path);
}

static inline int teardown(void **state)
{
	struct env *env = *state;

	env_close(env);
	front_close(env->front);
	nftw(env->dir, env_remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(env);
	return 0;
}

static inline struct front_handle handle_of(struct env *env, const char *path)
{
	struct front_handle handle;

	while (*path == '/')
		path++;
	assert_int_equal(
		front_handle_at(env->front, env->front->root_fd, path, &handle),
		0);
	return handle;
}

/* The handle of the directory that path is in; its name there. */
static inline struct front_handle parent_of(struct env *env, const char *path,
					    const char **ret_name)
{
	const char *slash = strrchr(path, '/');
	char dir[4096];

	assert_non_null(slash);
	*ret_name = slash + 1;
	snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path);
	return handle_of(env, dir);
}

typedef void tell_fn(struct catalog *c, const struct front_handle *file,
		     const struct front_handle *parent, const char *name);

static inline void tell(struct env *env, tell_fn *fn, const char *path)
{
	const char *name;
	struct front_handle parent = parent_of(env, path, &name);
	struct front_handle file = handle_of(env, path);

	fn(env->c, &file, &parent, name);
}

static inline void make_file(struct env *env, const char *path, size_t size)
{
	int fd = openat(env->front->root_fd, path + 1,
			O_WRONLY | O_CREAT | O_EXCL, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static inline void put_file(struct env *env, const char *path, size_t size)
{
	make_file(env, path, size);
	tell(env, catalog_named, path);
}

static inline void put_dir(struct env *env, const char *path)
{
	assert_int_equal(mkdirat(env->front->root_fd, path + 1, 0700), 0);
	tell(env, catalog_named, path);
}

static inline void take(struct env *env, const char *path)
{
	const char *name;
	struct front_handle parent = parent_of(env, path, &name);
	struct front_handle file = handle_of(env, path);

	if (unlinkat(env->front->root_fd, path + 1, 0) < 0)
		assert_int_equal(
			unlinkat(env->front->root_fd, path + 1, AT_REMOVEDIR),
			0);
	catalog_unnamed(env->c, &file, &parent, name);
}

static inline void move_it(struct env *env, const char *from, const char *to)
{
	const char *name, *newname;
	struct front_handle parent = parent_of(env, from, &name);
	struct front_handle newparent = parent_of(env, to, &newname);
	struct front_handle file = handle_of(env, from);

	assert_int_equal(renameat(env->front->root_fd, from + 1,
				  env->front->root_fd, to + 1),
			 0);
	catalog_renamed(env->c, &file, &parent, name, &newparent, newname);
}

static inline void settled(struct env *env, bool walk)
{
	assert_int_equal(catalog_settle(env->c, walk, PATIENCE), 0);
}

/* The path that the catalog has for what is there now, to be freed; NULL. */
static inline char *path_of(struct env *env, const struct front_handle *file)
{
	struct catalog_row row;
	char *path = NULL;

	if (catalog_get(env->r, catalog_key(file), &row) ||
	    !front_handle_equal(&row.handle, file))
		return NULL;
	assert_int_equal(catalog_path(env->r, row.home, row.name, &path), 0);
	return path;
}

static inline void assert_known(struct env *env, const char *path)
{
	struct front_handle file = handle_of(env, path);
	_cleanup_free_ char *found = path_of(env, &file);

	assert_non_null(found);
	assert_string_equal(found, path);
}

static inline int64_t files_in(struct env *env, const char *path)
{
	struct front_handle dir = handle_of(env, path);
	struct histogram h;
	int64_t n = 0;

	assert_int_equal(catalog_report(env->r, catalog_key(&dir), &h), 0);
	for (int i = 0; i < SPILL_STATES; i++)
		n += h.states[i].files;
	histogram_free(&h);
	return n;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
