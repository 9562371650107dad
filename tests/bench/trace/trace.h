/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_TRACE_H
#define TIERFS_TESTS_TRACE_H

/*
 * A synthetic trace, and what becomes of it: by the daemon's policy (engine.c),
 * by a plain cache and by those that know the future (cache.c, bound.c).
 *
 * A request is an open and a read of the whole file; a hit finds all of it on
 * the front. Backups read everything too, but nobody waits for them: they are
 * counted apart. Time is virtual, in ns since the epoch.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "policy_rule.h"

/* ---- the trace (gen.c) --------------------------------------------------- */

#define TRACE_HOUR (3600 * 1000000000LL)
#define TRACE_DAY  (24 * TRACE_HOUR)
#define TRACE_GAP  (600 * 1000000000LL) /* then the target's disk sleeps */

/* All times are the trace's own: every run of a seed is the same. */
struct trace_params {
	uint64_t seed;
	uint32_t files;	   /* there at the start */
	uint32_t projects; /* directories */
	uint32_t days;	   /* that count, after as many of warming up */
	uint32_t reads;	   /* a day */
	uint32_t writes;   /* a day: new contents, updates */
	uint32_t creates;  /* a day */
	double zipf;	   /* exponent */
	double drift;	   /* of the ranks, part that changes a day */
	uint64_t median;   /* bytes */
	double sigma;	   /* of log(size) */
	double tail;	   /* part of files from a Pareto tail */
	double peak;	   /* bytes a burst of writing, of all */
	bool backup;	   /* every night */
};
/* The defaults. */
void trace_defaults(struct trace_params *ret);

enum trace_kind {
	TRACE_READ,
	TRACE_BACKUP,  /* a read that nobody waits for */
	TRACE_CREATE,  /* with bytes */
	TRACE_REWRITE, /* truncated, then bytes */
	TRACE_UPDATE,  /* bytes of it, in place */
	TRACE_UNLINK,
	TRACE_KINDS
};

struct trace_event {
	int64_t at;
	uint64_t bytes; /* to write, or the file's size when it is read */
	uint32_t file;
	enum trace_kind kind;
};

struct trace_file {
	uint32_t project;
	bool initial;  /* there at the start */
	uint64_t size; /* then */
	int64_t atime, mtime;
	uint64_t final; /* size at the end; while it is made: now */
	bool alive;	/* the same */
};

struct trace {
	struct trace_params params;
	int64_t start, counted, end; /* counted: the warming up is over */
	struct trace_file *files;
	uint32_t nfiles, room;
	struct trace_event *events;
	size_t nevents, events_room;
	uint64_t initial_bytes, most_bytes; /* most: at any time */
};

/* -ENOMEM. */
int trace_generate(const struct trace_params *params, struct trace *ret);
void trace_free(struct trace *trace);
void trace_path(const struct trace *trace, uint32_t file, char *buf,
		size_t len);
/* What it is, as a line of JSON. */
void trace_print(const struct trace *trace, FILE *out);
/* Which files are on the front at the start: the most recently used, until so
 * many bytes are. One bool a file. */
int trace_initial(const struct trace *trace, uint64_t bytes, bool **ret);
/* For each event, and behind them for each file at the start: when its contents
 * are read next, INT64_MAX if they are gone before. Backups don't count. */
int trace_next_reads(const struct trace *trace, int64_t **ret);

/* ---- what is counted ----------------------------------------------------- */

struct trace_count {
	uint64_t reads, hits, read_bytes, hit_bytes;
	uint64_t backups, backup_hits, backup_bytes, backup_hit_bytes;
	uint64_t written;	       /* by programs, onto the front */
	uint64_t denied;	       /* the same, but it had no room */
	uint64_t enospc;	       /* writes that found no room */
	uint64_t restores, restored;   /* files, bytes to the front */
	uint64_t migrations, migrated; /* files, bytes to the target */
	uint64_t wasted;      /* of migrated: nobody read nor dropped it */
	uint64_t released;    /* files */
	uint64_t target_read; /* bytes, restores included */
	uint64_t wakeups;     /* of the target's disk */
	double full;	      /* highest use of the front */
};

#define TRACE_HOURS 1024
struct trace_result {
	struct trace_count count; /* of the days that count */
	uint64_t front;		  /* its size */
	uint32_t hours;		  /* whole trace */
	uint32_t hour_reads[TRACE_HOURS], hour_hits[TRACE_HOURS];
	float hour_use[TRACE_HOURS]; /* of the front, in per cent */
};

/* One disk that sleeps. */
struct trace_disk {
	int64_t last; /* end of its last I/O */
};
/* It works until then, from at. */
void trace_disk_use(struct trace_disk *disk, struct trace_count *count,
		    int64_t at, int64_t until);

/* ---- the daemon's policy (engine.c) -------------------------------------- */

enum trace_backup {
	BACKUP_PLAIN,	 /* a program as any other */
	BACKUP_IN_PLACE, /* a [recall] rule knows it: what is released stays so,
			  * and gets no warmer */
	BACKUP_UNSEEN,	 /* nor is it an access to what is there (O_NOATIME) */
};

/* As the daemon's configuration has them. */
struct trace_policy {
	struct policy_rules *rules;
	double high, low;	 /* per cent */
	double promote;		 /* temperature; 0: never */
	uint32_t restore_after;	 /* UINT32_MAX: never */
	uint64_t restore_budget; /* bytes a day; 0: none */
	uint32_t dirty_entries;
	uint64_t dirty_bytes, restore_below;
	enum trace_backup backup;
};

/* -ENOMEM. */
int trace_engine(const struct trace *trace, const struct trace_policy *policy,
		 uint64_t front, struct trace_result *ret);

/* ---- to compare with (cache.c, bound.c) ---------------------------------- */

enum trace_cache {
	CACHE_LRU,	/* each access brings the file in */
	CACHE_INFINITE, /* the same but for backups, and nothing ever leaves */
	CACHE_BELADY,	/* what is read last goes; comes in only if it is read
			 * sooner than what would go */
	CACHE_BELADY_SIZE, /* the same, time to the next read times size */
	TRACE_CACHES
};
const char *trace_cache_name(enum trace_cache cache);
/* -ENOMEM. */
int trace_cache(const struct trace *trace, enum trace_cache cache,
		uint64_t front, struct trace_result *ret);

struct trace_bound {
	double hits, hit_bytes;
};
/* What no policy exceeds that brings files in when they are used; backups: by
 * backups, too. -ENOMEM. */
int trace_bound(const struct trace *trace, uint64_t front, bool backups,
		struct trace_bound *ret);

#endif
