/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_UTIL_H
#define TIERFS_UTIL_H

/* Small things without a home of their own. Pure, any thread, no locks. */

#include <pthread.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define NSEC_PER_SEC  1000000000LL

#ifndef container_of
#define container_of(ptr, type, member)                                        \
	((type *)((char *)(ptr)-offsetof(type, member)))
#endif

#define min_t(type, a, b) ((type)(a) < (type)(b) ? (type)(a) : (type)(b))
#define max_t(type, a, b) ((type)(a) > (type)(b) ? (type)(a) : (type)(b))

/*
 * Order that ThreadSanitizer cannot see because a library that it does not
 * instrument (liburcu) makes it: what was done before TSAN_RELEASE(p) happens
 * before what follows TSAN_ACQUIRE(p).
 */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define TSAN_ACQUIRE(p) __tsan_acquire(p)
#define TSAN_RELEASE(p) __tsan_release(p)
#else
#define TSAN_ACQUIRE(p) ((void)(p))
#define TSAN_RELEASE(p) ((void)(p))
#endif

/* Times that do not fit (before 1678, after 2261; ext4 and xfs know later
 * ones) become the nearest that does. */
static inline int64_t timespec_to_ns(struct timespec ts)
{
	if (ts.tv_sec >= INT64_MAX / NSEC_PER_SEC)
		return INT64_MAX;
	if (ts.tv_sec <= INT64_MIN / NSEC_PER_SEC)
		return INT64_MIN;
	return (int64_t)ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

/* ns may be negative; tv_nsec is always in 0 .. 999999999. */
struct timespec timespec_from_ns(int64_t ns);

/* CLOCK_MONOTONIC and CLOCK_REALTIME in ns. */
int64_t monotonic_ns(void);
int64_t realtime_ns(void);

/* "/proc/self/fd/N": the way from an O_PATH descriptor to calls without
 * AT_EMPTY_PATH. */
#define PROC_FD_LEN 32
const char *proc_fd_path(int fd, char buf[PROC_FD_LEN]);

/* getxattrat(2), Linux 6.13: the value of name's EA below dirfd, symlinks not
 * followed. Where the kernel lacks it, the same by an O_PATH descriptor and
 * /proc. Returns the length or -errno (-ENODATA, -ERANGE, ...). */
ssize_t getxattr_at(int dirfd, const char *path, const char *name, void *buf,
		    size_t size);

/* listxattrat(2), likewise: the names, each with its 0. */
ssize_t listxattr_at(int dirfd, const char *path, char *buf, size_t size);

/* The EA of an open descriptor, O_PATH or not, by /proc; its EAs' names. Length
 * or -errno. */
ssize_t getxattr_fd(int fd, const char *name, void *buf, size_t size);
ssize_t listxattr_fd(int fd, char *buf, size_t size);
int setxattr_fd(int fd, const char *name, const void *buf, size_t size);
int removexattr_fd(int fd, const char *name);

/* Formats bytes as "4.2M" (binary multiples), for people. */
#define SIZE_TEXT_LEN 16
const char *size_text(uint64_t bytes, char buf[SIZE_TEXT_LEN]);

/* Returns err, with a message for people about it in *ret_why (may be NULL; the
 * message too is NULL without memory). Made for "return fail_why(...)". */
__attribute__((format(printf, 3, 4))) int fail_why(char **ret_why, int err,
						   const char *fmt, ...);

/* Reads or writes all of len bytes: 0, or -errno (-ENODATA: end of file). */
int pread_full(int fd, void *buf, size_t len, off_t off);
int pwrite_full(int fd, const void *buf, size_t len, off_t off);

/*
 * A file system that gives up its journal, for an I/O error or because it is
 * shut down, drops what was to be committed: and an fsync() or syncfs() that
 * looks for it afterwards finds nothing to wait for, and returns 0 (ext4, xfs;
 * Linux 6.18). So before what was synced is relied on elsewhere, the file
 * system must say after the sync that it still takes changes: what it was able
 * to change it had not given up, so the sync was one. -EIO or -EROFS: no.
 * fd is of any file or directory, not O_PATH; nothing is written.
 */
int still_up(int fd);
/* syncfs(), and that. */
int sync_fs(int fd);

/* Does that -errno say that there is no room, for all or for this user? */
static inline bool is_no_room(int err)
{
	return err == -ENOSPC || err == -EDQUOT;
}

/* Writes a file whole and durably: temporary name, fsync, rename, fsync of
 * dirfd (not O_PATH). After a failure (-errno) the old contents, if any, are
 * there; but when the last step fails, the new ones, maybe not durable. */
int write_file_durably(int dirfd, const char *name, const void *buf,
		       size_t len);

/* Of the text of /proc/PID/NAME what fits, with a NUL. Returns its length, or
 * -errno (-ENOENT, -ESRCH: there is no such process any more). */
ssize_t proc_read(pid_t pid, const char *name, char *buf, size_t size);

/* Was that process killed, so that it runs no code of its own any more? Threads
 * of it may be left that the kernel holds, and keep what was open. */
bool process_is_dead(pid_t pid);

/* The calling thread's I/O priority: idle, or the usual one. Best effort. */
void thread_idle_io(bool idle);

/* Its I/O priority stays the usual one, whatever its scheduling policy. */
void thread_usual_io(void);

/* The scheduling policy of the process's first thread, and the CPUs that it may
 * run on, become those of the thread tid (0: the calling one). Best effort. */
void thread_as_usual(pid_t tid);

/* Does it want to run, or does it? */
bool thread_is_ready(pid_t tid);

/* The CPU that a thread of any process runs on, or did last; -1: not known. */
int thread_cpu(pid_t tid);

/* Starts a thread with all signals blocked: they are the main thread's. It is
 * scheduled as the process's first one, whatever the calling one is.
 * name is cut to 15 characters. 0 or -errno. */
int thread_start(pthread_t *ret, const char *name, void *(*run)(void *),
		 void *arg);

#endif
