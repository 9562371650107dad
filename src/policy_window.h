/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_POLICY_WINDOW_H
#define TIERFS_POLICY_WINDOW_H

/*
 * When work in the background is allowed.
 *
 *	always
 *	only 02:00-06:00, or above 85%
 *	only mon-fri 22:00-06:00, sat,sun 00:00-24:00
 *
 * Windows are in local time as the clock on the wall shows it: an hour that
 * summer time skips is in none, one that it repeats is in all twice. One that
 * ends before it begins goes over midnight, and is of the day it begins on.
 *
 * Pure but for the time zone, which is read once.
 */

#include <stdbool.h>
#include <stdint.h>

#define POLICY_WINDOWS_MAX 16
#define POLICY_NO_ABOVE	   1000.0 /* per cent: never */

struct policy_windows {
	bool always;
	unsigned int n;
	struct policy_window {
		uint8_t days;	   /* on which it begins; bit 0: Sunday */
		uint16_t from, to; /* minutes of the day, from < 24 * 60 */
	} window[POLICY_WINDOWS_MAX];
	double above; /* per cent of the front in use; more opens always */
};

/* NULL, or what is wrong; *ret is untouched then. */
const char *policy_windows_parse(const char *text, struct policy_windows *ret);

/* Is it allowed at now (ns since the epoch) with used per cent of the front in
 * use? *ret_changes (may be NULL): the first time after now when the answer is
 * the other while used stays; INT64_MAX: never. */
bool policy_windows_open(const struct policy_windows *windows, int64_t now,
			 double used, int64_t *ret_changes);

#endif
