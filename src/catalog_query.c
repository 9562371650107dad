/* SPDX-License-Identifier: MIT */
/*
 * Asking: readers have connections of their own.
 *
 * With the WAL a reader sees one state of the database and waits for nobody. A
 * query that calls back holds that state, and with it the WAL, so rows are read
 * some at a time, and told when the statement has ended.
 *
 * When the catalog was made anew (c->epoch) the reader opens the new file.
 */
#include "catalog_int.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "util.h"

struct catalog_reader {
	struct catalog *c;
	struct catalog_db db;
	uint32_t epoch;
	struct catalog_row rows[CATALOG_ROWS];
};

static int reader_connect(struct catalog_reader *r)
{
	int err;

	r->epoch = atomic_load(&r->c->epoch);
	err = catalog_db_open(r->c->front->meta_fd, SQLITE_OPEN_READWRITE,
			      &r->db);
	if (!err)
		err = catalog_db_exec(&r->db, "PRAGMA query_only = 1;"
					      "PRAGMA temp_store = MEMORY;"
					      "PRAGMA trusted_schema = OFF;"
					      "PRAGMA cache_size = -4096;");
	return err;
}

/* After each question. */
static int answered(struct catalog_reader *r, int err)
{
	if (err == -EBADMSG && r->epoch == atomic_load(&r->c->epoch)) {
		atomic_store(&r->c->damaged, true);
		catalog_queue_wake(&r->c->queue);
	}
	return err;
}

/* Before each question. */
static int reader_ready(struct catalog_reader *r)
{
	if (r->db.sql && r->epoch == atomic_load(&r->c->epoch))
		return 0;
	if (r->db.dirfd >= 0)
		catalog_db_close(&r->db);
	return reader_connect(r);
}

int catalog_reader_open(struct catalog *catalog, struct catalog_reader **ret)
{
	struct catalog_reader *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	r->c = catalog;
	r->db.dirfd = -1;
	err = reader_connect(r);
	if (err) {
		catalog_reader_close(r);
		return err;
	}
	*ret = r;
	return 0;
}

void catalog_reader_close(struct catalog_reader *r)
{
	if (!r)
		return;
	if (r->db.dirfd >= 0)
		catalog_db_close(&r->db);
	free(r);
}

/* ---- rows --------------------------------------------------------------------- */

/* Rows of a statement that is bound, at most max: how many, -errno. */
static int read_rows(struct catalog_reader *r, enum catalog_sql which, int max)
{
	sqlite3_stmt *st = r->db.st[which];
	int n = 0, err = 0;

	while (n < max && (err = catalog_db_step(&r->db, which)) > 0) {
		err = catalog_row_read(st, &r->rows[n]);
		if (err)
			break;
		n++;
	}
	catalog_db_reset(&r->db, which);
	return err < 0 ? err : n;
}

int catalog_get(struct catalog_reader *r, uint64_t key, struct catalog_row *ret)
{
	struct catalog_row row;
	int err = reader_ready(r);

	if (!err)
		err = catalog_file_get(&r->db, key, &row);
	if (!err)
		*ret = row;
	return answered(r, err);
}

/* All that fit are read first, in one state of the database. */
static int each_row(struct catalog_reader *r, enum catalog_sql which,
		    size_t limit, catalog_each each, void *arg)
{
	_cleanup_free_ struct catalog_row *rows = NULL;
	sqlite3_stmt *st = r->db.st[which];
	size_t n = 0, cap = 0;
	int err = 0;

	while (n < limit && (err = catalog_db_step(&r->db, which)) > 0) {
		if (n == cap) {
			void *more;

			cap = cap ? 2 * cap : 64;
			more = reallocarray(rows, cap, sizeof(*rows));
			if (!more) {
				err = -ENOMEM;
				break;
			}
			rows = more;
		}
		err = catalog_row_read(st, &rows[n]);
		if (err)
			break;
		n++;
	}
	catalog_db_reset(&r->db, which);
	if (err < 0)
		return answered(r, err);
	for (size_t i = 0; i < n && each(arg, &rows[i]); i++)
		;
	return 0;
}

static sqlite3_stmt *ask(struct catalog_reader *r, enum catalog_sql which,
			 int *ret_err)
{
	*ret_err = reader_ready(r);
	return *ret_err ? NULL : catalog_db_stmt(&r->db, which, ret_err);
}

static int64_t as_limit(size_t limit)
{
	return (int64_t)min_t(size_t, limit, INT64_MAX);
}

int catalog_due(struct catalog_reader *r, enum spill_state state, int64_t until,
		size_t limit, catalog_each each, void *arg)
{
	int err;
	sqlite3_stmt *st = ask(r, CQ_DUE, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, state);
	sqlite3_bind_int64(st, 2, until);
	sqlite3_bind_int64(st, 3, as_limit(limit));
	return each_row(r, CQ_DUE, limit, each, arg);
}

int catalog_next_due(struct catalog_reader *r, int64_t *ret)
{
	int64_t next = INT64_MAX;

	for (int state = 0; state < SPILL_STATES; state++) {
		int err;
		sqlite3_stmt *st = ask(r, CQ_NEXT_DUE, &err);

		if (!st)
			return err;
		sqlite3_bind_int64(st, 1, state);
		err = catalog_db_step(&r->db, CQ_NEXT_DUE);
		if (err < 0)
			return answered(r, err);
		if (err)
			next = min_t(int64_t, next,
				     sqlite3_column_int64(st, 0));
		catalog_db_reset(&r->db, CQ_NEXT_DUE);
	}
	*ret = next;
	return 0;
}

int catalog_coldest(struct catalog_reader *r, enum spill_state state,
		    int64_t after, size_t limit, catalog_each each, void *arg)
{
	int err;
	sqlite3_stmt *st = ask(r, CQ_COLDEST, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, state);
	sqlite3_bind_int64(st, 2, after);
	sqlite3_bind_int64(st, 3, as_limit(limit));
	return each_row(r, CQ_COLDEST, limit, each, arg);
}

int catalog_position(struct catalog_reader *r, enum spill_state state,
		     int64_t rank, uint64_t *ret)
{
	int err;
	sqlite3_stmt *st = ask(r, CQ_POSITION, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, state);
	sqlite3_bind_int64(st, 2, rank);
	err = catalog_db_step(&r->db, CQ_POSITION);
	if (err <= 0)
		return err ? err : -EIO;
	*ret = (uint64_t)sqlite3_column_int64(st, 0);
	catalog_db_reset(&r->db, CQ_POSITION);
	return 0;
}

/* ---- directories ----------------------------------------------------------------- */

int catalog_dir_path(struct catalog_reader *r, uint64_t dir, char **ret)
{
	_cleanup_free_ char *path = NULL;
	int err = reader_ready(r);

	if (!err)
		err = catalog_dir_path_of(&r->db, dir, &path, NULL);
	if (!err && !*path) {
		free(steal_ptr(&path));
		path = strdup("/");
		err = path ? 0 : -ENOMEM;
	}
	if (!err)
		*ret = steal_ptr(&path);
	return answered(r, err);
}

int catalog_path(struct catalog_reader *r, uint64_t home, const char *name,
		 char **ret)
{
	_cleanup_free_ char *dir = NULL;
	int err = reader_ready(r);
	char *path;

	if (!err)
		err = catalog_dir_path_of(&r->db, home, &dir, NULL);
	if (err)
		return answered(r, err);
	if (asprintf(&path, "%s/%s", dir, name) < 0)
		return -ENOMEM;
	*ret = path;
	return 0;
}

int catalog_report(struct catalog_reader *r, uint64_t dir,
		   struct histogram *ret)
{
	struct catalog_dir d;
	int err = reader_ready(r);

	if (!err)
		err = catalog_dir_get(&r->db, dir, &d);
	if (!err)
		err = catalog_hist_read(&r->db, dir, ret);
	return answered(r, err);
}

/* ---- find -------------------------------------------------------------------------- */

static bool in_range(int64_t value, int64_t low, int64_t high)
{
	return value >= low && value <= high;
}

static bool fits(const struct catalog_filter *f, const struct catalog_row *row)
{
	return (!f->states || f->states & 1u << row->state) &&
	       row->size >= f->size_min && row->size <= f->size_max &&
	       in_range(row->access, f->access_min, f->access_max) &&
	       in_range(row->mtime, f->mtime_min, f->mtime_max) &&
	       in_range(row->ctime, f->ctime_min, f->ctime_max) &&
	       (!f->by_uid || row->uid == f->uid) &&
	       (!f->by_gid || row->gid == f->gid) &&
	       (row->flags & f->flags) == f->flags &&
	       (!f->name || !fnmatch(f->name, row->name, 0));
}

struct find {
	struct catalog_reader *r;
	const struct catalog_filter *filter;
	bool (*each)(void *arg, const char *path,
		     const struct catalog_row *row);
	void *arg;
	bool enough;
	uint64_t *dirs; /* still to be listed, the last first */
	size_t ndirs, cap;
};

static int find_files(struct find *f, uint64_t dir, const char *path)
{
	int64_t after = INT64_MIN;
	int err = 0, n;

	do {
		sqlite3_stmt *st = catalog_db_stmt(&f->r->db, CQ_ROWS_OF, &err);

		if (!st)
			return err;
		sqlite3_bind_int64(st, 1, (int64_t)dir);
		sqlite3_bind_int64(st, 2, after);
		sqlite3_bind_int64(st, 3, CATALOG_ROWS);
		n = read_rows(f->r, CQ_ROWS_OF, CATALOG_ROWS);
		for (int i = 0; i < n && !f->enough; i++) {
			_cleanup_free_ char *full = NULL;

			if (!fits(f->filter, &f->r->rows[i]))
				continue;
			if (asprintf(&full, "%s/%s", path, f->r->rows[i].name) <
			    0)
				return -ENOMEM;
			f->enough = !f->each(f->arg, full, &f->r->rows[i]);
		}
		if (n > 0)
			after = (int64_t)f->r->rows[n - 1].key;
	} while (n == CATALOG_ROWS && !f->enough);
	return n < 0 ? n : 0;
}

static int find_dirs(struct find *f, uint64_t dir)
{
	uint64_t keys[64];
	int64_t after = INT64_MIN;
	int n;

	do {
		n = catalog_db_keys(&f->r->db, CQ_DIRS_OF, (int64_t)dir, after,
				    keys, 64);
		if (n > 0 && f->ndirs + (size_t)n > f->cap) {
			size_t cap = 2 * f->cap + 64;
			void *dirs = reallocarray(f->dirs, cap, sizeof(*keys));

			if (!dirs)
				return -ENOMEM;
			f->dirs = dirs;
			f->cap = cap;
		}
		for (int i = 0; i < n; i++)
			f->dirs[f->ndirs++] = keys[i];
		if (n > 0)
			after = (int64_t)keys[n - 1];
	} while (n == 64);
	return n < 0 ? n : 0;
}

int catalog_find(struct catalog_reader *r, uint64_t dir,
		 const struct catalog_filter *filter,
		 bool (*each)(void *arg, const char *path,
			      const struct catalog_row *row),
		 void *arg)
{
	struct find f = {.r = r, .filter = filter, .each = each, .arg = arg};
	int err = reader_ready(r);

	while (!err && !f.enough) {
		_cleanup_free_ char *path = NULL;

		err = catalog_dir_path_of(&r->db, dir, &path, NULL);
		if (!err)
			err = find_files(&f, dir, path);
		if (!err)
			err = find_dirs(&f, dir);
		/* One that was removed meanwhile has no path, and is no error
		 * but at the start. */
		else if (err == -ENOENT && f.dirs)
			err = 0;
		if (err || !f.ndirs)
			break;
		dir = f.dirs[--f.ndirs];
	}
	free(f.dirs);
	return answered(r, err);
}
