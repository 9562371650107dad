/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_NODE_IMPL_H
#define TIERFS_NODE_IMPL_H

/* What node.c and node_fd.c share. */

#include <urcu/list.h>

#include "node.h"

#define FD_SLOT_NONE   UINT32_MAX	/* not in the cache: put closes it */
#define FD_SLOT_PINNED (UINT32_MAX - 1) /* the node's own */

struct fd_slot {
	struct node *node; /* NULL: detached, or free */
	int fd;
	uint32_t users; /* borrowers */
	uint32_t next;	/* in the list of free slots */
	bool hot;	/* CLOCK: used since the hand passed */
};

struct fd_shard {
	pthread_mutex_t lock;
	struct fd_slot *slots;
	uint32_t n, hand, free;
};

struct fd_cache {
	struct fd_shard *shards;
	uint32_t nshards;
	uint32_t per; /* slots a shard */
};

struct slot;

struct keep_cache {
	pthread_mutex_t lock;
	pthread_cond_t given; /* giving is 0 */
	unsigned int giving;  /* ids that are being given back */
	void (*close)(void *arg, int id);
	void *arg;
	struct slot *slots; /* NULL: nothing is kept */
	struct cds_list_head used, free;
};

struct node_table {
	struct front *front;
	struct cds_lfht *hash;
	struct node *root;
	_Atomic(uint64_t) count;
	struct fd_cache fds;
	struct keep_cache keep;
};

void keep_cache_init(struct keep_cache *cache);
void keep_cache_free(struct keep_cache *cache);

int fd_cache_init(struct fd_cache *cache, unsigned int max);
void fd_cache_free(struct fd_cache *cache);
/* The node's descriptor leaves the cache; who borrowed it keeps it. */
void fd_cache_drop(struct fd_cache *cache, struct node *node);

/* Under node->lock, or before it is published: its name is name in parent (a
 * reference that it takes), or, parent being NULL, none. A name lost for want of
 * memory is better than a wrong one. */
void node_set_name(struct node *node, struct node *parent, const char *name);
/* Room for a name of len bytes, its end included. */
size_t node_name_room(size_t len);
void node_name_free(struct node *node);

/* Looks which flags dirfd/name (or dirfd itself, name being NULL) has, of a node
 * that is new in the table and has NODE_EA and NODE_XATTRS. 0, or errors of
 * listxattr(2). */
int node_look(struct node *node, int dirfd, const char *name);

/* Of a node that goes. */
void node_hide_free(struct node *dir);

/* node_lookup() with the directory's descriptor given. */
int node_lookup_at(struct node *parent, int dirfd, const char *name,
		   struct stat *ret_stat, struct node **ret);

#endif
