/* SPDX-License-Identifier: MIT */
/*
 * Reading through the log. A read that the object has a part in is answered
 * later, when the file may have been restored and the log be gone or hold
 * newer writes: so the log's part is copied when the read begins. What it then
 * shows is the file at one moment between the read's begin and its end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "delta_impl.h"
#include "util.h"

static uint64_t end_of(const struct delta *d, uint64_t off, uint64_t len)
{
	if (off >= d->size)
		return off;
	return off + min_t(uint64_t, len, d->size - off);
}

bool delta_covers(const struct delta *d, uint64_t off, uint64_t len)
{
	uint64_t end = end_of(d, off, len);
	struct delta_piece piece;

	for (; off < end; off += piece.len) {
		piece = delta_piece_at(d, off, end);
		if (piece.kind == PIECE_OBJECT)
			return false;
	}
	return true;
}

static int read_log(int fd, void *buf, size_t len, uint64_t log)
{
	int ret = pread_full(fd, buf, len, (off_t)log);

	return ret == -ENODATA ? -EIO : ret;
}

int64_t delta_read(const struct delta *d, int fd, void *buf, size_t len,
		   uint64_t off)
{
	uint64_t end = end_of(d, off, len);
	struct delta_piece piece;
	char *p = buf;
	int err;

	for (; off < end; off += piece.len, p += piece.len) {
		piece = delta_piece_at(d, off, end);
		if (piece.kind == PIECE_ZERO) {
			memset(p, 0, piece.len);
		} else if (piece.kind == PIECE_LOG) {
			err = read_log(fd, p, piece.len, piece.log);
			if (err)
				return err;
		}
	}
	return p - (char *)buf;
}

/* Lists the pieces of [view->off, end), and how much of it is in the log. */
static int view_list(const struct delta *d, struct delta_view *view,
		     uint64_t end, size_t *ret_data)
{
	uint64_t off = view->off;
	struct delta_piece piece, *pieces;
	size_t cap = 0;

	for (; off < end; off += piece.len) {
		piece = delta_piece_at(d, off, end);
		if (view->n == cap) {
			cap = cap ? 2 * cap : 8;
			pieces = realloc(view->pieces, cap * sizeof(*pieces));
			if (!pieces)
				return -ENOMEM;
			view->pieces = pieces;
		}
		view->pieces[view->n++] = piece;
		if (piece.kind == PIECE_LOG)
			*ret_data += piece.len;
		if (piece.kind == PIECE_OBJECT) {
			if (!view->need_len)
				view->need_off = off;
			view->need_len = off + piece.len - view->need_off;
		}
	}
	return 0;
}

static int view_fill(int fd, struct delta_view *view, size_t len)
{
	char *p;
	size_t i;
	int err;

	if (!len)
		return 0;
	p = view->data = malloc(len);
	if (!p)
		return -ENOMEM;
	for (i = 0; i < view->n; i++) {
		const struct delta_piece *piece = &view->pieces[i];

		if (piece->kind != PIECE_LOG)
			continue;
		err = read_log(fd, p, piece->len, piece->log);
		if (err)
			return err;
		p += piece->len;
	}
	return 0;
}

int delta_view_get(const struct delta *d, int fd, uint64_t off, size_t len,
		   struct delta_view *ret)
{
	uint64_t end = end_of(d, off, len);
	struct delta_view view = {.off = off, .len = end - off};
	size_t data = 0;
	int err;

	err = view_list(d, &view, end, &data);
	if (!err)
		err = view_fill(fd, &view, data);
	if (err) {
		delta_view_free(&view);
		return err;
	}
	*ret = view;
	return 0;
}

void delta_view_apply(const struct delta_view *view, void *buf)
{
	const char *data = view->data;
	char *p = buf;
	size_t i;

	for (i = 0; i < view->n; i++) {
		const struct delta_piece *piece = &view->pieces[i];

		if (piece->kind == PIECE_ZERO) {
			memset(p, 0, piece->len);
		} else if (piece->kind == PIECE_LOG) {
			memcpy(p, data, piece->len);
			data += piece->len;
		}
		p += piece->len;
	}
}

void delta_view_free(struct delta_view *view)
{
	free(view->pieces);
	free(view->data);
	view->pieces = NULL;
	view->data = NULL;
}
