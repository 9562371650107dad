/* SPDX-License-Identifier: MIT */
/* An entry outlives its time by a little, so that who fails again at once is held
 * for longer than before. */
#include "policy_hold.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OTHERS (HOLD_KINDS - 1)

static int compare(const struct policy_hold *a, const struct policy_hold *b)
{
	return a->key < b->key ? -1 : a->key > b->key;
}

/* RB_GENERATE_STATIC lacks a macro of BSD's. */
RB_GENERATE_INTERNAL(policy_hold_tree, policy_hold, by_key, compare,
		     __attribute__((unused)) static)

void holds_init(struct policy_holds *h)
{
	memset(h, 0, sizeof(*h));
	RB_INIT(&h->tree);
	CDS_INIT_LIST_HEAD(&h->list);
	snprintf(h->kinds[OTHERS].reason, HOLD_REASON, "other reasons");
}

static struct policy_hold *find(const struct policy_holds *h, uint64_t key)
{
	struct policy_hold like = {.key = key};

	return RB_FIND(policy_hold_tree, (struct policy_hold_tree *)&h->tree,
		       &like);
}

static void uncount(struct policy_holds *h, struct policy_hold *hold)
{
	struct policy_hold_kind *kind = &h->kinds[hold->kind];

	if (!hold->tries)
		return;
	kind->files--;
	kind->bytes -= hold->bytes;
	if (!kind->files && hold->kind != OTHERS)
		kind->reason[0] = '\0';
}

static void forget(struct policy_holds *h, struct policy_hold *hold)
{
	uncount(h, hold);
	RB_REMOVE(policy_hold_tree, &h->tree, hold);
	cds_list_del(&hold->link);
	h->n--;
	free(hold);
}

void holds_free(struct policy_holds *h)
{
	while (!cds_list_empty(&h->list))
		forget(h, cds_list_first_entry(&h->list, struct policy_hold,
					       link));
}

/* The entry of key, the last now, made if need be. */
static struct policy_hold *touch(struct policy_holds *h, uint64_t key)
{
	struct policy_hold *hold = find(h, key);

	if (hold) {
		cds_list_del(&hold->link);
	} else {
		if (h->n >= HOLDS_MAX)
			forget(h, cds_list_first_entry(
					  &h->list, struct policy_hold, link));
		hold = calloc(1, sizeof(*hold));
		if (!hold)
			return NULL;
		hold->key = key;
		RB_INSERT(policy_hold_tree, &h->tree, hold);
		h->n++;
	}
	cds_list_add_tail(&hold->link, &h->list);
	return hold;
}

static unsigned int kind_of(struct policy_holds *h, const char *reason)
{
	unsigned int empty = OTHERS;

	for (unsigned int i = 0; i < OTHERS; i++) {
		if (!h->kinds[i].reason[0]) {
			if (empty == OTHERS)
				empty = i;
		} else if (!strncmp(h->kinds[i].reason, reason,
				    HOLD_REASON - 1)) {
			return i;
		}
	}
	if (empty != OTHERS)
		snprintf(h->kinds[empty].reason, HOLD_REASON, "%s", reason);
	return empty;
}

void holds_add(struct policy_holds *h, uint64_t key, uint64_t bytes,
	       const char *reason, int64_t now)
{
	struct policy_hold *hold = touch(h, key);
	int64_t pause = HOLD_FIRST_NS;

	if (!hold)
		return;
	uncount(h, hold);
	for (unsigned int i = 0; i < hold->tries && pause < HOLD_MOST_NS; i++)
		pause *= 2;
	hold->tries++;
	hold->until = now + (pause < HOLD_MOST_NS ? pause : HOLD_MOST_NS);
	hold->bytes = bytes;
	hold->kind = kind_of(h, *reason ? reason : "?");
	h->kinds[hold->kind].files++;
	h->kinds[hold->kind].bytes += bytes;
}

void holds_done(struct policy_holds *h, uint64_t key, int was, int64_t now)
{
	struct policy_hold *hold = touch(h, key);

	if (!hold)
		return;
	uncount(h, hold);
	hold->tries = 0;
	hold->was = was;
	hold->until = now + HOLD_DONE_NS;
}

int64_t holds_until(const struct policy_holds *h, uint64_t key, int state,
		    int64_t now)
{
	const struct policy_hold *hold = find(h, key);

	if (!hold || hold->until <= now || (!hold->tries && hold->was != state))
		return 0;
	return hold->until;
}

const char *holds_why(const struct policy_holds *h, uint64_t key)
{
	const struct policy_hold *hold = find(h, key);

	return hold && hold->tries ? h->kinds[hold->kind].reason : NULL;
}

void holds_expire(struct policy_holds *h, int64_t now)
{
	struct policy_hold *hold, *next;
	unsigned int looked = 0;

	/* Roughly in order; a few are looked at each time. */
	cds_list_for_each_entry_safe (hold, next, &h->list, link) {
		int64_t spare = hold->tries ? HOLD_FIRST_NS : 0;

		if (hold->until + spare < now)
			forget(h, hold);
		else if (++looked > 64)
			break;
	}
}
