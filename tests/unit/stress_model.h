/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_STRESS_MODEL_H
#define TIERFS_TESTS_STRESS_MODEL_H

/* The model of stress.c: what each file is, and what it may be. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define SLOTS	 10
#define THREADS	 4
#define PAGE	 4096u
#define PAGES	 400 /* some files are larger than what a batch takes */
#define CONTENTS 12000
#define MAY	 64

/* One inode as the user sees it. Versions are numbers of one counter. */
struct content {
	bool dirty; /* changed since it was certain; else st is right */
	struct stat st;
	uint32_t size, size_lo, size_hi; /* pages: now, since it was certain */
	uint32_t now[PAGES], lo[PAGES], hi[PAGES]; /* versions; 0: zeros */
	bool zero[PAGES];
};

struct slot {
	unsigned int now; /* content, 0: no such name */
	unsigned int n, may[MAY];
};

enum op {
	OP_MOVE,
	OP_WRITE,
	OP_READ,
	OP_STAT,
	OP_TRUNCATE,
	OP_CHMOD,
	OP_UNLINK,
	OP_RENAME,
	OP_NOTHING,
	OPS
};

struct model {
	uint64_t seed;
	bool power;
	_Atomic(bool) cut;
	_Atomic(uint32_t) version, next; /* content */
	_Atomic(uint32_t) ops[OPS];
	struct slot slots[SLOTS];
	struct content contents[CONTENTS];
};
extern struct model *m;

/* True if good; aborts if not, or waits for the end if the power was cut. */
bool ok(bool good, const char *what, int err);
/* ret: of an fsync or syncfs. True: all of it is certain. */
bool synced(int ret, const char *what);
/* The bytes of a version of a page. */
void fill_page(uint8_t *page, unsigned int id, unsigned int index,
	       uint32_t version);
/* The version of a page, which must be whole; 0: zeros. */
uint32_t page_version(const uint8_t *page, unsigned int id, unsigned int index,
		      const char *name);
/* What is now is all that can be. */
void certain(struct content *c);
/* That may be, from now on. */
void may_be_page(struct content *c, unsigned int index, uint32_t version);
void may_be_zero(struct content *c, unsigned int index);
void may_be_size(struct content *c, unsigned int size);
/* Can all of it be zeros, of that size? */
bool may_be_zeros(const struct content *c, unsigned int size);
/* That is so. */
void is_size(struct content *c, unsigned int size);
/* Of a name: what it may lead to, 0 for nothing. */
void may_be_content(struct slot *s, unsigned int id);
void slot_certain(struct slot *s);
/* Aborts, and says how they differ. */
void same_stat(const char *name, const struct stat *a, const struct stat *b);

#endif
