/* SPDX-License-Identifier: MIT */
/*
 * The configuration: a file (the input begins with "f"), which is also read
 * again by a mount, the options of a remount, one a line (with "r"), or what
 * stands behind -o (anything else).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "config_parse.h"
#include "fuzz.h"
#include "util.h"

#define OPTIONS_MAX 64

static char dir[64], front[80], mnt[80], hdd[80];

static void remove_dirs(void)
{
	rmdir(front);
	rmdir(mnt);
	rmdir(hdd);
	rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	snprintf(dir, sizeof(dir), "/tmp/tierfs-fuzz.XXXXXX");
	must(mkdtemp(dir));
	snprintf(front, sizeof(front), "%s/front", dir);
	snprintf(mnt, sizeof(mnt), "%s/mnt", dir);
	snprintf(hdd, sizeof(hdd), "%s/hdd", dir);
	must(!mkdir(front, 0700) && !mkdir(mnt, 0700) && !mkdir(hdd, 0700));
	atexit(remove_dirs);
	return 0;
}

/* ---- what holds of every configuration ------------------------------------- */

/* What libfuse will make of its options: only what mount(8) knows may be
 * among them, whatever a value has in it. */
static void check_fuse_opts(const char *in)
{
	static const char *const known[] = {
		"suid",	       "nosuid",     "dev",	    "nodev",
		"exec",	       "noexec",     "sync",	    "async",
		"dirsync",     "nodiratime", "nosymfollow", "symfollow",
		"max_read",    "context",    "fscontext",   "defcontext",
		"rootcontext", "ro",	     "rw",	    "noatime",
	};
	char *text = malloc(strlen(in) + 1);

	must(text);
	while (*in) {
		bool found = false;
		char *out = text;

		for (; *in && *in != ','; out++) {
			in += in[0] == '\\' && in[1];
			*out = *in++;
		}
		*out = '\0';
		in += *in == ',';
		text[strcspn(text, "=")] = '\0';
		for (size_t i = 0; i < ARRAY_SIZE(known); i++)
			found |= !strcmp(known[i], text);
		must(found);
	}
	free(text);
}

static void check_config(const struct config *cfg)
{
	must(cfg->ntargets <= TIERFS_TARGETS_MAX);
	for (unsigned int i = 0; i < cfg->ntargets; i++) {
		must(config_name_valid(cfg->targets[i].name));
		must(cfg->targets[i].path[0] == '/');
		must(!strstr(cfg->targets[i].path, "/../"));
	}
	must(cfg->high >= 0 && cfg->high <= 100);
	must(cfg->low >= 0 && cfg->low <= 100);
	must(cfg->migrate_age_ns <= INT64_MAX);
	must(cfg->migrate_size <= INT64_MAX);
	must(cfg->recall_timeout_ns <= INT64_MAX);
	must(cfg->bwlimit <= INT64_MAX);
	must(cfg->max_threads <= 1024);
	must(cfg->half_life_ns > 0 && cfg->half_life_ns <= INT64_MAX);
	must(cfg->cold > 0 && cfg->promote_at >= 0);
	must(cfg->background.n <= POLICY_WINDOWS_MAX);
	must(cfg->reserve_percent >= 0 && cfg->reserve_percent <= 100);
	must(!cfg->reserve_percent || !cfg->reserve_bytes);
	must(cfg->breaker >= 0 && cfg->breaker <= 100);
	if (cfg->fuse_opts)
		check_fuse_opts(cfg->fuse_opts);
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static void check_same(const struct config *a, const struct config *b)
{
	must(same_text(a->front, b->front) && same_text(a->file, b->file));
	must(same_text(a->mountpoint, b->mountpoint));
	must(same_text(a->fuse_opts, b->fuse_opts));
	must(!strcmp(a->name, b->name) && a->ntargets == b->ntargets);
	for (unsigned int i = 0; i < a->ntargets; i++)
		must(!strcmp(a->targets[i].path, b->targets[i].path));
	must(a->high == b->high && a->low == b->low);
	must(a->bwlimit == b->bwlimit && a->ro == b->ro);
}

/* ---- options ------------------------------------------------------------------ */

/* Splits at the commas as libfuse does, or at newlines. */
static char **split(const char *in, char at)
{
	char **ret = calloc(OPTIONS_MAX + 1, sizeof(*ret));
	unsigned int n = 0;

	must(ret);
	while (*in && n < OPTIONS_MAX) {
		char *out = ret[n] = malloc(strlen(in) + 1);

		must(out);
		for (; *in && *in != at; in++) {
			in += at == ',' && in[0] == '\\' && in[1];
			*out++ = *in;
		}
		*out = '\0';
		in += *in == at;
		if (*ret[n])
			n++;
		else
			free(steal_ptr(&ret[n]));
	}
	return ret;
}

static void strings_free(char **strings)
{
	for (char **s = strings; *s; s++)
		free(*s);
	free(strings);
}

static bool names_one(const char *why, char *const *options)
{
	for (; *options; options++) {
		size_t len = strcspn(*options, "=");

		if (memmem(why, strlen(why), *options, len))
			return true;
	}
	return false;
}

static bool starts(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

/* Which of what was wrong was it? */
static void check_error(int err, const char *why, char *const *options)
{
	must(err == -EINVAL || err == -ENOENT || err == -EACCES ||
	     err == -EISDIR || err == -ENOTDIR || err == -ENAMETOOLONG ||
	     err == -ELOOP || err == -ENXIO || err == -EIO);
	must(why && *why);
	must(names_one(why, options) || starts(why, "no target") ||
	     starts(why, "target ") || starts(why, "the ") ||
	     starts(why, "option ") || starts(why, "configuration file "));
}

static struct config *parse(const char *text, int *ret_err, char **ret_why)
{
	char *argv[] = {
		(char *)"tierfs", (char *)"-o", (char *)text, front, mnt, NULL};
	struct config *cfg = NULL;

	*ret_err = config_parse(5, argv, &cfg, ret_why);
	must(!*ret_err == !!cfg);
	return cfg;
}

/* What a mount was told changes nothing when it is told it again; but a path
 * that depends on the working directory is not taken then. */
static void again(const struct config *cfg, char *const *options)
{
	_cleanup_free_ char *why = NULL;
	struct config *to = NULL;
	char *const none[] = {NULL};

	must(!config_remount(cfg, none, &to, &why));
	check_same(cfg, to);
	config_free(to);
	to = NULL;
	for (char *const *a = options; *a; a++) {
		size_t len = strcspn(*a, "=");

		if ((starts(*a, "spill=") && !strstr(*a, "=/")) ||
		    (starts(*a, "config=") && !starts(*a, "config=/")))
			return;
		for (char *const *b = options; b < a; b++)
			if (strcspn(*b, "=") == len && !strncmp(*a, *b, len))
				return;
	}
	if (cfg->file) /* may say otherwise */
		return;
	must(!config_remount(cfg, options, &to, &why));
	config_free(to);
}

static void fuzz_options(const char *text)
{
	_cleanup_free_ char *why = NULL;
	char **options = split(text, ',');
	struct config *cfg;
	int err;

	cfg = parse(text, &err, &why);
	if (err) {
		check_error(err, why, options);
	} else if (!cfg->remount) {
		check_config(cfg);
		must(cfg->low < cfg->high && cfg->ntargets);
		if (!strchr(text, '\\'))
			again(cfg, options);
	}
	config_free(cfg);
	strings_free(options);
}

static void fuzz_remount(const char *text)
{
	_cleanup_free_ char *why = NULL, *base = NULL;
	struct config *cfg, *to = NULL;
	char **options = split(text, '\n');
	int err;

	must(asprintf(&base,
		      "spill=a=%s,spill=b=/nowhere/b,max_read=4096,high=70,"
		      "low=60,context=a\\,b",
		      hdd) > 0);
	cfg = parse(base, &err, &why);
	must(cfg);
	err = config_remount(cfg, options, &to, &why);
	must(!err == !!to);
	if (err) {
		check_error(err, why, options);
	} else {
		check_config(to);
		must(to->low < to->high && to->ntargets == 2);
		must(same_text(to->fuse_opts, cfg->fuse_opts));
		must(same_text(to->front, cfg->front));
		must(to->passthrough == cfg->passthrough);
	}
	config_free(to);
	config_free(cfg);
	strings_free(options);
}

/* ---- a file ------------------------------------------------------------------- */

static int some_xattr(void *arg, const char *name, void *buf, size_t size)
{
	must(strlen(name) <= 255 && strchr(name, '.'));
	if (size)
		memset(buf, 'a', min_t(size_t, size, 3));
	return (int)strlen(name) % 4;
}

/* The rules judge, and say no time that has passed. */
static void judge(const struct config *cfg, const char *text, size_t size)
{
	static const char *const paths[] = {"/", "/a", "/scratch/a/b.tmp",
					    "/a/aaaaaaaaaaaaaaaaaaaaaaaaa/b"};
	uint64_t hash = size;

	for (size_t i = 0; i < size; i++)
		hash = hash * 31 + (unsigned char)text[i];
	for (int i = 0; i < 8; i++, hash *= 6364136223846793005ULL) {
		int64_t now = (int64_t)hash >> i, until;
		struct rule_facts facts = {
			.path = paths[i % 4],
			.size = hash >> (hash % 64),
			.access = now - (int64_t)(hash >> 20),
			.mtime = i % 3 ? now / 2 : INT64_MIN,
			.ctime = i % 5 ? now / 3 : INT64_MAX,
			.uid = i % 2,
			.gid = i % 2,
			.heat = i % 2 ? HEAT_NONE : now,
			.xattr = some_xattr,
		};
		struct rule_verdict v;

		policy_rules_eval(cfg->rules, &facts, now, &v);
		must(v.changes_at > now || v.changes_at == INT64_MAX);
		must(v.rule.name && v.target < (int)cfg->ntargets);
		must(!v.keep || v.migrate_at == INT64_MAX);
		policy_windows_open(&cfg->background, now, i * 14, &until);
		must(until > now || until == INT64_MAX);
	}
}

static void reload(const char *path)
{
	_cleanup_free_ char *why = NULL, *base = NULL;
	struct config *cfg, *to = NULL;
	int err;

	must(asprintf(&base, "spill=a=%s,spill=b=/nowhere/b,low=5", hdd) > 0);
	cfg = parse(base, &err, &why);
	must(cfg && (cfg->file = strdup(path)));
	err = config_reload(cfg, cfg, &to, &why);
	must(!err == !!to && !err == !why);
	if (to) {
		check_config(to);
		must(to->low == 5 && to->ntargets == 2 && to->rules);
		must(same_text(to->fuse_opts, cfg->fuse_opts));
		must(to->passthrough == cfg->passthrough);
		config_free(to);
	}
	config_free(cfg);
}

static void fuzz_file(const char *text, size_t size)
{
	_cleanup_close_ int fd = memfd_create("config", MFD_CLOEXEC);
	struct config *cfg = calloc(1, sizeof(*cfg));
	_cleanup_free_ char *why = NULL;
	char path[PROC_FD_LEN];
	int err;

	must(fd >= 0 && cfg && !config_defaults(cfg, &why));
	must(!pwrite_full(fd, text, size, 0));
	proc_fd_path(fd, path);
	err = config_read_file(cfg, path, &why);
	if (err) {
		/* FILE:LINE: what */
		size_t len = strlen(path);

		must(err == -EINVAL && why && !strncmp(why, path, len));
		must(why[len] == ':' && why[len + 1] >= '0' &&
		     why[len + 1] <= '9');
	}
	check_config(cfg);
	if (!err && !config_make_rules(cfg, &why))
		judge(cfg, text, size);
	reload(path);
	config_free(cfg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = strndup((const char *)data, size);

	must(text);
	if (size && data[0] == 'f')
		fuzz_file((const char *)data + 1, size - 1);
	else if (text[0] == 'r')
		fuzz_remount(text + 1);
	else
		fuzz_options(text);
	return 0;
}
