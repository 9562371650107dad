/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_STRESS_ROUND_H
#define TIERFS_TESTS_STRESS_ROUND_H

/* What a round of the stress is like: much of everything, or more of some. */

struct stress_round {
	const unsigned int *share; /* of each operation, per hundred */
	unsigned int first, slots; /* those that are used */
};

/* By its number. In some, steps are held up from here on. */
struct stress_round stress_round(unsigned int number);

#endif
