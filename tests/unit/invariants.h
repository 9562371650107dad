/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_INVARIANTS_H
#define TIERFS_TESTS_INVARIANTS_H

/*
 * What must hold of front, target and journal whenever nothing is in flight,
 * whatever happened before. Of the rig that is up; nobody else uses it.
 */

/* Waits until the background is done. Checks that the journal has no intents
 * and that staging and orphans are empty. */
void wait_settled(void);

/*
 * Each object is named by one file, each copy that is named is there and has
 * its size; no file is between two states; what is released has no data and
 * what is resident has its size; .tierfs/inodes has the numbers that restored
 * files show, and nothing else; no two files show the same number.
 */
void check_invariants(void);

#endif
