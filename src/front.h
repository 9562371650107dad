/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_FRONT_H
#define TIERFS_FRONT_H

/*
 * The front: the directory on the fast disk that is the namespace.
 *
 * Owns .tierfs/ in its root (include/tierfs/format.h) and knows how a file is
 * named without a path: by file handle where the daemon may use
 * open_by_handle_at(2) (CAP_DAC_READ_SEARCH), so that a cached node needs no
 * descriptor. All functions are for any thread and take no locks.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "spill_ea.h"

/* ext4 needs 8 bytes, xfs 12, btrfs 20. */
#define FRONT_HANDLE_BYTES 22

struct front_handle {
	uint8_t type;
	uint8_t len; /* 0: no handle */
	uint8_t bytes[FRONT_HANDLE_BYTES];
};

struct front_target {
	char name[TIERFS_NAME_MAX];
	char uuid[37]; /* the target's own, as text */
};

struct front {
	char *path; /* absolute */
	char name[TIERFS_NAME_MAX];
	char uuid[37];
	dev_t dev;
	int given_fd; /* the directory as it was given */
	int mount_fd; /* of a mount of our own, or -1 */
	int root_fd;  /* O_RDONLY|O_DIRECTORY: in that mount, if there is one */
	int meta_fd;  /* .tierfs */
	int staging_fd;
	int inodes_fd;
	int orphans_fd;
	int lock_fd;
	ino_t meta_ino;	      /* to hide it in the root */
	bool by_handle;	      /* else nodes keep O_PATH descriptors */
	bool took_over;	      /* from a daemon that is dead, but still there */
	bool trusted;	      /* which EA name is used */
	const char *ea_spill; /* TIERFS_EA_TRUSTED or _USER */
	bool plain_xattrs;   /* ACLs and user.*: what is not there is ENODATA */
	uint64_t atime_attr; /* MOUNT_ATTR_* of the front's mount */
	struct front_target targets[TIERFS_TARGETS_MAX];
	unsigned int ntargets;
};

/*
 * Opens path as a front, makes .tierfs where it is missing, locks it.
 * name: the file system's; an existing front with another name is refused.
 * On failure *ret_why (free it) says what is wrong with which path:
 * -ENOTDIR -ENOENT -EACCES -EROFS, -EBUSY another daemon has it, or a FUSE
 * mount is there, -EPROTONOSUPPORT a newer format, -EBADMSG a damaged format
 * file, -EOPNOTSUPP no EAs or handles there, -EEXIST another name, -EINVAL not
 * a name, -EXDEV .tierfs is a mount point. The front is as it was (an empty
 * .tierfs may be left).
 */
int front_open(const char *path, const char *name, struct front **ret,
	       char **ret_why);
/* The same, when it is locked waiting for a daemon that is ending. */
int front_open_wait(const char *path, const char *name, struct front **ret,
		    char **ret_why);
void front_close(struct front *front);
/* Says in the lock file that the front is going to be closed, for
 * front_is_ending(); anyone who waits for the lock may go on waiting then. */
void front_ending(struct front *front);
bool front_is_ending(const char *path);
/* Lets another daemon have it: nothing is written there any more. */
void front_unlock(struct front *front);
/* The name in the format file of a directory that is a front. -ENOENT: it is
 * none; others as of front_open(). Changes nothing. */
int front_known_name(const char *path, char ret[TIERFS_NAME_MAX],
		     char **ret_why);
/*
 * After front_open() gave -EBUSY, again and again: if the daemon that has the
 * front was killed, and has been dead for a while (*dead_since is between the
 * calls, 0 at first), but the kernel keeps it because a target hangs, the front
 * is taken from it. True: front_open() works now. front_open_wait() does that.
 */
bool front_take_over(const char *path, int64_t *dead_since);

/* Whether reading changes access times: whoever reads by a descriptor of the
 * front, the kernel for passthrough included. Any thread. -EOPNOTSUPP: there is
 * no mount of our own (no CAP_SYS_ADMIN), nothing changes. */
int front_set_noatime(struct front *front, bool noatime);

/* Records a target in the format file, durably, under the next number; for the
 * thread that mounts alone. -EINVAL, -EEXIST: name or UUID is known, -ENOSPC:
 * TIERFS_TARGETS_MAX are. */
int front_add_target(struct front *front, const char *name, const char *uuid,
		     unsigned int *ret_number);

/* The handle of dirfd/name ("" with AT_EMPTY_PATH semantics for dirfd
 * itself), symlinks not followed. -EOVERFLOW: longer than fits. */
int front_handle_at(struct front *front, int dirfd, const char *name,
		    struct front_handle *ret);
/* Opens by handle: a descriptor, -ESTALE when the file is gone. flags as for
 * open(2), O_PATH included; O_CLOEXEC is added. */
int front_open_handle(struct front *front, const struct front_handle *handle,
		      int flags);
bool front_handle_equal(const struct front_handle *a,
			const struct front_handle *b);

/* The spill EA of a file. 0, -ENODATA: has none; errors of spill_ea_decode();
 * others of getxattr(2). */
int front_ea_get_at(struct front *front, int dirfd, const char *name,
		    struct spill_ea *ret);
int front_ea_get(struct front *front, int fd, struct spill_ea *ret);
/* Sets it, or removes it when spill_ea_is_empty(). Durable after fsync. */
int front_ea_set(struct front *front, int fd, const struct spill_ea *ea);

/* Bytes in use and available, as df counts them. */
int front_usage(struct front *front, uint64_t *ret_used, uint64_t *ret_avail);

#endif
