/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_FS_IMPL_H
#define TIERFS_FS_IMPL_H

/* What the fs_*.c share. */

#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 18)
#include <fuse_lowlevel.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <urcu/list.h>

#include "cleanup.h"
#include "fs.h"
#include "util.h"

/* The daemon is the only one who changes the front: what the kernel knows
 * stays true until the kernel itself changes it. */
#define FS_TIMEOUT  86400.0
#define FS_MAX_IO   (1 << 20)
/* Closed files whose backing id is kept: each is a file, an inode and its names
 * in the kernel's memory, some 2 KiB. */
#define FS_KEEP_MAX 4096

enum fs_pt {
	FS_PT_OFF,
	FS_PT_ON,
};

#define FS_LISTINGS 8

/* The directories that a listing found (fs_walk.c). Under fs_walk.lock. */
struct fs_listing {
	struct front_handle dir; /* len 0: none */
	uint64_t used;		 /* by fs_walk.clock */
	size_t next;		 /* who is expected to be listed, in names */
	bool in_order;		 /* the one before was */
	size_t len;
	/* struct fs_dirent's; what is more is left out */
	char names[16 * 1024] __attribute__((aligned(8)));
};

struct fs_walk {
	pthread_mutex_t lock; /* a leaf */
	uint64_t clock;
	struct fs_listing listings[FS_LISTINGS];
};

struct fs {
	struct fs_parts parts;
	struct fuse_session *se;
	_Atomic(bool) no_atime;
	_Atomic(int) passthrough; /* enum fs_pt */
	bool session_pt; /* what it was at first: written before requests */
	bool no_opendir; /* the kernel can do without: as above */
	bool selinux;	 /* the kernel has it: never changes */

	struct fs_walk walk;

	pthread_mutex_t lock; /* a leaf but for tier_wait_cancel() */
	pthread_cond_t idle;
	struct cds_list_head parked;   /* struct fs_park, oldest first */
	struct cds_list_head given_up; /* answered, but not complete */
	unsigned int nanswering;       /* PARK_GO, but not fs_park_answered() */
	uint64_t recall_timeout;       /* ns, 0: none */
	pthread_cond_t timer_cond;
	pthread_t timer;
	bool timer_runs, timer_stop;
	char why[160];	     /* why there is no passthrough */
	char uring_why[160]; /* why requests come by /dev/fuse */
	bool uring_asked;    /* written before requests */
	_Atomic(bool) uring; /* requests come over io_uring */
	struct fs_work *work;
	struct fs_turns *turns;

	/* The timer's alone. */
	int64_t timer_logged;
	unsigned int timer_unsaid;

	/* fs_serve()'s. */
	int (*ready)(void *arg);
	void *ready_arg;
	int ready_err;
};

static inline struct fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static inline struct tier *fs_tier(fuse_req_t req)
{
	return fs_of(req)->parts.tier;
}

static inline struct node *fs_node(fuse_req_t req, fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? node_root(fs_of(req)->parts.nodes)
				   : (struct node *)(uintptr_t)ino;
}

static inline fuse_ino_t fs_ino(const struct node *node)
{
	return node_root(node->table) == node ? FUSE_ROOT_ID
					      : (fuse_ino_t)(uintptr_t)node;
}

/* -errno to what the client sees. */
int fs_errno(int err);
static inline void fs_reply_err(fuse_req_t req, int err)
{
	fuse_reply_err(req, fs_errno(err));
}

/* Is parent/name the daemon's own directory? */
bool fs_hidden(struct node *parent, const char *name);

/* Fills in the reply for node; st: as node_lookup() gave it, or NULL. */
int fs_entry(fuse_req_t req, struct node *node, const struct stat *st,
	     struct fuse_entry_param *ret);
/* Looks name up and replies; a name that is not there is cached as such. */
void fs_reply_lookup(fuse_req_t req, struct node *parent, const char *name);
void fs_reply_node(fuse_req_t req, struct node *node, const struct stat *st);
void fs_reply_getattr(fuse_req_t req, struct node *node);

void fs_passthrough_lost(struct fs *fs, const char *what, int err);

/* ---- who the thread is (fs_ident.c) -------------------------------------- */

/* To create as the client: fsuid, fsgid, umask. */
void fs_become(fuse_req_t req);
/* To write to fd as the client: its uid, for reserved blocks and quotas;
 * keep_priv: setuid and setgid bits survive. */
void fs_become_writer(fuse_req_t req, bool keep_priv, int fd);
/* The same for tier_write() and its like. */
void fs_become_stub_writer(fuse_req_t req, bool keep_priv, struct node *node);
/* Is the client in it, by its supplementary groups too? */
bool fs_in_group(fuse_req_t req, gid_t gid);
/* To change attributes that the kernel has checked. */
void fs_become_root(void);
/* What the front cannot know: of a client that is not in the file's group, a new
 * ACL takes the setgid bit (posix_acl_update_mode() of the kernel, whose flag for
 * it libfuse does not pass on), and a new owner that of a file which its group may
 * not execute. (fs_meta.c) */
int fs_drop_sgid(fuse_req_t req, int fd, bool acl);

/* Does the kernel have SELinux, for all that we know? (fs_xattr.c) */
bool fs_selinux_known(void);

/* ---- who asks for data (fs_who.c) ----------------------------------------- */

/* The client. */
struct tier_who fs_who(fuse_req_t req, bool nonblock);
/* Asks the rules about him. May read /proc. */
void fs_who_judge(fuse_req_t req, struct tier_who *who);
/* What is kept of him with a handle, beside the flags of its open. */
uint64_t fs_handle_new(int flags, const struct tier_who *who);
static inline int fs_handle_flags(uint64_t fh)
{
	return (int)(uint32_t)fh;
}
/* The client, by what was decided when the handle was opened. */
struct tier_who fs_handle_who(fuse_req_t req, uint64_t fh, int flags);

/* ---- requests that wait (fs_park.c) --------------------------------------- */

/*
 * A request whose answer comes later and that can be interrupted until then.
 * Between fs_park_begin() and fs_park_arm() the starter starts what will call
 * fs_park_done(), and nobody replies.
 */
struct fs_park {
	struct cds_list_head link;
	struct fs *fs;
	fuse_req_t req;
	struct node *node; /* what it waits for: the owner's reference */
	int64_t since;	   /* monotonic ns: the first fs_park_begin(); or 0 */
	_Atomic(int) state;
	/* Interrupted, on any thread. True: it is taken back, nobody will call
	 * fs_park_done(). False: it cannot be. NULL: never can, the reply is
	 * given up and fs_park_done() says so. */
	bool (*cancel)(struct fs_park *park);
	/* Frees, after it was taken back or its completion came too late. */
	void (*free)(struct fs_park *park);
};

enum fs_park_next {
	PARK_LEAVE, /* somebody else goes on */
	PARK_GO,    /* go on: the result is there, the reply is ours */
	PARK_FREE,  /* it was answered: free it */
};

void fs_park_begin(struct fs_park *park);
enum fs_park_next fs_park_arm(struct fs_park *park);
enum fs_park_next fs_park_done(struct fs_park *park);
/* After the replies to n that were PARK_GO. */
void fs_park_answered(struct fs *fs, unsigned int n);
void fs_park_init(struct fs *fs);
/* Who waits for a target longer than ns gets EIO; 0: nobody. -EAGAIN. */
int fs_park_timeout(struct fs *fs, uint64_t ns);
/* Ends the timer, and answers all that wait with EINTR. */
void fs_park_answer(struct fs *fs);
/* After that: waits until the targets are done with them, which may be never. */
void fs_park_end(struct fs *fs);

/* ---- uses that wait (fs_use.c) -------------------------------------------- */

/* Inode flags to be set: FS_IOC_SETFLAGS or FS_IOC_FSSETXATTR. */
struct fs_flags {
	unsigned int cmd;
	union {
		unsigned int flags;
		struct fsxattr fsx;
	} arg;
};

/* What may have to wait for the file that it uses. */
struct fs_use {
	struct fs_park park;
	struct tier_wait wait;
	struct tier_who who; /* the wait's */
	int err;	     /* the wait's */
	struct node *node;
	int flags;			  /* of tier_open() */
	int (*begin)(struct fs_use *use); /* tier_open() by default */
	void (*finish)(struct fs_use *use, int err);

	/* open, create, tmpfile */
	struct fuse_file_info fi;
	bool is_create;
	int made_fd;	/* create: of the new file; else -1 */
	struct stat st; /* create: of the new file */

	/* truncate */
	struct stat attr;
	int to_set;
	bool has_handle;

	/* inode flags */
	bool opened; /* tier_close() is owed, should it be interrupted */
	struct fs_flags set;

	/* fallocate */
	int mode;
	off_t off, len;

	/* link */
	struct node *newparent; /* a reference, or NULL */
	char *newname;
};

/* node: a reference, taken over. NULL: no memory, which has been answered. */
struct fs_use *fs_use_new(fuse_req_t req, struct node *node, int flags,
			  void (*finish)(struct fs_use *use, int err));
void fs_use_start(struct fs_use *use);
void fs_use_free(struct fs_use *use);

/* ---- the way of requests (fs_uring.c) -------------------------------------- */

/* Is io_uring to be asked for? */
bool fs_uring_ask(struct fs *fs);
/* The kernel has said what it offers. */
void fs_uring_init(struct fs *fs, struct fuse_conn_info *conn);
/* One request came. */
void fs_uring_seen(fuse_req_t req);

/* ---- client and server on one CPU (fs_turns.c) ------------------------------- */

/* At the begin of what is short and waited for; of what is neither. In any thread
 * that serves requests: its scheduling is arranged from then on. */
void fs_turn(fuse_req_t req);
void fs_turn_data(fuse_req_t req);
/* The calling thread serves no client by itself. */
void fs_turn_never(void);
/* Before requests come. -errno: they come all the same. */
int fs_turns_start(struct fs *fs);
/* No thread is arranged any more; all are as they were. */
void fs_turns_stop(struct fs *fs);
/* When the threads that served have ended. */
void fs_turns_free(struct fs *fs);

/* ---- requests that keep a thread waiting (fs_work.c, fs_later.c) ------------ */

/* A request with its arguments; pointers are into the request's ring entry. */
struct fs_job {
	struct cds_list_head link;
	void (*run)(struct fs_job *job);
	fuse_req_t req;
	fuse_ino_t ino, to;
	const char *name, *to_name;
	struct fuse_file_info fi, to_fi;
	bool has_fi;
	struct stat attr;
	size_t size, out_size;
	off_t off, to_off;
	mode_t mode;
	int flags;
	unsigned int cmd;
	void *arg;
	const void *data;
	struct fuse_bufvec buf; /* of one, in memory */
};

/* Does a whole CPU wait if this thread does? */
bool fs_must_not_wait(fuse_req_t req);
/* A job for a worker; NULL: it can be done here, or has to be. */
struct fs_job *fs_job_new(fuse_req_t req, fuse_ino_t ino,
			  const struct fuse_file_info *fi,
			  void (*run_job)(struct fs_job *job));
/* Hands it over; it is freed after job->run(job), which replies. */
void fs_job_later(struct fs_job *job);
/* The same for what answers nobody: run finds arg in the job. req is not used any
 * more when it returns. -ENOMEM. */
int fs_job_begin(fuse_req_t req, void (*run)(struct fs_job *job), void *arg);
/* -ENOMEM. */
int fs_work_new(struct fs *fs);
/* When no request comes any more: waits until the workers are done. */
void fs_work_end(struct fs *fs);
/* fs_read() when it would wait. */
void fs_read_later(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		   struct fuse_file_info *fi);
/* Puts what may hand over in the place of the operations themselves. */
void fs_later_ops(struct fuse_lowlevel_ops *ops);

/* ---- directories (fs_dir.c, fs_ahead.c, fs_walk.c) ---------------------------- */

/* What getdents64(2) returns, so much at once at most. */
#define FS_DIRENTS (32 * 1024)
struct fs_dirent {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};
static inline const struct fs_dirent *fs_dirent_at(const char *names,
						   size_t pos)
{
	return (const struct fs_dirent *)(names + pos);
}

/* A worker asks for the attributes of what len bytes of entries name in the
 * directory fd, from the last one on, until it meets who lists them: he says
 * where he is (bytes), and the end. NULL, which the others take: too few, or
 * there is no room for it. req is not used any more when it returns. */
struct fs_ahead *fs_ahead_begin(fuse_req_t req, int fd, const void *names,
				size_t len);
void fs_ahead_at(struct fs_ahead *ahead, size_t pos);
void fs_ahead_end(struct fs_ahead *ahead);
/* What the worker does: in bytes of names, until *end (NULL: all). */
void fs_ahead_look(int fd, const char *names, size_t len,
		   const _Atomic(size_t) *end);

/* A listing of dir, fd, begins: a worker may look ahead to the directory that
 * follows it in a walk. And: it has this directory. */
void fs_walk_begin(fuse_req_t req, struct node *dir, int fd);
void fs_walk_found(struct fs *fs, struct node *dir,
		   const struct fs_dirent *subdir);

/* ---- the operations --------------------------------------------------------- */

void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup);
void fs_forget_multi(fuse_req_t req, size_t count,
		     struct fuse_forget_data *forgets);
void fs_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		struct fuse_file_info *fi);
void fs_statx(fuse_req_t req, fuse_ino_t ino, int flags, int mask,
	      struct fuse_file_info *fi);
void fs_statfs(fuse_req_t req, fuse_ino_t ino);
/* The rest of setattr when the size is set. */
int fs_setattr_meta(fuse_req_t req, struct node *node, const struct stat *attr,
		    int to_set);

void fs_readlink(fuse_req_t req, fuse_ino_t ino);
void fs_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	      dev_t rdev);
void fs_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void fs_symlink(fuse_req_t req, const char *link, fuse_ino_t parent,
		const char *name);
void fs_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
	       fuse_ino_t newparent, const char *newname, unsigned int flags);
void fs_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent,
	     const char *newname);
/* Before name is made in parent: the directory's descriptor, and the thread is the
 * client. 0: tier_counting_end() is owed; -EPERM: the name is ours; -errno. */
int fs_make_begin(fuse_req_t req, struct node *parent, const char *name,
		  struct node_fd *ret_dir);

void fs_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		struct fuse_file_info *fi);
void fs_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi);
void fs_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync,
		 struct fuse_file_info *fi);

void fs_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	       struct fuse_file_info *fi);
void fs_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode,
		struct fuse_file_info *fi);
void fs_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
/* setattr with a size; has_handle: of a file the client has open. */
void fs_truncate(fuse_req_t req, struct node *node, const struct stat *attr,
		 int to_set, bool has_handle);

void fs_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	     struct fuse_file_info *fi);
void fs_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *in,
		  off_t off, struct fuse_file_info *fi);
void fs_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_fsync(fuse_req_t req, fuse_ino_t ino, int datasync,
	      struct fuse_file_info *fi);
void fs_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off,
		  off_t len, struct fuse_file_info *fi);
void fs_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
			struct fuse_file_info *fi_in, fuse_ino_t ino_out,
			off_t off_out, struct fuse_file_info *fi_out,
			size_t len, int flags);
void fs_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
	      struct fuse_file_info *fi);

void fs_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void fs_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name,
		 const char *value, size_t size, int flags);
void fs_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void fs_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);
void fs_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg,
	      struct fuse_file_info *fi, unsigned int flags, const void *in,
	      size_t in_size, size_t out_size);

#endif
