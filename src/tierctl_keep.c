/* SPDX-License-Identifier: MIT */
/* Until when, as people say it: --keep 3d, fri, 2026-12-01. */
#include <string.h>
#include <strings.h>
#include <time.h>

#include "config.h"
#include "tierctl.h"
#include "util.h"

/* Local time of a day, and so many days later; -1: no such. */
static time_t day_end(struct tm day, int days)
{
	struct tm tm = {
		.tm_year = day.tm_year,
		.tm_mon = day.tm_mon,
		.tm_mday = day.tm_mday + days + 1,
		.tm_isdst = -1,
	};

	return mktime(&tm);
}

/* In how many days that day of the week will be, 1 to 7; 0: it is none. */
static int weekday(const char *text, int today)
{
	static const char *const days[] = {"sunday",	"monday",   "tuesday",
					   "wednesday", "thursday", "friday",
					   "saturday"};
	size_t len = strlen(text);

	for (int i = 0; i < 7; i++) {
		if ((len == 3 || len == strlen(days[i])) &&
		    !strncasecmp(text, days[i], len))
			return (i - today + 6) % 7 + 1;
	}
	return 0;
}

/* Is it the date that was written, not the 31st of a shorter month? */
static bool is_date(struct tm tm)
{
	struct tm same = {.tm_year = tm.tm_year,
			  .tm_mon = tm.tm_mon,
			  .tm_mday = tm.tm_mday,
			  .tm_hour = 12,
			  .tm_isdst = -1};

	return mktime(&same) != -1 && same.tm_mday == tm.tm_mday;
}

static time_t date(const char *text)
{
	static const char *const formats[] = {
		"%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S",
		"%Y-%m-%dT%H:%M"};
	struct tm tm = {.tm_isdst = -1};
	const char *end = strptime(text, "%Y-%m-%d", &tm);

	if (end && !*end)
		return is_date(tm) ? day_end(tm, 0) : -1;
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		tm = (struct tm){.tm_isdst = -1};
		end = strptime(text, formats[i], &tm);
		if (end && !*end && is_date(tm)) {
			tm.tm_isdst = -1;
			return mktime(&tm);
		}
	}
	return -1;
}

const char *keep_parse(const char *text, int64_t now, int64_t *ret)
{
	time_t at = now, until;
	uint64_t ns;
	struct tm tm;

	if (!localtime_r(&at, &tm))
		return "what day is it?";
	if (!config_parse_time(text, &ns))
		until = now + (time_t)((ns + NSEC_PER_SEC - 1) / NSEC_PER_SEC);
	else if (!strcasecmp(text, "today"))
		until = day_end(tm, 0);
	else if (!strcasecmp(text, "tomorrow"))
		until = day_end(tm, 1);
	else if (weekday(text, tm.tm_wday))
		until = day_end(tm, weekday(text, tm.tm_wday));
	else
		until = date(text);
	if (until == -1)
		return "is no time such as 3d, fri or 2026-12-01";
	if (until <= now)
		return "is in the past";
	*ret = until;
	return NULL;
}
