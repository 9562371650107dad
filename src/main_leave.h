/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_MAIN_LEAVE_H
#define TIERFS_MAIN_LEAVE_H

/*
 * Ending although a target hangs.
 *
 * From leave_begin() on a thread watches. What may wait for a target stands
 * between leave_may_hang(true) and leave_may_hang(false); when that takes too
 * long, the process lets go of the front and ends from there.
 */

#include <stdbool.h>

struct stack;

/* The mount is gone, and requests are answered. One at a time. */
void leave_begin(struct stack *stack);
/* May what follows wait for a target? Does not return when it took too long
 * already. Nothing before leave_begin(). */
void leave_may_hang(bool may);
/* The tier is whole until here: from now on it saves itself. */
void leave_tier_ends(void);
/* All is closed. */
void leave_end(void);

#endif
