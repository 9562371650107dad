/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_HEAT_H
#define TIERFS_HEAT_H

/*
 * A file's temperature: each access adds one, and it halves every half-life.
 *
 * Stored so that time does not change it: if h(t) is the temperature at t and H
 * the half-life, log2(h(t)) + t / H is the same for all t until the next access.
 * So it can be indexed, and the coldest file is the one with the lowest value,
 * at any time. Fixed point, 20 bits after the point; HEAT_NONE was never
 * accessed.
 *
 * Pure.
 */

#include <stdint.h>

#define HEAT_NONE  INT64_MIN
#define HEAT_SHIFT 20

/* The value after one more access at now (ns since the epoch). */
int64_t heat_touch(int64_t heat, int64_t now_ns, int64_t half_life_ns);
/* The temperature at now: 0 for HEAT_NONE. */
double heat_at(int64_t heat, int64_t now_ns, int64_t half_life_ns);
/* When it will have cooled to temperature (> 0), ns since the epoch. */
int64_t heat_when(int64_t heat, double temperature, int64_t half_life_ns);

#endif
