/* SPDX-License-Identifier: MIT */
/*
 * Where the data of a file in use comes from.
 *
 * A struct tier_src is one source: the front's file (descriptors opened when
 * first needed) or an object (opened on the target's ring, for opening a file
 * can wake a disk; begun when the file is opened, so that the first read finds it
 * under way). The file refers to its current source, each
 * request under way to the one it began with. A restore replaces the file's
 * source; requests on the old one finish there, which is as good: a source's
 * contents never change while it is remote, and object and restored file are
 * the same bytes.
 *
 * Reads that come while the object is being opened queue on the source and are
 * submitted by the completion of the open.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "cleanup.h"
#include "tier_impl.h"
#include "util.h"

struct tier_src *tier_src_local(struct tier *tier)
{
	struct tier_src *src = calloc(1, sizeof(*src));

	if (!src)
		return NULL;
	src->tier = tier;
	atomic_store(&src->refs, 1);
	src->fd_read = src->fd_write = -1;
	CDS_INIT_LIST_HEAD(&src->reads);
	CDS_INIT_LIST_HEAD(&src->flying);
	CDS_INIT_LIST_HEAD(&src->held);
	CDS_INIT_LIST_HEAD(&src->kept);
	pthread_mutex_init(&src->lock, NULL);
	return src;
}

struct tier_src *tier_src_remote(struct tier *tier, const struct spill_copy *c,
				 uint64_t size, const struct spill_sum *sum)
{
	struct tier_src *src = tier_src_local(tier);

	if (!src)
		return NULL;
	src->remote = true;
	src->target = tier_target(tier, c->target);
	src->target_number = c->target;
	src->oid = c->oid;
	src->size = size;
	src->sum = *sum;
	if (src->target)
		src->generation = target_generation(src->target);
	return src;
}

/* The target went and came back: what was opened before is dead. */
static bool src_outdated(struct tier_src *src)
{
	return src->remote && src->target &&
	       src->generation != target_generation(src->target);
}

void tier_src_get(struct tier_src *src)
{
	atomic_fetch_add(&src->refs, 1);
}

void tier_src_put(struct tier_src *src)
{
	if (atomic_fetch_sub(&src->refs, 1) != 1)
		return;
	if (src->fd_read >= 0)
		close(src->fd_read);
	if (src->fd_write >= 0)
		close(src->fd_write);
	if (src->object)
		target_object_close_async(src->object);
	if (src->is_stale)
		tier_stale_add(src->tier, &src->stale);
	tier_verify_end(src);
	pthread_mutex_destroy(&src->lock);
	free(src);
}

int tier_file_src(struct tier_file *file, struct tier_src **ret)
{
	if (file->src && src_outdated(file->src)) {
		tier_src_put(file->src);
		file->src = NULL;
	}
	if (!file->src) {
		if (tier_is_stub(file->ea.state))
			file->src = tier_src_remote(
				file->tier, &file->ea.copies[0],
				tier_object_size(file), &file->ea.sum);
		else
			file->src = tier_src_local(file->tier);
		if (!file->src)
			return -ENOMEM;
	}
	*ret = file->src;
	return 0;
}

int tier_src_fd(struct tier_src *src, struct node *node, bool write)
{
	int fd;

	if (src->fd_write >= 0)
		return src->fd_write;
	if (!write && src->fd_read >= 0)
		return src->fd_read;
	fd = node_open(node, write ? O_RDWR : O_RDONLY);
	if (fd == -EPERM && write) /* append-only (chattr +a) */
		fd = node_open(node, O_RDWR | O_APPEND);
	if (fd < 0)
		return fd;
	/* The other one stays: requests under way may have borrowed it. */
	if (write)
		src->fd_write = fd;
	else
		src->fd_read = fd;
	return fd;
}

int tier_data_get(struct tier *tier, struct node *node, bool write,
		  struct tier_data *ret)
{
	struct tier_src *src;
	int fd = -EREMOTE, err;

	pthread_mutex_lock(&node->lock);
	err = tier_file_src(node->file, &src);
	if (!err && !src->remote)
		fd = tier_src_fd(src, node, write);
	if (!err && fd >= 0) {
		tier_src_get(src);
		ret->src = src;
		ret->fd = fd;
		ret->writable = fd == src->fd_write;
	}
	pthread_mutex_unlock(&node->lock);
	if (err)
		return err;
	return fd < 0 ? fd : 0;
}

void tier_data_put(struct tier_data *data)
{
	tier_src_put(data->src);
}

/* ---- reading in place ------------------------------------------------- */

/* With what the log says over what the object has. */
static void drop_view(struct tier_read *read)
{
	if (read->view)
		delta_view_free(read->view);
	free(read->view);
	read->view = NULL;
}

static int64_t read_merge(struct tier_read *read, int64_t res)
{
	struct delta_view *view = read->view;

	if (res >= 0 && (uint64_t)res < view->need_len)
		res = -EIO;
	if (res >= 0) {
		delta_view_apply(view, read->buf);
		res = (int64_t)view->len;
	}
	drop_view(read);
	return res;
}

void tier_read_finish(struct tier_read *read, int64_t res)
{
	if (read->view)
		res = read_merge(read, res);
	tier_src_put(read->src);
	read->done(read, res);
}

static void read_done(struct target_io *io, int64_t res)
{
	struct tier_read *read = container_of(io, struct tier_read, io);

	tier_verify_done(read, res < 0 ? -EIO : res);
}

static void read_submit(struct tier_read *read)
{
	char *buf = read->buf;
	size_t len = read->len;
	uint64_t off = read->off;

	if (read->view) {
		len = read->view->need_len;
		off = read->view->need_off;
		buf += off - read->off;
	}
	read->io.done = read_done;
	read->obj_buf = buf;
	read->obj_len = len;
	read->obj_off = off;
	tier_verify_begin(read);
	target_read_async(read->src->object, buf, len, off, false, &read->io);
}

static void open_done(struct target_io *io, int64_t res)
{
	struct tier_src *src = container_of(io, struct tier_src, io);
	struct tier_read *read, *next;
	CDS_LIST_HEAD(list);

	pthread_mutex_lock(&src->lock);
	src->opening = false;
	cds_list_splice(&src->reads, &list);
	CDS_INIT_LIST_HEAD(&src->reads);
	pthread_mutex_unlock(&src->lock);
	/* A failure is not kept: the next read opens again. */
	cds_list_for_each_entry_safe (read, next, &list, link) {
		if (res == -ENOENT)
			tier_verify_missing(read);
		if (res < 0)
			tier_read_finish(read, -EIO);
		else
			read_submit(read);
	}
	tier_src_put(src);
}

/* opening is set, by the caller. */
static void src_open(struct tier_src *src)
{
	tier_src_get(src);
	src->io.done = open_done;
	target_open_async(src->target, src->oid, &src->object, &src->io);
}

/* Does a read of it get an answer of the target's, or fail at once? */
static bool can_read(struct tier_src *src)
{
	return src->target && !atomic_load(&src->damaged) &&
	       target_online(src->target, NULL, 0);
}

static void read_remote(struct tier_read *read)
{
	struct tier_src *src = read->src;
	bool open = false, submit = false;

	if (!can_read(src)) {
		tier_read_finish(read, -EIO);
		return;
	}
	pthread_mutex_lock(&src->lock);
	if (src->opening || !src->object) {
		open = !src->opening;
		src->opening = true;
		cds_list_add_tail(&read->link, &src->reads);
	} else {
		submit = true;
	}
	pthread_mutex_unlock(&src->lock);
	if (submit)
		read_submit(read);
	else if (open)
		src_open(src);
}

/* May the object be read for who asks? node->lock held. */
static int ask_leave(struct tier_file *file, struct tier_read *read,
		     struct tier_src *src)
{
	int ret;

	if (read->view && !read->view->need_len) {
		/* All of it is in the log. */
		if (!read->who || read->who->action == RECALL_RESTORE)
			tier_count_read(file, read->who);
		return 0;
	}
	ret = tier_may_read(file, read->who, can_read(src));
	read->kept_off = ret != 0;
	if (ret)
		drop_view(read);
	return ret;
}

void tier_read(struct tier *tier, struct node *node, struct tier_read *read)
{
	struct tier_src *src;
	ssize_t n;
	int fd = -1, err;

	read->view = NULL;
	read->kept_off = false;
	pthread_mutex_lock(&node->lock);
	err = tier_file_src(node->file, &src);
	if (!err && !src->remote) {
		fd = tier_src_fd(src, node, false);
		err = fd < 0 ? fd : 0;
	} else if (!err && node->file->ea.state == SPILL_DIRTY) {
		/* Now: the log may be gone when the object's part is there. */
		err = tier_dirty_view(node->file, read);
	}
	if (!err && src->remote)
		err = ask_leave(node->file, read, src);
	if (!err) {
		tier_src_get(src);
		read->src = src;
		read->node = node;
	}
	if (!err && src->remote && tier_damaged(node)) {
		atomic_store(&src->damaged, true);
		tier_damage_again(node->file);
	}
	pthread_mutex_unlock(&node->lock);
	if (err) {
		read->done(read, err);
	} else if (read->view && !read->view->need_len) {
		tier_read_finish(read, 0);
	} else if (src->remote) {
		read_remote(read);
	} else {
		/* Restored since the caller looked. */
		n = pread(fd, read->buf, read->len, (off_t)read->off);
		tier_read_finish(read, n < 0 ? -errno : n);
	}
}

/* ---- seeking ---------------------------------------------------------- */

struct seek_job {
	struct mover_job job;
	struct tier *tier;
	struct spill_copy copy;
	uint64_t size;
	struct tier_seek *seek;
};

static void seek_run(struct mover_job *job)
{
	struct seek_job *sj = container_of(job, struct seek_job, job);
	struct target *target = tier_target(sj->tier, sj->copy.target);
	struct target_object *object;
	int64_t res = -EINTR;

	if (!atomic_load(&job->ctl.cancelled)) {
		res = target ? target_object_open(target, sj->copy.oid, &object)
			     : -EIO;
		if (!res) {
			res = target_object_seek(object, sj->seek->off,
						 sj->seek->whence);
			target_object_close(object);
		}
	}
	sj->seek->done(sj->seek, res);
}

static void seek_free(struct mover_job *job)
{
	free(job->path);
	free(container_of(job, struct seek_job, job));
}

static int seek_queue(struct tier *tier, const struct spill_ea *ea,
		      struct tier_seek *seek)
{
	struct seek_job *sj = calloc(1, sizeof(*sj));
	int ret;

	if (!sj)
		return -ENOMEM;
	sj->tier = tier;
	sj->copy = ea->copies[0];
	sj->size = ea->size;
	sj->seek = seek;
	sj->job.refs = 1;
	sj->job.op = "seek";
	sj->job.prio = MOVER_RECALL;
	sj->job.lane = ea->copies[0].target + 1u;
	sj->job.order = ea->copies[0].oid;
	sj->job.run = seek_run;
	sj->job.free = seek_free;
	ret = mover_submit(tier->parts.mover, &sj->job, NULL);
	if (ret)
		free(sj);
	return ret;
}

void tier_seek(struct tier *tier, struct node *node, struct tier_seek *seek)
{
	struct tier_file *file;
	struct spill_ea ea;
	bool ask = false;
	int64_t res;

	res = tier_file_lock(tier, node, &file);
	if (!res) {
		ea = file->ea;
		ea.size = tier_stub_size(file);
		/* Holes of the object are not looked for under a log. */
		if (ea.state == SPILL_DIRTY)
			ea.blocks = ea.size / 512 + 1;
		tier_file_unlock(file);
		if (!tier_is_stub(ea.state))
			res = -EAGAIN;
		else if (seek->off >= ea.size)
			res = -ENXIO;
		else if (ea.blocks * 512 >= ea.size ||
			 tier_kept_off(tier, seek->who))
			/* No room for a hole: the disk need not be asked. */
			res = seek->whence == SEEK_DATA ? (int64_t)seek->off
							: (int64_t)ea.size;
		else
			ask = true;
	}
	if (ask) {
		res = seek_queue(tier, &ea, seek);
		if (!res)
			return;
	}
	seek->done(seek, res);
}
