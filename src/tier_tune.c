/* SPDX-License-Identifier: MIT */
/* What can be changed while the tier is in use. */
#include "tier_impl.h"
#include "util.h"

const struct tier_tunables *tier_tunables(struct tier *tier)
{
	return &tier->tunables;
}

void tier_watermarks(const struct tier_tunables *tune, uint64_t total,
		     double *ret_high, double *ret_low)
{
	double high = atomic_load(&tune->high), low = atomic_load(&tune->low);
	double kept = atomic_load(&tune->reserve_percent), lower;

	if (total)
		kept += 100 * (double)atomic_load(&tune->reserve_bytes) /
			(double)total;
	lower = high - (100 - min_t(double, kept, 100));
	if (lower > 0) {
		high -= lower;
		low = max_t(double, low - lower, 0);
	}
	*ret_high = high;
	*ret_low = low;
}

void tier_retune(struct tier *tier, const struct config *config)
{
	struct tier_tunables *t = &tier->tunables;

	atomic_store(&t->policy_auto, config->policy_auto);
	atomic_store(&t->migrate_age_ns, config->migrate_age_ns);
	atomic_store(&t->migrate_size, config->migrate_size);
	atomic_store(&t->high, config->high);
	atomic_store(&t->low, config->low);
	atomic_store(&t->reserve_percent, config->reserve_percent);
	atomic_store(&t->reserve_bytes, config->reserve_bytes);
	atomic_store(&t->restore_after, config->restore_after);
	atomic_store(&t->dirty_entries, config->dirty_entries);
	atomic_store(&t->dirty_bytes, config->dirty_bytes);
	atomic_store(&t->restore_below, config->restore_below);
	atomic_store(&t->restore_budget, config->restore_budget);
	atomic_store(&t->nonblock_waits, config->nonblock_waits);
	tier_set_rules(tier, config->recall);
	tier_targets_patience(tier, config->recall_timeout_ns);
	if (tier->parts.limit)
		copy_limit_set(tier->parts.limit, config->bwlimit);
}
