/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <errno.h>
#include <string.h>

#include "config.h"
#include "util.h"

static void sizes(void **state)
{
	static const struct {
		const char *text;
		int err;
		uint64_t value;
	} rows[] = {
		{"0", 0, 0},
		{"1", 0, 1},
		{"10M", 0, 10 << 20},
		{"1.5G", 0, 3ULL << 29},
		{"4KiB", 0, 4096},
		{"4kib", 0, 4096},
		{"4k", 0, 4096},
		{"7B", 0, 7},
		{"0.5K", 0, 512},
		{"0.0001K", 0, 0},
		{"2T", 0, 2ULL << 40},
		{"1PiB", 0, 1ULL << 50},
		{"00012", 0, 12},
		{"9223372036854775807", -ERANGE, 0},
		{"99999999P", -ERANGE, 0},
		{"8191P", 0, 8191ULL << 50},
		{"8192P", -ERANGE, 0},
		{"", -EINVAL, 0},
		{"M", -EINVAL, 0},
		{"-1", -EINVAL, 0},
		{"+1", -EINVAL, 0},
		{" 1", -EINVAL, 0},
		{"1 ", -EINVAL, 0},
		{"1 M", -EINVAL, 0},
		{"1.", -EINVAL, 0},
		{".5", -EINVAL, 0},
		{"1.2.3", -EINVAL, 0},
		{"1,5", -EINVAL, 0},
		{"1e3", -EINVAL, 0},
		{"0x10", -EINVAL, 0},
		{"10MB", -EINVAL, 0},
		{"10Mi", -EINVAL, 0},
		{"inf", -EINVAL, 0},
		{"10X", -EINVAL, 0},
	};
	uint64_t value;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		value = 77;
		if (config_parse_size(rows[i].text, &value) != rows[i].err ||
		    value != (rows[i].err ? 77 : rows[i].value))
			fail_msg("'%s': %llu", rows[i].text,
				 (unsigned long long)value);
	}
}

static void times(void **state)
{
	static const struct {
		const char *text;
		int err;
		uint64_t value;
	} rows[] = {
		{"90s", 0, 90000000000},
		{"250ms", 0, 250000000},
		{"15m", 0, 900000000000},
		{"2h", 0, 7200000000000},
		{"1d", 0, 86400000000000},
		{"2w", 0, 1209600000000000},
		{"1.5s", 0, 1500000000},
		{"0", 0, 0},
		{"0s", 0, 0},
		{"20000w", -ERANGE, 0},
		{"90", -EINVAL, 0},
		{"s", -EINVAL, 0},
		{"1y", -EINVAL, 0},
		{"-1s", -EINVAL, 0},
		{"1m30s", -EINVAL, 0},
	};
	uint64_t value;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		value = 77;
		if (config_parse_time(rows[i].text, &value) != rows[i].err ||
		    value != (rows[i].err ? 77 : rows[i].value))
			fail_msg("'%s': %llu", rows[i].text,
				 (unsigned long long)value);
	}
}

static void percents(void **state)
{
	double value = 77;

	assert_int_equal(config_parse_percent("80", &value), 0);
	assert_true(value == 80);
	assert_int_equal(config_parse_percent("80%", &value), 0);
	assert_int_equal(config_parse_percent("99.5", &value), 0);
	assert_true(value == 99.5);
	assert_int_equal(config_parse_percent("0", &value), 0);
	assert_int_equal(config_parse_percent("100", &value), 0);
	assert_int_equal(config_parse_percent("100.1", &value), -ERANGE);
	assert_int_equal(config_parse_percent("101", &value), -ERANGE);
	assert_int_equal(config_parse_percent("-1", &value), -EINVAL);
	assert_int_equal(config_parse_percent("80%%", &value), -EINVAL);
	assert_int_equal(config_parse_percent("80 %", &value), -EINVAL);
	assert_int_equal(config_parse_percent("", &value), -EINVAL);
	assert_true(value == 100);
}

static void names(void **state)
{
	char name[80];

	assert_true(config_name_valid("a"));
	assert_true(config_name_valid("Fast-1.x_y"));
	assert_true(config_name_valid("_"));
	assert_false(config_name_valid(""));
	assert_false(config_name_valid(".a"));
	assert_false(config_name_valid("-a"));
	assert_false(config_name_valid("a b"));
	assert_false(config_name_valid("a/b"));
	assert_false(config_name_valid("\xc3\xa4"));
	memset(name, 'a', sizeof(name));
	name[63] = '\0';
	assert_true(config_name_valid(name));
	name[63] = 'a';
	name[64] = '\0';
	assert_false(config_name_valid(name));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(times),
		cmocka_unit_test(percents),
		cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
