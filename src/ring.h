/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_RING_H
#define TIERFS_RING_H

/*
 * An io_uring with a thread that reaps it: file I/O that nobody waits for.
 * Threads do it where io_uring is forbidden.
 *
 * Any thread submits, which appends to a list and wakes the reaper if it
 * sleeps: it never blocks, and never fails for want of room. The reaper hands
 * every operation to the kernel's workers, and calls op->done with the result,
 * one at a time: done must not block, and may submit.
 *
 * The op and what it points to belong to the ring from the call until done is
 * called, which may free it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <urcu/list.h>

struct ring;
struct iovec;

struct ring_op {
	void (*done)(struct ring_op *op, int res); /* res: as the syscall's,
						    * -errno on failure */
	/* the ring's own */
	struct cds_list_head link;
	uint8_t opcode;
	bool idle;
	int res;
	int fd;
	int flags;
	mode_t mode;
	const void *ptr;
	unsigned int len;
	int64_t off;
	int64_t submitted; /* monotonic ns */
};

/* Could a ring such as libfuse's be had? 0 or -errno. */
int ring_probe(void);

/* entries: operations in the kernel at once. -ENOMEM. Where there is no io_uring,
 * or it is forbidden, threads take its place. */
int ring_start(unsigned int entries, struct ring **ret);
/* Waits until everything submitted is done. */
void ring_stop(struct ring *ring);

/* idle: idle I/O priority, for the background. */
void ring_read(struct ring *ring, struct ring_op *op, int fd, void *buf,
	       unsigned int len, int64_t off, bool idle);
void ring_write(struct ring *ring, struct ring_op *op, int fd, const void *buf,
		unsigned int len, int64_t off, bool idle);
/* path stays the caller's until done; result: a descriptor. */
void ring_openat(struct ring *ring, struct ring_op *op, int dirfd,
		 const char *path, int flags, mode_t mode);
void ring_fsync(struct ring *ring, struct ring_op *op, int fd, bool datasync);
void ring_unlinkat(struct ring *ring, struct ring_op *op, int dirfd,
		   const char *path, int flags);
/* Closes fd; op may be NULL when nobody cares. */
void ring_close(struct ring *ring, struct ring_op *op, int fd);

/* Only calls done, with 0: an answer that comes like all others. */
void ring_nop(struct ring *ring, struct ring_op *op);

/* Operations submitted and not done, and the age of the oldest in ns. */
void ring_pending(struct ring *ring, unsigned int *ret_n, int64_t *ret_oldest);

#endif
