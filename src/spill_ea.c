/* SPDX-License-Identifier: MIT */
#include "spill_ea.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "crc32c.h"
#include "util.h"

/* Offsets, as in tierfs/format.h. */
enum {
	OFF_VERSION = 0,
	OFF_STATE = 1,
	OFF_FLAGS = 2,
	OFF_ZERO = 3,
	OFF_CRC = 4,
	OFF_SIZE = 8,
	OFF_BLOCKS = 14,
	OFF_INO = 19,
	OFF_CTIME = 27,
	OFF_SUM = 35,
};

#define SIZE_BYTES   (OFF_BLOCKS - OFF_SIZE)
#define BLOCKS_BYTES (OFF_INO - OFF_BLOCKS)
#define FLAGS_KNOWN                                                            \
	(TIERFS_EA_F_PINNED | TIERFS_EA_F_WRITING | TIERFS_EA_F_CTIME |        \
	 TIERFS_EA_F_INO | TIERFS_EA_F_LOGGING | TIERFS_EA_F_DAMAGED)

/* The low n bytes of value, little-endian. */
static void put_le(uint8_t *p, uint64_t value, size_t n)
{
	value = htole64(value);
	memcpy(p, &value, n);
}

static uint64_t get_le(const uint8_t *p, size_t n)
{
	uint64_t value = 0;

	memcpy(&value, p, n);
	return le64toh(value);
}

static uint32_t ea_crc(const uint8_t *p, size_t len)
{
	uint32_t crc = crc32c(0, p, OFF_CRC);

	return crc32c(crc, p + OFF_SIZE, len - OFF_SIZE);
}

static bool copies_valid(const struct spill_ea *ea)
{
	unsigned int i, j;

	if (ea->ncopies > TIERFS_EA_COPIES_MAX)
		return false;
	/* Only a file in state none has no copy, and it has none. */
	if ((ea->state == SPILL_NONE) != (ea->ncopies == 0))
		return false;
	for (i = 0; i < ea->ncopies; i++) {
		const struct spill_copy *copy = &ea->copies[i];

		if (copy->oid == 0 || copy->target >= TIERFS_TARGETS_MAX)
			return false;
		for (j = 0; j < i; j++)
			if (ea->copies[j].target == copy->target &&
			    ea->copies[j].oid == copy->oid)
				return false;
	}
	return true;
}

/* What an EA of this version can say; the same for both directions, so that
 * nothing is written that would not be read again. */
static bool ea_valid(const struct spill_ea *ea)
{
	if ((unsigned int)ea->state >= SPILL_STATES)
		return false;
	if (ea->flags & ~FLAGS_KNOWN)
		return false;
	if (ea->size > TIERFS_SIZE_MAX || ea->blocks > TIERFS_BLOCKS_MAX)
		return false;
	if ((ea->flags & TIERFS_EA_F_INO) && ea->ino == 0)
		return false;
	if ((ea->flags & TIERFS_EA_F_LOGGING) && ea->state != SPILL_DIRTY)
		return false;
	return copies_valid(ea);
}

int spill_ea_encode(const struct spill_ea *ea, void *buf, size_t cap)
{
	uint8_t *p = buf;
	size_t len;
	unsigned int i;

	if (!ea_valid(ea))
		return -EINVAL;
	len = TIERFS_EA_HEAD + ea->ncopies * TIERFS_EA_COPY;
	if (len > cap)
		return -ENOSPC;
	p[OFF_VERSION] = TIERFS_EA_VERSION;
	p[OFF_STATE] = (uint8_t)(ea->state | ea->ncopies << 4);
	p[OFF_FLAGS] = ea->flags;
	p[OFF_ZERO] = 0;
	put_le(p + OFF_SIZE, ea->size, SIZE_BYTES);
	put_le(p + OFF_BLOCKS, ea->blocks, BLOCKS_BYTES);
	put_le(p + OFF_INO, ea->ino, 8);
	put_le(p + OFF_CTIME, (uint64_t)ea->ctime, 8);
	put_le(p + OFF_SUM, ea->sum.low, 8);
	put_le(p + OFF_SUM + 8, ea->sum.high, 8);
	for (i = 0; i < ea->ncopies; i++) {
		uint8_t *copy = p + TIERFS_EA_HEAD + i * TIERFS_EA_COPY;

		copy[0] = ea->copies[i].target;
		put_le(copy + 1, ea->copies[i].oid, 8);
	}
	put_le(p + OFF_CRC, ea_crc(p, len), 4);
	return (int)len;
}

int spill_ea_decode(const void *buf, size_t len, struct spill_ea *ret)
{
	const uint8_t *p = buf;
	struct spill_ea ea = {0};
	unsigned int i;

	/* The CRC first: a damaged version byte is no newer version. */
	if (len < OFF_SIZE || get_le(p + OFF_CRC, 4) != ea_crc(p, len))
		return -EBADMSG;
	if (p[OFF_VERSION] > TIERFS_EA_VERSION)
		return -EPROTONOSUPPORT;
	if (p[OFF_VERSION] != TIERFS_EA_VERSION || len < TIERFS_EA_HEAD)
		return -EBADMSG;
	ea.state = p[OFF_STATE] & 15;
	ea.ncopies = p[OFF_STATE] >> 4;
	if (ea.ncopies > TIERFS_EA_COPIES_MAX ||
	    len != TIERFS_EA_HEAD + ea.ncopies * TIERFS_EA_COPY ||
	    p[OFF_ZERO] != 0)
		return -EBADMSG;
	ea.flags = p[OFF_FLAGS];
	ea.size = get_le(p + OFF_SIZE, SIZE_BYTES);
	ea.blocks = get_le(p + OFF_BLOCKS, BLOCKS_BYTES);
	ea.ino = get_le(p + OFF_INO, 8);
	ea.ctime = (int64_t)get_le(p + OFF_CTIME, 8);
	ea.sum.low = get_le(p + OFF_SUM, 8);
	ea.sum.high = get_le(p + OFF_SUM + 8, 8);
	for (i = 0; i < ea.ncopies; i++) {
		const uint8_t *copy = p + TIERFS_EA_HEAD + i * TIERFS_EA_COPY;

		ea.copies[i].target = copy[0];
		ea.copies[i].oid = get_le(copy + 1, 8);
	}
	if (!ea_valid(&ea))
		return -EBADMSG;
	*ret = ea;
	return 0;
}

int spill_ea_is_empty(const struct spill_ea *ea)
{
	/* Without copies there is nothing that could be suspect. */
	return ea->state == SPILL_NONE && !(ea->flags & ~TIERFS_EA_F_WRITING);
}

const char *spill_state_name(enum spill_state state)
{
	static const char *const names[SPILL_STATES] = {
		[SPILL_NONE] = "none",	       [SPILL_MIGRATING] = "migrating",
		[SPILL_MIGRATED] = "migrated", [SPILL_RELEASED] = "released",
		[SPILL_DIRTY] = "dirty",
	};

	return (size_t)state < ARRAY_SIZE(names) ? names[state] : "unknown";
}
