/* SPDX-License-Identifier: MIT */
/*
 * Opening and closing: what happens to a copy when its file may change.
 *
 * With passthrough the daemon sees no write, so all that a write would mean is
 * done at the open for writing. What must never happen is that the front's data
 * changes while a durable EA still calls an old object its copy: a later release
 * would drop the new data. Two steps keep that:
 *
 *   1. An INTENT_WRITE is committed. The open is parked meanwhile.
 *   2. The EA is flagged WRITING (not synced), and the open goes on.
 *
 * A crash after 1 finds the intent: recovery drops the copy whatever the EA
 * says. Nothing is released while a use is counted, a move is under way or the
 * flag is set. At the last close the flag is settled: if mtime, ctime and size
 * are what they were when the flag was set, and a read lease shows that no
 * mapping is left that could still write, then nothing was written and the copy
 * is good again; else it goes. While a mapping is left, the file stays suspect
 * and is looked at again every second. (A write that is followed by utimensat()
 * to the old mtime within a tick of a coarse clock would escape that: so any
 * change of metadata while the flag is set counts as a change, tier_attr.c.)
 *
 * O_TRUNC and truncate(0) need no data back: step 1, then the EA loses its
 * copies, then the caller truncates. A crash in between leaves either the old
 * contents (EA not yet durable: the object is deleted only after a sync) or the
 * new ones.
 *
 * A file whose data is in an object is opened for writing as it is: what is
 * written is logged (tier_dirty.c).
 *
 * A file that becomes immutable or append-only (chattr +i, +a) could not have
 * its EA changed any more, which an append has to do: it loses its copies first.
 *
 * A running migration is stopped by a use for writing: its lease is given back
 * first, for the front's file system would make the open wait for it. A release
 * that has not yet dropped the data is undone by any use; from then on it holds
 * node->lock until the data is gone.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "tier_impl.h"
#include "util.h"

struct write_intent {
	struct journal_req req;
	struct intent intent;
	struct tier *tier;
	struct node *node; /* a reference */
};

static void write_intent_done(struct journal_req *req, int err)
{
	struct write_intent *wi = container_of(req, struct write_intent, req);
	struct node *node = wi->node;
	struct tier_file *file;

	fault_point("write-journaled");
	pthread_mutex_lock(&node->lock);
	file = node->file; /* journaling keeps it */
	file->journaling = false;
	if (!err)
		file->write_intent = wi->intent.id;
	tier_wake(file, err);
	/* All waiters may have been interrupted: it is settled like a close. */
	if (!err)
		tier_unsettled_add(file);
	tier_file_unlock(file);
	node_unref(node);
	free(wi);
}

/* 0: there is one; -EINPROGRESS: it is on its way. */
static int need_write_intent(struct tier_file *file)
{
	struct tier *tier = file->tier;
	struct write_intent *wi;

	if (file->write_intent)
		return 0;
	if (file->journaling)
		return -EINPROGRESS;
	wi = calloc(1, sizeof(*wi));
	if (!wi)
		return -ENOMEM;
	wi->tier = tier;
	wi->node = node_ref(file->node);
	wi->intent = (struct intent){
		.kind = INTENT_WRITE,
		.target = file->ea.copies[0].target,
		.oid = file->ea.copies[0].oid,
		.handle = node_handle(file->node),
	};
	wi->req = (struct journal_req){
		.intents = &wi->intent,
		.n = 1,
		.done = write_intent_done,
	};
	file->journaling = true;
	journal_add_async(tier->parts.journal, &wi->req);
	return -EINPROGRESS;
}

static int touch_mtime(struct node *node)
{
	const struct timespec now[2] = {{.tv_nsec = UTIME_OMIT},
					{.tv_nsec = UTIME_NOW}};
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	char proc[PROC_FD_LEN];
	int ret;

	ret = node_fd_get(node, &fd);
	if (ret)
		return ret;
	if (utimensat(AT_FDCWD, proc_fd_path(fd.fd, proc), now, 0) < 0)
		return -errno;
	return 0;
}

int tier_drop_copies(struct tier_file *file, bool touch)
{
	struct spill_ea old = file->ea,
			ea = {
				.state = SPILL_NONE,
				.flags = old.flags &
					 (TIERFS_EA_F_PINNED | TIERFS_EA_F_INO),
				.ino = old.ino,
			};
	bool stub = old.state == SPILL_RELEASED;
	int ret;

	ret = tier_ea_set(file, &ea, true);
	if (ret)
		return ret;
	fault_point("write-dropped");
	/* The stub is empty already: cutting it would not change mtime. */
	if (touch && stub)
		touch_mtime(file->node);
	if (!(old.flags & TIERFS_EA_F_WRITING)) /* else counted as none */
		tier_count_file(file, old.state, SPILL_NONE, old.size);
	if (stub)
		tier_count_resize(file->tier, SPILL_NONE, -(int64_t)old.size);
	old.flags &= ~TIERFS_EA_F_INO; /* the number is still shown */
	tier_stale_file(file->tier, &old, file->write_intent, 0);
	file->write_intent = 0;
	if (file->src && file->src->remote) {
		tier_src_put(file->src);
		file->src = NULL;
	}
	/* Others may have it open for writing, as it was. */
	file->base_size = 0;
	return 0;
}

void tier_move_cancel(struct tier_file *file)
{
	struct tier_move *move = file->move;
	struct spill_ea ea;

	if (!move || move->cancelled)
		return;
	/* The worker keeps the descriptor; without its lease nobody waits. */
	if (move->op != TIER_RESTORE && move->fd >= 0)
		fcntl(move->fd, F_SETLEASE, F_UNLCK);
	if (move->committed)
		return;
	move->cancelled = true;
	if (move->solo && move->job)
		atomic_store(&move->job->ctl.cancelled, true);
	if (move->op == TIER_RESTORE)
		return; /* looked at when the copy is there */
	if (file->ea.state == SPILL_MIGRATING ||
	    (file->ea.state == SPILL_RELEASED && move->op == TIER_RELEASE)) {
		ea = file->ea;
		ea.state = move->ea.state;
		ea.ncopies = move->ea.ncopies;
		tier_ea_set(file, &ea, true);
		fault_point("move-cancelled");
	}
}

/* The copy becomes suspect, now that the intent is there. */
static int mark_writing(struct tier_file *file)
{
	struct spill_ea ea = file->ea;
	struct stat st;
	int ret;

	if (ea.flags & TIERFS_EA_F_WRITING)
		return 0;
	ea.flags |= TIERFS_EA_F_WRITING;
	ret = tier_ea_set(file, &ea, true);
	if (ret)
		return ret;
	fault_point("write-marked");
	ret = node_stat(file->node, &st);
	if (ret)
		return ret;
	file->base_mtime = timespec_to_ns(st.st_mtim);
	file->base_ctime = timespec_to_ns(st.st_ctim);
	tier_count_file(file, SPILL_MIGRATED, SPILL_NONE, ea.size);
	return 0;
}

/* May what is written to it be logged? Not that of a small file, which is back
 * sooner, or of one with several names, which cannot be swapped. */
static bool may_log(struct tier_file *file)
{
	struct stat st;

	if (file->ea.state != SPILL_RELEASED)
		return true;
	return file->ea.size >=
		       atomic_load(&file->tier->tunables.restore_below) &&
	       !node_stat(file->node, &st) && st.st_nlink == 1;
}

static int open_write(struct tier_file *file, bool truncate,
		      struct tier_wait *wait)
{
	enum state_event event = truncate	 ? EVENT_TRUNCATE_ZERO
				 : may_log(file) ? EVENT_OPEN_WRITE
						 : EVENT_OPEN_RESIDENT;
	struct state_result next;
	int ret;

	if (file->move && file->move->op != TIER_RESTORE)
		tier_move_cancel(file);
	next = state_next(file->ea.state, file->ea.flags & TIERFS_EA_F_WRITING,
			  event);
	if (next.err)
		return next.err;
	if (file->move && file->move->op == TIER_RESTORE) {
		/*
		 * What is cut off is not waited for: a swap finds at its end
		 * that it is pointless. Waiting for it here, after cancelling
		 * it, would let two clients go round for ever, one cancelling
		 * what the other begins. Nor is what can be logged: the swap
		 * applies it. Only a fill writes to the stub itself.
		 */
		if (event == EVENT_OPEN_RESIDENT || file->filling)
			return tier_recall_for(file, wait);
		if (next.actions & ACT_DELETE_OBJECT)
			tier_move_cancel(file);
	}
	if (next.actions & ACT_RESTORE_FIRST)
		return tier_recall_for(file, wait);
	if (file->ea.state == SPILL_MIGRATED ||
	    next.actions & (ACT_SUSPECT | ACT_DELETE_OBJECT)) {
		ret = need_write_intent(file);
		if (ret)
			return ret;
		if (next.actions & ACT_DELETE_OBJECT)
			return tier_drop_copies(file, true);
		return mark_writing(file);
	}
	return 0;
}

/* Who is kept from bringing a file back does not make it warm either. */
static bool makes_warm(const struct tier_file *file, const struct tier_who *who)
{
	return !tier_is_stub(file->ea.state) || !who ||
	       who->action == RECALL_RESTORE;
}

/* Programs open files to look at their flags alone (lsattr, borg): what counts,
 * and goes to the target, is what they read. */
static int open_read(struct tier_file *file, const struct tier_who *who)
{
	if (file->move && file->move->op == TIER_RELEASE)
		tier_move_cancel(file);
	if (tier_is_stub(file->ea.state) && makes_warm(file, who))
		file->unread++;
	return 0;
}

static bool for_writing(int flags)
{
	return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
}

/* size: of a resident file that is opened for writing. */
static void use_begin(struct tier_file *file, int flags, int64_t size,
		      const struct tier_who *who)
{
	struct node *node = file->node;

	file->nopen++;
	if (for_writing(flags)) {
		if (file->nwrite++ == 0)
			file->base_size = size;
		atomic_fetch_or(&node->flags, NODE_VOLATILE);
	}
	if ((flags & O_ACCMODE) != O_WRONLY && !(flags & O_NOATIME) &&
	    makes_warm(file, who))
		tier_tell_accessed(file->tier, node);
}

int tier_open(struct tier *tier, struct node *node, int flags,
	      struct tier_wait *wait)
{
	bool write = for_writing(flags);
	struct tier_file *file;
	struct stat st = {0};
	int ret;

	ret = tier_file_lock(tier, node, &file);
	if (ret)
		return ret;
	if (write)
		tier_counting_begin(tier); /* until it is closed */
	if (tier_is_stub(file->ea.state))
		ret = tier_who_check(tier, wait->who);
	if (!ret)
		ret = write ? open_write(file, flags & O_TRUNC, wait)
			    : open_read(file, wait->who);
	if (!ret && write && file->nwrite == 0)
		ret = node_stat(node, &st);
	if (!ret) {
		use_begin(file, flags, st.st_size, wait->who);
	} else if (ret == -EINPROGRESS) {
		tier_park(file, wait);
	}
	if (ret && write)
		tier_counting_end(tier);
	tier_file_unlock(file);
	return ret;
}

int tier_open_made(struct tier *tier, struct node *node, int flags, int fd)
{
	struct tier_file *file;
	struct tier_src *src;
	int ret;

	ret = tier_file_lock(tier, node, &file);
	if (ret) {
		close(fd);
		return ret;
	}
	ret = tier_file_src(file, &src);
	if (!ret && src->fd_read < 0)
		src->fd_read = fd;
	else
		close(fd);
	if (!ret && for_writing(flags))
		tier_counting_begin(tier); /* until it is closed */
	if (!ret)
		use_begin(file, flags, 0, NULL);
	tier_file_unlock(file);
	return ret;
}

/* By the descriptor that there is, mostly. */
static int stat_file(struct tier_file *file, struct stat *ret)
{
	if (file->src && file->src->fd_read >= 0)
		return fstat(file->src->fd_read, ret) < 0 ? -errno : 0;
	return node_stat(file->node, ret);
}

/* The last writer left: what it did is counted, and judged. */
static void last_writer(struct tier_file *file)
{
	struct stat st;

	if (!tier_is_stub(file->ea.state) &&
	    !(atomic_load(&file->node->flags) & NODE_UNLINKED) &&
	    !stat_file(file, &st))
		tier_count_resize(file->tier, SPILL_NONE,
				  st.st_size - file->base_size);
	if (file->write_intent || tier_dirty_unsettled(file))
		tier_unsettled_add(file);
	tier_tell_changed(file->tier, file->node);
}

void tier_close(struct tier *tier, struct node *node, int flags)
{
	bool write = for_writing(flags);
	struct tier_file *file;

	pthread_mutex_lock(&node->lock);
	file = node->file; /* the use keeps it */
	if (write && --file->nwrite == 0)
		last_writer(file);
	if (--file->nopen == 0) {
		if (file->src) {
			tier_src_put(file->src);
			file->src = NULL;
		}
		tier_orphan_unused(file);
	}
	if (write)
		tier_counting_end(tier);
	tier_file_unlock(file);
}

int tier_untier(struct tier *tier, struct node *node, struct tier_wait *wait)
{
	struct tier_file *file;
	int ret;

	ret = tier_file_lock(tier, node, &file);
	if (ret)
		return ret;
	tier_counting_begin(tier);
	if (file->ea.state == SPILL_RELEASED || file->ea.state == SPILL_DIRTY) {
		ret = tier_recall_for(file, wait);
	} else if (file->ea.state == SPILL_MIGRATED) {
		ret = need_write_intent(file);
		if (!ret)
			ret = tier_drop_copies(file, false);
	}
	if (ret == -EINPROGRESS)
		tier_park(file, wait);
	tier_counting_end(tier);
	tier_file_unlock(file);
	return ret;
}

struct tier_handles *tier_handles(struct node *node)
{
	return &node->file->handles;
}

bool tier_resident(struct node *node)
{
	return !tier_is_stub(node->file->ea.state);
}

/* ---- settling --------------------------------------------------------- */

static bool differs(const struct tier_file *file, const struct stat *st)
{
	return timespec_to_ns(st->st_mtim) != file->base_mtime ||
	       timespec_to_ns(st->st_ctim) != file->base_ctime ||
	       (uint64_t)st->st_size != file->ea.size;
}

/* 1: changed, 0: not, -EBUSY: cannot be told yet. node->lock held. */
static int was_changed(struct tier_file *file)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (node_stat(file->node, &st) || differs(file, &st))
		return 1;
	fd = tier_lease(file->node, F_RDLCK);
	if (fd < 0)
		return -EBUSY;
	/* A page may have been dirtied before the lease was there. */
	return fstat(fd, &st) < 0 || differs(file, &st);
}

static void settle_same(struct tier_file *file)
{
	struct tier *tier = file->tier;
	struct spill_ea ea = file->ea;

	ea.flags &= ~TIERFS_EA_F_WRITING;
	if (tier_ea_set(file, &ea, true))
		return;
	fault_point("write-settled");
	tier_count_file(file, SPILL_NONE, SPILL_MIGRATED, ea.size);
	tier_kept_after_sync(tier, file->write_intent, ea.copies[0].oid);
	file->write_intent = 0;
}

/*
 * Nobody came for the intent: nothing was changed, so nothing is to be synced
 * before it goes. It has to be gone when a swap is made, after which recovery
 * would take it for a copy that nobody names: so it is gone, or there is none,
 * with the commit of a restore that begins later, and one that has begun finds
 * it in the file.
 */
static void never_came(struct tier_file *file)
{
	if (file->move) {
		tier_unsettled_add(file);
		return;
	}
	journal_done(file->tier->parts.journal, &file->write_intent, 1);
	file->write_intent = 0;
}

void tier_settle(struct tier *tier, struct node *node)
{
	struct tier_file *file;
	int changed;

	pthread_mutex_lock(&node->lock);
	file = node->file;
	if (!file || !file->write_intent || file->nwrite) {
		pthread_mutex_unlock(&node->lock);
		return;
	}
	if (!(file->ea.flags & TIERFS_EA_F_WRITING)) {
		never_came(file);
		tier_file_unlock(file);
		return;
	}
	changed = was_changed(file);
	if (changed < 0) {
		tier_unsettled_add(file);
	} else if (changed) {
		tier_drop_copies(file, false);
	} else {
		settle_same(file);
	}
	tier_file_unlock(file);
}
