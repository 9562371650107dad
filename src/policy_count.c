/* SPDX-License-Identifier: MIT */
/*
 * The tier's counters of files by state, corrected once a mount.
 *
 * The histogram of the catalog's root is exact once all that was told is taken
 * in and no directory is to be walked: at once after a clean end, after a crash
 * when the walk is through. That it is of the same moment as the counters is the
 * tier's matter (tier_count.c). On the policy's thread, which waits for no
 * target; a catalog that is busy is asked again.
 */
#include <errno.h>
#include <string.h>

#include "policy_int.h"

#define SETTLE_NS NSEC_PER_SEC

static bool knows_all(struct catalog *catalog)
{
	struct catalog_stats stats;

	catalog_stats(catalog, &stats);
	return !stats.walking && !stats.marked && !stats.err;
}

static int read_root(struct policy *policy, struct tier_counts *ret)
{
	struct front *front = tier_parts(policy->tier)->front;
	struct catalog_reader *reader;
	struct front_handle root;
	struct histogram h;
	int err = front_handle_at(front, front->root_fd, "", &root);

	if (!err)
		err = catalog_reader_open(policy->catalog, &reader);
	if (err)
		return err;
	err = catalog_report(reader, catalog_key(&root), &h);
	catalog_reader_close(reader);
	if (err)
		return err;
	for (int i = 0; i < SPILL_STATES; i++) {
		ret->files[i] = h.states[i].files;
		ret->bytes[i] = h.states[i].bytes;
	}
	histogram_free(&h);
	/* What a crash left; it counts as what it was. */
	ret->files[SPILL_NONE] += ret->files[SPILL_MIGRATING];
	ret->bytes[SPILL_NONE] += ret->bytes[SPILL_MIGRATING];
	ret->files[SPILL_MIGRATING] = ret->bytes[SPILL_MIGRATING] = 0;
	return 0;
}

bool policy_recount(struct policy *policy)
{
	struct tier_counts right;
	struct tier_census then;

	if (!knows_all(policy->catalog) || !tier_census(policy->tier, &then) ||
	    catalog_settle(policy->catalog, false, SETTLE_NS) ||
	    !knows_all(policy->catalog) || read_root(policy, &right))
		return false;
	return tier_recount(policy->tier, &then, &right);
}
