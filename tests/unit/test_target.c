/* SPDX-License-Identifier: MIT */
/* Targets, on real directories. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "check.h"
#include "oid.h"
#include "tierfs/target.h"
#include "util.h"

#define FRONT "00000000-1111-4222-8333-444444444444"
#define OTHER "99999999-1111-4222-8333-444444444444"

struct wait {
	struct target_io io;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int64_t res;
	pthread_t thread;
};

static char dir[64];
static char why_buf[512];

static void woken(struct target_io *io, int64_t res)
{
	struct wait *w = container_of(io, struct wait, io);

	pthread_mutex_lock(&w->lock);
	w->res = res;
	w->thread = pthread_self();
	w->done = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static void wait_init(struct wait *w)
{
	memset(w, 0, sizeof(*w));
	w->io.done = woken;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
}

static int64_t wait_for(struct wait *w)
{
	pthread_mutex_lock(&w->lock);
	while (!w->done)
		pthread_cond_wait(&w->cond, &w->lock);
	w->done = false;
	pthread_mutex_unlock(&w->lock);
	return w->res;
}

static int remove_one(const char *path, const struct stat *st, int type,
		      struct FTW *ftw)
{
	return remove(path);
}

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s/tierfs-target-XXXXXX",
		 getenv("TIERFS_TEST_DIR") ? getenv("TIERFS_TEST_DIR")
					   : "/var/tmp");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int try_open(const char *path, const char *front, const char *uuid,
		    struct target **ret)
{
	struct target_config config = {.name = "hdd",
				       .path = path,
				       .fsname = "fs",
				       .front_uuid = front,
				       .uuid = uuid};
	char *why = NULL;
	int err = target_open(&config, ret, &why);

	snprintf(why_buf, sizeof(why_buf), "%s", why ? why : "");
	free(why);
	return err;
}

static struct target *claim(void)
{
	struct target *t;

	assert_int_equal(try_open(dir, FRONT, NULL, &t), 0);
	return t;
}

static char *below(const char *name)
{
	static char path[2][256];
	static int i;

	i = !i;
	snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return path[i];
}

static void put_file(const char *name, const char *text)
{
	int fd = open(below(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite_full(fd, text, strlen(text), 0), 0);
	close(fd);
}

static void test_claim_and_again(void **state)
{
	struct target *t = claim(), *u;
	struct target_usage usage;
	char uuid[37], why[8];

	assert_true(target_online(t, why, sizeof(why)));
	assert_int_equal(strlen(target_uuid(t)), 36);
	assert_string_equal(target_name(t), "hdd");
	assert_string_equal(target_path(t), dir);
	strcpy(uuid, target_uuid(t));
	target_usage(t, &usage);
	assert_true(usage.bytes > usage.used && usage.used > 0);
	assert_true(target_caps(t) & TARGET_CAP_RANGE_READ);
	target_close(t);
	/* The claim was made, and the front forgot it: ours. */
	assert_int_equal(try_open(dir, FRONT, NULL, &u), 0);
	assert_string_equal(target_uuid(u), uuid);
	target_close(u);
	assert_int_equal(try_open(dir, FRONT, uuid, &u), 0);
	assert_true(target_online(u, NULL, 0));
	target_close(u);
}

static void refused(const char *path, const char *front, int err,
		    const char *says)
{
	struct target *t = NULL;

	assert_int_equal(try_open(path, front, NULL, &t), err);
	assert_null(t);
	assert_non_null(strstr(why_buf, says));
}

static void test_new_refused(void **state)
{
	refused(below("none"), FRONT, -ENOENT, below("none"));
	put_file("file", "x");
	refused(below("file"), FRONT, -ENOTDIR, below("file"));
	put_file("fs", "x");
	refused(dir, FRONT, -ENOTEMPTY, below("fs"));
	unlink(below("fs"));
	mkdir(below("fs"), 0700);
	put_file("fs/data", "x");
	refused(dir, FRONT, -ENOTEMPTY, below("fs"));
	put_file("fs/identity", "garbage\n");
	refused(dir, FRONT, -ENOTEMPTY, below("fs/identity"));
	unlink(below("fs/data"));
	put_file("fs/identity", "version=1\nfront=" FRONT "\n");
	refused(dir, FRONT, -ENOTEMPTY, below("fs/identity"));
	put_file("fs/identity", "version=2\nfront=" FRONT "\nuuid=" OTHER "\n");
	refused(dir, FRONT, -EPROTONOSUPPORT, "newer");
	/* Whatever the rest of a newer one is like; numbers do not wrap. */
	put_file("fs/identity", "version=4294967297\nother");
	refused(dir, FRONT, -EPROTONOSUPPORT, "newer");
	put_file("fs/identity",
		 "version=-1\nfront=" FRONT "\nuuid=" OTHER "\n");
	refused(dir, FRONT, -ENOTEMPTY, below("fs/identity"));
	put_file("fs/identity", "version=1\nfront=" FRONT "\nfront=" OTHER
				"\nuuid=" OTHER "\n");
	refused(dir, FRONT, -ENOTEMPTY, below("fs/identity"));
	put_file("fs/identity", "version=1\nfront=" OTHER "\nuuid=" OTHER "\n");
	refused(dir, FRONT, -EEXIST, below("fs"));
	/* What an interrupted claim leaves is no obstacle. */
	unlink(below("fs/identity"));
	put_file("fs/identity.new", "vers");
	target_close(claim());
}

static void test_known_offline_and_back(void **state)
{
	struct target *t = claim();
	struct target_object *o;
	struct wait w;
	char uuid[37], why[300];

	strcpy(uuid, target_uuid(t));
	target_close(t);
	assert_int_equal(rename(below("fs"), below("away")), 0);
	assert_int_equal(try_open(dir, FRONT, uuid, &t), 0);
	assert_false(target_online(t, why, sizeof(why)));
	assert_non_null(strstr(why, dir));
	assert_string_equal(target_uuid(t), uuid);
	assert_int_equal(target_create(t, 1, &o), -EIO);
	assert_int_equal(target_delete(t, 1), -EIO);
	assert_int_equal(target_sync(t), -EIO);
	wait_init(&w);
	target_open_async(t, 1, &o, &w.io);
	assert_int_equal(wait_for(&w), -EIO);
	assert_false(pthread_equal(w.thread, pthread_self()));
	assert_int_equal(target_probe(t), -ENOENT);
	/* An empty directory is not it, and nothing is written there. */
	mkdir(below("fs"), 0700);
	assert_int_equal(target_probe(t), -ENOENT);
	assert_int_equal(rmdir(below("fs")), 0);
	/* Another target is not it. */
	mkdir(below("fs"), 0700);
	put_file("fs/identity", "version=1\nfront=" FRONT "\nuuid=" OTHER "\n");
	assert_int_equal(target_probe(t), -EEXIST);
	assert_false(target_online(t, why, sizeof(why)));
	assert_non_null(strstr(why, OTHER));
	unlink(below("fs/identity"));
	assert_int_equal(rmdir(below("fs")), 0);
	/* It is back by itself. */
	assert_int_equal(rename(below("away"), below("fs")), 0);
	assert_int_equal(target_probe(t), 0);
	assert_true(target_online(t, NULL, 0));
	assert_int_equal(target_create(t, 1, &o), 0);
	target_object_close(o);
	target_close(t);
}

/* What comes to lie at the path is never written: not before the probe that
 * finds out, nor after it. */
static void test_vanishes(void **state)
{
	struct target *t = claim();
	struct target_object *o;
	char why[300];

	assert_int_equal(rename(below("fs"), below("away")), 0);
	mkdir(below("fs"), 0700);
	assert_int_equal(target_create(t, 5, &o), 0);
	target_object_close(o);
	assert_int_equal(access(below("away/00/00000000000005"), F_OK), 0);
	assert_int_equal(target_probe(t), -ESTALE);
	assert_false(target_online(t, why, sizeof(why)));
	assert_int_equal(target_create(t, 6, &o), -EIO);
	assert_int_equal(rmdir(below("fs")), 0);
	assert_int_equal(rename(below("away"), below("fs")), 0);
	assert_int_equal(target_probe(t), 0);
	/* Removed while in use. */
	unlink(below("fs/00/00000000000005"));
	rmdir(below("fs/00"));
	unlink(below("fs/identity"));
	assert_int_equal(rmdir(below("fs")), 0);
	assert_int_equal(target_create(t, 7, &o), -EIO);
	assert_false(target_online(t, why, sizeof(why)));
	target_close(t);
}

static void test_failed(void **state)
{
	struct target *t = claim();
	char why[300];

	target_failure(t, why, sizeof(why));
	assert_string_equal(why, "");
	/* A bad sector: told, but the target goes on. */
	target_failed(t, "reading 7", -EIO);
	assert_true(target_online(t, why, sizeof(why)));
	target_failure(t, why, sizeof(why));
	assert_non_null(strstr(why, "reading 7"));
	assert_int_equal(target_probe(t), 0);
	/* The next probe reads the medium. */
	assert_int_equal(truncate(below("fs/identity"), 0), 0);
	assert_int_equal(target_probe(t), 0);
	target_failed(t, "reading 8", -EIO);
	assert_int_equal(target_probe(t), -EBADMSG);
	assert_false(target_online(t, why, sizeof(why)));
	target_close(t);
	unlink(below("fs/identity"));
	t = claim();
	target_failed(t, "reading 9", -ENODEV);
	assert_false(target_online(t, why, sizeof(why)));
	assert_non_null(strstr(why, "reading 9"));
	assert_int_equal(target_probe(t), 0);
	target_close(t);
}

static void test_object(void **state)
{
	struct target *t = claim();
	struct target_origin origin = {.mode = 0100640,
				       .uid = 7,
				       .gid = 8,
				       .mtime = 1234567890123456789,
				       .ino = 99,
				       .path = "a/b"};
	uint64_t oid = 0xab00000000000012, size;
	struct target_object *o, *o2;
	char path[256], buf[16];
	struct stat st;
	struct wait w;

	wait_init(&w);
	assert_int_equal(target_object_open(t, oid, &o), -ENOENT);
	target_open_async(t, oid, &o, &w.io);
	assert_int_equal(wait_for(&w), -ENOENT);
	assert_int_equal(target_create(t, oid, &o), 0);
	assert_int_equal(target_create(t, oid, &o2), -EEXIST);
	assert_int_equal(target_object_write(o, "spilled", 7, 0, true), 0);
	assert_int_equal(target_object_truncate(o, 1 << 20), 0);
	assert_int_equal(target_object_origin(o, &origin), 0);
	assert_int_equal(target_object_sync(o), 0);
	assert_int_equal(target_object_size(o, &size), 0);
	assert_int_equal(size, 1 << 20);
	assert_int_equal(target_object_seek(o, 0, SEEK_DATA), 0);
	assert_int_equal(target_object_seek(o, 1 << 20, SEEK_DATA), -ENXIO);
	target_object_close(o);

	target_object_path(t, oid, path, sizeof(path));
	assert_string_equal(path, below("fs/ab/00000000000012"));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	assert_int_equal(timespec_to_ns(st.st_mtim), origin.mtime);
	if (target_caps(t) & TARGET_CAP_XATTR) {
		char ea[64];
		ssize_t n = getxattr(path, TIERFS_EA_ORIGIN_TRUSTED, ea, 64);

		if (n < 0)
			n = getxattr(path, TIERFS_EA_ORIGIN_USER, ea, 64);
		assert_int_equal(n, 35);
		assert_memory_equal(ea, "\1\0\0\0\xa0\x81\0\0\7\0\0\0\10\0\0",
				    15);
		assert_memory_equal(ea + 32, "a/b", 3);
	}

	target_open_async(t, oid, &o, &w.io);
	assert_int_equal(wait_for(&w), 0);
	target_read_async(o, buf, 7, 0, false, &w.io);
	assert_int_equal(wait_for(&w), 7);
	assert_memory_equal(buf, "spilled", 7);
	target_read_async(o, buf, 16, (1 << 20) - 4, false, &w.io);
	assert_int_equal(wait_for(&w), 4);
	target_read_async(o, buf, 16, 2 << 20, false, &w.io);
	assert_int_equal(wait_for(&w), 0);
	target_object_close_async(o);
	assert_int_equal(target_delete(t, oid), 0);
	assert_int_equal(target_delete(t, oid), 0);
	assert_int_equal(target_sync(t), 0);
	target_close(t);
}

/* Aligned and not, mixed on one object: each sees what the other wrote. */
static void test_direct_mixed(void **state)
{
	const size_t unit = TARGET_ALIGN;
	struct target *t = claim();
	struct target_object *o;
	struct wait w;
	char *buf = aligned_alloc(unit, 4 * unit);

	wait_init(&w);
	memset(buf, 'a', 4 * unit);
	assert_int_equal(target_create(t, 3, &o), 0);
	assert_int_equal(target_object_reserve(o, 0, 8 * unit), 0);
	target_write_async(o, buf, 2 * unit, 0, true, &w.io);
	assert_int_equal(wait_for(&w), 2 * unit);
	target_write_async(o, "bcd", 3, 2 * unit, false, &w.io);
	assert_int_equal(wait_for(&w), 3);
	memset(buf, 0, 4 * unit);
	/* Past the end: as much as there is. */
	target_read_async(o, buf, 4 * unit, 0, false, &w.io);
	assert_int_equal(wait_for(&w), 2 * unit + 3);
	assert_int_equal(buf[2 * unit - 1], 'a');
	assert_memory_equal(buf + 2 * unit, "bcd", 3);
	target_read_async(o, buf + 1, 5, 2 * unit - 2, false, &w.io);
	assert_int_equal(wait_for(&w), 5);
	assert_memory_equal(buf + 1, "aabcd", 5);
	target_read_async(o, buf, unit, 4 * unit, false, &w.io);
	assert_int_equal(wait_for(&w), 0);
	target_object_close(o);
	target_close(t);
	free(buf);
}

struct seen {
	uint64_t oids[8], sizes[8];
	unsigned int n, stop;
};

static int see(void *arg, uint64_t oid, uint64_t size)
{
	struct seen *s = arg;

	s->oids[s->n] = oid;
	s->sizes[s->n++] = size;
	return s->n == s->stop ? 42 : 0;
}

static void test_batch_and_each(void **state)
{
	static const uint64_t oids[] = {0xff00000000000001, 0x0a00000000000002,
					0x0a00000000000001, 0x0000000000000009};
	struct target *t = claim();
	struct target_batch *batch;
	struct seen seen = {0};

	assert_int_equal(target_batch_begin(t, &batch), 0);
	for (size_t i = 0; i < ARRAY_SIZE(oids); i++) {
		struct target_object *o;

		assert_int_equal(target_create(t, oids[i], &o), 0);
		assert_int_equal(target_object_write(o, "123456", i + 1, 0, 0),
				 0);
		target_object_close(o);
	}
	assert_int_equal(target_batch_end(batch), 0);
	put_file("fs/0a/stray", "x");
	put_file("fs/0a/0000000000000G", "x");
	assert_int_equal(target_each(t, see, &seen), 0);
	assert_int_equal(seen.n, 4);
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(seen.oids[i], oids[3 - i]);
		assert_int_equal(seen.sizes[i], 4 - i);
	}
	seen = (struct seen){.stop = 2};
	assert_int_equal(target_each(t, see, &seen), 42);
	assert_int_equal(seen.n, 2);
	target_close(t);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_claim_and_again),
		TEST(test_new_refused),
		TEST(test_known_offline_and_back),
		TEST(test_vanishes),
		TEST(test_failed),
		TEST(test_object),
		TEST(test_direct_mixed),
		TEST(test_batch_and_each),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
