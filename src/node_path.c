/* SPDX-License-Identifier: MIT */

/*
 * Names and paths of nodes.
 *
 * A name is kept in the node's own memory, behind its first key's handle. One
 * that has no room there is apart: what is behind the handle is a pointer to it,
 * then.
 */

#include "node_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"

#define UNLINKED "(unlinked)"

/* ---- names ---------------------------------------------------------------- */

static char *room_of(const struct node *node)
{
	const struct node_key *key = &node->first_key;

	return (char *)key->bytes + key->len;
}

static char *name_apart(const struct node *node)
{
	char *name = NULL;

	if (node->name_apart)
		memcpy(&name, room_of(node), sizeof(name));
	return name;
}

size_t node_name_room(size_t len)
{
	return len > sizeof(char *) ? len : sizeof(char *);
}

const char *node_name(const struct node *node)
{
	if (!node->parent)
		return NULL;
	return node->name_apart ? name_apart(node) : room_of(node);
}

void node_name_free(struct node *node)
{
	free(name_apart(node));
	node->name_apart = false;
}

/* False: there is no memory, and no name. */
static bool put_name(struct node *node, const char *name)
{
	size_t len = strlen(name) + 1;
	char *copy;

	if (len <= node->name_room) {
		memcpy(room_of(node), name, len);
		return true;
	}
	copy = strdup(name);
	if (!copy)
		return false;
	memcpy(room_of(node), &copy, sizeof(copy));
	node->name_apart = true;
	return true;
}

void node_set_name(struct node *node, struct node *parent, const char *name)
{
	struct node *old_parent = node->parent;

	node_name_free(node);
	node->parent = parent && put_name(node, name) ? node_ref(parent) : NULL;
	node_unref(old_parent);
}

void node_renamed(struct node *node, struct node *parent, const char *name)
{
	node_set_name(node, parent, name);
}

void node_unlinked(struct node *node)
{
	atomic_fetch_or(&node->flags, NODE_UNLINKED);
	node_set_name(node, NULL, NULL);
}

/* ---- their locks ---------------------------------------------------------- */

void node_dir_lock(struct node *dir)
{
	pthread_mutex_lock(&dir->lock);
}

void node_dir_unlock(struct node *dir)
{
	pthread_mutex_unlock(&dir->lock);
}

void node_dir_lock2(struct node *a, struct node *b)
{
	if (a > b) {
		struct node *swap = a;

		a = b;
		b = swap;
	}
	node_dir_lock(a);
	if (b != a)
		node_dir_lock(b);
}

void node_dir_unlock2(struct node *a, struct node *b)
{
	node_dir_unlock(a);
	if (b != a)
		node_dir_unlock(b);
}

/* ---- paths ---------------------------------------------------------------- */

/* The next component of *path into name: its length, 0 at the end. */
static ssize_t next_name(const char **path, char name[NAME_MAX + 1])
{
	size_t len;

	for (;;) {
		*path += strspn(*path, "/");
		len = strcspn(*path, "/");
		if (len != 1 || **path != '.')
			break;
		*path += 1;
	}
	if (len > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(name, *path, len);
	name[len] = '\0';
	*path += len;
	return len;
}

/*
 * Walks with descriptors of its own, so that the kernel checks each directory
 * with the caller's credentials, which may not be enough to open by handle.
 */
int node_walk(struct node_table *table, const char *path, struct node **ret)
{
	_cleanup_(node_unrefp) struct node *at = node_ref(table->root);
	_cleanup_close_ int dirfd = -1;
	char name[NAME_MAX + 1];

	dirfd = openat(table->front->root_fd, ".", O_PATH | O_CLOEXEC);
	if (dirfd < 0)
		return -errno;
	for (;;) {
		ssize_t len = next_name(&path, name);
		struct node *child = NULL;
		int err, fd;

		if (len < 0)
			return len;
		if (len == 0)
			break;
		if (!S_ISDIR(at->type))
			return -ENOTDIR;
		if (!strcmp(name, "..") ||
		    (at == table->root && !strcmp(name, TIERFS_META_DIR)))
			return -ENOENT;
		err = node_lookup_at(at, dirfd, name, NULL, &child);
		if (err)
			return err;
		node_unref(at);
		at = child;
		fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		close(dirfd);
		dirfd = fd;
	}
	*ret = steal_ptr(&at);
	return 0;
}

/* Puts "/name" before what tail holds; false when it does not fit. */
static bool prepend(char *buf, size_t *at, const char *name)
{
	size_t len = strlen(name);

	if (*at < len + 1)
		return false;
	*at -= len;
	memcpy(buf + *at, name, len);
	buf[--*at] = '/';
	return true;
}

const char *node_path(struct node *node, char *buf, size_t len)
{
	struct node *root = node->table->root;
	size_t at = len - 1;
	bool known = true;

	if (len == 0)
		return buf;
	buf[at] = '\0';
	node_ref(node);
	while (known && node != root) {
		struct node *parent;

		pthread_mutex_lock(&node->lock);
		parent = node->parent ? node_ref(node->parent) : NULL;
		known = parent && prepend(buf, &at, node_name(node));
		pthread_mutex_unlock(&node->lock);
		if (!parent)
			break;
		node_unref(node);
		node = parent;
	}
	if (node != root && known == false && at == len - 1)
		snprintf(buf, len, UNLINKED);
	else if (at == len - 1)
		snprintf(buf, len, "/");
	else
		memmove(buf, buf + at, len - at);
	node_unref(node);
	return buf;
}
