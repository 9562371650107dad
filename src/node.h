/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_NODE_H
#define TIERFS_NODE_H

/*
 * Nodes: what the daemon knows of the files the kernel (or itself) refers to.
 *
 * A node is found by the handle of its file on the front, in a liburcu hash
 * table; its address is the FUSE node id, so that a request needs no look-up.
 * It keeps no descriptor: node_fd() borrows one from a bounded cache that
 * opens by handle. A closed resident file costs one struct node and its name.
 *
 * Life: refs counts the holders of the pointer (the kernel's look-ups count as
 * one together, children count for their parent, jobs and handles one each).
 * At zero the node leaves the table and is freed after a grace period. A
 * reader of the table takes a reference only if refs is not zero already.
 *
 * Lock order: node->dir_lock of parents (both of a rename: by address), then
 * node->lock of one file, then leaf mutexes (fd cache, mover queue, log). No
 * lock here is held across a call that can wait for a target, the journal, a
 * ring or fuse_reply_*.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <urcu/rculfhash.h>
#include <urcu/call-rcu.h>

#include "front.h"

struct node_table;
struct tier_file; /* tier.h: a file that is open, moved or waited for */

enum node_flags {
	NODE_EA = 0x01,	      /* the front's inode may have a spill EA */
	NODE_UNLINKED = 0x02, /* no name left; nlink shows one less */
	NODE_VOLATILE = 0x04, /* writers or mappings: do not cache attributes */
	NODE_LEFT = 0x08,     /* unlinked, and what it leaves is queued */
	NODE_XATTRS = 0x10, /* the front's inode may have clients' attributes */
	NODE_BARE = 0x20,   /* it had no attribute at all, none was given it */
	NODE_OPENED = 0x40, /* since then: the kernel may have labelled it */
};

/* What the table holds: immutable, so that readers may compare it without a
 * lock. A swap gives its node a new key, of its own memory; the old one dies
 * after a grace period. */
struct node_key {
	struct cds_lfht_node hash;
	bool apart; /* not the node's first_key */
	uint8_t type, len;
	uint8_t bytes[]; /* len of them: with type, a front_handle */
};

struct node_hidden;

/*
 * A mount knows millions of them, so its size counts: one of ext4 with a name
 * of up to 28 characters takes 176 bytes of malloc's, and then up to 16 in the
 * hash table. What is read after the last reference went (refs, key, first_key)
 * must not be in the union.
 */
struct node {
	/* Written once, before the node is published. */
	struct node_table *table;

	_Atomic(uint64_t) nlookup; /* the kernel's references */
	union {
		pthread_mutex_t lock;
		struct rcu_head rcu; /* with the last reference gone */
	};
	/* Under lock. Changes when a restore swaps the inode: read under it or
	 * in an RCU read section. */
	_Atomic(struct node_key *) key;
	struct node *parent; /* a reference; NULL for the root and unlinked */
	struct tier_file *file; /* NULL for a closed file at rest */
	union {
		struct {
			pid_t reader;	    /* who read in place last, */
			uint32_t reader_at; /* and when: ms; 0: nobody yet */
		};
		/* Of a directory, node_hide.c; under lock, but set once. */
		_Atomic(struct node_hidden *) hidden;
	};
	uint16_t reads;	   /* opens that read in place and that count */
	uint16_t reads_at; /* since when: 2^16 ms */

	_Atomic(int) pinned_fd;	   /* node_pin(); -1: none */
	_Atomic(uint32_t) refs;	   /* holders of the pointer */
	uint32_t fd_slot;	   /* under the fd cache's lock */
	uint16_t type;		   /* S_IFMT bits; written once */
	_Atomic(uint8_t) flags;	   /* enum node_flags */
	bool name_apart;	   /* under lock: see node_path.c */
	uint16_t name_room;	   /* written once */
	uint16_t kept;		   /* under node_keep.c's lock */
	struct node_key first_key; /* *key, until a swap; then the name */
};

/* fd_max bounds the cached descriptors. */
int node_table_new(struct front *front, unsigned int fd_max,
		   struct node_table **ret);
void node_table_free(struct node_table *table);
struct node *node_root(struct node_table *table);
struct front *node_front(const struct node *node);

/*
 * Finds or makes the node of parent/name, and returns it with a reference and
 * its attributes on the front (unadjusted; tier_show() does that). ret_stat
 * may be NULL. -ENOENT, -ENOMEM, -EXDEV: a mount point below the front, other
 * errors of statx(2). Remembers parent and name.
 */
int node_lookup(struct node *parent, const char *name, struct stat *ret_stat,
		struct node **ret);
/* The same with the directory lock of parent held, and dirfd a descriptor of
 * it. */
int node_lookup_locked(struct node *parent, int dirfd, const char *name,
		       struct stat *ret_stat, struct node **ret);
/* The same for an open descriptor: of a file that has no name yet (O_TMPFILE,
 * parent NULL), or of one that was just made as parent/name. For the latter no EA
 * is looked for: the caller has held parent's lock since before it made the file,
 * and keeps others from writing to it, so that nobody can have given it an EA and
 * forgotten it. */
int node_of_fd(struct node_table *table, struct node *parent, const char *name,
	       int fd, struct stat *ret_stat, struct node **ret);
static inline int node_from_fd(struct node_table *table, int fd,
			       struct stat *ret_stat, struct node **ret)
{
	return node_of_fd(table, NULL, NULL, fd, ret_stat, ret);
}
static inline int node_made(struct node *parent, const char *name, int fd,
			    struct stat *ret_stat, struct node **ret)
{
	return node_of_fd(parent->table, parent, name, fd, ret_stat, ret);
}
/* The node with this handle if it is known, with a reference, else NULL. */
struct node *node_find(struct node_table *table,
		       const struct front_handle *handle);

/* Its handle now; a swap gives it another. */
struct front_handle node_handle(struct node *node);

struct node *node_ref(struct node *node);
void node_unref(struct node *node);
static inline void node_unrefp(struct node **node)
{
	if (*node)
		node_unref(*node);
}
/* The kernel's look-up count: node_kept() before an entry is replied (the
 * kernel may forget it at once), node_forget() if the reply fails. */
void node_kept(struct node *node);
void node_forget(struct node *node, uint64_t count);

/* What the namespace's operations tell. Caller holds node->lock. With parent
 * NULL it has names, but which is not known. node_unlinked() sets
 * NODE_UNLINKED and forgets parent and name. The old parent's reference is
 * dropped, which takes no lock. */
void node_renamed(struct node *node, struct node *parent, const char *name);
void node_unlinked(struct node *node);
/* Takes over fd, an O_PATH descriptor, for a file that must stay reachable
 * when its last name is gone: the kernel may still refer to it. */
void node_pin(struct node *node, int fd);

/* The directory lock of a node (its node->lock, taken for its names): names
 * below it do not change while held. */
void node_dir_lock(struct node *dir);
void node_dir_unlock(struct node *dir);
/* Both, in the order of the rule; a == b is locked once. */
void node_dir_lock2(struct node *a, struct node *b);
void node_dir_unlock2(struct node *a, struct node *b);

/* Swaps the file behind a node (restore): re-hashes it under the new handle,
 * drops its cached descriptor. Caller holds node->lock, and its directory's if
 * it has a name; the file has its name already, and the old one is kept alive
 * (a descriptor) until this returns: others open it by handle meanwhile. -ENOMEM, -EEXIST: the handle
 * is another node's; -ESTALE: no such file. Nothing has changed then. */
int node_swap(struct node *node, const struct front_handle *handle);

/* An O_PATH descriptor (O_RDONLY for directories where it can be had),
 * borrowed until put. Takes no node's lock. */
struct node_fd {
	int fd;
	uint32_t slot;
	struct node_table *table;
};
int node_fd_get(struct node *node, struct node_fd *ret);
void node_fd_put(struct node_fd *fd);
#define _cleanup_node_fd_ _cleanup_(node_fd_put)
#define NODE_FD_NONE	  ((struct node_fd){.fd = -1})

/* A descriptor of its own with flags (never creates): fd or -errno. */
int node_open(struct node *node, int flags);
/* The front's own attributes. */
int node_stat(struct node *node, struct stat *ret);

/* An extended attribute that only clients give a file, or its directory when it is
 * made (an ACL, capabilities, user.*), and that is known not to be there; false:
 * look for it. Any thread. */
bool node_xattr_absent(struct node *node, const char *name);
/* No attribute is there, of whatever kind (false: list them). Any thread. */
bool node_xattrs_none(struct node *node);
/* The file was given one. Caller holds node->lock, since before. */
void node_xattr_given(struct node *node);

/*
 * What is kept of a closed file for its next open: a backing id, of a file that
 * is open to be read, and who registered it. At most max, for as long as the
 * table is used between start and stop; close() gives one back, with any lock
 * held but those of this cache's callers.
 */
struct node_kept {
	int id;
	uid_t uid;
	gid_t gid;
};
int node_keep_start(struct node_table *table, unsigned int max,
		    void (*close)(void *arg, int id), void *arg);
/* Gives all back. close() is not called any more when it returns. */
void node_keep_stop(struct node_table *table);
/* Caller holds node->lock. True: it took the id over. */
bool node_keep(struct node *node, const struct node_kept *kept);
/* The id, which is the caller's now; 0: there is none for him. */
int node_keep_take(struct node *node, uid_t uid, gid_t gid);
/* Nobody may have the file open, or it goes: gives it back, if there is one. */
void node_keep_drop(struct node *node);

/*
 * Around what changes a directory's ctime on the front without anything having
 * happened to it: it goes on showing the one that it showed. mtime is put back in
 * between. The directory lock held. Without memory, or if it cannot be looked at,
 * the change shows.
 */
void node_hide_begin(struct node *dir);
void node_hide_end(struct node *dir);
/* Is it to be looked at by node_hide_stat()? Asked after a stat, if there is one
 * already, which is of no use then. */
bool node_hides(const struct node *dir);
int node_hide_stat(struct node *dir, struct stat *ret);

/* Walks an absolute path below the mount's root ("/" is the root) without
 * following symlinks, with the calling thread's credentials. -ENOENT,
 * -ENOTDIR, -EACCES, -ENAMETOOLONG. */
int node_walk(struct node_table *table, const char *path, struct node **ret);

/* One of its names, below node->parent; NULL: there is none, or it is not
 * known, nor is the parent. Caller holds node->lock as long as it is used. */
const char *node_name(const struct node *node);

/* The node's path below the root as far as it is known, "/" first, or
 * "(unlinked)". Truncated to fit; for messages. */
const char *node_path(struct node *node, char *buf, size_t len);

/* Nodes in the table, for status and tests. */
uint64_t node_count(const struct node_table *table);

#endif
