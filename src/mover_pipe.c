/* SPDX-License-Identifier: MIT */
/*
 * The pipeline of one file: read, hash, write, overlapped.
 *
 * A few slots with a buffer each go round: a slot is read into, waits for its
 * turn to be hashed (the checksum is of the bytes in order), is written, and
 * is free again. The worker alone decides; completions only say "done" and
 * wake it. So the slower side always has several operations to do, which is
 * what keeps a disk streaming, and the hash costs no time of its own.
 *
 * All I/O is of whole blocks, at multiples of TARGET_ALIGN, so that it may be
 * O_DIRECT: the last block is padded with zeros, and cut off at the end. The
 * target file has its (rounded) size from the start: a write that extends a
 * file is not done in parallel with others. Longer stretches of data are
 * reserved, which keeps them together whatever order the writes come in, and
 * lets a full disk say so before the work.
 *
 * Nothing is durable here, and nothing needs to be after a failure: the
 * caller discards what was written.
 */
#include "mover_pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util.h"

#define ZEROS	(256U << 10)
/* What the background reads of the front at once. */
#define IDLE_IO (1U << 20)

static const char zeros[ZEROS];

static pthread_key_t pipe_key;
static pthread_once_t pipe_once = PTHREAD_ONCE_INIT;

static uint64_t round_up(uint64_t n)
{
	return (n + TARGET_ALIGN - 1) / TARGET_ALIGN * TARGET_ALIGN;
}

static void pipe_free(void *arg)
{
	struct pipe *pipe = arg;

	munmap(pipe->bufs, PIPE_DEPTH * PIPE_CHUNK);
	XXH3_freeState(pipe->hash);
	pthread_mutex_destroy(&pipe->lock);
	pthread_cond_destroy(&pipe->cond);
	free(pipe);
}

static void make_key(void)
{
	if (pthread_key_create(&pipe_key, pipe_free) != 0)
		abort();
}

struct pipe *pipe_get(void)
{
	struct pipe *pipe;

	pthread_once(&pipe_once, make_key);
	pipe = pthread_getspecific(pipe_key);
	if (pipe)
		return pipe;
	pipe = calloc(1, sizeof(*pipe));
	if (!pipe)
		return NULL;
	pipe->hash = XXH3_createState();
	pipe->bufs = mmap(NULL, PIPE_DEPTH * PIPE_CHUNK, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!pipe->hash || pipe->bufs == MAP_FAILED) {
		if (pipe->bufs != MAP_FAILED)
			munmap(pipe->bufs, PIPE_DEPTH * PIPE_CHUNK);
		XXH3_freeState(pipe->hash);
		free(pipe);
		return NULL;
	}
	/* Fewer and larger pieces for the block layer. */
	madvise(pipe->bufs, PIPE_DEPTH * PIPE_CHUNK, MADV_HUGEPAGE);
	pthread_mutex_init(&pipe->lock, NULL);
	pthread_cond_init(&pipe->cond, NULL);
	for (unsigned int i = 0; i < PIPE_DEPTH; i++) {
		pipe->slots[i].pipe = pipe;
		pipe->slots[i].buf = pipe->bufs + (size_t)i * PIPE_CHUNK;
	}
	if (pthread_setspecific(pipe_key, pipe) != 0) {
		pipe_free(pipe);
		return NULL;
	}
	return pipe;
}

/* -- the checksum ---------------------------------------------------------- */

void pipe_hash_begin(struct pipe *pipe)
{
	XXH3_128bits_reset(pipe->hash);
	pipe->hashed = 0;
}

void pipe_hash_data(struct pipe *pipe, const void *buf, size_t len)
{
	XXH3_128bits_update(pipe->hash, buf, len);
	pipe->hashed += len;
	atomic_fetch_add(&pipe->ctl->done, len);
}

int pipe_hash_zeros(struct pipe *pipe, uint64_t until)
{
	while (pipe->hashed < until) {
		if (atomic_load(&pipe->ctl->cancelled))
			return -ECANCELED;
		pipe_hash_data(pipe, zeros,
			       min_t(uint64_t, until - pipe->hashed, ZEROS));
	}
	return 0;
}

void pipe_hash_end(struct pipe *pipe, struct spill_sum *ret)
{
	XXH128_hash_t hash = XXH3_128bits_digest(pipe->hash);

	ret->low = hash.low64;
	ret->high = hash.high64;
}

/* -- the ends -------------------------------------------------------------- */

static int64_t end_seek(const struct pipe_end *end, uint64_t off, int whence)
{
	off_t ret;

	if (end->object)
		return target_object_seek(end->object, off, whence);
	ret = lseek(end->fd, off, whence);
	return ret < 0 ? -errno : ret;
}

static int end_truncate(const struct pipe_end *end, uint64_t size)
{
	if (end->nowhere)
		return 0;
	if (end->object)
		return target_object_truncate(end->object, size);
	return ftruncate(end->fd, size) < 0 ? -errno : 0;
}

static int end_reserve(const struct pipe_end *end, uint64_t off, uint64_t len)
{
	if (end->nowhere)
		return 0;
	if (end->object)
		return target_object_reserve(end->object, off, len);
	if (fallocate(end->fd, FALLOC_FL_KEEP_SIZE, off, len) < 0 &&
	    errno != EOPNOTSUPP)
		return -errno;
	return 0;
}

static void slot_done(struct pipe_slot *slot, int64_t res)
{
	struct pipe *pipe = slot->pipe;

	pthread_mutex_lock(&pipe->lock);
	slot->res = res;
	slot->done = true;
	pthread_cond_signal(&pipe->cond);
	pthread_mutex_unlock(&pipe->lock);
}

static void front_done(struct ring_op *op, int res)
{
	slot_done(container_of(op, struct pipe_slot, op), res);
}

static void object_done(struct target_io *io, int64_t res)
{
	slot_done(container_of(io, struct pipe_slot, io), res);
}

/* Starts, or goes on with, what state says. */
static void slot_start(struct pipe_slot *slot, enum slot_state state)
{
	struct pipe *pipe = slot->pipe;
	bool write = state == SLOT_WRITING;
	struct pipe_end *end = write ? &pipe->to : &pipe->from;
	bool idle = atomic_load(&pipe->ctl->idle);
	char *buf = slot->buf + slot->moved;
	uint32_t len = slot->len - slot->moved;
	uint64_t off = slot->off + slot->moved;

	slot->state = state;
	slot->op.done = front_done;
	slot->io.done = object_done;
	if (end->object && write)
		target_write_async(end->object, buf, len, off, idle, &slot->io);
	else if (end->object)
		target_read_async(end->object, buf, len, off, idle, &slot->io);
	else if (write)
		ring_write(end->ring, &slot->op, end->fd, buf, len, off, idle);
	else
		ring_read(end->ring, &slot->op, end->fd, buf, len, off, idle);
}

/* -- the worker ------------------------------------------------------------ */

bool pipe_next_data(struct pipe *pipe, uint64_t pos, uint64_t *ret_off,
		    uint64_t *ret_end, int *ret_err)
{
	int64_t data, hole;

	if (pos >= pipe->size)
		return false;
	data = end_seek(&pipe->from, pos, SEEK_DATA);
	if (data == -ENXIO)
		return false;
	hole = data < 0 ? data : end_seek(&pipe->from, data, SEEK_HOLE);
	if (data == -EINVAL || data == -EOPNOTSUPP) {
		/* Knows no holes: all is data. */
		data = pos;
		hole = pipe->size;
	}
	if (hole == -ENXIO || data == -ENXIO) {
		/* Cut off between the two calls. */
		*ret_err = pipe->short_err;
		return false;
	}
	if (data < 0 || hole < 0) {
		*ret_err = data < 0 ? data : hole;
		return false;
	}
	if ((uint64_t)data >= pipe->size)
		return false;
	/* Punched between the two calls, or not there any more because a page
	 * of zeros was written back: it can be read all the same. */
	hole = max_t(int64_t, hole, data + 1);
	data -= data % TARGET_ALIGN;
	*ret_off = max_t(uint64_t, data, pos);
	*ret_end = min_t(uint64_t, round_up(hole), round_up(pipe->size));
	return true;
}

/*
 * The background's way to read from the front: one piece at a time. A client's
 * read there comes behind that, where it came behind four chunks for each of two
 * files. With both disks on a real one, busy with others, the 99th percentile of
 * random reads was 1.4 to 2.8 times what it is without copying, and is 0.7 to
 * 0.8; with disks in memory, whose I/O takes CPU time, it is several times still.
 * The writes under way keep the target busy meanwhile. Pieces of a quarter of
 * this cost twice the CPU time of chunks, by the ring as well.
 */
static int read_here(struct pipe_slot *slot)
{
	struct pipe *pipe = slot->pipe;
	ssize_t n = 1;

	thread_idle_io(true);
	while (slot->moved < slot->valid) {
		n = pread(pipe->from.fd, slot->buf + slot->moved,
			  min_t(uint32_t, slot->len - slot->moved, IDLE_IO),
			  slot->off + slot->moved);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		slot->moved += n;
		/* O_DIRECT goes on at a block: this was the end of the file. */
		if (n % TARGET_ALIGN && slot->moved < slot->valid)
			n = 0;
		if (n == 0)
			break;
	}
	thread_idle_io(false);
	if (n <= 0)
		return n < 0 ? -errno : pipe->short_err;
	slot->state = SLOT_READY;
	return 0;
}

/* Starts to read the next chunk, or sets eof. */
static int read_next(struct pipe *pipe)
{
	struct pipe_slot *slot = &pipe->slots[pipe->next_read % PIPE_DEPTH];
	int err = 0;

	if (pipe->pos >= pipe->end) {
		if (!pipe_next_data(pipe, pipe->pos, &pipe->pos, &pipe->end,
				    &err)) {
			pipe->eof = true;
			return err;
		}
		if (pipe->end - pipe->pos > PIPE_CHUNK)
			err = end_reserve(&pipe->to, pipe->pos,
					  pipe->end - pipe->pos);
		if (err)
			return err;
	}
	slot->off = pipe->pos;
	slot->len = min_t(uint64_t, pipe->end - pipe->pos, PIPE_CHUNK);
	slot->valid = min_t(uint64_t, pipe->size - pipe->pos, slot->len);
	slot->moved = 0;
	copy_limit_take(pipe->limit, slot->valid, pipe->ctl);
	if (atomic_load(&pipe->ctl->cancelled))
		return -ECANCELED;
	if (!pipe->from.object && atomic_load(&pipe->ctl->idle))
		err = read_here(slot);
	else
		slot_start(slot, SLOT_READING);
	if (err)
		return err;
	pipe->pos += slot->len;
	pipe->next_read++;
	pipe->busy++;
	return 0;
}

/* Hashes what is next in order, if it is there, and starts to write it. */
static int hash_next(struct pipe *pipe, bool *ret_moved)
{
	struct pipe_slot *slot = &pipe->slots[pipe->next_hash % PIPE_DEPTH];
	int ret;

	if (pipe->next_hash == pipe->next_read || slot->state != SLOT_READY)
		return 0;
	ret = pipe_hash_zeros(pipe, slot->off);
	if (ret < 0)
		return ret;
	memset(slot->buf + slot->valid, 0, slot->len - slot->valid);
	slot->moved = 0;
	if (!pipe->to.nowhere)
		slot_start(slot, SLOT_WRITING);
	/* The buffer is only read, by both. */
	pipe_hash_data(pipe, slot->buf, slot->valid);
	if (pipe->to.nowhere) {
		slot->state = SLOT_FREE;
		pipe->busy--;
	}
	pipe->next_hash++;
	*ret_moved = true;
	return 0;
}

/* One operation ended. After an error nothing new is started. */
static int slot_ended(struct pipe_slot *slot, int64_t res, bool failed)
{
	struct pipe *pipe = slot->pipe;
	bool reading = slot->state == SLOT_READING;
	uint32_t want = reading ? slot->valid : slot->len;
	uint32_t before = slot->moved;

	if (res == -EINTR || res == -EAGAIN)
		res = 0;
	else if (res == 0)
		res = reading ? pipe->short_err : -EIO;
	if (res > 0)
		slot->moved += res;
	if (res >= 0 && slot->moved < want && !failed) {
		/* O_DIRECT goes on at a block. */
		slot->moved -= slot->moved % TARGET_ALIGN;
		if (res == 0 || slot->moved > before) {
			slot_start(slot, slot->state);
			return 0;
		}
		/* Stopped within a block: the end of the file or of room. */
		res = reading ? pipe->short_err : -ENOSPC;
	}
	if (res >= 0 && reading && !failed) {
		slot->state = SLOT_READY;
		return 0;
	}
	slot->state = SLOT_FREE;
	pipe->busy--;
	return res < 0 ? res : 0;
}

/* Waits for at least one operation to end, and takes in all that have. */
static int await(struct pipe *pipe, bool failed)
{
	bool done[PIPE_DEPTH];
	unsigned int i, n = 0;
	int ret = 0;

	pthread_mutex_lock(&pipe->lock);
	for (;;) {
		for (i = 0; i < PIPE_DEPTH; i++) {
			done[i] = pipe->slots[i].done;
			pipe->slots[i].done = false;
			n += done[i];
		}
		if (n > 0)
			break;
		pthread_cond_wait(&pipe->cond, &pipe->lock);
	}
	pthread_mutex_unlock(&pipe->lock);
	for (i = 0; i < PIPE_DEPTH; i++) {
		struct pipe_slot *slot = &pipe->slots[i];
		int err;

		if (!done[i])
			continue;
		err = slot_ended(slot, slot->res, failed || ret);
		if (!ret)
			ret = err;
	}
	return ret;
}

/* Frees what is read and will not be written, after an error. */
static void drop_ready(struct pipe *pipe)
{
	for (unsigned int i = 0; i < PIPE_DEPTH; i++) {
		if (pipe->slots[i].state != SLOT_READY)
			continue;
		pipe->slots[i].state = SLOT_FREE;
		pipe->busy--;
	}
}

static int run(struct pipe *pipe)
{
	int err = 0, ret;

	for (;;) {
		bool moved = false;

		if (!err && atomic_load(&pipe->ctl->cancelled))
			err = -ECANCELED;
		if (!err)
			err = hash_next(pipe, &moved);
		if (!err && !pipe->eof &&
		    pipe->slots[pipe->next_read % PIPE_DEPTH].state ==
			    SLOT_FREE) {
			err = read_next(pipe);
			moved = true;
		}
		if (err)
			drop_ready(pipe);
		else if (moved)
			continue;
		if (pipe->busy == 0)
			return err;
		ret = await(pipe, err != 0);
		if (!err)
			err = ret;
	}
}

int pipe_copy(struct pipe *pipe, struct spill_sum *ret_sum)
{
	int ret;

	pipe->pos = pipe->end = 0;
	pipe->eof = false;
	pipe->next_read = pipe->next_hash = pipe->busy = 0;
	pipe_hash_begin(pipe);
	ret = end_truncate(&pipe->to, round_up(pipe->size));
	if (!ret)
		ret = run(pipe);
	if (!ret)
		ret = pipe_hash_zeros(pipe, pipe->size);
	if (!ret && pipe->size % TARGET_ALIGN)
		ret = end_truncate(&pipe->to, pipe->size);
	if (!ret)
		pipe_hash_end(pipe, ret_sum);
	return ret;
}
