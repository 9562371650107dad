/* SPDX-License-Identifier: MIT */
/*
 * The spill EA. A CRC stands before everything else, so bytes are tried as they
 * are, and again with the CRC that they should have.
 */
#include <errno.h>
#include <string.h>

#include "crc32c.h"
#include "fuzz.h"
#include "spill_ea.h"
#include "util.h"

#define ROOM 512

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}

static void decode(const uint8_t *buf, size_t size)
{
	uint8_t again[TIERFS_EA_MAX], small[TIERFS_EA_MAX];
	struct spill_ea ea, before;
	int err, len;

	memset(&ea, 0xee, sizeof(ea));
	before = ea;
	err = spill_ea_decode(buf, size, &ea);
	if (err) {
		must(err == -EBADMSG || err == -EPROTONOSUPPORT);
		must(!memcmp(&ea, &before, sizeof(ea)));
		must(err == -EBADMSG || buf[0] > TIERFS_EA_VERSION);
		return;
	}
	must(buf[0] == TIERFS_EA_VERSION);
	must(strcmp(spill_state_name(ea.state), "unknown"));
	len = spill_ea_encode(&ea, again, sizeof(again));
	must(len >= 0 && (size_t)len == size && !memcmp(again, buf, size));
	memset(small, 0xee, sizeof(small));
	must(spill_ea_encode(&ea, small, size - 1) == -ENOSPC);
	for (size_t i = 0; i < sizeof(small); i++)
		must(small[i] == 0xee);
}

/* Any fields: what can be written is read again as it was. */
static void encode(const uint8_t *data, size_t size)
{
	struct spill_ea ea = {0}, back = {0};
	uint8_t buf[TIERFS_EA_MAX];
	int len;

	memcpy(&ea.size, data, min_t(size_t, size, 8));
	if (size > 56) {
		ea.state = data[8] % (SPILL_STATES + 1);
		ea.flags = data[9];
		ea.ncopies = data[10] % (TIERFS_EA_COPIES_MAX + 2);
		memcpy(&ea.blocks, data + 11, 5);
		memcpy(&ea.ino, data + 16, 8);
		memcpy(&ea.ctime, data + 24, 8);
		memcpy(&ea.sum, data + 32, 16);
		for (size_t i = 0; i < TIERFS_EA_COPIES_MAX; i++) {
			ea.copies[i].target = data[48 + i];
			ea.copies[i].oid = (uint64_t)data[52 + i] << (8 * i);
		}
	}
	len = spill_ea_encode(&ea, buf, sizeof(buf));
	if (len < 0) {
		must(len == -EINVAL);
		return;
	}
	must(spill_ea_decode(buf, (size_t)len, &back) == 0);
	must(back.state == ea.state && back.flags == ea.flags);
	must(back.size == ea.size && back.blocks == ea.blocks);
	must(back.ino == ea.ino && back.ctime == ea.ctime);
	must(!memcmp(&back.sum, &ea.sum, sizeof(ea.sum)));
	must(back.ncopies == ea.ncopies);
	for (size_t i = 0; i < ea.ncopies; i++)
		must(back.copies[i].target == ea.copies[i].target &&
		     back.copies[i].oid == ea.copies[i].oid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t buf[ROOM];

	decode(data, size);
	encode(data, size);
	if (size >= 8 && size <= sizeof(buf)) {
		uint32_t crc;

		memcpy(buf, data, size);
		crc = crc32c(crc32c(0, buf, 4), buf + 8, size - 8);
		for (int i = 0; i < 4; i++)
			buf[4 + i] = (uint8_t)(crc >> (8 * i));
		decode(buf, size);
	}
	return 0;
}
