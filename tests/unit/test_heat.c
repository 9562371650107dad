/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "heat.h"
#include "util.h"

#define DAY	 (86400 * NSEC_PER_SEC)
#define WEEK	 (7 * DAY)
#define NOW	 (1763700000 * NSEC_PER_SEC)
#define ACCESSES 400

static uint64_t seed = 4711;

static uint64_t next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Any int64, all sizes alike, and the ends often. */
static int64_t any(void)
{
	static const int64_t ends[] = {INT64_MIN, INT64_MIN + 1, -1,	   0,
				       1,	  INT64_MAX - 1, INT64_MAX};
	uint64_t r = next();

	if (r % 8 == 0)
		return ends[(r >> 8) % ARRAY_SIZE(ends)];
	return (int64_t)next() >> ((r >> 8) % 64);
}

static double any_temperature(void)
{
	return ldexp(1 + (double)(next() % 4096) / 4096,
		     (int)(next() % 40) - 20);
}

static void first_access_is_one(void **state)
{
	static const int64_t times[] = {0,	 1,    -1,	     NOW,
					NOW + 1, -NOW, INT64_MAX / 2};

	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		int64_t heat = heat_touch(HEAT_NONE, times[i], WEEK);

		assert_true(heat_at(heat, times[i], WEEK) == 1);
		assert_float_equal(heat_at(heat, times[i] + WEEK, WEEK), 0.5,
				   0);
		heat = heat_touch(heat, times[i], WEEK);
		assert_true(heat_at(heat, times[i], WEEK) == 2);
	}
	assert_true(heat_at(HEAT_NONE, NOW, WEEK) == 0);
}

/* Against the sum that it stands for, with the access times at random. */
static void is_the_naive_sum(void **state)
{
	int64_t at[ACCESSES];

	for (int round = 0; round < 300; round++) {
		int64_t half_life = 1 + (int64_t)(next() % (60 * DAY));
		int64_t heat = HEAT_NONE, now = NOW;
		double sum = 0;

		for (int i = 0; i < ACCESSES; i++) {
			now += (int64_t)(next() % (uint64_t)half_life) >>
			       (next() % 16);
			at[i] = now;
			heat = heat_touch(heat, now, half_life);
		}
		now += (int64_t)(next() % (uint64_t)half_life) * 3;
		for (int i = 0; i < ACCESSES; i++)
			sum += exp2(-(double)(now - at[i]) / (double)half_life);
		assert_true(fabs(heat_at(heat, now, half_life) / sum - 1) <
			    0.0002);
	}
}

/* The order of two files is that of their values, whenever one looks. */
static void order_does_not_change(void **state)
{
	for (int i = 0; i < 100000; i++) {
		int64_t half_life = any(), now = any(), a = any(), b = any();

		if (a > b) {
			int64_t c = a;

			a = b;
			b = c;
		}
		assert_true(heat_at(a, now, half_life) <=
			    heat_at(b, now, half_life));
		assert_true(heat_touch(a, now, half_life) <=
			    heat_touch(b, now, half_life));
	}
}

static void touching_never_cools(void **state)
{
	for (int i = 0; i < 100000; i++) {
		int64_t half_life = any(), now = any(), heat = any();
		int64_t touched = heat_touch(heat, now, half_life);
		int64_t later = now < INT64_MAX ? now + 1 : now;

		assert_true(touched >= heat && touched != HEAT_NONE);
		assert_true(heat_at(touched, now, half_life) >= 1);
		assert_true(touched <= heat_touch(heat, later, half_life));
		assert_true(heat_at(touched, now, half_life) >=
			    heat_at(touched, later, half_life));
		assert_true(heat_at(touched, now, half_life) <= DBL_MAX);
	}
}

/* At that time it is as cold, and a moment before it is not. */
static void when_is_the_first_time(void **state)
{
	size_t within = 0;

	for (int i = 0; i < 200000; i++) {
		bool usual = i % 2;
		int64_t half_life =
			usual ? 1 + (int64_t)(next() % (60 * DAY)) : any();
		int64_t heat =
			usual ? heat_touch(any() % DAY, NOW, half_life) : any();
		double to = any_temperature();
		int64_t when = heat_when(heat, to, half_life);

		if (when > INT64_MIN)
			assert_true(heat_at(heat, when - 1, half_life) > to);
		if (when < INT64_MAX)
			assert_true(heat_at(heat, when, half_life) <= to);
		within += when > INT64_MIN && when < INT64_MAX;
	}
	assert_true(within > 100000);
}

static void when_at_the_ends(void **state)
{
	static const double odd[] = {DBL_MIN, DBL_MIN / 2, 4.9e-324,
				     DBL_MAX, DBL_MAX / 2, 1};
	int64_t heat = heat_touch(HEAT_NONE, NOW, WEEK);

	assert_true(heat_when(heat, 1, WEEK) <= NOW);
	assert_true(heat_when(heat, 0.5, WEEK) - NOW <= WEEK);
	assert_true(heat_when(heat, 0.5, WEEK) - NOW > WEEK - NSEC_PER_SEC);
	assert_true(heat_when(HEAT_NONE, 0.5, WEEK) == INT64_MIN);
	assert_true(heat_when(heat, 0, WEEK) == INT64_MAX);
	assert_true(heat_when(heat, -1, WEEK) == INT64_MAX);
	assert_true(heat_when(heat, NAN, WEEK) == INT64_MAX);
	assert_true(heat_when(heat, INFINITY, WEEK) == INT64_MIN);
	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		int64_t when = heat_when(heat, odd[i], DAY);

		if (when > INT64_MIN)
			assert_true(heat_at(heat, when - 1, DAY) > odd[i]);
		if (when < INT64_MAX)
			assert_true(heat_at(heat, when, DAY) <= odd[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_access_is_one),
		cmocka_unit_test(is_the_naive_sum),
		cmocka_unit_test(order_does_not_change),
		cmocka_unit_test(touching_never_cools),
		cmocka_unit_test(when_is_the_first_time),
		cmocka_unit_test(when_at_the_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
