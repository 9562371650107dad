/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TARGET_IMPL_H
#define TIERFS_TARGET_IMPL_H

/*
 * For the kinds of targets: what stands behind the gate.
 *
 * The gate (target.c) has checked the arguments and that the target is online
 * before it calls an operation, and checks the answer. Operations return 0 or
 * -errno; errors of a medium that is gone are theirs to return, the gate's to
 * remember.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <urcu/list.h>

#include "ring.h"
#include "tierfs/target.h"

#define TARGET_UUID_LEN 37
#define TARGET_WHY_LEN	256

struct target_ops {
	void (*free)(struct target *target);
	/*
	 * Finds the medium and checks that it is the one: sets the uuid if it
	 * is "" (a new target, which is claimed then), and caps. On failure
	 * *ret_why (the gate frees it) says why, or is left.
	 */
	int (*attach)(struct target *target, char **ret_why);
	/* Lets go of it; what is under way finishes. */
	void (*detach)(struct target *target);
	/* Is it still there; medium: read something from it. */
	int (*check)(struct target *target, bool medium, char **ret_why);
	int (*usage)(struct target *target, struct target_usage *ret);
	void (*object_path)(struct target *target, uint64_t oid, char *buf,
			    size_t len);

	int (*create)(struct target *target, uint64_t oid,
		      struct target_object **ret);
	int (*open)(struct target *target, uint64_t oid,
		    struct target_object **ret);
	void (*close)(struct target_object *object);
	int (*size)(struct target_object *object, uint64_t *ret);
	int (*truncate)(struct target_object *object, uint64_t size);
	int (*reserve)(struct target_object *object, uint64_t off,
		       uint64_t len);
	int (*write)(struct target_object *object, const void *buf, size_t len,
		     uint64_t off, bool idle);
	int (*origin)(struct target_object *object,
		      const struct target_origin *origin);
	int (*get_origin)(struct target_object *object,
			  struct target_origin *ret, char *path, size_t len);
	int (*sync)(struct target_object *object);
	int64_t (*seek)(struct target_object *object, uint64_t off, int whence);
	int (*batch_begin)(struct target *target, struct target_batch **ret);
	int (*batch_end)(struct target_batch *batch);
	int (*delete)(struct target *target, uint64_t oid);
	int (*set_aside)(struct target *target, uint64_t oid);
	int (*each)(struct target *target,
		    int (*fn)(void *arg, uint64_t oid, uint64_t size),
		    void *arg);

	/* These end in target_io_done(). */
	void (*open_async)(struct target *target, uint64_t oid,
			   struct target_object **ret_object,
			   struct target_io *io);
	void (*read_async)(struct target_object *object, void *buf, size_t len,
			   uint64_t off, bool idle, struct target_io *io);
	void (*write_async)(struct target_object *object, const void *buf,
			    size_t len, uint64_t off, bool idle,
			    struct target_io *io);
	void (*close_async)(struct target_object *object);
};

struct target {
	const struct target_ops *ops;
	char *name;
	char *path;
	char *fsname;
	char front_uuid[TARGET_UUID_LEN];
	char uuid[TARGET_UUID_LEN]; /* set by the first attach */
	struct ring *ring;

	_Atomic(unsigned int) caps;
	_Atomic(bool) online;
	_Atomic(bool) suspect; /* something failed since the last probe */

	_Atomic(unsigned int) generation;
	_Atomic(int64_t) patience;

	/* Serialises probes. Background threads alone take it. */
	pthread_mutex_t probe_lock;
	pthread_t opener; /* the first probe of a known one */
	bool has_opener;  /* to be joined; of who opens and closes */
	bool opening;	  /* it runs: under lock */
	pthread_cond_t opened;

	pthread_mutex_t lock;	    /* a leaf, for what follows */
	struct cds_list_head calls; /* of target_call, the oldest first */
	char why[TARGET_WHY_LEN];
	char failure[TARGET_WHY_LEN];
	int64_t failed_at;   /* realtime ns */
	int64_t failed_mono; /* monotonic ns */
	int full_err;	     /* -ENOSPC, -EDQUOT; 0: not full */
	int64_t full_at;     /* monotonic ns */
	uint64_t full_free;  /* what was free then */
	struct target_usage usage;
};

/* A call that may block, from its beginning to its end. */
struct target_call {
	struct cds_list_head link;
	int64_t since; /* monotonic ns */
};

struct target_object {
	struct target *target;
	uint64_t oid;
	_Atomic(unsigned int) pending; /* asynchronous I/O under way */
};

struct target_batch {
	struct target *target;
};

/* Lives in target_io->priv until done. */
struct target_req {
	struct ring_op op;
	struct target_object *object;
	union {
		struct target_object **ret_object; /* open */
		struct {
			uint32_t total; /* read, write */
			bool write;
		};
		int err; /* refused */
	};
};
_Static_assert(sizeof(struct target_req) <=
		       sizeof(((struct target_io *)0)->priv),
	       "target_io has room for a request");

static inline struct target_req *target_req(struct target_io *io)
{
	return (struct target_req *)io->priv;
}

static inline struct target_io *target_req_io(struct target_req *req)
{
	return (struct target_io *)((char *)req -
				    offsetof(struct target_io, priv));
}

/* The end of an asynchronous operation, on the ring's thread. */
void target_io_done(struct target *target, struct target_io *io,
		    const char *what, int64_t res);

/* Ends one that was not begun. */
void target_io_refuse(struct target *target, struct target_io *io, int err);

/* -- target_watch.c: what is known of its health -------------------------- */

void target_watch_init(struct target *target);
void target_set_offline(struct target *target, const char *why);
/* It was found well: what failed before is of the past. */
void target_forget_failures(struct target *target);
/* Around whatever may block. */
void target_call_begin(struct target *target, struct target_call *call);
void target_call_end(struct target *target, struct target_call *call);
/* The error contract of an operation: what it returned, to the caller. */
int target_checked(struct target *target, const char *what, int ret);
void target_usage_set(struct target *target, const struct target_usage *usage);

extern const struct target_ops target_dir_ops;
struct target *target_dir_alloc(void);

#endif
