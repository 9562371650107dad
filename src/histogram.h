/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_HISTOGRAM_H
#define TIERFS_HISTOGRAM_H

/*
 * Files and bytes of a directory's whole subtree, by state, size and age.
 *
 * Regular files; bytes are logical; a file with several links is counted once,
 * in the directory its row calls home. Additive: a directory's histogram is the
 * sum of its files' and its directories'.
 *
 * Sizes: a bucket of its own for 0, then one for each power of two: bucket b > 0
 * holds 2^(b-1) <= size < 2^b. Ages are of the last modification, in absolute
 * weeks since the epoch (floor(mtime / 7 days)), so that a bucket never has to be
 * rewritten as time passes.
 *
 * Pure, no I/O, no locks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "spill_ea.h"

#define HISTOGRAM_SIZES 65
#define HISTOGRAM_WEEK	604800 /* s */

struct histogram_cell {
	int64_t files, bytes;
};

struct histogram_age {
	int64_t week;
	struct histogram_cell cell;
};

struct histogram {
	struct histogram_cell states[SPILL_STATES];
	struct histogram_cell sizes[HISTOGRAM_SIZES];
	struct histogram_age *ages; /* ascending, no empty ones */
	size_t nages;
};

unsigned int histogram_size_bucket(uint64_t size);
int64_t histogram_week(int64_t mtime_ns);

/* Adds n files (-1: takes one away) of that kind. -ENOMEM: nothing changed. */
int histogram_add(struct histogram *h, enum spill_state state, uint64_t size,
		  int64_t mtime_ns, int n);
/* a += sign * b. -ENOMEM: a is unchanged. */
int histogram_sum(struct histogram *a, const struct histogram *b, int sign);
bool histogram_equal(const struct histogram *a, const struct histogram *b);
bool histogram_is_empty(const struct histogram *h);
void histogram_free(struct histogram *h); /* what it holds; then it is empty */

#endif
