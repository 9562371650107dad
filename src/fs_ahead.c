/* SPDX-License-Identifier: MIT */

/*
 * Looking ahead in a directory that is listed.
 *
 * Half of a first listing is the front's inodes being read into the kernel's
 * caches, one after the other. A worker takes the names from the last one towards
 * the first: it asks for the attributes of each and forgets them, and who lists
 * finds them cached. It stops where they meet. A cold find over 15,000 files in 150
 * directories of ext4, us a file, without it and with it (two at once in brackets):
 *
 *	the front	 9.3		(10.2)
 *	io_uring	20.4, 17.2	(25.1, 20.9)
 *	/dev/fuse	19.4, 18.8	(22.4, 18.1)
 *
 * It costs nothing in CPU time but by /dev/fuse for one who lists alone (12.2 and
 * 13.6 us). What is left of that way's time are the directories' own blocks.
 *
 * Where the front's inodes are cached there is nothing to gain: it sees that by how
 * soon the first ones are answered, and ends.
 *
 * It has the names and a descriptor of its own, and touches nothing of ours: what
 * can interleave are the front's system calls. So it may come late, or never, what
 * it sees may be gone when somebody lists it, and nobody waits for it; nor does it
 * for anything but the front. The one reference to it that is left frees it.
 */

#include "fs_impl.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAMES_MIN 1024 /* bytes; for fewer nobody is woken */
#define SAMPLE	  4    /* names that tell whether they are cached */
#define COLD_NS	  3000 /* from so long on they are not */

struct fs_ahead {
	_Atomic(unsigned int) refs; /* who lists, and the job */
	_Atomic(size_t) pos;	    /* who lists is there, in names */
	int fd;
	size_t len;
	char names[] __attribute__((aligned(8)));
};

static void unref(struct fs_ahead *ahead)
{
	if (atomic_fetch_sub(&ahead->refs, 1) > 1)
		return;
	close(ahead->fd);
	free(ahead);
}

void fs_ahead_look(int fd, const char *names, size_t len,
		   const _Atomic(size_t) *end)
{
	uint16_t at[FS_DIRENTS / sizeof(struct fs_dirent)];
	size_t n = 0, looked = 0;
	struct stat st;
	int64_t start;

	for (size_t pos = 0; pos < len && n < ARRAY_SIZE(at); n++) {
		at[n] = (uint16_t)pos;
		pos += fs_dirent_at(names, pos)->reclen;
	}
	start = monotonic_ns();
	while (n-- && (!end || at[n] > atomic_load(end))) {
		fstatat(fd, fs_dirent_at(names, at[n])->name, &st,
			AT_SYMLINK_NOFOLLOW);
		if (++looked == SAMPLE &&
		    monotonic_ns() - start < SAMPLE * COLD_NS)
			break;
	}
}

static void run(struct fs_job *job)
{
	struct fs_ahead *ahead = job->arg;

	fs_ahead_look(ahead->fd, ahead->names, ahead->len, &ahead->pos);
	unref(ahead);
}

struct fs_ahead *fs_ahead_begin(fuse_req_t req, int fd, const void *names,
				size_t len)
{
	struct fs_ahead *ahead;

	if (len < NAMES_MIN || len > FS_DIRENTS)
		return NULL;
	ahead = malloc(sizeof(*ahead) + len);
	if (!ahead)
		return NULL;
	ahead->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	atomic_store(&ahead->refs, 2);
	atomic_store(&ahead->pos, 0);
	ahead->len = len;
	memcpy(ahead->names, names, len);
	if (ahead->fd >= 0 && !fs_job_begin(req, run, ahead))
		return ahead;
	cleanup_close(&ahead->fd);
	free(ahead);
	return NULL;
}

void fs_ahead_at(struct fs_ahead *ahead, size_t pos)
{
	if (ahead)
		atomic_store_explicit(&ahead->pos, pos, memory_order_relaxed);
}

void fs_ahead_end(struct fs_ahead *ahead)
{
	if (!ahead)
		return;
	atomic_store(&ahead->pos, SIZE_MAX);
	unref(ahead);
}
