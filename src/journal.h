/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_JOURNAL_H
#define TIERFS_JOURNAL_H

/*
 * The journal: what is in flight, so that recovery need not look for it.
 *
 * A small SQLite database on the front (synchronous=FULL). An intent is
 * committed before the step that it announces, and dropped, lazily, after the
 * step is durable. One thread owns the database; everyone else queues to it,
 * and all that is queued is committed together.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <urcu/list.h>

#include "front.h"

struct journal;

enum intent_kind {
	INTENT_CREATE = 1,  /* object oid is being written for the file */
	INTENT_WRITE = 2,   /* the file may change: object oid becomes stale */
	INTENT_RELEASE = 3, /* data dropped; times to put back */
	INTENT_RESTORE = 4, /* filled in place or swapped; slot: see ino */
	INTENT_APPLY = 5,   /* swapped for what differs from the object, which
			     * goes if that is done */
};

struct intent {
	uint64_t id; /* given by the journal, > 0, grows */
	enum intent_kind kind;
	uint8_t target;
	uint64_t oid;
	struct front_handle handle; /* of the file on the front */
	int64_t mtime, atime;	    /* ns; RELEASE and RESTORE */
	uint64_t ino; /* RESTORE, APPLY: shown number; 0: filled in place */
};

/* A request of a thread that must not wait: done is called on the journal's
 * thread, with 0 once the intents are durable (ids filled in) or -errno (none
 * is). done must not block; the request belongs to the caller again. */
struct journal_req {
	struct cds_list_head link; /* the journal's while queued */
	struct intent *intents;
	size_t n;
	void (*done)(struct journal_req *req, int err);
};

/* From now on journals are opened without SQLite's own locks: one that is dead,
 * but held by the kernel, has them still. The front's lock is enough. */
void journal_ignore_locks(void);
/* Opens or creates journal.db in dirfd (which is duplicated). On failure
 * *ret_why (free it; NULL without memory) names what is wrong: -EBADMSG not
 * ours or damaged, -EPROTONOSUPPORT newer, -EBUSY another process has it,
 * -ENOSPC, -EIO. The file is left as it was. */
int journal_open(int dirfd, struct journal **ret, char **ret_why);
/* Commits what is queued, then closes. NULL is allowed. */
void journal_close(struct journal *journal);
/* There was none: on a front that has objects already it was lost, and the
 * counts given out start at 1 again; journal_alloc() can skip some. */
bool journal_created(const struct journal *journal);

void journal_add_async(struct journal *journal, struct journal_req *req);
/* The same, waiting: for background threads alone. */
int journal_add(struct journal *journal, struct intent *intents, size_t n);

/* The intents' steps are durable: they are dropped with the next commit,
 * within a second. Does not wait; a crash before (or no memory) leaves them,
 * and recovery finds them done. */
void journal_done(struct journal *journal, const uint64_t *ids, size_t n);

/* Gives out n > 0 consecutive object counts (oid.h), never twice, a crash
 * included. Waits for a commit only every few thousand. -EOVERFLOW: no counts
 * are left. */
int journal_alloc(struct journal *journal, size_t n, uint64_t *ret_first);

/* Small values beside the intents (counters). Put is lazy: with the next
 * commit, never without the journal_done() before it. Get waits, and sees
 * earlier puts. -ENOENT: never put; -ERANGE: longer than size. Returns the
 * length. */
void journal_put(struct journal *journal, const char *key, const void *value,
		 size_t len);
int journal_get(struct journal *journal, const char *key, void *ret,
		size_t size);

/* All intents in the order of their ids, for recovery: an array to free, NULL
 * when there are none. Waits. */
int journal_intents(struct journal *journal, struct intent **ret,
		    size_t *ret_n);

/* Committed so far, failed commits, and intents queued to be added. */
struct journal_stats {
	uint64_t commits, added, done, failed;
	size_t queued;
};
void journal_stats(struct journal *journal, struct journal_stats *ret);

#endif
