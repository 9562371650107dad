/* SPDX-License-Identifier: MIT */
/*
 * Filling: a database that is made anew, until the first walk is through.
 *
 * Then there is much to write and nothing to lose, for the walk can begin again.
 * So nothing is synced meanwhile, and checkpoints are rare: a tenth of the time
 * that a million files take. A daemon that dies loses nothing by it, what it wrote
 * is the kernel's. But after a power cut the file may be anything, without SQLite
 * seeing it. So the first transaction, which is synced, says "filling", with what
 * a power cut changes: which boot it is, and which mount of the front, by a
 * number that no other mount of that boot has (a disk may be gone and come back
 * without a boot). Every version of that page says so until all is synced. A
 * database that says so, of another boot or mount, is made anew; so it is after
 * an unmount of the front that did no harm, which costs a walk.
 *
 * Where the kernel has no such number (before 6.8) all is synced as ever.
 */
#include "catalog_int.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "cleanup.h"
#include "util.h"

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

#ifndef STATX_MNT_ID_UNIQUE /* linux/stat.h */
#define STATX_MNT_ID_UNIQUE 0x00004000U
#endif

int64_t catalog_fill_place(struct front *front)
{
	struct {
		char boot[37];
		uint64_t mount;
	} place;
	_cleanup_close_ int fd = open(BOOT_ID, O_RDONLY | O_CLOEXEC);
	struct statx stx;

	memset(&place, 0, sizeof(place));
	if (fd < 0 || read(fd, place.boot, sizeof(place.boot)) <= 0 ||
	    statx(front->root_fd, "", AT_EMPTY_PATH, STATX_MNT_ID_UNIQUE,
		  &stx) < 0 ||
	    !(stx.stx_mask & STATX_MNT_ID_UNIQUE))
		return 0;
	place.mount = stx.stx_mnt_id;
	return (int64_t)(XXH3_64bits(&place, sizeof(place)) | 1);
}

int catalog_fill_begin(struct catalog *c)
{
	return catalog_db_exec(&c->db, "PRAGMA synchronous = OFF;"
				       "PRAGMA wal_autocheckpoint = 32768");
}

int catalog_fill_end(struct catalog *c)
{
	int err;

	/* All of it: SQLite would not sync what it takes for synced. */
	err = sync_fs(c->front->root_fd);
	if (!err)
		err = catalog_db_exec(&c->db, CATALOG_CHECKPOINT
				      "PRAGMA synchronous = FULL");
	if (!err)
		err = catalog_db_set_meta(&c->db, "filling", 0);
	if (!err)
		err = catalog_db_exec(&c->db, "PRAGMA synchronous = NORMAL");
	return err;
}
