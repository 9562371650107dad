/* SPDX-License-Identifier: MIT */
/*
 * Who asks, and what that user could reach.
 *
 * A path of a request is opened on the front once with the peer's identity
 * (fsuid, fsgid, groups; no capability effective), so the kernel decides, with
 * ACLs and all; symlinks, ".." and mount points below the front are refused by
 * openat2(2). The node is then found by the daemon's own rights, which
 * open_by_handle_at(2) needs, and must be the same inode; a rename or a
 * restore in between makes us try again. The path down to the mountpoint is
 * the peer's to reach too.
 *
 * Checking modes by hand was rejected: it would have to know ACLs. The
 * credentials are the thread's own (raw system calls: glibc would change all
 * threads). If they could not be put back, the connection ends, and with it
 * the thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"
#include "control_int.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

#define PEER_TRIES 16

struct peer_saved {
	bool switched;
	struct __user_cap_data_struct caps[2];
};

int peer_get(int sock, struct peer *ret)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	_cleanup_free_ gid_t *groups = NULL;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	for (len = 64 * sizeof(gid_t);;) {
		free(groups);
		groups = malloc(len + 1);
		if (!groups)
			return -ENOMEM;
		if (!getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &len))
			break;
		if (errno != ERANGE)
			return -errno;
	}
	*ret = (struct peer){
		.uid = cred.uid,
		.gid = cred.gid,
		.ngroups = len / sizeof(gid_t),
		.groups = steal_ptr(&groups),
	};
	return 0;
}

int peer_self(struct peer *ret)
{
	int n = getgroups(0, NULL);
	gid_t *groups;

	if (n < 0)
		return -errno;
	groups = calloc(n + 1, sizeof(*groups));
	if (!groups)
		return -ENOMEM;
	n = getgroups(n, groups);
	if (n < 0) {
		free(groups);
		return -errno;
	}
	*ret = (struct peer){
		.uid = geteuid(),
		.gid = getegid(),
		.groups = groups,
		.ngroups = n,
	};
	return 0;
}

int peer_copy(const struct peer *peer, struct peer *ret)
{
	gid_t *groups = calloc(peer->ngroups + 1, sizeof(*groups));

	if (!groups)
		return -ENOMEM;
	memcpy(groups, peer->groups, peer->ngroups * sizeof(*groups));
	*ret = *peer;
	ret->groups = groups;
	return 0;
}

void peer_free(struct peer *peer)
{
	free(peer->groups);
	peer->groups = NULL;
}

static struct __user_cap_header_struct cap_header(void)
{
	return (struct __user_cap_header_struct){
		.version = _LINUX_CAPABILITY_VERSION_3};
}

static int peer_set(const struct peer *peer)
{
	if (syscall(SYS_setgroups, (size_t)peer->ngroups, peer->groups) < 0)
		return -errno;
	syscall(SYS_setfsgid, peer->gid);
	syscall(SYS_setfsuid, peer->uid);
	/* These two tell failure only when asked again. */
	if ((gid_t)syscall(SYS_setfsgid, -1) != peer->gid ||
	    (uid_t)syscall(SYS_setfsuid, -1) != peer->uid)
		return -EPERM;
	return 0;
}

static void peer_leave(struct control_conn *conn, struct peer_saved *saved)
{
	struct __user_cap_header_struct head = cap_header();
	int err = errno;

	if (!saved->switched)
		return;
	if (syscall(SYS_capset, &head, saved->caps) < 0 ||
	    peer_set(&conn->control->self) < 0)
		conn->broken = true;
	errno = err;
}

static int peer_enter(struct control_conn *conn, struct peer_saved *ret)
{
	struct __user_cap_header_struct head = cap_header();
	struct __user_cap_data_struct none[2];
	const struct peer *self = &conn->control->self;
	int err;

	*ret = (struct peer_saved){.switched = false};
	if (conn->broken)
		return -EIO;
	/* Root may all; and a daemon that is not root serves its own user. */
	if (conn->peer.uid == 0 || conn->peer.uid == self->uid)
		return 0;
	if (self->uid != 0)
		return -EACCES;
	if (syscall(SYS_capget, &head, ret->caps) < 0)
		return -errno;
	memcpy(none, ret->caps, sizeof(none));
	none[0].effective = none[1].effective = 0;
	ret->switched = true;
	err = peer_set(&conn->peer);
	head = cap_header();
	if (!err && syscall(SYS_capset, &head, none) < 0)
		err = -errno;
	if (err)
		peer_leave(conn, ret);
	return err;
}

static int peer_access(int dirfd, const char *path, int mode)
{
	if (syscall(SYS_faccessat2, dirfd, path, mode,
		    AT_EACCESS | AT_EMPTY_PATH) < 0)
		return -errno;
	return 0;
}

/* May the thread, as it is, search the directory that holds the mountpoint?
 * The mountpoint itself is not looked at: that would be a request to us. */
static int reaches_mount(const struct control *control)
{
	_cleanup_free_ char *dir = strdup(control->mountpoint);
	char *slash;

	if (!dir)
		return -ENOMEM;
	slash = strrchr(dir, '/');
	if (!slash)
		return -EACCES;
	slash[slash == dir ? 1 : 0] = '\0';
	return peer_access(AT_FDCWD, dir, X_OK);
}

static int open_as_is(const struct control *control, const char *path)
{
	struct open_how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
			   RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
	};
	const char *rel = path + strspn(path, "/");
	size_t first = strcspn(rel, "/");
	int fd;

	if (first == strlen(TIERFS_META_DIR) &&
	    !strncmp(rel, TIERFS_META_DIR, first))
		return -ENOENT;
	fd = syscall(SYS_openat2, control->parts->front->root_fd,
		     *rel ? rel : ".", &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

/* *ret_may: has the peer the rights of mode on it? */
static int open_as_peer(struct control_conn *conn, const char *path, int mode,
			bool *ret_may)
{
	struct peer_saved saved;
	bool may = false;
	int fd;

	fd = peer_enter(conn, &saved);
	if (fd < 0)
		return fd;
	if (saved.switched)
		fd = reaches_mount(conn->control);
	if (fd == 0)
		fd = open_as_is(conn->control, path);
	if (fd >= 0)
		may = !peer_access(fd, "", mode);
	peer_leave(conn, &saved);
	if (fd >= 0 && ret_may)
		*ret_may = may;
	return fd;
}

int peer_open(struct control_conn *conn, const char *path, bool *ret_read)
{
	return open_as_peer(conn, path, R_OK, ret_read);
}

int peer_list(struct control_conn *conn, const char *path)
{
	bool may = false;
	_cleanup_close_ int fd = open_as_peer(conn, path, R_OK | X_OK, &may);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	return may ? steal_fd(&fd) : -EACCES;
}

int peer_opendir(struct control_conn *conn, int dirfd, const char *name)
{
	struct peer_saved saved;
	_cleanup_close_ int fd = -1;
	struct stat st;
	int err;

	err = peer_enter(conn, &saved);
	if (err < 0)
		return err;
	fd = openat(dirfd, name,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	err = fd < 0 ? -errno : peer_access(fd, "", X_OK);
	peer_leave(conn, &saved);
	if (err)
		return err;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_dev != conn->control->parts->front->dev)
		return -EXDEV;
	return steal_fd(&fd);
}

/* Is node the file that fd refers to? */
static bool same_file(struct node *node, int fd)
{
	_cleanup_node_fd_ struct node_fd nfd = NODE_FD_NONE;
	struct stat a, b;

	return !node_fd_get(node, &nfd) && !fstat(nfd.fd, &a) &&
	       !fstat(fd, &b) && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

int peer_node(struct control_conn *conn, const char *path, bool *ret_read,
	      int *ret_fd, struct node **ret)
{
	struct node_table *nodes = conn->control->parts->nodes;

	for (int i = 0; i < PEER_TRIES; i++) {
		_cleanup_close_ int fd = peer_open(conn, path, ret_read);
		_cleanup_(node_unrefp) struct node *node = NULL;
		int err;

		if (fd < 0)
			return fd;
		err = node_walk(nodes, path, &node);
		if (err == -ENOENT || err == -ENOTDIR || err == -ESTALE)
			continue; /* renamed meanwhile, or gone: ask again */
		if (err)
			return err;
		if (!same_file(node, fd))
			continue;
		if (ret_fd)
			*ret_fd = steal_fd(&fd);
		*ret = steal_ptr(&node);
		return 0;
	}
	return -EBUSY;
}

bool peer_owns(const struct control_conn *conn, const struct stat *st)
{
	return conn->peer.uid == 0 || conn->peer.uid == st->st_uid;
}
