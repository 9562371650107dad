/* SPDX-License-Identifier: MIT */
/*
 * What the front says of a name.
 *
 * Three calls, and the name may lead elsewhere between them. Then something was
 * told of both files, or will be, and they are looked at once more.
 *
 * Sizes are logical. Of a file with a log that is open (TIERFS_EA_F_LOGGING) it
 * is the size before the log: what is written through the mount to a file on
 * the front is not known before its last close either, and the tier tells of
 * that when it has settled the attribute.
 */
#include "catalog_int.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <xxhash.h>

#include "util.h"

uint64_t catalog_key(const struct front_handle *handle)
{
	const uint8_t *b = handle->bytes;
	uint32_t low;
	uint64_t ino;

	switch (handle->type << 8 | handle->len) {
	case 0x01 << 8 | 8: /* FILEID_INO32_GEN: ext4, small xfs */
		memcpy(&low, b, sizeof(low));
		return low;
	case 0x81 << 8 | 12: /* xfs: inode number, generation */
	case 0x4d << 8 | 20: /* btrfs: objectid, root, generation */
		memcpy(&ino, b, sizeof(ino));
		return ino;
	default:
		return XXH3_64bits(handle, 2 + handle->len);
	}
}

static int64_t time_ns(const struct statx_timestamp *t)
{
	return timespec_to_ns(
		(struct timespec){.tv_sec = t->tv_sec, .tv_nsec = t->tv_nsec});
}

static bool is_stub(enum spill_state state)
{
	return state == SPILL_RELEASED || state == SPILL_DIRTY;
}

/* As tier_shown_ctime() does, as far as it can be told from outside. */
static int64_t shown_ctime(const struct spill_ea *ea,
			   const struct catalog_seen *seen)
{
	bool written = false;

	if (ea->flags & TIERFS_EA_F_WRITING)
		written = seen->mtime > ea->ctime && seen->mtime <= seen->ctime;
	else if (ea->flags & TIERFS_EA_F_LOGGING)
		written = seen->ctime == seen->mtime;
	else if (ea->state == SPILL_NONE)
		written = seen->mtime > ea->ctime && seen->mtime <= seen->ctime;
	return written ? seen->ctime : ea->ctime;
}

static void see_ea(const struct spill_ea *ea, struct catalog_seen *seen)
{
	if (ea->flags & TIERFS_EA_F_PINNED)
		seen->flags |= CATALOG_PINNED;
	if (!S_ISREG(seen->type))
		return;
	if (ea->flags & TIERFS_EA_F_DAMAGED)
		seen->flags |= CATALOG_DAMAGED;
	seen->state = ea->flags & TIERFS_EA_F_WRITING ? SPILL_NONE : ea->state;
	if (is_stub(ea->state))
		seen->size = ea->size;
	if (ea->flags & TIERFS_EA_F_CTIME)
		seen->ctime = shown_ctime(ea, seen);
}

int catalog_look(struct front *front, int dirfd, const char *name,
		 struct catalog_seen *ret)
{
	struct catalog_seen seen = {.state = SPILL_NONE};
	struct spill_ea ea = {0};
	struct statx stx;
	int err;

	err = front_handle_at(front, dirfd, name, &seen.handle);
	if (err)
		return err;
	if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT,
		  STATX_BASIC_STATS, &stx) < 0)
		return -errno;
	if (makedev(stx.stx_dev_major, stx.stx_dev_minor) != front->dev ||
	    stx.stx_nlink == 0 ||
	    (S_ISDIR(stx.stx_mode) && stx.stx_ino == front->meta_ino))
		return -ENOENT;
	seen.key = catalog_key(&seen.handle);
	seen.type = stx.stx_mode & S_IFMT;
	seen.uid = stx.stx_uid;
	seen.gid = stx.stx_gid;
	seen.nlink = stx.stx_nlink;
	seen.size = stx.stx_size;
	seen.front_bytes = stx.stx_blocks * 512;
	seen.atime = time_ns(&stx.stx_atime);
	seen.mtime = time_ns(&stx.stx_mtime);
	seen.ctime = time_ns(&stx.stx_ctime);
	if (S_ISREG(seen.type) || S_ISDIR(seen.type)) {
		err = front_ea_get_at(front, dirfd, name, &ea);
		if (!err)
			see_ea(&ea, &seen);
		else if (err == -EPROTONOSUPPORT || err == -EBADMSG)
			seen.flags |= CATALOG_FOREIGN;
		else if (err != -ENODATA)
			return err;
	}
	*ret = seen;
	return 0;
}
