/* SPDX-License-Identifier: MIT */
/*
 * SQLite knows files by path only, and its unix VFS resolves every symlink in
 * a path once, when the database is opened. Of /proc/self/fd/N/journal.db that
 * makes the front's own path. After the daemon has mounted over the front that
 * path leads through its own mount: the next file that SQLite opens by it (a
 * rollback journal, a WAL after a checkpoint, the directory to fsync) would
 * make the daemon wait for itself.
 *
 * So the path is not resolved: this is the unix VFS but for xFullPathname,
 * which returns the path as it is. The kernel then follows /proc/self/fd/N to
 * the very directory that the descriptor is of, at each open. The last
 * component is opened by SQLite with O_NOFOLLOW.
 *
 * The other methods are taken over with their VFS's pAppData and are made to
 * be shared by several VFS objects: SQLite itself registers them five times
 * (unix, unix-none, unix-excl ...) with only that and the name different.
 *
 * Rejected: holding all files open before the mount (SQLite opens them when it
 * likes); chdir() (one per process, and it is libfuse's); a whole VFS on
 * openat() (a thousand lines of locking and shared memory to get right).
 */
#include "journal_vfs.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "journal.h"
#include "util.h"

static sqlite3_vfs vfs_at, vfs_at_none;
static int vfs_err;
static _Atomic(bool) no_locks;

static int full_pathname(sqlite3_vfs *vfs, const char *name, int size,
			 char *out)
{
	int len = snprintf(out, size, "%s", name);

	return len < size ? SQLITE_OK : SQLITE_CANTOPEN;
}

static int register_one(sqlite3_vfs *vfs, const char *base, const char *name)
{
	const sqlite3_vfs *found = sqlite3_vfs_find(base);

	if (!found)
		return SQLITE_ERROR;
	*vfs = *found;
	vfs->pNext = NULL;
	vfs->zName = name;
	vfs->xFullPathname = full_pathname;
	return sqlite3_vfs_register(vfs, 0);
}

static void vfs_register(void)
{
	/* Nobody asks for it, and it is a lock at each allocation. */
	sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
	vfs_err = sqlite3_initialize();
	if (!vfs_err)
		vfs_err = register_one(&vfs_at, "unix", "tierfs-at");
	if (!vfs_err)
		vfs_err = register_one(&vfs_at_none, "unix-none",
				       "tierfs-at-none");
}

void journal_ignore_locks(void)
{
	atomic_store(&no_locks, true);
}

static int open_at(int dirfd, const char *name, int flags, bool locks,
		   struct sqlite3 **ret)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	char path[PROC_FD_LEN + 64], proc[PROC_FD_LEN];

	assert(!strchr(name, '/') && strlen(name) < 48);
	*ret = NULL;
	pthread_once(&once, vfs_register);
	if (vfs_err)
		return vfs_err;
	snprintf(path, sizeof(path), "%s/%s", proc_fd_path(dirfd, proc), name);
	return sqlite3_open_v2(path, ret, flags,
			       locks ? vfs_at.zName : vfs_at_none.zName);
}

int journal_sqlite_open_at(int dirfd, const char *name, int flags,
			   struct sqlite3 **ret)
{
	return open_at(dirfd, name, flags, !atomic_load(&no_locks), ret);
}

int journal_sqlite_open_locking_at(int dirfd, const char *name, int flags,
				   struct sqlite3 **ret)
{
	return open_at(dirfd, name, flags, true, ret);
}

int journal_sqlite_errno(struct sqlite3 *sql, int rc)
{
	int err;

	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return 0;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_NOTADB:
	case SQLITE_CORRUPT:
		return -EBADMSG;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
		err = sql ? sqlite3_system_errno(sql) : 0;
		return err > 0 ? -err : -EIO;
	default:
		return -EIO;
	}
}
