/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "budget.h"
#include "util.h"

#define HOUR (3600 * NSEC_PER_SEC)
#define NOW  (490000 * HOUR + 7)

static void test_limit(void **state)
{
	struct budget b = {0};

	(void)state;
	assert_false(budget_take(&b, 100, 101, NOW));
	assert_true(budget_take(&b, 100, 60, NOW));
	assert_false(budget_take(&b, 100, 41, NOW));
	assert_true(budget_take(&b, 100, 40, NOW));
	assert_true(budget_take(&b, 100, 0, NOW));
	assert_int_equal(budget_used(&b, NOW), 100);
	/* It was lowered. */
	assert_false(budget_take(&b, 50, 0, NOW));
	assert_true(budget_take(&b, UINT64_MAX, 1000, NOW));
	assert_false(budget_take(&b, 0, 1, NOW + 48 * HOUR));
}

/* Whenever it is used: never more than the limit within 24 hours. */
static void test_slides(void **state)
{
	struct budget b = {0};
	uint64_t taken[400] = {0}, all = 0;

	(void)state;
	for (int i = 0; i < 400; i++) { /* each quarter of an hour */
		uint64_t day = 0;

		while (budget_take(&b, 100, 7, NOW + i * HOUR / 4) &&
		       taken[i] < 21)
			taken[i] += 7;
		for (int k = i > 96 ? i - 96 : 0; k <= i; k++)
			day += taken[k];
		all += taken[i];
		assert_in_range(day, 0, 100);
	}
	assert_in_range(all, 300, 100 * 400 / 96 + 100);
}

static void test_give(void **state)
{
	struct budget b = {0};

	(void)state;
	assert_true(budget_take(&b, 100, 60, NOW));
	assert_true(budget_take(&b, 100, 40, NOW + HOUR));
	budget_give(&b, 50, NOW + 2 * HOUR);
	assert_int_equal(budget_used(&b, NOW + 2 * HOUR), 50);
	/* The newest first: what is left is of the first hour. */
	assert_int_equal(budget_used(&b, NOW + 24 * HOUR), 50);
	assert_int_equal(budget_used(&b, NOW + 25 * HOUR), 0);
	budget_give(&b, 50, NOW + 25 * HOUR);
	assert_int_equal(budget_used(&b, NOW + 25 * HOUR), 0);
}

static void test_clock(void **state)
{
	struct budget b = {0};

	(void)state;
	assert_true(budget_take(&b, 100, 60, NOW));
	/* Back a little, and far. */
	assert_int_equal(budget_used(&b, NOW - 3 * HOUR), 60);
	assert_int_equal(budget_used(&b, NOW - 1000 * HOUR), 60);
	assert_int_equal(budget_used(&b, NOW - 976 * HOUR), 60);
	assert_int_equal(budget_used(&b, NOW - 975 * HOUR), 0);
	assert_true(budget_take(&b, 100, 60, NOW + 100000 * HOUR));
	assert_int_equal(budget_used(&b, -5), 60);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_slides),
		cmocka_unit_test(test_give),
		cmocka_unit_test(test_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
