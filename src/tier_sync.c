/* SPDX-License-Identifier: MIT */
/*
 * When intents may go: after a sync of the front that began when their steps were
 * done. They wait in a list until somebody syncs, for whatever reason.
 *
 * CREATE, WRITE and APPLY have recovery delete an object that their inode does not
 * name. While one is in the journal, a restore must not swap that inode for another:
 * after a crash recovery would find the old stub, which names no object any more,
 * and delete the one that the new file names. So a swap begins only if no such
 * intent of its object is listed, or after a tier_sync(). That needs two things:
 *
 *   an intent is listed until the journal has been told: the commit of the
 *   restore's intent, asked for later, then has it gone as well;
 *
 *   syncs come one after another: whoever returns knows that also what others
 *   had begun to report has been reported.
 *
 * It happens that a stub has such an intent: its file was open for writing but
 * was not changed, and a release syncs that file alone; or a swap after which the
 * object had no file was cancelled; or a crash came then.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "fault.h"
#include "tier_impl.h"
#include "util.h"

void tier_kept_after_sync(struct tier *tier, uint64_t intent, uint64_t oid)
{
	if (!intent)
		return;
	pthread_mutex_lock(&tier->stale_lock);
	if (tier->n_unsynced == tier->cap_unsynced) {
		size_t cap = tier->cap_unsynced ? 2 * tier->cap_unsynced : 64;
		struct tier_unsynced *grown =
			reallocarray(tier->unsynced, cap, sizeof(*grown));

		/* Forgotten, the intent is found done by the next recovery. But
		 * a swap would not know of it: stopping loses nothing. */
		if (!grown && oid)
			abort();
		if (!grown)
			goto out;
		tier->unsynced = grown;
		tier->cap_unsynced = cap;
	}
	tier->unsynced[tier->n_unsynced++] =
		(struct tier_unsynced){.intent = intent, .oid = oid};
out:
	pthread_mutex_unlock(&tier->stale_lock);
}

void tier_done_after_sync(struct tier *tier, uint64_t intent)
{
	tier_kept_after_sync(tier, intent, 0);
}

bool tier_must_sync(struct tier *tier, uint64_t oid)
{
	bool found = false;

	pthread_mutex_lock(&tier->stale_lock);
	for (size_t i = 0; i < tier->n_unsynced && !found; i++)
		found = tier->unsynced[i].oid == oid;
	pthread_mutex_unlock(&tier->stale_lock);
	return found;
}

/* The first n, which stay listed until they are reported. */
static void report_synced(struct tier *tier, size_t n)
{
	_cleanup_free_ uint64_t *ids = calloc(n, sizeof(*ids));

	if (!ids)
		return; /* with the next sync */
	pthread_mutex_lock(&tier->stale_lock);
	for (size_t i = 0; i < n; i++)
		ids[i] = tier->unsynced[i].intent;
	pthread_mutex_unlock(&tier->stale_lock);
	journal_done(tier->parts.journal, ids, n);
	pthread_mutex_lock(&tier->stale_lock);
	tier->n_unsynced -= n;
	memmove(tier->unsynced, tier->unsynced + n,
		tier->n_unsynced * sizeof(*tier->unsynced));
	pthread_mutex_unlock(&tier->stale_lock);
}

static int sync_locked(struct tier *tier)
{
	size_t n;
	int err;

	pthread_mutex_lock(&tier->stale_lock);
	n = tier->n_unsynced;
	pthread_mutex_unlock(&tier->stale_lock);

	err = sync_fs(tier->parts.front->root_fd);
	if (err)
		return err;
	fault_point("sync-synced");
	if (n)
		report_synced(tier, n);
	return 0;
}

int tier_sync(struct tier *tier)
{
	int ret;

	pthread_mutex_lock(&tier->sync_lock);
	ret = sync_locked(tier);
	pthread_mutex_unlock(&tier->sync_lock);
	return ret;
}
