/* SPDX-License-Identifier: MIT */
/*
 * What a file's attributes seem to be.
 *
 * A tiered file shows what it showed before: the size and blocks of its
 * contents, the inode number and ctime it had. All of that is in the EA, so
 * that no object is asked. stat and EA are read under node->lock, because a
 * release changes both, one after the other.
 *
 * A file without an EA costs nothing: its flag is looked at after its stat was
 * taken, and a file cannot lose its data without getting the flag first.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "cleanup.h"
#include "tier_impl.h"
#include "util.h"

bool tier_written_since(int64_t time, const struct stat *st)
{
	int64_t mtime = timespec_to_ns(st->st_mtim);

	return mtime > time && mtime <= timespec_to_ns(st->st_ctim);
}

/*
 * Of a file that can be written to, a ctime that was kept holds until the first
 * write. While the copy is suspect it is known what the inode's ctime was then.
 * While there is a log, writing to that gives mtime and ctime the same value, and
 * setting an EA does not.
 * Without a copy nothing is known of writes; but every write sets mtime, and to
 * a time that is later than the ctime that was kept, and no later than the
 * inode's (as one in the future is, that a user set before). Not to the same:
 * ext4's fallocate() sets mtime, and ctime once more.
 */
int64_t tier_shown_ctime(const struct tier_file *file, const struct stat *st)
{
	const struct spill_ea *ea = &file->ea;
	int64_t ctime = timespec_to_ns(st->st_ctim);
	bool written = false;

	if (!(ea->flags & TIERFS_EA_F_CTIME))
		return ctime;
	if (ea->flags & TIERFS_EA_F_WRITING)
		written = ctime != file->base_ctime;
	else if (ea->flags & TIERFS_EA_F_LOGGING)
		written = ctime == timespec_to_ns(st->st_mtim);
	else if (ea->state == SPILL_NONE)
		written = tier_written_since(ea->ctime, st);
	return written ? ctime : ea->ctime;
}

static void show(const struct tier_file *file, struct stat *st)
{
	const struct spill_ea *ea = &file->ea;
	bool writing = ea->flags & TIERFS_EA_F_WRITING;

	if (ea->flags & TIERFS_EA_F_INO)
		st->st_ino = ea->ino;
	if (tier_is_stub(ea->state)) {
		st->st_size = (off_t)tier_stub_size(file);
		st->st_blocks = (blkcnt_t)tier_stub_blocks(file);
	} else if (ea->state == SPILL_MIGRATED && !writing) {
		st->st_blocks = (blkcnt_t)ea->blocks;
	}
	st->st_ctim = timespec_from_ns(tier_shown_ctime(file, st));
	if (file->filling) {
		st->st_mtim = file->fill_mtime;
		st->st_atim = file->fill_atime;
	}
}

/* Writers are gone: can a mapping still write? */
static bool still_volatile(struct node *node)
{
	_cleanup_close_ int fd = -1;

	if (node->file && node->file->nwrite)
		return true;
	/* What is not on the front is mapped in the mount alone, and in use as
	 * long as it is. */
	if (node->file && tier_is_stub(node->file->ea.state)) {
		atomic_fetch_and(&node->flags, ~NODE_VOLATILE);
		return false;
	}
	/* Opening the file would break the lease that a move has on it. */
	if (node->file && node->file->move && node->file->move->fd >= 0)
		return true;
	fd = tier_lease(node, F_RDLCK);
	if (fd < 0)
		return true;
	atomic_fetch_and(&node->flags, ~NODE_VOLATILE);
	return false;
}

static int getattr_locked(struct tier *tier, struct node *node,
			  struct stat *ret, bool *ret_volatile)
{
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	struct tier_file *file;
	struct stat st;
	int err;

	err = tier_file_get(tier, node, &file);
	if (err)
		return err;
	/* Before the stat: afterwards nothing may write without a new open. */
	*ret_volatile = atomic_load(&node->flags) & NODE_VOLATILE &&
			still_volatile(node);
	err = node_fd_get(node, &fd);
	if (err)
		return err;
	if (fstatat(fd.fd, "", &st, AT_EMPTY_PATH) < 0)
		return -errno;
	show(file, &st);
	/* Its last name is in .tierfs/orphans. */
	if (atomic_load(&node->flags) & NODE_UNLINKED && st.st_nlink > 0)
		st.st_nlink--;
	*ret = st;
	return 0;
}

static int getattr_special(struct tier *tier, struct node *node,
			   struct stat *ret, bool *ret_volatile)
{
	int err;

	pthread_mutex_lock(&node->lock);
	err = getattr_locked(tier, node, ret, ret_volatile);
	tier_node_unlock(node);
	return err;
}

static bool is_special(struct node *node)
{
	return S_ISREG(node->type) &&
	       atomic_load(&node->flags) &
		       (NODE_EA | NODE_VOLATILE | NODE_UNLINKED);
}

int tier_getattr(struct tier *tier, struct node *node, struct stat *ret,
		 bool *ret_volatile)
{
	bool dummy;

	if (!ret_volatile)
		ret_volatile = &dummy;
	if (!is_special(node)) {
		struct stat st;
		int err;

		err = node_stat(node, &st);
		if (err)
			return err;
		if (!is_special(node)) {
			*ret_volatile = false;
			if (node_hides(node))
				return node_hide_stat(node, ret);
			*ret = st;
			return 0;
		}
	}
	return getattr_special(tier, node, ret, ret_volatile);
}

int tier_adjust(struct tier *tier, struct node *node, struct stat *st,
		bool *ret_volatile)
{
	bool dummy;

	if (!ret_volatile)
		ret_volatile = &dummy;
	if (is_special(node))
		return getattr_special(tier, node, st, ret_volatile);
	*ret_volatile = false;
	return node_hides(node) ? node_hide_stat(node, st) : 0;
}

void tier_ctime_begin(struct tier *tier, struct node *node)
{
	struct tier_file *file;
	struct spill_ea ea;

	if (!(atomic_load(&node->flags) & NODE_EA) ||
	    tier_file_get(tier, node, &file))
		return;
	if (file->ea.flags & TIERFS_EA_F_WRITING)
		file->base_mtime = -1; /* counts as changed, tier_open.c */
	if (file->ea.flags & TIERFS_EA_F_CTIME) {
		ea = file->ea;
		tier_ea_set(file, &ea, false);
	}
}

void tier_ctime_keep(struct tier_file *file, const struct stat *st)
{
	struct spill_ea ea = file->ea;

	if (tier_shown_ctime(file, st) == timespec_to_ns(st->st_ctim))
		tier_ea_set(file, &ea, true);
}

void tier_ctime_end(struct node *node)
{
	struct spill_ea ea;

	/* What is filled in goes on changing the inode's. */
	if (node->file && node->file->filling) {
		ea = node->file->ea;
		tier_ea_set(node->file, &ea, true);
	}
}

void tier_meta_begin(struct tier *tier, struct node *node)
{
	if (!S_ISREG(node->type))
		return;
	pthread_mutex_lock(&node->lock);
	tier_ctime_begin(tier, node);
}

static void take_time(struct timespec *to, struct timespec time)
{
	if (time.tv_nsec == UTIME_NOW)
		*to = timespec_from_ns(realtime_ns());
	else if (time.tv_nsec != UTIME_OMIT)
		*to = time;
}

void tier_meta_times(struct tier *tier, struct node *node,
		     const struct timespec times[2])
{
	struct tier_file *file = S_ISREG(node->type) ? node->file : NULL;

	if (S_ISREG(node->type) && times[0].tv_nsec != UTIME_OMIT)
		tier_tell_backdated(tier, node);
	if (!file || !file->filling)
		return;
	take_time(&file->fill_atime, times[0]);
	take_time(&file->fill_mtime, times[1]);
}

/* For a directory, too, whose lock is not held. */
void tier_meta_end(struct tier *tier, struct node *node)
{
	if (S_ISREG(node->type))
		tier_tell_changed(tier, node);
	else if (S_ISDIR(node->type))
		tier_changed(tier, node);
	tier_meta_unlock(tier, node);
}

void tier_meta_unlock(struct tier *tier, struct node *node)
{
	if (!S_ISREG(node->type))
		return;
	tier_ctime_end(node);
	tier_node_unlock(node);
}

/* ---- what can be asked ------------------------------------------------ */

int tier_state(struct tier *tier, struct node *node, enum spill_state *ret)
{
	struct tier_file *file;
	int err;

	if (!(atomic_load(&node->flags) & NODE_EA)) {
		*ret = SPILL_NONE;
		return 0;
	}
	err = tier_file_lock(tier, node, &file);
	if (err)
		return err;
	*ret = tier_file_state(file);
	tier_file_unlock(file);
	return 0;
}

struct node *tier_pinned_above(struct tier *tier, struct node *node)
{
	struct node *dir;
	bool pinned = false;

	pthread_mutex_lock(&node->lock);
	dir = node->parent ? node_ref(node->parent) : NULL;
	pthread_mutex_unlock(&node->lock);
	while (dir) {
		struct node *up;

		if (atomic_load(&dir->flags) & NODE_EA) {
			_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
			struct spill_ea ea = {0};
			int err = node_fd_get(dir, &fd);

			if (!err)
				err = front_ea_get(tier->parts.front, fd.fd,
						   &ea);
			/* What is not understood may say so, too. */
			pinned = ea.flags & TIERFS_EA_F_PINNED ||
				 err == -EPROTONOSUPPORT;
		}
		if (pinned)
			break;
		pthread_mutex_lock(&dir->lock);
		up = dir->parent ? node_ref(dir->parent) : NULL;
		pthread_mutex_unlock(&dir->lock);
		node_unref(dir);
		dir = up;
	}
	return dir;
}

bool tier_pinned(struct tier *tier, struct node *node, uint8_t flags)
{
	struct node *dir;

	if (flags & TIERFS_EA_F_PINNED)
		return true;
	dir = tier_pinned_above(tier, node);
	if (dir)
		node_unref(dir);
	return dir;
}

int tier_pin(struct tier *tier, struct node *node, bool pin)
{
	struct tier_file *file;
	struct spill_ea ea;
	int ret;

	ret = tier_file_lock(tier, node, &file);
	if (ret)
		return ret;
	ea = file->ea;
	if (pin)
		ea.flags |= TIERFS_EA_F_PINNED;
	else
		ea.flags &= ~TIERFS_EA_F_PINNED;
	/* Directories have no ctime of their own to keep in the EA. */
	if (ea.flags != file->ea.flags)
		ret = tier_ea_set(file, &ea, S_ISREG(node->type));
	tier_file_unlock(file);
	return ret;
}

int tier_file_status(struct tier *tier, struct node *node,
		     struct tier_file_status *ret)
{
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	struct tier_file_status status = {0};
	struct tier_file *file;
	uint8_t flags = 0;
	struct stat st;
	int err;

	err = tier_file_lock(tier, node, &file);
	if (err)
		return err;
	err = node_fd_get(node, &fd);
	if (!err && fstatat(fd.fd, "", &st, AT_EMPTY_PATH) < 0)
		err = -errno;
	if (!err) {
		flags = file->ea.flags;
		status.front_bytes = (uint64_t)st.st_blocks * 512;
		status.open = file->handles.count;
		status.state = tier_file_state(file);
		if (status.state != SPILL_NONE) {
			status.ncopies = file->ea.ncopies;
			for (unsigned int i = 0; i < file->ea.ncopies; i++)
				status.copies[i] = file->ea.copies[i];
		}
		show(file, &st);
		status.size = (uint64_t)st.st_size;
	}
	tier_file_unlock(file);
	if (err)
		return err;
	status.pinned = tier_pinned(tier, node, flags);
	status.damaged = flags & TIERFS_EA_F_DAMAGED;
	*ret = status;
	return 0;
}
