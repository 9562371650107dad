/* SPDX-License-Identifier: MIT */

/*
 * The operations that may go to a worker (fs_work.c says which, and why): each
 * packs its arguments, and the worker calls the operation itself.
 */

#include "fs_impl.h"

#include <errno.h>
#include <time.h>

#define PATIENCE 4 /* times a moment */

static struct fuse_file_info *job_fi(struct fs_job *job)
{
	return job->has_fi ? &job->fi : NULL;
}

/* Is somebody at the node for longer than a moment? */
static bool is_held(fuse_req_t req, fuse_ino_t ino)
{
	const struct timespec moment = {.tv_nsec = 50 * 1000};
	struct node *node = fs_node(req, ino);

	if (!fs_must_not_wait(req))
		return false;
	for (int i = 0; pthread_mutex_trylock(&node->lock); i++) {
		if (i == PATIENCE)
			return true;
		nanosleep(&moment, NULL);
	}
	pthread_mutex_unlock(&node->lock);
	return false;
}

/* NULL: the thread does it itself. */
static struct fs_job *job_if_held(fuse_req_t req, fuse_ino_t ino,
				  const struct fuse_file_info *fi,
				  void (*run)(struct fs_job *job))
{
	return is_held(req, ino) ? fs_job_new(req, ino, fi, run) : NULL;
}

/* ---- always ------------------------------------------------------------------ */

static void run_read(struct fs_job *job)
{
	fs_read(job->req, job->ino, job->size, job->off, &job->fi);
}

void fs_read_later(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		   struct fuse_file_info *fi)
{
	struct fs_job *job = fs_job_new(req, ino, fi, run_read);

	if (!job) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	job->size = size;
	job->off = off;
	fs_job_later(job);
}

static void run_write(struct fs_job *job)
{
	fs_write_buf(job->req, job->ino, &job->buf, job->off, &job->fi);
}

static void later_write_buf(fuse_req_t req, fuse_ino_t ino,
			    struct fuse_bufvec *in, off_t off,
			    struct fuse_file_info *fi)
{
	/* What comes over io_uring is one buffer, in the request's entry. */
	struct fs_job *job =
		in->count == 1 ? fs_job_new(req, ino, fi, run_write) : NULL;

	if (!job) {
		fs_write_buf(req, ino, in, off, fi);
		return;
	}
	job->buf = *in;
	job->off = off;
	fs_job_later(job);
}

static void run_fsync(struct fs_job *job)
{
	fs_fsync(job->req, job->ino, job->flags, &job->fi);
}

static void later_fsync(fuse_req_t req, fuse_ino_t ino, int datasync,
			struct fuse_file_info *fi)
{
	struct fs_job *job = fs_job_new(req, ino, fi, run_fsync);

	if (!job) {
		fs_fsync(req, ino, datasync, fi);
		return;
	}
	job->flags = datasync;
	fs_job_later(job);
}

static void run_fsyncdir(struct fs_job *job)
{
	fs_fsyncdir(job->req, job->ino, job->flags, &job->fi);
}

static void later_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync,
			   struct fuse_file_info *fi)
{
	struct fs_job *job = fs_job_new(req, ino, fi, run_fsyncdir);

	if (!job) {
		fs_fsyncdir(req, ino, datasync, fi);
		return;
	}
	job->flags = datasync;
	fs_job_later(job);
}

static void run_fallocate(struct fs_job *job)
{
	fs_fallocate(job->req, job->ino, (int)job->mode, job->off, job->to_off,
		     &job->fi);
}

static void later_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off,
			    off_t len, struct fuse_file_info *fi)
{
	struct fs_job *job = fs_job_new(req, ino, fi, run_fallocate);

	if (!job) {
		fs_fallocate(req, ino, mode, off, len, fi);
		return;
	}
	job->mode = (mode_t)mode;
	job->off = off;
	job->to_off = len;
	fs_job_later(job);
}

static void run_copy(struct fs_job *job)
{
	fs_copy_file_range(job->req, job->ino, job->off, &job->fi, job->to,
			   job->to_off, &job->to_fi, job->size, job->flags);
}

static void later_copy_file_range(fuse_req_t req, fuse_ino_t ino_in,
				  off_t off_in, struct fuse_file_info *fi_in,
				  fuse_ino_t ino_out, off_t off_out,
				  struct fuse_file_info *fi_out, size_t len,
				  int flags)
{
	struct fs_job *job = fs_job_new(req, ino_in, fi_in, run_copy);

	if (!job) {
		fs_copy_file_range(req, ino_in, off_in, fi_in, ino_out, off_out,
				   fi_out, len, flags);
		return;
	}
	job->off = off_in;
	job->to = ino_out;
	job->to_off = off_out;
	job->to_fi = *fi_out;
	job->size = len;
	job->flags = flags;
	fs_job_later(job);
}

static void run_lseek(struct fs_job *job)
{
	fs_lseek(job->req, job->ino, job->off, job->flags, &job->fi);
}

static void later_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
			struct fuse_file_info *fi)
{
	struct fs_job *job = fs_job_new(req, ino, fi, run_lseek);

	if (!job) {
		fs_lseek(req, ino, off, whence, fi);
		return;
	}
	job->off = off;
	job->flags = whence;
	fs_job_later(job);
}

static void run_readdir(struct fs_job *job)
{
	(job->flags ? fs_readdirplus : fs_readdir)(
		job->req, job->ino, job->size, job->off, &job->fi);
}

static void later_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		      struct fuse_file_info *fi, bool plus)
{
	struct fs_job *job = fs_job_new(req, ino, fi, run_readdir);

	if (!job) {
		(plus ? fs_readdirplus : fs_readdir)(req, ino, size, off, fi);
		return;
	}
	job->size = size;
	job->off = off;
	job->flags = plus;
	fs_job_later(job);
}

static void later_readdir(fuse_req_t req, fuse_ino_t ino, size_t size,
			  off_t off, struct fuse_file_info *fi)
{
	later_dir(req, ino, size, off, fi, false);
}

static void later_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size,
			      off_t off, struct fuse_file_info *fi)
{
	later_dir(req, ino, size, off, fi, true);
}

static void run_ioctl(struct fs_job *job)
{
	fs_ioctl(job->req, job->ino, job->cmd, job->arg, &job->fi,
		 (unsigned int)job->flags, job->data, job->size, job->out_size);
}

static void later_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd,
			void *arg, struct fuse_file_info *fi,
			unsigned int flags, const void *in, size_t in_size,
			size_t out_size)
{
	struct fs_job *job = fs_job_new(req, ino, fi, run_ioctl);

	if (!job) {
		fs_ioctl(req, ino, cmd, arg, fi, flags, in, in_size, out_size);
		return;
	}
	job->cmd = cmd;
	job->arg = arg;
	job->flags = (int)flags;
	job->data = in;
	job->size = in_size;
	job->out_size = out_size;
	fs_job_later(job);
}

/* ---- sometimes ---------------------------------------------------------------- */

static void run_open(struct fs_job *job)
{
	fs_open(job->req, job->ino, &job->fi);
}

static void later_open(fuse_req_t req, fuse_ino_t ino,
		       struct fuse_file_info *fi)
{
	struct fs_job *job = NULL;

	if (fi->flags & O_TRUNC || is_held(req, ino))
		job = fs_job_new(req, ino, fi, run_open);
	if (job)
		fs_job_later(job);
	else
		fs_open(req, ino, fi);
}

static void run_setattr(struct fs_job *job)
{
	fs_setattr(job->req, job->ino, &job->attr, job->flags, job_fi(job));
}

static void later_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr,
			  int to_set, struct fuse_file_info *fi)
{
	struct fs_job *job = NULL;

	if (to_set & FUSE_SET_ATTR_SIZE || is_held(req, ino))
		job = fs_job_new(req, ino, fi, run_setattr);
	if (!job) {
		fs_setattr(req, ino, attr, to_set, fi);
		return;
	}
	job->attr = *attr;
	job->flags = to_set;
	fs_job_later(job);
}

static void later_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	struct fs_job *job = job_if_held(req, ino, fi, run_read);

	if (!job) {
		fs_read(req, ino, size, off, fi);
		return;
	}
	job->size = size;
	job->off = off;
	fs_job_later(job);
}

static void run_getattr(struct fs_job *job)
{
	fs_getattr(job->req, job->ino, job_fi(job));
}

static void later_getattr(fuse_req_t req, fuse_ino_t ino,
			  struct fuse_file_info *fi)
{
	struct fs_job *job = job_if_held(req, ino, fi, run_getattr);

	if (job)
		fs_job_later(job);
	else
		fs_getattr(req, ino, fi);
}

static void run_release(struct fs_job *job)
{
	fs_release(job->req, job->ino, &job->fi);
}

static void later_release(fuse_req_t req, fuse_ino_t ino,
			  struct fuse_file_info *fi)
{
	struct fs_job *job = job_if_held(req, ino, fi, run_release);

	if (job)
		fs_job_later(job);
	else
		fs_release(req, ino, fi);
}

static void run_statx(struct fs_job *job)
{
	fs_statx(job->req, job->ino, job->flags, (int)job->cmd, job_fi(job));
}

static void later_statx(fuse_req_t req, fuse_ino_t ino, int flags, int mask,
			struct fuse_file_info *fi)
{
	struct fs_job *job = job_if_held(req, ino, fi, run_statx);

	if (!job) {
		fs_statx(req, ino, flags, mask, fi);
		return;
	}
	job->flags = flags;
	job->cmd = (unsigned int)mask;
	fs_job_later(job);
}

static void run_getxattr(struct fs_job *job)
{
	fs_getxattr(job->req, job->ino, job->name, job->size);
}

static void later_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name,
			   size_t size)
{
	struct fs_job *job = job_if_held(req, ino, NULL, run_getxattr);

	if (!job) {
		fs_getxattr(req, ino, name, size);
		return;
	}
	job->name = name;
	job->size = size;
	fs_job_later(job);
}

static void run_setxattr(struct fs_job *job)
{
	fs_setxattr(job->req, job->ino, job->name, job->data, job->size,
		    job->flags);
}

static void later_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name,
			   const char *value, size_t size, int flags)
{
	struct fs_job *job = job_if_held(req, ino, NULL, run_setxattr);

	if (!job) {
		fs_setxattr(req, ino, name, value, size, flags);
		return;
	}
	job->name = name;
	job->data = value;
	job->size = size;
	job->flags = flags;
	fs_job_later(job);
}

static void run_removexattr(struct fs_job *job)
{
	fs_removexattr(job->req, job->ino, job->name);
}

static void later_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct fs_job *job = job_if_held(req, ino, NULL, run_removexattr);

	if (!job) {
		fs_removexattr(req, ino, name);
		return;
	}
	job->name = name;
	fs_job_later(job);
}

void fs_later_ops(struct fuse_lowlevel_ops *ops)
{
	ops->write_buf = later_write_buf;
	ops->fsync = later_fsync;
	ops->fsyncdir = later_fsyncdir;
	ops->fallocate = later_fallocate;
	ops->copy_file_range = later_copy_file_range;
	ops->lseek = later_lseek;
	ops->readdir = later_readdir;
	ops->readdirplus = later_readdirplus;
	ops->ioctl = later_ioctl;
	ops->open = later_open;
	ops->setattr = later_setattr;
	ops->read = later_read;
	ops->getattr = later_getattr;
	ops->release = later_release;
	ops->statx = later_statx;
	ops->getxattr = later_getxattr;
	ops->setxattr = later_setxattr;
	ops->removexattr = later_removexattr;
}
