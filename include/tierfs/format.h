/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_FORMAT_H
#define TIERFS_FORMAT_H

/*
 * What tierfs writes to disks: names, limits and layouts.
 *
 * The front
 *   .tierfs/format     text: version, UUID, name, the targets it knows
 *   .tierfs/lock       flock()ed by the daemon that serves the front: has its
 *                      pid and pid namespace, and "ending" at 64 when that is
 *                      about to let go of it
 *   .tierfs/catalog.db SQLite: what is known of all files, a cache
 *   .tierfs/journal.db SQLite: intents in flight, counters, the next oid
 *   .tierfs/staging/   restored files on their way into the namespace
 *   .tierfs/inodes/    old stubs that hold a number another file shows
 *   .tierfs/orphans/   unlinked files whose object is still to be deleted
 *
 * A target
 *   NAME/identity      text: lines version=1, front=UUID (the front's) and
 *                      uuid=UUID (the target's own)
 *   NAME/OO/OOOOOOOOOOOOOO   objects: the oid in 16 hex digits, cut at 2
 *   NAME/lost+found/         what tierctl check --repair found to be nobody's,
 *                            by oid; never touched again
 *
 * The spill EA, little-endian:
 *   0      version (TIERFS_EA_VERSION)
 *   1      state in the low 4 bits, number of copies in the high 4
 *   2      flags (TIERFS_EA_F_*)
 *   3      0
 *   4..7   CRC-32C of all other bytes, in order
 *   8..13  size in bytes
 *   14..18 blocks of 512 bytes to show
 *   19..26 inode number to show
 *   27..34 ctime to show, ns since the epoch, signed
 *   35..50 XXH3-128 of the contents, low half first
 *   51..   copies of 9 bytes: target number, oid
 * Later versions keep the version and the CRC where they are, so that a newer
 * EA can be told from a damaged one.
 *
 * With one copy that is 60 bytes, the most that ext4 keeps inside a 256-byte
 * inode under this name: reading it at every lookup costs no I/O.
 *
 * The EA of an object (TIERFS_EA_ORIGIN_*), little-endian: what is needed to
 * rebuild its file if the front is lost. The object's mtime is the file's too.
 *   0      version (TIERFS_ORIGIN_VERSION)
 *   1..3   0
 *   4..7   st_mode
 *   8..11  uid
 *   12..15 gid
 *   16..23 mtime, ns since the epoch, signed
 *   24..31 inode number on the front
 *   32..   path below the mount, without a NUL: only in objects of at least
 *          TIERFS_ORIGIN_PATH_MIN bytes, where a block for it does not count
 *
 * The log of a DIRTY file (TIERFS_LOG_*), little-endian: the data of its stub.
 *   0..7   magic "TIERFSLG"
 *   8..11  version (TIERFS_LOG_VERSION)
 *   12..15 CRC-32C of these 64 bytes with 0 here
 *   16..23 oid of the object that it lies over
 *   24     target number of that
 *   25..31 0
 *   32..39 size of the object in bytes
 *   40..47 blocks of 512 bytes that were shown before
 *   48..63 0
 * then entries without gaps, each of
 *   0..3   magic (TIERFS_LOG_ENTRY)
 *   4..7   CRC-32C of the other 44 bytes of this header, going on from the CRC
 *          of the entry before (of the log's header, for the first)
 *   8..11  CRC-32C of the data
 *   12     kind (TIERFS_LOG_*)
 *   13..15 0
 *   16..23 sequence number: 1, 2, ...
 *   24..31 offset in the file; of a TRUNCATE: the size
 *   32..39 length in bytes; of a TRUNCATE: 0
 *   40..47 0
 *   48..   of a WRITE: as many bytes of data, at most TIERFS_LOG_DATA_MAX
 * Entries are only ever appended, and the chain of CRCs begins with the oid: so
 * whatever lies behind the last entry that was written whole, older bytes of
 * this or of another log included, is no entry. Later versions keep magic,
 * version and CRC of the log's header, and its length, as they are.
 */

#define TIERFS_META_DIR	      ".tierfs"
#define TIERFS_FORMAT_VERSION 1

#define TIERFS_EA_TRUSTED	 "trusted.tierfs.spill"
#define TIERFS_EA_USER		 "user.tierfs.spill"
/* Birth time to show after a restore, 8 bytes little-endian ns. */
#define TIERFS_EA_BTIME_TRUSTED	 "trusted.tierfs.btime"
/* security.capability, while what takes it away is done to the file. */
#define TIERFS_EA_CAPS_TRUSTED	 "trusted.tierfs.capability"
/* Everything below these is the daemon's, and is hidden by the mount. */
#define TIERFS_EA_PREFIX_TRUSTED "trusted.tierfs."
#define TIERFS_EA_PREFIX_USER	 "user.tierfs."
/* Virtual, read-only, not listed: the state's name. */
#define TIERFS_EA_STATE		 "user.tierfs.state"

#define TIERFS_EA_VERSION    1
#define TIERFS_EA_COPIES_MAX 4
#define TIERFS_EA_HEAD	     51
#define TIERFS_EA_COPY	     9
#define TIERFS_EA_MAX	     (TIERFS_EA_HEAD + TIERFS_EA_COPIES_MAX * TIERFS_EA_COPY)
#define TIERFS_SIZE_MAX	     ((1ULL << 48) - 1)
#define TIERFS_BLOCKS_MAX    ((1ULL << 40) - 1)

#define TIERFS_EA_F_PINNED  0x01 /* stays resident; on a directory: all below */
#define TIERFS_EA_F_WRITING 0x02 /* open for writing: the copies are suspect */
#define TIERFS_EA_F_CTIME   0x04 /* the ctime field is shown */
#define TIERFS_EA_F_INO	    0x08 /* the ino field is shown */
#define TIERFS_EA_F_LOGGING 0x10 /* DIRTY: the log knows size and blocks */
#define TIERFS_EA_F_DAMAGED 0x20 /* the object is not what was migrated */

#define TIERFS_EA_ORIGIN_TRUSTED "trusted.tierfs.origin"
#define TIERFS_EA_ORIGIN_USER	 "user.tierfs.origin"
#define TIERFS_ORIGIN_VERSION	 1
#define TIERFS_ORIGIN_HEAD	 32
#define TIERFS_ORIGIN_PATH_MIN	 (1 << 20)

#define TIERFS_LOG_MAGIC     "TIERFSLG"
#define TIERFS_LOG_VERSION   1
#define TIERFS_LOG_HEAD	     64
#define TIERFS_LOG_ENTRY     0x45474f4c /* "LOGE" */
#define TIERFS_LOG_ENTRY_LEN 48
#define TIERFS_LOG_DATA_MAX  (16 << 20)
#define TIERFS_LOG_WRITE     1
#define TIERFS_LOG_TRUNCATE  2
#define TIERFS_LOG_PUNCH     3 /* zeros, the size stays */
#define TIERFS_LOG_ZERO	     4 /* zeros, a file that ends before grows */

#define TIERFS_TARGETS_MAX 16
#define TIERFS_NAME_MAX	   64

#endif
