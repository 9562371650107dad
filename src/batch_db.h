/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_BATCH_DB_H
#define TIERFS_BATCH_DB_H

/* batches.db: opening it, and its statements. For batch.c alone. */

#include "batch_impl.h"

struct sqlite3_stmt;

enum batch_statement {
	ST_BEGIN,
	ST_COMMIT,
	ST_FULL,   /* what is committed from here on is durable, */
	ST_NORMAL, /* or may be lost by a power cut */
	ST_ADD,
	ST_ITEM,
	ST_READY,
	ST_NOTE,
	ST_END,
	ST_DROP,
	ST_DROP_ITEMS,
	ST_FORGET,
	ST_LIST,
	ST_ITEMS,
	ST_KEEP,
	ST_UNKEEP,
	ST_KEEP_PURGE,
	ST_KEEPS,
	ST_LAST_ID,
	BATCH_STATEMENTS
};

struct batch_db;

/* -EBADMSG damaged or not ours, -EPROTONOSUPPORT newer; others. */
int batch_db_open(int dirfd, struct batch_db **ret, char **ret_why);
void batch_db_close(struct batch_db *db);
/* To bind to, and to step. */
struct sqlite3_stmt *batch_db_st(struct batch_db *db,
				 enum batch_statement which);
/* Runs a statement that has no rows to give, and resets it. */
int batch_db_run(struct batch_db *db, enum batch_statement which);
/* The -errno of a result code of SQLite. */
int batch_db_errno(struct batch_db *db, int rc);
void batch_db_rollback(struct batch_db *db);

#endif
