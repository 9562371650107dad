/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CLEANUP_H
#define TIERFS_CLEANUP_H

/*
 * Cleanup attributes for what a scope owns, after systemd and composefs.
 *
 * A variable marked _cleanup_close_ or _cleanup_free_ is released on every way
 * out of its scope, so error paths are plain returns. Ownership leaves a scope
 * only through steal_fd() and steal_ptr(). errno survives the cleanup.
 */

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;

		close(*fd);
		errno = saved;
	}
}

#define _cleanup_free_	_cleanup_(cleanup_free)
#define _cleanup_close_ _cleanup_(cleanup_close)

/* Returns *fd and leaves -1 behind: the caller owns it now. */
static inline int steal_fd(int *fd)
{
	int ret = *fd;

	*fd = -1;
	return ret;
}

static inline void *steal_ptr_(void *p)
{
	void **pp = p;
	void *ret = *pp;

	*pp = NULL;
	return ret;
}

/* Returns *pp and leaves NULL behind: the caller owns it now. */
#define steal_ptr(pp) ((__typeof__(*(pp)))steal_ptr_(pp))

#endif
