/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CONFIG_PARSE_H
#define TIERFS_CONFIG_PARSE_H

/* What the parts of config*.c share; for them alone. */

#include <stdio.h>

#include "config.h"

/* Where a setting stands: file NULL is the command line. */
struct config_origin {
	const char *file;
	unsigned int line;
};

/* Sets what the table's defaults say. */
int config_defaults(struct config *cfg, char **ret_why);
/* One option; value NULL: given without. -EINVAL, -ENOMEM with a message. */
int config_set(struct config *cfg, const char *key, const char *value,
	       const struct config_origin *from, char **ret_why);
/* The number of an option of ours, below 64; -1: none of ours. */
int config_option_number(const char *key);
/* May the option stand in a file more than once? */
bool config_option_repeats(const char *key);

/* Can -o remount change the option? */
bool config_option_changes(const char *key);

/* The key of that number; NULL: there are no more. */
const char *config_option_key(int number);
/* Do a and b say the same of an option that a mount cannot change? */
bool config_option_same(const char *key, const struct config *a,
			const struct config *b);

/* The targets, out of cfg. */
void config_drop_targets(struct config *cfg);
int config_copy_targets(const struct config *from, struct config *to);
/* Replaces text: by a copy of from, which may be NULL. */
int config_copy_text(const char *from, char **text);
/* Appends KEY[=VALUE] to cfg->given. */
int config_add_given(struct config *cfg, const char *key, const char *value);
int config_copy_given(const struct config *from, struct config *to);
/* The front's last component, if there is no name yet. */
int config_default_name(struct config *cfg, char **ret_why);
/* Where the file of a mount of that name is; -ENOMEM. */
int config_default_file(const char *name, char **ret);

/* What holds of several values together. */
int config_check_values(const struct config *cfg, char **ret_why);

void config_help(FILE *out);
void config_version(FILE *out);

/* A kind of sections, [KIND NAME] or [KIND] with an empty name, beside [tierfs].
 * Sections come in order; begin, then set for each key, then end. On -errno with
 * a message ("FILE:LINE: [KIND NAME] KEY = VALUE: why") nothing more of the file
 * is read. config_file.c has the table. */
struct config_section {
	const char *kind;
	int (*begin)(struct config *cfg, const char *name,
		     const struct config_origin *from, char **ret_why);
	int (*set)(struct config *cfg, const char *key, const char *value,
		   const struct config_origin *from, char **ret_why);
	int (*end)(struct config *cfg, char **ret_why); /* or NULL */
};

extern const struct config_section config_rule_section;
extern const struct config_section config_recall_section;

/* Makes cfg->rules, and cfg->promote, of what cfg says now. */
int config_make_rules(struct config *cfg, char **ret_why);

/* Reads path into cfg. -ENOENT: there is none, without a message. */
int config_read_file(struct config *cfg, const char *path, char **ret_why);

/* path without symlinks as far as it exists, absolute, without "." and "..". */
int config_absolute(const char *path, char **ret);
/* Refuses a front, mountpoint and targets that overlap. */
int config_check_paths(const struct config *cfg, char **ret_why);

#endif
