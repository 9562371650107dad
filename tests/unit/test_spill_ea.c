/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <errno.h>
#include <string.h>

#include "crc32c.h"
#include "spill_ea.h"
#include "util.h"

static struct spill_ea sample(void)
{
	return (struct spill_ea){
		.state = SPILL_RELEASED,
		.flags = TIERFS_EA_F_CTIME | TIERFS_EA_F_INO,
		.size = 0x010203040506,
		.blocks = 0x1112131415,
		.ino = 0x2122232425262728,
		.ctime = -2,
		.sum = {.low = 0x3132333435363738, .high = 0x4142434445464748},
		.ncopies = 1,
		.copies = {{.target = 9, .oid = 0x5152535455565758}},
	};
}

/* What a hand that knows the format alone would write. */
static const uint8_t sample_bytes[60] = {
	0x01, 0x13, 0x0c, 0x00, 0,    0,    0,	  0,	0x06, 0x05, 0x04, 0x03,
	0x02, 0x01, 0x15, 0x14, 0x13, 0x12, 0x11, 0x28, 0x27, 0x26, 0x25, 0x24,
	0x23, 0x22, 0x21, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x38,
	0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31, 0x48, 0x47, 0x46, 0x45, 0x44,
	0x43, 0x42, 0x41, 0x09, 0x58, 0x57, 0x56, 0x55, 0x54, 0x53, 0x52, 0x51,
};

/* Makes the CRC right again after a byte was changed on purpose. */
static void sign(uint8_t *buf, size_t len)
{
	uint32_t crc = crc32c(crc32c(0, buf, 4), buf + 8, len - 8);
	unsigned int i;

	for (i = 0; i < 4; i++)
		buf[4 + i] = (uint8_t)(crc >> (8 * i));
}

static void assert_ea_equal(const struct spill_ea *a, const struct spill_ea *b)
{
	unsigned int i;

	assert_int_equal(a->state, b->state);
	assert_int_equal(a->flags, b->flags);
	assert_true(a->size == b->size);
	assert_true(a->blocks == b->blocks);
	assert_true(a->ino == b->ino);
	assert_true(a->ctime == b->ctime);
	assert_true(a->sum.low == b->sum.low);
	assert_true(a->sum.high == b->sum.high);
	assert_int_equal(a->ncopies, b->ncopies);
	for (i = 0; i < a->ncopies; i++) {
		assert_int_equal(a->copies[i].target, b->copies[i].target);
		assert_true(a->copies[i].oid == b->copies[i].oid);
	}
}

static void bytes_are_the_formats(void **state)
{
	struct spill_ea ea = sample(), back;
	uint8_t want[60], buf[TIERFS_EA_MAX];

	memcpy(want, sample_bytes, sizeof(want));
	sign(want, sizeof(want));
	assert_int_equal(spill_ea_encode(&ea, buf, sizeof(buf)), 60);
	assert_memory_equal(buf, want, 60);
	assert_int_equal(spill_ea_decode(want, 60, &back), 0);
	assert_ea_equal(&ea, &back);
}

static void round_trips(void **state)
{
	static const int64_t ctimes[] = {INT64_MIN, -1, 0, 1, INT64_MAX};
	uint8_t buf[TIERFS_EA_MAX];
	struct spill_ea ea, back;
	unsigned int st, flags, n, i;
	int len;

	for (st = 0; st < SPILL_STATES; st++)
		for (flags = 0; flags < 32; flags++)
			for (n = st ? 1 : 0; n <= (st ? 4 : 0); n++) {
				memset(&ea, 0, sizeof(ea));
				if (flags & TIERFS_EA_F_LOGGING &&
				    st != SPILL_DIRTY)
					continue;
				ea.state = st;
				ea.flags = (uint8_t)flags;
				ea.size = flags & 1 ? TIERFS_SIZE_MAX : n;
				ea.blocks = flags & 2 ? TIERFS_BLOCKS_MAX : n;
				ea.ino = flags & 4 ? UINT64_MAX : 1;
				ea.ctime = ctimes[(flags + n) % 5];
				ea.sum.low = flags * 0x9e3779b97f4a7c15ULL;
				ea.sum.high = ~ea.sum.low;
				ea.ncopies = n;
				for (i = 0; i < n; i++) {
					ea.copies[i].target =
						TIERFS_TARGETS_MAX - 1 - i;
					ea.copies[i].oid = UINT64_MAX - i;
				}
				len = spill_ea_encode(&ea, buf, sizeof(buf));
				assert_int_equal(len, 51 + 9 * n);
				memset(&back, 0xee, sizeof(back));
				assert_int_equal(
					spill_ea_decode(buf, len, &back), 0);
				assert_ea_equal(&ea, &back);
			}
}

static void capacity(void **state)
{
	struct spill_ea ea = sample();
	uint8_t buf[TIERFS_EA_MAX + 1];

	memset(buf, 0xaa, sizeof(buf));
	assert_int_equal(spill_ea_encode(&ea, buf, 59), -ENOSPC);
	assert_int_equal(spill_ea_encode(&ea, buf, 0), -ENOSPC);
	assert_int_equal(buf[0], 0xaa);
	assert_int_equal(spill_ea_encode(&ea, buf, 60), 60);
	assert_int_equal(buf[60], 0xaa);
	ea.ncopies = 4;
	ea.copies[1].oid = ea.copies[2].oid = ea.copies[3].oid = 1;
	ea.copies[1].target = 1;
	ea.copies[2].target = 2;
	ea.copies[3].target = 3;
	assert_int_equal(spill_ea_encode(&ea, buf, TIERFS_EA_MAX), 87);
	assert_int_equal(buf[87], 0xaa);
}

static void every_damage_is_seen(void **state)
{
	struct spill_ea ea = sample(), back = {.ino = 77};
	uint8_t good[60], buf[61];
	unsigned int i, bits;

	assert_int_equal(spill_ea_encode(&ea, good, sizeof(good)), 60);
	for (i = 0; i < sizeof(good); i++)
		for (bits = 1; bits < 256; bits++) {
			memcpy(buf, good, sizeof(good));
			buf[i] ^= (uint8_t)bits;
			assert_int_equal(spill_ea_decode(buf, 60, &back),
					 -EBADMSG);
		}
	memcpy(buf, good, sizeof(good));
	buf[60] = 0;
	for (i = 0; i <= 61; i++)
		if (i != 60)
			assert_int_equal(spill_ea_decode(buf, i, &back),
					 -EBADMSG);
	assert_int_equal(back.ino, 77);
}

static void lengths_with_a_right_crc(void **state)
{
	struct spill_ea ea = sample(), back;
	uint8_t buf[TIERFS_EA_MAX + 20] = {0};
	unsigned int len;

	spill_ea_encode(&ea, buf, sizeof(buf));
	for (len = 8; len <= sizeof(buf); len++) {
		sign(buf, len);
		assert_int_equal(spill_ea_decode(buf, len, &back),
				 len == 60 ? 0 : -EBADMSG);
	}
}

static void versions(void **state)
{
	struct spill_ea ea = sample(), back = {.ino = 77};
	uint8_t buf[100] = {0};
	unsigned int v;

	spill_ea_encode(&ea, buf, sizeof(buf));
	for (v = 2; v < 256; v++) {
		buf[0] = (uint8_t)v;
		sign(buf, 60);
		assert_int_equal(spill_ea_decode(buf, 60, &back),
				 -EPROTONOSUPPORT);
		sign(buf, 100);
		assert_int_equal(spill_ea_decode(buf, 100, &back),
				 -EPROTONOSUPPORT);
		sign(buf, 8);
		assert_int_equal(spill_ea_decode(buf, 8, &back),
				 -EPROTONOSUPPORT);
	}
	buf[0] = 0;
	sign(buf, 60);
	assert_int_equal(spill_ea_decode(buf, 60, &back), -EBADMSG);
	assert_int_equal(back.ino, 77);
}

static void fields_that_contradict(void **state)
{
	static const struct {
		unsigned int offset;
		uint8_t value;
	} rows[] = {
		{1, 0x15},	      /* no such state */
		{1, 0x1f}, {1, 0x10}, /* none with a copy */
		{1, 0x03},	      /* released without */
		{1, 0x53},	      /* five copies */
		{1, 0x23},	      /* two in the space of one */
		{2, 0x40}, {2, 0x10}, /* no such flag; of DIRTY alone */
		{2, 0x80}, {3, 0x01}, {51, TIERFS_TARGETS_MAX},
	};
	struct spill_ea ea = sample(), back;
	uint8_t buf[TIERFS_EA_MAX];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		spill_ea_encode(&ea, buf, sizeof(buf));
		buf[rows[i].offset] = rows[i].value;
		sign(buf, 60);
		assert_int_equal(spill_ea_decode(buf, 60, &back), -EBADMSG);
	}
	spill_ea_encode(&ea, buf, sizeof(buf));
	memset(buf + 52, 0, 8); /* oid 0 */
	sign(buf, 60);
	assert_int_equal(spill_ea_decode(buf, 60, &back), -EBADMSG);
	spill_ea_encode(&ea, buf, sizeof(buf));
	memset(buf + 19, 0, 8); /* inode number 0, to be shown */
	sign(buf, 60);
	assert_int_equal(spill_ea_decode(buf, 60, &back), -EBADMSG);
}

#define assert_refused(change)                                                 \
	do {                                                                   \
		struct spill_ea ea = sample();                                 \
		uint8_t buf[TIERFS_EA_MAX];                                    \
                                                                               \
		change;                                                        \
		assert_int_equal(spill_ea_encode(&ea, buf, sizeof(buf)),       \
				 -EINVAL);                                     \
	} while (0)

static void ranges(void **state)
{
	assert_refused(ea.size = TIERFS_SIZE_MAX + 1);
	assert_refused(ea.size = UINT64_MAX);
	assert_refused(ea.blocks = TIERFS_BLOCKS_MAX + 1);
	assert_refused(ea.state = SPILL_STATES);
	assert_refused(ea.state = SPILL_NONE);
	assert_refused(ea.ncopies = 0);
	assert_refused(ea.ncopies = TIERFS_EA_COPIES_MAX + 1);
	assert_refused(ea.ncopies = UINT32_MAX);
	assert_refused(ea.flags |= 0x40);
	assert_refused(ea.flags |= TIERFS_EA_F_LOGGING);
	assert_refused(ea.ino = 0);
	assert_refused(ea.copies[0].oid = 0);
	assert_refused(ea.copies[0].target = TIERFS_TARGETS_MAX);
	assert_refused(ea.ncopies = 2; ea.copies[1] = ea.copies[0]);
}

static void emptiness(void **state)
{
	struct spill_ea ea = {0};

	assert_true(spill_ea_is_empty(&ea));
	ea.flags = TIERFS_EA_F_WRITING;
	assert_true(spill_ea_is_empty(&ea));
	ea.flags = TIERFS_EA_F_PINNED;
	assert_false(spill_ea_is_empty(&ea));
	ea.flags = TIERFS_EA_F_CTIME;
	assert_false(spill_ea_is_empty(&ea));
	ea.flags = TIERFS_EA_F_INO;
	assert_false(spill_ea_is_empty(&ea));
	ea = sample();
	ea.flags = 0;
	assert_false(spill_ea_is_empty(&ea));
}

static void names(void **state)
{
	assert_string_equal(spill_state_name(SPILL_NONE), "none");
	assert_string_equal(spill_state_name(SPILL_MIGRATING), "migrating");
	assert_string_equal(spill_state_name(SPILL_MIGRATED), "migrated");
	assert_string_equal(spill_state_name(SPILL_RELEASED), "released");
	assert_string_equal(spill_state_name(SPILL_DIRTY), "dirty");
	assert_string_equal(spill_state_name(SPILL_STATES), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_are_the_formats),
		cmocka_unit_test(round_trips),
		cmocka_unit_test(capacity),
		cmocka_unit_test(every_damage_is_seen),
		cmocka_unit_test(lengths_with_a_right_crc),
		cmocka_unit_test(versions),
		cmocka_unit_test(fields_that_contradict),
		cmocka_unit_test(ranges),
		cmocka_unit_test(emptiness),
		cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
