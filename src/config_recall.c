/* SPDX-License-Identifier: MIT */
/*
 * Sections [recall NAME] of the configuration file.
 */
#include <errno.h>

#include "config_parse.h"
#include "recall_rule.h"
#include "util.h"

static int begin(struct config *cfg, const char *name,
		 const struct config_origin *from, char **ret_why)
{
	if (!config_name_valid(name))
		return fail_why(
			ret_why, -EINVAL,
			"%s:%u: [recall %s]: a rule needs a name: 1 to "
			"63 of A-Z a-z 0-9 . _ -, the first none of . -",
			from->file, from->line, name);
	return recall_rules_begin(&cfg->recall, name, from->file, from->line,
				  ret_why);
}

static int set_key(struct config *cfg, const char *key, const char *value,
		   const struct config_origin *from, char **ret_why)
{
	return recall_rules_set(cfg->recall, key, value, from->line, ret_why);
}

static int end(struct config *cfg, char **ret_why)
{
	return recall_rules_check(cfg->recall, ret_why);
}

const struct config_section config_recall_section = {
	.kind = "recall", .begin = begin, .set = set_key, .end = end};
