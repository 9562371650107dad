/* SPDX-License-Identifier: MIT */
/* What can be changed while the tier is in use. */
#include "tier_impl.h"

const struct tier_tunables *tier_tunables(struct tier *tier)
{
	return &tier->tunables;
}

void tier_retune(struct tier *tier, const struct config *config)
{
	struct tier_tunables *t = &tier->tunables;

	atomic_store(&t->policy_auto, config->policy_auto);
	atomic_store(&t->migrate_age_ns, config->migrate_age_ns);
	atomic_store(&t->migrate_size, config->migrate_size);
	atomic_store(&t->high, config->high);
	atomic_store(&t->low, config->low);
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
