/* SPDX-License-Identifier: MIT */
#include "front_format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "config.h"
#include "util.h"

#define FORMAT_MAX 16384 /* 16 targets take less than 2 KiB */

struct parser {
	struct front *out;
	unsigned int line;
	bool version, uuid, name, ea;
	char **ret_why;
};

__attribute__((format(printf, 3, 4))) static int
bad(struct parser *parser, int err, const char *fmt, ...)
{
	_cleanup_free_ char *what = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&what, fmt, ap) < 0)
		what = NULL;
	va_end(ap);
	return fail_why(parser->ret_why, err, "%s/%s/%s:%u: %s",
			parser->out->path, TIERFS_META_DIR, FRONT_FORMAT_FILE,
			parser->line, what ? what : "");
}

bool front_uuid_valid(const char *text)
{
	size_t i;

	for (i = 0; i < 36; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? text[i] != '-'
			 : !text[i] || !strchr("0123456789abcdef", text[i]))
			return false;
	}
	return text[36] == '\0';
}

static int parse_version(struct parser *parser, const char *value)
{
	size_t len = strlen(value);

	if (!len || strspn(value, "0123456789") != len || value[0] == '0')
		return bad(parser, -EBADMSG, "version '%s' is not a number",
			   value);
	if (strcmp(value, "1"))
		return bad(parser, -EPROTONOSUPPORT,
			   "version %s is newer than this tierfs (%d)", value,
			   TIERFS_FORMAT_VERSION);
	parser->version = true;
	return 0;
}

static int parse_target(struct parser *parser, const char *number, char *value)
{
	struct front *front = parser->out;
	struct front_target *target;
	char want[12], *uuid;
	unsigned int i;

	if (front->ntargets == TIERFS_TARGETS_MAX)
		return bad(parser, -EBADMSG, "more than %d targets",
			   TIERFS_TARGETS_MAX);
	snprintf(want, sizeof(want), "%u", front->ntargets);
	if (strcmp(number, want))
		return bad(parser, -EBADMSG, "target %s where %s comes next",
			   number, want);
	uuid = strchr(value, ' ');
	if (uuid)
		*uuid++ = '\0';
	if (!uuid || !config_name_valid(value) || !front_uuid_valid(uuid))
		return bad(parser, -EBADMSG, "target %s is not 'NAME UUID'",
			   number);
	for (i = 0; i < front->ntargets; i++)
		if (!strcmp(front->targets[i].name, value) ||
		    !strcmp(front->targets[i].uuid, uuid))
			return bad(parser, -EBADMSG,
				   "target %s is the same as %u", number, i);
	target = &front->targets[front->ntargets++];
	snprintf(target->name, sizeof(target->name), "%s", value);
	snprintf(target->uuid, sizeof(target->uuid), "%s", uuid);
	return 0;
}

/* True, once, for the key; the second time is an error of the caller's. */
static bool first(bool *seen)
{
	bool ret = !*seen;

	*seen = true;
	return ret;
}

static int parse_line(struct parser *parser, char *line)
{
	struct front *front = parser->out;
	char *value;

	if (line[0] == '#' || line[0] == '\0')
		return 0;
	value = strchr(line, '=');
	if (!value)
		return bad(parser, -EBADMSG, "'%s' is not KEY=VALUE", line);
	*value++ = '\0';
	/* Before anything is judged: a newer format may have other keys. */
	if (!parser->version && strcmp(line, "version"))
		return bad(parser, -EBADMSG, "'%s' before the version", line);
	if (!parser->version)
		return parse_version(parser, value);
	if (!strcmp(line, "uuid") && first(&parser->uuid)) {
		if (!front_uuid_valid(value))
			return bad(parser, -EBADMSG, "'%s' is not a UUID",
				   value);
		snprintf(front->uuid, sizeof(front->uuid), "%s", value);
		return 0;
	}
	if (!strcmp(line, "name") && first(&parser->name)) {
		if (!config_name_valid(value))
			return bad(parser, -EBADMSG, "'%s' is not a name",
				   value);
		snprintf(front->name, sizeof(front->name), "%s", value);
		return 0;
	}
	if (!strcmp(line, "ea") && first(&parser->ea)) {
		front->trusted = !strcmp(value, "trusted");
		if (!front->trusted && strcmp(value, "user"))
			return bad(parser, -EBADMSG,
				   "ea '%s' is neither trusted nor user",
				   value);
		return 0;
	}
	if (!strncmp(line, "target.", 7))
		return parse_target(parser, line + 7, value);
	return bad(parser, -EBADMSG, "key '%s' is unknown or given twice",
		   line);
}

static int parse_text(struct parser *parser, char *text, size_t len)
{
	char *line = text, *end = text + len;
	int err;

	if (memchr(text, '\0', len))
		return bad(parser, -EBADMSG, "a NUL byte");
	while (line < end) {
		char *next = memchr(line, '\n', (size_t)(end - line));

		parser->line++;
		if (!next)
			return bad(parser, -EBADMSG, "the line is cut off");
		*next = '\0';
		err = parse_line(parser, line);
		if (err)
			return err;
		line = next + 1;
	}
	if (!parser->version || !parser->uuid || !parser->name || !parser->ea)
		return bad(parser, -EBADMSG, "no %s in the file",
			   !parser->version ? "version"
			   : !parser->uuid  ? "uuid"
			   : !parser->name  ? "name"
					    : "ea");
	return 0;
}

int front_format_parse(struct front *front, char *text, size_t len,
		       char **ret_why)
{
	struct front parsed = {.path = front->path};
	struct parser parser = {.out = &parsed, .ret_why = ret_why};
	int err = parse_text(&parser, text, len);

	if (err)
		return err;
	memcpy(front->uuid, parsed.uuid, sizeof(front->uuid));
	memcpy(front->name, parsed.name, sizeof(front->name));
	memcpy(front->targets, parsed.targets, sizeof(front->targets));
	front->ntargets = parsed.ntargets;
	front->trusted = parsed.trusted;
	return 0;
}

int front_format_read(struct front *front, char **ret_why)
{
	struct front parsed = {.path = front->path};
	struct parser parser = {.out = &parsed, .ret_why = ret_why};
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int fd = -1;
	struct stat st;
	int err;

	fd = openat(front->meta_fd, FRONT_FORMAT_FILE,
		    O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (fd < 0 || fstat(fd, &st) < 0)
		return bad(&parser, -errno, "cannot be read: %s",
			   strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size > FORMAT_MAX)
		return bad(&parser, -EBADMSG, "this is no format file");
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	err = pread_full(fd, text, (size_t)st.st_size, 0);
	if (err)
		return bad(&parser, err, "cannot be read: %s", strerror(-err));
	return front_format_parse(front, text, (size_t)st.st_size, ret_why);
}

int front_format_text(const struct front *front, char **ret, size_t *ret_len)
{
	char *text = NULL;
	size_t len = 0;
	unsigned int i;
	FILE *out;
	int err;

	out = open_memstream(&text, &len);
	if (!out)
		return -ENOMEM;
	fprintf(out,
		"# Written by tierfs. Without this file, or with another, the\n"
		"# files whose data is on the targets cannot be read.\n"
		"version=%d\nuuid=%s\nname=%s\nea=%s\n",
		TIERFS_FORMAT_VERSION, front->uuid, front->name,
		front->trusted ? "trusted" : "user");
	for (i = 0; i < front->ntargets; i++)
		fprintf(out, "target.%u=%s %s\n", i, front->targets[i].name,
			front->targets[i].uuid);
	err = ferror(out) ? -ENOMEM : 0;
	if (fclose(out) != 0 || err) {
		free(text);
		return -ENOMEM;
	}
	*ret = text;
	*ret_len = len;
	return 0;
}

int front_format_write(const struct front *front)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int err;

	err = front_format_text(front, &text, &len);
	if (err)
		return err;
	return write_file_durably(front->meta_fd, FRONT_FORMAT_FILE, text, len);
}
