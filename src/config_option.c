/* SPDX-License-Identifier: MIT */
/*
 * The table of options. It parses, it sets the defaults and it is what --help
 * prints, so that these cannot differ.
 */
#include "config_parse.h"

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
	bool changes; /* by -o remount */
};

static const char no_memory[] = "out of memory";

static const char *set_size(void *field, const char *value)
{
	int err = config_parse_size(value, field);

	return err == -ERANGE ? "too big"
	       : err	      ? "not a size, such as 10M, 1.5G or 4KiB"
			      : NULL;
}

static const char *set_time(void *field, const char *value)
{
	int err = config_parse_time(value, field);

	return err == -ERANGE ? "too long"
	       : err	      ? "not a time, such as 90s, 15m, 1d or 2w"
			      : NULL;
}

static const char *set_timeout(void *field, const char *value)
{
	return set_time(field, strcmp(value, "none") ? value : "0");
}

static const char *set_rate(void *field, const char *value)
{
	size_t len = strlen(value);
	char buf[64];
	int err;

	if (!strcmp(value, "none"))
		value = "0";
	else if (len > 2 && len < sizeof(buf) &&
		 !strcmp(value + len - 2, "/s")) {
		memcpy(buf, value, len - 2);
		buf[len - 2] = '\0';
		value = buf;
	}
	err = config_parse_size(value, field);
	return err == -ERANGE ? "too big"
	       : err	      ? "not a rate, such as 50M (a second) or none"
			      : NULL;
}

static const char *set_percent(void *field, const char *value)
{
	return config_parse_percent(value, field) ? "not a per cent, 0 to 100"
						  : NULL;
}

/* A decimal number below UINT32_MAX, which is CONFIG_NEVER. */
static bool parse_count(const char *value, uint32_t *ret)
{
	size_t len = strlen(value);
	unsigned long long n;

	if (!len || len > 10 || strspn(value, "0123456789") != len)
		return false;
	n = strtoull(value, NULL, 10);
	if (n >= UINT32_MAX)
		return false;
	*ret = (uint32_t)n;
	return true;
}

static const char *set_count(void *field, const char *value)
{
	return parse_count(value, field) ? NULL : "not a number";
}

static const char *set_times(void *field, const char *value)
{
	if (!strcmp(value, "never")) {
		*(uint32_t *)field = CONFIG_NEVER;
		return NULL;
	}
	return parse_count(value, field) ? NULL : "neither a number nor never";
}

static const char *set_threads(void *field, const char *value)
{
	uint32_t n;

	if (!parse_count(value, &n) || n < 1 || n > 1024)
		return "not a number from 1 to 1024";
	*(unsigned int *)field = n;
	return NULL;
}

static const char *set_flag(void *field, const char *value)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return "neither on nor off";
	*(bool *)field = !strcmp(value, "on");
	return NULL;
}

static const char *set_policy(void *field, const char *value)
{
	if (strcmp(value, "auto") && strcmp(value, "manual"))
		return "neither auto nor manual";
	*(bool *)field = !strcmp(value, "auto");
	return NULL;
}

static const char *set_passthrough(void *field, const char *value)
{
	static const char *const names[] = {
		[PASSTHROUGH_AUTO] = "auto",
		[PASSTHROUGH_ON] = "on",
		[PASSTHROUGH_OFF] = "off",
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(value, names[i])) {
			*(enum config_passthrough *)field = i;
			return NULL;
		}
	return "none of auto, on and off";
}

static const char *set_name(void *field, const char *value)
{
	if (!config_name_valid(value))
		return "not a name: 1 to 63 of A-Z a-z 0-9 . _ -, "
		       "the first none of . -";
	memcpy(field, value, strlen(value) + 1);
	return NULL;
}

static const char *set_path(void *field, const char *value)
{
	char *path;

	if (!*value)
		return "no file";
	if (config_absolute(value, &path) < 0)
		return no_memory;
	free(*(char **)field);
	*(char **)field = path;
	return NULL;
}

/* The DIR of [NAME=]DIR; a '=' behind a '/' is the directory's. */
static const char *spill_dir(const char *value)
{
	size_t len = strcspn(value, "=/");

	return value[len] == '=' ? value + len + 1 : value;
}

/* The last component of path as it is given, not what a symlink means. */
static const char *last_component(const char *path, size_t *ret_len)
{
	const char *end = path + strlen(path), *start;

	while (end > path && end[-1] == '/')
		end--;
	for (start = end; start > path && start[-1] != '/';)
		start--;
	*ret_len = (size_t)(end - start);
	return start;
}

static const char *set_spill(void *field, const char *value)
{
	struct config *cfg = field;
	struct config_target *target = &cfg->targets[cfg->ntargets];
	const char *dir = spill_dir(value), *start = value;
	_cleanup_free_ char *path = NULL, *name = NULL;
	size_t len = (size_t)(dir - value);
	unsigned int i;

	if (cfg->ntargets == TIERFS_TARGETS_MAX)
		return "more than 16 targets";
	if (!*dir)
		return "no directory";
	if (dir == value)
		start = last_component(dir, &len);
	else
		len--; /* the '=' */
	name = strndup(start, len);
	if (!name || config_absolute(dir, &path) < 0)
		return no_memory;
	if (!config_name_valid(name))
		return dir == value
			       ? "the directory's name cannot be the target's; "
				 "give NAME=DIR"
			       : "NAME is not 1 to 63 of A-Z a-z 0-9 . _ -, "
				 "the first none of . -";
	for (i = 0; i < cfg->ntargets; i++)
		if (!strcmp(cfg->targets[i].name, name))
			return "a second target of that name; give NAME=DIR";
	memcpy(target->name, name, strlen(name) + 1);
	target->path = steal_ptr(&path);
	cfg->ntargets++;
	return NULL;
}

#define FIELD(f) offsetof(struct config, f)

static const struct option options[] = {
	{.key = "spill",
	 .arg = "[NAME=]DIR",
	 .set = set_spill,
	 .def_text = "required",
	 .help = "a target: where cold data goes; may be repeated",
	 .repeats = true},
	{.key = "name",
	 .arg = "NAME",
	 .set = set_name,
	 .field = FIELD(name),
	 .def_text = "FRONT's last component",
	 .help = "the file system's name"},
	{.key = "config",
	 .arg = "FILE",
	 .set = set_path,
	 .field = FIELD(file),
	 .def_text = "/etc/tierfs/NAME.conf, if it exists",
	 .help = "configuration file",
	 .not_in_file = true},
	{.key = "policy",
	 .arg = "auto|manual",
	 .set = set_policy,
	 .field = FIELD(policy_auto),
	 .def = "auto",
	 .help = "migrate and release without being asked (not yet)",
	 .changes = true},
	{.key = "passthrough",
	 .arg = "auto|on|off",
	 .set = set_passthrough,
	 .field = FIELD(passthrough),
	 .def = "auto",
	 .help = "kernel passthrough for resident files"},
	{.key = "migrate_age",
	 .arg = "TIME",
	 .set = set_time,
	 .field = FIELD(migrate_age_ns),
	 .def = "1d",
	 .help = "migrate what was not accessed for TIME",
	 .changes = true},
	{.key = "migrate_size",
	 .arg = "SIZE",
	 .set = set_size,
	 .field = FIELD(migrate_size),
	 .def = "10M",
	 .help = "migrate what has at least SIZE",
	 .changes = true},
	{.key = "high",
	 .arg = "PCT",
	 .set = set_percent,
	 .field = FIELD(high),
	 .def = "90",
	 .help = "release from here on, % of FRONT in use",
	 .changes = true},
	{.key = "low",
	 .arg = "PCT",
	 .set = set_percent,
	 .field = FIELD(low),
	 .def = "80",
	 .help = "release down to here",
	 .changes = true},
	{.key = "restore_after",
	 .arg = "N|never",
	 .set = set_times,
	 .field = FIELD(restore_after),
	 .def = "3",
	 .help = "opens that read in place before a restore",
	 .changes = true},
	{.key = "dirty_entries",
	 .arg = "N",
	 .set = set_count,
	 .field = FIELD(dirty_entries),
	 .def = "1024",
	 .help = "longest log of writes to a stub",
	 .changes = true},
	{.key = "dirty_bytes",
	 .arg = "SIZE",
	 .set = set_size,
	 .field = FIELD(dirty_bytes),
	 .def = "64M",
	 .help = "biggest log of writes to a stub",
	 .changes = true},
	{.key = "restore_below",
	 .arg = "SIZE",
	 .set = set_size,
	 .field = FIELD(restore_below),
	 .def = "1M",
	 .help = "restore smaller files before a write",
	 .changes = true},
	{.key = "recall_timeout",
	 .arg = "TIME|none",
	 .set = set_timeout,
	 .field = FIELD(recall_timeout_ns),
	 .def = "none",
	 .help = "wait for a target, then fail with EIO",
	 .changes = true},
	{.key = "bwlimit",
	 .arg = "RATE|none",
	 .set = set_rate,
	 .field = FIELD(bwlimit),
	 .def = "none",
	 .help = "bytes a second of background copying",
	 .changes = true},
	{.key = "max_threads",
	 .arg = "N",
	 .set = set_threads,
	 .field = FIELD(max_threads),
	 .def_text = "libfuse's",
	 .help = "threads that serve requests"},
	{.key = "io_uring",
	 .set = set_flag,
	 .field = FIELD(io_uring),
	 .def = "off",
	 .help = "requests over io_uring"},
	{.key = "allow_other",
	 .set = set_flag,
	 .field = FIELD(allow_other),
	 .def_text = "on for root",
	 .help = "others than the owner may use the mount"},
	{.key = "debug",
	 .set = set_flag,
	 .field = FIELD(debug),
	 .def = "off",
	 .help = "as -d"},
	{.key = "ro",
	 .set = set_flag,
	 .field = FIELD(ro),
	 .def = "off",
	 .help = "read-only; FRONT itself must be writable",
	 .changes = true},
	{.key = "noatime",
	 .set = set_flag,
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
	if (!value && option->arg)
		return "needs a value";
	if (in_file && option->set == set_spill && *spill_dir(value) != '/')
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
		return pass_on(cfg, key, value) ? no_memory : NULL;
	}
	if (!strcmp(key, "rw"))
		cfg->ro = false;
	else if (!strcmp(key, "atime") || !strcmp(key, "relatime") ||
		 !strcmp(key, "strictatime"))
		cfg->noatime = false;
	else if (listed(passed, ARRAY_SIZE(passed), key))
		return !flag			 ? "takes no value"
		       : pass_on(cfg, key, NULL) ? no_memory
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
	err = wrong == no_memory ? -ENOMEM : -EINVAL;
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
