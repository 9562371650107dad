/* SPDX-License-Identifier: MIT */
/*
 * What is known of a target's health, without asking it.
 *
 * Those who use it leave notes: what failed, what did not fit, and each call
 * that may block from its beginning to its end. The condition is computed from
 * these when somebody wants to know, so asking never touches the medium, and
 * a target that hangs is seen to hang by who does not hang with it.
 *
 * The notes age. A failure counts for a while. A target stays full until there
 * is more room than when something did not fit: not until something smaller
 * fits, or it would be full and not full in turns. (Where a quota is the limit
 * the room cannot be seen; there time decides.)
 */
#include "target_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "util.h"

#define PATIENCE_NS  (20 * NSEC_PER_SEC)
#define FAILING_NS   (30 * NSEC_PER_SEC)
#define QUOTA_NS     (60 * NSEC_PER_SEC)
#define MORE_ROOM    (1U << 20)
#define MORE_ROOM_OF 256 /* ... or the 256th part of it */

bool target_is_medium_error(int err)
{
	switch (err) {
	case -EIO:
	case -ENODEV:
	case -ENXIO:
	case -ENOMEDIUM:
	case -ESHUTDOWN:
	case -EREMOTEIO:
	case -ETIMEDOUT:
	case -ESTALE:
	case -ENOTCONN:
	case -EROFS:
	case -EUCLEAN:
	case -EBADMSG:
		return true;
	default:
		return false;
	}
}

static bool device_gone(int err)
{
	return err == -ENODEV || err == -ENXIO || err == -ENOMEDIUM ||
	       err == -ESHUTDOWN || err == -ENOTCONN;
}

void target_watch_init(struct target *target)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&target->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&target->opened, &attr);
	pthread_condattr_destroy(&attr);
	CDS_INIT_LIST_HEAD(&target->calls);
}

void target_set_patience(struct target *target, uint64_t ns)
{
	atomic_store(&target->patience,
		     ns ? (int64_t)min_t(uint64_t, ns, PATIENCE_NS)
			: PATIENCE_NS);
}

void target_set_offline(struct target *target, const char *why)
{
	pthread_mutex_lock(&target->lock);
	snprintf(target->why, sizeof(target->why), "%s", why);
	pthread_mutex_unlock(&target->lock);
	atomic_store(&target->online, false);
}

/* ---- notes --------------------------------------------------------------- */

void target_failed(struct target *target, const char *what, int err)
{
	char text[TARGET_WHY_LEN];

	assert(err < 0);
	snprintf(text, sizeof(text), "%s: %s", what, strerrordesc_np(-err));
	pthread_mutex_lock(&target->lock);
	memcpy(target->failure, text, sizeof(text));
	target->failed_at = realtime_ns();
	target->failed_mono = monotonic_ns();
	pthread_mutex_unlock(&target->lock);
	atomic_store(&target->suspect, true);
	if (device_gone(err))
		target_set_offline(target, text);
}

void target_forget_failures(struct target *target)
{
	atomic_store(&target->suspect, false);
	pthread_mutex_lock(&target->lock);
	target->failed_mono = 0;
	pthread_mutex_unlock(&target->lock);
}

void target_failure(struct target *target, char *what, size_t len)
{
	pthread_mutex_lock(&target->lock);
	if (len > 0)
		what[0] = '\0';
	if (target->failed_at) {
		time_t sec = target->failed_at / NSEC_PER_SEC;
		struct tm tm;
		char when[32];

		localtime_r(&sec, &tm);
		strftime(when, sizeof(when), "%F %T", &tm);
		snprintf(what, len, "%s %s", when, target->failure);
	}
	pthread_mutex_unlock(&target->lock);
}

static uint64_t free_bytes(const struct target_usage *usage)
{
	return usage->bytes > usage->used ? usage->bytes - usage->used : 0;
}

static void did_not_fit(struct target *target, int err)
{
	pthread_mutex_lock(&target->lock);
	target->full_err = err;
	target->full_at = monotonic_ns();
	target->full_free = free_bytes(&target->usage);
	pthread_mutex_unlock(&target->lock);
}

int target_checked(struct target *target, const char *what, int ret)
{
	assert(ret <= 0 && ret > -4096);
	/* It was let go of, which gives strange errors. */
	if (ret < 0 && ret != -ECANCELED && !atomic_load(&target->online))
		return -EIO;
	if (is_no_room(ret)) {
		did_not_fit(target, ret);
	} else if (target_is_medium_error(ret)) {
		target_failed(target, what, ret);
		if (device_gone(ret))
			return -EIO;
	}
	return ret;
}

void target_usage_set(struct target *target, const struct target_usage *usage)
{
	uint64_t more = max_t(uint64_t, MORE_ROOM, usage->bytes / MORE_ROOM_OF);

	pthread_mutex_lock(&target->lock);
	/* What there was before is old, and what failed is deleted again. */
	if (monotonic_ns() - target->full_at < NSEC_PER_SEC)
		target->full_free = free_bytes(usage);
	if (target->full_err == -ENOSPC &&
	    free_bytes(usage) >= target->full_free + more)
		target->full_err = 0;
	if (target->full_err == -EDQUOT &&
	    monotonic_ns() - target->full_at > QUOTA_NS)
		target->full_err = 0;
	target->usage = *usage;
	pthread_mutex_unlock(&target->lock);
}

void target_call_begin(struct target *target, struct target_call *call)
{
	call->since = monotonic_ns();
	pthread_mutex_lock(&target->lock);
	cds_list_add_tail(&call->link, &target->calls);
	pthread_mutex_unlock(&target->lock);
}

void target_call_end(struct target *target, struct target_call *call)
{
	pthread_mutex_lock(&target->lock);
	cds_list_del(&call->link);
	pthread_mutex_unlock(&target->lock);
}

/* ---- what they say ------------------------------------------------------- */

bool target_online(struct target *target, char *why, size_t len)
{
	if (atomic_load(&target->online))
		return true;
	if (why) {
		pthread_mutex_lock(&target->lock);
		snprintf(why, len, "%s", target->why);
		pthread_mutex_unlock(&target->lock);
	}
	return false;
}

bool target_suspect(struct target *target)
{
	return atomic_load(&target->suspect);
}

unsigned int target_generation(struct target *target)
{
	return atomic_load(&target->generation);
}

void target_usage(struct target *target, struct target_usage *ret)
{
	pthread_mutex_lock(&target->lock);
	*ret = target->usage;
	pthread_mutex_unlock(&target->lock);
}

int64_t target_oldest_wait(struct target *target)
{
	struct target_call *call;
	unsigned int n;
	int64_t ret;

	ring_pending(target->ring, &n, &ret);
	pthread_mutex_lock(&target->lock);
	if (!cds_list_empty(&target->calls)) {
		call = cds_list_first_entry(&target->calls, struct target_call,
					    link);
		ret = max_t(int64_t, ret, monotonic_ns() - call->since);
	}
	pthread_mutex_unlock(&target->lock);
	return ret;
}

enum target_condition target_condition(struct target *target, char *why,
				       size_t len)
{
	enum target_condition ret = TARGET_OK;
	char text[TARGET_WHY_LEN] = "";
	int64_t waited;

	if (!target_online(target, text, sizeof(text))) {
		ret = TARGET_OFFLINE;
		goto out;
	}
	waited = target_oldest_wait(target);
	if (waited > atomic_load(&target->patience)) {
		ret = TARGET_STALLED;
		snprintf(text, sizeof(text), "no answer for %lld s",
			 (long long)(waited / NSEC_PER_SEC));
		goto out;
	}
	pthread_mutex_lock(&target->lock);
	if (target->usage.readonly) {
		ret = TARGET_READONLY;
		snprintf(text, sizeof(text), "its file system is read-only");
	} else if (target->full_err) {
		ret = TARGET_FULL;
		snprintf(text, sizeof(text), "%s",
			 strerrordesc_np(-target->full_err));
	} else if (target->failed_mono && !atomic_load(&target->suspect) &&
		   monotonic_ns() - target->failed_mono < FAILING_NS) {
		/* The probe after it may find more. */
		ret = TARGET_FAILING;
		memcpy(text, target->failure, sizeof(text));
	}
	pthread_mutex_unlock(&target->lock);
out:
	if (why)
		snprintf(why, len, "%s", text);
	return ret;
}

const char *target_condition_name(enum target_condition condition)
{
	static const char *const names[] = {
		[TARGET_OFFLINE] = "offline",	[TARGET_STALLED] = "stalled",
		[TARGET_READONLY] = "readonly", [TARGET_FULL] = "full",
		[TARGET_FAILING] = "failing",	[TARGET_OK] = "ok",
	};

	return names[condition];
}
