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
 *   ARMED     the completion, the interrupt, the timer or the end may take it
 *   TAKEN     the timer or the end is at work; the completion only leaves a
 *             note (DONE), as the request is needed until it is disarmed
 *   DONE      the completion has it (or, from ARMING, the starter; from TAKEN,
 *             who took it)
 *   GIVEN_UP  the client has its answer; the completion only frees
 *
 * Before a reply the interrupt is disarmed, which waits for one that runs; so
 * not under fs->lock, which that one takes.
 *
 * The timer (recall_timeout) is a thread that is there only where there is a
 * timeout. It is the same for all, so the oldest request is the next: the list
 * is in the order of their beginning, which a request that parks again keeps.
 * Those given up are on a list of their own, or a dead target's would all be
 * looked at each time.
 */

#include "fs_impl.h"

#include <errno.h>

#include "log.h"

#define RETRY_NS (NSEC_PER_SEC / 20)
#define LOG_NS	 NSEC_PER_SEC

enum {
	ARMING,
	INTR,
	ARMED,
	TAKEN,
	DONE,
	GIVEN_UP,
};

static bool change(struct fs_park *park, int from, int to)
{
	return atomic_compare_exchange_strong(&park->state, &from, to);
}

static bool none_parked(struct fs *fs)
{
	return cds_list_empty(&fs->parked) && cds_list_empty(&fs->given_up) &&
	       !fs->nanswering;
}

static void park_link(struct fs_park *park)
{
	struct fs *fs = park->fs;
	struct cds_list_head *at;

	pthread_mutex_lock(&fs->lock);
	for (at = fs->parked.prev; at != &fs->parked; at = at->prev)
		if (cds_list_entry(at, struct fs_park, link)->since <=
		    park->since)
			break;
	cds_list_add(&park->link, at);
	if (fs->recall_timeout && at == &fs->parked)
		pthread_cond_signal(&fs->timer_cond);
	pthread_mutex_unlock(&fs->lock);
}

static void park_unlink(struct fs_park *park)
{
	struct fs *fs = park->fs;

	pthread_mutex_lock(&fs->lock);
	cds_list_del(&park->link);
	if (none_parked(fs))
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
	if (!park->since)
		park->since = monotonic_ns();
	atomic_store(&park->state, ARMING);
}

/* The one who goes on: nobody else looks at it any more. The end waits for it
 * still, as the reply is to come. */
static enum fs_park_next go_on(struct fs_park *park)
{
	struct fs *fs = park->fs;

	fuse_req_interrupt_func(park->req, NULL, NULL);
	pthread_mutex_lock(&fs->lock);
	cds_list_del(&park->link);
	fs->nanswering++;
	pthread_mutex_unlock(&fs->lock);
	return PARK_GO;
}

void fs_park_answered(struct fs *fs, unsigned int n)
{
	if (!n)
		return;
	pthread_mutex_lock(&fs->lock);
	fs->nanswering -= n;
	if (!fs->nanswering)
		pthread_cond_broadcast(&fs->idle);
	pthread_mutex_unlock(&fs->lock);
}

enum fs_park_next fs_park_arm(struct fs_park *park)
{
	fuse_req_t req = park->req;
	bool mine;

	park_link(park);
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
	if (change(park, TAKEN, DONE))
		return PARK_LEAVE;
	park_unlink(park);
	return PARK_FREE;
}

/* ---- taking them from outside ---------------------------------------------- */

/* Takes one that is parked, for answer(). fs->lock held. */
static bool take(struct fs_park *park)
{
	if (!park->cancel) {
		if (!change(park, ARMED, TAKEN))
			return false;
	} else if (atomic_load(&park->state) != ARMED || !park->cancel(park)) {
		return false;
	}
	cds_list_move(&park->link, &park->fs->given_up);
	return true;
}

/* Answers one that was taken; what completes later frees it, or we. */
static void answer(struct fs_park *park, int err)
{
	fuse_req_t req = park->req;

	fuse_req_interrupt_func(req, NULL, NULL);
	if (park->cancel || !change(park, TAKEN, GIVEN_UP)) {
		park_unlink(park);
		park->free(park);
	}
	fuse_reply_err(req, err);
}

/* Takes the next that is parked; fs->lock held. */
static struct fs_park *take_any(struct fs *fs)
{
	struct fs_park *park, *next;

	cds_list_for_each_entry_safe (park, next, &fs->parked, link) {
		if (take(park))
			return park;
		if (atomic_load(&park->state) == GIVEN_UP)
			cds_list_move(&park->link, &fs->given_up);
	}
	return NULL;
}

/* Waits until something left, or for a moment. fs->lock held. */
static void await_idle(struct fs *fs)
{
	struct timespec at = timespec_from_ns(realtime_ns() + RETRY_NS);

	pthread_cond_timedwait(&fs->idle, &fs->lock, &at);
}

/* Answers all: what is left of them only waits to be freed. */
static void answer_all(struct fs *fs)
{
	struct fs_park *taken;

	pthread_mutex_lock(&fs->lock);
	for (;;) {
		taken = take_any(fs);
		if (taken) {
			pthread_mutex_unlock(&fs->lock);
			answer(taken, EINTR);
			pthread_mutex_lock(&fs->lock);
		} else if (cds_list_empty(&fs->parked) && !fs->nanswering) {
			break;
		} else {
			/* Not armed yet, or its completion is on the way. */
			await_idle(fs);
		}
	}
	pthread_mutex_unlock(&fs->lock);
}

/* ---- the timer -------------------------------------------------------------- */

/* Takes one that waited too long; else NULL, and when to look again (ns from
 * now, INT64_MAX: when something is parked). fs->lock held. */
static struct fs_park *take_overdue(struct fs *fs, int64_t *ret_wait)
{
	struct fs_park *park, *next;
	int64_t now = monotonic_ns(), left;

	*ret_wait = INT64_MAX;
	if (!fs->recall_timeout)
		return NULL;
	cds_list_for_each_entry_safe (park, next, &fs->parked, link) {
		left = (int64_t)fs->recall_timeout - (now - park->since);
		if (left > 0) {
			*ret_wait = min_t(int64_t, left, *ret_wait);
			break;
		}
		if (take(park))
			return park;
		if (atomic_load(&park->state) == GIVEN_UP)
			cds_list_move(&park->link, &fs->given_up);
		else
			*ret_wait = RETRY_NS; /* somebody has it just now */
	}
	return NULL;
}

/* Says which file and target. One line a second: a dead target has many. */
static void log_overdue(struct fs_park *park)
{
	struct fs *fs = park->fs;
	struct tier_file_status status;
	struct target *target = NULL;
	int64_t now = monotonic_ns();
	char path[256];

	if (fs->timer_logged && now - fs->timer_logged < LOG_NS) {
		fs->timer_unsaid++;
		return;
	}
	if (!tier_file_status(fs->parts.tier, park->node, &status) &&
	    status.ncopies)
		target = tier_target(fs->parts.tier, status.copies[0].target);
	log_warn("%s: target %s did not answer within recall_timeout",
		 node_path(park->node, path, sizeof(path)),
		 target ? target_name(target) : "(unknown)");
	if (fs->timer_unsaid)
		log_warn("and so for %u requests before", fs->timer_unsaid);
	fs->timer_logged = now;
	fs->timer_unsaid = 0;
}

static void *timer_thread(void *arg)
{
	struct fs *fs = arg;

	pthread_mutex_lock(&fs->lock);
	while (!fs->timer_stop) {
		int64_t wait;
		struct fs_park *park = take_overdue(fs, &wait);

		if (park) {
			pthread_mutex_unlock(&fs->lock);
			log_overdue(park);
			answer(park, EIO);
			pthread_mutex_lock(&fs->lock);
		} else if (wait == INT64_MAX) {
			pthread_cond_wait(&fs->timer_cond, &fs->lock);
		} else {
			struct timespec at =
				timespec_from_ns(monotonic_ns() + wait);

			pthread_cond_timedwait(&fs->timer_cond, &fs->lock, &at);
		}
	}
	pthread_mutex_unlock(&fs->lock);
	return NULL;
}

int fs_park_timeout(struct fs *fs, uint64_t ns)
{
	int err = 0;

	pthread_mutex_lock(&fs->lock);
	if (ns && !fs->timer_runs && !fs->timer_stop) {
		err = thread_start(&fs->timer, "recall-timeout", timer_thread,
				   fs);
		fs->timer_runs = !err;
	}
	if (!err) {
		fs->recall_timeout = ns;
		pthread_cond_signal(&fs->timer_cond);
	}
	pthread_mutex_unlock(&fs->lock);
	return err;
}

void fs_park_init(struct fs *fs)
{
	pthread_condattr_t attr;

	pthread_cond_init(&fs->idle, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&fs->timer_cond, &attr);
	pthread_condattr_destroy(&attr);
	CDS_INIT_LIST_HEAD(&fs->parked);
	CDS_INIT_LIST_HEAD(&fs->given_up);
}

void fs_park_answer(struct fs *fs)
{
	bool runs;

	pthread_mutex_lock(&fs->lock);
	fs->timer_stop = true;
	runs = fs->timer_runs;
	pthread_cond_signal(&fs->timer_cond);
	pthread_mutex_unlock(&fs->lock);
	if (runs)
		pthread_join(fs->timer, NULL);
	answer_all(fs);
}

void fs_park_end(struct fs *fs)
{
	pthread_mutex_lock(&fs->lock);
	while (!none_parked(fs))
		await_idle(fs);
	pthread_mutex_unlock(&fs->lock);
	pthread_cond_destroy(&fs->timer_cond);
	pthread_cond_destroy(&fs->idle);
}
