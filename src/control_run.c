/* SPDX-License-Identifier: MIT */
/*
 * Commands that move data, as the control server runs them.
 *
 * The connection's thread looks at the files, hands them to the tier in
 * batches, and takes up results in between: at most CONTROL_INFLIGHT files are
 * at the tier, so a command over millions takes the memory of a thousand.
 * Results come from the mover's workers, or from tier_submit() itself, through
 * control_req_done(): it moves the request to the command's list and wakes the
 * thread, both under the lock, since the thread may end the command as soon as
 * it sees the last one.
 *
 * Cancelling: a job may be shared with a client of the mount that waits, or
 * with another command; it is left alone then. A job may begin after it was
 * looked for, so a stopped command looks again until nothing of it is left.
 *
 * What is to be restored is collected first (control_list.c).
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "cleanup.h"
#include "control_int.h"
#include "log.h"
#include "util.h"

#define TICK_NS	 (500 * 1000000LL)
#define PATHS_NS (1000 * 1000000LL)

static const char *const result_names[] = {
	[TIER_DONE] = "done",
	[TIER_ALREADY] = "already",
	[TIER_REFUSED] = "refused",
	[TIER_FAILED] = "failed",
};

static void req_free(struct control_req *req)
{
	if (!req)
		return;
	node_unrefp(&req->req.node);
	free(req->path);
	free(req->as);
	free(req);
}

/* ---- results ------------------------------------------------------------------ */

void move_result(struct control_cmd *cmd, const char *as, const char *result,
		 const char *reason, uint64_t bytes)
{
	bool bad = !strcmp(result, "refused") || !strcmp(result, "failed");

	if (bad)
		cmd->failed = true;
	job_result(cmd, as, result, reason, bytes);
	if (cmd->conn->fd >= 0)
		conn_file_result(cmd->conn, cmd->name, as, result, reason,
				 bytes);
	else if (!strcmp(result, "failed"))
		log_info("%s of %s: %s", cmd->name, as, reason);
	else if (bad)
		log_debug("%s of %s: %s", cmd->name, as, reason);
}

void move_error(struct control_cmd *cmd, const char *as, int err)
{
	bool refused = err == -EACCES || err == -EPERM || err == -EXDEV;
	char buf[96];

	move_result(cmd, as, refused ? "refused" : "failed",
		    control_reason(err, buf), 0);
}

/* Its inode is another now: not before. */
static void req_keep(struct control_cmd *cmd, struct control_req *req)
{
	struct front_handle handle = node_handle(req->req.node);
	int err = batch_keep(cmd->control->parts->batches, &handle,
			     cmd->keep_until);

	if (err)
		move_error(cmd, req->as, err);
}

static void req_report(struct control_cmd *cmd, struct control_req *req)
{
	const struct tier_request *done = &req->req;

	cmd->files_done++;
	/* What was not moved is not counted as fast. */
	if (done->result == TIER_DONE)
		cmd->bytes_done += req->size;
	else
		cmd->bytes -= req->size;
	if (cmd->keep_until && done->result <= TIER_ALREADY)
		req_keep(cmd, req);
	move_result(cmd, req->as, result_names[done->result], done->reason,
		    done->bytes);
}

static void control_req_done(struct tier_request *treq)
{
	struct control_req *req = container_of(treq, struct control_req, req);
	struct control *control = req->control;
	struct control_cmd *cmd;

	pthread_mutex_lock(&control->lock);
	cds_list_del(&req->link);
	cmd = req->cmd;
	cds_list_add_tail(&req->link, &cmd->done);
	cmd->nlive--;
	eventfd_write(cmd->conn->event_fd, 1);
	pthread_mutex_unlock(&control->lock);
}

/* Reports what is done. Returns how many are still at the tier. */
static unsigned int take_done(struct control_cmd *cmd)
{
	struct control_req *req, *next;
	CDS_LIST_HEAD(done);
	unsigned int live;

	pthread_mutex_lock(&cmd->control->lock);
	cds_list_splice(&cmd->done, &done);
	CDS_INIT_LIST_HEAD(&cmd->done);
	live = cmd->nlive;
	pthread_mutex_unlock(&cmd->control->lock);
	cds_list_for_each_entry_safe (req, next, &done, link) {
		req_report(cmd, req);
		req_free(req);
	}
	return live;
}

/* ---- what runs: cancelling, progress ---------------------------------------------- */

int live_job_cmp(const void *a, const void *b)
{
	const struct live_job *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

size_t control_live_jobs(struct control *control, const struct control_cmd *cmd,
			 struct live_job **ret)
{
	struct control_req *req;
	struct live_job *jobs;
	size_t n = 0, to = 0;

	pthread_mutex_lock(&control->lock);
	cds_list_for_each_entry (req, &control->live, link)
		n++;
	jobs = calloc(n + 1, sizeof(*jobs));
	n = 0;
	if (jobs) {
		cds_list_for_each_entry (req, &control->live, link) {
			if (req->job_id)
				jobs[n++] = (struct live_job){
					.id = req->job_id,
					.bytes =
						req->cmd == cmd ? req->size : 0,
					.job = req->cmd->job
						       ? req->cmd->job->batch.id
						       : 0,
					.shared = req->cmd != cmd,
				};
		}
	}
	pthread_mutex_unlock(&control->lock);
	if (!jobs)
		return 0;
	qsort(jobs, n, sizeof(*jobs), live_job_cmp);
	for (size_t i = 0; i < n; i++) {
		if (to > 0 && jobs[to - 1].id == jobs[i].id) {
			jobs[to - 1].bytes += jobs[i].bytes;
			jobs[to - 1].shared |= jobs[i].shared;
		} else {
			jobs[to++] = jobs[i];
		}
	}
	*ret = jobs;
	return to;
}

/* Cancels what of cmd is at the tier. */
static void cancel_live(struct control_cmd *cmd)
{
	struct control *control = cmd->control;
	struct mover *mover = control->parts->mover;
	_cleanup_free_ struct mover_info *infos = NULL;
	_cleanup_free_ struct live_job *jobs = NULL;
	bool all = atomic_load(&control->stopping);
	size_t n = control_live_jobs(control, cmd, &jobs);
	size_t ninfos = 0;

	if (n == 0 || mover_list(mover, &infos, &ninfos))
		return;
	for (size_t i = 0; i < ninfos; i++) {
		struct live_job key = {.id = infos[i].id};
		struct live_job *job =
			bsearch(&key, jobs, n, sizeof(*jobs), live_job_cmp);

		if (!job)
			continue;
		if (all || (!job->shared && infos[i].prio != MOVER_RECALL))
			mover_cancel(mover, job->id);
	}
}

/* Bytes of the files that are not done, as far as their jobs have come. */
static uint64_t live_bytes(struct control_cmd *cmd)
{
	_cleanup_free_ struct mover_info *infos = NULL;
	_cleanup_free_ struct live_job *jobs = NULL;
	size_t n = control_live_jobs(cmd->control, cmd, &jobs);
	size_t ninfos = 0;
	uint64_t sum = 0;

	if (n == 0 || mover_list(cmd->control->parts->mover, &infos, &ninfos))
		return 0;
	for (size_t i = 0; i < ninfos; i++) {
		struct live_job key = {.id = infos[i].id};
		struct live_job *job =
			bsearch(&key, jobs, n, sizeof(*jobs), live_job_cmp);
		uint64_t before;

		if (!job || infos[i].bytes < job->bytes)
			continue;
		/* What the job did for files that are done came first. */
		before = infos[i].bytes - job->bytes;
		if (infos[i].done > before)
			sum += min_t(uint64_t, infos[i].done - before,
				     job->bytes);
	}
	return sum;
}

static void stop(struct control_cmd *cmd)
{
	if (!cmd->stopping)
		cmd->next_tick = 0;
	cmd->stopping = true;
}

static void tick(struct control_cmd *cmd)
{
	struct control_conn *conn = cmd->conn;
	int64_t now = monotonic_ns();
	uint64_t done = cmd->bytes_done;
	json_t *answer;

	if (now < cmd->next_tick)
		return;
	cmd->next_tick = now + TICK_NS;
	if (cmd->stopping)
		cancel_live(cmd);
	if (cmd->job || cmd->progress)
		done += live_bytes(cmd);
	if (job_tick(cmd, done))
		stop(cmd);
	if (!cmd->progress || conn->fd < 0 || conn->gone)
		return;
	answer = json_pack("{s:s, s:I, s:I, s:I, s:I, s:b}", "type", "progress",
			   "files", (json_int_t)cmd->files, "files_done",
			   (json_int_t)cmd->files_done, "bytes",
			   (json_int_t)cmd->bytes, "bytes_done",
			   (json_int_t)done, "complete", cmd->complete);
	conn_answer(conn, answer);
}

/* ---- the client while a command runs ------------------------------------------------- */

static void bad_line(struct control_cmd *cmd, const char *why)
{
	/* why may be cmd->error itself. */
	if (why != cmd->error)
		snprintf(cmd->error, sizeof(cmd->error), "%s", why);
	stop(cmd);
}

static void handle_line(struct control_cmd *cmd, const char *line, size_t len)
{
	json_t *obj;

	if (proto_parse(line, len, &obj, cmd->error)) {
		stop(cmd);
		return;
	}
	if (json_is_true(json_object_get(obj, "stop"))) {
		stop(cmd);
	} else if (!cmd->more) {
		bad_line(cmd, "a command is running: only stop is allowed");
	} else if (control_get_paths(obj, &cmd->paths, &cmd->more,
				     cmd->error)) {
		stop(cmd);
	} else if (!cmd->paths) {
		bad_line(cmd, "paths: missing");
	}
	json_decref(obj);
}

/* Lines are only taken when their paths can be: the rest stays in the socket,
 * so that a client cannot send faster than files are looked at. */
static bool wants_line(const struct control_cmd *cmd)
{
	const struct control_conn *conn = cmd->conn;

	return conn->fd >= 0 && !conn->gone && !conn->eof && !cmd->error[0] &&
	       (!cmd->paths || !cmd->more);
}

static void read_lines(struct control_cmd *cmd)
{
	struct control_conn *conn = cmd->conn;
	const char *line;
	size_t len;

	while (wants_line(cmd)) {
		int have = proto_next(&conn->lines, &line, &len);
		ssize_t n;

		if (have > 0) {
			handle_line(cmd, line, len);
			continue;
		}
		if (have < 0) {
			bad_line(cmd, "line too long");
			return;
		}
		n = proto_fill(&conn->lines, conn->fd);
		if (n == -EAGAIN)
			return;
		if (n < 0)
			conn->gone = true;
		if (n == 0)
			conn->eof = true;
	}
}

void move_pump(struct control_cmd *cmd, int timeout)
{
	struct control_conn *conn = cmd->conn;
	struct pollfd pfd[] = {{.fd = conn->event_fd, .events = POLLIN},
			       {.fd = conn->fd}};
	bool stopping = cmd->stopping, waiting = !cmd->paths;
	eventfd_t value;

	read_lines(cmd);
	/* What the caller waits for may have been here already. */
	if (cmd->stopping != stopping || (waiting && cmd->paths))
		timeout = 0;
	conn_flush(conn);
	if (wants_line(cmd))
		pfd[1].events = POLLIN;
	if (conn->gone)
		pfd[1].fd = -1;
	if (poll(pfd, 2, timeout) > 0) {
		if (pfd[0].revents)
			eventfd_read(conn->event_fd, &value);
		if (pfd[1].revents & (POLLHUP | POLLERR))
			conn->gone = true;
		if (pfd[1].revents & POLLIN)
			read_lines(cmd);
	}
	if ((conn->gone && conn->fd >= 0) ||
	    atomic_load(&cmd->control->stopping))
		stop(cmd);
	take_done(cmd);
	tick(cmd);
}

void move_each_path(struct control_cmd *cmd,
		    void (*each)(void *arg, struct control_cmd *cmd,
				 const json_t *value),
		    void *arg)
{
	json_t *value;
	size_t i;

	json_array_foreach(cmd->paths, i, value)
	{
		if (cmd->stopping)
			break;
		each(arg, cmd, value);
		if (i % 64 == 63)
			move_pump(cmd, 0);
	}
}

bool move_next_paths(struct control_cmd *cmd)
{
	int64_t until = monotonic_ns() + PATHS_NS;

	json_decref(cmd->paths);
	cmd->paths = NULL;
	while (cmd->more && !cmd->paths && !cmd->stopping) {
		if (cmd->conn->eof) {
			bad_line(cmd, "the paths end without a last line");
			break;
		}
		conn_idle(cmd->conn, true);
		move_pump(cmd, TICK_NS / 1000000);
		/* Who names files as results come is not kept waiting. */
		if (!cmd->limited && cmd->list && monotonic_ns() > until) {
			list_flush(cmd);
			move_submit(cmd);
		}
	}
	conn_idle(cmd->conn, false);
	return cmd->paths && !cmd->stopping;
}

/* ---- to the tier -------------------------------------------------------------------- */

static enum tier_op tier_op_of(const struct control_cmd *cmd)
{
	switch (cmd->op) {
	case CONTROL_MIGRATE:
		return cmd->release ? TIER_MIGRATE_RELEASE : TIER_MIGRATE;
	case CONTROL_RELEASE:
		return TIER_RELEASE;
	default:
		return TIER_RESTORE;
	}
}

/* Waits until cmd may have a batch more at the tier. */
static void wait_room(struct control_cmd *cmd)
{
	for (;;) {
		unsigned int live;

		pthread_mutex_lock(&cmd->control->lock);
		live = cmd->nlive;
		pthread_mutex_unlock(&cmd->control->lock);
		if (cmd->stopping || live + CONTROL_BATCH <= CONTROL_INFLIGHT)
			return;
		move_pump(cmd, TICK_NS / 1000000);
	}
}

/* The jobs' ids for others to see: the tier writes them without our lock. */
static void note_jobs(struct control_cmd *cmd, unsigned int n)
{
	pthread_mutex_lock(&cmd->control->lock);
	for (unsigned int i = 0; i < n; i++)
		cmd->batch[i]->job_id = cmd->batch[i]->req.job_id;
	pthread_mutex_unlock(&cmd->control->lock);
}

void move_submit(struct control_cmd *cmd)
{
	struct tier_request *reqs[CONTROL_BATCH];
	unsigned int n = cmd->nbatch;

	if (n == 0)
		return;
	wait_room(cmd);
	cmd->nbatch = 0;
	if (cmd->stopping) {
		for (unsigned int i = 0; i < n; i++) {
			move_result(cmd, cmd->batch[i]->as, "failed",
				    "interrupted", 0);
			req_free(cmd->batch[i]);
		}
		return;
	}
	pthread_mutex_lock(&cmd->control->lock);
	for (unsigned int i = 0; i < n; i++) {
		reqs[i] = &cmd->batch[i]->req;
		cds_list_add_tail(&cmd->batch[i]->link, &cmd->control->live);
	}
	cmd->nlive += n;
	pthread_mutex_unlock(&cmd->control->lock);
	tier_submit(cmd->control->tier, tier_op_of(cmd), MOVER_ASKED, reqs, n);
	note_jobs(cmd, n);
	move_pump(cmd, 0);
}

bool move_pending(struct control_cmd *cmd, const struct node *node)
{
	struct control_req *req;
	bool ret = false;

	for (unsigned int i = 0; i < cmd->nbatch; i++)
		ret = ret || cmd->batch[i]->req.node == node;
	if (ret)
		return true;
	pthread_mutex_lock(&cmd->control->lock);
	cds_list_for_each_entry (req, &cmd->control->live, link) {
		if (req->req.node == node && req->cmd == cmd)
			ret = true;
	}
	pthread_mutex_unlock(&cmd->control->lock);
	return ret;
}

/* Puts a file into the batch; takes over the reference to node. */
void move_add(struct control_cmd *cmd, struct node *node, uint64_t size,
	      const char *path, const char *as)
{
	struct control_req *req = calloc(1, sizeof(*req));

	if (req) {
		req->control = cmd->control;
		req->cmd = cmd;
		req->uid = cmd->conn->peer.uid;
		req->size = size;
		req->path = strdup(path);
		req->as = strdup(as);
		req->req.node = node;
		req->req.path = req->path;
		req->req.done = control_req_done;
	}
	if (!req || !req->path || !req->as) {
		if (req)
			req_free(req);
		else
			node_unref(node);
		move_error(cmd, as, -ENOMEM);
		return;
	}
	cmd->files++;
	cmd->bytes += size;
	cmd->batch[cmd->nbatch++] = req;
	if (cmd->nbatch == CONTROL_BATCH)
		move_submit(cmd);
}

static void keep_sync(struct control_cmd *cmd)
{
	int err = batch_keep_sync(cmd->control->parts->batches);

	if (err)
		move_error(cmd, "keep", err);
}

void move_finish(struct control_cmd *cmd)
{
	bool live = true;

	/* All is found; but what a budget has room for is counted only now. */
	cmd->complete = !cmd->limited;
	list_flush(cmd);
	cmd->complete = true;
	move_submit(cmd);
	while (live) {
		pthread_mutex_lock(&cmd->control->lock);
		live = cmd->nlive > 0 || !cds_list_empty(&cmd->done);
		pthread_mutex_unlock(&cmd->control->lock);
		if (live)
			move_pump(cmd, TICK_NS / 1000000);
	}
	if (cmd->keep_until || cmd->op == CONTROL_UNKEEP)
		keep_sync(cmd);
}
