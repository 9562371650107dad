/* SPDX-License-Identifier: MIT */
/*
 * Rows of files.
 *
 * A row exists as long as a name of the file is known, and is counted in one
 * directory, its home, under one of its names. All that is written here was
 * just seen on the front; a row that is as it was is not written.
 *
 * A file that has one link has no name but the one that was just seen. Of a
 * file with several all names are kept in links, the home's too; when that goes
 * another one becomes home, and takes the file's share of the histograms along.
 *
 * A file may lose the name that is known before the new one is (two renames in
 * different batches). Its temperature waits for it in limbo then.
 */
#include "catalog_int.h"

#include <errno.h>
#include <string.h>

#include "util.h"

enum {
	ROW_KEY,
	ROW_HOME,
	ROW_HANDLE,
	ROW_NAME,
	ROW_UID,
	ROW_GID,
	ROW_NLINK,
	ROW_FLAGS,
	ROW_STATE,
	ROW_SIZE,
	ROW_FRONT,
	ROW_ACCESS,
	ROW_MTIME,
	ROW_CTIME,
	ROW_HEAT,
	ROW_DUE,
	ROW_RANK,
};

/* NULL is none. */
static int64_t optional(sqlite3_stmt *st, int at, int64_t none)
{
	return sqlite3_column_type(st, at) == SQLITE_NULL
		       ? none
		       : sqlite3_column_int64(st, at);
}

static void bind_optional(sqlite3_stmt *st, int at, int64_t value, int64_t none)
{
	if (value == none)
		sqlite3_bind_null(st, at + 1);
	else
		sqlite3_bind_int64(st, at + 1, value);
}

int catalog_row_read(sqlite3_stmt *st, struct catalog_row *ret)
{
	int64_t state = sqlite3_column_int64(st, ROW_STATE);

	if (state < 0 || state >= SPILL_STATES)
		return -EBADMSG;
	ret->key = (uint64_t)sqlite3_column_int64(st, ROW_KEY);
	ret->home = (uint64_t)sqlite3_column_int64(st, ROW_HOME);
	catalog_db_name(st, ROW_NAME, ret->name);
	ret->uid = (uint32_t)sqlite3_column_int64(st, ROW_UID);
	ret->gid = (uint32_t)sqlite3_column_int64(st, ROW_GID);
	ret->nlink = (uint32_t)sqlite3_column_int64(st, ROW_NLINK);
	ret->flags = (unsigned int)sqlite3_column_int64(st, ROW_FLAGS);
	ret->state = (enum spill_state)state;
	ret->size = (uint64_t)sqlite3_column_int64(st, ROW_SIZE);
	ret->front_bytes = (uint64_t)sqlite3_column_int64(st, ROW_FRONT);
	ret->access = sqlite3_column_int64(st, ROW_ACCESS);
	ret->mtime = sqlite3_column_int64(st, ROW_MTIME);
	ret->ctime = sqlite3_column_int64(st, ROW_CTIME);
	ret->heat = optional(st, ROW_HEAT, HEAT_NONE);
	ret->due = optional(st, ROW_DUE, INT64_MAX);
	ret->rank = optional(st, ROW_RANK, INT64_MAX);
	return catalog_db_handle(st, ROW_HANDLE, &ret->handle);
}

int catalog_file_get(struct catalog_db *db, uint64_t key,
		     struct catalog_row *ret)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(db, CQ_FILE_GET, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)key);
	err = catalog_db_step(db, CQ_FILE_GET);
	if (err <= 0)
		return err ? err : -ENOENT;
	err = catalog_row_read(st, ret);
	catalog_db_reset(db, CQ_FILE_GET);
	return err;
}

static void bind_facts(sqlite3_stmt *st, const struct catalog_row *row)
{
	sqlite3_bind_int64(st, ROW_KEY + 1, (int64_t)row->key);
	sqlite3_bind_int64(st, ROW_UID + 1, row->uid);
	sqlite3_bind_int64(st, ROW_GID + 1, row->gid);
	sqlite3_bind_int64(st, ROW_NLINK + 1, row->nlink);
	sqlite3_bind_int64(st, ROW_FLAGS + 1, row->flags);
	sqlite3_bind_int64(st, ROW_STATE + 1, row->state);
	sqlite3_bind_int64(st, ROW_SIZE + 1, (int64_t)row->size);
	sqlite3_bind_int64(st, ROW_FRONT + 1, (int64_t)row->front_bytes);
	sqlite3_bind_int64(st, ROW_ACCESS + 1, row->access);
	sqlite3_bind_int64(st, ROW_MTIME + 1, row->mtime);
	sqlite3_bind_int64(st, ROW_CTIME + 1, row->ctime);
	bind_optional(st, ROW_HEAT, row->heat, HEAT_NONE);
	bind_optional(st, ROW_DUE, row->due, INT64_MAX);
	bind_optional(st, ROW_RANK, row->rank, INT64_MAX);
}

/* -EEXIST: it is known. */
static int row_insert(struct catalog *c, const struct catalog_row *row)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, CQ_FILE_INSERT, &err);

	if (!st)
		return err;
	bind_facts(st, row);
	sqlite3_bind_int64(st, ROW_HOME + 1, (int64_t)row->home);
	catalog_db_bind_handle(st, ROW_HANDLE + 1, &row->handle);
	catalog_db_bind_name(st, ROW_NAME + 1, row->name);
	err = catalog_db_step(&c->db, CQ_FILE_INSERT);
	if (!err && !sqlite3_changes(c->db.sql))
		return -EEXIST;
	if (!err) {
		c->nfiles++;
		err = catalog_hist_note(c, row->home, row, 1);
		if (!err)
			err = catalog_order_note(c, NULL, row);
	}
	return err;
}

static int row_update(struct catalog *c, const struct catalog_row *old,
		      const struct catalog_row *row)
{
	int err = catalog_order_note(c, old, row);
	sqlite3_stmt *st =
		err ? NULL : catalog_db_stmt(&c->db, CQ_FILE_UPDATE, &err);

	if (!st)
		return err;
	bind_facts(st, row);
	return catalog_db_step(&c->db, CQ_FILE_UPDATE);
}

static int row_set_home(struct catalog *c, struct catalog_row *row,
			uint64_t parent, const char *name)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, CQ_FILE_HOME, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)row->key);
	sqlite3_bind_int64(st, 2, (int64_t)parent);
	catalog_db_bind_name(st, 3, name);
	err = catalog_db_step(&c->db, CQ_FILE_HOME);
	if (!err && row->home != parent) {
		err = catalog_hist_note(c, row->home, row, -1);
		if (!err)
			err = catalog_hist_note(c, parent, row, 1);
	}
	row->home = parent;
	snprintf(row->name, sizeof(row->name), "%s", name);
	return err;
}

/* ---- links ------------------------------------------------------------------ */

static int link_do(struct catalog *c, enum catalog_sql which, uint64_t key,
		   uint64_t parent, const char *name)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, which, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)key);
	sqlite3_bind_int64(st, 2, (int64_t)parent);
	catalog_db_bind_name(st, 3, name);
	return catalog_db_step(&c->db, which);
}

/* -ENOENT: there is none. */
static int link_any(struct catalog *c, uint64_t key, uint64_t *ret_parent,
		    char ret_name[NAME_MAX + 1])
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, CQ_LINK_ONE, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)key);
	err = catalog_db_step(&c->db, CQ_LINK_ONE);
	if (err <= 0)
		return err ? err : -ENOENT;
	*ret_parent = (uint64_t)sqlite3_column_int64(st, 0);
	catalog_db_name(st, 1, ret_name);
	catalog_db_reset(&c->db, CQ_LINK_ONE);
	return 0;
}

/* ---- limbo ------------------------------------------------------------------ */

static void limbo_put(struct catalog *c, const struct catalog_row *row)
{
	if (row->heat == HEAT_NONE)
		return;
	/* The numbers go round from LIMBO to 2 * LIMBO. */
	if (c->next_limbo == 2 * LIMBO)
		c->next_limbo = LIMBO;
	c->limbo[c->next_limbo++ % LIMBO] =
		(struct limbo){.handle = row->handle,
			       .heat = row->heat,
			       .access = row->access};
}

static void limbo_get(struct catalog *c, const struct front_handle *handle,
		      struct catalog_row *row)
{
	for (size_t i = 0; i < LIMBO && i < c->next_limbo; i++) {
		const struct limbo *l = &c->limbo[i];

		if (!l->handle.len || !front_handle_equal(&l->handle, handle))
			continue;
		row->heat = max_t(int64_t, row->heat, l->heat);
		row->access = max_t(int64_t, row->access, l->access);
	}
}

/* ---- what was seen ------------------------------------------------------------ */

int catalog_file_remove(struct catalog *c, struct catalog_row *row)
{
	int err;

	limbo_put(c, row);
	err = catalog_db_do(&c->db, CQ_FILE_DELETE, (int64_t)row->key);
	if (!err && row->nlink > 1)
		err = catalog_db_do(&c->db, CQ_LINK_DEL_ALL, (int64_t)row->key);
	if (!err)
		err = catalog_hist_note(c, row->home, row, -1);
	if (!err)
		err = catalog_order_note(c, row, NULL);
	c->nfiles--;
	return err;
}

static void take_facts(struct catalog_row *row, const struct catalog_seen *seen)
{
	row->uid = seen->uid;
	row->gid = seen->gid;
	row->nlink = seen->nlink;
	row->flags = seen->flags;
	row->state = seen->state;
	row->size = seen->size;
	row->front_bytes = seen->front_bytes;
	row->access = max_t(int64_t, row->access, seen->atime);
	row->mtime = seen->mtime;
	row->ctime = seen->ctime;
}

static void take_access(struct catalog *c, struct catalog_row *row,
			const struct catalog_access *access)
{
	struct catalog_row from;

	if (!access)
		return;
	if (access->heir_of) {
		limbo_get(c, access->heir_of, row);
		if (!catalog_file_get(&c->db, catalog_key(access->heir_of),
				      &from) &&
		    front_handle_equal(&from.handle, access->heir_of)) {
			row->heat = max_t(int64_t, row->heat, from.heat);
			row->access = max_t(int64_t, row->access, from.access);
		}
	}
	if (!access->n)
		return;
	row->heat = catalog_judge_touch(c, row->heat, access);
	row->access = max_t(int64_t, row->access, access->last);
}

static int named_new(struct catalog *c, uint64_t parent, const char *name,
		     const struct catalog_seen *seen,
		     const struct catalog_access *access)
{
	struct catalog_row row = {.key = seen->key,
				  .home = parent,
				  .handle = seen->handle,
				  .access = INT64_MIN,
				  .heat = HEAT_NONE,
				  .due = INT64_MAX,
				  .rank = INT64_MAX};
	int err;

	snprintf(row.name, sizeof(row.name), "%s", name);
	take_facts(&row, seen);
	limbo_get(c, &seen->handle, &row);
	take_access(c, &row, access);
	err = catalog_judge_row(c, &row);
	if (!err)
		err = row_insert(c, &row);
	if (!err && row.nlink > 1)
		err = link_do(c, CQ_LINK_ADD, row.key, parent, name);
	return err;
}

int catalog_file_found(struct catalog *c, uint64_t parent, const char *name,
		       const struct catalog_seen *seen,
		       const struct catalog_access *access)
{
	return named_new(c, parent, name, seen, access);
}

static bool facts_equal(const struct catalog_row *a,
			const struct catalog_row *b)
{
	return a->uid == b->uid && a->gid == b->gid && a->nlink == b->nlink &&
	       a->flags == b->flags && a->state == b->state &&
	       a->size == b->size && a->front_bytes == b->front_bytes &&
	       a->access == b->access && a->mtime == b->mtime &&
	       a->ctime == b->ctime && a->heat == b->heat && a->due == b->due &&
	       a->rank == b->rank;
}

/* Its links and its home, with that name among them. */
static int place(struct catalog *c, struct catalog_row *row, uint32_t nlink,
		 uint64_t parent, const char *name)
{
	bool home = row->home == parent && !strcmp(row->name, name);
	int err = 0;

	if (nlink > 1) {
		if (row->nlink <= 1)
			err = link_do(c, CQ_LINK_ADD, row->key, row->home,
				      row->name);
		if (!err)
			err = link_do(c, CQ_LINK_ADD, row->key, parent, name);
		return err;
	}
	if (row->nlink > 1)
		err = catalog_db_do(&c->db, CQ_LINK_DEL_ALL, (int64_t)row->key);
	if (!err && !home)
		err = row_set_home(c, row, parent, name);
	return err;
}

int catalog_file_named(struct catalog *c, uint64_t parent, const char *name,
		       const struct catalog_seen *seen,
		       const struct catalog_access *access)
{
	struct catalog_row row, old;
	int err;

	err = catalog_file_get(&c->db, seen->key, &row);
	if (!err && !front_handle_equal(&row.handle, &seen->handle)) {
		err = catalog_file_remove(c, &row);
		if (!err)
			err = -ENOENT;
	}
	if (err == -ENOENT)
		return named_new(c, parent, name, seen, access);
	if (err)
		return err;
	old = row;
	err = place(c, &row, seen->nlink, parent, name);
	if (err)
		return err;
	if (access && access->backdated)
		row.access = INT64_MIN;
	take_facts(&row, seen);
	take_access(c, &row, access);
	err = catalog_judge_row(c, &row);
	if (err || facts_equal(&row, &old))
		return err;
	if (row.state != old.state || row.size != old.size ||
	    row.mtime != old.mtime) {
		err = catalog_hist_note(c, row.home, &old, -1);
		if (!err)
			err = catalog_hist_note(c, row.home, &row, 1);
	}
	return err ? err : row_update(c, &old, &row);
}

int catalog_file_unnamed(struct catalog *c, uint64_t key, uint64_t parent,
			 const char *name)
{
	char other[NAME_MAX + 1];
	struct catalog_row row;
	int err;

	err = catalog_file_get(&c->db, key, &row);
	if (err)
		return err == -ENOENT ? 0 : err;
	if (row.nlink > 1)
		err = link_do(c, CQ_LINK_DEL, key, parent, name);
	if (err || row.home != parent || strcmp(row.name, name) != 0)
		return err;
	if (row.nlink > 1)
		err = link_any(c, key, &parent, other);
	else
		err = -ENOENT;
	if (err == -ENOENT)
		return catalog_file_remove(c, &row);
	return err ? err : row_set_home(c, &row, parent, other);
}

int catalog_file_refresh(struct catalog *c, uint64_t key,
			 const struct catalog_access *access)
{
	struct catalog_seen seen;
	struct catalog_dir home;
	struct catalog_row row;
	int err, fd;

	/* Each round takes a name away that does not lead to it. */
	while (!(err = catalog_file_get(&c->db, key, &row))) {
		err = catalog_dir_get(&c->db, row.home, &home);
		if (err)
			return err == -ENOENT ? -EBADMSG : err;
		fd = catalog_dir_fd(c, &home.handle);
		err = fd < 0 ? fd : catalog_look(c->front, fd, row.name, &seen);
		if (!err && front_handle_equal(&seen.handle, &row.handle))
			return catalog_file_named(c, row.home, row.name, &seen,
						  access);
		/* In doubt it stays as it was. */
		if (err && !catalog_is_gone(err))
			return catalog_is_fatal(err) ? err : 0;
		err = catalog_file_unnamed(c, key, row.home, row.name);
		if (err)
			return err;
	}
	return err == -ENOENT ? 0 : err;
}
