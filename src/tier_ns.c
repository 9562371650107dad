/* SPDX-License-Identifier: MIT */
/*
 * The namespace: names go without losing or leaking what they named.
 *
 * When the last name of a file with objects is removed, the objects are to be
 * deleted: not before the removal is durable, and surely at last, whatever
 * crashes. Committing an intent first would make every unlink wait for a
 * commit. Instead the name is not removed but moved, to .tierfs/orphans/INO: one
 * atomic step of the front's own journal, at the price of a rename. What lies
 * there is the list of what is to be deleted; a crash leaves either the name or
 * an entry of the list. tier_delete.c works it off.
 *
 * A rename over such a file must stay atomic for others, so the victim gets its
 * second name in orphans first. A crash between leaves an entry whose file has
 * two names: recovery removes the entry, nothing else happened.
 *
 * A front that is full may have no room for an entry in orphans, and removing
 * files is the way out. Then the name is removed as any other, and what is to
 * be deleted is known in memory alone: a crash before it is leaks it (tierctl
 * check finds it).
 *
 * While open, an orphan is as good as any unlinked file: it shows one link less,
 * cannot be linked again, and its objects live until the last close.
 *
 * Directory locks are the nodes' own. The kernel serialises operations on names
 * of one directory already; the locks exclude the swap of a restore, which the
 * kernel does not see.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "tier_impl.h"
#include "util.h"

#define ORPHAN_LEN 24

static const char *orphan_name(uint64_t ino, char buf[ORPHAN_LEN])
{
	snprintf(buf, ORPHAN_LEN, "%" PRIu64, ino);
	return buf;
}

/* The node of a name, made if need be: only files with an EA need one. */
static int name_node(struct tier *tier, struct node *parent, int dirfd,
		     const char *name, struct front_handle *ret_handle,
		     struct node **ret)
{
	struct front *front = tier->parts.front;
	struct spill_ea ea;
	int err;

	err = front_handle_at(front, dirfd, name, ret_handle);
	if (err)
		return err;
	*ret = node_find(tier->parts.nodes, ret_handle);
	if (*ret)
		return 0;
	if (front_ea_get_at(front, dirfd, name, &ea) == -ENODATA)
		return 0;
	return node_lookup_locked(parent, dirfd, name, NULL, ret);
}

/* Does the end of this file's last name leave something to delete? 1, 0, or
 * -errno: what its EA says is not understood, and the file has to stay. */
static int leaves_something(struct tier *tier, struct node *node,
			    struct tier_file **ret)
{
	int err;

	if (!(atomic_load(&node->flags) & NODE_EA))
		return 0;
	err = tier_file_get(tier, node, ret);
	if (err)
		return err;
	return (*ret)->ea.ncopies > 0 || (*ret)->ea.flags & TIERFS_EA_F_INO ||
	       (*ret)->write_intent;
}

/* It has no name in orphans either. */
static void queue_nameless(struct tier_file *file)
{
	tier_stale_file(file->tier, &file->ea, file->write_intent, 0);
	if (file->ea.flags & TIERFS_EA_F_INO)
		tier_stale_add(file->tier,
			       &(struct tier_stale){.holder = file->ea.ino});
	file->write_intent = 0;
	file->ea.ncopies = 0;
	file->nameless = false;
}

static void queue_orphan(struct tier_file *file)
{
	struct stat st;
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;

	if (file->nameless) {
		queue_nameless(file);
		return;
	}
	if (node_fd_get(file->node, &fd) ||
	    fstatat(fd.fd, "", &st, AT_EMPTY_PATH) < 0)
		return; /* found in orphans at the next mount */
	if (st.st_nlink == 0)
		return; /* a plain file: nothing names it any more */
	tier_stale_file(file->tier, &file->ea, file->write_intent, st.st_ino);
	file->write_intent = 0;
	/* Nothing is to be deleted twice. */
	file->ea.ncopies = 0;
}

void tier_orphan_closed(struct tier_file *file)
{
	if (!file->journaling && !file->move)
		queue_orphan(file);
}

/* What was counted of a file that goes. node->lock held. */
static void count_gone(struct tier *tier, struct node *node,
		       const struct stat *st)
{
	struct tier_file *file = node->file;
	enum spill_state state = file ? tier_file_state(file) : SPILL_NONE;
	uint64_t size = (uint64_t)st->st_size;

	if (state == SPILL_MIGRATING)
		state = SPILL_NONE;
	if (tier_is_stub(state))
		size = tier_stub_size(file);
	else if (file && file->nwrite)
		size = (uint64_t)file->base_size; /* until the last close */
	tier_count(tier, state, SPILL_STATES, size);
}

/* The last name is gone. node->lock held. */
static void last_name_gone(struct tier *tier, struct node *node,
			   struct tier_file *file, const struct stat *st,
			   bool orphan)
{
	/* Before: a release that is undone was not counted yet. */
	if (node->file)
		tier_move_cancel(node->file);
	count_gone(tier, node, st);
	node_unlinked(node);
	if (orphan && file->nopen == 0)
		tier_orphan_closed(file);
}

/* Is the file still to be seen without one of its names? node->lock held. */
static bool outlives(const struct node *node, bool last)
{
	return !last || (node->file && node->file->nopen);
}

/* *ret_removed: the inode is without a name for good. */
static int unlink_node(struct tier *tier, int dirfd, const char *name,
		       struct node *parent, struct node *node,
		       bool *ret_removed)
{
	struct tier_file *file = NULL;
	char orphan[ORPHAN_LEN];
	bool last, nameless = false;
	struct stat st;
	int leaves = 0;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	last = st.st_nlink == 1;
	if (last)
		leaves = leaves_something(tier, node, &file);
	if (leaves < 0)
		return leaves;
	if (outlives(node, last))
		tier_ctime_begin(tier, node);
	if (leaves && renameat(dirfd, name, tier->parts.front->orphans_fd,
			       orphan_name(st.st_ino, orphan)) < 0) {
		if (!is_no_room(-errno))
			return -errno;
		nameless = true;
	} else if (leaves) {
		fault_point("unlink-moved");
	}
	if ((!leaves || nameless) && unlinkat(dirfd, name, 0) < 0)
		return -errno;
	if (nameless)
		file->nameless = true;
	tier_ctime_end(node);
	/* Nobody links it meanwhile: node->lock. What is in orphans has one. */
	*ret_removed = last && (!leaves || nameless);
	if (last)
		last_name_gone(tier, node, file, &st, leaves);
	else if (node->parent == parent)
		node_renamed(node, NULL, NULL);
	return 0;
}

int tier_unlink(struct tier *tier, struct node *parent, const char *name)
{
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	_cleanup_(node_unrefp) struct node *node = NULL;
	struct front_handle handle;
	bool regular = true, removed = false;
	int ret;

	ret = node_fd_get(parent, &dir);
	if (ret)
		return ret;
	tier_counting_begin(tier);
	node_dir_lock(parent);
	ret = name_node(tier, parent, dir.fd, name, &handle, &node);
	if (!ret && node && S_ISREG(node->type)) {
		pthread_mutex_lock(&node->lock);
		ret = unlink_node(tier, dir.fd, name, parent, node, &removed);
		tier_node_unlock(node);
	} else if (!ret) {
		struct stat st;

		if (fstatat(dir.fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    unlinkat(dir.fd, name, 0) < 0)
			ret = -errno;
		else if (S_ISREG(st.st_mode) && st.st_nlink == 1)
			tier_count(tier, SPILL_NONE, SPILL_STATES,
				   (uint64_t)st.st_size);
		else
			regular = S_ISREG(st.st_mode);
	}
	if (!ret && regular)
		tier_tell_unnamed(tier, &handle, parent, name, removed);
	node_dir_unlock(parent);
	tier_counting_end(tier);
	return ret;
}

int tier_rmdir(struct tier *tier, struct node *parent, const char *name)
{
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	struct front_handle handle;
	int ret;

	ret = node_fd_get(parent, &dir);
	if (ret)
		return ret;
	node_dir_lock(parent);
	ret = front_handle_at(tier->parts.front, dir.fd, name, &handle);
	if (!ret && unlinkat(dir.fd, name, AT_REMOVEDIR) < 0)
		ret = -errno;
	if (!ret)
		tier_tell_unnamed(tier, &handle, parent, name, false);
	node_dir_unlock(parent);
	return ret;
}

/* ---- rename ------------------------------------------------------------ */

struct rename {
	struct tier *tier;
	struct node *parent, *newparent;
	int fd, newfd;
	const char *name, *newname;
	unsigned int flags;
	struct node *node, *victim; /* references; NULL: no need */
	struct front_handle handle, victim_handle; /* len 0: no such file */
	bool tell, tell_victim;			   /* the catalog */
};

/* Renames over a regular file. victim->lock held. */
static int rename_over(struct rename *r)
{
	struct tier_file *file = NULL;
	char orphan[ORPHAN_LEN];
	int orphans = r->tier->parts.front->orphans_fd;
	bool last, nameless = false;
	struct stat st;
	int leaves = 0;

	if (fstatat(r->newfd, r->newname, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	last = st.st_nlink == 1;
	if (last)
		leaves = leaves_something(r->tier, r->victim, &file);
	if (leaves < 0)
		return leaves;
	if (outlives(r->victim, last))
		tier_ctime_begin(r->tier, r->victim);
	orphan_name(st.st_ino, orphan);
	if (leaves && linkat(r->newfd, r->newname, orphans, orphan, 0) < 0) {
		if (!is_no_room(-errno))
			return -errno;
		nameless = true;
	}
	fault_point("rename-linked");
	if (renameat2(r->fd, r->name, r->newfd, r->newname, r->flags) < 0) {
		int err = -errno;

		if (leaves && !nameless)
			unlinkat(orphans, orphan, 0);
		return err;
	}
	fault_point("rename-over");
	if (nameless)
		file->nameless = true;
	tier_ctime_end(r->victim);
	if (last)
		last_name_gone(r->tier, r->victim, file, &st, leaves);
	else if (r->victim->parent == r->newparent)
		node_renamed(r->victim, NULL, NULL);
	return 0;
}

static int rename_locked(struct rename *r)
{
	struct node *victim = r->victim;
	bool goes = false;
	struct stat st;
	int ret = 0;

	if (victim && victim != r->node && S_ISREG(victim->type) &&
	    !(r->flags & RENAME_EXCHANGE)) {
		pthread_mutex_lock(&victim->lock);
		ret = rename_over(r);
		tier_node_unlock(victim);
		return ret;
	}
	/* A file that nobody knows has no EA either. */
	if (!victim && !(r->flags & RENAME_EXCHANGE) &&
	    !fstatat(r->newfd, r->newname, &st, AT_SYMLINK_NOFOLLOW))
		goes = S_ISREG(st.st_mode) && st.st_nlink == 1;
	if (renameat2(r->fd, r->name, r->newfd, r->newname, r->flags) < 0)
		ret = -errno;
	else if (goes)
		tier_count(r->tier, SPILL_NONE, SPILL_STATES,
			   (uint64_t)st.st_size);
	return ret;
}

static void tell_one(struct node *node, bool dirs, struct node *parent,
		     const char *name)
{
	if (!node || S_ISDIR(node->type) != dirs)
		return;
	pthread_mutex_lock(&node->lock);
	node_renamed(node, parent, name);
	pthread_mutex_unlock(&node->lock);
}

static void tell(struct rename *r, bool dirs)
{
	if (r->node == r->victim)
		return;
	tell_one(r->node, dirs, r->newparent, r->newname);
	if (r->flags & RENAME_EXCHANGE)
		tell_one(r->victim, dirs, r->parent, r->name);
}

/* Does the catalog know files like it? */
static bool listed(const struct node *node, int dirfd, const char *name)
{
	struct stat st;
	mode_t type = S_IFCHR;

	if (node)
		type = node->type;
	else if (!fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW))
		type = st.st_mode;
	return S_ISREG(type) || S_ISDIR(type);
}

/* Both directories' locks held; before the rename, for it asks for what has
 * the names then. */
static void tell_prepare(struct rename *r)
{
	if (!r->tier->parts.catalog || !r->handle.len ||
	    (r->victim_handle.len &&
	     front_handle_equal(&r->handle, &r->victim_handle)))
		return; /* names of one file: nothing happens */
	r->tell = listed(r->node, r->fd, r->name);
	r->tell_victim =
		r->victim_handle.len && listed(r->victim, r->newfd, r->newname);
}

static void tell_catalog(struct rename *r)
{
	struct catalog *catalog = r->tier->parts.catalog;
	struct front_handle old, new;

	if (!r->tell && !r->tell_victim)
		return;
	old = node_handle(r->parent);
	new = node_handle(r->newparent);
	if (r->tell_victim && !(r->flags & RENAME_EXCHANGE))
		catalog_unnamed(catalog, &r->victim_handle, &new, r->newname);
	if (r->tell)
		catalog_renamed(catalog, &r->handle, &old, r->name, &new,
				r->newname);
	if (r->tell_victim && r->flags & RENAME_EXCHANGE)
		catalog_renamed(catalog, &r->victim_handle, &new, r->newname,
				&old, r->name);
}

/* Could a walk over the front miss it, to any harm? */
static bool matters(const struct node *node)
{
	return !node || S_ISDIR(node->type) ||
	       atomic_load(&((struct node *)node)->flags) & NODE_EA;
}

/* The ctime of what is renamed changes. */
static void ctime_moves(struct tier *tier, struct node *node)
{
	if (node && S_ISREG(node->type)) {
		tier_meta_begin(tier, node);
		tier_meta_unlock(tier, node);
	}
}

int tier_rename(struct tier *tier, struct node *parent, const char *name,
		struct node *newparent, const char *newname, unsigned int flags)
{
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	_cleanup_node_fd_ struct node_fd newfd = NODE_FD_NONE;
	struct rename r = {.tier = tier,
			   .parent = parent,
			   .newparent = newparent,
			   .name = name,
			   .newname = newname,
			   .flags = flags};
	bool counted;
	int ret;

	ret = node_fd_get(parent, &fd);
	if (!ret)
		ret = node_fd_get(newparent, &newfd);
	if (ret)
		return ret;
	r.fd = fd.fd;
	r.newfd = newfd.fd;
	tier_counting_begin(tier);
	node_dir_lock2(parent, newparent);
	ret = name_node(tier, parent, fd.fd, name, &r.handle, &r.node);
	if (!ret)
		ret = name_node(tier, newparent, newfd.fd, newname,
				&r.victim_handle, &r.victim);
	if (ret == -ENOENT && !r.victim)
		ret = 0; /* the system call says it, or there is none */
	if (!ret) {
		ctime_moves(tier, r.node);
		if (flags & RENAME_EXCHANGE)
			ctime_moves(tier, r.victim);
	}
	counted = !ret && (matters(r.node) ||
			   (flags & RENAME_EXCHANGE && matters(r.victim)));
	if (counted)
		atomic_fetch_add(&tier->renames_begun, 1);
	if (!ret) {
		tell_prepare(&r);
		ret = rename_locked(&r);
	}
	if (counted)
		atomic_fetch_add(&tier->renames_ended, 1);
	if (!ret) {
		tell(&r, false);
		tell_catalog(&r);
	}
	node_dir_unlock2(parent, newparent);
	/* A directory's lock is above those of what is in it: told outside. */
	if (!ret)
		tell(&r, true);
	node_unrefp(&r.node);
	node_unrefp(&r.victim);
	tier_counting_end(tier);
	return ret;
}

/* An O_TMPFILE becomes a file. node->lock held. */
static void count_linked(struct tier *tier, struct node *node, int fd)
{
	struct stat st;

	if (node->file && node->file->nwrite) /* the rest at the last close */
		tier_count(tier, SPILL_STATES, SPILL_NONE,
			   (uint64_t)node->file->base_size);
	else if (!fstat(fd, &st))
		tier_count(tier, SPILL_STATES, SPILL_NONE,
			   (uint64_t)st.st_size);
}

/* With several names there is no swap, so there must be no log either. The
 * locks of tier_meta_begin() are held. */
static int restore_first(struct tier *tier, struct node *node,
			 struct tier_wait *wait)
{
	struct tier_file *file;
	int ret;

	/* An unknown EA does not keep a file from being named. */
	if (!S_ISREG(node->type) || !(atomic_load(&node->flags) & NODE_EA) ||
	    tier_file_get(tier, node, &file))
		return 0;
	if (!(state_next(file->ea.state, 0, EVENT_LINK).actions &
	      ACT_RESTORE_FIRST) &&
	    !(file->ea.state == SPILL_RELEASED && file->nwrite))
		return 0;
	ret = tier_recall_for(file, wait);
	if (ret == -EINPROGRESS)
		tier_park(file, wait);
	return ret;
}

int tier_link(struct tier *tier, struct node *node, struct node *newparent,
	      const char *newname, struct tier_wait *wait)
{
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	char proc[PROC_FD_LEN];
	int ret;

	ret = node_fd_get(newparent, &dir);
	if (ret)
		return ret;
	tier_counting_begin(tier);
	node_dir_lock(newparent);
	atomic_fetch_add(&tier->renames_begun, 1);
	tier_meta_begin(tier, node);
	/* After the lock: a swap may have given the node another file. */
	ret = node_fd_get(node, &fd);
	if (!ret && atomic_load(&node->flags) & NODE_UNLINKED &&
	    atomic_load(&node->flags) & NODE_EA)
		ret = -ENOENT; /* its only name is the orphans' */
	if (!ret)
		ret = restore_first(tier, node, wait);
	if (!ret && linkat(AT_FDCWD, proc_fd_path(fd.fd, proc), dir.fd, newname,
			   AT_SYMLINK_FOLLOW) < 0)
		ret = -errno;
	if (!ret && S_ISREG(node->type) && !node->parent) {
		/* An O_TMPFILE gets its first name, or one is known again. */
		if (atomic_fetch_and(&node->flags, ~NODE_UNLINKED) &
		    NODE_UNLINKED)
			count_linked(tier, node, fd.fd);
		node_renamed(node, newparent, newname);
	}
	if (!ret && S_ISREG(node->type)) {
		struct front_handle handle = node_handle(node);

		tier_tell_named(tier, &handle, newparent, newname);
	}
	tier_meta_unlock(tier, node);
	atomic_fetch_add(&tier->renames_ended, 1);
	node_dir_unlock(newparent);
	tier_counting_end(tier);
	return ret;
}

void tier_created(struct tier *tier, struct node *node, struct node *parent,
		  const char *name)
{
	struct front_handle handle = node_handle(node);

	if (S_ISREG(node->type))
		tier_count(tier, SPILL_STATES, SPILL_NONE, 0);
	tier_tell_named(tier, &handle, parent, name);
}
