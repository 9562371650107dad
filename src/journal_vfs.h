/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_JOURNAL_VFS_H
#define TIERFS_JOURNAL_VFS_H

/*
 * SQLite databases below a directory descriptor: for journal* and catalog*.
 *
 * Every file of the database (-wal, -journal, -shm) is opened relative to
 * dirfd, at any time, whatever is mounted over the directory's path by then.
 */

struct sqlite3;

/* As sqlite3_open_v2() of dirfd/name, with its result codes; name has no '/'.
 * dirfd must stay open, with this number, as long as the database. Symlinks
 * are not followed: SQLITE_CANTOPEN. */
int journal_sqlite_open_at(int dirfd, const char *name, int flags,
			   struct sqlite3 **ret);
/* The same, with its locks even after journal_ignore_locks(). */
int journal_sqlite_open_locking_at(int dirfd, const char *name, int flags,
				   struct sqlite3 **ret);

/* A result code of what was done with sql (may be NULL) as -errno: 0 for OK, ROW
 * and DONE; -ENOSPC, -ENOMEM, -EBADMSG (damaged), -EBUSY, -EROFS, what the system
 * call said, or -EIO. */
int journal_sqlite_errno(struct sqlite3 *sql, int rc);

#endif
