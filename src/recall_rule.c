/* SPDX-License-Identifier: MIT */
#include "recall_rule.h"

#include <errno.h>
#include <fnmatch.h>
#include <grp.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "util.h"

#define NAME_MAX_LEN 63
#define BLANKS	     " \t"

/* The values of a key: any of them fits. */
struct ids {
	uint32_t *id;
	size_t n;
};
struct patterns {
	char **text;
	size_t n;
};

struct rule {
	char name[NAME_MAX_LEN + 1];
	unsigned int line;
	unsigned int given; /* bits of keys */
	bool has_action;
	enum recall_action action;
	bool waits;
	struct ids users, groups;
	struct patterns cgroups, commands;
	_Atomic(uint64_t) counts[RECALL_COUNTS];
};

struct recall_rules {
	_Atomic(uint32_t) refs;
	char *file;
	struct rule *rules;
	size_t n;
};

static const char *const action_names[] = {
	[RECALL_RESTORE] = "restore",
	[RECALL_IN_PLACE] = "in-place",
	[RECALL_REFUSE] = "refuse",
};

const char *recall_action_name(enum recall_action action)
{
	return action_names[action];
}

/* ---- matching ------------------------------------------------------------ */

static bool has_id(const struct ids *ids, uint32_t id)
{
	for (size_t i = 0; i < ids->n; i++)
		if (ids->id[i] == id)
			return true;
	return false;
}

static bool has_group(const struct ids *ids, const struct recall_facts *facts)
{
	for (size_t i = 0; i < facts->ngroups; i++)
		if (has_id(ids, facts->groups[i]))
			return true;
	return false;
}

static bool has_command(const struct patterns *patterns,
			const struct recall_facts *facts)
{
	for (size_t i = 0; i < patterns->n; i++)
		for (size_t k = 0; k < ARRAY_SIZE(facts->comms); k++)
			if (facts->comms[k] &&
			    !fnmatch(patterns->text[i], facts->comms[k], 0))
				return true;
	return false;
}

/* A group stands for all that are below it. */
static bool cgroup_fits(const char *pattern, const char *path)
{
	_cleanup_free_ char *part = strdup(path);
	char *end;

	while (part && *part) {
		if (!fnmatch(pattern, part, FNM_PATHNAME))
			return true;
		end = strrchr(part, '/');
		if (!end || !end[1])
			return false;
		/* "/" is above all. */
		end[end == part] = '\0';
	}
	return false;
}

static bool has_cgroup(const struct patterns *patterns,
		       const struct recall_facts *facts)
{
	for (size_t i = 0; i < patterns->n; i++)
		for (size_t k = 0; k < facts->ncgroups; k++)
			if (cgroup_fits(patterns->text[i], facts->cgroups[k]))
				return true;
	return false;
}

static bool fits(const struct rule *rule, const struct recall_facts *facts)
{
	return (!rule->users.n || has_id(&rule->users, facts->uid)) &&
	       (!rule->groups.n || has_group(&rule->groups, facts)) &&
	       (!rule->commands.n || has_command(&rule->commands, facts)) &&
	       (!rule->cgroups.n || has_cgroup(&rule->cgroups, facts));
}

void recall_rules_eval(const struct recall_rules *rules,
		       const struct recall_facts *facts,
		       struct recall_verdict *ret)
{
	*ret = (struct recall_verdict){.action = RECALL_RESTORE, .rule = -1};
	for (size_t i = 0; i < rules->n; i++) {
		if (!fits(&rules->rules[i], facts))
			continue;
		ret->action = rules->rules[i].action;
		ret->waits = rules->rules[i].waits;
		ret->rule = (int)i;
		return;
	}
}

unsigned int recall_rules_needs(const struct recall_rules *rules)
{
	unsigned int needs = 0;

	for (size_t i = 0; i < rules->n; i++) {
		const struct rule *rule = &rules->rules[i];

		needs |= (rule->groups.n ? RECALL_NEEDS_GROUPS : 0) |
			 (rule->cgroups.n ? RECALL_NEEDS_CGROUP : 0) |
			 (rule->commands.n ? RECALL_NEEDS_COMMAND : 0);
	}
	return needs;
}

bool recall_means_no_nonblock(const struct recall_facts *facts)
{
	static const char *const names[] = {"tar", "gtar", "grep", "file"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		for (size_t k = 0; k < ARRAY_SIZE(facts->comms); k++)
			if (facts->comms[k] &&
			    !strcmp(facts->comms[k], names[i]))
				return true;
	return false;
}

/* ---- counting ------------------------------------------------------------ */

void recall_rules_count(struct recall_rules *rules, int rule,
			enum recall_count what)
{
	if (rule >= 0 && (size_t)rule < rules->n)
		atomic_fetch_add(&rules->rules[rule].counts[what], 1);
}

size_t recall_rules_n(const struct recall_rules *rules)
{
	return rules ? rules->n : 0;
}

void recall_rules_info(const struct recall_rules *rules, size_t n,
		       struct recall_info *ret)
{
	struct rule *rule = &rules->rules[n];

	*ret = (struct recall_info){.name = rule->name,
				    .file = rules->file,
				    .line = rule->line,
				    .action = rule->action};
	for (int i = 0; i < RECALL_COUNTS; i++)
		ret->counts[i] = atomic_load(&rule->counts[i]);
}

static struct rule *find(const struct recall_rules *rules, const char *name)
{
	for (size_t i = 0; i < rules->n; i++)
		if (!strcmp(rules->rules[i].name, name))
			return &rules->rules[i];
	return NULL;
}

void recall_rules_inherit(struct recall_rules *rules,
			  const struct recall_rules *old)
{
	for (size_t i = 0; i < rules->n; i++) {
		struct rule *to = &rules->rules[i];
		struct rule *from = find(old, to->name);

		for (int k = 0; from && k < RECALL_COUNTS; k++)
			atomic_store(&to->counts[k],
				     atomic_load(&from->counts[k]));
	}
}

/* ---- reading ----------------------------------------------------------------- */

static const char no_memory[] = "out of memory";

static const char *add_id(struct ids *ids, uint32_t id)
{
	uint32_t *grown = reallocarray(ids->id, ids->n + 1, sizeof(*grown));

	if (!grown)
		return no_memory;
	ids->id = grown;
	ids->id[ids->n++] = id;
	return NULL;
}

static bool parse_id(const char *text, uint32_t *ret)
{
	size_t len = strlen(text);
	unsigned long long id;

	if (!len || len > 10 || strspn(text, "0123456789") != len)
		return false;
	id = strtoull(text, NULL, 10);
	if (id >= UINT32_MAX)
		return false;
	*ret = (uint32_t)id;
	return true;
}

static const char *add_user(struct rule *rule, const char *value)
{
	struct passwd entry, *found;
	char buf[4096];
	uint32_t id;

	if (parse_id(value, &id))
		return add_id(&rule->users, id);
	if (getpwnam_r(value, &entry, buf, sizeof(buf), &found) || !found)
		return "there is no such user";
	return add_id(&rule->users, found->pw_uid);
}

static const char *add_group(struct rule *rule, const char *value)
{
	_cleanup_free_ char *buf = NULL;
	struct group entry, *found;
	size_t size = 4096;
	uint32_t id;
	int err;

	if (parse_id(value, &id))
		return add_id(&rule->groups, id);
	do { /* a group of many members is long */
		char *grown = realloc(buf, size *= 4);

		if (!grown)
			return no_memory;
		buf = grown;
		err = getgrnam_r(value, &entry, buf, size, &found);
	} while (err == ERANGE && size < 16 << 20);
	if (err || !found)
		return "there is no such group";
	return add_id(&rule->groups, found->gr_gid);
}

static const char *add_pattern(struct patterns *patterns, const char *value)
{
	char **grown =
		reallocarray(patterns->text, patterns->n + 1, sizeof(*grown));

	if (!grown)
		return no_memory;
	patterns->text = grown;
	grown[patterns->n] = strdup(value);
	if (!grown[patterns->n])
		return no_memory;
	patterns->n++;
	return NULL;
}

static const char *add_cgroup(struct rule *rule, const char *value)
{
	_cleanup_free_ char *path = strdup(value);
	size_t len = strlen(value);

	if (*value != '/')
		return "not the path of a cgroup, which begins with /";
	if (!path)
		return no_memory;
	while (len > 1 && path[len - 1] == '/')
		path[--len] = '\0';
	return add_pattern(&rule->cgroups, path);
}

/* A name, not a pattern, is cut as the kernel cuts it. */
static const char *add_command(struct rule *rule, const char *value)
{
	char cut[RECALL_COMM_MAX + 1];

	if (strchr(value, '/'))
		return "the name of a command, not its path";
	if (strpbrk(value, "*?[\\"))
		return add_pattern(&rule->commands, value);
	snprintf(cut, sizeof(cut), "%s", value);
	return add_pattern(&rule->commands, cut);
}

static const char *set_action(struct rule *rule, const char *value)
{
	rule->has_action = true;
	for (int i = 0; i < RECALL_ACTIONS; i++)
		if (!strcmp(action_names[i], value)) {
			rule->action = i;
			return NULL;
		}
	return "none of restore, in-place and refuse";
}

static const char *set_nonblock(struct rule *rule, const char *value)
{
	if (strcmp(value, "wait") && strcmp(value, "fail"))
		return "neither fail nor wait";
	rule->waits = !strcmp(value, "wait");
	return NULL;
}

static const struct {
	const char *key;
	const char *(*set)(struct rule *rule, const char *value);
	bool list; /* of words */
} keys[] = {
	{"user", add_user, true},      {"group", add_group, true},
	{"cgroup", add_cgroup, true},  {"command", add_command, true},
	{"action", set_action, false}, {"nonblock", set_nonblock, false},
};

/* Each of the words with blanks between; a backslash keeps a blank in a word, and
 * stays, for patterns know it. */
static const char *set_list(struct rule *rule, const char *value,
			    const char *(*set)(struct rule *, const char *))
{
	_cleanup_free_ char *list = strdup(value);
	char *word = list ? list + strspn(list, BLANKS) : NULL;
	const char *wrong = word && *word ? NULL : "no value";

	if (!list)
		return no_memory;
	while (!wrong && *word) {
		char *end = word;
		bool last;

		while (*end && !strchr(BLANKS, *end))
			end += end[0] == '\\' && end[1] ? 2 : 1;
		last = !*end;
		*end = '\0';
		wrong = set(rule, word);
		word = last ? end : end + 1;
		word += strspn(word, BLANKS);
	}
	return wrong;
}

int recall_rules_set(struct recall_rules *rules, const char *key,
		     const char *value, unsigned int line, char **ret_why)
{
	struct rule *rule = &rules->rules[rules->n - 1];
	const char *wrong = "unknown key";

	for (unsigned int i = 0; i < ARRAY_SIZE(keys); i++) {
		if (strcmp(keys[i].key, key))
			continue;
		if (rule->given & 1U << i)
			wrong = "given twice";
		else if (keys[i].list)
			wrong = set_list(rule, value, keys[i].set);
		else
			wrong = keys[i].set(rule, value);
		rule->given |= 1U << i;
	}
	if (!wrong)
		return 0;
	return fail_why(ret_why, wrong == no_memory ? -ENOMEM : -EINVAL,
			"%s:%u: [recall %s] %s = %s: %s", rules->file, line,
			rule->name, key, value, wrong);
}

int recall_rules_check(const struct recall_rules *rules, char **ret_why)
{
	const struct rule *last;

	if (!rules)
		return 0;
	last = &rules->rules[rules->n - 1];
	if (last->has_action)
		return 0;
	return fail_why(ret_why, -EINVAL,
			"%s:%u: [recall %s]: it says nothing; give action",
			rules->file, last->line, last->name);
}

static int set_new(struct recall_rules **ret, const char *file)
{
	_cleanup_free_ struct recall_rules *rules = calloc(1, sizeof(*rules));

	if (!rules)
		return -ENOMEM;
	atomic_store(&rules->refs, 1);
	rules->file = strdup(file);
	if (!rules->file)
		return -ENOMEM;
	*ret = steal_ptr(&rules);
	return 0;
}

int recall_rules_begin(struct recall_rules **rules, const char *name,
		       const char *file, unsigned int line, char **ret_why)
{
	struct rule *grown;
	int err = recall_rules_check(*rules, ret_why);

	if (err)
		return err;
	if (!*name || strlen(name) > NAME_MAX_LEN)
		return fail_why(ret_why, -EINVAL,
				"%s:%u: [recall %s]: not a name of 1 to %d "
				"characters",
				file, line, name, NAME_MAX_LEN);
	if (*rules && find(*rules, name))
		return fail_why(ret_why, -EINVAL,
				"%s:%u: [recall %s]: given twice", file, line,
				name);
	if (*rules && (*rules)->n == RECALL_RULES_MAX)
		return fail_why(ret_why, -EINVAL,
				"%s:%u: [recall %s]: more than %d of them",
				file, line, name, RECALL_RULES_MAX);
	if (!*rules)
		err = set_new(rules, file);
	if (err)
		return err;
	grown = reallocarray((*rules)->rules, (*rules)->n + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	(*rules)->rules = grown;
	grown += (*rules)->n++;
	memset(grown, 0, sizeof(*grown));
	strcpy(grown->name, name);
	grown->line = line;
	return 0;
}

/* ---- life ---------------------------------------------------------------------- */

struct recall_rules *recall_rules_ref(struct recall_rules *rules)
{
	if (rules)
		atomic_fetch_add(&rules->refs, 1);
	return rules;
}

static void patterns_free(struct patterns *patterns)
{
	for (size_t i = 0; i < patterns->n; i++)
		free(patterns->text[i]);
	free(patterns->text);
}

void recall_rules_unref(struct recall_rules *rules)
{
	if (!rules || atomic_fetch_sub(&rules->refs, 1) != 1)
		return;
	for (size_t i = 0; i < rules->n; i++) {
		free(rules->rules[i].users.id);
		free(rules->rules[i].groups.id);
		patterns_free(&rules->rules[i].cgroups);
		patterns_free(&rules->rules[i].commands);
	}
	free(rules->rules);
	free(rules->file);
	free(rules);
}
