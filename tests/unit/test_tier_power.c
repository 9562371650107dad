/* SPDX-License-Identifier: MIT */

/*
 * The power is cut at random moments, while threads do everything at once.
 *
 * Front and target are file systems on loop devices, in a mount namespace of
 * their own. They are shut down by EXT4_IOC_SHUTDOWN (XFS_IOC_GOINGDOWN is the
 * same) without flushing the log: what was not journalled is gone, and writing
 * dirty pages fails. Nobody acts after a real cut: so in every other round the
 * process is killed just before. In the others it goes on for a moment, as when
 * the file systems fail and not the power. Needs root, loop devices and mkfs;
 * else it is skipped.
 *
 * TIERFS_SEED and TIERFS_ROUNDS are as for the kills.
 */

#include "crash.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

#define GOINGDOWN  _IOR('X', 125, uint32_t)
#define NOLOGFLUSH 2

static const char *const dirs[2] = {"front", "hdd"};

__attribute__((format(printf, 1, 2))) static int run(const char *format, ...)
{
	char cmd[512];
	va_list args;

	va_start(args, format);
	vsnprintf(cmd, sizeof(cmd), format, args);
	va_end(args);
	return system(cmd);
}

static void mount_all(const char *fs)
{
	for (int i = 0; i < 2; i++)
		assert_int_equal(run("mount -t %s -o loop %s/%s.img %s/%s", fs,
				     rig.dir, dirs[i], rig.dir, dirs[i]),
				 0);
}

static void umount_all(void)
{
	char image[80];

	for (int i = 0; i < 2; i++) {
		snprintf(image, sizeof(image), "%s/%s.img", rig.dir, dirs[i]);
		umount_image(i ? rig.target_path : rig.front_path, image);
	}
}

static void cut_power(pid_t pid, bool dead, unsigned int *seed)
{
	uint32_t flags = NOLOGFLUSH;
	int first = rand_r(seed) % 2, fds[2];

	fds[0] = open(rig.front_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fds[1] = open(rig.target_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	stress_cut();
	if (dead)
		kill(pid, SIGKILL);
	for (int i = 0; i < 2; i++)
		assert_int_equal(ioctl(fds[i ^ first], GOINGDOWN, &flags), 0);
	close(fds[0]);
	close(fds[1]);
}

static void child_verify(const void *arg, unsigned int round)
{
	(void)arg;
	(void)round;
	rig_up();
	stress_verify();
	rig_down();
}

static void one_round(bool dead, unsigned int *seed)
{
	unsigned int before = stress_ops();
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) {
		setenv("CMOCKA_TEST_ABORT", "1", 1);
		rig_up();
		stress_run(*seed);
	}
	for (int i = 0; i < 2000 && stress_ops() < before + 10; i++)
		usleep(2000);
	usleep((useconds_t)(rand_r(seed) % 1000) * 1000);
	cut_power(pid, dead, seed);
	usleep((useconds_t)(rand_r(seed) % 3) * 10000);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("it failed before the cut: 0x%x",
			 (unsigned int)status);
}

static unsigned long env(const char *name, unsigned long otherwise)
{
	const char *value = getenv(name);

	return value ? strtoul(value, NULL, 10) : otherwise;
}

static void test_power(void **state)
{
	const char *fs = *state;
	unsigned int seed = (unsigned int)env("TIERFS_SEED", 1);
	unsigned long rounds = env("TIERFS_ROUNDS", 4);
	char what[64];

	if (geteuid() || run("command -v mkfs.%s >/dev/null", fs) ||
	    access("/dev/loop-control", W_OK))
		skip();
	crash_forget();
	stress_init(seed, true);
	rig_make("/tmp/test_power");
	for (int i = 0; i < 2; i++)
		assert_int_equal(run("truncate -s 320M %s/%s.img && mkfs.%s "
				     "-q %s/%s.img",
				     rig.dir, dirs[i], fs, rig.dir, dirs[i]),
				 0);
	for (unsigned long i = 0; i < rounds; i++) {
		mount_all(fs);
		one_round(i % 2, &seed);
		umount_all();
		mount_all(fs);
		snprintf(what, sizeof(what), "%s, round %lu", fs, i);
		in_child(child_verify, NULL, 0, what);
		umount_all();
	}
	stress_report();
	assert_int_equal(rig_remove(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{.name = "ext4",
		 .test_func = test_power,
		 .initial_state = (void *)"ext4"},
		{.name = "xfs",
		 .test_func = test_power,
		 .initial_state = (void *)"xfs"},
	};

	if (!geteuid() && !own_mounts())
		return 77;
	crash_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
