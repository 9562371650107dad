/* SPDX-License-Identifier: MIT */
/*
 * Restoring in place, what cannot be swapped: see tier_restore.c.
 *
 * Nobody else writes to the stub meanwhile. Opens for writing are parked once
 * file->filling is set, under node->lock; it is not set while somebody has the
 * file open for writing, who would log what he writes in the same stub.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "tier_restore.h"
#include "util.h"

/* From now on the inode's times are not the file's, its ctime included. */
static int set_filling(struct restore *r)
{
	struct tier_file *file = r->move->file;
	struct spill_ea ea;
	struct stat st;
	int ret;

	pthread_mutex_lock(&r->node->lock);
	ea = file->ea;
	if (r->move->cancelled || !tier_is_stub(ea.state))
		ret = -ECANCELED;
	else if (ea.state == SPILL_DIRTY || file->nwrite)
		ret = -EBUSY; /* there is a log, or there will be one */
	else
		ret = node_stat(r->node, &st);
	if (!ret)
		ret = tier_ea_set(file, &ea, true);
	if (!ret) {
		file->filling = true;
		file->fill_atime = st.st_atim;
		file->fill_mtime = st.st_mtim;
	}
	pthread_mutex_unlock(&r->node->lock);
	return ret;
}

/* Ends with the data valid (ret 0) or cut off, and the times put back. */
static int finish_fill(struct restore *r, int fd, bool caps, int ret)
{
	struct tier_file *file = r->move->file;
	struct timespec times[2];
	struct spill_ea ea;

	pthread_mutex_lock(&r->node->lock);
	if (!ret && (r->move->cancelled || file->ea.state != SPILL_RELEASED))
		ret = -ECANCELED;
	if (ret) {
		ftruncate(fd, 0);
		fault_point("fill-cut");
	}
	times[0] = file->fill_atime;
	times[1] = file->fill_mtime;
	if (caps)
		tier_caps_back(fd);
	futimens(fd, times);
	fault_point("fill-times");
	file->filling = false;
	if (!ret) {
		ea = file->ea;
		ea.state = SPILL_MIGRATED;
		ea.flags &= ~TIERFS_EA_F_DAMAGED;
		ret = tier_ea_set(file, &ea, true);
		fault_point("fill-done");
	}
	if (!ret) {
		r->move->committed = true;
		tier_count_file(file, SPILL_RELEASED, SPILL_MIGRATED,
				r->ea.size);
		if (file->src) {
			tier_src_put(file->src);
			file->src = NULL;
		}
	}
	pthread_mutex_unlock(&r->node->lock);
	return ret;
}

int restore_in_place(struct restore *r)
{
	_cleanup_close_ int fd = -1;
	struct intent intent;
	int ret, caps;

	/* Again: what a swap that was not to be had journalled is another. */
	tier_done_after_sync(r->tier, r->move->intent);
	r->swap = false;
	ret = node_stat(r->node, &r->st);
	if (ret)
		return ret;
	intent = restore_intent(r, INTENT_RESTORE);
	ret = journal_add(r->tier->parts.journal, &intent, 1);
	if (ret)
		return ret;
	r->move->intent = intent.id;
	fault_point("fill-journaled");
	fd = node_open(r->node, O_RDWR | O_NOATIME);
	if (fd < 0)
		return fd;
	ret = set_filling(r);
	if (ret)
		return ret;
	ret = caps = tier_caps_keep(fd, r->tier->parts.front->trusted);
	if (ret >= 0)
		ret = restore_copy(r, fd);
	fault_point("fill-copied");
	if (!ret && fsync(fd) < 0)
		ret = -errno;
	fault_point("fill-synced");
	return finish_fill(r, fd, caps > 0, ret);
}
