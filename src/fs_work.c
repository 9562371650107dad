/* SPDX-License-Identifier: MIT */

/*
 * Requests that may keep their thread waiting.
 *
 * Over io_uring one thread serves all requests of a CPU: while a handler waits
 * there, every client of that CPU does. (By /dev/fuse a thread more is started,
 * and none of this is needed.) So what can wait for long is handed to a worker,
 * which answers; a request's arguments lie in its own entry of the ring and
 * stay until then.
 *
 * What goes to the workers:
 *   always     write, fsync, fsyncdir, fallocate, copy_file_range, lseek: the
 *              front's disk, dirty pages being throttled, a journal's commit;
 *              readdir and readdirplus: a directory's worth of inodes;
 *              truncate and open(O_TRUNC): as long as the file is;
 *              ioctl: it is rare, and a flag may need a commit
 *   sometimes  read: when the page cache does not have it (fs_data.c);
 *              what needs a lock of a node that is held for longer than a short
 *              handler would: a release cuts the file under it
 *   never      what waits for targets, recalls and the journal: it is parked
 *              and answered from elsewhere (fs_park.c); the rest of metadata:
 *              at most a few blocks of the front. A hop to a worker and back
 *              costs as much as such a request itself, and a look-up does not
 *              know that it is cold. An unlinked file is kept until the kernel
 *              forgets it, which it says by /dev/fuse: its blocks are freed
 *              there.
 *
 * Whichever way requests come, workers look ahead in directories (fs_ahead.c).
 *
 * Workers are started when a job finds none idle, up to max_threads, and stay.
 * With all of them waiting, further jobs do; what the rings' threads do
 * themselves goes on.
 */

#include "fs_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS 16 /* where max_threads does not say */

struct fs_work {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct cds_list_head jobs;
	unsigned int njobs, nidle, nthreads, max;
	bool stopping;
	pthread_t threads[];
};

static _Thread_local bool is_worker;

bool fs_must_not_wait(fuse_req_t req)
{
	return fuse_req_is_uring(req) && !is_worker;
}

static void run(struct fs_job *job)
{
	job->run(job);
	free(job);
}

static void *worker(void *arg)
{
	struct fs_work *work = arg;

	is_worker = true;
	fs_turn_never();
	pthread_mutex_lock(&work->lock);
	for (;;) {
		struct fs_job *job;

		if (cds_list_empty(&work->jobs)) {
			if (work->stopping)
				break;
			work->nidle++;
			pthread_cond_wait(&work->cond, &work->lock);
			work->nidle--;
			continue;
		}
		job = cds_list_first_entry(&work->jobs, struct fs_job, link);
		cds_list_del(&job->link);
		work->njobs--;
		pthread_mutex_unlock(&work->lock);
		run(job);
		pthread_mutex_lock(&work->lock);
	}
	pthread_mutex_unlock(&work->lock);
	return NULL;
}

void fs_job_later(struct fs_job *job)
{
	struct fs_work *work = fs_of(job->req)->work;
	bool here = false;

	pthread_mutex_lock(&work->lock);
	cds_list_add_tail(&job->link, &work->jobs);
	/* Who was woken is idle until it runs: its job counts still. */
	if (++work->njobs > work->nidle && work->nthreads < work->max &&
	    !thread_start(&work->threads[work->nthreads], "fuse-work", worker,
			  work))
		work->nthreads++;
	if (work->nthreads) {
		pthread_cond_signal(&work->cond);
	} else {
		cds_list_del(&job->link);
		work->njobs--;
		here = true;
	}
	pthread_mutex_unlock(&work->lock);
	if (here)
		run(job);
}

static struct fs_job *make(fuse_req_t req, void (*run_job)(struct fs_job *job))
{
	struct fs_job *job = calloc(1, sizeof(*job));

	if (job) {
		job->run = run_job;
		job->req = req;
	}
	return job;
}

int fs_job_begin(fuse_req_t req, void (*run_job)(struct fs_job *job), void *arg)
{
	struct fs_job *job = make(req, run_job);

	if (!job)
		return -ENOMEM;
	job->arg = arg;
	fs_job_later(job);
	return 0;
}

struct fs_job *fs_job_new(fuse_req_t req, fuse_ino_t ino,
			  const struct fuse_file_info *fi,
			  void (*run_job)(struct fs_job *job))
{
	struct fs_job *job;

	if (!fs_must_not_wait(req))
		return NULL;
	fs_turn_data(req);
	job = make(req, run_job);
	if (!job)
		return NULL; /* it may take a while */
	job->ino = ino;
	job->has_fi = fi != NULL;
	if (fi)
		job->fi = *fi;
	return job;
}

int fs_work_new(struct fs *fs)
{
	unsigned int max = fs->parts.config->max_threads;
	struct fs_work *work;

	if (!max)
		max = WORKERS;
	work = calloc(1, sizeof(*work) + max * sizeof(work->threads[0]));
	if (!work)
		return -ENOMEM;
	work->max = max;
	pthread_mutex_init(&work->lock, NULL);
	pthread_cond_init(&work->cond, NULL);
	CDS_INIT_LIST_HEAD(&work->jobs);
	fs->work = work;
	return 0;
}

void fs_work_end(struct fs *fs)
{
	struct fs_work *work = fs->work;

	if (!work)
		return;
	pthread_mutex_lock(&work->lock);
	work->stopping = true;
	pthread_cond_broadcast(&work->cond);
	pthread_mutex_unlock(&work->lock);
	for (unsigned int i = 0; i < work->nthreads; i++)
		pthread_join(work->threads[i], NULL);
	pthread_cond_destroy(&work->cond);
	pthread_mutex_destroy(&work->lock);
	free(work);
	fs->work = NULL;
}
