/* SPDX-License-Identifier: MIT */
/*
 * Rows of directories: the tree that the histograms are added up.
 *
 * Invariants, in every transaction: each directory's chain of parents ends at
 * the root; each file's home has a row. So before a name in a directory is
 * written that directory is made known, and before that the one above, as the
 * front has them now (connect()). A directory made known so has contents that
 * nobody told of: it is to be walked (GEN_NEW).
 *
 * The rows of several directories are not of one moment: of two renames that
 * put A below B where B was below A, the one may be seen before the other. What
 * would close a circle is therefore put where the front has it only after all
 * above has been, from the root down.
 *
 * A directory that is gone takes along what is known below, but for directories
 * that are still there: they were moved out and it was not told (yet), and are
 * put where they are now.
 */
#include "catalog_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "util.h"

#define DEPTH_MAX 2000
#define KEYS	  64
#define TRIES	  20

int catalog_dir_get(struct catalog_db *db, uint64_t key,
		    struct catalog_dir *ret)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(db, CQ_DIR_GET, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)key);
	err = catalog_db_step(db, CQ_DIR_GET);
	if (err <= 0)
		return err ? err : -ENOENT;
	ret->key = (uint64_t)sqlite3_column_int64(st, 0);
	ret->parent = (uint64_t)sqlite3_column_int64(st, 1);
	err = catalog_db_handle(st, 2, &ret->handle);
	catalog_db_name(st, 3, ret->name);
	ret->gen = (uint64_t)sqlite3_column_int64(st, 4);
	ret->flags = (unsigned int)sqlite3_column_int64(st, 5);
	catalog_db_reset(db, CQ_DIR_GET);
	return err;
}

int catalog_dir_path_of(struct catalog_db *db, uint64_t key, char **ret,
			bool *ret_pinned)
{
	_cleanup_free_ char *path = strdup("");
	unsigned int flags = 0;
	size_t len = 0;

	for (int depth = 0; path; depth++) {
		struct catalog_dir dir;
		size_t add;
		char *more;
		int err;

		err = catalog_dir_get(db, key, &dir);
		if (err || depth > 100000)
			return err ? err : -ENOENT;
		flags |= dir.flags;
		if (!dir.parent) {
			*ret = steal_ptr(&path);
			/* What is not understood may say so, too. */
			if (ret_pinned)
				*ret_pinned = flags & (CATALOG_PINNED |
						       CATALOG_FOREIGN);
			return 0;
		}
		add = strlen(dir.name) + 1;
		more = realloc(path, len + add + 1);
		if (!more)
			break;
		path = more;
		memmove(path + add, path, len + 1);
		path[0] = '/';
		memcpy(path + 1, dir.name, add - 1);
		len += add;
		key = dir.parent;
	}
	return -ENOMEM;
}

/* ---- opening ------------------------------------------------------------------ */

/* Without handles that can be opened: by the path that is known. What is not
 * there was moved, and that is told, or marked: so it is as good as gone. */
static int open_by_path(struct catalog *c, const struct front_handle *handle,
			int flags)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	struct front_handle found;
	char *name, *save = NULL;
	int err;

	err = catalog_dir_path_of(&c->db, catalog_key(handle), &path, NULL);
	if (err)
		return err == -ENOENT ? -ESTALE : err;
	fd = openat(c->front->root_fd, ".", flags | O_CLOEXEC);
	for (name = strtok_r(path, "/", &save); fd >= 0 && name;
	     name = strtok_r(NULL, "/", &save)) {
		int next = openat(fd, name,
				  flags | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		if (next < 0)
			next = -errno;
		close(fd);
		fd = next;
	}
	if (fd < 0)
		return catalog_is_fatal(fd) ? fd : -ESTALE;
	err = front_handle_at(c->front, fd, "", &found);
	if (err || !front_handle_equal(handle, &found))
		return -ESTALE;
	return steal_fd(&fd);
}

int catalog_dir_open(struct catalog *c, const struct front_handle *handle,
		     int flags)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (!c->front->by_handle)
		return open_by_path(c, handle, flags);
	fd = front_open_handle(c->front, handle, flags | O_DIRECTORY);
	if (fd < 0)
		return fd;
	/* Removed, but still held by someone. */
	if (fstatat(fd, "", &st, AT_EMPTY_PATH) < 0)
		return -errno;
	return st.st_nlink ? steal_fd(&fd) : -ESTALE;
}

/* ---- where the front has it -------------------------------------------------------- */

/* The name of the directory fd in the directory up. */
static int name_of(struct catalog *c, int fd, int up,
		   const struct front_handle *handle, char ret[NAME_MAX + 1])
{
	char proc[PROC_FD_LEN], link[PATH_MAX + 1];
	struct front_handle found;
	struct dirent *entry;
	struct stat st;
	ssize_t len;
	char *slash;
	DIR *dir;
	int list;

	len = readlink(proc_fd_path(fd, proc), link, PATH_MAX);
	link[max_t(ssize_t, len, 0)] = '\0';
	slash = strrchr(link, '/');
	if (slash && slash[1] && strlen(slash + 1) <= NAME_MAX &&
	    !front_handle_at(c->front, up, slash + 1, &found) &&
	    front_handle_equal(handle, &found)) {
		snprintf(ret, NAME_MAX + 1, "%s", slash + 1);
		return 0;
	}
	list = openat(up, ".", O_RDONLY | O_DIRECTORY | O_NOATIME | O_CLOEXEC);
	if (list < 0 || fstatat(fd, "", &st, AT_EMPTY_PATH) < 0 ||
	    !(dir = fdopendir(list))) {
		int err = -errno;

		cleanup_close(&list);
		return err;
	}
	while ((entry = readdir(dir)))
		if (entry->d_ino == st.st_ino &&
		    !front_handle_at(c->front, up, entry->d_name, &found) &&
		    front_handle_equal(handle, &found))
			break;
	if (entry)
		snprintf(ret, NAME_MAX + 1, "%s", entry->d_name);
	closedir(dir);
	return entry ? 0 : -ESTALE;
}

static int place(struct catalog *c, uint64_t parent, const char *name,
		 const struct catalog_seen *seen, uint64_t gen);

/*
 * Makes the directory fd known. again: all above is looked at too, though it is
 * known. -EXDEV: it is in .tierfs, or outside.
 */
static int connect_fd(struct catalog *c, int fd,
		      const struct front_handle *handle, bool again, int depth)
{
	struct catalog_seen seen;
	struct front_handle above;
	struct catalog_dir dir;
	_cleanup_close_ int up = -1;
	char name[NAME_MAX + 1];
	int err;

	if (front_handle_equal(handle, &c->root))
		return 0;
	if (front_handle_equal(handle, &c->meta) || depth > DEPTH_MAX)
		return -EXDEV;
	if (!again) {
		err = catalog_dir_get(&c->db, catalog_key(handle), &dir);
		if (!err && front_handle_equal(&dir.handle, handle))
			return 0;
		if (err && err != -ENOENT)
			return err;
	}
	up = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (up < 0)
		return -errno;
	err = front_handle_at(c->front, up, "", &above);
	if (err)
		return err;
	if (front_handle_equal(handle, &above))
		return -EXDEV;
	err = connect_fd(c, up, &above, again, depth + 1);
	if (!err)
		err = name_of(c, fd, up, handle, name);
	if (!err)
		err = catalog_look(c->front, up, name, &seen);
	if (!err && !front_handle_equal(&seen.handle, handle))
		err = -ESTALE;
	return err ? err : place(c, catalog_key(&above), name, &seen, GEN_NEW);
}

/* It is there, but something above moved while we looked. */
static bool moved_meanwhile(int fd, int err)
{
	struct stat st;

	return (err == -ELOOP || (catalog_is_gone(err) && err != -EXDEV)) &&
	       !fstatat(fd, "", &st, AT_EMPTY_PATH) && st.st_nlink;
}

static int reconnect(struct catalog *c, const struct front_handle *handle)
{
	_cleanup_close_ int fd = catalog_dir_open(c, handle, O_PATH);
	int err, tries = 0;

	if (fd < 0)
		return fd;
	do
		err = connect_fd(c, fd, handle, true, 0);
	while (moved_meanwhile(fd, err) && ++tries < TRIES);
	return err;
}

int catalog_dir_fd(struct catalog *c, const struct front_handle *handle)
{
	_cleanup_close_ int fd = -1;
	struct parent_fd *slot;
	int err, tries = 0;

	for (int i = 0; i < PARENT_FDS; i++)
		if (c->parents[i].fd >= 0 &&
		    front_handle_equal(&c->parents[i].handle, handle))
			return c->parents[i].fd;
	fd = catalog_dir_open(c, handle, O_PATH);
	if (fd < 0)
		return fd;
	do
		err = connect_fd(c, fd, handle, false, 0);
	while (moved_meanwhile(fd, err) && ++tries < TRIES);
	if (tries == TRIES) {
		catalog_queue_mark(&c->queue, catalog_key(handle));
		err = -EAGAIN;
	}
	if (err)
		return err;
	slot = &c->parents[c->next_parent++ % PARENT_FDS];
	cleanup_close(&slot->fd);
	*slot = (struct parent_fd){.handle = *handle, .fd = fd};
	return steal_fd(&fd);
}

void catalog_dir_fds_close(struct catalog *c)
{
	for (int i = 0; i < PARENT_FDS; i++) {
		cleanup_close(&c->parents[i].fd);
		c->parents[i].fd = -1;
	}
}

/* ---- gone ---------------------------------------------------------------------- */

static int remove_dir(struct catalog *c, uint64_t key, int depth);

/* 1: there were some. */
static int remove_dirs_below(struct catalog *c, uint64_t key, int depth)
{
	uint64_t keys[KEYS];
	int n, err = 0;

	n = catalog_db_keys(&c->db, CQ_DIRS_OF, (int64_t)key, INT64_MIN, keys,
			    KEYS);
	for (int i = 0; !err && i < n; i++) {
		struct catalog_dir dir;

		err = catalog_dir_get(&c->db, keys[i], &dir);
		/* Another may have put it elsewhere. */
		if (err == -ENOENT || (!err && dir.parent != key)) {
			err = 0;
			continue;
		}
		if (!err)
			err = reconnect(c, &dir.handle);
		if (catalog_is_fatal(err))
			return err;
		if (err == -ELOOP) /* to be found again */
			atomic_store(&c->queue.whole, true);
		if (err || (!(err = catalog_dir_get(&c->db, keys[i], &dir)) &&
			    dir.parent == key))
			err = remove_dir(c, keys[i], depth + 1);
		else if (err == -ENOENT)
			err = 0;
	}
	return n < 0 ? n : err ? err : n > 0;
}

static int remove_files_below(struct catalog *c, uint64_t key)
{
	uint64_t keys[KEYS];
	struct catalog_row row;
	int n, err = 0;

	n = catalog_db_keys(&c->db, CQ_FILES_OF, (int64_t)key, INT64_MIN, keys,
			    KEYS);
	for (int i = 0; !err && i < n; i++) {
		err = catalog_file_get(&c->db, keys[i], &row);
		if (!err)
			err = catalog_file_unnamed(c, keys[i], key, row.name);
	}
	return n < 0 ? n : err ? err : n > 0;
}

static int remove_links(struct catalog *c, uint64_t key)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, CQ_LINKS_OF, &err);
	char name[NAME_MAX + 1] = "";
	int64_t file;

	if (!st)
		return err;
	for (;;) {
		sqlite3_bind_int64(st, 1, (int64_t)key);
		sqlite3_bind_int64(st, 2, INT64_MIN);
		catalog_db_bind_name(st, 3, "");
		err = catalog_db_step(&c->db, CQ_LINKS_OF);
		if (err <= 0)
			return err;
		file = sqlite3_column_int64(st, 0);
		catalog_db_name(st, 1, name);
		catalog_db_reset(&c->db, CQ_LINKS_OF);
		err = catalog_file_unnamed(c, (uint64_t)file, key, name);
		if (err)
			return err;
	}
}

static int remove_dir(struct catalog *c, uint64_t key, int depth)
{
	struct catalog_dir dir;
	int err;

	catalog_dir_fds_close(c);
	c->path_dir = 0;
	if (key == c->root_key || depth > DEPTH_MAX)
		return key == c->root_key ? 0 : -EBADMSG;
	/* The mark may be meant for one that has the number next. */
	err = catalog_dir_get(&c->db, key, &dir);
	if (err)
		return err == -ENOENT ? 0 : err;
	if (dir.gen == GEN_MARKED)
		catalog_mark_late(c, key);
	do
		err = remove_dirs_below(c, key, depth);
	while (err > 0);
	while (!err && (err = remove_files_below(c, key)) > 0)
		err = 0;
	if (!err)
		err = remove_links(c, key);
	if (!err)
		err = catalog_hist_flush(c);
	if (!err)
		err = catalog_db_do(&c->db, CQ_HIST_DEL, (int64_t)key);
	if (!err)
		err = catalog_db_do(&c->db, CQ_DIR_DELETE, (int64_t)key);
	c->ndirs--;
	return err;
}

/* ---- what was seen ----------------------------------------------------------------- */

/* Is key dir itself, or above it? */
static int is_above(struct catalog *c, uint64_t key, uint64_t dir, bool *ret)
{
	struct catalog_dir d;
	int err = 0;

	*ret = true;
	while (dir && dir != key) {
		err = catalog_dir_get(&c->db, dir, &d);
		if (err)
			return err == -ENOENT ? -EBADMSG : err;
		dir = d.parent;
	}
	*ret = dir == key;
	return 0;
}

/* Something may have been dropped there before it was known. */
static uint64_t gen_of(struct catalog *c, const struct catalog_seen *seen,
		       uint64_t gen)
{
	for (size_t i = 0; i < c->nlate; i++)
		if (c->late[i] == seen->key)
			return GEN_MARKED;
	return gen;
}

static int insert(struct catalog *c, uint64_t parent, const char *name,
		  const struct catalog_seen *seen, uint64_t gen)
{
	int err = 0;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, CQ_DIR_INSERT, &err);

	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)seen->key);
	sqlite3_bind_int64(st, 2, (int64_t)parent);
	catalog_db_bind_handle(st, 3, &seen->handle);
	catalog_db_bind_name(st, 4, name);
	sqlite3_bind_int64(st, 5, (int64_t)gen_of(c, seen, gen));
	sqlite3_bind_int64(st, 6, seen->flags);
	c->ndirs++;
	return catalog_db_step(&c->db, CQ_DIR_INSERT);
}

static int move(struct catalog *c, const struct catalog_dir *dir,
		uint64_t parent, const char *name)
{
	sqlite3_stmt *st;
	int err = 0;

	if (dir->parent != parent) {
		err = catalog_hist_flush(c);
		if (!err)
			err = catalog_hist_subtree(c, dir->key, dir->parent,
						   -1);
		if (!err)
			err = catalog_hist_subtree(c, dir->key, parent, 1);
		if (!err)
			err = catalog_hist_flush(c);
	}
	st = err ? NULL : catalog_db_stmt(&c->db, CQ_DIR_PLACE, &err);
	if (!st)
		return err;
	sqlite3_bind_int64(st, 1, (int64_t)dir->key);
	sqlite3_bind_int64(st, 2, (int64_t)parent);
	catalog_db_bind_name(st, 3, name);
	catalog_judge_moved(c, dir->key);
	return catalog_db_step(&c->db, CQ_DIR_PLACE);
}

/*
 * The number is another directory's now. No name that is known there leads
 * anywhere. Directories that are known below stay until their own events, or
 * the walk: to look for where each is now might lead through this one.
 */
static int replace(struct catalog *c, const struct catalog_dir *old,
		   const struct catalog_seen *seen, uint64_t gen)
{
	int err = 0, n;
	uint64_t one;
	sqlite3_stmt *st = catalog_db_stmt(&c->db, CQ_DIR_HANDLE, &err);

	if (!st)
		return err;
	catalog_dir_fds_close(c);
	while ((err = remove_files_below(c, seen->key)) > 0)
		;
	if (!err)
		err = remove_links(c, seen->key);
	if (err)
		return err;
	n = catalog_db_keys(&c->db, CQ_DIRS_OF, (int64_t)seen->key, INT64_MIN,
			    &one, 1);
	if (n < 0)
		return n;
	sqlite3_bind_int64(st, 1, (int64_t)seen->key);
	catalog_db_bind_handle(st, 2, &seen->handle);
	gen = n ? GEN_NEW : gen_of(c, seen, gen);
	/* A mark may have been meant for the new one. */
	sqlite3_bind_int64(st, 3, (int64_t)min_t(uint64_t, gen, old->gen));
	return catalog_db_step(&c->db, CQ_DIR_HANDLE);
}

/* What pins a directory is about all below. */
static int set_flags(struct catalog *c, uint64_t key, unsigned int flags)
{
	catalog_judge_moved(c, key);
	return catalog_db_do(&c->db, CQ_DIR_FLAGS, (int64_t)key, flags);
}

/* parent is known, and nothing that is written closes a circle. */
static int place(struct catalog *c, uint64_t parent, const char *name,
		 const struct catalog_seen *seen, uint64_t gen)
{
	struct catalog_dir dir;
	bool circle;
	int err;

	err = catalog_dir_get(&c->db, seen->key, &dir);
	if (err == -ENOENT)
		return insert(c, parent, name, seen, gen);
	if (!err && !front_handle_equal(&dir.handle, &seen->handle))
		err = replace(c, &dir, seen, gen);
	if (!err && dir.parent != parent) {
		err = is_above(c, seen->key, parent, &circle);
		if (!err && circle)
			return -ELOOP;
	}
	if (!err && (dir.parent != parent || strcmp(dir.name, name) != 0))
		err = move(c, &dir, parent, name);
	if (!err && dir.flags != seen->flags)
		err = set_flags(c, seen->key, seen->flags);
	return err;
}

int catalog_dir_named(struct catalog *c, uint64_t parent, const char *name,
		      const struct catalog_seen *seen, uint64_t gen)
{
	int err = -ELOOP;

	if (seen->key == c->root_key)
		return 0;
	err = place(c, parent, name, seen, gen);
	if (err != -ELOOP)
		return err;
	/* What is above it is known from another moment. */
	err = reconnect(c, &seen->handle);
	if (err == -ELOOP || catalog_is_gone(err)) {
		catalog_queue_mark(&c->queue, parent);
		return 0;
	}
	return err;
}

int catalog_dir_verify(struct catalog *c, uint64_t key)
{
	struct catalog_dir dir;
	int err;

	if (key == c->root_key)
		return 0;
	err = catalog_dir_get(&c->db, key, &dir);
	if (err)
		return err == -ENOENT ? 0 : err;
	err = reconnect(c, &dir.handle);
	if (catalog_is_gone(err))
		return remove_dir(c, key, 0);
	if (err == -ELOOP) {
		catalog_queue_mark(&c->queue, dir.parent);
		return 0;
	}
	return err;
}

int catalog_dir_refresh(struct catalog *c, const struct catalog_dir *dir)
{
	_cleanup_close_ int fd = catalog_dir_open(c, &dir->handle, O_PATH);
	struct spill_ea ea = {0};
	unsigned int flags;
	int err;

	if (fd < 0)
		return catalog_is_gone(fd) ? catalog_dir_verify(c, dir->key)
					   : 0;
	err = front_ea_get(c->front, fd, &ea);
	flags = err == -EPROTONOSUPPORT || err == -EBADMSG ? CATALOG_FOREIGN
		: ea.flags & TIERFS_EA_F_PINNED		   ? CATALOG_PINNED
							   : 0;
	return flags == dir->flags ? 0 : set_flags(c, dir->key, flags);
}
