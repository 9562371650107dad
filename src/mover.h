/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_MOVER_H
#define TIERFS_MOVER_H

/*
 * The mover: queues of work and the threads that do it.
 *
 * A job is one step of tiering (restore this file, migrate these). The mover
 * knows order, priority, cancelling and progress; what a job does is its
 * owner's, the tier's. Workers may block on targets: they serve no requests.
 * Recalls that clients wait for come first and have workers of their own, so
 * that no amount of background work delays them; equal priorities are taken
 * in the order of job->order (the oid: the order of the medium), upwards from
 * the last one taken and then again from the lowest.
 *
 * Each target has a lane: an order of its own, and no more than so many workers
 * at once, so that one that hangs holds up its own jobs alone.
 *
 * All functions are for any thread, but stop, free and drain not for workers.
 * One mutex, a leaf, for the queues; no function of a job is called under it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <urcu/list.h>

#include "mover_copy.h"
#include "mover_queue.h"

struct mover;

enum mover_prio {
	MOVER_RECALL, /* a client waits */
	MOVER_ASKED,  /* tierctl waits */
	MOVER_IDLE,   /* the daemon's own idea, and clean-up */
	MOVER_PRIOS
};

enum job_state {
	JOB_NEW, /* not submitted yet */
	JOB_WAITING,
	JOB_RUNNING,
	JOB_DONE
};

struct mover_job {
	/* Set by the owner before mover_submit(). */
	const char *op; /* "migrate", "release", "restore", "delete" */
	char *path;	/* for people; the job's, may be NULL */
	char target[TIERFS_NAME_MAX];
	unsigned int lane; /* 0: needs no target; else its number + 1 */
	enum mover_prio prio;
	uint64_t order;
	uint64_t bytes;			     /* to move */
	void (*run)(struct mover_job *job);  /* on a worker */
	void (*free)(struct mover_job *job); /* when nobody refers to it */
	/* Told once when cancelled, after ctl.cancelled is set, while the job
	 * waits or runs or just after; may be NULL. */
	void (*cancel)(struct mover_job *job);
	unsigned int refs; /* 1 for the owner; then the mover's */

	/* Shared. mover_submit() sets ctl.idle for MOVER_IDLE jobs. */
	struct copy_ctl ctl;

	/* The mover's, under its mutex; zero before mover_submit(). */
	uint64_t id;
	enum job_state state;
	bool told;		   /* cancelled by the mover */
	bool by_recall;		   /* runs on a recall worker */
	struct mover_job **turn;   /* that it has, or NULL */
	struct mover_node queue;   /* waiting: by order */
	struct mover_node index;   /* waiting, running: by id */
	struct cds_list_head link; /* waiting, and told */
	int64_t queued_ns, started_ns;
};

struct mover_info {
	uint64_t id;
	char op[12];
	char path[256];
	char target[TIERFS_NAME_MAX];
	uint64_t bytes, done;
	int64_t started_ns, queued_ns; /* monotonic; started 0: waits */
	enum mover_prio prio;
};

#define MOVER_LANES (TIERFS_TARGETS_MAX + 1)

/*
 * So many workers for each of the lanes (0: one for all, which any job may have
 * as many of as it likes), and one more for what needs no target.
 * -EINVAL: no workers (recall_workers may be 0: the others serve recalls
 * too); -EAGAIN: no threads.
 */
int mover_start(unsigned int recall_workers, unsigned int workers,
		unsigned int lanes, struct mover **ret);
/* Takes no more work, cancels what waits (run is called with ctl.cancelled
 * set, so that owners can settle), waits for what runs. */
void mover_stop(struct mover *mover);
/* After mover_stop(), when no other call can come any more. */
void mover_free(struct mover *mover);

/* A fresh id. An owner who must know the id before the job can run sets job->id
 * to it; else mover_submit() takes one. */
uint64_t mover_next_id(struct mover *mover);
/* Ids go on after that one: before anything is submitted. */
void mover_ids_after(struct mover *mover, uint64_t id);
/* Takes over one reference; *ret_id may be NULL, and is set before the job can
 * run. A job is submitted once. -ESHUTDOWN after stop: the job is not taken,
 * the reference stays the caller's. */
int mover_submit(struct mover *mover, struct mover_job *job, uint64_t *ret_id);
/* Raises a job's priority (never lowers it), and clears its ctl.idle; also
 * before it is submitted, and while it is. The caller holds a reference. */
void mover_raise(struct mover *mover, struct mover_job *job,
		 enum mover_prio prio);
/*
 * The turn of a job that runs to copy: one of a lane and priority at a time, for
 * a disk that serves two of them seeks for each piece of theirs. What it does
 * else, as syncing, is done while another has its turn. What clients wait for,
 * and what is cancelled, does not wait. Ending it again does nothing.
 */
void mover_turn_begin(struct mover *mover, struct mover_job *job);
void mover_turn_end(struct mover *mover, struct mover_job *job);
struct mover_job *mover_job_ref(struct mover *mover, struct mover_job *job);
void mover_job_unref(struct mover *mover, struct mover_job *job);

/* Sets ctl.cancelled and tells job->cancel. A waiting job is run, before those
 * that are not cancelled, so that its owner can settle. Again: 0, and nothing.
 * -ESRCH: no such job (any more). */
int mover_cancel(struct mover *mover, uint64_t id);
/* What runs and waits, in order; an array to free. */
int mover_list(struct mover *mover, struct mover_info **ret, size_t *ret_n);
void mover_queued(struct mover *mover, size_t ret[MOVER_PRIOS]);
/* Waits until nothing runs or waits, and the mover has let go of it all
 * (tests, unmount). */
void mover_drain(struct mover *mover);

#endif
