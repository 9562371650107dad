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
#include "journal_sqlite.h"
#include "util.h"

#define BATCH_NAME    "batches.db"
#define BATCH_APP_ID  0x74664231 /* "tfB1" */
#define BATCH_VERSION 1
#define RESERVE	      (1 << 20) /* bytes, each for database and WAL */

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

/* What is damaged is found here, not by a commit later. */
static int db_check(struct batch_db *db)
{
	sqlite3_stmt *st = NULL;
	const char *text;
	bool sound = false;
	int rc, err;

	rc = sqlite3_prepare_v2(db->sql, "PRAGMA quick_check(1)", -1, &st,
				NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	err = batch_db_errno(db, rc);
	if (rc == SQLITE_ROW) {
		text = (const char *)sqlite3_column_text(st, 0);
		sound = text && !strcmp(text, "ok");
	}
	sqlite3_finalize(st);
	return err ? err : sound ? 0 : -EBADMSG;
}

static int db_setup(struct batch_db *db)
{
	bool new = false;
	int err;

	err = journal_sqlite_begin(db->dirfd, BATCH_NAME, &db->sql);
	if (!err)
		err = journal_sqlite_recognise(db->sql, BATCH_APP_ID,
					       BATCH_VERSION, &new);
	if (!err)
		err = new ? journal_sqlite_exec(db->sql, schema) : db_check(db);
	if (!err)
		err = journal_sqlite_exec(db->sql, "PRAGMA journal_mode = WAL");
	if (!err) /* opens the WAL */
		err = journal_sqlite_exec(db->sql,
					  "BEGIN IMMEDIATE; UPDATE batch SET"
					  " id = id WHERE id < 0; COMMIT;");
	if (!err)
		err = journal_sqlite_prepare(db->sql, statement_sql,
					     BATCH_STATEMENTS, db->st);
	if (!err && new &&fsync(db->dirfd) < 0)
		err = -errno;
	if (!err)
		journal_sqlite_ready(db->sql, db->dirfd, BATCH_NAME, RESERVE);
	return err;
}

int batch_db_open(int dirfd, struct batch_db **ret, char **ret_why)
{
	struct batch_db *db;
	int err = 0;

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
