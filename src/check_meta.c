/* SPDX-License-Identifier: MIT */
/*
 * What .tierfs holds: inodes that keep a number, orphans, intents.
 *
 * What a crash left in orphans and staging is the next mount's, which needs no
 * check for it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check_int.h"
#include "cleanup.h"
#include "util.h"

#define INODES "/" TIERFS_META_DIR "/inodes/"

/* "123", as the tier names what it keeps; 0: it is no such name. */
static uint64_t number_of(const char *name)
{
	char again[24], *end;
	uint64_t n;

	errno = 0;
	n = strtoull(name, &end, 10);
	snprintf(again, sizeof(again), "%" PRIu64, n);
	return errno || *end || strcmp(again, name) ? 0 : n;
}

/* ---- holders ----------------------------------------------------------------- */

static int by_ino(const void *a, const void *b)
{
	const struct check_holder *x = a, *y = b;

	return (x->ino > y->ino) - (x->ino < y->ino);
}

static void add_holder(struct check *c, int dirfd, const char *name)
{
	uint64_t ino = number_of(name);

	if (!ino) {
		check_found(c, CHECK_STRAY_FILE, NULL, -1, 0, false,
			    "nothing of tierfs has such a name");
		return;
	}
	if (c->nholders == c->cap_holders) {
		size_t cap = c->cap_holders ? c->cap_holders * 2 : 256;
		void *holders =
			reallocarray(c->holders, cap, sizeof(*c->holders));

		if (!holders) {
			c->err = -ENOMEM;
			return;
		}
		c->holders = holders;
		c->cap_holders = cap;
	}
	c->holders[c->nholders++] = (struct check_holder){.ino = ino};
}

int check_list_holders(struct check *c)
{
	check_walk_dir(c, c->parts.front->inodes_fd, TIERFS_META_DIR "/inodes",
		       add_holder);
	if (!c->err && c->nholders)
		qsort(c->holders, c->nholders, sizeof(*c->holders), by_ino);
	return c->err;
}

static struct check_holder *find_holder(struct check *c, uint64_t ino)
{
	const struct check_holder key = {.ino = ino};

	return c->nholders ? bsearch(&key, c->holders, c->nholders, sizeof(key),
				     by_ino)
			   : NULL;
}

void check_own_holder(struct check *c, uint64_t ino)
{
	struct check_holder *holder = find_holder(c, ino);

	if (holder)
		holder->owned = true;
}

bool check_holder_there(struct check *c, uint64_t ino)
{
	char name[24];
	struct stat st;

	if (find_holder(c, ino))
		return true;
	/* Made since the list was. In doubt, it is there. */
	snprintf(name, sizeof(name), "%" PRIu64, ino);
	return fstatat(c->parts.front->inodes_fd, name, &st,
		       AT_SYMLINK_NOFOLLOW) == 0 ||
	       errno != ENOENT;
}

static void unowned(struct check *c, uint64_t ino, bool sure)
{
	int dirfd = c->parts.front->inodes_fd;
	bool may = c->parts.repair && sure && !c->blind, repaired = false;
	struct check_seen seen;
	char name[24], path[64];
	int err;

	snprintf(name, sizeof(name), "%" PRIu64, ino);
	snprintf(path, sizeof(path), INODES "%s", name);
	err = check_look(c, dirfd, name, &seen);
	if (err == -ENOENT)
		return;
	/* A swap that was interrupted, or is under way. */
	if (!err && seen.ea.ncopies &&
	    check_in_flight(c, seen.ea.copies[0].target, seen.ea.copies[0].oid))
		return;
	if (err == -ENODATA &&
	    (fstatat(dirfd, name, &seen.st, AT_SYMLINK_NOFOLLOW) < 0))
		return;
	/* Empty, and no attribute: there is nothing that could be lost. */
	if (may && err == -ENODATA && seen.st.st_size == 0 &&
	    S_ISREG(seen.st.st_mode))
		repaired = unlinkat(dirfd, name, 0) == 0;
	check_found(c, CHECK_UNOWNED_INODE, path, -1, 0, repaired,
		    "no file shows its number%s",
		    err == -ENODATA && seen.st.st_size == 0
			    ? ""
			    : "; it is not empty");
}

void check_holders(struct check *c, bool sure)
{
	for (size_t i = 0; i < c->nholders && !check_tick(c); i++)
		if (!c->holders[i].owned)
			unowned(c, c->holders[i].ino, sure);
}

/* ---- orphans -------------------------------------------------------------------- */

void check_claim_orphan(struct check *c, int dirfd, const char *name)
{
	check_claim_file(c, dirfd, name);
}

void check_orphan(struct check *c, int dirfd, const char *name)
{
	struct check_seen seen;
	int err;

	if (!number_of(name)) {
		check_found(c, CHECK_STRAY_FILE, NULL, -1, 0, false,
			    "nothing of tierfs has such a name");
		return;
	}
	err = check_look(c, dirfd, name, &seen);
	if (err && err != -ENODATA && err != -ENOENT) {
		c->blind = true;
		check_found(c,
			    err == -EPROTONOSUPPORT ? CHECK_NEWER_ATTRIBUTE
						    : CHECK_DAMAGED_ATTRIBUTE,
			    NULL, -1, 0, false,
			    "an unlinked file whose objects are not known");
	}
	check_claim_orphan(c, dirfd, name);
}

/* ---- intents ---------------------------------------------------------------------- */

void check_intents(struct check *c)
{
	for (size_t i = 0; i < c->nintents; i++) {
		const struct intent *intent = &c->intents[i];
		bool repaired = c->parts.repair;

		if (intent->target < c->parts.front->ntargets)
			continue;
		if (repaired)
			journal_done(c->parts.journal, &intent->id, 1);
		check_found(c, CHECK_INTENT, "", -1, 0, repaired,
			    "a step in flight names target number %u, which "
			    "the front does not know",
			    intent->target);
	}
}
