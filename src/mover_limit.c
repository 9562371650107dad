/* SPDX-License-Identifier: MIT */
/*
 * The bandwidth limit of the background: a bucket of tokens, kept as the time
 * at which it is full again.
 *
 * Who takes more than there is drives that time into the future and waits
 * before its next chunk, so that a chunk of any size passes. The wait is cut
 * into short naps, after each of which the limit, the cancelling and the
 * priority are looked at anew: none of these has to find and wake a sleeper.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "mover_pipe.h"
#include "util.h"

#define NAP_NS	 (20 * 1000000LL)
#define BURST_NS (100 * 1000000LL) /* what is saved up while nobody copies */

struct copy_limit {
	pthread_mutex_t lock; /* a leaf */
	uint64_t rate;	      /* bytes a second; 0: none */
	int64_t paid;	      /* monotonic ns: until here all is paid for */
};

int copy_limit_new(uint64_t bytes_per_sec, struct copy_limit **ret)
{
	struct copy_limit *limit = calloc(1, sizeof(*limit));

	if (!limit)
		return -ENOMEM;
	pthread_mutex_init(&limit->lock, NULL);
	limit->rate = bytes_per_sec;
	*ret = limit;
	return 0;
}

void copy_limit_set(struct copy_limit *limit, uint64_t bytes_per_sec)
{
	int64_t now = monotonic_ns();

	pthread_mutex_lock(&limit->lock);
	/* What is owed at the old rate need not be paid at it. */
	if (limit->paid > now && limit->rate > 0 && bytes_per_sec > 0)
		limit->paid = now + (double)(limit->paid - now) * limit->rate /
					    bytes_per_sec;
	limit->rate = bytes_per_sec;
	pthread_mutex_unlock(&limit->lock);
}

void copy_limit_free(struct copy_limit *limit)
{
	if (!limit)
		return;
	pthread_mutex_destroy(&limit->lock);
	free(limit);
}

/* How long to wait before trying again; 0: taken. */
static int64_t take(struct copy_limit *limit, uint64_t bytes)
{
	int64_t now = monotonic_ns();
	int64_t wait = 0;

	pthread_mutex_lock(&limit->lock);
	if (limit->rate > 0) {
		wait = limit->paid - now;
		if (wait <= 0) {
			if (limit->paid < now - BURST_NS)
				limit->paid = now - BURST_NS;
			limit->paid +=
				(double)bytes * NSEC_PER_SEC / limit->rate;
			wait = 0;
		}
	}
	pthread_mutex_unlock(&limit->lock);
	return wait;
}

void copy_limit_take(struct copy_limit *limit, uint64_t bytes,
		     struct copy_ctl *ctl)
{
	int64_t wait;

	while (limit && atomic_load(&ctl->idle) &&
	       !atomic_load(&ctl->cancelled) &&
	       (wait = take(limit, bytes)) > 0) {
		struct timespec ts =
			timespec_from_ns(min_t(int64_t, wait, NAP_NS));

		nanosleep(&ts, NULL);
	}
}
