/* SPDX-License-Identifier: MIT */

/*
 * Data that does not pass through: files opened in place, and everything where
 * there is no passthrough.
 *
 * A read in place is handed to the target's ring and answered from its
 * completion; no thread waits. The buffer lives until then, even if the client
 * was interrupted and answered. A handle opened in place goes on by the front's
 * file as soon as the file is restored: tier_data_get() decides at each request.
 */

#include "fs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

/* copy_file_range(2) cannot be interrupted: in pieces it can. */
#define COPY_MAX (16 << 20)

/* ---- in place ---------------------------------------------------------------- */

struct fs_inplace {
	struct fs_park park;
	struct node *node;
	int64_t res;

	/* read */
	struct tier_read read;
	size_t skip, size; /* what the client wants of the buffer */

	struct tier_seek seek;
	void (*reply)(struct fs_inplace *op);
};

static void inplace_free(struct fs_park *park)
{
	struct fs_inplace *op = container_of(park, struct fs_inplace, park);

	node_unref(op->node);
	free(op->read.buf);
	free(op);
}

static struct fs_inplace *inplace_new(fuse_req_t req, struct node *node,
				      void (*reply)(struct fs_inplace *op))
{
	struct fs_inplace *op = calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->park.fs = fs_of(req);
	op->park.req = req;
	op->park.free = inplace_free;
	op->park.node = op->node = node_ref(node);
	op->reply = reply;
	fs_park_begin(&op->park);
	return op;
}

static void inplace_next(struct fs_inplace *op, enum fs_park_next next)
{
	struct fs *fs;

	if (next == PARK_LEAVE)
		return;
	fs = op->park.fs;
	if (next == PARK_GO) {
		if (op->res < 0)
			fs_reply_err(op->park.req, op->res);
		else
			op->reply(op);
	}
	inplace_free(&op->park);
	fs_park_answered(fs, next == PARK_GO);
}

static void inplace_done(struct fs_inplace *op, int64_t res)
{
	op->res = res;
	inplace_next(op, fs_park_done(&op->park));
}

static void read_done(struct tier_read *read, int64_t res)
{
	inplace_done(container_of(read, struct fs_inplace, read), res);
}

static void read_reply(struct fs_inplace *op)
{
	size_t got = op->res > (int64_t)op->skip ? op->res - op->skip : 0;

	fuse_reply_buf(op->park.req, (char *)op->read.buf + op->skip,
		       min_t(size_t, got, op->size));
}

/* The front updates the stub's atime as it does for any read: by its own
 * rules (relatime), and without a change of ctime. */
static void touch_atime(struct fs *fs, struct node *node)
{
	_cleanup_close_ int fd = -1;
	char byte;

	if (atomic_load(&fs->no_atime))
		return;
	fd = node_open(node, O_RDONLY | O_NONBLOCK);
	if (fd >= 0 && read(fd, &byte, 1) < 0)
		return; /* only a time */
}

static void read_in_place(fuse_req_t req, struct node *node, size_t size,
			  off_t off, const struct fuse_file_info *fi)
{
	const struct tier_who who = fs_handle_who(req, fi->fh, fi->flags);
	uint64_t start = off & ~(uint64_t)(TARGET_ALIGN - 1);
	struct fs_inplace *op = inplace_new(req, node, read_reply);

	if (!op) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	op->skip = off - start;
	op->size = size;
	op->read.len = (op->skip + size + TARGET_ALIGN - 1) &
		       ~(size_t)(TARGET_ALIGN - 1);
	op->read.off = start;
	op->read.done = read_done;
	op->read.who = &who;
	if (posix_memalign(&op->read.buf, TARGET_ALIGN, op->read.len)) {
		op->read.buf = NULL;
		inplace_free(&op->park);
		fuse_reply_err(req, ENOMEM);
		return;
	}
	tier_read(fs_tier(req), node, &op->read);
	/* While the target reads; not answered before the request is armed. */
	if (start == 0 && !(fi->flags & O_NOATIME) && !op->read.kept_off)
		touch_atime(op->park.fs, node);
	inplace_next(op, fs_park_arm(&op->park));
}

static void seek_done(struct tier_seek *seek, int64_t res)
{
	inplace_done(container_of(seek, struct fs_inplace, seek), res);
}

static void seek_reply(struct fs_inplace *op)
{
	fuse_reply_lseek(op->park.req, op->res);
}

static void seek_in_place(fuse_req_t req, struct node *node, off_t off,
			  int whence, uint64_t fh)
{
	const struct tier_who who = fs_handle_who(req, fh, fs_handle_flags(fh));
	struct fs_inplace *op = inplace_new(req, node, seek_reply);

	if (!op) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	op->seek.done = seek_done;
	op->seek.off = off;
	op->seek.whence = whence;
	op->seek.who = &who;
	tier_seek(fs_tier(req), node, &op->seek);
	inplace_next(op, fs_park_arm(&op->park));
}

/* ---- on the front ---------------------------------------------------------- */

/* Replies with what the page cache has, right into the request's ring entry.
 * False: not all of it is there. */
static bool read_cached(fuse_req_t req, const struct tier_data *data,
			size_t size, off_t off)
{
	struct iovec iov = {.iov_len = size};
	char *payload;
	struct stat st;
	size_t room;
	ssize_t got;

	if (fuse_req_get_payload(req, &payload, &room, NULL) || room < size)
		return false;
	iov.iov_base = payload;
	got = preadv2(data->fd, &iov, 1, off, RWF_NOWAIT);
	if (got < 0 || ((size_t)got < size &&
			(fstat(data->fd, &st) < 0 || off + got < st.st_size)))
		return false;
	fuse_reply_buf(req, payload, (size_t)got);
	return true;
}

void fs_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	     struct fuse_file_info *fi)
{
	struct node *node = fs_node(req, ino);
	struct fuse_bufvec buf = FUSE_BUFVEC_INIT(size);
	_cleanup_close_ int own = -1;
	struct tier_data data;
	int err;

	fs_turn_data(req);
	err = tier_data_get(fs_tier(req), node, false, &data);
	if (err == -EREMOTE) {
		read_in_place(req, node, size, off, fi);
		return;
	}
	if (err) {
		fs_reply_err(req, err);
		return;
	}
	if (fs_must_not_wait(req)) {
		if (fi->flags & O_NOATIME ||
		    !read_cached(req, &data, size, off))
			fs_read_later(req, ino, size, off, fi);
		tier_data_put(&data);
		return;
	}
	buf.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	buf.buf[0].fd = data.fd;
	buf.buf[0].pos = off;
	/* A backup's: the node's own descriptor is for all of its readers. */
	if (fi->flags & O_NOATIME) {
		own = node_open(node, O_RDONLY | O_NOATIME | O_NONBLOCK);
		if (own >= 0)
			buf.buf[0].fd = own;
	}
	fuse_reply_data(req, &buf, 0);
	tier_data_put(&data);
}

/* The kernel syncs after cached writes, but not after direct ones. */
static bool sync_here(const struct fuse_file_info *fi)
{
	return fi->flags & O_DIRECT && fi->flags & O_DSYNC;
}

static ssize_t write_front(const struct tier_data *data, struct fuse_bufvec *in,
			   off_t off, const struct fuse_file_info *fi)
{
	struct fuse_bufvec out = FUSE_BUFVEC_INIT(fuse_buf_size(in));
	ssize_t done;

	out.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	out.buf[0].fd = data->fd;
	out.buf[0].pos = off;
	done = fuse_buf_copy(&out, in, 0);
	if (done > 0 && sync_here(fi) && fdatasync(data->fd) < 0)
		done = -errno;
	return done;
}

/* Takes what is in in: a pipe has it once. */
static ssize_t take_buf(struct fuse_bufvec *in, void **ret)
{
	struct fuse_bufvec out = FUSE_BUFVEC_INIT(fuse_buf_size(in));
	ssize_t done;

	out.buf[0].mem = malloc(out.buf[0].size);
	if (!out.buf[0].mem)
		return -ENOMEM;
	done = fuse_buf_copy(&out, in, 0);
	if (done < 0)
		free(out.buf[0].mem);
	else
		*ret = out.buf[0].mem;
	return done;
}

/* -EALREADY: it was restored meanwhile; *in has the data in memory then. */
static ssize_t write_log(struct tier *tier, struct node *node,
			 const struct fuse_bufvec *in, off_t off,
			 const struct fuse_file_info *fi)
{
	const struct fuse_buf *buf = &in->buf[0];
	int err;

	err = tier_write(tier, node, buf->mem, buf->size, (uint64_t)off);
	if (!err && sync_here(fi))
		err = tier_fsync(tier, node, true);
	return err ? err : (ssize_t)buf->size;
}

void fs_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *in,
		  off_t off, struct fuse_file_info *fi)
{
	struct fuse_bufvec mem = FUSE_BUFVEC_INIT(0);
	struct node *node = fs_node(req, ino);
	_cleanup_free_ void *taken = NULL;
	struct tier_data data;
	ssize_t done;

	fs_turn_data(req);
	do {
		done = tier_data_get(fs_tier(req), node, true, &data);
		if (done == -EREMOTE) {
			fs_become_stub_writer(req, !fi->kill_suidgid, node);
			if (in != &mem && (in->count > 1 || in->off ||
					   in->buf[0].flags & FUSE_BUF_IS_FD)) {
				done = take_buf(in, &taken);
				if (done < 0)
					break;
				mem.buf[0].mem = taken;
				mem.buf[0].size = (size_t)done;
				in = &mem;
			}
			done = write_log(fs_tier(req), node, in, off, fi);
		} else if (!done) {
			fs_become_writer(req, !fi->kill_suidgid, data.fd);
			done = write_front(&data, in, off, fi);
			tier_data_put(&data);
		}
	} while (done == -EALREADY);
	if (done < 0)
		fs_reply_err(req, done);
	else
		fuse_reply_write(req, done);
}

/* Not sent, as handles are opened with noflush: there is nothing to do. */
void fs_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, 0);
}

void fs_fsync(fuse_req_t req, fuse_ino_t ino, int datasync,
	      struct fuse_file_info *fi)
{
	struct node *node = fs_node(req, ino);
	struct tier_data data;
	int err;

	do {
		err = tier_data_get(fs_tier(req), node, false, &data);
		if (err == -EREMOTE) {
			err = tier_fsync(fs_tier(req), node, datasync);
		} else if (!err) {
			if ((datasync ? fdatasync(data.fd) : fsync(data.fd)) <
			    0)
				err = -errno;
			tier_data_put(&data);
		}
	} while (err == -EALREADY);
	fs_reply_err(req, err);
}

/* Reserving room cannot be logged. */
static int need_resident(struct fs_use *use)
{
	return tier_need_resident(use->park.fs->parts.tier, use->node,
				  &use->wait);
}

static void fallocate_finish(struct fs_use *use, int err)
{
	fuse_req_t req = use->park.req;
	struct tier_data data;

	if (!err)
		err = tier_data_get(fs_tier(req), use->node, true, &data);
	if (!err) {
		fs_become_writer(req, fuse_req_ctx(req)->uid == 0, data.fd);
		if (fallocate(data.fd, use->mode, use->off, use->len) < 0)
			err = -errno;
		else
			tier_changed(fs_tier(req), use->node);
		tier_data_put(&data);
	}
	fs_reply_err(req, err);
	fs_use_free(use);
}

void fs_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off,
		  off_t len, struct fuse_file_info *fi)
{
	struct node *node = fs_node(req, ino);
	bool keep = mode & FALLOC_FL_KEEP_SIZE;
	struct fs_use *use;
	int err = -EALREADY;

	if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) ||
	    (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE) {
		fs_become_stub_writer(req, fuse_req_ctx(req)->uid == 0, node);
		err = tier_zero(fs_tier(req), node, (uint64_t)off,
				(uint64_t)len, !keep);
	}
	if (err != -EALREADY) {
		if (!err)
			tier_changed(fs_tier(req), node);
		fs_reply_err(req, err);
		return;
	}
	use = fs_use_new(req, node_ref(node), 0, fallocate_finish);
	if (!use)
		return;
	use->begin = need_resident;
	use->who = fs_handle_who(req, fi->fh, fs_handle_flags(fi->fh));
	use->mode = mode;
	use->off = off;
	use->len = len;
	fs_use_start(use);
}

void fs_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
			struct fuse_file_info *fi_in, fuse_ino_t ino_out,
			off_t off_out, struct fuse_file_info *fi_out,
			size_t len, int flags)
{
	struct tier_data in, out;
	ssize_t done;
	int err = tier_data_get(fs_tier(req), fs_node(req, ino_in), false, &in);

	if (err) {
		/* In an object: the kernel copies by reading and writing. */
		fs_reply_err(req, err == -EREMOTE ? -EXDEV : err);
		return;
	}
	err = tier_data_get(fs_tier(req), fs_node(req, ino_out), true, &out);
	if (err) {
		tier_data_put(&in);
		fs_reply_err(req, err == -EREMOTE ? -EXDEV : err);
		return;
	}
	fs_become_writer(req, fuse_req_ctx(req)->uid == 0, out.fd);
	done = copy_file_range(in.fd, &off_in, out.fd, &off_out,
			       min_t(size_t, len, COPY_MAX), flags);
	err = done < 0 ? -errno : 0;
	tier_data_put(&out);
	tier_data_put(&in);
	if (err)
		fs_reply_err(req, err);
	else
		fuse_reply_write(req, done);
}

void fs_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
	      struct fuse_file_info *fi)
{
	struct node *node = fs_node(req, ino);
	struct tier_data data;
	off_t found;
	int err = tier_data_get(fs_tier(req), node, false, &data);

	if (err == -EREMOTE) {
		seek_in_place(req, node, off, whence, fi->fh);
		return;
	}
	if (!err) {
		found = lseek(data.fd, off, whence);
		if (found < 0)
			err = -errno;
		tier_data_put(&data);
	}
	if (err)
		fs_reply_err(req, err);
	else
		fuse_reply_lseek(req, found);
}
