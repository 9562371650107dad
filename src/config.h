/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CONFIG_H
#define TIERFS_CONFIG_H

/*
 * What a mount is told: the command line, -o options and the configuration
 * file, parsed and checked, with nothing guessed.
 *
 * Precedence: an option given with -o wins over the file, the file over the
 * default. Every error names the option (or file:line and key) and its value.
 */

#include <stdbool.h>
#include <stdint.h>

#include "policy_rule.h"
#include "policy_window.h"
#include "recall_rule.h"
#include "tierfs/format.h"

enum config_passthrough {
	PASSTHROUGH_AUTO,
	PASSTHROUGH_ON,
	PASSTHROUGH_OFF
};

enum config_io_uring {
	URING_AUTO,
	URING_ON, /* as auto, but its lack is a warning */
	URING_OFF
};

#define CONFIG_NEVER UINT32_MAX /* restore_after=never */

struct config_target {
	char name[TIERFS_NAME_MAX]; /* default: last path component */
	char *path;		    /* absolute */
	char *given;		    /* the same as it was given */
};

struct config {
	char *front;	  /* absolute, symlinks resolved */
	char *mountpoint; /* the same */
	char name[TIERFS_NAME_MAX];
	char *file; /* configuration file, or NULL */
	struct config_target targets[TIERFS_TARGETS_MAX];
	unsigned int ntargets;

	bool policy_auto;
	bool catalog;
	enum config_passthrough passthrough;
	uint64_t migrate_age_ns;
	uint64_t migrate_size;
	double high, low; /* per cent of used / (used + available) */
	uint32_t restore_after;
	uint32_t dirty_entries;
	uint64_t dirty_bytes;
	uint64_t restore_below;
	uint64_t recall_timeout_ns; /* 0: none */
	uint64_t bwlimit;	    /* bytes a second, 0: none */

	enum policy_strategy strategy;
	uint64_t half_life_ns; /* > 0 */
	double cold;	       /* heat: below it migrates, > 0 */
	double promote;	       /* a released file that is at least so hot is
				* restored; 0: none. Set by config_make_rules():
				* promote_at with strategy=heat, else 0 */
	double promote_at;
	struct policy_windows background;
	uint64_t restore_budget; /* bytes a day by reads; 0: no limit */
	bool nonblock_waits;	 /* O_NONBLOCK is no matter */
	/* Room kept for restores: per cent of the front, or bytes. One is 0. */
	double reserve_percent;
	uint64_t reserve_bytes;
	double breaker;	    /* per cent of failures that stop; 0: none do */
	uint32_t walk_rate; /* directory entries a second; 0: no limit */
	struct policy_rules *rules;  /* never NULL when it was parsed */
	struct recall_rules *recall; /* a reference; NULL: no sections */
	/* What they are made of, or NULL; for config*.c. */
	struct policy_rule_set *rule_set;
	unsigned int rule_keys; /* that were seen in this rule, while parsing */

	bool foreground, debug;
	bool ro, noatime;
	enum config_io_uring io_uring;
	unsigned int max_threads; /* 0: libfuse's default */
	bool allow_other;
	char *fuse_opts; /* comma separated, what goes to libfuse as it is:
			  * ro and noatime too, but not allow_other, debug
			  * and what the loop is told */

	/* For config_reload(): what goes to libfuse but ro and noatime; and
	 * the options of the command line and of remounts, "KEY" or
	 * "KEY=VALUE"; the last is NULL. */
	char *passed;
	char **given;
	bool reloading; /* targets are not looked at */

	/* -o remount: the options to change, "KEY" or "KEY=VALUE", unchecked;
	 * the last is NULL. front and mountpoint alone are set beside it. */
	char **remount;
};

/* Parses the arguments of tierfs and of mount.fuse.tierfs. On -errno *ret_why
 * is a message for people (free it) and *ret is untouched.
 * -ECANCELED: nothing is left to do, with success: --help or --version was
 * asked for and printed, or mount(8) only wants to know (mount -f). Not for
 * two threads at once (getopt). */
int config_parse(int argc, char **argv, struct config **ret, char **ret_why);
void config_free(struct config *cfg);

/* What a mount that was told cfg becomes by options as in cfg->remount, as far
 * as that may change while mounted. -EINVAL, -ENOMEM: as config_parse(). */
int config_remount(const struct config *cfg, char *const *options,
		   struct config **ret, char **ret_why);

/* What a mount that was told mounted, and by remounts and reloads became cfg,
 * becomes when its file is read again; options given since win over it. -EINVAL,
 * -ENOMEM, or what keeps the file from being read; a message as above. */
int config_reload(const struct config *mounted, const struct config *cfg,
		  struct config **ret, char **ret_why);

/* "10M", "1.5G", "4KiB": bytes; "90s", "15m", "1d", "2w": ns; "80", "80%";
 * "50M" a second. 0, -EINVAL, or -ERANGE; *ret untouched then. */
int config_parse_size(const char *text, uint64_t *ret);
int config_parse_time(const char *text, uint64_t *ret_ns);
int config_parse_percent(const char *text, double *ret);
int config_parse_number(const char *text, double *ret); /* "0.5" */

/* Can name be a file system's or target's name: 1 to 63 of [A-Za-z0-9._-],
 * not starting with '.' or '-'. */
bool config_name_valid(const char *name);

#endif
