/* SPDX-License-Identifier: MIT */
/*
 * A trial's first success closes it; its first failure opens it again, so that
 * a trial of several files counts once: what fails while it is open is not
 * counted.
 */
#include "policy_breaker.h"

#include <stdio.h>
#include <string.h>

static unsigned int bits(uint64_t v)
{
	return (unsigned int)__builtin_popcountll(v);
}

bool breaker_result(struct policy_breaker *b, double share, bool ok,
		    const char *why, int64_t now)
{
	if (!ok)
		snprintf(b->why, sizeof(b->why), "%s", why ? why : "");
	if (b->until) {
		if (ok)
			breaker_close(b);
		if (ok || now < b->until)
			return false;
		b->pause = b->pause * 2 < BREAKER_MOST_NS ? b->pause * 2
							  : BREAKER_MOST_NS;
		b->until = now + b->pause;
		return true;
	}
	b->failed = b->failed << 1 | !ok;
	if (b->n < BREAKER_LAST)
		b->n++;
	if (b->n < BREAKER_LAST)
		b->failed &= (1ULL << b->n) - 1;
	if (b->n < BREAKER_MIN || share <= 0 ||
	    bits(b->failed) * 100 <= b->n * share)
		return false;
	b->pause = BREAKER_PAUSE_NS;
	b->until = now + b->pause;
	return true;
}

uint32_t breaker_allows(const struct policy_breaker *b, int64_t now)
{
	if (!b->until)
		return UINT32_MAX;
	return now < b->until ? 0 : BREAKER_TRIAL;
}

void breaker_close(struct policy_breaker *b)
{
	memset(b, 0, sizeof(*b));
}
