/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CONTROL_INT_H
#define TIERFS_CONTROL_INT_H

/* What the files of the control server share. Nobody else includes this. */

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <urcu/list.h>

#include "control.h"
#include "control_proto.h"
#include "tier.h"

#define CONTROL_CONNS	   64 /* at once; commands that go on included */
#define CONTROL_CONNS_USER 8  /* of one user who is not root */
#define CONTROL_CONNS_REST 48 /* of all who are not root */
#define CONTROL_IDLE_NS	   5000000000LL /* who waits longer can be shut out */
#define CONTROL_INFLIGHT   8192		/* requests of a command at the tier */
#define CONTROL_ORPHANS	   16384 /* the same, of commands that did not wait */
#define CONTROL_BATCH	   2048	 /* requests in one tier_submit() */

struct peer {
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	unsigned int ngroups;
};

struct control {
	/* Written once. */
	struct tier *tier;
	const struct tier_parts *parts;
	int (*remount)(void *arg, char *const *options, bool check,
		       char **ret_why);
	void *remount_arg;
	char *mountpoint;
	char *path; /* of the socket */
	ino_t path_ino;
	int listen_fd;
	int stop_fd; /* eventfd: the acceptor ends */
	pthread_t acceptor;
	struct peer self; /* to go back to after a check */

	_Atomic(bool) stopping;
	_Atomic(bool) checking, draining;

	/* A leaf: what follows, and the done lists of commands. */
	pthread_mutex_t lock;
	pthread_cond_t cond; /* conns or orphans became fewer */
	bool passthrough;
	char passthrough_why[160];
	struct cds_list_head conns;
	unsigned int nconns;
	struct cds_list_head live; /* of control_req: at the tier */
	unsigned int norphans;	   /* of them */
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
	struct control_later *later; /* of a conn without a client */
};

/* One file of a command that moves data, from its batch to its result. */
struct control_req {
	struct tier_request req;
	struct control *control;
	struct control_cmd *cmd;   /* NULL: nobody waits */
	struct cds_list_head link; /* control->live, then cmd->done */
	const char *op;		   /* "migrate", ... */
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
	CONTROL_MEASURE, /* steps of a drain, beside restores */
	CONTROL_DRAIN,
};

/* A command that takes paths, while it runs. */
struct control_cmd {
	struct control_conn *conn;
	struct control *control;
	enum control_op op;
	const char *name;
	bool recursive, release, wait, progress;

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
	struct control_later *later;
	struct control_drain *drain;
	uint64_t need; /* a drain's bytes on the front */

	/* Under control->lock. */
	struct cds_list_head done;
	unsigned int nlive; /* of control->live */
};

/* A directory that is walked after the client has gone. */
struct control_later {
	struct control_later *next;
	enum control_op op;
	bool release, restoring;
	char *path, *as;
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
/* Runs later on a connection of its own, which needs no client. Takes later
 * over. 0, -EAGAIN: too many, -ENOMEM. */
int conn_continue(struct control_conn *conn, struct control_later *later);
void control_later_free(struct control_later *later);

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

json_t *control_hello(struct control *control);
json_t *control_status(struct control *control);
/* NULL: *ret_err says why. */
json_t *control_file_status(struct control *control, struct node *node,
			    const char *as, int *ret_err);
/* The jobs as an array of the objects of `tierctl queue`. */
json_t *control_queue(struct control *control);
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
/* Puts a file into the batch; takes over the reference to node. */
void move_add(struct control_cmd *cmd, struct node *node, uint64_t size,
	      const char *path, const char *as);
/* Is the file of node, another name of which came before, not done yet? */
bool move_pending(struct control_cmd *cmd, const struct node *node);
/* Gives the batch to the tier, when there is room for it. */
void move_submit(struct control_cmd *cmd);
/* The same, and waits for all results. */
void move_finish(struct control_cmd *cmd);
/* Cancels what is at the tier (of cmd; NULL: of commands nobody waits for). */
void control_cancel_live(struct control *control, struct control_cmd *cmd);

/* -- control_move.c: what is done with a file --------------------------------- */

void control_move(struct control_cmd *cmd);
/* Runs conn->later. */
void control_move_later(struct control_conn *conn);
/* One file; takes over the reference to node. st is as shown by the mount;
 * named: it may have been named before. */
void move_file(struct control_cmd *cmd, struct node *node,
	       const struct stat *st, const char *path, const char *as,
	       bool named);

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
