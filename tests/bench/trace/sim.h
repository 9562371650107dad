/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_SIM_H
#define TIERFS_TESTS_SIM_H

/* What the engine (engine.c) and the programs (replay.c) act upon. */

#include <bsd/sys/tree.h>

#include "budget.h"
#include "policy_int.h"
#include "spill_ea.h"
#include "trace.h"

struct sim_file {
	RB_ENTRY(sim_file) by_due, by_rank;
	int64_t due, rank; /* INT64_MAX: in no tree */
	uint64_t size, log;
	int64_t access, mtime, heat;
	uint32_t entries; /* of the log */
	uint32_t reads;	  /* since then: */
	int64_t reads_at;
	enum spill_state state;
	bool exists, busy; /* busy: open for writing, or copied */
	bool untouched;	   /* a copy of it was not of any use yet */
	uint32_t version;
};
RB_HEAD(dues, sim_file);
RB_HEAD(ranks, sim_file);

struct sim_copy {
	struct sim_copy *next;
	struct sim_file *file;
	uint32_t version;
	uint64_t size;
	int64_t done;
	bool drop; /* when it is done */
};

struct sim {
	const struct trace *trace;
	const struct trace_policy *policy;
	uint64_t front, used, copied;
	struct sim_file *files;
	struct dues dues, hots; /* hots: released, due to come back */
	struct ranks ranks[2];	/* not copied, copied */
	struct sim_copy *first, **last;
	size_t in_flight_files;
	uint64_t in_flight;  /* bytes */
	uint64_t coming;     /* of them, to be dropped */
	int64_t target_busy; /* until then */
	int64_t awake, due_again, hot_again;
	bool making_room, room_short, small;
	struct policy_room room; /* as last looked at */
	struct budget budget;
	struct trace_disk disk;
	struct trace_count count;
	int64_t now;
	int err;
};

/* Around each change of a file. */
void sim_hide(struct sim *s, struct sim_file *f);
void sim_show(struct sim *s, struct sim_file *f);
uint64_t sim_front_bytes(const struct sim_file *f);
void sim_eval(const struct sim *s, const struct sim_file *f,
	      struct rule_verdict *ret);
/* The target works for so many bytes, when it has done what it was told: until
 * when. */
int64_t sim_target_works(struct sim *s, uint64_t bytes);
/* The file's copy is not one any more. */
void sim_spoil(struct sim *s, struct sim_file *f);
/* Nobody asked for it: is there room, and a budget? */
bool sim_may_restore(struct sim *s, uint64_t bytes);
void sim_restore(struct sim *s, struct sim_file *f);
/* The engine: once, and until then. */
void sim_turn(struct sim *s);
void sim_run_until(struct sim *s, int64_t until);
void sim_init(struct sim *s);
void sim_free(struct sim *s);

#endif
