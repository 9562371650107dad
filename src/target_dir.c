/* SPDX-License-Identifier: MIT */
/*
 * The directory target: PATH/FSNAME/ on a mounted file system.
 *
 * Here are its life and what concerns all objects; target_dir_id.c tells
 * whether it is the right one, target_dir_object.c is about one object.
 *
 * Many objects are made durable by one syncfs(). It reports an error of
 * writing back once for each open file, from the moment that was opened: so a
 * batch opens one of its own before it writes, and no other's syncfs() can
 * take its errors away.
 */
#include "target_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cleanup.h"
#include "util.h"

#define LOST_FOUND "lost+found"

struct dir_batch {
	struct target_batch base;
	int fd;
};

struct dir_root *dir_root_get(struct target *target)
{
	struct target_dir *dir = container_of(target, struct target_dir, base);
	struct dir_root *root;

	pthread_mutex_lock(&dir->lock);
	root = dir->root;
	if (root)
		atomic_fetch_add(&root->refs, 1);
	pthread_mutex_unlock(&dir->lock);
	return root;
}

void dir_root_put(struct dir_root *root)
{
	if (atomic_fetch_sub(&root->refs, 1) > 1)
		return;
	close(root->fd);
	free(root);
}

struct target *target_dir_alloc(void)
{
	struct target_dir *dir = calloc(1, sizeof(*dir));

	if (!dir)
		return NULL;
	pthread_mutex_init(&dir->lock, NULL);
	pthread_mutex_init(&dir->objects_lock, NULL);
	CDS_INIT_LIST_HEAD(&dir->objects);
	return &dir->base;
}

static void dir_free(struct target *target)
{
	struct target_dir *dir = container_of(target, struct target_dir, base);

	pthread_mutex_destroy(&dir->lock);
	pthread_mutex_destroy(&dir->objects_lock);
	free(dir);
}

static void dir_detach(struct target *target)
{
	struct target_dir *dir = container_of(target, struct target_dir, base);
	struct dir_root *root;

	pthread_mutex_lock(&dir->lock);
	root = steal_ptr(&dir->root);
	pthread_mutex_unlock(&dir->lock);
	if (root) {
		dir_revoke(target, root);
		dir_root_put(root);
	}
}

/* stat() of a mounted directory costs no I/O; that the path leads to what is
 * held shows that it was neither unmounted nor removed. */
static int dir_check(struct target *target, bool medium, char **ret_why)
{
	_cleanup_root_ struct dir_root *root = dir_root_get(target);
	_cleanup_free_ char *path = NULL;
	struct stat st;
	int ret = 0;

	if (!root)
		return -EIO;
	if (asprintf(&path, "%s/%s", target->path, target->fsname) < 0)
		return -ENOMEM;
	if (lstat(path, &st) < 0)
		ret = -errno;
	else if (st.st_dev != root->dev || st.st_ino != root->ino)
		ret = -ESTALE;
	if (ret == 0)
		return medium ? dir_identity_check(target, root->fd, ret_why)
			      : 0;
	if (asprintf(ret_why, "%s: no longer there: %s", path,
		     ret == -ESTALE ? "it is another directory now"
				    : strerrordesc_np(-ret)) < 0)
		*ret_why = NULL;
	return ret;
}

static int dir_usage(struct target *target, struct target_usage *ret)
{
	_cleanup_root_ struct dir_root *root = dir_root_get(target);
	struct statvfs st;

	if (!root)
		return -EIO;
	if (fstatvfs(root->fd, &st) < 0)
		return -errno;
	ret->used = (uint64_t)(st.f_blocks - st.f_bfree) * st.f_frsize;
	ret->bytes = ret->used + (uint64_t)st.f_bavail * st.f_frsize;
	ret->readonly = st.f_flag & ST_RDONLY;
	return 0;
}

static void dir_object_path(struct target *target, uint64_t oid, char *buf,
			    size_t len)
{
	char name[OID_PATH_LEN];

	oid_path(oid, name);
	snprintf(buf, len, "%s/%s/%s", target->path, target->fsname, name);
}

static int dir_batch_begin(struct target *target,
			   struct target_batch **ret_batch)
{
	_cleanup_root_ struct dir_root *root = dir_root_get(target);
	struct dir_batch *batch;

	if (!root)
		return -EIO;
	batch = malloc(sizeof(*batch));
	if (!batch)
		return -ENOMEM;
	batch->base.target = target;
	batch->fd = openat(root->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (batch->fd < 0) {
		int err = -errno;

		free(batch);
		return err;
	}
	*ret_batch = &batch->base;
	return 0;
}

static int dir_batch_end(struct target_batch *base)
{
	struct dir_batch *batch = container_of(base, struct dir_batch, base);
	int ret = sync_fs(batch->fd);

	close(batch->fd);
	free(batch);
	return ret;
}

static int dir_delete(struct target *target, uint64_t oid)
{
	_cleanup_root_ struct dir_root *root = dir_root_get(target);
	char name[OID_PATH_LEN];

	if (!root)
		return -EIO;
	oid_path(oid, name);
	if (unlinkat(root->fd, name, 0) < 0 && errno != ENOENT)
		return -errno;
	return 0;
}

static int dir_set_aside(struct target *target, uint64_t oid)
{
	_cleanup_root_ struct dir_root *root = dir_root_get(target);
	char name[OID_PATH_LEN], hex[OID_HEX_LEN];
	_cleanup_close_ int fd = -1, from = -1;

	if (!root)
		return -EIO;
	if (mkdirat(root->fd, LOST_FOUND, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(root->fd, LOST_FOUND,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	oid_path(oid, name);
	oid_hex(oid, hex);
	if (renameat2(root->fd, name, fd, hex, RENAME_NOREPLACE) < 0)
		return -errno;
	if (fsync(fd) < 0 || fsync(root->fd) < 0)
		return -errno;
	name[2] = '\0'; /* the directory it was in */
	from = openat(root->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return from < 0 || fsync(from) < 0 ? -errno : 0;
}

static int by_oid(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* The oids in one fan-out directory, sorted: an array to free. */
static int list_oids(int rootfd, unsigned int oo, uint64_t **ret_oids,
		     size_t *ret_n)
{
	_cleanup_free_ uint64_t *oids = NULL;
	size_t n = 0, cap = 0;
	struct dirent *entry;
	char hex[OID_HEX_LEN];
	int fd, ret = 0;
	DIR *dir;

	snprintf(hex, sizeof(hex), "%02x", oo);
	fd = openat(rootfd, hex, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	while (!ret && (errno = 0, entry = readdir(dir))) {
		if (strlen(entry->d_name) != OID_HEX_LEN - 3)
			continue;
		if (n == cap) {
			size_t want = cap ? cap * 2 : 1024;
			void *p = reallocarray(oids, want, sizeof(*oids));

			if (!p) {
				ret = -ENOMEM;
				break;
			}
			oids = p;
			cap = want;
		}
		memcpy(hex + 2, entry->d_name, OID_HEX_LEN - 2);
		if (oid_parse(hex, &oids[n]) == 0)
			n++;
	}
	if (!ret && errno)
		ret = -errno;
	closedir(dir);
	if (ret < 0)
		return ret;
	if (n > 0)
		qsort(oids, n, sizeof(*oids), by_oid);
	*ret_oids = steal_ptr(&oids);
	*ret_n = n;
	return 0;
}

static int dir_each(struct target *target,
		    int (*fn)(void *arg, uint64_t oid, uint64_t size),
		    void *arg)
{
	_cleanup_root_ struct dir_root *root = dir_root_get(target);
	unsigned int oo;
	int ret = 0;

	if (!root)
		return -EIO;
	for (oo = 0; oo < 256 && !ret; oo++) {
		_cleanup_free_ uint64_t *oids = NULL;
		size_t i, n = 0;

		ret = list_oids(root->fd, oo, &oids, &n);
		for (i = 0; i < n && !ret; i++) {
			char name[OID_PATH_LEN];
			struct stat st;

			oid_path(oids[i], name);
			if (fstatat(root->fd, name, &st, AT_SYMLINK_NOFOLLOW) ==
			    0)
				ret = fn(arg, oids[i], st.st_size);
			else if (errno != ENOENT)
				ret = -errno;
		}
	}
	return ret;
}

const struct target_ops target_dir_ops = {
	.free = dir_free,
	.attach = dir_attach,
	.detach = dir_detach,
	.check = dir_check,
	.usage = dir_usage,
	.object_path = dir_object_path,
	.create = dir_create,
	.open = dir_open,
	.close = dir_close,
	.size = dir_size,
	.truncate = dir_truncate,
	.reserve = dir_reserve,
	.write = dir_write,
	.origin = dir_origin,
	.get_origin = dir_get_origin,
	.sync = dir_object_sync,
	.seek = dir_seek,
	.batch_begin = dir_batch_begin,
	.batch_end = dir_batch_end,
	.delete = dir_delete,
	.set_aside = dir_set_aside,
	.each = dir_each,
	.open_async = dir_open_async,
	.read_async = dir_read_async,
	.write_async = dir_write_async,
	.close_async = dir_close_async,
};
