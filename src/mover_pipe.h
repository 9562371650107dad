/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_MOVER_PIPE_H
#define TIERFS_MOVER_PIPE_H

/*
 * Between the parts of mover_copy: the pipeline that carries one file.
 *
 * A pipe belongs to a thread and is used for one file after another; its
 * buffers stay for the next.
 */

#include <pthread.h>
#include <xxhash.h>
/* A quarter of the CPU time of copying was hashing, by SSE2. */
#ifdef HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

#include "mover_copy.h"
#include "ring.h"

#define PIPE_CHUNK (2U << 20)
#define PIPE_DEPTH 4

/* One end: a file on the front, or an object. */
struct pipe_end {
	struct ring *ring;
	int fd;
	struct target_object *object; /* or NULL */
	bool nowhere;		      /* what is written is only hashed */
};

enum slot_state {
	SLOT_FREE,
	SLOT_READING,
	SLOT_READY, /* waits for its turn to be hashed */
	SLOT_WRITING
};

struct pipe_slot {
	struct pipe *pipe;
	enum slot_state state; /* the worker's */
	char *buf;
	uint64_t off;
	uint32_t len;	/* of the I/O, a multiple of TARGET_ALIGN */
	uint32_t valid; /* of these, in the file */
	uint32_t moved;
	struct ring_op op;
	struct target_io io;
	/* Under pipe->lock. */
	bool done;
	int64_t res;
};

struct pipe {
	/* Set for each file. */
	struct pipe_end from, to;
	uint64_t size;
	struct copy_ctl *ctl;
	struct copy_limit *limit;
	int short_err; /* when from ends before size */

	/* The worker's. */
	XXH3_state_t *hash;
	uint64_t hashed; /* up to here */
	uint64_t pos;	 /* next to read */
	uint64_t end;	 /* of the data that pos is in */
	bool eof;
	struct pipe_slot slots[PIPE_DEPTH];
	unsigned int next_read, next_hash, busy;
	char *bufs;

	pthread_mutex_t lock; /* a leaf */
	pthread_cond_t cond;
};

/* The calling thread's, or NULL without memory. */
struct pipe *pipe_get(void);
/*
 * Copies the data of from, whose holes are kept, to to, which is empty, and
 * sets its size; *ret_sum is of the contents. 0, -ECANCELED, short_err,
 * errors of both ends.
 */
int pipe_copy(struct pipe *pipe, struct spill_sum *ret_sum);

/* For a copy by hand: begins, adds, ends the checksum. Adding fails with
 * -ECANCELED alone. */
void pipe_hash_begin(struct pipe *pipe);
int pipe_hash_zeros(struct pipe *pipe, uint64_t until);
void pipe_hash_data(struct pipe *pipe, const void *buf, size_t len);
void pipe_hash_end(struct pipe *pipe, struct spill_sum *ret);
/* The next data at or after pos, and its end, both up to size, as aligned as
 * I/O wants it. False: none. */
bool pipe_next_data(struct pipe *pipe, uint64_t pos, uint64_t *ret_off,
		    uint64_t *ret_end, int *ret_err);

/* Waits until bytes may be copied, if ctl->idle. Returns early, having taken
 * nothing, when that is cleared or the copy is cancelled. */
void copy_limit_take(struct copy_limit *limit, uint64_t bytes,
		     struct copy_ctl *ctl);

#endif
