/* SPDX-License-Identifier: MIT */
#include "journal_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <unistd.h>

#include "cleanup.h"

#define BUSY_MS 500

int journal_sqlite_exec(sqlite3 *sql, const char *text)
{
	return journal_sqlite_errno(sql,
				    sqlite3_exec(sql, text, NULL, NULL, NULL));
}

int journal_sqlite_number(sqlite3 *sql, const char *text, int64_t *ret)
{
	sqlite3_stmt *st = NULL;
	int rc;

	rc = sqlite3_prepare_v2(sql, text, -1, &st, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int64(st, 0);
	else if (rc == SQLITE_DONE)
		rc = SQLITE_CORRUPT;
	rc = journal_sqlite_errno(sql, rc);
	sqlite3_finalize(st);
	return rc;
}

int journal_sqlite_prepare(sqlite3 *sql, const char *const texts[],
			   unsigned int n, sqlite3_stmt *ret[])
{
	int rc = SQLITE_OK;

	for (unsigned int i = 0; rc == SQLITE_OK && i < n; i++)
		rc = sqlite3_prepare_v3(sql, texts[i], -1,
					SQLITE_PREPARE_PERSISTENT, &ret[i],
					NULL);
	return journal_sqlite_errno(sql, rc);
}

int journal_sqlite_begin(int dirfd, const char *name, sqlite3 **ret)
{
	const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX |
			  SQLITE_OPEN_PRIVATECACHE;
	int fd, err;

	/* Made here, so that it is ours alone; the WAL takes over the mode. */
	fd = openat(dirfd, name,
		    O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return -errno;
	close(fd); /* before SQLite takes its locks */
	err = journal_sqlite_open_at(dirfd, name, flags, ret);
	err = journal_sqlite_errno(*ret, err);
	if (err)
		return err;
	sqlite3_extended_result_codes(*ret, 1);
	sqlite3_busy_timeout(*ret, BUSY_MS);
	sqlite3_db_config(*ret, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	return journal_sqlite_exec(*ret, "PRAGMA locking_mode = EXCLUSIVE;"
					 "PRAGMA synchronous = FULL;"
					 "PRAGMA temp_store = MEMORY;"
					 "PRAGMA trusted_schema = OFF;");
}

int journal_sqlite_recognise(sqlite3 *sql, uint32_t app_id, int64_t version,
			     bool *ret_new)
{
	int64_t pages = 0, app = 0, found = 0;
	int err;

	err = journal_sqlite_number(sql, "PRAGMA page_count", &pages);
	if (!err)
		err = journal_sqlite_number(sql, "PRAGMA application_id", &app);
	if (!err)
		err = journal_sqlite_number(sql, "PRAGMA user_version", &found);
	if (err)
		return err;
	*ret_new = pages == 0;
	if (pages && (app != app_id || found < 1))
		return -EBADMSG;
	return pages && found > version ? -EPROTONOSUPPORT : 0;
}

void journal_sqlite_ready(sqlite3 *sql, int dirfd, const char *name,
			  unsigned int bytes)
{
	_cleanup_close_ int fd = -1;
	sqlite3_int64 hint = bytes;
	int chunk = (int)bytes, persist = 1;
	char wal[64];

	sqlite3_file_control(sql, "main", SQLITE_FCNTL_PERSIST_WAL, &persist);
	sqlite3_file_control(sql, "main", SQLITE_FCNTL_CHUNK_SIZE, &chunk);
	sqlite3_file_control(sql, "main", SQLITE_FCNTL_SIZE_HINT, &hint);
	/* SQLite holds no lock on the WAL that our close() could drop. */
	snprintf(wal, sizeof(wal), "%s-wal", name);
	fd = openat(dirfd, wal, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0)
		(void)!fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, bytes);
	sqlite3_db_config(sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
}
