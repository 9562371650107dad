/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_POLICY_INT_H
#define TIERFS_POLICY_INT_H

/* What the policy's files share. Nobody else includes this. */

#include <bsd/sys/tree.h>
#include <pthread.h>
#include <stdatomic.h>
#include <urcu/list.h>

#include "policy.h"
#include "policy_breaker.h"
#include "policy_hold.h"
#include "util.h"

#define NSEC_PER_MSEC 1000000LL
#define MINUTE_NS     (60 * NSEC_PER_SEC)

/* In flight at once. Many small files share a sync, so there are many. */
#define ROOM_FILES 6144
#define COPY_FILES 4096
#define COPY_BYTES (2ULL << 30)
#define BACK_FILES 256
#define BACK_BYTES (1ULL << 30)

/* -- policy_look.c: a file, as it is now ------------------------------------- */

/* The rules that judge, and whose they are: the catalog's thread has it. */
struct policy_judge {
	struct policy *policy;
	struct policy_rules *rules;
	double promote;
};

/* Who looks: one thread's. */
struct policy_eye {
	struct policy *policy;
	struct policy_rules *rules; /* a reference */
	double promote;
	struct catalog_reader *rows, *paths;
	int64_t now;
	uint64_t home; /* whose path is kept */
	char *home_path;
	bool home_pinned;
};

struct policy_look {
	struct node *node;
	char *path; /* below the root */
	struct tier_file_status status;
	struct stat st;
	int64_t access;
	bool hot; /* released, and to be brought back */
	struct rule_verdict verdict;
};

int policy_eye_open(struct policy *policy, struct policy_eye *ret);
/* The rules and the time of now. */
void policy_eye_blink(struct policy_eye *eye);
void policy_eye_close(struct policy_eye *eye);
/* -ESTALE: it is not where the row says; -errno. */
int policy_look_row(struct policy_eye *eye, const struct catalog_row *row,
		    struct policy_look *ret);
/* One that is known, heat and row of which may be. */
int policy_look_node(struct policy_eye *eye, struct node *node,
		     const struct catalog_row *row, struct policy_look *ret);
void policy_look_end(struct policy_look *look);
/* What the judge fills in. hot: it is, should it be released; held: not before. */
void policy_judge_row(const struct rule_verdict *verdict, int64_t now, bool hot,
		      int64_t held, struct catalog_row *row);
/* Is it to be brought back, if it is released? */
bool policy_is_hot(const struct policy_rules *rules, double promote,
		   int64_t heat, int64_t now);
/* For catalog_judge(). */
void policy_judge(void *arg, const char *path, struct catalog_row *row);
void policy_judged(void *arg, int64_t due);

/* -- policy_pick.c: choosing --------------------------------------------------- */

struct policy_run;

/* What is to be done with a file, from the choice to its end. */
struct policy_step {
	RB_ENTRY(policy_step) by_key; /* of a plan, then of what is in flight */
	struct cds_list_head link;
	uint64_t key;
	struct front_handle handle;
	enum spill_state was; /* its row says */
	struct node *node;
	char *path;
	char rule[64];
	enum tier_op op;
	enum policy_cause cause;
	uint64_t size;
	uint64_t weight; /* bytes to copy, or to be free on the front */
	uint8_t only;	 /* the target's number + 1, or 0 */
	/* While it is done. */
	struct tier_request req;
	struct policy *policy;
	struct policy_run *run;
	bool submitted, finished;
	uint64_t job_id;
};
RB_HEAD(policy_steps, policy_step);
RB_PROTOTYPE(policy_steps, policy_step, by_key, policy_step_cmp)

struct policy_plan {
	struct cds_list_head list;
	struct policy_steps steps;
	size_t n;
	uint64_t copied; /* bytes that will be in objects and on the front */
	uint64_t freed;	 /* on the front */
};

struct policy_limit {
	size_t files;
	uint64_t bytes;
};

void policy_plan_init(struct policy_plan *plan);
void policy_plan_clear(struct policy_plan *plan);
void policy_step_free(struct policy_step *step);

/* Where a search by rank has come to. */
struct policy_cursor {
	int64_t after;
	size_t skip;   /* so many after that, where it is said */
	int64_t again; /* it has come to the end: not before; monotonic */
	int64_t pause; /* that long */
};

struct policy_pick {
	struct policy_eye *eye;
	struct policy_plan *plan;
	bool by_hand;	  /* what is held is tried all the same */
	bool small;	  /* by rank: those from RANK_SMALL on, too */
	size_t rows_most; /* to be looked at in one call */
	uint64_t least;	  /* of the coldest: bytes; smaller ones only count */
	/* Of the call. */
	enum tier_op op;
	enum policy_cause cause;
	struct policy_limit limit; /* of weight; one file at least */
	struct policy_limit taken;
	size_t rows, page, skip;
	int64_t last; /* rank of the last row */
	size_t ties;  /* rows of that rank */
	bool more;    /* it stopped because of a limit */
	int err;
};

/* Chooses the coldest that op can be done with, that are not in flight and not
 * held, from after on; the first pick->skip of those are passed over. */
int policy_pick_coldest(struct policy_pick *pick, enum tier_op op,
			enum policy_cause cause, int64_t after,
			struct policy_limit limit);
/* Chooses what is due for that cause. */
int policy_pick_due(struct policy_pick *pick, enum policy_cause cause,
		    struct policy_limit limit);
/* All that a pass by hand does, in order. */
int policy_pick_all(struct policy_pick *pick);

/* What is due of a file: false, nothing. */
bool policy_due_op(const struct policy_look *look, int64_t now,
		   enum tier_op *op, enum policy_cause *cause);

/* What the front is like, and what it should be. */
struct policy_room {
	uint64_t used, total;
	double percent, high, low;
	uint64_t over;	/* bytes in use above low */
	uint64_t spare; /* bytes free below low */
	bool full;	/* above high */
	/* Bytes that have to be copied for a release from high to low to need
	 * none, and how many are. */
	uint64_t ahead, copied;
};
int policy_room(struct policy *policy, struct policy_room *ret);
/* The same, of that use. */
void policy_room_of(struct policy_room *room, uint64_t used, uint64_t total,
		    double high, double low, uint64_t copied);

/* -- policy_exec.c: doing -------------------------------------------------------- */

/* Who has asked for steps. */
struct policy_run {
	struct cds_list_head done; /* of policy_step */
	pthread_cond_t *cond;	   /* to be told */
	struct policy_limit in_flight;
};
void policy_run_init(struct policy_run *run, pthread_cond_t *cond);
void policy_run_end(struct policy_run *run);
/* Hands the first steps of list, all of one op, to the tier; n at most. They are
 * in flight, and come back in run->done. */
int policy_submit(struct policy *policy, struct policy_run *run,
		  enum mover_prio prio, struct cds_list_head *list, size_t n);
/* Takes what is done: counts it, holds what could not be moved. A list of steps,
 * to be freed. Under no lock. */
void policy_collect(struct policy *policy, struct policy_run *run,
		    struct cds_list_head *ret);
void policy_cancel(struct policy *policy, struct policy_run *run);
/* Is it in flight? */
bool policy_in_flight(struct policy *policy, uint64_t key);

/* -- policy.c, policy_turn.c ------------------------------------------------------ */

/* May anything be copied to a target, or may it not, and why not? */
enum policy_bar {
	BAR_NONE,
	BAR_DRAINING,
	BAR_TARGET,
	BAR_BREAKER,
	BAR_WINDOW,
};
/* by_hand: neither the hour nor the breaker is asked. why (may be NULL) says it;
 * limit is what may be tried at once; *ret_until when it may be otherwise, in ns
 * since the epoch, INT64_MAX: when something happens. */
enum policy_bar policy_bar(struct policy *policy,
			   const struct policy_room *room, bool by_hand,
			   char *why, size_t len, struct policy_limit *limit,
			   int64_t *ret_until);

/* A full target was tried: not again for a while. */
void policy_full_tried(struct policy *policy);
/* Are these the hours for copying, or is the front full enough for any? */
bool policy_hours(struct policy *policy, const struct policy_room *room,
		  char *why, size_t len, int64_t *ret_until);
/* Is a target there? What is dropped must be readable. */
bool policy_online(struct policy *policy);

struct policy {
	struct tier *tier;
	struct catalog *catalog;
	struct policy_judge *judge; /* the catalog's thread's, too */

	pthread_t thread;
	pthread_mutex_t run_lock; /* one pass by hand at a time */

	_Atomic(bool) stopping;
	_Atomic(bool) judged;	   /* something is due before wake_due */
	_Atomic(int64_t) wake_due; /* INT64_MAX: it is being looked for */

	/* A leaf: all that follows. */
	pthread_mutex_t lock;
	struct policy_setup setup; /* its rules and file are the policy's */
	bool poked, by_hand;
	pthread_cond_t cond;		    /* wakes the thread */
	struct policy_run room, copy, back; /* the thread's */
	struct policy_steps live;
	size_t nlive;
	struct policy_holds holds;
	struct policy_breaker breaker;
	int64_t full_trial; /* a full target is tried then; monotonic; 0 */
	enum policy_doing doing;
	char detail[160];
	struct policy_moved moved[4]; /* by enum tier_op */
	uint64_t refused, failed;
	int64_t last_pass, next_due;
};

/* -- policy_count.c ------------------------------------------------------------------ */

/* Corrects the tier's counters: false, not now. */
bool policy_recount(struct policy *policy);

/* -- policy_turn.c: what the thread does -------------------------------------------- */

struct policy_turn {
	struct policy *policy;
	struct policy_eye eye;
	bool sees; /* the eye is open */
	struct policy_room room;
	bool making_room; /* from high until low */
	bool room_short;  /* releasing alone does not make it */
	bool small;	  /* nor what is large */
	struct policy_cursor release, copy, ahead, uncache;
	uint64_t uncached; /* bytes, in this pass of it */
	bool may_copy, barred;
	struct policy_limit may;
	int64_t due_again; /* what is due cannot be done before; monotonic */
	int64_t awake;	   /* the target's disk is, until then; monotonic */
	int64_t next_due;  /* ns since the epoch */
	enum policy_doing doing;
	char detail[160];
	int64_t now;  /* monotonic */
	int64_t wake; /* monotonic */
};
/* One turn: begins what can be begun, and says when the next is. */
void policy_turn(struct policy_turn *turn);

#endif
