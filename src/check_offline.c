/* SPDX-License-Identifier: MIT */
/*
 * A front that no daemon serves, opened to be checked.
 *
 * It is locked as by a daemon, so that none comes meanwhile. Nothing that a
 * crash left is recovered. Where the targets are is not in the front: it is
 * given, or as fstab has it, or the configuration file.
 */
#include "check_offline.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "config.h"
#include "front.h"
#include "journal.h"
#include "tierfs/target.h"
#include "util.h"

struct check_offline {
	struct front *front;
	struct journal *journal;
	struct target *targets[TIERFS_TARGETS_MAX];
	char *paths[TIERFS_TARGETS_MAX];
	char *journal_why;
};

/* ---- where the targets are ------------------------------------------------- */

static int target_number(const struct front *front, const char *name,
			 size_t len)
{
	for (unsigned int i = 0; i < front->ntargets; i++)
		if (strlen(front->targets[i].name) == len &&
		    !strncmp(front->targets[i].name, name, len))
			return (int)i;
	return -1;
}

static int set_path(struct check_offline *o, const char *name, size_t len,
		    const char *path)
{
	int i = target_number(o->front, name, len);

	if (i < 0)
		return -ENOENT;
	free(o->paths[i]);
	o->paths[i] = strdup(path);
	return o->paths[i] ? 0 : -ENOMEM;
}

/* The options of an fstab line for this front, to be freed, or NULL. */
static char *fstab_options(const char *front)
{
	FILE *file = setmntent("/etc/fstab", "re");
	struct mntent *entry;
	char *ret = NULL;

	while (file && !ret && (entry = getmntent(file)))
		if (!strcmp(entry->mnt_fsname, front) &&
		    (!strcmp(entry->mnt_type, "fuse.tierfs") ||
		     !strcmp(entry->mnt_type, "tierfs")))
			ret = strdup(entry->mnt_opts);
	if (file)
		endmntent(file);
	return ret;
}

/* As a mount would find them; what cannot be found is not given. */
static void configured(struct check_offline *o, const char *path)
{
	_cleanup_free_ char *options = fstab_options(path);
	_cleanup_free_ char *why = NULL;
	struct config *config = NULL;
	char name[TIERFS_NAME_MAX + 8];
	char *argv[] = {"tierfs", "-o",		options ? options : name,
			"--",	  (char *)path, (char *)path,
			NULL};

	snprintf(name, sizeof(name), "name=%s", o->front->name);
	if (config_parse(ARRAY_SIZE(argv) - 1, argv, &config, &why))
		return;
	for (unsigned int i = 0; i < config->ntargets; i++)
		set_path(o, config->targets[i].name,
			 strlen(config->targets[i].name),
			 config->targets[i].path);
	config_free(config);
}

static int given(struct check_offline *o, char *const *targets, char **ret_why)
{
	for (; targets && *targets; targets++) {
		const char *eq = strchr(*targets, '=');
		_cleanup_free_ char *path = NULL;
		int err;

		if (!eq)
			return fail_why(ret_why, -EINVAL,
					"target %s is not NAME=DIR", *targets);
		path = realpath(eq + 1, NULL);
		err = set_path(o, *targets, (size_t)(eq - *targets),
			       path ? path : eq + 1);
		if (err == -ENOENT)
			return fail_why(
				ret_why, err, "the front %s has no target %.*s",
				o->front->path, (int)(eq - *targets), *targets);
		if (err)
			return err;
	}
	return 0;
}

/* ---- opening ----------------------------------------------------------------- */

static int open_targets(struct check_offline *o, char **ret_why)
{
	for (unsigned int i = 0; i < o->front->ntargets; i++) {
		const struct target_config config = {
			.name = o->front->targets[i].name,
			.path = o->paths[i],
			.fsname = o->front->name,
			.front_uuid = o->front->uuid,
			.uuid = o->front->targets[i].uuid,
		};
		int err = o->paths[i] ? target_open(&config, &o->targets[i],
						    ret_why)
				      : 0;

		if (err)
			return err;
	}
	return 0;
}

/* A journal that cannot be read is a finding, not an end. */
static void open_journal(struct check_offline *o)
{
	if (faccessat(o->front->meta_fd, "journal.db", F_OK, 0) < 0)
		return;
	if (o->front->took_over)
		journal_ignore_locks();
	if (journal_open(o->front->meta_fd, &o->journal, &o->journal_why))
		o->journal = NULL;
	if (!o->journal && !o->journal_why)
		o->journal_why = strdup("journal.db cannot be read");
}

int check_offline_open(const char *path, char *const *targets,
		       struct check_offline **ret, char **ret_why)
{
	_cleanup_(check_offline_closep) struct check_offline *o = NULL;
	_cleanup_free_ char *real = realpath(path, NULL);
	char name[TIERFS_NAME_MAX];
	int err;

	if (!real)
		return fail_why(ret_why, -errno, "%s: %s", path,
				strerror(errno));
	o = calloc(1, sizeof(*o));
	if (!o)
		return -ENOMEM;
	err = front_known_name(real, name, ret_why);
	if (!err)
		err = front_open_wait(real, name, &o->front, ret_why);
	if (err)
		return err;
	if (!targets || !*targets)
		configured(o, real);
	err = given(o, targets, ret_why);
	if (!err)
		err = open_targets(o, ret_why);
	if (err)
		return err;
	open_journal(o);
	*ret = steal_ptr(&o);
	return 0;
}

void check_offline_parts(struct check_offline *o, struct check_parts *parts)
{
	parts->front = o->front;
	parts->targets = o->targets;
	parts->journal = o->journal;
	parts->journal_why = o->journal_why;
	parts->tier = NULL;
}

void check_offline_close(struct check_offline *o)
{
	if (!o)
		return;
	journal_close(o->journal);
	for (unsigned int i = 0; i < TIERFS_TARGETS_MAX; i++) {
		target_close(o->targets[i]);
		free(o->paths[i]);
	}
	front_close(o->front);
	free(o->journal_why);
	free(o);
}
