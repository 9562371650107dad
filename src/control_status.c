/* SPDX-License-Identifier: MIT */
/*
 * What the daemon knows, as the objects of `tierctl --json`. Nothing here
 * touches a target: usage and state of targets are as last seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "control_int.h"
#include "log.h"
#include "oid.h"
#include "util.h"

/* json_pack() with "o" frees what it was given when it fails; so each function
 * here returns a new reference or NULL, and NULL passes up. */

static json_t *text(const char *bytes)
{
	_cleanup_free_ char *utf8 = proto_utf8(bytes, NULL);

	return utf8 ? json_string(utf8) : NULL;
}

static json_t *capabilities(unsigned int caps)
{
	static const struct {
		unsigned int cap;
		const char *name;
	} names[] = {
		{TARGET_CAP_RANGE_READ, "range_read"},
		{TARGET_CAP_SPARSE, "sparse"},
		{TARGET_CAP_XATTR, "xattr"},
		{TARGET_CAP_SEEK_ORDER, "seek_order"},
		{TARGET_CAP_DIRECT, "direct"},
	};
	json_t *ret = json_array();

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (caps & names[i].cap)
			json_array_append_new(ret, json_string(names[i].name));
	}
	return ret;
}

static json_t *target_json(struct tier *tier, unsigned int number)
{
	struct target *target = tier_target(tier, (uint8_t)number);
	struct target_usage usage = {0};
	enum target_condition condition;
	char why[256] = "", failure[256] = "";
	int64_t retry;
	size_t deletes = tier_stale_count(tier, (uint8_t)number, &retry);
	json_t *ret;

	condition = target_condition(target, why, sizeof(why));
	target_failure(target, failure, sizeof(failure));
	target_usage(target, &usage);
	ret = json_pack("{s:s, s:o, s:b, s:s, s:I, s:I, s:I, s:o}", "name",
			target_name(target), "path", text(target_path(target)),
			"online", condition != TARGET_OFFLINE, "condition",
			target_condition_name(condition), "bytes",
			(json_int_t)usage.bytes, "used", (json_int_t)usage.used,
			"deletes", (json_int_t)deletes, "capabilities",
			capabilities(target_caps(target)));
	if (ret && condition != TARGET_OK)
		json_object_set_new(ret, "why", text(why));
	if (ret && *failure)
		json_object_set_new(ret, "last_error", text(failure));
	/* Put off after failures. */
	if (ret && retry)
		json_object_set_new(
			ret, "retry",
			json_integer((json_int_t)(retry / NSEC_PER_SEC + 1)));
	return ret;
}

static json_t *targets_json(struct tier *tier)
{
	const struct tier_parts *parts = tier_parts(tier);
	json_t *ret = json_array();

	for (unsigned int i = 0; i < parts->ntargets; i++) {
		if (parts->targets[i])
			json_array_append_new(ret, target_json(tier, i));
	}
	return ret;
}

static json_t *states_json(struct tier *tier)
{
	struct tier_counts counts;
	json_t *ret = json_object();

	tier_counts(tier, &counts);
	for (int i = 0; i < SPILL_STATES; i++)
		json_object_set_new(ret, spill_state_name(i),
				    json_pack("{s:I, s:I}", "files",
					      (json_int_t)counts.files[i],
					      "bytes",
					      (json_int_t)counts.bytes[i]));
	return ret;
}

static json_t *queues_json(struct mover *mover)
{
	size_t n[MOVER_PRIOS] = {0};

	mover_queued(mover, n);
	return json_pack("{s:I, s:I, s:I}", "recall",
			 (json_int_t)n[MOVER_RECALL], "asked",
			 (json_int_t)n[MOVER_ASKED], "idle",
			 (json_int_t)n[MOVER_IDLE]);
}

static json_t *errors_json(void)
{
	static const char *const levels[] = {
		[LOG_LEVEL_ERROR] = "error",
		[LOG_LEVEL_WARN] = "warning",
	};
	_cleanup_free_ struct log_kept *kept = calloc(LOG_KEEP, sizeof(*kept));
	size_t n = kept ? log_last(kept, LOG_KEEP) : 0;
	json_t *ret = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(
			ret,
			json_pack("{s:f, s:s, s:o}", "time",
				  (double)kept[i].when / NSEC_PER_SEC, "level",
				  kept[i].level <= LOG_LEVEL_WARN
					  ? levels[kept[i].level]
					  : "info",
				  "text", text(kept[i].text)));
	return ret;
}

static json_t *front_json(struct tier *tier)
{
	const struct tier_parts *parts = tier_parts(tier);
	const struct tier_tunables *tune = tier_tunables(tier);
	uint64_t used = 0, avail = 0;
	double high, low;

	front_usage(parts->front, &used, &avail);
	tier_watermarks(tune, used + avail, &high, &low);
	return json_pack(
		"{s:o, s:I, s:I, s:f, s:f, s:f, s:f}", "path",
		text(parts->front->path), "bytes", (json_int_t)(used + avail),
		"used", (json_int_t)used, "high", high, "low", low, "high_set",
		atomic_load(&tune->high), "low_set", atomic_load(&tune->low));
}

/* What the rules of recall decided, since they are there. */
static json_t *recall_json(struct tier *tier)
{
	struct recall_rules *rules = tier_rules(tier, NULL);
	json_t *ret = json_array();

	for (size_t i = 0; i < recall_rules_n(rules); i++) {
		struct recall_info info;

		recall_rules_info(rules, i, &info);
		json_array_append_new(
			ret,
			json_pack("{s:s, s:o, s:i, s:s, s:I, s:I}", "name",
				  info.name, "file", text(info.file), "line",
				  (int)info.line, "action",
				  recall_action_name(info.action), "opens",
				  (json_int_t)info.counts[RECALL_OPENS],
				  "refused",
				  (json_int_t)info.counts[RECALL_REFUSED]));
	}
	recall_rules_unref(rules);
	return ret;
}

/* Of restores that nobody asked for: bytes of a day, and those not begun. */
static json_t *restores_json(struct tier *tier)
{
	struct tier_own_restores own;

	tier_own_restores(tier, &own);
	return json_pack(
		"{s:o, s:I, s:I, s:I}", "budget",
		own.limit ? json_integer((json_int_t)own.limit) : json_null(),
		"used", (json_int_t)own.used, "over_budget",
		(json_int_t)own.no_budget, "no_room", (json_int_t)own.no_room);
}

json_t *control_status(struct control *control)
{
	const struct tier_parts *parts = control->parts;
	bool passthrough;
	char why[sizeof(control->passthrough_why)];
	json_t *ret;

	pthread_mutex_lock(&control->lock);
	passthrough = control->passthrough;
	strcpy(why, control->passthrough_why);
	pthread_mutex_unlock(&control->lock);
	ret = json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:b, s:b, s:o, s:o}",
			"mount", text(control->mountpoint), "name",
			parts->config->name, "front", front_json(control->tier),
			"states", states_json(control->tier), "targets",
			targets_json(control->tier), "queues",
			queues_json(parts->mover), "passthrough", passthrough,
			"io_uring", control->io_uring, "catalog",
			control_catalog(control), "errors", errors_json());
	if (ret && !passthrough)
		json_object_set_new(ret, "why", text(why));
	if (ret && !control->io_uring)
		json_object_set_new(ret, "io_uring_why",
				    text(control->io_uring_why));
	if (ret) {
		json_object_set_new(ret, "restores",
				    restores_json(control->tier));
		json_object_set_new(ret, "recall", recall_json(control->tier));
		json_object_set_new(ret, "policy", control_policy(control));
	}
	return ret;
}

/* Once: whoever looks at a mountpoint by its path holds the mount, and umount(8)
 * meanwhile fails. Without asking the file system, which is us. */
void control_find_device(struct control *control)
{
	struct statx stx;

	if (!statx(AT_FDCWD, control->mountpoint,
		   AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW,
		   STATX_TYPE, &stx))
		snprintf(control->device, sizeof(control->device), "%u:%u",
			 stx.stx_dev_major, stx.stx_dev_minor);
}

json_t *control_hello(struct control *control)
{
	json_t *ret;

	ret = json_pack("{s:i, s:s, s:s, s:s}", "version", CONTROL_VERSION,
			"daemon", TIERFS_VERSION, "name",
			control->parts->config->name, "device",
			control->device);
	if (ret && proto_set_path(ret, "mount", control->mountpoint)) {
		json_decref(ret);
		return NULL;
	}
	return ret;
}

/* ---- files ------------------------------------------------------------------- */

static json_t *copies_json(struct control *control,
			   const struct tier_file_status *status)
{
	json_t *ret = json_array();

	for (unsigned int i = 0; i < status->ncopies; i++) {
		const struct spill_copy *copy = &status->copies[i];
		struct target *target =
			tier_target(control->tier, copy->target);
		char path[PATH_MAX] = "", oid[OID_HEX_LEN], number[16];
		json_t *obj = json_object();

		oid_hex(copy->oid, oid);
		snprintf(number, sizeof(number), "#%u", copy->target);
		if (target)
			target_object_path(target, copy->oid, path,
					   sizeof(path));
		json_object_set_new(
			obj, "target",
			json_string(target ? target_name(target) : number));
		json_object_set_new(obj, "oid", json_string(oid));
		proto_set_path(obj, "object", path);
		json_array_append_new(ret, obj);
	}
	return ret;
}

static const char *type_name(mode_t mode)
{
	if (S_ISREG(mode))
		return "file";
	if (S_ISDIR(mode))
		return "directory";
	return S_ISLNK(mode) ? "symlink" : "special";
}

json_t *control_file_status(struct control *control, struct node *node,
			    const char *as, int *ret_err)
{
	struct tier_file_status status = {.state = SPILL_NONE};
	struct front_handle handle;
	json_t *ret, *rest;
	int64_t kept;
	struct stat st;
	int err;

	err = tier_getattr(control->tier, node, &st, NULL);
	if (!err && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
		err = tier_file_status(control->tier, node, &status);
	if (err) {
		*ret_err = err;
		return NULL;
	}
	if (!S_ISREG(st.st_mode)) {
		status.size = st.st_size;
		status.front_bytes = st.st_blocks * 512;
	}
	rest = json_pack(
		"{s:s, s:s, s:I, s:I, s:b, s:i, s:o}", "type",
		type_name(st.st_mode), "state", spill_state_name(status.state),
		"size", (json_int_t)status.size, "front_bytes",
		(json_int_t)status.front_bytes, "pinned", status.pinned, "open",
		(int)status.open, "copies", copies_json(control, &status));
	handle = node_handle(node);
	kept = batch_kept_until(control->parts->batches, &handle);
	if (rest && kept)
		json_object_set_new(rest, "kept_until",
				    json_integer(kept / NSEC_PER_SEC));
	if (rest && status.damaged)
		json_object_set_new(rest, "damaged", json_true());
	ret = json_object();
	if (!ret || proto_set_path(ret, "path", as) ||
	    json_object_update(ret, rest)) {
		json_decref(ret);
		ret = NULL;
		*ret_err = -ENOMEM;
	}
	json_decref(rest);
	return ret;
}

/* ---- the queue ------------------------------------------------------------------ */

static json_t *job_json(const struct control *control,
			const struct mover_info *info, int64_t now)
{
	int64_t ran = info->started_ns ? now - info->started_ns : 0;
	double rate = ran > 0 ? (double)info->done * NSEC_PER_SEC / ran : 0;
	uint64_t left = info->bytes > info->done ? info->bytes - info->done : 0;
	static const char *const prios[] = {"recall", "asked", "idle"};
	char path[PATH_MAX];
	json_t *ret;

	/* Paths of jobs are below the root; people know the mount's. */
	snprintf(path, sizeof(path), "%s%s",
		 info->path[0] == '/' && strcmp(control->mountpoint, "/")
			 ? control->mountpoint
			 : "",
		 info->path);
	ret = json_pack(
		"{s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:o, s:s, s:s, s:o}", "id",
		(json_int_t)info->id, "op", info->op, "path", "", "target",
		info->target, "bytes", (json_int_t)info->bytes, "done",
		(json_int_t)info->done, "rate", (json_int_t)rate, "eta",
		rate >= 1 ? json_integer((json_int_t)(left / rate))
			  : json_null(),
		"state", info->started_ns ? "running" : "waiting", "priority",
		prios[info->prio], "mount", text(control->mountpoint));
	if (ret && proto_set_path(ret, "path", path)) {
		json_decref(ret);
		return NULL;
	}
	return ret;
}

/* A job of the mover's that works for one that is listed: it is counted there.
 * False: for none. */
static bool fold(json_t *jobs, uint64_t id, const struct mover_info *info)
{
	const char *key = info->started_ns ? "jobs_running" : "jobs_waiting";
	json_t *job;
	size_t i;

	json_array_foreach(jobs, i, job)
	{
		if ((uint64_t)json_integer_value(json_object_get(job, "id")) !=
		    id)
			continue;
		json_object_set_new(
			job, key,
			json_integer(
				json_integer_value(json_object_get(job, key)) +
				1));
		/* Of several, any. */
		if (info->target[0])
			json_object_set_new(job, "target",
					    json_string(info->target));
		return true;
	}
	return false;
}

json_t *control_queue(struct control *control, bool all)
{
	_cleanup_free_ struct mover_info *infos = NULL;
	_cleanup_free_ struct live_job *live = NULL;
	json_t *jobs = jobs_json(control, all);
	json_t *ret = json_array();
	int64_t now = monotonic_ns();
	size_t n = 0, nlive;

	nlive = control_live_jobs(control, NULL, &live);
	if (!jobs || !ret || mover_list(control->parts->mover, &infos, &n)) {
		json_decref(jobs);
		json_decref(ret);
		return NULL;
	}
	for (size_t i = 0; i < n; i++) {
		struct live_job key = {.id = infos[i].id};
		struct live_job *of =
			nlive ? bsearch(&key, live, nlive, sizeof(*live),
					live_job_cmp)
			      : NULL;
		bool folded = of && of->job && fold(jobs, of->job, &infos[i]);
		json_t *job;

		if (folded && !all)
			continue;
		job = job_json(control, &infos[i], now);
		if (job && folded)
			json_object_set_new(job, "of",
					    json_integer((json_int_t)of->job));
		json_array_append_new(ret, job);
	}
	json_array_extend(jobs, ret);
	json_decref(ret);
	return jobs;
}
