/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_CRASH_H
#define TIERFS_TESTS_CRASH_H

/*
 * A few files, what each of them may be after a crash, and children that are
 * killed at fault points.
 *
 * The model is shared with the children: what is under way is told before it
 * is begun, and when it is done. A child begins with a fork of a process that
 * has no threads, so the parent never brings the tier up itself.
 */

#include "rig.h"

#define FILES	      6
#define MAX_FAULTS    128
#define MAX_SCENARIOS 128
#define CAPABILITY    "security.capability"

/* What a file may be. */
struct state {
	bool exists;
	char seed;
	bool patched; /* its first byte is '!' */
	size_t size;
	size_t capable; /* it has capabilities while it has this size; 0: none */
	bool strict;	/* and its attributes are st */
	struct stat st;
};

struct file {
	char name[8]; /* "": not used */
	bool alias;   /* a second name of another */
	int nstates;
	struct state states[2]; /* before and after what is under way */
};

/* Shared with the children. */
struct shared {
	struct file files[FILES];
	unsigned int killed[MAX_FAULTS]; /* by index in fault_names */
	bool killed_in[MAX_FAULTS][MAX_SCENARIOS];
	unsigned int scenario; /* that is under way */
	char where[32];
};
extern struct shared *shared;

/* Makes and forgets the model. */
void crash_init(void);
void crash_forget(void);

/* Makes a file, behind the mount. */
void new_file(const char *name, size_t size);
struct file *file_of(const char *name);
/* It may be that from now on: what it is now, for the caller to change. */
struct state *may_be(const char *name);
/* It is that now, with the attributes that it has. */
void is_now(const char *name);
/* The contents that make() wrote, but for the first byte. */
void patch(struct node *node);

/* Brings the tier up and checks everything; then that all can be done. */
void verify(void);

/* Runs fn in a child. True: it was killed by its fault. Anything else but
 * success fails. */
bool in_child(void (*fn)(const void *arg, unsigned int nth), const void *arg,
	      unsigned int nth, const char *what);
/* For fault_arm(): notes the name, and dies. */
void note_and_die(const char *name);

/* Mounts of our own. Copies of those that the system tests have mounted would
 * keep these alive when they are unmounted there: they are let go. */
bool own_mounts(void);
/* Unmounts what an image was mounted at by a loop device, and waits until the
 * file system is gone: else the next mount would find it again, dead. */
void umount_image(const char *path, const char *image);

/* For rig_make(): in TIERFS_TEST_DIR, by default /dev/shm: what the page cache
 * has survives a kill anywhere. */
const char *test_prefix(void);

#endif
