/* SPDX-License-Identifier: MIT */
/*
 * WAL, not a rollback journal: a commit is one append and one fdatasync(),
 * where a rollback journal takes three or four syncs. With
 * locking_mode=EXCLUSIVE the index of the WAL is in our memory: there is no
 * -shm file, and another process that opens the database gets "locked". The
 * WAL is copied into the database (a checkpoint) by journal.c between commits
 * when it has grown past CHECKPOINT_FRAMES, after those who wait were told.
 *
 * What a crash leaves: a WAL whose last commit that is whole counts; SQLite
 * finds it by checksums. The database is made by one transaction with a
 * rollback journal and only then switched to WAL, so a crash while it is made
 * leaves either an empty database, which is new, or a whole one.
 *
 * A front that is full must be able to release data, and that takes an intent.
 * So space is reserved when the journal is opened: for the database by
 * SQLite's chunk size, for the WAL by fallocate() past its end; and the WAL is
 * kept when the journal is closed. In this space some 10,000 intents commit
 * with not one free block on the front.
 *
 * A commit that fails is rolled back by SQLite and leaves earlier ones alone:
 * frames after the last good commit are written anew by the next one, so a
 * sync that succeeds later covers them. If the machine dies before that, a
 * commit that was reported as failed (its sync failed) may be found
 * nevertheless. For an intent that does no harm: recovery finds a step that
 * was not taken.
 */
#include "journal_db.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "journal_sqlite.h"
#include "util.h"

#define JOURNAL_NAME	  "journal.db"
#define JOURNAL_APP_ID	  0x74664a31 /* "tfJ1" */
#define JOURNAL_VERSION	  1
#define CHECKPOINT_FRAMES 256	    /* of 4 KiB */
#define RESERVE		  (4 << 20) /* bytes, each for database and WAL */

static const char schema[] =
	"BEGIN IMMEDIATE;"
	"PRAGMA application_id = 1952860721;"
	"PRAGMA user_version = 1;"
	"CREATE TABLE intent(id INTEGER PRIMARY KEY, kind INTEGER NOT NULL,"
	" target INTEGER NOT NULL, oid INTEGER NOT NULL, handle BLOB NOT NULL,"
	" mtime INTEGER NOT NULL, atime INTEGER NOT NULL,"
	" ino INTEGER NOT NULL);"
	"CREATE TABLE value(key TEXT PRIMARY KEY, value BLOB NOT NULL)"
	" WITHOUT ROWID;"
	"CREATE TABLE count(one INTEGER PRIMARY KEY CHECK (one = 1),"
	" bound INTEGER NOT NULL);"
	/* A database that was lost must not give out counts again that name
	 * objects: each begins past all that an earlier one can have given,
	 * a million a second since 1970. */
	"INSERT INTO count"
	" VALUES(1, (CAST(strftime('%s', 'now') AS INTEGER) << 20) + 1);"
	"COMMIT;";
_Static_assert(JOURNAL_APP_ID == 1952860721 && JOURNAL_VERSION == 1,
	       "the schema says the same");

enum statement {
	ST_BEGIN,
	ST_COMMIT,
	ST_INSERT,
	ST_DELETE,
	ST_PUT,
	ST_BOUND,
	ST_GET,
	ST_LIST,
	STATEMENTS
};

static const char *const statement_sql[STATEMENTS] = {
	[ST_BEGIN] = "BEGIN IMMEDIATE",
	[ST_COMMIT] = "COMMIT",
	[ST_INSERT] = "INSERT INTO intent VALUES(?,?,?,?,?,?,?,?)",
	[ST_DELETE] = "DELETE FROM intent WHERE id = ?",
	[ST_PUT] = "INSERT OR REPLACE INTO value VALUES(?,?)",
	[ST_BOUND] = "UPDATE count SET bound = ?",
	[ST_GET] = "SELECT value FROM value WHERE key = ?",
	[ST_LIST] = "SELECT * FROM intent ORDER BY id",
};

struct journal_db {
	sqlite3 *sql;
	sqlite3_stmt *st[STATEMENTS];
	int dirfd; /* ours: SQLite opens files by its number */
	bool created;
	int wal_frames;
	uint64_t last_id, bound;
};

/* What a result code says as -errno. */
static int db_errno(struct journal_db *db, int rc)
{
	return journal_sqlite_errno(db->sql, rc);
}

/* Runs a statement that has no rows to give. */
static int db_run(struct journal_db *db, enum statement which)
{
	int rc = sqlite3_step(db->st[which]);
	int ret = db_errno(db, rc);

	sqlite3_reset(db->st[which]);
	return ret;
}

/* A page that is damaged fails the mount here, not a commit later. */
static int db_quick_check(struct journal_db *db, char **ret_why)
{
	sqlite3_stmt *st = NULL;
	const char *text;
	int rc, ret;

	rc = sqlite3_prepare_v2(db->sql, "PRAGMA quick_check(1)", -1, &st,
				NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		text = (const char *)sqlite3_column_text(st, 0);
		ret = 0;
		if (!text)
			ret = -ENOMEM;
		else if (strcmp(text, "ok"))
			ret = fail_why(ret_why, -EBADMSG,
				       JOURNAL_NAME ": damaged: %s", text);
	} else {
		ret = db_errno(db, rc);
		fail_why(ret_why, ret, JOURNAL_NAME ": damaged: %s",
			 sqlite3_errmsg(db->sql));
	}
	sqlite3_finalize(st);
	return ret;
}

/* SQLite calls a page that the disk cannot read malformed. Is it the disk? */
static int db_disk_error(struct journal_db *db)
{
	_cleanup_close_ int fd = -1;
	off_t off = 0;
	char buf[4096];
	ssize_t n;

	/* Closing drops SQLite's locks: only for a database that is given up. */
	fd = openat(db->dirfd, JOURNAL_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while ((n = pread(fd, buf, sizeof(buf), off)) > 0)
		off += n;
	return n < 0 ? -errno : 0;
}

/* Is it ours, and of a version that we know? Changes nothing. */
static int db_recognise(struct journal_db *db, char **ret_why)
{
	int ret = journal_sqlite_recognise(db->sql, JOURNAL_APP_ID,
					   JOURNAL_VERSION, &db->created);

	switch (ret) {
	case 0:
		return db->created ? 0 : db_quick_check(db, ret_why);
	case -EBADMSG:
		if (sqlite3_errcode(db->sql) == SQLITE_OK ||
		    sqlite3_errcode(db->sql) == SQLITE_DONE)
			return fail_why(ret_why, ret,
					JOURNAL_NAME
					": not a journal of tierfs");
		break;
	case -EPROTONOSUPPORT:
		return fail_why(ret_why, ret,
				JOURNAL_NAME
				": written by a newer version of tierfs");
	case -EBUSY:
		return fail_why(ret_why, ret,
				JOURNAL_NAME ": in use by another process");
	}
	return fail_why(ret_why, ret, JOURNAL_NAME ": cannot be read: %s",
			sqlite3_errmsg(db->sql));
}

static int db_wal_hook(void *arg, sqlite3 *sql, const char *name, int frames)
{
	struct journal_db *db = arg;

	db->wal_frames = frames;
	return SQLITE_OK;
}

static int db_prepare(struct journal_db *db)
{
	int64_t id = 0, bound = 0;
	int ret;

	ret = journal_sqlite_prepare(db->sql, statement_sql, STATEMENTS,
				     db->st);
	if (!ret)
		ret = journal_sqlite_number(
			db->sql, "SELECT ifnull(max(id), 0) FROM intent", &id);
	if (!ret)
		ret = journal_sqlite_number(db->sql, "SELECT bound FROM count",
					    &bound);
	if (ret)
		return ret;
	if (id < 0 || bound < 1)
		return -EBADMSG;
	db->last_id = id;
	db->bound = bound;
	sqlite3_wal_hook(db->sql, db_wal_hook, db);
	return 0;
}

static int db_setup(struct journal_db *db, char **ret_why)
{
	int ret;

	ret = journal_sqlite_begin(db->dirfd, JOURNAL_NAME, &db->sql);
	if (ret && !db->sql)
		return fail_why(ret_why, ret,
				JOURNAL_NAME ": cannot be opened: %s",
				strerror(-ret));
	if (!ret) {
		ret = db_recognise(db, ret_why);
		if (ret)
			return ret;
		ret = journal_sqlite_exec(db->sql,
					  "PRAGMA secure_delete = OFF;"
					  "PRAGMA wal_autocheckpoint = 0;");
	}
	if (!ret && db->created)
		ret = journal_sqlite_exec(db->sql, schema);
	if (!ret)
		ret = journal_sqlite_exec(db->sql, "PRAGMA journal_mode = WAL");
	if (!ret) /* opens the WAL */
		ret = journal_sqlite_exec(db->sql,
					  "BEGIN IMMEDIATE; UPDATE count SET"
					  " bound = bound; COMMIT;");
	if (!ret)
		ret = db_prepare(db);
	if (!ret && db->created && fsync(db->dirfd) < 0)
		ret = -errno;
	if (ret)
		return fail_why(ret_why, ret,
				JOURNAL_NAME ": cannot be used: %s",
				sqlite3_errmsg(db->sql));
	journal_sqlite_ready(db->sql, db->dirfd, JOURNAL_NAME, RESERVE);
	return 0;
}

int journal_db_open(int dirfd, struct journal_db **ret_db, char **ret_why)
{
	struct journal_db *db;
	int ret;

	db = calloc(1, sizeof(*db));
	if (!db)
		return fail_why(ret_why, -ENOMEM,
				JOURNAL_NAME ": cannot be opened");
	db->dirfd = fcntl(dirfd, F_DUPFD_CLOEXEC, 0);
	if (db->dirfd < 0) {
		ret = -errno;
		fail_why(ret_why, ret, JOURNAL_NAME ": cannot be opened: %s",
			 strerror(-ret));
	} else {
		ret = db_setup(db, ret_why);
	}
	if (ret == -EBADMSG && db_disk_error(db)) {
		ret = -EIO;
		if (ret_why)
			free(*ret_why);
		fail_why(ret_why, ret, JOURNAL_NAME ": cannot be read: %s",
			 strerror(-ret));
	}
	if (ret) {
		journal_db_close(db);
		return ret;
	}
	*ret_db = db;
	return 0;
}

void journal_db_close(struct journal_db *db)
{
	for (int i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(db->st[i]);
	sqlite3_close(db->sql);
	if (db->dirfd >= 0)
		close(db->dirfd);
	free(db);
}

bool journal_db_created(const struct journal_db *db)
{
	return db->created;
}

uint64_t journal_db_last_id(const struct journal_db *db)
{
	return db->last_id;
}

uint64_t journal_db_bound(const struct journal_db *db)
{
	return db->bound;
}

int journal_db_begin(struct journal_db *db)
{
	return db_run(db, ST_BEGIN);
}

int journal_db_insert(struct journal_db *db, uint64_t id,
		      const struct intent *intent)
{
	sqlite3_stmt *st = db->st[ST_INSERT];
	uint8_t handle[1 + FRONT_HANDLE_BYTES];
	size_t len = intent->handle.len;

	if (len > FRONT_HANDLE_BYTES)
		return -EINVAL;
	handle[0] = intent->handle.type;
	memcpy(handle + 1, intent->handle.bytes, len);
	sqlite3_bind_int64(st, 1, id);
	sqlite3_bind_int64(st, 2, intent->kind);
	sqlite3_bind_int64(st, 3, intent->target);
	sqlite3_bind_int64(st, 4, intent->oid);
	sqlite3_bind_blob(st, 5, handle, len ? 1 + len : 0, SQLITE_STATIC);
	if (!len) /* an empty blob, not NULL */
		sqlite3_bind_zeroblob(st, 5, 0);
	sqlite3_bind_int64(st, 6, intent->mtime);
	sqlite3_bind_int64(st, 7, intent->atime);
	sqlite3_bind_int64(st, 8, intent->ino);
	return db_run(db, ST_INSERT);
}

int journal_db_delete(struct journal_db *db, uint64_t id)
{
	sqlite3_bind_int64(db->st[ST_DELETE], 1, id);
	return db_run(db, ST_DELETE);
}

int journal_db_put(struct journal_db *db, const char *key, const void *value,
		   size_t len)
{
	sqlite3_stmt *st = db->st[ST_PUT];

	sqlite3_bind_text(st, 1, key, -1, SQLITE_STATIC);
	if (len)
		sqlite3_bind_blob64(st, 2, value, len, SQLITE_STATIC);
	else
		sqlite3_bind_zeroblob(st, 2, 0);
	return db_run(db, ST_PUT);
}

int journal_db_set_bound(struct journal_db *db, uint64_t bound)
{
	sqlite3_bind_int64(db->st[ST_BOUND], 1, bound);
	return db_run(db, ST_BOUND);
}

int journal_db_commit(struct journal_db *db)
{
	return db_run(db, ST_COMMIT);
}

void journal_db_rollback(struct journal_db *db)
{
	/* After some errors SQLite has done it by itself. */
	if (!sqlite3_get_autocommit(db->sql))
		sqlite3_exec(db->sql, "ROLLBACK", NULL, NULL, NULL);
}

int journal_db_get(struct journal_db *db, const char *key, void *ret,
		   size_t size)
{
	sqlite3_stmt *st = db->st[ST_GET];
	const void *value;
	int rc, len = 0;

	sqlite3_bind_text(st, 1, key, -1, SQLITE_STATIC);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		value = sqlite3_column_blob(st, 0);
		len = sqlite3_column_bytes(st, 0);
		if ((size_t)len > size)
			len = -ERANGE;
		else if (len)
			memcpy(ret, value, len);
	} else {
		len = rc == SQLITE_DONE ? -ENOENT : db_errno(db, rc);
	}
	sqlite3_reset(st);
	return len;
}

static int intent_read(sqlite3_stmt *st, struct intent *ret)
{
	const uint8_t *handle = sqlite3_column_blob(st, 4);
	int len = sqlite3_column_bytes(st, 4);

	if (len > 1 + FRONT_HANDLE_BYTES || (len && !handle))
		return -EBADMSG;
	*ret = (struct intent){
		.id = sqlite3_column_int64(st, 0),
		.kind = sqlite3_column_int64(st, 1),
		.target = sqlite3_column_int64(st, 2),
		.oid = sqlite3_column_int64(st, 3),
		.mtime = sqlite3_column_int64(st, 5),
		.atime = sqlite3_column_int64(st, 6),
		.ino = sqlite3_column_int64(st, 7),
	};
	if (len) {
		ret->handle.type = handle[0];
		ret->handle.len = len - 1;
		memcpy(ret->handle.bytes, handle + 1, len - 1);
	}
	return 0;
}

int journal_db_intents(struct journal_db *db, struct intent **ret_intents,
		       size_t *ret_n)
{
	_cleanup_free_ struct intent *intents = NULL;
	sqlite3_stmt *st = db->st[ST_LIST];
	size_t n = 0, cap = 0;
	int rc, ret = 0;

	while ((rc = sqlite3_step(st)) == SQLITE_ROW && !ret) {
		if (n == cap) {
			void *more;

			cap = cap ? 2 * cap : 64;
			more = reallocarray(intents, cap, sizeof(*intents));
			if (!more) {
				ret = -ENOMEM;
				break;
			}
			intents = more;
		}
		ret = intent_read(st, &intents[n++]);
	}
	if (!ret)
		ret = db_errno(db, rc);
	sqlite3_reset(st);
	if (ret)
		return ret;
	*ret_intents = steal_ptr(&intents);
	*ret_n = n;
	return 0;
}

void journal_db_checkpoint(struct journal_db *db)
{
	int left;

	if (db->wal_frames < CHECKPOINT_FRAMES)
		return;
	if (sqlite3_wal_checkpoint_v2(db->sql, "main",
				      SQLITE_CHECKPOINT_PASSIVE, &left,
				      NULL) == SQLITE_OK)
		db->wal_frames = 0;
}
