/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <stdlib.h>

#include "turns.h"
#include "util.h"

#define MS 1000000

/* Requests of a millisecond. */
struct world {
	unsigned int together, apart;
	bool starves; /* together, instead of being slow */
};

static bool step(struct turns *t, const struct world *w)
{
	struct turns_tick tick = {.ns = MS};

	tick.requests = t->together ? w->together : w->apart;
	tick.starved = t->together && w->starves;
	return turns_next(t, &tick);
}

/* Of n ticks, those together. */
static unsigned int steps(struct turns *t, const struct world *w,
			  unsigned int n)
{
	unsigned int sum = 0;

	for (unsigned int i = 0; i < n; i++)
		sum += step(t, w);
	return sum;
}

static void at_once(void **state)
{
	const struct world w = {.together = 90, .apart = 30};
	struct turns t = TURNS_NEW;

	assert_true(step(&t, &w));
}

static void the_faster_one_is_kept(void **state)
{
	const struct world good = {.together = 90, .apart = 45};
	const struct world bad = {.together = 30, .apart = 45};
	const struct world alike = {.together = 44, .apart = 45};
	struct turns t = TURNS_NEW;

	assert_true(steps(&t, &good, 10000) > 9800);
	steps(&t, &bad, 600);
	assert_true(steps(&t, &bad, 10000) < 150);
	/* So it is found out that it changed, the more seldom the longer it was
	 * as it was: */
	steps(&t, &good, (TURNS_TICKS_APART << TURNS_DOUBLED) + 20);
	assert_true(steps(&t, &good, 10000) > 9800);
	/* and soon when that was just now. */
	steps(&t, &bad, TURNS_TICKS_KEPT + 20);
	assert_false(t.together);
	steps(&t, &good, 2 * TURNS_TICKS_APART + 20);
	assert_true(t.together);
	assert_true(steps(&t, &alike, 10000) > 9800);
}

static void starving_is_short_and_rare(void **state)
{
	const struct world good = {.together = 90, .apart = 45};
	const struct world starves = {.apart = 45, .starves = true};
	struct turns t = TURNS_NEW;

	assert_true(steps(&t, &good, 100) == 100);
	assert_true(steps(&t, &starves, 40) <= TURNS_TICKS_QUIET);
	/* A few ticks each time, which are less and less often. */
	assert_true(steps(&t, &starves, 1000) <= 5 * TURNS_TICKS_QUIET);
	assert_true(steps(&t, &starves, 100000) <= 110 * TURNS_TICKS_QUIET);
}

static void a_client_that_is_done_says_nothing(void **state)
{
	const struct world good = {.together = 90, .apart = 45};
	const struct world nobody = {0};
	struct turns t = TURNS_NEW;

	/* Until it would be compared. */
	for (int i = 0; i < TURNS_TICKS_KEPT / 8 - 1; i++) {
		assert_true(steps(&t, &good, 7) == 7);
		/* A moment is not an end. */
		assert_true(steps(&t, &nobody, TURNS_TICKS_QUIET - 1) ==
			    TURNS_TICKS_QUIET - 1);
		assert_true(step(&t, &good));
		steps(&t, &nobody, TURNS_TICKS_QUIET);
		assert_true(steps(&t, &nobody, 20) == 0);
	}
}

static void what_was_found_outlasts_the_burst(void **state)
{
	const struct world bad = {.together = 20, .apart = 45};
	const struct world nobody = {0};
	struct turns t = TURNS_NEW;

	steps(&t, &bad, 5000);
	while (t.phase != TURNS_KEEP)
		step(&t, &bad);
	steps(&t, &nobody, 1000);
	assert_true(steps(&t, &bad, 30) == 0);
}

static void not_with_others(void **state)
{
	struct turns_tick tick = {.ns = MS, .requests = 80, .others = 10};
	struct turns t = TURNS_NEW;

	assert_true(turns_next(&t, &tick));
	tick.others = 11;
	assert_false(turns_next(&t, &tick));
	assert_false(turns_flows(&tick));
	tick.others = 0;
	assert_true(turns_next(&t, &tick));
	/* Too few for it to matter. */
	tick.requests = 3;
	for (int i = 0; i < TURNS_TICKS_QUIET; i++)
		turns_next(&t, &tick);
	assert_false(t.together);
	assert_false(turns_flows(&tick));
	/* Long ticks are no others. */
	tick.ns = 64 * MS;
	tick.requests = 64 * 4;
	assert_true(turns_next(&t, &tick));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_once),
		cmocka_unit_test(the_faster_one_is_kept),
		cmocka_unit_test(starving_is_short_and_rare),
		cmocka_unit_test(a_client_that_is_done_says_nothing),
		cmocka_unit_test(what_was_found_outlasts_the_burst),
		cmocka_unit_test(not_with_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
