/* SPDX-License-Identifier: MIT */
/*
 * The merged view: extents that do not overlap, by their offset in the file,
 * each of bytes in the log or of zeros. Between them the object shows below
 * base_valid, and zeros from there on: what was cut off and grown again needs
 * no extent, however far it reaches.
 *
 * An append is the write of one entry at the log's end, then the change of the
 * view, which cannot fail: the two extents that it may need at most are there
 * before. If the write fails in between, the file is cut back. A log that even
 * that failed for is torn: the next append cuts first, so that no entry is ever
 * written over the rest of another one, whose bytes could then follow it.
 *
 * The extents are libbsd's red-black tree, not an array: while a restore of a
 * large file is under way the log grows without limit, and writers would wait
 * for the array to be moved.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cleanup.h"
#include "delta_impl.h"
#include "util.h"

static int extent_cmp(const struct extent *a, const struct extent *b)
{
	return a->off < b->off ? -1 : a->off > b->off;
}

/* RB_GENERATE_STATIC lacks a macro of BSD's. */
RB_GENERATE_INTERNAL(extents, extent, link, extent_cmp,
		     __attribute__((unused)) static)

static uint64_t extent_end(const struct extent *e)
{
	return e->off + e->len;
}

/* The first extent that ends beyond off, or NULL. */
static struct extent *extent_from(const struct delta *d, uint64_t off)
{
	struct extent key = {.off = off}, *e, *before;
	struct extents *extents = (struct extents *)&d->extents;

	e = RB_NFIND(extents, extents, &key);
	if (e && e->off == off)
		return e;
	before = e ? RB_PREV(extents, extents, e) : RB_MAX(extents, extents);
	return before && extent_end(before) > off ? before : e;
}

/* ---- life --------------------------------------------------------------- */

int delta_new(const struct delta_base *base, struct delta **ret)
{
	struct delta *d;

	if (!delta_base_fits(base))
		return -EINVAL;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->base = *base;
	d->size = d->base_valid = base->size;
	RB_INIT(&d->extents);
	*ret = d;
	return 0;
}

void delta_free(struct delta *d)
{
	struct extent *e, *next;

	if (!d)
		return;
	RB_FOREACH_SAFE(e, extents, &d->extents, next)
	{
		RB_REMOVE(extents, &d->extents, e);
		free(e);
	}
	free(d->spare[0]);
	free(d->spare[1]);
	free(d);
}

static void delta_freep(struct delta **d)
{
	delta_free(*d);
}

const struct delta_base *delta_base(const struct delta *d)
{
	return &d->base;
}

uint64_t delta_size(const struct delta *d)
{
	return d->size;
}

uint64_t delta_base_valid(const struct delta *d)
{
	return d->base_valid;
}

uint64_t delta_entries(const struct delta *d)
{
	return d->end.seq;
}

uint64_t delta_bytes(const struct delta *d)
{
	return d->bytes;
}

uint64_t delta_log_end(const struct delta *d)
{
	return d->end.off;
}

bool delta_torn(const struct delta *d)
{
	return d->torn;
}

/* ---- the view's changes --------------------------------------------------- */

static int reserve(struct delta *d)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(d->spare); i++) {
		if (!d->spare[i])
			d->spare[i] = malloc(sizeof(*d->spare[i]));
		if (!d->spare[i])
			return -ENOMEM;
	}
	return 0;
}

/* After reserve(), at most twice: one may be cut in two, and one comes in. */
static void insert(struct delta *d, uint64_t off, uint64_t len, uint64_t log)
{
	struct extent *e = steal_ptr(&d->spare[d->spare[0] ? 0 : 1]);

	e->off = off;
	e->len = len;
	e->log = log;
	RB_INSERT(extents, &d->extents, e);
}

static void cut_front(struct extent *e, uint64_t off)
{
	if (e->log)
		e->log += off - e->off;
	e->len = extent_end(e) - off;
	e->off = off; /* still between its neighbours: the order stays */
}

/* Nothing is known of [off, end) any more. */
static void clear(struct delta *d, uint64_t off, uint64_t end)
{
	struct extent *e = extent_from(d, off), *next;

	if (e && e->off < off) {
		if (extent_end(e) > end) {
			insert(d, end, extent_end(e) - end,
			       e->log ? e->log + (end - e->off) : 0);
			e->len = off - e->off;
			return;
		}
		e->len = off - e->off;
		e = RB_NEXT(extents, &d->extents, e);
	}
	for (; e && e->off < end; e = next) {
		if (extent_end(e) > end) {
			cut_front(e, end);
			return;
		}
		next = RB_NEXT(extents, &d->extents, e);
		RB_REMOVE(extents, &d->extents, e);
		free(e);
	}
}

static void view_zero(struct delta *d, uint64_t off, uint64_t end)
{
	if (off >= end)
		return;
	clear(d, off, end);
	end = min_t(uint64_t, end, d->base_valid);
	if (off < end)
		insert(d, off, end - off, 0);
}

/* After reserve(). */
static void view_change(struct delta *d, const struct delta_entry *entry)
{
	uint64_t end = entry->off + entry->len;

	switch (entry->kind) {
	case TIERFS_LOG_WRITE:
		clear(d, entry->off, end);
		insert(d, entry->off, entry->len, entry->data_off);
		d->size = max_t(uint64_t, d->size, end);
		d->bytes += entry->len;
		break;
	case TIERFS_LOG_TRUNCATE:
		if (end < d->size)
			clear(d, end, UINT64_MAX);
		d->base_valid = min_t(uint64_t, d->base_valid, end);
		d->size = end;
		break;
	case TIERFS_LOG_PUNCH:
		/* There is nothing of the object beyond the end. */
		view_zero(d, entry->off, end);
		break;
	case TIERFS_LOG_ZERO:
		view_zero(d, entry->off, end);
		d->size = max_t(uint64_t, d->size, end);
		break;
	}
}

/* ---- loading -------------------------------------------------------------- */

/* Before the header was durable nothing was: it may never have reached the
 * disk, while the file's size and later blocks did. */
static bool header_lost(const uint8_t buf[TIERFS_LOG_HEAD], size_t len)
{
	static const uint8_t zeros[TIERFS_LOG_HEAD];

	return len < TIERFS_LOG_HEAD ||
	       memcmp(buf, zeros, TIERFS_LOG_HEAD) == 0;
}

static int load_header(int fd, uint64_t len, const struct delta_base *expect,
		       bool settled, struct delta **ret)
{
	struct delta_base base = *expect;
	uint8_t buf[TIERFS_LOG_HEAD];
	struct delta_pos pos = {0};
	struct delta *d;
	int err;

	err = len < sizeof(buf) ? 0 : pread_full(fd, buf, sizeof(buf), 0);
	if (err)
		return err == -ENODATA ? -EIO : err;
	if (len == 0 || (!settled && header_lost(buf, len))) {
		err = delta_new(expect, &d);
		if (err)
			return err;
		d->torn = len > 0;
		*ret = d;
		return 0;
	}
	if (len < sizeof(buf))
		return -EBADMSG;
	err = delta_decode_header(buf, &base, &pos);
	if (err)
		return err;
	if (base.oid != expect->oid || base.target != expect->target)
		return -EBADMSG;
	err = delta_new(&base, &d);
	if (err)
		return err;
	d->end = pos;
	*ret = d;
	return 0;
}

int delta_load(int fd, const struct delta_base *expect, bool settled,
	       struct delta **ret)
{
	_cleanup_delta_reader_ struct delta_reader reader = {.fd = fd};
	_cleanup_(delta_freep) struct delta *d = NULL;
	struct delta_entry entry;
	struct stat st;
	uint64_t len;
	int res;

	if (fstat(fd, &st) < 0)
		return -errno;
	len = (uint64_t)st.st_size;
	res = load_header(fd, len, expect, settled, &d);
	if (res)
		return res;
	while (d->end.off) {
		res = reserve(d);
		if (res)
			return res;
		res = delta_reader_next(&reader, &d->end, len, &entry);
		if (res < 0)
			return res;
		if (res == 0)
			break;
		view_change(d, &entry);
	}
	d->torn = d->end.off < len;
	if (d->torn && settled)
		return -EBADMSG;
	*ret = steal_ptr(&d);
	return 0;
}

/* ---- writing -------------------------------------------------------------- */

int delta_cut(struct delta *d, int fd)
{
	int ret;

	if (!d->torn)
		return 0;
	do {
		ret = ftruncate(fd, (off_t)d->end.off);
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;
	d->torn = false;
	return 0;
}

static int write_all(int fd, struct iovec *iov, int n, uint64_t off)
{
	ssize_t done;

	while (n > 0) {
		done = pwritev(fd, iov, n, (off_t)off);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (done == 0)
			return -EIO;
		off += (uint64_t)done;
		while (n > 0 && (size_t)done >= iov->iov_len) {
			done -= (ssize_t)iov->iov_len;
			iov++;
			n--;
		}
		if (n > 0) {
			iov->iov_base = (char *)iov->iov_base + done;
			iov->iov_len -= (size_t)done;
		}
	}
	return 0;
}

static int append(struct delta *d, int fd, struct delta_entry *entry)
{
	uint8_t head[TIERFS_LOG_HEAD], buf[TIERFS_LOG_ENTRY_LEN];
	struct delta_pos pos = d->end;
	struct iovec iov[3];
	int n = 0, err;

	if (!delta_entry_valid(entry))
		return -EFBIG;
	err = delta_cut(d, fd);
	if (err)
		return err;
	err = reserve(d);
	if (err)
		return err;
	if (pos.off == 0) {
		delta_encode_header(&d->base, head, &pos);
		iov[n++] = (struct iovec){head, sizeof(head)};
	}
	entry->data_off = pos.off + TIERFS_LOG_ENTRY_LEN;
	delta_encode_entry(entry, buf, &pos);
	iov[n++] = (struct iovec){buf, sizeof(buf)};
	if (entry->kind == TIERFS_LOG_WRITE)
		iov[n++] = (struct iovec){(void *)entry->data, entry->len};
	err = write_all(fd, iov, n, d->end.off);
	if (err) {
		d->torn = true;
		(void)delta_cut(d, fd); /* else the next append tries again */
		return err;
	}
	d->end = pos;
	view_change(d, entry);
	return 0;
}

int delta_append_write(struct delta *d, int fd, const void *buf, size_t len,
		       uint64_t off)
{
	struct delta_entry entry = {
		.kind = TIERFS_LOG_WRITE,
		.off = off,
		.len = len,
		.data = buf,
	};

	return len ? append(d, fd, &entry) : 0;
}

int delta_append_truncate(struct delta *d, int fd, uint64_t size)
{
	struct delta_entry entry = {
		.kind = TIERFS_LOG_TRUNCATE,
		.off = size,
	};

	return append(d, fd, &entry);
}

int delta_append_punch(struct delta *d, int fd, uint64_t off, uint64_t len)
{
	struct delta_entry entry = {
		.kind = TIERFS_LOG_PUNCH,
		.off = off,
		.len = len,
	};

	if (len == 0 || off >= d->size)
		return 0;
	entry.len = min_t(uint64_t, len, d->size - off);
	return append(d, fd, &entry);
}

int delta_append_zero(struct delta *d, int fd, uint64_t off, uint64_t len)
{
	struct delta_entry entry = {
		.kind = TIERFS_LOG_ZERO,
		.off = off,
		.len = len,
	};

	return len ? append(d, fd, &entry) : 0;
}

/* ---- looking up ----------------------------------------------------------- */

struct delta_piece delta_piece_at(const struct delta *d, uint64_t off,
				  uint64_t end)
{
	const struct extent *e = extent_from(d, off);
	struct delta_piece piece = {.kind = PIECE_ZERO};

	if (e && e->off <= off) {
		end = min_t(uint64_t, end, extent_end(e));
		if (e->log) {
			piece.kind = PIECE_LOG;
			piece.log = e->log + (off - e->off);
		}
	} else {
		if (e)
			end = min_t(uint64_t, end, e->off);
		if (off < d->base_valid) {
			end = min_t(uint64_t, end, d->base_valid);
			piece.kind = PIECE_OBJECT;
		}
	}
	piece.len = end - off;
	return piece;
}
