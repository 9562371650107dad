/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_FAULT_H
#define TIERFS_FAULT_H

/*
 * Named one-shot faults, after scoutfs' triggers: where the tests let it die.
 *
 * A point stands behind each durable step, and is nothing unless compiled with
 * TIERFS_FAULTS (meson -Dfaults=true; the crash tests are always built so).
 * TIERFS_FAULT=NAME[:N] in the environment kills the process at the N-th
 * passing of NAME, or of any point if NAME is "*". A name that is not in the
 * list is an error, at a point as in the environment.
 */

#ifdef TIERFS_FAULTS

void fault_point(const char *name);

/* All names, NULL at the end. */
extern const char *const fault_names[];

/* What happens instead of the kill; NULL: the kill. On the passing thread,
 * whatever locks it has. */
typedef void fault_action(const char *name);

/* Arms NAME or "*" for its nth passing from now on; once. NULL: disarms.
 * -EINVAL: no such name. */
int fault_arm(const char *name, unsigned int nth, fault_action *action);
/* How often a point (or "*": any) was passed since it was armed last. */
unsigned int fault_passed(const char *name);

#else

static inline void fault_point(const char *name)
{
	(void)name;
}

#endif

#endif
