/* SPDX-License-Identifier: MIT */
/*
 * Repairs. While a daemon serves the front its tier changes the attribute, for
 * it alone knows if the file is being moved.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "catalog.h"
#include "check_int.h"
#include "cleanup.h"
#include "tier.h"
#include "util.h"

static int forget_offline(struct check *c, int dirfd, const char *name,
			  const struct check_seen *seen)
{
	struct front *front = c->parts.front;
	struct spill_ea ea = {
		.flags = (seen->ea.flags &
			  (TIERFS_EA_F_PINNED | TIERFS_EA_F_INO)) |
			 TIERFS_EA_F_CTIME,
		.ino = seen->ea.ino,
		.ctime = seen->ea.flags & TIERFS_EA_F_CTIME
				 ? seen->ea.ctime
				 : timespec_to_ns(seen->st.st_ctim),
	};
	_cleanup_close_ int fd =
		openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	int err = c->outdated ? 0 : catalog_outdated(front);

	if (err)
		return err;
	c->outdated = true;
	return fd < 0 ? -errno : front_ea_set(front, fd, &ea);
}

static int forget_online(struct check *c, const struct check_seen *seen)
{
	struct tier *tier = c->parts.tier;
	_cleanup_(node_unrefp) struct node *node = NULL;
	int err;

	err = node_walk(tier_parts(tier)->nodes, c->path, &node);
	return err ? err : tier_forget_copies(tier, node, &seen->ea);
}

int check_forget(struct check *c, int dirfd, const char *name,
		 const struct check_seen *seen)
{
	c->unsynced = true;
	return c->parts.tier ? forget_online(c, seen)
			     : forget_offline(c, dirfd, name, seen);
}

/* What names the object no more must be so after a crash, too. */
int check_set_aside(struct check *c, uint8_t target, uint64_t oid)
{
	if (c->unsynced && syncfs(c->parts.front->root_fd) < 0)
		return -errno;
	c->unsynced = false;
	return target_set_aside(c->targets[target].target, oid);
}
