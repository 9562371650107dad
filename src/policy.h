/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_POLICY_H
#define TIERFS_POLICY_H

/*
 * The policy: what moves by itself, when, and why.
 *
 * It judges the catalog's rows by the rules, and one thread does what they say:
 * it copies files that are due, keeps enough of them copied that room can be
 * made at once, makes room when the front is too full, and brings back what got
 * hot. It changes states only through tier.h, and never waits for a target: a
 * request of its own that hangs there holds up nothing else.
 *
 * With policy=manual the thread sleeps, but rows are judged, and why and run can
 * be asked for.
 *
 * Functions are for any thread but those of the tier's callbacks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "catalog.h"
#include "policy_rule.h"
#include "policy_window.h"
#include "tier.h"

struct policy;

/* ---- life ----------------------------------------------------------------- */

/* What may change while it works. */
struct policy_setup {
	struct policy_rules *rules;  /* it takes a reference */
	struct policy_windows hours; /* for copying */
	double promote;		     /* as of struct config */
	double breaker;		     /* the same */
	const char *file;	     /* where the rules are from, or NULL */
};

/* The tier and the catalog outlive it. -ENOMEM, -EAGAIN: no thread. */
int policy_start(struct tier *tier, struct catalog *catalog,
		 const struct policy_setup *setup, struct policy **ret);
/* Other rules: all rows are judged anew. -ENOMEM: the old ones stay. */
int policy_change(struct policy *policy, const struct policy_setup *setup);
/* The tier's tunables have changed. */
void policy_poke(struct policy *policy);
/* Begins nothing any more, and cancels what it has asked for, without waiting
 * for it. Before tier_quiesce(); nobody asks any more. */
void policy_stop(struct policy *policy);
/* After tier_quiesce(). NULL is allowed. */
void policy_free(struct policy *policy);

/* ---- what it does ------------------------------------------------------------ */

enum policy_doing {
	POLICY_MANUAL,	  /* nothing by itself */
	POLICY_IDLE,	  /* nothing is to be done */
	POLICY_RELEASING, /* makes room */
	POLICY_MIGRATING,
	POLICY_RESTORING,
	POLICY_WINDOW,	  /* something is due, and waits for its hour */
	POLICY_GATHERING, /* the same, for more of its kind */
	POLICY_TARGET,	  /* no target takes anything */
	POLICY_BREAKER,	  /* too much failed */
	POLICY_DRAINING,  /* tierctl drain */
	POLICY_BY_HAND,	  /* tierctl policy run */
};
const char *policy_doing_name(enum policy_doing doing);

#define POLICY_HELD_KINDS 16
#define POLICY_REASON_LEN 96

/* Files that cannot be moved now, by reason. */
struct policy_held {
	char reason[POLICY_REASON_LEN];
	uint64_t files, bytes;
};

struct policy_moved {
	uint64_t files, bytes; /* since the mount */
};

struct policy_status {
	bool automatic;
	enum policy_strategy strategy;
	char file[256]; /* the rules', "" if there is none */
	enum policy_doing doing;
	char detail[160]; /* why it does not more, or "" */
	struct policy_moved migrated, released, restored;
	uint64_t refused, failed; /* attempts */
	struct policy_held held[POLICY_HELD_KINDS];
	unsigned int nheld;
	uint64_t in_flight;
	int64_t last_pass; /* ns since the epoch when it did something; 0 */
	int64_t next_due;  /* the same; INT64_MAX: nothing is */
	int64_t retry_at;  /* the breaker's; 0: it is closed */
};
void policy_status(struct policy *policy, struct policy_status *ret);

/* ---- why --------------------------------------------------------------------- */

struct policy_obstacle {
	const char *kind; /* "open", "pinned", ...: a word, for scripts */
	char detail[160];
};

#define POLICY_OBSTACLES 20

struct policy_why {
	enum spill_state state;
	struct rule_name rule; /* its strings are the rules' */
	struct policy_rules *rules;
	bool ranked;
	uint64_t rank; /* so many go before it */
	struct policy_obstacle obstacles[POLICY_OBSTACLES];
	unsigned int nobstacles;
	char next[200]; /* what happens, and when */
};
/* Who asks: one thread's, for some questions. -ENOMEM, -EIO. */
struct policy_eye;
int policy_ask_begin(struct policy *policy, struct policy_eye **ret);
void policy_ask_end(struct policy_eye *eye);
/* Of a regular file; may block on the front. To be ended with
 * policy_why_end(). -errno as of tier_file_status(). */
int policy_why(struct policy_eye *eye, struct node *node,
	       struct policy_why *ret);
void policy_why_end(struct policy_why *why);

/* ---- by hand ------------------------------------------------------------------- */

enum policy_cause {
	CAUSE_ROOM,    /* the front is too full */
	CAUSE_RELEASE, /* its rule says when to drop the data */
	CAUSE_DUE,     /* its rule says when to copy it */
	CAUSE_AHEAD,   /* so that room can be made at once */
	CAUSE_HOT,     /* it is used much */
	POLICY_CAUSES
};
const char *policy_cause_text(enum policy_cause cause);

struct policy_done {
	enum tier_op op;
	enum policy_cause cause;
	const char *path; /* below the root */
	const char *rule;
	uint64_t size;
	/* If it was done. */
	enum tier_result result;
	const char *reason;
	uint64_t bytes; /* moved */
};

struct policy_runner {
	bool dry; /* says what would be done */
	/* For each file, in the order in which they were chosen. */
	void (*each)(void *arg, const struct policy_done *done);
	/* Now and then: true, it is to stop. */
	bool (*stop)(void *arg);
	void *arg;
};

/*
 * One pass: all that is due, and room, by the rules of now, at most
 * POLICY_PASS_MAX files. Does not ask for the hour, nor what failed before, and
 * closes the breaker. A dry one says what the other would do. 0, 1: there is
 * more. -EBUSY: another is under way; -ECANCELED; -ENOMEM; -EIO.
 */
#define POLICY_PASS_MAX 100000
int policy_run(struct policy *policy, const struct policy_runner *runner);

#endif
