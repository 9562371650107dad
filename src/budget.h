/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_BUDGET_H
#define TIERFS_BUDGET_H

/*
 * So many bytes a day: what was used in the last 24 hours and the one that runs,
 * hour by hour. So in no 24 hours it is more than the limit, and there is no
 * midnight at which it could be used twice.
 *
 * Pure; the caller has a lock. The struct is stored as it is.
 */

#include <stdbool.h>
#include <stdint.h>

#define BUDGET_HOURS 25

struct budget {
	int64_t hour;		      /* since the epoch: of the newest */
	uint64_t bytes[BUDGET_HOURS]; /* of an hour at hour % BUDGET_HOURS */
};

/* now: ns since the epoch. A clock that goes back a little stands still; one
 * that was far ahead has what was used count from now on. */
uint64_t budget_used(struct budget *budget, int64_t now);
/* Uses bytes if that is not more than limit in all. */
bool budget_take(struct budget *budget, uint64_t limit, uint64_t bytes,
		 int64_t now);
/* Of what was taken lately, so much was not used. */
void budget_give(struct budget *budget, uint64_t bytes, int64_t now);

#endif
