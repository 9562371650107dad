/* SPDX-License-Identifier: MIT */

/*
 * Which extended attributes a file has that is met for the first time.
 *
 * The spill EA has to be looked for then. Listing the names takes as long as asking
 * for that one, and most files have none at all, so it is the names that are looked
 * at: a file without ACLs, capabilities and users' own attributes is never asked for
 * them again. Programs ask for little else: ls for each file's ACL, the kernel for
 * a file's capabilities with its first write, Samba for user.DOSATTRIB. The kernel
 * has to be answered each time, and opening the file by its handle, asking by
 * /proc and closing it took 5.8 us of that: a cold ls -lR of ext4 took 2.8 times
 * as long as on the front with it, and takes 2.15 times as long without.
 *
 * This holds as long as the node lives because those attributes are given to a
 * file by clients alone (fs_xattr.c, which takes the lock to say so), or with its
 * making: by a default ACL of the directory, which then has the flag itself. What
 * a write of ours takes away and tier_caps_back() returns counts as there. Other
 * security attributes are not among them, as the kernel sets them by itself: IMA's
 * when a file is opened or closed. So of a file that had no attribute at all this is
 * known until it is opened; newer versions of ls list each file's.
 */

#include "node_impl.h"

#include <errno.h>
#include <string.h>

#include "util.h"

#define LIST_ROOM 256 /* more has hardly any file: then the flags stay */

/* Do only clients give a file that attribute? */
static bool is_clients(const char *name)
{
	return !strncmp(name, "system.posix_acl_", 17) ||
	       !strcmp(name, "security.capability") ||
	       !strncmp(name, "user.", 5);
}

/* Which of the flags dirfd/name (or dirfd itself, name being NULL) has. */
static int look(struct front *front, int dirfd, const char *name)
{
	char names[LIST_ROOM];
	ssize_t len;
	int flags = front->plain_xattrs ? 0 : NODE_XATTRS;

	len = name ? listxattr_at(dirfd, name, names, sizeof(names))
		   : listxattr_fd(dirfd, names, sizeof(names));
	if (len == -ERANGE)
		return NODE_EA | NODE_XATTRS;
	if (len < 0 && len != -EOPNOTSUPP)
		return (int)len;
	if (len == 0)
		flags |= NODE_BARE;
	for (ssize_t pos = 0; pos < len; pos += strlen(names + pos) + 1) {
		if (!strcmp(names + pos, front->ea_spill))
			flags |= NODE_EA;
		else if (is_clients(names + pos) ||
			 !strcmp(names + pos, TIERFS_EA_CAPS_TRUSTED))
			flags |= NODE_XATTRS;
	}
	return flags;
}

/*
 * The node is in the table: whoever gives the file an attribute now has this
 * node, and its lock. Before, it could have been migrated, released and
 * forgotten by others since it was looked at. Until it is known the node has
 * the flags, which costs time and nothing else. So the lock is not waited for:
 * it may be a directory's, with the parent's held.
 */
int node_look(struct node *node, int dirfd, const char *name)
{
	int flags;

	if (!S_ISREG(node->type) && !S_ISDIR(node->type)) {
		atomic_fetch_and(&node->flags, (uint8_t)~NODE_EA);
		return 0;
	}
	if (pthread_mutex_trylock(&node->lock))
		return 0;
	flags = look(node->table->front, dirfd, name);
	if (flags >= 0) {
		atomic_fetch_or(&node->flags, (uint8_t)flags);
		atomic_fetch_and(&node->flags,
				 (uint8_t)(flags | ~(NODE_EA | NODE_XATTRS)));
	}
	pthread_mutex_unlock(&node->lock);
	return flags < 0 ? flags : 0;
}

void node_xattr_given(struct node *node)
{
	atomic_fetch_or(&node->flags, NODE_XATTRS);
	atomic_fetch_and(&node->flags, (uint8_t)~NODE_BARE);
}

bool node_xattrs_none(struct node *node)
{
	return (atomic_load(&node->flags) & (NODE_BARE | NODE_OPENED)) ==
	       NODE_BARE;
}

bool node_xattr_absent(struct node *node, const char *name)
{
	return !(atomic_load(&node->flags) & NODE_XATTRS) && is_clients(name);
}
