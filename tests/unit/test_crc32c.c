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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vectors),
		cmocka_unit_test(in_pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
