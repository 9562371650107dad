/* SPDX-License-Identifier: MIT */
/*
 * What was told, taken in.
 *
 * The events of a batch are gathered by inode (by handle: a number may be used
 * again within a batch), each with the names that were told of. Then every name
 * is looked at, as the front has it now. What it leads to is written; what it
 * does not lead to any more is taken away, in this order, so that a file that
 * was renamed is never without a row. Order, age and number of the events do
 * not matter, only that each change of a name or inode is followed by one.
 *
 * Marks are what was told and dropped. A directory's has it walked, a file's
 * has it looked at. One of a directory that is not known yet is kept until it
 * is: the event that makes it known may still be queued, and says that it is
 * empty.
 */
#include "catalog_int.h"

#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "util.h"

#define BATCH	4096
#define LATE_NS (5 * NSEC_PER_SEC)

struct touch {
	struct front_handle file, heir_of;
	struct catalog_access access;
	bool created, moved, lost; /* by some event */
	bool removed;		   /* by some event: for good */
	struct event *names;	   /* each another name; or one without */
	struct event **last;
};

struct batch {
	void *tree; /* tsearch(3) of the touches */
	struct touch touches[BATCH];
	size_t n;
};

int catalog_batch_new(struct batch **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

void catalog_batch_free(struct batch *b)
{
	free(b);
}

static int compare_file(const void *a, const void *b)
{
	const struct touch *x = a, *y = b;

	return memcmp(&x->file, &y->file, sizeof(x->file));
}

static void nothing(void *p)
{
}

static bool same_name(const struct event *a, const struct event *b)
{
	return a->name_len == b->name_len &&
	       front_handle_equal(&a->parent, &b->parent) &&
	       !memcmp(a->name, b->name, a->name_len);
}

static void mark_event(struct catalog *c, const struct event *event)
{
	catalog_queue_lost(&c->queue, event->kind, &event->file,
			   event->name_len ? &event->parent : NULL);
}

static void gather(struct catalog *c, struct batch *b, struct event *event)
{
	struct touch *t = &b->touches[b->n], *const * found;

	*t = (struct touch){.file = event->file};
	t->last = &t->names;
	found = tsearch(t, &b->tree, compare_file);
	if (!found) {
		mark_event(c, event);
		free(event);
		return;
	}
	if (*found == t)
		b->n++;
	t = *found;
	t->created |= event->kind == EVENT_NAMED;
	t->moved |= event->kind == EVENT_RENAMED;
	t->lost |=
		event->kind == EVENT_UNNAMED || event->kind == EVENT_UNLINKED;
	t->removed |= event->kind == EVENT_REMOVED;
	if (event->kind == EVENT_ACCESSED) {
		t->access.n++;
		t->access.last = max_t(int64_t, t->access.last, event->time);
	}
	if (event->kind == EVENT_BACKDATED) {
		t->access.last = INT64_MIN;
		t->access.backdated = true;
	}
	if (event->kind == EVENT_SWAPPED)
		t->heir_of = event->from;
	for (const struct event *e = t->names; e; e = e->next)
		if (same_name(e, event)) {
			free(event);
			return;
		}
	event->next = NULL;
	*t->last = event;
	t->last = &event->next;
}

void catalog_batch_take(struct catalog *c, struct batch *b)
{
	struct event *event;

	while (b->n < BATCH && (event = catalog_queue_next(&c->queue))) {
		c->taken++;
		gather(c, b, event);
	}
}

void catalog_batch_end(struct catalog *c, struct batch *b, bool done)
{
	for (size_t i = 0; i < b->n; i++) {
		struct event *event = b->touches[i].names, *next;

		for (; event; event = next) {
			next = event->next;
			if (!done)
				mark_event(c, event);
			free(event);
		}
	}
	tdestroy(b->tree, nothing);
	b->tree = NULL;
	b->n = 0;
	if (!done) {
		for (size_t i = 0; i < c->nmarks; i++)
			catalog_queue_mark(&c->queue, c->marks[i]);
		if (c->whole) {
			atomic_store(&c->queue.whole, true);
			atomic_store(&c->queue.marked, true);
		}
	}
	c->nmarks = 0;
	c->whole = false;
}

/* ---- stamps ------------------------------------------------------------------ */

static size_t stamp_of(uint64_t key)
{
	return (key * 0x9e3779b97f4a7c15u >> 32) % STAMPS;
}

/* Numbers wrap: what is compared is never far apart. */
static bool since(uint32_t stamp, uint32_t batch)
{
	return (int32_t)(stamp - batch) >= 0;
}

void catalog_touch(struct catalog *c, uint64_t key)
{
	c->touched[stamp_of(key)] = atomic_load(&c->batch);
}

bool catalog_touched_since(struct catalog *c, uint64_t key, uint32_t batch)
{
	return since(c->touched[stamp_of(key)], batch);
}

bool catalog_remarked_since(struct catalog *c, uint64_t key, uint32_t batch)
{
	return since(c->remarked[stamp_of(key)], batch);
}

/* ---- one file ------------------------------------------------------------------- */

/* Looks at one of its names. *ret_there: 1, it leads to it; 0, it does not; -1,
 * it cannot be told. */
static int apply_name(struct catalog *c, struct touch *t,
		      const struct event *event, int *ret_there)
{
	struct catalog_seen seen;
	uint64_t parent = catalog_key(&event->parent);
	int err, fd;

	fd = catalog_dir_fd(c, &event->parent);
	err = fd < 0 ? fd : catalog_look(c->front, fd, event->name, &seen);
	if (!err && !front_handle_equal(&seen.handle, &t->file))
		err = -ENOENT;
	if (err) {
		*ret_there = catalog_is_gone(err) ? 0 : -1;
		if (*ret_there < 0)
			catalog_queue_mark(&c->queue, parent);
		return catalog_is_fatal(err) || err == -EBADMSG ? err : 0;
	}
	*ret_there = 1;
	if (S_ISDIR(seen.type))
		return catalog_dir_named(c, parent, event->name, &seen,
					 t->created ? c->gen : GEN_NEW);
	if (!S_ISREG(seen.type))
		return 0;
	err = t->created ? catalog_file_found(c, parent, event->name, &seen,
					      &t->access)
			 : -EEXIST;
	if (err == -EEXIST)
		err = catalog_file_named(c, parent, event->name, &seen,
					 &t->access);
	t->access = (struct catalog_access){0};
	return err;
}

/* The names from first on that are told of by gone. */
static int apply_gone(struct catalog *c, struct touch *t,
		      const struct event **gone, size_t n, bool there)
{
	uint64_t key = catalog_key(&t->file);
	struct catalog_row row;
	struct catalog_dir dir;
	int err;

	err = catalog_file_get(&c->db, key, &row);
	if (!err && front_handle_equal(&row.handle, &t->file)) {
		for (size_t i = 0; !err && i < n; i++)
			err = catalog_file_unnamed(
				c, key, catalog_key(&gone[i]->parent),
				gone[i]->name);
		/* It has a link less, or other attributes. */
		return err || there ? err
				    : catalog_file_refresh(c, key, &t->access);
	}
	/* The number was another's, and nobody told of its end, or is. */
	if (!err)
		err = catalog_file_refresh(c, key, NULL);
	if (err && err != -ENOENT)
		return err;
	err = catalog_dir_get(&c->db, key, &dir);
	if (err)
		return err == -ENOENT ? 0 : err;
	if (!front_handle_equal(&dir.handle, &t->file))
		return catalog_dir_verify(c, key);
	if (there)
		return 0;
	return n ? catalog_dir_verify(c, key) : catalog_dir_refresh(c, &dir);
}

/*
 * Has it no name at all? Asked of the inode, for what was removed: to look for
 * a name that is not there takes the directory's lock, and whoever goes on
 * removing files there waits for this thread, which others may have pushed off
 * its CPU. Who saw the last link go says so, and then it is not asked at all:
 * to open an inode that is gone has the kernel make one, and read the disk's.
 */
static bool is_nameless(struct catalog *c, const struct touch *t)
{
	struct stat st;
	bool ret;
	int fd;

	if (t->removed)
		return true;
	if (!t->lost || t->moved)
		return false;
	fd = front_open_handle(c->front, &t->file, O_PATH);
	if (fd < 0)
		return fd == -ESTALE;
	ret = fstat(fd, &st) == 0 && st.st_nlink == 0;
	close(fd);
	return ret;
}

/* What is known of a file that was removed, if it is known. -ENOENT. */
static int apply_removed(struct catalog *c, const struct touch *t)
{
	struct catalog_row row;
	int err;

	err = catalog_file_get(&c->db, catalog_key(&t->file), &row);
	if (!err && !front_handle_equal(&row.handle, &t->file))
		err = -ENOENT;
	return err ? err : catalog_file_remove(c, &row);
}

static int apply(struct catalog *c, struct touch *t)
{
	const struct event *some[8], **gone = some;
	_cleanup_free_ const struct event **many = NULL;
	size_t n = 0, count = 0;
	bool known = false, doubt = false, nameless = is_nameless(c, t);
	int err = 0, there = 0;

	catalog_touch(c, catalog_key(&t->file));
	if (t->removed) {
		err = apply_removed(c, t);
		if (err != -ENOENT)
			return err;
		err = 0;
	}
	if (t->heir_of.len)
		t->access.heir_of = &t->heir_of;
	for (const struct event *e = t->names; e; e = e->next)
		count++;
	if (count > ARRAY_SIZE(some)) {
		gone = many = reallocarray(NULL, count, sizeof(*many));
		if (!many)
			return -ENOMEM;
	}
	for (const struct event *e = t->names; !err && e; e = e->next) {
		if (!e->name_len)
			continue;
		if (!nameless)
			err = apply_name(c, t, e, &there);
		known |= there == 1;
		doubt |= there < 0;
		if (!there)
			gone[n++] = e;
	}
	/* Common: one name, and it is there. */
	if (err || (known && !n) || (doubt && !n))
		return err;
	return apply_gone(c, t, gone, n, known);
}

int catalog_batch_apply(struct catalog *c, struct batch *b)
{
	int err = 0;

	for (size_t i = 0; !err && i < b->n; i++)
		err = apply(c, &b->touches[i]);
	return err;
}

/* ---- marks ------------------------------------------------------------------------- */

void catalog_mark_late(struct catalog *c, uint64_t key)
{
	c->late_at = monotonic_ns();
	for (size_t i = 0; i < c->nlate; i++)
		if (c->late[i] == key)
			return;
	if (c->nlate < LATE)
		c->late[c->nlate++] = key;
	else
		c->whole = true;
}

/*
 * Whose number it is now is not known: it may have been a directory's, and be a
 * file's, or the other way round, and what is known may be either, or both.
 */
int catalog_mark(struct catalog *c, uint64_t key)
{
	struct catalog_dir dir;
	struct catalog_row row;
	bool known;
	int err;

	err = catalog_dir_get(&c->db, key, &dir);
	if (err && err != -ENOENT)
		return err;
	known = !err;
	err = 0;
	if (known) {
		c->remarked[stamp_of(key)] = atomic_load(&c->batch);
		err = catalog_db_do(&c->db, CQ_DIR_GEN, (int64_t)key,
				    GEN_MARKED);
	}
	catalog_touch(c, key);
	if (!err)
		err = catalog_file_refresh(c, key, NULL);
	/* Still known, it is a file's. */
	if (!err && !known)
		err = catalog_file_get(&c->db, key, &row);
	if (err == -ENOENT) {
		catalog_mark_late(c, key);
		err = 0;
	}
	return err;
}

int catalog_batch_marks(struct catalog *c)
{
	struct catalog_queue *q = &c->queue;
	int err = 0;

	if (c->nlate && !atomic_load(&q->n) &&
	    monotonic_ns() - c->late_at > LATE_NS)
		c->nlate = 0;
	if (!atomic_exchange(&q->marked, false))
		return 0;
	for (size_t i = 0; i < MARKS; i++) {
		uint64_t key = atomic_exchange(&q->marks[i], 0);

		if (key)
			c->marks[c->nmarks++] = key;
	}
	c->whole |= atomic_exchange(&q->whole, false);
	for (size_t i = 0; !err && i < c->nmarks; i++)
		err = catalog_mark(c, c->marks[i]);
	if (!err && c->whole) {
		c->nlate = 0;
		c->all_told = false;
		err = catalog_db_set_meta(&c->db, "gen", (int64_t)(c->gen + 1));
		if (!err)
			c->gen++;
	}
	return err;
}
