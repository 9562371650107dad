/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CHECK_H
#define TIERFS_CHECK_H

/*
 * tierctl check: attributes, objects, journal and what .tierfs holds against
 * each other, of a front that a daemon serves or that nobody has open.
 *
 * It reads every file's attribute and lists every object, and needs memory for
 * 24 bytes an object (and 16 a file that was ever restored). It blocks on
 * targets: for a thread that may. Takes no locks itself.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct front;
struct journal;
struct target;
struct tier;

enum check_kind {
	CHECK_MISSING_OBJECT,	 /* an attribute names it, it is not there */
	CHECK_WRONG_SIZE,	 /* it is not as long as the file is */
	CHECK_DAMAGED_OBJECT,	 /* its checksum is another (verify) */
	CHECK_LEAKED_OBJECT,	 /* nothing names it */
	CHECK_SHARED_OBJECT,	 /* two files name it */
	CHECK_DAMAGED_ATTRIBUTE, /* the spill EA cannot be understood */
	CHECK_NEWER_ATTRIBUTE,	 /* the spill EA is of a newer version */
	CHECK_DAMAGED_LOG,	 /* the DIRTY log cannot be understood */
	CHECK_STUB_WITH_DATA,	 /* a released file has data on the front */
	CHECK_STALE_COPY,	 /* the file was changed beside the mount */
	CHECK_UNFINISHED,	 /* a step that the journal does not know */
	CHECK_UNOWNED_INODE,	 /* .tierfs/inodes/N: no file shows N */
	CHECK_MISSING_INODE,	 /* a file shows N, which nobody holds */
	CHECK_STRAY_FILE,	 /* in .tierfs, and nothing of ours */
	CHECK_INTENT,		 /* of the journal, leads nowhere */
	CHECK_JOURNAL,		 /* missing or damaged */
	CHECK_UNKNOWN_TARGET,	 /* of an attribute, not known to the front */
	CHECK_WRONG_TARGET,	 /* at its path is another one */
	CHECK_OFFLINE_TARGET,	 /* cannot be looked at */
	CHECK_UNREADABLE,	 /* something else could not be read */
	CHECK_KINDS
};

const char *check_kind_name(enum check_kind kind);

/* What is NULL or "" is not known or does not apply. */
struct check_finding {
	enum check_kind kind;
	const char *path;   /* below the mount's root, "/" first */
	const char *target; /* name */
	const char *object; /* absolute path */
	const char *detail; /* a sentence */
	bool repaired;
};

struct check_totals {
	uint64_t files;	  /* looked at, directories included */
	uint64_t tiered;  /* with a spill EA */
	uint64_t objects; /* listed */
	uint64_t intents; /* steps in flight; offline: the next mount's */
	uint64_t findings, repaired;
	uint64_t verified; /* bytes read */
};

struct check_parts {
	struct front *front;
	struct target **targets; /* TIERFS_TARGETS_MAX, by number, or NULL */
	struct journal *journal; /* NULL: it cannot be read, journal_why, */
	const char *journal_why; /* or NULL: there is none */
	struct tier *tier; /* of the daemon that serves it; NULL: nobody does */
	bool repair;
	bool verify; /* reads all objects */

	/* Each finding, once; valid during the call. */
	void (*found)(void *arg, const struct check_finding *finding);
	/* Now and then. True: stop. May be NULL. */
	bool (*tick)(void *arg, const struct check_totals *totals);
	void *arg;
};

/* 0: all was compared, and *ret says what was found; -ECANCELED: stopped;
 * -ENOMEM; -errno of the front's root. */
int check_run(const struct check_parts *parts, struct check_totals *ret);

#endif
