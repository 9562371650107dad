/* SPDX-License-Identifier: MIT */
/* Parts of a configuration, copied and put together. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "config_parse.h"

int config_copy_text(const char *from, char **text)
{
	char *copy = from ? strdup(from) : NULL;

	if (from && !copy)
		return -ENOMEM;
	free(*text);
	*text = copy;
	return 0;
}

void config_drop_targets(struct config *cfg)
{
	while (cfg->ntargets) {
		struct config_target *target = &cfg->targets[--cfg->ntargets];

		free(steal_ptr(&target->path));
		free(steal_ptr(&target->given));
	}
}

int config_copy_targets(const struct config *from, struct config *to)
{
	int err = 0;

	for (unsigned int i = 0; !err && i < from->ntargets; i++) {
		const struct config_target *target = &from->targets[i];
		struct config_target *copy = &to->targets[i];

		memcpy(copy->name, target->name, sizeof(copy->name));
		copy->path = copy->given = NULL;
		to->ntargets = i + 1;
		err = config_copy_text(target->path, &copy->path);
		if (!err)
			err = config_copy_text(target->given, &copy->given);
	}
	return err;
}

/* Does text, KEY or KEY=VALUE, have that key? */
static bool has_key(const char *text, const char *key)
{
	size_t len = strlen(key);

	return !strncmp(text, key, len) && (!text[len] || text[len] == '=');
}

/* Behind the others, in place of one that it wins over, so that there are only
 * as many as there are options. */
int config_add_given(struct config *cfg, const char *key, const char *value)
{
	_cleanup_free_ char *text = NULL;
	char **more = cfg->given;
	size_t n = 0, kept = 0;

	if (asprintf(&text, "%s%s%s", key, value ? "=" : "",
		     value ? value : "") < 0) {
		text = NULL;
		return -ENOMEM;
	}
	while (more && more[n])
		n++;
	more = reallocarray(more, n + 2, sizeof(*more));
	if (!more)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (!config_option_repeats(key) && has_key(more[i], key))
			free(more[i]);
		else
			more[kept++] = more[i];
	more[kept++] = steal_ptr(&text);
	more[kept] = NULL;
	cfg->given = more;
	return 0;
}

int config_copy_given(const struct config *from, struct config *to)
{
	int err = 0;

	for (char **text = from->given; !err && text && *text; text++) {
		_cleanup_free_ char *key = strdup(*text);
		char *value = key ? strchr(key, '=') : NULL;

		if (!key)
			return -ENOMEM;
		if (value)
			*value++ = '\0';
		err = config_add_given(to, key, value);
	}
	return err;
}
