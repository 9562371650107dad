/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "histogram.h"
#include "util.h"

static void test_buckets(void **state)
{
	const int64_t week = HISTOGRAM_WEEK * NSEC_PER_SEC;

	assert_int_equal(histogram_size_bucket(0), 0);
	assert_int_equal(histogram_size_bucket(1), 1);
	assert_int_equal(histogram_size_bucket(2), 2);
	assert_int_equal(histogram_size_bucket(3), 2);
	assert_int_equal(histogram_size_bucket(4), 3);
	assert_int_equal(histogram_size_bucket(UINT64_MAX), 64);
	assert_int_equal(histogram_week(0), 0);
	assert_int_equal(histogram_week(week - 1), 0);
	assert_int_equal(histogram_week(week), 1);
	assert_int_equal(histogram_week(-1), -1);
	assert_int_equal(histogram_week(-week), -1);
	assert_int_equal(histogram_week(-week - 1), -2);
}

static int64_t random_time(void)
{
	return ((int64_t)(rand() % 40) - 20) * HISTOGRAM_WEEK * NSEC_PER_SEC;
}

/* Whatever is added in whatever order is the sum of its parts, and taking all of
 * it away leaves nothing. */
static void test_additive(void **state)
{
	struct histogram all = {0}, sum = {0};
	struct histogram parts[3];
	struct {
		enum spill_state state;
		uint64_t size;
		int64_t mtime;
	} files[500];

	memset(parts, 0, sizeof(parts));
	srand(1);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		files[i].state = rand() % SPILL_STATES;
		files[i].size = (uint64_t)rand() >> rand() % 31;
		files[i].mtime = random_time();
		assert_int_equal(histogram_add(&all, files[i].state,
					       files[i].size, files[i].mtime,
					       1),
				 0);
		assert_int_equal(histogram_add(&parts[i % 3], files[i].state,
					       files[i].size, files[i].mtime,
					       1),
				 0);
	}
	for (size_t i = 1; i < all.nages; i++)
		assert_true(all.ages[i - 1].week < all.ages[i].week);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(histogram_sum(&sum, &parts[i], 1), 0);
	assert_true(histogram_equal(&sum, &all));
	assert_int_equal(histogram_sum(&sum, &parts[1], -1), 0);
	assert_false(histogram_equal(&sum, &all));
	assert_int_equal(histogram_sum(&sum, &parts[0], -1), 0);
	assert_true(histogram_equal(&sum, &parts[2]));
	for (size_t i = ARRAY_SIZE(files); i-- > 0;)
		assert_int_equal(histogram_add(&all, files[i].state,
					       files[i].size, files[i].mtime,
					       -1),
				 0);
	assert_true(histogram_is_empty(&all));
	for (size_t i = 0; i < 3; i++)
		histogram_free(&parts[i]);
	histogram_free(&sum);
	histogram_free(&all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_buckets),
		cmocka_unit_test(test_additive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
