/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_FS_H
#define TIERFS_FS_H

/*
 * The FUSE session: mounts, serves the kernel's requests, unmounts.
 *
 * Knows files only as nodes and their data only through tier.h.
 */

#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "front.h"
#include "node.h"
#include "tier.h"

struct fs;

/* Outlive the session. */
struct fs_parts {
	const struct config *config;
	struct front *front;
	struct node_table *nodes;
	struct tier *tier;
};

/* Mounts; requests wait for fs_serve(). On -errno *ret_why (free it) says why:
 * -EINVAL an option that libfuse refuses, others of mount(2). */
int fs_mount(const struct fs_parts *parts, struct fs **ret, char **ret_why);

/*
 * Serves requests until the mount is gone or a signal (INT, TERM) ends it.
 * ready(arg) is called once, on a thread of its own, when the mount answers;
 * what it returns, if not 0, ends the session and is returned. -EOPNOTSUPP:
 * passthrough=on, but it cannot be had; ready was not called.
 */
int fs_serve(struct fs *fs, int (*ready)(void *arg), void *arg, char **ret_why);

/* Takes what can be changed while mounted (recall_timeout, ro, noatime) from
 * config. From the mount to the end, from any thread; for those too who wait.
 * -EAGAIN: no thread to be had for the timeout, and nothing is changed. */
int fs_retune(struct fs *fs, const struct config *config);

/* Answers what still waits, and unmounts if that was not done from outside. */
void fs_leave(struct fs *fs);
/* After that: waits for what targets still have of it, and frees. Afterwards
 * nothing calls the tier any more. */
void fs_end(struct fs *fs);

/* Is passthrough in use? If not, why says it. */
bool fs_passthrough(struct fs *fs, char *why, size_t len);
/* Do requests come over io_uring? If not, why says it. When ready. */
bool fs_uring(struct fs *fs, char *why, size_t len);

#endif
