/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_DELTA_H
#define TIERFS_DELTA_H

/*
 * The DIRTY log: what was written to a released file, kept in its stub.
 *
 * Format: include/tierfs/format.h. This is its codec and, as struct delta, the
 * merged view in memory: which bytes of the file come from where in the log,
 * which are zeros, which are still the object's. It knows descriptors and
 * bytes, and nothing of tiers, nodes or EAs.
 *
 * struct delta has no lock: the caller's (node->lock) covers every function
 * that takes one. A struct delta_view and delta_replay() need none.
 *
 * fd is always the stub, open for reading, for the functions that append for
 * writing too, without O_APPEND and O_DIRECT. Nothing here syncs.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tierfs/format.h"

struct delta;

/* What the log lies over: the object as it was when the file became DIRTY. */
struct delta_base {
	uint64_t oid;
	uint8_t target;
	uint64_t size;	 /* bytes of the object */
	uint64_t blocks; /* st_blocks shown then */
};

/* ---- life ------------------------------------------------------------- */

/* A log without entries; the file is touched by the first append. -ENOMEM,
 * -EINVAL: base cannot be said in the format. */
int delta_new(const struct delta_base *base, struct delta **ret);
/*
 * Reads the log and checks every byte of it. An empty file is a log without
 * entries over expect; else expect->oid and ->target must be the header's and
 * the rest of expect is not looked at.
 *
 * settled: the log is known to have been synced as a whole, so that a tail
 * which does not fit is damage. Else it is what a crash left: it is dropped
 * from the view, delta_torn() says so, and delta_cut() or the next append
 * removes it from the file.
 *
 * -EBADMSG: damaged, or another file's; -EPROTONOSUPPORT: of a newer version;
 * -ENOMEM, errors of pread(2). The file is left as it is.
 */
int delta_load(int fd, const struct delta_base *expect, bool settled,
	       struct delta **ret);
/* NULL is nothing. */
void delta_free(struct delta *d);

/* ---- what it says ------------------------------------------------------- */

const struct delta_base *delta_base(const struct delta *d);
uint64_t delta_size(const struct delta *d); /* of the file, logical */
/* Bytes of the object that can still show: the least that it was cut to. From
 * there on is what the log says, or zeros. */
uint64_t delta_base_valid(const struct delta *d);
uint64_t delta_entries(const struct delta *d);
uint64_t delta_bytes(const struct delta *d); /* of data, overwritten too */
/* Where the log ends in the file: a limit for delta_replay(). 0: no entry. */
uint64_t delta_log_end(const struct delta *d);
/* Bytes behind the log's end are in the file (torn, or left by an append that
 * failed and could not be undone). */
bool delta_torn(const struct delta *d);

/* ---- writing ------------------------------------------------------------ */

/*
 * Each appends one entry. 0: it is in the file (not synced) and in the view.
 * -errno (-ENOSPC, -EDQUOT, -EIO, -ENOMEM, ...): file and view are as before.
 * -EFBIG: beyond TIERFS_SIZE_MAX, or more than TIERFS_LOG_DATA_MAX at once.
 * That the front's file system could hold such a file is the caller's to
 * check: else the log could not be applied.
 */
int delta_append_write(struct delta *d, int fd, const void *buf, size_t len,
		       uint64_t off);
/* The file is size long now, shorter or longer. */
int delta_append_truncate(struct delta *d, int fd, uint64_t size);
/* Zeros; the size stays. Nothing is appended if all of it is beyond the end. */
int delta_append_punch(struct delta *d, int fd, uint64_t off, uint64_t len);
/* Zeros; a file that ends before becomes longer. */
int delta_append_zero(struct delta *d, int fd, uint64_t off, uint64_t len);
/* Removes what is behind the log's end from the file, if anything is. */
int delta_cut(struct delta *d, int fd);

/* ---- reading ------------------------------------------------------------ */

/*
 * What the file's bytes from off on are, as far as the object does not say it:
 * complete in itself, so the log may change or go while the object's part is
 * on its way. len is cut at the end of the file.
 */
struct delta_view {
	uint64_t off;
	size_t len; /* 0: off is at or beyond the end of the file */
	/* The part of the object that is needed, as one range within off, len;
	 * need_len 0: none. */
	uint64_t need_off;
	size_t need_len;
	/* delta's */
	size_t n;
	struct delta_piece *pieces;
	char *data;
};
/* -ENOMEM, -EIO and other errors of pread(2). */
int delta_view_get(const struct delta *d, int fd, uint64_t off, size_t len,
		   struct delta_view *ret);
/* Puts the pieces into buf, view->len bytes for view->off, over the object's
 * (or anything, where the object is not needed). */
void delta_view_apply(const struct delta_view *view, void *buf);
void delta_view_free(struct delta_view *view);

/* Is the object not needed for these bytes? Those beyond the end are not. */
bool delta_covers(const struct delta *d, uint64_t off, uint64_t len);
/* Puts what the log says of off, len into buf, which holds the object's bytes
 * if delta_covers() says no. Returns how many bytes there are up to the end of
 * the file, at most len, or -errno. */
int64_t delta_read(const struct delta *d, int fd, void *buf, size_t len,
		   uint64_t off);

/* ---- applying ------------------------------------------------------------ */

/* Up to where a log has been applied. Begins as all zeros. */
struct delta_pos {
	uint64_t off; /* in the log */
	uint64_t seq;
	uint32_t crc;
};

/*
 * Applies the entries from *pos up to end, a former delta_log_end(), to to_fd,
 * which held at least the first delta_base_valid() bytes of the object when it
 * began; *pos moves on with each entry. Entries behind end may be appended
 * meanwhile. Every entry is checked again before it is applied.
 *
 * -EBADMSG: damaged, or another log than expect's; -ECANCELED: *cancel (may be
 * NULL) became true; -ENOSPC and other errors of writing. After a failure it
 * may be called again with the same *pos: applying an entry twice does no
 * harm.
 */
int delta_replay(int fd, const struct delta_base *expect, int to_fd,
		 struct delta_pos *pos, uint64_t end,
		 const _Atomic(bool) *cancel);

#endif
