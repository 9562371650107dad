/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CRC32C_H
#define TIERFS_CRC32C_H

/* CRC-32C (Castagnoli), as in iSCSI, ext4 and btrfs. Pure. */

#include <stddef.h>
#include <stdint.h>

/* Continues crc (0 to begin with) over len bytes. */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len);
/* The same without help of the processor. */
uint32_t crc32c_portable(uint32_t crc, const void *buf, size_t len);

#endif
