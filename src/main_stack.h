/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_MAIN_STACK_H
#define TIERFS_MAIN_STACK_H

/* Everything below the mount, opened and closed in order. */

#include "config.h"
#include "front.h"
#include "node.h"
#include "tier.h"

struct stack {
	const struct config *config;
	struct front *front;
	struct target *targets[TIERFS_TARGETS_MAX]; /* by number */
	struct ring *ring;
	struct journal *journal;
	struct catalog *catalog; /* NULL: there is none */
	struct batches *batches;
	struct node_table *nodes;
	struct copy_limit *limit;
	struct mover *mover;
	struct tier *tier;
	struct policy *policy; /* from stack_serve() on; NULL: no catalog */
};

/* On -errno *ret_why (free it) says what is wrong, and what was opened is
 * closed. Waits a few seconds for a daemon that is just ending. */
int stack_open(const struct config *config, struct stack *stack,
	       char **ret_why);
/* The mount answers: what moves by itself may. -ENOMEM, -EAGAIN. */
int stack_serve(struct stack *stack);
/* config, as remount or reload made it of the stack's own, holds from now on;
 * one call at a time. What needs it later copies it, or takes references. */
void stack_retune(struct stack *stack, const struct config *config);
/* The session is over: nobody calls the tier any more. */
void stack_close(struct stack *stack);

#endif
