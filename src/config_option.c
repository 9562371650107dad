/* SPDX-License-Identifier: MIT */
/*
 * The table of options. It parses, it sets the defaults and it is what --help
 * prints, so that these cannot differ.
 */
#include "config_setter.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "cleanup.h"
#include "util.h"

struct option {
	const char *key;
	const char *arg; /* NULL: a flag, which may be given =on or =off */
	/* NULL, or what is wrong with the value. */
	const char *(*set)(void *field, const char *value);
	size_t field;	      /* its offset in struct config */
	const char *def;      /* set at the start and shown, or */
	const char *def_text; /* only shown */
	const char *help;
	bool repeats, not_in_file;
	bool bare;    /* a value need not be given: on */
	bool changes; /* by -o remount */
};

#define FIELD(f) offsetof(struct config, f)

static const struct option options[] = {
	{.key = "spill",
	 .arg = "[NAME=]DIR",
	 .set = config_set_spill,
	 .def_text = "required",
	 .help = "a target: where cold data goes; may be repeated",
	 .repeats = true},
	{.key = "name",
	 .arg = "NAME",
	 .set = config_set_name,
	 .field = FIELD(name),
	 .def_text = "FRONT's last component",
	 .help = "the file system's name"},
	{.key = "config",
	 .arg = "FILE",
	 .set = config_set_path,
	 .field = FIELD(file),
	 .def_text = "/etc/tierfs/NAME.conf, if it exists",
	 .help = "configuration file",
	 .not_in_file = true},
	{.key = "policy",
	 .arg = "auto|manual",
	 .set = config_set_policy,
	 .field = FIELD(policy_auto),
	 .def = "auto",
	 .help = "migrate and release without being asked (not yet)",
	 .changes = true},
	{.key = "passthrough",
	 .arg = "auto|on|off",
	 .set = config_set_passthrough,
	 .field = FIELD(passthrough),
	 .def = "auto",
	 .help = "kernel passthrough for resident files"},
	{.key = "catalog",
	 .arg = "on|off",
	 .set = config_set_flag,
	 .field = FIELD(catalog),
	 .def = "on",
	 .help = "keep what report, find and policies ask for"},
	{.key = "migrate_age",
	 .arg = "TIME",
	 .set = config_set_time,
	 .field = FIELD(migrate_age_ns),
	 .def = "1d",
	 .help = "migrate what was not accessed for TIME",
	 .changes = true},
	{.key = "migrate_size",
	 .arg = "SIZE",
	 .set = config_set_size,
	 .field = FIELD(migrate_size),
	 .def = "10M",
	 .help = "migrate what has at least SIZE",
	 .changes = true},
	{.key = "strategy",
	 .arg = "age|burst|heat",
	 .set = config_set_strategy,
	 .field = FIELD(strategy),
	 .def = "age",
	 .help = "which files go, where no rule decides",
	 .changes = true},
	{.key = "high",
	 .arg = "PCT",
	 .set = config_set_percent,
	 .field = FIELD(high),
	 .def = "90",
	 .help = "release from here on, % of FRONT in use",
	 .changes = true},
	{.key = "low",
	 .arg = "PCT",
	 .set = config_set_percent,
	 .field = FIELD(low),
	 .def = "80",
	 .help = "release down to here",
	 .changes = true},
	{.key = "restore_after",
	 .arg = "N|never",
	 .set = config_set_times,
	 .field = FIELD(restore_after),
	 .def = "3",
	 .help = "opens that read in place before a restore",
	 .changes = true},
	{.key = "dirty_entries",
	 .arg = "N",
	 .set = config_set_count,
	 .field = FIELD(dirty_entries),
	 .def = "1024",
	 .help = "longest log of writes to a stub",
	 .changes = true},
	{.key = "dirty_bytes",
	 .arg = "SIZE",
	 .set = config_set_size,
	 .field = FIELD(dirty_bytes),
	 .def = "64M",
	 .help = "biggest log of writes to a stub",
	 .changes = true},
	{.key = "restore_below",
	 .arg = "SIZE",
	 .set = config_set_size,
	 .field = FIELD(restore_below),
	 .def = "1M",
	 .help = "restore smaller files before a write",
	 .changes = true},
	{.key = "recall_timeout",
	 .arg = "TIME|none",
	 .set = config_set_timeout,
	 .field = FIELD(recall_timeout_ns),
	 .def = "none",
	 .help = "wait for a target, then fail with EIO",
	 .changes = true},
	{.key = "bwlimit",
	 .arg = "RATE|none",
	 .set = config_set_rate,
	 .field = FIELD(bwlimit),
	 .def = "none",
	 .help = "bytes a second of background copying",
	 .changes = true},
	{.key = "half_life",
	 .arg = "TIME",
	 .set = config_set_half_life,
	 .field = FIELD(half_life_ns),
	 .def = "12h",
	 .help = "in which a file's heat halves",
	 .changes = true},
	{.key = "cold",
	 .arg = "NUMBER",
	 .set = config_set_cold,
	 .field = FIELD(cold),
	 .def = "0.5",
	 .help = "strategy=heat: migrate what is no hotter",
	 .changes = true},
	{.key = "promote",
	 .arg = "NUMBER|none",
	 .set = config_set_promote,
	 .field = FIELD(promote_at),
	 .def = "3",
	 .help = "strategy=heat: restore what gets so hot",
	 .changes = true},
	{.key = "background",
	 .arg = "always|only ...",
	 .set = config_set_background,
	 .field = FIELD(background),
	 .def = "always",
	 .help = "when to work: only 02:00-06:00, or above 85%",
	 .changes = true},
	{.key = "restore_budget",
	 .arg = "SIZE|none",
	 .set = config_set_bytes,
	 .field = FIELD(restore_budget),
	 .def = "none",
	 .help = "bytes a day that reads may restore",
	 .changes = true},
	{.key = "nonblock",
	 .arg = "fail|wait",
	 .set = config_set_nonblock,
	 .field = FIELD(nonblock_waits),
	 .def = "fail",
	 .help = "O_NONBLOCK, where data would have to come",
	 .changes = true},
	{.key = "reserve",
	 .arg = "PCT%|SIZE|none",
	 .set = config_set_reserve,
	 .def = "2%",
	 .help = "room on FRONT kept for restores",
	 .changes = true},
	{.key = "breaker",
	 .arg = "PCT|none",
	 .set = config_set_share,
	 .field = FIELD(breaker),
	 .def = "50",
	 .help = "share of failures that stops the background",
	 .changes = true},
	{.key = "walk_rate",
	 .arg = "N|none",
	 .set = config_set_limit,
	 .field = FIELD(walk_rate),
	 .def = "none",
	 .help = "directory entries a second of the first walk"},
	{.key = "max_threads",
	 .arg = "N",
	 .set = config_set_threads,
	 .field = FIELD(max_threads),
	 .def_text = "libfuse's",
	 .help = "threads that serve requests"},
	{.key = "io_uring",
	 .arg = "auto|on|off",
	 .bare = true,
	 .set = config_set_io_uring,
	 .field = FIELD(io_uring),
	 .def = "auto",
	 .help = "requests over io_uring, else /dev/fuse"},
	{.key = "allow_other",
	 .set = config_set_flag,
	 .field = FIELD(allow_other),
	 .def_text = "on for root",
	 .help = "others than the owner may use the mount"},
	{.key = "debug",
	 .set = config_set_flag,
	 .field = FIELD(debug),
	 .def = "off",
	 .help = "as -d"},
	{.key = "ro",
	 .set = config_set_flag,
	 .field = FIELD(ro),
	 .def = "off",
	 .help = "read-only; FRONT itself must be writable",
	 .changes = true},
	{.key = "noatime",
	 .set = config_set_flag,
	 .field = FIELD(noatime),
	 .def = "off",
	 .help = "reading leaves access times alone",
	 .changes = true},
};

_Static_assert(ARRAY_SIZE(options) <= 64, "config_file.c keeps them in bits");

/* mount(8)'s: handed to libfuse as they are. */
static const char *const passed[] = {
	"suid", "nosuid", "dev",     "nodev",	   "exec",	  "noexec",
	"sync", "async",  "dirsync", "nodiratime", "nosymfollow", "symfollow",
};
static const char *const passed_values[] = {
	"max_read", "context", "fscontext", "defcontext", "rootcontext",
};
/* For mount(8), systemd or fstab, or the default: nothing to do. */
static const char *const ignored[] = {
	"defaults",   "auto",	  "noauto",	 "nofail",	  "_netdev",
	"user",	      "nouser",	  "users",	 "nousers",	  "owner",
	"noowner",    "group",	  "nogroup",	 "atime",	  "relatime",
	"norelatime", "diratime", "strictatime", "nostrictatime", "lazytime",
	"nolazytime", "silent",	  "loud",	 "iversion",	  "noiversion",
	"mand",	      "nomand",
};

static bool listed(const char *const *list, size_t n, const char *key)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (!strcmp(list[i], key))
			return true;
	return false;
}

int config_option_number(const char *key)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(options); i++)
		if (!strcmp(options[i].key, key))
			return (int)i;
	return -1;
}

const char *config_option_key(int number)
{
	return number < (int)ARRAY_SIZE(options) ? options[number].key : NULL;
}

bool config_option_repeats(const char *key)
{
	int i = config_option_number(key);

	return i < 0 || options[i].repeats;
}

bool config_option_changes(const char *key)
{
	int i = config_option_number(key);

	return i >= 0 && options[i].changes;
}

/* Appends key[=value] to what libfuse is given, escaped as it wants it. */
static int pass_on(struct config *cfg, const char *key, const char *value)
{
	_cleanup_free_ char *text = NULL;
	const char *old = cfg->fuse_opts ? cfg->fuse_opts : "";
	char *p;

	text = malloc(strlen(old) + strlen(key) +
		      2 * (value ? strlen(value) : 0) + 3);
	if (!text)
		return -ENOMEM;
	p = text + sprintf(text, "%s%s%s%s", old, *old ? "," : "", key,
			   value ? "=" : "");
	for (; value && *value; value++) {
		if (*value == ',' || *value == '\\')
			*p++ = '\\';
		*p++ = *value;
	}
	*p = '\0';
	free(cfg->fuse_opts);
	cfg->fuse_opts = steal_ptr(&text);
	return 0;
}

static const char *set_ours(struct config *cfg, const struct option *option,
			    const char *value, bool in_file)
{
	if (in_file && option->not_in_file)
		return "cannot stand in a configuration file";
	if (!value && option->arg && !option->bare)
		return "needs a value";
	if (in_file && option->set == config_set_spill &&
	    *config_spill_dir(value) != '/')
		return "not an absolute path";
	return option->set((char *)cfg + option->field, value ? value : "on");
}

/* mount(8)'s options: NULL, or what is wrong. */
static const char *set_generic(struct config *cfg, const char *key,
			       const char *value)
{
	bool flag = !value || !strcmp(value, "on"); /* =on is for files */

	if (!strncasecmp(key, "x-", 2) || !strcmp(key, "comment") ||
	    !strcmp(key, "user"))
		return NULL;
	if (listed(passed_values, ARRAY_SIZE(passed_values), key)) {
		if (!value)
			return "needs a value";
		return pass_on(cfg, key, value) ? config_no_memory : NULL;
	}
	if (!strcmp(key, "rw"))
		cfg->ro = false;
	else if (!strcmp(key, "atime") || !strcmp(key, "relatime") ||
		 !strcmp(key, "strictatime"))
		cfg->noatime = false;
	else if (listed(passed, ARRAY_SIZE(passed), key))
		return !flag			 ? "takes no value"
		       : pass_on(cfg, key, NULL) ? config_no_memory
						 : NULL;
	else if (!listed(ignored, ARRAY_SIZE(ignored), key))
		return "unknown option";
	return flag ? NULL : "takes no value";
}

int config_set(struct config *cfg, const char *key, const char *value,
	       const struct config_origin *from, char **ret_why)
{
	int number = config_option_number(key);
	const char *wrong;
	int err;

	wrong = number < 0 ? set_generic(cfg, key, value)
			   : set_ours(cfg, &options[number], value,
				      from->file != NULL);
	if (!wrong)
		return 0;
	err = wrong == config_no_memory ? -ENOMEM : -EINVAL;
	if (from->file)
		return fail_why(ret_why, err, "%s:%u: %s%s%s: %s", from->file,
				from->line, key, value ? "=" : "",
				value ? value : "", wrong);
	return fail_why(ret_why, err, "option %s%s%s: %s", key,
			value ? "=" : "", value ? value : "", wrong);
}

int config_defaults(struct config *cfg, char **ret_why)
{
	const struct config_origin from = {.file = "defaults"};
	size_t i;
	int err;

	cfg->allow_other = geteuid() == 0;
	for (i = 0; i < ARRAY_SIZE(options); i++) {
		if (!options[i].def)
			continue;
		err = config_set(cfg, options[i].key, options[i].def, &from,
				 ret_why);
		if (err)
			return err;
	}
	/* libfuse's default is nosuid,nodev even for root; mount(8)'s is not,
	 * and a file system that is one has device nodes. */
	if (geteuid() == 0 &&
	    (pass_on(cfg, "suid", NULL) || pass_on(cfg, "dev", NULL)))
		return -ENOMEM;
	return 0;
}

void config_version(FILE *out)
{
	fprintf(out, "tierfs %s\n", TIERFS_VERSION);
}

void config_help(FILE *out)
{
	char left[64];
	size_t i;

	fputs("usage: tierfs [-f] [-d] [-o OPTION[,OPTION...]] "
	      "FRONT MOUNTPOINT\n\n"
	      "Mounts the directory FRONT on MOUNTPOINT, which may be FRONT "
	      "itself; files that\ngo cold are kept in the targets.\n\n"
	      "  -f, --foreground    do not become a daemon\n"
	      "  -d, --debug         log what is done; implies -f\n"
	      "  -o OPTIONS          options, below\n"
	      "  -r, --read-only     as -o ro\n"
	      "  -w, --rw            as -o rw\n"
	      "  -h, --help          print this\n"
	      "  -V, --version       print the version\n\n"
	      "options (the same are keys of [tierfs] in the configuration "
	      "file):\n",
	      out);
	for (i = 0; i < ARRAY_SIZE(options); i++) {
		const struct option *o = &options[i];

		snprintf(left, sizeof(left), "%s%s%s", o->key,
			 o->arg ? "=" : "", o->arg ? o->arg : "");
		fprintf(out, "  %-24s %c%s\n  %-24s  (%s)\n", left,
			o->changes ? '*' : ' ', o->help, "",
			o->def ? o->def : o->def_text);
	}
	fputs("\n* can be changed while mounted: "
	      "mount -o remount,OPTION MOUNTPOINT\n"
	      "\nAlso mount(8)'s: rw, atime, relatime, [no]suid, [no]dev, "
	      "[no]exec, [a]sync, ...\n"
	      "SIZE: 10M, 1.5G, 4KiB   TIME: 90s, 15m, 1d, 2w\n"
	      "Exit status: 0 mounted (with -f: unmounted), 1 otherwise.\n"
	      "See tierfs(8).\n",
	      out);
}
