/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CATALOG_SCAN_H
#define TIERFS_CATALOG_SCAN_H

/* The scanner: lists directories for catalog_walk.c. It knows no database. */

#include <urcu/list.h>

#include "catalog_int.h"

struct scan_job {
	struct cds_list_head link; /* the scanner's */
	uint64_t key;
	struct front_handle handle;
	int fd; /* opened already, or -1 */
	/* -- C alone -- */
	uint64_t gen;	/* the current one when it began */
	uint32_t batch; /* as well */
	bool spoiled;	/* a part of it was lost */
};

struct scan_entry {
	struct catalog_seen seen;
	const char *name;
};

/* A part of a directory. */
struct scan_chunk {
	struct cds_list_head link;
	struct scan_job *job;
	uint32_t batch; /* what was told since then is newer */
	bool last;
	int err; /* of listing it; with last */
	size_t n;
	struct scan_entry *entries;
	char *names;
	/* With last: the keys of all parts, sorted. */
	struct scan_keys {
		uint64_t *keys;
		size_t n, cap;
	} files, dirs;
};

struct scan;

int scan_start(struct catalog *c, struct scan **ret);
/* Frees what was not taken; the jobs are the caller's. */
void scan_stop(struct scan *scan);
/* Queues n jobs. */
void scan_give(struct scan *scan, struct scan_job **jobs, size_t n);
/* Takes what was found, up to some entries, in order. */
/* How much that was: entries, and one a chunk. */
size_t scan_take(struct scan *scan, size_t entries, struct cds_list_head *ret);
void scan_chunk_free(struct scan_chunk *chunk);
/* It holds nothing any more, but tells whose it was. */
void scan_chunk_empty(struct scan_chunk *chunk);
/* Is there enough to be taken for a transaction, or nothing left to do? */
bool scan_ready(struct scan *scan);

#endif
