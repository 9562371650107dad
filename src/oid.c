/* SPDX-License-Identifier: MIT */
#include "oid.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define COUNT_BITS 56
#define COUNT_MAX  ((UINT64_C(1) << COUNT_BITS) - 1)
#define DIR_SHIFT  12 /* 4096 objects in a row share a directory */

uint64_t oid_from_count(uint64_t n)
{
	return ((n >> DIR_SHIFT & 0xff) << COUNT_BITS) | (n & COUNT_MAX);
}

uint64_t oid_to_count(uint64_t oid)
{
	uint64_t n = oid & COUNT_MAX;

	return oid_from_count(n) == oid ? n : 0;
}

void oid_hex(uint64_t oid, char ret[OID_HEX_LEN])
{
	snprintf(ret, OID_HEX_LEN, "%016" PRIx64, oid);
}

void oid_path(uint64_t oid, char ret[OID_PATH_LEN])
{
	snprintf(ret, OID_PATH_LEN, "%02x/%014" PRIx64,
		 (unsigned int)(oid >> COUNT_BITS), oid & COUNT_MAX);
}

int oid_parse(const char *hex, uint64_t *ret)
{
	uint64_t oid = 0;
	unsigned int i;

	for (i = 0; hex[i] && i < OID_HEX_LEN; i++) {
		if (hex[i] >= '0' && hex[i] <= '9')
			oid = oid << 4 | (uint64_t)(hex[i] - '0');
		else if (hex[i] >= 'a' && hex[i] <= 'f')
			oid = oid << 4 | (uint64_t)(hex[i] - 'a' + 10);
		else
			return -EINVAL;
	}
	if (i != OID_HEX_LEN - 1)
		return -EINVAL;
	*ret = oid;
	return 0;
}
