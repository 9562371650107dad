/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_MOVER_COPY_H
#define TIERFS_MOVER_COPY_H

/*
 * Copying between the front and an object: chunks at depth through io_uring,
 * read, hash and write overlapped, holes kept, the page cache left alone.
 *
 * For the mover's workers, which may block. Locks none of its own; what is
 * shared with others (copy_ctl) is atomic.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "spill_ea.h"
#include "tierfs/target.h"

struct ring;
struct mover;
struct mover_job;

/* Shared between the copying worker and who watches or cancels it. */
struct copy_ctl {
	_Atomic(bool) cancelled;
	_Atomic(uint64_t) done; /* bytes so far, holes included */
	_Atomic(bool) idle; /* background: idle priority and bandwidth limit;
				 * may be cleared while it runs */
};

/* The bandwidth limit of the background, shared by all copies. */
struct copy_limit;
int copy_limit_new(uint64_t bytes_per_sec, struct copy_limit **ret);
void copy_limit_set(struct copy_limit *limit, uint64_t bytes_per_sec);
void copy_limit_free(struct copy_limit *limit);

struct copy_env {
	struct ring *front_ring; /* for I/O on the front */
	struct copy_limit *limit;
	/* Whose turn it is to copy while copy_out() does, but for its syncs; or
	 * NULL. */
	struct mover *mover;
	struct mover_job *job;
};

/* One file of a batch. */
struct copy_out {
	int front_fd; /* readable; stays the caller's, but for its offset, and
		       * O_NOATIME is set */
	uint64_t size;
	uint64_t oid;
	struct target_origin origin;
	struct copy_ctl *ctl;
	int err;	      /* out: 0 or -errno */
	struct spill_sum sum; /* out */
};

/*
 * Copies n files to new objects of target, each durable (data and name) when
 * this returns. They run one after another, large ones pipelined, and share a
 * sync of the target. Sets err and sum of each; an object whose err is not 0
 * has been deleted again, or is left for the caller to delete if that failed
 * too. -ECANCELED: its ctl was cancelled. -ESTALE: the file ended before size.
 * -EEXIST: there is an object of that oid, which stays. Several files may
 * share one ctl: done adds up.
 */
void copy_out(const struct copy_env *env, struct target *target,
	      struct copy_out *files, size_t n);

/*
 * Copies an object into an empty front_fd (O_RDWR), keeping holes, up to size
 * bytes, and compares the checksum. Not fsynced. -EBADMSG: the contents are
 * not those that were migrated; -ECANCELED; -ENOSPC on the front; -EIO. What
 * was written to front_fd is left for the caller to discard. Nobody else does
 * I/O on front_fd meanwhile: it is O_DIRECT. No other descriptor is opened, so
 * that a lease on the file stays.
 */
int copy_in(const struct copy_env *env, struct target_object *object,
	    int front_fd, uint64_t size, const struct spill_sum *sum,
	    struct copy_ctl *ctl);

/* Reads the object alone, and compares. Errors as of copy_in(). */
int copy_check(const struct copy_env *env, struct target_object *object,
	       uint64_t size, const struct spill_sum *sum,
	       struct copy_ctl *ctl);

#endif
