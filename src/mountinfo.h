/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_MOUNTINFO_H
#define TIERFS_MOUNTINFO_H

/* The mounts of this process's namespace, from /proc/self/mountinfo, which also
 * says the device of a mount without asking who serves it. Any thread; who
 * reads it may sleep. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#ifndef STATX_MNT_ID /* linux/stat.h */
#define STATX_MNT_ID 0x00001000U
#endif

/* As proc_pid_mountinfo(5) has it; what the kernel escaped is undone. */
struct mount {
	char *line;	    /* all strings are of it */
	uint64_t id;	    /* STATX_MNT_ID */
	const char *device; /* "MAJ:MIN" */
	const char *root;   /* of the file system, that is mounted */
	const char *point;  /* where */
	const char *type, *source;
	char *options, *super; /* of the mount, of the file system: "a,b=c" */
};

/* Of several on one point the last one is what is seen there. */
struct mounts {
	struct mount *mounts;
	size_t n;
};

/* *ret: to be freed; -errno, -ENOMEM. */
int mounts_read(struct mounts *ret);
void mounts_free(struct mounts *mounts);

/* Takes one line apart, in place, which is the caller's to free. false: it is not
 * one, *ret is as it was. */
bool mount_parse(char *line, struct mount *ret);

#endif
