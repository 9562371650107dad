/* SPDX-License-Identifier: MIT */

/* Writing to released files: the tier's log, without FUSE. */

#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tier_impl.h"
#include "util.h"

#define ROOM (4u << 20)

/* What the file must be. */
static char *model;
static size_t model_size;

static int setup(void **state)
{
	(void)state;
	model = calloc(1, ROOM);
	rig_make("/tmp/test_dirty");
	rig.config.restore_after = CONFIG_NEVER; /* by reads */
	rig_up();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	rig_down();
	free(model);
	return rig_remove();
}

/* A released file of that size, and its model. */
static struct node *released(const char *name, size_t size)
{
	struct node *node;

	/* Not counted by the walk over what is there already, nor missed. */
	mover_drain(rig.mover);
	make(name, size);
	model_size = size;
	for (size_t i = 0; i < size; i++)
		model[i] = (char)(i * 7 + (i >> 12) + (size_t)name[0]);
	node = look(name);
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	return node;
}

static void set_size(size_t size)
{
	if (size < model_size)
		memset(model + size, 0, model_size - size);
	model_size = size;
}

static void put(struct node *node, char c, size_t len, uint64_t off)
{
	memset(model + off, c, len);
	model_size = max_t(size_t, model_size, off + len);
	assert_int_equal(write_at(node, model + off, len, off), 0);
}

static void cut(struct node *node, size_t size)
{
	set_size(size);
	assert_int_equal(truncate_to(node, size), 0);
}

static void zero(struct node *node, uint64_t off, size_t len, bool extend)
{
	size_t end = off + len;

	if (extend && end > model_size)
		model_size = end;
	if (off < model_size)
		memset(model + off, 0, min_t(size_t, end, model_size) - off);
	assert_int_equal(zero_at(node, off, len, extend), 0);
}

static void check_range(struct node *node, size_t len, uint64_t off)
{
	char *buf = aligned_alloc(TARGET_ALIGN, ROOM);
	size_t want =
		off < model_size ? min_t(size_t, len, model_size - off) : 0;

	assert_int_equal(read_at(node, buf, len, off), want);
	for (size_t i = 0; i < want; i++)
		if (buf[i] != model[off + i])
			fail_msg("byte %zu: %d, not %d", (size_t)off + i,
				 buf[i], model[off + i]);
	free(buf);
}

static void check(struct node *node)
{
	struct stat st;

	assert_int_equal(tier_getattr(rig.tier, node, &st, NULL), 0);
	assert_int_equal(st.st_size, model_size);
	assert_int_equal(open_file(node, O_RDONLY), 0);
	check_range(node, ROOM, 0);
	tier_close(rig.tier, node, O_RDONLY);
}

static bool is_settled(const char *name)
{
	struct spill_ea ea;

	assert_int_equal(
		front_ea_get_at(rig.front, rig.front->root_fd, name, &ea), 0);
	assert_int_equal(ea.state, SPILL_DIRTY);
	return !(ea.flags & TIERFS_EA_F_LOGGING);
}

static void wait_until_settled(const char *name)
{
	for (int i = 0; i < 1000 && !is_settled(name); i++)
		usleep(10000);
	assert_true(is_settled(name));
}

/* ---- tests ------------------------------------------------------------- */

static void test_write(void **state)
{
	struct stat before, after;
	struct tier_counts counts;
	struct node *node;

	(void)state;
	node = released("w", 100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	assert_int_equal(state_of(node), SPILL_RELEASED);
	put(node, 'x', 10, 5000);
	assert_int_equal(state_of(node), SPILL_DIRTY);
	check(node);
	put(node, 'y', 4096, 99000);
	put(node, 'z', 1, 150000);
	check(node);
	check_range(node, 4096, 4096);
	check_range(node, 1, 150000);
	check_range(node, 1, 150001);
	check_range(node, 100, 120000);
	assert_int_equal(sync_file(node), 0);
	tier_close(rig.tier, node, O_RDWR);
	check(node);
	tier_counts(rig.tier, &counts);
	assert_int_equal(counts.files[SPILL_DIRTY], 1);
	assert_int_equal(counts.bytes[SPILL_DIRTY], 150001);
	assert_int_equal(counts.bytes[SPILL_RELEASED], 0);
	assert_int_equal(tier_getattr(rig.tier, node, &before, NULL), 0);
	assert_true(before.st_blocks > 0);
	wait_until_settled("w");
	assert_int_equal(tier_getattr(rig.tier, node, &after, NULL), 0);
	assert_same_stat(&before, &after);
	check(node);
	assert_int_equal(ask(node, TIER_RESTORE), TIER_DONE);
	assert_int_equal(state_of(node), SPILL_NONE);
	assert_int_equal(tier_getattr(rig.tier, node, &after, NULL), 0);
	after.st_blocks = before.st_blocks;
	assert_same_stat(&before, &after);
	check(node);
	expect_objects(0);
	tier_counts(rig.tier, &counts);
	assert_int_equal(counts.files[SPILL_DIRTY], 0);
	assert_int_equal(counts.bytes[SPILL_DIRTY], 0);
	node_unref(node);
}

static void test_sizes(void **state)
{
	struct node *node;

	(void)state;
	node = released("s", 200000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	cut(node, 150000);
	check(node);
	cut(node, 300000);
	check(node);
	zero(node, 1000, 5000, false);
	zero(node, 290000, 50000, false);
	check(node);
	zero(node, 290000, 50000, true);
	check(node);
	put(node, 'a', 70000, 100000);
	check(node);
	tier_close(rig.tier, node, O_RDWR);
	assert_int_equal(ask(node, TIER_RESTORE), TIER_DONE);
	check(node);
	node_unref(node);
}

/* Cut to nothing: the target is not needed any more. */
static void test_to_nothing(void **state)
{
	struct node *node;
	char path[128];

	(void)state;
	node = released("n", 100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	put(node, 'x', 10, 500);
	snprintf(path, sizeof(path), "rm -r %s/test", rig.target_path);
	assert_int_equal(system(path), 0);
	cut(node, 0);
	put(node, 'y', 10, 100);
	mover_drain(rig.mover);
	assert_int_equal(state_of(node), SPILL_NONE);
	put(node, 'z', 10, 105);
	check(node);
	tier_close(rig.tier, node, O_RDWR);
	check(node);
	node_unref(node);
}

static void test_remount(void **state)
{
	struct stat before, after;
	struct node *node;

	(void)state;
	node = released("r", 100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	put(node, 'x', 10, 99995);
	tier_close(rig.tier, node, O_RDWR);
	assert_int_equal(tier_getattr(rig.tier, node, &before, NULL), 0);
	node_unref(node);
	rig_down();
	rig_up();
	assert_true(is_settled("r"));
	node = look("r");
	assert_int_equal(tier_getattr(rig.tier, node, &after, NULL), 0);
	assert_same_stat(&before, &after);
	assert_null(node->file); /* the log was not read for that */
	check(node);
	assert_int_equal(open_file(node, O_RDWR), 0);
	put(node, 'y', 10, 99990);
	check(node);
	tier_close(rig.tier, node, O_RDWR);
	assert_int_equal(ask(node, TIER_RESTORE), TIER_DONE);
	check(node);
	node_unref(node);
}

static void test_requests(void **state)
{
	struct node *node;

	(void)state;
	node = released("q", 100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	put(node, 'x', 10, 99995);
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_REFUSED);
	assert_string_equal(last.reason,
			    "written while released: restore it first");
	tier_close(rig.tier, node, O_RDWR);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	assert_int_equal(state_of(node), SPILL_RELEASED);
	check(node);
	assert_int_equal(front_bytes("q"), 0);
	expect_objects(1);
	node_unref(node);
}

static void test_link(void **state)
{
	struct node *node;
	struct stat st;

	(void)state;
	node = released("l", 100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	/* It could be written to at any moment. */
	assert_int_equal(link_file(node, "l2"), 0);
	assert_int_equal(state_of(node), SPILL_NONE);
	put(node, 'x', 10, 500);
	tier_close(rig.tier, node, O_RDWR);
	check(node);
	assert_int_equal(tier_getattr(rig.tier, node, &st, NULL), 0);
	assert_int_equal(st.st_nlink, 2);
	node_unref(node);

	node = released("k", 100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	put(node, 'x', 10, 500);
	tier_close(rig.tier, node, O_RDWR);
	assert_int_equal(make_resident(node), 0);
	assert_int_equal(make_resident(node), 0);
	assert_int_equal(link_file(node, "k2"), 0);
	assert_int_equal(state_of(node), SPILL_NONE);
	check(node);
	node_unref(node);
	expect_objects(0);
}

static void test_unlinked(void **state)
{
	struct node *node;

	(void)state;
	node = released("u", 100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	put(node, 'x', 10, 500);
	assert_int_equal(tier_unlink(rig.tier, node_root(rig.nodes), "u"), 0);
	put(node, 'y', 10, 600);
	check(node);
	assert_int_equal(make_resident(node), -EOPNOTSUPP);
	assert_int_equal(ask(node, TIER_RESTORE), TIER_REFUSED);
	check(node);
	tier_close(rig.tier, node, O_RDWR);
	node_unref(node);
	expect_objects(0);
}

/* Past the limits it is restored while writes go on. */
static void test_limits(void **state)
{
	struct node *node;

	(void)state;
	rig.config.dirty_entries = 20;
	tier_retune(rig.tier, &rig.config);
	node = released("m", 1 << 20);
	assert_int_equal(open_file(node, O_RDWR), 0);
	for (int i = 0; i < 5000; i++)
		put(node, (char)i, 100, (uint64_t)(i * 7919) % (1 << 20));
	mover_drain(rig.mover);
	assert_int_equal(state_of(node), SPILL_NONE);
	check(node);
	tier_close(rig.tier, node, O_RDWR);
	check(node);
	expect_objects(0);
	node_unref(node);
}

/* What a power cut can leave behind the last entry is not there. */
static void test_torn(void **state)
{
	struct stat before, after;
	struct spill_ea ea;
	struct node *node;
	int fd;

	(void)state;
	node = released("t", 100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	put(node, 'x', 10, 99995);
	tier_close(rig.tier, node, O_RDWR);
	assert_int_equal(tier_getattr(rig.tier, node, &before, NULL), 0);
	node_unref(node);
	rig_down();
	rig_up();
	fd = openat(rig.front->root_fd, "t", O_RDWR | O_APPEND);
	assert_int_equal(write(fd, "LOGE and so on", 14), 14);
	assert_int_equal(front_ea_get(rig.front, fd, &ea), 0);
	ea.flags |= TIERFS_EA_F_LOGGING;
	ea.size = 1;
	assert_int_equal(front_ea_set(rig.front, fd, &ea), 0);
	assert_int_equal(futimens(fd, (struct timespec[2]){before.st_atim,
							   before.st_mtim}),
			 0);
	close(fd);
	node = look("t");
	assert_int_equal(tier_getattr(rig.tier, node, &after, NULL), 0);
	assert_same_stat(&before, &after);
	check(node);
	wait_until_settled("t");
	assert_int_equal(tier_getattr(rig.tier, node, &after, NULL), 0);
	assert_same_stat(&before, &after);
	assert_int_equal(open_file(node, O_RDWR), 0);
	put(node, 'y', 10, 99990);
	tier_close(rig.tier, node, O_RDWR);
	check(node);
	node_unref(node);
}

/* A log that cannot be understood is left as it is. */
static void test_damaged(void **state)
{
	char buf[8192], now[8192];
	struct node *node;
	struct stat st;
	int fd, n;

	(void)state;
	node = released("d", 100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	put(node, 'x', 10, 99995);
	tier_close(rig.tier, node, O_RDWR);
	node_unref(node);
	rig_down();
	rig_up();
	fd = openat(rig.front->root_fd, "d", O_RDWR);
	assert_int_equal(pwrite(fd, "?", 1, 17), 1);
	n = (int)pread(fd, buf, sizeof(buf), 0);
	assert_true(n > 0);
	node = look("d");
	assert_int_equal(tier_getattr(rig.tier, node, &st, NULL), 0);
	assert_int_equal(st.st_size, 100005);
	assert_int_equal(open_file(node, O_RDWR), 0);
	assert_int_equal(read_at(node, now, 4096, 0), -EIO);
	assert_int_equal(write_at(node, "a", 1, 0), -EIO);
	assert_int_equal(truncate_to(node, 0), -EIO);
	assert_int_equal(ask(node, TIER_RESTORE), TIER_FAILED);
	tier_close(rig.tier, node, O_RDWR);
	assert_int_equal(pread(fd, now, sizeof(now), 0), n);
	assert_memory_equal(buf, now, (size_t)n);
	assert_int_equal(state_of(node), SPILL_DIRTY);
	close(fd);
	node_unref(node);
	expect_objects(1);
}

static void test_too_large(void **state)
{
	struct node *node;

	(void)state;
	node = released("b", 100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	assert_int_equal(truncate_to(node, TIERFS_SIZE_MAX + 1), -EFBIG);
	assert_int_equal(write_at(node, "x", 1, TIERFS_SIZE_MAX), -EFBIG);
	assert_int_equal(state_of(node), SPILL_RELEASED);
	tier_close(rig.tier, node, O_RDWR);
	check(node);
	node_unref(node);
}

/* Anything, in any order, with restores and releases in between. */
static void test_random(void **state)
{
	unsigned int seed = 1;
	struct node *node;
	int states[SPILL_STATES] = {0};

	(void)state;
	if (getenv("TIERFS_SEED"))
		seed = (unsigned int)atoi(getenv("TIERFS_SEED"));
	node = released("z", 1 << 20);
	for (int i = 0; i < 1500; i++) {
		uint64_t off = (uint64_t)rand_r(&seed) % (2 << 20);
		size_t len = 1 + (size_t)rand_r(&seed) % (64 << 10);

		states[state_of(node)]++;
		assert_int_equal(open_file(node, O_RDWR), 0);
		switch (rand_r(&seed) % 16) {
		case 0:
			cut(node, off);
			break;
		case 1:
			zero(node, off, len, false);
			break;
		case 2:
			zero(node, off, len, true);
			break;
		case 3:
			tier_close(rig.tier, node, O_RDWR);
			ask(node, TIER_RESTORE);
			check(node);
			assert_int_equal(open_file(node, O_RDWR), 0);
			break;
		case 4:
			assert_int_equal(sync_file(node), 0);
			break;
		case 5:
		case 6:
			tier_close(rig.tier, node, O_RDWR);
			if (rand_r(&seed) % 4 == 0)
				ask(node, TIER_MIGRATE_RELEASE);
			if (rand_r(&seed) % 8 == 0) {
				node_unref(node);
				rig_down();
				rig_up();
				node = look("z");
			}
			check(node);
			assert_int_equal(open_file(node, O_RDWR), 0);
			break;
		default:
			put(node, (char)i, len, off);
		}
		check_range(node, 4096, off & ~4095ULL);
		tier_close(rig.tier, node, O_RDWR);
	}
	check(node);
	print_message("none %d, migrated %d, released %d, dirty %d\n",
		      states[SPILL_NONE], states[SPILL_MIGRATED],
		      states[SPILL_RELEASED], states[SPILL_DIRTY]);
	assert_true(states[SPILL_RELEASED] && states[SPILL_DIRTY]);
	node_unref(node);
}

/* ---- at the same time ----------------------------------------------------- */

#define WRITERS 3
#define PART	(256u << 10)

static _Atomic(bool) stop;
static struct node *shared;
/* To be released a file must not be in use for a moment. */
static pthread_rwlock_t in_use =
	PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

/* Each has a part of its own, whose pages say how often they were written. */
static void *writer(void *arg)
{
	uint64_t at = (uint64_t)(uintptr_t)arg * PART;
	unsigned int seed = (unsigned int)at + 1;
	uint64_t last_written[PART / 4096] = {0};
	uint64_t page[512], n = 0;

	while (!atomic_load(&stop)) {
		unsigned int i = (unsigned int)rand_r(&seed) % (PART / 4096);
		uint64_t off = at + i * 4096ULL;

		n++;
		for (int j = 0; j < 512; j++)
			page[j] = n;
		pthread_rwlock_rdlock(&in_use);
		assert_int_equal(open_file(shared, O_RDWR), 0);
		assert_int_equal(write_at(shared, page, 4096, off), 0);
		last_written[i] = n;
		i = (unsigned int)rand_r(&seed) % (PART / 4096);
		assert_int_equal(read_at(shared, page, 4096, at + i * 4096ULL),
				 4096);
		for (int j = 0; j < 512 && last_written[i]; j++)
			assert_int_equal(page[j], last_written[i]);
		if (rand_r(&seed) % 16 == 0)
			assert_int_equal(sync_file(shared), 0);
		tier_close(rig.tier, shared, O_RDWR);
		pthread_rwlock_unlock(&in_use);
	}
	for (unsigned int i = 0; i < PART / 4096; i++) {
		assert_int_equal(open_file(shared, O_RDONLY), 0);
		assert_int_equal(read_at(shared, page, 4096, at + i * 4096ULL),
				 4096);
		tier_close(rig.tier, shared, O_RDONLY);
		if (last_written[i])
			assert_int_equal(page[511], last_written[i]);
	}
	return NULL;
}

static void test_concurrent(void **state)
{
	pthread_t threads[WRITERS];
	int rounds = 0, released_n = 0, dirty = 0;
	int64_t end;

	(void)state;
	rig.config.dirty_entries = 30;
	tier_retune(rig.tier, &rig.config);
	shared = released("c", WRITERS * PART);
	for (uintptr_t i = 0; i < WRITERS; i++)
		pthread_create(&threads[i], NULL, writer, (void *)i);
	end = monotonic_ns() + 3 * NSEC_PER_SEC;
	while (monotonic_ns() < end) {
		pthread_rwlock_wrlock(&in_use);
		released_n += ask(shared, TIER_MIGRATE_RELEASE) == TIER_DONE;
		pthread_rwlock_unlock(&in_use);
		usleep(1000 * (rounds++ % 8));
		dirty += state_of(shared) == SPILL_DIRTY;
		if (rounds % 2)
			ask(shared, TIER_RESTORE);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	print_message("%d rounds, %d times released, %d times dirty\n", rounds,
		      released_n, dirty);
	assert_true(released_n && dirty);
	node_unref(shared);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_write),	    T(test_sizes),     T(test_to_nothing),
		T(test_remount),    T(test_requests),  T(test_link),
		T(test_unlinked),   T(test_limits),    T(test_torn),
		T(test_damaged),    T(test_too_large), T(test_random),
		T(test_concurrent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
