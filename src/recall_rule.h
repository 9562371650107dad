/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_RECALL_RULE_H
#define TIERFS_RECALL_RULE_H

/*
 * Rules: who may recall, the [recall NAME] sections of the configuration file.
 *
 * In order; the first that fits who asks decides, and after all of them it is
 * RECALL_RESTORE. The set is counted and does not change once it is in use (but
 * for the counters), so that a reload replaces it as a whole while others use
 * the old one.
 *
 * Matching is pure: it knows no processes, only facts.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECALL_COMM_MAX	 15 /* the kernel cuts names of commands to that */
#define RECALL_RULES_MAX 256

enum recall_action {
	RECALL_RESTORE,	 /* as usual */
	RECALL_IN_PLACE, /* never counts, never restores by itself */
	RECALL_REFUSE,	 /* EAGAIN, where data would have to come */
	RECALL_ACTIONS
};
const char *recall_action_name(enum recall_action action);

struct recall_rules;

/* What rules may ask of a process. */
enum recall_needs {
	RECALL_NEEDS_GROUPS = 0x1,
	RECALL_NEEDS_CGROUP = 0x2,
	RECALL_NEEDS_COMMAND = 0x4,
};
/* What has to be known for a verdict (enum recall_needs); the user always. */
unsigned int recall_rules_needs(const struct recall_rules *rules);

/* What is not known fits no key. */
struct recall_facts {
	uint32_t uid;
	const uint32_t *groups;
	size_t ngroups;
	const char *const *cgroups; /* paths: one, or one a v1 hierarchy */
	size_t ncgroups;
	const char *comms[2]; /* of the thread, of its process; or NULL */
};

struct recall_verdict {
	enum recall_action action;
	bool waits; /* O_NONBLOCK is no matter */
	int rule;   /* -1: none fits */
};
void recall_rules_eval(const struct recall_rules *rules,
		       const struct recall_facts *facts,
		       struct recall_verdict *ret);

/* Is it one that opens everything with O_NONBLOCK, lest it hangs at a FIFO, and
 * takes EAGAIN for damage? Those wait, if no rule says otherwise. */
bool recall_means_no_nonblock(const struct recall_facts *facts);

/* ---- counting ------------------------------------------------------------ */

enum recall_count {
	RECALL_OPENS,	/* that a rule decided about */
	RECALL_REFUSED, /* requests that were answered with EAGAIN by it */
	RECALL_COUNTS
};
void recall_rules_count(struct recall_rules *rules, int rule,
			enum recall_count what);

struct recall_info {
	const char *name, *file; /* live as long as the rules */
	unsigned int line;
	enum recall_action action;
	uint64_t counts[RECALL_COUNTS];
};
size_t recall_rules_n(const struct recall_rules *rules); /* NULL: 0 */
void recall_rules_info(const struct recall_rules *rules, size_t rule,
		       struct recall_info *ret);
/* Goes on counting where old did, by name. Before it is in use. */
void recall_rules_inherit(struct recall_rules *rules,
			  const struct recall_rules *old);

/* ---- life ------------------------------------------------------------------ */

/* Reading a file: a section begins, its keys, and the end of all. file is
 * copied. -EINVAL, -ENOMEM with a message that begins with FILE:LINE. */
int recall_rules_begin(struct recall_rules **rules, const char *name,
		       const char *file, unsigned int line, char **ret_why);
int recall_rules_set(struct recall_rules *rules, const char *key,
		     const char *value, unsigned int line, char **ret_why);
/* NULL is allowed: there are none. */
int recall_rules_check(const struct recall_rules *rules, char **ret_why);

struct recall_rules *recall_rules_ref(struct recall_rules *rules); /* or NULL */
void recall_rules_unref(struct recall_rules *rules); /* NULL is allowed */

#endif
