/* SPDX-License-Identifier: MIT */
/*
 * The DIRTY log: any bytes as a stub, as they are, and with the checksums that
 * they should have, so that what lies behind those is reached. The first byte
 * says whether the log counts as settled.
 *
 * What loads is read through the view and applied to a copy of the object, and
 * both must say the same; it is appended to, and must load again.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "crc32c.h"
#include "delta_impl.h"
#include "fuzz.h"
#include "util.h"

#define ROOM	  (1 << 16)
#define SIZE_FULL (1 << 18) /* a longer file is not compared as a whole */
#define OID	  0x1122334455667788ULL
#define TARGET	  3

static const struct delta_base expect = {.oid = OID, .target = TARGET};
static uint8_t object[SIZE_FULL], merged[SIZE_FULL], applied[SIZE_FULL];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	for (size_t i = 0; i < sizeof(object); i++)
		object[i] = (uint8_t)(1 + i % 251);
	return 0;
}

static int file_of(const void *data, size_t size)
{
	int fd = memfd_create("log", MFD_CLOEXEC);

	must(fd >= 0 && !pwrite_full(fd, data, size, 0));
	return fd;
}

static uint64_t length(int fd)
{
	struct stat st;

	must(!fstat(fd, &st));
	return (uint64_t)st.st_size;
}

/* The file as the view has it, into merged. */
static void read_view(const struct delta *d, int fd, size_t size)
{
	struct delta_view view;
	size_t off, n;

	for (off = 0; off < size; off += n) {
		n = min_t(size_t, 4000, size - off);
		must(!delta_view_get(d, fd, off, n, &view));
		must(view.len == n && view.off == off);
		must(delta_covers(d, off, n) == !view.need_len);
		memset(merged + off, 0xaa, n);
		if (view.need_len) {
			must(view.need_off >= off);
			must(view.need_off + view.need_len <= off + n);
			must(view.need_off + view.need_len <=
			     delta_base_valid(d));
			memcpy(merged + view.need_off, object + view.need_off,
			       view.need_len);
		}
		delta_view_apply(&view, merged + off);
		delta_view_free(&view);
	}
}

/* delta_read() has the log's part, over what it is given. */
static void check_read(const struct delta *d, int fd, size_t size)
{
	uint64_t valid = min_t(uint64_t, delta_base_valid(d), size);

	memset(applied, 0xaa, size);
	memcpy(applied, object, valid);
	must(delta_read(d, fd, applied, size, 0) == (int64_t)size);
	must(!memcmp(applied, merged, size));
	must(delta_read(d, fd, applied, 1, size) == 0);
}

static void check_replay(const struct delta *d, int fd, size_t size)
{
	uint64_t valid = min_t(uint64_t, delta_base_valid(d), sizeof(object));
	_cleanup_close_ int to = file_of(object, valid);
	struct delta_pos pos = {0};

	must(!delta_replay(fd, delta_base(d), to, &pos, delta_log_end(d),
			   NULL));
	must(pos.off == delta_log_end(d) && pos.seq == delta_entries(d));
	if (delta_entries(d) == 0)
		return; /* as long as the object, then */
	must(length(to) <= delta_size(d));
	must(!ftruncate(to, (off_t)size));
	must(!pread_full(to, applied, size, 0));
	must(!memcmp(applied, merged, size));
}

static void check_same(const struct delta *a, const struct delta *b)
{
	must(delta_size(a) == delta_size(b));
	must(delta_entries(a) == delta_entries(b));
	must(delta_bytes(a) == delta_bytes(b));
	must(delta_base_valid(a) == delta_base_valid(b));
	must(delta_log_end(a) == delta_log_end(b));
}

/* Goes on with what was loaded, as a write to the file would. */
static void check_append(struct delta *d, int fd)
{
	uint64_t entries = delta_entries(d), size = delta_size(d);
	struct delta *again = NULL;

	must(!delta_append_write(d, fd, "xyz", 3, size / 2));
	must(!delta_append_punch(d, fd, 0, size / 3 + 1));
	must(!delta_append_truncate(d, fd, size / 2));
	must(!delta_torn(d) && delta_entries(d) >= entries + 2);
	must(delta_size(d) == size / 2);
	must(length(fd) == delta_log_end(d));
	must(!delta_load(fd, &expect, true, &again));
	check_same(d, again);
	delta_free(again);
}

static void load(const uint8_t *data, size_t size, bool settled)
{
	_cleanup_close_ int fd = file_of(data, size);
	struct delta *d = (struct delta *)&expect, *again = NULL;
	uint8_t *now = malloc(size + 1);
	int err = delta_load(fd, &expect, settled, &d);

	must(now && length(fd) == size && !pread_full(fd, now, size, 0));
	must(!memcmp(now, data, size));
	free(now);
	if (err) {
		must(err == -EBADMSG || err == -EPROTONOSUPPORT);
		must(d == (struct delta *)&expect);
		return;
	}
	must(delta_size(d) <= TIERFS_SIZE_MAX);
	must(delta_log_end(d) <= size);
	must(delta_torn(d) == (delta_log_end(d) < size));
	must(!settled || !delta_torn(d));
	must(!delta_cut(d, fd) && length(fd) == delta_log_end(d));
	must(!delta_load(fd, &expect, true, &again));
	check_same(d, again);
	delta_free(again);
	if (delta_base(d)->size <= SIZE_FULL && delta_size(d) < SIZE_FULL) {
		read_view(d, fd, delta_size(d));
		check_read(d, fd, delta_size(d));
		check_replay(d, fd, delta_size(d));
	} else {
		struct delta_view view;
		uint64_t off = delta_size(d) / 2;

		must(!delta_view_get(d, fd, off, 4096, &view));
		must(view.len <= 4096);
		delta_view_free(&view);
	}
	if (delta_size(d) < TIERFS_SIZE_MAX / 2)
		check_append(d, fd);
	delta_free(d);
}

/* ---- right checksums ------------------------------------------------------------ */

static void put32(uint8_t *p, uint32_t value)
{
	memcpy(p, &value, 4); /* as wide as this machine has it */
}

/* The log's header, and each entry that is there as a whole. */
static void sign(uint8_t *p, size_t size)
{
	uint64_t oid = OID, seq = 0, len;
	size_t at = TIERFS_LOG_HEAD;
	uint32_t crc;

	if (size < TIERFS_LOG_HEAD)
		return;
	memcpy(p, TIERFS_LOG_MAGIC, 8);
	put32(p + 12, 0);
	memcpy(p + 16, &oid, 8);
	p[24] = TARGET;
	crc = crc32c(0, p, TIERFS_LOG_HEAD);
	put32(p + 12, crc);
	while (size - at >= TIERFS_LOG_ENTRY_LEN) {
		uint8_t *e = p + at;

		at += TIERFS_LOG_ENTRY_LEN;
		memcpy(&len, e + 32, 8);
		if (e[12] != TIERFS_LOG_WRITE)
			len = 0;
		if (len > size - at)
			len = size - at;
		put32(e, TIERFS_LOG_ENTRY);
		put32(e + 8, crc32c(0, e + TIERFS_LOG_ENTRY_LEN, len));
		seq++;
		memcpy(e + 16, &seq, 8);
		crc = crc32c(crc, e, 4);
		crc = crc32c(crc, e + 8, TIERFS_LOG_ENTRY_LEN - 8);
		put32(e + 4, crc);
		at += len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool settled = size && (data[0] & 1);
	static uint8_t buf[ROOM];

	if (size > sizeof(buf))
		return 0;
	if (size > 0)
		load(data + 1, --size, settled);
	else
		load(data, 0, settled);
	memcpy(buf, data + 1, size);
	sign(buf, size);
	load(buf, size, settled);
	return 0;
}
