/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_OID_H
#define TIERFS_OID_H

/*
 * Object ids: 64 bits, shown as 16 hex digits, cut after two for the path.
 *
 * They are counted, and the two digits that name the directory are taken from
 * the count's bits 12 to 19: 4096 objects that were migrated one after another
 * lie in one directory, which the file system of a disk keeps together.
 * Oid 0 is never given out.
 */

#include <stdint.h>

#define OID_HEX_LEN  17 /* 16 digits and the NUL */
#define OID_PATH_LEN 18 /* "oo/oooooooooooooo" and the NUL */

/* The oid of the n-th object, n in 1 .. 2^56-1. One to one. */
uint64_t oid_from_count(uint64_t n);
/* Its inverse; 0 for what no count gives. */
uint64_t oid_to_count(uint64_t oid);

void oid_hex(uint64_t oid, char ret[OID_HEX_LEN]);
void oid_path(uint64_t oid, char ret[OID_PATH_LEN]);
/* 16 lower-case hex digits: 0, else -EINVAL with *ret untouched. */
int oid_parse(const char *hex, uint64_t *ret);

#endif
