/* SPDX-License-Identifier: MIT */
/*
 * Attributes, objects, journal and .tierfs against each other.
 *
 *   1. the intents of the journal
 *   2. the objects of each target, and the files of .tierfs/inodes, as lists
 *   3. a walk over the front: each file's attribute is judged against the
 *      lists, and claims what it names; then .tierfs/orphans
 *   4. what nobody claimed is leaked
 *
 * While a daemon serves the front, everything may change meanwhile; what is
 * told must be true all the same. No lock is held: a check of millions of files
 * would stop them all. It rests on orders that the tier keeps:
 *
 * - An attribute names an object before that exists, or after it is complete,
 *   and an object is deleted only after no durable attribute names it; an oid
 *   is never given out twice. So what an attribute said before and after a look
 *   at its object, under the same name, was true at the look: every judgement
 *   reads attribute and inode again, and is dropped if they differ. An
 *   unlinked file is not found by its name any more.
 * - An intent is in the journal before the attribute says what the intent
 *   explains (MIGRATING, WRITING, RELEASED with data), until after it says
 *   something else. So between the two looks the journal is asked.
 * - Objects are listed before the walk: what is made later is not missed. One
 *   that no attribute names (any more) is named by an intent or an orphan until
 *   it is deleted: orphans are read after the walk, since files only move
 *   there, then the intents, then whether it is still there.
 * - A walk can overlook what is renamed meanwhile, or linked and unlinked. The
 *   tier counts what it renames and links of files with attributes and of
 *   directories: when nothing was, the walk was complete. Else it is done
 *   again, only to claim; when the third was disturbed too, what is left is
 *   told but not touched.
 *
 * Without a daemon the front's lock is held, and nothing changes. What a crash
 * left is explained by the intents, and is the next mount's to finish.
 *
 * Repaired is what cannot lose data: nothing is deleted but empty files of
 * .tierfs and attributes' claims to copies of files whose data is on the front.
 * Objects are moved aside. Where anything could not be read, what nothing names
 * is left alone: it may be named there.
 */
#include "check_int.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "tier.h"
#include "util.h"

#define TICK_FILES 256
#define ROUNDS	   3

const char *check_kind_name(enum check_kind kind)
{
	static const char *const names[CHECK_KINDS] = {
		[CHECK_MISSING_OBJECT] = "missing-object",
		[CHECK_WRONG_SIZE] = "wrong-size",
		[CHECK_DAMAGED_OBJECT] = "damaged-object",
		[CHECK_LEAKED_OBJECT] = "leaked-object",
		[CHECK_SHARED_OBJECT] = "shared-object",
		[CHECK_DAMAGED_ATTRIBUTE] = "damaged-attribute",
		[CHECK_NEWER_ATTRIBUTE] = "newer-attribute",
		[CHECK_DAMAGED_LOG] = "damaged-log",
		[CHECK_STUB_WITH_DATA] = "stub-with-data",
		[CHECK_STALE_COPY] = "stale-copy",
		[CHECK_UNFINISHED] = "unfinished",
		[CHECK_UNOWNED_INODE] = "unowned-inode",
		[CHECK_MISSING_INODE] = "missing-inode",
		[CHECK_STRAY_FILE] = "stray-file",
		[CHECK_INTENT] = "intent",
		[CHECK_JOURNAL] = "journal",
		[CHECK_UNKNOWN_TARGET] = "unknown-target",
		[CHECK_WRONG_TARGET] = "wrong-target",
		[CHECK_OFFLINE_TARGET] = "offline-target",
		[CHECK_UNREADABLE] = "unreadable",
	};

	return (size_t)kind < CHECK_KINDS ? names[kind] : "unknown";
}

void check_found(struct check *c, enum check_kind kind, const char *path,
		 int target, uint64_t oid, bool repaired, const char *fmt, ...)
{
	_cleanup_free_ char *detail = NULL;
	const struct front *front = c->parts.front;
	struct check_finding f = {
		.kind = kind,
		.path = path ? path : c->path,
		.target = "",
		.object = "",
		.repaired = repaired,
	};
	char object[PATH_MAX] = "";
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&detail, fmt, ap) < 0)
		detail = NULL;
	va_end(ap);
	f.detail = detail ? detail : "";
	if (target >= 0 && (unsigned int)target < front->ntargets)
		f.target = front->targets[target].name;
	if (oid && target >= 0 && target < TIERFS_TARGETS_MAX &&
	    c->parts.targets[target]) {
		target_object_path(c->parts.targets[target], oid, object,
				   sizeof(object));
		f.object = object;
	}
	c->totals.findings++;
	c->totals.repaired += repaired;
	c->parts.found(c->parts.arg, &f);
}

bool check_tick(struct check *c)
{
	if (c->err)
		return true;
	if (++c->since_tick < TICK_FILES)
		return false;
	c->since_tick = 0;
	if (c->parts.tick && c->parts.tick(c->parts.arg, &c->totals))
		c->err = -ECANCELED;
	return c->err;
}

/* ---- the journal --------------------------------------------------------- */

static int by_object(const void *a, const void *b)
{
	const struct intent *x = a, *y = b;

	if (x->target != y->target)
		return x->target < y->target ? -1 : 1;
	return (x->oid > y->oid) - (x->oid < y->oid);
}

int check_load_intents(struct check *c)
{
	struct intent *intents = NULL;
	size_t n = 0;
	int err;

	if (!c->parts.journal)
		return 0;
	err = journal_intents(c->parts.journal, &intents, &n);
	if (err)
		return err;
	free(c->intents);
	c->intents = intents;
	c->nintents = n;
	if (n)
		qsort(intents, n, sizeof(*intents), by_object);
	return 0;
}

bool check_known_intent(struct check *c, uint8_t target, uint64_t oid)
{
	const struct intent key = {.target = target, .oid = oid};

	return c->nintents &&
	       bsearch(&key, c->intents, c->nintents, sizeof(key), by_object);
}

bool check_in_flight(struct check *c, uint8_t target, uint64_t oid)
{
	/* In doubt, it is. */
	if (!c->parts.journal || (c->parts.tier && check_load_intents(c)))
		return true;
	return check_known_intent(c, target, oid);
}

/* ---- targets --------------------------------------------------------------- */

static void report_target(struct check *c, unsigned int i)
{
	struct target *target = c->parts.targets[i];
	unsigned long long untold = c->targets[i].untold;
	char why[512] = "not given";
	int err = -EIO;

	if (c->targets[i].listed)
		return;
	/* One that was taken out of use keeps its number. */
	if (!target && !untold)
		return;
	if (target) {
		err = target_probe(target);
		target_online(target, why, sizeof(why));
	}
	if (err == -EEXIST || err == -EBADMSG)
		check_found(c, CHECK_WRONG_TARGET, "", (int)i, 0, false,
			    "%s; %llu files have their objects on it", why,
			    untold);
	else
		check_found(c, CHECK_OFFLINE_TARGET, "", (int)i, 0, false,
			    "%s; whether the objects of %llu files are there "
			    "cannot be told",
			    err ? why : "it came back during the check",
			    untold);
}

static void report_journal(struct check *c)
{
	const char *why = c->parts.journal_why;

	/* A first mount that failed has not made it yet. */
	if (c->parts.journal ||
	    (!why && !c->totals.tiered && !c->totals.objects))
		return;
	check_found(c, CHECK_JOURNAL, "", -1, 0, false,
		    "%s; what is in flight cannot be told",
		    why ? why : "there is none");
}

/* ---- rounds ------------------------------------------------------------------ */

static uint64_t renames(struct check *c, bool *ret_quiet)
{
	return c->parts.tier ? tier_renames(c->parts.tier, ret_quiet) : 0;
}

/* A walk, and the orphans. *ret_sure: nothing can have been overlooked. */
static int round_once(struct check *c, check_visit *file, check_visit *orphan,
		      bool *ret_sure)
{
	bool before = true, after = true;
	uint64_t count = renames(c, &before);
	int err;

	err = check_walk(c, file);
	if (err)
		return err;
	*ret_sure = renames(c, &after) == count && before && after;
	check_walk_dir(c, c->parts.front->orphans_fd, ".tierfs/orphans",
		       orphan);
	return c->err;
}

static int find_shared(struct check *c)
{
	bool sure;

	return c->nshared ? round_once(c, check_shared_file, check_claim_orphan,
				       &sure)
			  : 0;
}

static int walk_all(struct check *c)
{
	bool sure = false;
	int err;

	err = round_once(c, check_file, check_orphan, &sure);
	for (int i = 1; !err && !sure && i < ROUNDS && check_unclaimed(c); i++)
		err = round_once(c, check_claim_file, check_claim_orphan,
				 &sure);
	if (!err)
		err = find_shared(c);
	if (!err)
		err = check_load_intents(c);
	if (err)
		return err;
	check_leaked(c, sure);
	check_holders(c, sure);
	return c->err;
}

static int run(struct check *c)
{
	const struct front *front = c->parts.front;
	int err;

	err = check_load_intents(c);
	if (err)
		return err;
	c->totals.intents = c->nintents;
	if (!c->parts.tier)
		check_intents(c);
	err = check_list_holders(c);
	if (!err)
		err = check_list_objects(c);
	if (!err)
		err = walk_all(c);
	for (unsigned int i = 0; !err && i < front->ntargets; i++)
		report_target(c, i);
	if (!err)
		report_journal(c);
	/* What was repaired stays so. */
	if (c->totals.repaired && syncfs(front->root_fd) < 0 && !err)
		err = -errno;
	return err;
}

int check_run(const struct check_parts *parts, struct check_totals *ret)
{
	struct check *c = calloc(1, sizeof(*c));
	int err;

	if (!c)
		return -ENOMEM;
	c->parts = *parts;
	for (unsigned int i = 0; i < TIERFS_TARGETS_MAX; i++)
		c->targets[i].target = parts->targets[i];
	err = run(c);
	*ret = c->totals;
	check_free_objects(c);
	for (size_t i = 0; i < c->nshared; i++)
		free(c->shared[i].path);
	free(c->shared);
	free(c->holders);
	free(c->intents);
	free(c->path);
	free(c);
	return err;
}
