/* SPDX-License-Identifier: MIT */
/*
 * Files and bytes by state: counted as they change, kept in the journal lazily.
 *
 * They are for people: a crash may leave them a little behind.
 */
#include <errno.h>

#include "tier_impl.h"

#define COUNTS_KEY "counts"

void tier_count(struct tier *tier, enum spill_state from, enum spill_state to,
		uint64_t size)
{
	if (from == to)
		return;
	if (from < SPILL_STATES) {
		atomic_fetch_sub(&tier->files[from], 1);
		atomic_fetch_sub(&tier->bytes[from], (int64_t)size);
	}
	if (to < SPILL_STATES) {
		atomic_fetch_add(&tier->files[to], 1);
		atomic_fetch_add(&tier->bytes[to], (int64_t)size);
	}
	atomic_store(&tier->counts_dirty, true);
}

void tier_count_file(struct tier_file *file, enum spill_state from,
		     enum spill_state to, uint64_t size)
{
	/* Counted as gone when it lost its last name. */
	if (!(atomic_load(&file->node->flags) & NODE_UNLINKED))
		tier_count(file->tier, from, to, size);
}

void tier_count_resize(struct tier *tier, enum spill_state state, int64_t delta)
{
	if (!delta)
		return;
	atomic_fetch_add(&tier->bytes[state], delta);
	atomic_store(&tier->counts_dirty, true);
}

void tier_counts(struct tier *tier, struct tier_counts *ret)
{
	for (int i = 0; i < SPILL_STATES; i++) {
		ret->files[i] = atomic_load(&tier->files[i]);
		ret->bytes[i] = atomic_load(&tier->bytes[i]);
	}
}

int tier_load_counts(struct tier *tier)
{
	struct tier_counts counts;
	int ret;

	ret = journal_get(tier->parts.journal, COUNTS_KEY, &counts,
			  sizeof(counts));
	if (ret == -ENOENT)
		return 0;
	if (ret < 0)
		return ret;
	if (ret != sizeof(counts))
		return -EBADMSG;
	for (int i = 0; i < SPILL_STATES; i++) {
		atomic_store(&tier->files[i], counts.files[i]);
		atomic_store(&tier->bytes[i], counts.bytes[i]);
	}
	return 0;
}

void tier_save_counts(struct tier *tier)
{
	struct tier_counts counts;

	if (!atomic_exchange(&tier->counts_dirty, false))
		return;
	tier_counts(tier, &counts);
	journal_put(tier->parts.journal, COUNTS_KEY, &counts, sizeof(counts));
}
