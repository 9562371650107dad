/* SPDX-License-Identifier: MIT */
/*
 * Recovery: each intent that a crash left is rolled forward or back.
 *
 * Runs before the mount serves requests, alone, in the order of the intents'
 * ids, which is that of the steps. Every case is written so that it can be
 * interrupted and run again: an intent is dropped only after a sync of what was
 * done for it (tier_done_after_sync), objects are deleted in the background
 * under the intent that names them (tier_delete.c).
 *
 *   CREATE   the EA names the object and says RELEASED: done. Else the copy is
 *            not to be trusted: EA none, object deleted. MIGRATED as well, for
 *            what was copied may not have reached the front's disk, and the
 *            file would be another after its release.
 *   WRITE    the file may have been changed: its copy goes, and the EA's
 *            claim on it. But a stub whose only data is the copy keeps it: the
 *            change was not made.
 *   RELEASE  the EA says RELEASED: the data are cut off, the times put back.
 *   RESTORE  in place: the EA says RELEASED: what was filled in is cut off. By
 *            a swap: the new file goes if it did not get its place.
 *   APPLY    a swap after which the object is no copy: it goes if the new file
 *            did get its place.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "log.h"
#include "tier_impl.h"
#include "util.h"

/* All that is to be recovered. */
struct to_recover {
	const struct intent *intents;
	size_t n;
};

struct found {
	int fd; /* O_PATH; -1: the file is gone */
	bool has_ea;
	struct spill_ea ea;
	struct stat st;
};

static void found_close(struct found *f)
{
	cleanup_close(&f->fd);
}

static int find(struct tier *tier, const struct intent *intent,
		struct found *ret)
{
	struct front *front = tier->parts.front;
	int err;

	*ret = (struct found){.fd = -1};
	ret->fd = front_open_handle(front, &intent->handle, O_PATH);
	if (ret->fd == -ESTALE || ret->fd == -ENOENT) {
		ret->fd = -1;
		return 0;
	}
	if (ret->fd < 0)
		return ret->fd;
	if (fstatat(ret->fd, "", &ret->st, AT_EMPTY_PATH) < 0)
		return -errno;
	err = front_ea_get(front, ret->fd, &ret->ea);
	ret->has_ea = !err;
	return err == -ENODATA ? 0 : err;
}

static bool names(const struct found *f, const struct intent *intent)
{
	for (unsigned int i = 0; f->has_ea && i < f->ea.ncopies; i++)
		if (f->ea.copies[i].target == intent->target &&
		    f->ea.copies[i].oid == intent->oid)
			return true;
	return false;
}

/*
 * The ctime to show from now on: setting the EA changes the inode's. While the
 * copy was suspect the EA's was shown until the first write.
 */
static int64_t shown_ctime(const struct found *f)
{
	bool written = f->ea.flags & TIERFS_EA_F_WRITING &&
		       tier_written_since(f->ea.ctime, &f->st);

	return f->ea.flags & TIERFS_EA_F_CTIME && !written
		       ? f->ea.ctime
		       : timespec_to_ns(f->st.st_ctim);
}

static int drop_copies(struct tier *tier, struct found *f)
{
	struct spill_ea ea = {
		.flags =
			(f->ea.flags & (TIERFS_EA_F_PINNED | TIERFS_EA_F_INO)) |
			TIERFS_EA_F_CTIME,
		.ino = f->ea.ino,
		.ctime = shown_ctime(f),
	};
	int ret;

	if (f->ea.state == SPILL_MIGRATED)
		tier_count(tier, SPILL_MIGRATED, SPILL_NONE, f->ea.size);
	ret = front_ea_set(tier->parts.front, f->fd, &ea);
	fault_point("recover-dropped");
	return ret;
}

/*
 * A commit of the journal does not make durable what was done to files before
 * it. So after a power cut an INTENT_WRITE may be there for the inode that a swap
 * put in place, but not the swap. Its INTENT_RESTORE is there then, for it is
 * dropped after a sync only, and leads to the stub that still names the object.
 */
static bool named_by_other(struct tier *tier, const struct to_recover *all,
			   const struct intent *intent)
{
	for (size_t i = 0; i < all->n; i++) {
		const struct intent *other = &all->intents[i];
		_cleanup_(found_close) struct found f = {.fd = -1};

		if (other == intent || other->oid != intent->oid ||
		    other->target != intent->target)
			continue;
		/* In doubt, it is. */
		if (find(tier, other, &f) || (f.fd >= 0 && names(&f, intent)))
			return true;
	}
	return false;
}

static void delete_object(struct tier *tier, const struct to_recover *all,
			  const struct intent *intent)
{
	if (named_by_other(tier, all, intent)) {
		tier_kept_after_sync(tier, intent->id, intent->oid);
		return;
	}
	tier_stale_add(tier, &(struct tier_stale){.target = intent->target,
						  .object = true,
						  .oid = intent->oid,
						  .intent = intent->id});
}

/* CREATE and WRITE: a copy that is not to be trusted, unless it is all there
 * is. */
static int recover_copy(struct tier *tier, const struct to_recover *all,
			const struct intent *intent, struct found *f)
{
	int ret;

	if (f->fd >= 0 && names(f, intent)) {
		if (f->ea.state == SPILL_RELEASED ||
		    f->ea.state == SPILL_DIRTY) {
			tier_kept_after_sync(tier, intent->id, intent->oid);
			return 0;
		}
		/* In orphans the object is deleted with the file. */
		ret = drop_copies(tier, f);
		if (ret)
			return ret;
	}
	delete_object(tier, all, intent);
	return 0;
}

static int cut_off(struct tier *tier, const struct intent *intent,
		   struct found *f)
{
	struct timespec times[2] = {timespec_from_ns(intent->atime),
				    timespec_from_ns(intent->mtime)};
	_cleanup_close_ int fd = -1;
	int ret;

	if (f->fd < 0)
		return 0;
	if (!names(f, intent) || f->ea.state != SPILL_RELEASED) {
		/* A copy of capabilities that was not needed. */
		removexattr_fd(f->fd, TIERFS_EA_CAPS_TRUSTED);
		return 0;
	}
	fd = front_open_handle(tier->parts.front, &intent->handle, O_RDWR);
	if (fd < 0)
		return fd;
	/* Later changes by the user have times of their own to show. */
	if (f->st.st_size > 0 && !(f->ea.flags & TIERFS_EA_F_CTIME)) {
		times[0] = f->st.st_atim;
		times[1] = f->st.st_mtim;
		f->ea.ctime = timespec_to_ns(f->st.st_ctim);
		f->ea.flags |= TIERFS_EA_F_CTIME;
		ret = front_ea_set(tier->parts.front, f->fd, &f->ea);
		if (ret)
			return ret;
	}
	if (f->st.st_size > 0) {
		ret = tier_caps_keep(fd, tier->parts.front->trusted);
		if (ret < 0)
			return ret;
		if (ftruncate(fd, 0) < 0)
			return -errno;
	}
	fault_point("recover-cut");
	tier_caps_back(fd);
	if (f->ea.flags & TIERFS_EA_F_CTIME && futimens(fd, times) < 0)
		return -errno;
	fault_point("recover-times");
	return 0;
}

/* A stub that was exchanged: nothing of it is needed. Cut before it loses the
 * EA, which says that it is to be cut. */
static int strip_stub(struct front *front, int fd)
{
	char proc[PROC_FD_LEN];
	int ret;

	if (truncate(proc_fd_path(fd, proc), 0) < 0)
		return -errno;
	fault_point("recover-log");
	ret = removexattr_fd(fd, front->ea_spill);
	fault_point("recover-stripped");
	return ret;
}

/* What a swap that was cut short has left in dirfd. keep: the stub holds a
 * number for the restored file, else it will be cleared away. */
static int recover_slot(struct front *front, int dirfd, uint64_t ino, bool keep)
{
	_cleanup_close_ int fd = -1;
	struct spill_ea ea;
	char slot[24];
	int ret;

	snprintf(slot, sizeof(slot), "%" PRIu64, ino);
	fd = openat(dirfd, slot, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	ret = front_ea_get(front, fd, &ea);
	if (ret)
		return ret == -ENODATA ? 0 : ret;
	if (tier_is_stub(ea.state))
		return strip_stub(front, fd);
	if (keep && unlinkat(dirfd, slot, 0) < 0)
		ret = -errno;
	fault_point("recover-slot");
	return ret;
}

/* A swap was made if the stub is not the file's any more: if it has lost its
 * EA, here or before, or is gone. */
static int recover_swap(struct tier *tier, const struct to_recover *all,
			const struct intent *intent, struct found *f)
{
	struct front *front = tier->parts.front;
	int ret;

	ret = recover_slot(front, front->inodes_fd, intent->ino, true);
	if (!ret)
		ret = recover_slot(front, front->staging_fd, intent->ino,
				   false);
	if (ret)
		return ret;
	found_close(f);
	ret = find(tier, intent, f);
	if (ret)
		return ret;
	if (intent->kind == INTENT_APPLY && !names(f, intent))
		delete_object(tier, all, intent);
	else
		tier_kept_after_sync(tier, intent->id,
				     intent->kind == INTENT_APPLY ? intent->oid
								  : 0);
	return 0;
}

static int recover_found(struct tier *tier, const struct to_recover *all,
			 const struct intent *intent, struct found *f)
{
	int ret = 0;

	switch (intent->kind) {
	case INTENT_CREATE:
	case INTENT_WRITE:
		return recover_copy(tier, all, intent, f);
	case INTENT_RELEASE:
		ret = cut_off(tier, intent, f);
		break;
	case INTENT_RESTORE:
	case INTENT_APPLY:
		if (intent->ino)
			return recover_swap(tier, all, intent, f);
		ret = cut_off(tier, intent, f);
		break;
	}
	if (!ret)
		tier_done_after_sync(tier, intent->id);
	return ret;
}

/* One file that cannot be mended does not keep the others away: its intent
 * stays, and is tried at the next mount. */
static void recover_one(struct tier *tier, const struct to_recover *all,
			const struct intent *intent)
{
	_cleanup_(found_close) struct found f = {.fd = -1};
	int ret;

	ret = find(tier, intent, &f);
	if (!ret)
		ret = recover_found(tier, all, intent, &f);
	catalog_changed(tier->parts.catalog, &intent->handle, NULL, NULL);
	if (ret)
		log_error("recovering object %016" PRIx64
			  " of inode %llu of the front: %s",
			  intent->oid, (unsigned long long)f.st.st_ino,
			  tier_ea_why(ret));
}

/* Nothing in staging is worth keeping: it never got a name. */
static int clear_staging(struct front *front)
{
	struct dirent *entry;
	DIR *dir;
	int fd;

	fd = openat(front->staging_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.') {
			unlinkat(fd, entry->d_name, 0);
			fault_point("recover-staging");
		}
	closedir(dir);
	return 0;
}

int tier_recover(struct tier *tier)
{
	_cleanup_free_ struct intent *intents = NULL;
	struct to_recover all;
	size_t n;
	int ret;

	ret = journal_intents(tier->parts.journal, &intents, &n);
	if (ret)
		return ret;
	all = (struct to_recover){.intents = intents, .n = n};
	for (size_t i = 0; i < n; i++) {
		recover_one(tier, &all, &intents[i]);
		fault_point("recover-intent");
	}
	if (n)
		log_info("recovered %zu steps that were in flight", n);
	ret = clear_staging(tier->parts.front);
	return ret ? ret : tier_stale_recover(tier);
}
