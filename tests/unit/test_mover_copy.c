/* SPDX-License-Identifier: MIT */
/* Copying, with real files, rings and targets. */
#include "copy_fixture.h"

static void check_in(const struct copy_out *f)
{
	struct copy_ctl ctl = {0};
	int fd = tmpfile_at(dir);
	struct stat st, front;
	struct spill_sum bad = f->sum;

	assert_int_equal(bring_in(f->oid, fd, f->size, &f->sum, &ctl), 0);
	assert_int_equal(ctl.done, f->size);
	assert_int_equal(fcntl(fd, F_GETFL) & O_DIRECT, 0);
	fstat(fd, &st);
	fstat(f->front_fd, &front);
	assert_int_equal(st.st_size, f->size);
	assert_true(st.st_blocks <= front.st_blocks + 256);
	if (f->size < 64 * MIB)
		assert_sum(sum_of(fd, f->size), f->sum);
	assert_int_equal(ftruncate(fd, 0), 0);
	bad.high ^= 1;
	if (f->size < 64 * MIB)
		assert_int_equal(bring_in(f->oid, fd, f->size, &bad, &ctl),
				 -EBADMSG);
	close(fd);
}

/* In the background it is read another way. */
static void check_sizes(bool idle)
{
	static const uint64_t sizes[] = {
		0,     1,	  4095,	     4096,	4097,
		65536, MIB - 1,	  MIB,	     MIB + 1,	CHUNK - 1,
		CHUNK, CHUNK + 1, 4 * CHUNK, 5 * CHUNK, 9 * CHUNK - 4097,
	};
	struct copy_out files[ARRAY_SIZE(sizes)];
	struct copy_ctl ctl = {.idle = idle};
	uint64_t total = 0;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		int fd = tmpfile_at(dir);

		put(fd, 0, sizes[i], i);
		files[i] = to_copy(fd, sizes[i], &ctl);
		total += sizes[i];
	}
	copy_out(&env, target, files, ARRAY_SIZE(files));
	assert_int_equal(ctl.done, total);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		check_out(&files[i], sum_of(files[i].front_fd, sizes[i]));
		check_in(&files[i]);
		close(files[i].front_fd);
	}
}

static void test_sizes(void **state)
{
	check_sizes(false);
	check_sizes(true);
}

/* It ends before the size that it should have, also within a block. */
static void test_too_short(void **state)
{
	static const uint64_t sizes[] = {CHUNK + 1, 2 * CHUNK + 4096,
					 3 * CHUNK - 100};

	for (size_t i = 0; i < 2 * ARRAY_SIZE(sizes); i++) {
		struct copy_ctl ctl = {.idle = i % 2};
		int fd = tmpfile_at(dir);
		struct copy_out f;

		put(fd, 0, sizes[i / 2], i);
		f = to_copy(fd, 4 * CHUNK, &ctl);
		copy_out(&env, target, &f, 1);
		assert_int_equal(f.err, -ESTALE);
		assert_false(object_there(f.oid));
		close(fd);
	}
}

/* One alone goes another way to durability. */
static void test_alone(void **state)
{
	struct copy_ctl ctl = {0};
	struct copy_out f;
	int fd = tmpfile_at(dir);

	put(fd, 0, 3 * MIB + 5, 1);
	f = to_copy(fd, 3 * MIB + 5, &ctl);
	copy_out(&env, target, &f, 1);
	check_out(&f, sum_of(fd, f.size));
	/* The oid is taken: that object stays. */
	copy_out(&env, target, &f, 1);
	assert_int_equal(f.err, -EEXIST);
	assert_true(object_there(f.oid));
	close(fd);
}

static void test_holes(void **state)
{
	/* offset, length of the data; size */
	static const struct {
		uint64_t off[3], len[3], size;
	} c[] = {
		{{0}, {0}, 5000},
		{{0}, {0}, 7 * CHUNK + 1},
		{{8192}, {10}, 20000},
		{{100000, 300000}, {1, 70000}, 900000},
		{{4096, 3 * CHUNK - 1}, {1, 2}, 5 * CHUNK},
		{{0, CHUNK, 6 * CHUNK + 77}, {1, CHUNK, 300000}, 7 * CHUNK - 3},
		{{0, 10 * MIB}, {3 * CHUNK, 5 * CHUNK}, 30 * MIB + 1},
	};
	struct copy_ctl ctl = {0};

	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		struct copy_out f[2];
		int fd = tmpfile_at(dir);

		assert_int_equal(ftruncate(fd, c[i].size), 0);
		for (int k = 0; k < 3; k++)
			if (c[i].len[k])
				put(fd, c[i].off[k], c[i].len[k], k);
		f[0] = to_copy(fd, c[i].size, &ctl);
		f[1] = to_copy(fd, c[i].size, &ctl);
		copy_out(&env, target, f, 2);
		check_out(&f[0], sum_of(fd, c[i].size));
		check_out(&f[1], f[0].sum);
		check_in(&f[0]);
		close(fd);
	}
}

/* 20 GiB with islands: the time is that of hashing, the space the islands'. */
static void test_huge_sparse(void **state)
{
	const uint64_t size = 20 * 1024 * MIB;
	struct copy_ctl ctl = {0};
	struct copy_out f;
	int64_t start;
	int fd = tmpfile_at(dir);

	assert_int_equal(ftruncate(fd, size), 0);
	put(fd, 0, 4096, 1);
	put(fd, 5 * 1024 * MIB + 123, 3 * CHUNK, 2);
	put(fd, size - 10, 10, 3);
	f = to_copy(fd, size, &ctl);
	start = monotonic_ns();
	copy_out(&env, target, &f, 1);
	assert_int_equal(f.err, 0);
	check_out(&f, f.sum);
	check_in(&f);
	/* Generous: sanitizers and busy machines. */
	assert_true(monotonic_ns() - start < 120 * NSEC_PER_SEC);
	close(fd);
}

struct puncher {
	int fd;
	_Atomic(bool) stop;
};

static void *punch_and_write(void *arg)
{
	struct puncher *p = arg;
	char block[4096] = "x";

	while (!atomic_load(&p->stop)) {
		fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  65536, 4096);
		pwrite(p->fd, block, sizeof(block), 65536);
	}
	return NULL;
}

/* Where the data are is asked in two steps, and the file may change between
 * them: the copy is nobody's then, but it must end. */
static void test_punched(void **state)
{
	struct puncher p = {.fd = tmpfile_at(dir)};
	static const uint64_t sizes[] = {131072, 2 * CHUNK};
	struct copy_ctl ctl = {0};
	pthread_t thread;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(ftruncate(p.fd, sizes[i]), 0);
		atomic_store(&p.stop, false);
		assert_int_equal(
			pthread_create(&thread, NULL, punch_and_write, &p), 0);
		for (int n = 0; n < 1000; n++) {
			struct copy_out f = to_copy(p.fd, sizes[i], &ctl);

			copy_out(&env, target, &f, 1);
			assert_int_equal(f.err, 0);
			assert_int_equal(target_delete(target, f.oid), 0);
		}
		atomic_store(&p.stop, true);
		pthread_join(thread, NULL);
	}
	close(p.fd);
}

static void *unleash(void *arg)
{
	struct later *l = arg;

	usleep(300000);
	atomic_store(&l->ctl->idle, false);
	return NULL;
}

static void test_limit(void **state)
{
	struct copy_ctl ctl = {.idle = true};
	struct later later = {.ctl = &ctl};
	struct copy_out f;
	int fd = tmpfile_at(dir);
	pthread_t thread;
	int64_t start, took;

	put(fd, 0, 40 * MIB, 4);
	copy_limit_set(env.limit, 40 * MIB);
	f = to_copy(fd, 40 * MIB, &ctl);
	start = monotonic_ns();
	copy_out(&env, target, &f, 1);
	took = monotonic_ns() - start;
	assert_int_equal(f.err, 0);
	/* 1 s, less what may be saved up and the last chunk. */
	assert_true(took > 800 * 1000000LL);
	/* A client waits now: no limit any more. */
	copy_limit_set(env.limit, MIB);
	f = to_copy(fd, 40 * MIB, &ctl);
	pthread_create(&thread, NULL, unleash, &later);
	start = monotonic_ns();
	copy_out(&env, target, &f, 1);
	took = monotonic_ns() - start;
	pthread_join(thread, NULL);
	assert_int_equal(f.err, 0);
	assert_true(took < 25 * NSEC_PER_SEC); /* not 40 */
	copy_limit_set(env.limit, 0);
	close(fd);
}

/* Many threads at once, small and large together. */
static void *worker(void *arg)
{
	uint64_t base = (uintptr_t)arg << 32;
	struct copy_ctl ctl = {0};
	struct copy_out f[40];

	for (int i = 0; i < 40; i++) {
		uint64_t size = i % 10 == 9 ? 5 * MIB + i : 1000ULL * i;

		f[i] = (struct copy_out){
			.front_fd = open(dir, O_RDWR | O_TMPFILE, 0600),
			.size = size,
			.oid = base + i + 1,
			.ctl = &ctl};
		put(f[i].front_fd, 0, size, base + i);
	}
	copy_out(&env, target, f, 40);
	for (int i = 0; i < 40; i++) {
		struct target_object *o;
		int fd = open(dir, O_RDWR | O_TMPFILE, 0600);

		if (f[i].err || target_object_open(target, f[i].oid, &o) ||
		    copy_in(&env, o, fd, f[i].size, &f[i].sum, &ctl))
			abort();
		target_object_close(o);
		close(fd);
		close(f[i].front_fd);
	}
	return NULL;
}

static void test_threads(void **state)
{
	pthread_t threads[4];

	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, worker, (void *)(i + 1));
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_too_short),
		cmocka_unit_test(test_alone),
		cmocka_unit_test(test_holes),
		cmocka_unit_test(test_punched),
		cmocka_unit_test(test_huge_sparse),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
