/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_COPY_FIXTURE_H
#define TIERFS_TESTS_COPY_FIXTURE_H

/* For the tests of copying: a directory that is front and target at once. */

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "check.h"
#include "mover_copy.h"
#include "ring.h"
#include "util.h"

#define FRONT "00000000-1111-4222-8333-444444444444"
#define MIB   (1ULL << 20)
#define CHUNK (2 * MIB)

static char dir[96];
static struct copy_env env;
static struct target *target;
static uint64_t next_oid = 1;

static inline int remove_one(const char *path, const struct stat *st, int type,
			     struct FTW *ftw)
{
	return remove(path);
}

static inline int setup_at(const char *where)
{
	struct target_config config = {.name = "hdd",
				       .path = where,
				       .fsname = "fs",
				       .front_uuid = FRONT};
	char *why = NULL;

	if (target_open(&config, &target, &why) < 0)
		return -1;
	if (copy_limit_new(0, &env.limit) < 0)
		return -1;
	return ring_start(16, &env.front_ring);
}

static inline int setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s/tierfs-copy-XXXXXX",
		 getenv("TIERFS_TEST_DIR") ? getenv("TIERFS_TEST_DIR")
					   : "/var/tmp");
	return mkdtemp(dir) ? setup_at(dir) : -1;
}

static inline void stop(void)
{
	ring_stop(env.front_ring);
	copy_limit_free(env.limit);
	target_close(target);
	env = (struct copy_env){0};
	target = NULL;
}

static inline int teardown(void **state)
{
	char where[128];

	stop();
	/* What a test that failed has left mounted. */
	snprintf(where, sizeof(where), "%s/mnt", dir);
	umount2(where, MNT_DETACH);
	return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static inline int tmpfile_at(const char *where)
{
	int fd = open(where, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static inline void fill(char *buf, size_t len, uint64_t seed)
{
	for (size_t i = 0; i + 8 <= len; i += 8) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		memcpy(buf + i, &seed, 8);
	}
	for (size_t i = len / 8 * 8; i < len; i++)
		buf[i] = 'e';
}

static inline void put(int fd, uint64_t off, size_t len, uint64_t seed)
{
	char *buf = malloc(len + 1);

	fill(buf, len, seed);
	assert_int_equal(pwrite_full(fd, buf, len, off), 0);
	free(buf);
}

static inline struct spill_sum sum_of(int fd, uint64_t size)
{
	XXH3_state_t *state = XXH3_createState();
	char *buf = calloc(1, MIB);
	struct spill_sum sum;
	XXH128_hash_t hash;

	XXH3_128bits_reset(state);
	for (uint64_t off = 0; off < size; off += MIB) {
		size_t len = min_t(uint64_t, size - off, MIB);

		assert_int_equal(pread_full(fd, buf, len, off), 0);
		XXH3_128bits_update(state, buf, len);
	}
	hash = XXH3_128bits_digest(state);
	sum = (struct spill_sum){.low = hash.low64, .high = hash.high64};
	XXH3_freeState(state);
	free(buf);
	return sum;
}

static inline void assert_sum(struct spill_sum a, struct spill_sum b)
{
	assert_int_equal(a.low, b.low);
	assert_int_equal(a.high, b.high);
}

static inline struct copy_out to_copy(int fd, uint64_t size,
				      struct copy_ctl *ctl)
{
	return (struct copy_out){
		.front_fd = fd,
		.size = size,
		.oid = next_oid++,
		.ctl = ctl,
		.err = -1,
		.origin = {.mode = 0100600, .mtime = 1500000000000000000}};
}

static inline void object_path(uint64_t oid, char buf[256])
{
	target_object_path(target, oid, buf, 256);
}

static inline bool object_there(uint64_t oid)
{
	char path[256];

	object_path(oid, path);
	return access(path, F_OK) == 0;
}

static inline int bring_in(uint64_t oid, int fd, uint64_t size,
			   const struct spill_sum *sum, struct copy_ctl *ctl)
{
	struct target_object *object;
	int ret;

	assert_int_equal(target_object_open(target, oid, &object), 0);
	ret = copy_in(&env, object, fd, size, sum, ctl);
	target_object_close(object);
	return ret;
}

/* Out, compared with the object by hand; and in again. */
static inline void check_out(const struct copy_out *f, struct spill_sum want)
{
	struct stat st, front;
	char path[256];
	int fd;

	assert_int_equal(f->err, 0);
	assert_sum(f->sum, want);
	object_path(f->oid, path);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	fstat(fd, &st);
	fstat(f->front_fd, &front);
	assert_int_equal(st.st_size, f->size);
	assert_int_equal(st.st_mtim.tv_sec, 1500000000);
	/* Sparse as the front's, give or take the block of an edge. */
	assert_true(st.st_blocks <= front.st_blocks + 256);
	if (f->size < 64 * MIB)
		assert_sum(sum_of(fd, f->size), want);
	close(fd);
}

struct later {
	struct copy_ctl *ctl;
	int fd;
	uint64_t when;
};

#endif
