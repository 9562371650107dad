/* SPDX-License-Identifier: MIT */
/*
 * Which daemon serves a path.
 *
 * Every socket in the directory is asked for the device number of its mount. A
 * path's mount is found by the mount id that statx(2) tells, in
 * /proc/self/mountinfo, which also knows its device: names of mounts are not
 * compared, so bind mounts and mounts over mounts are right. The last
 * component of a path is not followed when it is a symlink: it is the symlink
 * that is asked about, as with ls -d.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "mountinfo.h"
#include "tierctl.h"
#include "util.h"

static struct mounts all;

static const struct mount *mount_find(uint64_t id)
{
	for (int tries = 0; tries < 2; tries++) {
		for (size_t i = 0; i < all.n; i++)
			if (all.mounts[i].id == id)
				return &all.mounts[i];
		mounts_free(&all);
		if (mounts_read(&all))
			break;
	}
	return NULL;
}

/* ---- paths --------------------------------------------------------------- */

/* The absolute path with the parent's symlinks resolved: to be freed. NULL and
 * errno. */
static char *path_absolute(const char *path)
{
	size_t len = strlen(path);
	const char *slash, *name;
	_cleanup_free_ char *parent = NULL;
	_cleanup_free_ char *real = NULL;
	char *ret;

	if (len == 0) {
		errno = ENOENT;
		return NULL;
	}
	slash = strrchr(path, '/');
	name = slash ? slash + 1 : path;
	/* "dir/", "." and ".." are the directory itself. */
	if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
		return realpath(path, NULL);
	parent = slash ? strndup(path, slash == path ? 1 : slash - path)
		       : strdup(".");
	real = parent ? realpath(parent, NULL) : NULL;
	if (!real ||
	    asprintf(&ret, "%s/%s", strcmp(real, "/") ? real : "", name) < 0)
		return NULL;
	return ret;
}

/* Does prefix name path or a directory above it? Its length without a slash at
 * the end, or -1. */
static int below(const char *path, const char *prefix)
{
	size_t len = strlen(prefix);

	while (len > 0 && prefix[len - 1] == '/')
		len--;
	if (strncmp(path, prefix, len) || (path[len] && path[len] != '/'))
		return -1;
	return len;
}

static bool mount_of(const struct daemon *d, const struct mount *m)
{
	if (d->device[0])
		return !strcmp(d->device, m->device);
	return !strcmp(d->mount, m->point);
}

/* The id of the mount that path is on: 0, or -errno. */
static int mount_id(const char *path, uint64_t *ret)
{
	struct statx stx;

	if (statx(AT_FDCWD, path,
		  AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
		  STATX_MNT_ID, &stx) < 0)
		return -errno;
	*ret = stx.stx_mnt_id;
	return 0;
}

/* The same of what cannot be looked at: the daemon knows why. */
static int mount_id_above(const char *path, uint64_t *ret)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *parent = strndup(path, slash - path + 1);

	return parent ? mount_id(parent, ret) : -ENOMEM;
}

struct daemon *path_resolve(struct tool *tool, const char *path, char **ret,
			    const char **ret_why, bool *ret_none)
{
	_cleanup_free_ char *abs = path_absolute(path);
	const struct mount *m;
	struct daemon *d = NULL;
	uint64_t id = 0;
	int len, err;

	*ret_none = false;
	err = abs ? mount_id(abs, &id) : -errno;
	if (err == -EIO)
		err = mount_id_above(abs, &id);
	if (err) {
		*ret_why = strerror(-err);
		return NULL;
	}
	m = mount_find(id);
	for (unsigned int i = 0; m && i < tool->ndaemons; i++) {
		if (mount_of(&tool->daemons[i], m))
			d = &tool->daemons[i];
	}
	len = m ? below(abs, m->point) : -1;
	if (!d || len < 0) {
		*ret_none = true;
		*ret_why = tool->opt.mount ? "not on the mount of --mount"
					   : "no tierfs daemon serves it";
		return NULL;
	}
	if (asprintf(ret, "%s%s", strcmp(m->root, "/") ? m->root : "",
		     abs[len] ? abs + len : "/") < 0) {
		*ret_why = "out of memory";
		return NULL;
	}
	return d;
}

/* ---- daemons --------------------------------------------------------------- */

static void daemon_free(struct daemon *d)
{
	if (d->fd >= 0)
		close(d->fd);
	free(d->name);
	free(d->mount);
	free(d->device);
	free(d->out);
	proto_lines_free(&d->lines);
	json_decref(d->chunk);
}

/* Connects and asks who it is. False: nobody, or said why. */
static bool daemon_greet(struct daemon *d, const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = 10};
	json_t *data, *hello;
	const char *name = "", *device = "", *reason = NULL;
	char *mount = NULL;

	if (strlen(path) >= sizeof(addr.sun_path))
		return false;
	strcpy(addr.sun_path, path);
	d->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (d->fd < 0)
		return false;
	if (connect(d->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		if (errno != ECONNREFUSED && errno != ENOENT)
			complain(path, strerror(errno));
		return false;
	}
	setsockopt(d->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	hello = session_call(d, json_pack("{s:i, s:s}", "version",
					  CONTROL_VERSION, "command", "hello"));
	json_unpack(hello, "{s:s}", "reason", &reason);
	data = json_object_get(hello, "data");
	json_unpack(data, "{s:s, s:s}", "name", &name, "device", &device);
	if (data && !proto_get_path(data, "mount", &mount)) {
		d->mount = mount;
		d->name = strdup(name);
		d->device = strdup(device);
	} else {
		complain(path, reason ? reason : "does not answer");
	}
	json_decref(hello);
	return d->mount && d->name && d->device;
}

static void daemons_scan(struct tool *tool, const char *dir)
{
	DIR *handle = opendir(dir);
	struct dirent *entry;

	while (handle && (entry = readdir(handle))) {
		size_t len = strlen(entry->d_name);
		size_t suffix = strlen(CONTROL_SUFFIX);
		struct daemon d = {.fd = -1};
		char path[PATH_MAX];
		struct daemon *more;

		if (entry->d_name[0] == '.' || len <= suffix ||
		    strcmp(entry->d_name + len - suffix, CONTROL_SUFFIX))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
		more = reallocarray(tool->daemons, tool->ndaemons + 1,
				    sizeof(d));
		if (more)
			tool->daemons = more;
		if (!more || proto_lines_init(&d.lines) ||
		    !daemon_greet(&d, path)) {
			daemon_free(&d);
			continue;
		}
		tool->daemons[tool->ndaemons++] = d;
	}
	if (handle)
		closedir(handle);
}

static int daemon_cmp(const void *a, const void *b)
{
	const struct daemon *x = a, *y = b;

	return strcmp(x->mount, y->mount);
}

/* Leaves the daemon of --mount alone. */
static bool daemons_choose(struct tool *tool)
{
	const char *dir = tool->opt.mount, *why = "";
	struct daemon *d, chosen;
	char *rel = NULL;
	bool none;

	tool->opt.mount = NULL; /* for the message of path_resolve() */
	d = path_resolve(tool, dir, &rel, &why, &none);
	tool->opt.mount = dir;
	free(rel);
	if (!d) {
		complain(dir, why);
		return false;
	}
	chosen = *d;
	for (unsigned int i = 0; i < tool->ndaemons; i++) {
		if (&tool->daemons[i] != d)
			daemon_free(&tool->daemons[i]);
	}
	tool->daemons[0] = chosen;
	tool->ndaemons = 1;
	return true;
}

bool daemons_find(struct tool *tool)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	char dir[PATH_MAX];

	daemons_scan(tool, CONTROL_DIR);
	if (run) {
		snprintf(dir, sizeof(dir), "%s/tierfs", run);
		daemons_scan(tool, dir);
	}
	if (tool->ndaemons == 0) {
		complain(NULL, "no tierfs daemon answers");
		return false;
	}
	qsort(tool->daemons, tool->ndaemons, sizeof(*tool->daemons),
	      daemon_cmp);
	return !tool->opt.mount || daemons_choose(tool);
}

void daemons_free(struct tool *tool)
{
	for (unsigned int i = 0; i < tool->ndaemons; i++)
		daemon_free(&tool->daemons[i]);
	free(tool->daemons);
	mounts_free(&all);
}
