/* SPDX-License-Identifier: MIT */
/* What the options' values mean. */
#include "config_setter.h"

#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "util.h"

const char config_no_memory[] = "out of memory";

const char *config_set_size(void *field, const char *value)
{
	int err = config_parse_size(value, field);

	return err == -ERANGE ? "too big"
	       : err	      ? "not a size, such as 10M, 1.5G or 4KiB"
			      : NULL;
}

const char *config_set_time(void *field, const char *value)
{
	int err = config_parse_time(value, field);

	return err == -ERANGE ? "too long"
	       : err	      ? "not a time, such as 90s, 15m, 1d or 2w"
			      : NULL;
}

const char *config_set_timeout(void *field, const char *value)
{
	return config_set_time(field, strcmp(value, "none") ? value : "0");
}

const char *config_set_rate(void *field, const char *value)
{
	size_t len = strlen(value);
	char buf[64];
	int err;

	if (!strcmp(value, "none"))
		value = "0";
	else if (len > 2 && len < sizeof(buf) &&
		 !strcmp(value + len - 2, "/s")) {
		memcpy(buf, value, len - 2);
		buf[len - 2] = '\0';
		value = buf;
	}
	err = config_parse_size(value, field);
	return err == -ERANGE ? "too big"
	       : err	      ? "not a rate, such as 50M (a second) or none"
			      : NULL;
}

const char *config_set_percent(void *field, const char *value)
{
	return config_parse_percent(value, field) ? "not a per cent, 0 to 100"
						  : NULL;
}

/* A decimal number below UINT32_MAX, which is CONFIG_NEVER. */
static bool parse_count(const char *value, uint32_t *ret)
{
	size_t len = strlen(value);
	unsigned long long n;

	if (!len || len > 10 || strspn(value, "0123456789") != len)
		return false;
	n = strtoull(value, NULL, 10);
	if (n >= UINT32_MAX)
		return false;
	*ret = (uint32_t)n;
	return true;
}

const char *config_set_count(void *field, const char *value)
{
	return parse_count(value, field) ? NULL : "not a number";
}

const char *config_set_times(void *field, const char *value)
{
	if (!strcmp(value, "never")) {
		*(uint32_t *)field = CONFIG_NEVER;
		return NULL;
	}
	return parse_count(value, field) ? NULL : "neither a number nor never";
}

const char *config_set_threads(void *field, const char *value)
{
	uint32_t n;

	if (!parse_count(value, &n) || n < 1 || n > 1024)
		return "not a number from 1 to 1024";
	*(unsigned int *)field = n;
	return NULL;
}

const char *config_set_flag(void *field, const char *value)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return "neither on nor off";
	*(bool *)field = !strcmp(value, "on");
	return NULL;
}

const char *config_set_policy(void *field, const char *value)
{
	if (strcmp(value, "auto") && strcmp(value, "manual"))
		return "neither auto nor manual";
	*(bool *)field = !strcmp(value, "auto");
	return NULL;
}

/* 0, 1, 2 or -1. */
static int auto_on_off(const char *value)
{
	static const char *const names[] = {"auto", "on", "off"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(value, names[i]))
			return (int)i;
	return -1;
}

const char *config_set_passthrough(void *field, const char *value)
{
	static const enum config_passthrough ways[] = {
		PASSTHROUGH_AUTO, PASSTHROUGH_ON, PASSTHROUGH_OFF};
	int i = auto_on_off(value);

	if (i < 0)
		return "none of auto, on and off";
	*(enum config_passthrough *)field = ways[i];
	return NULL;
}

const char *config_set_io_uring(void *field, const char *value)
{
	static const enum config_io_uring ways[] = {URING_AUTO, URING_ON,
						    URING_OFF};
	int i = auto_on_off(value);

	if (i < 0)
		return "none of auto, on and off";
	*(enum config_io_uring *)field = ways[i];
	return NULL;
}

const char *config_set_name(void *field, const char *value)
{
	if (!config_name_valid(value))
		return "not a name: 1 to 63 of A-Z a-z 0-9 . _ -, "
		       "the first none of . -";
	memcpy(field, value, strlen(value) + 1);
	return NULL;
}

const char *config_set_path(void *field, const char *value)
{
	char *path;

	if (!*value)
		return "no file";
	if (config_absolute(value, &path) < 0)
		return config_no_memory;
	free(*(char **)field);
	*(char **)field = path;
	return NULL;
}

/* The DIR of [NAME=]DIR; a '=' behind a '/' is the directory's. */
const char *config_spill_dir(const char *value)
{
	size_t len = strcspn(value, "=/");

	return value[len] == '=' ? value + len + 1 : value;
}

/* The last component of path as it is given, not what a symlink means. */
static const char *last_component(const char *path, size_t *ret_len)
{
	const char *end = path + strlen(path), *start;

	while (end > path && end[-1] == '/')
		end--;
	for (start = end; start > path && start[-1] != '/';)
		start--;
	*ret_len = (size_t)(end - start);
	return start;
}

const char *config_set_spill(void *field, const char *value)
{
	struct config *cfg = field;
	struct config_target *target = &cfg->targets[cfg->ntargets];
	const char *dir = config_spill_dir(value), *start = value;
	_cleanup_free_ char *path = NULL, *name = NULL, *given = NULL;
	size_t len = (size_t)(dir - value);
	unsigned int i;

	if (cfg->ntargets == TIERFS_TARGETS_MAX)
		return "more than 16 targets";
	if (!*dir)
		return "no directory";
	if (dir == value)
		start = last_component(dir, &len);
	else
		len--; /* the '=' */
	name = strndup(start, len);
	given = strdup(dir);
	/* A reload compares: it must not wait for a target that hangs. */
	if (!name || !given ||
	    (cfg->reloading ? config_copy_text(dir, &path)
			    : config_absolute(dir, &path)) < 0)
		return config_no_memory;
	if (!config_name_valid(name))
		return dir == value
			       ? "the directory's name cannot be the target's; "
				 "give NAME=DIR"
			       : "NAME is not 1 to 63 of A-Z a-z 0-9 . _ -, "
				 "the first none of . -";
	for (i = 0; i < cfg->ntargets; i++)
		if (!strcmp(cfg->targets[i].name, name))
			return "a second target of that name; give NAME=DIR";
	memcpy(target->name, name, strlen(name) + 1);
	target->path = steal_ptr(&path);
	target->given = steal_ptr(&given);
	cfg->ntargets++;
	return NULL;
}

/* Above nothing. */
const char *config_set_half_life(void *field, const char *value)
{
	uint64_t ns;
	const char *wrong = config_set_time(&ns, value);

	if (wrong)
		return wrong;
	if (!ns)
		return "nothing has no half";
	*(uint64_t *)field = ns;
	return NULL;
}

const char *config_set_bytes(void *field, const char *value)
{
	return config_set_size(field, strcmp(value, "none") ? value : "0");
}

const char *config_set_limit(void *field, const char *value)
{
	return config_set_count(field, strcmp(value, "none") ? value : "0");
}

const char *config_set_share(void *field, const char *value)
{
	return config_set_percent(field, strcmp(value, "none") ? value : "0");
}

const char *config_set_strategy(void *field, const char *value)
{
	static const char *const names[] = {
		[STRATEGY_AGE] = "age",
		[STRATEGY_BURST] = "burst",
		[STRATEGY_HEAT] = "heat",
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(value, names[i])) {
			*(enum policy_strategy *)field = i;
			return NULL;
		}
	return "none of age, burst and heat";
}

const char *config_set_cold(void *field, const char *value)
{
	double n;

	if (config_parse_number(value, &n) || n == 0)
		return "not a temperature above 0, such as 0.5";
	*(double *)field = n;
	return NULL;
}

const char *config_set_promote(void *field, const char *value)
{
	if (strcmp(value, "none"))
		return config_set_cold(field, value);
	*(double *)field = 0;
	return NULL;
}

const char *config_set_background(void *field, const char *value)
{
	return policy_windows_parse(value, field);
}

const char *config_set_nonblock(void *field, const char *value)
{
	if (strcmp(value, "fail") && strcmp(value, "wait"))
		return "neither fail nor wait";
	*(bool *)field = !strcmp(value, "wait");
	return NULL;
}

/* Of the configuration: per cent, or bytes. */
const char *config_set_reserve(void *field, const char *value)
{
	struct config *cfg = field;
	const char *end = value + strlen(value);
	bool percent = end > value && end[-1] == '%';
	double part = 0;
	uint64_t bytes = 0;

	if (strcmp(value, "none") &&
	    (percent ? config_parse_percent(value, &part)
		     : config_parse_size(value, &bytes)))
		return "neither a per cent, such as 5%, nor a size";
	cfg->reserve_percent = part;
	cfg->reserve_bytes = bytes;
	return NULL;
}
