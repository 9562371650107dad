/* SPDX-License-Identifier: MIT */
/*
 * The walk: adopts a tree that nobody told of, and mends what was lost.
 *
 * There is no walk over the tree, only over the directories that are known:
 * each row has the generation in which it was last listed, and those that are
 * behind the current one are listed, marked ones first. What is found in them
 * becomes known, and is listed in its turn. So it can end and go on anywhere,
 * over mounts too, and nothing of it is in memory but what is in flight.
 *
 * That renames meanwhile lose or double nothing:
 * - A directory is listed because its row is behind, wherever it is then. Moved,
 *   it stays so. A file's and a directory's row are one each, by inode: found
 *   twice, it is moved.
 * - A directory that is not known can only be missed if it moves from one that
 *   is still to be listed into one that was. Then its rename is told, which
 *   makes it known and behind; or dropped, and then the new parent is marked and
 *   listed again.
 * - Between listing (the scanner's look) and applying, what is told can change:
 *   an event that is still queued is taken in later, and looks again; one that
 *   was taken in since has stamped the inode (catalog_touch()), and then the
 *   name is looked at once more before it is applied. A mark that came since
 *   leaves the directory behind.
 * - What is known there, but was not listed, is looked at by its name before it
 *   is taken away. A directory is then where the front says, or gone.
 *
 * A part that was lost with its transaction leaves its directory behind, so it
 * is listed again.
 */
#include "catalog_scan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "util.h"

/* So many directories that the scanner has enough while a transaction is made
 * of what it found, even where there are few files in each. */
#define JOBS	  4096
#define JOBS_OPEN 32 /* where each has a descriptor */
#define TAKE	  16384
#define MANY	  131072 /* entries of a transaction */
#define WAITING	  8192	 /* events, that end it */
#define KEYS	  256
#define FLIGHT	  16384

struct catalog_walk {
	struct scan *scan;
	struct scan_job *jobs[JOBS];
	size_t n;
	uint16_t flight[FLIGHT];    /* how many of them have that key, modulo */
	struct cds_list_head taken; /* chunks of the transaction, emptied */
};

int catalog_walk_start(struct catalog *c)
{
	struct catalog_walk *w;
	int err;

	if (!c->config.walk)
		return 0;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	CDS_INIT_LIST_HEAD(&w->taken);
	err = scan_start(c, &w->scan);
	if (err) {
		free(w);
		return err;
	}
	c->walk = w;
	return 0;
}

static void job_free(struct catalog_walk *w, struct scan_job *job)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->jobs[i] == job) {
			w->jobs[i] = w->jobs[--w->n];
			break;
		}
	w->flight[job->key % FLIGHT] -= 1;
	cleanup_close(&job->fd);
	free(job);
}

void catalog_walk_stop(struct catalog *c)
{
	struct catalog_walk *w = c->walk;

	if (!w)
		return;
	c->walk = NULL;
	scan_stop(w->scan);
	while (w->n)
		job_free(w, w->jobs[0]);
	free(w);
}

bool catalog_walk_ready(struct catalog *c)
{
	return c->walk && scan_ready(c->walk->scan);
}

static int number(struct catalog *c, enum catalog_sql which, int64_t arg,
		  int64_t *ret)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, which, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, arg);
	err = catalog_db_step(&c->db, which);
	if (err < 0)
		return err;
	*ret = err ? sqlite3_column_int64(st, 0) : 0;
	if (err)
		catalog_db_reset(&c->db, which);
	return 0;
}

int catalog_walk_due(struct catalog *c, bool *ret, uint64_t *ret_marked)
{
	int64_t due = 0, marked = 0;
	int err;

	err = number(c, CQ_DIRS_BEHIND, (int64_t)c->gen, &due);
	if (!err && due)
		err = number(c, CQ_DIRS_MARKED, GEN_MARKED, &marked);
	if (err)
		return err;
	*ret = due && c->walk;
	*ret_marked = (uint64_t)marked;
	return 0;
}

/* ---- applying ------------------------------------------------------------------ */

/* fresh: nothing of the directory was listed before. */
static int apply_entry(struct catalog *c, const struct scan_chunk *chunk,
		       const struct scan_entry *entry, bool fresh)
{
	const struct scan_job *job = chunk->job;
	const struct catalog_seen *seen = &entry->seen;
	struct catalog_seen again;
	int err, fd;

	if (fresh && S_ISREG(seen->type) &&
	    !catalog_touched_since(c, seen->key, chunk->batch)) {
		err = catalog_file_found(c, job->key, entry->name, seen, NULL);
		if (err != -EEXIST)
			return err;
	}
	if (catalog_touched_since(c, seen->key, chunk->batch)) {
		fd = catalog_dir_fd(c, &job->handle);
		err = fd < 0 ? fd
			     : catalog_look(c->front, fd, entry->name, &again);
		if (catalog_is_fatal(err))
			return err;
		/* What has the name now is told of. But the number counts as
		 * listed, and may be known of one that had it before. */
		if (err || !front_handle_equal(&again.handle, &seen->handle))
			return S_ISDIR(seen->type)
				       ? catalog_dir_verify(c, seen->key)
				       : catalog_file_refresh(c, seen->key,
							      NULL);
		seen = &again;
	}
	if (S_ISDIR(seen->type))
		return catalog_dir_named(c, job->key, entry->name, seen,
					 GEN_NEW);
	if (S_ISREG(seen->type))
		return catalog_file_named(c, job->key, entry->name, seen, NULL);
	return 0;
}

static int compare_key(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static bool was_seen(const struct scan_keys *k, uint64_t key)
{
	return k->n && bsearch(&key, k->keys, k->n, sizeof(key), compare_key);
}

/* Looks at what is known there and was not listed, as what it is: a number may
 * have been a file's and be a directory's. */
static int apply_unseen(struct catalog *c, const struct scan_chunk *chunk,
			bool dirs)
{
	int64_t dir = (int64_t)chunk->job->key, after = INT64_MIN;
	uint64_t keys[KEYS];
	int n, err = 0;

	do {
		n = catalog_db_keys(&c->db, dirs ? CQ_DIRS_OF : CQ_FILES_OF,
				    dir, after, keys, KEYS);
		for (int i = 0; !err && i < n; i++) {
			if (was_seen(dirs ? &chunk->dirs : &chunk->files,
				     keys[i]))
				continue;
			err = dirs ? catalog_dir_verify(c, keys[i])
				   : catalog_file_refresh(c, keys[i], NULL);
		}
		if (n > 0)
			after = (int64_t)keys[n - 1];
	} while (!err && n == KEYS);
	return n < 0 ? n : err;
}

/* Names of files with several, one by one: a file may have two here. */
static int apply_links(struct catalog *c, const struct scan_chunk *chunk)
{
	uint64_t dir = chunk->job->key;
	char name[NAME_MAX + 1] = "";
	int64_t key = INT64_MIN;
	struct catalog_seen seen;
	int err = 0, fd;

	for (;;) {
		sqlite3_stmt *st = catalog_db_stmt(&c->db, CQ_LINKS_OF, &err);

		if (!st)
			return err;
		sqlite3_bind_int64(st, 1, (int64_t)dir);
		sqlite3_bind_int64(st, 2, key);
		catalog_db_bind_name(st, 3, name);
		err = catalog_db_step(&c->db, CQ_LINKS_OF);
		if (err <= 0)
			return err;
		key = sqlite3_column_int64(st, 0);
		catalog_db_name(st, 1, name);
		catalog_db_reset(&c->db, CQ_LINKS_OF);
		fd = catalog_dir_fd(c, &chunk->job->handle);
		err = fd < 0 ? fd : catalog_look(c->front, fd, name, &seen);
		if (catalog_is_fatal(err))
			return err;
		err = catalog_is_gone(err) || (!err && (int64_t)seen.key != key)
			      ? catalog_file_unnamed(c, (uint64_t)key, dir,
						     name)
			      : 0;
		if (!err)
			err = catalog_file_refresh(c, (uint64_t)key, NULL);
		if (err)
			return err;
	}
}

static int apply_last(struct catalog *c, const struct scan_chunk *chunk,
		      const struct catalog_dir *dir)
{
	const struct scan_job *job = chunk->job;
	int err = 0;

	if (catalog_is_fatal(chunk->err))
		return chunk->err;
	if (catalog_is_gone(chunk->err))
		return catalog_dir_verify(c, job->key);
	/* One that cannot be listed: what is known of it stays. And where
	 * nothing was lost, a first listing has nothing to take away. */
	if (!chunk->err && !(c->all_told && dir->gen == GEN_NEW))
		err = apply_unseen(c, chunk, false);
	if (!err && !chunk->err)
		err = apply_links(c, chunk);
	if (!err && !chunk->err)
		err = apply_unseen(c, chunk, true);
	if (!err && job->key == c->root_key)
		err = catalog_dir_refresh(c, dir);
	if (err || job->spoiled ||
	    catalog_remarked_since(c, job->key, job->batch))
		return err;
	return catalog_db_do(&c->db, CQ_DIR_GEN, (int64_t)job->key,
			     (int64_t)job->gen);
}

static int apply_chunk(struct catalog *c, const struct scan_chunk *chunk)
{
	struct catalog_dir dir;
	int err;

	err = catalog_dir_get(&c->db, chunk->job->key, &dir);
	/* Another one has the number now, or none. */
	if (err == -ENOENT ||
	    (!err && !front_handle_equal(&dir.handle, &chunk->job->handle)))
		return 0;
	for (size_t i = 0; !err && i < chunk->n; i++)
		err = apply_entry(c, chunk, &chunk->entries[i],
				  dir.gen == GEN_NEW);
	if (!err && chunk->last)
		err = apply_last(c, chunk, &dir);
	return err;
}

/* ---- giving -------------------------------------------------------------------------- */

static bool in_flight(const struct catalog_walk *w, uint64_t key)
{
	if (!w->flight[key % FLIGHT])
		return false;
	for (size_t i = 0; i < w->n; i++)
		if (w->jobs[i]->key == key)
			return true;
	return false;
}

static int job_new(struct catalog *c, uint64_t key,
		   const struct front_handle *handle, struct scan_job **ret)
{
	struct scan_job *job = calloc(1, sizeof(*job));

	if (!job)
		return -ENOMEM;
	job->key = key;
	job->handle = *handle;
	job->gen = c->gen;
	job->batch = atomic_load(&c->batch) + 1;
	job->fd = -1;
	*ret = job;
	return 0;
}

/* More directories that are behind, when the scanner has few. */
static int give(struct catalog *c, struct catalog_walk *w)
{
	size_t max = c->front->by_handle ? JOBS : JOBS_OPEN, first = w->n;
	struct front_handle handle;
	sqlite3_stmt *st;
	int err = 0;

	if (w->n > max / 2)
		return 0;
	st = catalog_db_stmt(&c->db, CQ_DIRS_TODO, &err);
	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)c->gen);
	sqlite3_bind_int64(st, 2, (int64_t)max);
	while (w->n < max &&
	       (err = catalog_db_step(&c->db, CQ_DIRS_TODO)) > 0) {
		uint64_t key = (uint64_t)sqlite3_column_int64(st, 0);

		err = catalog_db_handle(st, 1, &handle);
		if (!err && !in_flight(w, key)) {
			err = job_new(c, key, &handle, &w->jobs[w->n]);
			if (!err) {
				w->flight[key % FLIGHT]++;
				w->n++;
			}
		}
		if (err)
			break;
	}
	catalog_db_reset(&c->db, CQ_DIRS_TODO);
	/* Needs the database, and the path. */
	for (size_t i = first; !c->front->by_handle && i < w->n; i++)
		w->jobs[i]->fd = catalog_dir_open(c, &w->jobs[i]->handle,
						  O_RDONLY | O_DIRECTORY);
	scan_give(w->scan, w->jobs + first, w->n - first);
	return err < 0 ? err : 0;
}

/*
 * Large transactions, for each writes pages from all over some tables, but what
 * is found is not held for as long: only the chunks are, for their jobs are
 * under way until it has ended.
 */
int catalog_walk_some(struct catalog *c, bool *ret_more)
{
	struct catalog_walk *w = c->walk;
	struct scan_chunk *chunk, *next;
	struct cds_list_head found;
	size_t n = 0, took;
	int err = 0;

	*ret_more = false;
	if (!w)
		return 0;
	do {
		if (atomic_load(&c->stop))
			return err;
		took = scan_take(w->scan, TAKE, &found);
		cds_list_for_each_entry_safe (chunk, next, &found, link) {
			if (!err)
				err = apply_chunk(c, chunk);
			scan_chunk_empty(chunk);
			cds_list_del(&chunk->link);
			cds_list_add_tail(&chunk->link, &w->taken);
		}
		n += took;
		if (!err && took)
			err = give(c, w);
	} while (!err && took >= TAKE / 2 && n < MANY &&
		 atomic_load(&c->queue.n) < WAITING);
	if (!err)
		*ret_more = scan_ready(w->scan);
	return err;
}

static void taken_free(struct catalog_walk *w)
{
	struct scan_chunk *chunk, *next;

	cds_list_for_each_entry_safe (chunk, next, &w->taken, link) {
		if (chunk->last)
			job_free(w, chunk->job);
		scan_chunk_free(chunk);
	}
	CDS_INIT_LIST_HEAD(&w->taken);
}

int catalog_walk_done(struct catalog *c)
{
	if (!c->walk)
		return 0;
	taken_free(c->walk);
	return atomic_load(&c->stop) ? 0 : give(c, c->walk);
}

/* What is in flight may be of directories that are not known any more, and known
 * anew, marked, when it comes. */
void catalog_walk_failed(struct catalog *c)
{
	struct catalog_walk *w = c->walk;

	if (!w)
		return;
	taken_free(w);
	for (size_t i = 0; i < w->n; i++)
		w->jobs[i]->spoiled = true;
}
