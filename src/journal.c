/* SPDX-License-Identifier: MIT */
/*
 * One thread owns the database. Everyone else appends to lists under one leaf
 * mutex; the owner takes all lists at once, as a batch, runs them in one
 * transaction and tells those who wait. What is queued while it commits goes
 * with the next commit: under load a commit carries as many requests as come
 * in during one fsync, and without load a request does not wait for others.
 *
 * A batch has adds (told whether they are durable), drops and puts (lazy:
 * nobody is told) and requests for object counts. Lazy work alone does not
 * start a batch before LAZY_NS have passed, so it normally rides along with an
 * add. All of it that is queued goes in the same batch, so a put is never
 * durable without the drops that were queued before it.
 *
 * When the commit fails, the adds and count requests in it fail, each with the
 * commit's error; lazy work goes back to its queue, behind nothing newer, and
 * is tried again with the next batch, or in LAZY_NS. After that the journal is
 * as usable as the disk is.
 *
 * Object counts: what is given out is below a bound that is durable. Taking
 * counts advances next at once; where that passes the bound, the taker waits
 * for a batch that commits a bound ahead of next. When its commit fails, its
 * counts are lost, which is harmless. Batches raise the bound on the way when
 * half of the block is used, so takers rarely wait. After a crash counting
 * goes on at the bound; journal_close() sets the bound to next.
 *
 * Ids grow while the journal is open and after it are above those that are
 * left; an id that was dropped may come again after a restart.
 *
 * Rejected: a mutex round SQLite with callers committing themselves (every
 * caller would sleep on the disk under a lock); a timer that collects
 * requests (the fsync in progress is the timer).
 */
#include "journal.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "journal_db.h"
#include "util.h"

#define LAZY_NS	  (NSEC_PER_SEC / 2)
#define BLOCK	  4096 /* object counts that are reserved at a time */
#define COUNT_MAX (1ULL << 56)

struct drop {
	struct cds_list_head link;
	size_t n;
	uint64_t ids[];
};

struct put {
	struct cds_list_head link;
	char *key; /* behind value */
	size_t len;
	char value[];
};

/* On the stack of a thread that waits. */
struct wait {
	struct cds_list_head link;
	sem_t sem;
	int (*query)(struct wait *wait, struct journal_db *db); /* or NULL */
	int ret;
	/* Of a query. */
	const char *key;
	void *value;
	size_t size;
	struct intent *intents;
	size_t n;
};

struct sync_add {
	struct journal_req req;
	sem_t sem;
	int err;
};

struct batch {
	struct cds_list_head adds, drops, puts, waits, queries;
	uint64_t bound; /* to commit, or 0 */
	size_t queued;	/* intents */
	uint64_t added, dropped;
};

struct journal {
	pthread_t thread;
	struct journal_db *db; /* the thread's, once it runs */
	uint64_t last_id;      /* the thread's */
	bool created;

	pthread_mutex_t lock;
	pthread_cond_t wake; /* the thread waits here alone */
	/* Under lock. */
	struct cds_list_head adds;    /* struct journal_req */
	struct cds_list_head drops;   /* struct drop */
	struct cds_list_head puts;    /* struct put, a key once */
	struct cds_list_head waits;   /* struct wait, for counts */
	struct cds_list_head queries; /* struct wait */
	int64_t lazy_due;	      /* 0: no lazy work */
	uint64_t next, bound;	      /* object counts */
	bool stop;
	bool tidied; /* stop: the last bound is committed, or failed */
	bool failed; /* the last commit */
	struct journal_stats stats;
};

static void sem_wait_full(sem_t *sem)
{
	while (sem_wait(sem) < 0)
		assert(errno == EINTR);
}

/* -- the thread --------------------------------------------------------- */

static bool journal_urgent(struct journal *j)
{
	return !cds_list_empty(&j->adds) || !cds_list_empty(&j->waits) ||
	       !cds_list_empty(&j->queries) || (j->stop && !j->tidied);
}

/* Sleeps until there is a batch; false: stopped, and nothing is left. */
static bool journal_wait_for_work(struct journal *j)
{
	while (!journal_urgent(j)) {
		struct timespec due = timespec_from_ns(j->lazy_due);

		if (j->stop)
			return j->lazy_due && !j->failed;
		if (!j->lazy_due)
			pthread_cond_wait(&j->wake, &j->lock);
		else if (monotonic_ns() >= j->lazy_due)
			return true;
		else
			pthread_cond_timedwait(&j->wake, &j->lock, &due);
	}
	return true;
}

static void list_take(struct cds_list_head *from, struct cds_list_head *to)
{
	CDS_INIT_LIST_HEAD(to);
	cds_list_splice(from, to);
	CDS_INIT_LIST_HEAD(from);
}

static void batch_take(struct journal *j, struct batch *b)
{
	bool closing = j->stop;

	*b = (struct batch){.queued = j->stats.queued};
	list_take(&j->adds, &b->adds);
	list_take(&j->drops, &b->drops);
	list_take(&j->puts, &b->puts);
	list_take(&j->waits, &b->waits);
	list_take(&j->queries, &b->queries);
	j->lazy_due = 0;
	if (closing) {
		j->tidied = true;
		b->bound = j->next;
	} else if (!cds_list_empty(&b->waits) ||
		   (!cds_list_empty(&b->adds) &&
		    j->next + BLOCK / 2 > j->bound)) {
		b->bound = j->next + BLOCK;
	}
}

static int batch_steps(struct journal *j, struct batch *b)
{
	struct journal_req *req;
	struct drop *drop;
	struct put *put;
	int ret = 0;

	/* First, so that an add finds their room. */
	cds_list_for_each_entry (drop, &b->drops, link) {
		for (size_t i = 0; i < drop->n && !ret; i++)
			ret = journal_db_delete(j->db, drop->ids[i]);
		b->dropped += drop->n;
	}
	cds_list_for_each_entry (req, &b->adds, link) {
		for (size_t i = 0; i < req->n && !ret; i++)
			ret = journal_db_insert(j->db, ++j->last_id,
						&req->intents[i]);
		b->added += req->n;
	}
	cds_list_for_each_entry (put, &b->puts, link) {
		if (!ret)
			ret = journal_db_put(j->db, put->key, put->value,
					     put->len);
	}
	if (!ret && b->bound)
		ret = journal_db_set_bound(j->db, b->bound);
	return ret;
}

/* 0: all of the batch is durable; -errno: none of it is. */
static int batch_commit(struct journal *j, struct batch *b)
{
	int ret;

	if (cds_list_empty(&b->adds) && cds_list_empty(&b->drops) &&
	    cds_list_empty(&b->puts) && !b->bound)
		return 0;
	ret = journal_db_begin(j->db);
	if (!ret)
		ret = batch_steps(j, b);
	if (!ret)
		ret = journal_db_commit(j->db);
	if (ret)
		journal_db_rollback(j->db);
	return ret;
}

static struct put *put_find(struct journal *j, const char *key)
{
	struct put *put;

	cds_list_for_each_entry (put, &j->puts, link)
		if (!strcmp(put->key, key))
			return put;
	return NULL;
}

/* Lazy work of a failed batch: before what was queued meanwhile. */
static void batch_requeue(struct journal *j, struct batch *b)
{
	struct put *put, *next;

	cds_list_for_each_entry_safe (put, next, &b->puts, link) {
		cds_list_del(&put->link);
		if (put_find(j, put->key))
			free(put); /* there is a newer value */
		else
			cds_list_add_tail(&put->link, &j->puts);
	}
	cds_list_splice(&b->drops, &j->drops);
	if (!cds_list_empty(&j->puts) || !cds_list_empty(&j->drops))
		j->lazy_due = monotonic_ns() + LAZY_NS;
}

static void batch_free_lazy(struct batch *b)
{
	struct drop *drop, *drop_next;
	struct put *put, *put_next;

	cds_list_for_each_entry_safe (drop, drop_next, &b->drops, link)
		free(drop);
	cds_list_for_each_entry_safe (put, put_next, &b->puts, link)
		free(put);
}

/* Tells everyone; without the lock, as done() may come back to us. */
static void batch_tell(struct journal *j, struct batch *b, int err)
{
	uint64_t id = j->last_id - (err ? 0 : b->added);
	struct journal_req *req, *req_next;
	struct wait *wait, *wait_next;

	cds_list_for_each_entry_safe (req, req_next, &b->adds, link) {
		for (size_t i = 0; i < req->n && !err; i++)
			req->intents[i].id = ++id;
		req->done(req, err);
	}
	cds_list_for_each_entry_safe (wait, wait_next, &b->waits, link) {
		wait->ret = err;
		sem_post(&wait->sem);
	}
	cds_list_for_each_entry_safe (wait, wait_next, &b->queries, link) {
		wait->ret = err ? err : wait->query(wait, j->db);
		sem_post(&wait->sem);
	}
}

static void *journal_thread(void *arg)
{
	struct journal *j = arg;
	struct batch b;
	int err;

	pthread_mutex_lock(&j->lock);
	while (journal_wait_for_work(j)) {
		batch_take(j, &b);
		pthread_mutex_unlock(&j->lock);

		err = batch_commit(j, &b);

		pthread_mutex_lock(&j->lock);
		j->stats.queued -= b.queued;
		j->failed = err != 0;
		if (err) {
			j->stats.failed++;
			batch_requeue(j, &b);
		} else {
			j->stats.commits += b.added || b.dropped || b.bound ||
					    !cds_list_empty(&b.puts);
			j->stats.added += b.added;
			j->stats.done += b.dropped;
			if (b.bound)
				j->bound = b.bound;
		}
		pthread_mutex_unlock(&j->lock);

		if (!err)
			batch_free_lazy(&b);
		batch_tell(j, &b, err);
		journal_db_checkpoint(j->db);
		pthread_mutex_lock(&j->lock);
	}
	pthread_mutex_unlock(&j->lock);
	return NULL;
}

/* -- opening and closing ------------------------------------------------ */

static struct journal *journal_new(struct journal_db *db)
{
	struct journal *j = calloc(1, sizeof(*j));
	pthread_condattr_t attr;

	if (!j)
		return NULL;
	j->db = db;
	j->last_id = journal_db_last_id(db);
	j->created = journal_db_created(db);
	j->next = j->bound = journal_db_bound(db);
	CDS_INIT_LIST_HEAD(&j->adds);
	CDS_INIT_LIST_HEAD(&j->drops);
	CDS_INIT_LIST_HEAD(&j->puts);
	CDS_INIT_LIST_HEAD(&j->waits);
	CDS_INIT_LIST_HEAD(&j->queries);
	pthread_mutex_init(&j->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&j->wake, &attr);
	pthread_condattr_destroy(&attr);
	return j;
}

static void journal_free(struct journal *j)
{
	pthread_cond_destroy(&j->wake);
	pthread_mutex_destroy(&j->lock);
	free(j);
}

int journal_open(int dirfd, struct journal **ret_journal, char **ret_why)
{
	struct journal_db *db = NULL;
	struct journal *j;
	int ret;

	ret = journal_db_open(dirfd, &db, ret_why);
	if (ret)
		return ret;
	j = journal_new(db);
	ret = j ? thread_start(&j->thread, "tierfs-journal", journal_thread, j)
		: -ENOMEM;
	if (ret) {
		if (j)
			journal_free(j);
		journal_db_close(db);
		return fail_why(ret_why, ret,
				"journal.db: no memory or thread");
	}
	*ret_journal = j;
	return 0;
}

void journal_close(struct journal *j)
{
	struct batch left = {0};

	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	j->stop = true;
	pthread_cond_signal(&j->wake);
	pthread_mutex_unlock(&j->lock);
	pthread_join(j->thread, NULL);
	/* Lazy work whose last commit failed is left to recovery. */
	list_take(&j->drops, &left.drops);
	list_take(&j->puts, &left.puts);
	batch_free_lazy(&left);
	journal_db_close(j->db);
	journal_free(j);
}

bool journal_created(const struct journal *j)
{
	return j->created;
}

/* -- what others call --------------------------------------------------- */

void journal_add_async(struct journal *j, struct journal_req *req)
{
	pthread_mutex_lock(&j->lock);
	j->stats.queued += req->n;
	cds_list_add_tail(&req->link, &j->adds);
	pthread_cond_signal(&j->wake);
	pthread_mutex_unlock(&j->lock);
}

static void sync_add_done(struct journal_req *req, int err)
{
	struct sync_add *add = container_of(req, struct sync_add, req);

	add->err = err;
	sem_post(&add->sem);
}

int journal_add(struct journal *j, struct intent *intents, size_t n)
{
	struct sync_add add = {
		.req = {.intents = intents, .n = n, .done = sync_add_done},
	};

	assert(!pthread_equal(pthread_self(), j->thread));
	sem_init(&add.sem, 0, 0);
	journal_add_async(j, &add.req);
	sem_wait_full(&add.sem);
	sem_destroy(&add.sem);
	return add.err;
}

/* Lazy work was queued; the lock is held. */
static void journal_lazy(struct journal *j)
{
	if (j->lazy_due)
		return;
	j->lazy_due = monotonic_ns() + LAZY_NS;
	pthread_cond_signal(&j->wake);
}

void journal_done(struct journal *j, const uint64_t *ids, size_t n)
{
	struct drop *drop;

	if (!n)
		return;
	drop = malloc(sizeof(*drop) + n * sizeof(*ids));
	if (!drop)
		return; /* recovery finds them done */
	drop->n = n;
	memcpy(drop->ids, ids, n * sizeof(*ids));
	pthread_mutex_lock(&j->lock);
	cds_list_add_tail(&drop->link, &j->drops);
	journal_lazy(j);
	pthread_mutex_unlock(&j->lock);
}

void journal_put(struct journal *j, const char *key, const void *value,
		 size_t len)
{
	size_t key_len = strlen(key) + 1;
	struct put *put = malloc(sizeof(*put) + len + key_len);
	struct put *old;

	if (!put)
		return; /* the old value stays, as after a crash */
	put->key = put->value + len;
	put->len = len;
	if (len)
		memcpy(put->value, value, len);
	memcpy(put->key, key, key_len);
	pthread_mutex_lock(&j->lock);
	old = put_find(j, key);
	if (old)
		cds_list_del(&old->link);
	cds_list_add_tail(&put->link, &j->puts);
	journal_lazy(j);
	pthread_mutex_unlock(&j->lock);
	free(old);
}

static int journal_query(struct journal *j, struct wait *wait)
{
	assert(!pthread_equal(pthread_self(), j->thread));
	sem_init(&wait->sem, 0, 0);
	pthread_mutex_lock(&j->lock);
	cds_list_add_tail(&wait->link, &j->queries);
	pthread_cond_signal(&j->wake);
	pthread_mutex_unlock(&j->lock);
	sem_wait_full(&wait->sem);
	sem_destroy(&wait->sem);
	return wait->ret;
}

static int query_get(struct wait *wait, struct journal_db *db)
{
	return journal_db_get(db, wait->key, wait->value, wait->size);
}

int journal_get(struct journal *j, const char *key, void *ret, size_t size)
{
	struct wait wait = {
		.query = query_get,
		.key = key,
		.value = ret,
		.size = size,
	};

	return journal_query(j, &wait);
}

static int query_intents(struct wait *wait, struct journal_db *db)
{
	return journal_db_intents(db, &wait->intents, &wait->n);
}

int journal_intents(struct journal *j, struct intent **ret_intents,
		    size_t *ret_n)
{
	struct wait wait = {.query = query_intents};
	int ret = journal_query(j, &wait);

	if (ret)
		return ret;
	*ret_intents = wait.intents;
	*ret_n = wait.n;
	return 0;
}

int journal_alloc(struct journal *j, size_t n, uint64_t *ret_first)
{
	struct wait wait = {.ret = 0};
	bool waits;
	uint64_t first;

	assert(n > 0 && !pthread_equal(pthread_self(), j->thread));
	pthread_mutex_lock(&j->lock);
	if (j->next >= COUNT_MAX - 2 * BLOCK ||
	    n >= COUNT_MAX - 2 * BLOCK - j->next) {
		pthread_mutex_unlock(&j->lock);
		return -EOVERFLOW;
	}
	first = j->next;
	j->next += n;
	waits = j->next > j->bound;
	if (waits) {
		sem_init(&wait.sem, 0, 0);
		cds_list_add_tail(&wait.link, &j->waits);
		pthread_cond_signal(&j->wake);
	}
	pthread_mutex_unlock(&j->lock);
	if (waits) {
		sem_wait_full(&wait.sem);
		sem_destroy(&wait.sem);
	}
	if (!wait.ret)
		*ret_first = first;
	return wait.ret;
}

void journal_stats(struct journal *j, struct journal_stats *ret)
{
	pthread_mutex_lock(&j->lock);
	*ret = j->stats;
	pthread_mutex_unlock(&j->lock);
}
