/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CATALOG_INT_H
#define TIERFS_CATALOG_INT_H

/* What the catalog's files share. Nobody else includes this.
 *
 * Threads: P anyone who tells, C the catalog's own (the only writer), S the
 * scanner, R a reader's. */

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <urcu/wfcqueue.h>

#include "catalog.h"
#include "heat.h"

#define CATALOG_NAME "catalog.db"

/* Generations: a directory whose gen is below the current one is to be walked,
 * the lowest first. */
#define GEN_MARKED 0 /* something was dropped there */
#define GEN_NEW	   1 /* found, never listed */
#define GEN_FIRST  2

#define LIMBO  256
#define LATE   1024
#define MARKS  1024
#define STAMPS 16384

/* -- catalog_db.c: SQLite ---------------------------------------------------- */

enum catalog_sql {
	CQ_BEGIN,
	CQ_COMMIT,
	CQ_META_GET,
	CQ_META_PUT,
	CQ_FILE_GET,
	CQ_FILE_INSERT,
	CQ_FILE_UPDATE,
	CQ_FILE_HOME,
	CQ_FILE_JUDGED,
	CQ_FILE_DELETE,
	CQ_FILES_OF,
	CQ_FILES_AFTER,
	CQ_LINK_ADD,
	CQ_LINK_DEL,
	CQ_LINK_DEL_ALL,
	CQ_LINK_ONE,
	CQ_LINKS_OF,
	CQ_DIR_GET,
	CQ_DIR_INSERT,
	CQ_DIR_PLACE,
	CQ_DIR_HANDLE,
	CQ_DIR_FLAGS,
	CQ_DIR_GEN,
	CQ_DIR_DELETE,
	CQ_DIRS_OF,
	CQ_DIRS_TODO,
	CQ_DIRS_BEHIND,
	CQ_DIRS_MARKED,
	CQ_HIST_GET,
	CQ_HIST_ADD,
	CQ_HIST_TRIM,
	CQ_HIST_DEL,
	CQ_RANK_ADD,
	CQ_RANK_DEL,
	CQ_DUE_ADD,
	CQ_DUE_DEL,
	CQ_DUE,
	CQ_NEXT_DUE,
	CQ_COLDEST,
	CQ_POSITION,
	CQ_ROWS_OF,
	CQ_COUNT
};

struct catalog_db {
	sqlite3 *sql;
	int dirfd; /* ours: SQLite opens files by its number */
	sqlite3_stmt *st[CQ_COUNT];
};

/* SQLite's codes as -errno: -ENOSPC, -ENOMEM, -EBADMSG (damaged), -EIO ... */
int catalog_db_errno(struct catalog_db *db, int rc);
/* flags of sqlite3_open_v2(). */
int catalog_db_open(int dirfd, int flags, struct catalog_db *ret);
void catalog_db_close(struct catalog_db *db);
/* The statement, to be bound; NULL: *ret_err. Prepared at its first use. */
sqlite3_stmt *catalog_db_stmt(struct catalog_db *db, enum catalog_sql which,
			      int *ret_err);
/* With args bound: one that has no rows to give. */
int catalog_db_run(struct catalog_db *db, enum catalog_sql which, int nargs,
		   const int64_t *args);
#define catalog_db_do(db, which, ...)                                          \
	catalog_db_run(                                                        \
		db, which,                                                     \
		(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),     \
		(int64_t[]){__VA_ARGS__})
int catalog_db_exec(struct catalog_db *db, const char *sql);
/* Steps; 1: a row, 0: no more (and it is reset), -errno (and it is reset). */
int catalog_db_step(struct catalog_db *db, enum catalog_sql which);
void catalog_db_reset(struct catalog_db *db, enum catalog_sql which);
/* 0 when there is none. */
int catalog_db_meta(struct catalog_db *db, const char *key, int64_t *ret);
int catalog_db_set_meta(struct catalog_db *db, const char *key, int64_t value);
/* Up to n values of the first column. Returns how many, -errno. */
int catalog_db_keys(struct catalog_db *db, enum catalog_sql which, int64_t of,
		    int64_t after, uint64_t *ret, int n);
void catalog_db_bind_handle(sqlite3_stmt *st, int at,
			    const struct front_handle *handle);
int catalog_db_handle(sqlite3_stmt *st, int at, struct front_handle *ret);
void catalog_db_bind_name(sqlite3_stmt *st, int at, const char *name);
void catalog_db_name(sqlite3_stmt *st, int at, char ret[NAME_MAX + 1]);

/* -- catalog_schema.c --------------------------------------------------------- */

extern const char *const catalog_sql_text[CQ_COUNT];
/* The writer's connection, to a database that can be used: made anew if it
 * must, *ret_why says then. */
int catalog_schema_open(struct front *front, struct catalog_db *ret,
			bool *ret_created, char **ret_why);
int catalog_schema_remove(struct front *front);

/* -- catalog_fill.c: a database that is made anew ----------------------------- */

/* Pages of the log; while it is filled more. */
#define CATALOG_CHECKPOINT "PRAGMA wal_autocheckpoint = 4096;"

/* Where and when, so that no power cut was between two that are equal; 0: it
 * cannot be known. */
int64_t catalog_fill_place(struct front *front);
/* From here on nothing is synced; "filling" says so already, and is durable. */
int catalog_fill_begin(struct catalog *c);
/* All is synced, and will be. -errno: it is filling still. */
int catalog_fill_end(struct catalog *c);

/* -- catalog_look.c: what the front says --------------------------------------- */

struct catalog_seen {
	struct front_handle handle;
	uint64_t key;
	mode_t type; /* S_IFMT */
	uint32_t uid, gid, nlink;
	unsigned int flags;
	enum spill_state state;
	uint64_t size, front_bytes;
	int64_t atime, mtime, ctime;
};

/* dirfd/name. -ENOENT: there is nothing of ours. Any thread. */
int catalog_look(struct front *front, int dirfd, const char *name,
		 struct catalog_seen *ret);

/* What an error of looking says: it is not there (any more); we can do nothing
 * now. Else it cannot be told, and the row stays as it is. */
static inline bool catalog_is_gone(int err)
{
	return err == -ENOENT || err == -ESTALE || err == -ENOTDIR ||
	       err == -EXDEV;
}

static inline bool catalog_is_fatal(int err)
{
	return err == -ENOMEM || err == -EMFILE || err == -ENFILE;
}

/* -- catalog_queue.c: what was told --------------------------------------------- */

enum event_kind {
	EVENT_CHANGED,
	EVENT_ACCESSED,
	EVENT_BACKDATED,
	EVENT_NAMED,
	EVENT_UNNAMED,
	EVENT_UNLINKED, /* it has other names */
	EVENT_REMOVED,
	EVENT_RENAMED, /* two events: from is EVENT_UNNAMED */
	EVENT_SWAPPED,
};

struct event {
	struct cds_wfcq_node node;
	struct event *next; /* C: another name of the same file */
	enum event_kind kind;
	struct front_handle file, parent, from; /* len 0: none */
	int64_t time;				/* realtime, of an access */
	uint16_t name_len;
	char name[]; /* "": none */
};

struct catalog_queue {
	struct cds_wfcq_head head;
	struct cds_wfcq_tail tail;
	_Atomic(size_t) n;
	_Atomic(uint64_t) told, dropped;
	_Atomic(int) asleep; /* C: wakes at this many events; 0: is awake */
	int wake_fd;
	/* Keys of directories (or files) of which something was dropped. */
	_Atomic(uint64_t) marks[MARKS];
	_Atomic(bool) marked, whole; /* some; all is to be walked */
	_Atomic(size_t) limit;
};

int catalog_queue_init(struct catalog_queue *q);
void catalog_queue_free(struct catalog_queue *q);
/* NULL: none. C alone. */
struct event *catalog_queue_next(struct catalog_queue *q);
void catalog_queue_mark(struct catalog_queue *q, uint64_t key);
/* Marks what such an event, not taken in, would have mended. parent NULL: it
 * has no name. */
void catalog_queue_lost(struct catalog_queue *q, enum event_kind kind,
			const struct front_handle *file,
			const struct front_handle *parent);
void catalog_queue_wake(struct catalog_queue *q);
/* Sleeps until there are at_least events, something woke it, or the time is
 * over. */
void catalog_queue_wait(struct catalog_queue *q, int at_least, int timeout_ms);

/* -- the catalog ------------------------------------------------------------------ */

struct catalog_dir {
	uint64_t key, parent; /* parent 0: the root */
	struct front_handle handle;
	char name[NAME_MAX + 1];
	uint64_t gen;
	unsigned int flags;
};

/* What was known of a file that has no name at the moment. */
struct limbo {
	struct front_handle handle;
	int64_t heat, access;
};

struct parent_fd {
	struct front_handle handle;
	int fd;
};
#define PARENT_FDS 16

struct batch;
struct catalog_walk;
struct hist_pending;
struct catalog_place;

struct catalog {
	struct catalog_config config;
	struct front *front;
	struct front_handle root, meta;
	uint64_t root_key;
	struct catalog_queue queue;
	pthread_t thread;
	bool started;

	/* -- C alone -- */
	struct catalog_db db; /* .sql NULL: there is none for now */
	struct batch *room;
	uint64_t gen;
	/* It was empty when it was opened, and nothing that was told since is
	 * lost: what is known is as it was seen, or told of. */
	bool all_told;
	int64_t nfiles, ndirs; /* changes of the transaction */
	struct hist_pending *pending;
	struct catalog_place *places; /* to be written */
	size_t nplaces, places_cap;
	struct limbo limbo[LIMBO];
	unsigned int next_limbo;
	uint64_t late[LATE]; /* marks of directories that are not known yet */
	size_t nlate;
	int64_t late_at; /* the last of them, monotonic */
	uint64_t taken;	 /* events */
	/* Marks of the transaction, to be put back if that fails. */
	uint64_t marks[MARKS];
	size_t nmarks;
	bool whole;
	struct parent_fd parents[PARENT_FDS];
	unsigned int next_parent;
	struct catalog_walk *walk;
	/* When, in batches, a key of that hash was last told of or marked. */
	_Atomic(uint32_t) batch;
	uint32_t touched[STAMPS], remarked[STAMPS];
	int64_t retry_at, backoff_ns;
	bool judge_all;
	int64_t judged; /* up to that key, if judge_all */
	/* Directories whose files are to be judged, and all below. */
	uint64_t *moved;
	size_t nmoved, moved_cap;
	int64_t moved_after; /* of the last one: up to that key */
	/* The path of the directory that was asked for last; path_dir 0: none. */
	uint64_t path_dir;
	char *path;
	size_t path_len, path_cap;
	bool path_pinned;	  /* it is, or one above */
	int64_t soonest;	  /* due, of what was judged; INT64_MAX */
	bool filling;		  /* catalog_fill.c */
	struct catalog_row *rows; /* room for some */

	/* -- the judge's -- */
	pthread_mutex_t judge_lock;
	catalog_judge_fn judge;
	catalog_judged_fn tell_judged;
	void *judge_arg;
	int64_t half_life_ns;
	uint64_t fingerprint;
	bool judge_new;		 /* C has not seen it yet */
	_Atomic(bool) has_judge; /* judge is not NULL */

	/* -- under lock -- */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	uint64_t settled; /* events that can be read */
	uint64_t rounds;  /* transactions, or that there was no need of one */
	bool busy;	  /* walking, or about to */
	bool judging;
	uint64_t marked;
	int err;

	_Atomic(bool) stop;
	_Atomic(bool) abandon; /* tests: as if it had been killed */
	_Atomic(int64_t) files, dirs;
	_Atomic(uint64_t) walked;
	_Atomic(unsigned int) hurried;
	_Atomic(uint32_t) epoch; /* of the database's file */
	_Atomic(bool) damaged;	 /* a reader found it so */
};

/* -- catalog_file.c: rows of files. All on C, in a transaction. --------------- */

int catalog_file_get(struct catalog_db *db, uint64_t key,
		     struct catalog_row *ret);
int catalog_row_read(sqlite3_stmt *st, struct catalog_row *ret);
/* parent/name leads to that file. event_ns: it was opened so often, the last
 * time then (0: not). heir: takes the heat of that key over (NULL: none). */
struct catalog_access {
	unsigned int n;
	int64_t last;
	bool backdated; /* since then only last counts, and the atime */
	const struct front_handle *heir_of; /* or NULL */
};
int catalog_file_named(struct catalog *c, uint64_t parent, const char *name,
		       const struct catalog_seen *seen,
		       const struct catalog_access *access);
/* The same, of one that is likely not known: -EEXIST, it is. */
int catalog_file_found(struct catalog *c, uint64_t parent, const char *name,
		       const struct catalog_seen *seen,
		       const struct catalog_access *access);
/* parent/name does not lead to the file of that key (any more). */
int catalog_file_unnamed(struct catalog *c, uint64_t key, uint64_t parent,
			 const char *name);
/* No name of it is left. */
int catalog_file_remove(struct catalog *c, struct catalog_row *row);
/* Looks at its home, anew. force_judge: judge it though it is as it was. */
int catalog_file_refresh(struct catalog *c, uint64_t key,
			 const struct catalog_access *access);

/* -- catalog_dir.c: rows of directories ---------------------------------------- */

int catalog_dir_get(struct catalog_db *db, uint64_t key,
		    struct catalog_dir *ret);
/* A descriptor (O_PATH) of a directory that is known then: not the caller's to
 * close, for a short while. -ESTALE: it is gone, -EXDEV: not in the namespace. */
int catalog_dir_fd(struct catalog *c, const struct front_handle *handle);
void catalog_dir_fds_close(struct catalog *c);
int catalog_dir_open(struct catalog *c, const struct front_handle *handle,
		     int flags);
/* parent/name leads to that directory. gen: if it is new. */
int catalog_dir_named(struct catalog *c, uint64_t parent, const char *name,
		      const struct catalog_seen *seen, uint64_t gen);
/* It is where the front says, or gone. */
int catalog_dir_verify(struct catalog *c, uint64_t key);
int catalog_dir_refresh(struct catalog *c, const struct catalog_dir *dir);
/* To be freed; "" of the root. -ENOENT. */
int catalog_dir_path_of(struct catalog_db *db, uint64_t dir, char **ret,
			/* it is, or one above; may be NULL */
			bool *ret_pinned);

/* -- catalog_hist.c --------------------------------------------------------------- */

int catalog_hist_start(struct catalog *c);
void catalog_hist_stop(struct catalog *c);
/* The row is counted in dir (n 1), or no longer (-1). */
int catalog_hist_note(struct catalog *c, uint64_t dir,
		      const struct catalog_row *row, int n);
/* What is noted is written for dir and all above. */
int catalog_hist_flush(struct catalog *c);
/* The whole of dir's subtree goes from or to (sign) the directory parent. */
int catalog_hist_subtree(struct catalog *c, uint64_t dir, uint64_t parent,
			 int sign);
void catalog_hist_forget(struct catalog *c);
int catalog_hist_read(struct catalog_db *db, uint64_t dir,
		      struct histogram *ret);

/* -- catalog_order.c: by rank, by due ---------------------------------------------- */

/* old has become new; NULL: there was none, there is none any more. */
int catalog_order_note(struct catalog *c, const struct catalog_row *old,
		       const struct catalog_row *new);
/* What is noted is written. */
int catalog_order_flush(struct catalog *c);
void catalog_order_forget(struct catalog *c);

/* -- catalog_batch.c ---------------------------------------------------------------- */

/* Takes out what is queued, up to a batch, and applies it. On failure nothing
 * is forgotten: it is marked. */
int catalog_batch_new(struct batch **ret);
void catalog_batch_free(struct batch *b);
void catalog_batch_take(struct catalog *c, struct batch *b);
int catalog_batch_apply(struct catalog *c, struct batch *b);
/* Ends it, done or not. */
void catalog_batch_end(struct catalog *c, struct batch *b, bool done);
/* What was marked. In a transaction. */
int catalog_batch_marks(struct catalog *c);
/* key was told of: what was seen of it before counts no more. */
void catalog_touch(struct catalog *c, uint64_t key);
bool catalog_touched_since(struct catalog *c, uint64_t key, uint32_t batch);
int catalog_mark(struct catalog *c, uint64_t key);
/* Marks the directory that will have that key. */
void catalog_mark_late(struct catalog *c, uint64_t key);
bool catalog_remarked_since(struct catalog *c, uint64_t key, uint32_t batch);

/* -- catalog_judge.c ------------------------------------------------------------------ */

/* Fills in due and rank, if there is a judge. */
int catalog_judge_row(struct catalog *c, struct catalog_row *row);
/* All paths below dir are others now. */
void catalog_judge_moved(struct catalog *c, uint64_t dir);
/* All rows, from the first on. */
void catalog_judge_again(struct catalog *c);
int64_t catalog_judge_touch(struct catalog *c, int64_t heat,
			    const struct catalog_access *access);
/* Some more rows; *ret_more: there are others. In a transaction. */
int catalog_judge_some(struct catalog *c, bool *ret_more);
/* A new judge? In a transaction. */
int catalog_judge_check(struct catalog *c);
/* What was judged in a transaction is committed, or was rolled back. */
void catalog_judge_done(struct catalog *c, bool committed);
#define CATALOG_ROWS 256

/* -- catalog_walk.c ---------------------------------------------------------------------- */

int catalog_walk_start(struct catalog *c);
void catalog_walk_stop(struct catalog *c);
/* Gives the scanner work and applies what it found. In a transaction. */
int catalog_walk_some(struct catalog *c, bool *ret_more);
/* That was committed; or not, and is to be done again, with all that is in
 * flight. */
int catalog_walk_done(struct catalog *c);
void catalog_walk_failed(struct catalog *c);
/* Is there a directory to be walked, and how many are marked? */
int catalog_walk_due(struct catalog *c, bool *ret, uint64_t *ret_marked);
/* Has the scanner found something? */
bool catalog_walk_ready(struct catalog *c);

/* -- for tests ------------------------------------------------------------------------------ */

/* At most so many events are queued. */
void catalog_set_limit(struct catalog *c, size_t limit);
/* Ends its threads as a crash would: what is queued is lost. */
void catalog_abandon(struct catalog *c);

#endif
