/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TURNS_H
#define TIERFS_TURNS_H

/*
 * Should a client and the thread that serves it share a CPU? Found out by trying:
 * while one client alone asks, the two ways are compared from time to time, and
 * the faster one is kept in between. No clock, no system calls (fs_turns.c has
 * them); the caller serialises.
 */

#include <stdbool.h>
#include <stdint.h>

/* What a while brought. */
struct turns_tick {
	uint64_t ns; /* how long it was, not 0 */
	uint64_t requests;
	uint64_t others; /* of them, what speaks against: of a second client */
	bool starved;	 /* who serves was ready to, and did not get the CPU */
};

struct turns {
	bool together; /* what was said last */
	bool apart_is_better;
	unsigned int in_a_row; /* times that it was found so */
	unsigned int quiet;    /* ticks without a flow, in a row */
	unsigned int starved;  /* of these */
	enum {
		TURNS_KEEP,
		TURNS_MEASURE,
		TURNS_TRY,
	} phase;
	unsigned int left;     /* ticks of the phase */
	uint64_t requests, ns; /* of the phase */
	double rate;	       /* of TURNS_MEASURE: requests a nanosecond */
};

#define TURNS_NEW                                                              \
	{                                                                      \
		.left = TURNS_TICKS_KEPT                                       \
	}

/* In ticks in which one client alone asks, of 1 ms in fs_turns.c: */
#define TURNS_TICKS_KEPT  512 /* until the next comparison, if together; */
#define TURNS_TICKS_APART 32  /* else, and twice that when it is so again, */
#define TURNS_DOUBLED	  5   /* so often at most; */
#define TURNS_TICKS_TRIED 4   /* of each way in a comparison */
/* And of any: */
#define TURNS_TICKS_QUIET 4 /* until a client counts as done */

/* Is it one client that waits for one answer after the other, and often enough
 * for a wake-up to matter? */
bool turns_flows(const struct turns_tick *tick);
/* Together, from now on? */
bool turns_next(struct turns *t, const struct turns_tick *tick);

#endif
