/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "policy_window.h"
#include "util.h"

#define BERLIN	  "CET-1CEST,M3.5.0,M10.5.0/3"
#define LORD_HOWE "LHST-10:30LHDT-11,M10.1.0,M4.1.0"
#define SEC	  NSEC_PER_SEC

static void zone(const char *tz)
{
	setenv("TZ", tz, 1);
	tzset();
}

static struct policy_windows windows(const char *text)
{
	struct policy_windows w;
	const char *wrong = policy_windows_parse(text, &w);

	if (wrong)
		fail_msg("%s: %s", text, wrong);
	return w;
}

/* "2026-03-29 01:30:00", UTC, in ns. */
static int64_t utc(const char *text)
{
	struct tm tm = {.tm_year = 0};

	assert_non_null(strptime(text, "%Y-%m-%d %H:%M:%S", &tm));
	return timegm(&tm) * SEC;
}

static void check(const char *text, const char *at, double used, bool open,
		  const char *changes)
{
	struct policy_windows w = windows(text);
	int64_t when, want = changes ? utc(changes) : INT64_MAX;

	if (policy_windows_open(&w, utc(at), used, &when) != open ||
	    when != want)
		fail_msg("%s at %s: changes %+g s", text, at,
			 (double)(when - want) / 1e9);
	assert_true(policy_windows_open(&w, utc(at), used, NULL) == open);
}

static void simple(void **state)
{
	const char *night = "only 02:00-06:00, or above 85%";

	zone("UTC0");
	check("always", "2026-11-21 12:00:00", 0, true, NULL);
	check(night, "2026-11-21 01:59:59", 10, false, "2026-11-21 02:00:00");
	check(night, "2026-11-21 02:00:00", 10, true, "2026-11-21 06:00:00");
	check(night, "2026-11-21 05:59:59", 10, true, "2026-11-21 06:00:00");
	check(night, "2026-11-21 06:00:00", 10, false, "2026-11-22 02:00:00");
	check(night, "2026-11-21 12:00:00", 85, false, "2026-11-22 02:00:00");
	check(night, "2026-11-21 12:00:00", 85.1, true, NULL);
	check("only above 85%", "2026-11-21 12:00:00", 10, false, NULL);
	check("only above 85", "2026-11-21 12:00:00", 90, true, NULL);
	check("only 00:00-24:00", "2026-11-21 12:00:00", 0, true, NULL);
	check("only 00:00-12:00, 12:00-24:00", "2026-11-21 12:00:00", 0, true,
	      NULL);
}

static void over_midnight(void **state)
{
	/* The 20th is a Friday. */
	const char *night = "only fri 22:00-06:00";

	zone("UTC0");
	check(night, "2026-11-20 21:59:59", 0, false, "2026-11-20 22:00:00");
	check(night, "2026-11-20 23:00:00", 0, true, "2026-11-21 06:00:00");
	check(night, "2026-11-21 00:00:00", 0, true, "2026-11-21 06:00:00");
	check(night, "2026-11-21 06:00:00", 0, false, "2026-11-27 22:00:00");
	check(night, "2026-11-20 03:00:00", 0, false, "2026-11-20 22:00:00");
	check("only sat 22:00-00:00", "2026-11-21 23:00:00", 0, true,
	      "2026-11-22 00:00:00");
}

static void days(void **state)
{
	const char *text = "only mon-fri 22:00-24:00, sat,sun 10:00-18:00";

	zone("UTC0");
	check(text, "2026-11-20 22:00:00", 0, true, "2026-11-21 00:00:00");
	check(text, "2026-11-21 00:00:00", 0, false, "2026-11-21 10:00:00");
	check(text, "2026-11-22 18:00:00", 0, false, "2026-11-23 22:00:00");
	check("only sat-mon 00:00-24:00", "2026-11-20 10:00:00", 0, false,
	      "2026-11-21 00:00:00");
	check("only sat-mon 00:00-24:00", "2026-11-21 10:00:00", 0, true,
	      "2026-11-24 00:00:00");
	check("only mon 03:00-04:00", "2026-11-23 03:30:00", 0, true,
	      "2026-11-23 04:00:00");
	check("only mon 03:00-04:00", "2026-11-23 04:00:00", 0, false,
	      "2026-11-30 03:00:00");
}

static void summer_time(void **state)
{
	zone(BERLIN);
	/* 02:00 to 03:00 is skipped on 2026-03-29 (01:00 UTC) ... */
	check("only 02:00-03:00", "2026-03-29 00:59:59", 0, false,
	      "2026-03-30 00:00:00");
	check("only 01:00-02:30", "2026-03-29 00:30:00", 0, true,
	      "2026-03-29 01:00:00");
	check("only 02:30-04:00", "2026-03-29 00:30:00", 0, false,
	      "2026-03-29 01:00:00");
	check("only 02:30-04:00", "2026-03-29 01:00:00", 0, true,
	      "2026-03-29 02:00:00");
	/* ... and is twice on 2026-10-25, until 01:00 UTC and after. */
	check("only 02:00-02:30", "2026-10-25 00:00:00", 0, true,
	      "2026-10-25 00:30:00");
	check("only 02:00-02:30", "2026-10-25 00:30:00", 0, false,
	      "2026-10-25 01:00:00");
	check("only 02:00-02:30", "2026-10-25 01:00:00", 0, true,
	      "2026-10-25 01:30:00");
	check("only 02:00-03:00", "2026-10-25 00:00:00", 0, true,
	      "2026-10-25 02:00:00");
	check("only 22:00-06:00", "2026-10-24 23:00:00", 0, true,
	      "2026-10-25 05:00:00");
}

static bool by_the_wall(const struct policy_windows *w, time_t t)
{
	struct tm tm;
	int m;

	localtime_r(&t, &tm);
	m = tm.tm_hour * 60 + tm.tm_min;
	for (unsigned int i = 0; i < w->n; i++)
		for (int back = 0; back < 2; back++) {
			int day = (tm.tm_wday + 7 - back) % 7;
			int to = w->window[i].to;
			int at = m + back * 1440;

			if (to < w->window[i].from)
				to += 1440;
			if (w->window[i].days >> day & 1 &&
			    at >= w->window[i].from && at < to)
				return true;
		}
	return false;
}

/* Minute by minute, over the weeks in which the offset changes. */
static void as_looked_at_each_minute(void **state)
{
	static const char *const zones[] = {BERLIN, LORD_HOWE, "UTC0",
					    "EST5EDT,M3.2.0,M11.1.0"};
	unsigned int seed = 7;

	for (int round = 0; round < 60; round++) {
		struct policy_windows w = {.above = POLICY_NO_ABOVE};
		time_t t = utc(round % 2 ? "2026-03-01 00:00:00"
					 : "2026-10-01 00:00:00") /
			   SEC;
		time_t end = t + 45 * 86400, next = t;
		bool open = false;

		zone(zones[round / 2 % ARRAY_SIZE(zones)]);
		for (w.n = 0; w.n < 1 + seed % 3; w.n++) {
			seed = seed * 1103515245 + 12345;
			w.window[w.n].days = 1 + (seed >> 8) % 127;
			w.window[w.n].from = (seed >> 16) % 1440;
			w.window[w.n].to = (uint16_t)((w.window[w.n].from + 1 +
						       (seed >> 4) % 1439) %
						      1440);
		}
		for (; t < end; t += 60) {
			int64_t change;

			if (t == next) { /* a change, or the start */
				open = policy_windows_open(&w, t * SEC, 0,
							   &change);
				next = change == INT64_MAX ? end : change / SEC;
				assert_true(next > t);
			}
			if (by_the_wall(&w, t) != open)
				fail_msg("round %d at %lld", round,
					 (long long)t);
			if (t % 900 == 0 && t < next)
				assert_true(
					policy_windows_open(&w, t * SEC + 1, 0,
							    &change) == open &&
					(change == next * SEC || next == end));
		}
	}
}

static void wrong_ones(void **state)
{
	static const char *const rows[] = {
		"",
		"never",
		"only",
		"only ",
		"only x",
		"02:00-06:00",
		"only 2:00-06:00",
		"only 02:00",
		"only 02:00-",
		"only 02:60-03:00",
		"only 24:00-03:00",
		"only 02:00-24:01",
		"only 02:00-02:00",
		"only 02:00-03:00x",
		"only sat",
		"only sat, or above 85%",
		"only sat-foo 02:00-03:00",
		"only Sat 02:00-03:00",
		"only or 02:00-03:00",
		"only 02:00-03:00 or",
		"only 02:00-03:00, or above",
		"only 02:00-03:00, or above 101%",
		"only above 80, above 90",
		"only 00:00-01:00 00:00-01:00 00:00-01:00 00:00-01:00 "
		"00:00-01:00 00:00-01:00 00:00-01:00 00:00-01:00 00:00-01:00 "
		"00:00-01:00 00:00-01:00 00:00-01:00 00:00-01:00 00:00-01:00 "
		"00:00-01:00 00:00-01:00 00:00-01:00",
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct policy_windows w = {.n = 77};

		if (!policy_windows_parse(rows[i], &w))
			fail_msg("%s", rows[i]);
		assert_int_equal(w.n, 77);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(simple),
		cmocka_unit_test(over_midnight),
		cmocka_unit_test(days),
		cmocka_unit_test(summer_time),
		cmocka_unit_test(as_looked_at_each_minute),
		cmocka_unit_test(wrong_ones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
