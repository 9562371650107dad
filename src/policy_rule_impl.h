/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_POLICY_RULE_IMPL_H
#define TIERFS_POLICY_RULE_IMPL_H

/*
 * What rules are made of: for who parses them (config_rule.c) and who evaluates
 * them (policy_rule.c).
 *
 * A rule set is what the file says. Rules are a set with what else a verdict
 * depends on, which can change without the file.
 */

#include <stdatomic.h>
#include <stddef.h>

#include "policy_rule.h"
#include "tierfs/format.h"

struct policy_glob;

/* Counted from what the verdict goes by. */
enum rule_time {
	RULE_ACCESS,	   /* the last use: access or modification */
	RULE_MODIFICATION, /* not later than the change, so not a forged one */
	RULE_CHANGE,
	RULE_TIMES
};

/* Any of them; NULL: all values fit. */
struct rule_ranges {
	struct rule_range {
		int64_t min, max; /* both are in it */
	} * range;
	size_t n;
};

/* Temperatures above the one, up to the other. */
struct rule_heats {
	struct rule_heat {
		double above, upto;
	} * range;
	size_t n;
};

struct rule_globs {
	struct policy_glob **glob;
	size_t n;
};

struct rule_ids {
	uint32_t *id;
	size_t n;
};

#define RULE_XATTR_VALUE_MAX 256

struct rule_xattrs {
	struct rule_xattr {
		char *name;
		char *value; /* NULL: any */
	} * xattr;
	size_t n;
};

enum rule_when_kind {
	WHEN_DEFAULT, /* as without rules */
	WHEN_NEEDED,  /* when room is */
	WHEN_NEVER,
	WHEN_AFTER,
};

struct rule_when {
	enum rule_when_kind kind;
	enum rule_time since;
	int64_t delay; /* ns */
};

struct policy_rule {
	char name[TIERFS_NAME_MAX];
	unsigned int line;
	/* what it fits: all that are given */
	struct rule_globs path, base;
	struct rule_ranges size, age[RULE_TIMES];
	struct rule_ids uid, gid;
	struct rule_heats heat;
	struct rule_xattrs xattr;
	/* what it says */
	bool keep;
	struct rule_when migrate, release;
	bool restores; /* read_in_place=no */
	char target[TIERFS_NAME_MAX];
	unsigned int target_line;
};

struct policy_rule_set {
	atomic_uint refs;
	char *file;
	struct policy_rule *rules;
	size_t n;
};

struct policy_rule_set *policy_rule_set_ref(struct policy_rule_set *set);
void policy_rule_set_unref(struct policy_rule_set *set); /* or NULL */
/* Are there no conditions? */
bool policy_rule_fits_all(const struct policy_rule *rule);

struct policy_params {
	enum policy_strategy strategy;
	int64_t half_life_ns;
	int64_t migrate_age_ns; /* age */
	int64_t migrate_size;	/* what is smaller goes last */
	double cold;		/* heat */
	const char *targets[TIERFS_TARGETS_MAX];
	unsigned int ntargets;
};

/* How long after the last change the default rule of burst migrates. */
#define POLICY_BURST_DELAY (30 * NSEC_PER_SEC)

/* set NULL: none. -ENOENT: there is no target of the name that rule
 * *ret_rule says. -ENOMEM. */
int policy_rules_new(struct policy_rule_set *set,
		     const struct policy_params *params,
		     struct policy_rules **ret, size_t *ret_rule);

#endif
