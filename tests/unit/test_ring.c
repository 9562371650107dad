/* SPDX-License-Identifier: MIT */
/* The ring, on real files. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "ring.h"
#include "util.h"

struct wait {
	struct ring_op op;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int res;
};

static char dir[] = "/tmp/tierfs-ring-XXXXXX";
static int dirfd_;

static void woken(struct ring_op *op, int res)
{
	struct wait *w = container_of(op, struct wait, op);

	pthread_mutex_lock(&w->lock);
	w->res = res;
	w->done = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static void wait_init(struct wait *w)
{
	memset(w, 0, sizeof(*w));
	w->op.done = woken;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
}

static int wait_for(struct wait *w)
{
	pthread_mutex_lock(&w->lock);
	while (!w->done)
		pthread_cond_wait(&w->cond, &w->lock);
	w->done = false;
	pthread_mutex_unlock(&w->lock);
	return w->res;
}

static void test_ops(void **state)
{
	struct ring *ring;
	struct wait w;
	char buf[8] = "";
	struct stat st;
	int fd;

	assert_int_equal(ring_start(4, &ring), 0);
	wait_init(&w);
	ring_openat(ring, &w.op, dirfd_, "f", O_RDWR | O_CREAT | O_EXCL, 0640);
	fd = wait_for(&w);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	fstat(fd, &st);
	assert_int_equal(st.st_mode & 0777, 0640);
	ring_write(ring, &w.op, fd, "spill", 5, 3, true);
	assert_int_equal(wait_for(&w), 5);
	ring_fsync(ring, &w.op, fd, false);
	assert_int_equal(wait_for(&w), 0);
	ring_read(ring, &w.op, fd, buf, sizeof(buf), 3, true);
	assert_int_equal(wait_for(&w), 5);
	assert_string_equal(buf, "spill");
	ring_read(ring, &w.op, fd, buf, sizeof(buf), 8, false);
	assert_int_equal(wait_for(&w), 0);
	ring_close(ring, &w.op, fd);
	assert_int_equal(wait_for(&w), 0);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	ring_read(ring, &w.op, fd, buf, sizeof(buf), 0, false);
	assert_int_equal(wait_for(&w), -EBADF);
	ring_openat(ring, &w.op, dirfd_, "f", O_RDWR | O_CREAT | O_EXCL, 0600);
	assert_int_equal(wait_for(&w), -EEXIST);
	ring_unlinkat(ring, &w.op, dirfd_, "f", 0);
	assert_int_equal(wait_for(&w), 0);
	ring_unlinkat(ring, &w.op, dirfd_, "f", 0);
	assert_int_equal(wait_for(&w), -ENOENT);
	ring_nop(ring, &w.op);
	assert_int_equal(wait_for(&w), 0);
	ring_stop(ring);
}

/* Far more operations than entries, from several threads, some submitted from
 * done; stop waits for all of them. */
#define THREADS 4
#define OPS	2000

struct chain {
	struct ring_op op;
	struct ring *ring;
	unsigned int left;
	int fd;
	char buf[16];
};

static atomic_int completed;

static void next(struct ring_op *op, int res)
{
	struct chain *c = container_of(op, struct chain, op);

	if (res != (int)sizeof(c->buf))
		abort();
	atomic_fetch_add(&completed, 1);
	if (c->left-- > 1)
		ring_read(c->ring, &c->op, c->fd, c->buf, sizeof(c->buf), 0,
			  false);
	else
		free(c);
}

struct flood {
	struct ring *ring;
	int fd;
};

static void *flood(void *arg)
{
	struct flood *f = arg;

	for (int i = 0; i < OPS / 2; i++) {
		struct chain *c = calloc(1, sizeof(*c));

		c->op.done = next;
		c->ring = f->ring;
		c->left = 2;
		c->fd = f->fd;
		ring_read(c->ring, &c->op, c->fd, c->buf, sizeof(c->buf), 0,
			  false);
	}
	return NULL;
}

static void test_flood(void **state)
{
	pthread_t threads[THREADS];
	struct flood f;
	unsigned int n;
	int64_t oldest;

	f.fd = openat(dirfd_, "g", O_RDWR | O_CREAT, 0600);
	assert_int_equal(ftruncate(f.fd, 16), 0);
	assert_int_equal(ring_start(8, &f.ring), 0);
	completed = 0;
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, flood, &f);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ring_pending(f.ring, &n, &oldest);
	/* The one that is done is counted until done returns. */
	assert_true(n <= THREADS * OPS / 2 + 1);
	ring_stop(f.ring);
	assert_int_equal(completed, THREADS * OPS);
	close(f.fd);
	unlinkat(dirfd_, "g", 0);
}

/* An operation that does not come back is seen, with its age, and does not
 * hold up others, nor the thread that submits. */
static void test_pending(void **state)
{
	struct wait slow, fast;
	struct ring *ring;
	char buf[8];
	int pipefd[2];
	unsigned int n;
	int64_t oldest;

	assert_int_equal(pipe(pipefd), 0);
	assert_int_equal(ring_start(8, &ring), 0);
	wait_init(&slow);
	wait_init(&fast);
	ring_pending(ring, &n, &oldest);
	assert_int_equal(n, 0);
	assert_int_equal(oldest, 0);
	ring_read(ring, &slow.op, pipefd[0], buf, 1, 0, false);
	ring_nop(ring, &fast.op);
	wait_for(&fast);
	usleep(20000);
	ring_pending(ring, &n, &oldest);
	assert_true(n >= 1);
	assert_true(oldest >= 20000000);
	assert_int_equal(write(pipefd[1], "x", 1), 1);
	assert_int_equal(wait_for(&slow), 1);
	ring_stop(ring);
	close(pipefd[0]);
	close(pipefd[1]);
}

static void test_close_nobody_cares(void **state)
{
	struct ring *ring;
	int fd = openat(dirfd_, ".", O_RDONLY);

	assert_int_equal(ring_start(8, &ring), 0);
	ring_close(ring, NULL, fd);
	ring_stop(ring);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
}

/* From now on: what follows is done without io_uring. */
static void test_forbidden(void **state)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), /* the call's number */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {ARRAY_SIZE(code), code};

	assert_int_equal(ring_probe(), 0);
	assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program),
			 0);
	assert_int_equal(ring_probe(), -EPERM);
	completed = 0;
}

static int setup(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	dirfd_ = open(dir, O_RDONLY | O_DIRECTORY);
	return dirfd_ < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	close(dirfd_);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ops),
		cmocka_unit_test(test_flood),
		cmocka_unit_test(test_pending),
		cmocka_unit_test(test_close_nobody_cares),
		cmocka_unit_test(test_forbidden),
		cmocka_unit_test(test_ops),
		cmocka_unit_test(test_flood),
		cmocka_unit_test(test_pending),
		cmocka_unit_test(test_close_nobody_cares),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
