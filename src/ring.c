/* SPDX-License-Identifier: MIT */
/*
 * The problem: a request's thread must get rid of an operation without ever
 * waiting for the disk below it. io_uring does not promise that by itself. A
 * buffered read, or a direct one whose extents are not in memory, reads
 * metadata inside the submitting system call; a close may be the last one of
 * a deleted file, and truncate it. So every operation is IOSQE_ASYNC: it is
 * handed to the kernel's workers, of which the ring may have as many as
 * operations in flight.
 *
 * Completions of direct I/O run as task work in the thread that submitted.
 * Were that the caller's, then a caller stuck in an fsync() would delay the
 * answers of everyone it submitted for, and its own epoll_wait() would return
 * EINTR out of the blue. So the reaper alone touches the ring: callers append
 * to a list, under a mutex that is held for no system call, and wake the
 * reaper by an eventfd if it sleeps. That costs some µs, on a path to a disk.
 *
 * The list is the backlog too: the reaper moves no more to the kernel than
 * entries, so that neither queue of the ring overflows.
 *
 * Where io_uring is forbidden (sysctl kernel.io_uring_disabled, the seccomp
 * filters of containers) threads of our own do the operations, as many as
 * wanted up to entries, and the reaper calls done as ever.
 *
 * Nothing here outlives a crash.
 */
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/ioprio.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util.h"

#define IOPRIO_IDLE ((IOPRIO_CLASS_IDLE) << IOPRIO_CLASS_SHIFT)

struct ring {
	/* The reaper's alone. */
	struct io_uring uring;
	unsigned int entries;
	uint64_t wake_count;
	bool wake_armed;

	pthread_t thread;
	int wake_fd;

	pthread_mutex_t lock; /* a leaf, for all below */
	struct cds_list_head waiting;
	struct cds_list_head inflight; /* both in the order of submission */
	unsigned int npending;
	unsigned int ninflight;
	bool asleep;
	bool stopping;

	/* Without io_uring, under lock. */
	bool plain;
	pthread_cond_t work; /* for the threads */
	pthread_cond_t reap; /* for the reaper */
	struct cds_list_head finished;
	unsigned int nwaiting, nidle, nthreads;
	pthread_t *threads;
};

static void plain_submitted(struct ring *ring);

static void wake(struct ring *ring)
{
	while (eventfd_write(ring->wake_fd, 1) < 0 && errno == EINTR)
		;
}

static void submit(struct ring *ring, struct ring_op *op)
{
	bool asleep;

	op->submitted = monotonic_ns();
	pthread_mutex_lock(&ring->lock);
	cds_list_add_tail(&op->link, &ring->waiting);
	ring->npending++;
	if (ring->plain)
		plain_submitted(ring);
	asleep = ring->asleep;
	ring->asleep = false;
	pthread_mutex_unlock(&ring->lock);
	if (asleep)
		wake(ring);
}

static void prepare(struct io_uring_sqe *sqe, struct ring_op *op)
{
	switch (op->opcode) {
	case IORING_OP_READ:
		io_uring_prep_read(sqe, op->fd, (void *)op->ptr, op->len,
				   op->off);
		break;
	case IORING_OP_WRITE:
		io_uring_prep_write(sqe, op->fd, op->ptr, op->len, op->off);
		break;
	case IORING_OP_OPENAT:
		io_uring_prep_openat(sqe, op->fd, op->ptr, op->flags, op->mode);
		break;
	case IORING_OP_FSYNC:
		io_uring_prep_fsync(sqe, op->fd, op->flags);
		break;
	case IORING_OP_UNLINKAT:
		io_uring_prep_unlinkat(sqe, op->fd, op->ptr, op->flags);
		break;
	case IORING_OP_CLOSE:
		io_uring_prep_close(sqe, op->fd);
		break;
	default:
		io_uring_prep_nop(sqe);
		break;
	}
	if (op->opcode != IORING_OP_NOP)
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	if (op->idle)
		sqe->ioprio = IOPRIO_IDLE;
	io_uring_sqe_set_data(sqe, op);
}

/* Fills the submission queue. False when there is nothing left to wait for. */
static bool feed(struct ring *ring)
{
	struct ring_op *op, *next;
	struct io_uring_sqe *sqe;
	bool go_on;

	if (!ring->wake_armed) {
		sqe = io_uring_get_sqe(&ring->uring);
		if (sqe) {
			io_uring_prep_read(sqe, ring->wake_fd,
					   &ring->wake_count,
					   sizeof(ring->wake_count), 0);
			io_uring_sqe_set_data(sqe, NULL);
			ring->wake_armed = true;
		}
	}
	pthread_mutex_lock(&ring->lock);
	cds_list_for_each_entry_safe (op, next, &ring->waiting, link) {
		if (ring->ninflight >= ring->entries)
			break;
		sqe = io_uring_get_sqe(&ring->uring);
		if (!sqe)
			break;
		prepare(sqe, op);
		cds_list_del(&op->link);
		cds_list_add_tail(&op->link, &ring->inflight);
		ring->ninflight++;
	}
	/* With a backlog, the next completion wakes it. */
	ring->asleep = cds_list_empty(&ring->waiting);
	go_on = ring->npending > 0 || !ring->stopping;
	pthread_mutex_unlock(&ring->lock);
	return go_on;
}

static void complete(struct ring *ring, struct ring_op *op, int res)
{
	pthread_mutex_lock(&ring->lock);
	cds_list_del(&op->link);
	ring->ninflight--;
	pthread_mutex_unlock(&ring->lock);
	op->done(op, res);
	/* Only now: ring_stop() waits for what done submits. */
	pthread_mutex_lock(&ring->lock);
	ring->npending--;
	pthread_mutex_unlock(&ring->lock);
}

static void reap(struct ring *ring)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
		struct ring_op *op = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&ring->uring, cqe);
		if (op)
			complete(ring, op, res);
		else
			ring->wake_armed = false;
	}
}

static void *reaper(void *arg)
{
	struct ring *ring = arg;
	int ret;

	while (feed(ring)) {
		ret = io_uring_submit_and_wait(&ring->uring, 1);
		pthread_mutex_lock(&ring->lock);
		ring->asleep = false;
		pthread_mutex_unlock(&ring->lock);
		/* Short of memory: what is queued stays queued. */
		if (ret == -EAGAIN || ret == -EBUSY || ret == -ENOMEM)
			usleep(1000);
		reap(ring);
	}
	return NULL;
}

int ring_probe(void)
{
	struct io_uring uring;
	int ret = io_uring_queue_init(1, &uring, IORING_SETUP_SQE128);

	if (ret < 0)
		return ret;
	io_uring_queue_exit(&uring);
	return 0;
}

/* ---- without io_uring ------------------------------------------------------ */

static int64_t plain_run(const struct ring_op *op)
{
	ssize_t n;

	switch (op->opcode) {
	case IORING_OP_READ:
		n = pread(op->fd, (void *)op->ptr, op->len, op->off);
		if (n < 0 && errno == ESPIPE) /* as io_uring does */
			n = read(op->fd, (void *)op->ptr, op->len);
		return n;
	case IORING_OP_WRITE:
		return pwrite(op->fd, op->ptr, op->len, op->off);
	case IORING_OP_OPENAT:
		return openat(op->fd, op->ptr, op->flags, op->mode);
	case IORING_OP_FSYNC:
		return op->flags & IORING_FSYNC_DATASYNC ? fdatasync(op->fd)
							 : fsync(op->fd);
	case IORING_OP_UNLINKAT:
		return unlinkat(op->fd, op->ptr, op->flags);
	case IORING_OP_CLOSE:
		return close(op->fd);
	default:
		return 0;
	}
}

static void *plain_thread(void *arg)
{
	struct ring *ring = arg;
	bool idle = false;

	pthread_mutex_lock(&ring->lock);
	for (;;) {
		struct ring_op *op;
		int64_t res;

		if (cds_list_empty(&ring->waiting)) {
			if (ring->stopping && !ring->npending)
				break;
			ring->nidle++;
			pthread_cond_wait(&ring->work, &ring->lock);
			ring->nidle--;
			continue;
		}
		op = cds_list_first_entry(&ring->waiting, struct ring_op, link);
		cds_list_move(&op->link, ring->inflight.prev);
		ring->nwaiting--;
		pthread_mutex_unlock(&ring->lock);
		if (op->idle != idle) {
			idle = op->idle;
			thread_idle_io(idle);
		}
		res = plain_run(op);
		op->res = res < 0 ? -errno : (int)res;
		pthread_mutex_lock(&ring->lock);
		cds_list_move(&op->link, ring->finished.prev);
		pthread_cond_signal(&ring->reap);
	}
	pthread_mutex_unlock(&ring->lock);
	return NULL;
}

/* The lock is held. */
static void plain_submitted(struct ring *ring)
{
	if (++ring->nwaiting > ring->nidle && ring->nthreads < ring->entries &&
	    !thread_start(&ring->threads[ring->nthreads], "ring-work",
			  plain_thread, ring))
		ring->nthreads++;
	pthread_cond_signal(&ring->work);
}

static void *plain_reaper(void *arg)
{
	struct ring *ring = arg;

	pthread_mutex_lock(&ring->lock);
	while (ring->npending || !ring->stopping) {
		struct ring_op *op;

		if (cds_list_empty(&ring->finished)) {
			pthread_cond_wait(&ring->reap, &ring->lock);
			continue;
		}
		op = cds_list_first_entry(&ring->finished, struct ring_op,
					  link);
		cds_list_del(&op->link);
		pthread_mutex_unlock(&ring->lock);
		op->done(op, op->res);
		pthread_mutex_lock(&ring->lock);
		ring->npending--;
	}
	pthread_cond_broadcast(&ring->work);
	pthread_mutex_unlock(&ring->lock);
	return NULL;
}

/* One thread at least is there from the start: submitting cannot fail. */
static int plain_start(struct ring *ring)
{
	int ret;

	ring->threads = calloc(ring->entries, sizeof(*ring->threads));
	if (!ring->threads)
		return -ENOMEM;
	CDS_INIT_LIST_HEAD(&ring->finished);
	pthread_cond_init(&ring->work, NULL);
	pthread_cond_init(&ring->reap, NULL);
	ring->plain = true;
	ret = thread_start(&ring->threads[0], "ring-work", plain_thread, ring);
	if (!ret) {
		ring->nthreads = 1;
		ret = thread_start(&ring->thread, "ring", plain_reaper, ring);
	}
	if (ret && ring->nthreads) {
		pthread_mutex_lock(&ring->lock);
		ring->stopping = true;
		pthread_cond_broadcast(&ring->work);
		pthread_mutex_unlock(&ring->lock);
		pthread_join(ring->threads[0], NULL);
	}
	if (ret)
		free(ring->threads);
	return ret;
}

static void plain_stop(struct ring *ring)
{
	pthread_mutex_lock(&ring->lock);
	pthread_cond_signal(&ring->reap);
	pthread_mutex_unlock(&ring->lock);
	pthread_join(ring->thread, NULL);
	for (unsigned int i = 0; i < ring->nthreads; i++)
		pthread_join(ring->threads[i], NULL);
	pthread_cond_destroy(&ring->work);
	pthread_cond_destroy(&ring->reap);
	free(ring->threads);
}

/* ---- starting and stopping -------------------------------------------------- */

static int start_thread(struct ring *ring)
{
	sigset_t all, old;
	int ret;

	/* Signals are for the threads that expect them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&ring->thread, NULL, reaper, ring);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -ret;
}

int ring_start(unsigned int entries, struct ring **ret_ring)
{
	unsigned int workers[2] = {entries, 0};
	struct ring *ring;
	int ret;

	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return -ENOMEM;
	ring->entries = entries;
	pthread_mutex_init(&ring->lock, NULL);
	CDS_INIT_LIST_HEAD(&ring->waiting);
	CDS_INIT_LIST_HEAD(&ring->inflight);
	ring->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (ring->wake_fd < 0) {
		ret = -errno;
		goto out_free;
	}
	/* One more, for the wake-up. */
	ret = io_uring_queue_init(entries + 1, &ring->uring, 0);
	if (ret == -EPERM || ret == -EACCES || ret == -ENOSYS) {
		ret = plain_start(ring);
		if (ret < 0)
			goto out_close;
		*ret_ring = ring;
		return 0;
	}
	if (ret < 0)
		goto out_close;
	/* The default of four for each CPU would let some slow operations of
	 * the background hold up a client's. Before 5.15: stays so. */
	io_uring_register_iowq_max_workers(&ring->uring, workers);
	ret = start_thread(ring);
	if (ret < 0)
		goto out_exit;
	*ret_ring = ring;
	return 0;

out_exit:
	io_uring_queue_exit(&ring->uring);
out_close:
	close(ring->wake_fd);
out_free:
	pthread_mutex_destroy(&ring->lock);
	free(ring);
	return ret;
}

void ring_stop(struct ring *ring)
{
	if (!ring)
		return;
	pthread_mutex_lock(&ring->lock);
	ring->stopping = true;
	pthread_mutex_unlock(&ring->lock);
	if (ring->plain) {
		plain_stop(ring);
	} else {
		wake(ring);
		pthread_join(ring->thread, NULL);
		io_uring_queue_exit(&ring->uring);
	}
	close(ring->wake_fd);
	pthread_mutex_destroy(&ring->lock);
	free(ring);
}

void ring_read(struct ring *ring, struct ring_op *op, int fd, void *buf,
	       unsigned int len, int64_t off, bool idle)
{
	op->opcode = IORING_OP_READ;
	op->fd = fd;
	op->ptr = buf;
	op->len = len;
	op->off = off;
	op->idle = idle;
	submit(ring, op);
}

void ring_write(struct ring *ring, struct ring_op *op, int fd, const void *buf,
		unsigned int len, int64_t off, bool idle)
{
	op->opcode = IORING_OP_WRITE;
	op->fd = fd;
	op->ptr = buf;
	op->len = len;
	op->off = off;
	op->idle = idle;
	submit(ring, op);
}

void ring_openat(struct ring *ring, struct ring_op *op, int dirfd,
		 const char *path, int flags, mode_t mode)
{
	op->opcode = IORING_OP_OPENAT;
	op->fd = dirfd;
	op->ptr = path;
	op->flags = flags | O_CLOEXEC;
	op->mode = mode;
	op->idle = false;
	submit(ring, op);
}

void ring_fsync(struct ring *ring, struct ring_op *op, int fd, bool datasync)
{
	op->opcode = IORING_OP_FSYNC;
	op->fd = fd;
	op->flags = datasync ? IORING_FSYNC_DATASYNC : 0;
	op->idle = false;
	submit(ring, op);
}

void ring_unlinkat(struct ring *ring, struct ring_op *op, int dirfd,
		   const char *path, int flags)
{
	op->opcode = IORING_OP_UNLINKAT;
	op->fd = dirfd;
	op->ptr = path;
	op->flags = flags;
	op->idle = false;
	submit(ring, op);
}

static void forget(struct ring_op *op, int res)
{
	free(op);
}

void ring_close(struct ring *ring, struct ring_op *op, int fd)
{
	if (!op) {
		op = malloc(sizeof(*op));
		if (!op) {
			/* Better late than a leak. */
			close(fd);
			return;
		}
		op->done = forget;
	}
	op->opcode = IORING_OP_CLOSE;
	op->fd = fd;
	op->idle = false;
	submit(ring, op);
}

void ring_nop(struct ring *ring, struct ring_op *op)
{
	op->opcode = IORING_OP_NOP;
	op->idle = false;
	submit(ring, op);
}

void ring_pending(struct ring *ring, unsigned int *ret_n, int64_t *ret_oldest)
{
	int64_t oldest = 0;
	struct ring_op *op;

	pthread_mutex_lock(&ring->lock);
	*ret_n = ring->npending;
	if (!cds_list_empty(&ring->inflight)) {
		op = cds_list_first_entry(&ring->inflight, struct ring_op,
					  link);
		oldest = op->submitted;
	} else if (!cds_list_empty(&ring->waiting)) {
		op = cds_list_first_entry(&ring->waiting, struct ring_op, link);
		oldest = op->submitted;
	}
	pthread_mutex_unlock(&ring->lock);
	*ret_oldest = oldest ? monotonic_ns() - oldest : 0;
}
