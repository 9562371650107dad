/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TIER_RESTORE_H
#define TIERFS_TIER_RESTORE_H

/* What tier_restore.c, tier_apply.c and tier_fill.c share. */

#include "tier_impl.h"

/* One file of a job. The worker's. */
struct restore {
	struct mover_job *job;
	struct tier *tier;
	struct tier_move *move;
	struct node *node;
	struct target *target;
	struct spill_ea ea;    /* when it began */
	struct stat st;	       /* the stub's, then */
	uint64_t size, blocks; /* of the object */
	bool swap;
	int fd; /* of what will take the stub's place, or -1 */
	int err;

	/* The file differs from the object, which goes: INTENT_APPLY. */
	bool apply;
	bool log_alone;	      /* nothing of the object shows */
	uint64_t log_bytes;   /* when it began */
	int log_fd;	      /* the stub, or -1 */
	struct delta_pos pos; /* what of its log is in fd */
	bool unsynced;	      /* since */
};

/* -- tier_restore.c ----------------------------------------------------- */

struct intent restore_intent(struct restore *r, enum intent_kind kind);
/* The object, checked, into fd. Not synced. */
int restore_copy(struct restore *r, int fd);

/* -- tier_apply.c ------------------------------------------------------- */

/* Commits that the object will be stale: before the swap that makes it so. */
int restore_applies(struct restore *r);
/* Puts the log into fd, but for little, and syncs it. No lock is held. */
int restore_apply(struct restore *r);
/* The rest of it. With node->lock, nobody appends. */
int restore_apply_rest(struct restore *r);
/* The node has the new file, whose EA is ea. node->lock held. */
void restore_swapped(struct restore *r, const struct spill_ea *ea);

/* -- tier_fill.c -------------------------------------------------------- */

int restore_in_place(struct restore *r);

#endif
