/* SPDX-License-Identifier: MIT */
/*
 * Copying between the front and an object.
 *
 * Durability is per batch: files are copied one after another, each by the
 * pipeline or, if small, by hand with few system calls, and one sync makes all
 * of them durable. What costs on a disk is the commit of its journal, not the
 * files in it. A batch is bounded, so that a crash or a failure costs no more
 * than some seconds' work. A file alone is synced by itself: others' data that
 * waits on the target is not its business.
 *
 * A small file goes through the page cache, as the file system then lays out
 * many of them together; writing starts at once, and the pages go when they
 * are written.
 *
 * The front's file is read without changing its access time. It may shrink
 * meanwhile behind the mount's back: that is noticed (-ESTALE). Other changes
 * are for the caller to exclude, by a lease.
 */
#include "mover.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "mover_pipe.h"
#include "util.h"

#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80 /* Linux 6.14 */
#endif

#define SMALL	    (1U << 20)
#define BATCH_FILES 8192
#define BATCH_BYTES (512U << 20)

_Static_assert(SMALL <= PIPE_CHUNK, "a small file fits in a buffer");

/* The front ended before what the caller knows as its size. */
static int check_size(int fd, uint64_t size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	return (uint64_t)st.st_size < size ? -ESTALE : 0;
}

/* Of a small file: whole blocks, for a descriptor may be O_DIRECT. */
static int read_front(int fd, char *buf, size_t len, size_t valid, uint64_t off)
{
	int flags = RWF_DONTCACHE;
	size_t got = 0;

	while (got < valid) {
		struct iovec iov = {.iov_base = buf + got,
				    .iov_len = len - got};
		ssize_t n = preadv2(fd, &iov, 1, off + got, flags);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && flags &&
		    (errno == EOPNOTSUPP || errno == EINVAL)) {
			flags = 0;
			continue;
		}
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ESTALE;
		got += n;
	}
	return 0;
}

static int small_data(struct pipe *pipe, struct target_object *object)
{
	bool idle = atomic_load(&pipe->ctl->idle);
	uint64_t off = 0, end = 0;
	char *buf = pipe->slots[0].buf;
	int ret = 0;

	pipe_hash_begin(pipe);
	while (!ret && pipe_next_data(pipe, end, &off, &end, &ret)) {
		size_t valid = min_t(uint64_t, end, pipe->size) - off;

		ret = read_front(pipe->from.fd, buf, end - off, valid, off);
		if (!ret)
			ret = target_object_write(object, buf, valid, off,
						  idle);
		if (!ret)
			ret = pipe_hash_zeros(pipe, off);
		if (!ret)
			pipe_hash_data(pipe, buf, valid);
	}
	if (ret)
		return ret;
	/* Ends with a hole, or is one. */
	if (pipe->hashed < pipe->size)
		ret = target_object_truncate(object, pipe->size);
	return ret ? ret : pipe_hash_zeros(pipe, pipe->size);
}

static int small(struct pipe *pipe, struct copy_out *file,
		 struct target_object *object)
{
	struct spill_sum sum;
	int ret;

	copy_limit_take(pipe->limit, file->size, file->ctl);
	ret = small_data(pipe, object);
	if (ret)
		return ret;
	pipe_hash_end(pipe, &sum);
	file->sum = sum;
	return 0;
}

static int large(struct pipe *pipe, struct copy_out *file)
{
	_cleanup_close_ int fd = -1;
	char proc[PROC_FD_LEN];

	/* A descriptor of its own: for the caller's, O_DIRECT might be a
	 * surprise. Opening to read breaks no lease for reading. */
	fd = open(proc_fd_path(file->front_fd, proc),
		  O_RDONLY | O_DIRECT | O_NOATIME | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		pipe->from.fd = fd;
	return pipe_copy(pipe, &file->sum);
}

static void turn_begin(const struct copy_env *env)
{
	if (env->mover)
		mover_turn_begin(env->mover, env->job);
}

static void turn_end(const struct copy_env *env)
{
	if (env->mover)
		mover_turn_end(env->mover, env->job);
}

/* Creates and fills the object. It is gone again on failure, if possible. */
static int copy_one(const struct copy_env *env, struct target *target,
		    struct copy_out *file, bool alone)
{
	struct pipe *pipe = pipe_get();
	struct target_object *object;
	int flags, ret;

	if (atomic_load(&file->ctl->cancelled))
		return -ECANCELED;
	if (!pipe)
		return -ENOMEM;
	flags = fcntl(file->front_fd, F_GETFL);
	if (!(flags & O_NOATIME))
		fcntl(file->front_fd, F_SETFL, flags | O_NOATIME);
	ret = target_create(target, file->oid, &object);
	if (ret)
		return ret;
	fault_point("copy-created");
	pipe->from = (struct pipe_end){.ring = env->front_ring,
				       .fd = file->front_fd};
	pipe->to = (struct pipe_end){.object = object};
	pipe->size = file->size;
	pipe->ctl = file->ctl;
	pipe->limit = env->limit;
	pipe->short_err = -ESTALE;
	if (file->size <= SMALL)
		ret = small(pipe, file, object);
	else
		ret = large(pipe, file);
	if (!ret)
		ret = check_size(file->front_fd, file->size);
	if (!ret)
		ret = target_object_origin(object, &file->origin);
	if (alone)
		turn_end(env);
	if (!ret && alone)
		ret = target_object_sync(object);
	target_object_close(object);
	if (ret)
		target_delete(target, file->oid);
	return ret;
}

static void copy_batch(const struct copy_env *env, struct target *target,
		       struct copy_out *files, size_t n)
{
	struct target_batch *batch;
	size_t i;
	int ret;

	ret = target_batch_begin(target, &batch);
	if (ret) {
		for (i = 0; i < n; i++)
			files[i].err = ret;
		return;
	}
	for (i = 0; i < n; i++)
		files[i].err = copy_one(env, target, &files[i], false);
	turn_end(env);
	ret = target_batch_end(batch);
	for (i = 0; ret && i < n; i++) {
		if (files[i].err)
			continue;
		files[i].err = ret;
		target_delete(target, files[i].oid);
	}
}

void copy_out(const struct copy_env *env, struct target *target,
	      struct copy_out *files, size_t n)
{
	while (n > 0) {
		uint64_t bytes = 0;
		size_t take = 0;

		while (take < n && take < BATCH_FILES && bytes < BATCH_BYTES)
			bytes += files[take++].size;
		turn_begin(env);
		if (take == 1)
			files->err = copy_one(env, target, files, true);
		else
			copy_batch(env, target, files, take);
		turn_end(env);
		files += take;
		n -= take;
	}
}

int copy_in(const struct copy_env *env, struct target_object *object,
	    int front_fd, uint64_t size, const struct spill_sum *sum,
	    struct copy_ctl *ctl)
{
	struct pipe *pipe = pipe_get();
	struct spill_sum got;
	int flags, ret;

	if (!pipe)
		return -ENOMEM;
	/* Not a second descriptor, as that would break a lease of the caller;
	 * nobody else uses one that is being filled. */
	flags = fcntl(front_fd, F_GETFL);
	fcntl(front_fd, F_SETFL, flags | O_DIRECT);
	pipe->from = (struct pipe_end){.object = object};
	pipe->to = (struct pipe_end){.ring = env->front_ring, .fd = front_fd};
	pipe->size = size;
	pipe->ctl = ctl;
	pipe->limit = env->limit;
	pipe->short_err = -EBADMSG;
	ret = pipe_copy(pipe, &got);
	fcntl(front_fd, F_SETFL, flags);
	if (ret)
		return ret;
	if (got.low != sum->low || got.high != sum->high)
		return -EBADMSG;
	return 0;
}

int copy_check(const struct copy_env *env, struct target_object *object,
	       uint64_t size, const struct spill_sum *sum, struct copy_ctl *ctl)
{
	struct pipe *pipe = pipe_get();
	struct spill_sum got;
	uint64_t has;
	int ret;

	if (!pipe)
		return -ENOMEM;
	ret = target_object_size(object, &has);
	if (!ret && has != size)
		ret = -EBADMSG;
	if (ret)
		return ret;
	pipe->from = (struct pipe_end){.object = object};
	pipe->to = (struct pipe_end){.nowhere = true};
	pipe->size = size;
	pipe->ctl = ctl;
	pipe->limit = env->limit;
	pipe->short_err = -EBADMSG;
	ret = pipe_copy(pipe, &got);
	if (!ret && (got.low != sum->low || got.high != sum->high))
		ret = -EBADMSG;
	return ret;
}
