/* SPDX-License-Identifier: MIT */

/*
 * Which way requests come: over io_uring or by /dev/fuse.
 *
 * What can be known before the mount is asked for before, as libfuse and the
 * kernel do not say why: the kernel's parameter, whether an io_uring can be had
 * (sysctl kernel.io_uring_disabled, seccomp), and whether libfuse lets requests
 * wait. libfuse 3.18.3 as it is does not: there eight parked reads of a CPU stop
 * everybody on it, and nothing that waits can be interrupted (see the patch in
 * subprojects/packagefiles, which has fuse_uring_may_wait()). Then the kernel
 * has to offer it, and in the end a request shows which way it came: the kernel
 * goes on by /dev/fuse when the rings cannot be registered.
 */

#include "fs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ring.h"

#define PARAMETER "/sys/module/fuse/parameters/enable_uring"

/* Not in every libfuse. */
bool fuse_uring_may_wait(void) __attribute__((weak));

static void refuse(struct fs *fs, const char *what, int err)
{
	pthread_mutex_lock(&fs->lock);
	snprintf(fs->uring_why, sizeof(fs->uring_why), "%s%s%s", what,
		 err ? ": " : "", err ? strerror(err) : "");
	pthread_mutex_unlock(&fs->lock);
}

/* 1, 0, or -errno. */
static int parameter(void)
{
	_cleanup_close_ int fd = open(PARAMETER, O_RDONLY | O_CLOEXEC);
	char value;

	if (fd < 0 || read(fd, &value, 1) != 1)
		return fd < 0 ? -errno : -EIO;
	return value == 'Y' || value == '1';
}

bool fs_uring_ask(struct fs *fs)
{
	int err;

	if (fs->parts.config->io_uring == URING_OFF) {
		refuse(fs, "switched off (io_uring=off)", 0);
		return false;
	}
	if (!fuse_uring_may_wait || !fuse_uring_may_wait()) {
		refuse(fs,
		       "libfuse was built without it, or without the "
		       "change that lets requests wait",
		       0);
		return false;
	}
	err = parameter();
	if (err == 0) {
		refuse(fs,
		       "the kernel's parameter is off (" PARAMETER
		       " before the mount)",
		       0);
		return false;
	}
	if (err == -ENOENT && access("/sys/module", F_OK) == 0) {
		refuse(fs,
		       "the kernel does not have it (Linux 6.14, "
		       "CONFIG_FUSE_IO_URING)",
		       0);
		return false;
	}
	err = ring_probe();
	if (err) {
		refuse(fs, "no io_uring to be had", -err);
		return false;
	}
	return true;
}

void fs_uring_init(struct fs *fs, struct fuse_conn_info *conn)
{
	if (!fs->uring_asked) {
		/* Nor as libfuse's own environment variable would have it. */
		fuse_unset_feature_flag(conn, FUSE_CAP_OVER_IO_URING);
		return;
	}
	if (fuse_get_feature_flag(conn, FUSE_CAP_OVER_IO_URING))
		refuse(fs, "the rings could not be set up",
		       0); /* if it stays */
	else
		refuse(fs, "the kernel does not offer it", 0);
}

void fs_uring_seen(fuse_req_t req)
{
	struct fs *fs = fs_of(req);

	if (fuse_req_is_uring(req) && !atomic_load(&fs->uring))
		atomic_store(&fs->uring, true);
}

bool fs_uring(struct fs *fs, char *why, size_t len)
{
	bool on = atomic_load(&fs->uring);

	pthread_mutex_lock(&fs->lock);
	if (len)
		snprintf(why, len, "%s", on ? "" : fs->uring_why);
	pthread_mutex_unlock(&fs->lock);
	return on;
}
