/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "mover.h"
#include "util.h"

/* A job that notes when it ran, and may wait for a gate. */
struct job {
	struct mover_job job;
	sem_t *gate; /* run() waits for it */
	sem_t *started;
	bool until_cancelled; /* run() waits for ctl.cancelled */
	bool saw_cancelled;
	_Atomic(int) runs, cancels;
};

static struct mover_job *log_jobs[20000];
static _Atomic(unsigned int) log_n;
static _Atomic(int) frees;

static void job_run(struct mover_job *mjob)
{
	struct job *job = container_of(mjob, struct job, job);

	if (job->started)
		sem_post(job->started);
	if (job->gate)
		while (sem_wait(job->gate) < 0)
			;
	while (job->until_cancelled && !mjob->ctl.cancelled)
		usleep(100);
	job->saw_cancelled = mjob->ctl.cancelled;
	log_jobs[log_n++] = mjob;
	job->runs++;
}

static void job_free(struct mover_job *mjob)
{
	frees++; /* the test keeps it to look at */
}

static void job_cancel(struct mover_job *mjob)
{
	container_of(mjob, struct job, job)->cancels++;
}

static void job_init(struct job *job, enum mover_prio prio, uint64_t order)
{
	*job = (struct job){
		.job = {.op = "restore",
			.prio = prio,
			.order = order,
			.run = job_run,
			.free = job_free,
			.cancel = job_cancel,
			.refs = 1},
	};
}

static void submit(struct mover *m, struct job *job, enum mover_prio prio,
		   uint64_t order)
{
	job_init(job, prio, order);
	assert_int_equal(mover_submit(m, &job->job, NULL), 0);
}

/* Occupies a worker until gate is posted; returns when it does. */
static void block(struct mover *m, struct job *job, enum mover_prio prio,
		  uint64_t order, sem_t *gate)
{
	sem_t started;

	sem_init(&started, 0, 0);
	job_init(job, prio, order);
	job->gate = gate;
	job->started = &started;
	assert_int_equal(mover_submit(m, &job->job, NULL), 0);
	while (sem_wait(&started) < 0)
		;
	sem_destroy(&started);
}

static sem_t gate;

static int setup(void **state)
{
	sem_init(&gate, 0, 0);
	log_n = 0;
	frees = 0;
	return 0;
}

static int teardown(void **state)
{
	return sem_destroy(&gate);
}

static void finish(struct mover *m)
{
	mover_drain(m);
	mover_stop(m);
	mover_free(m);
}

static void wait_runs(struct job *job)
{
	for (int i = 0; i < 50000 && !job->runs; i++)
		usleep(100);
	assert_int_equal(job->runs, 1);
}

/* -- the queue ------------------------------------------------------------- */

static void test_queue(void **state)
{
	enum {
		KEYS = 40,
		ROUNDS = 200000
	};
	static struct mover_node nodes[KEYS][KEYS];
	static bool in[KEYS][KEYS];
	struct mover_queue queue = {0};
	unsigned int seed = 1;
	size_t count = 0;

	for (int i = 0; i < ROUNDS; i++) {
		int a = rand_r(&seed) % KEYS, b = rand_r(&seed) % KEYS;
		struct mover_node *got, *want = NULL;

		nodes[a][b].major = a;
		nodes[a][b].minor = b;
		if (in[a][b])
			mover_queue_remove(&queue, &nodes[a][b]);
		else
			mover_queue_insert(&queue, &nodes[a][b]);
		in[a][b] = !in[a][b];
		count += in[a][b] ? 1 : -1;
		assert_int_equal(queue.count, count);
		if (i % 16)
			continue;
		a = rand_r(&seed) % KEYS;
		b = rand_r(&seed) % KEYS;
		got = mover_queue_above(&queue, a, b);
		for (int k = a * KEYS + b + 1; k < KEYS * KEYS && !want; k++)
			if (in[k / KEYS][k % KEYS])
				want = &nodes[k / KEYS][k % KEYS];
		assert_ptr_equal(got, want);
	}
}

static unsigned int depth(const struct mover_node *node)
{
	unsigned int l, r;

	if (!node)
		return 0;
	l = depth(node->left);
	r = depth(node->right);
	return 1 + (l > r ? l : r);
}

static void test_queue_balanced(void **state)
{
	enum {
		N = 100000
	};
	struct mover_node *nodes = calloc(N, sizeof(*nodes));
	struct mover_queue queue = {0};

	assert_non_null(nodes);
	for (int i = 0; i < N; i++) { /* sorted: the worst for a plain tree */
		nodes[i].major = i;
		mover_queue_insert(&queue, &nodes[i]);
	}
	assert_true(depth(queue.root) < 60); /* log2 n: 17 */
	for (int i = 0; i < N; i += 2)
		mover_queue_remove(&queue, &nodes[i]);
	assert_true(depth(queue.root) < 60);
	free(nodes);
}

/* -- order ------------------------------------------------------------------ */

static void test_elevator(void **state)
{
	static const uint64_t orders[] = {300, 700, 100, 500, 900, 500,
					  0,   600, 200, 800, 400};
	static const uint64_t want[] = {500, 600, 700, 800, 900, 0,
					100, 200, 300, 400, 500, 500};
	struct job blocker, jobs[ARRAY_SIZE(orders)];
	struct mover_info *list;
	struct mover *m;
	size_t n;

	assert_int_equal(mover_start(0, 1, 0, &m), 0);
	block(m, &blocker, MOVER_RECALL, 500, &gate);
	for (size_t i = 0; i < ARRAY_SIZE(orders); i++)
		submit(m, &jobs[i], MOVER_RECALL, orders[i]);
	assert_int_equal(mover_list(m, &list, &n), 0);
	assert_int_equal(n, ARRAY_SIZE(want));
	assert_int_equal(list[0].id, blocker.job.id);
	assert_int_equal(list[1].id, jobs[7].job.id);
	assert_int_equal(list[5].id, jobs[6].job.id);
	free(list);
	sem_post(&gate);
	mover_drain(m);
	assert_int_equal(log_n, ARRAY_SIZE(want));
	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		assert_int_equal(log_jobs[i]->order, want[i]);
	finish(m);
	assert_int_equal(frees, ARRAY_SIZE(want));
}

/* Jobs for the place just taken come without end; others get their turn. */
struct again {
	struct mover_job job;
	struct mover *m;
	_Atomic(bool) *stop;
	_Atomic(int) *runs;
};

static void again_run(struct mover_job *mjob)
{
	struct again *job = container_of(mjob, struct again, job);
	struct again *next = malloc(sizeof(*next));

	(*job->runs)++;
	if (!next)
		return;
	*next = *job;
	memset(&next->job, 0, sizeof(next->job));
	next->job.run = mjob->run;
	next->job.free = mjob->free;
	next->job.order = mjob->order;
	next->job.refs = 1;
	if (*job->stop || mover_submit(job->m, &next->job, NULL))
		free(next);
}

static void again_free(struct mover_job *mjob)
{
	free(container_of(mjob, struct again, job));
}

static void test_no_starving(void **state)
{
	struct job low, blocker;
	_Atomic(bool) stop = false;
	_Atomic(int) runs = 0;
	struct mover *m;

	assert_int_equal(mover_start(0, 1, 0, &m), 0);
	block(m, &blocker, MOVER_RECALL, 7, &gate);
	for (int i = 0; i < 2; i++) { /* one waits while the other runs */
		struct again *job = calloc(1, sizeof(*job));

		assert_non_null(job);
		*job = (struct again){.job = {.run = again_run,
					      .free = again_free,
					      .order = 7,
					      .refs = 1},
				      .m = m,
				      .stop = &stop,
				      .runs = &runs};
		assert_int_equal(mover_submit(m, &job->job, NULL), 0);
	}
	submit(m, &low, MOVER_RECALL, 3);
	sem_post(&gate);
	wait_runs(&low);
	stop = true;
	finish(m);
	assert_true(runs > 0);
}

static void test_priorities(void **state)
{
	struct job blocker, idle, asked, recall;
	size_t queued[MOVER_PRIOS];
	struct mover *m;

	assert_int_equal(mover_start(0, 1, 0, &m), 0);
	block(m, &blocker, MOVER_IDLE, 0, &gate);
	submit(m, &idle, MOVER_IDLE, 1);
	submit(m, &asked, MOVER_ASKED, 2);
	submit(m, &recall, MOVER_RECALL, 3);
	mover_queued(m, queued);
	for (int i = 0; i < MOVER_PRIOS; i++)
		assert_int_equal(queued[i], 1);
	sem_post(&gate);
	mover_drain(m);
	assert_ptr_equal(log_jobs[1], &recall.job);
	assert_ptr_equal(log_jobs[2], &asked.job);
	assert_ptr_equal(log_jobs[3], &idle.job);
	finish(m);
}

static void test_recall_workers(void **state)
{
	struct job blocker, asked, idle, recall;
	struct mover *m;

	assert_int_equal(mover_start(1, 1, 0, &m), 0);
	block(m, &blocker, MOVER_ASKED, 0, &gate);
	submit(m, &asked, MOVER_ASKED, 0);
	submit(m, &idle, MOVER_IDLE, 0);
	submit(m, &recall, MOVER_RECALL, 0);
	wait_runs(&recall); /* by its own worker */
	usleep(20000);
	assert_int_equal(asked.runs + idle.runs + blocker.runs, 0);
	/* Cancelled, but still nothing for the recalls' worker. */
	assert_int_equal(mover_cancel(m, idle.job.id), 0);
	usleep(20000);
	assert_int_equal(idle.runs, 0);
	sem_post(&gate);
	finish(m);
	assert_int_equal(asked.runs + idle.runs + blocker.runs, 3);
}

/* Recalls take the other workers too. */
static void test_recalls_everywhere(void **state)
{
	struct job blocker, recall;
	struct mover *m;

	assert_int_equal(mover_start(1, 1, 0, &m), 0);
	block(m, &blocker, MOVER_RECALL, 0, &gate);
	submit(m, &recall, MOVER_RECALL, 0);
	wait_runs(&recall);
	sem_post(&gate);
	finish(m);
}

static void test_raise(void **state)
{
	struct job blocker, a, b, c;
	struct mover *m;

	assert_int_equal(mover_start(1, 1, 0, &m), 0);
	block(m, &blocker, MOVER_IDLE, 0, &gate);
	assert_true(blocker.job.ctl.idle);
	submit(m, &a, MOVER_IDLE, 1);
	job_init(&b, MOVER_IDLE, 2);
	mover_job_ref(m, &b.job);
	assert_int_equal(mover_submit(m, &b.job, NULL), 0);
	assert_true(b.job.ctl.idle);
	mover_raise(m, &b.job, MOVER_RECALL);
	assert_false(b.job.ctl.idle);
	wait_runs(&b);
	mover_raise(m, &b.job, MOVER_RECALL); /* done: nothing */
	mover_job_unref(m, &b.job);
	assert_int_equal(a.runs, 0);
	mover_raise(m, &blocker.job, MOVER_ASKED);
	assert_false(blocker.job.ctl.idle);
	mover_raise(m, &a.job, MOVER_IDLE); /* never lowers, or the same */
	sem_post(&gate);
	/* Who gives a job its number lets others see it before it is there. */
	job_init(&c, MOVER_IDLE, 0);
	c.job.id = mover_next_id(m);
	mover_raise(m, &c.job, MOVER_RECALL);
	assert_int_equal(mover_submit(m, &c.job, NULL), 0);
	finish(m);
	assert_int_equal(a.runs + c.runs, 2);
	assert_int_equal(frees, 4);
}

/* -- cancelling --------------------------------------------------------------- */

static void test_cancel_waiting(void **state)
{
	struct job blocker, a, b;
	struct mover *m;

	assert_int_equal(mover_start(0, 1, 0, &m), 0);
	block(m, &blocker, MOVER_RECALL, 0, &gate);
	submit(m, &a, MOVER_RECALL, 1);
	submit(m, &b, MOVER_IDLE, 2);
	assert_int_equal(mover_cancel(m, b.job.id), 0);
	assert_int_equal(mover_cancel(m, b.job.id), 0);
	mover_raise(m, &b.job, MOVER_ASKED);
	assert_int_equal(mover_cancel(m, 999), -ESRCH);
	sem_post(&gate);
	mover_drain(m);
	assert_ptr_equal(log_jobs[1], &b.job); /* first, to settle */
	assert_int_equal(b.runs, 1);
	assert_int_equal(b.cancels, 1);
	assert_true(b.saw_cancelled);
	assert_false(a.saw_cancelled);
	assert_int_equal(a.cancels, 0);
	assert_int_equal(mover_cancel(m, b.job.id), -ESRCH);
	finish(m);
	assert_int_equal(frees, 3);
}

static void test_cancel_running(void **state)
{
	sem_t started;
	struct job job;
	struct mover *m;

	sem_init(&started, 0, 0);
	assert_int_equal(mover_start(0, 1, 0, &m), 0);
	job_init(&job, MOVER_ASKED, 0);
	job.until_cancelled = true;
	job.started = &started;
	assert_int_equal(mover_submit(m, &job.job, NULL), 0);
	while (sem_wait(&started) < 0)
		;
	assert_int_equal(mover_cancel(m, job.job.id), 0);
	mover_drain(m);
	assert_int_equal(job.cancels, 1);
	assert_true(job.saw_cancelled);
	finish(m);
	assert_int_equal(frees, 1);
	sem_destroy(&started);
}

static void *stopper(void *arg)
{
	mover_stop(arg);
	return NULL;
}

static void test_stop(void **state)
{
	struct job blocker, waiting[50], late;
	struct mover *m;
	pthread_t thread;

	assert_int_equal(mover_start(1, 1, 0, &m), 0);
	block(m, &blocker, MOVER_ASKED, 0, &gate);
	for (int i = 0; i < 50; i++)
		submit(m, &waiting[i], MOVER_ASKED + i % 2, i);
	pthread_create(&thread, NULL, stopper, m);
	for (int i = 0; i < 50000 && !waiting[49].cancels; i++)
		usleep(100);
	assert_int_equal(waiting[49].cancels, 1);
	assert_int_equal(blocker.cancels, 0); /* it is waited for */
	job_init(&late, MOVER_RECALL, 0);
	assert_int_equal(mover_submit(m, &late.job, NULL), -ESHUTDOWN);
	assert_int_equal(late.job.refs, 1);
	sem_post(&gate);
	pthread_join(thread, NULL);
	assert_false(blocker.saw_cancelled);
	for (int i = 0; i < 50; i++) {
		assert_int_equal(waiting[i].runs, 1);
		assert_int_equal(waiting[i].cancels, 1);
		assert_true(waiting[i].saw_cancelled);
	}
	assert_int_equal(frees, 51);
	mover_job_unref(m, &late.job);
	assert_int_equal(frees, 52);
	mover_free(m);
}

static void test_refs_and_list(void **state)
{
	struct mover_info *list;
	struct job blocker, job;
	struct mover *m;
	size_t n;

	assert_int_equal(mover_start(1, 0, 0, &m), -EINVAL);
	assert_int_equal(mover_start(0, 1, 0, &m), 0);
	assert_int_equal(mover_list(m, &list, &n), 0);
	assert_int_equal(n, 0);
	free(list);
	block(m, &blocker, MOVER_IDLE, 0, &gate);
	job_init(&job, MOVER_ASKED, 5);
	job.job.path = "/a/b";
	job.job.bytes = 77;
	job.job.ctl.done = 11;
	strcpy(job.job.target, "hdd");
	mover_job_ref(m, &job.job);
	assert_int_equal(mover_submit(m, &job.job, NULL), 0);
	assert_int_equal(mover_list(m, &list, &n), 0);
	assert_int_equal(n, 2);
	assert_true(list[0].started_ns > 0);
	assert_string_equal(list[0].path, "");
	assert_int_equal(list[1].id, job.job.id);
	assert_string_equal(list[1].path, "/a/b");
	assert_string_equal(list[1].op, "restore");
	assert_string_equal(list[1].target, "hdd");
	assert_int_equal(list[1].bytes, 77);
	assert_int_equal(list[1].done, 11);
	assert_int_equal(list[1].started_ns, 0);
	assert_true(list[1].queued_ns > 0);
	free(list);
	sem_post(&gate);
	mover_drain(m);
	assert_int_equal(frees, 1);
	mover_job_unref(m, &job.job);
	assert_int_equal(frees, 2);
	finish(m);
}

/* -- all at once ----------------------------------------------------------------- */

#define CROWD 4
#define EACH  2500
static struct job crowd[CROWD][EACH];
static struct mover *crowd_mover;

static void *crowd_thread(void *arg)
{
	struct job *jobs = arg;
	unsigned int seed = jobs - crowd[0];
	struct mover_info *list;
	size_t n;

	for (int i = 0; i < EACH; i++) {
		struct mover_job *job = &jobs[i].job;
		uint64_t id;

		job_init(&jobs[i], rand_r(&seed) % MOVER_PRIOS,
			 rand_r(&seed) % 100);
		mover_job_ref(crowd_mover, job);
		if (mover_submit(crowd_mover, job, &id))
			return arg;
		if (rand_r(&seed) % 3 == 0)
			mover_cancel(crowd_mover, id - rand_r(&seed) % 10);
		if (rand_r(&seed) % 3 == 0)
			mover_raise(crowd_mover, job, MOVER_RECALL);
		if (i % 500 == 0) {
			if (mover_list(crowd_mover, &list, &n))
				return arg;
			free(list);
		}
		mover_job_unref(crowd_mover, job);
	}
	return NULL;
}

static void test_crowd(void **state)
{
	pthread_t threads[CROWD];
	void *ret;

	assert_int_equal(mover_start(2, 3, 0, &crowd_mover), 0);
	for (int i = 0; i < CROWD; i++)
		pthread_create(&threads[i], NULL, crowd_thread, crowd[i]);
	for (int i = 0; i < CROWD; i++) {
		pthread_join(threads[i], &ret);
		assert_null(ret);
	}
	mover_drain(crowd_mover);
	for (int i = 0; i < CROWD; i++)
		for (int k = 0; k < EACH; k++) {
			assert_int_equal(crowd[i][k].runs, 1);
			assert_true(crowd[i][k].cancels <= 1);
		}
	mover_stop(crowd_mover);
	assert_int_equal(frees, CROWD * EACH);
	mover_free(crowd_mover);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_queue),
		TEST(test_queue_balanced),
		TEST(test_elevator),
		TEST(test_no_starving),
		TEST(test_priorities),
		TEST(test_recall_workers),
		TEST(test_recalls_everywhere),
		TEST(test_raise),
		TEST(test_cancel_waiting),
		TEST(test_cancel_running),
		TEST(test_stop),
		TEST(test_refs_and_list),
		TEST(test_crowd),
	};

	return cmocka_run_group_tests_name("mover", tests, NULL, NULL);
}
