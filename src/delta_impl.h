/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_DELTA_IMPL_H
#define TIERFS_DELTA_IMPL_H

/* What delta's files share: the log as bytes, and the view. Pure but for
 * pread(2), no locks. Nobody else includes this. */

#include <bsd/sys/tree.h>

#include "delta.h"

/* ---- delta_log.c -------------------------------------------------------- */

struct delta_entry {
	uint8_t kind; /* TIERFS_LOG_* */
	uint64_t off, len;
	uint64_t data_off; /* in the log */
	const char *data;  /* of a WRITE; the reader's until the next call */
};

/* Is there an entry that says this (by kind, off and len)? */
bool delta_entry_valid(const struct delta_entry *entry);
bool delta_base_fits(const struct delta_base *base);

/* The log's header; *pos becomes what the first entry follows. */
void delta_encode_header(const struct delta_base *base,
			 uint8_t buf[TIERFS_LOG_HEAD], struct delta_pos *pos);
/* -EBADMSG, -EPROTONOSUPPORT; *ret_pos as above. */
int delta_decode_header(const uint8_t buf[TIERFS_LOG_HEAD],
			struct delta_base *ret_base, struct delta_pos *ret_pos);
/* The header of the entry that follows *pos, which moves on behind it. */
void delta_encode_entry(const struct delta_entry *entry,
			uint8_t buf[TIERFS_LOG_ENTRY_LEN],
			struct delta_pos *pos);

/* Reads a log from front to back through a window. */
struct delta_reader {
	int fd;
	uint8_t *buf;
	size_t cap;
	uint64_t at; /* of buf[0] in the log */
	size_t have;
};
/* The entry after *pos, all of it before end; *pos moves on behind it. 1; 0:
 * what is there is no entry; -EBADMSG: one that makes no sense; -ENOMEM,
 * errors of pread(2). */
int delta_reader_next(struct delta_reader *reader, struct delta_pos *pos,
		      uint64_t end, struct delta_entry *ret);
void delta_reader_free(struct delta_reader *reader);
#define _cleanup_delta_reader_ _cleanup_(delta_reader_free)

/* ---- delta.c ------------------------------------------------------------ */

struct extent {
	RB_ENTRY(extent) link;
	uint64_t off, len; /* in the file */
	uint64_t log;	   /* where its bytes are; 0: zeros */
};

RB_HEAD(extents, extent);

struct delta {
	struct delta_base base;
	uint64_t size, base_valid;
	uint64_t bytes;
	/* What the next entry follows; off 0: not even the header. */
	struct delta_pos end;
	bool torn;
	struct extents extents;
	struct extent *spare[2];
};

enum piece_kind {
	PIECE_OBJECT,
	PIECE_ZERO,
	PIECE_LOG,
};

struct delta_piece {
	enum piece_kind kind;
	uint64_t len;
	uint64_t log; /* of PIECE_LOG */
};

/* What the file's bytes are from off on, as far as they are the same. */
struct delta_piece delta_piece_at(const struct delta *d, uint64_t off,
				  uint64_t end);

#endif
