/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_STRESS_H
#define TIERFS_TESTS_STRESS_H

/*
 * Threads that do everything to a few files, and what may be left of those when
 * they are stopped at any moment.
 *
 * The model lives in memory that is shared with the child that runs the
 * threads. What an operation may leave is added before it begins; what cannot
 * be any more is taken away when it is certain: once the operation has ended
 * (a kill), or once an fsync has (a power cut).
 */

#include <stdbool.h>
#include <stdint.h>

void stress_init(uint64_t seed, bool power);
/* In a child, on a rig that is up: until it is stopped. An error is one unless
 * stress_cut() was called. */
void stress_run(unsigned int round);
/* The power is about to be cut. */
void stress_cut(void);
/* In a child, on a rig that is up: checks all, does something to all files,
 * and makes what was found what must be. */
void stress_verify(void);
/* Operations so far, and those by name, for people. */
unsigned int stress_ops(void);
void stress_report(void);

#endif
