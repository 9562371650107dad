/* SPDX-License-Identifier: MIT */
/*
 * SQLite, as the catalog uses it: statements prepared at their first use,
 * numbers bound, codes as -errno.
 */
#include "catalog_int.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "journal_vfs.h"

#define BUSY_MS 2000

int catalog_db_errno(struct catalog_db *db, int rc)
{
	return journal_sqlite_errno(db->sql, rc);
}

int catalog_db_open(int dirfd, int flags, struct catalog_db *ret)
{
	struct catalog_db db = {.dirfd = fcntl(dirfd, F_DUPFD_CLOEXEC, 0)};
	int err;

	if (db.dirfd < 0)
		return -errno;
	err = catalog_db_errno(&db, journal_sqlite_open_locking_at(
					    db.dirfd, CATALOG_NAME,
					    flags | SQLITE_OPEN_NOMUTEX |
						    SQLITE_OPEN_PRIVATECACHE,
					    &db.sql));
	if (err) {
		catalog_db_close(&db);
		return err;
	}
	sqlite3_extended_result_codes(db.sql, 1);
	sqlite3_busy_timeout(db.sql, BUSY_MS);
	*ret = db;
	return 0;
}

void catalog_db_close(struct catalog_db *db)
{
	for (int i = 0; i < CQ_COUNT; i++)
		sqlite3_finalize(db->st[i]);
	sqlite3_close(db->sql);
	if (db->dirfd >= 0)
		close(db->dirfd);
	*db = (struct catalog_db){.dirfd = -1};
}

sqlite3_stmt *catalog_db_stmt(struct catalog_db *db, enum catalog_sql which,
			      int *ret_err)
{
	if (!db->st[which])
		*ret_err = catalog_db_errno(
			db, sqlite3_prepare_v3(db->sql, catalog_sql_text[which],
					       -1, SQLITE_PREPARE_PERSISTENT,
					       &db->st[which], NULL));
	if (!db->st[which] && !*ret_err)
		*ret_err = -EIO;
	return db->st[which];
}

int catalog_db_step(struct catalog_db *db, enum catalog_sql which)
{
	int rc = sqlite3_step(db->st[which]), err;

	if (rc == SQLITE_ROW)
		return 1;
	err = catalog_db_errno(db, rc);
	sqlite3_reset(db->st[which]);
	return err;
}

void catalog_db_reset(struct catalog_db *db, enum catalog_sql which)
{
	sqlite3_reset(db->st[which]);
}

int catalog_db_run(struct catalog_db *db, enum catalog_sql which, int nargs,
		   const int64_t *args)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(db, which, &err);

	if (!st)
		return err;
	for (int i = 0; i < nargs; i++)
		sqlite3_bind_int64(st, i + 1, args[i]);
	err = catalog_db_step(db, which);
	if (err > 0)
		catalog_db_reset(db, which);
	return err < 0 ? err : 0;
}

int catalog_db_exec(struct catalog_db *db, const char *sql)
{
	return catalog_db_errno(db,
				sqlite3_exec(db->sql, sql, NULL, NULL, NULL));
}

int catalog_db_meta(struct catalog_db *db, const char *key, int64_t *ret)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(db, CQ_META_GET, &err);

	if (!st)
		return err;
	sqlite3_bind_text(st, 1, key, -1, SQLITE_STATIC);
	err = catalog_db_step(db, CQ_META_GET);
	*ret = err > 0 ? sqlite3_column_int64(st, 0) : 0;
	if (err > 0)
		catalog_db_reset(db, CQ_META_GET);
	return err < 0 ? err : 0;
}

int catalog_db_set_meta(struct catalog_db *db, const char *key, int64_t value)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(db, CQ_META_PUT, &err);

	if (!st)
		return err;
	sqlite3_bind_text(st, 1, key, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 2, value);
	return catalog_db_step(db, CQ_META_PUT);
}

int catalog_db_keys(struct catalog_db *db, enum catalog_sql which, int64_t of,
		    int64_t after, uint64_t *ret, int n)
{
	int err = 0, got = 0;
	sqlite3_stmt *st = catalog_db_stmt(db, which, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, of);
	sqlite3_bind_int64(st, 2, after);
	sqlite3_bind_int64(st, 3, n);
	while (got < n && (err = catalog_db_step(db, which)) > 0)
		ret[got++] = (uint64_t)sqlite3_column_int64(st, 0);
	if (err < 0)
		return err;
	catalog_db_reset(db, which);
	return got;
}

void catalog_db_bind_handle(sqlite3_stmt *st, int at,
			    const struct front_handle *handle)
{
	/* type, then bytes; len is between them and goes away. */
	uint8_t blob[1 + FRONT_HANDLE_BYTES];

	blob[0] = handle->type;
	memcpy(blob + 1, handle->bytes, handle->len);
	sqlite3_bind_blob(st, at, blob, 1 + handle->len, SQLITE_TRANSIENT);
}

int catalog_db_handle(sqlite3_stmt *st, int at, struct front_handle *ret)
{
	const uint8_t *blob = sqlite3_column_blob(st, at);
	int len = sqlite3_column_bytes(st, at);

	if (!blob || len < 2 || len > 1 + FRONT_HANDLE_BYTES)
		return -EBADMSG;
	*ret = (struct front_handle){.type = blob[0],
				     .len = (uint8_t)(len - 1)};
	memcpy(ret->bytes, blob + 1, ret->len);
	return 0;
}

void catalog_db_bind_name(sqlite3_stmt *st, int at, const char *name)
{
	/* Any bytes: never text. An empty one must not become NULL. */
	if (*name)
		sqlite3_bind_blob(st, at, name, (int)strlen(name),
				  SQLITE_STATIC);
	else
		sqlite3_bind_zeroblob(st, at, 0);
}

void catalog_db_name(sqlite3_stmt *st, int at, char ret[NAME_MAX + 1])
{
	const void *blob = sqlite3_column_blob(st, at);
	int len = sqlite3_column_bytes(st, at);

	if (!blob || len < 0 || len > NAME_MAX)
		len = 0;
	if (len)
		memcpy(ret, blob, (size_t)len);
	ret[len] = '\0';
}
