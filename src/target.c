/* SPDX-License-Identifier: MIT */
/*
 * The gate before the targets' operations: what callers promise is asserted
 * before the call, what operations promise after it, in one place for all
 * kinds.
 *
 * Online is one atomic flag that every call looks at first. It is cleared by
 * who finds the medium gone, and set by a probe alone, after the identity was
 * read. A call that passed the flag just before it is cleared does no harm:
 * operations hold descriptors of the file system that was identified, so they
 * reach that one or fail; they cannot reach what is at the path now.
 *
 * One EIO does not make a target offline: with a bad sector, all other files
 * would fail for nothing, and with a dead disk each call fails by itself. It
 * makes the next probe read from the medium, which then decides. A healthy
 * target is probed by stat() of its path alone, so that its disk may sleep.
 *
 * Any call may hang with the disk below it, for ever, and there is no way to
 * call it back. So calls are counted while they last (target_watch.c), and
 * opening a known target is left to a thread that the mount waits for only so
 * long.
 */
#include "target_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "util.h"

#define TARGET_RING_ENTRIES 64

/* An operation that may block, between its marks. */
#define CALL(target, expr)                                                     \
	({                                                                     \
		struct target_call call_;                                      \
		__typeof__(expr) ret_;                                         \
                                                                               \
		target_call_begin(target, &call_);                             \
		ret_ = (expr);                                                 \
		target_call_end(target, &call_);                               \
		ret_;                                                          \
	})

#define checked(target, what, expr)                                            \
	target_checked(target, what, CALL(target, expr))

static void refresh_usage(struct target *target)
{
	struct target_usage usage;

	if (CALL(target, target->ops->usage(target, &usage)) == 0)
		target_usage_set(target, &usage);
}

/* probe_lock held. */
static int attach(struct target *target, char **ret_why)
{
	int ret;

	ret = CALL(target, target->ops->attach(target, ret_why));
	assert(ret <= 0);
	if (ret < 0)
		return ret;
	assert(target->uuid[0]);
	target_forget_failures(target);
	refresh_usage(target);
	atomic_fetch_add(&target->generation, 1);
	atomic_store(&target->online, true);
	return 0;
}

static struct target *target_alloc(const struct target_config *config)
{
	struct target *target = target_dir_alloc();

	if (!target)
		return NULL;
	pthread_mutex_init(&target->probe_lock, NULL);
	target_watch_init(target);
	target_set_patience(target, config->patience_ns);
	target->ops = &target_dir_ops;
	target->name = strdup(config->name);
	target->path = strdup(config->path);
	target->fsname = strdup(config->fsname);
	snprintf(target->front_uuid, sizeof(target->front_uuid), "%s",
		 config->front_uuid);
	snprintf(target->uuid, sizeof(target->uuid), "%s",
		 config->uuid ? config->uuid : "");
	if (!target->name || !target->path || !target->fsname) {
		target_close(target);
		return NULL;
	}
	return target;
}

static void *open_known(void *arg)
{
	struct target *target = arg;

	target_probe(target);
	pthread_mutex_lock(&target->lock);
	target->opening = false;
	pthread_cond_signal(&target->opened);
	pthread_mutex_unlock(&target->lock);
	return NULL;
}

/* By a thread of its own, for the disk may hang, and the mount must come up. It
 * is online as soon as that thread is through. */
static int wait_for_known(struct target *target)
{
	int64_t patience = atomic_load(&target->patience);
	struct timespec until = timespec_from_ns(monotonic_ns() + patience);
	bool in_time;
	int ret;

	target_set_offline(target, "it does not answer");
	target->opening = target->has_opener = true;
	ret = thread_start(&target->opener, "target-open", open_known, target);
	if (ret) {
		target->has_opener = false;
		return ret;
	}
	pthread_mutex_lock(&target->lock);
	while (target->opening &&
	       pthread_cond_timedwait(&target->opened, &target->lock, &until) !=
		       ETIMEDOUT)
		;
	in_time = !target->opening;
	pthread_mutex_unlock(&target->lock);
	if (in_time) {
		pthread_join(target->opener, NULL);
		target->has_opener = false;
	}
	return 0;
}

static int claim_new(struct target *target, char **ret_why)
{
	_cleanup_free_ char *why = NULL;
	int ret;

	pthread_mutex_lock(&target->probe_lock);
	ret = attach(target, &why);
	pthread_mutex_unlock(&target->probe_lock);
	if (ret < 0)
		*ret_why = steal_ptr(&why);
	return ret;
}

int target_open(const struct target_config *config, struct target **ret_target,
		char **ret_why)
{
	struct target *target;
	int ret;

	assert(config->name && config->path && config->fsname);
	assert(strlen(config->front_uuid) == TARGET_UUID_LEN - 1);
	assert(!config->uuid || strlen(config->uuid) == TARGET_UUID_LEN - 1);
	target = target_alloc(config);
	if (!target)
		return -ENOMEM;
	ret = ring_start(TARGET_RING_ENTRIES, &target->ring);
	if (ret < 0) {
		if (asprintf(ret_why, "%s: no io_uring: %s", config->path,
			     strerrordesc_np(-ret)) < 0)
			*ret_why = NULL;
		target_close(target);
		return ret;
	}
	ret = config->uuid ? wait_for_known(target)
			   : claim_new(target, ret_why);
	if (ret < 0) {
		target_close(target);
		return ret;
	}
	*ret_target = target;
	return 0;
}

void target_close(struct target *target)
{
	if (!target)
		return;
	if (target->has_opener)
		pthread_join(target->opener, NULL);
	/* Waits for what is under way. */
	ring_stop(target->ring);
	target->ops->detach(target);
	pthread_mutex_destroy(&target->probe_lock);
	pthread_mutex_destroy(&target->lock);
	pthread_cond_destroy(&target->opened);
	free(target->name);
	free(target->path);
	free(target->fsname);
	target->ops->free(target);
}

const char *target_name(const struct target *target)
{
	return target->name;
}

const char *target_path(const struct target *target)
{
	return target->path;
}

const char *target_uuid(const struct target *target)
{
	return target->uuid;
}

unsigned int target_caps(const struct target *target)
{
	return atomic_load(&((struct target *)target)->caps);
}

int target_probe(struct target *target)
{
	_cleanup_free_ char *why = NULL;
	int ret = 0;

	/* One that hangs must not hold up another thread as well. */
	if (pthread_mutex_trylock(&target->probe_lock))
		return -EALREADY;
	if (atomic_load(&target->online)) {
		/* What fails from here on is for the next probe. */
		bool medium = atomic_exchange(&target->suspect, false);

		ret = CALL(target, target->ops->check(target, medium, &why));
	} else {
		/* It went offline by itself: what is held may be stale. */
		target->ops->detach(target);
		ret = attach(target, &why);
	}
	if (ret < 0) {
		target_set_offline(target, why ? why : strerrordesc_np(-ret));
		target->ops->detach(target);
	} else {
		refresh_usage(target);
	}
	pthread_mutex_unlock(&target->probe_lock);
	return ret;
}

void target_object_path(struct target *target, uint64_t oid, char *buf,
			size_t len)
{
	target->ops->object_path(target, oid, buf, len);
}

/* -- background threads -------------------------------------------------- */

int target_create(struct target *target, uint64_t oid,
		  struct target_object **ret_object)
{
	int ret;

	assert(oid != 0);
	if (!target_online(target, NULL, 0))
		return -EIO;
	ret = checked(target, "creating an object",
		      target->ops->create(target, oid, ret_object));
	assert(ret || (*ret_object)->target == target);
	return ret;
}

int target_object_open(struct target *target, uint64_t oid,
		       struct target_object **ret_object)
{
	int ret;

	assert(oid != 0);
	if (!target_online(target, NULL, 0))
		return -EIO;
	ret = checked(target, "opening an object",
		      target->ops->open(target, oid, ret_object));
	assert(ret || (*ret_object)->target == target);
	return ret;
}

void target_object_close(struct target_object *object)
{
	if (!object)
		return;
	assert(atomic_load(&object->pending) == 0);
	object->target->ops->close(object);
}

int target_object_size(struct target_object *object, uint64_t *ret)
{
	struct target *target = object->target;

	if (!target_online(target, NULL, 0))
		return -EIO;
	return checked(target, "reading an object's size",
		       target->ops->size(object, ret));
}

int target_object_truncate(struct target_object *object, uint64_t size)
{
	struct target *target = object->target;

	assert(size <= INT64_MAX);
	if (!target_online(target, NULL, 0))
		return -EIO;
	return checked(target, "setting an object's size",
		       target->ops->truncate(object, size));
}

int target_object_reserve(struct target_object *object, uint64_t off,
			  uint64_t len)
{
	struct target *target = object->target;

	assert(len > 0 && off <= INT64_MAX - len);
	if (!target_online(target, NULL, 0))
		return -EIO;
	return checked(target, "allocating an object",
		       target->ops->reserve(object, off, len));
}

int target_object_write(struct target_object *object, const void *buf,
			size_t len, uint64_t off, bool idle)
{
	struct target *target = object->target;

	assert(len > 0 && off <= INT64_MAX - len);
	if (!target_online(target, NULL, 0))
		return -EIO;
	return checked(target, "writing an object",
		       target->ops->write(object, buf, len, off, idle));
}

int target_object_origin(struct target_object *object,
			 const struct target_origin *origin)
{
	struct target *target = object->target;

	if (!target_online(target, NULL, 0))
		return -EIO;
	return checked(target, "setting an object's origin",
		       target->ops->origin(object, origin));
}

int target_object_get_origin(struct target_object *object,
			     struct target_origin *ret, char *path, size_t len)
{
	struct target *target = object->target;

	assert(len > 0);
	if (!target_online(target, NULL, 0))
		return -EIO;
	/* Not checked(): a damaged one is no fault of the medium. */
	return target->ops->get_origin(object, ret, path, len);
}

int target_object_sync(struct target_object *object)
{
	struct target *target = object->target;
	int ret;

	if (!target_online(target, NULL, 0))
		return -EIO;
	ret = checked(target, "syncing an object", target->ops->sync(object));
	refresh_usage(target);
	return ret;
}

int64_t target_object_seek(struct target_object *object, uint64_t off,
			   int whence)
{
	struct target *target = object->target;
	int64_t ret;

	assert(off <= INT64_MAX);
	if (!target_online(target, NULL, 0))
		return -EIO;
	ret = CALL(target, target->ops->seek(object, off, whence));
	assert(ret >= (int64_t)off || (ret < 0 && ret > -4096));
	/* The end, which is no device's. */
	if (ret >= 0 || ret == -ENXIO)
		return ret;
	return target_checked(target, "looking for an object's holes", ret);
}

int target_batch_begin(struct target *target, struct target_batch **ret_batch)
{
	int ret;

	if (!target_online(target, NULL, 0))
		return -EIO;
	ret = checked(target, "opening the target",
		      target->ops->batch_begin(target, ret_batch));
	assert(ret || (*ret_batch)->target == target);
	return ret;
}

int target_batch_end(struct target_batch *batch)
{
	struct target *target = batch->target;
	bool online = target_online(target, NULL, 0);
	int ret;

	ret = checked(target, "syncing", target->ops->batch_end(batch));
	refresh_usage(target);
	return online ? ret : -EIO;
}

int target_sync(struct target *target)
{
	struct target_batch *batch;
	int ret;

	ret = target_batch_begin(target, &batch);
	return ret ? ret : target_batch_end(batch);
}

int target_delete(struct target *target, uint64_t oid)
{
	int ret;

	assert(oid != 0);
	if (!target_online(target, NULL, 0))
		return -EIO;
	ret = checked(target, "deleting an object",
		      target->ops->delete (target, oid));
	assert(ret != -ENOENT);
	refresh_usage(target);
	return ret;
}

int target_set_aside(struct target *target, uint64_t oid)
{
	assert(oid != 0);
	if (!target_online(target, NULL, 0))
		return -EIO;
	return checked(target, "moving an object aside",
		       target->ops->set_aside(target, oid));
}

int target_each(struct target *target,
		int (*fn)(void *arg, uint64_t oid, uint64_t size), void *arg)
{
	if (!target_online(target, NULL, 0))
		return -EIO;
	/* Not checked(): what fn returns is the caller's. */
	return target->ops->each(target, fn, arg);
}

/* -- asynchronous ---------------------------------------------------------- */

void target_io_done(struct target *target, struct target_io *io,
		    const char *what, int64_t res)
{
	assert(res > -4096);
	if (res < 0)
		res = target_checked(target, what, res);
	io->done(io, res);
}

static void refused(struct ring_op *op, int res)
{
	struct target_req *req = container_of(op, struct target_req, op);
	struct target_io *io = target_req_io(req);

	io->done(io, req->err);
}

/* The answer comes on the ring's thread, as any: the caller may hold locks. */
void target_io_refuse(struct target *target, struct target_io *io, int err)
{
	struct target_req *req = target_req(io);

	req->err = err;
	req->op.done = refused;
	ring_nop(target->ring, &req->op);
}

void target_open_async(struct target *target, uint64_t oid,
		       struct target_object **ret_object, struct target_io *io)
{
	assert(oid != 0 && io->done);
	if (target_online(target, NULL, 0))
		target->ops->open_async(target, oid, ret_object, io);
	else
		target_io_refuse(target, io, -EIO);
}

void target_read_async(struct target_object *object, void *buf, size_t len,
		       uint64_t off, bool idle, struct target_io *io)
{
	struct target *target = object->target;

	assert(io->done && len <= INT32_MAX && off <= INT64_MAX - len);
	if (target_online(target, NULL, 0))
		target->ops->read_async(object, buf, len, off, idle, io);
	else
		target_io_refuse(target, io, -EIO);
}

void target_write_async(struct target_object *object, const void *buf,
			size_t len, uint64_t off, bool idle,
			struct target_io *io)
{
	struct target *target = object->target;

	assert(io->done && len <= INT32_MAX && off <= INT64_MAX - len);
	if (target_online(target, NULL, 0))
		target->ops->write_async(object, buf, len, off, idle, io);
	else
		target_io_refuse(target, io, -EIO);
}

void target_object_close_async(struct target_object *object)
{
	if (!object)
		return;
	assert(atomic_load(&object->pending) == 0);
	object->target->ops->close_async(object);
}
