/* SPDX-License-Identifier: MIT */
/*
 * A treap: a binary tree in the order of the keys and, at once, a heap in the
 * order of random weights, which keeps it as balanced as a tree of keys that
 * came in random order (depth about 2 log2 n), whatever order they came in.
 *
 * Rejected: a binary heap, whose array must grow (raising a priority could
 * fail) and which cannot say what comes after a position, as the elevator
 * asks; red-black trees, four times the code for the same; tsearch(3), which
 * allocates.
 */
#include "mover_queue.h"

#include <stdbool.h>

static bool is_above(const struct mover_node *node, uint64_t major,
		     uint64_t minor)
{
	return node->major > major ||
	       (node->major == major && node->minor > minor);
}

/* splitmix64: any seed, 0 included, will do. */
static uint64_t next_weight(struct mover_queue *queue)
{
	uint64_t z = queue->seed += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

void mover_queue_insert(struct mover_queue *queue, struct mover_node *node)
{
	struct mover_node **at = &queue->root;
	struct mover_node **left = &node->left, **right = &node->right;
	struct mover_node *t;

	node->weight = next_weight(queue);
	while (*at && (*at)->weight >= node->weight)
		at = is_above(*at, node->major, node->minor) ? &(*at)->left
							     : &(*at)->right;
	/* What was here is split into what is below and above node's key. */
	t = *at;
	*at = node;
	while (t) {
		if (is_above(t, node->major, node->minor)) {
			*right = t;
			right = &t->left;
			t = t->left;
		} else {
			*left = t;
			left = &t->right;
			t = t->right;
		}
	}
	*left = *right = NULL;
	queue->count++;
}

void mover_queue_remove(struct mover_queue *queue, struct mover_node *node)
{
	struct mover_node **at = &queue->root;
	struct mover_node *a = node->left, *b = node->right;

	while (*at != node)
		at = is_above(*at, node->major, node->minor) ? &(*at)->left
							     : &(*at)->right;
	/* Its subtrees are merged in its place. */
	while (a && b) {
		if (a->weight >= b->weight) {
			*at = a;
			at = &a->right;
			a = a->right;
		} else {
			*at = b;
			at = &b->left;
			b = b->left;
		}
	}
	*at = a ? a : b;
	node->left = node->right = NULL;
	queue->count--;
}

struct mover_node *mover_queue_above(const struct mover_queue *queue,
				     uint64_t major, uint64_t minor)
{
	struct mover_node *t = queue->root, *best = NULL;

	while (t) {
		if (is_above(t, major, minor)) {
			best = t;
			t = t->left;
		} else {
			t = t->right;
		}
	}
	return best;
}
