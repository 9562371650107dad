/* SPDX-License-Identifier: MIT */
/*
 * tierctl check of a mounted front: check.c run on the connection's thread,
 * which may block, with findings sent as they come. One at a time, so that two
 * never repair the same.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cleanup.h"
#include "control_int.h"

#define HIDDEN "/" TIERFS_META_DIR "/"

/* Files as they are called through the mount; what it hides, as on the front. */
static void found(void *arg, const struct check_finding *finding)
{
	struct control_cmd *cmd = arg;
	struct control *control = cmd->control;
	struct check_finding named = *finding;
	_cleanup_free_ char *path = NULL;
	const char *top = control->mountpoint;

	if (!strncmp(finding->path, HIDDEN, strlen(HIDDEN)))
		top = control->parts->front->path;
	if (*finding->path &&
	    asprintf(&path, "%s%s%s", top, *finding->path == '/' ? "" : "/",
		     finding->path) < 0)
		path = NULL;
	if (path)
		named.path = path;
	conn_result(cmd->conn, proto_finding(&named));
}

static bool tick(void *arg, const struct check_totals *totals)
{
	struct control_cmd *cmd = arg;

	cmd->files_done = totals->files;
	cmd->bytes_done = totals->verified;
	if (cmd->files < cmd->files_done)
		cmd->files = cmd->files_done;
	move_pump(cmd, 0);
	return cmd->stopping;
}

/* Directories are not counted: it is for the progress alone. */
static uint64_t expected(struct control *control)
{
	struct tier_counts counts;
	int64_t files = 0;

	tier_counts(control->tier, &counts);
	for (int i = 0; i < SPILL_STATES; i++)
		files += counts.files[i];
	return files > 0 ? (uint64_t)files : 0;
}

bool control_check(struct control_cmd *cmd, bool repair, bool verify)
{
	struct control *control = cmd->control;
	const struct check_parts parts = {
		.front = control->parts->front,
		.targets = control->parts->targets,
		.journal = control->parts->journal,
		.tier = control->tier,
		.repair = repair,
		.verify = verify,
		.found = found,
		.tick = tick,
		.arg = cmd,
	};
	struct check_totals totals = {0};
	char buf[96];
	int err;

	if (atomic_exchange(&control->checking, true)) {
		conn_end(cmd->conn, "error", "a check is running already");
		return false;
	}
	cmd->files = expected(control);
	err = check_run(&parts, &totals);
	atomic_store(&control->checking, false);
	if (cmd->error[0] || (err && err != -ECANCELED)) {
		conn_end(cmd->conn, "error",
			 cmd->error[0] ? cmd->error : control_reason(err, buf));
		return false;
	}
	conn_end(cmd->conn,
		 err || totals.findings > totals.repaired ? "failed" : "done",
		 err ? "interrupted" : "");
	return true;
}
