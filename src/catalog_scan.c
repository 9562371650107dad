/* SPDX-License-Identifier: MIT */
/*
 * Listing directories, on threads of its own, so that the front's disk is read
 * while the database is written. Two, for looking at a file costs more than its
 * row does; and what is not cached is read in the depth of two.
 *
 * A directory goes in parts of some thousand names, each sorted by inode number
 * before it is looked at: that is the order on the disk, and of the database.
 * What is found waits in a list whose length is bounded, the parts of one
 * directory in order, for one thread lists all of it; those of several in any.
 * The scanner says from which batch on something told is newer than what it saw;
 * whether it matters is seen when it is applied.
 */
#include "catalog_scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"
#include "util.h"

#define THREADS	  2
#define PART	  4096
#define FOUND_MAX 49152
#define ENOUGH	  32768
#define LONG_NS	  (NSEC_PER_SEC / 2)
#define NICE	  10
#define SLICE_NS  (50 * 1000000LL)

struct scan {
	struct catalog *c;
	pthread_t threads[THREADS];
	unsigned int started;
	/* -- under lock -- */
	pthread_mutex_t lock;
	pthread_cond_t cond; /* jobs to do, room for what is found, stop */
	struct cds_list_head jobs, found;
	size_t nfound;	      /* entries, and one a chunk */
	int64_t since;	      /* the first of them, about */
	bool told;	      /* that they are enough */
	unsigned int working; /* threads that list */
	int64_t paced;	      /* what was found before is due then */
	bool stop;
};

struct listed {
	uint64_t ino;
	uint32_t name; /* in names */
};

/* What it needs for one directory; kept for the next. */
struct room {
	struct listed listed[PART];
	char *names;
	size_t len, cap;
	struct scan_keys files, dirs;
};

void scan_chunk_empty(struct scan_chunk *chunk)
{
	free(chunk->entries);
	free(chunk->names);
	free(chunk->files.keys);
	free(chunk->dirs.keys);
	chunk->entries = NULL;
	chunk->names = NULL;
	chunk->files = chunk->dirs = (struct scan_keys){0};
	chunk->n = 0;
}

void scan_chunk_free(struct scan_chunk *chunk)
{
	scan_chunk_empty(chunk);
	free(chunk);
}

static bool stopped(struct scan *s)
{
	bool stop;

	pthread_mutex_lock(&s->lock);
	stop = s->stop;
	pthread_mutex_unlock(&s->lock);
	return stop;
}

/* As slow as it was asked to be, unless somebody waits for it. */
static void throttle(struct scan *s, size_t n)
{
	uint32_t rate = s->c->config.walk_rate;
	int64_t until;

	if (!rate)
		return;
	pthread_mutex_lock(&s->lock);
	until = max_t(int64_t, monotonic_ns(), s->paced) +
		(int64_t)n * NSEC_PER_SEC / rate;
	s->paced = until;
	pthread_mutex_unlock(&s->lock);
	while (!atomic_load(&s->c->hurried) && !stopped(s)) {
		struct timespec ts = {.tv_nsec = SLICE_NS};
		int64_t left = until - monotonic_ns();

		if (left <= 0)
			break;
		if (left < SLICE_NS)
			ts.tv_nsec = left;
		nanosleep(&ts, NULL);
	}
}

static bool is_enough(const struct scan *s)
{
	return s->nfound >= ENOUGH ||
	       (s->nfound && monotonic_ns() - s->since > LONG_NS);
}

/* Takes the chunk over. */
static void deliver(struct scan *s, struct scan_chunk *chunk)
{
	size_t n = chunk->n;
	bool wake;

	pthread_mutex_lock(&s->lock);
	while (!s->stop && s->nfound >= FOUND_MAX)
		pthread_cond_wait(&s->cond, &s->lock);
	if (!s->nfound)
		s->since = monotonic_ns();
	s->nfound += n + 1;
	cds_list_add_tail(&chunk->link, &s->found);
	wake = !s->told && is_enough(s);
	s->told |= wake;
	pthread_mutex_unlock(&s->lock);
	if (wake)
		catalog_queue_wake(&s->c->queue);
	atomic_fetch_add(&s->c->walked, n);
	throttle(s, n);
}

/* ---- one directory -------------------------------------------------------------- */

static int add_name(struct room *room, size_t at, const struct dirent *entry)
{
	size_t len = strlen(entry->d_name) + 1;

	if (room->len + len > room->cap) {
		size_t cap = 2 * room->cap + 65536;
		char *names = realloc(room->names, cap);

		if (!names)
			return -ENOMEM;
		room->names = names;
		room->cap = cap;
	}
	memcpy(room->names + room->len, entry->d_name, len);
	room->listed[at] = (struct listed){.ino = entry->d_ino,
					   .name = (uint32_t)room->len};
	room->len += len;
	return 0;
}

static int add_key(struct scan_keys *k, uint64_t key)
{
	if (k->n == k->cap) {
		size_t cap = 2 * k->cap + 1024;
		void *keys = reallocarray(k->keys, cap, sizeof(key));

		if (!keys)
			return -ENOMEM;
		k->keys = keys;
		k->cap = cap;
	}
	k->keys[k->n++] = key;
	return 0;
}

static bool is_ours(const struct dirent *entry)
{
	const char *name = entry->d_name;

	if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2])))
		return false;
	return entry->d_type == DT_REG || entry->d_type == DT_DIR ||
	       entry->d_type == DT_UNKNOWN;
}

static int compare_ino(const void *a, const void *b)
{
	const struct listed *x = a, *y = b;

	return (x->ino > y->ino) - (x->ino < y->ino);
}

static int compare_key(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Looks at what was listed. */
static int look_at(struct scan *s, struct room *room, int fd, size_t n,
		   struct scan_chunk *chunk)
{
	int err;

	chunk->entries = reallocarray(NULL, n, sizeof(*chunk->entries));
	chunk->names = malloc(room->len);
	if (!chunk->entries || !chunk->names)
		return -ENOMEM;
	memcpy(chunk->names, room->names, room->len);
	qsort(room->listed, n, sizeof(*room->listed), compare_ino);
	for (size_t i = 0; i < n; i++) {
		struct scan_entry *entry = &chunk->entries[chunk->n];

		entry->name = chunk->names + room->listed[i].name;
		err = catalog_look(s->c->front, fd, entry->name, &entry->seen);
		if (catalog_is_fatal(err))
			return err;
		/* In doubt it is there, and stays as it is known. */
		if (err)
			continue;
		if (!S_ISREG(entry->seen.type) && !S_ISDIR(entry->seen.type))
			continue;
		err = add_key(S_ISDIR(entry->seen.type) ? &room->dirs
							: &room->files,
			      entry->seen.key);
		if (err)
			return err;
		chunk->n++;
	}
	return 0;
}

/* One part. Returns 1 if there may be more. */
static int list_part(struct scan *s, struct room *room, DIR *dir,
		     struct scan_chunk *chunk)
{
	struct dirent *entry = NULL;
	size_t n = 0;
	int err = 0;

	room->len = 0;
	while (!err && n < PART && (errno = 0, entry = readdir(dir)))
		if (is_ours(entry))
			err = add_name(room, n++, entry);
	if (!err && !entry && n < PART)
		err = -errno;
	if (!err && n)
		err = look_at(s, room, dirfd(dir), n, chunk);
	return err ? err : n == PART;
}

static struct scan_chunk *chunk_new(struct scan *s, struct scan_job *job)
{
	struct scan_chunk *chunk = calloc(1, sizeof(*chunk));

	if (!chunk)
		return NULL;
	chunk->job = job;
	chunk->batch = atomic_load(&s->c->batch);
	return chunk;
}

/* What is handed over is as large as it must be, and the room is kept. */
static int last_keys(struct scan_keys *k, struct scan_keys *ret)
{
	if (!k->n)
		return 0;
	qsort(k->keys, k->n, sizeof(*k->keys), compare_key);
	ret->keys = reallocarray(NULL, k->n, sizeof(*k->keys));
	if (!ret->keys)
		return -ENOMEM;
	memcpy(ret->keys, k->keys, k->n * sizeof(*k->keys));
	ret->n = k->n;
	return 0;
}

static void keys_reset(struct scan_keys *k)
{
	k->n = 0;
	if (k->cap <= 65536)
		return;
	free(k->keys);
	*k = (struct scan_keys){0};
}

static int open_job(struct scan *s, struct scan_job *job)
{
	int fd;

	if (job->fd >= 0)
		return steal_fd(&job->fd);
	fd = front_open_handle(s->c->front, &job->handle,
			       O_RDONLY | O_DIRECTORY | O_NOATIME);
	if (fd == -EPERM)
		fd = front_open_handle(s->c->front, &job->handle,
				       O_RDONLY | O_DIRECTORY);
	return fd;
}

static void scan_dir(struct scan *s, struct room *room, struct scan_job *job)
{
	struct scan_chunk *chunk;
	DIR *dir = NULL;
	int more, fd;

	fd = open_job(s, job);
	if (fd >= 0)
		dir = fdopendir(fd);
	more = fd < 0 ? fd : dir ? 1 : -errno;
	if (fd >= 0 && !dir)
		close(fd);
	do {
		/* A last one it must have. */
		while (!(chunk = chunk_new(s, job)) && !stopped(s))
			usleep(100000);
		if (!chunk)
			break;
		if (more > 0)
			more = list_part(s, room, dir, chunk);
		chunk->last = more <= 0;
		if (!more)
			more = last_keys(&room->files, &chunk->files);
		if (!more)
			more = last_keys(&room->dirs, &chunk->dirs);
		chunk->err = min_t(int, more, 0);
		deliver(s, chunk);
	} while (more > 0 && !stopped(s));
	if (dir)
		closedir(dir);
	keys_reset(&room->files);
	keys_reset(&room->dirs);
}

static bool is_idle(struct scan *s)
{
	return !s->working && cds_list_empty(&s->jobs);
}

static void *scan_run(void *arg)
{
	struct scan *s = arg;
	struct room *room = calloc(1, sizeof(*room));

	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
	pthread_mutex_lock(&s->lock);
	while (!s->stop && room) {
		struct scan_job *job;

		if (cds_list_empty(&s->jobs)) {
			pthread_cond_wait(&s->cond, &s->lock);
			continue;
		}
		s->working++;
		job = cds_list_first_entry(&s->jobs, struct scan_job, link);
		cds_list_del(&job->link);
		pthread_mutex_unlock(&s->lock);
		scan_dir(s, room, job);
		pthread_mutex_lock(&s->lock);
		s->working--;
		if (is_idle(s))
			catalog_queue_wake(&s->c->queue);
	}
	pthread_mutex_unlock(&s->lock);
	if (room) {
		free(room->names);
		free(room->files.keys);
		free(room->dirs.keys);
	}
	free(room);
	return NULL;
}

/* ---- for the catalog's thread --------------------------------------------------- */

void scan_stop(struct scan *s)
{
	struct scan_chunk *chunk, *next;

	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	while (s->started)
		pthread_join(s->threads[--s->started], NULL);
	cds_list_for_each_entry_safe (chunk, next, &s->found, link)
		scan_chunk_free(chunk);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->cond);
	free(s);
}

int scan_start(struct catalog *c, struct scan **ret)
{
	struct scan *s = calloc(1, sizeof(*s));
	int err = 0;

	if (!s)
		return -ENOMEM;
	s->c = c;
	CDS_INIT_LIST_HEAD(&s->jobs);
	CDS_INIT_LIST_HEAD(&s->found);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->cond, NULL);
	while (!err && s->started < THREADS) {
		err = thread_start(&s->threads[s->started], "catalog-scan",
				   scan_run, s);
		s->started += !err;
	}
	if (err) {
		scan_stop(s);
		return err;
	}
	*ret = s;
	return 0;
}

void scan_give(struct scan *s, struct scan_job **jobs, size_t n)
{
	if (!n)
		return;
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < n; i++)
		cds_list_add_tail(&jobs[i]->link, &s->jobs);
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

size_t scan_take(struct scan *s, size_t entries, struct cds_list_head *ret)
{
	size_t n = 0;

	CDS_INIT_LIST_HEAD(ret);
	pthread_mutex_lock(&s->lock);
	while (n < entries && !cds_list_empty(&s->found)) {
		struct scan_chunk *chunk = cds_list_first_entry(
			&s->found, struct scan_chunk, link);

		cds_list_del(&chunk->link);
		cds_list_add_tail(&chunk->link, ret);
		n += chunk->n + 1;
	}
	s->nfound -= n;
	s->since = monotonic_ns();
	s->told = false;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	return n;
}

bool scan_ready(struct scan *s)
{
	bool ready;

	pthread_mutex_lock(&s->lock);
	ready = is_enough(s) || (is_idle(s) && s->nfound);
	pthread_mutex_unlock(&s->lock);
	return ready;
}
