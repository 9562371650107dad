/* SPDX-License-Identifier: MIT */
/*
 * Restoring a file that was written while released: the log is applied.
 *
 * The steps are those of a swap (tier_restore.c). The copy of the object, as
 * checked, is the ground; unless nothing of it shows any more, then it is not
 * read. The log's entries are made upon it in their order, from the first to the
 * last, each checked again. Most of that needs no lock: the log only grows, and
 * what it is read up to was its end once. What is appended meanwhile is applied
 * in further rounds, each ending with a sync, and the rest under the locks. A
 * writer who is faster than that wins a few rounds; then he has to wait for what
 * he has written during the last one.
 *
 * The object is no copy of what results, so the swap leaves state none and the
 * object is deleted: under INTENT_APPLY, which is committed before the exchange.
 * Recovery finds that the exchange was made by the stub: it lies where exchanged
 * stubs lie, or has lost its EA, or is gone. Then the object goes. Else the stub
 * is the file, with its log as it was, and the object stays. A restore that was
 * begun as one of a file without a log, with INTENT_RESTORE, and finds one at
 * its end (or a writer) commits the other intent and tries again.
 *
 * Whoever has the file open for reading in place may still be about to open the
 * object: it is deleted when its source has no user any more.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "tier_restore.h"
#include "util.h"

/* What is left to be done under the locks: this much, or what was appended
 * during the last of so many rounds. */
#define REST_BYTES (256 << 10)
#define ROUNDS	   8

int restore_applies(struct restore *r)
{
	struct intent intent = restore_intent(r, INTENT_APPLY);
	int ret;

	ret = journal_add(r->tier->parts.journal, &intent, 1);
	fault_point("apply-journaled");
	if (ret)
		return ret;
	tier_done_after_sync(r->tier, r->move->intent);
	r->move->intent = intent.id;
	r->apply = true;
	return 0;
}

static int replay(struct restore *r, const struct delta_base *base,
		  uint64_t end)
{
	int ret;

	if (r->log_fd < 0)
		r->log_fd = node_open(r->node, O_RDONLY | O_NOATIME);
	if (r->log_fd < 0)
		return r->log_fd;
	r->unsynced = true;
	ret = delta_replay(r->log_fd, base, r->fd, &r->pos, end,
			   &r->job->ctl.cancelled);
	if (ret)
		return ret;
	fault_point("apply-replayed");
	if (fdatasync(r->fd) < 0)
		return -errno;
	r->unsynced = false;
	fault_point("apply-synced");
	return 0;
}

int restore_apply(struct restore *r)
{
	struct tier_file *file = r->move->file;

	for (int i = 0; i < ROUNDS; i++) {
		struct delta_base base;
		uint64_t end = 0;
		int ret = 0;

		pthread_mutex_lock(&r->node->lock);
		if (file->ea.state == SPILL_DIRTY)
			ret = tier_dirty_load(file);
		if (!ret && file->ea.state == SPILL_DIRTY) {
			base = *delta_base(file->delta);
			end = delta_log_end(file->delta);
		}
		pthread_mutex_unlock(&r->node->lock);
		if (ret)
			return ret;
		if (end <= r->pos.off + (i ? REST_BYTES : 0))
			return 0;
		ret = replay(r, &base, end);
		if (ret)
			return ret;
	}
	return 0;
}

int restore_apply_rest(struct restore *r)
{
	struct tier_file *file = r->move->file;
	struct stat st;
	int ret = 0;

	if (file->ea.state == SPILL_DIRTY) {
		uint64_t end = delta_log_end(file->delta);

		if (end > r->pos.off || r->unsynced)
			ret = replay(r, delta_base(file->delta), end);
	}
	if (ret)
		return ret;
	/* No entry can have been forgotten, or it would be another size. */
	if (fstat(r->fd, &st) < 0)
		return -errno;
	return (uint64_t)st.st_size == tier_stub_size(file) ? 0 : -EBADMSG;
}

/* The object goes when nobody reads it any more. */
static void make_stale(struct restore *r, struct tier_file *file)
{
	const struct tier_stale stale = {
		.target = r->ea.copies[0].target,
		.object = true,
		.oid = r->ea.copies[0].oid,
		.intent = r->move->intent,
	};

	/* The intent is done with the object. */
	r->move->intent = 0;
	if (file->src) {
		file->src->is_stale = true;
		file->src->stale = stale;
	} else {
		tier_stale_add(r->tier, &stale);
	}
	tier_done_after_sync(r->tier, file->write_intent);
	file->write_intent = 0;
}

void restore_swapped(struct restore *r, const struct spill_ea *ea)
{
	struct tier_file *file = r->move->file;
	uint64_t size = tier_stub_size(file);

	r->move->committed = true;
	tier_count_file(file, file->ea.state, ea->state, size);
	if (r->apply) {
		make_stale(r, file);
		/* Writers go on, and are counted from here. */
		file->base_size = (int64_t)size;
		tier_dirty_drop(file);
	}
	file->ea = *ea;
	if (file->src) {
		tier_src_put(file->src);
		file->src = NULL;
	}
}
