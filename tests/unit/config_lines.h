/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_CONFIG_LINES_H
#define TIERFS_TESTS_CONFIG_LINES_H

/* Command lines for the tests of config, written as one string: split at
 * blanks, '@' stands for the temporary directory and '~' for a blank. */

#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "config.h"
#include "config_parse.h"
#include "util.h"

#define ARGS_MAX 40

static char base[] = "/tmp/tierfs-config-XXXXXX";

/* text with '@' and '~' replaced; to be freed. */
static char *expand(const char *text)
{
	char *out = NULL;
	size_t len;
	FILE *f = open_memstream(&out, &len);

	for (; *text; text++)
		if (*text == '@')
			fputs(base, f);
		else
			fputc(*text == '~' ? ' ' : *text, f);
	fclose(f);
	return out;
}

static int parse(const char *line, struct config **ret, char **ret_why)
{
	char *argv[ARGS_MAX + 1] = {NULL}, *copy = strdup(line), *save = NULL;
	int argc = 0, err, i;
	char *word;

	for (word = strtok_r(copy, " ", &save); word && argc < ARGS_MAX;
	     word = strtok_r(NULL, " ", &save))
		argv[argc++] = expand(word);
	{
		char *given[ARGS_MAX + 1]; /* getopt permutes */

		memcpy(given, argv, sizeof(given));
		err = config_parse(argc, given, ret, ret_why);
	}
	for (i = 0; i < argc; i++)
		free(argv[i]);
	free(copy);
	return err;
}

static struct config *parsed(const char *line)
{
	struct config *cfg = NULL;
	char *why = NULL;
	int err = parse(line, &cfg, &why);

	if (err)
		fail_msg("%s: %d %s", line, err, why ? why : "-");
	assert_null(why);
	return cfg;
}

static unsigned int bad_lines;

/* The message must be want, to the letter. */
static inline void check_refused(const char *line, int err, const char *want)
{
	struct config *cfg = (void *)1;
	_cleanup_free_ char *why = NULL, *text = expand(want);
	int got = parse(line, &cfg, &why);

	if (got == err && cfg == (void *)1 && why && !strcmp(why, text))
		return;
	print_error("%s\n  gave %d: %s\n  not  %d: %s\n", line, got,
		    why ? why : "-", err, text);
	bad_lines++;
	if (!got)
		config_free(cfg);
}

static inline void write_conf(const char *text)
{
	_cleanup_free_ char *path = expand("@/conf"), *body = expand(text);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(body, f);
	fclose(f);
}

static inline void assert_path(const char *path, const char *want)
{
	_cleanup_free_ char *text = expand(want);

	assert_string_equal(path, text);
}

static int setup(void **state)
{
	static const char *const dirs[] = {
		"@/front",	 "@/mnt",	"@/hdd",
		"@/hdd2",	 "@/front/sub", "@/hdd/sub",
		"@/hdd/sub/mnt", "@/mnt/sub",	"@/bad~name",
	};
	size_t i;

	if (!mkdtemp(base))
		return -1;
	for (i = 0; i < ARRAY_SIZE(dirs); i++) {
		_cleanup_free_ char *path = expand(dirs[i]);

		if (mkdir(path, 0700) < 0)
			return -1;
	}
	{
		_cleanup_free_ char *link = expand("@/link");

		if (symlink("front", link) < 0)
			return -1;
	}
	return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type,
			struct FTW *ftw)
{
	return remove(path);
}

static int teardown(void **state)
{
	return nftw(base, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
