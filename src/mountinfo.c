/* SPDX-License-Identifier: MIT */

#include "mountinfo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"

/* Undoes \ooo, in place. */
static char *unescape(char *text)
{
	char *from = text, *to = text;

	while (*from) {
		if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' &&
		    from[2] >= '0' && from[2] <= '7' && from[3] >= '0' &&
		    from[3] <= '7') {
			*to++ = (char)((from[1] - '0') << 6 |
				       (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to++ = *from++;
		}
	}
	*to = '\0';
	return text;
}

bool mount_parse(char *line, struct mount *ret)
{
	/* ID PARENT MAJ:MIN ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER */
	char *fields[6], *last[3];
	const char *tag;

	line[strcspn(line, "\n")] = '\0';
	for (int i = 0; i < 6; i++)
		if (!(fields[i] = strsep(&line, " ")))
			return false;
	while ((tag = strsep(&line, " ")) && strcmp(tag, "-") != 0)
		;
	for (int i = 0; i < 3; i++)
		if (!(last[i] = strsep(&line, " ")))
			return false;
	*ret = (struct mount){
		.line = fields[0],
		.id = strtoull(fields[0], NULL, 10),
		.device = fields[2],
		.root = unescape(fields[3]),
		.point = unescape(fields[4]),
		.options = fields[5],
		.type = unescape(last[0]),
		.source = unescape(last[1]),
		.super = last[2],
	};
	return true;
}

void mounts_free(struct mounts *mounts)
{
	for (size_t i = 0; i < mounts->n; i++)
		free(mounts->mounts[i].line);
	free(mounts->mounts);
	*mounts = (struct mounts){.mounts = NULL};
}

static int add(struct mounts *mounts, const char *text)
{
	_cleanup_free_ char *line = strdup(text);
	struct mount mount, *more;

	if (!line)
		return -ENOMEM;
	if (!mount_parse(line, &mount))
		return 0;
	more = reallocarray(mounts->mounts, mounts->n + 1, sizeof(mount));
	if (!more)
		return -ENOMEM;
	mounts->mounts = more;
	more[mounts->n++] = mount;
	line = NULL;
	return 0;
}

int mounts_read(struct mounts *ret)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	_cleanup_(mounts_free) struct mounts mounts = {.mounts = NULL};
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	int err = 0;

	if (!file)
		return -errno;
	while (!err && getline(&line, &size, file) > 0)
		err = add(&mounts, line);
	if (!err && ferror(file))
		err = -EIO;
	fclose(file);
	if (err)
		return err;
	*ret = mounts;
	mounts = (struct mounts){.mounts = NULL};
	return 0;
}
