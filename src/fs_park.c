/* SPDX-License-Identifier: MIT */

/*
 * Requests that wait, and can be interrupted.
 *
 * Three may want to end one: its starter (what it waits for came at once), the
 * completion on another thread, and the interrupt, which libfuse delivers with
 * the request's own mutex held, perhaps from within fuse_req_interrupt_func(),
 * where replying would free the request under libfuse's feet. The state
 * decides:
 *
 *   ARMING    the starter is at work; others only leave a note (DONE, INTR)
 *   ARMED     the completion or the interrupt may take it
 *   DONE      the completion has it (or, from ARMING, the starter)
 *   GIVEN_UP  the client was told EINTR; the completion only frees
 *
 * Before a reply the interrupt is disarmed, which waits for one that runs.
 */

#include "fs_impl.h"

#include <errno.h>

enum {
	ARMING,
	INTR,
	ARMED,
	DONE,
	GIVEN_UP,
};

static bool change(struct fs_park *park, int from, int to)
{
	return atomic_compare_exchange_strong(&park->state, &from, to);
}

static void park_unlink(struct fs_park *park)
{
	struct fs *fs = park->fs;

	pthread_mutex_lock(&fs->lock);
	cds_list_del(&park->link);
	if (cds_list_empty(&fs->parked))
		pthread_cond_broadcast(&fs->idle);
	pthread_mutex_unlock(&fs->lock);
}

/* Takes it from the completion: true, and the reply is the caller's. */
static bool take_back(struct fs_park *park, int state, bool *ret_free)
{
	*ret_free = park->cancel != NULL;
	if (park->cancel)
		return park->cancel(park);
	return change(park, state, GIVEN_UP);
}

static void interrupted(fuse_req_t req, void *data)
{
	struct fs_park *park = data;
	bool mine;

	if (change(park, ARMING, INTR))
		return;
	if (atomic_load(&park->state) != ARMED ||
	    !take_back(park, ARMED, &mine))
		return;
	if (mine) {
		park_unlink(park);
		park->free(park);
	}
	fuse_reply_err(req, EINTR);
}

void fs_park_begin(struct fs_park *park)
{
	atomic_store(&park->state, ARMING);
}

/* The one who goes on: nobody else looks at it any more. */
static enum fs_park_next go_on(struct fs_park *park)
{
	fuse_req_interrupt_func(park->req, NULL, NULL);
	park_unlink(park);
	return PARK_GO;
}

enum fs_park_next fs_park_arm(struct fs_park *park)
{
	fuse_req_t req = park->req;
	bool mine;

	pthread_mutex_lock(&park->fs->lock);
	cds_list_add_tail(&park->link, &park->fs->parked);
	pthread_mutex_unlock(&park->fs->lock);
	fuse_req_interrupt_func(req, interrupted, park);
	if (change(park, ARMING, ARMED))
		return PARK_LEAVE;
	if (atomic_load(&park->state) == INTR) {
		if (take_back(park, INTR, &mine)) {
			fuse_req_interrupt_func(req, NULL, NULL);
			if (mine) {
				park_unlink(park);
				park->free(park);
			}
			fuse_reply_err(req, EINTR);
			return PARK_LEAVE;
		}
		if (change(park, INTR, ARMED))
			return PARK_LEAVE;
	}
	return go_on(park);
}

enum fs_park_next fs_park_done(struct fs_park *park)
{
	/* In the order in which the others change it: none is missed. */
	if (change(park, ARMING, DONE) || change(park, INTR, DONE))
		return PARK_LEAVE;
	if (change(park, ARMED, DONE))
		return go_on(park);
	park_unlink(park);
	return PARK_FREE;
}

/* Takes one back that can be; its request to answer, or NULL. */
static fuse_req_t drain_one(struct fs *fs, struct fs_park **ret_free)
{
	struct fs_park *park;
	bool mine;

	cds_list_for_each_entry (park, &fs->parked, link) {
		fuse_req_t req = park->req;

		if (atomic_load(&park->state) != ARMED ||
		    !take_back(park, ARMED, &mine))
			continue;
		if (mine) {
			cds_list_del(&park->link);
			*ret_free = park;
		}
		return req;
	}
	return NULL;
}

void fs_park_drain(struct fs *fs)
{
	bool empty = false;

	while (!empty) {
		struct fs_park *to_free = NULL;
		fuse_req_t req;

		pthread_mutex_lock(&fs->lock);
		req = drain_one(fs, &to_free);
		empty = cds_list_empty(&fs->parked);
		if (!req && !empty) {
			struct timespec at;

			/* Not armed yet, or its completion is on the way. */
			at = timespec_from_ns(realtime_ns() +
					      NSEC_PER_SEC / 20);
			pthread_cond_timedwait(&fs->idle, &fs->lock, &at);
		}
		pthread_mutex_unlock(&fs->lock);
		if (req) {
			fuse_req_interrupt_func(req, NULL, NULL);
			fuse_reply_err(req, EINTR);
		}
		if (to_free)
			to_free->free(to_free);
	}
}
