/* SPDX-License-Identifier: MIT */
/*
 * The catalog's tables, and opening them.
 *
 *   files  a row a regular file, by catalog_key(). due and rank are NULL where
 *          there is none
 *   ranks, dues   of those that have one, in order (catalog_order.c)
 *   links  all names of each file that has several; its home is one of them
 *   dirs   gen: the walk that listed it last
 *   hist   of each directory's subtree, by bucket (catalog_hist.c)
 *   meta   clean: closed as it should be, and dirs: how many there were then;
 *          gen; fingerprint and judged, of the judge; filling (catalog_fill.c)
 *
 * Losing the last transactions does no harm (the walk after an unclean end
 * finds what they said), damage would: so WAL with synchronous=NORMAL, which is
 * a sync per checkpoint. Only clean = 0 must be durable before anything else
 * is done, and clean = 1 after all else. A database that is made anew is not
 * synced at all until the first walk is through: catalog_fill.c.
 *
 * It is a cache: what cannot be read, or is another version's, or another
 * front's, is removed and made anew. Checking every page takes as long as
 * reading them, so only the schema is read here; a page that turns out to be
 * damaged later has the file made anew then.
 *
 * Of a front that was taken over from a dead daemon the file may be locked by
 * what is left of that, for ever: then the catalog is a copy of it. With locks,
 * for without them there is no WAL with several connections.
 */
#include "catalog_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "util.h"

#define ROW                                                                    \
	"key, home, handle, name, uid, gid, nlink, flags, state, size,"        \
	" front_bytes, access, mtime, ctime, heat, due, rank"

#define ORDERS                                                                 \
	"CREATE TABLE ranks(of INTEGER, at INTEGER, file INTEGER,"             \
	" PRIMARY KEY(of, at, file)) WITHOUT ROWID;"                           \
	"CREATE TABLE dues(of INTEGER, at INTEGER, file INTEGER,"              \
	" PRIMARY KEY(of, at, file)) WITHOUT ROWID;"

static const char schema[] =
	"BEGIN IMMEDIATE;"
	"PRAGMA application_id = 1950564657;" /* "tCA1" */
	"PRAGMA user_version = 2;"
	"CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL)"
	" WITHOUT ROWID;"
	"CREATE TABLE files(key INTEGER PRIMARY KEY, home INTEGER NOT NULL,"
	" handle BLOB NOT NULL, name BLOB NOT NULL, uid INTEGER, gid INTEGER,"
	" nlink INTEGER, flags INTEGER, state INTEGER, size INTEGER,"
	" front_bytes INTEGER, access INTEGER, mtime INTEGER, ctime INTEGER,"
	" heat INTEGER, due INTEGER, rank INTEGER);"
	"CREATE INDEX files_home ON files(home);"
	"CREATE TABLE links(key INTEGER, parent INTEGER, name BLOB,"
	" PRIMARY KEY(key, parent, name)) WITHOUT ROWID;"
	"CREATE INDEX links_parent ON links(parent);"
	"CREATE TABLE dirs(key INTEGER PRIMARY KEY, parent INTEGER NOT NULL,"
	" handle BLOB NOT NULL, name BLOB NOT NULL, gen INTEGER NOT NULL,"
	" flags INTEGER NOT NULL);"
	"CREATE INDEX dirs_parent ON dirs(parent);"
	"CREATE INDEX dirs_gen ON dirs(gen);"
	"CREATE TABLE hist(dir INTEGER, bucket INTEGER, files INTEGER NOT NULL,"
	" bytes INTEGER NOT NULL, PRIMARY KEY(dir, bucket)) WITHOUT "
	"ROWID;" ORDERS "COMMIT;";

/* Ranks and dues were indexes. */
static const char from_version_1[] =
	"BEGIN IMMEDIATE;"
	"PRAGMA user_version = 2;" ORDERS
	"INSERT INTO ranks SELECT state, rank, key FROM files"
	" WHERE rank IS NOT NULL ORDER BY state, rank, key;"
	"INSERT INTO dues SELECT state, due, key FROM files"
	" WHERE due IS NOT NULL ORDER BY state, due, key;"
	"DROP INDEX IF EXISTS files_rank;"
	"DROP INDEX IF EXISTS files_due;"
	"DROP INDEX IF EXISTS files_state_due;"
	"COMMIT;";

#define APP_ID	1950564657
#define VERSION 2

const char *const catalog_sql_text[CQ_COUNT] = {
	[CQ_BEGIN] = "BEGIN IMMEDIATE",
	[CQ_COMMIT] = "COMMIT",
	[CQ_META_GET] = "SELECT value FROM meta WHERE key = ?",
	[CQ_META_PUT] = "INSERT OR REPLACE INTO meta VALUES(?, ?)",
	[CQ_FILE_GET] = "SELECT " ROW " FROM files WHERE key = ?",
	[CQ_FILE_INSERT] = "INSERT INTO files(" ROW ")"
			   " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
			   " ON CONFLICT(key) DO NOTHING",
	[CQ_FILE_UPDATE] =
		"UPDATE files SET uid = ?5, gid = ?6, nlink = ?7, flags = ?8,"
		" state = ?9, size = ?10, front_bytes = ?11, access = ?12,"
		" mtime = ?13, ctime = ?14, heat = ?15, due = ?16, rank = ?17"
		" WHERE key = ?1",
	[CQ_FILE_HOME] = "UPDATE files SET home = ?2, name = ?3 WHERE key = ?1",
	[CQ_FILE_JUDGED] =
		"UPDATE files SET due = ?2, rank = ?3 WHERE key = ?1",
	[CQ_FILE_DELETE] = "DELETE FROM files WHERE key = ?",
	[CQ_FILES_OF] = "SELECT key FROM files WHERE home = ? AND key > ?"
			" ORDER BY key LIMIT ?",
	[CQ_FILES_AFTER] = "SELECT " ROW " FROM files WHERE key > ?"
			   " ORDER BY key LIMIT ?",
	[CQ_LINK_ADD] = "INSERT OR IGNORE INTO links VALUES(?, ?, ?)",
	[CQ_LINK_DEL] = "DELETE FROM links WHERE key = ? AND parent = ?"
			" AND name = ?",
	[CQ_LINK_DEL_ALL] = "DELETE FROM links WHERE key = ?",
	[CQ_LINK_ONE] = "SELECT parent, name FROM links WHERE key = ? LIMIT 1",
	[CQ_LINKS_OF] = "SELECT key, name FROM links WHERE parent = ?1"
			" AND (key, name) > (?2, ?3) ORDER BY key, name"
			" LIMIT 1",
	[CQ_DIR_GET] = "SELECT key, parent, handle, name, gen, flags FROM dirs"
		       " WHERE key = ?",
	[CQ_DIR_INSERT] = "INSERT INTO dirs(key, parent, handle, name, gen,"
			  " flags) VALUES(?, ?, ?, ?, ?, ?)",
	[CQ_DIR_PLACE] = "UPDATE dirs SET parent = ?2, name = ?3"
			 " WHERE key = ?1",
	[CQ_DIR_HANDLE] = "UPDATE dirs SET handle = ?2, gen = ?3"
			  " WHERE key = ?1",
	[CQ_DIR_FLAGS] = "UPDATE dirs SET flags = ?2 WHERE key = ?1",
	[CQ_DIR_GEN] = "UPDATE dirs SET gen = ?2 WHERE key = ?1",
	[CQ_DIR_DELETE] = "DELETE FROM dirs WHERE key = ?",
	[CQ_DIRS_OF] = "SELECT key FROM dirs WHERE parent = ? AND key > ?"
		       " ORDER BY key LIMIT ?",
	[CQ_DIRS_TODO] = "SELECT key, handle FROM dirs WHERE gen < ?"
			 " ORDER BY gen, key LIMIT ?",
	[CQ_DIRS_BEHIND] = "SELECT EXISTS(SELECT 1 FROM dirs WHERE gen < ?)",
	[CQ_DIRS_MARKED] = "SELECT count(*) FROM dirs WHERE gen = ?",
	[CQ_HIST_GET] = "SELECT bucket, files, bytes FROM hist WHERE dir = ?"
			" ORDER BY bucket",
	[CQ_HIST_ADD] = "INSERT INTO hist VALUES(?, ?, ?, ?)"
			" ON CONFLICT(dir, bucket) DO UPDATE SET"
			" files = files + excluded.files,"
			" bytes = bytes + excluded.bytes",
	[CQ_HIST_TRIM] = "DELETE FROM hist WHERE dir = ? AND files = 0",
	[CQ_HIST_DEL] = "DELETE FROM hist WHERE dir = ?",
	[CQ_RANK_ADD] = "INSERT OR IGNORE INTO ranks VALUES(?, ?, ?)",
	[CQ_RANK_DEL] = "DELETE FROM ranks WHERE of = ? AND at = ?"
			" AND file = ?",
	[CQ_DUE_ADD] = "INSERT OR IGNORE INTO dues VALUES(?, ?, ?)",
	[CQ_DUE_DEL] = "DELETE FROM dues WHERE of = ? AND at = ?"
		       " AND file = ?",
	/* CROSS: in this order. */
	[CQ_DUE] = "SELECT " ROW " FROM dues CROSS JOIN files ON key = file"
		   " WHERE of = ? AND at <= ? ORDER BY at LIMIT ?",
	[CQ_NEXT_DUE] = "SELECT at FROM dues WHERE of = ? ORDER BY at LIMIT 1",
	[CQ_COLDEST] = "SELECT " ROW " FROM ranks CROSS JOIN files"
		       " ON key = file WHERE of = ? AND at > ?"
		       " ORDER BY at LIMIT ?",
	[CQ_POSITION] = "SELECT count(*) FROM ranks WHERE of = ? AND at < ?",
	[CQ_ROWS_OF] = "SELECT " ROW " FROM files WHERE home = ? AND key > ?"
		       " ORDER BY key LIMIT ?",
};

int catalog_schema_remove(struct front *front)
{
	static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		char name[32];

		snprintf(name, sizeof(name), CATALOG_NAME "%s", suffixes[i]);
		if (unlinkat(front->meta_fd, name, 0) < 0 && errno != ENOENT)
			return -errno;
	}
	return 0;
}

static int number(struct catalog_db *db, const char *sql, int64_t *ret)
{
	sqlite3_stmt *st = NULL;
	int rc;

	rc = sqlite3_prepare_v2(db->sql, sql, -1, &st, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int64(st, 0);
	rc = rc == SQLITE_DONE ? -EBADMSG : catalog_db_errno(db, rc);
	sqlite3_finalize(st);
	return rc;
}

/* -EBADMSG: it is not one of ours, or none that we know. *ret_old: version 1. */
static int recognise(struct catalog_db *db, bool *ret_created, bool *ret_old)
{
	int64_t pages = 0, app = 0, version = 0, tables = 0, wanted = 7;
	int err;

	err = number(db, "PRAGMA page_count", &pages);
	if (err || !pages) {
		*ret_created = !err;
		return err;
	}
	*ret_created = false;
	err = number(db, "PRAGMA application_id", &app);
	if (!err)
		err = number(db, "PRAGMA user_version", &version);
	if (!err && version == 1)
		wanted = 5;
	if (!err)
		err = number(db,
			     "SELECT count(*) FROM sqlite_schema WHERE name"
			     " IN ('meta', 'files', 'links', 'dirs',"
			     " 'hist', 'ranks', 'dues')",
			     &tables);
	if (!err && (app != APP_ID || (version != 1 && version != VERSION) ||
		     tables != wanted))
		err = -EBADMSG;
	*ret_old = version == 1;
	return err;
}

static int open_once(struct front *front, struct catalog_db *ret,
		     bool *ret_created)
{
	struct catalog_db db;
	bool old = false;
	int err;

	err = catalog_db_open(front->meta_fd,
			      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &db);
	if (err)
		return err;
	err = catalog_db_exec(
		&db,
		"PRAGMA synchronous = FULL;"
		"PRAGMA temp_store = MEMORY;"
		"PRAGMA secure_delete = OFF;"
		"PRAGMA trusted_schema = OFF;"
		"PRAGMA cache_size = -16384;"
		"PRAGMA journal_size_limit = 67108864;" CATALOG_CHECKPOINT);
	if (!err)
		err = recognise(&db, ret_created, &old);
	if (!err && *ret_created)
		err = catalog_db_exec(&db, schema);
	if (!err)
		err = catalog_db_exec(&db, "PRAGMA journal_mode = WAL");
	if (!err && old)
		err = catalog_db_exec(&db, from_version_1);
	if (err) {
		catalog_db_close(&db);
		return err;
	}
	*ret = db;
	return 0;
}

static int copy(int dirfd, const char *name)
{
	_cleanup_close_ int from = -1, to = -1;
	char tmp[64];
	ssize_t n;

	from = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (from < 0)
		return errno == ENOENT ? 0 : -errno;
	snprintf(tmp, sizeof(tmp), "%s.new", name);
	to = openat(dirfd, tmp,
		    O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
		    0600);
	if (to < 0)
		return -errno;
	while ((n = copy_file_range(from, NULL, to, NULL, 1 << 30, 0)) > 0)
		;
	if (n < 0 || renameat(dirfd, tmp, dirfd, name) < 0) {
		int err = -errno;

		unlinkat(dirfd, tmp, 0);
		return err;
	}
	return 0;
}

/* So that nobody else has it open. */
static int copy_all(struct front *front)
{
	int err;

	/* Database and WAL fit, or the WAL is not used. */
	err = copy(front->meta_fd, CATALOG_NAME);
	if (!err)
		err = copy(front->meta_fd, CATALOG_NAME "-wal");
	if (!err && unlinkat(front->meta_fd, CATALOG_NAME "-shm", 0) < 0 &&
	    errno != ENOENT)
		err = -errno;
	return err ? catalog_schema_remove(front) : 0;
}

int catalog_schema_open(struct front *front, struct catalog_db *ret,
			bool *ret_created, char **ret_why)
{
	int err = front->took_over ? copy_all(front) : 0;

	if (!err)
		err = open_once(front, ret, ret_created);
	if (err != -EBADMSG && err != -EIO && err != -ELOOP)
		return err;
	fail_why(ret_why, err,
		 CATALOG_NAME ": %s; it is made anew, which takes a walk over "
			      "the front and loses the temperatures",
		 err == -EBADMSG ? "damaged, or of another version"
				 : strerror(-err));
	err = catalog_schema_remove(front);
	return err ? err : open_once(front, ret, ret_created);
}
