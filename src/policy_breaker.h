/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_POLICY_BREAKER_H
#define TIERFS_POLICY_BREAKER_H

/*
 * The circuit breaker: when too much of what was tried last has failed, nothing
 * is tried for a while, then a little; if that fails, for twice as long.
 *
 * Pure, no locks. Times are of one clock, the caller's.
 */

#include <stdbool.h>
#include <stdint.h>

#define BREAKER_LAST	 64 /* results that count */
#define BREAKER_MIN	 16 /* fewer say nothing */
#define BREAKER_PAUSE_NS (60 * 1000000000LL)
#define BREAKER_MOST_NS	 (3600 * 1000000000LL)
#define BREAKER_TRIAL	 4 /* files, after a pause */

struct policy_breaker {
	uint64_t failed; /* bit by result, the newest is the lowest */
	unsigned int n;	 /* results, BREAKER_LAST at most */
	int64_t until;	 /* 0: it is closed */
	int64_t pause;
	char why[128]; /* the last failure */
};

/* One more result; share: it opens when more per cent of the last have failed, 0:
 * never. True: it has just opened. */
bool breaker_result(struct policy_breaker *b, double share, bool ok,
		    const char *why, int64_t now);
/* How many files may be tried now, 0: none; UINT32_MAX: any. */
uint32_t breaker_allows(const struct policy_breaker *b, int64_t now);
/* By hand: closed, as if nothing had happened. */
void breaker_close(struct policy_breaker *b);

#endif
