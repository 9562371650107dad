/* SPDX-License-Identifier: MIT */
/*
 * Paths made absolute, and the refusal of those that overlap: a target below
 * the mount would be served by the daemon that waits for it, and a front below
 * its target would be taken for objects.
 *
 * Paths are compared as text with symlinks resolved, and front and targets by
 * inode too, for a bind mount. A target that is missing (its disk is not
 * there) is compared as far as its path exists.
 */
#include "config_parse.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "util.h"

/* Resolves "//", "." and ".." of an absolute path by text, in place. */
static void normalise(char *path)
{
	char *in = path, *out = path;

	while (*in) {
		size_t len;

		in += strspn(in, "/");
		len = strcspn(in, "/");
		if (len == 2 && !memcmp(in, "..", 2)) {
			while (out > path && *--out != '/')
				;
		} else if (len && !(len == 1 && *in == '.')) {
			*out++ = '/';
			memmove(out, in, len);
			out += len;
		}
		in += len;
	}
	if (out == path)
		*out++ = '/';
	*out = '\0';
}

int config_absolute(const char *path, char **ret)
{
	_cleanup_free_ char *abs = NULL, *cwd = NULL;
	char *cut, *real = NULL;
	int err;

	if (path[0] == '/') {
		abs = strdup(path);
	} else {
		cwd = realpath(".", NULL);
		if (!cwd)
			return -errno;
		if (asprintf(&abs, "%s/%s", cwd, path) < 0)
			abs = NULL;
	}
	if (!abs)
		return -ENOMEM;
	real = realpath(abs, NULL);
	if (real) {
		*ret = real;
		return 0;
	}
	/* The longest part that exists, and the rest as it stands. */
	normalise(abs);
	for (cut = abs + strlen(abs); cut > abs && !real;) {
		do
			cut--;
		while (*cut != '/');
		*cut = '\0';
		real = realpath(cut == abs ? "/" : abs, NULL);
		if (real)
			break;
		*cut = '/';
	}
	if (!real) {
		*ret = steal_ptr(&abs);
		return 0;
	}
	err = asprintf(ret, "%s/%s", strcmp(real, "/") ? real : "", cut + 1) < 0
		      ? -ENOMEM
		      : 0;
	free(real);
	return err;
}

/* Is path below dir, and not dir itself? */
static bool inside(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	if (!strcmp(dir, "/"))
		return path[0] == '/' && path[1];
	return !strncmp(path, dir, len) && path[len] == '/';
}

static bool same(const char *a, const char *b)
{
	struct stat sa, sb;

	if (!strcmp(a, b))
		return true;
	return stat(a, &sa) == 0 && stat(b, &sb) == 0 &&
	       sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static int check_target(const struct config *cfg, unsigned int i,
			char **ret_why)
{
	const struct config_target *target = &cfg->targets[i];
	const char *path = target->path;
	char what[TIERFS_NAME_MAX + 16];
	const struct {
		const char *name, *path;
	} others[] = {
		{"the front", cfg->front},
		{"the mountpoint", cfg->mountpoint},
	};
	unsigned int j;

	snprintf(what, sizeof(what), "target %s", target->name);
	for (j = 0; j < ARRAY_SIZE(others); j++) {
		const char *other = others[j].path;

		if (same(path, other))
			return fail_why(ret_why, -EINVAL,
					"%s (%s) is the same as %s (%s)", what,
					path, others[j].name, other);
		if (inside(path, other))
			return fail_why(ret_why, -EINVAL,
					"%s (%s) is inside %s (%s)", what, path,
					others[j].name, other);
		if (inside(other, path))
			return fail_why(ret_why, -EINVAL,
					"%s (%s) is inside %s (%s)",
					others[j].name, other, what, path);
	}
	for (j = 0; j < i; j++) {
		const struct config_target *other = &cfg->targets[j];

		if (same(path, other->path) || inside(path, other->path) ||
		    inside(other->path, path))
			return fail_why(ret_why, -EINVAL,
					"target %s (%s) and target %s (%s) "
					"overlap",
					other->name, other->path, target->name,
					path);
	}
	return 0;
}

int config_check_paths(const struct config *cfg, char **ret_why)
{
	unsigned int i;
	int err;

	if (inside(cfg->mountpoint, cfg->front))
		return fail_why(ret_why, -EINVAL,
				"the mountpoint (%s) is inside the front (%s)",
				cfg->mountpoint, cfg->front);
	if (inside(cfg->front, cfg->mountpoint))
		return fail_why(ret_why, -EINVAL,
				"the front (%s) is inside the mountpoint (%s)",
				cfg->front, cfg->mountpoint);
	for (i = 0; i < cfg->ntargets; i++) {
		err = check_target(cfg, i, ret_why);
		if (err)
			return err;
	}
	return 0;
}
