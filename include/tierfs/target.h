/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TARGET_H
#define TIERFS_TARGET_H

/*
 * The interface of a target: where objects are kept.
 *
 * A target is a table of operations (struct target_ops) behind one checked
 * gate (src/target.c) that asserts what callers promise and what the
 * operations promise. The first kind is the directory (src/target_dir.c).
 *
 * Two sorts of calls: those that may block are for background threads alone;
 * those with a struct target_io return at once, and call io->done on the
 * target's ring thread, which must not block.
 *
 * Objects are named by oid, of fixed content once complete, and belong to the
 * front whose UUID the target's identity carries. A target that is not the
 * one expected (missing, unmounted, another disk) is offline: every call
 * fails with -EIO and nothing is written to it; target_condition() says why.
 * It is looked at again by target_probe().
 *
 * Errors: -EIO offline or the medium's; -ENOSPC, -EDQUOT full; -ENOENT no such
 * object; -EROFS; -ECANCELED; others as of the system call.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tierfs/format.h"

struct target;
struct target_object;
struct target_batch;

enum target_caps {
	TARGET_CAP_RANGE_READ = 0x01, /* objects are read at any offset */
	TARGET_CAP_SPARSE = 0x02,     /* objects keep holes */
	TARGET_CAP_XATTR = 0x04,      /* objects can carry attributes */
	TARGET_CAP_SEEK_ORDER = 0x08, /* reading in oid order is faster */
	TARGET_CAP_DIRECT = 0x10,     /* O_DIRECT: the page cache stays out */
};

struct target_usage {
	uint64_t bytes; /* used + available */
	uint64_t used;
	bool readonly;
};

/* How a target is; the first that fits. */
enum target_condition {
	TARGET_OFFLINE,	 /* not there: every call fails */
	TARGET_STALLED,	 /* there, but something has waited for it for long */
	TARGET_READONLY, /* can be read */
	TARGET_FULL,	 /* something did not fit, and no room was made since */
	TARGET_FAILING,	 /* its medium failed a moment ago */
	TARGET_OK,
};

/* What is asked for asynchronously. The caller embeds it and sets done. */
struct target_io {
	void (*done)(struct target_io *io, int64_t res);
	void *priv[12]; /* the target's own, until done */
};

/* What an object carries to rebuild its file if the front is lost. */
struct target_origin {
	uint32_t mode, uid, gid;
	int64_t mtime; /* ns */
	uint64_t ino;
	const char *path; /* below the mount, or NULL */
};

struct target_config {
	const char *name;   /* as configured */
	const char *path;   /* directory */
	const char *fsname; /* the file system's name */
	const char *front_uuid;
	const char *uuid;     /* the target's known UUID, or NULL: new */
	uint64_t patience_ns; /* target_set_patience(); 0: the default */
};

/*
 * Opens a target. When config->uuid is NULL it must be there and be empty or
 * ours: -ENOENT, -ENOTDIR, -ENOTEMPTY (holds something of that name that is
 * not ours), -EEXIST (another front's), -EROFS, -EACCES; *ret_why (free it)
 * says it. A known target that is not there, or has not answered within the
 * patience, is returned offline, with 0.
 */
int target_open(const struct target_config *config, struct target **ret,
		char **ret_why);
void target_close(struct target *target);

const char *target_name(const struct target *target);
const char *target_path(const struct target *target);
const char *target_uuid(const struct target *target);
unsigned int target_caps(const struct target *target);
/* True while online; else copies the reason to why (may be NULL). Never
 * touches the medium. */
bool target_online(struct target *target, char *why, size_t len);
/*
 * Looks again; may block. 0 when it is online now. To be called now and then:
 * it finds a target that is back, and one that is gone. Does not touch the
 * medium of one that is online, unless something failed there since. -EALREADY:
 * another thread is at it.
 */
int target_probe(struct target *target);
/* Did something fail since the last probe? */
bool target_suspect(struct target *target);
/* Its condition and, unless it is ok, why (may be NULL). Never touches the
 * medium. */
enum target_condition target_condition(struct target *target, char *why,
				       size_t len);
/* For how long (ns) the call has waited that has waited longest. */
int64_t target_oldest_wait(struct target *target);
/* "ok", "offline", ... for people and JSON. */
const char *target_condition_name(enum target_condition condition);
/* After how long without an answer it counts as stalled; 0: the default. */
void target_set_patience(struct target *target, uint64_t ns);
/* Another number each time it comes online: what was opened before may be
 * dead. */
unsigned int target_generation(struct target *target);
/* What failed on the medium, so that status can say it. An error of the device
 * itself (-ENODEV, ...) makes it offline; any other makes the next probe read
 * the medium, since one bad sector is not a dead disk. */
void target_failed(struct target *target, const char *what, int err);
/* Is this -errno the medium's own (-EIO, -EROFS, ...)? */
bool target_is_medium_error(int err);
/* Copies what failed last, with its time, or "" if nothing did. */
void target_failure(struct target *target, char *what, size_t len);
/* Capacity as of the last probe or object written: never blocks. */
void target_usage(struct target *target, struct target_usage *ret);

/* The absolute path of an object, for people. */
void target_object_path(struct target *target, uint64_t oid, char *buf,
			size_t len);

/* -- background threads: may block ------------------------------------- */

/* A new object, empty; -EEXIST if there is one. Not durable before
 * target_object_sync() or target_batch_end(). */
int target_create(struct target *target, uint64_t oid,
		  struct target_object **ret);
int target_object_open(struct target *target, uint64_t oid,
		       struct target_object **ret);
void target_object_close(struct target_object *object);
int target_object_size(struct target_object *object, uint64_t *ret);
int target_object_truncate(struct target_object *object, uint64_t size);
/* Room for a range that will be written, so that it lies together, and so
 * that -ENOSPC comes early. The size does not change. */
int target_object_reserve(struct target_object *object, uint64_t off,
			  uint64_t len);
/* Writes all of it, for small objects: through the page cache, where it does
 * not stay; the medium begins at once. */
int target_object_write(struct target_object *object, const void *buf,
			size_t len, uint64_t off, bool idle);
/* After the data: a change of the data changes the mtime. The path is kept of
 * larger objects only (TIERFS_ORIGIN_PATH_MIN). */
int target_object_origin(struct target_object *object,
			 const struct target_origin *origin);
/* What it carries. path has room for origin.path, "" when it has none.
 * -ENODATA: nothing; -EBADMSG. */
int target_object_get_origin(struct target_object *object,
			     struct target_origin *ret, char *path, size_t len);
/* Data and name durable. */
int target_object_sync(struct target_object *object);
/* Next data or hole at or after off: the offset, -ENXIO past the end. */
int64_t target_object_seek(struct target_object *object, uint64_t off,
			   int whence);
/*
 * Makes many objects durable at once, data and names: all that was created and
 * written between begin and end, which sees every error of writing them, also
 * one that another call has been told already. end frees the batch always.
 */
int target_batch_begin(struct target *target, struct target_batch **ret);
int target_batch_end(struct target_batch *batch);
/* What was deleted so far stays so. */
int target_sync(struct target *target);
/* Missing is no error: deletion is repeated after a crash. */
int target_delete(struct target *target, uint64_t oid);
/* Moves an object that nothing names out of the way, durably, to where people
 * find it (the directory target: NAME/lost+found/OID). -EEXIST. */
int target_set_aside(struct target *target, uint64_t oid);
/* Calls fn for each object, in oid order; stops when it returns non-zero, and
 * returns that. */
int target_each(struct target *target,
		int (*fn)(void *arg, uint64_t oid, uint64_t size), void *arg);

/* -- any thread: asynchronous ------------------------------------------- */

/* done's result: 0 and *ret_object, or -errno. For clients: such an object is
 * always read through the page cache, with the kernel's read-ahead. */
void target_open_async(struct target *target, uint64_t oid,
		       struct target_object **ret_object, struct target_io *io);
/* Reads or writes; result: bytes, fewer only at the end of the object. buf,
 * len and off of multiples of TARGET_ALIGN avoid the page cache. idle: only
 * when nobody else wants the medium. */
#define TARGET_ALIGN 4096
void target_read_async(struct target_object *object, void *buf, size_t len,
		       uint64_t off, bool idle, struct target_io *io);
void target_write_async(struct target_object *object, const void *buf,
			size_t len, uint64_t off, bool idle,
			struct target_io *io);
/* Closes without waiting; no I/O of the object may be pending. */
void target_object_close_async(struct target_object *object);

#endif
