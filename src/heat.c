/* SPDX-License-Identifier: MIT */
/*
 * Heat as log2(temperature) + time / half-life.
 *
 * Time in half-lives is an integer, rounded down to 2^-20, and so is the
 * logarithm that an access adds; so a value compares as an integer, and equal
 * histories are equal values. An access right after it shows a temperature of
 * exactly one.
 *
 * Rounding costs an access at temperature h at most h * 2^-21 of itself: three
 * per mille at 6,000, and from some two millions on one more is not seen.
 *
 * All values of all arguments are allowed. What does not fit becomes the nearest
 * that does, a half-life below 1 ns is 1 ns, and what no time reaches is at
 * INT64_MAX.
 */
#include "heat.h"

#include <float.h>
#include <math.h>

#define ONE	((__int128)1 << HEAT_SHIFT)
/* Of any temperature that is a double, and of the lowest that is not 0. */
#define LOG_MAX ((int64_t)DBL_MAX_EXP << HEAT_SHIFT)
#define LOG_MIN ((int64_t)(DBL_MIN_EXP - 1) * (1 << HEAT_SHIFT))

/* As a value that was accessed. */
static int64_t saturated(__int128 value)
{
	if (value > INT64_MAX)
		return INT64_MAX;
	return value > HEAT_NONE ? (int64_t)value : HEAT_NONE + 1;
}

static __int128 floor_div(__int128 a, __int128 b)
{
	return a / b - (a % b < 0);
}

/* Time in half-lives, fixed point. */
static int64_t lives(int64_t now_ns, int64_t half_life_ns)
{
	return saturated(
		floor_div(now_ns * ONE, half_life_ns > 0 ? half_life_ns : 1));
}

/* 2^(log / 2^20), between 0 and what a double can be */
static double power(__int128 log)
{
	if (log < LOG_MIN)
		return 0;
	return log < LOG_MAX ? exp2((double)log / (double)ONE) : DBL_MAX;
}

/* The highest log whose power is at most temperature, 0 < it < DBL_MAX. */
static int64_t log_of(double temperature)
{
	int64_t log = LOG_MIN - 1;

	if (temperature < DBL_MIN)
		return log;
	log = (int64_t)floor(log2(temperature) * (double)ONE);
	while (power(log + 1) <= temperature)
		log++;
	while (power(log) > temperature)
		log--;
	return log;
}

int64_t heat_touch(int64_t heat, int64_t now_ns, int64_t half_life_ns)
{
	int64_t now = lives(now_ns, half_life_ns);
	int64_t high = heat > now ? heat : now;
	int64_t low = heat > now ? now : heat;
	__int128 apart = (__int128)high - low;

	/* log2(2^high + 2^low); further apart, low adds nothing */
	if (heat == HEAT_NONE || apart > 64 * ONE)
		return high;
	return saturated(high + (__int128)llround(log1p(power(-apart)) *
						  M_LOG2E * (double)ONE));
}

double heat_at(int64_t heat, int64_t now_ns, int64_t half_life_ns)
{
	if (heat == HEAT_NONE)
		return 0;
	return power((__int128)heat - lives(now_ns, half_life_ns));
}

int64_t heat_when(int64_t heat, double temperature, int64_t half_life_ns)
{
	__int128 half_life = half_life_ns > 0 ? half_life_ns : 1, at, when;

	if (heat == HEAT_NONE || temperature >= DBL_MAX)
		return INT64_MIN;
	if (!(temperature > 0))
		return INT64_MAX;
	/* The first time that is at half-lives or later. */
	at = (__int128)heat - log_of(temperature);
	if (at > INT64_MAX)
		return INT64_MAX;
	if (at <= HEAT_NONE + 1)
		return INT64_MIN;
	when = -floor_div(-at * half_life, ONE);
	if (when > INT64_MAX)
		return INT64_MAX;
	return when < INT64_MIN ? INT64_MIN : (int64_t)when;
}
