/* SPDX-License-Identifier: MIT */
/*
 * What -o remount asks for, over what a mount was told.
 *
 * mount(8) hands over what it finds in fstab and mountinfo as well, so an
 * option that cannot change is no error when it says what is so already.
 */
#include "config_parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "policy_rule_impl.h"
#include "util.h"

static void config_freep(struct config **cfg)
{
	config_free(*cfg);
}

static int copy(const struct config *from, struct config **ret)
{
	_cleanup_(config_freep) struct config *to = calloc(1, sizeof(*to));
	int err;

	if (!to)
		return -ENOMEM;
	*to = *from;
	to->front = to->mountpoint = to->file = to->fuse_opts = NULL;
	to->passed = NULL;
	to->given = NULL;
	to->remount = NULL;
	to->rules = NULL;
	to->rule_set = policy_rule_set_ref(from->rule_set);
	to->ntargets = 0;
	recall_rules_ref(to->recall);
	err = config_copy_text(from->front, &to->front);
	if (!err)
		err = config_copy_text(from->mountpoint, &to->mountpoint);
	if (!err)
		err = config_copy_text(from->file, &to->file);
	if (!err)
		err = config_copy_text(from->fuse_opts, &to->fuse_opts);
	if (!err)
		err = config_copy_text(from->passed, &to->passed);
	if (!err)
		err = config_copy_given(from, to);
	if (!err)
		err = config_copy_targets(from, to);
	if (err)
		return err;
	*ret = steal_ptr(&to);
	return 0;
}

/* Has a each target of b? */
static bool has_targets(const struct config *a, const struct config *b)
{
	unsigned int i, j;

	for (i = 0; i < b->ntargets; i++) {
		for (j = 0; j < a->ntargets; j++)
			if (!strcmp(a->targets[j].name, b->targets[i].name) &&
			    !strcmp(a->targets[j].path, b->targets[i].path))
				break;
		if (j == a->ntargets)
			return false;
	}
	return true;
}

bool config_option_same(const char *key, const struct config *a,
			const struct config *b)
{
	if (!strcmp(key, "name"))
		return !strcmp(a->name, b->name);
	if (!strcmp(key, "config"))
		return a->file && b->file && !strcmp(a->file, b->file);
	if (!strcmp(key, "passthrough"))
		return a->passthrough == b->passthrough;
	if (!strcmp(key, "catalog"))
		return a->catalog == b->catalog;
	if (!strcmp(key, "max_threads"))
		return a->max_threads == b->max_threads;
	if (!strcmp(key, "io_uring"))
		return a->io_uring == b->io_uring;
	if (!strcmp(key, "allow_other"))
		return a->allow_other == b->allow_other;
	if (!strcmp(key, "debug"))
		return a->debug == b->debug;
	if (!strcmp(key, "walk_rate"))
		return a->walk_rate == b->walk_rate;
	if (!strcmp(key, "ro"))
		return a->ro == b->ro;
	if (!strcmp(key, "noatime"))
		return a->noatime == b->noatime;
	/* spill: all of them, when all are known; and that no later one is
	 * another's path. */
	return !strcmp(key, "spill") && has_targets(a, b);
}

/* Is text, KEY=VALUE, one of the options in list? */
static bool in_list(const char *list, const char *text)
{
	size_t len = strlen(text);
	const char *at = list;

	while (at && (at = strstr(at, text))) {
		if ((at == list || at[-1] == ',') &&
		    (!at[len] || at[len] == ','))
			return true;
		at++;
	}
	return false;
}

/* What the kernel shows of every FUSE mount: is it an option of that kind, and
 * as it is? */
static bool shown(const char *key, const char *value, bool *ret_same)
{
	char text[16];

	*ret_same = !value;
	if (!strcmp(key, "default_permissions") || !strcmp(key, "seclabel"))
		return true;
	if (strcmp(key, "user_id") && strcmp(key, "group_id"))
		return false;
	snprintf(text, sizeof(text), "%u",
		 key[0] == 'u' ? geteuid() : getegid());
	*ret_same = value && !strcmp(value, text);
	return true;
}

/* Sets one option in to; from is what the mount has. */
static int set_one(const struct config *from, struct config *to,
		   const char *key, const char *value, char **ret_why)
{
	const struct config_origin origin = {NULL};
	size_t len = to->fuse_opts ? strlen(to->fuse_opts) : 0;
	bool is_same;
	int err;

	if (!shown(key, value, &is_same)) {
		if (value && *value != '/' &&
		    (!strcmp(key, "config") ||
		     (!strcmp(key, "spill") && !strstr(value, "=/"))))
			return fail_why(ret_why, -EINVAL,
					"option %s=%s: not an absolute path",
					key, value);
		err = config_set(to, key, value, &origin, ret_why);
		if (err)
			return err;
		if (config_option_number(key) >= 0)
			is_same = config_option_changes(key) ||
				  config_option_same(key, from, to);
		else /* mount(8)'s flags may change; what has a value not */
			is_same = !value || !to->fuse_opts ||
				  strlen(to->fuse_opts) == len ||
				  in_list(from->fuse_opts,
					  to->fuse_opts + len + (len > 0));
	}
	if (!is_same)
		return fail_why(ret_why, -EINVAL,
				"option %s%s%s: cannot be changed while "
				"mounted",
				key, value ? "=" : "", value ? value : "");
	return 0;
}

static int set_all(const struct config *from, struct config *to,
		   char *const *options, char **ret_why)
{
	bool spilled = false;
	int err;

	for (; *options; options++) {
		_cleanup_free_ char *key = strdup(*options);
		char *value = key ? strchr(key, '=') : NULL;

		if (!key)
			return -ENOMEM;
		if (value)
			*value++ = '\0';
		if (!strcmp(key, "spill") && !spilled) {
			config_drop_targets(to);
			spilled = true;
		}
		err = set_one(from, to, key, value, ret_why);
		/* ro and what else the kernel keeps is not the file's. */
		if (!err && config_option_changes(key) && strcmp(key, "ro") &&
		    strcmp(key, "noatime"))
			err = config_add_given(to, key, value);
		if (err)
			return err;
	}
	if (!has_targets(to, from))
		return fail_why(ret_why, -EINVAL,
				"option spill: the targets cannot be changed "
				"while mounted");
	err = config_check_values(to, ret_why);
	return err ? err : config_make_rules(to, ret_why);
}

int config_remount(const struct config *cfg, char *const *options,
		   struct config **ret, char **ret_why)
{
	_cleanup_(config_freep) struct config *to = NULL;
	int err = copy(cfg, &to);

	if (!err)
		err = set_all(cfg, to, options, ret_why);
	if (err)
		return err;
	/* What libfuse was told was told once. */
	free(to->fuse_opts);
	to->fuse_opts = NULL;
	err = config_copy_text(cfg->fuse_opts, &to->fuse_opts);
	if (err)
		return err;
	*ret = steal_ptr(&to);
	return 0;
}
