/* SPDX-License-Identifier: MIT */
/*
 * The tier's middle: files in use, who waits for them, and the counters.
 *
 * A struct tier_file is the state of a file in memory while it is open, moved,
 * waited for or suspect; at rest the truth is the EA on the inode alone. All of
 * it is under node->lock, which is never held while waiting for a target, the
 * journal or a client. So a thread that needs more than the front has (a
 * recall, a commit) leaves a tier_wait behind and returns; whoever makes it
 * possible wakes all waiters, and each tries again from the start. Nothing is
 * handed over: a waiter that finds the world changed once more parks again.
 *
 * Waking happens on a thread of its own, the waker, because those who wake (a
 * worker, the journal) must not do the waiters' work (opening files, replying).
 * The waker also has the clock: once a second it looks after what is to be
 * tried again.
 */
#include "tier.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cleanup.h"
#include "log.h"
#include "tier_impl.h"
#include "util.h"

#define TICK_NS NSEC_PER_SEC

const struct tier_parts *tier_parts(struct tier *tier)
{
	return &tier->parts;
}

struct target *tier_target(struct tier *tier, uint8_t number)
{
	if (number >= tier->parts.ntargets)
		return NULL;
	return tier->parts.targets[number];
}

/* ---- files ------------------------------------------------------------ */

const char *tier_ea_why(int err)
{
	switch (err) {
	case -EPROTONOSUPPORT:
		return "its spill EA is of a newer version of tierfs";
	case -EBADMSG:
		return "its spill EA is damaged";
	default:
		return strerror(-err);
	}
}

/* By name and inode: its path would take the lock that is held. */
void tier_report_bad(struct node *node, int fd, const char *why)
{
	struct stat st = {0};

	(void)fstatat(fd, "", &st, AT_EMPTY_PATH);
	log_error("%s (inode %llu of the front): %s; the file is left alone",
		  node_name(node) ? node_name(node) : "(no name)",
		  (unsigned long long)st.st_ino, why);
}

/* Each use of the file comes here again, so that once a second is enough, for
 * a tree of such files as well. */
static void report_bad_ea(struct tier *tier, struct node *node, int fd, int err)
{
	int64_t now = monotonic_ns();
	int64_t last = atomic_load(&tier->bad_ea_told);

	if ((!last || now - last >= NSEC_PER_SEC) &&
	    atomic_compare_exchange_strong(&tier->bad_ea_told, &last, now))
		tier_report_bad(node, fd, tier_ea_why(err));
}

static int file_load(struct tier *tier, struct tier_file *file)
{
	struct node *node = file->node;
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	int ret;

	if (!(atomic_load(&node->flags) & NODE_EA))
		return 0;
	ret = node_fd_get(node, &fd);
	if (ret)
		return ret;
	ret = front_ea_get(tier->parts.front, fd.fd, &file->ea);
	if (ret == -ENODATA)
		return 0;
	/* Not in memory, so nobody writes that copy: a crash's. */
	if (!ret && file->ea.state == SPILL_MIGRATING) {
		file->ea.state = SPILL_NONE;
		file->ea.ncopies = 0;
	}
	if (ret)
		report_bad_ea(tier, node, fd.fd, ret);
	/* A crash came while it was written: the log knows its size. */
	if (!ret && file->ea.flags & TIERFS_EA_F_LOGGING) {
		ret = tier_dirty_load(file);
		if (file->log_err)
			ret = 0;
	}
	return ret;
}

int tier_file_get(struct tier *tier, struct node *node, struct tier_file **ret)
{
	struct tier_file *file = node->file;
	int err;

	if (file) {
		*ret = file;
		return 0;
	}
	file = calloc(1, sizeof(*file));
	if (!file)
		return -ENOMEM;
	file->tier = tier;
	file->node = node;
	CDS_INIT_LIST_HEAD(&file->waiters);
	err = file_load(tier, file);
	if (err) {
		tier_dirty_drop(file);
		free(file);
		return err;
	}
	node_ref(node);
	node->file = file;
	*ret = file;
	return 0;
}

struct node *tier_file_idle(struct tier_file *file)
{
	struct node *node = file->node;

	if (file->nopen || file->move || file->journaling ||
	    file->write_intent || file->nameless ||
	    !cds_list_empty(&file->waiters) || tier_dirty_unsettled(file))
		return NULL;
	if (file->src)
		tier_src_put(file->src);
	tier_dirty_drop(file);
	node->file = NULL;
	free(file);
	return node;
}

int tier_file_lock(struct tier *tier, struct node *node, struct tier_file **ret)
{
	int err;

	pthread_mutex_lock(&node->lock);
	err = tier_file_get(tier, node, ret);
	if (err)
		pthread_mutex_unlock(&node->lock);
	return err;
}

void tier_node_unlock(struct node *node)
{
	struct node *drop = node->file ? tier_file_idle(node->file) : NULL;

	pthread_mutex_unlock(&node->lock);
	if (drop)
		node_unref(drop);
}

void tier_file_unlock(struct tier_file *file)
{
	tier_node_unlock(file->node);
}

/* ---- the EA ----------------------------------------------------------- */

enum spill_state tier_file_state(const struct tier_file *file)
{
	const struct spill_ea *ea = &file->ea;

	return ea->flags & TIERFS_EA_F_WRITING ? SPILL_NONE : ea->state;
}

/* The inode's ctime is another from here on, while its copy stays suspect. */
static void rebase(struct tier_file *file, int fd, int64_t ctime)
{
	struct stat st;

	if (ctime != file->base_ctime)
		file->base_mtime = -1; /* was changed already */
	if (!fstatat(fd, "", &st, AT_EMPTY_PATH))
		file->base_ctime = timespec_to_ns(st.st_ctim);
}

int tier_ea_set(struct tier_file *file, struct spill_ea *ea, bool hide)
{
	const bool suspect = file->ea.flags & ea->flags & TIERFS_EA_F_WRITING;
	struct tier *tier = file->tier;
	struct node *node = file->node;
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	struct stat st;
	int ret;

	ret = node_fd_get(node, &fd);
	if (ret)
		return ret;
	/*
	 * Setting an EA changes ctime. What the user last saw goes into the EA
	 * in the same call, so that no moment shows another one.
	 */
	if (hide) {
		if (fstatat(fd.fd, "", &st, AT_EMPTY_PATH) < 0)
			return -errno;
		ea->ctime = tier_shown_ctime(file, &st);
		ea->flags |= TIERFS_EA_F_CTIME;
	}
	if (!hide)
		ea->flags &= ~TIERFS_EA_F_CTIME;
	/* First the flag: who does not see it sees nothing of the EA either,
	 * the new ctime included. It may be there without an EA. */
	atomic_fetch_or(&node->flags, NODE_EA);
	ret = front_ea_set(tier->parts.front, fd.fd, ea);
	if (ret)
		return ret;
	if (spill_ea_is_empty(ea))
		atomic_fetch_and(&node->flags, ~NODE_EA);
	if (hide && suspect)
		rebase(file, fd.fd, timespec_to_ns(st.st_ctim));
	file->ea = *ea;
	tier_tell_changed(tier, node);
	return 0;
}

/* ---- waiting ---------------------------------------------------------- */

void tier_park(struct tier_file *file, struct tier_wait *wait)
{
	wait->err = 0;
	cds_list_add_tail(&wait->link, &file->waiters);
}

void tier_wake(struct tier_file *file, int err)
{
	struct tier *tier = file->tier;
	struct tier_wait *wait;

	if (cds_list_empty(&file->waiters))
		return;
	cds_list_for_each_entry (wait, &file->waiters, link)
		wait->err = err;
	pthread_mutex_lock(&tier->wake_lock);
	/* splice adds at the head; the order among files does not matter. */
	cds_list_splice(&file->waiters, &tier->wake_list);
	pthread_cond_signal(&tier->wake_cond);
	pthread_mutex_unlock(&tier->wake_lock);
	CDS_INIT_LIST_HEAD(&file->waiters);
}

bool tier_wait_cancel(struct node *node, struct tier_wait *wait)
{
	struct tier_file *file;
	struct tier_wait *pos;
	bool found = false;

	pthread_mutex_lock(&node->lock);
	file = node->file;
	if (file) {
		cds_list_for_each_entry (pos, &file->waiters, link) {
			if (pos != wait)
				continue;
			cds_list_del(&wait->link);
			found = true;
			break;
		}
	}
	tier_node_unlock(node);
	return found;
}

void tier_unsettled_add(struct tier_file *file)
{
	struct tier *tier = file->tier;
	struct tier_unsettled *entry = malloc(sizeof(*entry));

	/* Without memory the copy stays suspect until the next close. */
	if (!entry)
		return;
	entry->node = node_ref(file->node);
	pthread_mutex_lock(&tier->stale_lock);
	cds_list_add(&entry->link, &tier->unsettled);
	pthread_mutex_unlock(&tier->stale_lock);
}

static bool is_dirty(struct node *node)
{
	bool dirty;

	pthread_mutex_lock(&node->lock);
	dirty = node->file && tier_dirty_unsettled(node->file);
	pthread_mutex_unlock(&node->lock);
	return dirty;
}

static void settle_all(struct tier *tier)
{
	struct tier_unsettled *entry, *next;
	CDS_LIST_HEAD(list);
	CDS_LIST_HEAD(dirty);

	tier_counting_begin(tier);
	pthread_mutex_lock(&tier->stale_lock);
	cds_list_splice(&tier->unsettled, &list);
	CDS_INIT_LIST_HEAD(&tier->unsettled);
	pthread_mutex_unlock(&tier->stale_lock);
	cds_list_for_each_entry_safe (entry, next, &list, link) {
		cds_list_del(&entry->link);
		tier_settle(tier, entry->node);
		if (is_dirty(entry->node)) {
			cds_list_add(&entry->link, &dirty);
			continue;
		}
		node_unref(entry->node);
		free(entry);
	}
	if (!cds_list_empty(&dirty))
		tier_dirty_settle(tier, &dirty);
	tier_counting_end(tier);
}

static void tick(struct tier *tier)
{
	settle_all(tier);
	tier_targets_tick(tier);
	tier_stale_kick(tier);
	tier_save_counts(tier);
	tier_save_budget(tier);
}

static void *waker_main(void *arg)
{
	struct tier *tier = arg;
	int64_t next = monotonic_ns() + TICK_NS;

	pthread_mutex_lock(&tier->wake_lock);
	while (!tier->stopping || !cds_list_empty(&tier->wake_list)) {
		if (!cds_list_empty(&tier->wake_list)) {
			struct tier_wait *wait = cds_list_first_entry(
				&tier->wake_list, struct tier_wait, link);

			cds_list_del(&wait->link);
			pthread_mutex_unlock(&tier->wake_lock);
			/* For most, a cancelled move is one to try again. */
			wait->resume(wait,
				     wait->err == -ECANCELED ? 0 : wait->err);
			pthread_mutex_lock(&tier->wake_lock);
		} else if (monotonic_ns() < next) {
			struct timespec ts = timespec_from_ns(next);

			pthread_cond_timedwait(&tier->wake_cond,
					       &tier->wake_lock, &ts);
			continue;
		}
		if (monotonic_ns() >= next) {
			pthread_mutex_unlock(&tier->wake_lock);
			tick(tier);
			pthread_mutex_lock(&tier->wake_lock);
			next = monotonic_ns() + TICK_NS;
		}
	}
	pthread_mutex_unlock(&tier->wake_lock);
	return NULL;
}

/* ---- life ------------------------------------------------------------- */

static unsigned int batch_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 64;
	return min_t(rlim_t, limit.rlim_cur / 8 + 1, TIER_BATCH_FILES);
}

/* The size of the largest file that the front can have: asked of it, for each
 * has rules of its own. */
static uint64_t max_size(struct front *front)
{
	_cleanup_close_ int fd = openat(front->staging_fd, ".",
					O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	uint64_t low = 0, bit = 1ULL << 47;
	struct rlimit limit;

	if (getrlimit(RLIMIT_FSIZE, &limit) < 0)
		limit.rlim_cur = RLIM_INFINITY;
	for (; fd >= 0 && bit; bit >>= 1)
		if ((low | bit) <= limit.rlim_cur &&
		    ftruncate(fd, (off_t)(low | bit)) == 0)
			low |= bit;
	return fd < 0 ? TIERFS_SIZE_MAX : low;
}

int tier_start(const struct tier_parts *parts, struct tier **ret)
{
	_cleanup_free_ struct tier *tier = calloc(1, sizeof(*tier));
	pthread_condattr_t attr;
	int err;

	if (!tier)
		return -ENOMEM;
	tier->parts = *parts;
	tier->batch_files = batch_files();
	tier->max_size = max_size(parts->front);
	pthread_mutex_init(&tier->recall_lock, NULL);
	tier_retune(tier, parts->config);
	CDS_INIT_LIST_HEAD(&tier->wake_list);
	tier_stale_init(tier);
	tier_targets_init(tier);
	CDS_INIT_LIST_HEAD(&tier->unsettled);
	pthread_mutex_init(&tier->wake_lock, NULL);
	pthread_mutex_init(&tier->stale_lock, NULL);
	pthread_mutex_init(&tier->sync_lock, NULL);
	pthread_mutex_init(&tier->adopt_lock, NULL);
	pthread_cond_init(&tier->adopt_cond, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&tier->wake_cond, &attr);
	pthread_condattr_destroy(&attr);
	err = tier_load_counts(tier);
	if (!err)
		err = tier_load_budget(tier);
	if (!err)
		err = tier_adopt(tier);
	if (!err)
		err = thread_start(&tier->waker, "tier-waker", waker_main,
				   tier);
	if (err) {
		tier_set_rules(tier, NULL);
		return err;
	}
	*ret = steal_ptr(&tier);
	return 0;
}

void tier_quiesce(struct tier *tier)
{
	_cleanup_free_ struct mover_info *infos = NULL;
	size_t n;

	/* A copy that is cut short is undone, not lost. */
	if (!mover_list(tier->parts.mover, &infos, &n))
		for (size_t i = 0; i < n; i++)
			mover_cancel(tier->parts.mover, infos[i].id);
	mover_stop(tier->parts.mover);
}

void tier_abandon(struct tier *tier)
{
	settle_all(tier);
	tier_sync(tier);
	tier_save_counts(tier);
	tier_save_budget(tier);
}

void tier_stop(struct tier *tier)
{
	pthread_mutex_lock(&tier->wake_lock);
	tier->stopping = true;
	pthread_cond_signal(&tier->wake_cond);
	pthread_mutex_unlock(&tier->wake_lock);
	pthread_join(tier->waker, NULL);
	settle_all(tier);
	tier_sync(tier);
	tier_save_counts(tier);
	tier_save_budget(tier);
	tier_stale_free(tier);
	tier_set_rules(tier, NULL);
	pthread_mutex_destroy(&tier->recall_lock);
	free(tier->unsynced);
	pthread_mutex_destroy(&tier->wake_lock);
	pthread_mutex_destroy(&tier->stale_lock);
	pthread_mutex_destroy(&tier->sync_lock);
	pthread_mutex_destroy(&tier->watch_lock);
	pthread_mutex_destroy(&tier->adopt_lock);
	pthread_cond_destroy(&tier->adopt_cond);
	pthread_cond_destroy(&tier->wake_cond);
	free(tier);
}
