/* SPDX-License-Identifier: MIT */
/*
 * tierctl report: a small picture of what the daemon has counted. --json has all
 * of it; here sizes and ages are put together to a dozen lines or so.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "tierctl.h"
#include "util.h"

#define BAR   20
#define DAY_S 86400
#define LINES 20

struct line {
	char label[24];
	uint64_t files, bytes;
};

static uint64_t num(const json_t *obj, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(obj, key));
}

/* What is there at all shows. */
static void bar(char buf[BAR + 1], uint64_t part, uint64_t all)
{
	int n = all ? (int)((double)part / (double)all * BAR + 0.5) : 0;

	if (part && !n)
		n = 1;
	memset(buf, '#', (size_t)n);
	memset(buf + n, ' ', (size_t)(BAR - n));
	buf[BAR] = '\0';
}

static void print_lines(const char *title, const struct line *lines, size_t n,
			uint64_t files, uint64_t bytes)
{
	char size[SIZE_TEXT_LEN], a[BAR + 1], b[BAR + 1];

	printf("  %-12s %10s %-*s %8s\n", title, "files", BAR, "", "bytes");
	for (size_t i = 0; i < n; i++) {
		size_t len;

		bar(a, lines[i].files, files);
		bar(b, lines[i].bytes, bytes);
		for (len = BAR; len && b[len - 1] == ' ';)
			b[--len] = '\0';
		printf("  %-12s %10llu %s %8s%s%s\n", lines[i].label,
		       (unsigned long long)lines[i].files, a,
		       size_text(lines[i].bytes, size), len ? " " : "", b);
	}
}

static void add(struct line *line, const json_t *cell)
{
	line->files += num(cell, "files");
	line->bytes += num(cell, "bytes");
}

static void print_states(const json_t *data)
{
	struct line lines[LINES] = {0};
	const char *name;
	json_t *cell;
	size_t n = 0;

	json_object_foreach(json_object_get(data, "states"), name, cell)
	{
		if (n == LINES)
			break;
		snprintf(lines[n].label, sizeof(lines[n].label), "%s", name);
		add(&lines[n++], cell);
	}
	print_lines("state", lines, n, num(data, "files"), num(data, "bytes"));
}

/* The line of a size below 2^power: empty ones, below 1K, 4K, 16K, ... */
static size_t size_line(unsigned int power)
{
	if (power == 0)
		return 0;
	return power <= 10 ? 1 : min_t(size_t, 1 + (power - 9) / 2, LINES - 1);
}

static void print_sizes(const json_t *data)
{
	struct line lines[LINES] = {{.label = "empty"}};
	size_t i, first = LINES, last = 0;
	json_t *cell;

	for (i = 1; i < LINES; i++) {
		char text[SIZE_TEXT_LEN];

		size_text(1ull << (8 + 2 * i), text);
		snprintf(lines[i].label, sizeof(lines[i].label), "%s%s",
			 i == LINES - 1 ? "" : "< ",
			 i == LINES - 1 ? "larger" : text);
	}
	json_array_foreach(json_object_get(data, "sizes"), i, cell)
	{
		uint64_t below = num(cell, "below");
		size_t at = size_line(below ? 63 - __builtin_clzll(below) : 0);

		add(&lines[at], cell);
		first = min_t(size_t, first, at);
		last = max_t(size_t, last, at);
	}
	if (first <= last)
		print_lines("size", lines + first, last - first + 1,
			    num(data, "files"), num(data, "bytes"));
}

static void print_ages(const json_t *data)
{
	static const struct {
		const char *label;
		int days;
	} ages[] = {
		{"in future", -1},   {"this week", 7},	  {"< 2 weeks", 14},
		{"< 1 month", 31},   {"< 2 months", 61},  {"< 3 months", 92},
		{"< 6 months", 183}, {"< 1 year", 365},	  {"< 2 years", 730},
		{"< 3 years", 1096}, {"< 5 years", 1826}, {"< 10 years", 3652},
		{"older", 0},
	};
	struct line lines[ARRAY_SIZE(ages)] = {0};
	int64_t now = realtime_ns() / NSEC_PER_SEC;
	size_t i, first = ARRAY_SIZE(ages), last = 0;
	json_t *cell;

	for (i = 0; i < ARRAY_SIZE(ages); i++)
		snprintf(lines[i].label, sizeof(lines[i].label), "%s",
			 ages[i].label);
	json_array_foreach(json_object_get(data, "ages"), i, cell)
	{
		int64_t since =
			json_integer_value(json_object_get(cell, "since"));
		size_t at = since > now ? 0 : 1;

		while (at && at < ARRAY_SIZE(ages) - 1 &&
		       since <= now - (int64_t)ages[at].days * DAY_S)
			at++;
		add(&lines[at], cell);
		first = min_t(size_t, first, at);
		last = max_t(size_t, last, at);
	}
	if (first <= last)
		print_lines("modified", lines + first, last - first + 1,
			    num(data, "files"), num(data, "bytes"));
}

void print_report(struct tool *tool, json_t *data)
{
	static bool more;
	_cleanup_free_ char *raw = NULL, *path = NULL;
	char size[SIZE_TEXT_LEN];

	if (!print_told(tool, data))
		return;
	if (!proto_get_path(data, "path", &raw))
		path = print_safe(raw);
	printf("%s%s: %llu files, %s\n", more ? "\n" : "", path ? path : "?",
	       (unsigned long long)num(data, "files"),
	       size_text(num(data, "bytes"), size));
	more = true;
	if (!json_is_true(json_object_get(data, "complete")))
		printf("  incomplete: %llu directories to go\n",
		       (unsigned long long)num(data, "marked"));
	if (!num(data, "files"))
		return;
	print_states(data);
	print_sizes(data);
	print_ages(data);
}
