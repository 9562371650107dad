/* SPDX-License-Identifier: MIT */
/*
 * Deleting objects: late, in batches, and never before it is safe.
 *
 * Something names each object to be deleted until it is: an intent in the
 * journal, or a file in .tierfs/orphans. A job takes all that has gathered,
 * syncs the front once (so that no durable EA or name leads to the objects any
 * more), deletes them, syncs the targets, and only then removes what named them:
 * else a power cut could bring back an object that nothing names. A crash anywhere
 * leaves the intent or the orphan, and deleting what is gone already is no
 * error.
 *
 * Each target has a queue and a job of its own, for a job may hang there. One
 * that is offline, stalled or read-only keeps its share, and costs nothing; one
 * that fails is tried again after a time that doubles, or once it is well.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "log.h"
#include "tier_impl.h"
#include "util.h"

#define RETRY_MIN_NS NSEC_PER_SEC
#define RETRY_MAX_NS (300 * NSEC_PER_SEC)
#define FAILURES_MAX 8

struct delete_job {
	struct mover_job job;
	struct tier *tier;
	unsigned int queue; /* 0: of no target; else its number + 1 */
};

static void unlink_number(int dirfd, uint64_t number)
{
	char name[24];

	if (!number)
		return;
	snprintf(name, sizeof(name), "%" PRIu64, number);
	unlinkat(dirfd, name, 0);
}

/* True when there is no object (any more); the target is to be synced. */
static bool delete_object(struct tier *tier, const struct tier_stale *stale)
{
	struct target *target = tier_target(tier, stale->target);

	if (!stale->object)
		return true;
	if (!target || !target_online(target, NULL, 0) ||
	    target_delete(target, stale->oid))
		return false;
	fault_point("delete-object");
	return true;
}

/* Removes what named it. */
static void forget(struct tier *tier, struct tier_stale *stale)
{
	unlink_number(tier->parts.front->inodes_fd, stale->holder);
	fault_point("delete-holder");
	unlink_number(tier->parts.front->orphans_fd, stale->orphan);
	fault_point("delete-orphan");
	if (stale->intent)
		journal_done(tier->parts.journal, &stale->intent, 1);
	fault_point("delete-done");
	free(stale);
}

static unsigned int queue_of(const struct tier_stale *stale)
{
	return stale->object ? stale->target + 1u : 0;
}

/* What is left over goes back, for later. */
static void put_back(struct tier *tier, struct tier_stale_queue *queue,
		     struct cds_list_head *list)
{
	bool failed = !cds_list_empty(list);
	struct tier_stale *stale;

	pthread_mutex_lock(&tier->stale_lock);
	cds_list_for_each_entry (stale, list, link)
		queue->n++;
	cds_list_splice(list, &queue->list);
	queue->queued = false;
	queue->failed_ns = !failed ? 0
				   : min_t(int64_t, RETRY_MAX_NS,
					   max_t(int64_t, RETRY_MIN_NS,
						 2 * queue->failed_ns));
	queue->retry_at = failed ? monotonic_ns() + queue->failed_ns : 0;
	pthread_mutex_unlock(&tier->stale_lock);
}

static void delete_run(struct mover_job *job)
{
	struct delete_job *dj = container_of(job, struct delete_job, job);
	struct tier *tier = dj->tier;
	struct tier_stale_queue *queue = &tier->stale[dj->queue];
	struct tier_stale *stale, *next;
	CDS_LIST_HEAD(list);
	CDS_LIST_HEAD(deleted);
	CDS_LIST_HEAD(failed);
	unsigned int failures = 0;
	bool give_up;

	pthread_mutex_lock(&tier->stale_lock);
	cds_list_splice(&queue->list, &list);
	CDS_INIT_LIST_HEAD(&queue->list);
	queue->n = 0;
	pthread_mutex_unlock(&tier->stale_lock);

	give_up = atomic_load(&job->ctl.cancelled) || tier_sync(tier);
	cds_list_for_each_entry_safe (stale, next, &list, link) {
		/* What fails for some will fail for all. */
		if (give_up || failures == FAILURES_MAX)
			break;
		cds_list_del(&stale->link);
		if (delete_object(tier, stale)) {
			cds_list_add_tail(&stale->link, &deleted);
		} else {
			cds_list_add_tail(&stale->link, &failed);
			failures++;
		}
	}
	/* The others' turn is before theirs. */
	if (!cds_list_empty(&failed))
		cds_list_splice(&failed, list.prev);
	/* Until that is durable it goes with what is left. */
	if (dj->queue && !cds_list_empty(&deleted) &&
	    target_sync(tier_target(tier, dj->queue - 1))) {
		cds_list_splice(&deleted, &list);
		CDS_INIT_LIST_HEAD(&deleted);
	}
	fault_point("delete-synced");
	cds_list_for_each_entry_safe (stale, next, &deleted, link)
		forget(tier, stale);
	put_back(tier, queue, &list);
}

static void delete_free(struct mover_job *job)
{
	free(job->path);
	free(container_of(job, struct delete_job, job));
}

/* Can anything be deleted there now? */
static bool target_ready(struct tier *tier, unsigned int number)
{
	struct target *target = tier_target(tier, (uint8_t)number);

	return target && target_condition(target, NULL, 0) > TARGET_READONLY;
}

static void kick(struct tier *tier, unsigned int number)
{
	struct tier_stale_queue *queue = &tier->stale[number];
	struct target *target = NULL;
	struct delete_job *dj;
	bool go;

	pthread_mutex_lock(&tier->stale_lock);
	go = !queue->queued && monotonic_ns() >= queue->retry_at &&
	     (!cds_list_empty(&queue->list) ||
	      (number == 0 && tier->n_unsynced));
	pthread_mutex_unlock(&tier->stale_lock);
	if (!go || (number && !target_ready(tier, number - 1)))
		return;
	dj = calloc(1, sizeof(*dj));
	if (!dj)
		return;
	dj->tier = tier;
	dj->queue = number;
	dj->job.refs = 1;
	dj->job.op = "delete";
	dj->job.prio = MOVER_IDLE;
	dj->job.lane = number;
	dj->job.run = delete_run;
	dj->job.free = delete_free;
	if (number)
		target = tier_target(tier, (uint8_t)(number - 1));
	if (target)
		snprintf(dj->job.target, sizeof(dj->job.target), "%s",
			 target_name(target));
	/* The waker alone comes here. */
	pthread_mutex_lock(&tier->stale_lock);
	queue->queued = true;
	pthread_mutex_unlock(&tier->stale_lock);
	if (!mover_submit(tier->parts.mover, &dj->job, NULL))
		return;
	free(dj);
	pthread_mutex_lock(&tier->stale_lock);
	queue->queued = false;
	pthread_mutex_unlock(&tier->stale_lock);
}

void tier_stale_kick(struct tier *tier)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(tier->stale); i++)
		kick(tier, i);
}

void tier_stale_retry(struct tier *tier, unsigned int target)
{
	pthread_mutex_lock(&tier->stale_lock);
	tier->stale[target + 1].retry_at = 0;
	tier->stale[target + 1].failed_ns = 0;
	pthread_mutex_unlock(&tier->stale_lock);
}

size_t tier_stale_count(struct tier *tier, uint8_t target, int64_t *ret_retry)
{
	struct tier_stale_queue *queue = &tier->stale[target + 1u];
	int64_t left;
	size_t n;

	pthread_mutex_lock(&tier->stale_lock);
	n = queue->n;
	left = queue->retry_at ? queue->retry_at - monotonic_ns() : 0;
	pthread_mutex_unlock(&tier->stale_lock);
	*ret_retry = max_t(int64_t, left, 0);
	return n;
}

void tier_stale_add(struct tier *tier, const struct tier_stale *stale)
{
	struct tier_stale_queue *queue = &tier->stale[queue_of(stale)];
	struct tier_stale *copy = malloc(sizeof(*copy));

	/* Forgotten, it is found by the next mount: intent or orphan is there. */
	if (!copy)
		return;
	*copy = *stale;
	pthread_mutex_lock(&tier->stale_lock);
	cds_list_add_tail(&copy->link, &queue->list);
	queue->n++;
	pthread_mutex_unlock(&tier->stale_lock);
}

void tier_stale_file(struct tier *tier, const struct spill_ea *ea,
		     uint64_t intent, uint64_t orphan)
{
	struct tier_stale stale = {0};

	for (unsigned int i = 0; i < ea->ncopies; i++) {
		stale = (struct tier_stale){.target = ea->copies[i].target,
					    .object = true,
					    .oid = ea->copies[i].oid};
		/* With the last one goes what names them all. */
		if (i + 1 < ea->ncopies)
			tier_stale_add(tier, &stale);
	}
	stale.intent = intent;
	stale.orphan = orphan;
	if (orphan && ea->flags & TIERFS_EA_F_INO)
		stale.holder = ea->ino;
	if (stale.object || stale.intent || stale.orphan)
		tier_stale_add(tier, &stale);
}

static int recover_orphan(struct tier *tier, const char *name)
{
	struct front *front = tier->parts.front;
	int dirfd = front->orphans_fd;
	_cleanup_close_ int fd = -1;
	struct spill_ea ea = {0};
	char holder[24];
	struct stat st;
	int ret;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (st.st_nlink > 1) {
		/* The rename over it did not happen. */
		unlinkat(dirfd, name, 0);
		fault_point("recover-orphan");
		return 0;
	}
	ret = front_ea_get_at(front, dirfd, name, &ea);
	if (ret && ret != -ENODATA) {
		log_warn(".tierfs/orphans/%s: %s; left alone", name,
			 tier_ea_why(ret));
		return 0;
	}
	/* The holder went before the orphan, and then the daemon. The number
	 * may soon be a new file's, and have a holder again: not ours. */
	snprintf(holder, sizeof(holder), "%" PRIu64, ea.ino);
	if (ea.flags & TIERFS_EA_F_INO &&
	    faccessat(front->inodes_fd, holder, F_OK, AT_SYMLINK_NOFOLLOW) <
		    0) {
		ea.flags &= ~TIERFS_EA_F_INO;
		fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || front_ea_set(front, fd, &ea))
			return -EIO;
	}
	tier_stale_file(tier, &ea, 0, strtoull(name, NULL, 10));
	return 0;
}

int tier_stale_recover(struct tier *tier)
{
	struct dirent *entry;
	DIR *dir;
	int fd;

	fd = openat(tier->parts.front->orphans_fd, ".",
		    O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			recover_orphan(tier, entry->d_name);
	closedir(dir);
	return 0;
}

size_t tier_stale_left(struct tier *tier, bool *ret_running)
{
	size_t n = 0;

	*ret_running = false;
	pthread_mutex_lock(&tier->stale_lock);
	for (unsigned int i = 0; i < ARRAY_SIZE(tier->stale); i++) {
		n += tier->stale[i].n + tier->stale[i].queued;
		*ret_running |= tier->stale[i].queued;
	}
	pthread_mutex_unlock(&tier->stale_lock);
	return n;
}

void tier_stale_init(struct tier *tier)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(tier->stale); i++)
		CDS_INIT_LIST_HEAD(&tier->stale[i].list);
}

void tier_stale_free(struct tier *tier)
{
	struct tier_stale *stale, *next;

	for (unsigned int i = 0; i < ARRAY_SIZE(tier->stale); i++) {
		cds_list_for_each_entry_safe (stale, next, &tier->stale[i].list,
					      link)
			free(stale);
		CDS_INIT_LIST_HEAD(&tier->stale[i].list);
	}
}
