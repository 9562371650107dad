/* SPDX-License-Identifier: MIT */
/*
 * The configuration file, read by inih.
 *
 * inih tells a handler neither the line (as Debian builds it) nor a section
 * without keys, and cuts lines that are too long; so lines pass through a
 * reader that counts them and looks at the sections itself.
 */
#include "config_parse.h"

#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "util.h"

#define LINE_MAX_LEN 8192 /* a path of PATH_MAX fits */

struct reader {
	struct config *cfg;
	const char *path;
	FILE *in;
	unsigned int line;
	uint64_t seen; /* options, by number */
	int err;       /* the first; nothing is looked at after it */
	char **ret_why;
};

static void fclosep(FILE **f)
{
	if (*f)
		fclose(*f);
}

/* A section's name as it stands between the brackets. Rules come here. */
static void enter_section(struct reader *reader, const char *line)
{
	const char *end = strchr(line, ']');

	if (end && end - line == 7 && !memcmp(line, "[tierfs", 7))
		return;
	reader->err = fail_why(
		reader->ret_why, -EINVAL, "%s:%u: %.*s: unknown section",
		reader->path, reader->line,
		end ? (int)(end - line + 1) : (int)strcspn(line, "\r\n"), line);
}

static char *read_line(char *buf, int size, void *stream)
{
	struct reader *reader = stream;
	const char *text;

	if (reader->err || !fgets(buf, size, reader->in))
		return NULL;
	reader->line++;
	if (!strchr(buf, '\n') && !feof(reader->in)) {
		reader->err = fail_why(reader->ret_why, -EINVAL,
				       "%s:%u: the line is too long",
				       reader->path, reader->line);
		return NULL;
	}
	text = buf + strspn(buf, " \t");
	if (*text == '[')
		enter_section(reader, text);
	return reader->err ? NULL : buf;
}

static int handle(void *user, const char *section, const char *key,
		  const char *value)
{
	struct reader *reader = user;
	struct config_origin from = {reader->path, reader->line};
	int number = config_option_number(key);
	uint64_t bit = number < 0 ? 0 : UINT64_C(1) << number;

	if (reader->err)
		return 0;
	if (!*section)
		reader->err = fail_why(reader->ret_why, -EINVAL,
				       "%s:%u: %s=%s: before any section; "
				       "[tierfs] must come first",
				       reader->path, reader->line, key, value);
	else if ((reader->seen & bit) && !config_option_repeats(key))
		reader->err = fail_why(reader->ret_why, -EINVAL,
				       "%s:%u: %s=%s: given twice",
				       reader->path, reader->line, key, value);
	else
		reader->err = config_set(reader->cfg, key, value, &from,
					 reader->ret_why);
	reader->seen |= bit;
	return reader->err == 0;
}

int config_read_file(struct config *cfg, const char *path, char **ret_why)
{
	struct reader reader = {.cfg = cfg, .path = path, .ret_why = ret_why};
	_cleanup_(fclosep) FILE *in = NULL;
	int line;

	in = fopen(path, "re");
	if (!in && errno == ENOENT)
		return -ENOENT;
	if (!in)
		return fail_why(ret_why, -errno, "configuration file %s: %s",
				path, strerror(errno));
	reader.in = in;
	ini_allow_multiline = false; /* an indented line is a line */
	ini_max_line = LINE_MAX_LEN;
	line = ini_parse_stream(read_line, &reader, handle, &reader);
	if (reader.err)
		return reader.err;
	if (ferror(in))
		return fail_why(ret_why, -EIO,
				"configuration file %s: cannot be read", path);
	if (line > 0)
		return fail_why(ret_why, -EINVAL, "%s:%d: not KEY = VALUE",
				path, line);
	return line < 0 ? -ENOMEM : 0;
}
