/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CONTROL_INT_H
#define TIERFS_CONTROL_INT_H

/* What the files of the control server share. Nobody else includes this. */

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <urcu/list.h>

#include "batch.h"
#include "control.h"
#include "control_proto.h"
#include "tier.h"

#define CONTROL_CONNS	   64 /* at once; commands that go on included */
#define CONTROL_CONNS_USER 8  /* of one user who is not root */
#define CONTROL_CONNS_REST 48 /* of all who are not root */
#define CONTROL_IDLE_NS	   5000000000LL /* who waits longer can be shut out */
#define CONTROL_INFLIGHT   8192		/* requests of a command at the tier */
#define CONTROL_BATCH	   2048		/* requests in one tier_submit() */

struct peer {
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	unsigned int ngroups;
};

struct control {
	/* Written once. */
	struct tier *tier;
	struct policy *policy; /* NULL: there is no catalog */
	const struct tier_parts *parts;
	int (*remount)(void *arg, char *const *options, bool check,
		       char **ret_why);
	void *remount_arg;
	char *mountpoint;
	char device[32]; /* of the mount, as MAJOR:MINOR */
	char *path;	 /* of the socket */
	ino_t path_ino;
	int listen_fd;
	int stop_fd; /* eventfd: the acceptor ends */
	pthread_t acceptor;
	struct peer self; /* to go back to after a check */

	_Atomic(bool) stopping;
	_Atomic(bool) checking, draining;

	/* A leaf: what follows, and the done lists of commands. */
	pthread_mutex_t lock;
	pthread_cond_t cond; /* conns or runners became fewer */
	bool passthrough;
	char passthrough_why[160];
	bool io_uring; /* with its reason never changes */
	char io_uring_why[160];
	struct cds_list_head conns;
	unsigned int nconns;
	struct cds_list_head live; /* of control_req: at the tier */
	struct cds_list_head jobs; /* of control_job, in the order of ids */
	unsigned int nrunners;	   /* threads that run batches */

	_Atomic(uint64_t) listed; /* bytes of all lists (control_list.c) */
};

#define JOB_SAMPLES 16

/*
 * What people see as one job: a command that moves data, or a batch that nobody
 * waits for. Under control->lock; of batch only state, counts, reasons and
 * ended_ns ever change while others can see it.
 */
struct control_job {
	struct cds_list_head link; /* control->jobs */
	bool detached;		   /* batch is in batches.db */
	struct batch batch;
	int event_fd; /* of who runs it; -1: nobody does */
	bool cancelled;
	uint64_t named; /* paths */
	/* As of the last tick. */
	uint64_t files, files_done, bytes, bytes_done;
	bool complete;
	struct {
		int64_t when;
		uint64_t done;
	} samples[JOB_SAMPLES]; /* a ring */
	unsigned int nsamples;
	struct batch_counts before, now; /* of earlier mounts, and this */
};

struct control_conn {
	struct control *control;
	struct cds_list_head link; /* control->conns */
	int fd;			   /* -1: goes on without a client */
	int event_fd;		   /* something is done, or the end */
	struct peer peer;
	bool gone;		     /* the client is */
	bool eof;		     /* it sends no more */
	bool broken;		     /* credentials could not be put back */
	_Atomic(int64_t) idle_since; /* waits for its client; 0: does not */
	struct proto_lines lines;
	char *out; /* answers to be sent */
	size_t out_len, out_cap;
};

/* One file of a command that moves data, from its batch to its result. */
struct control_req {
	struct tier_request req;
	struct control *control;
	struct control_cmd *cmd;
	struct cds_list_head link; /* control->live, then cmd->done */
	char *path;		   /* below the root: req.path */
	char *as;
	uid_t uid;
	uint64_t size;
	/* Under control->lock. */
	bool finished;
	uint64_t job_id; /* req's, once it is at the tier */
};

enum control_op {
	CONTROL_MIGRATE,
	CONTROL_RELEASE,
	CONTROL_RESTORE,
	CONTROL_PIN,
	CONTROL_UNPIN,
	CONTROL_UNKEEP,
	CONTROL_MEASURE, /* steps of a drain, beside restores */
	CONTROL_DRAIN,
};

/* A command that takes paths, while it runs. */
struct control_cmd {
	struct control_conn *conn;
	struct control *control;
	enum control_op op;
	const char *name;
	bool recursive, release, progress;
	bool limited; /* to so many bytes that are restored: */
	uint64_t budget;
	int64_t keep_until; /* ns since the epoch; 0: not */

	bool more;	/* further paths are to come */
	json_t *paths;	/* to be looked at; NULL: read the next line */
	bool stopping;	/* cancelled: nothing new, what runs is cancelled */
	bool restoring; /* below a directory that is pinned */
	char error[PROTO_WHY_LEN];
	char note[96]; /* to be said with the end of one that is done */

	bool failed;   /* some result was */
	bool complete; /* no more files will come */
	uint64_t files, files_done, bytes, bytes_done;
	int64_t next_tick;

	struct control_req *batch[CONTROL_BATCH];
	unsigned int nbatch;
	struct control_list *list;
	struct control_drain *drain;
	struct control_job *job; /* NULL: of no interest to others */
	int64_t next_note;
	uint64_t need; /* a drain's bytes on the front */

	/* Under control->lock. */
	struct cds_list_head done;
	unsigned int nlive; /* of control->live */
};

/* -- control.c: connections ---------------------------------------------- */

/* Queues an answer; takes data over (NULL: no memory). */
void conn_result(struct control_conn *conn, json_t *data);
/* The result of op on one file. */
void conn_file_result(struct control_conn *conn, const char *op, const char *as,
		      const char *result, const char *reason, uint64_t bytes);
void conn_answer(struct control_conn *conn, json_t *answer);
/* Sends what is queued. A client that is gone is noted in conn->gone. */
void conn_flush(struct control_conn *conn);
/* The thread waits for its client, or does no longer. */
void conn_idle(struct control_conn *conn, bool idle);
void conn_end(struct control_conn *conn, const char *status,
	      const char *reason);
/* One without a client (fd < 0), or NULL; and its end. */
struct control_conn *conn_new(struct control *control, int fd);
void conn_free(struct control_conn *conn);

/* -- control_peer.c: credentials ------------------------------------------ */

int peer_get(int sock, struct peer *ret);
int peer_self(struct peer *ret);
int peer_copy(const struct peer *peer, struct peer *ret);
void peer_free(struct peer *peer);

/* Opens path (below the root) as the peer could: an O_PATH descriptor.
 * *ret_read (may be NULL): may it read the file? -ENOENT, -EACCES, -ELOOP,
 * -EXDEV: not of the front, others of openat2(2). */
int peer_open(struct control_conn *conn, const char *path, bool *ret_read);
/* Opens a directory to read and walk it: O_RDONLY. */
int peer_opendir(struct control_conn *conn, int dirfd, const char *name);
/* Opens a directory (below the root) that the peer can list, and look at what is
 * in it: an O_PATH descriptor. -EACCES, -ENOTDIR and as peer_open(). */
int peer_list(struct control_conn *conn, const char *path);
/* peer_open() and its node, with a reference; ret_fd may be NULL. */
int peer_node(struct control_conn *conn, const char *path, bool *ret_read,
	      int *ret_fd, struct node **ret);
/* "" or why the peer may not move this file's data. */
bool peer_owns(const struct control_conn *conn, const struct stat *st);

/* -- control_cmd.c: requests ------------------------------------------------ */

/* One line. False: the connection is to be closed. */
bool control_request(struct control_conn *conn, const char *line, size_t len);
/* {"paths": [...], "more": bool} of a request or a further line: 0, or -EINVAL
 * and why. *ret_paths is a new reference, NULL when there are none. */
int control_get_paths(const json_t *obj, json_t **ret_paths, bool *ret_more,
		      char why[PROTO_WHY_LEN]);
/* path and as of an element; both to be freed. -EINVAL. */
int control_get_path(const json_t *value, char **ret_path, char **ret_as);
/* The reason of an error for people. */
const char *control_reason(int err, char buf[96]);

/* -- control_status.c: what is known ---------------------------------------- */

void control_find_device(struct control *control);
json_t *control_hello(struct control *control);
json_t *control_status(struct control *control);
/* NULL: *ret_err says why. */
json_t *control_file_status(struct control *control, struct node *node,
			    const char *as, int *ret_err);
/* The jobs as an array of the objects of `tierctl queue`. */
json_t *control_queue(struct control *control, bool all);
/* -- control_policy.c ------------------------------------------------------- */

/* What `tierctl status` says of the policy; null where there is none. */
json_t *control_policy(struct control *control);
/* A pass by hand. Ends the answer, too. False: the connection is to be closed. */
bool control_policy_run(struct control_cmd *cmd, bool dry);
/* -- control_why.c ---------------------------------------------------------- */
void control_why(struct control_cmd *cmd);
/* -- control_metrics.c ------------------------------------------------------ */
/* An array of families. */
json_t *control_metrics(struct control *control);

/* -- control_report.c ------------------------------------------------------- */

struct catalog_reader;
struct catalog_filter;

/* What `tierctl status` says of the catalog; null where there is none. */
json_t *control_catalog(struct control *control);
/* For a command that reads the catalog, which knows of all that was told before
 * then. -errno: cmd->error says why. */
int control_reader(struct control_cmd *cmd, struct catalog_reader **ret);
/* The catalog's key of a directory that the peer may list. */
int control_dir_key(struct control_cmd *cmd, const char *path, uint64_t *ret);
/* Notes that the catalog does not know of all yet. */
void control_note(struct control_cmd *cmd);
void control_report(struct control_cmd *cmd);

/* -- control_find.c ------------------------------------------------------------ */

/* Of a request; *ret_name is the pattern's memory. NULL: all files. */
int control_get_filter(const json_t *obj, struct catalog_filter *ret,
		       char **ret_name, char why[PROTO_WHY_LEN]);
void control_find(struct control_cmd *cmd, const struct catalog_filter *filter);

/* -- control_run.c: commands that take paths, while they run ----------------- */

void move_result(struct control_cmd *cmd, const char *as, const char *result,
		 const char *reason, uint64_t bytes);
void move_error(struct control_cmd *cmd, const char *as, int err);
/* Takes up results and lines; waits up to timeout ms for one. */
void move_pump(struct control_cmd *cmd, int timeout);
/* Waits for the next paths. False: there are none, or the command stops. */
bool move_next_paths(struct control_cmd *cmd);
/* Calls each with those that came, until the command stops. */
void move_each_path(struct control_cmd *cmd,
		    void (*each)(void *arg, struct control_cmd *cmd,
				 const json_t *value),
		    void *arg);
/* Puts a file into the batch; takes over the reference to node. */
void move_add(struct control_cmd *cmd, struct node *node, uint64_t size,
	      const char *path, const char *as);
/* Is the file of node, another name of which came before, not done yet? */
bool move_pending(struct control_cmd *cmd, const struct node *node);
/* Gives the batch to the tier, when there is room for it. */
void move_submit(struct control_cmd *cmd);
/* The same, and waits for all results. */
void move_finish(struct control_cmd *cmd);
/* The job of each mover's job that works for one, by its id: an array to free,
 * sorted. */
struct live_job {
	uint64_t id;
	uint64_t bytes; /* of cmd's files that are not done */
	uint64_t job;	/* the control_job's id, 0: none */
	bool shared;	/* with others than cmd */
};
size_t control_live_jobs(struct control *control, const struct control_cmd *cmd,
			 struct live_job **ret);
int live_job_cmp(const void *a, const void *b);

/* -- control_move.c: what is done with a file --------------------------------- */

void control_move(struct control_cmd *cmd);
/* A path that was named. */
void move_named(struct control_cmd *cmd, const char *path, const char *as);
/* Pins or unpins and reports, unless the file is to be restored after it:
 * *ret_restore. */
void move_pin(struct control_cmd *cmd, struct node *node, const char *as,
	      bool *ret_restore);
/* One file; takes over the reference to node. st is as shown by the mount;
 * named: it may have been named before. */
void move_file(struct control_cmd *cmd, struct node *node,
	       const struct stat *st, const char *path, const char *as,
	       bool named);

/* -- control_list.c: what is restored, in an order ------------------------------ */

/* Takes up a file that is not on the front; takes over the reference to node.
 * named: as with move_file(). */
void list_add(struct control_cmd *cmd, struct node *node, const struct stat *st,
	      const struct tier_file_status *status, const char *path,
	      const char *as, bool named);
/* Gives all of it to move_add(). */
void list_flush(struct control_cmd *cmd);
void list_free(struct control_cmd *cmd);
/* The budget of a request, and until when to keep. False: why. */
bool list_budget(struct control_cmd *cmd, const json_t *obj,
		 char why[PROTO_WHY_LEN]);

/* -- control_job.c: jobs ------------------------------------------------------- */

/* Lists cmd as a job until job_leave(). No memory: it is not listed. */
void job_enter(struct control_cmd *cmd);
void job_leave(struct control_cmd *cmd);
/* A path of cmd's was named. */
void job_named(struct control_cmd *cmd, const char *path);
/* A result by its name. */
void job_result(struct control_cmd *cmd, const char *as, const char *result,
		const char *reason, uint64_t bytes);
/* From time to time: what has become of cmd, done bytes being on the way. True:
 * it is cancelled. */
bool job_tick(struct control_cmd *cmd, uint64_t bytes_done);
/* tierctl cancel. Ends the answer, too. */
void control_cancel(struct control_conn *conn, const json_t *obj);
/* "cancelled", "interrupted" or "" for the end of a command. */
const char *job_why_ended(const struct control_cmd *cmd);
/* The jobs as an array, ended ones too with all. */
json_t *jobs_json(struct control *control, bool all);

/* The counts and reasons of a detached one to batches.db. */
void job_note(struct control_cmd *cmd);
/* control->lock is held; *ret is what batch_end() wants. The job may be gone
 * when the lock is. */
void job_ended(struct control *control, struct control_job *job,
	       struct batch *ret);
void job_free(struct control_job *job);

/* -- control_batch.c ------------------------------------------------------------- */

/* Batches that nobody waits for: loaded, begun, and forgotten at the end. */
void batches_load(struct control *control);
void batches_start(struct control *control);
void batches_forget(struct control *control);
/* Has the user room for one more? */
bool batches_room(struct control *control, uid_t uid);
/* Takes over what batch holds, which is in batches.db: it will be run. */
int batches_queue(struct control *control, struct batch *batch);

/* -- control_ask.c ----------------------------------------------------------------- */

/* Stores what is asked for as a batch. The end of the answer is the caller's;
 * *ret_id: the batch, 0: none. */
void control_ask(struct control_cmd *cmd, uint64_t *ret_id);

/* -- control_check.c ---------------------------------------------------------- */

/* Ends the answer, too. False: the connection is to be closed. */
bool control_check(struct control_cmd *cmd, bool repair, bool verify);

/* -- control_drain.c ---------------------------------------------------------- */

void control_drain(struct control_cmd *cmd);
/* A file that its walks have found. */
void drain_measure(struct control_cmd *cmd, struct node *node);
void drain_file(struct control_cmd *cmd, struct node *node, const char *as);

/* -- control_walk.c ----------------------------------------------------------- */

/* All files below the directory fd, which is node. */
void walk_tree(struct control_cmd *cmd, int fd, struct node *node,
	       const char *path, const char *as);

#endif
