/* SPDX-License-Identifier: MIT */
/* What `policy run` and `why` print, and the policy's part of `status`. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "tierctl.h"
#include "util.h"

static const char *str(const json_t *obj, const char *key)
{
	const char *ret = json_string_value(json_object_get(obj, key));

	return ret ? ret : "";
}

static unsigned long long num(const json_t *obj, const char *key)
{
	return (unsigned long long)json_integer_value(
		json_object_get(obj, key));
}

static char *path_of(const json_t *data)
{
	char *path = NULL, *ret;

	if (proto_get_path(data, "path", &path))
		return strdup("?");
	ret = print_safe(path);
	free(path);
	return ret;
}

/* ---- status ----------------------------------------------------------------- */

static const char *at(const json_t *obj, const char *key, char buf[32])
{
	const json_t *value = json_object_get(obj, key);
	time_t when = (time_t)json_number_value(value);
	struct tm tm;

	if (!json_is_number(value) || !localtime_r(&when, &tm) ||
	    !strftime(buf, 32, "%F %T", &tm))
		return NULL;
	return buf;
}

static void print_moved(const json_t *policy, const char *key)
{
	const json_t *moved = json_object_get(policy, key);
	char size[SIZE_TEXT_LEN];

	printf("%s %llu files (%s)", key, num(moved, "files"),
	       size_text(num(moved, "bytes"), size));
}

void print_policy(const json_t *policy)
{
	json_t *held;
	char when[32];
	size_t i;

	if (!json_is_object(policy))
		return;
	printf("  policy      %s, %s: %s", str(policy, "mode"),
	       str(policy, "strategy"), str(policy, "doing"));
	if (*str(policy, "detail"))
		printf(" (%s)", str(policy, "detail"));
	if (at(policy, "next_due", when))
		printf(", next due %s", when);
	printf("\n              ");
	print_moved(policy, "migrated");
	printf(", ");
	print_moved(policy, "released");
	printf("\n");
	if (at(policy, "retry_at", when))
		printf("              stopped: tries again at %s\n", when);
	json_array_foreach(json_object_get(policy, "cannot_move"), i, held)
	{
		_cleanup_free_ char *reason = print_safe(str(held, "reason"));
		char size[SIZE_TEXT_LEN];

		printf("              cannot move %llu files (%s): %s\n",
		       num(held, "files"), size_text(num(held, "bytes"), size),
		       reason ? reason : "?");
	}
}

/* ---- why ---------------------------------------------------------------------- */

void print_why(struct tool *tool, json_t *data)
{
	const json_t *rule = json_object_get(data, "rule");
	_cleanup_free_ char *path = NULL, *file = NULL, *safe = NULL;
	json_t *obstacle;
	size_t i;

	if (!print_told(tool, data))
		return;
	path = path_of(data);
	printf("%s: %s\n", path ? path : "?", str(data, "state"));
	printf("  rule      %s", str(rule, "name"));
	if (json_is_string(json_object_get(rule, "file")) &&
	    !proto_get_path(rule, "file", &file)) {
		safe = print_safe(file);
		printf(" (%s:%llu)", safe ? safe : "?", num(rule, "line"));
	}
	printf("\n");
	if (json_is_integer(json_object_get(data, "rank")))
		printf("  rank      %llu before it\n", num(data, "rank"));
	json_array_foreach(json_object_get(data, "obstacles"), i, obstacle)
		printf("  obstacle  %s: %s\n", str(obstacle, "kind"),
		       str(obstacle, "detail"));
	printf("  next      %s\n", str(data, "next"));
}

/* ---- policy run ------------------------------------------------------------------ */

static struct {
	unsigned long long files, bytes;
} totals[4];

static const char *const ops[] = {"migrate", "migrate-release", "release",
				  "restore"};

static void print_step(struct tool *tool, json_t *data)
{
	const char *result = str(data, "result");
	bool bad = !strcmp(result, "refused") || !strcmp(result, "failed");
	_cleanup_free_ char *path = path_of(data);
	char size[SIZE_TEXT_LEN];

	if (bad) {
		tool->failed = true;
		complain(path, str(data, "reason"));
	}
	for (size_t i = 0; !bad && i < 4; i++) {
		if (strcmp(ops[i], str(data, "op")))
			continue;
		totals[i].files++;
		totals[i].bytes += num(data, "size");
	}
	if (tool->opt.json)
		print_json(data);
	else if (!tool->opt.quiet && !bad)
		printf("%-15s %6s  %s  (%s, rule %s)\n", str(data, "op"),
		       size_text(num(data, "size"), size), path ? path : "?",
		       str(data, "cause"), str(data, "rule"));
}

int policy_command(struct tool *tool)
{
	const struct options *opt = &tool->opt;
	char size[SIZE_TEXT_LEN];
	bool any = false;

	if (opt->nargs != 1 || strcmp(opt->args[0], "run")) {
		complain("policy", "is for: policy run");
		return EXIT_USAGE;
	}

	if (tool->ndaemons > 1) {
		complain("policy", "there are several mounts: choose one with "
				   "--mount");
		return EXIT_USAGE;
	}
	session_ask(tool, tool->daemons,
		    json_pack("{s:i, s:s, s:b}", "version", CONTROL_VERSION,
			      "command", "policy-run", "dry_run", opt->dry_run),
		    print_step);
	if (opt->json || opt->quiet || tool->denied)
		return -1;
	for (size_t i = 0; i < 4; i++) {
		if (!totals[i].files)
			continue;
		printf("%s%s %llu files (%s)", any ? ", " : "", ops[i],
		       totals[i].files, size_text(totals[i].bytes, size));
		any = true;
	}
	if (any)
		printf("%s\n", opt->dry_run ? ": would be done" : ": done");
	else
		printf("nothing is to be done\n");
	return -1;
}
