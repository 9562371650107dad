/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_POLICY_HOLD_H
#define TIERFS_POLICY_HOLD_H

/*
 * Files that are not to be tried for a while: those that could not be moved, by
 * reason, each for longer than the last time, and, for some seconds, those that
 * were, while their rows say what they were before.
 *
 * Bounded: past HOLDS_MAX the one that was tried longest ago is forgotten, which
 * costs an attempt. Pure, no locks. Times are ns since the epoch, for the judge
 * makes them a row's due.
 */

#include <bsd/sys/tree.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <urcu/list.h>

#define HOLDS_MAX     32768
#define HOLD_KINDS    16
#define HOLD_DONE_NS  (10 * 1000000000LL)
#define HOLD_FIRST_NS (30 * 1000000000LL)
#define HOLD_MOST_NS  (3600 * 1000000000LL)
#define HOLD_REASON   96

struct policy_hold {
	RB_ENTRY(policy_hold) by_key;
	struct cds_list_head link; /* the one tried last is the last */
	uint64_t key, bytes;
	int64_t until;
	unsigned int tries; /* in vain; 0: it was moved */
	unsigned int kind;
	int was; /* of one that was moved: its state before */
};
RB_HEAD(policy_hold_tree, policy_hold);

struct policy_hold_kind {
	char reason[HOLD_REASON];
	uint64_t files, bytes;
};

struct policy_holds {
	struct policy_hold_tree tree;
	struct cds_list_head list;
	size_t n;
	struct policy_hold_kind kinds[HOLD_KINDS]; /* the last: others */
};

void holds_init(struct policy_holds *h);
void holds_free(struct policy_holds *h);
/* It could not be moved. Without memory nothing is held. */
void holds_add(struct policy_holds *h, uint64_t key, uint64_t bytes,
	       const char *reason, int64_t now);
/* It was, or is not what its row says: was. */
void holds_done(struct policy_holds *h, uint64_t key, int was, int64_t now);
/* Until when it is held if its row says state, 0: it is not. */
int64_t holds_until(const struct policy_holds *h, uint64_t key, int state,
		    int64_t now);
/* Why it is held or was last; NULL: it is not. */
const char *holds_why(const struct policy_holds *h, uint64_t key);
/* Forgets what was held long ago, and all that is held (by hand). */
void holds_expire(struct policy_holds *h, int64_t now);

#endif
