/* SPDX-License-Identifier: MIT */
/*
 * What was told, on its way to the catalog's thread.
 *
 * Any number of threads enqueue without waiting (liburcu's wfcqueue), one
 * takes out. A counter bounds the queue: who finds it full leaves instead the
 * key of the directory in a small table of marks, a few atomics, and when that
 * has no room either, a flag that says all. So nothing is forgotten, and nobody
 * waits: not for memory, either. A file that lost one of several names is marked
 * too: what was done to it by that name, and dropped, marked a directory that
 * does not lead to it any more.
 *
 * Waking costs a system call, so it is done by the one who makes the queue
 * longer than what its consumer sleeps for: first one event, then, while that
 * gathers, a whole batch. n is counted up before asleep is read, and asleep is
 * set before n is read, both sequentially consistent: one of the two sees the
 * other.
 */
#include "catalog_int.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util.h"

#define QUEUE_LIMIT 65536
#define PROBES	    16

int catalog_queue_init(struct catalog_queue *q)
{
	q->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->wake_fd < 0)
		return -errno;
	cds_wfcq_init(&q->head, &q->tail);
	atomic_store(&q->limit, QUEUE_LIMIT);
	return 0;
}

struct event *catalog_queue_next(struct catalog_queue *q)
{
	struct cds_wfcq_node *node =
		__cds_wfcq_dequeue_blocking(&q->head, &q->tail);
	struct event *event;

	if (!node)
		return NULL;
	event = container_of(node, struct event, node);
	TSAN_ACQUIRE(event);
	atomic_fetch_sub(&q->n, 1);
	return event;
}

void catalog_queue_free(struct catalog_queue *q)
{
	struct event *event;

	while ((event = catalog_queue_next(q)))
		free(event);
	cds_wfcq_destroy(&q->head, &q->tail);
	close(q->wake_fd);
}

void catalog_queue_wake(struct catalog_queue *q)
{
	const uint64_t one = 1;

	(void)!write(q->wake_fd, &one, sizeof(one));
}

void catalog_queue_wait(struct catalog_queue *q, int at_least, int timeout_ms)
{
	struct pollfd pfd = {.fd = q->wake_fd, .events = POLLIN};
	uint64_t count;

	atomic_store(&q->asleep, at_least);
	if (atomic_load(&q->n) < (size_t)at_least)
		poll(&pfd, 1, timeout_ms);
	atomic_store(&q->asleep, 0);
	(void)!read(q->wake_fd, &count, sizeof(count));
}

void catalog_queue_mark(struct catalog_queue *q, uint64_t key)
{
	size_t at = key * 0x9e3779b97f4a7c15u >> 32;

	for (size_t i = 0; i < PROBES; i++) {
		_Atomic(uint64_t) *mark = &q->marks[(at + i) % MARKS];
		uint64_t old = 0;

		if (atomic_compare_exchange_strong(mark, &old, key) ||
		    old == key) {
			atomic_store(&q->marked, true);
			return;
		}
	}
	atomic_store(&q->whole, true);
	atomic_store(&q->marked, true);
}

void catalog_queue_lost(struct catalog_queue *q, enum event_kind kind,
			const struct front_handle *file,
			const struct front_handle *parent)
{
	if (parent)
		catalog_queue_mark(q, catalog_key(parent));
	/* Its row says where it is. */
	if (!parent || kind == EVENT_UNLINKED)
		catalog_queue_mark(q, catalog_key(file));
}

static void put(struct catalog *c, enum event_kind kind,
		const struct front_handle *file,
		const struct front_handle *parent, const char *name,
		const struct front_handle *from)
{
	struct catalog_queue *q = &c->queue;
	size_t len = name && parent ? strlen(name) : 0, n;
	struct event *event;
	int asleep;

	n = atomic_fetch_add(&q->n, 1);
	event = n < atomic_load(&q->limit) ? malloc(sizeof(*event) + len + 1)
					   : NULL;
	if (!event) {
		atomic_fetch_sub(&q->n, 1);
		atomic_fetch_add(&q->dropped, 1);
		catalog_queue_lost(q, kind, file, len ? parent : NULL);
		return;
	}
	event->kind = kind;
	event->file = *file;
	event->parent = len ? *parent : (struct front_handle){0};
	event->from = from ? *from : (struct front_handle){0};
	event->time = kind == EVENT_ACCESSED ? realtime_ns() : 0;
	event->name_len = (uint16_t)len;
	if (len)
		memcpy(event->name, name, len);
	event->name[len] = '\0';
	cds_wfcq_node_init(&event->node);
	/* Before it is queued: so many taken out means that it was. */
	atomic_fetch_add(&q->told, 1);
	TSAN_RELEASE(event);
	cds_wfcq_enqueue(&q->head, &q->tail, &event->node);
	asleep = atomic_load(&q->asleep);
	if (asleep && n + 1 >= (size_t)asleep &&
	    atomic_compare_exchange_strong(&q->asleep, &asleep, 0))
		catalog_queue_wake(q);
}

void catalog_changed(struct catalog *c, const struct front_handle *file,
		     const struct front_handle *parent, const char *name)
{
	if (c)
		put(c, EVENT_CHANGED, file, parent, name, NULL);
}

void catalog_refresh(struct catalog *c, const struct front_handle *file)
{
	catalog_changed(c, file, NULL, NULL);
}

void catalog_accessed(struct catalog *c, const struct front_handle *file,
		      const struct front_handle *parent, const char *name)
{
	if (c)
		put(c, EVENT_ACCESSED, file, parent, name, NULL);
}

void catalog_backdated(struct catalog *c, const struct front_handle *file,
		       const struct front_handle *parent, const char *name)
{
	if (c)
		put(c, EVENT_BACKDATED, file, parent, name, NULL);
}

void catalog_named(struct catalog *c, const struct front_handle *file,
		   const struct front_handle *parent, const char *name)
{
	if (c)
		put(c, EVENT_NAMED, file, parent, name, NULL);
}

void catalog_unnamed(struct catalog *c, const struct front_handle *file,
		     const struct front_handle *parent, const char *name)
{
	if (c)
		put(c, EVENT_UNNAMED, file, parent, name, NULL);
}

void catalog_unlinked(struct catalog *c, const struct front_handle *file,
		      const struct front_handle *parent, const char *name)
{
	if (c)
		put(c, EVENT_UNLINKED, file, parent, name, NULL);
}

void catalog_removed(struct catalog *c, const struct front_handle *file,
		     const struct front_handle *parent, const char *name)
{
	if (c)
		put(c, EVENT_REMOVED, file, parent, name, NULL);
}

void catalog_renamed(struct catalog *c, const struct front_handle *file,
		     const struct front_handle *oldparent, const char *oldname,
		     const struct front_handle *newparent, const char *newname)
{
	if (!c)
		return;
	/* The new name first: a file is never without one. */
	put(c, EVENT_RENAMED, file, newparent, newname, NULL);
	put(c, EVENT_UNNAMED, file, oldparent, oldname, NULL);
}

void catalog_swapped(struct catalog *c, const struct front_handle *from,
		     const struct front_handle *to,
		     const struct front_handle *parent, const char *name)
{
	if (!c)
		return;
	put(c, EVENT_SWAPPED, to, parent, name, from);
	put(c, EVENT_UNNAMED, from, parent, name, NULL);
}

void catalog_set_limit(struct catalog *c, size_t limit)
{
	atomic_store(&c->queue.limit, limit);
}
