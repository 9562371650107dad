/* SPDX-License-Identifier: MIT */
/*
 * Adopting: the first count of what is on the front already.
 *
 * Counters are kept as states change. They need a beginning when a front is
 * mounted for the first time, or its journal was lost. The catalog's walk sees all
 * files then, too, and knows their states in the end (tier_count.c). Without a
 * catalog one walk in the background counts them. It is idle work and nothing waits
 * for it but moves that nobody waits for at a file, so that none changes the
 * state of a file before it is counted. A file that is made or removed meanwhile
 * counts through its event; the walk leaves out what is younger than its start,
 * but for what a recall has swapped in. What is removed before the walk came by
 * may be missing one: the number is for people.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "tier_impl.h"
#include "util.h"

#define ADOPTED_KEY "adopted"

struct adopt {
	struct mover_job job;
	struct tier *tier;
	int64_t start; /* realtime, ns */
	struct tier_counts counts;
	struct cds_list_head dirs; /* of adopt_dir: still to be read */
	void *linked; /* tsearch(3): inodes with several names, seen once */
};

struct adopt_dir {
	struct cds_list_head link;
	struct front_handle handle;
};

static int push_dir(struct adopt *a, int dirfd, const char *name)
{
	struct adopt_dir *dir = malloc(sizeof(*dir));
	int ret;

	if (!dir)
		return -ENOMEM;
	ret = front_handle_at(a->tier->parts.front, dirfd, name, &dir->handle);
	if (ret) {
		free(dir);
		return ret;
	}
	cds_list_add(&dir->link, &a->dirs);
	return 0;
}

static int compare_ino(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static bool seen_link(struct adopt *a, uint64_t ino)
{
	uint64_t *key = malloc(sizeof(*key));
	uint64_t *const *found;

	/* Without memory it is counted once for each name. */
	if (!key)
		return false;
	*key = ino;
	found = tsearch(key, &a->linked, compare_ino);
	if (found && *found == key)
		return false;
	free(key);
	return found != NULL;
}

static void count_file(struct adopt *a, int dirfd, const char *name,
		       const struct statx *stx)
{
	struct spill_ea ea = {.state = SPILL_NONE};
	uint64_t size = stx->stx_size;

	bool young =
		stx->stx_mask & STATX_BTIME &&
		stx->stx_btime.tv_sec * NSEC_PER_SEC + stx->stx_btime.tv_nsec >=
			a->start;

	if (stx->stx_nlink > 1 && seen_link(a, stx->stx_ino))
		return;
	if (!front_ea_get_at(a->tier->parts.front, dirfd, name, &ea) &&
	    (ea.flags & TIERFS_EA_F_WRITING || ea.state == SPILL_MIGRATING))
		ea.state = SPILL_NONE;
	if (young && !(ea.flags & TIERFS_EA_F_INO))
		return;
	if (young) /* counted as restored: it was released */
		ea.state = SPILL_RELEASED;
	if (ea.state == SPILL_RELEASED || ea.state == SPILL_DIRTY)
		size = ea.size;
	a->counts.files[ea.state]++;
	a->counts.bytes[ea.state] += (int64_t)size;
}

static void read_dir(struct adopt *a, int fd)
{
	struct front *front = a->tier->parts.front;
	DIR *dir = fdopendir(fd);
	struct dirent *entry;
	struct statx stx;

	if (!dir) {
		close(fd);
		return;
	}
	while ((entry = readdir(dir)) && !atomic_load(&a->job.ctl.cancelled)) {
		const char *name = entry->d_name;

		if (!strcmp(name, ".") || !strcmp(name, "..") ||
		    entry->d_ino == front->meta_ino)
			continue;
		if (statx(fd, name, AT_SYMLINK_NOFOLLOW,
			  STATX_BASIC_STATS | STATX_BTIME, &stx) < 0)
			continue;
		if (S_ISDIR(stx.stx_mode))
			push_dir(a, fd, name);
		else if (S_ISREG(stx.stx_mode))
			count_file(a, fd, name, &stx);
	}
	closedir(dir);
}

bool tier_is_counted(struct tier *tier)
{
	return !atomic_load(&tier->uncounted);
}

void tier_counted(struct tier *tier)
{
	char yes = 1;

	atomic_store(&tier->counts_dirty, true);
	if (!atomic_exchange(&tier->uncounted, false))
		return;
	/* With them, and not before. */
	tier_save_counts(tier);
	journal_put(tier->parts.journal, ADOPTED_KEY, &yes, sizeof(yes));
}

static void adopted(struct tier *tier)
{
	pthread_mutex_lock(&tier->adopt_lock);
	tier->adopting = false;
	pthread_cond_broadcast(&tier->adopt_cond);
	pthread_mutex_unlock(&tier->adopt_lock);
}

void tier_adopt_wait(struct tier *tier)
{
	pthread_mutex_lock(&tier->adopt_lock);
	while (tier->adopting)
		pthread_cond_wait(&tier->adopt_cond, &tier->adopt_lock);
	pthread_mutex_unlock(&tier->adopt_lock);
}

static void adopt_run(struct mover_job *job)
{
	struct adopt *a = container_of(job, struct adopt, job);
	struct tier *tier = a->tier;
	int fd;

	push_dir(a, tier->parts.front->root_fd, "");
	while (!cds_list_empty(&a->dirs)) {
		struct adopt_dir *dir =
			cds_list_first_entry(&a->dirs, struct adopt_dir, link);

		cds_list_del(&dir->link);
		fd = front_open_handle(tier->parts.front, &dir->handle,
				       O_RDONLY | O_DIRECTORY | O_NOATIME);
		if (fd >= 0)
			read_dir(a, fd);
		free(dir);
	}
	if (atomic_load(&job->ctl.cancelled)) {
		adopted(tier); /* the next mount begins anew */
		return;
	}
	for (int i = 0; i < SPILL_STATES; i++) {
		atomic_fetch_add(&tier->files[i], a->counts.files[i]);
		atomic_fetch_add(&tier->bytes[i], a->counts.bytes[i]);
	}
	tier_counted(tier);
	adopted(tier);
}

static void adopt_free(struct mover_job *job)
{
	struct adopt *a = container_of(job, struct adopt, job);

	tdestroy(a->linked, free);
	free(a);
}

int tier_adopt(struct tier *tier)
{
	struct adopt *a;
	char yes;
	int ret;

	ret = journal_get(tier->parts.journal, ADOPTED_KEY, &yes, sizeof(yes));
	if (ret != -ENOENT)
		return ret < 0 ? ret : 0;
	for (int i = 0; i < SPILL_STATES; i++) {
		atomic_store(&tier->files[i], 0);
		atomic_store(&tier->bytes[i], 0);
	}
	atomic_store(&tier->uncounted, true);
	if (tier->parts.catalog)
		return 0;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->tier = tier;
	a->start = realtime_ns();
	CDS_INIT_LIST_HEAD(&a->dirs);
	a->job.op = "adopt";
	a->job.prio = MOVER_IDLE;
	a->job.refs = 1;
	a->job.run = adopt_run;
	a->job.free = adopt_free;
	tier->adopting = true;
	ret = mover_submit(tier->parts.mover, &a->job, NULL);
	if (ret) {
		tier->adopting = false;
		free(a);
	}
	return ret;
}
