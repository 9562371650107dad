/* SPDX-License-Identifier: MIT */
/*
 * Releasing: MIGRATED -> RELEASED, the one step that destroys data.
 *
 *   1. a write lease: nobody has the file open or mapped, nobody behind the
 *      mount either
 *   2. INTENT_RELEASE with the file's times, committed
 *   3. the EA says RELEASED
 *   4. all EAs of the job are durable: each file is synced, or if they are many
 *      the front, which waits for all that writers have left dirty there, most
 *      of it when room is needed most. And what the page cache has of the data
 *      goes, which takes longer than all else (ext4: 1 ms for 16 MiB), while
 *      nobody has to wait for the lock
 *   5. under node->lock, not cancelled and the lease still held: the data are
 *      cut off and the times put back
 *   6. after a further sync the intents are dropped
 *
 * A use between 1 and 5 finds the move and undoes it: the EA says MIGRATED
 * again, the lease is given back, nothing was lost. From 5 on it waits for the
 * lock, and finds a stub.
 *
 * A crash before 3 is durable leaves a MIGRATED file. After it, recovery
 * finds the intent, and cuts the data off and puts the times back if the EA
 * says RELEASED: the object has been durable since the EA said MIGRATED.
 * Undoing is not synced, so a crash may find RELEASED for a file that was read
 * since: the same. If it was opened for writing, an INTENT_WRITE came later,
 * and recovery works in order.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "batch.h"
#include "cleanup.h"
#include "fault.h"
#include "tier_impl.h"
#include "util.h"

/* So many files are synced one by one: the first sync commits for all of them,
 * the others cost a flush of the disk each. */
#define SYNC_EACH 256

/* ---- leases ------------------------------------------------------------ */

int tier_lease(struct node *node, int type)
{
	_cleanup_close_ int fd = -1;

	if (type == F_WRLCK)
		node_keep_drop(node);
	/* Non-blocking: another's lease on the file is no reason to wait. */
	fd = node_open(node, (type == F_WRLCK ? O_RDWR : O_RDONLY) | O_NOATIME |
				     O_NONBLOCK);
	if (fd < 0)
		return fd == -EWOULDBLOCK || fd == -ETXTBSY ? -EBUSY : fd;
	if (fcntl(fd, F_SETLEASE, type) < 0)
		return errno == EAGAIN ? -EBUSY : -errno;
	return steal_fd(&fd);
}

bool tier_lease_held(int fd, int type)
{
	return fcntl(fd, F_GETLEASE) == type;
}

void tier_uncache(struct tier *tier, struct node *node)
{
	_cleanup_close_ int fd = -1;
	struct tier_file *file;

	if (tier_file_lock(tier, node, &file))
		return;
	/* A move's lease is not to be broken. */
	if (!file->move && !file->nopen && file->ea.state == SPILL_MIGRATED)
		fd = node_open(node, O_RDONLY | O_NOATIME | O_NONBLOCK);
	tier_file_unlock(file);
	if (fd >= 0)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* ---- the job ---------------------------------------------------------- */

/* The lease is taken with the lock held: a use that came in between would find
 * a lease that it cannot give back, and wait for it with the lock. */
static int try_begin(struct tier_move *move)
{
	struct node *node = move->file->node;
	struct tier_file *file = move->file;
	uint64_t size;
	int ret = 0;

	pthread_mutex_lock(&node->lock);
	if (file->nopen)
		ret = -EBUSY;
	else if (move->cancelled || file->ea.state != SPILL_MIGRATED ||
		 file->ea.flags & TIERFS_EA_F_WRITING)
		ret = -ECANCELED;
	else
		ret = tier_lease(node, F_WRLCK);
	if (ret >= 0)
		move->fd = ret;
	size = file->ea.size;
	pthread_mutex_unlock(&node->lock);
	if (ret < 0)
		return ret;
	if (fstat(move->fd, &move->st) < 0)
		return -errno;
	return (uint64_t)move->st.st_size != size ? -ESTALE : 0;
}

static int begin(struct tier_move *move, int64_t deadline)
{
	struct tier *tier = move->file->tier;
	struct target *target = tier_target(tier, move->ea.copies[0].target);
	struct front_handle handle = node_handle(move->file->node);
	int ret;

	if (tier_pinned(tier, move->file->node, move->ea.flags))
		return -EPERM;
	if (batch_kept_until(tier->parts.batches, &handle))
		return -EKEYREJECTED;
	if (!target || !target_online(target, NULL, 0))
		return -ENOTCONN;
	while ((ret = try_begin(move)) == -EBUSY && monotonic_ns() < deadline)
		usleep(TIER_LAG_STEP_US);
	return ret;
}

static void answer_kept(struct tier_move *move)
{
	struct front_handle handle = node_handle(move->file->node);
	time_t until =
		batch_kept_until(move->file->tier->parts.batches, &handle) /
		NSEC_PER_SEC;
	char text[32] = "a moment ago";
	struct tm tm;

	if (until && localtime_r(&until, &tm))
		strftime(text, sizeof(text), "%F %T", &tm);
	tier_result(move, TIER_REFUSED,
		    "kept until %s (tierctl unkeep ends that)", text);
}

static void answer_failure(struct tier_move *move, int err)
{
	struct target *target =
		tier_target(move->file->tier, move->ea.copies[0].target);

	switch (err) {
	case -EBUSY:
		tier_result(move, TIER_REFUSED, "in use: open or mapped");
		break;
	case -EPERM:
		tier_result(move, TIER_REFUSED, "pinned");
		break;
	case -EKEYREJECTED:
		answer_kept(move);
		break;
	case -ECANCELED:
		tier_result(move, TIER_REFUSED, "changed meanwhile");
		break;
	case -ESTALE:
		tier_result(move, TIER_REFUSED,
			    "not the file that was migrated: changed behind "
			    "the mount");
		break;
	case -ENOTCONN:
		tier_result(move, TIER_REFUSED, "target %s is offline",
			    target ? target_name(target) : "of its copy");
		break;
	default:
		tier_result(move, TIER_FAILED, "%s", strerror(-err));
	}
}

static int journal_all(struct tier *tier, struct tier_move **moves, size_t n)
{
	_cleanup_free_ struct intent *intents = calloc(n, sizeof(*intents));

	if (!intents)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const struct spill_copy *copy = &moves[i]->ea.copies[0];

		intents[i] = (struct intent){
			.kind = INTENT_RELEASE,
			.target = copy->target,
			.oid = copy->oid,
			.mtime = timespec_to_ns(moves[i]->st.st_mtim),
			.atime = timespec_to_ns(moves[i]->st.st_atim),
		};
	}
	return tier_journal_moves(tier, moves, intents, n);
}

static int mark_released(struct tier_move *move)
{
	struct tier_file *file = move->file;
	struct node *node = file->node;
	struct spill_ea ea;
	int ret = -EBUSY;

	pthread_mutex_lock(&node->lock);
	/* Copies may have been dropped, or the file touched, since begin; or
	 * somebody who opens it has an INTENT_WRITE, which a released file must
	 * not have: a swap leaves it behind. */
	if (!move->cancelled && !file->nopen && !file->journaling &&
	    !file->write_intent && file->ea.state == SPILL_MIGRATED &&
	    !(file->ea.flags & TIERFS_EA_F_WRITING)) {
		ea = file->ea;
		ea.state = SPILL_RELEASED;
		ret = tier_ea_set(file, &ea, true);
	}
	pthread_mutex_unlock(&node->lock);
	return ret;
}

/* Step 4, the EAs. */
static int sync_all(struct tier *tier, struct tier_move **moves, size_t n)
{
	if (n > SYNC_EACH)
		return tier_sync(tier);
	for (size_t i = 0; i < n; i++)
		if (!moves[i]->err && fsync(moves[i]->fd) < 0)
			moves[i]->err = -errno;
	return 0;
}

/* Step 4, the pages: none is dirty, and as long as the lease is held nobody fills
 * or maps them. */
static void drop_pages(struct tier_move *move)
{
	if (tier_lease_held(move->fd, F_WRLCK))
		posix_fadvise(move->fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* Step 5. */
static int drop_data(struct tier_move *move)
{
	struct tier_file *file = move->file;
	struct front *front = file->tier->parts.front;
	struct node *node = file->node;
	struct timespec times[2];
	struct stat st;
	int ret = 0, caps;

	pthread_mutex_lock(&node->lock);
	if (move->cancelled) {
		ret = -EBUSY;
	} else if (!tier_lease_held(move->fd, F_WRLCK)) {
		/* Somebody is waiting behind the mount. */
		tier_move_cancel(file);
		ret = -EBUSY;
	} else if (fstat(move->fd, &st) < 0) {
		ret = -errno;
	} else if (!(file->ea.flags & TIERFS_EA_F_CTIME) ||
		   timespec_to_ns(st.st_mtim) !=
			   timespec_to_ns(move->st.st_mtim) ||
		   timespec_to_ns(st.st_atim) !=
			   timespec_to_ns(move->st.st_atim)) {
		/* Metadata was changed: not the times of the intent, and
		 * dropping the data would show. */
		tier_move_cancel(file);
		ret = -ECANCELED;
	} else {
		times[0] = st.st_atim;
		times[1] = st.st_mtim;
		ret = caps = tier_caps_keep(move->fd, front->trusted);
		if (ret >= 0)
			ret = ftruncate(move->fd, 0) < 0 ? -errno : 0;
		if (ret) {
			tier_move_cancel(file);
		} else {
			fault_point("release-cut");
			if (caps)
				tier_caps_back(move->fd);
			futimens(move->fd, times);
			fault_point("release-dropped");
			move->committed = true;
			node->reads = 0;
			tier_count_file(file, SPILL_MIGRATED, SPILL_RELEASED,
					file->ea.size);
			if (file->src) {
				tier_src_put(file->src);
				file->src = NULL;
			}
			tier_tell_changed(file->tier, node);
		}
	}
	fcntl(move->fd, F_SETLEASE, F_UNLCK);
	pthread_mutex_unlock(&node->lock);
	return ret;
}

static void undo(struct tier_move *move)
{
	struct tier_file *file = move->file;

	pthread_mutex_lock(&file->node->lock);
	tier_move_cancel(file);
	pthread_mutex_unlock(&file->node->lock);
}

static size_t begin_all(struct mover_job *job, struct tier_move **moves,
			size_t n)
{
	int64_t deadline = monotonic_ns() + TIER_LAG_NS;
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		int err = atomic_load(&job->ctl.cancelled)
				  ? -ECANCELED
				  : begin(moves[i], deadline);

		if (err) {
			answer_failure(moves[i], err);
			tier_move_end(moves[i], 0);
		} else {
			moves[kept++] = moves[i];
		}
	}
	return kept;
}

void tier_release_run(struct mover_job *job, struct tier_move **moves, size_t n)
{
	struct tier *tier = moves[0]->file->tier;
	int err;

	n = begin_all(job, moves, n);
	if (!n)
		return;
	err = journal_all(tier, moves, n);
	fault_point("release-journaled");
	for (size_t i = 0; !err && i < n; i++)
		moves[i]->err = mark_released(moves[i]);
	fault_point("release-marked");
	if (!err)
		err = sync_all(tier, moves, n);
	fault_point("release-synced");
	for (size_t i = 0; i < n; i++) {
		struct tier_move *move = moves[i];

		if (!move->err && !err)
			drop_pages(move);
		if (!move->err)
			move->err = err ? err : drop_data(move);
		if (move->err) {
			undo(move);
			answer_failure(move, move->err);
		} else {
			if (move->req)
				move->req->bytes = (uint64_t)move->st.st_size;
			tier_result(move, TIER_DONE, NULL);
		}
		tier_done_after_sync(tier, move->intent);
		tier_move_end(move, 0);
	}
}
