/* SPDX-License-Identifier: MIT */

/*
 * The tier without FUSE: a real front and a real target in temporary
 * directories, journal, mover, rings. What the kernel sees of it is tested on
 * mounts, in tests/system.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>

#include "oid.h"
#include "ring.h"
#include "tier.h"
#include "util.h"

struct rig {
	char dir[64], front_path[80], target_path[80];
	struct config config;
	struct front *front;
	struct node_table *nodes;
	struct journal *journal;
	struct mover *mover;
	struct ring *ring;
	struct target *targets[1];
	struct copy_limit *limit;
	struct tier *tier;
};

static struct rig rig;

static void rig_up(void)
{
	struct target_config tc = {
		.name = "hdd", .path = rig.target_path, .fsname = "test"};
	char *why = NULL;

	if (front_open(rig.front_path, "test", &rig.front, &why))
		fail_msg("%s", why);
	tc.front_uuid = rig.front->uuid;
	if (rig.front->ntargets)
		tc.uuid = rig.front->targets[0].uuid;
	if (target_open(&tc, &rig.targets[0], &why))
		fail_msg("%s", why);
	if (!rig.front->ntargets) {
		unsigned int number;

		assert_int_equal(front_add_target(rig.front, "hdd",
						  target_uuid(rig.targets[0]),
						  &number),
				 0);
		assert_int_equal(number, 0);
	}
	assert_int_equal(node_table_new(rig.front, 64, &rig.nodes), 0);
	if (journal_open(rig.front->meta_fd, &rig.journal, &why))
		fail_msg("%s", why);
	assert_int_equal(ring_start(64, &rig.ring), 0);
	assert_int_equal(copy_limit_new(0, &rig.limit), 0);
	assert_int_equal(mover_start(2, 2, &rig.mover), 0);
	assert_int_equal(tier_start(&(struct tier_parts){.config = &rig.config,
							 .front = rig.front,
							 .nodes = rig.nodes,
							 .journal = rig.journal,
							 .mover = rig.mover,
							 .targets = rig.targets,
							 .ntargets = 1,
							 .ring = rig.ring,
							 .limit = rig.limit},
				    &rig.tier),
			 0);
	assert_int_equal(tier_recover(rig.tier), 0);
}

static void rig_down(void)
{
	tier_quiesce(rig.tier);
	tier_stop(rig.tier);
	journal_close(rig.journal);
	mover_free(rig.mover);
	copy_limit_free(rig.limit);
	target_close(rig.targets[0]);
	ring_stop(rig.ring);
	node_table_free(rig.nodes);
	front_close(rig.front);
}

static int setup(void **state)
{
	(void)state;
	memset(&rig, 0, sizeof(rig));
	snprintf(rig.dir, sizeof(rig.dir), "/tmp/test_tier.XXXXXX");
	assert_non_null(mkdtemp(rig.dir));
	snprintf(rig.front_path, sizeof(rig.front_path), "%s/front", rig.dir);
	snprintf(rig.target_path, sizeof(rig.target_path), "%s/hdd", rig.dir);
	assert_int_equal(mkdir(rig.front_path, 0755), 0);
	assert_int_equal(mkdir(rig.target_path, 0755), 0);
	rig.config.restore_after = 3;
	rig_up();
	return 0;
}

static int teardown(void **state)
{
	char cmd[96];

	(void)state;
	rig_down();
	snprintf(cmd, sizeof(cmd), "rm -rf %s", rig.dir);
	return system(cmd) ? -1 : 0;
}

/* ---- doing one thing and waiting for it ------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

static void make(const char *name, size_t size)
{
	int fd = openat(rig.front->root_fd, name, O_CREAT | O_EXCL | O_RDWR,
			0640);
	char *data = malloc(size);

	assert_true(fd >= 0);
	for (size_t i = 0; i < size; i++)
		data[i] = (char)(i * 7 + (i >> 12) + (size_t)name[0]);
	assert_int_equal(pwrite(fd, data, size, 0), size);
	free(data);
	close(fd);
}

static struct node *look(const char *name)
{
	struct node *node;

	assert_int_equal(node_lookup(node_root(rig.nodes), name, NULL, &node),
			 0);
	return node;
}

static bool answered;

static void on_done(struct tier_request *req)
{
	(void)req;
	pthread_mutex_lock(&lock);
	answered = true;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
}

static void wait_answer(void)
{
	pthread_mutex_lock(&lock);
	while (!answered)
		pthread_cond_wait(&cond, &lock);
	answered = false;
	pthread_mutex_unlock(&lock);
}

static struct tier_request last;

static enum tier_result ask(struct node *node, enum tier_op op)
{
	struct tier_request *req = &last;

	memset(req, 0, sizeof(*req));
	req->node = node;
	req->done = on_done;
	tier_submit(rig.tier, op, MOVER_ASKED, &req, 1);
	wait_answer();
	return req->result;
}

struct opened {
	struct tier_wait wait;
	int err;
};

static void on_resume(struct tier_wait *wait, int err)
{
	container_of(wait, struct opened, wait)->err = err;
	on_done(NULL);
}

static int open_file(struct node *node, int flags)
{
	struct opened o = {.wait.resume = on_resume};
	int ret;

	while ((ret = tier_open(rig.tier, node, flags, &o.wait)) ==
	       -EINPROGRESS) {
		wait_answer();
		if (o.err)
			return o.err;
	}
	return ret;
}

static void on_read(struct tier_read *read, int64_t res)
{
	*(int64_t *)((char *)read + sizeof(*read)) = res;
	on_done(NULL);
}

static int64_t read_at(struct node *node, void *buf, size_t len, uint64_t off)
{
	struct {
		struct tier_read read;
		int64_t res;
	} r = {.read = {.done = on_read, .buf = buf, .len = len, .off = off}};

	tier_read(rig.tier, node, &r.read);
	wait_answer();
	return r.res;
}

static void check_data(struct node *node, const char *name, size_t size)
{
	size_t room = (size + TARGET_ALIGN) / TARGET_ALIGN * TARGET_ALIGN;
	char *buf = aligned_alloc(TARGET_ALIGN, room);

	assert_int_equal(open_file(node, O_RDONLY), 0);
	assert_int_equal(read_at(node, buf, room, 0), size);
	for (size_t i = 0; i < size; i++)
		if (buf[i] != (char)(i * 7 + (i >> 12) + (size_t)name[0]))
			fail_msg("byte %zu of %s", i, name);
	tier_close(rig.tier, node, O_RDONLY);
	free(buf);
}

static enum spill_state state_of(struct node *node)
{
	enum spill_state state;

	assert_int_equal(tier_state(rig.tier, node, &state), 0);
	return state;
}

static uint64_t front_bytes(const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(rig.front->root_fd, name, &st, 0), 0);
	return (uint64_t)st.st_size;
}

static int objects;

static int count_object(void *arg, uint64_t oid, uint64_t size)
{
	(void)arg;
	(void)oid;
	(void)size;
	objects++;
	return 0;
}

/* Objects are deleted in the background, once a second. */
static void expect_objects(int expected)
{
	for (int i = 0; i < 100; i++) {
		objects = 0;
		assert_int_equal(
			target_each(rig.targets[0], count_object, NULL), 0);
		if (objects == expected)
			return;
		usleep(50000);
	}
	assert_int_equal(objects, expected);
}

static void assert_same_stat(const struct stat *a, const struct stat *b)
{
	assert_int_equal(a->st_ino, b->st_ino);
	assert_int_equal(a->st_size, b->st_size);
	assert_int_equal(a->st_blocks, b->st_blocks);
	assert_int_equal(a->st_mode, b->st_mode);
	assert_int_equal(a->st_nlink, b->st_nlink);
	assert_int_equal(timespec_to_ns(a->st_mtim),
			 timespec_to_ns(b->st_mtim));
	assert_int_equal(timespec_to_ns(a->st_ctim),
			 timespec_to_ns(b->st_ctim));
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
	make("w", 100000);
	node = look("w");
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	/* A write brings it back first, and ends the copy. */
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

static void test_links(void **state)
{
	const size_t size = 200000;
	struct stat before, after;
	struct node *node;

	(void)state;
	make("l", size);
	node = look("l");
	assert_int_equal(tier_link(rig.tier, node, node_root(rig.nodes), "l2"),
			 0);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_round),
		T(test_write),
		T(test_open_without_write),
		T(test_truncate),
		T(test_mapping),
		T(test_links),
		T(test_unlink_rename),
		T(test_ino_kept),
		T(test_remount),
		T(test_reads_restore),
		T(test_pin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
