/* SPDX-License-Identifier: MIT */
/*
 * tierctl find: an expression in the manner of find(1), as a filter for the
 * daemon. It is a list of tests that must all hold; they are taken out of the
 * arguments before getopt(3) sees them, which would take them for letters.
 */
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "spill_ea.h"
#include "tierctl.h"
#include "util.h"

#define MIN_NS (60 * NSEC_PER_SEC)
#define DAY_NS (1440 * MIN_NS)

struct range {
	int64_t min, max;
};

struct expr {
	int64_t now;
	struct range size, access, mtime, ctime;
	unsigned int states; /* 0: any */
	long long uid, gid;  /* -1: any */
	const char *name;
	bool pinned, damaged;
	bool *print0, *ls;
	const char *why; /* what is wrong */
};

/* ---- values ------------------------------------------------------------------- */

static void narrow(struct range *r, int64_t min, int64_t max)
{
	r->min = max_t(int64_t, r->min, min);
	r->max = min_t(int64_t, r->max, max);
}

/* [+-]N and what follows: '+', '-' or 0; *ret_rest. -1: not a number. */
static int number(const char *text, int64_t *ret, const char **ret_rest)
{
	int sign = *text == '+' || *text == '-' ? *text++ : 0;
	char *end;
	long long n;

	if (*text < '0' || *text > '9')
		return -1;
	errno = 0;
	n = strtoll(text, &end, 10);
	if (errno)
		return -1;
	*ret = n;
	*ret_rest = end;
	return sign;
}

/* In units, rounded up, as find(1) has it: -1M is what is empty. */
static bool test_size(struct expr *e, struct range *r, const char *text)
{
	static const char units[] = "cwbkMGTP";
	static const int64_t bytes[] = {1,	   2,	      512,
					1ll << 10, 1ll << 20, 1ll << 30,
					1ll << 40, 1ll << 50};
	const char *rest, *unit;
	int64_t n, u = 512, top;
	int sign = number(text, &n, &rest);

	e->why = "not a size: [+-]N and one of c w b k M G T P";
	if (sign < 0)
		return false;
	if (*rest) {
		unit = strchr(units, *rest);
		if (!unit || rest[1])
			return false;
		u = bytes[unit - units];
	}
	if (__builtin_mul_overflow(n, u, &top))
		return false;
	if (sign == '+')
		narrow(r, top < INT64_MAX ? top + 1 : top, INT64_MAX);
	else if (sign == '-' && !n)
		narrow(r, 1, 0); /* nothing is less */
	else if (sign == '-')
		narrow(r, 0, top - u);
	else
		narrow(r, n ? top - u + 1 : 0, top);
	return true;
}

static bool test_time(struct expr *e, struct range *r, const char *text,
		      int64_t unit, bool whole)
{
	const char *rest;
	int64_t n, ns;
	int sign = number(text, &n, &rest);

	e->why = "not a number of days or minutes: [+-]N";
	if (sign < 0 || *rest || __builtin_mul_overflow(n + 1, unit, &ns))
		return false;
	ns = n * unit;
	/* Days are counted in full, what is left over does not count; of
	 * minutes the one that has begun counts. */
	if (sign == '+')
		narrow(r, INT64_MIN, e->now - ns - (whole ? unit : 1));
	else if (sign == '-')
		narrow(r, e->now - ns + 1, INT64_MAX);
	else if (whole)
		narrow(r, e->now - ns - unit + 1, e->now - ns);
	else
		narrow(r, e->now - ns, e->now - ns + unit - 1);
	return true;
}

static bool test_newer(struct expr *e, const char *text)
{
	struct stat st;

	e->why = "cannot be looked at";
	if (stat(text, &st) < 0)
		return false;
	narrow(&e->mtime, timespec_to_ns(st.st_mtim) + 1, INT64_MAX);
	return true;
}

static bool test_states(struct expr *e, const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	unsigned int states = 0;
	char *save = NULL, *name;

	e->why = "not a state: none, migrating, migrated, released or dirty";
	for (name = strtok_r(copy, ",", &save); name;
	     name = strtok_r(NULL, ",", &save)) {
		int state = 0;

		while (state < SPILL_STATES &&
		       strcmp(spill_state_name(state), name))
			state++;
		if (state == SPILL_STATES)
			return false;
		states |= 1u << state;
	}
	if (!states)
		return false;
	if (e->states && !(states & e->states))
		narrow(&e->size, 1, 0); /* it is not both */
	e->states = e->states ? e->states & states : states;
	return true;
}

static bool test_id(struct expr *e, const char *text, bool group)
{
	long long id = -1, *to = group ? &e->gid : &e->uid;
	const struct passwd *pw = group ? NULL : getpwnam(text);
	const struct group *gr = group ? getgrnam(text) : NULL;
	const char *rest;
	int64_t n;

	if (pw)
		id = pw->pw_uid;
	else if (gr)
		id = gr->gr_gid;
	else if (!number(text, &n, &rest) && !*rest && n < UINT32_MAX)
		id = n;
	e->why = group ? "no such group" : "no such user";
	if (id < 0)
		return false;
	if (*to >= 0 && *to != id)
		narrow(&e->size, 1, 0);
	*to = id;
	return true;
}

static bool test_name(struct expr *e, const char *text)
{
	e->why = "can be given once";
	if (e->name)
		return false;
	e->name = text;
	return true;
}

/* ---- the expression -------------------------------------------------------------- */

static bool test_word(struct expr *e, const char *key)
{
	if (!strcmp(key, "-pinned"))
		e->pinned = true;
	else if (!strcmp(key, "-damaged"))
		e->damaged = true;
	else if (!strcmp(key, "-empty"))
		narrow(&e->size, 0, 0);
	else if (!strcmp(key, "-print0"))
		*e->print0 = true;
	else if (!strcmp(key, "-ls"))
		*e->ls = true;
	else
		return !strcmp(key, "-print");
	return true;
}

/* 1: good, 0: not, e->why; -1: no such test. */
static int test_value(struct expr *e, const char *key, const char *value)
{
	const struct {
		const char *key;
		struct range *range;
		int64_t unit;
	} times[] = {
		{"-atime", &e->access, DAY_NS}, {"-mtime", &e->mtime, DAY_NS},
		{"-ctime", &e->ctime, DAY_NS},	{"-amin", &e->access, MIN_NS},
		{"-mmin", &e->mtime, MIN_NS},	{"-cmin", &e->ctime, MIN_NS},
	};

	if (!strcmp(key, "-type")) {
		e->why = "regular files (f) alone are listed";
		return !value || !strcmp(value, "f");
	}
	if (!strcmp(key, "-state"))
		return !value || test_states(e, value);
	if (!strcmp(key, "-size"))
		return !value || test_size(e, &e->size, value);
	if (!strcmp(key, "-newer"))
		return !value || test_newer(e, value);
	if (!strcmp(key, "-user") || !strcmp(key, "-group"))
		return !value || test_id(e, value, key[1] == 'g');
	if (!strcmp(key, "-name"))
		return !value || test_name(e, value);
	for (size_t i = 0; i < ARRAY_SIZE(times); i++)
		if (!strcmp(key, times[i].key))
			return !value || test_time(e, times[i].range, value,
						   times[i].unit,
						   times[i].unit == DAY_NS);
	return -1;
}

static json_t *range_json(const struct range *r, int64_t all_min)
{
	return json_pack("[o, o]",
			 r->min == all_min ? json_null() : json_integer(r->min),
			 r->max == INT64_MAX ? json_null()
					     : json_integer(r->max));
}

static json_t *filter_json(const struct expr *e)
{
	json_t *ret = json_object(), *states = json_array(),
	       *flags = json_array();

	for (int i = 0; i < SPILL_STATES; i++)
		if (e->states & 1u << i)
			json_array_append_new(states,
					      json_string(spill_state_name(i)));
	if (e->states)
		json_object_set(ret, "states", states);
	json_decref(states);
	/* What contradicts itself: no size is below 0. */
	json_object_set_new(ret, "size",
			    e->size.min > e->size.max
				    ? json_pack("[i, i]", 1, 0)
				    : range_json(&e->size, 0));
	json_object_set_new(ret, "access", range_json(&e->access, INT64_MIN));
	json_object_set_new(ret, "mtime", range_json(&e->mtime, INT64_MIN));
	json_object_set_new(ret, "ctime", range_json(&e->ctime, INT64_MIN));
	if (e->uid >= 0)
		json_object_set_new(ret, "uid", json_integer(e->uid));
	if (e->gid >= 0)
		json_object_set_new(ret, "gid", json_integer(e->gid));
	if (e->name)
		proto_set_path(ret, "name", e->name);
	if (e->pinned)
		json_array_append_new(flags, json_string("pinned"));
	if (e->damaged)
		json_array_append_new(flags, json_string("damaged"));
	json_object_set_new(ret, "flags", flags);
	return ret;
}

/* ---- arguments --------------------------------------------------------------------- */

static bool takes_value(const char *arg)
{
	return !strcmp(arg, "--mount") || !strcmp(arg, "--files-from") ||
	       !strcmp(arg, "--front") || !strcmp(arg, "--target");
}

/* Where the command stands in argv; argc: nowhere. */
static int command_at(int argc, char **argv)
{
	int i = 1;

	while (i < argc && argv[i][0] == '-' && argv[i][1])
		i += takes_value(argv[i]) ? 2 : 1;
	return i;
}

static bool is_test(const char *arg)
{
	if (!strcmp(arg, "!") || !strcmp(arg, "(") || !strcmp(arg, ")"))
		return true;
	return arg[0] == '-' && arg[1] && arg[1] != '-' && strcmp(arg, "-q") &&
	       strcmp(arg, "-h") && strcmp(arg, "-V");
}

/* Takes the test at argv[i]: how many arguments it is; 0: said why not. */
static int take_test(struct expr *e, int argc, char **argv, int i)
{
	const char *value = i + 1 < argc ? argv[i + 1] : NULL;
	int good;

	if (test_word(e, argv[i]))
		return 1;
	good = test_value(e, argv[i], value);
	if (good > 0 && value)
		return 2;
	if (good < 0)
		complain(argv[i], "unknown test");
	else if (!value)
		complain(argv[i], "its argument is missing");
	else
		fprintf(stderr, "tierctl: %s %s: %s\n", argv[i], value, e->why);
	return 0;
}

int find_parse(int *argc, char **argv, struct options *opt)
{
	const struct range any = {INT64_MIN, INT64_MAX};
	struct expr e = {
		.now = realtime_ns(),
		.size = {0, INT64_MAX},
		.access = any,
		.mtime = any,
		.ctime = any,
		.uid = -1,
		.gid = -1,
		.print0 = &opt->print0,
		.ls = &opt->ls,
	};
	int at = command_at(*argc, argv), to = at + 1;

	if (at >= *argc || strcmp(argv[at], "find"))
		return -1;
	for (int i = at + 1; i < *argc;) {
		int n = 1;

		if (is_test(argv[i])) {
			n = take_test(&e, *argc, argv, i);
			if (!n) {
				fprintf(stderr, "Try 'tierctl find --help'.\n");
				return EXIT_USAGE;
			}
			i += n;
			continue;
		}
		if (takes_value(argv[i]) && i + 1 < *argc)
			n = 2;
		while (n--)
			argv[to++] = argv[i++];
	}
	argv[to] = NULL;
	*argc = to;
	opt->filter = filter_json(&e);
	return -1;
}

/* ---- answers ------------------------------------------------------------------------ */

static void print_ls(const json_t *data, const char *path)
{
	const json_t *mtime = json_object_get(data, "mtime");
	time_t when = (time_t)json_real_value(mtime);
	char at[32] = "";
	struct tm tm;

	if (localtime_r(&when, &tm))
		strftime(at, sizeof(at), "%F %H:%M", &tm);
	printf("%-9s %c%c %12lld %12lld %s %s\n",
	       json_string_value(json_object_get(data, "state")),
	       json_is_true(json_object_get(data, "pinned")) ? 'p' : '-',
	       json_is_true(json_object_get(data, "damaged")) ? 'd' : '-',
	       (long long)json_integer_value(json_object_get(data, "size")),
	       (long long)json_integer_value(
		       json_object_get(data, "front_bytes")),
	       at, path);
}

void print_found(struct tool *tool, json_t *data)
{
	_cleanup_free_ char *path = NULL, *safe = NULL;
	static int terminal = -1;

	if (json_object_get(data, "result")) { /* it could not be told */
		print_move(tool, data);
		return;
	}
	if (tool->opt.json) {
		print_json(data);
		return;
	}
	if (tool->opt.quiet || proto_get_path(data, "path", &path))
		return;
	if (terminal < 0)
		terminal = isatty(1);
	/* As they are, for programs that take them. */
	if (terminal && !tool->opt.print0)
		safe = print_safe(path);
	if (tool->opt.ls)
		print_ls(data, safe ? safe : path);
	else if (tool->opt.print0)
		fwrite(path, 1, strlen(path) + 1, stdout);
	else
		puts(safe ? safe : path);
}
