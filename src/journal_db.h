/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_JOURNAL_DB_H
#define TIERFS_JOURNAL_DB_H

/*
 * The journal's database: one transaction at a time, from one thread.
 *
 * For journal.c alone. All functions but close may fail with -ENOSPC, -EIO,
 * -ENOMEM, -EBADMSG (damaged) or what the system call said; the transaction
 * is then to be ended with journal_db_rollback().
 */

#include "journal.h"

struct journal_db;

/* As journal_open(). */
int journal_db_open(int dirfd, struct journal_db **ret, char **ret_why);
void journal_db_close(struct journal_db *db);

/* As of the open. */
bool journal_db_created(const struct journal_db *db);
uint64_t journal_db_last_id(const struct journal_db *db);
uint64_t journal_db_bound(const struct journal_db *db);

int journal_db_begin(struct journal_db *db);
int journal_db_insert(struct journal_db *db, uint64_t id,
		      const struct intent *intent);
int journal_db_delete(struct journal_db *db, uint64_t id);
int journal_db_put(struct journal_db *db, const char *key, const void *value,
		   size_t len);
/* All object counts given out are below bound. */
int journal_db_set_bound(struct journal_db *db, uint64_t bound);
/* 0: durable. */
int journal_db_commit(struct journal_db *db);
void journal_db_rollback(struct journal_db *db);

/* Outside of transactions; as journal_get() and journal_intents(). */
int journal_db_get(struct journal_db *db, const char *key, void *ret,
		   size_t size);
int journal_db_intents(struct journal_db *db, struct intent **ret,
		       size_t *ret_n);
/* Moves the log into the database when there is enough of it. A failure is no
 * loss: the log keeps it all, and the next call tries again. */
void journal_db_checkpoint(struct journal_db *db);

#endif
