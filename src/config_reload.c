/* SPDX-License-Identifier: MIT */
/*
 * The configuration file, read again while mounted.
 *
 * The options of the command line are applied over it once more, as at the
 * mount, so that they win. What cannot change must come out as it was: one that
 * does not refuses the whole. Nothing here looks at a target, which may hang.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "config_parse.h"
#include "util.h"

static void config_freep(struct config **cfg)
{
	config_free(*cfg);
}

static int cannot_change(const struct config *to, const char *key,
			 char **ret_why)
{
	return fail_why(ret_why, -EINVAL,
			"%s: %s: cannot be changed while mounted", to->file,
			key);
}

static bool gave_spill(const struct config *cfg)
{
	for (char **text = cfg->given; text && *text; text++)
		if (!strncmp(*text, "spill=", 6))
			return true;
	return false;
}

static bool same_targets(const struct config *a, const struct config *b)
{
	if (a->ntargets != b->ntargets)
		return false;
	for (unsigned int i = 0; i < a->ntargets; i++)
		if (strcmp(a->targets[i].name, b->targets[i].name) ||
		    strcmp(a->targets[i].given, b->targets[i].given))
			return false;
	return true;
}

/* The options that were given beside the file. */
static int apply_given(const struct config *cfg, struct config *to,
		       char **ret_why)
{
	const struct config_origin origin = {NULL};
	int err = 0;

	for (char **text = cfg->given; !err && text && *text; text++) {
		_cleanup_free_ char *key = strdup(*text);
		char *value = key ? strchr(key, '=') : NULL;

		if (!key)
			return -ENOMEM;
		if (value)
			*value++ = '\0';
		/* Relative paths are of where it was mounted. */
		if (strcmp(key, "spill") && strcmp(key, "config"))
			err = config_set(to, key, value, &origin, ret_why);
	}
	return err ? err : config_copy_given(cfg, to);
}

static int read_again(const struct config *cfg, struct config *to,
		      char **ret_why)
{
	int err = config_defaults(to, ret_why);

	if (!err)
		err = cfg->file ? config_copy_text(cfg->file, &to->file)
				: config_default_file(cfg->name, &to->file);
	if (!err)
		err = config_copy_text(cfg->front, &to->front);
	if (!err)
		err = config_copy_text(cfg->mountpoint, &to->mountpoint);
	if (err)
		return err;
	to->reloading = true;
	err = config_read_file(to, to->file, ret_why);
	to->reloading = false;
	if (err == -ENOENT)
		return fail_why(ret_why, err, "configuration file %s: %s",
				to->file, strerror(ENOENT));
	if (!err)
		err = apply_given(cfg, to, ret_why);
	return err ? err : config_default_name(to, ret_why);
}

/* mounted is what the kernel was told of ro and noatime then. */
static int check_fixed(const struct config *mounted, const struct config *cfg,
		       const struct config *to, char **ret_why)
{
	static const char *const kernels[] = {"ro", "noatime"};
	const char *key;

	if (!gave_spill(cfg) && !same_targets(cfg, to))
		return cannot_change(to, "spill", ret_why);
	for (int i = 0; (key = config_option_key(i)); i++)
		if (!config_option_changes(key) && strcmp(key, "spill") &&
		    strcmp(key, "config") && !config_option_same(key, cfg, to))
			return cannot_change(to, key, ret_why);
	for (size_t i = 0; i < ARRAY_SIZE(kernels); i++)
		if (!config_option_same(kernels[i], mounted, to))
			return fail_why(ret_why, -EINVAL,
					"%s: %s: changed by mount -o remount "
					"alone",
					to->file, kernels[i]);
	if (strcmp(cfg->passed ? cfg->passed : "",
		   to->fuse_opts ? to->fuse_opts : ""))
		return cannot_change(to, "mount options", ret_why);
	return 0;
}

int config_reload(const struct config *mounted, const struct config *cfg,
		  struct config **ret, char **ret_why)
{
	_cleanup_(config_freep) struct config *to = calloc(1, sizeof(*to));
	int err;

	if (!to)
		return -ENOMEM;
	err = read_again(cfg, to, ret_why);
	if (!err)
		err = check_fixed(mounted, cfg, to, ret_why);
	if (err)
		return err;
	to->foreground = cfg->foreground;
	to->ro = cfg->ro;
	to->noatime = cfg->noatime;
	config_drop_targets(to);
	err = config_copy_targets(cfg, to);
	if (!err)
		err = config_copy_text(cfg->fuse_opts, &to->fuse_opts);
	if (!err)
		err = config_copy_text(cfg->passed, &to->passed);
	if (!err)
		err = config_check_values(to, ret_why);
	if (!err)
		err = config_make_rules(to, ret_why);
	if (err)
		return err;
	*ret = steal_ptr(&to);
	return 0;
}
