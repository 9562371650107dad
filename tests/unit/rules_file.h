/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_RULES_FILE_H
#define TIERFS_TESTS_RULES_FILE_H

/* Configurations from texts, for the tests of rules. */

#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cleanup.h"
#include "config.h"
#include "config_parse.h"
#include "util.h"

/* Reads text as a file does; on an error *ret_why has "FILE" for its name. */
static inline int read_text(const char *text, struct config **ret,
			    char **ret_why)
{
	_cleanup_close_ int fd = memfd_create("rules", MFD_CLOEXEC);
	struct config *cfg = calloc(1, sizeof(*cfg));
	char path[PROC_FD_LEN], *why = NULL;
	int err;

	assert_true(fd >= 0 && cfg);
	assert_int_equal(pwrite_full(fd, text, strlen(text), 0), 0);
	proc_fd_path(fd, path);
	err = config_defaults(cfg, &why);
	if (!err)
		err = config_read_file(cfg, path, &why);
	if (!err)
		err = config_check_values(cfg, &why);
	if (!err)
		err = config_make_rules(cfg, &why);
	if (!err) {
		*ret = cfg;
		return 0;
	}
	config_free(cfg);
	assert_non_null(why);
	if (!strncmp(why, path, strlen(path)))
		assert_true(asprintf(ret_why, "FILE%s", why + strlen(path)) >
			    0);
	else
		*ret_why = strdup(why);
	free(why);
	return err;
}

static inline struct config *config_of(const char *text)
{
	struct config *cfg = NULL;
	char *why = NULL;

	if (read_text(text, &cfg, &why))
		fail_msg("%s\n  %s", text, why);
	return cfg;
}

static inline struct policy_rules *rules_of(const char *text)
{
	struct config *cfg = config_of(text);
	struct policy_rules *rules = policy_rules_ref(cfg->rules);

	config_free(cfg); /* they live on */
	return rules;
}

#endif
