/* SPDX-License-Identifier: MIT */
/*
 * Migrating: none -> MIGRATING -> MIGRATED.
 *
 * For all files of a job together, so that each durable step is paid once:
 *
 *   1. a read lease on each: nobody can be writing to it, or have it mapped so
 *   2. INTENT_CREATE with the oid for each, committed
 *   3. the EA says MIGRATING, with the copy (not synced)
 *   4. the objects are written and made durable, names included
 *   5. under node->lock, the lease still held and nothing changed: the EA says
 *      MIGRATED, with size, checksum and blocks
 *   6. the front is synced, then the intents are dropped and leases given back
 *
 * A use for writing between 1 and 5 cancels the move: it gives the lease back
 * and sets the EA to what it was. Between 5 and 6 it finds MIGRATED and makes
 * the copy suspect (tier_open.c). A crash leaves the intent, and recovery undoes
 * the migration: until 6 the front's disk need not have what was copied from its
 * page cache. An intent is dropped only when that cannot go wrong any more: for a
 * failed copy after its object was deleted, which step 2 made findable before it
 * could exist.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "log.h"
#include "oid.h"
#include "tier_impl.h"
#include "util.h"

/* Why a file cannot be migrated now. */
static void refuse(struct tier_move *move, int err)
{
	if (err == -EBUSY)
		tier_result(move, TIER_REFUSED,
			    "in use: open or mapped for writing");
	else if (err == -EPERM)
		tier_result(move, TIER_REFUSED, "immutable or append-only");
	else if (err == -ECANCELED)
		tier_result(move, TIER_FAILED, "cancelled");
	else
		tier_result(move, TIER_FAILED, "%s", strerror(-err));
}

/* Ends it without a change: removes it from the job. */
static void drop_move(struct tier_move **move, int err)
{
	refuse(*move, err);
	tier_move_end(*move, 0);
	*move = NULL;
}

/* -EBUSY: in use, which may have ended in a moment; -EINTR: it has been opened for
 * writing since. */
static int try_lease(struct tier_move *move)
{
	struct node *node = move->file->node;
	int fd = -EBUSY;

	/* The lease with the lock held, as in tier_release.c. */
	pthread_mutex_lock(&node->lock);
	if (move->cancelled)
		fd = -EINTR;
	else if (!move->file->nwrite)
		fd = tier_lease(node, F_RDLCK);
	if (fd >= 0) {
		move->fd = fd;
		/* No mapping is left either. */
		atomic_fetch_and(&node->flags, ~NODE_VOLATILE);
	}
	pthread_mutex_unlock(&node->lock);
	return fd;
}

static int begin(struct tier_move *move, int64_t deadline)
{
	struct node *node = move->file->node;
	int fd;

	while ((fd = try_lease(move)) == -EBUSY && monotonic_ns() < deadline)
		usleep(TIER_LAG_STEP_US);
	if (fd < 0)
		return fd == -EINTR ? -EBUSY : fd;
	/* A suspect copy that could not be judged when this was asked for. */
	tier_settle(move->file->tier, node);
	if (fstat(move->fd, &move->st) < 0)
		return -errno;
	if (move->st.st_nlink == 0)
		return -ENOENT;
	if ((uint64_t)move->st.st_size > TIERFS_SIZE_MAX)
		return -EFBIG;
	return 0;
}

/* Drops what cannot be migrated, packs the rest: returns how many. */
static size_t begin_all(struct tier_move **moves, size_t n, uint8_t target)
{
	int64_t deadline = monotonic_ns() + TIER_LAG_NS;
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		struct tier_move *move = moves[i];
		int err;

		move->target = target;
		err = begin(move, deadline);
		if (!err && move->st.st_size == 0) {
			tier_result(move, TIER_ALREADY, "empty");
			tier_move_end(move, 0);
		} else if (err) {
			drop_move(&move, err);
		} else {
			moves[kept++] = move;
		}
	}
	return kept;
}

/* The first target that is there and has room; without such a one the first
 * that is there, to fail as a full one does. Its number, or -EIO. No other takes
 * the place of the only one. */
int tier_choose_target(struct tier *tier, uint8_t only, uint64_t bytes)
{
	int full = -EIO;

	for (unsigned int i = 0; i < tier->parts.ntargets; i++) {
		struct target *target = tier_target(tier, (uint8_t)i);
		struct target_usage usage;

		if (!target || !target_online(target, NULL, 0) ||
		    (only && only != i + 1))
			continue;
		target_usage(target, &usage);
		if (usage.readonly)
			continue;
		if (usage.bytes - usage.used > bytes)
			return (int)i;
		if (full < 0)
			full = (int)i;
	}
	return full;
}

int tier_journal_moves(struct tier *tier, struct tier_move **moves,
		       struct intent *intents, size_t n)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < n; i++)
		ret = front_handle_at(tier->parts.front, moves[i]->fd, "",
				      &intents[i].handle);
	if (!ret)
		ret = journal_add(tier->parts.journal, intents, n);
	for (size_t i = 0; !ret && i < n; i++)
		moves[i]->intent = intents[i].id;
	return ret;
}

static int journal_all(struct tier *tier, struct tier_move **moves, size_t n)
{
	_cleanup_free_ struct intent *intents = calloc(n, sizeof(*intents));
	uint64_t first;
	int ret;

	if (!intents)
		return -ENOMEM;
	ret = journal_alloc(tier->parts.journal, n, &first);
	if (ret)
		return ret;
	for (size_t i = 0; i < n; i++) {
		moves[i]->oid = oid_from_count(first + i);
		intents[i] = (struct intent){
			.kind = INTENT_CREATE,
			.target = moves[i]->target,
			.oid = moves[i]->oid,
		};
	}
	return tier_journal_moves(tier, moves, intents, n);
}

static int mark_migrating(struct tier_move *move)
{
	struct tier_file *file = move->file;
	struct node *node = file->node;
	struct spill_ea ea;
	int ret = -EBUSY;

	pthread_mutex_lock(&node->lock);
	/* The EA names one copy: another would be forgotten. */
	if (!move->cancelled && file->ea.state == SPILL_NONE) {
		move->ea = ea = file->ea;
		ea.state = SPILL_MIGRATING;
		ea.ncopies = 1;
		ea.copies[0].target = move->target;
		ea.copies[0].oid = move->oid;
		ea.size = (uint64_t)move->st.st_size;
		ea.blocks =
			min_t(uint64_t, move->st.st_blocks, TIERFS_BLOCKS_MAX);
		ret = tier_ea_set(file, &ea, true);
	}
	pthread_mutex_unlock(&node->lock);
	return ret;
}

/* Step 5 for one file. */
static int commit(struct tier_move *move)
{
	struct tier_file *file = move->file;
	struct node *node = file->node;
	struct spill_ea ea;
	struct stat st;
	int ret = 0;

	pthread_mutex_lock(&node->lock);
	if (move->cancelled)
		ret = -EBUSY;
	else if (!tier_lease_held(move->fd, F_RDLCK))
		ret = -EBUSY;
	else if (fstat(move->fd, &st) < 0)
		ret = -errno;
	else if (st.st_size != move->st.st_size ||
		 timespec_to_ns(st.st_mtim) != timespec_to_ns(move->st.st_mtim))
		ret = -EBUSY;
	else if (atomic_load(&node->flags) & NODE_UNLINKED)
		ret = -ENOENT;
	if (!ret) {
		ea = file->ea;
		ea.state = SPILL_MIGRATED;
		ea.sum = move->sum;
		ret = tier_ea_set(file, &ea, true);
	}
	if (!ret) {
		move->committed = true;
		tier_count_file(file, SPILL_NONE, SPILL_MIGRATED, ea.size);
	}
	pthread_mutex_unlock(&node->lock);
	return ret;
}

/* A failed one: the EA as before, and the object (if any) deleted. */
static void undo(struct tier_move *move)
{
	struct tier_file *file = move->file;
	struct tier *tier = file->tier;
	struct node *node = file->node;

	pthread_mutex_lock(&node->lock);
	if (!move->cancelled && file->ea.state == SPILL_MIGRATING) {
		struct spill_ea ea = file->ea;

		ea.state = SPILL_NONE;
		ea.ncopies = 0;
		tier_ea_set(file, &ea, true);
	}
	pthread_mutex_unlock(&node->lock);
	fault_point("migrate-undone");
	/* -EEXIST: whatever that object is, it is not this copy. */
	tier_stale_add(tier,
		       &(struct tier_stale){.target = move->target,
					    .object = move->err != -EEXIST,
					    .oid = move->oid,
					    .intent = move->intent});
}

static void copy_all(struct mover_job *job, struct tier_move **moves, size_t n)
{
	struct tier *tier = moves[0]->file->tier;
	struct target *target = tier_target(tier, moves[0]->target);
	const struct copy_env env = {.front_ring = tier->parts.ring,
				     .limit = tier->parts.limit,
				     .mover = tier->parts.mover,
				     .job = job};
	_cleanup_free_ struct copy_out *files = calloc(n, sizeof(*files));
	size_t k = 0;

	for (size_t i = 0; i < n; i++) {
		struct tier_move *move = moves[i];
		const struct stat *st = &move->st;

		if (!files)
			move->err = -ENOMEM;
		if (move->err)
			continue;
		files[k++] = (struct copy_out){
			.front_fd = move->fd,
			.size = (uint64_t)st->st_size,
			.oid = move->oid,
			.ctl = &job->ctl,
			.origin = {.mode = st->st_mode,
				   .uid = st->st_uid,
				   .gid = st->st_gid,
				   .mtime = timespec_to_ns(st->st_mtim),
				   .ino = st->st_ino,
				   .path = move->req ? move->req->path : NULL},
		};
	}
	if (k)
		copy_out(&env, target, files, k);
	for (size_t i = 0, j = 0; i < n; i++) {
		if (moves[i]->err)
			continue;
		moves[i]->err = files[j].err;
		moves[i]->sum = files[j].sum;
		j++;
	}
}

static void report_failure(struct tier_move *move)
{
	struct tier *tier = move->file->tier;
	struct target *target = tier_target(tier, move->target);
	char path[256];

	if (is_no_room(move->err)) {
		tier_result(move, TIER_FAILED, "target %s is full",
			    target_name(target));
	} else if (move->err == -EBUSY || move->err == -ESTALE ||
		   move->err == -ENOENT) {
		tier_result(move, TIER_REFUSED, "changed meanwhile");
	} else if (move->err == -ECANCELED) {
		tier_result(move, TIER_FAILED, "cancelled");
	} else {
		tier_log_failure(
			tier, move->target, "migrating",
			node_path(move->file->node, path, sizeof(path)),
			move->err);
		tier_result(move, TIER_FAILED, "target %s: %s",
			    target_name(target), strerror(-move->err));
	}
}

/* Releases what was migrated, as the same moves. */
static void go_on_releasing(struct mover_job *job, struct tier_move **moves,
			    size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		struct tier_move *move = moves[i];
		struct node *node = move->file->node;

		if (move->err) {
			report_failure(move);
			tier_move_end(move, 0);
			continue;
		}
		pthread_mutex_lock(&node->lock);
		close(move->fd);
		move->fd = -1;
		move->op = TIER_RELEASE;
		move->committed = move->cancelled = false;
		move->ea = move->file->ea;
		pthread_mutex_unlock(&node->lock);
		moves[kept++] = move;
	}
	if (kept)
		tier_release_run(job, moves, kept);
}

void tier_migrate_run(struct mover_job *job, struct tier_move **moves, size_t n,
		      bool release_after)
{
	struct tier *tier = moves[0]->file->tier;
	uint8_t only = moves[0]->only;
	int target = tier_choose_target(tier, only, job->bytes), err;

	if (atomic_load(&job->ctl.cancelled))
		target = -ECANCELED;
	if (target >= 0)
		n = begin_all(moves, n, (uint8_t)target);
	err = target < 0 ? target : n ? journal_all(tier, moves, n) : 0;
	if (err) {
		for (size_t i = 0; i < n; i++) {
			if (target == -EIO)
				tier_result(moves[i], TIER_FAILED,
					    only ? "its target is not online"
						 : "no target is online");
			else
				refuse(moves[i], err);
			tier_move_end(moves[i], 0);
		}
		return;
	}
	if (!n)
		return;
	fault_point("migrate-journaled");
	for (size_t i = 0; i < n; i++)
		moves[i]->err = mark_migrating(moves[i]);
	fault_point("migrate-marked");
	copy_all(job, moves, n);
	fault_point("migrate-copied");
	for (size_t i = 0; i < n; i++) {
		if (!moves[i]->err)
			moves[i]->err = commit(moves[i]);
		if (moves[i]->err)
			undo(moves[i]);
		else
			tier_kept_after_sync(tier, moves[i]->intent,
					     moves[i]->oid);
	}
	fault_point("migrate-committed");
	/* On failure the intents stay: nothing relies on the EAs before. */
	err = tier_sync(tier);
	fault_point("migrate-synced");
	for (size_t i = 0; i < n; i++)
		if (!moves[i]->err && moves[i]->req)
			moves[i]->req->bytes = (uint64_t)moves[i]->st.st_size;
	if (release_after && !err) {
		go_on_releasing(job, moves, n);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		if (moves[i]->err)
			report_failure(moves[i]);
		else if (err)
			refuse(moves[i], err);
		else
			tier_result(moves[i], TIER_DONE, NULL);
		tier_move_end(moves[i], 0);
	}
}
