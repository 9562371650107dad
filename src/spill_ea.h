/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_SPILL_EA_H
#define TIERFS_SPILL_EA_H

/*
 * The spill EA: what the front knows of a file whose data is (also) elsewhere.
 *
 * It is the value of trusted.tierfs.spill (user.tierfs.spill where the daemon
 * has no CAP_SYS_ADMIN) on the file's inode on the front. The format is
 * described byte by byte in include/tierfs/format.h; this is its codec, pure
 * and without I/O. A file without the EA is in state none with no flags.
 */

#include <stddef.h>
#include <stdint.h>

#include "tierfs/format.h"

/* The order is that of the disk format and of the JSON. */
enum spill_state {
	SPILL_NONE = 0,	     /* resident, no valid copy */
	SPILL_MIGRATING = 1, /* resident, a copy is being written */
	SPILL_MIGRATED = 2,  /* resident, copies are complete */
	SPILL_RELEASED = 3,  /* a stub: the data is in the copies alone */
	SPILL_DIRTY = 4,     /* a stub whose data is a log over the copies */
	SPILL_STATES
};

/* XXH3-128 of the file's logical contents, holes read as zeros. */
struct spill_sum {
	uint64_t low;
	uint64_t high;
};

struct spill_copy {
	uint8_t target; /* the target's number in the front's format file */
	uint64_t oid;
};

struct spill_ea {
	enum spill_state state;
	uint8_t flags;	 /* TIERFS_EA_F_* */
	uint64_t size;	 /* logical bytes, < 2^48 */
	uint64_t blocks; /* st_blocks to show, 512-byte units, < 2^40 */
	uint64_t ino;	 /* st_ino to show; valid with TIERFS_EA_F_INO */
	int64_t ctime;	 /* ns since the epoch; with TIERFS_EA_F_CTIME */
	struct spill_sum sum;
	unsigned int ncopies;
	struct spill_copy copies[TIERFS_EA_COPIES_MAX];
};

/*
 * Encodes ea into buf. Returns the length (60 with one copy), or
 * -EINVAL  a field is out of the format's range
 * -ENOSPC  cap is too small (TIERFS_EA_MAX always suffices).
 */
int spill_ea_encode(const struct spill_ea *ea, void *buf, size_t cap);

/*
 * Decodes len bytes. Returns 0, or with *ret untouched
 * -EPROTONOSUPPORT  a newer version: the file must be left alone
 * -EBADMSG          not a spill EA, damaged (length, CRC), or its fields
 *                   contradict each other.
 */
int spill_ea_decode(const void *buf, size_t len, struct spill_ea *ret);

/* True when the EA says nothing: it can be removed from the inode. */
int spill_ea_is_empty(const struct spill_ea *ea);

/* "none", "migrating", "migrated", "released", "dirty". */
const char *spill_state_name(enum spill_state state);

#endif
