/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_POLICY_GLOB_H
#define TIERFS_POLICY_GLOB_H

/*
 * Patterns of paths and names.
 *
 *	?	one byte but '/'
 *	*	any number of them
 *	**	any number of bytes, '/' too; the "**" of a whole component and
 *		the '/' behind it may be missing
 *	[a-z]	one of a set; [!a-z] one that is not, and not '/'
 *	\c	c itself
 *
 * A leading '.' is nothing special. Bytes count, not characters of a locale.
 * Matching takes at most the product of both lengths, whatever the pattern.
 *
 * Pure.
 */

#include <stdbool.h>

struct policy_glob;

/* -EINVAL: what is wrong with it is in *ret_wrong, a constant. -ENOMEM. */
int policy_glob_new(const char *pattern, struct policy_glob **ret,
		    const char **ret_wrong);
void policy_glob_free(struct policy_glob *glob); /* NULL is allowed */
/* All of text. */
bool policy_glob_match(const struct policy_glob *glob, const char *text);
/* As it was given. */
const char *policy_glob_text(const struct policy_glob *glob);

#endif
