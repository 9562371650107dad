/* SPDX-License-Identifier: MIT */
/*
 * Moves: from what is asked for to jobs of the mover, and their ends.
 *
 * A move is one file's part in a job. It is registered as file->move before its
 * job is queued, so a file has at most one, and whoever uses the file can stop
 * it (tier_move_cancel()). Small files share a job, so that they share syncs and
 * commits; a large one has a job of its own. Moves end in tier_move_end(), which
 * wakes who waits for the file.
 *
 * Leases, not counts, say whether a file may be moved: a mapping outlives its
 * handle, and someone may use the front behind the mount. A copy is made under
 * a read lease (nobody can have the file open for writing, or mapped so), data
 * are dropped under a write lease (nobody has it open or mapped at all). Both
 * are checked again at the end: a lease that was broken meanwhile aborts.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "log.h"
#include "tier_impl.h"
#include "util.h"

struct move_job {
	struct mover_job job;
	struct tier *tier;
	bool release_after;
	size_t n;
	struct tier_move *moves[];
};

/* ---- answers ------------------------------------------------------------ */

static void set_answer(struct tier_request *req, enum tier_result result,
		       const char *reason, va_list args)
{
	req->result = result;
	req->reason[0] = '\0';
	if (reason)
		vsnprintf(req->reason, sizeof(req->reason), reason, args);
}

void tier_result(struct tier_move *move, enum tier_result result,
		 const char *reason, ...)
{
	va_list args;

	if (!move->req)
		return;
	va_start(args, reason);
	set_answer(move->req, result, reason, args);
	va_end(args);
}

/* For a request that got no move. */
__attribute__((format(printf, 3, 4))) static void
answer(struct tier_request *req, enum tier_result result, const char *reason,
       ...)
{
	va_list args;

	va_start(args, reason);
	set_answer(req, result, reason, args);
	va_end(args);
	req->done(req);
}

/* ---- moves --------------------------------------------------------------- */

struct tier_move *tier_move_new(struct tier_file *file, enum tier_op op,
				struct tier_request *req)
{
	struct tier_move *move = calloc(1, sizeof(*move));

	if (!move)
		return NULL;
	move->op = op;
	move->file = file;
	move->req = req;
	move->only = req ? req->only : 0;
	move->fd = -1;
	move->ea = file->ea;
	file->move = move;
	tier_counting_begin(file->tier);
	return move;
}

void tier_move_end(struct tier_move *move, int wake_err)
{
	struct tier_request *req = move->req;
	struct tier_file *file = move->file;
	struct node *node = file->node;

	pthread_mutex_lock(&node->lock);
	file->move = NULL;
	if (move->own)
		tier_own_end(file->tier, move->own, move->wrote, wake_err);
	/* With the lock held: an open that finds the lease finds the move. */
	if (move->fd >= 0)
		close(move->fd);
	tier_wake(file, wake_err);
	tier_orphan_unused(file);
	tier_counting_end(file->tier);
	tier_file_unlock(file);
	free(move);
	/* Last: who is told may ask for the next thing at once. */
	if (req)
		req->done(req);
}

static void move_job_run(struct mover_job *job)
{
	struct move_job *mj = container_of(job, struct move_job, job);

	if (job->prio != MOVER_RECALL)
		tier_adopt_wait(mj->tier);
	if (mj->moves[0]->op == TIER_RESTORE)
		tier_restore_run(job, mj->moves, mj->n);
	else if (mj->moves[0]->op == TIER_RELEASE)
		tier_release_run(job, mj->moves, mj->n);
	else
		tier_migrate_run(job, mj->moves, mj->n, mj->release_after);
}

static void move_job_free(struct mover_job *job)
{
	free(job->path);
	free(container_of(job, struct move_job, job));
}

static const char *const op_names[] = {
	[TIER_MIGRATE] = "migrate",
	[TIER_RELEASE] = "release",
	[TIER_MIGRATE_RELEASE] = "migrate",
	[TIER_RESTORE] = "restore",
};

/* The first step's is that of what was asked for. */
static void set_job(struct tier_request *req, uint64_t id, enum tier_op op)
{
	req->job_id = id;
	if (req->asked && op == TIER_RESTORE)
		req->asked->job_id = id;
}

static void attach(struct tier_move *move, struct mover_job *job, bool solo,
		   bool locked)
{
	pthread_mutex_t *lock = &move->file->node->lock;

	if (move->req)
		set_job(move->req, job->id, move->op);
	if (!locked)
		pthread_mutex_lock(lock);
	move->job = job;
	move->solo = solo;
	/* Somebody used the file since it was asked for. */
	if (solo && move->cancelled)
		atomic_store(&job->ctl.cancelled, true);
	if (!locked)
		pthread_mutex_unlock(lock);
}

/* Releasing needs no target; of the rest the first decides for all. */
static unsigned int lane_of(struct tier *tier, enum tier_op op,
			    const struct tier_move *move, uint64_t bytes)
{
	int target;

	if (op == TIER_RELEASE)
		return 0;
	if (move->ea.ncopies)
		return move->ea.copies[0].target + 1u;
	target = tier_choose_target(tier, move->only, bytes);
	return target < 0 ? 0 : (unsigned int)target + 1;
}

/* Takes the moves over; on failure nothing is queued. locked: so is the (one)
 * file's node. */
static int queue_moves(struct tier *tier, enum tier_op op, enum mover_prio prio,
		       struct tier_move **moves, size_t n, uint64_t bytes,
		       const char *path, bool locked)
{
	struct move_job *mj;
	struct target *target;
	int ret;

	mj = calloc(1, sizeof(*mj) + n * sizeof(mj->moves[0]));
	if (!mj)
		return -ENOMEM;
	mj->tier = tier;
	mj->release_after = op == TIER_MIGRATE_RELEASE;
	mj->n = n;
	memcpy(mj->moves, moves, n * sizeof(mj->moves[0]));
	mj->job.refs = 1;
	mj->job.op = op_names[op];
	mj->job.prio = prio;
	mj->job.bytes = bytes;
	mj->job.order = moves[0]->ea.ncopies ? moves[0]->ea.copies[0].oid : 0;
	mj->job.run = move_job_run;
	mj->job.free = move_job_free;
	if (n == 1)
		mj->job.path = strdup(path ? path : "");
	else if (asprintf(&mj->job.path, "%s and %zu more", path ? path : "",
			  n - 1) < 0)
		mj->job.path = NULL;
	target = tier_target(
		tier, moves[0]->ea.ncopies ? moves[0]->ea.copies[0].target : 0);
	if (target)
		snprintf(mj->job.target, sizeof(mj->job.target), "%s",
			 target_name(target));
	mj->job.lane = lane_of(tier, op, moves[0], bytes);
	/* Told before the job can run, and answer, and be cancelled. */
	mj->job.id = mover_next_id(tier->parts.mover);
	for (size_t i = 0; i < n; i++)
		attach(moves[i], &mj->job, n == 1, locked);
	ret = mover_submit(tier->parts.mover, &mj->job, NULL);
	if (ret)
		move_job_free(&mj->job);
	return ret;
}

int tier_recall(struct tier_file *file, enum mover_prio prio)
{
	struct tier *tier = file->tier;
	struct target *target;
	struct tier_move *move = file->move;
	const char *name;
	char path[256];
	bool needed;
	int ret;

	if (move) {
		if (move->op == TIER_RESTORE && move->job)
			mover_raise(tier->parts.mover, move->job, prio);
		return 0;
	}
	/* Of a log over nothing no object is needed. */
	needed = !file->delta || delta_base_valid(file->delta) > 0;
	target = tier_target(tier, file->ea.copies[0].target);
	if (needed && (!target || !target_online(target, NULL, 0)))
		return -EIO;
	/* It would be read in vain each time. */
	if (needed && tier_damaged(file->node)) {
		tier_damage_again(file);
		return -EIO;
	}
	move = tier_move_new(file, TIER_RESTORE, NULL);
	if (!move)
		return -ENOMEM;
	name = node_name(file->node);
	snprintf(path, sizeof(path), "%s", name ? name : "");
	ret = queue_moves(tier, TIER_RESTORE, prio, &move, 1,
			  tier_stub_size(file), path, true);
	if (ret) {
		file->move = NULL;
		tier_counting_end(tier);
		free(move);
	}
	return ret;
}

/* ---- requests ------------------------------------------------------------ */

struct batch {
	struct tier *tier;
	enum tier_op op;
	enum mover_prio prio;
	struct tier_move *moves[TIER_BATCH_FILES];
	size_t n, max;
	uint64_t bytes;
	const char *path;
};

static void batch_flush(struct batch *b)
{
	int ret;

	if (!b->n)
		return;
	ret = queue_moves(b->tier, b->op, b->prio, b->moves, b->n, b->bytes,
			  b->path, false);
	for (size_t i = 0; ret && i < b->n; i++) {
		tier_result(b->moves[i], TIER_FAILED, "%s", strerror(-ret));
		tier_move_end(b->moves[i], ret);
	}
	b->n = 0;
	b->bytes = 0;
}

/* A request to restore what is being restored waits like an open does. */
struct join {
	struct tier_wait wait;
	struct tier *tier;
	struct tier_request *req;
	uint64_t size;
};

static void join_resume(struct tier_wait *wait, int err)
{
	struct join *join = container_of(wait, struct join, wait);
	enum spill_state state;

	err = wait->err;
	join->req->bytes = err ? 0 : join->size;
	if (err == -ECANCELED &&
	    !tier_state(join->tier, join->req->node, &state) &&
	    !tier_is_stub(state))
		answer(join->req, TIER_ALREADY, NULL); /* was cut off */
	else if (err == -ECANCELED)
		answer(join->req, TIER_FAILED, "cancelled");
	else if (err == -EBUSY)
		answer(join->req, TIER_REFUSED, TIER_BUSY_LOG);
	else if (err)
		answer(join->req, TIER_FAILED, "%s", strerror(-err));
	else
		answer(join->req, TIER_DONE, NULL);
	free(join);
}

static bool join_recall(struct tier_file *file, struct tier_request *req,
			enum mover_prio prio)
{
	struct join *join = calloc(1, sizeof(*join));

	if (!join)
		return false;
	join->tier = file->tier;
	join->req = req;
	join->size = tier_stub_size(file);
	join->wait.resume = join_resume;
	if (file->move->job) {
		set_job(req, file->move->job->id, TIER_RESTORE);
		mover_raise(file->tier->parts.mover, file->move->job, prio);
	}
	tier_park(file, &join->wait);
	return true;
}

/* The front lets nobody change its EA, nor put another in its place. */
static bool is_immutable(struct node *node)
{
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	struct statx stx;

	return !node_fd_get(node, &fd) &&
	       !statx(fd.fd, "", AT_EMPTY_PATH, STATX_TYPE, &stx) &&
	       stx.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND);
}

/* Answers what needs no job: 1 if it did. node->lock held. */
static int answer_now(struct tier_file *file, enum tier_op op,
		      enum tier_result *ret_result, const char **ret_reason)
{
	enum spill_state state = tier_file_state(file);
	struct node *node = file->node;
	bool gone = tier_is_stub(state);

	*ret_reason = NULL;
	*ret_result = TIER_REFUSED;
	if (file->move) {
		*ret_reason = file->move->op == TIER_RESTORE
				      ? "it is being restored"
				      : "it is being moved already";
		return !(op == TIER_RESTORE && file->move->op == TIER_RESTORE);
	}
	if (!S_ISREG(node->type)) {
		*ret_result = TIER_ALREADY;
		*ret_reason = "not a regular file";
		return 1;
	}
	if (state == SPILL_DIRTY && op == TIER_MIGRATE) {
		*ret_reason = "written while released: restore it first";
		return 1;
	}
	*ret_result = TIER_ALREADY;
	if (op == TIER_RESTORE ? !gone : state == SPILL_RELEASED)
		return 1;
	if (op == TIER_MIGRATE && state == SPILL_MIGRATED)
		return 1;
	if (op == TIER_RELEASE && state == SPILL_NONE) {
		struct stat st;

		*ret_result = TIER_REFUSED;
		*ret_reason = file->nwrite ? "in use: open for writing"
					   : "not migrated";
		if (!node_stat(node, &st) && st.st_size == 0)
			*ret_result = TIER_ALREADY;
		return 1;
	}
	if (is_immutable(node)) {
		*ret_result = TIER_REFUSED;
		*ret_reason = "immutable or append-only";
		return 1;
	}
	return 0;
}

/*
 * A file that was written while released is released by restoring it, migrating
 * it anew, and releasing that: one request after the other. Its job is the first
 * one's, for who wants to cancel it.
 */
struct chain {
	struct tier_request req;
	struct tier *tier;
	enum mover_prio prio;
	bool restored;
};

static void chain_done(struct tier_request *req)
{
	struct chain *chain = container_of(req, struct chain, req);
	struct tier_request *asked = req->asked;

	if (!chain->restored && req->result <= TIER_ALREADY) {
		chain->restored = true;
		tier_submit(chain->tier, TIER_MIGRATE_RELEASE, chain->prio,
			    &req, 1);
		return;
	}
	asked->bytes = req->bytes;
	if (req->reason[0])
		answer(asked, req->result, "%s", req->reason);
	else
		answer(asked, req->result, NULL);
	free(chain);
}

/* node->lock is not held. */
static void submit_chain(struct batch *b, struct tier_request *asked)
{
	struct chain *chain = calloc(1, sizeof(*chain));
	struct tier_request *req;

	if (!chain) {
		answer(asked, TIER_FAILED, "%s", strerror(ENOMEM));
		return;
	}
	chain->tier = b->tier;
	chain->prio = b->prio;
	chain->req = (struct tier_request){.node = asked->node,
					   .path = asked->path,
					   .asked = asked,
					   .only = asked->only,
					   .done = chain_done};
	req = &chain->req;
	tier_submit(b->tier, TIER_RESTORE, b->prio, &req, 1);
}

/* A release copies nothing, but pages leave the cache: by several workers. */
static bool is_full(const struct batch *b, uint8_t only, uint64_t size)
{
	uint64_t sum = b->bytes + size;

	if (b->op == TIER_RELEASE ? sum > TIER_RELEASE_BYTES
				  : size > TIER_SMALL || sum > TIER_BATCH_BYTES)
		return true;
	return b->n == b->max || (b->n && b->moves[0]->only != only);
}

/* What is migrated already goes on to be released, in a batch of its own. */
static void submit_one(struct batch *b, struct batch *released,
		       struct tier_request *req)
{
	struct tier_move *move = NULL;
	struct tier_file *file;
	enum tier_result result;
	const char *reason;
	uint64_t size = 0, own = 0;
	struct stat st;
	int ret;

	if (b->op != TIER_RESTORE && atomic_load(&b->tier->draining)) {
		answer(req, TIER_REFUSED, "the file system is being drained");
		return;
	}
	/* What the last close has left open is to be decided first. */
	tier_settle(b->tier, req->node);
	ret = tier_file_lock(b->tier, req->node, &file);
	if (ret) {
		answer(req, TIER_FAILED, "%s", tier_ea_why(ret));
		return;
	}
	if (answer_now(file, b->op, &result, &reason)) {
		tier_file_unlock(file);
		answer(req, result, reason ? "%s" : NULL, reason);
		return;
	}
	if (file->ea.state == SPILL_DIRTY && b->op != TIER_RESTORE) {
		tier_file_unlock(file);
		submit_chain(b, req);
		return;
	}
	if (file->move) {
		bool joined = join_recall(file, req, b->prio);

		tier_file_unlock(file);
		if (!joined)
			answer(req, TIER_FAILED, "%s", strerror(ENOMEM));
		return;
	}
	if (b->op == TIER_MIGRATE_RELEASE && file->ea.state == SPILL_MIGRATED)
		b = released;
	size = tier_stub_size(file);
	if (file->ea.state == SPILL_NONE && !node_stat(req->node, &st))
		size = (uint64_t)st.st_size;
	if (b->prio == MOVER_IDLE && b->op == TIER_RESTORE && !req->asked) {
		own = tier_restore_cost(file);
		reason = tier_own_begin(b->tier, own);
		if (reason) {
			tier_file_unlock(file);
			answer(req, TIER_REFUSED, "%s", reason);
			return;
		}
	}
	move = tier_move_new(file, b->op, req);
	if (move)
		move->own = own;
	else if (own)
		tier_own_end(b->tier, own, false, -ENOMEM);
	tier_file_unlock(file);
	if (!move) {
		answer(req, TIER_FAILED, "%s", strerror(ENOMEM));
		return;
	}
	if (is_full(b, move->only, size))
		batch_flush(b);
	if (!b->n)
		b->path = req->path;
	b->moves[b->n++] = move;
	b->bytes += size;
	if (b->op != TIER_RELEASE && size > TIER_SMALL)
		batch_flush(b);
}

struct placed {
	uint64_t oid;
	struct tier_request *req;
};

static int compare_placed(const void *a, const void *b)
{
	uint64_t x = ((const struct placed *)a)->oid;
	uint64_t y = ((const struct placed *)b)->oid;

	return x < y ? -1 : x > y;
}

/* What is read from a disk is best read in its order. */
static void sort_requests(struct tier *tier, struct tier_request **reqs,
			  size_t n)
{
	_cleanup_free_ struct placed *placed = calloc(n, sizeof(*placed));

	if (!placed)
		return;
	for (size_t i = 0; i < n; i++) {
		struct tier_file *file;

		placed[i].req = reqs[i];
		if (tier_file_lock(tier, reqs[i]->node, &file))
			continue;
		if (file->ea.ncopies)
			placed[i].oid = file->ea.copies[0].oid;
		tier_file_unlock(file);
	}
	qsort(placed, n, sizeof(*placed), compare_placed);
	for (size_t i = 0; i < n; i++)
		reqs[i] = placed[i].req;
}

void tier_submit(struct tier *tier, enum tier_op op, enum mover_prio prio,
		 struct tier_request **reqs, size_t n)
{
	struct batch b = {
		.tier = tier,
		.op = op,
		.prio = prio,
		.max = op == TIER_RESTORE ? TIER_RESTORE_FILES
					  : tier->batch_files,
	};
	struct batch released = b;

	released.op = TIER_RELEASE;
	if (op == TIER_RESTORE && n > 1)
		sort_requests(tier, reqs, n);
	for (size_t i = 0; i < n; i++)
		submit_one(&b, &released, reqs[i]);
	batch_flush(&b);
	batch_flush(&released);
}
