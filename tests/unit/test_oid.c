/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <errno.h>
#include <string.h>

#include "oid.h"
#include "util.h"

#define COUNT_MAX ((UINT64_C(1) << 56) - 1)

static void known_values(void **state)
{
	static const struct {
		uint64_t count, oid;
	} rows[] = {
		{1, 1},
		{0xfff, 0xfff},
		{0x1000, 0x0100000000001000},
		{0x1fff, 0x0100000000001fff},
		{0xff000, 0xff000000000ff000},
		{0x100000, 0x0000000000100000},
		{0x123456789abcde, 0xab123456789abcde},
		{COUNT_MAX, UINT64_MAX},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_true(oid_from_count(rows[i].count) == rows[i].oid);
		assert_true(oid_to_count(rows[i].oid) == rows[i].count);
	}
}

static void one_to_one(void **state)
{
	uint64_t n, oid;
	unsigned int shift;

	for (shift = 0; shift < 56; shift++)
		for (n = UINT64_C(1) << shift;
		     n < (UINT64_C(1) << shift) + 5000 && n <= COUNT_MAX; n++) {
			oid = oid_from_count(n);
			assert_true(oid != 0);
			assert_true(oid_to_count(oid) == n);
		}
}

static void what_no_count_gives(void **state)
{
	assert_true(oid_to_count(0) == 0);
	assert_true(oid_to_count(0x0100000000000001) == 0);
	assert_true(oid_to_count(0x0000000000001000) == 0);
}

static void neighbours_share_a_directory(void **state)
{
	char first[OID_PATH_LEN], other[OID_PATH_LEN];
	uint64_t n;

	oid_path(oid_from_count(0x7000), first);
	for (n = 0x7000; n < 0x8000; n++) {
		oid_path(oid_from_count(n), other);
		assert_memory_equal(first, other, 3);
	}
	oid_path(oid_from_count(0x8000), other);
	assert_memory_not_equal(first, other, 3);
}

static void texts(void **state)
{
	char hex[OID_HEX_LEN], path[OID_PATH_LEN];

	oid_hex(0xab00000000000cde, hex);
	assert_string_equal(hex, "ab00000000000cde");
	oid_path(0xab00000000000cde, path);
	assert_string_equal(path, "ab/00000000000cde");
	oid_hex(1, hex);
	assert_string_equal(hex, "0000000000000001");
	oid_path(1, path);
	assert_string_equal(path, "00/00000000000001");
	oid_path(UINT64_MAX, path);
	assert_string_equal(path, "ff/ffffffffffffff");
}

static void parsing(void **state)
{
	static const char *const bad[] = {
		"",
		"0",
		"000000000000001",
		"00000000000000001",
		"000000000000000A",
		"000000000000000g",
		" 000000000000001",
		"0x00000000000001",
		"0000000000000001\n",
		"00/0000000000001",
		"-000000000000001",
	};
	uint64_t oid = 77;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(oid_parse(bad[i], &oid), -EINVAL);
		assert_int_equal(oid, 77);
	}
	assert_int_equal(oid_parse("fedcba9876543210", &oid), 0);
	assert_true(oid == 0xfedcba9876543210);
	assert_int_equal(oid_parse("0000000000000001", &oid), 0);
	assert_true(oid == 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_values),
		cmocka_unit_test(one_to_one),
		cmocka_unit_test(what_no_count_gives),
		cmocka_unit_test(neighbours_share_a_directory),
		cmocka_unit_test(texts),
		cmocka_unit_test(parsing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
