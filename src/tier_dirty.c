/* SPDX-License-Identifier: MIT */
/*
 * Writing to a file whose data is in an object: RELEASED -> DIRTY.
 *
 * Each change is appended to a log, the data of the stub (delta.h); nothing of
 * the object is read for it. What a file is, is the object with its log over it,
 * until a restore has put both into one (tier_apply.c). There is no other copy
 * of either, so:
 *
 * The object and the log belong together by the EA. It says DIRTY before the
 * first byte is appended. No intent is journalled for that, and nothing synced:
 * metadata reach the journals of ext4, xfs and btrfs in order, so if the log has
 * a size after a power cut, then the EA says DIRTY. If it says RELEASED, then
 * what the stub holds is no log, and recovery may cut it off (recover.c). From
 * then on the EA says DIRTY in that inode for ever: neither is the log cut while
 * its EA can be read again, nor the EA changed back. So truncating to nothing is
 * an entry, too; and the object goes only after the exchange of the inode, which
 * takes EA and log away at once, is durable (INTENT_APPLY).
 *
 * LOGGING says that the log may be longer than the EA knows. It is set before
 * the log grows, and cleared (settled) when there is no writer any more and the
 * log has been synced: only then are size and blocks in the EA true, so that a
 * stat of a file at rest reads no log, and any byte of the log that does not fit
 * is damage. A log that has LOGGING set and is not in memory is a crash's: it is
 * read when its file is first looked at, up to the first entry that does not
 * fit. That one was never synced. It is cut off before anything is appended, for
 * what stood behind it must never come to fit a later entry; to this the chain of
 * checksums is a second defence.
 *
 * All of it is under node->lock but the syncs, so there is one order of writes:
 * the log's. Against it may run
 *
 *   a read      takes what the log says, data included, under the lock, and
 *               lays it over what the object gives later. Whatever happens in
 *               between, that is the file at one moment during the read. The
 *               object it reads is not deleted before (tier_src.is_stale).
 *   a restore   applies the log without the lock up to where it ended, while
 *               it grows; then the rest with the lock, and exchanges the inodes
 *               in the same breath. So a write is either applied, or comes after
 *               it, finds the file resident (-EALREADY), and is made there.
 *               While somebody has a released file open for writing, its restore
 *               ends without a copy (none, not MIGRATED), as if it had a log:
 *               what he writes then needs no intent.
 *   an fsync    syncs the stub without the lock. If the file is exchanged
 *               before it is done: the new one was synced with all that was in
 *               the log before that, and the exchange was made before the log
 *               was cut; so whichever of the two a power cut leaves has it. And
 *               as that relies on the order of things within one sync, the new
 *               file is synced as well (-EALREADY).
 *   a fill      (in place) writes to the stub itself. It is not begun while the
 *               file is open for writing, and opens for writing wait for its
 *               end. As that is how a file with several names is restored, one
 *               with a log never gets a second name (tier_link()), nor is one
 *               that has several opened for writing without a restore.
 *   a release   is undone or over before the file is open.
 *   an unlink   lets the log grow, without limits, until the last close.
 *
 * A write that fails (ENOSPC) leaves the log as it was. A sync that fails may
 * have lost what it was to write, and says so once: such a log is not settled
 * any more, so that what does not fit is dropped and not taken for damage.
 *
 * Rejected: a sparse overlay in the stub with a map of what is valid, which has
 * no order between data and map but by syncing each; an entry's data aligned
 * for reflinks, which makes small writes large; a log in the journal's database,
 * which every writer would wait for.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "log.h"
#include "tier_impl.h"
#include "util.h"

/* After a restore that failed, the next try of those that nobody waits for. */
#define RETRY_MIN_NS NSEC_PER_SEC
#define RETRY_MAX_NS (300 * NSEC_PER_SEC)

/* ---- the log in memory ------------------------------------------------- */

uint64_t tier_stub_size(const struct tier_file *file)
{
	return file->delta ? delta_size(file->delta) : file->ea.size;
}

/* Never less than what holds data, never more than the file has room for. */
uint64_t tier_stub_blocks(const struct tier_file *file)
{
	const struct delta *d = file->delta;
	uint64_t blocks, room;

	if (!d)
		return file->ea.blocks;
	blocks = delta_base(d)->blocks + (delta_bytes(d) + 511) / 512;
	room = (delta_size(d) + 4095) / 4096 * 8;
	if (delta_size(d) >= delta_base(d)->size)
		room = max_t(uint64_t, room, delta_base(d)->blocks);
	return min_t(uint64_t, min_t(uint64_t, blocks, room),
		     TIERFS_BLOCKS_MAX);
}

static int open_stub(struct node *node, bool *ret_write)
{
	int fd = node_open(node, O_RDWR | O_NOATIME);

	if (fd == -EPERM) /* append-only (chattr +a): all that is done */
		fd = node_open(node, O_RDWR | O_NOATIME | O_APPEND);
	*ret_write = fd >= 0;
	if (fd == -EPERM || fd == -EROFS)
		fd = node_open(node, O_RDONLY);
	return fd;
}

static int log_open(struct tier_file *file)
{
	bool write;
	int fd;

	if (file->log)
		return 0;
	file->log = tier_src_local(file->tier);
	if (!file->log)
		return -ENOMEM;
	fd = open_stub(file->node, &write);
	if (fd < 0) {
		tier_src_put(file->log);
		file->log = NULL;
		return fd;
	}
	*(write ? &file->log->fd_write : &file->log->fd_read) = fd;
	return 0;
}

static int log_fd(const struct tier_file *file)
{
	return file->log->fd_write >= 0 ? file->log->fd_write
					: file->log->fd_read;
}

static struct delta_base base_of(const struct spill_ea *ea)
{
	return (struct delta_base){.oid = ea->copies[0].oid,
				   .target = ea->copies[0].target,
				   .size = ea->size,
				   .blocks = ea->blocks};
}

/* What a crash left behind the last whole entry goes before anything else is
 * appended, and without a trace in the file's times. */
static int cut_torn(struct tier_file *file)
{
	struct spill_ea ea = file->ea;
	struct timespec times[2];
	struct stat st;
	int ret;

	if (fstat(log_fd(file), &st) < 0)
		return -errno;
	times[0] = st.st_atim;
	times[1] = st.st_mtim;
	ea.ctime = tier_shown_ctime(file, &st);
	ret = delta_cut(file->delta, log_fd(file));
	if (ret)
		return ret;
	fault_point("dirty-cut");
	futimens(log_fd(file), times);
	/* That ctime is shown from now on, to the next write. */
	ea.flags |= TIERFS_EA_F_CTIME;
	file->ea = ea;
	return tier_ea_set(file, &ea, true);
}

int tier_dirty_load(struct tier_file *file)
{
	struct delta_base base = base_of(&file->ea);
	bool logging = file->ea.flags & TIERFS_EA_F_LOGGING;
	int ret;

	if (file->delta)
		return 0;
	if (file->log_err)
		return file->log_err;
	ret = log_open(file);
	if (!ret)
		ret = delta_load(log_fd(file), &base, !logging, &file->delta);
	if (ret == -EBADMSG || ret == -EPROTONOSUPPORT) {
		/* Only now: log_err answers from here on. */
		tier_report_bad(file->node, log_fd(file),
				ret == -EBADMSG
					? "its log of writes is damaged"
					: "its log of writes is of a newer "
					  "version of tierfs");
		ret = file->log_err = -EIO;
	}
	if (!ret && delta_torn(file->delta))
		ret = cut_torn(file);
	if (ret)
		tier_dirty_drop(file);
	else if (logging) /* a crash's */
		tier_unsettled_add(file);
	return ret;
}

void tier_dirty_drop(struct tier_file *file)
{
	delta_free(file->delta);
	file->delta = NULL;
	if (file->log)
		tier_src_put(file->log);
	file->log = NULL;
}

int tier_dirty_view(struct tier_file *file, struct tier_read *read)
{
	struct delta_view *view;
	int ret;

	ret = tier_dirty_load(file);
	if (ret)
		return ret;
	view = calloc(1, sizeof(*view));
	if (!view)
		return -ENOMEM;
	ret = delta_view_get(file->delta, log_fd(file), read->off, read->len,
			     view);
	if (ret) {
		free(view);
		return ret == -EBADMSG ? -EIO : ret;
	}
	read->view = view;
	return 0;
}

/* ---- changing ------------------------------------------------------------ */

/* The EA says DIRTY before there is a log, and LOGGING before it grows. */
static int mark(struct tier_file *file)
{
	struct spill_ea ea = file->ea;
	struct delta_base base = base_of(&ea);
	int ret;

	if (ea.flags & TIERFS_EA_F_LOGGING)
		return 0;
	if (ea.state == SPILL_RELEASED) {
		ret = log_open(file);
		if (!ret)
			ret = delta_new(&base, &file->delta);
		if (ret)
			return ret;
	}
	ea.state = state_next(ea.state, 0, EVENT_WRITE).next;
	ea.flags |= TIERFS_EA_F_LOGGING;
	/* Until the write is made nothing is to be seen of it. */
	ret = tier_ea_set(file, &ea, true);
	if (ret) {
		if (file->ea.state == SPILL_RELEASED)
			tier_dirty_drop(file);
		return ret;
	}
	fault_point("dirty-marked");
	return 0;
}

static int begin(struct tier_file *file, uint64_t end)
{
	enum spill_state was = file->ea.state;
	int ret = 0;

	if (!tier_is_stub(was))
		return -EALREADY;
	if (file->filling) /* cannot be: tier_fill.c */
		return -EIO;
	if (end > file->tier->max_size)
		return -EFBIG;
	if (was == SPILL_DIRTY)
		ret = tier_dirty_load(file);
	if (!ret)
		ret = mark(file);
	if (ret)
		return ret;
	if (was == SPILL_RELEASED)
		tier_count_file(file, SPILL_RELEASED, SPILL_DIRTY,
				file->ea.size);
	return file->log->fd_write < 0 ? -EPERM : 0;
}

/* Nobody waits for it: the log goes on meanwhile. */
static void want_restore(struct tier_file *file)
{
	if (file->move || monotonic_ns() < file->retry_at ||
	    atomic_load(&file->node->flags) & NODE_UNLINKED)
		return;
	if (tier_recall(file, MOVER_ASKED))
		tier_dirty_restored(file, -EIO);
}

void tier_dirty_restored(struct tier_file *file, int err)
{
	if (!err) {
		file->retry_ns = file->retry_at = 0;
		return;
	}
	file->retry_ns = file->retry_ns ? min_t(int64_t, 2 * file->retry_ns,
						RETRY_MAX_NS)
					: RETRY_MIN_NS;
	file->retry_at = monotonic_ns() + file->retry_ns;
}

static void appended(struct tier_file *file, uint64_t old_size)
{
	const struct tier_tunables *t = &file->tier->tunables;
	const struct delta *d = file->delta;

	fault_point("dirty-appended");
	if (!(atomic_load(&file->node->flags) & NODE_UNLINKED))
		tier_count_resize(file->tier, SPILL_DIRTY,
				  (int64_t)(delta_size(d) - old_size));
	/* Cut to nothing it takes no object to restore it. */
	if (delta_size(d) == 0 ||
	    delta_entries(d) > atomic_load(&t->dirty_entries) ||
	    delta_bytes(d) > atomic_load(&t->dirty_bytes))
		want_restore(file);
}

int tier_write(struct tier *tier, struct node *node, const void *buf,
	       size_t len, uint64_t off)
{
	struct tier_file *file;
	uint64_t size;
	int ret;

	pthread_mutex_lock(&node->lock);
	file = node->file; /* the use keeps it */
	ret = begin(file, off + len);
	if (!ret) {
		size = delta_size(file->delta);
		ret = delta_append_write(file->delta, file->log->fd_write, buf,
					 len, off);
		if (!ret)
			appended(file, size);
	}
	pthread_mutex_unlock(&node->lock);
	return ret;
}

int tier_truncate(struct tier *tier, struct node *node, uint64_t size)
{
	struct tier_file *file;
	uint64_t old;
	int ret;

	pthread_mutex_lock(&node->lock);
	file = node->file;
	ret = begin(file, size);
	if (!ret) {
		old = delta_size(file->delta);
		ret = delta_append_truncate(file->delta, file->log->fd_write,
					    size);
		if (!ret)
			appended(file, old);
	}
	pthread_mutex_unlock(&node->lock);
	return ret;
}

int tier_zero(struct tier *tier, struct node *node, uint64_t off, uint64_t len,
	      bool extend)
{
	struct tier_file *file;
	uint64_t size;
	int ret;

	pthread_mutex_lock(&node->lock);
	file = node->file;
	ret = begin(file, extend ? off + len : 0);
	if (!ret) {
		size = delta_size(file->delta);
		ret = extend ? delta_append_zero(file->delta,
						 file->log->fd_write, off, len)
			     : delta_append_punch(file->delta,
						  file->log->fd_write, off,
						  len);
		if (!ret)
			appended(file, size);
	}
	pthread_mutex_unlock(&node->lock);
	return ret;
}

int tier_need_resident(struct tier *tier, struct node *node,
		       struct tier_wait *wait)
{
	struct tier_file *file;
	int ret;

	ret = tier_file_lock(tier, node, &file);
	if (ret)
		return ret;
	if (tier_is_stub(file->ea.state)) {
		if (atomic_load(&node->flags) & NODE_UNLINKED)
			ret = -EOPNOTSUPP;
		else
			ret = tier_recall_for(file, wait);
		if (ret == -EINPROGRESS)
			tier_park(file, wait);
	}
	tier_file_unlock(file);
	return ret;
}

/* ---- durability ------------------------------------------------------------ */

static int sync_fd(int fd, bool datasync)
{
	return (datasync ? fdatasync(fd) : fsync(fd)) < 0 ? -errno : 0;
}

/* Of a file without a log in memory: its attributes, and what was settled. */
static int sync_stub(struct node *node, bool datasync)
{
	_cleanup_close_ int fd = node_open(node, O_RDONLY | O_NONBLOCK);

	if (fd < 0)
		return fd == -EAGAIN ? 0 : fd;
	return sync_fd(fd, datasync);
}

int tier_fsync(struct tier *tier, struct node *node, bool datasync)
{
	struct tier_file *file;
	struct tier_src *log;
	int ret;

	for (;;) {
		pthread_mutex_lock(&node->lock);
		file = node->file;
		if (!tier_is_stub(file->ea.state)) {
			pthread_mutex_unlock(&node->lock);
			return -EALREADY;
		}
		log = file->log;
		if (log)
			tier_src_get(log);
		pthread_mutex_unlock(&node->lock);
		if (!log)
			return sync_stub(node, datasync);
		ret = sync_fd(log->fd_write >= 0 ? log->fd_write : log->fd_read,
			      datasync);
		fault_point("dirty-synced");
		pthread_mutex_lock(&node->lock);
		file = node->file;
		/* The error is told once: the settling would not see it. */
		if (ret && file->log == log)
			file->log_lost = true;
		if (ret || file->log == log) {
			pthread_mutex_unlock(&node->lock);
			tier_src_put(log);
			return ret;
		}
		/* Restored meanwhile: it is the other file that counts. */
		pthread_mutex_unlock(&node->lock);
		tier_src_put(log);
	}
}

/* ---- settling ---------------------------------------------------------------- */

bool tier_dirty_unsettled(const struct tier_file *file)
{
	return file->ea.flags & TIERFS_EA_F_LOGGING && file->delta &&
	       !file->nwrite && !file->log_lost &&
	       !(atomic_load(&file->node->flags) & NODE_UNLINKED);
}

/* The log is durable up to end, if it is still that one. */
static void settled(struct tier_file *file, struct tier_src *log, uint64_t end)
{
	struct spill_ea ea = file->ea;

	if (file->log != log || !tier_dirty_unsettled(file))
		return;
	if (delta_log_end(file->delta) == end && !delta_torn(file->delta)) {
		ea.flags &= ~TIERFS_EA_F_LOGGING;
		ea.size = tier_stub_size(file);
		ea.blocks = tier_stub_blocks(file);
		if (!tier_ea_set(file, &ea, true)) {
			fault_point("dirty-settled");
			return;
		}
	}
	tier_unsettled_add(file);
}

static void settle(struct tier *tier, struct node *node)
{
	struct tier_file *file;
	struct tier_src *log = NULL;
	uint64_t end = 0;
	int ret;

	pthread_mutex_lock(&node->lock);
	file = node->file;
	/* What follows the log would be damage in a settled one. */
	if (file && tier_dirty_unsettled(file) && delta_torn(file->delta) &&
	    cut_torn(file))
		tier_unsettled_add(file);
	else if (file && tier_dirty_unsettled(file)) {
		log = file->log;
		tier_src_get(log);
		end = delta_log_end(file->delta);
	}
	pthread_mutex_unlock(&node->lock);
	if (!log)
		return;
	ret = sync_fd(log->fd_write >= 0 ? log->fd_write : log->fd_read, true);
	fault_point("dirty-flushed");
	pthread_mutex_lock(&node->lock);
	file = node->file;
	if (file && ret && file->log == log) {
		file->log_lost = true;
		log_error("%s: its log of writes: %s",
			  node_name(node) ? node_name(node) : "(no name)",
			  strerror(-ret));
	} else if (file) {
		settled(file, log, end);
	}
	if (file)
		tier_file_unlock(file);
	else
		pthread_mutex_unlock(&node->lock);
	tier_src_put(log);
}

struct settle_job {
	struct mover_job job;
	struct tier *tier;
	struct cds_list_head list; /* of tier_unsettled */
};

static void settle_list(struct tier *tier, struct cds_list_head *list)
{
	struct tier_unsettled *entry, *next;

	cds_list_for_each_entry_safe (entry, next, list, link) {
		settle(tier, entry->node);
		node_unref(entry->node);
		free(entry);
	}
}

static void settle_run(struct mover_job *job)
{
	struct settle_job *sj = container_of(job, struct settle_job, job);

	settle_list(sj->tier, &sj->list);
}

static void settle_free(struct mover_job *job)
{
	free(container_of(job, struct settle_job, job));
}

void tier_dirty_settle(struct tier *tier, struct cds_list_head *list)
{
	struct settle_job *sj = calloc(1, sizeof(*sj));

	if (sj) {
		sj->tier = tier;
		CDS_INIT_LIST_HEAD(&sj->list);
		cds_list_splice(list, &sj->list);
		sj->job.refs = 1;
		sj->job.op = "settle";
		sj->job.prio = MOVER_ASKED;
		sj->job.run = settle_run;
		sj->job.free = settle_free;
		if (!mover_submit(tier->parts.mover, &sj->job, NULL))
			return;
		CDS_INIT_LIST_HEAD(list);
		cds_list_splice(&sj->list, list);
		free(sj);
	}
	/* The mover has stopped: nobody is kept waiting. */
	settle_list(tier, list);
}
