/* SPDX-License-Identifier: MIT */
/* The keys of a rule: parsing of their values. */
#include <errno.h>
#include <grp.h>
#include <math.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "config_rule.h"
#include "config_setter.h"
#include "policy_glob.h"
#include "util.h"

/* Makes room for one more. */
#define GROW(list, field)                                                      \
	({                                                                     \
		void *more_ = reallocarray((list)->field, (list)->n + 1,       \
					   sizeof(*(list)->field));            \
		if (more_)                                                     \
			(list)->field = more_;                                 \
		more_ != NULL;                                                 \
	})

/* The next of words with blanks between; a backslash keeps the byte behind it in
 * the word, and stays. NULL: no more. */
static char *next_word(char **p)
{
	char *word = *p + strspn(*p, " \t"), *end = word;

	if (!*word)
		return NULL;
	while (*end && *end != ' ' && *end != '\t')
		end += end[0] == '\\' && end[1] ? 2 : 1;
	*p = end + (*end != '\0');
	*end = '\0';
	return word;
}

/* Each word by add, which says what is wrong. */
static const char *each_word(void *list, const char *value,
			     const char *(*add)(void *list, char *word))
{
	_cleanup_free_ char *copy = strdup(value);
	const char *wrong = NULL;
	char *p = copy, *word;

	if (!copy)
		return config_no_memory;
	while (!wrong && (word = next_word(&p)))
		wrong = add(list, word);
	return wrong;
}

/* ---- patterns ----------------------------------------------------------------- */

static const char *add_glob(void *list, char *word)
{
	struct rule_globs *globs = list;
	const char *wrong = config_no_memory;

	if (!GROW(globs, glob) ||
	    policy_glob_new(word, &globs->glob[globs->n], &wrong))
		return wrong;
	globs->n++;
	return NULL;
}

static const char *add_path(void *list, char *word)
{
	size_t len = strlen(word);

	if (word[0] != '/')
		return "a path does not begin with /";
	if (word[len - 1] == '/')
		return "a directory; for what is below it give DIR/**";
	if (strstr(word, "//"))
		return "a path with //";
	return add_glob(list, word);
}

static const char *set_path(struct policy_rule *rule, const char *value)
{
	return each_word(&rule->path, value, add_path);
}

static const char *add_name(void *list, char *word)
{
	return strchr(word, '/') ? "a name has no /; give path"
				 : add_glob(list, word);
}

static const char *set_name(struct policy_rule *rule, const char *value)
{
	return each_word(&rule->base, value, add_name);
}

/* ---- ranges --------------------------------------------------------------------- */

enum op {
	GREATER,
	GREATER_EQUAL,
	LESS,
	LESS_EQUAL,
	RANGE
};

/* The next of "> A", "A..B" and so on. false: no more, or *ret_wrong. */
static bool next_range(char **p, enum op *op, char **a, char **b,
		       const char **ret_wrong)
{
	char *word = next_word(p), *dots;

	if (!word)
		return false;
	if (*word == '<' || *word == '>') {
		*op = *word++ == '>' ? GREATER : LESS;
		*op += *word == '=';
		word += *word == '=';
		*a = *word ? word : next_word(p);
		*b = NULL;
		if (!*a)
			*ret_wrong = "nothing behind < or >";
	} else {
		dots = strstr(word, "..");
		if (dots)
			*dots = '\0';
		*op = RANGE;
		*a = word;
		*b = dots ? dots + 2 : NULL;
		if (!dots)
			*ret_wrong = "give > A, >= A, < A, <= A or A..B";
	}
	return !*ret_wrong;
}

/* min: the lowest that there is. */
static const char *make_range(enum op op, int64_t a, int64_t b, int64_t min,
			      struct rule_range *ret)
{
	*ret = (struct rule_range){.min = min, .max = INT64_MAX};
	if (op == GREATER && a == INT64_MAX)
		return "too big";
	if (op == LESS && a == min)
		return "nothing is less";
	switch (op) {
	case GREATER:
		ret->min = a + 1;
		break;
	case GREATER_EQUAL:
		ret->min = a;
		break;
	case LESS:
		ret->max = a - 1;
		break;
	case LESS_EQUAL:
		ret->max = a;
		break;
	case RANGE:
		ret->min = a;
		ret->max = b;
		break;
	}
	return op == RANGE && b < a ? "a range that ends before it begins"
				    : NULL;
}

static const char *add_ranges(struct rule_ranges *ranges, const char *value,
			      int64_t min,
			      int (*parse)(const char *text, uint64_t *ret),
			      const char *not_one)
{
	_cleanup_free_ char *copy = strdup(value);
	const char *wrong = NULL;
	char *p = copy, *a, *b;
	enum op op;

	if (!copy)
		return config_no_memory;
	while (next_range(&p, &op, &a, &b, &wrong)) {
		uint64_t x, y = 0;

		if (parse(a, &x) || (b && parse(b, &y)))
			return not_one;
		if (!GROW(ranges, range))
			return config_no_memory;
		wrong = make_range(op, (int64_t)x, (int64_t)y, min,
				   &ranges->range[ranges->n]);
		if (wrong)
			return wrong;
		ranges->n++;
	}
	return wrong;
}

static const char *set_size(struct policy_rule *rule, const char *value)
{
	return add_ranges(&rule->size, value, 0, config_parse_size,
			  "not a size, such as 10M, 1.5G or 4KiB");
}

/* Times in the future are younger than any. */
static const char *set_age(struct policy_rule *rule, enum rule_time time,
			   const char *value)
{
	return add_ranges(&rule->age[time], value, INT64_MIN, config_parse_time,
			  "not a time, such as 90s, 15m, 1d or 2w");
}

static const char *set_access(struct policy_rule *rule, const char *value)
{
	return set_age(rule, RULE_ACCESS, value);
}

static const char *set_modification(struct policy_rule *rule, const char *value)
{
	return set_age(rule, RULE_MODIFICATION, value);
}

static const char *set_change(struct policy_rule *rule, const char *value)
{
	return set_age(rule, RULE_CHANGE, value);
}

static const char *set_heat(struct policy_rule *rule, const char *value)
{
	_cleanup_free_ char *copy = strdup(value);
	struct rule_heats *heats = &rule->heat;
	const char *wrong = NULL;
	char *p = copy, *a, *b;
	enum op op;

	if (!copy)
		return config_no_memory;
	while (next_range(&p, &op, &a, &b, &wrong)) {
		struct rule_heat *h;
		double x, y = 0;

		if (config_parse_number(a, &x) ||
		    (b && config_parse_number(b, &y)))
			return "not a temperature, such as 0.5 or 3";
		if (op == LESS && x == 0)
			return "nothing is less";
		if (op == RANGE && y < x)
			return "a range that ends before it begins";
		if (!GROW(heats, range))
			return config_no_memory;
		h = &heats->range[heats->n++];
		h->above = op == GREATER ? x
			   : op == GREATER_EQUAL || op == RANGE
				   ? nextafter(x, -INFINITY)
				   : -1;
		h->upto = op == LESS	     ? nextafter(x, -INFINITY)
			  : op == LESS_EQUAL ? x
			  : op == RANGE	     ? y
					     : INFINITY;
	}
	return wrong;
}

/* ---- owners ----------------------------------------------------------------------- */

static bool is_number(const char *word, uint32_t *ret)
{
	size_t len = strlen(word);
	unsigned long long n;

	if (!len || len > 10 || strspn(word, "0123456789") != len)
		return false;
	n = strtoull(word, NULL, 10);
	*ret = (uint32_t)n;
	return n < UINT32_MAX; /* which is nobody */
}

/* 0, -ENOENT, -ENOMEM, or what the name service says. */
static int find_id(const char *name, bool group, uint32_t *ret)
{
	size_t size = 1024;
	struct passwd pw, *user = NULL;
	struct group gr, *grp = NULL;
	int err;

	do {
		_cleanup_free_ char *buf = malloc(size);

		if (!buf)
			return -ENOMEM;
		err = group ? getgrnam_r(name, &gr, buf, size, &grp)
			    : getpwnam_r(name, &pw, buf, size, &user);
		if (user)
			*ret = user->pw_uid;
		if (grp)
			*ret = grp->gr_gid;
		size *= 4;
	} while (err == ERANGE && size <= 1 << 22);
	return user || grp ? 0 : err ? -err : -ENOENT;
}

static const char *add_id(struct rule_ids *ids, const char *word, bool group,
			  const char *unknown)
{
	if (!GROW(ids, id))
		return config_no_memory;
	if (!is_number(word, &ids->id[ids->n]) &&
	    find_id(word, group, &ids->id[ids->n]))
		return unknown;
	ids->n++;
	return NULL;
}

static const char *add_user(void *list, char *word)
{
	return add_id(list, word, false, "there is no such user");
}

static const char *add_group(void *list, char *word)
{
	return add_id(list, word, true, "there is no such group");
}

static const char *set_owner(struct policy_rule *rule, const char *value)
{
	return each_word(&rule->uid, value, add_user);
}

static const char *set_group(struct policy_rule *rule, const char *value)
{
	return each_word(&rule->gid, value, add_group);
}

/* ---- attributes -------------------------------------------------------------------- */

static void drop_backslashes(char *text)
{
	char *out = text;

	for (; *text; text++) {
		text += text[0] == '\\' && text[1];
		*out++ = *text;
	}
	*out = '\0';
}

static const char *add_xattr(void *list, char *word)
{
	struct rule_xattrs *xattrs = list;
	_cleanup_free_ char *name = NULL, *text = NULL;
	char *value = strchr(word, '=');
	const char *dot;

	if (value)
		*value++ = '\0';
	dot = strchr(word, '.');
	if (!dot || dot == word || !dot[1])
		return "not the name of an attribute, such as user.project";
	if (strlen(word) > 255)
		return "the name of an attribute has at most 255 bytes";
	if (!strncmp(dot, ".tierfs", 7) && (!dot[7] || dot[7] == '.'))
		return "tierfs's own attributes are not for rules";
	if (value)
		drop_backslashes(value);
	if (value && strlen(value) > RULE_XATTR_VALUE_MAX)
		return "a value of more than 256 bytes";
	name = strdup(word);
	text = value ? strdup(value) : NULL;
	if (!name || (value && !text) || !GROW(xattrs, xattr))
		return config_no_memory;
	xattrs->xattr[xattrs->n++] = (struct rule_xattr){
		.name = steal_ptr(&name), .value = steal_ptr(&text)};
	return NULL;
}

static const char *set_xattr(struct policy_rule *rule, const char *value)
{
	return each_word(&rule->xattr, value, add_xattr);
}

/* ---- actions ------------------------------------------------------------------------ */

static const char *set_keep(struct policy_rule *rule, const char *value)
{
	rule->keep = true;
	return strcmp(value, "yes")
		       ? "only yes; without it the file is not kept"
		       : NULL;
}

static const char *set_since(const char *text, enum rule_time *ret)
{
	static const char *const names[] = {
		[RULE_ACCESS] = "access",
		[RULE_MODIFICATION] = "modification",
		[RULE_CHANGE] = "change",
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i], text)) {
			*ret = i;
			return NULL;
		}
	return "since what? access, modification or change";
}

/* now, when-needed, or after TIME [since WHAT] */
static const char *parse_when(const char *value, struct rule_when *w)
{
	_cleanup_free_ char *copy = strdup(value);
	char *p = copy, *word, *time, *since, *what;
	uint64_t delay;

	if (!copy)
		return config_no_memory;
	*w = (struct rule_when){.kind = WHEN_AFTER, .since = RULE_CHANGE};
	if (!strcmp(value, "now"))
		return NULL;
	w->kind = WHEN_NEEDED;
	if (!strcmp(value, "when-needed"))
		return NULL;
	w->kind = WHEN_AFTER;
	w->since = RULE_ACCESS;
	word = next_word(&p);
	time = next_word(&p);
	since = next_word(&p);
	what = next_word(&p);
	if (!word || strcmp(word, "after") || !time || next_word(&p) ||
	    (since && (strcmp(since, "since") || !what)))
		return "none of now, when-needed and "
		       "after TIME [since access|modification|change]";
	if (config_parse_time(time, &delay))
		return "not a time, such as 90s, 15m, 1d or 2w";
	w->delay = (int64_t)delay;
	return what ? set_since(what, &w->since) : NULL;
}

static const char *set_migrate(struct policy_rule *rule, const char *value)
{
	if (!strcmp(value, "never"))
		return "give keep = yes, or migrate = when-needed";
	return parse_when(value, &rule->migrate);
}

static const char *set_release(struct policy_rule *rule, const char *value)
{
	rule->release.kind = WHEN_NEVER;
	return strcmp(value, "never") ? parse_when(value, &rule->release)
				      : NULL;
}

static const char *set_read_in_place(struct policy_rule *rule,
				     const char *value)
{
	rule->restores = !strcmp(value, "no");
	return rule->restores || !strcmp(value, "yes") ? NULL
						       : "neither yes nor no";
}

static const char *set_target(struct policy_rule *rule, const char *value)
{
	if (!config_name_valid(value))
		return "not a target's name";
	memcpy(rule->target, value, strlen(value) + 1);
	return NULL;
}

/* ---- all of them ------------------------------------------------------------------------ */

const struct config_rule_key config_rule_keys[] = {
	{"path", set_path},
	{"name", set_name},
	{"size", set_size},
	{"access", set_access},
	{"modification", set_modification},
	{"change", set_change},
	{"owner", set_owner},
	{"group", set_group},
	{"heat", set_heat},
	{"xattr", set_xattr},
	{"keep", set_keep, .acts = true},
	{"migrate", set_migrate, .acts = true, .moves = true},
	{"release", set_release, .acts = true, .moves = true},
	{"read_in_place", set_read_in_place, .acts = true},
	{"target", set_target, .acts = true, .moves = true},
	{NULL},
};
