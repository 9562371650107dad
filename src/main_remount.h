/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_MAIN_REMOUNT_H
#define TIERFS_MAIN_REMOUNT_H

#include "config.h"

/* Does what -o remount asks (config->remount), of the daemon and the kernel.
 * -errno: nothing is changed, and *ret_why (free it) says why. */
int remount(const struct config *config, char **ret_why);

#endif
