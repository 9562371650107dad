/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_POLICY_RULE_H
#define TIERFS_POLICY_RULE_H

/*
 * Rules: which files go, when, and in which order.
 *
 * Sections of the configuration file in order; the first that matches decides,
 * and after all of them the default rule (migrate_age, migrate_size) does. The
 * set is immutable and counted, so that a reload replaces it as a whole while
 * others use the old one.
 *
 * Evaluating is pure: it knows no files, only facts, and says also when the
 * verdict may change by the mere passing of time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "heat.h"
#include "spill_ea.h"

struct policy_rules;

enum policy_strategy {
	STRATEGY_AGE,	/* cold and large goes; by last access */
	STRATEGY_BURST, /* all is copied soon after it is closed, and stays until
			 * room is needed; by last access */
	STRATEGY_HEAT,	/* by temperature */
};

/* Files that are small (migrate_size) and that no rule's migrate is about have
 * ranks from here on: all others go before them. */
#define RANK_SMALL (INT64_C(1) << 62)

struct rule_facts {
	const char *path; /* below the root, "/" first */
	uint64_t size;
	int64_t access, mtime, ctime; /* ns since the epoch */
	uint32_t uid, gid;
	int64_t heat;
	/* The value of an xattr: its length, -ENODATA, other -errno (no match);
	 * with size 0 the length alone, as getxattr(2). NULL: there are none. */
	int (*xattr)(void *arg, const char *name, void *buf, size_t size);
	void *arg;
};

/* A rule as `tierctl why` shows it. */
struct rule_name {
	const char *name; /* "default" for the last */
	const char *file; /* NULL: from an option or the default */
	unsigned int line;
};

struct rule_verdict {
	struct rule_name rule; /* strings live as long as the rules */
	bool keep;	       /* never moved by the policy */
	int64_t migrate_at;    /* ns since the epoch; INT64_MAX: not on its own,
				* only when room is needed */
	int64_t release_at;    /* released then though there is room; INT64_MAX:
				* only when room is needed */
	int64_t rank;	       /* the lower the sooner it goes; INT64_MAX: never
				* to make room, neither migrated nor released;
				* from RANK_SMALL on: not ahead of need */
	int64_t changes_at;    /* the verdict may be another from then on */
	bool read_in_place;    /* false: the first read restores */
	int target; /* number in the configuration; -1: the first that
				* has room */
};

/* What fits at now. Total: always a verdict. */
void policy_rules_eval(const struct policy_rules *rules,
		       const struct rule_facts *facts, int64_t now,
		       struct rule_verdict *ret);

size_t policy_rules_count(const struct policy_rules *rules); /* no default */
enum policy_strategy policy_rules_strategy(const struct policy_rules *rules);
int64_t policy_rules_half_life(const struct policy_rules *rules); /* ns */

/* Equal for sets that judge alike, over mounts. */
uint64_t policy_rules_fingerprint(const struct policy_rules *rules);

struct policy_rules *policy_rules_ref(struct policy_rules *rules);
void policy_rules_unref(struct policy_rules *rules); /* NULL is allowed */

#endif
