/* SPDX-License-Identifier: MIT */
/*
 * One object of a directory target: PATH/FSNAME/oo/oooooooooooooo.
 *
 * Durability: an object needs its data, its entry in the fan-out directory,
 * and that directory's entry. Whether the last is durable is remembered once
 * an fsync() said so, not when the directory was made: another daemon may
 * have made it just before it died.
 *
 * The page cache: the mover's objects are read and written with O_DIRECT by a
 * second descriptor, made at the first aligned operation, so that unaligned
 * ones need no switching of flags under operations in flight. A client's are
 * read through the page cache: the kernel's read-ahead there is what keeps a
 * sequential reader as fast as on the target itself, and a first read costs
 * no more I/O than it would there.
 *
 * A target that is let go of must not be held by its open objects: a file
 * system that died stays dead as long as anything is open there, also where it
 * is unmounted and mounted again. So their files are taken away: what is put in
 * their descriptors' place can be neither read, written, searched nor opened
 * again (a symlink, O_PATH), and the numbers stay theirs, whoever is about to
 * use one.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cleanup.h"
#include "target_dir.h"
#include "util.h"

#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80 /* Linux 6.14 */
#endif

#define NO_DIRECT (-2)

struct dir_object {
	struct target_object base;
	struct cds_list_head link; /* under target_dir.objects_lock, as is
				    * the setting of fd and direct */
	struct dir_root *root;
	int fd;
	_Atomic(int) direct; /* O_DIRECT; -1: not yet, NO_DIRECT: never */
	int flags;
	char path[OID_PATH_LEN];
};

static struct dir_object *dir_object(struct target_object *object)
{
	return container_of(object, struct dir_object, base);
}

static struct target_dir *dir_of(struct dir_object *o)
{
	return container_of(o->base.target, struct target_dir, base);
}

static int object_alloc(struct target *target, uint64_t oid,
			struct dir_object **ret)
{
	struct dir_object *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->root = dir_root_get(target);
	if (!o->root) {
		/* Went offline just now. */
		free(o);
		return -EIO;
	}
	o->base.target = target;
	o->base.oid = oid;
	o->fd = -1;
	o->direct = target_caps(target) & TARGET_CAP_DIRECT ? -1 : NO_DIRECT;
	oid_path(oid, o->path);
	pthread_mutex_lock(&dir_of(o)->objects_lock);
	cds_list_add(&o->link, &dir_of(o)->objects);
	pthread_mutex_unlock(&dir_of(o)->objects_lock);
	*ret = o;
	return 0;
}

/* Before its descriptors are closed. */
static void unlist(struct dir_object *o)
{
	pthread_mutex_lock(&dir_of(o)->objects_lock);
	cds_list_del(&o->link);
	pthread_mutex_unlock(&dir_of(o)->objects_lock);
}

static void object_free(struct dir_object *o)
{
	dir_root_put(o->root);
	free(o);
}

static void object_drop(struct dir_object *o)
{
	unlist(o);
	object_free(o);
}

void dir_revoke(struct target *target, struct dir_root *root)
{
	struct target_dir *dir = container_of(target, struct target_dir, base);
	int none = open("/proc/self", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct dir_object *o;

	if (none < 0)
		return;
	dup3(none, root->fd, O_CLOEXEC);
	pthread_mutex_lock(&dir->objects_lock);
	cds_list_for_each_entry (o, &dir->objects, link) {
		int direct = atomic_load(&o->direct);

		if (o->fd >= 0)
			dup3(none, o->fd, O_CLOEXEC);
		if (direct >= 0)
			dup3(none, direct, O_CLOEXEC);
	}
	pthread_mutex_unlock(&dir->objects_lock);
	close(none);
}

/* Its file was opened: unless the target was let go of meanwhile, when it is
 * closed again. */
static int object_set_fd(struct dir_object *o, int fd)
{
	struct target_dir *dir = dir_of(o);
	bool held;

	pthread_mutex_lock(&dir->objects_lock);
	pthread_mutex_lock(&dir->lock);
	held = dir->root == o->root;
	pthread_mutex_unlock(&dir->lock);
	if (held)
		o->fd = fd;
	pthread_mutex_unlock(&dir->objects_lock);
	if (held)
		return 0;
	close(fd);
	return -EIO;
}

static int open_object(struct dir_object *o, int flags)
{
	int fd;

	o->flags = flags & O_ACCMODE;
	flags |= O_NOFOLLOW | O_CLOEXEC;
	fd = openat(o->root->fd, o->path, flags | O_NOATIME, 0600);
	/* Not ours, and not root: the access time will change. */
	if (fd < 0 && errno == EPERM)
		fd = openat(o->root->fd, o->path, flags, 0600);
	return fd < 0 ? -errno : fd;
}

int dir_create(struct target *target, uint64_t oid, struct target_object **ret)
{
	const int flags = O_RDWR | O_CREAT | O_EXCL;
	struct dir_object *o;
	char oo[3];
	int fd;

	fd = object_alloc(target, oid, &o);
	if (fd < 0)
		return fd;
	fd = open_object(o, flags);
	if (fd == -ENOENT) {
		memcpy(oo, o->path, 2);
		oo[2] = '\0';
		if (mkdirat(o->root->fd, oo, 0700) == 0 || errno == EEXIST)
			fd = open_object(o, flags);
		else
			fd = -errno;
		/* The target's own directory was removed. */
		if (fd == -ENOENT) {
			target_failed(target, "creating an object", -ENODEV);
			fd = -EIO;
		}
	}
	if (fd >= 0)
		fd = object_set_fd(o, fd);
	if (fd < 0) {
		object_drop(o);
		return fd;
	}
	*ret = &o->base;
	return 0;
}

int dir_open(struct target *target, uint64_t oid, struct target_object **ret)
{
	struct dir_object *o;
	int fd;

	fd = object_alloc(target, oid, &o);
	if (fd < 0)
		return fd;
	fd = open_object(o, O_RDONLY);
	if (fd >= 0)
		fd = object_set_fd(o, fd);
	if (fd < 0) {
		object_drop(o);
		return fd;
	}
	*ret = &o->base;
	return 0;
}

void dir_close(struct target_object *object)
{
	struct dir_object *o = dir_object(object);

	unlist(o);
	if (o->direct >= 0)
		close(o->direct);
	close(o->fd);
	object_free(o);
}

void dir_close_async(struct target_object *object)
{
	struct dir_object *o = dir_object(object);
	struct ring *ring = object->target->ring;

	unlist(o);
	if (o->direct >= 0)
		ring_close(ring, NULL, o->direct);
	ring_close(ring, NULL, o->fd);
	object_free(o);
}

int dir_size(struct target_object *object, uint64_t *ret)
{
	struct stat st;

	if (fstat(dir_object(object)->fd, &st) < 0)
		return -errno;
	*ret = st.st_size;
	return 0;
}

int dir_truncate(struct target_object *object, uint64_t size)
{
	return ftruncate(dir_object(object)->fd, size) < 0 ? -errno : 0;
}

int dir_reserve(struct target_object *object, uint64_t off, uint64_t len)
{
	if (fallocate(dir_object(object)->fd, FALLOC_FL_KEEP_SIZE, off, len) ==
		    0 ||
	    errno == EOPNOTSUPP)
		return 0;
	return -errno;
}

/* With RWF_DONTCACHE the kernel begins to write at once, and drops the pages
 * when that is done; before Linux 6.14 they stay. */
int dir_write(struct target_object *object, const void *buf, size_t len,
	      uint64_t off, bool idle)
{
	struct dir_object *o = dir_object(object);
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	int flags = RWF_DONTCACHE, ret = 0;

	if (idle)
		thread_idle_io(true);
	while (iov.iov_len > 0) {
		ssize_t n = pwritev2(o->fd, &iov, 1, off, flags);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && flags &&
		    (errno == EOPNOTSUPP || errno == EINVAL)) {
			flags = 0;
			continue;
		}
		if (n <= 0) {
			ret = n < 0 ? -errno : -EIO;
			break;
		}
		iov.iov_base = (char *)iov.iov_base + n;
		iov.iov_len -= n;
		off += n;
	}
	/* Begins to write, and so leaves less to the sync. */
	if (!flags)
		posix_fadvise(o->fd, 0, 0, POSIX_FADV_DONTNEED);
	if (idle)
		thread_idle_io(false);
	return ret;
}

static size_t origin_encode(const struct target_origin *origin, bool path,
			    char *buf, size_t cap)
{
	struct {
		uint32_t version, mode, uid, gid;
		uint64_t mtime, ino;
	} head = {
		.version = htole32(TIERFS_ORIGIN_VERSION),
		.mode = htole32(origin->mode),
		.uid = htole32(origin->uid),
		.gid = htole32(origin->gid),
		.mtime = htole64(origin->mtime),
		.ino = htole64(origin->ino),
	};
	size_t len = path && origin->path ? strlen(origin->path) : 0;

	_Static_assert(sizeof(head) == TIERFS_ORIGIN_HEAD, "format.h");
	memcpy(buf, &head, sizeof(head));
	if (len > cap - sizeof(head))
		len = 0;
	if (len > 0)
		memcpy(buf + sizeof(head), origin->path, len);
	return sizeof(head) + len;
}

static int set_origin(struct dir_object *o, const char *buf, size_t len)
{
	if (fsetxattr(o->fd, TIERFS_EA_ORIGIN_TRUSTED, buf, len, 0) == 0)
		return 0;
	if (errno == EPERM &&
	    fsetxattr(o->fd, TIERFS_EA_ORIGIN_USER, buf, len, 0) == 0)
		return 0;
	return -errno;
}

int dir_origin(struct target_object *object, const struct target_origin *origin)
{
	struct dir_object *o = dir_object(object);
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
				    timespec_from_ns(origin->mtime)};
	char buf[TIERFS_ORIGIN_HEAD + 4096];
	struct stat st;
	size_t len;
	int ret = 0;

	if (fstat(o->fd, &st) < 0)
		return -errno;
	if (target_caps(object->target) & TARGET_CAP_XATTR) {
		bool path = st.st_size >= TIERFS_ORIGIN_PATH_MIN;

		len = origin_encode(origin, path, buf, sizeof(buf));
		ret = set_origin(o, buf, len);
		/* ext4 keeps no more than a block: better without the path. */
		if ((ret == -ENOSPC || ret == -E2BIG || ret == -ERANGE) &&
		    len > TIERFS_ORIGIN_HEAD)
			ret = set_origin(o, buf, TIERFS_ORIGIN_HEAD);
		if (ret == -EOPNOTSUPP || ret == -EPERM)
			ret = 0;
	}
	if (!ret && futimens(o->fd, times) < 0)
		ret = -errno;
	return ret;
}

int dir_get_origin(struct target_object *object, struct target_origin *ret,
		   char *path, size_t cap)
{
	struct dir_object *o = dir_object(object);
	struct {
		uint32_t version, mode, uid, gid;
		uint64_t mtime, ino;
		char path[4096];
	} buf;
	ssize_t len;

	len = fgetxattr(o->fd, TIERFS_EA_ORIGIN_TRUSTED, &buf, sizeof(buf));
	if (len < 0)
		len = fgetxattr(o->fd, TIERFS_EA_ORIGIN_USER, &buf,
				sizeof(buf));
	if (len < 0)
		return errno == EOPNOTSUPP ? -ENODATA : -errno;
	if (len < TIERFS_ORIGIN_HEAD ||
	    le32toh(buf.version) != TIERFS_ORIGIN_VERSION)
		return -EBADMSG;
	len -= TIERFS_ORIGIN_HEAD;
	if ((size_t)len >= cap)
		len = 0;
	memcpy(path, buf.path, (size_t)len);
	path[len] = '\0';
	*ret = (struct target_origin){
		.mode = le32toh(buf.mode),
		.uid = le32toh(buf.uid),
		.gid = le32toh(buf.gid),
		.mtime = (int64_t)le64toh(buf.mtime),
		.ino = le64toh(buf.ino),
		.path = path,
	};
	return 0;
}

int dir_object_sync(struct target_object *object)
{
	struct dir_object *o = dir_object(object);
	unsigned int oo = object->oid >> 56;
	uint64_t bit = 1ULL << (oo % 64);
	_cleanup_close_ int dirfd = -1;
	char name[3];
	int ret;

	if (fsync(o->fd) < 0)
		return -errno;
	memcpy(name, o->path, 2);
	name[2] = '\0';
	dirfd = openat(o->root->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0 || fsync(dirfd) < 0)
		return -errno;
	if (!(atomic_load(&o->root->durable[oo / 64]) & bit)) {
		if (fsync(o->root->fd) < 0)
			return -errno;
		atomic_fetch_or(&o->root->durable[oo / 64], bit);
	}
	ret = still_up(o->fd);
	if (ret)
		return ret;
	if (o->direct == NO_DIRECT)
		posix_fadvise(o->fd, 0, 0, POSIX_FADV_DONTNEED);
	return 0;
}

int64_t dir_seek(struct target_object *object, uint64_t off, int whence)
{
	off_t ret = lseek(dir_object(object)->fd, off, whence);

	return ret < 0 ? -errno : ret;
}

/* -- asynchronous ---------------------------------------------------------- */

static void open_done(struct ring_op *op, int res)
{
	struct target_req *req = container_of(op, struct target_req, op);
	struct dir_object *o = dir_object(req->object);
	struct target *target = o->base.target;

	if (res >= 0) {
		/* Doubles the read-ahead; no I/O. */
		posix_fadvise(res, 0, 0, POSIX_FADV_SEQUENTIAL);
		res = object_set_fd(o, res);
	}
	if (res < 0)
		object_drop(o);
	else
		*req->ret_object = &o->base;
	target_io_done(target, target_req_io(req), "opening an object", res);
}

void dir_open_async(struct target *target, uint64_t oid,
		    struct target_object **ret_object, struct target_io *io)
{
	struct target_req *req = target_req(io);
	struct dir_object *o;
	int ret;

	ret = object_alloc(target, oid, &o);
	if (ret < 0) {
		target_io_refuse(target, io, ret);
		return;
	}
	o->direct = NO_DIRECT;
	req->object = &o->base;
	req->ret_object = ret_object;
	req->op.done = open_done;
	ring_openat(target->ring, &req->op, o->root->fd, o->path,
		    O_RDONLY | O_NOFOLLOW | O_NOATIME, 0);
}

/* The descriptor for this operation. The inode is in memory, so that opening
 * it once more waits for no disk. */
static int pick_fd(struct dir_object *o, const void *buf, size_t len,
		   uint64_t off)
{
	int direct = atomic_load(&o->direct);
	char proc[PROC_FD_LEN];
	int fd, unset = -1;

	if (((uintptr_t)buf | len | off) % TARGET_ALIGN || direct == NO_DIRECT)
		return o->fd;
	if (direct >= 0)
		return direct;
	fd = open(proc_fd_path(o->fd, proc),
		  o->flags | O_DIRECT | O_NOATIME | O_CLOEXEC);
	if (fd < 0)
		fd = NO_DIRECT;
	if (!atomic_compare_exchange_strong(&o->direct, &unset, fd)) {
		/* Another thread was first. */
		if (fd >= 0)
			close(fd);
		fd = unset;
	}
	return fd >= 0 ? fd : o->fd;
}

static void rw_start(struct target_req *req)
{
	struct dir_object *o = dir_object(req->object);
	struct ring *ring = req->object->target->ring;
	struct ring_op *op = &req->op;
	int fd = pick_fd(o, op->ptr, op->len, op->off);

	if (req->write)
		ring_write(ring, op, fd, op->ptr, op->len, op->off, op->idle);
	else
		ring_read(ring, op, fd, (void *)op->ptr, op->len, op->off,
			  op->idle);
}

/* Goes on after a short operation, until the end of the object or an error. */
static void rw_done(struct ring_op *op, int res)
{
	struct target_req *req = container_of(op, struct target_req, op);
	struct dir_object *o = dir_object(req->object);
	bool ended;

	if (res == -EINTR || res == -EAGAIN) {
		rw_start(req);
		return;
	}
	if (res == 0 && req->write)
		res = -EIO;
	if (res > 0) {
		req->total += res;
		op->ptr = (const char *)op->ptr + res;
		op->len -= res;
		op->off += res;
		/* O_DIRECT stops within a block at the end alone. */
		ended = !req->write && res % 512 != 0 &&
			op->fd == atomic_load(&o->direct);
		if (op->len > 0 && !ended) {
			rw_start(req);
			return;
		}
	}
	atomic_fetch_sub(&req->object->pending, 1);
	target_io_done(req->object->target, target_req_io(req),
		       req->write ? "writing an object" : "reading an object",
		       res < 0 ? res : (int64_t)req->total);
}

static void rw_async(struct target_object *object, const void *buf, size_t len,
		     uint64_t off, bool idle, bool write, struct target_io *io)
{
	struct target_req *req = target_req(io);

	req->object = object;
	req->total = 0;
	req->write = write;
	req->op = (struct ring_op){.done = rw_done,
				   .ptr = buf,
				   .len = len,
				   .off = off,
				   .idle = idle};
	atomic_fetch_add(&object->pending, 1);
	rw_start(req);
}

void dir_read_async(struct target_object *object, void *buf, size_t len,
		    uint64_t off, bool idle, struct target_io *io)
{
	rw_async(object, buf, len, off, idle, false, io);
}

void dir_write_async(struct target_object *object, const void *buf, size_t len,
		     uint64_t off, bool idle, struct target_io *io)
{
	rw_async(object, buf, len, off, idle, true, io);
}
