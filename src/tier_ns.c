/* SPDX-License-Identifier: MIT */
/*
 * Names go without losing or leaking what they named.
 *
 * When the last name of a file with objects is removed, the objects are to be
 * deleted: not before the removal is durable, and surely at last, whatever
 * crashes. Committing an intent first would make every unlink wait for a
 * commit. Instead the name is not removed but moved, to .tierfs/orphans/INO: one
 * atomic step of the front's own journal, at the price of a rename. What lies
 * there is the list of what is to be deleted; a crash leaves either the name or
 * an entry of the list. tier_delete.c works it off.
 *
 * A front that is full may have no room for an entry in orphans, and removing
 * files is the way out. Then the name is removed as any other, and what is to
 * be deleted is known in memory alone: a crash before it is leaks it (tierctl
 * check finds it).
 *
 * As long as somebody can come to it, an orphan is as good as any unlinked file:
 * it shows one link less, cannot be linked again, and its objects live. That is
 * until the last close and until the kernel has forgotten it, whichever is later:
 * who opens a file while another removes it, or by an O_PATH descriptor and /proc,
 * has it open only after it was unlinked. Each of the two looks for the other
 * one after its own, so that one of them sees both.
 *
 * A file whose last name goes may still be referred to by the kernel (a working
 * directory, an O_PATH descriptor), and with no descriptor open the front would
 * free it. So whoever removes a name holds the file by an O_PATH descriptor
 * first, looks at it by that, and leaves it to the node if no name is left.
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

const char *tier_orphan_name(uint64_t ino, char buf[TIER_ORPHAN_LEN])
{
	snprintf(buf, TIER_ORPHAN_LEN, "%" PRIu64, ino);
	return buf;
}

/* An O_PATH descriptor; -1: out of them. */
static int hold(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 && errno != EMFILE && errno != ENFILE && errno != ENOMEM)
		return -errno;
	return fd;
}

/* Which file it is, without a node. */
static int look(struct tier *tier, int dirfd, const char *name, bool held,
		struct tier_name *ret)
{
	*ret = (struct tier_name){.fd = -1, .at = dirfd, .name = name};
	if (held) {
		ret->fd = hold(dirfd, name);
		if (ret->fd < -1)
			return ret->fd;
	}
	if (ret->fd >= 0) {
		ret->at = ret->fd;
		ret->name = "";
	}
	return front_handle_at(tier->parts.front, ret->at, ret->name,
			       &ret->handle);
}

int tier_name_get(struct tier *tier, struct node *parent, int dirfd,
		  const char *name, bool held, struct tier_name *ret)
{
	struct spill_ea ea;
	int err;

	err = look(tier, dirfd, name, held, ret);
	if (err)
		return err;
	ret->node = node_find(tier->parts.nodes, &ret->handle);
	if (ret->node)
		return 0;
	if (front_ea_get_at(tier->parts.front, dirfd, name, &ea) == -ENODATA)
		return 0;
	return node_lookup_locked(parent, dirfd, name, NULL, &ret->node);
}

void tier_name_put(struct tier_name *name)
{
	if (name->fd >= 0)
		close(name->fd);
	name->fd = -1;
	node_unref(name->node);
	name->node = NULL;
}

int tier_name_stat(const struct tier_name *name, struct stat *ret)
{
	return fstatat(name->at, name->name, ret,
		       AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0
		       ? -errno
		       : 0;
}

void tier_name_keep(struct tier_name *name)
{
	if (name->node && name->fd >= 0)
		node_pin(name->node, steal_fd(&name->fd));
}

int tier_leaves(struct tier *tier, struct node *node, struct tier_file **ret)
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
	/* Both ends may have seen the other one, and a file server can come back
	 * to what was forgotten. What was queued may be done before this would
	 * be: then the number is a new file's, whose holder would go. */
	if (atomic_fetch_or(&file->node->flags, NODE_LEFT) & NODE_LEFT)
		tier_stale_file(file->tier, &(struct spill_ea){0},
				file->write_intent, 0);
	else
		tier_stale_file(file->tier, &file->ea, file->write_intent,
				st.st_ino);
	file->write_intent = 0;
}

void tier_orphan_unused(struct tier_file *file)
{
	if (atomic_load(&file->node->flags) & NODE_UNLINKED && !file->nopen &&
	    !file->journaling && !file->move &&
	    !atomic_load(&file->node->nlookup))
		queue_orphan(file);
}

void tier_forget(struct tier *tier, struct node *node, uint64_t count)
{
	const uint8_t orphan = NODE_UNLINKED | NODE_EA;
	struct tier_file *file;

	if ((atomic_load(&node->flags) & (orphan | NODE_LEFT)) != orphan) {
		node_forget(node, count);
		return;
	}
	node_ref(node);
	node_forget(node, count);
	/* If not, it is found in orphans at the next mount. */
	if (!tier_file_lock(tier, node, &file)) {
		tier_orphan_unused(file);
		tier_file_unlock(file);
	}
	node_unref(node);
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

void tier_last_name_gone(struct tier *tier, struct node *node,
			 struct tier_file *file, const struct stat *st,
			 bool orphan)
{
	/* Before: a release that is undone was not counted yet. */
	if (node->file)
		tier_move_cancel(node->file);
	count_gone(tier, node, st);
	node_unlinked(node);
	node_keep_drop(node);
	if (orphan)
		tier_orphan_unused(file);
}

bool tier_outlives(const struct node *node, bool last)
{
	return !last || (node->file && node->file->nopen);
}

static int unlink_node(struct tier *tier, const struct tier_name *it, int dirfd,
		       const char *name, struct node *parent,
		       enum tier_left *ret_left)
{
	struct node *node = it->node;
	struct tier_file *file = NULL;
	char orphan[TIER_ORPHAN_LEN];
	bool last, nameless = false;
	struct stat st;
	int leaves = 0;
	int err;

	err = tier_name_stat(it, &st);
	if (err)
		return err;
	last = st.st_nlink == 1;
	if (last)
		leaves = tier_leaves(tier, node, &file);
	if (leaves < 0)
		return leaves;
	if (tier_outlives(node, last))
		tier_ctime_begin(tier, node);
	if (leaves && renameat(dirfd, name, tier->parts.front->orphans_fd,
			       tier_orphan_name(st.st_ino, orphan)) < 0) {
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
	*ret_left = !last		  ? LEFT_NAMES
		    : leaves && !nameless ? LEFT_ORPHAN
					  : LEFT_NOTHING;
	if (last)
		tier_last_name_gone(tier, node, file, &st, leaves);
	else if (node->parent == parent)
		node_renamed(node, NULL, NULL);
	return 0;
}

/* What nobody knows, or is not a regular file. */
static int unlink_other(struct tier *tier, const struct tier_name *it,
			int dirfd, const char *name, bool *ret_regular,
			enum tier_left *ret_left)
{
	struct stat st;
	int err;

	err = tier_name_stat(it, &st);
	if (err)
		return err;
	if (unlinkat(dirfd, name, 0) < 0)
		return -errno;
	*ret_regular = S_ISREG(st.st_mode);
	if (*ret_regular && st.st_nlink == 1)
		tier_count(tier, SPILL_NONE, SPILL_STATES,
			   (uint64_t)st.st_size);
	/* Nothing is locked that keeps its other names. */
	*ret_left = st.st_nlink > 1 ? LEFT_NAMES : LEFT_ORPHAN;
	if (!*ret_regular && it->fd >= 0 && !tier_name_stat(it, &st) &&
	    st.st_nlink == 0)
		*ret_left = LEFT_NOTHING;
	return 0;
}

int tier_unlink(struct tier *tier, struct node *parent, const char *name)
{
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	_cleanup_(tier_name_put) struct tier_name it = {.fd = -1};
	enum tier_left left = LEFT_ORPHAN;
	bool regular = true;
	int ret;

	ret = node_fd_get(parent, &dir);
	if (ret)
		return ret;
	tier_counting_begin(tier);
	node_dir_lock(parent);
	ret = tier_name_get(tier, parent, dir.fd, name, true, &it);
	if (!ret && it.node && S_ISREG(it.node->type)) {
		pthread_mutex_lock(&it.node->lock);
		ret = unlink_node(tier, &it, dir.fd, name, parent, &left);
		tier_node_unlock(it.node);
	} else if (!ret) {
		ret = unlink_other(tier, &it, dir.fd, name, &regular, &left);
	}
	if (!ret && regular)
		tier_tell_unnamed(tier, &it.handle, parent, name, left);
	node_dir_unlock(parent);
	if (!ret && left == LEFT_NOTHING)
		tier_name_keep(&it);
	tier_counting_end(tier);
	return ret;
}

int tier_rmdir(struct tier *tier, struct node *parent, const char *name)
{
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	_cleanup_(tier_name_put) struct tier_name it = {.fd = -1};
	int ret;

	ret = node_fd_get(parent, &dir);
	if (ret)
		return ret;
	node_dir_lock(parent);
	ret = look(tier, dir.fd, name, true, &it);
	if (!ret && unlinkat(dir.fd, name, AT_REMOVEDIR) < 0)
		ret = -errno;
	if (!ret)
		tier_tell_unnamed(tier, &it.handle, parent, name, LEFT_ORPHAN);
	node_dir_unlock(parent);
	if (ret)
		return ret;
	it.node = node_find(tier->parts.nodes, &it.handle);
	if (it.node) {
		pthread_mutex_lock(&it.node->lock);
		node_unlinked(it.node);
		pthread_mutex_unlock(&it.node->lock);
	}
	tier_name_keep(&it);
	return 0;
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
