/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "tier.h"

#define GIB (UINT64_C(1) << 30)

static void marks(double high, double low, double percent, uint64_t bytes,
		  uint64_t total, double want_high, double want_low)
{
	struct tier_tunables tune = {.policy_auto = true};

	atomic_store(&tune.high, high);
	atomic_store(&tune.low, low);
	atomic_store(&tune.reserve_percent, percent);
	atomic_store(&tune.reserve_bytes, bytes);
	tier_watermarks(&tune, total, &high, &low);
	assert_float_equal(high, want_high, 0.0001);
	assert_float_equal(low, want_low, 0.0001);
}

static void the_reserve_lowers_both(void **state)
{
	marks(90, 80, 0, 0, 100 * GIB, 90, 80);
	marks(90, 80, 2, 0, 100 * GIB, 90, 80);
	marks(90, 80, 10, 0, 100 * GIB, 90, 80);
	marks(90, 80, 15, 0, 100 * GIB, 85, 75);
	marks(99, 98, 2, 0, 100 * GIB, 98, 97);
	marks(90, 80, 0, 5 * GIB, 100 * GIB, 90, 80);
	marks(90, 80, 0, 25 * GIB, 100 * GIB, 75, 65);
	/* More than there is, or nearly. */
	marks(90, 80, 95, 0, 100 * GIB, 5, 0);
	marks(90, 80, 0, 200 * GIB, 100 * GIB, 0, 0);
	marks(90, 80, 0, GIB, 0, 90, 80);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_reserve_lowers_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
