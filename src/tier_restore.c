/* SPDX-License-Identifier: MIT */
/*
 * Restoring: RELEASED -> MIGRATED, with the data back on the front.
 *
 * Reads go on from the object the whole time. The contents are copied and
 * checked first; what follows depends on the file's names.
 *
 * One name: the copy is an O_TMPFILE that takes the stub's place.
 *   1. the data are copied into it, checked, and synced; small files of one
 *      job share that
 *   2. INTENT_RESTORE is committed, for all of them at once
 *   3. under the directory's and the node's lock, the name still leading to the
 *      stub: owner, mode, xattrs, flags and times are copied, and the EA set,
 *      which makes the new inode show the old number and ctime
 *   4. it is linked as .tierfs/inodes/NUMBER and exchanged with the stub
 * 3 needs no sync: metadata reach the journals of ext4, xfs and btrfs in order,
 * so a durable exchange has all of it; only data would come later by itself.
 * So one rename puts the file in place and the stub where it is needed: a
 * number that is still shown must not be given to a new file, and the surest
 * way is that the old inode keeps it. Where that has happened already (a file
 * restored for the second time), the stub goes by way of staging and is
 * removed. A crash before 4 leaves a file in .tierfs/inodes or staging that
 * recovery removes; after 4, everything is done.
 *
 * Several names, or none (unlinked while open), or an INTENT_WRITE, which would
 * have recovery delete the object but not change the EA that came to another
 * inode: the stub is filled in place.
 * Its EA says RELEASED until the data are durable, so a crash in between leaves
 * a stub with junk that nobody reads; INTENT_RESTORE has recovery cut it off
 * and put back the times. Nobody else writes to the stub: uses for writing are
 * parked until the end.
 *
 * The object is kept: the file is MIGRATED, and releasing it again is free. But
 * that of a DIRTY file, or of one that somebody has open for writing, goes, and
 * the file has no copy: tier_apply.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "log.h"
#include "oid.h"
#include "tier_restore.h"
#include "util.h"

/* What finish_swap() has to do before it tries again. */
#define SWAP_MOVED   1 /* nothing: the file has another directory */
#define SWAP_APPLIES 2 /* commit that the object will be stale */
#define SWAP_LATER   3 /* wait for the journal */
#define LATER_US     2000

int restore_copy(struct restore *r, int fd)
{
	const struct copy_env env = {.front_ring = r->tier->parts.ring,
				     .limit = r->tier->parts.limit};
	struct target_object *object;
	int ret;

	if (r->log_alone)
		return 0;
	ret = target_object_open(r->target, r->ea.copies[0].oid, &object);
	if (ret)
		return ret;
	ret = copy_in(&env, object, fd, r->size, &r->ea.sum, &r->job->ctl);
	target_object_close(object);
	return ret;
}

struct intent restore_intent(struct restore *r, enum intent_kind kind)
{
	struct intent intent = {
		.kind = kind,
		.target = r->ea.copies[0].target,
		.oid = r->ea.copies[0].oid,
		.handle = node_handle(r->node),
		.mtime = timespec_to_ns(r->st.st_mtim),
		.atime = timespec_to_ns(r->st.st_atim),
	};

	if (r->swap)
		intent.ino = r->ea.flags & TIERFS_EA_F_INO ? r->ea.ino
							   : r->st.st_ino;
	return intent;
}

/* ---- swapping ------------------------------------------------------------ */

static struct spill_ea restored_ea(const struct restore *r,
				   const struct stat *st)
{
	const struct tier_file *file = r->move->file;
	struct spill_ea ea = file->ea;

	ea.state = SPILL_MIGRATED;
	ea.flags &= ~TIERFS_EA_F_DAMAGED;
	if (r->apply)
		ea = (struct spill_ea){
			.state = SPILL_NONE,
			.flags = ea.flags &
				 (TIERFS_EA_F_PINNED | TIERFS_EA_F_INO),
			.ino = ea.ino,
		};
	ea.ctime = tier_shown_ctime(file, st);
	ea.flags |= TIERFS_EA_F_CTIME;
	if (!(ea.flags & TIERFS_EA_F_INO)) {
		ea.ino = st->st_ino;
		ea.flags |= TIERFS_EA_F_INO;
	}
	return ea;
}

/* Step 4: fd takes the place of parent/name, whose number is ino. */
static int exchange(struct restore *r, int fd, int parent_fd, const char *name,
		    uint64_t ino, bool again)
{
	struct front *front = r->tier->parts.front;
	int slot_dir = again ? front->staging_fd : front->inodes_fd;
	const struct timespec omit = {.tv_nsec = UTIME_OMIT};
	struct timespec times[2] = {omit, omit};
	char slot[24], proc[PROC_FD_LEN];
	struct stat dir;
	int ret = 0;

	snprintf(slot, sizeof(slot), "%" PRIu64, ino);
	if (fstat(parent_fd, &dir) < 0)
		return -errno;
	if (linkat(AT_FDCWD, proc_fd_path(fd, proc), slot_dir, slot,
		   AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	fault_point("restore-linked");
	if (renameat2(slot_dir, slot, parent_fd, name, RENAME_EXCHANGE) < 0) {
		ret = -errno;
		unlinkat(slot_dir, slot, 0);
		return ret;
	}
	fault_point("restore-exchanged");
	/* Nothing happened in that directory that its users did. */
	times[1] = dir.st_mtim;
	utimensat(AT_FDCWD, proc_fd_path(parent_fd, proc), times, 0);
	if (again) {
		unlinkat(slot_dir, slot, 0);
		fault_point("restore-removed");
	} else {
		_cleanup_close_ int stub =
			openat(slot_dir, slot, O_PATH | O_NOFOLLOW | O_CLOEXEC);

		/* The log after the exchange, as the EA: while the stub can
		 * still be the file, it is whole. */
		if (stub >= 0 && r->apply &&
		    truncate(proc_fd_path(stub, proc), 0) < 0)
			log_warn(".tierfs/inodes/%s: %s", slot,
				 strerror(errno));
		fault_point("restore-cut");
		if (stub >= 0)
			removexattr_fd(stub, front->ea_spill);
		fault_point("restore-holder");
	}
	return 0;
}

/* Does the file differ from the object, or may it soon? With node->lock held.
 * 0 or what finish_swap() has to do first. */
static int check_swap(struct restore *r, struct node *parent)
{
	struct tier_file *file = r->move->file;

	if (r->move->cancelled || !tier_is_stub(file->ea.state))
		return -ECANCELED;
	if (!r->node->parent)
		return -EAGAIN;
	if (r->node->parent != parent)
		return SWAP_MOVED;
	if ((file->ea.state == SPILL_DIRTY || file->nwrite) && !r->apply)
		return SWAP_APPLIES;
	/* An INTENT_WRITE, or one on its way, names the inode that is. */
	if (file->journaling && r->apply)
		return SWAP_LATER;
	if (file->journaling || (file->write_intent && !r->apply))
		return -EAGAIN;
	return 0;
}

/* Steps 3 and 4, with parent's and node's locks held. -EAGAIN: the file has
 * other names now, it must be filled in place. */
static int swap_locked(struct restore *r, struct node *parent)
{
	struct tier_file *file = r->move->file;
	struct front *front = r->tier->parts.front;
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	_cleanup_close_ int stub = -1;
	struct front_handle handle, old = node_handle(r->node), dirh;
	struct spill_ea ea;
	struct stat st, named;
	int fd = r->fd, ret;

	ret = check_swap(r, parent);
	if (!ret)
		ret = node_fd_get(parent, &dir);
	if (ret)
		return ret;
	stub = node_open(r->node, O_RDONLY | O_NOATIME);
	if (stub < 0)
		return stub;
	if (fstat(stub, &st) < 0 || fstatat(dir.fd, node_name(r->node), &named,
					    AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (st.st_nlink != 1 || named.st_ino != st.st_ino)
		return -EAGAIN;
	ret = restore_apply_rest(r);
	if (ret)
		return ret;
	ea = restored_ea(r, &st);
	ret = tier_copy_metadata(stub, fd, &st, front->trusted);
	if (!ret)
		ret = front_ea_set(front, fd, &ea);
	if (!ret)
		ret = front_handle_at(front, fd, "", &handle);
	fault_point("restore-prepared");
	if (!ret)
		ret = exchange(r, fd, dir.fd, node_name(r->node), ea.ino,
			       file->ea.flags & TIERFS_EA_F_INO);
	if (ret)
		return ret;
	/* Without memory the node would go on showing the old stub. Stopping
	 * loses nothing, and the next mount finds everything in place. */
	if (node_swap(r->node, &handle))
		abort();
	fault_point("restore-swapped");
	restore_swapped(r, &ea);
	dirh = node_handle(parent);
	catalog_swapped(r->tier->parts.catalog, &old, &handle, &dirh,
			node_name(r->node));
	return 0;
}

static int try_swap(struct restore *r)
{
	struct node *parent;
	int ret;

	ret = restore_apply(r);
	if (ret)
		return ret;
	pthread_mutex_lock(&r->node->lock);
	parent = r->node->parent ? node_ref(r->node->parent) : NULL;
	pthread_mutex_unlock(&r->node->lock);
	if (!parent)
		return -EAGAIN;
	node_dir_lock(parent);
	node_hide_begin(parent);
	pthread_mutex_lock(&r->node->lock);
	ret = swap_locked(r, parent);
	pthread_mutex_unlock(&r->node->lock);
	node_hide_end(parent);
	node_dir_unlock(parent);
	node_unref(parent);
	return ret;
}

static int finish_swap(struct restore *r)
{
	for (;;) {
		int ret = try_swap(r);

		if (ret <= 0)
			return ret;
		if (ret == SWAP_APPLIES)
			ret = restore_applies(r);
		else if (ret == SWAP_LATER)
			usleep(LATER_US);
		if (ret < 0)
			return ret;
	}
}

/* Step 1 for one file, without the sync. */
static int fetch(struct restore *r)
{
	r->fd = openat(r->tier->parts.front->staging_fd, ".",
		       O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return r->fd < 0 ? -errno : restore_copy(r, r->fd);
}

/* ---- the job ------------------------------------------------------------- */

/* What there is to be restored. node->lock held. */
static int look(struct restore *r)
{
	struct tier_file *file = r->move->file;
	int ret;

	r->ea = file->ea;
	if (r->move->cancelled || !tier_is_stub(r->ea.state))
		return -ECANCELED;
	r->swap = r->node->parent;
	r->size = r->ea.size;
	r->blocks = r->ea.blocks;
	if (r->ea.state != SPILL_DIRTY)
		return 0;
	if (!r->swap)
		return -EBUSY; /* its log grows until it is closed */
	ret = tier_dirty_load(file);
	if (ret)
		return ret;
	r->apply = true;
	r->size = delta_base(file->delta)->size;
	r->blocks = delta_base(file->delta)->blocks;
	r->log_bytes = delta_bytes(file->delta);
	r->log_alone = delta_base_valid(file->delta) == 0;
	return 0;
}

static int begin(struct restore *r)
{
	int ret;

	if (atomic_load(&r->job->ctl.cancelled))
		return -ECANCELED;
	pthread_mutex_lock(&r->node->lock);
	ret = look(r);
	pthread_mutex_unlock(&r->node->lock);
	if (!ret)
		ret = node_stat(r->node, &r->st);
	if (ret)
		return ret;
	r->swap = r->swap && r->st.st_nlink == 1;
	if (r->apply && !r->swap)
		return -EBUSY;
	r->target = tier_target(r->tier, r->ea.copies[0].target);
	if (!r->target && !r->log_alone)
		return -EIO;
	return tier_check_room(r->tier,
			       min_t(uint64_t, r->size, r->blocks * 512) +
				       r->log_bytes);
}

/* The data of all that is to be swapped is durable, and the intents. */
static int harden(struct tier *tier, struct restore *all, size_t n)
{
	_cleanup_free_ struct intent *intents = calloc(n, sizeof(*intents));
	struct restore *one = NULL;
	size_t k = 0;
	int ret;

	if (!intents)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (all[i].err || !all[i].swap)
			continue;
		one = &all[i];
		intents[k++] = restore_intent(one, one->apply ? INTENT_APPLY
							      : INTENT_RESTORE);
	}
	if (!k)
		return 0;
	/* See tier_sync.c. */
	if (k > 1 || tier_must_sync(tier, intents[0].oid))
		ret = tier_sync(tier);
	else
		ret = fdatasync(one->fd) < 0 ? -errno : 0;
	fault_point("restore-copied");
	if (!ret)
		ret = journal_add(tier->parts.journal, intents, k);
	fault_point("restore-journaled");
	for (size_t i = 0, j = 0; !ret && i < n; i++)
		if (!all[i].err && all[i].swap)
			all[i].move->intent = intents[j++].id;
	return ret;
}

static void finish(struct restore *r)
{
	if (!r->err && r->swap)
		r->err = finish_swap(r);
	/* It has several names, or none, or got or lost one meanwhile. */
	if (r->err == -EAGAIN && r->apply)
		r->err = -EBUSY;
	else if ((!r->err && !r->swap) || r->err == -EAGAIN)
		r->err = restore_in_place(r);
}

static void report(struct restore *r, int err)
{
	struct tier_request *req = r->move->req;
	const char *target = r->target ? target_name(r->target) : "?";
	char path[256];

	if (!err) {
		if (req)
			req->bytes = r->size;
		tier_result(r->move, TIER_DONE, NULL);
		return;
	}
	if (err == -ECANCELED) {
		enum spill_state state;

		/* Cut off meanwhile, it is resident all the same. */
		if (!tier_state(r->tier, r->node, &state) &&
		    !tier_is_stub(state))
			tier_result(r->move, TIER_ALREADY, NULL);
		else
			tier_result(r->move, TIER_FAILED, "cancelled");
		return;
	}
	node_path(r->node, path, sizeof(path));
	if (err == -EBADMSG) {
		tier_damage_found(r->tier, r->node, &r->ea.copies[0],
				  "damaged: its checksum is not that of the "
				  "migrated file");
		tier_result(r->move, TIER_FAILED, "the object on %s is damaged",
			    target);
	} else if (err == -ENOENT) {
		tier_damage_found(r->tier, r->node, &r->ea.copies[0],
				  "missing");
		tier_result(r->move, TIER_FAILED, "the object on %s is missing",
			    target);
	} else if (err == -EBUSY) {
		tier_result(r->move, TIER_REFUSED, TIER_BUSY_LOG);
	} else if (err == -ENOSPC) {
		tier_result(r->move, TIER_FAILED, "no room on the front");
	} else {
		tier_log_failure(r->tier, r->ea.copies[0].target, "restoring",
				 path, err);
		tier_result(r->move, TIER_FAILED, "target %s: %s", target,
			    strerror(-err));
	}
}

/* The object is gone because the file was cut off or unlinked meanwhile. */
static bool is_pointless(struct restore *r)
{
	enum spill_state state;

	if (r->err != -ENOENT)
		return false;
	return atomic_load(&r->node->flags) & NODE_UNLINKED ||
	       (!tier_state(r->tier, r->node, &state) && !tier_is_stub(state));
}

static void end(struct restore *r)
{
	int err = is_pointless(r) ? -ECANCELED : r->err;

	/* After a swap that applied the log it is another's. */
	tier_kept_after_sync(r->tier, r->move->intent,
			     r->apply ? r->ea.copies[0].oid : 0);
	report(r, err);
	cleanup_close(&r->fd);
	cleanup_close(&r->log_fd);
	pthread_mutex_lock(&r->node->lock);
	tier_dirty_restored(r->move->file, err);
	pthread_mutex_unlock(&r->node->lock);
	if (err && err != -ENOSPC && err != -ECANCELED && err != -EBUSY)
		err = -EIO;
	tier_move_end(r->move, err);
}

void tier_restore_run(struct mover_job *job, struct tier_move **moves, size_t n)
{
	struct restore all[TIER_RESTORE_FILES];
	struct mover *mover = moves[0]->file->tier->parts.mover;
	int err;

	mover_turn_begin(mover, job);
	for (size_t i = 0; i < n; i++) {
		struct restore *r = &all[i];

		*r = (struct restore){.job = job,
				      .tier = moves[i]->file->tier,
				      .move = moves[i],
				      .node = moves[i]->file->node,
				      .fd = -1,
				      .log_fd = -1};
		r->err = begin(r);
		moves[i]->wrote = !r->err;
		if (!r->err && r->swap)
			r->err = fetch(r);
	}
	mover_turn_end(mover, job);
	err = harden(all[0].tier, all, n);
	for (size_t i = 0; i < n; i++) {
		if (!all[i].err && all[i].swap)
			all[i].err = err;
		finish(&all[i]);
		end(&all[i]);
	}
}
