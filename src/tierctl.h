/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TIERCTL_H
#define TIERFS_TIERCTL_H

/* What the files of the tool tierctl share. One thread. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "control_proto.h"

enum exit_code {
	EXIT_DONE = 0,
	EXIT_SOME = 1, /* something was refused or failed */
	EXIT_USAGE = 2,
	EXIT_NONE = 3, /* no daemon, or no right to ask it */
};

struct tool;

struct command {
	const char *name;
	const char *args;    /* for usage */
	const char *options; /* the letters it takes, see tierctl.c */
	const char *brief;   /* one line */
	const char *help;
	bool paths; /* takes PATHs */
	bool reads; /* and moves nothing */
	/* Each result of one that takes PATHs. */
	void (*print)(struct tool *tool, json_t *data);
};

struct options {
	const struct command *command;
	bool json, quiet, no_wait, zero, recursive, release;
	bool repair, verify, all, dry_run;
	const char *budget_text, *keep_text;
	uint64_t budget; /* bytes; 0: any */
	int64_t keep;	 /* seconds since the epoch; 0: not */
	const char *mount;
	const char *front;
	char **targets; /* NAME=DIR, NULL at its end */
	unsigned int ntargets;
	const char *files_from;
	json_t *filter; /* of find */
	bool print0, ls;
	char **args;
	int nargs;
};

/* A daemon that answers, and what was asked of it. */
struct daemon {
	int fd;
	char *name, *mount, *device;
	struct proto_lines lines;
	char *out; /* to be sent */
	size_t out_len, out_cap;

	json_t *chunk; /* paths to be sent next */
	size_t chunk_len;
	bool asked;  /* the request has gone out */
	bool closed; /* and its last paths */
	bool moves;  /* it was asked to move data, and waited for */
	bool ended;  /* the answer is complete */
	/* The last progress. */
	uint64_t files, files_done, bytes, bytes_done;
	bool complete;
};

struct tool {
	struct options opt;
	struct daemon *daemons;
	unsigned int ndaemons;
	bool failed; /* something was refused or failed */
	bool denied; /* a daemon may not be asked, or has gone */
	bool none;   /* nobody serves some path */
	bool asked;  /* some daemon was asked */
	uint64_t n_done, n_already, n_queued, n_bad, bytes; /* results */
	int64_t job; /* that --no-wait has made */
};

/* -- tierctl.c ------------------------------------------------------------- */

/* "tierctl: WHAT: why" on stderr; what may be NULL. */
void complain(const char *what, const char *why);

/* -- tierctl_mount.c: daemons and paths -------------------------------------- */

/* Finds the daemons that answer (of --mount alone). False: said why. */
bool daemons_find(struct tool *tool);
void daemons_free(struct tool *tool);
/* The daemon of path and the path below its root (to be freed). NULL: why. */
struct daemon *path_resolve(struct tool *tool, const char *path, char **ret,
			    const char **ret_why, bool *ret_none);

/* -- tierctl_session.c: asking ------------------------------------------------- */

/* Asks about paths, or moves them; all that the command line names. */
void session_paths(struct tool *tool);
/* A request without paths to d; fn is called with each result's data. */
void session_ask(struct tool *tool, struct daemon *d, json_t *request,
		 void (*fn)(struct tool *tool, json_t *data));
/* One line to d, one answer back, waiting; NULL: none. For the greeting. */
json_t *session_call(struct daemon *d, json_t *request);

/* -- tierctl_keep.c: until when --------------------------------------------------- */

/* NULL, or what is wrong with text; seconds since the epoch. */
const char *keep_parse(const char *text, int64_t now, int64_t *ret);

/* -- tierctl_check.c ---------------------------------------------------------------- */

/* Checks all mounts, or the front that nobody serves. */
void check_mounts(struct tool *tool);
void check_front(struct tool *tool);

/* -- tierctl_report.c, tierctl_find.c ------------------------------------------------ */

void print_report(struct tool *tool, json_t *data);
void print_found(struct tool *tool, json_t *data);
/* Takes find's expression out of argv. -1: go on, else the exit code. */
int find_parse(int *argc, char **argv, struct options *opt);

/* -- tierctl_policy.c, tierctl_top.c ------------------------------------------------ */

void print_policy(const json_t *policy);
void print_why(struct tool *tool, json_t *data);
/* policy run: -1, or the exit code. */
int policy_command(struct tool *tool);
void top_command(struct tool *tool);

/* -- tierctl_print.c: text ------------------------------------------------------- */

void print_json(const json_t *data);
/* Is what was asked of a file to be told in text? Else that is done: it could not
 * be asked, or is wanted as JSON, or not at all. */
bool print_told(struct tool *tool, json_t *data);
void print_file_status(struct tool *tool, json_t *data);
void print_mount(struct tool *tool, json_t *data);
void print_move(struct tool *tool, json_t *data);
void print_job(struct tool *tool, json_t *data);
void print_finding(struct tool *tool, json_t *data);
void print_summary(const struct tool *tool);
/* The progress line on a terminal; print_clear() takes it away. */
void print_progress(const struct tool *tool);
void print_clear(void);
/* Text with its control characters escaped, for a terminal: to be freed. */
char *print_safe(const char *text);
/* Families of all daemons; print_metrics_end() prints them. */
void print_metric(struct tool *tool, json_t *data);
void print_metrics_end(void);

#endif
