/* SPDX-License-Identifier: MIT */
/*
 * batches.db, as SQLite sees it. WAL and one connection, as journal_db.c has it
 * and for the same reasons; and space reserved as there, since a front that is
 * full is one where `tierctl release --no-wait` must be able to say what it
 * wants. Unlike there a commit is only synced (synchronous=FULL) when somebody
 * is told that it is safe.
 */
#include "batch_db.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "journal_vfs.h"
#include "util.h"

#define BATCH_NAME    "batches.db"
#define BATCH_APP_ID  0x74664231 /* "tfB1" */
#define BATCH_VERSION 1
#define RESERVE	      (1 << 20) /* bytes, each for database and WAL */
#define BUSY_MS	      500

static const char schema[] =
	"BEGIN IMMEDIATE;"
	"PRAGMA application_id = 1952858673;"
	"PRAGMA user_version = 1;"
	"CREATE TABLE batch(id INTEGER PRIMARY KEY AUTOINCREMENT,"
	" op TEXT NOT NULL, recursive INTEGER NOT NULL,"
	" release INTEGER NOT NULL, uid INTEGER NOT NULL,"
	" gid INTEGER NOT NULL, groups BLOB, budget INTEGER NOT NULL,"
	" keep INTEGER NOT NULL, label BLOB, files INTEGER NOT NULL,"
	" bytes INTEGER NOT NULL, asked INTEGER NOT NULL,"
	" ended INTEGER NOT NULL, state INTEGER NOT NULL,"
	" done INTEGER NOT NULL, already INTEGER NOT NULL,"
	" refused INTEGER NOT NULL, failed INTEGER NOT NULL,"
	" moved INTEGER NOT NULL, reasons BLOB);"
	"CREATE TABLE item(batch INTEGER NOT NULL, seq INTEGER NOT NULL,"
	" path BLOB NOT NULL, shown BLOB NOT NULL,"
	" PRIMARY KEY(batch, seq)) WITHOUT ROWID;"
	"CREATE TABLE keep(handle BLOB PRIMARY KEY, until INTEGER NOT NULL)"
	" WITHOUT ROWID;"
	"COMMIT;";
_Static_assert(BATCH_APP_ID == 1952858673 && BATCH_VERSION == 1,
	       "the schema says the same");

static const char *const statement_sql[BATCH_STATEMENTS] = {
	[ST_BEGIN] = "BEGIN IMMEDIATE",
	[ST_COMMIT] = "COMMIT",
	[ST_FULL] = "PRAGMA synchronous = FULL",
	[ST_NORMAL] = "PRAGMA synchronous = NORMAL",
	[ST_ADD] = "INSERT INTO batch VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,"
		   "?11,?12,?13,0,?14,0,0,0,0,0,NULL)",
	[ST_ITEM] = "INSERT INTO item VALUES(?,?,?,?)",
	[ST_READY] = "UPDATE batch SET state = ?2, label = ?3, files = ?4,"
		     " bytes = ?5 WHERE id = ?1",
	[ST_NOTE] = "UPDATE batch SET done = ?2, already = ?3, refused = ?4,"
		    " failed = ?5, moved = ?6, reasons = ?7 WHERE id = ?1",
	[ST_END] = "UPDATE batch SET state = ?2, ended = ?3 WHERE id = ?1",
	[ST_DROP] = "DELETE FROM batch WHERE id = ?",
	[ST_DROP_ITEMS] = "DELETE FROM item WHERE batch = ?",
	[ST_FORGET] = "DELETE FROM batch WHERE ended > 0 AND (ended < ?1 OR"
		      " id NOT IN (SELECT id FROM batch WHERE ended > 0"
		      " ORDER BY ended DESC LIMIT ?2))",
	[ST_LIST] = "SELECT * FROM batch ORDER BY id",
	[ST_ITEMS] = "SELECT path, shown FROM item WHERE batch = ? AND"
		     " seq >= ? ORDER BY seq LIMIT ?",
	[ST_KEEP] = "INSERT OR REPLACE INTO keep VALUES(?,?)",
	[ST_UNKEEP] = "DELETE FROM keep WHERE handle = ?",
	[ST_KEEP_PURGE] = "DELETE FROM keep WHERE until <= ?",
	[ST_KEEPS] = "SELECT handle, until FROM keep",
	[ST_LAST_ID] = "SELECT seq FROM sqlite_sequence WHERE name = 'batch'",
};

struct batch_db {
	sqlite3 *sql;
	sqlite3_stmt *st[BATCH_STATEMENTS];
	int dirfd; /* ours: SQLite opens files by its number */
};

int batch_db_errno(struct batch_db *db, int rc)
{
	return journal_sqlite_errno(db->sql, rc);
}

struct sqlite3_stmt *batch_db_st(struct batch_db *db,
				 enum batch_statement which)
{
	return db->st[which];
}

int batch_db_run(struct batch_db *db, enum batch_statement which)
{
	int err = batch_db_errno(db, sqlite3_step(db->st[which]));

	sqlite3_reset(db->st[which]);
	return err;
}

void batch_db_rollback(struct batch_db *db)
{
	/* After some errors SQLite has done it by itself. */
	if (!sqlite3_get_autocommit(db->sql))
		sqlite3_exec(db->sql, "ROLLBACK", NULL, NULL, NULL);
}

static int db_exec(struct batch_db *db, const char *sql)
{
	return batch_db_errno(db, sqlite3_exec(db->sql, sql, NULL, NULL, NULL));
}

/* The first column of the first row: a number, or is it "ok"? */
static int db_ask(struct batch_db *db, const char *sql, int64_t *ret)
{
	sqlite3_stmt *st = NULL;
	const char *text;
	int rc, err;

	rc = sqlite3_prepare_v2(db->sql, sql, -1, &st, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	err = batch_db_errno(db, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc);
	if (!err && sqlite3_column_type(st, 0) == SQLITE_TEXT) {
		text = (const char *)sqlite3_column_text(st, 0);
		*ret = text && !strcmp(text, "ok");
	} else if (!err) {
		*ret = sqlite3_column_int64(st, 0);
	}
	sqlite3_finalize(st);
	return err;
}

/* Ours, of a version that we know, and whole? Changes nothing. */
static int db_recognise(struct batch_db *db, bool *ret_new)
{
	int64_t pages = 0, app = 0, version = 0, sound = 0;
	int err;

	err = db_ask(db, "PRAGMA page_count", &pages);
	if (!err)
		err = db_ask(db, "PRAGMA application_id", &app);
	if (!err)
		err = db_ask(db, "PRAGMA user_version", &version);
	*ret_new = pages == 0;
	if (err || !pages)
		return err;
	if (app != BATCH_APP_ID || version < 1)
		return -EBADMSG;
	if (version > BATCH_VERSION)
		return -EPROTONOSUPPORT;
	err = db_ask(db, "PRAGMA quick_check(1)", &sound);
	return err ? err : sound ? 0 : -EBADMSG;
}

static void db_reserve(struct batch_db *db)
{
	_cleanup_close_ int fd = -1;
	sqlite3_int64 hint = RESERVE;
	int chunk = RESERVE, persist = 1;

	sqlite3_file_control(db->sql, "main", SQLITE_FCNTL_PERSIST_WAL,
			     &persist);
	sqlite3_file_control(db->sql, "main", SQLITE_FCNTL_CHUNK_SIZE, &chunk);
	sqlite3_file_control(db->sql, "main", SQLITE_FCNTL_SIZE_HINT, &hint);
	/* SQLite holds no lock on the WAL that our close() could drop. */
	fd = openat(db->dirfd, BATCH_NAME "-wal",
		    O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0)
		(void)!fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, RESERVE);
}

static int db_prepare(struct batch_db *db)
{
	int err = 0;

	for (int i = 0; !err && i < BATCH_STATEMENTS; i++)
		err = batch_db_errno(
			db, sqlite3_prepare_v3(db->sql, statement_sql[i], -1,
					       SQLITE_PREPARE_PERSISTENT,
					       &db->st[i], NULL));
	return err;
}

static int db_setup(struct batch_db *db)
{
	const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX |
			  SQLITE_OPEN_PRIVATECACHE;
	bool new = false;
	int err;

	err = batch_db_errno(db, journal_sqlite_open_at(db->dirfd, BATCH_NAME,
							flags, &db->sql));
	if (err)
		return err;
	sqlite3_extended_result_codes(db->sql, 1);
	sqlite3_busy_timeout(db->sql, BUSY_MS);
	/* What is refused is closed as it was found. */
	sqlite3_db_config(db->sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	err = db_exec(db, "PRAGMA locking_mode = EXCLUSIVE;"
			  "PRAGMA synchronous = FULL;"
			  "PRAGMA temp_store = MEMORY;"
			  "PRAGMA trusted_schema = OFF;");
	if (!err)
		err = db_recognise(db, &new);
	if (!err && new)
		err = db_exec(db, schema);
	if (!err)
		err = db_exec(db, "PRAGMA journal_mode = WAL");
	if (!err) /* opens the WAL */
		err = db_exec(db, "BEGIN IMMEDIATE; UPDATE batch SET id = id"
				  " WHERE id < 0; COMMIT;");
	if (!err)
		err = db_prepare(db);
	if (!err && new &&fsync(db->dirfd) < 0)
		err = -errno;
	if (err)
		return err;
	db_reserve(db);
	sqlite3_db_config(db->sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	return 0;
}

int batch_db_open(int dirfd, struct batch_db **ret, char **ret_why)
{
	_cleanup_close_ int fd = -1;
	struct batch_db *db;
	int err = 0;

	/* Made here, so that it is ours alone; the WAL takes over the mode. */
	fd = openat(dirfd, BATCH_NAME,
		    O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return fail_why(ret_why, -errno, "%s", strerror(errno));
	close(steal_fd(&fd)); /* before SQLite takes its locks */
	db = calloc(1, sizeof(*db));
	if (!db)
		return -ENOMEM;
	db->dirfd = fcntl(dirfd, F_DUPFD_CLOEXEC, 0);
	if (db->dirfd < 0)
		err = -errno;
	if (!err)
		err = db_setup(db);
	if (err == -EPROTONOSUPPORT)
		fail_why(ret_why, err, "written by a newer version of tierfs");
	else if (err == -EBADMSG)
		fail_why(ret_why, err, "damaged");
	else if (err)
		fail_why(ret_why, err, "%s", strerror(-err));
	if (err) {
		batch_db_close(db);
		return err;
	}
	*ret = db;
	return 0;
}

void batch_db_close(struct batch_db *db)
{
	if (!db)
		return;
	for (int i = 0; i < BATCH_STATEMENTS; i++)
		sqlite3_finalize(db->st[i]);
	sqlite3_close(db->sql);
	if (db->dirfd >= 0)
		close(db->dirfd);
	free(db);
}
