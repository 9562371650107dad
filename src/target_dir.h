/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TARGET_DIR_H
#define TIERFS_TARGET_DIR_H

/* Between the parts of the directory target. */

#include "oid.h"
#include "target_impl.h"

/*
 * The file system that was identified, held by descriptors: whatever is
 * mounted over, or unmounted from, the path later, these reach the same one.
 * Lives as long as anything refers to it.
 */
struct dir_root {
	_Atomic(unsigned int) refs;
	int fd; /* PATH/FSNAME */
	dev_t dev;
	ino_t ino;
	/* Which fan-out directories are known to be durable, a bit each: set
	 * after an fsync of fd that began when the directory was there. */
	_Atomic(uint64_t) durable[4];
};

struct target_dir {
	struct target base;
	pthread_mutex_t lock; /* a leaf, for root */
	struct dir_root *root;
	pthread_mutex_t objects_lock; /* a leaf */
	struct cds_list_head objects; /* all that are open */
};

/* A reference, or NULL when detached. */
struct dir_root *dir_root_get(struct target *target);
void dir_root_put(struct dir_root *root);
static inline void dir_root_putp(struct dir_root **root)
{
	if (*root)
		dir_root_put(*root);
}
#define _cleanup_root_ _cleanup_(dir_root_putp)

/* The identity file, byte by byte: three lines in this order, nothing else. A
 * newer version keeps the first. */
struct dir_identity {
	char front[TARGET_UUID_LEN]; /* the front's UUID */
	char uuid[TARGET_UUID_LEN];  /* the target's own */
};
/* 0, -EBADMSG, -EPROTONOSUPPORT: a newer version; *ret untouched then. */
int dir_identity_parse(const char *text, size_t len, struct dir_identity *ret);
/* The text to be freed, and its length; -1: no memory. */
int dir_identity_text(const struct dir_identity *id, char **ret);

/* Takes the root's directory and the open objects' files away: whoever goes on
 * gets -EBADF, -ENOTDIR or -ELOOP. */
void dir_revoke(struct target *target, struct dir_root *root);
/* Looks for the target at its path, target_ops.attach. */
int dir_attach(struct target *target, char **ret_why);
/* Compares the identity below rootfd, read from the medium. */
int dir_identity_check(struct target *target, int rootfd, char **ret_why);

int dir_create(struct target *target, uint64_t oid, struct target_object **ret);
int dir_open(struct target *target, uint64_t oid, struct target_object **ret);
void dir_close(struct target_object *object);
int dir_size(struct target_object *object, uint64_t *ret);
int dir_truncate(struct target_object *object, uint64_t size);
int dir_reserve(struct target_object *object, uint64_t off, uint64_t len);
int dir_write(struct target_object *object, const void *buf, size_t len,
	      uint64_t off, bool idle);
int dir_origin(struct target_object *object,
	       const struct target_origin *origin);
int dir_get_origin(struct target_object *object, struct target_origin *ret,
		   char *path, size_t len);
int dir_object_sync(struct target_object *object);
int64_t dir_seek(struct target_object *object, uint64_t off, int whence);

void dir_open_async(struct target *target, uint64_t oid,
		    struct target_object **ret_object, struct target_io *io);
void dir_read_async(struct target_object *object, void *buf, size_t len,
		    uint64_t off, bool idle, struct target_io *io);
void dir_write_async(struct target_object *object, const void *buf, size_t len,
		     uint64_t off, bool idle, struct target_io *io);
void dir_close_async(struct target_object *object);

#endif
