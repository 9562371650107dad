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
 * error. A target that is offline keeps its share for later.
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

struct delete_job {
	struct mover_job job;
	struct tier *tier;
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

/* Of what was deleted, what is not durable goes back to list. */
static void sync_targets(struct tier *tier, struct cds_list_head *deleted,
			 struct cds_list_head *list)
{
	bool asked[TIERFS_TARGETS_MAX] = {false};
	int err[TIERFS_TARGETS_MAX];
	struct tier_stale *stale, *next;

	cds_list_for_each_entry_safe (stale, next, deleted, link) {
		uint8_t i = stale->target;

		if (!stale->object)
			continue;
		if (!asked[i])
			err[i] = target_sync(tier_target(tier, i));
		asked[i] = true;
		if (err[i]) {
			cds_list_del(&stale->link);
			cds_list_add(&stale->link, list);
		}
	}
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

static void delete_run(struct mover_job *job)
{
	struct tier *tier = container_of(job, struct delete_job, job)->tier;
	struct tier_stale *stale, *next;
	CDS_LIST_HEAD(list);
	CDS_LIST_HEAD(deleted);
	bool give_up;

	pthread_mutex_lock(&tier->stale_lock);
	cds_list_splice(&tier->stale, &list);
	CDS_INIT_LIST_HEAD(&tier->stale);
	pthread_mutex_unlock(&tier->stale_lock);

	give_up = atomic_load(&job->ctl.cancelled) || tier_sync(tier);
	cds_list_for_each_entry_safe (stale, next, &list, link) {
		if (!give_up && delete_object(tier, stale)) {
			cds_list_del(&stale->link);
			cds_list_add_tail(&stale->link, &deleted);
		}
	}
	sync_targets(tier, &deleted, &list);
	fault_point("delete-synced");
	cds_list_for_each_entry_safe (stale, next, &deleted, link)
		forget(tier, stale);
	pthread_mutex_lock(&tier->stale_lock);
	cds_list_splice(&list, &tier->stale);
	tier->stale_queued = false;
	pthread_mutex_unlock(&tier->stale_lock);
}

static void delete_free(struct mover_job *job)
{
	free(job->path);
	free(container_of(job, struct delete_job, job));
}

void tier_stale_kick(struct tier *tier)
{
	struct delete_job *dj;
	bool go;

	pthread_mutex_lock(&tier->stale_lock);
	go = !tier->stale_queued &&
	     (!cds_list_empty(&tier->stale) || tier->n_unsynced);
	if (go)
		tier->stale_queued = true;
	pthread_mutex_unlock(&tier->stale_lock);
	if (!go)
		return;
	dj = calloc(1, sizeof(*dj));
	if (dj) {
		dj->tier = tier;
		dj->job.refs = 1;
		dj->job.op = "delete";
		dj->job.prio = MOVER_IDLE;
		dj->job.run = delete_run;
		dj->job.free = delete_free;
		if (!mover_submit(tier->parts.mover, &dj->job, NULL))
			return;
		free(dj);
	}
	pthread_mutex_lock(&tier->stale_lock);
	tier->stale_queued = false;
	pthread_mutex_unlock(&tier->stale_lock);
}

void tier_stale_add(struct tier *tier, const struct tier_stale *stale)
{
	struct tier_stale *copy = malloc(sizeof(*copy));

	/* Forgotten, it is found by the next mount: intent or orphan is there. */
	if (!copy)
		return;
	*copy = *stale;
	pthread_mutex_lock(&tier->stale_lock);
	cds_list_add_tail(&copy->link, &tier->stale);
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
	struct tier_stale *stale;
	size_t n = 0;

	pthread_mutex_lock(&tier->stale_lock);
	cds_list_for_each_entry (stale, &tier->stale, link)
		n++;
	*ret_running = tier->stale_queued;
	pthread_mutex_unlock(&tier->stale_lock);
	return n + *ret_running;
}

void tier_stale_free(struct tier *tier)
{
	struct tier_stale *stale, *next;

	cds_list_for_each_entry_safe (stale, next, &tier->stale, link)
		free(stale);
	CDS_INIT_LIST_HEAD(&tier->stale);
}
