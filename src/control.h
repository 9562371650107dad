/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CONTROL_H_
#define TIERFS_CONTROL_H_

/*
 * The control server: what tierctl talks to (include/tierfs/control.h).
 *
 * Changes states only through tier.h. One thread accepts, one more serves each
 * connection, their number bounded; they may block, as they serve no requests
 * of the kernel.
 */

#include <stdbool.h>

struct control;
struct tier;
struct policy;

struct control_parts {
	struct tier *tier;	     /* outlives the control server */
	struct policy *policy;	     /* the same; may be NULL */
	const char *mountpoint;	     /* absolute; copied */
	bool passthrough;	     /* for `tierctl status` */
	const char *passthrough_why; /* where false; copied, may be NULL */
	bool io_uring;		     /* how requests come */
	const char *io_uring_why;    /* as passthrough_why */

	/* -o remount, on any thread: options as of config_remount(); check:
	 * nothing is changed. -errno: *ret_why (free it) says why. */
	int (*remount)(void *arg, char *const *options, bool check,
		       char **ret_why);
	void *remount_arg;
};

/*
 * Makes the socket and serves it: call it in the process that stays, when the
 * mount answers. On -errno *ret_why (free it) says why: -EADDRINUSE another
 * daemon serves a file system of this name.
 */
int control_start(const struct control_parts *parts, struct control **ret,
		  char **ret_why);

/* What was only known later. */
void control_set_passthrough(struct control *control, bool passthrough,
			     const char *why);

/* Removes the socket, ends all connections, cancels what they asked for and
 * waits for it. Before mover_stop(), while the tier works. */
void control_stop(struct control *control);

#endif
