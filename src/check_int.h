/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CHECK_INT_H
#define TIERFS_CHECK_INT_H

/* What the files of the check share. Nobody else includes this. */

#include <sys/stat.h>

#include "check.h"
#include "front.h"
#include "journal.h"
#include "tierfs/target.h"

struct check_object {
	uint64_t oid;
	uint64_t size; /* when it was listed */
	uint64_t ino;  /* the file that names it; 0: none so far */
};

struct check_target {
	struct target *target;
	bool listed; /* objects are valid */
	struct check_object *objects;
	size_t n, cap;
	uint64_t untold; /* files that name objects there, not looked at */
};

/* A file of .tierfs/inodes. */
struct check_holder {
	uint64_t ino;
	bool owned;
};

/* An object that several inodes name. */
struct check_shared {
	uint8_t target;
	uint64_t oid;
	char *path; /* the first that was found again; NULL: none yet */
	uint64_t ino;
};

struct check {
	struct check_parts parts;
	struct check_totals totals;
	struct check_target targets[TIERFS_TARGETS_MAX];
	struct check_holder *holders;
	size_t nholders, cap_holders;
	struct check_shared *shared;
	size_t nshared, cap_shared;

	struct intent *intents; /* by target and oid */
	size_t nintents;

	/* Some attribute or directory could not be read: what nothing names
	 * may be named there. */
	bool blind;
	bool claiming; /* a further round: nothing is judged */
	bool unsynced; /* attributes were changed */
	bool outdated; /* the catalog is marked so */
	int err;       /* ends it */
	unsigned int since_tick;

	/* Of the walk: the path below the root of what is looked at. */
	char *path;
	size_t path_len, path_cap;
};

/* A file as it was at one moment. */
struct check_seen {
	struct spill_ea ea;
	struct stat st;
};

/* -- check.c ------------------------------------------------------------- */

/* target: number, or -1. oid: 0, none. path: NULL, that of the walk. */
__attribute__((format(printf, 7, 8))) void
check_found(struct check *c, enum check_kind kind, const char *path, int target,
	    uint64_t oid, bool repaired, const char *fmt, ...);
/* True: it ends. */
bool check_tick(struct check *c);
/* Did an intent name the object when they were loaded? */
bool check_known_intent(struct check *c, uint8_t target, uint64_t oid);
/* Does one now? In doubt, it does. */
bool check_in_flight(struct check *c, uint8_t target, uint64_t oid);
int check_load_intents(struct check *c);

/* -- check_walk.c ---------------------------------------------------------- */

/* Calls fn for each regular file and directory below the front's root but
 * .tierfs, with c->path set. -errno: the root's. */
typedef void check_visit(struct check *c, int dirfd, const char *name);
int check_walk(struct check *c, check_visit *fn);
/* The same for the names in one directory of .tierfs. */
void check_walk_dir(struct check *c, int dirfd, const char *what,
		    check_visit *fn);

/* -- check_object.c: what the targets have ------------------------------------ */

int check_list_objects(struct check *c);
void check_free_objects(struct check *c);
struct check_object *check_find_object(struct check *c, uint8_t target,
				       uint64_t oid);
/* Its size: from the list, or when fresh or not listed from the target.
 * -ENOENT: missing. */
int check_object_size(struct check *c, uint8_t target, uint64_t oid, bool fresh,
		      uint64_t *ret);
/* ino's attribute names it. */
void check_claim(struct check *c, uint8_t target, uint64_t oid, uint64_t ino);
void check_unclaim(struct check *c, uint8_t target, uint64_t oid, uint64_t ino);
/* Reads it whole: 0, -EBADMSG: other contents, -ECANCELED, -errno. */
int check_verify(struct check *c, uint8_t target, uint64_t oid,
		 const struct spill_sum *sum);
/* Reports what nothing names; sure: nothing can have been overlooked. */
void check_leaked(struct check *c, bool sure);
/* Is there anything that nobody has claimed? */
bool check_unclaimed(struct check *c);

/* -- check_file.c: one file ----------------------------------------------------- */

check_visit check_file;
/* Claims only. */
check_visit check_claim_file;
/* Names who shares an object. */
check_visit check_shared_file;
/* dirfd/name: 0, -ENODATA: no EA, errors of front_ea_get_at() and stat. */
int check_look(struct check *c, int dirfd, const char *name,
	       struct check_seen *ret);

/* -- check_meta.c: .tierfs -------------------------------------------------------- */

int check_list_holders(struct check *c);
void check_own_holder(struct check *c, uint64_t ino);
/* Is .tierfs/inodes/INO there (now)? */
bool check_holder_there(struct check *c, uint64_t ino);
check_visit check_orphan;
check_visit check_claim_orphan;
void check_holders(struct check *c, bool sure);
void check_intents(struct check *c);

/* -- check_repair.c ---------------------------------------------------------------- */

/* The resident file's attribute no longer names the copy. The objects stay.
 * -EAGAIN: it is another now. */
int check_forget(struct check *c, int dirfd, const char *name,
		 const struct check_seen *seen);
/* Moves an object to lost+found. */
int check_set_aside(struct check *c, uint8_t target, uint64_t oid);

#endif
