/* SPDX-License-Identifier: MIT */

/* The tier without FUSE. What the kernel sees of it is tested on mounts, in
 * tests/system. */

#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util.h"

#define BLOCK  65536
#define BLOCKS 16

static int setup(void **state)
{
	(void)state;
	rig_make("/tmp/test_tier");
	rig_up();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	rig_down();
	return rig_remove();
}

/* ---- tests ------------------------------------------------------------- */

static void test_round(void **state)
{
	const size_t size = 3 * 1024 * 1024 + 17;
	struct stat before, after;
	struct node *node;

	(void)state;
	make("a", size);
	node = look("a");
	assert_int_equal(tier_getattr(rig.tier, node, &before, NULL), 0);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_REFUSED);
	assert_string_equal(last.reason, "not migrated");
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_DONE);
	assert_int_equal(last.bytes, size);
	assert_int_equal(state_of(node), SPILL_MIGRATED);
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_ALREADY);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	assert_int_equal(state_of(node), SPILL_RELEASED);
	assert_int_equal(front_bytes("a"), 0);
	assert_int_equal(tier_getattr(rig.tier, node, &after, NULL), 0);
	assert_same_stat(&before, &after);
	check_data(node, "a", size);
	assert_int_equal(state_of(node), SPILL_RELEASED);
	assert_int_equal(ask(node, TIER_RESTORE), TIER_DONE);
	assert_int_equal(state_of(node), SPILL_MIGRATED);
	assert_int_equal(front_bytes("a"), size);
	assert_int_equal(tier_getattr(rig.tier, node, &after, NULL), 0);
	assert_same_stat(&before, &after);
	check_data(node, "a", size);
	/* Once more, by the other way of the swap. */
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	assert_int_equal(ask(node, TIER_RESTORE), TIER_DONE);
	assert_int_equal(tier_getattr(rig.tier, node, &after, NULL), 0);
	assert_same_stat(&before, &after);
	check_data(node, "a", size);
	expect_objects(1);
	node_unref(node);
}

static void test_write(void **state)
{
	struct tier_data data;
	struct node *node;

	(void)state;
	rig.config.restore_below = 100001;
	tier_retune(rig.tier, &rig.config);
	make("w", 100000);
	node = look("w");
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	/* As small as that, it is brought back first, which ends the copy. */
	assert_int_equal(open_file(node, O_RDWR), 0);
	assert_int_equal(state_of(node), SPILL_NONE);
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_REFUSED);
	assert_int_equal(tier_data_get(rig.tier, node, true, &data), 0);
	assert_int_equal(pwrite(data.fd, "x", 1, 0), 1);
	tier_data_put(&data);
	tier_close(rig.tier, node, O_RDWR);
	expect_objects(0);
	assert_int_equal(state_of(node), SPILL_NONE);
	node_unref(node);
}

static void test_open_without_write(void **state)
{
	struct node *node;

	(void)state;
	make("u", 100000);
	node = look("u");
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_DONE);
	assert_int_equal(open_file(node, O_RDWR), 0);
	tier_close(rig.tier, node, O_RDWR);
	/* Nothing was written: the copy is good, and release is at once. */
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	check_data(node, "u", 100000);
	expect_objects(1);
	node_unref(node);
}

static void test_truncate(void **state)
{
	struct stat st;
	struct node *node;

	(void)state;
	make("t", 100000);
	node = look("t");
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	assert_int_equal(open_file(node, O_WRONLY | O_TRUNC), 0);
	tier_close(rig.tier, node, O_WRONLY | O_TRUNC);
	assert_int_equal(tier_getattr(rig.tier, node, &st, NULL), 0);
	assert_int_equal(st.st_size, 0);
	assert_int_equal(state_of(node), SPILL_NONE);
	expect_objects(0);
	node_unref(node);
}

static void test_mapping(void **state)
{
	struct node *node;
	char *map;
	int fd;

	(void)state;
	make("m", 8192);
	node = look("m");
	fd = openat(rig.front->root_fd, "m", O_RDWR);
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_REFUSED);
	munmap(map, 4096);
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_DONE);
	fd = openat(rig.front->root_fd, "m", O_RDONLY);
	map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_REFUSED);
	munmap(map, 4096);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	node_unref(node);
}

static void *close_later(void *arg)
{
	usleep(100000);
	close(*(int *)arg);
	return NULL;
}

/* The kernel tells of a close later than close() returns: who has closed a file
 * and asks for it at once is not told that it is in use. */
static void test_closed_a_moment_ago(void **state)
{
	static const enum tier_op ops[] = {TIER_MIGRATE, TIER_RELEASE};
	struct node *node;
	pthread_t thread;
	int fd;

	(void)state;
	make("m", 8192);
	node = look("m");
	for (int i = 0; i < 2; i++) {
		fd = openat(rig.front->root_fd, "m", i ? O_RDONLY : O_RDWR);
		assert_true(fd >= 0);
		pthread_create(&thread, NULL, close_later, &fd);
		assert_int_equal(ask(node, ops[i]), TIER_DONE);
		pthread_join(thread, NULL);
	}
	node_unref(node);
}

static void test_links(void **state)
{
	const size_t size = 200000;
	struct stat before, after;
	struct node *node;

	(void)state;
	make("l", size);
	node = look("l");
	assert_int_equal(link_file(node, "l2"), 0);
	assert_int_equal(tier_getattr(rig.tier, node, &before, NULL), 0);
	assert_int_equal(before.st_nlink, 2);
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	assert_int_equal(ask(node, TIER_RESTORE), TIER_DONE);
	assert_int_equal(tier_getattr(rig.tier, node, &after, NULL), 0);
	assert_same_stat(&before, &after);
	assert_int_equal(front_bytes("l2"), size);
	check_data(node, "l", size);
	assert_int_equal(tier_unlink(rig.tier, node_root(rig.nodes), "l"), 0);
	expect_objects(1);
	assert_int_equal(tier_unlink(rig.tier, node_root(rig.nodes), "l2"), 0);
	node_unref(node);
	expect_objects(0);
}

static void test_unlink_rename(void **state)
{
	struct node *root = node_root(rig.nodes);
	struct node *node, *other;
	struct stat st;

	(void)state;
	make("x", 5000);
	make("y", 6000);
	node = look("x");
	other = look("y");
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	assert_int_equal(ask(other, TIER_MIGRATE_RELEASE), TIER_DONE);
	/* Open, it is readable to the last close. */
	assert_int_equal(open_file(node, O_RDONLY), 0);
	assert_int_equal(tier_rename(rig.tier, root, "y", root, "x", 0), 0);
	assert_int_equal(tier_getattr(rig.tier, node, &st, NULL), 0);
	assert_int_equal(st.st_nlink, 0);
	check_data(node, "x", 5000);
	expect_objects(2);
	tier_close(rig.tier, node, O_RDONLY);
	expect_objects(1);
	node_unref(node);
	check_data(other, "y", 6000);
	assert_int_equal(tier_unlink(rig.tier, root, "x"), 0);
	node_unref(other);
	expect_objects(0);
	assert_int_equal(faccessat(rig.front->root_fd, "x", F_OK, 0), -1);
}

/* A number that a restored file still shows is not given to a new file. */
static void test_ino_kept(void **state)
{
	struct stat shown, st;
	struct node *node;
	char name[16];

	(void)state;
	make("i", 5000);
	node = look("i");
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	assert_int_equal(ask(node, TIER_RESTORE), TIER_DONE);
	assert_int_equal(tier_getattr(rig.tier, node, &shown, NULL), 0);
	for (int i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		make(name, 1);
		assert_int_equal(fstatat(rig.front->root_fd, name, &st, 0), 0);
		assert_int_not_equal(st.st_ino, shown.st_ino);
	}
	assert_int_equal(tier_unlink(rig.tier, node_root(rig.nodes), "i"), 0);
	node_unref(node);
	expect_objects(0);
}

static void test_remount(void **state)
{
	const size_t size = 150000;
	struct stat before, after;
	struct tier_counts counts;
	struct node *node;

	(void)state;
	make("r", size);
	node = look("r");
	assert_int_equal(tier_getattr(rig.tier, node, &before, NULL), 0);
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	node_unref(node);
	rig_down();
	rig_up();
	node = look("r");
	assert_int_equal(state_of(node), SPILL_RELEASED);
	assert_int_equal(tier_getattr(rig.tier, node, &after, NULL), 0);
	assert_same_stat(&before, &after);
	tier_counts(rig.tier, &counts);
	assert_int_equal(counts.files[SPILL_RELEASED], 1);
	assert_int_equal(counts.bytes[SPILL_RELEASED], size);
	check_data(node, "r", size);
	node_unref(node);
}

static void test_reads_restore(void **state)
{
	struct node *node;

	(void)state;
	make("o", 70000);
	node = look("o");
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	for (int i = 0; i < 3; i++) {
		check_data(node, "o", 70000);
		assert_int_equal(state_of(node), SPILL_RELEASED);
	}
	check_data(node, "o", 70000);
	mover_drain(rig.mover);
	assert_int_equal(state_of(node), SPILL_MIGRATED);
	check_data(node, "o", 70000);
	node_unref(node);
}

static void test_pin(void **state)
{
	struct tier_file_status status;
	struct node *node;

	(void)state;
	make("p", 5000);
	node = look("p");
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_DONE);
	assert_int_equal(tier_pin(rig.tier, node, true), 0);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_REFUSED);
	assert_string_equal(last.reason, "pinned");
	assert_int_equal(tier_pin(rig.tier, node, false), 0);
	assert_int_equal(tier_pin(rig.tier, node_root(rig.nodes), true), 0);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_REFUSED);
	assert_int_equal(tier_file_status(rig.tier, node, &status), 0);
	assert_true(status.pinned);
	assert_int_equal(tier_pin(rig.tier, node_root(rig.nodes), false), 0);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	node_unref(node);
}

static int flip_bit(const char *path, const struct stat *st, int type,
		    struct FTW *ftw)
{
	char byte;
	int fd;

	(void)ftw;
	if (type != FTW_F || st->st_size < BLOCKS * BLOCK)
		return 0;
	fd = open(path, O_RDWR);
	assert_int_equal(pread(fd, &byte, 1, 5 * BLOCK), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, 5 * BLOCK), 1);
	close(fd);
	return 0;
}

/* Requests are begun by several threads, and not always in the order in which
 * the kernel sent them: that must not hide damage from who reads it all. */
static void test_read_order(void **state)
{
	char *buf = aligned_alloc(TARGET_ALIGN, BLOCK);
	struct node *node;

	(void)state;
	make("v", BLOCKS * BLOCK);
	node = look("v");
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_DONE);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	for (int damaged = 0; damaged < 2; damaged++) {
		assert_int_equal(open_file(node, O_RDONLY), 0);
		for (uint64_t i = 0; i < BLOCKS; i++)
			assert_int_equal(
				read_at(node, buf, BLOCK, (i ^ 3) * BLOCK),
				damaged && i == BLOCKS - 1 ? -EIO : BLOCK);
		tier_close(rig.tier, node, O_RDONLY);
		nftw(rig.target_path, flip_bit, 8, FTW_PHYS);
	}
	free(buf);
	node_unref(node);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_round),
		T(test_write),
		T(test_open_without_write),
		T(test_truncate),
		T(test_mapping),
		T(test_closed_a_moment_ago),
		T(test_links),
		T(test_unlink_rename),
		T(test_ino_kept),
		T(test_remount),
		T(test_reads_restore),
		T(test_pin),
		T(test_read_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
