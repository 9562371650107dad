/* SPDX-License-Identifier: MIT */
/*
 * Waiting jobs are in one queue a priority and lane, ordered by (order, id). A
 * worker takes the first job above the order that was taken last there, and when
 * there is none begins again at the lowest: an elevator that goes one way, as
 * reading a disk backwards costs a turn for every file. Above means really
 * above: new jobs of the order that was just taken wait for the next round, so
 * however many come for one place, the others get their turn; and each round
 * ends, as orders do.
 *
 * Between priorities it is strict: background work waits while clients do.
 * Between the lanes of a priority it is in turns. Nothing can be done about a
 * worker that hangs with its target, so a lane has only its share of each kind
 * of workers; there is always one left for another lane, and one for what needs
 * no target, as releasing, on which the room on the front depends.
 *
 * A job that is cancelled while it waits moves to a list of those to settle,
 * which workers empty first: what they have left to do is quick, and someone
 * may wait for it. It stays with its priority's workers, so settling
 * background work never takes a recall's worker.
 *
 * Of those of a lane that run, one copies at a time (mover_turn_begin()). Two did
 * once, and by turns: restoring small files in their order, a disk had to seek
 * for three I/Os of four.
 *
 * All live jobs are in an index by id, for cancelling and listing.
 *
 * What can interleave: cancelling with the start or end of the job. Under the
 * mutex the job is in the index or not; while it is, cancelling takes a
 * reference, so job->cancel() may be told while run() runs or has just
 * returned, but not of a job that is freed.
 */
#include "mover.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "cleanup.h"
#include "util.h"

#define LOOK_NS (50 * 1000000LL)

struct mover {
	pthread_mutex_t lock;
	pthread_cond_t recall_wake; /* workers that serve recalls alone */
	pthread_cond_t wake;	    /* the others */
	pthread_cond_t idle;	    /* those who drain */
	pthread_cond_t turns;	    /* jobs that run and wait for one */

	/* Under lock. */
	struct mover_queue waiting[MOVER_PRIOS][MOVER_LANES];
	uint64_t last_order[MOVER_PRIOS][MOVER_LANES];
	unsigned int last_lane[MOVER_PRIOS];
	unsigned int running[2][MOVER_LANES]; /* by recall workers or not */
	unsigned int share[2];		      /* of a lane but 0; 0: no bound */
	struct cds_list_head settle[MOVER_PRIOS]; /* waiting, cancelled */
	size_t settling[MOVER_PRIOS];
	struct mover_job *turn[MOVER_PRIOS][MOVER_LANES];
	struct mover_queue index;
	uint64_t last_id;
	size_t busy; /* jobs that wait, run or are being let go of */
	bool stop;

	/* Only mover_start() and mover_stop(). */
	pthread_t *threads;
	unsigned int nthreads;
};

static struct mover_job *job_of_queue(struct mover_node *node)
{
	return node ? container_of(node, struct mover_job, queue) : NULL;
}

static struct mover_job *job_of_index(struct mover_node *node)
{
	return node ? container_of(node, struct mover_job, index) : NULL;
}

/* -- the queues; the lock is held ---------------------------------------- */

static void queue_job(struct mover *m, struct mover_job *job)
{
	if (job->told) {
		cds_list_add_tail(&job->link, &m->settle[job->prio]);
		m->settling[job->prio]++;
	} else {
		job->queue.major = job->order;
		job->queue.minor = job->id;
		mover_queue_insert(&m->waiting[job->prio][job->lane],
				   &job->queue);
	}
	/* A recall is for whoever is free; waking one in vain is cheap. */
	if (job->prio == MOVER_RECALL)
		pthread_cond_signal(&m->recall_wake);
	pthread_cond_signal(&m->wake);
}

static void unqueue_job(struct mover *m, struct mover_job *job)
{
	if (job->told) {
		cds_list_del(&job->link);
		m->settling[job->prio]--;
	} else {
		mover_queue_remove(&m->waiting[job->prio][job->lane],
				   &job->queue);
	}
}

/* What the elevator comes to after order, NULL when the queue is empty. */
static struct mover_job *elevator(struct mover_queue *queue, uint64_t order)
{
	struct mover_node *node = mover_queue_above(queue, order, UINT64_MAX);

	return job_of_queue(node ? node : mover_queue_above(queue, 0, 0));
}

/* May one more worker of its kind take a job of the lane? */
static bool lane_free(struct mover *m, unsigned int lane, bool recall)
{
	return lane == 0 || m->share[recall] == 0 ||
	       m->running[recall][lane] < m->share[recall];
}

static struct mover_job *next_of_prio(struct mover *m, unsigned int prio,
				      bool recall)
{
	for (unsigned int i = 1; i <= MOVER_LANES; i++) {
		unsigned int lane = (m->last_lane[prio] + i) % MOVER_LANES;
		struct mover_job *job;

		if (!m->waiting[prio][lane].count ||
		    !lane_free(m, lane, recall))
			continue;
		job = elevator(&m->waiting[prio][lane],
			       m->last_order[prio][lane]);
		m->last_order[prio][lane] = job->order;
		m->last_lane[prio] = lane;
		return job;
	}
	return NULL;
}

static struct mover_job *next_job(struct mover *m, enum mover_prio lowest)
{
	struct mover_job *job;

	for (unsigned int prio = 0; prio <= lowest; prio++) {
		if (cds_list_empty(&m->settle[prio]))
			continue;
		job = cds_list_first_entry(&m->settle[prio], struct mover_job,
					   link);
		return job;
	}
	for (unsigned int prio = 0; prio <= lowest; prio++) {
		job = next_of_prio(m, prio, lowest == MOVER_RECALL);
		if (job)
			return job;
	}
	return NULL;
}

static struct mover_job *take_job(struct mover *m, enum mover_prio lowest)
{
	struct mover_job *job = next_job(m, lowest);

	if (job) {
		unqueue_job(m, job);
		job->state = JOB_RUNNING;
		job->by_recall = lowest == MOVER_RECALL;
		job->started_ns = monotonic_ns();
		m->running[job->by_recall][job->lane]++;
	}
	return job;
}

/* A lane has room again: those asleep may have passed it over. */
static void leave_lane(struct mover *m, struct mover_job *job)
{
	m->running[job->by_recall][job->lane]--;
	if (job->lane && m->share[job->by_recall]) {
		pthread_cond_signal(&m->recall_wake);
		pthread_cond_signal(&m->wake);
	}
}

/* -- workers -------------------------------------------------------------- */

static void run_job(struct mover *m, struct mover_job *job)
{
	job->run(job);

	pthread_mutex_lock(&m->lock);
	job->state = JOB_DONE;
	leave_lane(m, job);
	mover_queue_remove(&m->index, &job->index);
	pthread_mutex_unlock(&m->lock);
	mover_job_unref(m, job);

	pthread_mutex_lock(&m->lock);
	if (--m->busy == 0)
		pthread_cond_broadcast(&m->idle);
	pthread_mutex_unlock(&m->lock);
}

static void work(struct mover *m, enum mover_prio lowest, pthread_cond_t *wake)
{
	struct mover_job *job;

	for (;;) {
		pthread_mutex_lock(&m->lock);
		while (!(job = take_job(m, lowest)) && !m->stop)
			pthread_cond_wait(wake, &m->lock);
		pthread_mutex_unlock(&m->lock);
		if (!job)
			return;
		run_job(m, job);
	}
}

static void *recall_worker(void *arg)
{
	struct mover *m = arg;

	work(m, MOVER_RECALL, &m->recall_wake);
	return NULL;
}

static void *worker(void *arg)
{
	struct mover *m = arg;

	work(m, MOVER_IDLE, &m->wake);
	return NULL;
}

/* -- starting and stopping ------------------------------------------------ */

int mover_start(unsigned int recall_workers, unsigned int workers,
		unsigned int lanes, struct mover **ret_mover)
{
	struct mover *m;
	int ret = 0;

	if (!workers)
		return -EINVAL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	if (lanes) {
		m->share[true] = recall_workers;
		m->share[false] = workers;
		recall_workers *= lanes;
		workers = workers * lanes + 1;
	}
	m->threads = calloc(recall_workers + workers, sizeof(*m->threads));
	if (!m->threads) {
		free(m);
		return -ENOMEM;
	}
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->recall_wake, NULL);
	pthread_cond_init(&m->wake, NULL);
	pthread_cond_init(&m->idle, NULL);
	pthread_cond_init(&m->turns, NULL);
	for (unsigned int prio = 0; prio < MOVER_PRIOS; prio++) {
		CDS_INIT_LIST_HEAD(&m->settle[prio]);
		/* Begins at the lowest. */
		for (unsigned int lane = 0; lane < MOVER_LANES; lane++)
			m->last_order[prio][lane] = UINT64_MAX;
	}
	for (unsigned int i = 0; i < recall_workers + workers && !ret; i++) {
		bool recall = i < recall_workers;

		ret = thread_start(&m->threads[i],
				   recall ? "tierfs-recall" : "tierfs-mover",
				   recall ? recall_worker : worker, m);
		if (!ret)
			m->nthreads++;
	}
	if (ret) {
		mover_stop(m);
		mover_free(m);
		return ret;
	}
	*ret_mover = m;
	return 0;
}

/* Cancels one job, which is in the index. Drops and takes the lock. */
static void cancel_job(struct mover *m, struct mover_job *job)
{
	bool waits = job->state == JOB_WAITING;

	if (job->told)
		return;
	job->ctl.cancelled = true;
	if (waits)
		unqueue_job(m, job);
	job->told = true;
	if (waits)
		queue_job(m, job);
	job->refs++;
	pthread_mutex_unlock(&m->lock);
	if (job->cancel)
		job->cancel(job);
	mover_job_unref(m, job);
	pthread_mutex_lock(&m->lock);
}

void mover_stop(struct mover *m)
{
	struct mover_job *job;
	uint64_t id = 0;

	pthread_mutex_lock(&m->lock);
	m->stop = true;
	while ((job = job_of_index(mover_queue_above(&m->index, id, 1)))) {
		id = job->id;
		if (job->state == JOB_WAITING)
			cancel_job(m, job);
	}
	pthread_cond_broadcast(&m->recall_wake);
	pthread_cond_broadcast(&m->wake);
	pthread_mutex_unlock(&m->lock);
	while (m->nthreads)
		pthread_join(m->threads[--m->nthreads], NULL);
}

void mover_free(struct mover *m)
{
	assert(!m->nthreads && !m->busy);
	pthread_cond_destroy(&m->turns);
	pthread_cond_destroy(&m->idle);
	pthread_cond_destroy(&m->wake);
	pthread_cond_destroy(&m->recall_wake);
	pthread_mutex_destroy(&m->lock);
	free(m->threads);
	free(m);
}

void mover_drain(struct mover *m)
{
	pthread_mutex_lock(&m->lock);
	while (m->busy)
		pthread_cond_wait(&m->idle, &m->lock);
	pthread_mutex_unlock(&m->lock);
}

/* -- jobs ------------------------------------------------------------------ */

uint64_t mover_next_id(struct mover *m)
{
	uint64_t id;

	pthread_mutex_lock(&m->lock);
	id = ++m->last_id;
	pthread_mutex_unlock(&m->lock);
	return id;
}

void mover_ids_after(struct mover *m, uint64_t id)
{
	pthread_mutex_lock(&m->lock);
	m->last_id = max_t(uint64_t, m->last_id, id);
	pthread_mutex_unlock(&m->lock);
}

int mover_submit(struct mover *m, struct mover_job *job, uint64_t *ret_id)
{
	assert(job->run && job->free && job->lane < MOVER_LANES);
	pthread_mutex_lock(&m->lock);
	assert(job->refs > 0 && job->prio < MOVER_PRIOS);
	if (m->stop) {
		pthread_mutex_unlock(&m->lock);
		return -ESHUTDOWN;
	}
	if (!job->id)
		job->id = ++m->last_id;
	job->state = JOB_WAITING;
	job->queued_ns = monotonic_ns();
	job->ctl.idle = job->prio == MOVER_IDLE;
	job->index.major = job->id;
	job->index.minor = 1;
	mover_queue_insert(&m->index, &job->index);
	m->busy++;
	if (ret_id)
		*ret_id = job->id;
	queue_job(m, job);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

void mover_raise(struct mover *m, struct mover_job *job, enum mover_prio prio)
{
	pthread_mutex_lock(&m->lock);
	if (prio < job->prio) {
		bool waits = job->state == JOB_WAITING;

		if (waits)
			unqueue_job(m, job);
		job->prio = prio;
		job->ctl.idle = false;
		if (waits)
			queue_job(m, job);
		pthread_cond_broadcast(&m->turns);
	}
	pthread_mutex_unlock(&m->lock);
}

/* -- turns ------------------------------------------------------------------ */

/* Who cancels a job by its ctl wakes nobody. */
static void await_turn(struct mover *m)
{
	struct timespec at = timespec_from_ns(realtime_ns() + LOOK_NS);

	pthread_cond_timedwait(&m->turns, &m->lock, &at);
}

void mover_turn_begin(struct mover *m, struct mover_job *job)
{
	pthread_mutex_lock(&m->lock);
	while (job->lane && job->prio != MOVER_RECALL &&
	       !atomic_load(&job->ctl.cancelled)) {
		struct mover_job **turn = &m->turn[job->prio][job->lane];

		if (!*turn) {
			*turn = job;
			job->turn = turn;
			break;
		}
		await_turn(m);
	}
	pthread_mutex_unlock(&m->lock);
}

void mover_turn_end(struct mover *m, struct mover_job *job)
{
	pthread_mutex_lock(&m->lock);
	if (job->turn) {
		*job->turn = NULL;
		job->turn = NULL;
		pthread_cond_broadcast(&m->turns);
	}
	pthread_mutex_unlock(&m->lock);
}

struct mover_job *mover_job_ref(struct mover *m, struct mover_job *job)
{
	pthread_mutex_lock(&m->lock);
	assert(job->refs > 0);
	job->refs++;
	pthread_mutex_unlock(&m->lock);
	return job;
}

void mover_job_unref(struct mover *m, struct mover_job *job)
{
	bool last;

	pthread_mutex_lock(&m->lock);
	assert(job->refs > 0);
	last = --job->refs == 0;
	pthread_mutex_unlock(&m->lock);
	if (last)
		job->free(job);
}

int mover_cancel(struct mover *m, uint64_t id)
{
	struct mover_job *job;
	int ret = 0;

	pthread_mutex_lock(&m->lock);
	job = job_of_index(mover_queue_above(&m->index, id, 0));
	if (job && job->id == id)
		cancel_job(m, job);
	else
		ret = -ESRCH;
	pthread_mutex_unlock(&m->lock);
	return ret;
}

/* -- looking ---------------------------------------------------------------- */

static void info_fill(struct mover_info *info, struct mover_job *job)
{
	*info = (struct mover_info){
		.id = job->id,
		.bytes = job->bytes,
		.done = job->ctl.done,
		.started_ns = job->started_ns,
		.queued_ns = job->queued_ns,
		.prio = job->prio,
	};
	snprintf(info->op, sizeof(info->op), "%s", job->op ? job->op : "");
	snprintf(info->path, sizeof(info->path), "%s",
		 job->path ? job->path : "");
	snprintf(info->target, sizeof(info->target), "%s", job->target);
}

/* Fills info with the jobs of one lane in the order they will be taken. */
static size_t list_lane(struct mover *m, unsigned int prio, unsigned int lane,
			struct mover_info *info)
{
	struct mover_queue *queue = &m->waiting[prio][lane];
	uint64_t major = m->last_order[prio][lane], minor = UINT64_MAX;
	struct mover_job *job;
	size_t n = 0;

	for (size_t i = 0; i < queue->count; i++) {
		job = job_of_queue(mover_queue_above(queue, major, minor));
		if (!job)
			job = job_of_queue(mover_queue_above(queue, 0, 0));
		info_fill(&info[n++], job);
		major = job->queue.major;
		minor = job->queue.minor;
	}
	return n;
}

static size_t list_waiting(struct mover *m, unsigned int prio,
			   struct mover_info *info)
{
	struct mover_job *job;
	size_t n = 0;

	cds_list_for_each_entry (job, &m->settle[prio], link)
		info_fill(&info[n++], job);
	for (unsigned int lane = 0; lane < MOVER_LANES; lane++)
		n += list_lane(m, prio, lane, &info[n]);
	return n;
}

int mover_list(struct mover *m, struct mover_info **ret_list, size_t *ret_n)
{
	_cleanup_free_ struct mover_info *list = NULL;
	struct mover_job *job;
	size_t n = 0, cap = 0;
	uint64_t id = 0;

	pthread_mutex_lock(&m->lock);
	while (cap < m->index.count || !list) {
		cap = m->index.count + 16;
		pthread_mutex_unlock(&m->lock);
		free(list);
		list = calloc(cap, sizeof(*list));
		if (!list)
			return -ENOMEM;
		pthread_mutex_lock(&m->lock);
	}
	while ((job = job_of_index(mover_queue_above(&m->index, id, 1)))) {
		id = job->id;
		if (job->state == JOB_RUNNING)
			info_fill(&list[n++], job);
	}
	for (unsigned int prio = 0; prio < MOVER_PRIOS; prio++)
		n += list_waiting(m, prio, &list[n]);
	pthread_mutex_unlock(&m->lock);
	*ret_list = steal_ptr(&list);
	*ret_n = n;
	return 0;
}

void mover_queued(struct mover *m, size_t ret[MOVER_PRIOS])
{
	pthread_mutex_lock(&m->lock);
	for (unsigned int prio = 0; prio < MOVER_PRIOS; prio++) {
		ret[prio] = m->settling[prio];
		for (unsigned int lane = 0; lane < MOVER_LANES; lane++)
			ret[prio] += m->waiting[prio][lane].count;
	}
	pthread_mutex_unlock(&m->lock);
}
