/* SPDX-License-Identifier: MIT */

/*
 * A sync that returned 0 was one, even while the file system fails.
 *
 * Threads make files and sync them with sync_fs(), on a file system that is shut
 * down or whose disk fails in the middle: what sync_fs() said is durable must be
 * there at the next mount. With syncfs() alone it is not. The disk is a file on a
 * tmpfs that gets full, so writes of blocks that it did not have yet fail; it
 * has room again a moment later. Needs root, loop devices and mkfs; else it is
 * skipped. TIERFS_ROUNDS is how often.
 */

#include "crash.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util.h"

#define GOINGDOWN  _IOR('X', 125, uint32_t)
#define NOLOGFLUSH 2
#define SYNCERS	   6
#define NAMES	   100000

static struct failing {
	char dir[64], disk[80], image[88], mnt[80];
	int fd; /* of mnt */
	_Atomic(bool) over;
	_Atomic(int) next;
	bool durable[NAMES];
} t;

__attribute__((format(printf, 1, 2))) static void run(const char *format, ...)
{
	char cmd[512];
	va_list args;

	va_start(args, format);
	vsnprintf(cmd, sizeof(cmd), format, args);
	va_end(args);
	if (system(cmd))
		fail_msg("%s", cmd);
}

static void *syncer(void *arg)
{
	static const char page[4096] = "here";
	char name[16];

	while (!atomic_load(&t.over)) {
		int i = atomic_fetch_add(&t.next, 1), fd;

		if (i >= NAMES)
			break;
		snprintf(name, sizeof(name), "f%d", i);
		fd = openat(t.fd, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC,
			    0600);
		if (fd < 0)
			break;
		t.durable[i] =
			pwrite(fd, page, sizeof(page), 0) == sizeof(page) &&
			!sync_fs(t.fd);
		close(fd);
		if (!t.durable[i])
			break;
	}
	return NULL;
}

static void shut_down(void)
{
	uint32_t flags = NOLOGFLUSH;

	assert_int_equal(ioctl(t.fd, GOINGDOWN, &flags), 0);
	assert_true(still_up(t.fd) < 0);
}

static void fail_disk(void)
{
	char name[96];
	int fd;

	snprintf(name, sizeof(name), "%s/filler", t.disk);
	fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	while (write(fd, name, sizeof(name)) > 0)
		;
	usleep(100000);
	assert_int_equal(ftruncate(fd, 0), 0);
	close(fd);
	usleep(200000);
}

static void one_round(const char *fs, void (*fail_it)(void), unsigned int mib,
		      unsigned int *seed)
{
	pthread_t threads[SYNCERS];
	struct stat st;
	char name[16];

	memset(t.durable, 0, sizeof(t.durable));
	atomic_store(&t.over, false);
	atomic_store(&t.next, 0);
	run("mount -t tmpfs -o size=%um test %s && truncate -s 320M %s && "
	    "mkfs.%s -q %s && mount -o loop %s %s",
	    mib, t.disk, t.image, fs, t.image, t.image, t.mnt);
	t.fd = open(t.mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(still_up(t.fd), 0);
	for (int i = 0; i < SYNCERS; i++)
		pthread_create(&threads[i], NULL, syncer, NULL);
	usleep((useconds_t)(20 + rand_r(seed) % 200) * 1000);
	fail_it();
	atomic_store(&t.over, true);
	for (int i = 0; i < SYNCERS; i++)
		pthread_join(threads[i], NULL);
	close(t.fd);
	umount_image(t.mnt, t.image);
	run("mount -o loop %s %s", t.image, t.mnt);
	t.fd = open(t.mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < NAMES; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		if (t.durable[i] &&
		    (fstatat(t.fd, name, &st, 0) < 0 || st.st_size != 4096))
			fail_msg("%s: file %d is not there", fs, i);
	}
	close(t.fd);
	umount_image(t.mnt, t.image);
	run("umount %s", t.disk);
}

static void rounds(const char *fs, void (*fail_it)(void), unsigned int mib)
{
	const char *value = getenv("TIERFS_ROUNDS");
	unsigned long n = value ? strtoul(value, NULL, 10) : 4;
	unsigned int seed = 1;

	if (geteuid() || access("/dev/loop-control", W_OK))
		skip();
	strcpy(t.dir, "/tmp/test_sync.XXXXXX");
	assert_non_null(mkdtemp(t.dir));
	snprintf(t.disk, sizeof(t.disk), "%s/disk", t.dir);
	snprintf(t.image, sizeof(t.image), "%s/img", t.disk);
	snprintf(t.mnt, sizeof(t.mnt), "%s/mnt", t.dir);
	assert_int_equal(mkdir(t.disk, 0700) | mkdir(t.mnt, 0700), 0);
	while (n--)
		one_round(fs, fail_it, mib, &seed);
	assert_int_equal(rmdir(t.mnt) | rmdir(t.disk) | rmdir(t.dir), 0);
}

static void test_ext4_shut_down(void **state)
{
	rounds("ext4", shut_down, 400);
}

static void test_xfs_shut_down(void **state)
{
	rounds("xfs", shut_down, 400);
}

static void test_ext4_disk_fails(void **state)
{
	rounds("ext4", fail_disk, 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ext4_shut_down),
		cmocka_unit_test(test_xfs_shut_down),
		cmocka_unit_test(test_ext4_disk_fails),
	};

	if (!geteuid() && !own_mounts())
		return 77;
	return cmocka_run_group_tests_name("sync", tests, NULL, NULL);
}
