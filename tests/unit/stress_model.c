/* SPDX-License-Identifier: MIT */
#include "stress_model.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "rig.h"
#include "stress.h"
#include "util.h"

struct model *m;

/* An error is one, unless the power was cut. Never returns false then. */
bool ok(bool good, const char *what, int err)
{
	if (good)
		return true;
	if (atomic_load(&m->cut))
		for (;;)
			pause();
	print_error("stress: %s: %s\n", what, strerror(err < 0 ? -err : err));
	abort();
}

/*
 * What was synced is certain. That the call returned 0 does not say so once the
 * power is being cut: a file system that is shut down drops its running
 * transaction, and an fsync or syncfs that looks for it afterwards finds that
 * there is nothing to wait for (ext4 and xfs). A real cut lets none return.
 */
bool synced(int ret, const char *what)
{
	ok(ret == 0, what, ret < -1 ? ret : errno);
	return !atomic_load(&m->cut);
}

void fill_page(uint8_t *page, unsigned int id, unsigned int index,
	       uint32_t version)
{
	uint64_t *words = (uint64_t *)page;
	uint64_t x =
		((uint64_t)id << 32 | version) * 0x9E3779B97F4A7C15u + index;

	words[0] = (uint64_t)id << 32 | version;
	words[1] = index;
	for (unsigned int i = 2; i < PAGE / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		words[i] = x;
	}
}

/* The version of a page that is whole. */
uint32_t page_version(const uint8_t *page, unsigned int id, unsigned int index,
		      const char *name)
{
	static const uint8_t zeros[PAGE];
	uint8_t good[PAGE] __attribute__((aligned(8)));
	uint32_t version;

	if (!memcmp(page, zeros, PAGE))
		return 0;
	memcpy(&version, page, sizeof(version));
	fill_page(good, id, index, version);
	if (memcmp(page, good, PAGE)) {
		print_error("%s: page %u is not of any version (%u of %u?)\n",
			    name, index, version, ((uint32_t *)page)[1]);
		abort();
	}
	return version;
}

/* What is now is all that can be. */
void certain(struct content *c)
{
	for (unsigned int i = 0; i < PAGES; i++) {
		c->lo[i] = c->hi[i] = c->now[i];
		c->zero[i] = false;
	}
	c->size_lo = c->size_hi = c->size;
	c->dirty = false;
}

void may_be_page(struct content *c, unsigned int index, uint32_t version)
{
	c->dirty = true;
	c->hi[index] = version;
	if (index >= c->size_hi)
		c->size_hi = index + 1;
}

void may_be_zero(struct content *c, unsigned int index)
{
	c->dirty = true;
	c->zero[index] = true;
}

void may_be_size(struct content *c, unsigned int size)
{
	c->dirty = true;
	c->size_lo = min_t(uint32_t, c->size_lo, size);
	c->size_hi = max_t(uint32_t, c->size_hi, size);
	for (unsigned int i = size; i < PAGES; i++)
		c->zero[i] = true;
}

bool may_be_zeros(const struct content *c, unsigned int size)
{
	bool ret = c->size_lo <= size && size <= c->size_hi;

	for (unsigned int i = 0; ret && i < size; i++)
		ret = !c->lo[i] || c->zero[i];
	return ret;
}

void is_size(struct content *c, unsigned int size)
{
	c->size = size;
	for (unsigned int i = size; i < PAGES; i++)
		c->now[i] = 0;
}

void may_be_content(struct slot *s, unsigned int id)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (s->may[i] == id)
			return;
	ok(s->n < MAY, "model is full", ENOSPC);
	s->may[s->n++] = id;
}

void slot_certain(struct slot *s)
{
	s->may[0] = s->now;
	s->n = 1;
}

static void tell_attribute(const char *name)
{
	struct spill_ea ea = {0};
	struct stat st = {0};
	int err = front_ea_get_at(rig.front, rig.front->root_fd, name, &ea);

	fstatat(rig.front->root_fd, name, &st, AT_SYMLINK_NOFOLLOW);
	print_error("%s: attribute: %d, %s, flags %x, ctime %jd; the inode's: "
		    "ctime %jd, mtime %jd\n",
		    name, err, spill_state_name(ea.state), ea.flags,
		    (intmax_t)ea.ctime, (intmax_t)timespec_to_ns(st.st_ctim),
		    (intmax_t)timespec_to_ns(st.st_mtim));
}

void same_stat(const char *name, const struct stat *a, const struct stat *b)
{
	int64_t mtime = timespec_to_ns(b->st_mtim) - timespec_to_ns(a->st_mtim);
	int64_t ctime = timespec_to_ns(b->st_ctim) - timespec_to_ns(a->st_ctim);

	if (a->st_ino == b->st_ino && a->st_size == b->st_size &&
	    a->st_mode == b->st_mode && a->st_nlink == b->st_nlink && !mtime &&
	    !ctime)
		return;
	print_error("%s: ino %ju %ju, size %jd %jd, mode %o %o, nlink %ju %ju, "
		    "mtime %+jd, ctime %+jd\n",
		    name, (uintmax_t)a->st_ino, (uintmax_t)b->st_ino,
		    (intmax_t)a->st_size, (intmax_t)b->st_size, a->st_mode,
		    b->st_mode, (uintmax_t)a->st_nlink, (uintmax_t)b->st_nlink,
		    (intmax_t)mtime, (intmax_t)ctime);
	tell_attribute(name);
	abort();
}

/* ---- for people ---------------------------------------------------------------- */

static const char *const op_names[OPS] = {"move",   "write",	"read",
					  "stat",   "truncate", "chmod",
					  "unlink", "rename",	"open"};

unsigned int stress_ops(void)
{
	unsigned int sum = 0;

	for (int i = 0; i < OPS; i++)
		sum += m->ops[i];
	return sum;
}

void stress_report(void)
{
	for (int i = 0; i < OPS; i++)
		print_message("%s %u%s", op_names[i], m->ops[i],
			      i + 1 < OPS ? ", " : "\n");
}
