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

/* Beside [tierfs]. */
static const struct config_section *const sections[] = {
	&config_rule_section,
	&config_recall_section,
};

struct reader {
	struct config *cfg;
	bool in_tierfs;
	const struct config_section *section; /* else; NULL: none yet */
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

/* Only a comment may stand behind the bracket. */
static bool ends_well(const char *text)
{
	text += strspn(text, " \t\r\n");
	return !*text || *text == '#' || *text == ';';
}

static void leave_section(struct reader *reader)
{
	const struct config_section *section = reader->section;

	reader->section = NULL;
	reader->in_tierfs = false;
	if (!reader->err && section && section->end)
		reader->err = section->end(reader->cfg, reader->ret_why);
}

static const struct config_section *find_section(const char *kind)
{
	for (size_t i = 0; i < ARRAY_SIZE(sections); i++)
		if (!strcmp(sections[i]->kind, kind))
			return sections[i];
	return NULL;
}

/* line is at the '['. */
static void enter_section(struct reader *reader, const char *line)
{
	const struct config_origin from = {reader->path, reader->line};
	size_t len = strcspn(line, "]\r\n");
	_cleanup_free_ char *kind = strndup(line + 1, len - 1);
	char *name;

	leave_section(reader);
	if (reader->err)
		return;
	if (!kind) {
		reader->err = -ENOMEM;
		return;
	}
	name = kind + strcspn(kind, " \t");
	if (*name) {
		*name++ = '\0';
		name += strspn(name, " \t");
	}
	if (line[len] == ']' && ends_well(line + len + 1)) {
		reader->in_tierfs = !strcmp(kind, "tierfs") && !*name;
		reader->section = find_section(kind);
	}
	if (reader->section)
		reader->err = reader->section->begin(reader->cfg, name, &from,
						     reader->ret_why);
	else if (!reader->in_tierfs)
		reader->err = fail_why(reader->ret_why, -EINVAL,
				       "%s:%u: %.*s: unknown section",
				       reader->path, reader->line,
				       (int)strcspn(line, "\r\n"), line);
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

static void handle_option(struct reader *reader, const char *key,
			  const char *value, const struct config_origin *from)
{
	int number = config_option_number(key);
	uint64_t bit = number < 0 ? 0 : UINT64_C(1) << number;

	if ((reader->seen & bit) && !config_option_repeats(key))
		reader->err = fail_why(reader->ret_why, -EINVAL,
				       "%s:%u: %s=%s: given twice",
				       reader->path, reader->line, key, value);
	else
		reader->err = config_set(reader->cfg, key, value, from,
					 reader->ret_why);
	reader->seen |= bit;
}

static int handle(void *user, const char *section, const char *key,
		  const char *value)
{
	struct reader *reader = user;
	struct config_origin from = {reader->path, reader->line};

	if (reader->err)
		return 0;
	if (reader->in_tierfs)
		handle_option(reader, key, value, &from);
	else if (reader->section)
		reader->err = reader->section->set(reader->cfg, key, value,
						   &from, reader->ret_why);
	else
		reader->err = fail_why(reader->ret_why, -EINVAL,
				       "%s:%u: %s=%s: before any section; "
				       "[tierfs] must come first",
				       reader->path, reader->line, key, value);
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
	if (line == 0)
		leave_section(&reader);
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
