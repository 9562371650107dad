/* SPDX-License-Identifier: MIT */
/*
 * What lies in a stub after a crash can be anything: an entry half written, an
 * old block where a new one was to be, a user's data that looks like an entry.
 * So an entry counts only if its CRC, which goes on from the one before, is
 * right: that cannot be so for bytes which were written in another log or at
 * another place of this one. Where the first does not fit the log ends, and
 * nothing behind it is looked at.
 *
 * An entry whose CRC is right and which makes no sense was written by someone
 * who knows how, if not what: that is damage and not a torn tail.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "crc32c.h"
#include "delta_impl.h"
#include "util.h"

/* The log's header, offsets as in tierfs/format.h. */
enum {
	HEAD_VERSION = 8,
	HEAD_CRC = 12,
	HEAD_OID = 16,
	HEAD_TARGET = 24,
	HEAD_SIZE = 32,
	HEAD_BLOCKS = 40,
	HEAD_ZERO = 48,
};

/* An entry's. */
enum {
	ENTRY_CRC = 4,
	ENTRY_DATA_CRC = 8,
	ENTRY_KIND = 12,
	ENTRY_SEQ = 16,
	ENTRY_OFF = 24,
	ENTRY_LEN = 32,
	ENTRY_ZERO = 40,
};

#define WINDOW (256u << 10)

static void put32(uint8_t *p, uint32_t value)
{
	value = htole32(value);
	memcpy(p, &value, 4);
}

static void put64(uint8_t *p, uint64_t value)
{
	value = htole64(value);
	memcpy(p, &value, 8);
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t value;

	memcpy(&value, p, 4);
	return le32toh(value);
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t value;

	memcpy(&value, p, 8);
	return le64toh(value);
}

static bool all_zero(const uint8_t *p, size_t len)
{
	while (len--)
		if (*p++)
			return false;
	return true;
}

bool delta_base_fits(const struct delta_base *base)
{
	return base->oid != 0 && base->target < TIERFS_TARGETS_MAX &&
	       base->size <= TIERFS_SIZE_MAX &&
	       base->blocks <= TIERFS_BLOCKS_MAX;
}

bool delta_entry_valid(const struct delta_entry *entry)
{
	if (entry->off > TIERFS_SIZE_MAX ||
	    entry->len > TIERFS_SIZE_MAX - entry->off)
		return false;
	switch (entry->kind) {
	case TIERFS_LOG_WRITE:
		return entry->len > 0 && entry->len <= TIERFS_LOG_DATA_MAX;
	case TIERFS_LOG_TRUNCATE:
		return entry->len == 0;
	case TIERFS_LOG_PUNCH:
	case TIERFS_LOG_ZERO:
		return entry->len > 0;
	default:
		return false;
	}
}

/* ---- the log's header --------------------------------------------------- */

static uint32_t header_crc(const uint8_t buf[TIERFS_LOG_HEAD])
{
	static const uint8_t zero[4];
	uint32_t crc = crc32c(0, buf, HEAD_CRC);

	crc = crc32c(crc, zero, sizeof(zero));
	return crc32c(crc, buf + HEAD_OID, TIERFS_LOG_HEAD - HEAD_OID);
}

void delta_encode_header(const struct delta_base *base,
			 uint8_t buf[TIERFS_LOG_HEAD], struct delta_pos *pos)
{
	memset(buf, 0, TIERFS_LOG_HEAD);
	memcpy(buf, TIERFS_LOG_MAGIC, HEAD_VERSION);
	put32(buf + HEAD_VERSION, TIERFS_LOG_VERSION);
	put64(buf + HEAD_OID, base->oid);
	buf[HEAD_TARGET] = base->target;
	put64(buf + HEAD_SIZE, base->size);
	put64(buf + HEAD_BLOCKS, base->blocks);
	pos->off = TIERFS_LOG_HEAD;
	pos->seq = 0;
	pos->crc = header_crc(buf);
	put32(buf + HEAD_CRC, pos->crc);
}

int delta_decode_header(const uint8_t buf[TIERFS_LOG_HEAD],
			struct delta_base *ret_base, struct delta_pos *ret_pos)
{
	struct delta_base base;

	/* The CRC first: a damaged version is no newer version. */
	if (memcmp(buf, TIERFS_LOG_MAGIC, HEAD_VERSION) != 0 ||
	    get32(buf + HEAD_CRC) != header_crc(buf))
		return -EBADMSG;
	if (get32(buf + HEAD_VERSION) > TIERFS_LOG_VERSION)
		return -EPROTONOSUPPORT;
	base.oid = get64(buf + HEAD_OID);
	base.target = buf[HEAD_TARGET];
	base.size = get64(buf + HEAD_SIZE);
	base.blocks = get64(buf + HEAD_BLOCKS);
	if (get32(buf + HEAD_VERSION) != TIERFS_LOG_VERSION ||
	    !all_zero(buf + HEAD_TARGET + 1, HEAD_SIZE - HEAD_TARGET - 1) ||
	    !all_zero(buf + HEAD_ZERO, TIERFS_LOG_HEAD - HEAD_ZERO) ||
	    !delta_base_fits(&base))
		return -EBADMSG;
	*ret_base = base;
	ret_pos->off = TIERFS_LOG_HEAD;
	ret_pos->seq = 0;
	ret_pos->crc = get32(buf + HEAD_CRC);
	return 0;
}

/* ---- entries ------------------------------------------------------------ */

static uint32_t entry_crc(uint32_t before,
			  const uint8_t buf[TIERFS_LOG_ENTRY_LEN])
{
	uint32_t crc = crc32c(before, buf, ENTRY_CRC);

	return crc32c(crc, buf + ENTRY_DATA_CRC,
		      TIERFS_LOG_ENTRY_LEN - ENTRY_DATA_CRC);
}

static size_t data_len(const struct delta_entry *entry)
{
	return entry->kind == TIERFS_LOG_WRITE ? entry->len : 0;
}

void delta_encode_entry(const struct delta_entry *entry,
			uint8_t buf[TIERFS_LOG_ENTRY_LEN],
			struct delta_pos *pos)
{
	size_t n = data_len(entry);

	memset(buf, 0, TIERFS_LOG_ENTRY_LEN);
	put32(buf, TIERFS_LOG_ENTRY);
	put32(buf + ENTRY_DATA_CRC, crc32c(0, entry->data, n));
	buf[ENTRY_KIND] = entry->kind;
	put64(buf + ENTRY_SEQ, ++pos->seq);
	put64(buf + ENTRY_OFF, entry->off);
	put64(buf + ENTRY_LEN, entry->len);
	pos->crc = entry_crc(pos->crc, buf);
	put32(buf + ENTRY_CRC, pos->crc);
	pos->off += TIERFS_LOG_ENTRY_LEN + n;
}

/* ---- reading ------------------------------------------------------------ */

/* Makes n bytes from off on available, if the file has them: 1, or 0. */
static int window(struct delta_reader *r, uint64_t off, size_t n,
		  const uint8_t **ret)
{
	size_t cap = max_t(size_t, n, WINDOW);
	ssize_t got;
	void *buf;

	if (off < r->at || off > r->at + r->have) {
		r->at = off;
		r->have = 0;
	}
	if (off + n > r->at + r->have && off > r->at) {
		r->have -= off - r->at;
		memmove(r->buf, r->buf + (off - r->at), r->have);
		r->at = off;
	}
	if (r->cap < cap) {
		buf = realloc(r->buf, cap);
		if (!buf)
			return -ENOMEM;
		r->buf = buf;
		r->cap = cap;
	}
	while (off + n > r->at + r->have) {
		got = pread(r->fd, r->buf + r->have, r->cap - r->have,
			    (off_t)(r->at + r->have));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return 0;
		r->have += (size_t)got;
	}
	*ret = r->buf + (off - r->at);
	return 1;
}

int delta_reader_next(struct delta_reader *reader, struct delta_pos *pos,
		      uint64_t end, struct delta_entry *ret)
{
	struct delta_pos next = *pos;
	struct delta_entry entry;
	const uint8_t *p;
	uint32_t data_crc;
	int res;

	if (end < pos->off || end - pos->off < TIERFS_LOG_ENTRY_LEN)
		return 0;
	res = window(reader, pos->off, TIERFS_LOG_ENTRY_LEN, &p);
	if (res <= 0)
		return res;
	next.crc = entry_crc(pos->crc, p);
	if (get32(p) != TIERFS_LOG_ENTRY || get32(p + ENTRY_CRC) != next.crc)
		return 0;
	entry.kind = p[ENTRY_KIND];
	entry.off = get64(p + ENTRY_OFF);
	entry.len = get64(p + ENTRY_LEN);
	if (get64(p + ENTRY_SEQ) != ++next.seq ||
	    !all_zero(p + ENTRY_KIND + 1, ENTRY_SEQ - ENTRY_KIND - 1) ||
	    !all_zero(p + ENTRY_ZERO, TIERFS_LOG_ENTRY_LEN - ENTRY_ZERO) ||
	    !delta_entry_valid(&entry))
		return -EBADMSG;
	data_crc = get32(p + ENTRY_DATA_CRC);
	entry.data_off = pos->off + TIERFS_LOG_ENTRY_LEN;
	if (end - entry.data_off < data_len(&entry))
		return 0;
	res = window(reader, entry.data_off, data_len(&entry), &p);
	if (res <= 0)
		return res;
	if (crc32c(0, p, data_len(&entry)) != data_crc)
		return 0;
	entry.data = (const char *)p;
	next.off = entry.data_off + data_len(&entry);
	*pos = next;
	*ret = entry;
	return 1;
}

void delta_reader_free(struct delta_reader *reader)
{
	free(reader->buf);
}
