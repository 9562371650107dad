/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CONFIG_RULE_H
#define TIERFS_CONFIG_RULE_H

/* The keys of a rule, for config_rule*.c alone. */

#include "policy_rule_impl.h"

struct config_rule_key {
	const char *name;
	/* NULL, or what is wrong, a constant. value is not empty. */
	const char *(*set)(struct policy_rule *rule, const char *value);
	bool acts, moves;
};

/* Fewer than 32; the last has no name. */
extern const struct config_rule_key config_rule_keys[];

#endif
