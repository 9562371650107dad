/* SPDX-License-Identifier: MIT */
/*
 * What the policy does, for `tierctl status` and metrics, and a pass by hand on
 * the connection's thread, which may block: its files are sent as they are done.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "control_int.h"
#include "policy.h"
#include "util.h"

static const char *const strategies[] = {
	[STRATEGY_AGE] = "age",
	[STRATEGY_BURST] = "burst",
	[STRATEGY_HEAT] = "heat",
};

static json_t *moved_json(const struct policy_moved *moved)
{
	return json_pack("{s:I, s:I}", "files", (json_int_t)moved->files,
			 "bytes", (json_int_t)moved->bytes);
}

/* Seconds since the epoch; null for what is not. */
static json_t *time_json(int64_t ns)
{
	return ns && ns != INT64_MAX ? json_real((double)ns / NSEC_PER_SEC)
				     : json_null();
}

static json_t *held_json(const struct policy_status *status)
{
	json_t *ret = json_array();

	for (unsigned int i = 0; i < status->nheld; i++) {
		const struct policy_held *held = &status->held[i];

		json_array_append_new(
			ret,
			json_pack("{s:s, s:I, s:I}", "reason", held->reason,
				  "files", (json_int_t)held->files, "bytes",
				  (json_int_t)held->bytes));
	}
	return ret;
}

json_t *control_policy(struct control *control)
{
	struct policy_status status;
	_cleanup_free_ char *file = NULL;

	if (!control->policy)
		return json_null();
	policy_status(control->policy, &status);
	file = proto_utf8(status.file, NULL);
	return json_pack(
		"{s:s, s:s, s:s?, s:s, s:s, s:o, s:o, s:o, s:I, s:I, s:I, s:o, "
		"s:o, s:o, s:o}",
		"mode", status.automatic ? "auto" : "manual", "strategy",
		strategies[status.strategy], "rules",
		file && *file ? file : NULL, "doing",
		policy_doing_name(status.doing), "detail", status.detail,
		"migrated", moved_json(&status.migrated), "released",
		moved_json(&status.released), "restored",
		moved_json(&status.restored), "refused",
		(json_int_t)status.refused, "failed", (json_int_t)status.failed,
		"in_flight", (json_int_t)status.in_flight, "cannot_move",
		held_json(&status), "last_pass", time_json(status.last_pass),
		"next_due", time_json(status.next_due), "retry_at",
		time_json(status.retry_at));
}

/* ---- a pass by hand ----------------------------------------------------------- */

static const char *const ops[] = {
	[TIER_MIGRATE] = "migrate",
	[TIER_RELEASE] = "release",
	[TIER_MIGRATE_RELEASE] = "migrate-release",
	[TIER_RESTORE] = "restore",
};

static const char *const results[] = {
	[TIER_DONE] = "done",
	[TIER_ALREADY] = "already",
	[TIER_REFUSED] = "refused",
	[TIER_FAILED] = "failed",
};

struct pass {
	struct control_cmd *cmd;
	bool dry;
};

static void each(void *arg, const struct policy_done *done)
{
	struct pass *pass = arg;
	struct control_cmd *cmd = pass->cmd;
	_cleanup_free_ char *as = NULL;
	json_t *ret = json_object(), *rest;

	rest = json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:I}", "op",
			 ops[done->op], "cause", policy_cause_text(done->cause),
			 "rule", done->rule, "size", (json_int_t)done->size,
			 "result",
			 pass->dry ? "planned" : results[done->result],
			 "reason", pass->dry ? "" : done->reason, "bytes",
			 (json_int_t)(pass->dry ? 0 : done->bytes));
	if (asprintf(&as, "%s%s",
		     strcmp(cmd->control->mountpoint, "/")
			     ? cmd->control->mountpoint
			     : "",
		     done->path) < 0)
		as = NULL;
	if (ret && as)
		proto_set_path(ret, "path", as);
	json_object_update(ret, rest);
	json_decref(rest);
	if (!pass->dry && done->result >= TIER_REFUSED)
		cmd->failed = true;
	conn_result(cmd->conn, ret);
	cmd->files_done++;
	/* A long list goes out as it is made. */
	if (cmd->files_done % 64 == 0)
		move_pump(cmd, 0);
}

static bool stop(void *arg)
{
	struct pass *pass = arg;

	move_pump(pass->cmd, 0);
	return pass->cmd->stopping || pass->cmd->error[0];
}

bool control_policy_run(struct control_cmd *cmd, bool dry)
{
	struct pass pass = {.cmd = cmd, .dry = dry};
	const struct policy_runner runner = {
		.dry = dry, .each = each, .stop = stop, .arg = &pass};
	struct control_conn *conn = cmd->conn;
	const char *why = NULL;
	char buf[96];
	int err;

	if (!cmd->control->policy) {
		conn_end(conn, "failed", "there is no catalog");
		return true;
	}
	err = policy_run(cmd->control->policy, &runner);
	if (cmd->error[0])
		why = cmd->error;
	else if (err == -EBUSY)
		why = "a pass is under way already";
	else if (err < 0 && err != -ECANCELED)
		why = control_reason(err, buf);
	if (why) {
		conn_end(conn, "error", why);
		return false;
	}
	conn_end(conn, err < 0 || cmd->failed ? "failed" : "done",
		 err < 0    ? "interrupted"
		 : err == 1 ? "that was a part: there is more to do"
			    : "");
	return true;
}
