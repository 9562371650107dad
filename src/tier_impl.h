/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TIER_IMPL_H
#define TIERFS_TIER_IMPL_H

/* What the tier's files share. Nobody else includes this. */

#include <pthread.h>
#include <stdatomic.h>

#include "budget.h"
#include "catalog.h"
#include "delta.h"
#include "state.h"
#include "tier.h"

/* Files up to this size are migrated in batches that share their syncs. */
#define TIER_SMALL	   (1u << 20)
#define TIER_BATCH_FILES   2048
/* Restoring has a descriptor open for each. */
#define TIER_RESTORE_FILES 64
#define TIER_BATCH_BYTES   (256u << 20)
#define TIER_RELEASE_BYTES (1ULL << 30)

/* What is to be deleted on a target once the front is synced. */
struct tier_stale {
	struct cds_list_head link;
	uint8_t target;
	bool object; /* target and oid are valid */
	uint64_t oid;
	uint64_t intent; /* the journal's, done with it; 0: none */
	uint64_t orphan; /* .tierfs/orphans/ORPHAN goes too; 0: none */
	uint64_t holder; /* .tierfs/inodes/HOLDER goes too; 0: none */
};

/* What waits to be deleted on one target; the first queue is for what is on
 * none. Under tier->stale_lock. */
struct tier_stale_queue {
	struct cds_list_head list; /* of tier_stale */
	size_t n;
	bool queued;	   /* a job is going to take them */
	int64_t failed_ns; /* how long it is put off after failures */
	int64_t retry_at;  /* monotonic ns; 0: at once */
};

/* What was said of a target, and what is to be said. */
struct tier_watch {
	_Atomic(bool) probing; /* a job looks after it */
	/* Under tier->watch_lock. */
	enum target_condition told;
	char why[160];
	int64_t file_told; /* monotonic ns */
	int64_t check_at;  /* a damaged object may be looked at again */
};

struct tier {
	struct tier_parts parts;
	struct tier_tunables tunables;

	/* Counters by state; dirty: to be put into the journal. */
	_Atomic(int64_t) files[SPILL_STATES];
	_Atomic(int64_t) bytes[SPILL_STATES];
	_Atomic(bool) counts_dirty;

	/* The waker's queue and clock, under wake_lock (a leaf). */
	pthread_t waker;
	pthread_mutex_t wake_lock;
	pthread_cond_t wake_cond;
	struct cds_list_head wake_list; /* of tier_wait */
	bool stopping;

	_Atomic(int64_t) bad_ea_told; /* monotonic ns */
	_Atomic(uint64_t) renames_begun, renames_ended;
	_Atomic(uint64_t) counting_begun, counting_ended; /* tier_count.c */
	_Atomic(bool) draining;
	unsigned int batch_files; /* what the limit of descriptors allows */
	uint64_t max_size;	  /* of a file on the front */
	unsigned int ticks;	  /* the waker's alone */

	/* A leaf. */
	pthread_mutex_t adopt_lock;
	pthread_cond_t adopt_cond;
	bool adopting;		 /* a walk counts */
	_Atomic(bool) uncounted; /* but for changes */

	/* A leaf (tier_recall.c). */
	pthread_mutex_t recall_lock;
	struct recall_rules *rules; /* a reference, or NULL */
	_Atomic(bool) has_rules;
	uint16_t rules_generation;
	struct budget budget; /* of restores that nobody asked for */
	bool budget_dirty;    /* to be put into the journal */
	uint64_t own_coming;  /* bytes of those that are under way */
	uint64_t own_no_budget, own_no_room;  /* that were not begun */
	int64_t room_retry_at, room_retry_ns; /* after one found no room */

	pthread_mutex_t watch_lock; /* a leaf, but for targets' own */
	struct tier_watch watch[TIERFS_TARGETS_MAX];

	/* Above stale_lock, taken by background threads alone. */
	pthread_mutex_t sync_lock;

	/* A leaf. */
	pthread_mutex_t stale_lock;
	struct tier_stale_queue stale[TIERFS_TARGETS_MAX + 1];
	struct cds_list_head unsettled; /* of tier_unsettled */
	/* Intents whose steps become durable with the next sync. */
	struct tier_unsynced *unsynced;
	size_t n_unsynced, cap_unsynced;
};

struct tier_unsynced {
	uint64_t intent;
	uint64_t oid; /* that it had recovery delete, or 0 */
};

/* A file whose suspect copy is to be looked at again. */
struct tier_unsettled {
	struct cds_list_head link;
	struct node *node; /* a reference */
};

/* One move of one file, from the moment it may no longer be refused. */
struct tier_move {
	enum tier_op op;
	struct tier_file *file;
	struct tier_request *req; /* NULL: restore begun by an access */
	uint8_t only;		  /* as in the request */
	struct mover_job *job;
	bool solo; /* the job's only file: cancelling it cancels the copy */
	int fd;	   /* on the front, holds the lease; -1 */
	/* Under node->lock. */
	bool cancelled;
	bool committed; /* the EA says it; nothing is to be undone */
	uint64_t own;	/* bytes of a restore that nobody asked for */
	/* The worker's. */
	int err;
	bool wrote; /* to the front, or may have */
	uint64_t oid;
	uint8_t target;
	uint64_t intent;
	struct stat st;	    /* when it began */
	struct spill_ea ea; /* before */
	struct spill_sum sum;
};

/*
 * A file that is open, moved, waited for, or whose copy is suspect. Made on
 * demand; all of it is under node->lock unless said otherwise. Holds a
 * reference to its node.
 */
struct tier_file {
	struct tier *tier;
	struct node *node;
	struct spill_ea ea; /* as on the inode, written through */

	unsigned int nopen;   /* uses, for writing or not */
	unsigned int nwrite;  /* uses for writing */
	bool nameless;	      /* unlinked, and not in orphans */
	unsigned int unread;  /* uses that have not read in place yet */
	struct tier_src *src; /* a reference, while nopen > 0 and needed */
	struct tier_handles handles;

	struct tier_move *move;	      /* the one that runs or waits */
	struct cds_list_head waiters; /* of tier_wait */

	/* The copy is suspect (TIERFS_EA_F_WRITING): the journal's intent, and
	 * what the file was like when it was last known to be the copy. */
	uint64_t write_intent;
	bool journaling; /* the intent is on its way */
	int64_t base_mtime, base_ctime;

	int64_t base_size; /* of a resident file when writing began */

	/* DIRTY (tier_dirty.c): what the log says, and the stub. NULL: not
	 * needed since the log was settled. */
	struct delta *delta;
	struct tier_src *log; /* a reference */
	int log_err;	      /* the log cannot be understood */
	bool log_lost;	      /* a sync failed: never settled */
	/* A restore past the limits failed: when it is worth another try. */
	int64_t retry_at, retry_ns;

	/* While it is filled in place its times are not those to show. */
	bool filling;
	struct timespec fill_atime, fill_mtime;
};

/* A source of data: the front's file, or an object. Refcounted, so that a
 * request outlives a swap or the last close. */
struct tier_src {
	struct tier *tier;
	_Atomic(uint32_t) refs;
	/* Resident: under node->lock. */
	int fd_read, fd_write;
	/* In place. */
	bool remote;
	struct target *target;
	unsigned int generation; /* of the target when it was made */
	uint8_t target_number;
	uint64_t oid;
	uint64_t size; /* of the object */
	struct spill_sum sum;
	pthread_mutex_t lock; /* a leaf: what follows */
	struct target_object *object;
	bool opening;
	struct cds_list_head reads; /* wait for the object */
	struct target_io io;
	/* Under node->lock: goes when nobody reads it any more. */
	bool is_stale;
	struct tier_stale stale;
	/* Is it what was migrated (tier_verify.c)? */
	struct cds_list_head flying; /* reads under way */
	/* The ring thread's alone, but for held, which is under lock. */
	struct cds_list_head held; /* reads done before their turn */
	struct cds_list_head kept; /* copies of what went on before it */
	struct XXH3_state_s *hash;
	uint64_t hashed;	/* up to here, in order */
	uint64_t seen;		/* bytes, in any order */
	_Atomic(bool) verified; /* it is */
	_Atomic(bool) damaged;	/* it is not, or so it seems */
	_Atomic(bool) checked;	/* a job looks */
};

/* -- tier.c: files, waiting, counts ------------------------------------- */

/* What an error of reading the spill EA is to people. */
const char *tier_ea_why(int err);

/* The node's file, made and its EA read if need be. node->lock held. -ENOMEM;
 * -EPROTONOSUPPORT, -EBADMSG: the EA cannot be understood; and it was logged. */
int tier_file_get(struct tier *tier, struct node *node, struct tier_file **ret);
/* Frees the file if nothing needs it. node->lock held. Returns the node when a
 * reference to it is to be dropped after unlocking, else NULL. */
struct node *tier_file_idle(struct tier_file *file);
/* node->lock taken, and the file; unlocking drops what is idle. */
int tier_file_lock(struct tier *tier, struct node *node,
		   struct tier_file **ret);
void tier_file_unlock(struct tier_file *file);
/* The same for a node that may have no file. */
void tier_node_unlock(struct node *node);

/* Parks wait on the file; wakes all with err. node->lock held. */
void tier_park(struct tier_file *file, struct tier_wait *wait);
void tier_wake(struct tier_file *file, int err);

/* Around what changes a regular file's ctime, with node->lock held: the inode's
 * is shown from now on. */
void tier_ctime_begin(struct tier *tier, struct node *node);
void tier_ctime_end(struct node *node);
/* Before the inode's changes without anything happening to the file: the EA has
 * what is shown. If that cannot be set, a crash may change what is shown. st: the
 * inode's. node->lock held. */
void tier_ctime_keep(struct tier_file *file, const struct stat *st);
/* Has the inode with these attributes been written to later than time, a ctime
 * that was kept? */
bool tier_written_since(int64_t time, const struct stat *st);
/* The ctime to show for st, the inode's own attributes. */
int64_t tier_shown_ctime(const struct tier_file *file, const struct stat *st);
/* Writes ea to the inode (hiding the change of ctime if hide) and keeps it.
 * node->lock held. -errno: nothing changed. */
int tier_ea_set(struct tier_file *file, struct spill_ea *ea, bool hide);
/* The file's state as users see it: suspect and stale ones are none. */
enum spill_state tier_file_state(const struct tier_file *file);
/* Says why the file behind fd cannot be used. */
void tier_report_bad(struct node *node, int fd, const char *why);

/* -- tier_count.c ------------------------------------------------------- */

/* A file is counted in another state, or gone (SPILL_STATES). */
void tier_count(struct tier *tier, enum spill_state from, enum spill_state to,
		uint64_t size);
/* The same for one that is known, unless it has no name any more. */
void tier_count_file(struct tier_file *file, enum spill_state from,
		     enum spill_state to, uint64_t size);
void tier_count_resize(struct tier *tier, enum spill_state state,
		       int64_t delta);

int tier_load_counts(struct tier *tier);
void tier_save_counts(struct tier *tier);

/* -- tier_event.c ------------------------------------------------------- */

/* Tells the catalog that a file or directory may be another, or was opened to
 * be read. node->lock held. */
void tier_tell_changed(struct tier *tier, struct node *node);
void tier_tell_accessed(struct tier *tier, struct node *node);
void tier_tell_backdated(struct tier *tier, struct node *node);
/* What a file is left with that lost a name. */
enum tier_left {
	LEFT_NAMES,   /* others */
	LEFT_ORPHAN,  /* none but the orphans', or one it may get yet */
	LEFT_NOTHING, /* for good */
};

/* That it got a name, or lost one. The directory's lock held, or the kernel's. */
void tier_tell_named(struct tier *tier, const struct front_handle *file,
		     struct node *parent, const char *name);
void tier_tell_unnamed(struct tier *tier, const struct front_handle *file,
		       struct node *parent, const char *name,
		       enum tier_left left);

/* -- tier.c again ------------------------------------------------------- */

/* To be settled at the next tick. node->lock held. */
void tier_unsettled_add(struct tier_file *file);

/* -- tier_sync.c -------------------------------------------------------- */

/* Syncs the front's file system; intents done before are dropped after. */
int tier_sync(struct tier *tier);
/* The intent's step is done, to be dropped after the next sync. */
void tier_done_after_sync(struct tier *tier, uint64_t intent);
/* The same for one that had recovery delete the object (CREATE, WRITE, APPLY),
 * which is a file's copy still. No swap before tier_sync(). */
void tier_kept_after_sync(struct tier *tier, uint64_t intent, uint64_t oid);
bool tier_must_sync(struct tier *tier, uint64_t oid);

/* -- tier_read.c -------------------------------------------------------- */

struct tier_src *tier_src_local(struct tier *tier);
/* The object's size and checksum are those of the migrated file. */
struct tier_src *tier_src_remote(struct tier *tier, const struct spill_copy *c,
				 uint64_t size, const struct spill_sum *sum);
/* Ends a read: nothing of it is used any more. */
void tier_read_finish(struct tier_read *read, int64_t res);
void tier_src_put(struct tier_src *src);
/* The file's source, made if need be, not referenced. node->lock held. */
int tier_file_src(struct tier_file *file, struct tier_src **ret);
/* A descriptor of a local one, opened if need be. node->lock held. */
int tier_src_fd(struct tier_src *src, struct node *node, bool write);
void tier_src_get(struct tier_src *src);

/* -- tier_dirty.c ------------------------------------------------------- */

/* Is the data elsewhere? */
static inline bool tier_is_stub(enum spill_state state)
{
	return state == SPILL_RELEASED || state == SPILL_DIRTY;
}
/* The logical size of a stub, and the blocks it shows. node->lock held. */
uint64_t tier_stub_size(const struct tier_file *file);
uint64_t tier_stub_blocks(const struct tier_file *file);
/* Makes file->delta of a DIRTY file, if there is none. node->lock held. -EIO:
 * the log cannot be understood. */
int tier_dirty_load(struct tier_file *file);
/* Forgets it. node->lock held. */
void tier_dirty_drop(struct tier_file *file);
/* What the log says of read's range. node->lock held. */
int tier_dirty_view(struct tier_file *file, struct tier_read *read);
/* The last writer left, or a crash was found: to be settled. */
bool tier_dirty_unsettled(const struct tier_file *file);
/* Settles a list of tier_unsettled, which it takes over. On the waker. */
void tier_dirty_settle(struct tier *tier, struct cds_list_head *list);
/* A restore ended: when the next may be begun. node->lock held. */
void tier_dirty_restored(struct tier_file *file, int err);

/* -- tier_verify.c ------------------------------------------------------ */

/* Around each read of an object; done, on the ring's thread, finishes it, or
 * will when its turn comes. */
void tier_verify_begin(struct tier_read *read);
void tier_verify_done(struct tier_read *read, int64_t res);
/* Frees what src has for it, with the last reference. */
void tier_verify_end(struct tier_src *src);
/* There is no such object. */
void tier_verify_missing(struct tier_read *read);
/* The file's object is what ("missing", ...): marks it and says so; no lock
 * held. */
void tier_damage_found(struct tier *tier, struct node *node,
		       const struct spill_copy *copy, const char *what);
/* A marked one is wanted: it may have been repaired. node->lock held. */
void tier_damage_again(struct tier_file *file);
/* Of the object of a file without its data; 0: the log, which knows it, cannot
 * be understood. node->lock held. */
uint64_t tier_object_size(struct tier_file *file);

/* -- tier_attr.c -------------------------------------------------------- */

/* tier_meta_end() of what is told otherwise. */
void tier_meta_unlock(struct tier *tier, struct node *node);

/* -- tier_open.c -------------------------------------------------------- */

/* Stops a move that a write or a new name makes pointless. node->lock held. */
void tier_move_cancel(struct tier_file *file);
/* The copies of a resident file are stale: EA none, objects to be deleted.
 * node->lock held. */
int tier_drop_copies(struct tier_file *file, bool touch);
/* Decides what became of a suspect copy, if it can be told. On the waker. */
void tier_settle(struct tier *tier, struct node *node);

/* -- tier_recall.c ------------------------------------------------------ */

/* Takes a reference of its own; NULL: none. */
void tier_set_rules(struct tier *tier, struct recall_rules *rules);
/* -EDESTADDRREQ: the rules have not been asked about who; or 0. */
int tier_who_check(struct tier *tier, const struct tier_who *who);
/* Begins the restore that wait is to be parked for: -EINPROGRESS. -EAGAIN: who
 * asks may not have it, or does not wait; -errno. node->lock held. */
int tier_recall_for(struct tier_file *file, struct tier_wait *wait);
/* Data of an object is to be read for who; is_there: it can be. 0; -EAGAIN: not
 * for him, or not now. node->lock held. */
int tier_may_read(struct tier_file *file, const struct tier_who *who,
		  bool is_there);
/* Would it not be read for him? */
bool tier_kept_off(struct tier *tier, const struct tier_who *who);
/* The file is read in place: an open counts with its first read, and past the
 * limit begins a restore. node->lock held. */
void tier_count_read(struct tier_file *file, const struct tier_who *who);
/* -ENOSPC: the front has no room for so much more. */
int tier_check_room(struct tier *tier, uint64_t need);
/* What restoring a file costs the front. node->lock held. */
uint64_t tier_restore_cost(const struct tier_file *file);
/* Around a restore that nobody asked for: NULL, or why not. The end tells
 * whether anything was written. */
const char *tier_own_begin(struct tier *tier, uint64_t bytes);
void tier_own_end(struct tier *tier, uint64_t bytes, bool wrote, int err);
int tier_load_budget(struct tier *tier);
void tier_save_budget(struct tier *tier);

/* -- tier_ns.c ---------------------------------------------------------- */

/* Something that kept what a file leaves has ended: if that was the last, and it
 * is unlinked, it is queued. node->lock held. */
void tier_orphan_unused(struct tier_file *file);

#define TIER_ORPHAN_LEN 24
const char *tier_orphan_name(uint64_t ino, char buf[TIER_ORPHAN_LEN]);

/* What has a name, the lock of whose directory is held. */
struct tier_name {
	int fd;		  /* O_PATH, while it is held; or -1 */
	int at;		  /* where it is to be looked at: */
	const char *name; /* the directory by name, or the descriptor */
	struct front_handle handle; /* len 0: there is no such file */
	struct node *node; /* a reference; NULL: unknown, and has no EA */
};
/* held: so that it outlives its name. -ENOENT, others of open(2). */
int tier_name_get(struct tier *tier, struct node *parent, int dirfd,
		  const char *name, bool held, struct tier_name *ret);
void tier_name_put(struct tier_name *name);
int tier_name_stat(const struct tier_name *name, struct stat *ret);
/* It has no name any more: the node keeps it. */
void tier_name_keep(struct tier_name *name);
/* Does the end of this file's last name leave something to delete? 1, 0, or
 * -errno: what its EA says is not understood, and the file has to stay.
 * node->lock held, as for what follows. */
int tier_leaves(struct tier *tier, struct node *node, struct tier_file **ret);
/* Is the file still to be seen without one of its names? */
bool tier_outlives(const struct node *node, bool last);
/* The last name is gone. */
void tier_last_name_gone(struct tier *tier, struct node *node,
			 struct tier_file *file, const struct stat *st,
			 bool orphan);

/* -- tier_move.c: jobs -------------------------------------------------- */

/* Why a log that is still written to cannot be applied. */
#define TIER_BUSY_LOG "in use: open for writing under several names, or none"

/* Begins to bring the file back (node->lock held); waiters are woken at the
 * end. -ENOMEM, -ESHUTDOWN. */
int tier_recall(struct tier_file *file, enum mover_prio prio);
/* The move of a file, set as its file->move. node->lock held. */
struct tier_move *tier_move_new(struct tier_file *file, enum tier_op op,
				struct tier_request *req);
/* With -ECANCELED waiters try again: who still needs it begins it again.
 * Ends the move: lease given back, waiters woken, request answered with what
 * tier_result() said; freed. */
void tier_move_end(struct tier_move *move, int wake_err);
__attribute__((format(printf, 3, 4))) void tier_result(struct tier_move *move,
						       enum tier_result result,
						       const char *reason, ...);
/* Itself (flags of its EA) or below a pinned directory. No lock held. */
bool tier_pinned(struct tier *tier, struct node *node, uint8_t flags);

/* The target for so many bytes; -EIO: none is online. */
int tier_choose_target(struct tier *tier, uint8_t only, uint64_t bytes);
/* Commits an intent for each move, whose descriptor gives it its handle; on failure
 * none. On a worker: waits for the commit. */
int tier_journal_moves(struct tier *tier, struct tier_move **moves,
		       struct intent *intents, size_t n);
/* Each ends all of its moves, and answers their requests. */
void tier_migrate_run(struct mover_job *job, struct tier_move **moves, size_t n,
		      bool release_after);
void tier_release_run(struct mover_job *job, struct tier_move **moves,
		      size_t n);
void tier_restore_run(struct mover_job *job, struct tier_move **moves,
		      size_t n);

/* -- tier_release.c: leases --------------------------------------------- */

/* Opens the file and takes a lease of type (F_RDLCK, F_WRLCK) on it: a
 * descriptor, -EBUSY when others have it open or mapped, -errno. */
int tier_lease(struct node *node, int type);
bool tier_lease_held(int fd, int type);
/* The kernel tells of a close a little later than the program goes on, on a busy
 * machine much later: so long all of a job's leases are tried for. */
#define TIER_LAG_NS	 (1000 * 1000000LL)
#define TIER_LAG_STEP_US 5000

/* -- tier_metadata.c ---------------------------------------------------- */

/* Owner, mode, xattrs (ACLs are some), inode flags and times of from, whose
 * attributes are st, to the new file to; its birth time as an EA if trusted.
 * -errno: to is to be discarded. */
int tier_copy_metadata(int from, int to, const struct stat *st, bool trusted);

/* Around cutting or writing to what is there already: the kernel takes file
 * capabilities away whoever does it. 1: the file has some, -errno. */
int tier_caps_keep(int fd, bool trusted);
void tier_caps_back(int fd);

/* -- tier_delete.c ------------------------------------------------------ */

/* Takes over what was given: deleted when the front is synced and the target
 * there. Any lock may be held. */
void tier_stale_add(struct tier *tier, const struct tier_stale *stale);
/* The objects (and holder) of an EA, with the last name gone: orphan. */
void tier_stale_file(struct tier *tier, const struct spill_ea *ea,
		     uint64_t intent, uint64_t orphan);
/* Starts jobs for what is waiting, if it is time. */
void tier_stale_kick(struct tier *tier);
/* The target is well again: what was put off is tried now. */
void tier_stale_retry(struct tier *tier, unsigned int target);
void tier_stale_init(struct tier *tier);
/* Reads .tierfs/orphans after a crash. */
int tier_stale_recover(struct tier *tier);
void tier_stale_free(struct tier *tier);

/* -- tier_targets.c ----------------------------------------------------- */

void tier_targets_init(struct tier *tier);
/* Once a second: probes, and says what changed. */
void tier_targets_tick(struct tier *tier);
void tier_targets_patience(struct tier *tier, uint64_t ns);
/* Moving a file failed, what: "migrating", "restoring". Said unless the
 * target's condition says it, and not for every file. */
void tier_log_failure(struct tier *tier, uint8_t target, const char *what,
		      const char *path, int err);

/* -- tier_adopt.c ------------------------------------------------------- */

/* Counts what is on a front that was never counted, in the background. With a
 * catalog that is tier_recount()'s. */
int tier_adopt(struct tier *tier);
/* It is, for good. */
void tier_counted(struct tier *tier);
/* Waits for that, so that it counts no file twice. Workers alone. */
void tier_adopt_wait(struct tier *tier);

#endif
