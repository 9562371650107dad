/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_JOURNAL_SQLITE_H
#define TIERFS_JOURNAL_SQLITE_H

/*
 * A database in WAL mode that is one process's alone, and can be committed to on
 * a full front: what journal.db and batches.db have in common. One thread at a
 * time. Errors are those of journal_sqlite_errno().
 */

#include <stdbool.h>
#include <stdint.h>

#include "journal_vfs.h"

struct sqlite3_stmt;

/* Opens dirfd/name (which is made if need be, 0600), locked for this connection;
 * commits are synced. A checkpoint at its close is off until
 * journal_sqlite_ready(): what is refused is closed as it was found. *ret is to be
 * closed after a failure, too, and then may be NULL. */
int journal_sqlite_begin(int dirfd, const char *name, struct sqlite3 **ret);
/* Changes nothing. *ret_new: it is empty, and the rest does not count.
 * -EBADMSG: not one with that application_id, or of no version at all;
 * -EPROTONOSUPPORT: of a version above. */
int journal_sqlite_recognise(struct sqlite3 *sql, uint32_t app_id,
			     int64_t version, bool *ret_new);
/* All is done that may fail. Reserves so many bytes for the database and as many
 * for its WAL; without that room we go on as well. */
void journal_sqlite_ready(struct sqlite3 *sql, int dirfd, const char *name,
			  unsigned int bytes);

int journal_sqlite_exec(struct sqlite3 *sql, const char *text);
/* The one number that a query gives; -EBADMSG: no row. */
int journal_sqlite_number(struct sqlite3 *sql, const char *text, int64_t *ret);
/* ret[] is to be finalized, after a failure as well. */
int journal_sqlite_prepare(struct sqlite3 *sql, const char *const texts[],
			   unsigned int n, struct sqlite3_stmt *ret[]);

#endif
