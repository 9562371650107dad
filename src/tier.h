/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TIER_H
#define TIERFS_TIER_H

/*
 * The tier: the one writer of states.
 *
 * fs, control and the policy change where a file's data is only through this
 * interface, so a recall by hand and one by a read take the same way. Which
 * event does what to which state is state.h's table; how it is made safe is
 * told at the head of each tier_*.c.
 *
 * Nothing here waits for a target, the journal or a recall. What has to wait
 * is parked: the call returns -EINPROGRESS and wait->resume is called later,
 * on the tier's waker thread, where the caller tries again from the start.
 * Data that comes from a target arrives by callback.
 *
 * Lock order: node.h. Functions here take node->lock themselves; callers hold
 * no lock unless it is said.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <urcu/list.h>

#include "config.h"
#include "journal.h"
#include "mover.h"
#include "node.h"
#include "recall_rule.h"
#include "tierfs/target.h"

struct tier;
struct catalog;
struct batches;
struct delta_view;

/* ---- life ------------------------------------------------------------- */

struct tier_parts {
	const struct config *config;
	struct front *front;
	struct node_table *nodes;
	struct journal *journal;
	struct mover *mover;
	struct target **targets; /* by number; NULL: none of that number */
	unsigned int ntargets;
	struct ring *ring;	  /* for the mover's I/O on the front */
	struct copy_limit *limit; /* of the background's bandwidth */
	struct catalog *catalog;  /* NULL: there is none */
	struct batches *batches;  /* what is kept; NULL: nothing */
};

/* What can be changed while it is in use, each by itself: read without a lock,
 * whenever needed. parts.config has what they were at first. */
/* Opens count for restore_after that come within that time of the first. */
#define TIER_READS_NS (12 * 3600 * INT64_C(1000000000))

struct tier_tunables {
	_Atomic(bool) policy_auto;
	_Atomic(uint64_t) migrate_age_ns;
	_Atomic(uint64_t) migrate_size;
	_Atomic(double) high, low; /* see tier_watermarks() */
	_Atomic(double) reserve_percent;
	_Atomic(uint64_t) reserve_bytes;
	_Atomic(uint32_t) restore_after;
	_Atomic(uint32_t) dirty_entries;
	_Atomic(uint64_t) dirty_bytes;
	_Atomic(uint64_t) restore_below;
	_Atomic(uint64_t) restore_budget; /* 0: none */
	_Atomic(bool) nonblock_waits;
};
const struct tier_tunables *tier_tunables(struct tier *tier);
/* high and low on a front of total bytes (used and available): as they are set,
 * or both as much lower as it takes for the reserve to stay free. */
void tier_watermarks(const struct tier_tunables *tune, uint64_t total,
		     double *ret_high, double *ret_low);
/* Takes them, who may recall, and the limit of the background's bandwidth, from
 * config. */
void tier_retune(struct tier *tier, const struct config *config);

/* Takes nothing over; the parts outlive the tier. -ENOMEM, -EAGAIN. */
int tier_start(const struct tier_parts *parts, struct tier **ret);
/* Cancels what moves and stops the mover; requests that wait are answered. Then
 * the session may end. */
void tier_quiesce(struct tier *tier);
/* Instead of these, when a target hangs and the process is about to end: what
 * can be saved on the front is. */
void tier_abandon(struct tier *tier);
/* After tier_quiesce() and the last request. Frees the tier. */
void tier_stop(struct tier *tier);

/* Finishes or undoes what a crash left: before the mount serves requests,
 * after tier_start(). In the time of what was in flight; never waits for a
 * target (what is to be deleted there is queued). -errno of the journal. */
int tier_recover(struct tier *tier);

/* ---- who asks ----------------------------------------------------------- */

/* For whom something is done, as far as it matters where data is not on the
 * front. */
struct tier_who {
	pid_t pid;     /* 0: not known */
	bool nonblock; /* O_NONBLOCK: -EAGAIN instead of waiting for data */
	/* What the rules say of him: the caller asks them (tier_rules()) when
	 * a call gives -EDESTADDRREQ, and calls again. */
	bool judged;
	bool waits; /* all the same */
	enum recall_action action;
	int16_t rule;
	uint16_t generation; /* of the rules */
};

/* The rules in use, with a reference; NULL: none. */
struct recall_rules *tier_rules(struct tier *tier, uint16_t *ret_generation);

/* ---- waiting ---------------------------------------------------------- */

struct tier_wait {
	/* err: 0, try again; else why it cannot be had (-EIO, -ENOSPC, ...). On
	 * the waker thread; may call the tier and reply, may use the front. */
	void (*resume)(struct tier_wait *wait, int err);
	struct cds_list_head link; /* the tier's while parked */
	int err;
	/* For whom, unchanged while it is parked; NULL: for the daemon, who
	 * may and waits. */
	const struct tier_who *who;
};

/* Takes a parked wait back (the client was interrupted). True: resume will
 * not be called. False: it has been, or is about to be. */
bool tier_wait_cancel(struct node *node, struct tier_wait *wait);

/* ---- data: open, read, write, close ------------------------------------ */

/*
 * Begins using the data of a regular file, as open(2) with flags does. Used
 * for handles and, around the single call, for truncate(2) and what else
 * changes data without a handle.
 *
 * 0             the use is counted, tier_close() ends it. For writing a file
 *               that is resident stays so; one that is not may become it. With
 *               O_TRUNC what it held is no longer needed, and the caller
 *               truncates. Until the call the contents are as before, but for
 *               O_TRUNC.
 * -EINPROGRESS  parked
 * -EDESTADDRREQ the file's data is not on the front, and what the rules say of
 *               wait->who must be known: of this and all that take a wait
 * -EAGAIN       data would have to come, which wait->who may not have, or does
 *               not wait for (it is on its way then): of all that take a wait
 * -EIO          the target is offline and the data is needed to open for
 *               writing
 * -EPROTONOSUPPORT, -EBADMSG  the spill EA cannot be understood
 */
int tier_open(struct tier *tier, struct node *node, int flags,
	      struct tier_wait *wait);
/* The same for a file that the caller has just made, and nobody else knows of;
 * fd, readable, is taken over. -ENOMEM. */
int tier_open_made(struct tier *tier, struct node *node, int flags, int fd);
/* Of a file that the caller uses for writing: its data is on the front and it
 * has no copies when this returns 0. -EINPROGRESS: parked. Errors as above. */
int tier_untier(struct tier *tier, struct node *node, struct tier_wait *wait);
/* Ends a use. flags as at the open. */
void tier_close(struct tier *tier, struct node *node, int flags);

/* The front's file of one in use, borrowed for a request. While borrowed it
 * is not closed, even if a restore swaps the file meanwhile. */
struct tier_src;
struct tier_data {
	int fd; /* O_RDWR if write was asked for, else readable */
	bool writable;
	struct tier_src *src;
};
/* 0; -EREMOTE: the data is in an object: tier_read(), tier_write() and the
 * others below; other errors of open(2) on the front. */
int tier_data_get(struct tier *tier, struct node *node, bool write,
		  struct tier_data *ret);
void tier_data_put(struct tier_data *data);

/* Reads in place. done comes on a ring thread, or at once from tier_read();
 * it must not block and owns read again. */
struct tier_read {
	void (*done)(struct tier_read *read, int64_t res); /* bytes or -errno */
	void *buf; /* TARGET_ALIGN aligned, as len and off should be */
	size_t len;
	uint64_t off;
	/* For whom: needed for the call alone. NULL: as in tier_wait. He gets
	 * -EAGAIN at once where an object would have to be read that he may
	 * not have, or for which he would have to wait. */
	const struct tier_who *who;
	bool kept_off; /* out: that is so */
	/* the tier's */
	struct target_io io;
	struct tier_src *src;
	struct delta_view *view;
	struct node *node; /* the caller's, until done */
	char *obj_buf;	   /* what is read of the object */
	size_t obj_len;
	uint64_t obj_off;
	int64_t res;
	struct cds_list_head link;
};
void tier_read(struct tier *tier, struct node *node, struct tier_read *read);

/*
 * Changing a file in use for writing whose data is in an object: nothing of it
 * is read, the change is logged on the front (tier_dirty.c). Of all of them:
 * -EALREADY: it is resident (now), tier_data_get() has its file. -EIO: the log
 * cannot be understood; -EFBIG: no file on the front can be that large; errors
 * of write(2) on the front. The thread acts as the client.
 */
int tier_write(struct tier *tier, struct node *node, const void *buf,
	       size_t len, uint64_t off);
int tier_truncate(struct tier *tier, struct node *node, uint64_t size);
/* Zeros; extend: the file may become longer by them. */
int tier_zero(struct tier *tier, struct node *node, uint64_t off, uint64_t len,
	      bool extend);
/* What was changed so far is durable; may block on the front's disk. For any
 * use. */
int tier_fsync(struct tier *tier, struct node *node, bool datasync);
/* For what cannot be logged: 0, it is resident. -EINPROGRESS: parked until it
 * is. -EOPNOTSUPP: it cannot be, having no name. */
int tier_need_resident(struct tier *tier, struct node *node,
		       struct tier_wait *wait);

/* SEEK_DATA and SEEK_HOLE of a released file. done on a worker or at once;
 * -EAGAIN: it is resident (now), ask the front. */
struct tier_seek {
	void (*done)(struct tier_seek *seek, int64_t res); /* offset, -errno */
	uint64_t off;
	int whence;
	/* As in tier_read; he is told of no holes where a target would have to
	 * look for them. */
	const struct tier_who *who;
};
void tier_seek(struct tier *tier, struct node *node, struct tier_seek *seek);

/*
 * What fs keeps of a file that has handles open: valid between tier_open()
 * and tier_close(), under node->lock. The tier only provides the room.
 */
struct tier_handles {
	unsigned int count; /* handles of the kernel */
	/* Passthrough, id > 0, or 0; and may it be kept afterwards? */
	struct node_kept backing;
	bool may_keep;
	bool passthrough; /* the I/O mode, fixed while count > 0 */
};
struct tier_handles *tier_handles(struct node *node);

/* Is the data on the front (node->lock held)? Decides the I/O mode. */
bool tier_resident(struct node *node);
/* Was the object found not to be what was migrated (node->lock held)? What the
 * kernel has cached of it is to be dropped. */
bool tier_damaged(struct node *node);

/* ---- attributes -------------------------------------------------------- */

/*
 * The attributes to show: size, blocks, ino, ctime, nlink as if the file had
 * never been tiered. *ret_volatile: must not be cached by the kernel (writers
 * or mappings, DESIGN of the page cache in fs.c). May be NULL.
 * -EPROTONOSUPPORT, -EBADMSG: the EA cannot be understood.
 */
int tier_getattr(struct tier *tier, struct node *node, struct stat *ret,
		 bool *ret_volatile);
/* For one just taken with node_lookup(): adjusts st, or does nothing for a
 * file without an EA, which costs nothing. */
int tier_adjust(struct tier *tier, struct node *node, struct stat *st,
		bool *ret_volatile);

/*
 * Around a change of metadata that alters ctime (chmod, chown, utimens, xattrs,
 * inode flags): a ctime kept from the user ends here, and the file is not
 * swapped for a restored one in between. Takes and keeps node->lock for regular
 * files; in between only the front is used, and no other tier_*() but
 * tier_data_get() for a handle, which must be taken before.
 */
void tier_meta_begin(struct tier *tier, struct node *node);
/* In between, after utimensat(times): a restore that is filling the file must
 * not put back older ones, and the catalog learns when it was accessed. */
void tier_meta_times(struct tier *tier, struct node *node,
		     const struct timespec times[2]);
void tier_meta_end(struct tier *tier, struct node *node);

/* "none", "migrating", ... as user.tierfs.state shows it; -errno. */
int tier_state(struct tier *tier, struct node *node, enum spill_state *ret);

/* ---- the namespace ----------------------------------------------------- */

/*
 * unlink(2), rename(2) with flags, and link(2) on the front, such that no
 * object is lost or leaked: they take the directories' locks, keep the last
 * name of a tiered file in .tierfs/orphans until its objects are deleted, and
 * tell the nodes. errors as of the system call. Names in .tierfs are the
 * caller's to refuse. A file with a log must be restored before it gets a
 * second name: tier_link() parks wait then (-EINPROGRESS).
 */
int tier_unlink(struct tier *tier, struct node *parent, const char *name);
/* node_forget(), of what the kernel was told of: objects of an unlinked file are
 * not deleted before. */
void tier_forget(struct tier *tier, struct node *node, uint64_t count);
int tier_rename(struct tier *tier, struct node *parent, const char *name,
		struct node *newparent, const char *newname,
		unsigned int flags);
int tier_link(struct tier *tier, struct node *node, struct node *newparent,
	      const char *newname, struct tier_wait *wait);
/* How often what a walk over the front could miss was renamed or linked so far:
 * directories, and files with attributes of ours. *ret_quiet: no such call is
 * under way. */
uint64_t tier_renames(struct tier *tier, bool *ret_quiet);
/* A file or directory was made by the mount (create, mknod, mkdir): the file is
 * counted, and the catalog is told. An O_TMPFILE, which is node_unlinked(),
 * counts from tier_link() on. */
void tier_created(struct tier *tier, struct node *node, struct node *parent,
		  const char *name);
/* rmdir(2) under the directory's lock; the catalog is told, the node is not. */
int tier_rmdir(struct tier *tier, struct node *parent, const char *name);
/* A file in use was changed otherwise than by what is above: the catalog is
 * told. Takes node->lock. */
void tier_changed(struct tier *tier, struct node *node);

/* ---- what is asked for --------------------------------------------------- */

enum tier_op {
	TIER_MIGRATE,
	TIER_RELEASE,
	TIER_MIGRATE_RELEASE,
	TIER_RESTORE,
};

enum tier_result {
	TIER_DONE,    /* it is as asked now */
	TIER_ALREADY, /* it was */
	TIER_REFUSED, /* not possible as the file is; reason says why */
	TIER_FAILED,  /* tried, and failed; reason says why */
};

struct tier_request {
	/* The asker's. */
	struct node *node; /* a reference, kept by the asker until done */
	const char *path;  /* for people, kept until done; may be NULL */
	/* Of a migration: the number + 1 of the only target that will do; 0: the
	 * first that has room. */
	uint8_t only;
	/* Once for each request, on a worker or from tier_submit() itself. */
	void (*done)(struct tier_request *req);

	/* Filled in before done. */
	enum tier_result result;
	char reason[160];
	uint64_t bytes;	 /* moved */
	uint64_t job_id; /* the mover's, from tier_submit() on; 0: none */
	/* the tier's */
	struct cds_list_head link;
	struct tier_request *asked; /* it is a step of that one */
};

/* Queues op for n files in as few jobs as is good, in an order of its own: reqs
 * may be sorted. Always calls each done. */
void tier_submit(struct tier *tier, enum tier_op op, enum mover_prio prio,
		 struct tier_request **reqs, size_t n);

/* Of a migrated file that nobody uses the page cache keeps nothing: so that its
 * release is short. May block on the front. */
void tier_uncache(struct tier *tier, struct node *node);

/* Sets or clears the pin of a file or directory. -EPERM (immutable). A
 * released file is not brought back by it: submit TIER_RESTORE. */
int tier_pin(struct tier *tier, struct node *node, bool pin);
/* The next directory above that is pinned, with a reference; NULL: none. */
struct node *tier_pinned_above(struct tier *tier, struct node *node);

/* For the check: the attribute of a resident file, if it is as in ea still, no
 * longer names copies. Their objects stay. -EAGAIN: it is another, or moving. */
int tier_forget_copies(struct tier *tier, struct node *node,
		       const struct spill_ea *ea);

/* While it is set nothing is migrated or released; what is so stays. */
void tier_set_draining(struct tier *tier, bool draining);
bool tier_draining(struct tier *tier);
/* For drain: takes the tier's attributes from files and directories, pins and
 * shown numbers too; their objects are deleted in the background. Waits for the
 * journal once. errs[i]: 0; -EBUSY: it is being moved, or its data is not on the
 * front; -EIO; -errno. */
void tier_leave(struct tier *tier, struct node **nodes, size_t n, int *errs);
/* What is still to be deleted; *ret_running: it is being worked at. */
size_t tier_stale_left(struct tier *tier, bool *ret_running);

/* ---- what can be asked ---------------------------------------------------- */

struct tier_file_status {
	enum spill_state state;
	uint64_t size;
	uint64_t front_bytes; /* allocated on the front */
	bool pinned;	      /* itself, or a directory above */
	bool damaged;	      /* the object is not what was migrated */
	unsigned int open;
	unsigned int ncopies;
	struct spill_copy copies[TIERFS_EA_COPIES_MAX];
};
int tier_file_status(struct tier *tier, struct node *node,
		     struct tier_file_status *ret);

struct tier_counts {
	int64_t files[SPILL_STATES];
	int64_t bytes[SPILL_STATES]; /* logical */
};
void tier_counts(struct tier *tier, struct tier_counts *ret);
/* False: the front has files that were never counted, only what changed is. */
bool tier_is_counted(struct tier *tier);
/* Around what makes a file: from before it is on the front until it is told. */
void tier_counting_begin(struct tier *tier);
void tier_counting_end(struct tier *tier);

/* What is counted at a moment. */
struct tier_census {
	struct tier_counts counts;
	uint64_t begun;
	bool quiet; /* nothing that counts is under way */
};
/* False: it would be of no use now. It waits for nobody. */
bool tier_census(struct tier *tier, struct tier_census *ret);
/* right is what was to be counted then. False: something was under way, or has
 * begun since, and nothing is changed; or, if nothing was ever counted, the
 * counters are right but for that. */
bool tier_recount(struct tier *tier, const struct tier_census *then,
		  const struct tier_counts *right);

/* Restores that nobody asked for, and those that were not begun for that. */
struct tier_own_restores {
	uint64_t used, limit; /* bytes of the last 24 hours; 0: no limit */
	uint64_t no_budget, no_room;
};
void tier_own_restores(struct tier *tier, struct tier_own_restores *ret);

const struct tier_parts *tier_parts(struct tier *tier);
/* Objects that wait to be deleted on a target, and in how many ns they are
 * tried again, if they failed (0: soon, or when it is well). */
size_t tier_stale_count(struct tier *tier, uint8_t target, int64_t *ret_retry);
/* A target by number; NULL: unknown. */
struct target *tier_target(struct tier *tier, uint8_t number);

#endif
