/* SPDX-License-Identifier: MIT */
/*
 * Attributes that go: a copy that the check found to be none, and all of a
 * front that is drained.
 *
 * Forgetting a copy says nothing to its target: the check knows better what is
 * to become of the object. Leaving has the objects deleted, so an INTENT_WRITE
 * for each comes first, committed for many files at once: it says what is meant
 * here, that the copy goes and the file stays. What kept the file's shown number
 * is nameless after a crash; the drain that goes on removes it, or the check.
 */
#include <errno.h>
#include <stdlib.h>

#include "cleanup.h"
#include "tier_impl.h"
#include "util.h"

uint64_t tier_renames(struct tier *tier, bool *ret_quiet)
{
	/* Ended first: what begins in between makes it look busy. */
	uint64_t ended = atomic_load(&tier->renames_ended);
	uint64_t begun = atomic_load(&tier->renames_begun);

	*ret_quiet = begun == ended;
	return begun;
}

static bool same_copies(const struct spill_ea *a, const struct spill_ea *b)
{
	if (a->state != b->state || a->ncopies != b->ncopies ||
	    a->size != b->size)
		return false;
	for (unsigned int i = 0; i < a->ncopies; i++)
		if (a->copies[i].target != b->copies[i].target ||
		    a->copies[i].oid != b->copies[i].oid)
			return false;
	return true;
}

int tier_forget_copies(struct tier *tier, struct node *node,
		       const struct spill_ea *was)
{
	struct tier_file *file;
	enum spill_state state;
	struct spill_ea ea;
	int ret;

	ret = tier_file_lock(tier, node, &file);
	if (ret)
		return ret;
	tier_counting_begin(tier);
	ea = file->ea;
	/* MIGRATING is none in memory, unless it is moving. */
	if (was->state == SPILL_MIGRATING && ea.state == SPILL_NONE)
		ea = *was;
	state = tier_file_state(file);
	if (file->move || file->write_intent || file->journaling ||
	    ea.state == SPILL_RELEASED || ea.state == SPILL_DIRTY ||
	    !same_copies(&ea, was))
		ret = -EAGAIN;
	if (!ret) {
		ea.state = SPILL_NONE;
		ea.ncopies = 0;
		ea.size = ea.blocks = 0;
		ea.sum = (struct spill_sum){0};
		ea.flags &= TIERFS_EA_F_PINNED | TIERFS_EA_F_INO;
		ret = tier_ea_set(file, &ea, true);
	}
	if (!ret && state == SPILL_MIGRATED)
		tier_count_file(file, SPILL_MIGRATED, SPILL_NONE, was->size);
	tier_counting_end(tier);
	tier_file_unlock(file);
	return ret;
}

/* ---- leaving -------------------------------------------------------------- */

void tier_set_draining(struct tier *tier, bool draining)
{
	atomic_store(&tier->draining, draining);
}

bool tier_draining(struct tier *tier)
{
	return atomic_load(&tier->draining);
}

static int may_leave(const struct tier_file *file)
{
	if (file->move || file->journaling ||
	    file->ea.state == SPILL_RELEASED || file->ea.state == SPILL_DIRTY)
		return -EBUSY;
	return 0;
}

/* 1: *ret is an intent that is needed first. */
static int begin_leaving(struct tier *tier, struct node *node,
			 struct intent *ret)
{
	struct tier_file *file;
	int err;

	err = tier_file_lock(tier, node, &file);
	if (err)
		return err;
	err = may_leave(file);
	if (!err && file->ea.ncopies && !file->write_intent) {
		*ret = (struct intent){
			.kind = INTENT_WRITE,
			.target = file->ea.copies[0].target,
			.oid = file->ea.copies[0].oid,
			.handle = node_handle(node),
		};
		err = 1;
	}
	tier_file_unlock(file);
	return err;
}

static int remove_eas(struct tier_file *file)
{
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	struct spill_ea none = {.state = SPILL_NONE};
	int err;

	err = node_fd_get(file->node, &fd);
	if (err)
		return err;
	/* First: it is looked for only where the other one is. */
	err = removexattr_fd(fd.fd, TIERFS_EA_BTIME_TRUSTED);
	if (err && err != -ENODATA && err != -EPERM && err != -EOPNOTSUPP)
		return err;
	return tier_ea_set(file, &none, false);
}

/* intent: for this copy, or 0. */
static int leave(struct tier *tier, struct node *node, uint64_t oid,
		 uint64_t intent)
{
	struct tier_file *file;
	struct spill_ea old;
	int err;

	err = tier_file_lock(tier, node, &file);
	if (err) {
		tier_kept_after_sync(tier, intent, oid);
		return err;
	}
	old = file->ea;
	err = may_leave(file);
	/* Meanwhile it may have been migrated anew, or written to. */
	if (!err && old.ncopies && !file->write_intent &&
	    (!intent || old.copies[0].oid != oid))
		err = -EBUSY;
	if (!err)
		err = remove_eas(file);
	if (err || !old.ncopies || file->write_intent) {
		tier_kept_after_sync(tier, intent, oid);
		intent = file->write_intent;
	}
	if (!err) {
		if (old.state == SPILL_MIGRATED &&
		    !(old.flags & TIERFS_EA_F_WRITING))
			tier_count_file(file, SPILL_MIGRATED, SPILL_NONE,
					old.size);
		tier_stale_file(tier, &old, intent, 0);
		file->write_intent = 0;
		if (old.flags & TIERFS_EA_F_INO)
			tier_stale_add(tier,
				       &(struct tier_stale){.holder = old.ino});
	}
	tier_file_unlock(file);
	return err;
}

void tier_leave(struct tier *tier, struct node **nodes, size_t n, int *errs)
{
	_cleanup_free_ struct intent *intents = calloc(n, sizeof(*intents));
	size_t k = 0;
	int err = intents ? 0 : -ENOMEM;

	tier_counting_begin(tier);
	for (size_t i = 0; i < n; i++) {
		errs[i] =
			err ? err : begin_leaving(tier, nodes[i], &intents[k]);
		k += errs[i] == 1;
	}
	if (k)
		err = journal_add(tier->parts.journal, intents, k);
	for (size_t i = 0, next = 0; i < n; i++) {
		const struct intent *intent =
			errs[i] == 1 ? &intents[next++] : NULL;

		if (errs[i] < 0)
			continue;
		errs[i] = err ? err
			      : leave(tier, nodes[i], intent ? intent->oid : 0,
				      intent ? intent->id : 0);
	}
	tier_counting_end(tier);
}
