/* SPDX-License-Identifier: MIT */

/*
 * The table is a lock-free hash of immutable keys. What can interleave:
 *
 * - A look-up finds a node whose last reference was just dropped. refs is 0,
 *   and never rises from 0, so the look-up takes the dead key out of the table
 *   itself (whoever comes second is told so by liburcu) and makes a new node.
 *   The dead one is freed by its last holder after a grace period.
 * - Two look-ups make the same node: add_unique lets one win.
 * - A swap: the new key is added before the old one is removed, so the node is
 *   found under either all the time. A look-up by name cannot see the new file
 *   before its key is there: it holds the directory's lock, as the swap does
 *   from before its rename.
 * - The kernel forgets a node while a look-up hands it out again: nlookup going
 *   from 0 to 1 takes a reference and from 1 to 0 drops one; the caller of
 *   node_kept() has its own, so the order of the two does not matter.
 *
 * parent and name are under the lock of the node they belong to. A look-up
 * takes it with the parent's held only for what is not a directory: between
 * two directories the order of a rename (by address) could be the other way
 * round.
 *
 * ThreadSanitizer does not see liburcu: release and acquire of the key stand
 * for add and look-up, those of rcu_order for a reader's end and a callback.
 */

#include <urcu-bp.h>

#include "node_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "cleanup.h"
#include "util.h"

#define HASH_MIN 1024

static char rcu_order; /* a name for TSan */

static void read_lock(void)
{
	rcu_read_lock();
}

static void read_unlock(void)
{
	TSAN_RELEASE(&rcu_order);
	rcu_read_unlock();
}

/* The key of a node that was swapped. */
struct apart_key {
	struct rcu_head rcu;
	struct node *node;
	struct node_key key;
};

static struct node_key *key_of(struct cds_lfht_node *hash)
{
	return caa_container_of(hash, struct node_key, hash);
}

static struct apart_key *apart_of(struct node_key *key)
{
	return caa_container_of(key, struct apart_key, key);
}

static struct node *node_of(struct node_key *key)
{
	return key->apart ? apart_of(key)->node
			  : caa_container_of(key, struct node, first_key);
}

static int key_match(struct cds_lfht_node *hash, const void *handle)
{
	struct node_key *key = key_of(hash);
	const struct front_handle *other = handle;

	TSAN_ACQUIRE(key);
	return key->type == other->type && key->len == other->len &&
	       !memcmp(key->bytes, other->bytes, key->len);
}

static void key_init(struct node_key *key, const struct front_handle *handle,
		     bool apart)
{
	cds_lfht_node_init(&key->hash);
	key->apart = apart;
	key->type = handle->type;
	key->len = handle->len;
	memcpy(key->bytes, handle->bytes, handle->len);
}

static unsigned long handle_hash(const struct front_handle *handle)
{
	return XXH3_64bits(handle->bytes, handle->len) ^ handle->type;
}

struct front_handle node_handle(struct node *node)
{
	struct front_handle handle = {0};
	struct node_key *key;

	read_lock();
	key = atomic_load_explicit(&node->key, memory_order_acquire);
	handle.type = key->type;
	handle.len = key->len;
	memcpy(handle.bytes, key->bytes, key->len);
	read_unlock();
	return handle;
}

/* A reference, unless the last one is gone already. */
static bool try_ref(struct node *node)
{
	uint32_t refs = atomic_load(&node->refs);

	while (refs > 0)
		if (atomic_compare_exchange_weak(&node->refs, &refs, refs + 1))
			return true;
	return false;
}

struct node *node_ref(struct node *node)
{
	atomic_fetch_add(&node->refs, 1);
	return node;
}

/* Its lock is gone already. */
static void node_free(struct node *node)
{
	struct node_key *key = atomic_load(&node->key);
	int pinned = atomic_load(&node->pinned_fd);

	if (pinned >= 0)
		close(pinned);
	if (key->apart)
		free(apart_of(key));
	node_name_free(node);
	node_hide_free(node);
	free(node);
}

static void node_destroy(struct node *node)
{
	pthread_mutex_destroy(&node->lock);
	node_free(node);
}

static void node_free_rcu(struct rcu_head *rcu)
{
	TSAN_ACQUIRE(&rcu_order);
	node_free(caa_container_of(rcu, struct node, rcu));
}

static void key_free_rcu(struct rcu_head *rcu)
{
	TSAN_ACQUIRE(&rcu_order);
	free(caa_container_of(rcu, struct apart_key, rcu));
}

/* The last reference is gone. Returns the parent, whose reference it had. */
static struct node *node_die(struct node *node)
{
	struct node_table *table = node->table;
	struct node *parent = node->parent;

	fd_cache_drop(&table->fds, node);
	node_keep_drop(node);
	read_lock();
	cds_lfht_del(table->hash, &atomic_load(&node->key)->hash);
	read_unlock();
	atomic_fetch_sub(&table->count, 1);
	pthread_mutex_destroy(&node->lock);
	TSAN_RELEASE(&rcu_order);
	call_rcu(&node->rcu, node_free_rcu);
	return parent;
}

void node_unref(struct node *node)
{
	while (node && atomic_fetch_sub(&node->refs, 1) == 1)
		node = node_die(node);
}

/* With the name, if there is one, and no more than the room for one. */
static struct node *node_new(struct node_table *table,
			     const struct front_handle *handle, mode_t mode,
			     struct node *parent, const char *name)
{
	size_t room = node_name_room(name ? strlen(name) + 1 : 0);
	size_t size = offsetof(struct node, first_key.bytes) + handle->len;
	struct node *node = malloc(max_t(size_t, size + room, sizeof(*node)));

	if (!node)
		return NULL;
	*node = (struct node){
		.table = table,
		.type = mode & S_IFMT,
		.flags = NODE_EA | NODE_XATTRS,
		.pinned_fd = -1,
		.refs = 1,
		.key = &node->first_key,
		.name_room = (uint16_t)room,
	};
	pthread_mutex_init(&node->lock, NULL);
	key_init(&node->first_key, handle, false);
	if (parent)
		node_set_name(node, parent, name);
	return node;
}

/* Puts key, of handle, in the table: NULL, or a node with that handle, with a
 * reference. */
static struct node *table_add(struct node_table *table, struct node_key *key,
			      const struct front_handle *handle)
{
	unsigned long hash = handle_hash(handle);
	struct node *found = NULL;

	TSAN_RELEASE(key);
	read_lock();
	for (;;) {
		struct cds_lfht_node *old = cds_lfht_add_unique(
			table->hash, hash, key_match, handle, &key->hash);

		if (old == &key->hash)
			break;
		TSAN_ACQUIRE(key_of(old));
		found = node_of(key_of(old));
		if (try_ref(found))
			break;
		found = NULL;
		cds_lfht_del(table->hash, old);
	}
	read_unlock();
	return found;
}

struct node *node_find(struct node_table *table,
		       const struct front_handle *handle)
{
	struct cds_lfht_iter iter;
	struct cds_lfht_node *hash;
	struct node *node = NULL;

	read_lock();
	cds_lfht_lookup(table->hash, handle_hash(handle), key_match, handle,
			&iter);
	hash = cds_lfht_iter_get_node(&iter);
	if (hash && try_ref(node_of(key_of(hash))))
		node = node_of(key_of(hash));
	read_unlock();
	return node;
}

/* One of the names of a file that is known. */
static void refresh_name(struct node *node, struct node *parent,
			 const char *name)
{
	if (S_ISDIR(node->type))
		return; /* has one name, and rename keeps it */
	pthread_mutex_lock(&node->lock);
	if (node->parent != parent || strcmp(node_name(node), name) != 0)
		node_set_name(node, parent, name);
	pthread_mutex_unlock(&node->lock);
}

static int open_path(int dirfd, const char *name)
{
	char proc[PROC_FD_LEN];
	int fd = name ? openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)
		      : open(proc_fd_path(dirfd, proc), O_PATH | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* The node with handle, made if it is not known: of the file dirfd/name, or of
 * fd itself, which may have the name (it was just made) or none (NULL). */
static int node_take(struct node_table *table, struct node *parent, int dirfd,
		     const char *name, const struct front_handle *handle,
		     mode_t mode, bool made, struct node **ret)
{
	struct node *node = node_find(table, handle), *found;
	int fd = -1, err = 0;

	if (node) {
		if (name)
			refresh_name(node, parent, name);
		*ret = node;
		return 0;
	}
	if (!table->front->by_handle) {
		fd = open_path(dirfd, made ? NULL : name);
		if (fd < 0)
			return fd;
	}
	node = node_new(table, handle, mode, parent, name);
	if (!node) {
		if (fd >= 0)
			close(fd);
		return -ENOMEM;
	}
	atomic_store(&node->pinned_fd, fd);
	if (made)
		atomic_store(&node->flags,
			     atomic_load(&parent->flags) & NODE_XATTRS);
	found = table_add(table, &node->first_key, handle);
	if (found) {
		node_unref(node->parent);
		node_destroy(node);
		if (name)
			refresh_name(found, parent, name);
		node = found;
	} else {
		atomic_fetch_add(&table->count, 1);
		if (!made)
			err = node_look(node, dirfd, name);
		if (err) {
			node_unref(node);
			return err;
		}
	}
	*ret = node;
	return 0;
}

int node_lookup_locked(struct node *parent, int dirfd, const char *name,
		       struct stat *ret_stat, struct node **ret)
{
	struct node_table *table = parent->table;
	struct front_handle handle;
	struct stat st;
	int err;

	err = fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	if (!err && st.st_dev != table->front->dev)
		err = -EXDEV;
	if (!err)
		err = front_handle_at(table->front, dirfd, name, &handle);
	if (!err)
		err = node_take(table, parent, dirfd, name, &handle, st.st_mode,
				false, ret);
	if (!err && ret_stat)
		*ret_stat = st;
	return err;
}

int node_lookup_at(struct node *parent, int dirfd, const char *name,
		   struct stat *ret_stat, struct node **ret)
{
	int err;

	node_dir_lock(parent);
	err = node_lookup_locked(parent, dirfd, name, ret_stat, ret);
	node_dir_unlock(parent);
	return err;
}

int node_lookup(struct node *parent, const char *name, struct stat *ret_stat,
		struct node **ret)
{
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	int err = node_fd_get(parent, &dir);

	return err ? err : node_lookup_at(parent, dir.fd, name, ret_stat, ret);
}

int node_of_fd(struct node_table *table, struct node *parent, const char *name,
	       int fd, struct stat *ret_stat, struct node **ret)
{
	struct front_handle handle;
	struct stat st;
	int err;

	if (fstat(fd, &st) < 0)
		return -errno;
	err = front_handle_at(table->front, fd, "", &handle);
	if (!err)
		err = node_take(table, parent, fd, name, &handle, st.st_mode,
				parent != NULL, ret);
	if (!err && ret_stat)
		*ret_stat = st;
	return err;
}

void node_kept(struct node *node)
{
	if (atomic_fetch_add(&node->nlookup, 1) == 0)
		node_ref(node);
}

void node_forget(struct node *node, uint64_t count)
{
	if (count && atomic_fetch_sub(&node->nlookup, count) == count)
		node_unref(node);
}

/* An O_PATH descriptor of the file that a swap puts behind a pinned node. */
static int open_swapped(struct node *node, const struct front_handle *handle)
{
	struct front *front = node->table->front;
	_cleanup_node_fd_ struct node_fd dir = NODE_FD_NONE;
	_cleanup_close_ int fd = -1;
	struct front_handle found;
	int err;

	if (front->by_handle)
		return front_open_handle(front, handle, O_PATH);
	if (!node->parent)
		return -ESTALE;
	err = node_fd_get(node->parent, &dir);
	if (err)
		return err;
	fd = open_path(dir.fd, node_name(node));
	if (fd < 0)
		return fd;
	err = front_handle_at(front, fd, "", &found);
	if (err)
		return err;
	return front_handle_equal(&found, handle) ? steal_fd(&fd) : -ESTALE;
}

int node_swap(struct node *node, const struct front_handle *handle)
{
	struct node_table *table = node->table;
	int pinned = atomic_load(&node->pinned_fd);
	_cleanup_free_ struct apart_key *key =
		malloc(sizeof(*key) + handle->len);
	_cleanup_close_ int fd = -1;
	struct node_key *old;
	struct node *found;

	if (!key)
		return -ENOMEM;
	if (pinned >= 0) {
		fd = open_swapped(node, handle);
		if (fd < 0)
			return fd;
	}
	key->node = node;
	key_init(&key->key, handle, true);
	found = table_add(table, &key->key, handle);
	if (found) {
		node_unref(found);
		return -EEXIST;
	}
	old = atomic_exchange(&node->key, &steal_ptr(&key)->key);
	read_lock();
	cds_lfht_del(table->hash, &old->hash);
	read_unlock();
	if (old->apart) {
		TSAN_RELEASE(&rcu_order);
		call_rcu(&apart_of(old)->rcu, key_free_rcu);
	}
	fd_cache_drop(&table->fds, node);
	node_keep_drop(node);
	if (fd >= 0)
		dup3(fd, pinned, O_CLOEXEC);
	return 0;
}

struct node *node_root(struct node_table *table)
{
	return table->root;
}

struct front *node_front(const struct node *node)
{
	return node->table->front;
}

uint64_t node_count(const struct node_table *table)
{
	return atomic_load(&table->count);
}

static int make_root(struct node_table *table)
{
	struct front *front = table->front;
	_cleanup_close_ int fd = -1;
	int err;

	fd = fcntl(front->root_fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	err = node_from_fd(table, fd, NULL, &table->root);
	if (!err && front->by_handle)
		node_pin(table->root, steal_fd(&fd));
	return err;
}

int node_table_new(struct front *front, unsigned int fd_max,
		   struct node_table **ret)
{
	struct node_table *table = calloc(1, sizeof(*table));
	int err;

	if (!table)
		return -ENOMEM;
	table->front = front;
	keep_cache_init(&table->keep);
	err = fd_cache_init(&table->fds, fd_max);
	if (err) {
		free(table);
		return err;
	}
	/* Without accounting it grows by the longest chain: far too much. */
	table->hash =
		cds_lfht_new(HASH_MIN, HASH_MIN, 0,
			     CDS_LFHT_AUTO_RESIZE | CDS_LFHT_ACCOUNTING, NULL);
	err = table->hash ? make_root(table) : -ENOMEM;
	if (err) {
		node_table_free(table);
		return err;
	}
	*ret = table;
	return 0;
}

/* The kernel does not forget what it knows when it unmounts, so the nodes are
 * freed whoever refers to them. */
void node_table_free(struct node_table *table)
{
	struct cds_lfht_iter iter;
	struct node_key *key;
	struct node *all = NULL;

	if (!table)
		return;
	rcu_barrier();
	TSAN_ACQUIRE(&rcu_order);
	if (table->hash) {
		read_lock();
		cds_lfht_for_each_entry (table->hash, &iter, key, hash) {
			TSAN_ACQUIRE(key);
			cds_lfht_del(table->hash, &key->hash);
			node_of(key)->parent = all;
			all = node_of(key);
		}
		read_unlock();
		cds_lfht_destroy(table->hash, NULL);
	}
	while (all) {
		struct node *node = all;

		all = node->parent;
		node_destroy(node);
	}
	fd_cache_free(&table->fds);
	keep_cache_free(&table->keep);
	free(table);
}
