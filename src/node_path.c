/* SPDX-License-Identifier: MIT */

/* Paths and nodes: from either to the other. */

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
		known = parent && prepend(buf, &at, node->name);
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
