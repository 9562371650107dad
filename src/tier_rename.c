/* SPDX-License-Identifier: MIT */
/*
 * Renaming (tier_ns.c tells what becomes of files that lose their last name).
 *
 * A rename over a file that leaves something to delete must stay atomic for
 * others, so the victim gets its second name in orphans first. A crash between
 * leaves an entry whose file has two names: recovery removes the entry, nothing
 * else happened. But both change the inode's ctime, so where that is the one that
 * is shown, the EA says it first.
 *
 * Mostly there is no victim, which one look finds out.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "tier_impl.h"
#include "util.h"

struct rename {
	struct tier *tier;
	struct node *parent, *newparent;
	int fd, newfd;
	const char *name, *newname;
	unsigned int flags;
	struct tier_name old, victim; /* of what has the names before */
	bool tell, tell_victim;	      /* the catalog */
	bool victim_linked;	      /* it has other names */
};

/* Renames over a regular file. Its node->lock held. */
static int rename_over(struct rename *r)
{
	struct node *victim = r->victim.node;
	struct tier_file *file = NULL;
	char orphan[TIER_ORPHAN_LEN];
	int orphans = r->tier->parts.front->orphans_fd;
	bool last, nameless = false;
	struct stat st;
	int leaves = 0;
	int err;

	err = tier_name_stat(&r->victim, &st);
	if (err)
		return err;
	last = st.st_nlink == 1;
	r->victim_linked = !last;
	if (last)
		leaves = tier_leaves(r->tier, victim, &file);
	if (leaves < 0)
		return leaves;
	if (tier_outlives(victim, last))
		tier_ctime_begin(r->tier, victim);
	else if (leaves)
		tier_ctime_keep(file, &st);
	tier_orphan_name(st.st_ino, orphan);
	if (leaves && linkat(r->newfd, r->newname, orphans, orphan, 0) < 0) {
		if (!is_no_room(-errno))
			return -errno;
		nameless = true;
	}
	fault_point("rename-linked");
	if (renameat2(r->fd, r->name, r->newfd, r->newname, r->flags) < 0) {
		err = -errno;
		if (leaves && !nameless)
			unlinkat(orphans, orphan, 0);
		return err;
	}
	fault_point("rename-over");
	if (nameless)
		file->nameless = true;
	tier_ctime_end(victim);
	if (last)
		tier_last_name_gone(r->tier, victim, file, &st, leaves);
	else if (victim->parent == r->newparent)
		node_renamed(victim, NULL, NULL);
	return 0;
}

static int rename_locked(struct rename *r)
{
	struct node *victim = r->victim.node;
	bool goes = false;
	struct stat st;
	int ret = 0;

	if (victim && victim != r->old.node && S_ISREG(victim->type) &&
	    !(r->flags & RENAME_EXCHANGE)) {
		pthread_mutex_lock(&victim->lock);
		ret = rename_over(r);
		tier_node_unlock(victim);
		return ret;
	}
	/* A file that nobody knows has no EA either. */
	if (!victim && r->victim.handle.len && !(r->flags & RENAME_EXCHANGE) &&
	    !tier_name_stat(&r->victim, &st) && S_ISREG(st.st_mode)) {
		goes = st.st_nlink == 1;
		r->victim_linked = !goes;
	}
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
	if (r->old.node == r->victim.node)
		return;
	tell_one(r->old.node, dirs, r->newparent, r->newname);
	if (r->flags & RENAME_EXCHANGE)
		tell_one(r->victim.node, dirs, r->parent, r->name);
}

/* Does the catalog know files like it? */
static bool listed(const struct tier_name *name)
{
	struct stat st;
	mode_t type = S_IFCHR;

	if (name->node)
		type = name->node->type;
	else if (!tier_name_stat(name, &st))
		type = st.st_mode;
	return S_ISREG(type) || S_ISDIR(type);
}

/* Both directories' locks held; before the rename, for it asks for what has
 * the names then. */
static void tell_prepare(struct rename *r)
{
	if (!r->tier->parts.catalog || !r->old.handle.len ||
	    (r->victim.handle.len &&
	     front_handle_equal(&r->old.handle, &r->victim.handle)))
		return; /* names of one file: nothing happens */
	r->tell = listed(&r->old);
	r->tell_victim = r->victim.handle.len && listed(&r->victim);
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
		(r->victim_linked ? catalog_unlinked : catalog_unnamed)(
			catalog, &r->victim.handle, &new, r->newname);
	if (r->tell)
		catalog_renamed(catalog, &r->old.handle, &old, r->name, &new,
				r->newname);
	if (r->tell_victim && r->flags & RENAME_EXCHANGE)
		catalog_renamed(catalog, &r->victim.handle, &new, r->newname,
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

/* Is what was renamed over without a name now? By what it was before it cannot
 * be told: nothing is locked that keeps the other names of a symlink. */
static void keep_victim(struct rename *r)
{
	struct stat st;

	if (r->victim.node && r->victim.fd >= 0 &&
	    !tier_name_stat(&r->victim, &st) && st.st_nlink == 0)
		tier_name_keep(&r->victim);
}

/* The directories' locks are held. */
static int rename_names(struct rename *r)
{
	struct tier *tier = r->tier;
	bool counted;
	int ret;

	ret = tier_name_get(tier, r->parent, r->fd, r->name, false, &r->old);
	if (!ret)
		ret = tier_name_get(tier, r->newparent, r->newfd, r->newname,
				    !r->flags, &r->victim);
	if (ret == -ENOENT && !r->victim.node)
		ret = 0; /* the system call says it, or there is none */
	if (ret)
		return ret;
	ctime_moves(tier, r->old.node);
	if (r->flags & RENAME_EXCHANGE)
		ctime_moves(tier, r->victim.node);
	counted = matters(r->old.node) ||
		  (r->flags & RENAME_EXCHANGE && matters(r->victim.node));
	if (counted)
		atomic_fetch_add(&tier->renames_begun, 1);
	tell_prepare(r);
	ret = rename_locked(r);
	if (counted)
		atomic_fetch_add(&tier->renames_ended, 1);
	if (!ret) {
		tell(r, false);
		tell_catalog(r);
	}
	return ret;
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
			   .flags = flags,
			   .old.fd = -1,
			   .victim.fd = -1};
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
	ret = rename_names(&r);
	node_dir_unlock2(parent, newparent);
	/* A directory's lock is above those of what is in it: told outside. */
	if (!ret) {
		tell(&r, true);
		keep_victim(&r);
	}
	tier_name_put(&r.old);
	tier_name_put(&r.victim);
	tier_counting_end(tier);
	return ret;
}
