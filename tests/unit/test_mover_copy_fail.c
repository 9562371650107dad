/* SPDX-License-Identifier: MIT */
/* Copying that is cancelled, or fails. */
#include <sys/ioctl.h>

#include "copy_fixture.h"

static void test_ends_early(void **state)
{
	static const struct {
		uint64_t real, size;
	} c[] = {{0, 1},	  {1000, 4096},
		 {5000, 8192},	  {3 * MIB, 9 * MIB},
		 {1536, 3 * MIB}, {CHUNK + 1000, 2 * CHUNK}};

	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		struct copy_ctl ctl = {0};
		struct copy_out f;
		int fd = tmpfile_at(dir);

		put(fd, 0, c[i].real, 9);
		f = to_copy(fd, c[i].size, &ctl);
		copy_out(&env, target, &f, 1);
		assert_int_equal(f.err, -ESTALE);
		assert_false(object_there(f.oid));
		close(fd);
	}
}

static void *cancel_later(void *arg)
{
	struct later *l = arg;

	while (atomic_load(&l->ctl->done) < l->when)
		usleep(1000);
	if (l->fd >= 0 && ftruncate(l->fd, l->when) < 0)
		abort();
	if (l->fd < 0)
		atomic_store(&l->ctl->cancelled, true);
	return NULL;
}

static int meddle(int fd, bool shrink, struct copy_out *f, struct copy_ctl *ctl)
{
	struct later later = {
		.ctl = ctl, .fd = shrink ? fd : -1, .when = 4 * CHUNK};
	pthread_t thread;

	atomic_store(&ctl->idle, true);
	copy_limit_set(env.limit, 100 * MIB);
	*f = to_copy(fd, 64 * MIB, ctl);
	pthread_create(&thread, NULL, cancel_later, &later);
	copy_out(&env, target, f, 1);
	pthread_join(thread, NULL);
	copy_limit_set(env.limit, 0);
	return f->err;
}

static void test_cancel(void **state)
{
	struct copy_ctl ctl = {0};
	struct copy_out f[2];
	int fd = tmpfile_at(dir);

	put(fd, 0, 64 * MIB, 4);
	assert_int_equal(meddle(fd, false, &f[0], &ctl), -ECANCELED);
	/* Within a few chunks. */
	assert_true(ctl.done <= 10 * CHUNK);
	assert_false(object_there(f[0].oid));
	/* Before it began; the other of the batch is copied. */
	struct copy_ctl other = {0};

	f[0] = to_copy(fd, 64 * MIB, &ctl);
	f[1] = to_copy(fd, 64 * MIB, &other);
	copy_out(&env, target, f, 2);
	assert_int_equal(f[0].err, -ECANCELED);
	assert_false(object_there(f[0].oid));
	check_out(&f[1], sum_of(fd, 64 * MIB));
	/* Inwards. */
	struct copy_ctl in = {.idle = true};
	struct later later = {.ctl = &in, .fd = -1, .when = 4 * CHUNK};
	int back = tmpfile_at(dir);
	pthread_t thread;

	copy_limit_set(env.limit, 100 * MIB);
	pthread_create(&thread, NULL, cancel_later, &later);
	assert_int_equal(bring_in(f[1].oid, back, 64 * MIB, &f[1].sum, &in),
			 -ECANCELED);
	pthread_join(thread, NULL);
	copy_limit_set(env.limit, 0);
	close(back);
	close(fd);
}

static void test_shrinks(void **state)
{
	struct copy_ctl ctl = {0};
	struct copy_out f;
	int fd = tmpfile_at(dir);

	put(fd, 0, 64 * MIB, 4);
	assert_int_equal(meddle(fd, true, &f, &ctl), -ESTALE);
	assert_false(object_there(f.oid));
	close(fd);
}

static void test_bad_object(void **state)
{
	struct copy_ctl ctl = {0};
	struct copy_out f;
	char path[256];
	int fd = tmpfile_at(dir), ofd;
	int back = tmpfile_at(dir);

	put(fd, 0, 5 * MIB, 4);
	f = to_copy(fd, 5 * MIB, &ctl);
	copy_out(&env, target, &f, 1);
	object_path(f.oid, path);
	ofd = open(path, O_RDWR);
	put(ofd, 4 * MIB + 1, 1, 77);
	assert_int_equal(bring_in(f.oid, back, f.size, &f.sum, &ctl), -EBADMSG);
	assert_int_equal(ftruncate(back, 0), 0);
	assert_int_equal(ftruncate(ofd, 3 * MIB), 0);
	assert_int_equal(bring_in(f.oid, back, f.size, &f.sum, &ctl), -EBADMSG);
	close(ofd);
	close(back);
	close(fd);
}

/* A small disk of its own, if that may be made here. */
static int disk(bool make)
{
	char cmd[1024];

	if (make)
		snprintf(cmd, sizeof(cmd),
			 "exec >/dev/null 2>&1; cd %s && mkdir mnt && "
			 "truncate -s 32M img && mkfs.ext4 -q img && "
			 "mount -o loop img mnt",
			 dir);
	else
		snprintf(cmd, sizeof(cmd),
			 "cd %s && umount mnt && rmdir mnt && rm img", dir);
	return system(cmd);
}

static void test_full(void **state)
{
	struct copy_ctl ctl = {0};
	struct copy_out f[3], many[40];
	char where[128];
	int big, fit;

	if (geteuid() != 0 || disk(true) != 0)
		skip();
	big = tmpfile_at(dir);
	put(big, 0, 40 * MIB, 4);
	fit = tmpfile_at(dir);
	put(fit, 0, 5 * MIB, 5);
	stop();
	snprintf(where, sizeof(where), "%s/mnt", dir);
	assert_int_equal(setup_at(where), 0);
	/* Too large, and that is known before the work. */
	f[0] = to_copy(fit, 5 * MIB, &ctl);
	f[1] = to_copy(big, 40 * MIB, &ctl);
	f[2] = to_copy(fit, 5 * MIB, &ctl);
	copy_out(&env, target, f, 3);
	assert_int_equal(f[0].err, 0);
	assert_int_equal(f[1].err, -ENOSPC);
	assert_int_equal(f[2].err, 0);
	assert_false(object_there(f[1].oid));
	assert_true(object_there(f[2].oid));
	assert_true(ctl.done < 20 * MIB);
	assert_true(target_online(target, NULL, 0));
	/* Small ones: as many as fit. */
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = to_copy(fit, MIB, &ctl);
	copy_out(&env, target, many, ARRAY_SIZE(many));
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		/* It is MIB long for the copy, whatever the file is. */
		assert_true(many[i].err == 0 || many[i].err == -ENOSPC);
		assert_int_equal(object_there(many[i].oid), many[i].err == 0);
	}
	assert_int_equal(many[0].err, 0);
	assert_int_equal(many[ARRAY_SIZE(many) - 1].err, -ENOSPC);
	/* Inwards, a front that is full. */
	int full = open(where, O_RDWR | O_TMPFILE, 0600);

	assert_int_equal(bring_in(f[0].oid, full, f[0].size, &f[0].sum, &ctl),
			 -ENOSPC);
	close(full);
	close(big);
	close(fit);
	stop();
	assert_int_equal(disk(false), 0);
}

/* The disk dies under a copy: nothing is taken for copied, and the next look
 * at the target says why it is offline, and lets go of it. */
static void test_dead_disk(void **state)
{
	uint32_t how = 2; /* without writing the journal */
	struct copy_ctl ctl = {0};
	struct copy_out f[2];
	char where[128], why[300];
	int front, fd;

	if (geteuid() != 0 || disk(true) != 0)
		skip();
	front = tmpfile_at(dir);
	put(front, 0, 5 * MIB, 4);
	stop();
	snprintf(where, sizeof(where), "%s/mnt", dir);
	assert_int_equal(setup_at(where), 0);
	f[0] = to_copy(front, 5 * MIB, &ctl);
	copy_out(&env, target, f, 1);
	assert_int_equal(f[0].err, 0);
	fd = open(where, O_RDONLY | O_DIRECTORY);
	assert_int_equal(ioctl(fd, _IOR('X', 125, uint32_t), &how), 0);
	close(fd);
	f[0] = to_copy(front, 5 * MIB, &ctl);
	f[1] = to_copy(front, MIB, &ctl);
	copy_out(&env, target, f, 2);
	assert_true(f[0].err < 0);
	assert_true(f[1].err < 0);
	target_failure(target, why, sizeof(why));
	assert_true(why[0] != '\0');
	assert_true(target_probe(target) < 0);
	assert_false(target_online(target, why, sizeof(why)));
	assert_non_null(strstr(why, where));
	/* Nothing holds it any more: another may be mounted. */
	close(front);
	assert_int_equal(disk(false), 0);
	assert_true(target_probe(target) < 0);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ends_early),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_shrinks),
		cmocka_unit_test(test_bad_object),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_dead_disk),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
