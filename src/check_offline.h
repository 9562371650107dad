/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CHECK_OFFLINE_H
#define TIERFS_CHECK_OFFLINE_H

/* What a check needs of a front that no daemon serves. One thread. */

#include "check.h"

struct check_offline;

/*
 * Opens the front at path, and locks it. targets, NULL at its end or all of it,
 * are "NAME=DIR"; without any they are looked for in fstab and the
 * configuration file. -errno, and *ret_why (free it) as of front_open(); a
 * directory that is no front is left as it is.
 */
int check_offline_open(const char *path, char *const *targets,
		       struct check_offline **ret, char **ret_why);
/* Sets front, targets and journal. */
void check_offline_parts(struct check_offline *offline,
			 struct check_parts *parts);
void check_offline_close(struct check_offline *offline);
static inline void check_offline_closep(struct check_offline **offline)
{
	check_offline_close(*offline);
}

#endif
