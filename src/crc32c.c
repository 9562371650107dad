/* SPDX-License-Identifier: MIT */
/*
 * By the processor where it can: a log's entry has pages of data, and who wrote
 * them waits. Else by half bytes: the table is short enough to be checked by
 * eye.
 */
#include "crc32c.h"

#include <string.h>

/* crc is inverted here, as it is while it is summed. */
static uint32_t by_table(uint32_t crc, const uint8_t *p, size_t len)
{
	/* table[i]: i shifted out through the reflected 0x82f63b78. */
	static const uint32_t table[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
		0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
		0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};

	while (len--) {
		crc ^= *p++;
		crc = table[crc & 15] ^ (crc >> 4);
		crc = table[crc & 15] ^ (crc >> 4);
	}
	return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t
by_processor(uint32_t crc, const uint8_t *p, size_t len)
{
	uint64_t crc64 = crc, word;

	for (; len >= 8; p += 8, len -= 8) {
		memcpy(&word, p, 8);
		crc64 = __builtin_ia32_crc32di(crc64, word);
	}
	crc = (uint32_t)crc64;
	while (len--)
		crc = __builtin_ia32_crc32qi(crc, *p++);
	return crc;
}

static int processor_can(void)
{
	return __builtin_cpu_supports("sse4.2");
}
#else
#define by_processor by_table

static int processor_can(void)
{
	return 0;
}
#endif

uint32_t crc32c(uint32_t crc, const void *buf, size_t len)
{
	if (processor_can())
		return ~by_processor(~crc, buf, len);
	return ~by_table(~crc, buf, len);
}

uint32_t crc32c_portable(uint32_t crc, const void *buf, size_t len)
{
	return ~by_table(~crc, buf, len);
}
