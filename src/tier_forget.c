/* SPDX-License-Identifier: MIT */
/*
 * Forgetting: what a file says of copies goes, without a word to the targets.
 */
#include <errno.h>

#include "tier_impl.h"

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
	tier_file_unlock(file);
	return ret;
}
