/* SPDX-License-Identifier: MIT */
/*
 * What the tool prints: the daemon's objects as they are, or text for people.
 * File names are escaped where they would move a terminal's cursor.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "tierctl.h"
#include "util.h"

static bool progress_shown;

/* ---- values ------------------------------------------------------------------- */

static const char *str(const json_t *obj, const char *key)
{
	const char *ret = json_string_value(json_object_get(obj, key));

	return ret ? ret : "";
}

static uint64_t num(const json_t *obj, const char *key)
{
	const json_t *value = json_object_get(obj, key);

	return json_is_real(value) ? json_real_value(value)
				   : json_integer_value(value);
}

static bool truth(const json_t *obj, const char *key)
{
	return json_is_true(json_object_get(obj, key));
}

char *print_safe(const char *text)
{
	char *ret = malloc(strlen(text) * 4 + 1), *to = ret;

	for (; ret && *text; text++) {
		unsigned char c = *text;

		if (c == '\n')
			to += sprintf(to, "\\n");
		else if (c == '\t')
			to += sprintf(to, "\\t");
		else if (c < 0x20 || c == 0x7f)
			to += sprintf(to, "\\%03o", c);
		else
			*to++ = c;
	}
	if (ret)
		*to = '\0';
	return ret;
}

/* The path of an object, byte for byte but for control characters. */
static char *safe_path(const json_t *data)
{
	char *path = NULL, *ret;

	if (proto_get_path(data, "path", &path))
		return strdup("?");
	ret = print_safe(path);
	free(path);
	return ret;
}

void print_json(const json_t *data)
{
	char *text = json_dumps(data, JSON_COMPACT);

	if (text)
		puts(text);
	free(text);
}

/* "1:02:03" of seconds. */
static const char *time_text(uint64_t sec, char buf[32])
{
	if (sec >= 3600)
		snprintf(buf, 32, "%llu:%02u:%02u",
			 (unsigned long long)(sec / 3600),
			 (unsigned int)(sec / 60 % 60),
			 (unsigned int)(sec % 60));
	else
		snprintf(buf, 32, "%u:%02u", (unsigned int)(sec / 60),
			 (unsigned int)(sec % 60));
	return buf;
}

/* ---- files ---------------------------------------------------------------------- */

/* "yes", "no", or until when it is kept. */
static const char *pinned_text(const json_t *data, char buf[40])
{
	time_t until = num(data, "kept_until");
	struct tm tm;

	strcpy(buf, truth(data, "pinned") ? "yes" : "no");
	if (!truth(data, "pinned") && until && localtime_r(&until, &tm))
		strftime(buf, 40, "until %F %R", &tm);
	return buf;
}

bool print_told(struct tool *tool, json_t *data)
{
	if (json_object_get(data, "result"))
		print_move(tool, data);
	else if (tool->opt.json)
		print_json(data);
	else
		return !tool->opt.quiet;
	return false;
}

void print_file_status(struct tool *tool, json_t *data)
{
	static bool head;
	_cleanup_free_ char *path = NULL;
	char size[SIZE_TEXT_LEN], front[SIZE_TEXT_LEN], copies[128] = "-";
	char pinned[40];
	size_t i, len = 0;
	json_t *copy;

	if (!print_told(tool, data))
		return;
	path = safe_path(data);
	json_array_foreach(json_object_get(data, "copies"), i, copy)
	{
		if (len < sizeof(copies))
			len += snprintf(copies + len, sizeof(copies) - len,
					"%s%s:%s%s", len ? "," : "",
					str(copy, "target"), str(copy, "oid"),
					truth(data, "damaged") ? " (damaged)"
							       : "");
	}
	if (!head)
		printf("%-9s %6s %6s %4s %-6s %-20s %s\n", "STATE", "SIZE",
		       "FRONT", "OPEN", "PINNED", "COPIES", "PATH");
	head = true;
	printf("%-9s %6s %6s %4u %-6s %-20s %s\n", str(data, "state"),
	       size_text(num(data, "size"), size),
	       size_text(num(data, "front_bytes"), front),
	       (unsigned int)num(data, "open"), pinned_text(data, pinned),
	       copies, path ? path : "?");
}

/* What a budget had no room for. */
static void print_skipped(const struct tool *tool, const json_t *data)
{
	if (tool->opt.json || tool->opt.quiet)
		return;
	print_clear();
	printf("%s: %s\n", str(data, "op"), str(data, "reason"));
}

void print_move(struct tool *tool, json_t *data)
{
	const char *result = str(data, "result");
	_cleanup_free_ char *path = NULL;

	if (!strcmp(result, "done"))
		tool->n_done++;
	else if (!strcmp(result, "already"))
		tool->n_already++;
	else if (!strcmp(result, "queued"))
		tool->n_queued++;
	else if (!strcmp(result, "skipped"))
		print_skipped(tool, data);
	else
		tool->n_bad++;
	tool->bytes += num(data, "bytes");
	if (tool->opt.json && !tool->opt.command->reads)
		print_json(data);
	if (!strcmp(result, "refused") || !strcmp(result, "failed")) {
		tool->failed = true;
		if (!proto_get_path(data, "path", &path))
			complain(path, str(data, "reason"));
	}
}

void print_summary(const struct tool *tool)
{
	const struct {
		uint64_t n;
		const char *text;
	} counts[] = {
		{tool->n_done, "done"},
		{tool->n_queued, "queued"},
		{tool->n_already, "already as asked"},
		{tool->n_bad, "refused or failed"},
	};
	char size[SIZE_TEXT_LEN];
	bool first = true;

	if (tool->opt.json || tool->opt.quiet || !tool->asked)
		return;
	printf("%s: ", tool->opt.command->name);
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		if (counts[i].n == 0)
			continue;
		printf("%s%llu %s", first ? "" : ", ",
		       (unsigned long long)counts[i].n, counts[i].text);
		if (i == 0 && tool->bytes > 0)
			printf(" (%s)", size_text(tool->bytes, size));
		if (i == 1 && tool->job)
			printf(" as job %lld", (long long)tool->job);
		first = false;
	}
	printf("%s\n", first ? "no files" : "");
}

/* ---- mounts --------------------------------------------------------------------- */

static void print_use(const json_t *obj)
{
	uint64_t bytes = num(obj, "bytes"), used = num(obj, "used");
	char a[SIZE_TEXT_LEN], b[SIZE_TEXT_LEN];

	printf("%s of %s in use", size_text(used, a), size_text(bytes, b));
	if (bytes > 0)
		printf(" (%.0f%%)", 100.0 * used / bytes);
}

/* As they are acted upon. */
static void print_watermarks(const json_t *front)
{
	double high = json_number_value(json_object_get(front, "high"));
	double set = json_number_value(json_object_get(front, "high_set"));

	printf(", releasing from %.3g%% to %.3g%%%s\n", high,
	       json_number_value(json_object_get(front, "low")),
	       high < set ? " (reserve)" : "");
}

static void print_states(const json_t *states)
{
	const char *name;
	json_t *state;

	json_object_foreach((json_t *)states, name, state)
	{
		char size[SIZE_TEXT_LEN];

		printf("  %-12s%10llu files %8s\n", name,
		       (unsigned long long)num(state, "files"),
		       size_text(num(state, "bytes"), size));
	}
}

static void print_target(const json_t *target)
{
	_cleanup_free_ char *path = print_safe(str(target, "path"));
	json_t *caps = json_object_get(target, "capabilities"), *cap;
	size_t i;

	printf("  target      %s on %s: ", str(target, "name"),
	       path ? path : "?");
	if (!truth(target, "online"))
		printf("OFFLINE (%s), ", str(target, "why"));
	else if (*str(target, "why"))
		printf("online, %s (%s), ", str(target, "condition"),
		       str(target, "why"));
	else
		printf("online, ");
	print_use(target);
	printf("\n");
	if (num(target, "deletes") > 0)
		printf("              %llu objects to be deleted there\n",
		       (unsigned long long)num(target, "deletes"));
	if (json_array_size(caps) > 0)
		printf("              ");
	json_array_foreach(caps, i, cap)
		printf("%s%s", i ? ", " : "", json_string_value(cap));
	if (json_array_size(caps) > 0)
		printf("\n");
}

static void print_errors(const json_t *errors)
{
	json_t *error;
	size_t i;

	json_array_foreach(errors, i, error)
	{
		_cleanup_free_ char *text = print_safe(str(error, "text"));
		time_t when = num(error, "time");
		struct tm tm;
		char at[32] = "";

		if (localtime_r(&when, &tm))
			strftime(at, sizeof(at), "%F %T", &tm);
		printf("  %-11s %s %s\n", str(error, "level"), at,
		       text ? text : "");
	}
}

static void print_catalog(const json_t *catalog)
{
	if (!json_is_object(catalog))
		return;
	printf("  catalog     %llu files, %llu directories",
	       (unsigned long long)num(catalog, "files"),
	       (unsigned long long)num(catalog, "dirs"));
	if (num(catalog, "queued"))
		printf(", %llu events waiting",
		       (unsigned long long)num(catalog, "queued"));
	if (truth(catalog, "walking") || num(catalog, "marked"))
		printf(", incomplete: %llu directories to go",
		       (unsigned long long)num(catalog, "marked"));
	if (*str(catalog, "error"))
		printf(", cannot be written: %s", str(catalog, "error"));
	printf("\n");
}

static void print_recall(const json_t *restores, const json_t *rules)
{
	const json_t *budget = json_object_get(restores, "budget");
	uint64_t over = num(restores, "over_budget");
	uint64_t no_room = num(restores, "no_room");
	char used[SIZE_TEXT_LEN], limit[SIZE_TEXT_LEN];
	json_t *rule;
	size_t i;

	printf("  restored    %s by reads in 24 hours",
	       size_text(num(restores, "used"), used));
	if (json_is_integer(budget))
		printf(", of %s", size_text(num(restores, "budget"), limit));
	if (over || no_room)
		printf("; not begun: %llu over budget, %llu for lack of room",
		       (unsigned long long)over, (unsigned long long)no_room);
	printf("\n");
	json_array_foreach((json_t *)rules, i, rule)
		printf("  recall      %s (%s): %llu opens, %llu refused\n",
		       str(rule, "name"), str(rule, "action"),
		       (unsigned long long)num(rule, "opens"),
		       (unsigned long long)num(rule, "refused"));
}

void print_mount(struct tool *tool, json_t *data)
{
	static bool more;
	const json_t *front = json_object_get(data, "front");
	const json_t *queues = json_object_get(data, "queues");
	_cleanup_free_ char *mount = NULL;
	_cleanup_free_ char *path = NULL;
	json_t *target;
	size_t i;

	if (tool->opt.json) {
		print_json(data);
		return;
	}
	if (tool->opt.quiet)
		return;
	mount = print_safe(str(data, "mount"));
	path = print_safe(str(front, "path"));
	printf("%s%s on %s\n", more ? "\n" : "", str(data, "name"),
	       mount ? mount : "?");
	more = true;
	printf("  front       %s: ", path ? path : "?");
	print_use(front);
	print_watermarks(front);
	print_states(json_object_get(data, "states"));
	json_array_foreach(json_object_get(data, "targets"), i, target)
		print_target(target);
	print_policy(json_object_get(data, "policy"));
	printf("  waiting     %llu recalls, %llu asked for, %llu idle\n",
	       (unsigned long long)num(queues, "recall"),
	       (unsigned long long)num(queues, "asked"),
	       (unsigned long long)num(queues, "idle"));
	print_recall(json_object_get(data, "restores"),
		     json_object_get(data, "recall"));
	if (truth(data, "passthrough"))
		printf("  passthrough yes\n");
	else
		printf("  passthrough no: %s\n", str(data, "why"));
	if (truth(data, "io_uring"))
		printf("  io_uring    yes\n");
	else
		printf("  io_uring    no: %s\n", str(data, "io_uring_why"));
	print_catalog(json_object_get(data, "catalog"));
	print_errors(json_object_get(data, "errors"));
}

/* ---- findings ----------------------------------------------------------------------- */

void print_finding(struct tool *tool, json_t *data)
{
	_cleanup_free_ char *path = NULL, *object = NULL, *detail = NULL;
	bool repaired = truth(data, "repaired");

	if (repaired)
		tool->n_done++;
	else
		tool->n_bad++;
	if (tool->opt.json) {
		print_json(data);
		return;
	}
	if (tool->opt.quiet && repaired)
		return;
	print_clear();
	path = safe_path(data);
	object = print_safe(str(data, "object"));
	detail = print_safe(str(data, "detail"));
	printf("%s%s", str(data, "kind"), repaired ? " (repaired)" : "");
	if (path && *path)
		printf(": %s", path);
	if (object && *object)
		printf(": %s", object);
	else if (*str(data, "target"))
		printf(": target %s", str(data, "target"));
	printf(": %s\n", detail ? detail : "");
}

/* ---- jobs ------------------------------------------------------------------------- */

/* Of a job that is a command or a batch: what came of its files. */
static void print_results(const json_t *data)
{
	static const char *const names[] = {"done", "already", "refused",
					    "failed"};
	const json_t *results = json_object_get(data, "results");
	json_t *reason;
	bool first = true;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(names); i++) {
		if (!num(results, names[i]))
			continue;
		printf("%s%llu %s", first ? "       " : ", ",
		       (unsigned long long)num(results, names[i]), names[i]);
		first = false;
	}
	if (!first)
		printf(" of %llu files\n",
		       (unsigned long long)num(data, "files"));
	json_array_foreach(json_object_get(data, "reasons"), i, reason)
	{
		char *safe = print_safe(json_string_value(reason));

		printf("       %s\n", safe ? safe : "?");
		free(safe);
	}
}

void print_job(struct tool *tool, json_t *data)
{
	static bool head;
	_cleanup_free_ char *path = NULL;
	char done[SIZE_TEXT_LEN], bytes[SIZE_TEXT_LEN], rate[SIZE_TEXT_LEN + 2];
	char eta[32] = "-";

	if (tool->opt.json) {
		print_json(data);
		return;
	}
	if (tool->opt.quiet)
		return;
	path = safe_path(data);
	size_text(num(data, "rate"), rate);
	strcat(rate, "/s");
	if (json_is_integer(json_object_get(data, "eta")))
		time_text(num(data, "eta"), eta);
	if (!head)
		printf("%6s %-8s %-8s %6s %6s %8s %8s %-10s %s\n", "ID", "OP",
		       "STATE", "DONE", "OF", "RATE", "LEFT", "TARGET", "PATH");
	head = true;
	printf("%6llu %-8s %-8s %6s %6s %8s %8s %-10s %s\n",
	       (unsigned long long)num(data, "id"), str(data, "op"),
	       str(data, "state"), size_text(num(data, "done"), done),
	       size_text(num(data, "bytes"), bytes), rate, eta,
	       str(data, "target"), path ? path : "?");
	if (truth(data, "batch"))
		print_results(data);
}

/* ---- progress ----------------------------------------------------------------------- */

void print_clear(void)
{
	if (progress_shown)
		fputs("\r\033[K", stderr);
	progress_shown = false;
}

void print_progress(const struct tool *tool)
{
	static int64_t last_ns;
	static uint64_t last_done;
	static double rate;
	uint64_t files = 0, files_done = 0, bytes = 0, done = 0;
	int64_t now = monotonic_ns();
	bool complete = true;
	char a[SIZE_TEXT_LEN], b[SIZE_TEXT_LEN], c[SIZE_TEXT_LEN], left[32];

	for (unsigned int i = 0; i < tool->ndaemons; i++) {
		const struct daemon *d = &tool->daemons[i];

		files += d->files;
		files_done += d->files_done;
		bytes += d->bytes;
		done += d->bytes_done;
		complete = complete && (!d->asked || d->complete);
	}
	if (last_ns > 0 && now > last_ns && done >= last_done) {
		double r = (double)(done - last_done) * NSEC_PER_SEC /
			   (now - last_ns);

		rate = rate > 0 ? rate * 0.8 + r * 0.2 : r;
	}
	last_ns = now;
	last_done = done;
	fprintf(stderr, "\r\033[K%llu of %llu%s files, %s of %s%s, %s/s",
		(unsigned long long)files_done, (unsigned long long)files,
		complete ? "" : "+", size_text(done, a), size_text(bytes, b),
		complete ? "" : "+", size_text(rate, c));
	if (complete && rate >= 1 && bytes >= done)
		fprintf(stderr, ", %s left",
			time_text((bytes - done) / rate, left));
	progress_shown = true;
}

/* ---- metrics ------------------------------------------------------------------------- */

static json_t *families; /* the first of each name, with all samples */

void print_metric(struct tool *tool, json_t *data)
{
	json_t *have;
	size_t i;

	if (!families)
		families = json_array();
	json_array_foreach(families, i, have)
	{
		if (!strcmp(str(have, "family"), str(data, "family"))) {
			json_array_extend(json_object_get(have, "samples"),
					  json_object_get(data, "samples"));
			return;
		}
	}
	json_array_append(families, data);
}

static void print_label(const char *key, const char *value, bool first)
{
	printf("%s%s=\"", first ? "" : ",", key);
	for (; *value; value++) {
		if (*value == '\n')
			fputs("\\n", stdout);
		else if (*value == '"' || *value == '\\')
			printf("\\%c", *value);
		else
			putchar(*value);
	}
	putchar('"');
}

static void print_sample(const char *family, const json_t *sample)
{
	json_t *labels = json_object_get(sample, "labels"), *value;
	const char *key;
	bool first = true;

	printf("%s%s{", family, str(sample, "suffix"));
	json_object_foreach(labels, key, value)
	{
		print_label(key, json_string_value(value), first);
		first = false;
	}
	printf("} %.15g\n",
	       json_number_value(json_object_get(sample, "value")));
}

void print_metrics_end(void)
{
	json_t *family, *sample;
	size_t i, j;

	json_array_foreach(families, i, family)
	{
		const char *name = str(family, "family");

		printf("# TYPE %s %s\n", name, str(family, "type"));
		if (*str(family, "unit"))
			printf("# UNIT %s %s\n", name, str(family, "unit"));
		printf("# HELP %s %s\n", name, str(family, "help"));
		json_array_foreach(json_object_get(family, "samples"), j,
				   sample) print_sample(name, sample);
	}
	puts("# EOF");
	json_decref(families);
	families = NULL;
}
