/* SPDX-License-Identifier: MIT */

/*
 * On whose behalf a thread acts.
 *
 * The kernel has checked permissions (default_permissions). What remains is
 * whom a new file belongs to, which bits a write clears, and whose quota and
 * reserved blocks it uses. So a thread takes over the client's fsuid and fsgid
 * but keeps its capabilities (SECBIT_NO_SETUID_FIXUP), and the client's umask
 * (unshare(CLONE_FS) gives it one of its own), which the front's kernel applies
 * unless the directory has a default ACL.
 *
 * Supplementary groups are not taken over: what depends on them is decided in
 * the client's kernel before the request is sent (setgid bits of new files and
 * of chmod), with capabilities the front's does not ask again.
 *
 * Not kept: CAP_SYS_RESOURCE, with which the front would let everybody use
 * root's reserved blocks and exceed quotas; and CAP_FSETID while data is
 * written for somebody who does not have it, so that the front itself clears
 * setuid and setgid bits, as it would for the client. Of a setgid file that its
 * group may not execute the bit stays for the group's members: such a writer
 * takes over the file's group.
 *
 * All of it is per thread and cached: for the same client again, nothing is
 * done. Without privileges nothing can be, and the daemon acts as its user.
 */

#include "fs_impl.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Thread_local struct {
	bool ready;
	bool can; /* take over identities */
	bool own_umask;
	bool fsetid;
	uid_t uid, own_uid; /* the daemon's own never changes */
	gid_t gid, own_gid;
	mode_t umask;
} me;

static bool cap_change(unsigned int cap, bool on)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	uint32_t bit = CAP_TO_MASK(cap);

	if (syscall(SYS_capget, &head, data) < 0)
		return false;
	if (on && !(data[CAP_TO_INDEX(cap)].permitted & bit))
		return false;
	if (on)
		data[CAP_TO_INDEX(cap)].effective |= bit;
	else
		data[CAP_TO_INDEX(cap)].effective &= ~bit;
	return syscall(SYS_capset, &head, data) == 0;
}

/* A thread starts as what the thread was that made it: nothing is assumed. */
static void thread_init(void)
{
	int bits = prctl(PR_GET_SECUREBITS);

	me.ready = true;
	me.uid = me.own_uid = geteuid();
	me.gid = me.own_gid = getegid();
	me.can = bits >= 0 &&
		 (bits & SECBIT_NO_SETUID_FIXUP ||
		  prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP) == 0);
	if (me.can) {
		syscall(SYS_setfsuid, me.uid);
		syscall(SYS_setfsgid, me.gid);
	}
	me.own_umask = unshare(CLONE_FS) == 0;
	if (me.own_umask)
		umask(0);
	me.fsetid = cap_change(CAP_FSETID, true);
	cap_change(CAP_SYS_RESOURCE, false);
}

static void become(uid_t uid, gid_t gid, bool fsetid)
{
	if (!me.ready)
		thread_init();
	if (!me.can)
		return;
	if (fsetid != me.fsetid && cap_change(CAP_FSETID, fsetid))
		me.fsetid = fsetid;
	if (gid != me.gid) {
		syscall(SYS_setfsgid, gid);
		me.gid = gid;
	}
	if (uid != me.uid) {
		syscall(SYS_setfsuid, uid);
		me.uid = uid;
	}
}

void fs_become(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	become(ctx->uid, ctx->gid, true);
	if (me.own_umask && me.umask != ctx->umask) {
		umask(ctx->umask);
		me.umask = ctx->umask;
	}
}

bool fs_in_group(fuse_req_t req, gid_t gid)
{
	gid_t list[256];
	int n;

	if (fuse_req_ctx(req)->gid == gid)
		return true;
	n = fuse_req_getgroups(req, ARRAY_SIZE(list), list);
	for (int i = 0; i < n && i < (int)ARRAY_SIZE(list); i++)
		if (list[i] == gid)
			return true;
	return false;
}

void fs_become_writer(fuse_req_t req, bool keep_priv, int fd)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	gid_t gid = ctx->gid;
	struct stat st;

	if (!keep_priv && fstat(fd, &st) == 0 &&
	    (st.st_mode & (S_ISGID | S_IXGRP)) == S_ISGID &&
	    fs_in_group(req, st.st_gid))
		gid = st.st_gid;
	become(ctx->uid, gid, keep_priv);
}

void fs_become_stub_writer(fuse_req_t req, bool keep_priv, struct node *node)
{
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;

	if (!keep_priv)
		node_fd_get(node, &fd);
	fs_become_writer(req, keep_priv, fd.fd);
}

void fs_become_root(void)
{
	if (!me.ready)
		thread_init();
	become(me.own_uid, me.own_gid, true);
}
