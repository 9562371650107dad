/* SPDX-License-Identifier: MIT */
/*
 * By half bytes: the table is short enough to be checked by eye, and what is
 * summed is a few dozen bytes.
 */
#include "crc32c.h"

uint32_t crc32c(uint32_t crc, const void *buf, size_t len)
{
	/* table[i]: i shifted out through the reflected 0x82f63b78. */
	static const uint32_t table[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
		0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
		0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};
	const uint8_t *p = buf;

	crc = ~crc;
	while (len--) {
		crc ^= *p++;
		crc = table[crc & 15] ^ (crc >> 4);
		crc = table[crc & 15] ^ (crc >> 4);
	}
	return ~crc;
}
