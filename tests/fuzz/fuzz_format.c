/* SPDX-License-Identifier: MIT */
/*
 * The two texts that say whose disks these are: a target's identity file (the
 * input begins with "i") and the front's format file (anything else).
 */
#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "front_format.h"
#include "fuzz.h"
#include "target_dir.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}

static void identity(const char *text, size_t size)
{
	_cleanup_free_ char *again = NULL;
	struct dir_identity id, before;
	int err, len;

	memset(&id, 0xee, sizeof(id));
	before = id;
	err = dir_identity_parse(text, size, &id);
	if (err) {
		must(err == -EBADMSG || err == -EPROTONOSUPPORT);
		must(!memcmp(&id, &before, sizeof(id)));
		return;
	}
	len = dir_identity_text(&id, &again);
	must(len >= 0 && (size_t)len == size && !memcmp(again, text, size));
}

static bool same(const struct front *a, const struct front *b)
{
	return !strcmp(a->uuid, b->uuid) && !strcmp(a->name, b->name) &&
	       a->trusted == b->trusted && a->ntargets == b->ntargets &&
	       !memcmp(a->targets, b->targets, sizeof(a->targets));
}

static void format(const char *text, size_t size)
{
	_cleanup_free_ char *copy = malloc(size + 1), *why = NULL;
	_cleanup_free_ char *again = NULL, *third = NULL;
	struct front front, before, back = {0};
	char path[] = "/front";
	size_t len, len3;
	int err;

	must(copy);
	memcpy(copy, text, size);
	memset(&front, 0xee, sizeof(front));
	front.path = path;
	before = front;
	err = front_format_parse(&front, copy, size, &why);
	if (err) {
		must(err == -EBADMSG || err == -EPROTONOSUPPORT);
		must(!memcmp(&front, &before, sizeof(front)));
		must(why && !strncmp(why, "/front/.tierfs/format:", 22));
		return;
	}
	must(!why);
	must(!front_format_text(&front, &again, &len));
	back.path = path;
	copy = realloc(copy, len);
	memcpy(copy, again, len);
	must(!front_format_parse(&back, copy, len, &why));
	must(same(&front, &back));
	must(!front_format_text(&back, &third, &len3));
	must(len == len3 && !memcmp(again, third, len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size && data[0] == 'i')
		identity((const char *)data + 1, size - 1);
	else
		format((const char *)data, size);
	return 0;
}
