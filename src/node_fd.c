/* SPDX-License-Identifier: MIT */

/*
 * Descriptors of nodes: a bounded cache, filled by opening handles.
 *
 * A slot belongs to one node while it is attached (slot->node, node->fd_slot:
 * both under the shard's mutex, a leaf). It is evicted by CLOCK when nobody
 * borrows it. When all slots are borrowed, a descriptor is opened for the
 * caller alone. Opening and closing are done outside of the mutex: a close can
 * be the last one of an unlinked file, and then frees its blocks.
 *
 * A swap can come between the copying of the handle and the insertion of the
 * descriptor opened with it; so the handle is compared again under the mutex,
 * which the swap takes, after it set the new key, to drop the slot.
 *
 * Pinned descriptors are not of the cache. A swap replaces what is behind the
 * number with dup3(2), so a borrower's number stays good.
 */

#include "node_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "cleanup.h"
#include "util.h"

#define SHARDS	      8
#define SHARD_MIN     64 /* slots; fewer are not worth a shard */
#define FREE_LIST_END UINT32_MAX

int fd_cache_init(struct fd_cache *cache, unsigned int max)
{
	if (max == 0)
		max = 1;
	cache->nshards = max / SHARDS >= SHARD_MIN ? SHARDS : 1;
	cache->per = max / cache->nshards;
	cache->shards = calloc(cache->nshards, sizeof(*cache->shards));
	if (!cache->shards)
		return -ENOMEM;
	for (uint32_t i = 0; i < cache->nshards; i++) {
		struct fd_shard *shard = &cache->shards[i];

		pthread_mutex_init(&shard->lock, NULL);
		shard->slots = calloc(cache->per, sizeof(*shard->slots));
		if (!shard->slots) {
			fd_cache_free(cache);
			return -ENOMEM;
		}
		shard->n = cache->per;
		for (uint32_t j = 0; j < shard->n; j++) {
			shard->slots[j].fd = -1;
			shard->slots[j].next =
				j + 1 < shard->n ? j + 1 : FREE_LIST_END;
		}
	}
	return 0;
}

void fd_cache_free(struct fd_cache *cache)
{
	for (uint32_t i = 0; cache->shards && i < cache->nshards; i++) {
		struct fd_shard *shard = &cache->shards[i];

		for (uint32_t j = 0; shard->slots && j < shard->n; j++)
			if (shard->slots[j].fd >= 0)
				close(shard->slots[j].fd);
		free(shard->slots);
		if (shard->slots)
			pthread_mutex_destroy(&shard->lock);
	}
	free(cache->shards);
	cache->shards = NULL;
}

static uint32_t shard_of(const struct fd_cache *cache, const struct node *node)
{
	return ((uintptr_t)node >> 6) * 0x9E3779B1u % cache->nshards;
}

static void slot_release(struct fd_shard *shard, struct fd_slot *slot)
{
	slot->node = NULL;
	slot->fd = -1;
	slot->next = shard->free;
	shard->free = slot - shard->slots;
}

/* A free slot, or NULL; *ret_close gets a descriptor to close, or -1. */
static struct fd_slot *slot_take(struct fd_shard *shard, int *ret_close)
{
	struct fd_slot *slot;

	*ret_close = -1;
	if (shard->free != FREE_LIST_END) {
		slot = &shard->slots[shard->free];
		shard->free = slot->next;
		return slot;
	}
	for (uint32_t i = 0; i < 2 * shard->n; i++) {
		slot = &shard->slots[shard->hand];
		shard->hand = (shard->hand + 1) % shard->n;
		if (slot->users || !slot->node)
			continue;
		if (slot->hot) {
			slot->hot = false;
			continue;
		}
		slot->node->fd_slot = 0;
		slot->node = NULL;
		*ret_close = slot->fd;
		return slot;
	}
	return NULL;
}

/* The node's slot with one more user, or NULL. Under the mutex. */
static struct fd_slot *slot_borrow(struct fd_shard *shard, struct node *node)
{
	struct fd_slot *slot;

	if (!node->fd_slot)
		return NULL;
	slot = &shard->slots[node->fd_slot - 1];
	slot->users++;
	slot->hot = true;
	return slot;
}

/* Inserts fd, which it takes over. False: the node was swapped meanwhile. */
static bool insert(struct node *node, const struct front_handle *handle, int fd,
		   struct node_fd *ret)
{
	struct fd_cache *cache = &node->table->fds;
	uint32_t index = shard_of(cache, node);
	struct fd_shard *shard = &cache->shards[index];
	struct front_handle now;
	struct fd_slot *slot;
	int to_close = fd;
	bool same;

	pthread_mutex_lock(&shard->lock);
	now = node_handle(node);
	same = front_handle_equal(&now, handle);
	if (same) {
		slot = slot_borrow(shard, node);
		if (!slot) {
			slot = slot_take(shard, &to_close);
			if (slot) {
				*slot = (struct fd_slot){.node = node,
							 .fd = fd,
							 .users = 1,
							 .hot = true};
				node->fd_slot = slot - shard->slots + 1;
			}
		}
		if (slot) {
			ret->fd = slot->fd;
			ret->slot = index * cache->per + (slot - shard->slots);
		} else {
			ret->fd = fd;
			ret->slot = FD_SLOT_NONE;
		}
		ret->table = node->table;
	}
	pthread_mutex_unlock(&shard->lock);
	if (to_close >= 0)
		close(to_close);
	return same;
}

int node_fd_get(struct node *node, struct node_fd *ret)
{
	struct fd_cache *cache = &node->table->fds;
	struct fd_shard *shard = &cache->shards[shard_of(cache, node)];
	int pinned =
		atomic_load_explicit(&node->pinned_fd, memory_order_acquire);
	struct fd_slot *slot;

	if (pinned >= 0) {
		*ret = (struct node_fd){.fd = pinned,
					.slot = FD_SLOT_PINNED,
					.table = node->table};
		return 0;
	}
	pthread_mutex_lock(&shard->lock);
	slot = slot_borrow(shard, node);
	if (slot)
		*ret = (struct node_fd){.fd = slot->fd,
					.slot = (shard - cache->shards) *
							cache->per +
						(slot - shard->slots),
					.table = node->table};
	pthread_mutex_unlock(&shard->lock);
	if (slot)
		return 0;

	for (;;) {
		struct front_handle handle = node_handle(node), now;
		int fd = front_open_handle(
			node->table->front, &handle,
			S_ISDIR(node->type) ? O_RDONLY | O_DIRECTORY : O_PATH);

		if (fd >= 0) {
			if (insert(node, &handle, fd, ret))
				return 0;
			continue;
		}
		now = node_handle(node);
		if (front_handle_equal(&now, &handle))
			return fd;
	}
}

void node_fd_put(struct node_fd *fd)
{
	struct fd_cache *cache;
	struct fd_shard *shard;
	struct fd_slot *slot;
	int saved = errno;
	int to_close = -1;

	if (fd->fd < 0 || fd->slot == FD_SLOT_PINNED)
		goto out;
	if (fd->slot == FD_SLOT_NONE) {
		close(fd->fd);
		goto out;
	}
	cache = &fd->table->fds;
	shard = &cache->shards[fd->slot / cache->per];
	slot = &shard->slots[fd->slot % cache->per];
	pthread_mutex_lock(&shard->lock);
	if (--slot->users == 0 && !slot->node) {
		to_close = slot->fd;
		slot_release(shard, slot);
	}
	pthread_mutex_unlock(&shard->lock);
	if (to_close >= 0)
		close(to_close);
out:
	fd->fd = -1;
	errno = saved;
}

void fd_cache_drop(struct fd_cache *cache, struct node *node)
{
	struct fd_shard *shard = &cache->shards[shard_of(cache, node)];
	int to_close = -1;

	pthread_mutex_lock(&shard->lock);
	if (node->fd_slot) {
		struct fd_slot *slot = &shard->slots[node->fd_slot - 1];

		node->fd_slot = 0;
		slot->node = NULL;
		if (!slot->users) {
			to_close = slot->fd;
			slot_release(shard, slot);
		}
	}
	pthread_mutex_unlock(&shard->lock);
	if (to_close >= 0)
		close(to_close);
}

void node_pin(struct node *node, int fd)
{
	int none = -1;

	if (!atomic_compare_exchange_strong(&node->pinned_fd, &none, fd))
		close(fd);
}

int node_open(struct node *node, int flags)
{
	char proc[PROC_FD_LEN];
	int pinned = atomic_load(&node->pinned_fd);
	int fd;

	if (!(flags & O_PATH) && !(atomic_load(&node->flags) & NODE_OPENED))
		atomic_fetch_or(&node->flags, NODE_OPENED);
	if (pinned < 0) {
		struct front_handle handle = node_handle(node);

		return front_open_handle(node->table->front, &handle, flags);
	}
	if (flags & O_PATH)
		fd = fcntl(pinned, F_DUPFD_CLOEXEC, 0);
	else
		fd = open(proc_fd_path(pinned, proc),
			  (flags & ~O_NOFOLLOW) | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int node_stat(struct node *node, struct stat *ret)
{
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;
	int err;

	err = node_fd_get(node, &fd);
	if (err)
		return err;
	return fstatat(fd.fd, "", ret, AT_EMPTY_PATH) < 0 ? -errno : 0;
}
