/* SPDX-License-Identifier: MIT */
/*
 * What a crash, a full disk or rot can leave of a log: what is read back is
 * always the file after one of its changes, and without a crash the last.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "delta.h"
#include "util.h"

#define STEPS	6
#define ROOM	4000
#define LOG_MAX 2000

static const struct delta_base base = {.oid = 77, .target = 1, .size = 1000};

/* A log, and where it ended and what the file was after each of its steps. */
struct sample {
	uint8_t log[LOG_MAX];
	size_t end[STEPS + 1];
	uint8_t bytes[STEPS + 1][ROOM];
	size_t size[STEPS + 1];
};

static struct sample sample;

static int memory_file(void)
{
	int fd = memfd_create("delta", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	return fd;
}

static int file_with(const void *buf, size_t len)
{
	int fd = memory_file();

	assert_int_equal(pwrite_full(fd, buf, len, 0), 0);
	return fd;
}

/* The object is all 'o'. */
static size_t read_all(const struct delta *d, int fd, uint8_t buf[ROOM])
{
	int64_t n;

	memset(buf, 'o', ROOM);
	n = delta_read(d, fd, buf, ROOM, 0);
	assert_true(n >= 0);
	return (size_t)n;
}

static void check_step(const struct delta *d, int fd, unsigned int step)
{
	uint8_t buf[ROOM];

	assert_int_equal(delta_entries(d), step);
	assert_int_equal(delta_size(d), sample.size[step]);
	assert_int_equal(read_all(d, fd, buf), sample.size[step]);
	assert_memory_equal(buf, sample.bytes[step], sample.size[step]);
}

static int do_step(struct delta *d, int fd, unsigned int step)
{
	static char data[300];

	memset(data, 'a' + (int)step, sizeof(data));
	switch (step) {
	case 0:
		return delta_append_write(d, fd, data, 300, 900);
	case 1:
		return delta_append_punch(d, fd, 100, 50);
	case 2:
		return delta_append_write(d, fd, data, 1, 2000);
	case 3:
		return delta_append_truncate(d, fd, 500);
	case 4:
		return delta_append_zero(d, fd, 400, 800);
	default:
		return delta_append_write(d, fd, data, 300, 350);
	}
}

static int make_sample(void **state)
{
	int fd = memory_file();
	struct delta *d;
	unsigned int i;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(delta_new(&base, &d), 0);
	for (i = 0; i <= STEPS; i++) {
		if (i)
			assert_int_equal(do_step(d, fd, i - 1), 0);
		sample.end[i] = delta_log_end(d);
		sample.size[i] = read_all(d, fd, sample.bytes[i]);
	}
	assert_true(sample.end[STEPS] <= LOG_MAX);
	assert_int_equal(pread_full(fd, sample.log, sample.end[STEPS], 0), 0);
	delta_free(d);
	close(fd);
	return 0;
}

/* The step that a log cut at len shows. */
static unsigned int step_at(size_t len)
{
	unsigned int step = 0;

	while (step < STEPS && sample.end[step + 1] <= len)
		step++;
	return step;
}

/* ---- torn ------------------------------------------------------------------ */

static void load_torn(int fd, size_t cut, size_t len)
{
	unsigned int step = step_at(cut);
	size_t end = step ? sample.end[step] : cut < 64 ? 0 : 64;
	struct delta *d = NULL;
	struct stat st;

	if (len != end) {
		assert_int_equal(delta_load(fd, &base, true, &d), -EBADMSG);
		assert_null(d);
	}
	assert_int_equal(delta_load(fd, &base, false, &d), 0);
	assert_int_equal(delta_torn(d), len != end);
	assert_int_equal(delta_log_end(d), end);
	check_step(d, fd, step);
	/* The next entry takes the torn one's place. */
	if (step < STEPS)
		assert_int_equal(do_step(d, fd, step), 0);
	else
		assert_int_equal(delta_cut(d, fd), 0);
	assert_false(delta_torn(d));
	delta_free(d);
	step += step < STEPS;
	assert_int_equal(delta_load(fd, &base, true, &d), 0);
	check_step(d, fd, step);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, sample.end[step]);
	delta_free(d);
}

static void cut_at_every_byte(void **state)
{
	size_t cut;
	int fd;

	for (cut = 0; cut <= sample.end[STEPS]; cut++) {
		fd = file_with(sample.log, cut);
		load_torn(fd, cut, cut);
		close(fd);
	}
}

/* The size reached the disk, and of the blocks only some did. */
static void zeros_after_every_byte(void **state)
{
	uint8_t log[LOG_MAX];
	size_t cut, same;
	int fd;

	for (cut = 64; cut < sample.end[STEPS]; cut++) {
		memset(log, 0, sizeof(log));
		memcpy(log, sample.log, cut);
		/* The zeros may be what was there. */
		for (same = cut; same < sample.end[STEPS]; same++)
			if (sample.log[same])
				break;
		fd = file_with(log, sample.end[STEPS]);
		load_torn(fd, same, sample.end[STEPS]);
		close(fd);
	}
}

static void a_header_that_never_came(void **state)
{
	uint8_t log[LOG_MAX];
	struct delta *d = NULL;
	int fd;

	memcpy(log, sample.log, sizeof(log));
	memset(log, 0, 64);
	fd = file_with(log, sample.end[STEPS]);
	assert_int_equal(delta_load(fd, &base, true, &d), -EBADMSG);
	assert_int_equal(delta_load(fd, &base, false, &d), 0);
	assert_true(delta_torn(d));
	check_step(d, fd, 0);
	assert_int_equal(do_step(d, fd, 0), 0);
	delta_free(d);
	assert_int_equal(delta_load(fd, &base, true, &d), 0);
	check_step(d, fd, 1);
	delta_free(d);
	close(fd);
}

/* Whole entries of this very file, but of an older tail, where a new one was
 * to be: the same place, the same number, a right CRC in its own log. */
static void an_older_tail(void **state)
{
	static const char other[300] = "other";
	int fd = file_with(sample.log, 64);
	struct delta *d;

	assert_int_equal(delta_load(fd, &base, false, &d), 0);
	assert_int_equal(delta_append_write(d, fd, other, 300, 900), 0);
	assert_int_equal(delta_log_end(d), sample.end[1]);
	delta_free(d);
	assert_int_equal(pwrite_full(fd, sample.log + sample.end[1],
				     sample.end[STEPS] - sample.end[1],
				     (off_t)sample.end[1]),
			 0);
	assert_int_equal(delta_load(fd, &base, true, &d), -EBADMSG);
	assert_int_equal(delta_load(fd, &base, false, &d), 0);
	assert_true(delta_torn(d));
	assert_int_equal(delta_entries(d), 1);
	delta_free(d);
	close(fd);
}

/* ---- rot ------------------------------------------------------------------- */

static void every_bit(void **state)
{
	struct delta *d = NULL;
	unsigned int bit;
	uint8_t byte;
	size_t i;
	int fd = file_with(sample.log, sample.end[STEPS]), ret;

	for (i = 0; i < sample.end[STEPS]; i++)
		for (bit = 0; bit < 8; bit++) {
			byte = sample.log[i] ^ (uint8_t)(1 << bit);
			assert_int_equal(pwrite_full(fd, &byte, 1, (off_t)i),
					 0);
			assert_int_equal(delta_load(fd, &base, true, &d),
					 -EBADMSG);
			ret = delta_load(fd, &base, false, &d);
			if (i < 64) {
				assert_int_equal(ret, -EBADMSG);
			} else {
				assert_int_equal(ret, 0);
				assert_true(delta_torn(d));
				check_step(d, fd, step_at(i));
				delta_free(d);
			}
			assert_int_equal(
				pwrite_full(fd, sample.log + i, 1, (off_t)i),
				0);
		}
	close(fd);
}

static void rot_is_not_applied(void **state)
{
	int fd = file_with(sample.log, sample.end[STEPS]), to = memory_file();
	struct delta_base other = base;
	struct delta_pos pos = {0};
	uint8_t byte = 'x';

	other.oid++;
	assert_int_equal(
		delta_replay(fd, &other, to, &pos, sample.end[STEPS], NULL),
		-EBADMSG);
	assert_int_equal(pos.off, 0);
	/* In the data of the last. */
	assert_int_equal(
		pwrite_full(fd, &byte, 1, (off_t)sample.end[STEPS] - 1), 0);
	assert_int_equal(
		delta_replay(fd, &base, to, &pos, sample.end[STEPS], NULL),
		-EBADMSG);
	assert_int_equal(pos.off, sample.end[STEPS - 1]);
	assert_int_equal(pos.seq, STEPS - 1);
	/* Repaired: goes on from there. */
	byte = sample.log[sample.end[STEPS] - 1];
	assert_int_equal(
		pwrite_full(fd, &byte, 1, (off_t)sample.end[STEPS] - 1), 0);
	assert_int_equal(
		delta_replay(fd, &base, to, &pos, sample.end[STEPS], NULL), 0);
	assert_int_equal(pos.seq, STEPS);
	/* A limit that is no entry's end. */
	memset(&pos, 0, sizeof(pos));
	assert_int_equal(
		delta_replay(fd, &base, to, &pos, sample.end[2] + 1, NULL),
		-EBADMSG);
	memset(&pos, 0, sizeof(pos));
	assert_int_equal(
		delta_replay(fd, &base, to, &pos, sample.end[1] - 1, NULL),
		-EBADMSG);
	close(fd);
	close(to);
}

/* ---- full ------------------------------------------------------------------ */

static void no_room_at_every_byte(void **state)
{
	struct rlimit old, limit;
	struct delta *d;
	unsigned int step;
	struct stat st;
	size_t room;
	int fd, ret;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	for (step = 0; step < STEPS; step++)
		for (room = sample.end[step]; room < sample.end[step + 1];
		     room++) {
			fd = file_with(sample.log, sample.end[step]);
			assert_int_equal(delta_load(fd, &base, true, &d), 0);
			limit = old;
			limit.rlim_cur = room;
			assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
			ret = do_step(d, fd, step);
			assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
			assert_int_equal(ret, -EFBIG);
			assert_false(delta_torn(d));
			assert_int_equal(fstat(fd, &st), 0);
			assert_int_equal(st.st_size, sample.end[step]);
			check_step(d, fd, step);
			assert_int_equal(do_step(d, fd, step), 0);
			check_step(d, fd, step + 1);
			delta_free(d);
			close(fd);
		}
}

/* Not even cutting back succeeds: then nothing may be written over the rest. */
static void cannot_be_undone(void **state)
{
	int fd = file_with(sample.log, sample.end[2]), copy;
	uint8_t log[LOG_MAX];
	struct rlimit old, limit;
	struct delta *d;
	struct stat st;
	int ret;

	assert_int_equal(delta_load(fd, &base, true, &d), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = old;
	limit.rlim_cur = sample.end[2] + 20;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ret = do_step(d, fd, 2);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(ret, -EFBIG);
	assert_true(delta_torn(d));
	assert_int_equal(do_step(d, fd, 2), -EPERM);
	check_step(d, fd, 2);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, sample.end[2] + 20);
	/* On a disk that is better again. */
	assert_int_equal(pread_full(fd, log, (size_t)st.st_size, 0), 0);
	copy = file_with(log, (size_t)st.st_size);
	assert_int_equal(do_step(d, copy, 2), 0);
	check_step(d, copy, 3);
	delta_free(d);
	assert_int_equal(delta_load(copy, &base, true, &d), 0);
	check_step(d, copy, 3);
	delta_free(d);
	close(copy);
	close(fd);
}

/* A file on a new mount of this kind; -1: not allowed to mount. */
static int mounted_file(const char *type, const char *options)
{
	char dir[] = "/tmp/delta-XXXXXX";
	int fd = -1;

	assert_non_null(mkdtemp(dir));
	if (mount(type, dir, type, 0, options) == 0) {
		fd = open(dir, O_TMPFILE | O_RDWR, 0600);
		assert_true(fd >= 0);
		assert_int_equal(umount2(dir, MNT_DETACH), 0);
	}
	assert_int_equal(rmdir(dir), 0);
	return fd;
}

static void disk_full(void **state)
{
	int fd = mounted_file("tmpfs", "size=128k"), err;
	struct delta *d, *back;
	struct stat st, after;
	char data[1000] = "x";
	uint64_t entries;

	if (fd < 0)
		skip();
	assert_int_equal(delta_new(&base, &d), 0);
	do {
		entries = delta_entries(d);
		assert_int_equal(fstat(fd, &st), 0);
		err = delta_append_write(d, fd, data, sizeof(data),
					 entries * 500);
	} while (!err);
	assert_int_equal(err, -ENOSPC);
	assert_true(entries > 100);
	assert_int_equal(delta_entries(d), entries);
	assert_int_equal(fstat(fd, &after), 0);
	assert_int_equal(after.st_size, st.st_size);
	assert_int_equal(delta_load(fd, &base, true, &back), 0);
	assert_int_equal(delta_entries(back), entries);
	assert_int_equal(delta_size(back), (entries - 1) * 500 + sizeof(data));
	delta_free(back);
	delta_free(d);
	close(fd);
}

/* ---- applied ----------------------------------------------------------------- */

static void apply_on(int to)
{
	int fd = file_with(sample.log, sample.end[STEPS]);
	struct delta_pos pos = {0};
	_Atomic(bool) cancel = true;
	uint8_t buf[ROOM];
	unsigned int step;

	memset(buf, 'o', base.size);
	assert_int_equal(pwrite_full(to, buf, base.size, 0), 0);
	assert_int_equal(
		delta_replay(fd, &base, to, &pos, sample.end[STEPS], &cancel),
		-ECANCELED);
	cancel = false;
	for (step = 0; step <= STEPS; step++) {
		assert_int_equal(delta_replay(fd, &base, to, &pos,
					      sample.end[step], &cancel),
				 0);
		assert_int_equal(pos.seq, step);
		assert_int_equal(pread(to, buf, ROOM, 0), sample.size[step]);
		assert_memory_equal(buf, sample.bytes[step], sample.size[step]);
	}
	close(fd);
	close(to);
}

static void applied_step_by_step(void **state)
{
	int to;

	apply_on(memory_file());	  /* punches, does not zero */
	to = mounted_file("ramfs", NULL); /* neither */
	if (to >= 0)
		apply_on(to);
	to = open("/var/tmp", O_TMPFILE | O_RDWR, 0600);
	if (to >= 0)
		apply_on(to);
}

struct follow {
	int fd, to;
	_Atomic(uint64_t) end;
	_Atomic(bool) done;
};

static void *follow_run(void *arg)
{
	struct follow *f = arg;
	struct delta_pos pos = {0};
	bool done;
	int ret;

	do {
		done = atomic_load(&f->done);
		ret = delta_replay(f->fd, &base, f->to, &pos,
				   atomic_load(&f->end), NULL);
	} while (!ret && !done);
	return (void *)(intptr_t)ret;
}

static void applied_while_it_grows(void **state)
{
	struct follow f = {.fd = memory_file(), .to = memory_file()};
	static uint8_t want[1 << 20], got[1 << 20];
	uint8_t data[700];
	struct delta *d;
	pthread_t thread;
	uint64_t off;
	void *ret;
	int i;

	assert_int_equal(delta_new(&base, &d), 0);
	assert_int_equal(pwrite_full(f.to, want, base.size, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, follow_run, &f), 0);
	for (i = 0; i < 2000; i++) {
		off = (uint64_t)random() % (sizeof(want) - sizeof(data));
		memset(data, i, sizeof(data));
		memcpy(want + off, data, sizeof(data));
		assert_int_equal(
			delta_append_write(d, f.fd, data, sizeof(data), off),
			0);
		atomic_store(&f.end, delta_log_end(d));
	}
	atomic_store(&f.done, true);
	assert_int_equal(pthread_join(thread, &ret), 0);
	assert_null(ret);
	assert_int_equal(pread_full(f.to, got, delta_size(d), 0), 0);
	assert_memory_equal(got, want, delta_size(d));
	delta_free(d);
	close(f.fd);
	close(f.to);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cut_at_every_byte),
		cmocka_unit_test(zeros_after_every_byte),
		cmocka_unit_test(a_header_that_never_came),
		cmocka_unit_test(an_older_tail),
		cmocka_unit_test(every_bit),
		cmocka_unit_test(rot_is_not_applied),
		cmocka_unit_test(no_room_at_every_byte),
		cmocka_unit_test(cannot_be_undone),
		cmocka_unit_test(disk_full),
		cmocka_unit_test(applied_step_by_step),
		cmocka_unit_test(applied_while_it_grows),
	};

	return cmocka_run_group_tests(tests, make_sample, NULL);
}
