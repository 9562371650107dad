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
 * in the order of job->order (the oid: the order of the medium).
 *
 * All functions are for any thread. One mutex, a leaf, for the queues.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <urcu/list.h>

#include "mover_copy.h"

struct mover;

enum mover_prio {
	MOVER_RECALL, /* a client waits */
	MOVER_ASKED,  /* tierctl waits */
	MOVER_IDLE,   /* the daemon's own idea, and clean-up */
	MOVER_PRIOS
};

enum job_state {
	JOB_WAITING,
	JOB_RUNNING,
	JOB_DONE
};

struct mover_job {
	/* Set by the owner before mover_submit(). */
	const char *op; /* "migrate", "release", "restore", "delete" */
	char *path;	/* for people; the job's, may be NULL */
	char target[TIERFS_NAME_MAX];
	enum mover_prio prio;
	uint64_t order;
	uint64_t bytes;			     /* to move */
	void (*run)(struct mover_job *job);  /* on a worker */
	void (*free)(struct mover_job *job); /* when nobody refers to it */
	/* Told once by mover_cancel(), from any thread, job not locked. */
	void (*cancel)(struct mover_job *job);

	/* Shared. */
	struct copy_ctl ctl;

	/* The mover's, under its mutex. */
	uint64_t id;
	unsigned int refs;
	enum job_state state;
	struct cds_list_head link;
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

int mover_start(unsigned int recall_workers, unsigned int workers,
		struct mover **ret);
/* Takes no more work, cancels what waits (run is called with ctl.cancelled
 * set, so that owners can settle), waits for what runs. */
void mover_stop(struct mover *mover);

/* Takes over one reference; *ret_id may be NULL. -ESHUTDOWN after stop: the
 * job is not taken. */
int mover_submit(struct mover *mover, struct mover_job *job, uint64_t *ret_id);
/* Raises a waiting job's priority, and clears ctl.idle of a running one. */
void mover_raise(struct mover *mover, struct mover_job *job,
		 enum mover_prio prio);
struct mover_job *mover_job_ref(struct mover *mover, struct mover_job *job);
void mover_job_unref(struct mover *mover, struct mover_job *job);

/* -ESRCH: no such job (any more). */
int mover_cancel(struct mover *mover, uint64_t id);
/* What runs and waits, in order; an array to free. */
int mover_list(struct mover *mover, struct mover_info **ret, size_t *ret_n);
void mover_queued(struct mover *mover, size_t ret[MOVER_PRIOS]);
/* Waits until nothing runs or waits (tests, unmount). */
void mover_drain(struct mover *mover);

#endif
