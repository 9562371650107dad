/* SPDX-License-Identifier: MIT */
#include "budget.h"

#include <string.h>

#include "util.h"

#define HOUR_NS (3600 * NSEC_PER_SEC)

static uint64_t *slot(struct budget *budget, int64_t hour)
{
	return &budget->bytes[hour % BUDGET_HOURS];
}

static uint64_t sum(const struct budget *budget)
{
	uint64_t ret = 0;

	for (int i = 0; i < BUDGET_HOURS; i++)
		ret += budget->bytes[i];
	return ret;
}

static void go_to(struct budget *budget, int64_t now)
{
	int64_t hour = now > 0 ? now / HOUR_NS : 0;

	if (budget->hour - hour > BUDGET_HOURS) {
		uint64_t all = sum(budget);

		memset(budget->bytes, 0, sizeof(budget->bytes));
		budget->hour = hour;
		*slot(budget, hour) = all;
	}
	if (hour - budget->hour > BUDGET_HOURS)
		budget->hour = hour - BUDGET_HOURS;
	while (budget->hour < hour)
		*slot(budget, ++budget->hour) = 0;
}

uint64_t budget_used(struct budget *budget, int64_t now)
{
	go_to(budget, now);
	return sum(budget);
}

bool budget_take(struct budget *budget, uint64_t limit, uint64_t bytes,
		 int64_t now)
{
	uint64_t used = budget_used(budget, now);

	if (used > limit || bytes > limit - used)
		return false;
	*slot(budget, budget->hour) += bytes;
	return true;
}

void budget_give(struct budget *budget, uint64_t bytes, int64_t now)
{
	go_to(budget, now);
	for (int64_t i = 0; bytes && i < BUDGET_HOURS; i++) {
		uint64_t *at = slot(budget, budget->hour + BUDGET_HOURS - i);
		uint64_t part = min_t(uint64_t, *at, bytes);

		*at -= part;
		bytes -= part;
	}
}
