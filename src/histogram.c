/* SPDX-License-Identifier: MIT */
/* The ages are few (a directory's files were changed in some weeks): a sorted
 * array, searched by halves. */
#include "histogram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

unsigned int histogram_size_bucket(uint64_t size)
{
	return size ? 64 - (unsigned int)__builtin_clzll(size) : 0;
}

int64_t histogram_week(int64_t mtime_ns)
{
	const int64_t week = HISTOGRAM_WEEK * NSEC_PER_SEC;
	int64_t n = mtime_ns / week;

	return mtime_ns % week < 0 ? n - 1 : n;
}

/* Where week is, or belongs. */
static size_t age_at(const struct histogram *h, int64_t week)
{
	size_t low = 0, high = h->nages;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (h->ages[mid].week < week)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct histogram_cell plus(struct histogram_cell a,
				  struct histogram_cell b, int sign)
{
	return (struct histogram_cell){.files = a.files + sign * b.files,
				       .bytes = a.bytes + sign * b.bytes};
}

static bool is_zero(struct histogram_cell cell)
{
	return !cell.files && !cell.bytes;
}

static int add_age(struct histogram *h, int64_t week,
		   struct histogram_cell cell, int sign)
{
	size_t i = age_at(h, week);
	struct histogram_age *ages;

	if (is_zero(cell))
		return 0;
	if (i < h->nages && h->ages[i].week == week) {
		h->ages[i].cell = plus(h->ages[i].cell, cell, sign);
		if (is_zero(h->ages[i].cell)) {
			h->nages--;
			memmove(h->ages + i, h->ages + i + 1,
				(h->nages - i) * sizeof(*ages));
		}
		return 0;
	}
	ages = reallocarray(h->ages, h->nages + 1, sizeof(*ages));
	if (!ages)
		return -ENOMEM;
	h->ages = ages;
	memmove(ages + i + 1, ages + i, (h->nages - i) * sizeof(*ages));
	h->nages++;
	ages[i] = (struct histogram_age){
		.week = week,
		.cell = plus((struct histogram_cell){0}, cell, sign)};
	return 0;
}

int histogram_add(struct histogram *h, enum spill_state state, uint64_t size,
		  int64_t mtime_ns, int n)
{
	struct histogram_cell cell = {.files = n, .bytes = n * (int64_t)size};
	unsigned int bucket = histogram_size_bucket(size);
	int err;

	err = add_age(h, histogram_week(mtime_ns), cell, 1);
	if (err)
		return err;
	h->states[state] = plus(h->states[state], cell, 1);
	h->sizes[bucket] = plus(h->sizes[bucket], cell, 1);
	return 0;
}

/* Merged into a new array first, so that nothing is changed without memory. */
static int sum_ages(struct histogram *a, const struct histogram *b, int sign)
{
	struct histogram_age *ages;
	size_t i = 0, j = 0, n = 0;

	if (!b->nages)
		return 0;
	ages = reallocarray(NULL, a->nages + b->nages, sizeof(*ages));
	if (!ages)
		return -ENOMEM;
	while (i < a->nages || j < b->nages) {
		struct histogram_age age = {0};

		if (j == b->nages ||
		    (i < a->nages && a->ages[i].week <= b->ages[j].week))
			age = a->ages[i++];
		else
			age.week = b->ages[j].week;
		if (j < b->nages && b->ages[j].week == age.week)
			age.cell = plus(age.cell, b->ages[j++].cell, sign);
		if (!is_zero(age.cell))
			ages[n++] = age;
	}
	free(a->ages);
	a->ages = ages;
	a->nages = n;
	return 0;
}

int histogram_sum(struct histogram *a, const struct histogram *b, int sign)
{
	int err = sum_ages(a, b, sign);

	if (err)
		return err;
	for (size_t i = 0; i < SPILL_STATES; i++)
		a->states[i] = plus(a->states[i], b->states[i], sign);
	for (size_t i = 0; i < HISTOGRAM_SIZES; i++)
		a->sizes[i] = plus(a->sizes[i], b->sizes[i], sign);
	return 0;
}

static bool cells_equal(const struct histogram_cell *a,
			const struct histogram_cell *b, size_t n)
{
	return !memcmp(a, b, n * sizeof(*a));
}

bool histogram_equal(const struct histogram *a, const struct histogram *b)
{
	if (a->nages != b->nages ||
	    !cells_equal(a->states, b->states, SPILL_STATES) ||
	    !cells_equal(a->sizes, b->sizes, HISTOGRAM_SIZES))
		return false;
	for (size_t i = 0; i < a->nages; i++)
		if (a->ages[i].week != b->ages[i].week ||
		    !cells_equal(&a->ages[i].cell, &b->ages[i].cell, 1))
			return false;
	return true;
}

bool histogram_is_empty(const struct histogram *h)
{
	static const struct histogram none;

	return histogram_equal(h, &none);
}

void histogram_free(struct histogram *h)
{
	free(h->ages);
	*h = (struct histogram){0};
}
