/* SPDX-License-Identifier: MIT */
/*
 * Opening a front whose daemon may just be letting go of it.
 *
 * umount(2) returns when the kernel is done with the mount, while its daemon
 * may still be closing: syncing a front that was written to takes what the disk
 * needs. So a front that is locked is waited for as long as no mount of it is
 * there, and longer when its daemon says that it is ending; with a mount,
 * another daemon serves it, and that is an error at once.
 */
#include "front.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "mountinfo.h"
#include "util.h"

#define ENDING	  "ending\n"
#define ENDING_AT 64 /* behind whose it is (front_lock.c) */
#define WAIT_NS	  (5 * NSEC_PER_SEC)
#define END_NS	  (120 * NSEC_PER_SEC)
#define RETRY_US  20000

void front_ending(struct front *front)
{
	/* Without it, who waits gives up earlier. */
	pwrite_full(front->lock_fd, ENDING, sizeof(ENDING) - 1, ENDING_AT);
}

bool front_is_ending(const char *path)
{
	char text[sizeof(ENDING)] = "";
	_cleanup_free_ char *lock = NULL;
	_cleanup_close_ int fd = -1;

	if (asprintf(&lock, "%s/" TIERFS_META_DIR "/lock", path) < 0)
		return false;
	fd = open(lock, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 &&
	       !pread_full(fd, text, sizeof(ENDING) - 1, ENDING_AT) &&
	       !strcmp(text, ENDING);
}

void front_unlock(struct front *front)
{
	cleanup_close(&front->lock_fd);
	front->lock_fd = -1;
}

/* Is front mounted by a daemon, as far as this namespace shows? */
static bool is_mounted(const char *front)
{
	_cleanup_(mounts_free) struct mounts all = {.mounts = NULL};

	if (mounts_read(&all))
		return false;
	for (size_t i = 0; i < all.n; i++)
		if (!strcmp(all.mounts[i].type, "fuse.tierfs") &&
		    !strcmp(all.mounts[i].source, front))
			return true;
	return false;
}

int front_open_wait(const char *path, const char *name, struct front **ret,
		    char **ret_why)
{
	int64_t start = monotonic_ns(), dead_since = 0;
	bool took_over = false;

	for (;;) {
		int err = front_open(path, name, ret, ret_why);
		int64_t patience = front_is_ending(path) ? END_NS : WAIT_NS;

		if (!err)
			(*ret)->took_over = took_over;
		if (err != -EBUSY || monotonic_ns() - start >= patience ||
		    is_mounted(path))
			return err;
		free(*ret_why);
		*ret_why = NULL;
		if (front_take_over(path, &dead_since))
			took_over = true;
		else
			usleep(RETRY_US);
	}
}
