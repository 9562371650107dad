/* SPDX-License-Identifier: MIT */

/*
 * What is kept of closed files for their next open: a backing id each.
 *
 * Registering a file (open by handle, ioctl, close) and giving it back is half
 * of what an open costs the daemon, and most files that are opened are opened
 * again soon. So the last close leaves the id here, and the next open takes it.
 *
 * Behind an id is an open file of the kernel's, to read. It would keep an
 * unlinked file's blocks, and a lease from being had, so the id has to go first:
 * with the last name (tier_ns.c), and before a write lease is taken
 * (tier_release.c), both under node->lock, under which ids are kept, too: none
 * comes in between. To read leases (a migration) it is nothing. A swap drops it,
 * as it is of the file that was; and so does the end of the node, for then the
 * kernel knows nothing of the file any more.
 *
 * The kernel reads and writes with the identity that registered the file, which
 * is whose quota and reserved blocks are used: only he is given it again.
 *
 * The mutex is a leaf. Ids are given back outside of it: who does is counted, for
 * with the end of the mount there is nobody to give them to any more.
 */

#include "node_impl.h"

#include <errno.h>
#include <stdlib.h>

struct slot {
	struct cds_list_head link; /* by last use, or free */
	struct node *node;
	struct node_kept kept;
};

/* Empties it: the id that was in it. */
static int slot_free(struct keep_cache *cache, struct slot *slot)
{
	slot->node->kept = 0;
	cds_list_move(&slot->link, &cache->free);
	return slot->kept.id;
}

/* The same, if there is one, of an id that is to be given back; or 0. */
static int slot_leave(struct keep_cache *cache, struct slot *slot)
{
	if (!slot)
		return 0;
	cache->giving++;
	return slot_free(cache, slot);
}

static void give_back(struct keep_cache *cache, int id)
{
	if (!id)
		return;
	cache->close(cache->arg, id);
	pthread_mutex_lock(&cache->lock);
	if (--cache->giving == 0)
		pthread_cond_broadcast(&cache->given);
	pthread_mutex_unlock(&cache->lock);
}

static struct slot *slot_of(struct keep_cache *cache, struct node *node)
{
	return node->kept ? &cache->slots[node->kept - 1] : NULL;
}

int node_keep_start(struct node_table *table, unsigned int max,
		    void (*close)(void *arg, int id), void *arg)
{
	struct keep_cache *cache = &table->keep;
	struct slot *slots;

	if (max > UINT16_MAX - 1)
		max = UINT16_MAX - 1;
	slots = calloc(max, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	pthread_mutex_lock(&cache->lock);
	cache->close = close;
	cache->arg = arg;
	cache->slots = slots;
	for (unsigned int i = 0; i < max; i++)
		cds_list_add_tail(&slots[i].link, &cache->free);
	pthread_mutex_unlock(&cache->lock);
	return 0;
}

void node_keep_stop(struct node_table *table)
{
	struct keep_cache *cache = &table->keep;
	struct slot *slots, *slot;

	pthread_mutex_lock(&cache->lock);
	slots = cache->slots;
	cache->slots = NULL;
	cds_list_for_each_entry (slot, &cache->used, link) {
		slot->node->kept = 0;
		cache->close(cache->arg, slot->kept.id);
	}
	CDS_INIT_LIST_HEAD(&cache->used);
	CDS_INIT_LIST_HEAD(&cache->free);
	while (cache->giving)
		pthread_cond_wait(&cache->given, &cache->lock);
	pthread_mutex_unlock(&cache->lock);
	free(slots);
}

bool node_keep(struct node *node, const struct node_kept *kept)
{
	struct keep_cache *cache = &node->table->keep;
	struct slot *slot;
	bool kept_it;
	int old = 0;

	pthread_mutex_lock(&cache->lock);
	kept_it = cache->slots != NULL;
	if (kept_it) {
		slot = slot_of(cache, node);
		if (!slot && cds_list_empty(&cache->free))
			slot = cds_list_entry(cache->used.prev, struct slot,
					      link);
		old = slot_leave(cache, slot);
		slot = cds_list_first_entry(&cache->free, struct slot, link);
		slot->node = node;
		slot->kept = *kept;
		node->kept = slot - cache->slots + 1;
		cds_list_move(&slot->link, &cache->used);
	}
	pthread_mutex_unlock(&cache->lock);
	give_back(cache, old);
	return kept_it;
}

int node_keep_take(struct node *node, uid_t uid, gid_t gid)
{
	struct keep_cache *cache = &node->table->keep;
	struct slot *slot;
	int id = 0, old = 0;

	pthread_mutex_lock(&cache->lock);
	slot = slot_of(cache, node);
	if (slot && slot->kept.uid == uid && slot->kept.gid == gid)
		id = slot_free(cache, slot);
	else
		old = slot_leave(cache, slot);
	pthread_mutex_unlock(&cache->lock);
	give_back(cache, old);
	return id;
}

void node_keep_drop(struct node *node)
{
	struct keep_cache *cache = &node->table->keep;
	int old;

	pthread_mutex_lock(&cache->lock);
	old = slot_leave(cache, slot_of(cache, node));
	pthread_mutex_unlock(&cache->lock);
	give_back(cache, old);
}

void keep_cache_init(struct keep_cache *cache)
{
	pthread_mutex_init(&cache->lock, NULL);
	pthread_cond_init(&cache->given, NULL);
	CDS_INIT_LIST_HEAD(&cache->used);
	CDS_INIT_LIST_HEAD(&cache->free);
}

void keep_cache_free(struct keep_cache *cache)
{
	free(cache->slots);
	pthread_cond_destroy(&cache->given);
	pthread_mutex_destroy(&cache->lock);
}
