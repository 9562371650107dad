/* SPDX-License-Identifier: MIT */
/* Lanes: a target that hangs holds up its own jobs alone. */
#include <semaphore.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "mover.h"
#include "util.h"

struct job {
	struct mover_job job;
	sem_t *gate; /* run() waits for it */
};

static uint64_t orders[2][64]; /* of the lanes 1 and 2, as they ran */
static _Atomic(unsigned int) ran[3], began[3];

static struct mover *turns; /* jobs take turns of it */
static _Atomic(unsigned int) copying, most, copied;

/* Waits for its turn, and has it until the gate opens. */
static void take_turn(struct job *job)
{
	unsigned int now;

	mover_turn_begin(turns, &job->job);
	now = ++copying;
	if (now > most)
		most = now;
	if (job->gate)
		while (sem_wait(job->gate) < 0)
			;
	usleep(1000);
	copying--;
	copied++;
	mover_turn_end(turns, &job->job);
	mover_turn_end(turns, &job->job);
}

static void job_run(struct mover_job *mjob)
{
	struct job *job = container_of(mjob, struct job, job);
	unsigned int lane = mjob->lane, at;

	began[lane]++;
	if (turns)
		take_turn(job);
	else if (job->gate)
		while (sem_wait(job->gate) < 0)
			;
	/* Others of the lane may be here at the same time. */
	at = ran[lane]++;
	if (lane && at < ARRAY_SIZE(orders[0]))
		orders[lane - 1][at] = mjob->order;
}

static void job_free(struct mover_job *mjob)
{
	free(container_of(mjob, struct job, job));
}

static struct mover_job *submit(struct mover *m, enum mover_prio prio,
				unsigned int lane, uint64_t order, sem_t *gate)
{
	struct job *job = calloc(1, sizeof(*job));

	assert_non_null(job);
	job->gate = gate;
	job->job.run = job_run;
	job->job.free = job_free;
	job->job.prio = prio;
	job->job.lane = lane;
	job->job.order = order;
	job->job.refs = 2;
	assert_int_equal(mover_submit(m, &job->job, NULL), 0);
	return &job->job;
}

static void send(struct mover *m, enum mover_prio prio, unsigned int lane,
		 uint64_t order, sem_t *gate)
{
	mover_job_unref(m, submit(m, prio, lane, order, gate));
}

static void await(_Atomic(unsigned int) *count, unsigned int n)
{
	for (int i = 0; i < 100000 && *count < n; i++)
		usleep(100);
	assert_int_equal(*count, n);
}

static int setup(void **state)
{
	for (int i = 0; i < 3; i++)
		ran[i] = began[i] = 0;
	return 0;
}

/* All of lane 1 hang, more than there are workers; the others go on, of every
 * priority. */
static void test_hanging_lane(void **state)
{
	struct mover *m;
	size_t queued[MOVER_PRIOS];
	sem_t gate;

	sem_init(&gate, 0, 0);
	assert_int_equal(mover_start(2, 2, 2, &m), 0);
	for (int i = 0; i < 20; i++)
		send(m, i % 3, 1, i, &gate);
	await(&began[1], 4); /* two workers of each kind, and no more */
	for (int i = 0; i < 12; i++) {
		send(m, i % 3, 2, i, NULL);
		send(m, i % 3, 0, i, NULL);
	}
	await(&ran[2], 12);
	await(&ran[0], 12);
	assert_int_equal(began[1], 4);
	mover_queued(m, queued);
	assert_int_equal(queued[0] + queued[1] + queued[2], 16);
	for (int i = 0; i < 20; i++)
		sem_post(&gate);
	mover_drain(m);
	assert_int_equal(ran[1], 20);
	mover_stop(m);
	mover_free(m);
	sem_destroy(&gate);
}

/* Each lane has an elevator of its own. */
static void test_order_of_each(void **state)
{
	struct mover *m;
	sem_t gate;

	sem_init(&gate, 0, 0);
	assert_int_equal(mover_start(0, 1, 0, &m), 0);
	send(m, MOVER_ASKED, 0, 0, &gate);
	await(&began[0], 1);
	for (uint64_t i = 0; i < 20; i++) {
		send(m, MOVER_ASKED, 1, (i * 7) % 20, NULL);
		send(m, MOVER_ASKED, 2, 1000 + (i * 3) % 20, NULL);
	}
	sem_post(&gate);
	mover_drain(m);
	for (uint64_t i = 0; i < 20; i++) {
		assert_int_equal(orders[0][i], i);
		assert_int_equal(orders[1][i], 1000 + i);
	}
	mover_stop(m);
	mover_free(m);
	sem_destroy(&gate);
}

/* One of a lane and priority copies at a time. */
static void test_turns(void **state)
{
	struct mover_job *raised, *cancelled;
	struct mover *m;
	sem_t gate;

	sem_init(&gate, 0, 0);
	assert_int_equal(mover_start(0, 4, 1, &m), 0);
	turns = m;
	for (int i = 0; i < 40; i++)
		send(m, MOVER_ASKED, 1, i, NULL);
	mover_drain(m);
	assert_int_equal(copied, 40);
	assert_int_equal(most, 1);

	/* The background does not keep who is asked for waiting, nor that one
	 * what a client waits for, or becomes that, or is cancelled. */
	send(m, MOVER_IDLE, 1, 0, &gate);
	await(&copying, 1);
	send(m, MOVER_ASKED, 1, 1, &gate);
	await(&copying, 2);
	raised = submit(m, MOVER_ASKED, 1, 2, NULL);
	cancelled = submit(m, MOVER_ASKED, 1, 3, NULL);
	await(&began[1], 44);
	usleep(100000);
	assert_int_equal(copied, 40);
	mover_raise(m, raised, MOVER_RECALL);
	await(&copied, 41);
	assert_int_equal(mover_cancel(m, cancelled->id), 0);
	await(&copied, 42);
	send(m, MOVER_RECALL, 1, 4, NULL);
	await(&copied, 43);
	sem_post(&gate);
	sem_post(&gate);
	mover_drain(m);
	mover_job_unref(m, raised);
	mover_job_unref(m, cancelled);
	mover_stop(m);
	mover_free(m);
	sem_destroy(&gate);
	turns = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_hanging_lane, setup),
		cmocka_unit_test_setup(test_order_of_each, setup),
		cmocka_unit_test_setup(test_turns, setup),
	};

	return cmocka_run_group_tests_name("mover_lanes", tests, NULL, NULL);
}
