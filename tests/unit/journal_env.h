/* SPDX-License-Identifier: MIT */
#ifndef TEST_JOURNAL_ENV_H
#define TEST_JOURNAL_ENV_H

/* What the tests of the journal share: faults, a directory, intents. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "journal.h"
#include "util.h"

/* -- faults: SQLite's system calls go through these ---------------------- */

static _Atomic(int) fail_pread, fail_pwrite, fail_sync; /* errno, or 0 */
static _Atomic(int) sync_sleep_us;
static _Atomic(unsigned int) syncs;

ssize_t pread64(int fd, void *buf, size_t len, off64_t off)
{
	if (fail_pread && off >= 8192) { /* not the header */
		errno = fail_pread;
		return -1;
	}
	return syscall(SYS_pread64, fd, buf, len, off);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t off)
{
	if (fail_pwrite) {
		errno = fail_pwrite;
		return -1;
	}
	return syscall(SYS_pwrite64, fd, buf, len, off);
}

static int sync_with_faults(long nr, int fd)
{
	syncs++;
	if (sync_sleep_us)
		usleep(sync_sleep_us);
	if (fail_sync) {
		errno = fail_sync;
		return -1;
	}
	return syscall(nr, fd);
}

int fdatasync(int fd)
{
	return sync_with_faults(SYS_fdatasync, fd);
}

int fsync(int fd)
{
	return sync_with_faults(SYS_fsync, fd);
}

/* -- a directory for each test ------------------------------------------- */

struct env {
	char dir[64];
	int fd;
};

static int setup(void **state)
{
	struct env *env = calloc(1, sizeof(*env));

	if (!env)
		return -1;
	strcpy(env->dir, "/tmp/test_journal.XXXXXX");
	if (!mkdtemp(env->dir))
		return -1;
	env->fd = open(env->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = env;
	return env->fd < 0 ? -1 : 0;
}

static int remove_one(const char *path, const struct stat *st, int type,
		      struct FTW *ftw)
{
	return remove(path);
}

static int teardown(void **state)
{
	struct env *env = *state;

	fail_pread = fail_pwrite = fail_sync = sync_sleep_us = 0;
	close(env->fd);
	nftw(env->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(env);
	return 0;
}

static struct journal *must_open(int dirfd)
{
	struct journal *j = NULL;
	char *why = NULL;
	int ret = journal_open(dirfd, &j, &why);

	if (ret)
		fail_msg("journal_open: %d, %s", ret, why);
	return j;
}

static struct intent sample(uint64_t oid)
{
	struct intent intent = {
		.kind = INTENT_CREATE + oid % 4,
		.target = oid % 16,
		.oid = oid,
		.handle = {.type = 0x81, .len = oid % (FRONT_HANDLE_BYTES + 1)},
		.mtime = -oid,
		.atime = oid * 3,
		.ino = ~oid,
	};

	memset(intent.handle.bytes, (int)oid, intent.handle.len);
	if (!intent.handle.len)
		intent.handle.type = 0;
	return intent;
}

static void assert_sample(const struct intent *got)
{
	struct intent want = sample(got->oid);

	want.id = got->id;
	assert_int_equal(got->kind, want.kind);
	assert_int_equal(got->target, want.target);
	assert_int_equal(got->mtime, want.mtime);
	assert_int_equal(got->atime, want.atime);
	assert_true(got->ino == want.ino);
	assert_memory_equal(&got->handle, &want.handle, sizeof(want.handle));
}

static size_t count_intents(struct journal *j)
{
	_cleanup_free_ struct intent *all = NULL;
	size_t n = 0;

	assert_int_equal(journal_intents(j, &all, &n), 0);
	for (size_t i = 0; i < n; i++) {
		assert_sample(&all[i]);
		assert_true(all[i].id > (i ? all[i - 1].id : 0));
	}
	return n;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
