/* SPDX-License-Identifier: MIT */
/*
 * The log against a model: the file as plain bytes, and for each byte whether
 * it is still the object's.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32c.h"
#include "delta.h"
#include "util.h"

#define ROOM 6000 /* no file of the model is longer */

static const struct delta_base base = {
	.oid = 0x5152535455565758,
	.target = 9,
	.size = 3000,
	.blocks = 8,
};

static uint8_t object[3000];

struct model {
	uint8_t bytes[ROOM];
	bool theirs[ROOM]; /* the object's */
	size_t size;
};

static struct model fresh(void)
{
	struct model m = {.size = sizeof(object)};

	memcpy(m.bytes, object, sizeof(object));
	memset(m.theirs, true, sizeof(object));
	return m;
}

static int memory_file(void)
{
	int fd = memfd_create("delta", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	return fd;
}

static void set_contents(int fd, const void *buf, size_t len)
{
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(pwrite_full(fd, buf, len, 0), 0);
}

static size_t contents(int fd, uint8_t *buf, size_t cap)
{
	ssize_t n = pread(fd, buf, cap, 0);

	assert_true(n >= 0 && (size_t)n < cap);
	return (size_t)n;
}

/* ---- one change, to both --------------------------------------------------- */

static void model_zero(struct model *m, size_t off, size_t end)
{
	if (off >= end)
		return;
	memset(m->bytes + off, 0, end - off);
	memset(m->theirs + off, false, end - off);
}

static void write_both(struct model *m, struct delta *d, int fd, size_t off,
		       size_t len)
{
	uint8_t buf[ROOM] = {0};
	size_t i;

	for (i = 0; i < len; i++)
		buf[i] = (uint8_t)random();
	assert_int_equal(delta_append_write(d, fd, buf, len, off), 0);
	memcpy(m->bytes + off, buf, len);
	memset(m->theirs + off, false, len);
	if (len)
		m->size = max_t(size_t, m->size, off + len);
}

static void truncate_both(struct model *m, struct delta *d, int fd, size_t size)
{
	assert_int_equal(delta_append_truncate(d, fd, size), 0);
	model_zero(m, size, m->size);
	m->size = size;
}

static void punch_both(struct model *m, struct delta *d, int fd, size_t off,
		       size_t len)
{
	assert_int_equal(delta_append_punch(d, fd, off, len), 0);
	model_zero(m, off, min_t(size_t, off + len, m->size));
}

static void zero_both(struct model *m, struct delta *d, int fd, size_t off,
		      size_t len)
{
	assert_int_equal(delta_append_zero(d, fd, off, len), 0);
	model_zero(m, off, off + len);
	if (len)
		m->size = max_t(size_t, m->size, off + len);
}

static void change_both(struct model *m, struct delta *d, int fd)
{
	size_t off = (size_t)random() % (ROOM - 400);
	size_t len = (size_t)random() % 400;

	switch (random() % 8) {
	case 0:
		truncate_both(m, d, fd, off);
		break;
	case 1:
		punch_both(m, d, fd, off, len * 4 % (ROOM - off));
		break;
	case 2:
		zero_both(m, d, fd, off, len);
		break;
	case 3: /* an append */
		if (m->size + len <= ROOM)
			write_both(m, d, fd, m->size, len);
		break;
	default:
		write_both(m, d, fd, off, len);
	}
}

/* ---- both are the same ------------------------------------------------------ */

static void object_read(uint8_t *buf, size_t off, size_t len)
{
	memset(buf, 0xee, len); /* what is read by mistake shows */
	if (off < sizeof(object))
		memcpy(buf, object + off,
		       min_t(size_t, len, sizeof(object) - off));
}

static void check_range(const struct model *m, const struct delta *d, int fd,
			size_t off, size_t len)
{
	size_t end = min_t(size_t, off + len, max_t(size_t, m->size, off));
	size_t first = end, last = off, i;
	uint8_t buf[2 * ROOM];
	struct delta_view view;

	for (i = off; i < end; i++)
		if (m->theirs[i]) {
			first = min_t(size_t, first, i);
			last = i + 1;
		}
	assert_int_equal(delta_covers(d, off, len), first == end);
	object_read(buf, off, len);
	assert_int_equal(delta_read(d, fd, buf, len, off), end - off);
	assert_memory_equal(buf, m->bytes + off, end - off);

	assert_int_equal(delta_view_get(d, fd, off, len, &view), 0);
	assert_int_equal(view.off, off);
	assert_int_equal(view.len, end - off);
	assert_int_equal(view.need_len, first == end ? 0 : last - first);
	memset(buf, 0xee, len);
	if (view.need_len) {
		assert_int_equal(view.need_off, first);
		object_read(buf + (first - off), first, last - first);
	}
	delta_view_apply(&view, buf);
	assert_memory_equal(buf, m->bytes + off, end - off);
	delta_view_free(&view);
}

static void check_same(const struct model *m, const struct delta *d, int fd)
{
	unsigned int i;

	assert_int_equal(delta_size(d), m->size);
	for (i = 0; i < sizeof(object) && m->theirs[i]; i++)
		assert_true(i < delta_base_valid(d));
	check_range(m, d, fd, 0, ROOM);
	for (i = 0; i < 10; i++)
		check_range(m, d, fd, (size_t)random() % ROOM,
			    (size_t)random() % 500);
}

/* What a restore makes of it: the object's first bytes, the log over them. */
static void check_restored(const struct model *m, const struct delta *d, int fd,
			   int to)
{
	uint8_t buf[ROOM + 1];
	struct delta_pos pos = {0};
	uint64_t end = delta_log_end(d);

	set_contents(to, object, delta_base_valid(d));
	assert_int_equal(delta_replay(fd, &base, to, &pos, end, NULL), 0);
	assert_int_equal(pos.off, end);
	assert_int_equal(contents(to, buf, sizeof(buf)),
			 end ? m->size : sizeof(object));
	assert_memory_equal(buf, m->bytes, m->size);
	/* Again over what is there: no harm. */
	memset(&pos, 0, sizeof(pos));
	assert_int_equal(delta_replay(fd, &base, to, &pos, end, NULL), 0);
	assert_int_equal(contents(to, buf, sizeof(buf)), m->size);
	assert_memory_equal(buf, m->bytes, m->size);
}

static void same_as_plain_bytes(void **state)
{
	struct delta *d, *again;
	struct model m;
	int fd = memory_file(), to = memory_file();
	struct delta_pos pos;
	unsigned int seed, i;

	for (seed = 1; seed <= 60; seed++) {
		srandom(seed);
		m = fresh();
		memset(&pos, 0, sizeof(pos));
		set_contents(fd, "", 0);
		set_contents(to, object, sizeof(object));
		assert_int_equal(delta_new(&base, &d), 0);
		for (i = 0; i < 60; i++) {
			change_both(&m, d, fd);
			check_same(&m, d, fd);
			assert_int_equal(delta_load(fd, &base, true, &again),
					 0);
			assert_int_equal(delta_base_valid(d),
					 delta_base_valid(again));
			assert_int_equal(delta_entries(d),
					 delta_entries(again));
			assert_int_equal(delta_bytes(d), delta_bytes(again));
			delta_free(d);
			d = again;
			check_same(&m, d, fd);
			/* As a restore that follows the writers. */
			if (i % 5 == 0)
				assert_int_equal(
					delta_replay(fd, &base, to, &pos,
						     delta_log_end(d), NULL),
					0);
		}
		check_restored(&m, d, fd, to);
		delta_free(d);
	}
	close(fd);
	close(to);
}

/* ---- the format ------------------------------------------------------------ */

static void sign_header(uint8_t *p)
{
	uint32_t crc;

	memset(p + 12, 0, 4);
	crc = htole32(crc32c(0, p, 64));
	memcpy(p + 12, &crc, 4);
}

/* crc: that before. */
static void sign_entry(uint8_t *p, uint32_t crc)
{
	crc = htole32(crc32c(crc32c(crc, p, 4), p + 8, 40));
	memcpy(p + 4, &crc, 4);
}

static uint32_t crc_at(const uint8_t *p)
{
	uint32_t crc;

	memcpy(&crc, p, 4);
	return le32toh(crc);
}

/* A log of one write of "abc" at 0x0102030405, by a hand that knows the format
 * alone. */
static void by_hand(uint8_t p[115])
{
	static const uint8_t head[64] = {
		'T',  'I',  'E', 'R', 'F', 'S',	 'L',  'G',  1,	   0,	 0,
		0,    0,    0,	 0,   0,   0x58, 0x57, 0x56, 0x55, 0x54, 0x53,
		0x52, 0x51, 9,	 0,   0,   0,	 0,    0,    0,	   0,	 0xb8,
		0x0b, 0,    0,	 0,   0,   0,	 0,    8,
	};
	static const uint8_t entry[51] = {
		'L', 'O', 'G', 'E', 0, 0, 0, 0, 0xb7, 0x3f, 0x4b, 0x36, 1,
		0,   0,	  0,   1,   0, 0, 0, 0, 0,    0,    0,	  5,	4,
		3,   2,	  1,   0,   0, 0, 3, 0, 0,    0,    0,	  0,	0,
		0,   0,	  0,   0,   0, 0, 0, 0, 0,    'a',  'b',  'c',
	};

	memcpy(p, head, 64);
	sign_header(p);
	memcpy(p + 64, entry, 51);
	sign_entry(p + 64, crc_at(p + 12));
}

static void bytes_are_the_formats(void **state)
{
	uint8_t want[115], buf[200];
	int fd = memory_file();
	struct delta *d;

	assert_int_equal(delta_new(&base, &d), 0);
	assert_int_equal(delta_log_end(d), 0);
	assert_int_equal(delta_append_write(d, fd, "abc", 3, 0x0102030405), 0);
	assert_int_equal(delta_log_end(d), 115);
	delta_free(d);
	by_hand(want);
	assert_int_equal(contents(fd, buf, sizeof(buf)), 115);
	assert_memory_equal(buf, want, 115);
	assert_int_equal(delta_load(fd, &base, true, &d), 0);
	assert_int_equal(delta_size(d), 0x0102030408);
	assert_int_equal(delta_bytes(d), 3);
	assert_int_equal(delta_base(d)->oid, base.oid);
	assert_int_equal(delta_base(d)->target, base.target);
	assert_int_equal(delta_base(d)->size, base.size);
	assert_int_equal(delta_base(d)->blocks, base.blocks);
	delta_free(d);
	close(fd);
}

static int load_bytes(const uint8_t *p, size_t len, bool settled)
{
	struct delta *d = NULL;
	uint8_t back[200];
	int fd = memory_file(), ret;

	set_contents(fd, p, len);
	ret = delta_load(fd, &base, settled, &d);
	assert_true((ret == 0) == (d != NULL));
	assert_int_equal(contents(fd, back, sizeof(back)), len);
	assert_memory_equal(back, p, len); /* left as it is */
	delta_free(d);
	close(fd);
	return ret;
}

static void headers_refused(void **state)
{
	static const struct {
		unsigned int off;
		uint8_t value;
		int err;
	} rows[] = {
		{8, 2, -EPROTONOSUPPORT},
		{11, 1, -EPROTONOSUPPORT},
		{8, 0, -EBADMSG},
		{16, 0x59, -EBADMSG}, /* another file's */
		{24, 8, -EBADMSG},    /* another target's */
		{25, 1, -EBADMSG},
		{31, 1, -EBADMSG},
		{38, 1, -EBADMSG}, /* too long */
		{45, 1, -EBADMSG}, /* too many blocks */
		{48, 1, -EBADMSG},
		{63, 1, -EBADMSG},
		{0, 't', -EBADMSG},
	};
	uint8_t p[115];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		by_hand(p);
		p[rows[i].off] = rows[i].value;
		sign_header(p);
		sign_entry(p + 64, crc_at(p + 12));
		assert_int_equal(load_bytes(p, 115, true), rows[i].err);
		assert_int_equal(load_bytes(p, 115, false), rows[i].err);
		assert_int_equal(load_bytes(p, 64, false), rows[i].err);
	}
	by_hand(p);
	memset(p, 0, 64); /* never reached the disk */
	assert_int_equal(load_bytes(p, 115, true), -EBADMSG);
	assert_int_equal(load_bytes(p, 115, false), 0);
}

static void entries_refused(void **state)
{
	static const struct {
		unsigned int off;
		uint8_t value;
	} rows[] = {
		{12, 0}, {12, 5},    {12, 2}, /* of no such kind, or with data */
		{13, 1}, {15, 1},	      /* not 0 */
		{16, 0}, {16, 2},    {23, 1}, /* out of order */
		{30, 1}, {31, 0x80},	      /* beyond all files */
		{32, 0}, {35, 2},    {39, 0x80}, {40, 1}, {47, 1},
	};
	uint8_t p[115];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		by_hand(p);
		p[64 + rows[i].off] = rows[i].value;
		sign_entry(p + 64, crc_at(p + 12));
		assert_int_equal(load_bytes(p, 115, true), -EBADMSG);
		assert_int_equal(load_bytes(p, 115, false), -EBADMSG);
	}
}

static void what_cannot_be_said(void **state)
{
	static const struct delta_base bad[] = {
		{.oid = 0, .size = 1},
		{.oid = 1, .target = TIERFS_TARGETS_MAX},
		{.oid = 1, .size = TIERFS_SIZE_MAX + 1},
		{.oid = 1, .blocks = TIERFS_BLOCKS_MAX + 1},
	};
	struct delta *d = NULL;
	int fd = memory_file();
	struct stat st;
	size_t i;
	char *big = calloc(1, TIERFS_LOG_DATA_MAX + 1);

	assert_non_null(big);
	for (i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(delta_new(&bad[i], &d), -EINVAL);
	assert_null(d);
	assert_int_equal(delta_new(&base, &d), 0);
	assert_int_equal(
		delta_append_write(d, fd, "ab", 2, TIERFS_SIZE_MAX - 1),
		-EFBIG);
	assert_int_equal(delta_append_write(d, fd, "a", 1, UINT64_MAX), -EFBIG);
	assert_int_equal(
		delta_append_write(d, fd, big, TIERFS_LOG_DATA_MAX + 1, 0),
		-EFBIG);
	assert_int_equal(delta_append_truncate(d, fd, TIERFS_SIZE_MAX + 1),
			 -EFBIG);
	assert_int_equal(delta_append_zero(d, fd, 1, TIERFS_SIZE_MAX), -EFBIG);
	assert_int_equal(delta_append_zero(d, fd, 1, UINT64_MAX), -EFBIG);
	/* What changes nothing is not said. */
	assert_int_equal(delta_append_write(d, fd, "", 0, 9), 0);
	assert_int_equal(delta_append_zero(d, fd, 9999, 0), 0);
	assert_int_equal(delta_append_punch(d, fd, 1, 0), 0);
	assert_int_equal(delta_append_punch(d, fd, 3000, 10), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 0);
	assert_int_equal(delta_entries(d), 0);
	/* And what is the most. */
	assert_int_equal(delta_append_write(d, fd, big, TIERFS_LOG_DATA_MAX, 0),
			 0);
	assert_int_equal(delta_append_punch(d, fd, 2999, UINT64_MAX), 0);
	assert_int_equal(delta_append_write(d, fd, "a", 1, TIERFS_SIZE_MAX - 1),
			 0);
	delta_free(d);
	assert_int_equal(delta_load(fd, &base, true, &d), 0);
	assert_int_equal(delta_size(d), TIERFS_SIZE_MAX);
	assert_int_equal(delta_entries(d), 3);
	delta_free(d);
	free(big);
	close(fd);
}

static int begin(void **state)
{
	size_t i;

	srandom(7);
	for (i = 0; i < sizeof(object); i++)
		object[i] = (uint8_t)(random() | 1);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_as_plain_bytes),
		cmocka_unit_test(bytes_are_the_formats),
		cmocka_unit_test(headers_refused),
		cmocka_unit_test(entries_refused),
		cmocka_unit_test(what_cannot_be_said),
	};

	return cmocka_run_group_tests(tests, begin, NULL);
}
