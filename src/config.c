/* SPDX-License-Identifier: MIT */
/*
 * From argv to struct config.
 *
 * The command line is applied twice: for the front, the name and the file that
 * follow from it, and again over what the file says. The first time finds the
 * errors of the command line before a file is opened.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "config_parse.h"
#include "policy_rule_impl.h"
#include "util.h"

#ifndef TIERFS_CONFIG_DIR
#define TIERFS_CONFIG_DIR "/etc/tierfs"
#endif

struct setting {
	char *key;
	char *value; /* points into key's allocation; NULL: without */
};

/* The command line, taken apart. */
struct command {
	struct setting *settings;
	size_t nsettings;
	const char *paths[2]; /* FRONT, MOUNTPOINT */
	unsigned int npaths;
	bool helper;		/* run as mount.fuse.tierfs, by mount(8) */
	bool foreground, debug; /* -f, -d */
	bool fake;		/* mount -f: all but the mount */
	bool help, version;
};

static void command_free(struct command *cmd)
{
	size_t i;

	for (i = 0; i < cmd->nsettings; i++)
		free(cmd->settings[i].key);
	free(cmd->settings);
}

static void config_freep(struct config **cfg)
{
	config_free(*cfg);
}

static void free_strings(char **strings)
{
	for (char **s = strings; s && *s; s++)
		free(*s);
	free(strings);
}

void config_free(struct config *cfg)
{
	if (!cfg)
		return;
	config_drop_targets(cfg);
	recall_rules_unref(cfg->recall);
	free(cfg->front);
	free(cfg->mountpoint);
	free(cfg->file);
	free(cfg->fuse_opts);
	policy_rules_unref(cfg->rules);
	policy_rule_set_unref(cfg->rule_set);
	free(cfg->passed);
	free_strings(cfg->remount);
	free_strings(cfg->given);
	free(cfg);
}

/* Takes over text, KEY or KEY=VALUE. */
static int add_setting(struct command *cmd, char *text)
{
	struct setting *more;
	char *eq = strchr(text, '=');

	more = realloc(cmd->settings, (cmd->nsettings + 1) * sizeof(*more));
	if (!more) {
		free(text);
		return -ENOMEM;
	}
	cmd->settings = more;
	if (eq)
		*eq++ = '\0';
	more[cmd->nsettings++] = (struct setting){.key = text, .value = eq};
	return 0;
}

/* Is p "\ooo", an octal byte as libfuse takes it? */
static bool is_octal(const char *p)
{
	return p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' &&
	       p[3] >= '0' && p[3] <= '7';
}

/* Splits at commas; "\c" is c and "\ooo" a byte, as in libfuse. */
static int split_options(struct command *cmd, const char *in, char **ret_why)
{
	char *text, *out;
	int err;

	while (*in) {
		text = out = malloc(strlen(in) + 1);
		if (!text)
			return -ENOMEM;
		for (; *in && *in != ','; out++) {
			if (*in == '\\' && is_octal(in)) {
				*out = (char)((in[1] - '0') << 6 |
					      (in[2] - '0') << 3 |
					      (in[3] - '0'));
				in += 4;
			} else {
				in += in[0] == '\\' && in[1];
				*out = *in++;
			}
		}
		*out = '\0';
		if (memchr(text, '\0', (size_t)(out - text))) {
			err = fail_why(ret_why, -EINVAL,
				       "option %s: a NUL byte", text);
			free(text);
			return err;
		}
		in += *in == ',';
		if (!*text)
			free(text);
		else if (add_setting(cmd, text))
			return -ENOMEM;
	}
	return 0;
}

static int add_flag(struct command *cmd, const char *key)
{
	char *text = strdup(key);

	return text ? add_setting(cmd, text) : -ENOMEM;
}

static int take_option(struct command *cmd, int c, char **argv, char **ret_why)
{
	switch (c) {
	case 1:
		if (cmd->npaths == ARRAY_SIZE(cmd->paths))
			return fail_why(ret_why, -EINVAL,
					"'%s' is one argument too many",
					optarg);
		cmd->paths[cmd->npaths++] = optarg;
		return 0;
	case 'o':
		return split_options(cmd, optarg, ret_why);
	case 'f':
		*(cmd->helper ? &cmd->fake : &cmd->foreground) = true;
		return 0;
	case 'd':
		cmd->debug = true;
		return 0;
	case 'r':
		return add_flag(cmd, "ro");
	case 'w':
		return add_flag(cmd, "rw");
	case 'h':
		cmd->help = true;
		return 0;
	case 'V':
		cmd->version = true;
		return 0;
	case 'n':
	case 's':
	case 'v':
		return 0; /* mount(8)'s; nothing to do */
	case 't':
		if (!strcmp(optarg, "fuse.tierfs") || !strcmp(optarg, "tierfs"))
			return 0;
		return fail_why(ret_why, -EINVAL, "type '%s' is not tierfs",
				optarg);
	case ':':
		return fail_why(ret_why, -EINVAL, "%s needs a value",
				argv[optind - 1]);
	default:
		if (optopt)
			return fail_why(ret_why, -EINVAL, "unknown option -%c",
					optopt);
		return fail_why(ret_why, -EINVAL, "unknown option %s",
				argv[optind - 1]);
	}
}

static int parse_argv(struct command *cmd, int argc, char **argv,
		      char **ret_why)
{
	static const struct option longs[] = {
		{"foreground", no_argument, NULL, 'f'},
		{"debug", no_argument, NULL, 'd'},
		{"read-only", no_argument, NULL, 'r'},
		{"rw", no_argument, NULL, 'w'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{NULL},
	};
	int c, err = 0;

	cmd->helper = argc > 0 && !strncmp(basename(argv[0]), "mount.", 6);
	optind = 0; /* all anew */
	opterr = 0;
	/* '-': paths in order, also before options, as mount(8) gives them */
	while (!err && (c = getopt_long(argc, argv, "-:fdo:rwhVnsvt:", longs,
					NULL)) != -1)
		err = take_option(cmd, c, argv, ret_why);
	for (; !err && optind < argc; optind++) { /* behind "--" */
		optarg = argv[optind];
		err = take_option(cmd, 1, argv, ret_why);
	}
	return err;
}

static int apply(const struct command *cmd, struct config *cfg, char **ret_why)
{
	const struct config_origin from = {NULL};
	bool spilled = false;
	size_t i;
	int err;

	for (i = 0; i < cmd->nsettings; i++) {
		const struct setting *s = &cmd->settings[i];

		/* The first target replaces the file's. */
		if (!strcmp(s->key, "spill") && !spilled) {
			config_drop_targets(cfg);
			spilled = true;
		}
		err = config_set(cfg, s->key, s->value, &from, ret_why);
		if (!err)
			err = config_add_given(cfg, s->key, s->value);
		if (err)
			return err;
	}
	if (cmd->debug && config_add_given(cfg, "debug", NULL))
		return -ENOMEM;
	cfg->debug |= cmd->debug;
	cfg->foreground = cmd->foreground || cfg->debug;
	return 0;
}

static int resolve(const char *what, const char *path, char **ret,
		   char **ret_why)
{
	char *real = realpath(path, NULL);

	if (!real)
		return fail_why(ret_why, -errno, "%s %s: %s%s", what, path,
				strerror(errno),
				errno == ENOTCONN
					? " (a dead mount; umount it first)"
					: "");
	*ret = real;
	return 0;
}

int config_default_name(struct config *cfg, char **ret_why)
{
	const char *last = strrchr(cfg->front, '/') + 1;

	if (cfg->name[0])
		return 0;
	if (!config_name_valid(last))
		return fail_why(ret_why, -EINVAL,
				"front %s: its last component cannot be the "
				"file system's name; give name=NAME",
				cfg->front);
	memcpy(cfg->name, last, strlen(last) + 1);
	return 0;
}

/* Makes a config of the defaults and the command line. */
static int build(const struct command *cmd, struct config **ret, char **ret_why)
{
	_cleanup_(config_freep) struct config *cfg = NULL;
	int err;

	cfg = calloc(1, sizeof(*cfg));
	if (!cfg)
		return -ENOMEM;
	err = config_defaults(cfg, ret_why);
	if (!err)
		err = apply(cmd, cfg, ret_why);
	if (!err)
		err = resolve("front", cmd->paths[0], &cfg->front, ret_why);
	if (!err)
		err = resolve("mountpoint", cmd->paths[1], &cfg->mountpoint,
			      ret_why);
	if (!err)
		err = config_default_name(cfg, ret_why);
	if (err)
		return err;
	*ret = steal_ptr(&cfg);
	return 0;
}

int config_default_file(const char *name, char **ret)
{
	char *path;

	if (asprintf(&path, "%s/%s.conf", TIERFS_CONFIG_DIR, name) < 0)
		return -ENOMEM;
	*ret = path;
	return 0;
}

/* Reads the file, with the command line over it, into a new config with
 * first's paths. */
static int with_file(const struct command *cmd, const struct config *first,
		     struct config **ret, char **ret_why)
{
	_cleanup_(config_freep) struct config *cfg = NULL;
	_cleanup_free_ char *path = NULL;
	int err;

	cfg = calloc(1, sizeof(*cfg));
	if (!cfg)
		return -ENOMEM;
	err = first->file ? config_copy_text(first->file, &path)
			  : config_default_file(first->name, &path);
	if (!err)
		err = config_defaults(cfg, ret_why);
	if (err)
		return err;
	err = config_read_file(cfg, path, ret_why);
	if (err == -ENOENT && first->file)
		return fail_why(ret_why, err, "option config=%s: %s", path,
				strerror(ENOENT));
	if (err && err != -ENOENT)
		return err;
	if (!err && !first->file)
		cfg->file = strdup(path);
	if (!err && !first->file && !cfg->file)
		return -ENOMEM;
	cfg->front = strdup(first->front);
	cfg->mountpoint = strdup(first->mountpoint);
	if (!cfg->front || !cfg->mountpoint)
		return -ENOMEM;
	err = apply(cmd, cfg, ret_why);
	if (!err)
		err = config_default_name(cfg, ret_why);
	if (err)
		return err;
	*ret = steal_ptr(&cfg);
	return 0;
}

int config_check_values(const struct config *cfg, char **ret_why)
{
	if (!(cfg->low < cfg->high))
		return fail_why(ret_why, -EINVAL,
				"options low=%g, high=%g: low is not below "
				"high",
				cfg->low, cfg->high);
	if (cfg->strategy == STRATEGY_HEAT && cfg->promote_at &&
	    cfg->promote_at <= cfg->cold)
		return fail_why(ret_why, -EINVAL,
				"options cold=%g, promote=%g: promote is not "
				"above cold",
				cfg->cold, cfg->promote_at);
	return 0;
}

/* What holds of all settings together. */
static int check(struct config *cfg, char **ret_why)
{
	int err;

	if (!cfg->ntargets)
		return fail_why(ret_why, -EINVAL,
				"no target; give spill=DIR, with -o or in "
				"%s/%s.conf",
				TIERFS_CONFIG_DIR, cfg->name);
	err = config_check_values(cfg, ret_why);
	if (!err)
		err = config_make_rules(cfg, ret_why);
	return err ? err : config_check_paths(cfg, ret_why);
}

/* What config_set() held back, because a later option can take it back. */
static int finish(struct config *cfg)
{
	const char *old = cfg->fuse_opts ? cfg->fuse_opts : "";
	char *text;

	if (asprintf(&text, "%s%s%s%s", old, *old ? "," : "",
		     cfg->ro ? "ro" : "rw", cfg->noatime ? ",noatime" : "") < 0)
		return -ENOMEM;
	cfg->passed = cfg->fuse_opts;
	cfg->fuse_opts = text;
	return 0;
}

static bool is_remount(const struct command *cmd)
{
	for (size_t i = 0; i < cmd->nsettings; i++)
		if (!strcmp(cmd->settings[i].key, "remount") &&
		    !cmd->settings[i].value)
			return true;
	return false;
}

/* The daemon that is asked judges the options. */
static int build_remount(const struct command *cmd, struct config **ret,
			 char **ret_why)
{
	_cleanup_(config_freep) struct config *cfg = calloc(1, sizeof(*cfg));
	size_t n = 0;
	int err;

	if (!cfg)
		return -ENOMEM;
	cfg->remount = calloc(cmd->nsettings + 1, sizeof(*cfg->remount));
	/* As it was mounted, even if it cannot be seen now. */
	cfg->front = realpath(cmd->paths[0], NULL);
	if (!cfg->front)
		cfg->front = strdup(cmd->paths[0]);
	if (!cfg->remount || !cfg->front)
		return -ENOMEM;
	err = resolve("mountpoint", cmd->paths[1], &cfg->mountpoint, ret_why);
	if (err)
		return err;
	for (size_t i = 0; i < cmd->nsettings; i++) {
		const struct setting *s = &cmd->settings[i];

		if (!strcmp(s->key, "remount"))
			continue;
		if (asprintf(&cfg->remount[n], "%s%s%s", s->key,
			     s->value ? "=" : "",
			     s->value ? s->value : "") < 0) {
			cfg->remount[n] = NULL;
			return -ENOMEM;
		}
		n++;
	}
	*ret = steal_ptr(&cfg);
	return 0;
}

int config_parse(int argc, char **argv, struct config **ret, char **ret_why)
{
	_cleanup_(config_freep) struct config *first = NULL, *cfg = NULL;
	_cleanup_(command_free) struct command cmd = {0};
	int err;

	err = parse_argv(&cmd, argc, argv, ret_why);
	if (err)
		return err;
	if (cmd.help || cmd.version) {
		(cmd.help ? config_help : config_version)(stdout);
		return -ECANCELED;
	}
	if (cmd.npaths < 2)
		return fail_why(ret_why, -EINVAL,
				"FRONT and MOUNTPOINT are needed; "
				"see tierfs --help");
	if (is_remount(&cmd)) {
		err = build_remount(&cmd, &cfg, ret_why);
		if (!err && cmd.fake)
			err = -ECANCELED;
		if (!err)
			*ret = steal_ptr(&cfg);
		return err;
	}
	err = build(&cmd, &first, ret_why);
	if (!err)
		err = with_file(&cmd, first, &cfg, ret_why);
	if (!err)
		err = check(cfg, ret_why);
	if (!err)
		err = finish(cfg);
	if (err)
		return err;
	if (cmd.fake)
		return -ECANCELED;
	*ret = steal_ptr(&cfg);
	return 0;
}
