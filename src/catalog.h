/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CATALOG_H
#define TIERFS_CATALOG_H

/*
 * The catalog: what the policy knows of the files, so that it never walks.
 *
 * A SQLite database (catalog.db, WAL) with a row a regular file and a row a
 * directory. It is a cache: the truth is the front and its EAs. Deleting it
 * costs a walk, and heat.
 *
 * The file system tells it what happened. An event says which inode (by handle)
 * and which name; the row is then made from what the front says at that moment,
 * never from the event, so that events that come late, twice or out of order do
 * no harm. Telling never waits: events go through a bounded queue to one thread
 * that writes in batches. When the queue is full the directory is marked
 * instead, and the walk mends it.
 *
 * Functions are for any thread unless it is said; those of the first group
 * never block and may be called with any lock held. A NULL catalog is allowed
 * there: nothing is told.
 */

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "front.h"
#include "histogram.h"

struct catalog;

/* ---- what happened ------------------------------------------------------- */

/* parent and name: one name of the file, as far as the caller knows it, else
 * NULL. They are copied. */

/* A file's size, owner, times, attributes or state may have changed. */
void catalog_changed(struct catalog *catalog, const struct front_handle *file,
		     const struct front_handle *parent, const char *name);
/* It was opened to be read. */
void catalog_accessed(struct catalog *catalog, const struct front_handle *file,
		      const struct front_handle *parent, const char *name);
/* Its access time was set by hand: what was known of accesses before is
 * forgotten, but for its heat. */
void catalog_backdated(struct catalog *catalog, const struct front_handle *file,
		       const struct front_handle *parent, const char *name);
/* It got a name (create, mkdir, link), or lost one (unlink, rmdir): the only one,
 * or one of several. Under the directory's lock, so that the order is that of
 * what happened. */
void catalog_named(struct catalog *catalog, const struct front_handle *file,
		   const struct front_handle *parent, const char *name);
void catalog_unnamed(struct catalog *catalog, const struct front_handle *file,
		     const struct front_handle *parent, const char *name);
void catalog_unlinked(struct catalog *catalog, const struct front_handle *file,
		      const struct front_handle *parent, const char *name);
/* It lost its last name, and no other can be given to it any more. */
void catalog_removed(struct catalog *catalog, const struct front_handle *file,
		     const struct front_handle *parent, const char *name);
/* For files and directories; both directories' locks held. An exchange is two
 * calls. What the new name led to before was told as one that lost it. */
void catalog_renamed(struct catalog *catalog, const struct front_handle *file,
		     const struct front_handle *oldparent, const char *oldname,
		     const struct front_handle *newparent, const char *newname);
/* A restore gave the file another inode. */
void catalog_swapped(struct catalog *catalog, const struct front_handle *from,
		     const struct front_handle *to,
		     const struct front_handle *parent, const char *name);

/* ---- life ----------------------------------------------------------------- */

/* Flags of a row. */
enum catalog_flags {
	CATALOG_PINNED = 0x01,	/* itself, not a directory above */
	CATALOG_DAMAGED = 0x02, /* TIERFS_EA_F_DAMAGED */
	CATALOG_FOREIGN = 0x04, /* its EA cannot be understood */
};

struct catalog_row {
	uint64_t key;  /* of the inode: catalog_key() */
	uint64_t home; /* the key of the directory it is counted in */
	struct front_handle handle;
	char name[NAME_MAX + 1]; /* there */
	uint32_t uid, gid;
	uint32_t nlink;
	unsigned int flags; /* enum catalog_flags */
	enum spill_state state;
	uint64_t size;	      /* logical */
	uint64_t front_bytes; /* allocated on the front */
	int64_t access, mtime,
		ctime;	   /* ns since the epoch; access: the later of
				       * the front's atime and the last event */
	int64_t heat;	   /* heat.h */
	bool pinned_above; /* for the judge: a directory above is pinned */
	/* What the judge said. */
	int64_t due;  /* ns since the epoch; INT64_MAX: never */
	int64_t rank; /* the lower the sooner it goes; INT64_MAX: none */
};

/* A number for an inode: its inode number where the handle is of a kind that
 * shows it (ext4, xfs, btrfs), so that neighbours stay neighbours, else a hash. */
uint64_t catalog_key(const struct front_handle *handle);

struct catalog_config {
	struct front *front;
	bool walk; /* adopt and mend in the background */
	uint32_t
		walk_rate; /* directory entries a second at most; 0: no limit */
};

/* Opens or makes catalog.db in the front's .tierfs and starts its threads. A
 * file that is damaged, or of another version, is removed and made anew: that
 * is logged, *ret_why says it (NULL: all was well). After anything but a clean
 * end the walk goes over all of it once more. -ENOMEM, -EAGAIN, -EIO, -ENOSPC. */
int catalog_open(const struct catalog_config *config, struct catalog **ret,
		 char **ret_why);
/* Takes in what is queued, then closes. NULL is allowed. */
void catalog_close(struct catalog *catalog);
/* For who changes the front without one: what there is of it is no longer true,
 * the next catalog_open() walks over all of it. May block on the front's disk.
 * -errno: it cannot be marked so, nor removed. */
int catalog_outdated(struct front *front);

/* On the catalog's thread, for each row that is written: fills in due and rank.
 * path is below the root, "/" first. May read the front (the row's xattrs),
 * nothing slower. */
typedef void (*catalog_judge_fn)(void *arg, const char *path,
				 struct catalog_row *row);
/* The same thread, once rows that were judged can be read: the soonest due of
 * them. */
typedef void (*catalog_judged_fn)(void *arg, int64_t due);
/* From now on fn judges (NULL: nobody, due and rank stay as they are), and judged
 * (may be NULL) is told; when it returns the old ones are not called any more. If
 * fingerprint is not that of the last judge (kept in catalog.db), all rows are
 * judged again in the background. half_life_ns is of the heat. Not from the
 * catalog's thread. */
void catalog_judge(struct catalog *catalog, catalog_judge_fn fn,
		   catalog_judged_fn judged, void *arg, int64_t half_life_ns,
		   uint64_t fingerprint);
/* The row of one file is made anew and judged (it was looked at when due). */
void catalog_refresh(struct catalog *catalog, const struct front_handle *file);

struct catalog_stats {
	uint64_t files, dirs;
	uint64_t events, dropped; /* since the mount */
	size_t queued;
	bool judging;	 /* all rows, anew */
	uint64_t marked; /* directories that are to be walked */
	bool walking;	 /* the walk is not through */
	uint64_t walked; /* entries it looked at since the mount */
	int err;	 /* the last write failed so; tried again */
};
void catalog_stats(struct catalog *catalog, struct catalog_stats *ret);
/* Waits until what was told before the call can be read, and with walk until
 * no walk is due. -ETIMEDOUT. For threads that serve no requests. */
int catalog_settle(struct catalog *catalog, bool walk, int64_t timeout_ns);

/* ---- asking ---------------------------------------------------------------- */

/* A connection of its own, for one thread at a time. May block on the front's
 * disk, never on the writer. -ENOMEM, -EIO. */
struct catalog_reader;
int catalog_reader_open(struct catalog *catalog, struct catalog_reader **ret);
void catalog_reader_close(struct catalog_reader *reader);

/* Told of each row; false: no more. */
typedef bool (*catalog_each)(void *arg, const struct catalog_row *row);

/* Files in state that are due by then, the longest due first. */
int catalog_due(struct catalog_reader *reader, enum spill_state state,
		int64_t until, size_t limit, catalog_each each, void *arg);
/* When the next of any will be due, INT64_MAX: none. */
int catalog_next_due(struct catalog_reader *reader, int64_t *ret);
/* Files in state that have a rank above after, the lowest first. INT64_MIN:
 * from the start. */
int catalog_coldest(struct catalog_reader *reader, enum spill_state state,
		    int64_t after, size_t limit, catalog_each each, void *arg);
/* One row. -ENOENT. */
int catalog_get(struct catalog_reader *reader, uint64_t key,
		struct catalog_row *ret);
/* How many files in state come before rank. */
int catalog_position(struct catalog_reader *reader, enum spill_state state,
		     int64_t rank, uint64_t *ret);
/* Its path below the root, "/" first, to be freed. -ENOENT: a directory above
 * is not known (yet). */
int catalog_path(struct catalog_reader *reader, uint64_t home, const char *name,
		 char **ret);
/* The same of a directory. */
int catalog_dir_path(struct catalog_reader *reader, uint64_t dir, char **ret);

/* The subtree of a directory. -ENOENT. ret is initialised, and to be freed with
 * histogram_free(). */
int catalog_report(struct catalog_reader *reader, uint64_t dir,
		   struct histogram *ret);

/* What `find` lists: all must fit; a zeroed one with ranges from 0 to
 * UINT64_MAX (INT64_MIN to INT64_MAX for times) fits all. */
struct catalog_filter {
	unsigned int states; /* bit by enum spill_state; 0: any */
	uint64_t size_min, size_max;
	int64_t access_min, access_max, mtime_min, mtime_max, ctime_min,
		ctime_max;
	bool by_uid, by_gid;
	uint32_t uid, gid;
	const char *name;   /* fnmatch(3), NULL: any */
	unsigned int flags; /* all of these */
};
/* Regular files below dir, in the order of the directories. path is below the
 * root. False from each: no more. */
int catalog_find(struct catalog_reader *reader, uint64_t dir,
		 const struct catalog_filter *filter,
		 bool (*each)(void *arg, const char *path,
			      const struct catalog_row *row),
		 void *arg);

#endif
