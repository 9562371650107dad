/* SPDX-License-Identifier: MIT */
/*
 * Jobs as people see them: what each command that moves data has come to, and
 * each batch that nobody waits for.
 *
 * A command is a job from its first path to its end, listed under an id of the
 * mover's numbers, so that `tierctl cancel` takes either. Its thread tells what
 * it has come to twice a second; the mover's own small jobs that work for it
 * are folded into it (control_status.c).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "cleanup.h"
#include "control_int.h"
#include "util.h"

#define NOTE_NS (3 * NSEC_PER_SEC)

void job_free(struct control_job *job)
{
	if (job)
		batch_clear(&job->batch);
	free(job);
}

/* ---- what a job has come to --------------------------------------------------- */

void job_enter(struct control_cmd *cmd)
{
	struct control_job *job = calloc(1, sizeof(*job));

	if (!job)
		return;
	job->batch.id = mover_next_id(cmd->control->parts->mover);
	job->batch.uid = cmd->conn->peer.uid;
	job->batch.state = BATCH_WAITING;
	snprintf(job->batch.op, sizeof(job->batch.op), "%s", cmd->name);
	job->event_fd = cmd->conn->event_fd;
	job->samples[0].when = monotonic_ns();
	job->nsamples = 1;
	cmd->job = job;
	pthread_mutex_lock(&cmd->control->lock);
	cds_list_add_tail(&job->link, &cmd->control->jobs);
	pthread_mutex_unlock(&cmd->control->lock);
}

void job_leave(struct control_cmd *cmd)
{
	struct control_job *job = cmd->job;

	if (!job)
		return;
	pthread_mutex_lock(&cmd->control->lock);
	cds_list_del(&job->link);
	pthread_mutex_unlock(&cmd->control->lock);
	cmd->job = NULL;
	job_free(job);
}

void job_named(struct control_cmd *cmd, const char *path)
{
	struct control_job *job = cmd->job;
	char *label = NULL;

	if (!job || job->detached)
		return;
	if (job->named == 0)
		label = strdup(path);
	pthread_mutex_lock(&cmd->control->lock);
	job->named++;
	if (label)
		job->batch.label = label;
	pthread_mutex_unlock(&cmd->control->lock);
}

/* What was done before this mount is found done again. */
static void count(struct control_job *job)
{
	const struct batch_counts *before = &job->before, *now = &job->now;
	uint64_t again = min_t(uint64_t, before->done, now->already);

	job->batch.counts = (struct batch_counts){
		.done = max_t(uint64_t, before->done, now->done + again),
		.already = now->already - again,
		.refused = now->refused,
		.failed = now->failed,
		.moved = before->moved + now->moved,
	};
}

static void keep_reason(struct batch *batch, const char *as, const char *reason)
{
	int at = 0;

	while (at < BATCH_REASONS && batch->reasons[at][0])
		at++;
	if (at == BATCH_REASONS) {
		memmove(batch->reasons[0], batch->reasons[1],
			sizeof(batch->reasons) - sizeof(batch->reasons[0]));
		at--;
	}
	/* The path may be cut, the reason not. */
	snprintf(
		batch->reasons[at], BATCH_REASON_LEN, "%.*s: %s",
		(int)max_t(int, 20, BATCH_REASON_LEN - 4 - (int)strlen(reason)),
		as, reason);
}

void job_result(struct control_cmd *cmd, const char *as, const char *result,
		const char *reason, uint64_t bytes)
{
	struct control_job *job = cmd->job;
	bool good = !strcmp(result, "done") || !strcmp(result, "already");

	/* What an end cuts off is nobody's failure. */
	if (!job || (cmd->stopping && !good))
		return;
	pthread_mutex_lock(&cmd->control->lock);
	if (!strcmp(result, "done"))
		job->now.done++;
	else if (good)
		job->now.already++;
	else if (!strcmp(result, "refused"))
		job->now.refused++;
	else if (!strcmp(result, "failed"))
		job->now.failed++;
	job->now.moved += bytes;
	if (!good && strcmp(result, "queued"))
		keep_reason(&job->batch, as, reason);
	count(job);
	pthread_mutex_unlock(&cmd->control->lock);
}

/* A copy that only has what batch_note() wants. */
void job_note(struct control_cmd *cmd)
{
	struct batch batch;

	pthread_mutex_lock(&cmd->control->lock);
	batch = cmd->job->batch;
	pthread_mutex_unlock(&cmd->control->lock);
	batch_note(cmd->control->parts->batches, &batch);
}

bool job_tick(struct control_cmd *cmd, uint64_t bytes_done)
{
	struct control_job *job = cmd->job;
	int64_t now = monotonic_ns();
	unsigned int at;
	bool ret;

	if (!job)
		return false;
	pthread_mutex_lock(&cmd->control->lock);
	job->files = cmd->files;
	job->files_done = cmd->files_done;
	job->bytes = cmd->bytes;
	job->bytes_done = bytes_done;
	job->complete = cmd->complete;
	at = job->nsamples++ % JOB_SAMPLES;
	job->samples[at].when = now;
	job->samples[at].done = bytes_done;
	ret = job->cancelled;
	pthread_mutex_unlock(&cmd->control->lock);
	if (job->detached && now >= cmd->next_note) {
		cmd->next_note = now + NOTE_NS;
		job_note(cmd);
	}
	return ret;
}

const char *job_why_ended(const struct control_cmd *cmd)
{
	bool cancelled = false;

	if (!cmd->stopping)
		return "";
	pthread_mutex_lock(&cmd->control->lock);
	if (cmd->job)
		cancelled = cmd->job->cancelled;
	pthread_mutex_unlock(&cmd->control->lock);
	return cancelled ? "cancelled" : "interrupted";
}

/* ---- the queue ------------------------------------------------------------------ */

static const char *job_state(const struct control_job *job)
{
	switch (job->batch.state) {
	case BATCH_DONE:
		return "done";
	case BATCH_FAILED:
		return "failed";
	case BATCH_CANCELLED:
		return "cancelled";
	default:
		return job->event_fd >= 0 ? "running" : "waiting";
	}
}

/* Of the last seconds. */
static double job_rate(const struct control_job *job)
{
	unsigned int n = job->nsamples;
	unsigned int last = (n - 1) % JOB_SAMPLES;
	unsigned int first = n > JOB_SAMPLES ? n % JOB_SAMPLES : 0;
	int64_t took;

	if (n < 2 || job->samples[last].done < job->samples[first].done)
		return 0;
	took = job->samples[last].when - job->samples[first].when;
	return took > 0 ? (double)(job->samples[last].done -
				   job->samples[first].done) *
				  NSEC_PER_SEC / took
			: 0;
}

static int set_path(json_t *obj, const struct control *control,
		    const struct control_job *job)
{
	const char *label = job->batch.label;
	char many[32];
	char *path = NULL;
	int err;

	if (job->named > 1 || !label) {
		snprintf(many, sizeof(many), "%llu files",
			 (unsigned long long)job->named);
		return proto_set_path(obj, "path", many);
	}
	if (label[0] != '/')
		return proto_set_path(obj, "path", label);
	if (asprintf(&path, "%s%s",
		     strcmp(control->mountpoint, "/") ? control->mountpoint
						      : "",
		     strcmp(label, "/") ? label : "") < 0)
		return -ENOMEM;
	err = proto_set_path(obj, "path", *path ? path : "/");
	free(path);
	return err;
}

static json_t *reasons_json(const struct batch *batch)
{
	json_t *ret = json_array();

	for (int i = 0; i < BATCH_REASONS && batch->reasons[i][0]; i++) {
		_cleanup_free_ char *text = proto_utf8(batch->reasons[i], NULL);

		json_array_append_new(ret, json_string(text ? text : ""));
	}
	return ret;
}

/* control->lock is held. */
static json_t *job_json(const struct control *control,
			const struct control_job *job)
{
	const struct batch *batch = &job->batch;
	const struct batch_counts *counts = &batch->counts;
	bool running = job->event_fd >= 0;
	double rate = running ? job_rate(job) : 0;
	uint64_t moved = job->before.moved, done = job->bytes_done + moved;
	/* What was named is known before what is found. */
	uint64_t bytes = max_t(uint64_t, job->bytes + moved, batch->bytes);
	uint64_t files = max_t(uint64_t, job->files, batch->files);
	json_t *ret, *more;

	if (job->complete) {
		bytes = job->bytes + moved;
		files = job->files;
	}
	if (batch->ended_ns)
		bytes = done = counts->moved;
	ret = json_pack(
		"{s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:o, s:s, s:s, "
		"s:s}",
		"id", (json_int_t)batch->id, "op", batch->op, "path", "",
		"target", "", "bytes", (json_int_t)bytes, "done",
		(json_int_t)done, "rate", (json_int_t)rate, "eta",
		job->complete && rate >= 1 && bytes >= done
			? json_integer((json_int_t)((bytes - done) / rate))
			: json_null(),
		"state", job_state(job), "priority", "asked", "mount", "");
	more = json_pack(
		"{s:b, s:I, s:I, s:I, s:b, s:{s:I, s:I, s:I, s:I}, s:o, s:i, "
		"s:i}",
		"batch", true, "uid", (json_int_t)batch->uid, "files",
		(json_int_t)files, "files_done", (json_int_t)job->files_done,
		"detached", job->detached, "results", "done",
		(json_int_t)counts->done, "already",
		(json_int_t)counts->already, "refused",
		(json_int_t)counts->refused, "failed",
		(json_int_t)counts->failed, "reasons", reasons_json(batch),
		"jobs_running", 0, "jobs_waiting", 0);
	if (more && batch->ended_ns)
		json_object_set_new(
			more, "ended",
			json_integer(batch->ended_ns / NSEC_PER_SEC));
	if (!ret || !more || json_object_update(ret, more) ||
	    set_path(ret, control, job) ||
	    proto_set_path(ret, "mount", control->mountpoint)) {
		json_decref(ret);
		ret = NULL;
	}
	json_decref(more);
	return ret;
}

json_t *jobs_json(struct control *control, bool all)
{
	struct control_job *job;
	json_t *ret = json_array();

	pthread_mutex_lock(&control->lock);
	cds_list_for_each_entry (job, &control->jobs, link) {
		if (all || !job->batch.ended_ns)
			json_array_append_new(ret, job_json(control, job));
	}
	pthread_mutex_unlock(&control->lock);
	return ret;
}

/* ---- its end --------------------------------------------------------------------- */

/* Ended ones beyond what is remembered. control->lock is held. */
static void forget_old(struct control *control)
{
	struct control_job *job, *next;
	unsigned int n = 0;

	cds_list_for_each_entry (job, &control->jobs, link)
		n += job->batch.ended_ns != 0;
	cds_list_for_each_entry_safe (job, next, &control->jobs, link) {
		if (n <= BATCH_ENDED_MAX)
			break;
		if (!job->batch.ended_ns)
			continue;
		cds_list_del(&job->link);
		job_free(job);
		n--;
	}
}

/* control->lock is held. *ret is what batch_end() wants. */
void job_ended(struct control *control, struct control_job *job,
	       struct batch *ret)
{
	struct batch *batch = &job->batch;

	batch->ended_ns = realtime_ns();
	if (job->cancelled)
		batch->state = BATCH_CANCELLED;
	else if (batch->counts.refused || batch->counts.failed)
		batch->state = BATCH_FAILED;
	else
		batch->state = BATCH_DONE;
	job->event_fd = -1;
	*ret = *batch;
	ret->label = NULL;
	ret->groups = NULL;
	forget_old(control);
}

static struct control_job *job_find(struct control *control, uint64_t id)
{
	struct control_job *job;

	cds_list_for_each_entry (job, &control->jobs, link) {
		if (job->batch.id == id && !job->batch.ended_ns)
			return job;
	}
	return NULL;
}

/* 0, -ESRCH: no such, or it has ended; -EPERM: another's; -errno: it is
 * cancelled until the next mount, for batches.db cannot be written. */
static int job_cancel(struct control_conn *conn, uint64_t id)
{
	struct control *control = conn->control;
	struct control_job *job;
	struct batch ended;
	bool waits = false;
	int err = 0;

	pthread_mutex_lock(&control->lock);
	job = job_find(control, id);
	if (!job) {
		err = -ESRCH;
	} else if (conn->peer.uid != 0 && conn->peer.uid != job->batch.uid) {
		err = -EPERM;
	} else {
		job->cancelled = true;
		waits = job->event_fd < 0;
		if (waits)
			job_ended(control, job, &ended);
		else
			eventfd_write(job->event_fd, 1);
	}
	pthread_mutex_unlock(&control->lock);
	return waits ? batch_end(control->parts->batches, &ended) : err;
}

/* May the peer cancel job id? Root may; who asked for it may, if nobody else
 * waits for the same job. */
static bool may_cancel(struct control_conn *conn, uint64_t id)
{
	struct control *control = conn->control;
	struct control_req *req;
	bool mine = false, others = false;

	if (conn->peer.uid == 0)
		return true;
	pthread_mutex_lock(&control->lock);
	cds_list_for_each_entry (req, &control->live, link) {
		if (req->job_id != id)
			continue;
		if (req->uid == conn->peer.uid)
			mine = true;
		else
			others = true;
	}
	pthread_mutex_unlock(&control->lock);
	return mine && !others;
}

void control_cancel(struct control_conn *conn, const json_t *obj)
{
	json_int_t id = json_integer_value(json_object_get(obj, "job"));
	const char *result = "done", *reason = "";
	int err = -ESRCH;
	char text[32], buf[96];

	snprintf(text, sizeof(text), "%lld", (long long)id);
	if (id > 0)
		err = job_cancel(conn, id);
	if (!err) {
		conn_file_result(conn, "cancel", text, result, reason, 0);
		conn_end(conn, "done", "");
		return;
	}
	if (err != -ESRCH && err != -EPERM) {
		result = "failed";
		reason = control_reason(err, buf);
	} else if (err == -EPERM || !may_cancel(conn, id)) {
		result = "refused";
		reason = "permission denied: not a job of yours";
	} else {
		if (id > 0)
			err = mover_cancel(conn->control->parts->mover, id);
		if (err) {
			result = "refused";
			reason = "no such job";
		}
	}
	conn_file_result(conn, "cancel", text, result, reason, 0);
	conn_end(conn, *reason ? "failed" : "done", "");
}
