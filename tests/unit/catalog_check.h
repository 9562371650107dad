/* SPDX-License-Identifier: MIT */
#ifndef TEST_CATALOG_CHECK_H
#define TEST_CATALOG_CHECK_H

/* Compares the catalog, when it is settled, with a walk over the front: every
 * row, every directory, every histogram; and what is in order with the rows. */

#include <dirent.h>

#include "catalog_env.h"

struct check_walk {
	struct env *env;
	uint64_t files, dirs; /* files by inode */
	unsigned int wrong;
	uint64_t linked[4096]; /* files with several names, seen */
	size_t nlinked;
};

#define WRONG(w, ...)                                                          \
	do {                                                                   \
		(w)->wrong++;                                                  \
		print_error(__VA_ARGS__);                                      \
	} while (0)

static inline bool check_first_link(struct check_walk *w, uint64_t key)
{
	for (size_t i = 0; i < w->nlinked; i++)
		if (w->linked[i] == key)
			return false;
	assert_true(w->nlinked < ARRAY_SIZE(w->linked));
	w->linked[w->nlinked++] = key;
	return true;
}

static inline void check_file(struct check_walk *w, const char *path,
			      uint64_t dir, const char *name,
			      const struct catalog_seen *seen,
			      struct histogram *h)
{
	struct catalog_row row;
	bool home;

	if (seen->nlink == 1 || check_first_link(w, seen->key))
		w->files++;
	if (catalog_get(w->env->r, seen->key, &row) ||
	    !front_handle_equal(&row.handle, &seen->handle)) {
		WRONG(w, "%s: no row\n", path);
		return;
	}
	home = row.home == dir && !strcmp(row.name, name);
	if (!home && seen->nlink == 1)
		WRONG(w, "%s: its row is elsewhere, as %s\n", path, row.name);
	if (row.size != seen->size || row.state != seen->state ||
	    row.mtime != seen->mtime || row.ctime != seen->ctime ||
	    row.uid != seen->uid || row.gid != seen->gid ||
	    row.nlink != seen->nlink || row.flags != seen->flags ||
	    row.front_bytes != seen->front_bytes || row.access < seen->atime)
		WRONG(w,
		      "%s: size %llu/%llu state %d/%d nlink %u/%u flags "
		      "%x/%x mtime %lld/%lld ctime %lld/%lld\n",
		      path, (unsigned long long)row.size,
		      (unsigned long long)seen->size, row.state, seen->state,
		      row.nlink, seen->nlink, row.flags, seen->flags,
		      (long long)row.mtime, (long long)seen->mtime,
		      (long long)row.ctime, (long long)seen->ctime);
	if (home)
		assert_int_equal(histogram_add(h, seen->state, seen->size,
					       seen->mtime, 1),
				 0);
}

/* Adds the subtree to *ret. */
static inline void check_dir(struct check_walk *w, int dirfd_, const char *path,
			     struct histogram *ret)
{
	struct histogram own = {0}, known;
	_cleanup_free_ char *has = NULL;
	struct front_handle handle;
	struct dirent *entry;
	uint64_t key;
	DIR *dir;

	assert_int_equal(front_handle_at(w->env->front, dirfd_, "", &handle),
			 0);
	key = catalog_key(&handle);
	w->dirs++;
	dir = fdopendir(dirfd_);
	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		_cleanup_free_ char *sub = NULL;
		struct catalog_seen seen;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (catalog_look(w->env->front, dirfd_, entry->d_name, &seen))
			continue; /* .tierfs */
		assert_true(asprintf(&sub, "%s/%s", path, entry->d_name) > 0);
		if (S_ISDIR(seen.type))
			check_dir(w,
				  openat(dirfd_, entry->d_name,
					 O_RDONLY | O_DIRECTORY),
				  sub, &own);
		else if (S_ISREG(seen.type))
			check_file(w, sub, key, entry->d_name, &seen, &own);
	}
	closedir(dir);
	if (catalog_dir_path(w->env->r, key, &has) ||
	    strcmp(has, *path ? path : "/") != 0)
		WRONG(w, "%s: known as %s\n", path, has ? has : "nothing");
	if (catalog_report(w->env->r, key, &known)) {
		WRONG(w, "%s: no report\n", path);
	} else {
		if (!histogram_equal(&known, &own))
			WRONG(w, "%s: another histogram\n", path);
		histogram_free(&known);
	}
	assert_int_equal(histogram_sum(ret, &own, 1), 0);
	histogram_free(&own);
}

/* What is in order is what the rows say. */
static inline void check_order(struct check_walk *w)
{
	static const char sql[] =
		"SELECT 'rank', * FROM (SELECT state, rank, key FROM files"
		" WHERE rank IS NOT NULL EXCEPT SELECT * FROM ranks)"
		" UNION ALL SELECT 'no rank', * FROM (SELECT * FROM ranks"
		" EXCEPT SELECT state, rank, key FROM files)"
		" UNION ALL SELECT 'due', * FROM (SELECT state, due, key"
		" FROM files WHERE due IS NOT NULL EXCEPT SELECT * FROM dues)"
		" UNION ALL SELECT 'not due', * FROM (SELECT * FROM dues"
		" EXCEPT SELECT state, due, key FROM files)";
	struct catalog_db db;
	sqlite3_stmt *st;

	assert_int_equal(catalog_db_open(w->env->front->meta_fd,
					 SQLITE_OPEN_READWRITE, &db),
			 0);
	assert_int_equal(sqlite3_prepare_v2(db.sql, sql, -1, &st, NULL),
			 SQLITE_OK);
	while (sqlite3_step(st) == SQLITE_ROW)
		WRONG(w, "%s: state %lld at %lld, key %lld\n",
		      (const char *)sqlite3_column_text(st, 0),
		      (long long)sqlite3_column_int64(st, 1),
		      (long long)sqlite3_column_int64(st, 2),
		      (long long)sqlite3_column_int64(st, 3));
	assert_int_equal(sqlite3_finalize(st), SQLITE_OK);
	catalog_db_close(&db);
}

static inline void assert_catalog_true(struct env *env)
{
	struct check_walk *w = calloc(1, sizeof(*w));
	struct histogram all = {0};
	struct catalog_stats stats;

	assert_non_null(w);
	w->env = env;
	check_dir(w, openat(env->front->root_fd, ".", O_RDONLY | O_DIRECTORY),
		  "", &all);
	histogram_free(&all);
	check_order(w);
	catalog_stats(env->c, &stats);
	if (stats.files != w->files || stats.dirs != w->dirs)
		WRONG(w, "%llu files, %llu dirs known of %llu, %llu\n",
		      (unsigned long long)stats.files,
		      (unsigned long long)stats.dirs,
		      (unsigned long long)w->files,
		      (unsigned long long)w->dirs);
	if (w->wrong)
		fail_msg("%u things are wrong", w->wrong);
	free(w);
}

#endif
