/* SPDX-License-Identifier: MIT */
/*
 * Files and bytes by state: counted as they change, kept in the journal lazily.
 *
 * A crash leaves them a little behind. So they are corrected once a mount from
 * the catalog, when it knows all files (policy_count.c), while everything runs.
 * That is also how a front with files that were never counted is counted.
 * A file, its row and its part of the counters do not change in one step; so
 * whoever changes what is counted says when it begins, before it changes the
 * front, and when it ends, after it counted and told the catalog: what makes,
 * links, renames and removes files; each use for writing, from its open to its
 * close, as its size is counted then; each move; and what comes after the last
 * close (settling).
 *
 * If as many ended as begun, nothing is between its change and its count: ended
 * is read first, both only grow, and ended is never ahead, so begun was the same
 * then. If after the catalog has taken in what it was told, and was read, begun
 * is still the same, then the counters of that moment, the front and what was
 * read are of the same files. The difference is added, not stored: what begins
 * from now on counts by adding, too, so it matters not when. With one that always
 * has a file open for writing it waits, at worst for the next mount, at which
 * nothing runs yet; but what was never counted is counted all the same, right but
 * for what is under way. Rejected: a lock around all that counts, which one that
 * waits for the front's disk would hold against all others; and looking twice
 * whether both agree, which one that hangs in between makes agree.
 */
#include <errno.h>

#include "tier_impl.h"
#include "util.h"

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

static struct tier_counts counts_of(struct tier *tier)
{
	struct tier_counts ret;

	for (int i = 0; i < SPILL_STATES; i++) {
		ret.files[i] = atomic_load(&tier->files[i]);
		ret.bytes[i] = atomic_load(&tier->bytes[i]);
	}
	return ret;
}

/* Of what was never counted some may have gone. */
void tier_counts(struct tier *tier, struct tier_counts *ret)
{
	*ret = counts_of(tier);
	for (int i = 0; i < SPILL_STATES; i++) {
		ret->files[i] = max_t(int64_t, ret->files[i], 0);
		ret->bytes[i] = max_t(int64_t, ret->bytes[i], 0);
	}
}

void tier_counting_begin(struct tier *tier)
{
	atomic_fetch_add(&tier->counting_begun, 1);
}

void tier_counting_end(struct tier *tier)
{
	atomic_fetch_add(&tier->counting_ended, 1);
}

static bool is_settled(struct tier *tier)
{
	bool ret;

	pthread_mutex_lock(&tier->adopt_lock);
	ret = !tier->adopting;
	pthread_mutex_unlock(&tier->adopt_lock);
	pthread_mutex_lock(&tier->stale_lock);
	ret = ret && cds_list_empty(&tier->unsettled);
	pthread_mutex_unlock(&tier->stale_lock);
	return ret;
}

bool tier_census(struct tier *tier, struct tier_census *ret)
{
	uint64_t ended = atomic_load(&tier->counting_ended);

	ret->begun = atomic_load(&tier->counting_begun);
	ret->quiet = ret->begun == ended && is_settled(tier);
	ret->counts = counts_of(tier);
	return ret->quiet || !tier_is_counted(tier);
}

bool tier_recount(struct tier *tier, const struct tier_census *then,
		  const struct tier_counts *right)
{
	bool exact = then->quiet &&
		     atomic_load(&tier->counting_begun) == then->begun;

	if (!exact && tier_is_counted(tier))
		return false;
	for (int i = 0; i < SPILL_STATES; i++) {
		atomic_fetch_add(&tier->files[i],
				 right->files[i] - then->counts.files[i]);
		atomic_fetch_add(&tier->bytes[i],
				 right->bytes[i] - then->counts.bytes[i]);
	}
	tier_counted(tier);
	return exact;
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
	counts = counts_of(tier);
	journal_put(tier->parts.journal, COUNTS_KEY, &counts, sizeof(counts));
}
