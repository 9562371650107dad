/* SPDX-License-Identifier: MIT */
/*
 * Windows by the clock on the wall.
 *
 * Whether one is open is asked of local time, so summer time needs no thought.
 * When that changes is found by going from one time of the day at which a window
 * begins or ends, or the day does, to the next; where the zone's offset changed
 * in between, that moment is looked for and looked at, too. Nothing is written
 * down of how a zone changes but that it does at most once between two such.
 */
#include "policy_window.h"

#include <string.h>
#include <time.h>

#include "config.h"
#include "util.h"

#define DAY	 (24 * 60) /* minutes */
#define ALL_DAYS 0x7f
#define LOOK	 (9 * 86400) /* s; after a week, and a day, it is the same */

/* ---- parsing --------------------------------------------------------------------- */

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* HH:MM, to 24:00; *p is set behind. */
static bool take_clock(const char **p, uint16_t *ret)
{
	const char *s = *p;
	int minutes;

	if (!is_digit(s[0]) || !is_digit(s[1]) || s[2] != ':' ||
	    !is_digit(s[3]) || !is_digit(s[4]))
		return false;
	if (s[3] > '5')
		return false;
	minutes = ((s[0] - '0') * 10 + s[1] - '0') * 60 + (s[3] - '0') * 10 +
		  s[4] - '0';
	if (minutes > DAY)
		return false;
	*ret = (uint16_t)minutes;
	*p = s + 5;
	return true;
}

/* sun is 0; -1: none. */
static int take_day(const char **p)
{
	static const char names[] = "sunmontuewedthufrisat";

	for (int i = 0; i < 7; i++)
		if (!strncmp(*p, names + 3 * i, 3)) {
			*p += 3;
			return i;
		}
	return -1;
}

/* sat, or mon-fri; adds the bits. */
static bool add_days(const char *word, uint8_t *days)
{
	int from = take_day(&word), to = from;

	if (from >= 0 && *word == '-') {
		word++;
		to = take_day(&word);
	}
	if (from < 0 || to < 0 || *word)
		return false;
	for (;; from = (from + 1) % 7) {
		*days |= (uint8_t)(1 << from);
		if (from == to)
			return true;
	}
}

static const char *add_window(const char *word, uint8_t days,
			      struct policy_windows *w)
{
	struct policy_window *window = &w->window[w->n];

	if (w->n == POLICY_WINDOWS_MAX)
		return "more than 16 windows";
	if (!take_clock(&word, &window->from) || *word++ != '-' ||
	    !take_clock(&word, &window->to) || *word || window->from == DAY)
		return "not a window, such as 02:00-06:00 or "
		       "sat,sun 10:00-18:00";
	if (window->from == window->to)
		return "a window that ends when it begins; "
		       "a whole day is 00:00-24:00";
	window->days = days ? days : ALL_DAYS;
	w->n++;
	return NULL;
}

static const char *add_above(const char *word, struct policy_windows *w)
{
	double above;

	if (w->above != POLICY_NO_ABOVE)
		return "above is given twice";
	if (!word || config_parse_percent(word, &above))
		return "above what? a per cent, 0 to 100";
	w->above = above;
	return NULL;
}

static const char *parse_only(char *text, struct policy_windows *w)
{
	static const char blanks[] = " \t,";
	const char *wrong = NULL;
	uint8_t days = 0;
	char *save, *word;

	for (word = strtok_r(text, blanks, &save); word && !wrong;
	     word = strtok_r(NULL, blanks, &save)) {
		if (!days && !strcmp(word, "or")) {
			word = strtok_r(NULL, blanks, &save);
			if (!word || strcmp(word, "above"))
				return "or what? above, and a per cent";
		}
		if (!days && !strcmp(word, "above"))
			wrong = add_above(strtok_r(NULL, blanks, &save), w);
		else if (!add_days(word, &days)) {
			wrong = add_window(word, days, w);
			days = 0;
		}
	}
	if (!wrong && days)
		wrong = "days without a time, such as 00:00-24:00";
	if (!wrong && !w->n && w->above == POLICY_NO_ABOVE)
		wrong = "only when? a window, such as 02:00-06:00";
	return wrong;
}

const char *policy_windows_parse(const char *text, struct policy_windows *ret)
{
	struct policy_windows w = {.above = POLICY_NO_ABOVE};
	const char *wrong = NULL;
	char buf[512];

	tzset();
	if (strlen(text) >= sizeof(buf))
		return "too long";
	strcpy(buf, text);
	if (!strcmp(buf, "always"))
		w.always = true;
	else if (!strncmp(buf, "only ", 5))
		wrong = parse_only(buf + 5, &w);
	else
		wrong = "neither always nor only, such as "
			"only 02:00-06:00, or above 85%";
	if (!wrong)
		*ret = w;
	return wrong;
}

/* ---- the clock -------------------------------------------------------------------- */

static bool local(time_t t, struct tm *ret)
{
	return localtime_r(&t, ret) != NULL;
}

static bool is_open(const struct policy_windows *w, const struct tm *tm)
{
	int minute = tm->tm_hour * 60 + tm->tm_min;

	for (unsigned int i = 0; i < w->n; i++) {
		const struct policy_window *window = &w->window[i];
		bool today = window->days >> tm->tm_wday & 1;
		bool yesterday = window->days >> (tm->tm_wday + 6) % 7 & 1;
		bool wraps = window->to < window->from;

		if (today && minute >= window->from &&
		    (wraps || minute < window->to))
			return true;
		if (yesterday && wraps && minute < window->to)
			return true;
	}
	return false;
}

/* Minutes from one time of the day to the next that matters, 1 to a day. */
static int to_next(const struct policy_windows *w, int minute)
{
	int next = DAY - minute;

	for (unsigned int i = 0; i < w->n; i++) {
		int from = w->window[i].from - minute;
		int to = w->window[i].to - minute;

		if (from > 0)
			next = min_t(int, next, from);
		if (to > 0)
			next = min_t(int, next, to);
	}
	return next;
}

/* The first moment after low, up to high, with high's offset from UTC. */
static time_t find_shift(time_t low, time_t high, long offset)
{
	struct tm tm;

	while (high - low > 1) {
		time_t middle = low + (high - low) / 2;

		if (local(middle, &tm) && tm.tm_gmtoff == offset)
			high = middle;
		else
			low = middle;
	}
	return high;
}

/* The first time after t when it is not as it is then, or the end of time. */
static int64_t find_change(const struct policy_windows *w, time_t t, bool open)
{
	const time_t end = t + LOOK;
	struct tm tm, next_tm;

	while (t < end && local(t, &tm)) {
		time_t next = t - tm.tm_sec +
			      60 * to_next(w, tm.tm_hour * 60 + tm.tm_min);

		if (!local(next, &next_tm))
			break;
		if (next_tm.tm_gmtoff != tm.tm_gmtoff) {
			next = find_shift(t, next, next_tm.tm_gmtoff);
			local(next, &next_tm);
		}
		if (is_open(w, &next_tm) != open)
			return timespec_to_ns(
				(struct timespec){.tv_sec = next});
		t = next;
	}
	return INT64_MAX;
}

bool policy_windows_open(const struct policy_windows *w, int64_t now,
			 double used, int64_t *ret_changes)
{
	time_t t = timespec_from_ns(now).tv_sec;
	bool open;
	struct tm tm;

	if (ret_changes)
		*ret_changes = INT64_MAX;
	if (w->always || used > w->above || !local(t, &tm))
		return true;
	open = is_open(w, &tm);
	if (ret_changes)
		*ret_changes = find_change(w, t, open);
	return open;
}
