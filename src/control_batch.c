/* SPDX-License-Identifier: MIT */
/*
 * Batches that nobody waits for, as they run.
 *
 * A batch is in batches.db before its asker is told. It is run by one of a few
 * threads, as a connection without a client that has the asker's user and
 * groups; every file is looked at with these rights when its turn comes. The
 * threads are started when there is work and end when there is none. Few of
 * them, for each has files at the tier, and the disk's order is best within one
 * batch; more than one, since a batch may wait for a target that hangs. A user
 * who is not root has two at most, so that root's own never wait for them.
 *
 * When the daemon stops, what is under way is cancelled as for any command;
 * the batch stays in batches.db as it is, and so it does when the daemon is
 * killed. Beginning again, each step that was taken is found to be so: as many
 * as were done before are still shown as done.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "control_int.h"
#include "log.h"
#include "util.h"

#define RUNNERS	     8
#define RUNNERS_REST 6 /* of all who are not root */
#define RUNNERS_USER 2 /* of one of them */
#define WAITING_MAX  10000
#define WAITING_USER 500
#define ITEMS	     256 /* paths that are read at once */

/* ---- batches that nobody waits for --------------------------------------------------- */

static const struct {
	const char *name;
	enum control_op op;
} batch_ops[] = {
	{"migrate", CONTROL_MIGRATE}, {"release", CONTROL_RELEASE},
	{"restore", CONTROL_RESTORE}, {"pin", CONTROL_PIN},
	{"unpin", CONTROL_UNPIN},     {"unkeep", CONTROL_UNKEEP},
};

/* The paths of a batch, one after another. */
static int run_items(struct control_cmd *cmd, const struct batch *batch)
{
	struct batch_item items[ITEMS];
	uint64_t first = 0;
	ssize_t n = 0;

	while (!cmd->stopping &&
	       (n = batch_items(cmd->control->parts->batches, batch->id, first,
				items, ITEMS)) > 0) {
		for (ssize_t i = 0; i < n && !cmd->stopping; i++) {
			move_named(cmd, items[i].path, items[i].as);
			if (i % 64 == 63)
				move_pump(cmd, 0);
		}
		batch_items_free(items, n);
		first += n;
	}
	return n < 0 ? (int)n : 0;
}

static void run_batch(struct control_conn *conn, struct control_job *job)
{
	struct control *control = conn->control;
	const struct batch *batch = &job->batch;
	struct control_cmd cmd = {
		.conn = conn,
		.control = control,
		.name = batch->op,
		.job = job,
		.recursive = batch->recursive,
		.release = batch->release,
		.limited = batch->budget != UINT64_MAX,
		.budget = batch->budget,
		.keep_until = batch->keep_until,
	};
	struct batch ended;
	char buf[96];
	int err;

	CDS_INIT_LIST_HEAD(&cmd.done);
	for (size_t i = 0; i < ARRAY_SIZE(batch_ops); i++) {
		if (!strcmp(batch_ops[i].name, batch->op))
			cmd.op = batch_ops[i].op;
	}
	if (cmd.limited)
		cmd.budget -= min_t(uint64_t, cmd.budget, job->before.moved);
	err = run_items(&cmd, batch);
	if (err)
		job_result(&cmd, "batches.db", "failed",
			   control_reason(err, buf), 0);
	move_finish(&cmd);
	list_free(&cmd);
	if (atomic_load(&control->stopping)) {
		job_note(&cmd);
		pthread_mutex_lock(&control->lock);
		job->event_fd = -1;
		pthread_mutex_unlock(&control->lock);
		return;
	}
	pthread_mutex_lock(&control->lock);
	job_ended(control, job, &ended);
	pthread_mutex_unlock(&control->lock);
	log_info("batch %llu (%s): %llu done, %llu already, %llu refused, "
		 "%llu failed%s",
		 (unsigned long long)ended.id, ended.op,
		 (unsigned long long)ended.counts.done,
		 (unsigned long long)ended.counts.already,
		 (unsigned long long)ended.counts.refused,
		 (unsigned long long)ended.counts.failed,
		 ended.state == BATCH_CANCELLED ? "; cancelled" : "");
	err = batch_end(control->parts->batches, &ended);
	if (err)
		log_warn("batch %llu: its end cannot be noted, the next mount "
			 "begins it again: %s",
			 (unsigned long long)ended.id, strerror(-err));
}

/* May this one begin now? control->lock is held. */
static bool may_run(struct control *control, const struct control_job *job)
{
	unsigned int rest = 0, user = 0;
	struct control_job *other;

	if (job->batch.uid == 0)
		return true;
	cds_list_for_each_entry (other, &control->jobs, link) {
		if (!other->detached || other->event_fd < 0)
			continue;
		rest += other->batch.uid != 0;
		user += other->batch.uid == job->batch.uid;
	}
	return rest < RUNNERS_REST && user < RUNNERS_USER;
}

/* The next to run, which is running then. control->lock is held. */
static struct control_job *next_batch(struct control *control, int event_fd)
{
	struct control_job *job;

	cds_list_for_each_entry (job, &control->jobs, link) {
		if (!job->detached || job->batch.ended_ns ||
		    job->event_fd >= 0 || !may_run(control, job))
			continue;
		job->event_fd = event_fd;
		job->samples[0].when = monotonic_ns();
		job->samples[0].done = 0;
		job->nsamples = 1;
		return job;
	}
	return NULL;
}

static void *runner_thread(void *arg)
{
	struct control *control = arg;
	struct control_conn *conn = conn_new(control, -1);
	struct control_job *job = NULL;

	do {
		pthread_mutex_lock(&control->lock);
		job = NULL;
		if (conn && !conn->broken && !atomic_load(&control->stopping))
			job = next_batch(control, conn->event_fd);
		if (!job) {
			control->nrunners--;
			pthread_cond_broadcast(&control->cond);
		}
		pthread_mutex_unlock(&control->lock);
		if (!job)
			break;
		conn->peer = (struct peer){
			.uid = job->batch.uid,
			.gid = job->batch.gid,
			.groups = job->batch.groups,
			.ngroups = job->batch.ngroups,
		};
		run_batch(conn, job);
		/* They are the batch's. */
		conn->peer = (struct peer){0};
	} while (true);
	/* Of control nothing is used any more: it may be gone. */
	if (conn)
		conn_free(conn);
	return NULL;
}

/* control->lock is held. */
static void start_runner(struct control *control)
{
	pthread_t thread;

	if (control->nrunners >= RUNNERS || atomic_load(&control->stopping))
		return;
	if (thread_start(&thread, "batch", runner_thread, control)) {
		if (!control->nrunners)
			log_warn("no thread for batches: they wait");
		return;
	}
	pthread_detach(thread);
	control->nrunners++;
}

bool batches_room(struct control *control, uid_t uid)
{
	unsigned int n = 0, user = 0;
	struct control_job *job;

	pthread_mutex_lock(&control->lock);
	cds_list_for_each_entry (job, &control->jobs, link) {
		if (!job->detached || job->batch.ended_ns)
			continue;
		n++;
		user += job->batch.uid == uid;
	}
	pthread_mutex_unlock(&control->lock);
	return n < WAITING_MAX && (uid == 0 || user < WAITING_USER);
}

static struct control_job *batch_job(struct batch *batch)
{
	struct control_job *job = calloc(1, sizeof(*job));

	if (!job) {
		batch_clear(batch);
		return NULL;
	}
	job->batch = *batch;
	job->detached = true;
	job->event_fd = -1;
	job->before = batch->counts;
	return job;
}

int batches_queue(struct control *control, struct batch *batch)
{
	struct control_job *job = batch_job(batch);

	if (!job)
		return -ENOMEM;
	job->batch.state = BATCH_WAITING;
	pthread_mutex_lock(&control->lock);
	cds_list_add_tail(&job->link, &control->jobs);
	start_runner(control);
	pthread_mutex_unlock(&control->lock);
	return 0;
}

static void load_one(void *arg, struct batch *batch)
{
	struct control *control = arg;
	struct control_job *job = batch_job(batch);

	if (!job)
		return;
	/* What was refused or failed is tried again. */
	if (!batch->ended_ns)
		memset(job->batch.reasons, 0, sizeof(job->batch.reasons));
	pthread_mutex_lock(&control->lock);
	cds_list_add_tail(&job->link, &control->jobs);
	pthread_mutex_unlock(&control->lock);
}

void batches_load(struct control *control)
{
	int err = batch_each(control->parts->batches, load_one, control);

	if (err)
		log_warn("batches.db: cannot be read: %s", strerror(-err));
}

void batches_start(struct control *control)
{
	struct control_job *job;
	unsigned int n = 0;

	pthread_mutex_lock(&control->lock);
	cds_list_for_each_entry (job, &control->jobs, link)
		n += !job->batch.ended_ns;
	for (unsigned int i = 0; i < min_t(unsigned int, n, RUNNERS); i++)
		start_runner(control);
	pthread_mutex_unlock(&control->lock);
	if (n)
		log_info("%u batches of an earlier mount go on", n);
}

void batches_forget(struct control *control)
{
	struct control_job *job, *next;

	cds_list_for_each_entry_safe (job, next, &control->jobs, link)
		job_free(job);
	CDS_INIT_LIST_HEAD(&control->jobs);
}
