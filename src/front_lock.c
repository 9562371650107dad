/* SPDX-License-Identifier: MIT */
/*
 * One daemon a front: flock() of .tierfs/lock.
 *
 * A daemon that was killed while one of its threads is in the kernel, waiting
 * for a target that hangs, does not go away, and what it had open stays open:
 * the lock too, perhaps for ever. It runs none of its own code any more, though,
 * so the front is free. The lock file says whose it is. Where that process is
 * dead, the file is removed, and the next daemon makes another. (The process
 * must be of our own pid namespace for its number to mean something.)
 *
 * What can interleave: several who want to take over. They look and remove
 * under the lock of another file, so that nobody removes what the first to be
 * through has made; and who gets a lock makes sure that it is of the file that
 * has the name.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "front.h"
#include "front_format.h"
#include "util.h"

#define LOCK	   "lock"
#define LOCK_BREAK "lock.break"
/* As long as a thread may take to leave what it does on the front. */
#define DEAD_NS	   (2 * NSEC_PER_SEC)

static uint64_t pid_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) < 0 ? 0 : st.st_ino;
}

static int open_lock(int meta_fd, const char *name)
{
	int fd = openat(meta_fd, name,
			O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	return fd < 0 ? -errno : fd;
}

static bool has_name(int meta_fd, int fd)
{
	struct stat st, named;

	return fstat(fd, &st) == 0 &&
	       fstatat(meta_fd, LOCK, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       st.st_dev == named.st_dev && st.st_ino == named.st_ino;
}

/* Says whose it is. Without that nobody takes it over, which is all right. */
static void sign(int fd)
{
	char text[64];
	int len = snprintf(text, sizeof(text), "%d %" PRIu64 "\n",
			   (int)getpid(), pid_namespace());

	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, len, 0) != len)
		return;
}

/* Whose it is, if that is a process of our pid namespace; else 0. */
static int holder(int fd)
{
	char text[64];
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);
	uint64_t ns;
	int pid;

	if (len <= 0)
		return 0;
	text[len] = '\0';
	if (sscanf(text, "%d %" SCNu64, &pid, &ns) != 2 || pid < 0 ||
	    ns != pid_namespace())
		return 0;
	return pid;
}

static bool holder_is_dead(int fd)
{
	int pid = holder(fd);

	return pid && process_is_dead(pid);
}

int front_lock(struct front *front, char **ret_why)
{
	int fd = open_lock(front->meta_fd, LOCK), pid;

	if (fd < 0)
		return fail_why(ret_why, fd, "%s/%s/" LOCK ": %s", front->path,
				TIERFS_META_DIR, strerror(-fd));
	front->lock_fd = fd;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0 && has_name(front->meta_fd, fd)) {
		sign(fd);
		return 0;
	}
	/* Its mount may be in a namespace that is not seen here. */
	pid = holder(fd);
	return pid ? fail_why(ret_why, -EBUSY,
			      "front %s: another tierfs has it mounted "
			      "(process %d)",
			      front->path, pid)
		   : fail_why(ret_why, -EBUSY,
			      "front %s: another tierfs has it mounted",
			      front->path);
}

/* True: its holder was dead, it is to be had now. */
static bool break_lock(int meta_fd)
{
	_cleanup_close_ int guard = -1, fd = -1;

	guard = open_lock(meta_fd, LOCK_BREAK);
	if (guard < 0 || flock(guard, LOCK_EX) < 0)
		return false;
	fd = openat(meta_fd, LOCK, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0 || !holder_is_dead(fd))
		return false;
	return unlinkat(meta_fd, LOCK, 0) == 0;
}

bool front_take_over(const char *path, int64_t *dead_since)
{
	_cleanup_close_ int root = -1, meta = -1, fd = -1;

	root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return false;
	meta = openat(root, TIERFS_META_DIR,
		      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (meta < 0)
		return false;
	fd = openat(meta, LOCK, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || !holder_is_dead(fd)) {
		*dead_since = 0;
		return false;
	}
	if (!*dead_since)
		*dead_since = monotonic_ns();
	return monotonic_ns() - *dead_since > DEAD_NS && break_lock(meta);
}
