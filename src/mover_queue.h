/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_MOVER_QUEUE_H
#define TIERFS_MOVER_QUEUE_H

/*
 * An ordered set of nodes that are embedded in what they order. No locks, no
 * allocation: inserting cannot fail. All of it takes O(log n).
 */

#include <stddef.h>
#include <stdint.h>

struct mover_node {
	uint64_t major, minor; /* the key, by the owner: unique in a queue */
	uint64_t weight;       /* the queue's, as are those below */
	struct mover_node *left, *right;
};

struct mover_queue {
	struct mover_node *root;
	size_t count;
	uint64_t seed;
};

/* All zero is an empty queue. */
void mover_queue_insert(struct mover_queue *queue, struct mover_node *node);
/* node is in the queue. */
void mover_queue_remove(struct mover_queue *queue, struct mover_node *node);
/* The first node whose key is above (major, minor), or NULL. */
struct mover_node *mover_queue_above(const struct mover_queue *queue,
				     uint64_t major, uint64_t minor);

#endif
