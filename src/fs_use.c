/* SPDX-License-Identifier: MIT */

/*
 * What a request needs of a file's data, and may have to wait for: to open it,
 * or to have it on the front. It is tried anew after each wait.
 */

#include "fs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

void fs_use_free(struct fs_use *use)
{
	node_unref(use->node);
	if (use->newparent)
		node_unref(use->newparent);
	if (use->made_fd >= 0)
		close(use->made_fd);
	free(use->newname);
	free(use);
}

static void use_park_free(struct fs_park *park)
{
	struct fs_use *use = container_of(park, struct fs_use, park);

	if (use->opened)
		tier_close(park->fs->parts.tier, use->node, use->flags);
	fs_use_free(use);
}

static bool use_cancel(struct fs_park *park)
{
	struct fs_use *use = container_of(park, struct fs_use, park);

	return tier_wait_cancel(use->node, &use->wait);
}

static void use_resume(struct tier_wait *wait, int err)
{
	struct fs_use *use = container_of(wait, struct fs_use, wait);
	struct fs *fs = use->park.fs;

	use->err = err;
	if (fs_park_done(&use->park) != PARK_GO)
		return;
	if (err)
		use->finish(use, err);
	else
		fs_use_start(use);
	fs_park_answered(fs, 1);
}

void fs_use_start(struct fs_use *use)
{
	struct fs *fs = use->park.fs;
	unsigned int going = 0;

	for (;;) {
		int err;

		fs_park_begin(&use->park);
		err = use->begin(use);
		if (err == -EDESTADDRREQ) {
			fs_who_judge(use->park.req, &use->who);
			continue;
		}
		if (err == -EINPROGRESS) {
			if (fs_park_arm(&use->park) == PARK_LEAVE)
				break;
			going++;
			err = use->err;
			if (!err)
				continue;
		}
		use->finish(use, err);
		break;
	}
	fs_park_answered(fs, going);
}

static int use_open(struct fs_use *use)
{
	return tier_open(use->park.fs->parts.tier, use->node, use->flags,
			 &use->wait);
}

struct fs_use *fs_use_new(fuse_req_t req, struct node *node, int flags,
			  void (*finish)(struct fs_use *use, int err))
{
	struct fs_use *use = calloc(1, sizeof(*use));

	if (!use) {
		node_unref(node);
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	use->park.fs = fs_of(req);
	use->park.req = req;
	use->park.cancel = use_cancel;
	use->park.free = use_park_free;
	use->wait.resume = use_resume;
	use->who = fs_who(req, flags & O_NONBLOCK);
	use->wait.who = &use->who;
	use->park.node = use->node = node;
	use->flags = flags;
	use->made_fd = -1;
	use->begin = use_open;
	use->finish = finish;
	return use;
}
