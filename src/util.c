/* SPDX-License-Identifier: MIT */
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ioprio.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cleanup.h"

#define STAT_LEN 512 /* of /proc/PID/stat, what is looked at */

/* The same numbers on every architecture. */
#ifndef SYS_getxattrat
#define SYS_getxattrat 464
#endif
#ifndef SYS_listxattrat
#define SYS_listxattrat 465
#endif

/* struct xattr_args of linux/xattr.h, which Debian 12's headers lack. */
struct getxattrat_args {
	uint64_t value;
	uint32_t size;
	uint32_t flags;
};

#ifdef __SANITIZE_THREAD__
const char *__tsan_default_suppressions(void);

/* What liburcu, which is not instrumented, allocates, locks and frees for
 * itself. Our code, its callbacks included, is looked at. */
const char *__tsan_default_suppressions(void)
{
	return "called_from_lib:liburcu-bp.so\n"
	       "called_from_lib:liburcu-cds.so\n";
}
#endif

struct timespec timespec_from_ns(int64_t ns)
{
	int64_t sec = ns / NSEC_PER_SEC;
	int64_t rest = ns % NSEC_PER_SEC;

	if (rest < 0) {
		sec--;
		rest += NSEC_PER_SEC;
	}
	return (struct timespec){.tv_sec = sec, .tv_nsec = rest};
}

static int64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return timespec_to_ns(ts);
}

int64_t monotonic_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

int64_t realtime_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

const char *proc_fd_path(int fd, char buf[PROC_FD_LEN])
{
	snprintf(buf, PROC_FD_LEN, "/proc/self/fd/%d", fd);
	return buf;
}

/* After a call of theirs failed: a descriptor for the same by /proc, where it was
 * the call that the kernel lacks; or -errno. */
static int open_instead(int dirfd, const char *path)
{
	int fd = -1;

	if (errno == ENOSYS)
		fd = openat(dirfd, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

ssize_t getxattr_at(int dirfd, const char *path, const char *name, void *buf,
		    size_t size)
{
	struct getxattrat_args args = {.value = (uintptr_t)buf, .size = size};
	_cleanup_close_ int fd = -1;
	ssize_t len;

	len = syscall(SYS_getxattrat, dirfd, path, AT_SYMLINK_NOFOLLOW, name,
		      &args, sizeof(args));
	if (len >= 0)
		return len;
	fd = open_instead(dirfd, path);
	return fd < 0 ? fd : getxattr_fd(fd, name, buf, size);
}

ssize_t getxattr_fd(int fd, const char *name, void *buf, size_t size)
{
	char proc[PROC_FD_LEN];
	ssize_t len;

	len = getxattr(proc_fd_path(fd, proc), name, buf, size);
	return len < 0 ? -errno : len;
}

ssize_t listxattr_at(int dirfd, const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd = -1;
	ssize_t len;

	len = syscall(SYS_listxattrat, dirfd, path, AT_SYMLINK_NOFOLLOW, buf,
		      size);
	if (len >= 0)
		return len;
	fd = open_instead(dirfd, path);
	return fd < 0 ? fd : listxattr_fd(fd, buf, size);
}

ssize_t listxattr_fd(int fd, char *buf, size_t size)
{
	char proc[PROC_FD_LEN];
	ssize_t len;

	len = listxattr(proc_fd_path(fd, proc), buf, size);
	return len < 0 ? -errno : len;
}

int setxattr_fd(int fd, const char *name, const void *buf, size_t size)
{
	char proc[PROC_FD_LEN];

	if (setxattr(proc_fd_path(fd, proc), name, buf, size, 0) < 0)
		return -errno;
	return 0;
}

int removexattr_fd(int fd, const char *name)
{
	char proc[PROC_FD_LEN];

	if (removexattr(proc_fd_path(fd, proc), name) < 0)
		return -errno;
	return 0;
}

/* Removing what is not there needs the journal, and changes nothing. Opening a
 * file would do after a shutdown, but not after an I/O error (ext4). */
int still_up(int fd)
{
	if (!fremovexattr(fd, "user.tierfs.none"))
		return 0;
	return errno == EIO || errno == EROFS ? -errno : 0;
}

int sync_fs(int fd)
{
	return syncfs(fd) < 0 ? -errno : still_up(fd);
}

const char *size_text(uint64_t bytes, char buf[SIZE_TEXT_LEN])
{
	static const char units[] = "BKMGTPE";
	double value = bytes;
	unsigned int unit = 0;

	/* By what will be printed: 1023.9K is 1.0M, not 1024K. */
	while (value >= (unit ? 1023.5 : 1024) &&
	       unit + 1 < sizeof(units) - 1) {
		value /= 1024;
		unit++;
	}
	if (unit == 0)
		snprintf(buf, SIZE_TEXT_LEN, "%u", (unsigned int)bytes);
	else
		snprintf(buf, SIZE_TEXT_LEN, value < 9.95 ? "%.1f%c" : "%.0f%c",
			 value, units[unit]);
	return buf;
}

int fail_why(char **ret_why, int err, const char *fmt, ...)
{
	va_list ap;

	if (!ret_why)
		return err;
	va_start(ap, fmt);
	if (vasprintf(ret_why, fmt, ap) < 0)
		*ret_why = NULL;
	va_end(ap);
	return err;
}

int pread_full(int fd, void *buf, size_t len, off_t off)
{
	char *p = buf;

	while (len > 0) {
		ssize_t n = pread(fd, p, len, off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

int pwrite_full(int fd, const void *buf, size_t len, off_t off)
{
	const char *p = buf;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0) /* never, or we would try for ever */
			return -EIO;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

int write_file_durably(int dirfd, const char *name, const void *buf, size_t len)
{
	_cleanup_free_ char *tmp = NULL;
	_cleanup_close_ int fd = -1;
	int ret;

	if (asprintf(&tmp, "%s.new", name) < 0)
		return -ENOMEM;
	fd = openat(dirfd, tmp,
		    O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return -errno;
	ret = pwrite_full(fd, buf, len, 0);
	if (!ret && fsync(fd) < 0)
		ret = -errno;
	if (!ret && renameat(dirfd, tmp, dirfd, name) < 0)
		ret = -errno;
	if (ret) {
		unlinkat(dirfd, tmp, 0);
		return ret;
	}
	return fsync(dirfd) < 0 ? -errno : 0;
}

void thread_idle_io(bool idle)
{
	int class = idle ? IOPRIO_CLASS_IDLE : IOPRIO_CLASS_NONE;

	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0,
		class << IOPRIO_CLASS_SHIFT);
}

void thread_usual_io(void)
{
	/* As the kernel does without one (task_nice_ioprio()). */
	int level = (getpriority(PRIO_PROCESS, 0) + 20) / 5;

	if (syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) >>
		    IOPRIO_CLASS_SHIFT ==
	    IOPRIO_CLASS_NONE)
		syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0,
			IOPRIO_CLASS_BE << IOPRIO_CLASS_SHIFT | level);
}

void thread_as_usual(pid_t tid)
{
	const struct sched_param param = {0};
	cpu_set_t cpus;

	sched_setscheduler(tid, sched_getscheduler(getpid()), &param);
	if (sched_getaffinity(getpid(), sizeof(cpus), &cpus) == 0)
		sched_setaffinity(tid, sizeof(cpus), &cpus);
}

struct start {
	void *(*run)(void *);
	void *arg;
};

static void *start(void *arg)
{
	struct start begin = *(struct start *)arg;

	free(arg);
	thread_as_usual(0);
	return begin.run(begin.arg);
}

int thread_start(pthread_t *ret_thread, const char *name, void *(*run)(void *),
		 void *arg)
{
	struct start *begin = malloc(sizeof(*begin));
	char cut[16];
	sigset_t all, old;
	int err;

	if (!begin)
		return -ENOMEM;
	begin->run = run;
	begin->arg = arg;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(ret_thread, NULL, start, begin);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		free(begin);
		return -err;
	}
	snprintf(cut, sizeof(cut), "%s", name);
	pthread_setname_np(*ret_thread, cut);
	return 0;
}

ssize_t proc_read(pid_t pid, const char *name, char *buf, size_t size)
{
	_cleanup_close_ int fd = -1;
	char path[64];
	size_t len = 0;
	ssize_t n = 1;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) > 0)
		len += (size_t)n;
	if (n < 0)
		return -errno;
	buf[len] = '\0';
	return (ssize_t)len;
}

/* The fields of /proc/PID/stat from the third one on, the state. -errno, as
 * proc_read() and -EIO. */
static int proc_stat(pid_t pid, char buf[STAT_LEN], const char **ret)
{
	ssize_t len = proc_read(pid, "stat", buf, STAT_LEN);
	const char *name_end;

	if (len < 0)
		return (int)len;
	/* "PID (NAME) STATE ...", and the name may hold anything. */
	name_end = strrchr(buf, ')');
	if (!name_end || name_end[1] != ' ')
		return -EIO;
	*ret = name_end + 2;
	return 0;
}

bool process_is_dead(pid_t pid)
{
	char buf[STAT_LEN];
	const char *stat = "";
	int err = proc_stat(pid, buf, &stat);

	if (err)
		return err == -ENOENT || err == -ESRCH;
	return *stat == 'Z' || *stat == 'X' || *stat == 'x';
}

bool thread_is_ready(pid_t tid)
{
	char buf[STAT_LEN];
	const char *stat = "";

	return !proc_stat(tid, buf, &stat) && *stat == 'R';
}

/* proc_pid_stat(5): field 39, "processor". */
int thread_cpu(pid_t tid)
{
	char buf[STAT_LEN];
	const char *at = "";

	if (proc_stat(tid, buf, &at))
		return -1;
	for (int field = 3; at && field < 39; field++) {
		at = strchr(at, ' ');
		at = at ? at + 1 : NULL;
	}
	return at && *at >= '0' && *at <= '9' ? atoi(at) : -1;
}
