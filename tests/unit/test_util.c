/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cleanup.h"
#include "util.h"

static char dir[64];
static int dirfd_;

static int setup(void **state)
{
	strcpy(dir, "/tmp/test_util.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	dirfd_ = open(dir, O_RDONLY | O_DIRECTORY);
	return dirfd_ < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	static const char *const names[] = {"file", "file.new", "link"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		unlinkat(dirfd_, names[i], 0);
	unlinkat(dirfd_, "file.new", AT_REMOVEDIR);
	unlinkat(dirfd_, "file", AT_REMOVEDIR);
	close(dirfd_);
	return rmdir(dir);
}

static void assert_time(int64_t ns, int64_t sec, long nsec)
{
	struct timespec ts = timespec_from_ns(ns);

	assert_int_equal(ts.tv_sec, sec);
	assert_int_equal(ts.tv_nsec, nsec);
	assert_true(timespec_to_ns(ts) == ns);
}

static void test_timespec(void **state)
{
	assert_time(0, 0, 0);
	assert_time(1, 0, 1);
	assert_time(-1, -1, 999999999);
	assert_time(-NSEC_PER_SEC, -1, 0);
	assert_time(-NSEC_PER_SEC - 1, -2, 999999999);
	assert_time(1500000000, 1, 500000000);
	assert_true(timespec_to_ns((struct timespec){1LL << 40, 5}) ==
		    INT64_MAX);
	assert_true(timespec_to_ns((struct timespec){-(1LL << 40), 5}) ==
		    INT64_MIN);
	assert_true(timespec_from_ns(INT64_MIN).tv_nsec >= 0);
}

static void assert_size(uint64_t bytes, const char *want)
{
	char buf[SIZE_TEXT_LEN];

	assert_string_equal(size_text(bytes, buf), want);
}

static void test_size_text(void **state)
{
	assert_size(0, "0");
	assert_size(1023, "1023");
	assert_size(1024, "1.0K");
	assert_size(1536, "1.5K");
	assert_size(10188, "9.9K");
	assert_size(10230, "10K"); /* 9.99 */
	assert_size(1023 * 1024, "1023K");
	assert_size(1024 * 1024 - 1, "1.0M"); /* 1023.999K */
	assert_size(4404019, "4.2M");
	assert_size(5ULL << 40, "5.0T");
	assert_size(UINT64_MAX, "16E");
}

static void assert_file(const char *want)
{
	_cleanup_close_ int fd = openat(dirfd_, "file", O_RDONLY);
	char buf[64] = "";

	assert_true(fd >= 0);
	assert_int_equal(read(fd, buf, sizeof(buf)), strlen(want));
	assert_string_equal(buf, want);
	assert_int_equal(faccessat(dirfd_, "file.new", F_OK, 0), -1);
}

static void test_write_file(void **state)
{
	const struct rlimit small = {2, RLIM_INFINITY};
	struct rlimit old;

	assert_int_equal(write_file_durably(dirfd_, "file", "one", 3), 0);
	assert_file("one");
	assert_int_equal(write_file_durably(dirfd_, "file", "four", 4), 0);
	assert_file("four");

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_int_equal(write_file_durably(dirfd_, "file", "later", 5),
			 -EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_file("four");

	/* What a crash left does not matter, if it is no trap. */
	assert_int_equal(symlinkat("link", dirfd_, "file.new"), 0);
	assert_int_equal(write_file_durably(dirfd_, "file", "x", 1), -ELOOP);
	assert_int_equal(unlinkat(dirfd_, "file.new", 0), 0);
	assert_file("four");
	assert_int_equal(write_file_durably(dirfd_, "file", "", 0), 0);
	assert_file("");
}

static void test_full_io(void **state)
{
	_cleanup_close_ int fd = openat(dirfd_, "file", O_RDWR | O_CREAT, 0600);
	char buf[8] = "";

	assert_int_equal(pwrite_full(fd, "abcdef", 6, 2), 0);
	assert_int_equal(pread_full(fd, buf, 6, 2), 0);
	assert_string_equal(buf, "abcdef");
	assert_int_equal(pread_full(fd, buf, 6, 3), -ENODATA);
	assert_int_equal(pread_full(fd, buf, 0, 99), 0);
	assert_int_equal(pread_full(-1, buf, 1, 0), -EBADF);
	assert_int_equal(pwrite_full(-1, buf, 1, 0), -EBADF);
}

static void check_xattrs(void)
{
	_cleanup_close_ int fd = openat(dirfd_, "file", O_PATH);
	_cleanup_close_ int path_dir = open(dir, O_PATH | O_DIRECTORY);
	char buf[16] = "";

	assert_int_equal(getxattr_at(dirfd_, "file", "user.a", buf, 16), 5);
	assert_memory_equal(buf, "value", 5);
	assert_int_equal(getxattr_at(path_dir, "file", "user.a", buf, 16), 5);
	assert_int_equal(getxattr_at(dirfd_, "file", "user.a", NULL, 0), 5);
	assert_int_equal(getxattr_at(dirfd_, "file", "user.a", buf, 4),
			 -ERANGE);
	assert_int_equal(getxattr_at(dirfd_, "file", "user.b", buf, 16),
			 -ENODATA);
	assert_int_equal(getxattr_at(dirfd_, "none", "user.a", buf, 16),
			 -ENOENT);
	assert_true(getxattr_at(dirfd_, "link", "user.a", buf, 16) < 0);
	assert_int_equal(getxattr_fd(fd, "user.a", buf, 16), 5);
	assert_int_equal(getxattr_fd(fd, "user.b", buf, 16), -ENODATA);
	assert_int_equal(listxattr_at(dirfd_, "file", buf, 16), 7);
	assert_memory_equal(buf, "user.a", 7);
	assert_int_equal(listxattr_at(path_dir, "file", buf, 16), 7);
	assert_int_equal(listxattr_at(dirfd_, "file", buf, 4), -ERANGE);
	assert_int_equal(listxattr_at(dirfd_, "none", buf, 16), -ENOENT);
	assert_int_equal(listxattr_at(dirfd_, "link", buf, 16), 0);
	assert_int_equal(listxattr_fd(fd, buf, 16), 7);
	assert_int_equal(listxattr_fd(-1, buf, 16), -ENOENT);
}

/* As on a kernel before 6.13: getxattrat(2) and listxattrat(2) are not there. */
static bool hide_xattrats(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 464, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 465, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {ARRAY_SIZE(code), code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

static void test_xattrs(void **state)
{
	_cleanup_close_ int fd = openat(dirfd_, "file", O_RDWR | O_CREAT, 0600);
	int status;
	pid_t pid;

	assert_int_equal(symlinkat("file", dirfd_, "link"), 0);
	if (setxattr_fd(fd, "user.a", "value", 5) == -EOPNOTSUPP)
		skip();
	check_xattrs();
	pid = fork();
	if (!pid) {
		if (!hide_xattrats())
			_exit(77);
		check_xattrs(); /* a failure leaves by exit status */
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77);
	assert_int_equal(removexattr_fd(fd, "user.a"), 0);
	assert_int_equal(removexattr_fd(fd, "user.a"), -ENODATA);
}

static void *thread_run(void *arg)
{
	sigset_t *blocked = arg;

	pthread_sigmask(SIG_SETMASK, NULL, blocked);
	return arg;
}

static void test_thread(void **state)
{
	sigset_t blocked, ours;
	pthread_t thread;
	void *ret;

	assert_int_equal(thread_start(&thread, "a-name-that-is-too-long",
				      thread_run, &blocked),
			 0);
	pthread_join(thread, &ret);
	assert_ptr_equal(ret, &blocked);
	assert_true(sigismember(&blocked, SIGTERM));
	assert_true(sigismember(&blocked, SIGHUP));
	pthread_sigmask(SIG_SETMASK, NULL, &ours);
	assert_false(sigismember(&ours, SIGTERM));
}

static void test_fail_why(void **state)
{
	_cleanup_free_ char *why = NULL;

	assert_int_equal(fail_why(&why, -EIO, "%s: %d", "disk", 5), -EIO);
	assert_string_equal(why, "disk: 5");
	assert_int_equal(fail_why(NULL, -EPERM, "unheard"), -EPERM);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_timespec),   TEST(test_size_text),
		TEST(test_write_file), TEST(test_full_io),
		TEST(test_xattrs),     TEST(test_thread),
		TEST(test_fail_why),
	};

	return cmocka_run_group_tests_name("util", tests, NULL, NULL);
}
