/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_FUZZ_H
#define TIERFS_TESTS_FUZZ_H

/*
 * What a fuzz target is: a function of any bytes that must come back, with
 * must() for what has to hold of the answer. libFuzzer calls it (Meson option
 * fuzz), or replay.c, without clang, with the files of tests/fuzz/corpus alone.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define must(condition)                                                        \
	do {                                                                   \
		if (!(condition)) {                                            \
			fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__,    \
				__LINE__, #condition);                         \
			abort();                                               \
		}                                                              \
	} while (0)

#endif
