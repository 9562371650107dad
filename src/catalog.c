/* SPDX-License-Identifier: MIT */
/*
 * The catalog's thread, and its life.
 *
 * One thread writes. It sleeps until something is told, lets more of it gather
 * for a moment, and takes it in by one transaction: what was told
 * (catalog_batch.c), what was marked, what the scanner found (catalog_walk.c),
 * some rows to be judged anew (catalog_judge.c). Who tells never waits for it:
 * the queue is bounded and what does not fit is marked (catalog_queue.c).
 *
 * Every row says what was seen on the front while it was written. Something
 * that happens on the front is told after it happened, and looked at after it
 * was told: so once all that was told is taken in, each row is as the front is.
 * That needs no order between events, and losing some costs a walk over their
 * directories.
 *
 * A transaction that fails leaves the database as it was; what it took from the
 * queue is marked, and after a while, which doubles, it is tried again. Marks
 * are in memory until then. So after anything but a clean end all directories
 * are walked once more; "clean" in the database says whether that was one. It
 * is taken away, durably, before anything is told.
 *
 * Damage that is found later has the file made anew, with a walk over all.
 * Readers notice by the epoch, and open the new one.
 */
#include "catalog_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"
#include "util.h"

#define GATHER_MS   100
#define GATHER_MANY 2048
#define BACKOFF_MIN NSEC_PER_SEC
#define BACKOFF_MAX (60 * NSEC_PER_SEC)
#define NICE	    10

/* ---- opening the database ------------------------------------------------------ */

static int insert_root(struct catalog *c)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, CQ_DIR_INSERT, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)c->root_key);
	sqlite3_bind_int64(st, 2, 0);
	catalog_db_bind_handle(st, 3, &c->root);
	catalog_db_bind_name(st, 4, "");
	sqlite3_bind_int64(st, 5, GEN_NEW);
	sqlite3_bind_int64(st, 6, 0);
	return catalog_db_step(&c->db, CQ_DIR_INSERT);
}

/* How many there are. Counting the directories takes as long as there are many,
 * so a clean end writes it down (known, or 0). */
static int count(struct catalog *c, int64_t known)
{
	struct histogram h;
	sqlite3_stmt *st;
	int64_t files = 0;
	int err, rc;

	err = catalog_hist_read(&c->db, c->root_key, &h);
	if (err)
		return err;
	for (int i = 0; i < SPILL_STATES; i++)
		files += h.states[i].files;
	histogram_free(&h);
	atomic_store(&c->files, files);
	atomic_store(&c->dirs, known);
	if (known)
		return 0;
	rc = sqlite3_prepare_v2(c->db.sql, "SELECT count(*) FROM dirs", -1, &st,
				NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		atomic_store(&c->dirs, sqlite3_column_int64(st, 0));
	err = catalog_db_errno(&c->db, rc);
	sqlite3_finalize(st);
	return err;
}

/* -EBADMSG: it is another front's, or contradicts itself. */
static int load(struct catalog *c)
{
	struct catalog_dir root;
	int64_t clean = 0, gen = 0, dirs = 0, filling = 0;
	int64_t place = catalog_fill_place(c->front);
	int err;

	err = catalog_db_do(&c->db, CQ_BEGIN);
	if (!err)
		err = catalog_db_meta(&c->db, "clean", &clean);
	if (!err)
		err = catalog_db_meta(&c->db, "gen", &gen);
	if (!err && clean)
		err = catalog_db_meta(&c->db, "dirs", &dirs);
	if (!err)
		err = catalog_db_meta(&c->db, "filling", &filling);
	if (!err && filling && filling != place)
		return -EBADMSG;
	/* The schema is all there is. */
	if (!err && !gen && (filling = place))
		err = catalog_db_set_meta(&c->db, "filling", filling);
	if (!err && !gen)
		err = insert_root(c);
	if (!err)
		err = catalog_dir_get(&c->db, c->root_key, &root);
	if (err == -ENOENT ||
	    (!err &&
	     (root.parent || !front_handle_equal(&root.handle, &c->root))))
		err = -EBADMSG;
	if (!err && gen < GEN_FIRST)
		gen = GEN_FIRST;
	else if (!err && !clean)
		gen++;
	if (!err)
		err = catalog_db_set_meta(&c->db, "gen", gen);
	/* Directories may have been moved, and their files not judged. */
	if (!err && !clean)
		err = catalog_db_set_meta(&c->db, "judged", INT64_MIN);
	if (!err)
		err = catalog_db_set_meta(&c->db, "clean", 0);
	if (!err)
		err = catalog_db_do(&c->db, CQ_COMMIT);
	if (!err)
		err = count(c, dirs);
	if (!err)
		err = filling ? catalog_fill_begin(c)
			      : catalog_db_exec(&c->db,
						"PRAGMA synchronous = NORMAL");
	c->filling = filling;
	c->gen = (uint64_t)gen;
	return err;
}

static int open_database(struct catalog *c, char **ret_why)
{
	bool created;
	int err;

	err = catalog_schema_open(c->front, &c->db, &created, ret_why);
	if (err)
		return err;
	err = load(c);
	c->all_told = created && !err;
	if (err != -EBADMSG || created)
		return err;
	catalog_db_close(&c->db);
	if (ret_why && !*ret_why)
		fail_why(ret_why, err,
			 CATALOG_NAME ": damaged, another front's, or of a "
				      "first walk that a power cut may have "
				      "ended; it is made anew, which takes a "
				      "walk over the front and loses the "
				      "temperatures");
	err = catalog_schema_remove(c->front);
	if (!err)
		err = catalog_schema_open(c->front, &c->db, &created, NULL);
	return err ? err : load(c);
}

/* ---- one transaction -------------------------------------------------------------- */

static void rolled_back(struct catalog *c)
{
	int64_t gen;

	if (c->db.sql && !sqlite3_get_autocommit(c->db.sql))
		catalog_db_exec(&c->db, "ROLLBACK");
	if (c->db.sql && !catalog_db_meta(&c->db, "gen", &gen) && gen)
		c->gen = (uint64_t)gen;
	catalog_hist_forget(c);
	catalog_order_forget(c);
	c->path_dir = 0;
	c->nfiles = c->ndirs = 0;
	c->all_told = false;
	if (c->judge_all || c->nmoved)
		catalog_judge_again(c);
	c->backoff_ns = min_t(int64_t, BACKOFF_MAX,
			      max_t(int64_t, BACKOFF_MIN, 2 * c->backoff_ns));
	c->retry_at = monotonic_ns() + c->backoff_ns;
}

/* What was found to be damaged is made anew. */
static void rebuild(struct catalog *c)
{
	catalog_db_close(&c->db);
	if (!catalog_schema_remove(c->front) && !open_database(c, NULL))
		c->backoff_ns = c->retry_at = 0;
	else
		c->db.dirfd = -1;
	pthread_mutex_lock(&c->judge_lock);
	c->judge_new = c->judge != NULL;
	pthread_mutex_unlock(&c->judge_lock);
	c->all_told = c->judge_all = false;
	c->nmoved = 0;
	atomic_fetch_add(&c->epoch, 1);
}

static int transact(struct catalog *c, struct batch *b, bool *ret_more)
{
	bool walk_more = false, judge_more = false;
	int err;

	err = catalog_db_do(&c->db, CQ_BEGIN);
	if (err)
		return err;
	err = catalog_judge_check(c);
	if (!err)
		err = catalog_batch_apply(c, b);
	if (!err)
		err = catalog_batch_marks(c);
	if (!err)
		err = catalog_walk_some(c, &walk_more);
	if (!err)
		err = catalog_judge_some(c, &judge_more);
	if (!err)
		err = catalog_order_flush(c);
	if (!err)
		err = catalog_hist_flush(c);
	catalog_dir_fds_close(c);
	if (!err)
		err = catalog_db_do(&c->db, CQ_COMMIT);
	*ret_more = walk_more || judge_more || atomic_load(&c->queue.marked);
	return err;
}

static void publish(struct catalog *c, int err)
{
	uint64_t marked = 0;
	bool due = true, judge_new;
	int failed = err;

	if (!err) {
		atomic_fetch_add(&c->files, c->nfiles);
		atomic_fetch_add(&c->dirs, c->ndirs);
		c->nfiles = c->ndirs = 0;
		failed = catalog_walk_due(c, &due, &marked);
	}
	pthread_mutex_lock(&c->lock);
	pthread_mutex_lock(&c->judge_lock);
	judge_new = c->judge_new;
	pthread_mutex_unlock(&c->judge_lock);
	c->err = err;
	if (!err)
		c->settled = c->taken;
	c->rounds++;
	c->busy = failed || due || atomic_load(&c->queue.marked);
	c->marked = marked;
	c->judging = judge_new || c->judge_all || c->nmoved;
	pthread_cond_broadcast(&c->cond);
	pthread_mutex_unlock(&c->lock);
}

/* Returns whether there is more to do at once. */
static bool round_of(struct catalog *c, struct batch *b)
{
	bool more = false;
	int err;

	atomic_fetch_add(&c->batch, 1);
	catalog_batch_take(c, b);
	err = c->db.sql && !atomic_exchange(&c->damaged, false)
		      ? transact(c, b, &more)
		      : -EBADMSG;
	catalog_judge_done(c, !err);
	catalog_batch_end(c, b, !err);
	if (!err)
		err = catalog_walk_done(c);
	if (!err) {
		c->backoff_ns = c->retry_at = 0;
	} else {
		catalog_walk_failed(c);
		rolled_back(c);
		if (err == -EBADMSG)
			rebuild(c);
	}
	publish(c, err);
	if (!err && c->filling && !c->busy)
		c->filling = catalog_fill_end(c) != 0;
	return more && !err;
}

static void sleep_until(struct catalog *c, int64_t at)
{
	int64_t left;

	while (!atomic_load(&c->stop) && (left = at - monotonic_ns()) > 0)
		catalog_queue_wait(&c->queue, 1 << 30,
				   (int)(left / 1000000 + 1));
}

static void *run(void *arg)
{
	struct catalog *c = arg;
	struct batch *b = c->room;
	bool more = true;

	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
	while (!atomic_load(&c->stop)) {
		if (!more && !atomic_load(&c->queue.n) &&
		    !atomic_load(&c->queue.marked))
			catalog_queue_wait(&c->queue, 1, c->nlate ? 6000 : -1);
		if (!more && !atomic_load(&c->hurried) &&
		    !atomic_load(&c->stop) && !catalog_walk_ready(c))
			catalog_queue_wait(&c->queue, GATHER_MANY, GATHER_MS);
		if (c->retry_at)
			sleep_until(c, c->retry_at);
		more = round_of(c, b);
	}
	while (!atomic_load(&c->abandon) && !c->retry_at &&
	       (atomic_load(&c->queue.n) || atomic_load(&c->queue.marked)))
		round_of(c, b);
	return NULL;
}

/* ---- life ----------------------------------------------------------------------------- */

static void catalog_free(struct catalog *c)
{
	catalog_walk_stop(c);
	catalog_dir_fds_close(c);
	catalog_hist_stop(c);
	catalog_batch_free(c->room);
	if (c->db.dirfd >= 0)
		catalog_db_close(&c->db);
	if (c->queue.wake_fd >= 0)
		catalog_queue_free(&c->queue);
	pthread_mutex_destroy(&c->judge_lock);
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->cond);
	free(c->path);
	free(c->rows);
	free(c->moved);
	free(c->places);
	free(c);
}

static struct catalog *catalog_new(const struct catalog_config *config)
{
	struct catalog *c = calloc(1, sizeof(*c));
	pthread_condattr_t attr;

	if (!c)
		return NULL;
	c->config = *config;
	c->front = config->front;
	c->db.dirfd = -1;
	c->queue.wake_fd = -1;
	for (int i = 0; i < PARENT_FDS; i++)
		c->parents[i].fd = -1;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->judge_lock, NULL);
	c->soonest = INT64_MAX;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->cond, &attr);
	pthread_condattr_destroy(&attr);
	c->busy = true;
	atomic_store(&c->batch, 1);
	return c;
}

int catalog_open(const struct catalog_config *config, struct catalog **ret,
		 char **ret_why)
{
	struct catalog *c = catalog_new(config);
	char *why = NULL;
	int err;

	if (ret_why)
		*ret_why = NULL;
	if (!c)
		return -ENOMEM;
	err = catalog_queue_init(&c->queue);
	if (!err)
		err = front_handle_at(c->front, c->front->root_fd, "",
				      &c->root);
	if (!err)
		err = front_handle_at(c->front, c->front->meta_fd, "",
				      &c->meta);
	c->root_key = catalog_key(&c->root);
	c->rows = calloc(CATALOG_ROWS, sizeof(*c->rows));
	if (!err)
		err = c->rows ? catalog_batch_new(&c->room) : -ENOMEM;
	if (!err)
		err = catalog_hist_start(c);
	if (!err)
		err = open_database(c, &why);
	if (!err)
		err = catalog_walk_start(c);
	if (!err)
		err = thread_start(&c->thread, "catalog", run, c);
	if (ret_why)
		*ret_why = why;
	else
		free(why);
	if (err) {
		catalog_free(c);
		return err;
	}
	*ret = c;
	return 0;
}

static void stop(struct catalog *c)
{
	atomic_store(&c->stop, true);
	catalog_queue_wake(&c->queue);
	pthread_join(c->thread, NULL);
}

void catalog_close(struct catalog *c)
{
	int err;

	if (!c)
		return;
	stop(c);
	/* With what could not be written, the next one has to look. */
	if (c->db.sql && !c->err && !atomic_load(&c->queue.marked)) {
		err = c->filling ? catalog_fill_end(c) : 0;
		if (!err)
			err = catalog_db_exec(&c->db,
					      "PRAGMA synchronous = FULL");
		if (!err)
			err = catalog_db_do(&c->db, CQ_BEGIN);
		if (!err && c->judge_all)
			err = catalog_db_set_meta(&c->db, "judged", c->judged);
		if (!err)
			err = catalog_db_set_meta(&c->db, "dirs",
						  atomic_load(&c->dirs));
		if (!err)
			err = catalog_db_set_meta(&c->db, "clean", 1);
		if (!err)
			catalog_db_do(&c->db, CQ_COMMIT);
	}
	catalog_free(c);
}

void catalog_abandon(struct catalog *c)
{
	atomic_store(&c->abandon, true);
	stop(c);
	catalog_free(c);
}

void catalog_stats(struct catalog *c, struct catalog_stats *ret)
{
	int64_t files = atomic_load(&c->files), dirs = atomic_load(&c->dirs);

	*ret = (struct catalog_stats){
		.files = (uint64_t)max_t(int64_t, files, 0),
		.dirs = (uint64_t)max_t(int64_t, dirs, 0),
		.events = atomic_load(&c->queue.told),
		.dropped = atomic_load(&c->queue.dropped),
		.queued = atomic_load(&c->queue.n),
		.walked = atomic_load(&c->walked),
	};
	pthread_mutex_lock(&c->lock);
	ret->judging = c->judging;
	ret->marked = c->marked;
	ret->walking = c->busy;
	ret->err = c->err;
	pthread_mutex_unlock(&c->lock);
}

int catalog_settle(struct catalog *c, bool walk, int64_t timeout_ns)
{
	struct timespec end = timespec_from_ns(monotonic_ns() + timeout_ns);
	uint64_t told = atomic_load(&c->queue.told), round;
	int err = 0;

	atomic_fetch_add(&c->hurried, 1);
	pthread_mutex_lock(&c->lock);
	/* One that begins from now on sees the marks. */
	round = c->rounds + 2;
	for (;;) {
		bool soon = c->settled < told || (walk && c->rounds < round);

		if (err || (!soon && !(walk && c->busy)))
			break;
		/* While it walks it wakes itself. */
		if (soon)
			catalog_queue_wake(&c->queue);
		err = -pthread_cond_timedwait(&c->cond, &c->lock, &end);
	}
	pthread_mutex_unlock(&c->lock);
	atomic_fetch_sub(&c->hurried, 1);
	return err;
}
