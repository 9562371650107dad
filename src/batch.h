/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_BATCH_H
#define TIERFS_BATCH_H

/*
 * What outlives a mount of what people asked for: batches that nobody waits
 * for, and until when files are to be kept on the front.
 *
 * Both are in .tierfs/batches.db (SQLite, WAL). Deleting it loses just these:
 * no file, no pin. What runs a batch is control_batch.c; here is only what is
 * known of it.
 *
 * batch_kept_until() is for any thread and waits for nothing; all others may
 * block on the front's disk and are for threads that serve no requests.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "front.h"

#define BATCH_REASONS	 5 /* the last ones are kept */
#define BATCH_REASON_LEN 240
#define BATCH_ENDED_MAX	 100 /* so many ended ones are remembered, */
#define BATCH_ENDED_DAYS 7   /* and so long */

struct batches;

enum batch_state {
	BATCH_ASKED = 1, /* paths are still coming: dropped by an end */
	BATCH_WAITING,	 /* or running: goes on at the next mount */
	BATCH_DONE,
	BATCH_FAILED, /* ended, something was refused or failed */
	BATCH_CANCELLED,
};

struct batch_counts {
	uint64_t done, already, refused, failed; /* files */
	uint64_t moved;				 /* bytes */
};

struct batch {
	uint64_t id;
	char op[12]; /* "restore", as tierctl's commands */
	bool recursive, release;
	uid_t uid; /* who asked: it acts with these rights */
	gid_t gid;
	gid_t *groups; /* allocated */
	unsigned int ngroups;
	uint64_t budget;    /* bytes to restore; UINT64_MAX: any */
	int64_t keep_until; /* ns since the epoch; 0: not */
	char *label;	    /* a path below the root, or "N files"; allocated */
	uint64_t files, bytes;	    /* that were named */
	int64_t asked_ns, ended_ns; /* since the epoch; ended 0: not */
	enum batch_state state;
	struct batch_counts counts;
	char reasons[BATCH_REASONS][BATCH_REASON_LEN]; /* the oldest first */
};

/* Frees what it holds, not batch itself. */
void batch_clear(struct batch *batch);

struct batch_item {
	char *path; /* below the root */
	char *as;   /* as people called it */
};

/* ---- life ------------------------------------------------------------------ */

/*
 * Opens or makes batches.db in dirfd (which is duplicated). One that is damaged
 * or newer is renamed to batches.db.bad and made anew; one that cannot be had
 * (no space, no memory for it) is done without: what is to be stored then fails
 * with that error. *ret_why (free it) says so, NULL: all is well. -ENOMEM.
 */
int batches_open(int dirfd, struct batches **ret, char **ret_why);
void batches_close(struct batches *batches); /* NULL is allowed */
/* No batch ever had a higher id. */
uint64_t batches_last_id(struct batches *batches);

/* ---- batches: 0 or -errno (-ENOSPC, -EIO, ...) --------------------------------- */

/* A new one in BATCH_ASKED. */
int batch_add(struct batches *batches, const struct batch *batch);
/* Appends paths, in one transaction; first: the number of those before. */
int batch_add_items(struct batches *batches, uint64_t id, uint64_t first,
		    const struct batch_item *items, size_t n);
/* It is whole: BATCH_WAITING, with label, files and bytes. Durable. */
int batch_ready(struct batches *batches, const struct batch *batch);
/* Its counts and reasons; may be lost by a power cut. */
int batch_note(struct batches *batches, const struct batch *batch);
/* It has ended as its state says; its paths are forgotten, and what ended long
 * ago. Durable. */
int batch_end(struct batches *batches, const struct batch *batch);
int batch_drop(struct batches *batches, uint64_t id);

/* All, in the order of their ids. fn takes the batch's contents over. */
int batch_each(struct batches *batches,
	       void (*fn)(void *arg, struct batch *batch), void *arg);
/* Up to n of the paths from number first on: how many, 0: no more. */
ssize_t batch_items(struct batches *batches, uint64_t id, uint64_t first,
		    struct batch_item *ret, size_t n);
void batch_items_free(struct batch_item *items, size_t n);

/* ---- what is kept ------------------------------------------------------------- */

/* The file is not to be released until then (ns since the epoch; 0: it may).
 * Goes with the file's inode. In memory at once; an error is that of storing
 * it. */
int batch_keep(struct batches *batches, const struct front_handle *handle,
	       int64_t until);
/* What was kept so far is durable. */
int batch_keep_sync(struct batches *batches);
/* Until when the file is kept: 0: it is not, or no longer. NULL is allowed. */
int64_t batch_kept_until(struct batches *batches,
			 const struct front_handle *handle);

#endif
