/* SPDX-License-Identifier: MIT */

/*
 * -o remount, on the side of who asks: what the kernel keeps of a mount (ro,
 * nosuid, ...) is changed here, in the asker's mount namespace; what the daemon
 * keeps it changes itself when told.
 *
 * The daemon checks first and changes last, so that nothing is changed when
 * either refuses: a mount with files open for writing does not become ro.
 */

#include "main_remount.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "control_proto.h"
#include "mountinfo.h"
#include "util.h"

#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif

#define ANSWER_MS 10000
#define ATIMES	  (MS_NOATIME | MS_RELATIME | MS_STRICTATIME)

/* ---- the mount -------------------------------------------------------------- */

static const struct {
	const char *key;
	unsigned long set, clear;
} flags[] = {
	{"ro", MS_RDONLY, 0},
	{"rw", 0, MS_RDONLY},
	{"nosuid", MS_NOSUID, 0},
	{"suid", 0, MS_NOSUID},
	{"nodev", MS_NODEV, 0},
	{"dev", 0, MS_NODEV},
	{"noexec", MS_NOEXEC, 0},
	{"exec", 0, MS_NOEXEC},
	{"sync", MS_SYNCHRONOUS, 0},
	{"async", 0, MS_SYNCHRONOUS},
	{"dirsync", MS_DIRSYNC, 0},
	{"nodiratime", MS_NODIRATIME, 0},
	{"diratime", 0, MS_NODIRATIME},
	{"nosymfollow", MS_NOSYMFOLLOW, 0},
	{"symfollow", 0, MS_NOSYMFOLLOW},
	{"noatime", MS_NOATIME, ATIMES},
	{"relatime", MS_RELATIME, ATIMES},
	{"strictatime", MS_STRICTATIME, ATIMES},
	{"atime", 0, MS_NOATIME},
	{"ro=on", MS_RDONLY, 0},
	{"ro=off", 0, MS_RDONLY},
	{"noatime=on", MS_NOATIME, ATIMES},
	{"noatime=off", 0, MS_NOATIME},
};

static unsigned long with_option(unsigned long value, const char *option)
{
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		if (!strcmp(flags[i].key, option))
			return (value & ~flags[i].clear) | flags[i].set;
	return value;
}

static unsigned long flags_of(char *list)
{
	unsigned long value = 0;
	char *save, *option;

	for (option = strtok_r(list, ",", &save); option;
	     option = strtok_r(NULL, ",", &save))
		value = with_option(value, option);
	return value;
}

/* The topmost mount on the mountpoint, which must be of the front. */
static int find_mount(const struct mounts *all, const struct config *config,
		      const struct mount **ret, char **ret_why)
{
	const struct mount *found = NULL;

	for (size_t i = 0; i < all->n; i++)
		if (!strcmp(all->mounts[i].point, config->mountpoint))
			found = &all->mounts[i];
	if (!found || strcmp(found->type, "fuse.tierfs"))
		return fail_why(ret_why, -EINVAL, "%s: no tierfs is mounted",
				config->mountpoint);
	if (strcmp(found->source, config->front))
		return fail_why(ret_why, -EINVAL, "%s: %s is mounted, not %s",
				config->mountpoint, found->source,
				config->front);
	*ret = found;
	return 0;
}

static int set_flags(const struct config *config, unsigned long old,
		     char **ret_why)
{
	unsigned long value = old;

	for (char **option = config->remount; *option; option++)
		value = with_option(value, *option);
	if (value == old ||
	    !mount(NULL, config->mountpoint, NULL, MS_REMOUNT | value, NULL))
		return 0;
	return fail_why(ret_why, -errno, "%s: %s%s", config->mountpoint,
			strerror(errno),
			errno == EBUSY ? " (files are open for writing)" : "");
}

/* ---- the daemon --------------------------------------------------------------- */

/* Sends a request and returns the last answer but "end", or that if there is
 * no other; NULL: none. */
static json_t *ask(int fd, json_t *request)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_(proto_lines_free) struct proto_lines lines = {0};
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	json_t *ret = NULL, *answer;
	char why[PROTO_WHY_LEN];
	const char *line;
	size_t len;
	int got;

	text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	json_decref(request);
	if (!text || proto_lines_init(&lines) ||
	    send(fd, text, strlen(text), MSG_NOSIGNAL) < 0 ||
	    send(fd, "\n", 1, MSG_NOSIGNAL) < 0)
		return NULL;
	for (;;) {
		got = proto_next(&lines, &line, &len);
		if (got > 0 && !proto_parse(line, len, &answer, why)) {
			const char *type = json_string_value(
				json_object_get(answer, "type"));
			bool end = type && !strcmp(type, "end");

			if (!ret || !end) {
				json_decref(ret);
				ret = json_incref(answer);
			}
			json_decref(answer);
			if (end)
				return ret;
		} else if (got || poll(&pfd, 1, ANSWER_MS) <= 0 ||
			   proto_fill(&lines, fd) <= 0) {
			return ret;
		}
	}
}

/* Connects to path if the daemon there serves device: a descriptor, or -1. */
static int connect_to(const char *path, const char *device)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const char *serves = "";
	json_t *hello;
	bool found;

	if (fd < 0 || strlen(path) >= sizeof(addr.sun_path))
		return -1;
	strcpy(addr.sun_path, path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -1;
	hello = ask(fd, json_pack("{s:i, s:s}", "version", CONTROL_VERSION,
				  "command", "hello"));
	json_unpack(hello, "{s:{s:s}}", "data", "device", &serves);
	found = !strcmp(serves, device);
	json_decref(hello);
	return found ? steal_fd(&fd) : -1;
}

static int find_daemon(const char *device)
{
	DIR *dir = opendir(CONTROL_DIR);
	struct dirent *entry;
	int fd = -1;

	while (dir && fd < 0 && (entry = readdir(dir))) {
		char path[sizeof(CONTROL_DIR) + sizeof(entry->d_name)];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), CONTROL_DIR "/%s", entry->d_name);
		fd = connect_to(path, device);
	}
	if (dir)
		closedir(dir);
	return fd;
}

/* check: only asks whether it would. */
static int tell_daemon(int fd, const struct config *config, bool check,
		       char **ret_why)
{
	json_t *options = json_array(), *answer;
	const char *status = "", *reason = "no answer";
	int err = 0;

	for (char **option = config->remount; *option; option++) {
		json_t *text = json_object();

		if (proto_set_path(text, "option", *option) ||
		    json_array_append_new(options, text))
			return -ENOMEM;
	}
	answer = ask(fd, json_pack("{s:i, s:s, s:o, s:b}", "version",
				   CONTROL_VERSION, "command", "remount",
				   "options", options, "check", check));
	json_unpack(answer, "{s:s, s:s}", "status", &status, "reason", &reason);
	if (strcmp(status, "done"))
		err = fail_why(ret_why, -EINVAL, "%s", reason);
	json_decref(answer);
	return err;
}

int remount(const struct config *config, char **ret_why)
{
	_cleanup_(mounts_free) struct mounts all = {.mounts = NULL};
	_cleanup_close_ int fd = -1;
	const struct mount *now = NULL;
	int err = mounts_read(&all);

	if (err)
		return fail_why(ret_why, err, "/proc/self/mountinfo: %s",
				strerror(-err));
	err = find_mount(&all, config, &now, ret_why);
	if (err)
		return err;
	fd = find_daemon(now->device);
	if (fd < 0)
		return fail_why(ret_why, -ESRCH,
				"%s: its daemon does not answer in %s",
				config->mountpoint, CONTROL_DIR);
	err = tell_daemon(fd, config, true, ret_why);
	if (!err)
		err = set_flags(config,
				flags_of(now->options) | flags_of(now->super),
				ret_why);
	if (!err)
		err = tell_daemon(fd, config, false, ret_why);
	return err;
}
