/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <string.h>

#include "crc32c.h"

static void vectors(void **state)
{
	uint8_t buf[32];
	unsigned int i;

	assert_int_equal(crc32c(0, "", 0), 0);
	assert_int_equal(crc32c(0, "123456789", 9), 0xE3069283);
	/* RFC 3720, B.4 */
	memset(buf, 0, sizeof(buf));
	assert_int_equal(crc32c(0, buf, sizeof(buf)), 0x8A9136AA);
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(crc32c(0, buf, sizeof(buf)), 0x62A8AB43);
	for (i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)i;
	assert_int_equal(crc32c(0, buf, sizeof(buf)), 0x46DD794E);
}

static void in_pieces(void **state)
{
	size_t i;

	for (i = 0; i <= 9; i++)
		assert_int_equal(crc32c(crc32c(0, "123456789", i),
					"123456789" + i, 9 - i),
				 0xE3069283);
}

/* At every alignment and length: the processor's way and the table's. */
static void both_ways(void **state)
{
	uint8_t buf[100];
	size_t off, len;

	for (len = 0; len < sizeof(buf); len++)
		buf[len] = (uint8_t)(len * 37 + 11);
	for (off = 0; off < 9; off++)
		for (len = 0; len <= sizeof(buf) - off; len++)
			assert_int_equal(
				crc32c(0x12345678, buf + off, len),
				crc32c_portable(0x12345678, buf + off, len));
	assert_int_equal(crc32c_portable(0, "123456789", 9), 0xE3069283);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vectors),
		cmocka_unit_test(in_pieces),
		cmocka_unit_test(both_ways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
