/* SPDX-License-Identifier: MIT */
/*
 * Patterns as an automaton of which all states are followed at once, so that
 * there is nothing to go back to: fnmatch(3) and all that try one way after the
 * other take exponential time for some patterns.
 *
 * State i is before token i. Only the states between the lowest and the highest
 * that is on are looked at, mostly one or two. The literal start and end of a
 * pattern, by which most texts differ, are compared first.
 */
#include "policy_glob.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"

enum kind {
	LITERAL,
	SET,	 /* one of a set */
	STAR,	 /* any without '/' */
	DEEP,	 /* any */
	MAYBE,	 /* goes on here, or behind the next, a DEEP_DIR */
	DEEP_DIR /* any that ends with '/' */
};

struct token {
	enum kind kind;
	unsigned char byte; /* of LITERAL */
	size_t set;	    /* of SET: which */
};

struct set {
	uint8_t bits[32];
};

struct policy_glob {
	char *text;
	size_t nprefix; /* literals at the start */
	size_t nsuffix; /* at the end, if there is anything else */
	struct token *tokens;
	size_t ntokens;
	struct set *sets;
	size_t nsets;
};

void policy_glob_free(struct policy_glob *glob)
{
	if (!glob)
		return;
	free(glob->text);
	free(glob->tokens);
	free(glob->sets);
	free(glob);
}

static void freep(struct policy_glob **glob)
{
	policy_glob_free(*glob);
}

static void set_add(struct set *set, unsigned char c)
{
	set->bits[c / 8] |= (uint8_t)(1 << c % 8);
}

static bool set_has(const struct set *set, unsigned char c)
{
	return set->bits[c / 8] >> c % 8 & 1;
}

/* All but what is in it, and '/' and NUL never. */
static void set_invert(struct set *set)
{
	for (size_t i = 0; i < sizeof(set->bits); i++)
		set->bits[i] = (uint8_t)~set->bits[i];
	set->bits[0] &= (uint8_t)~1;
	set->bits['/' / 8] &= (uint8_t) ~(1 << '/' % 8);
}

/* Takes one byte of a set, maybe behind a backslash. */
static const char *take_byte(const char *p, unsigned char *ret)
{
	p += *p == '\\';
	*ret = (unsigned char)*p;
	return *p ? p + 1 : NULL;
}

/* p is behind '['; returns what is behind ']', or NULL with *ret_wrong. */
static const char *take_set(const char *p, struct set *set,
			    const char **ret_wrong)
{
	bool invert = *p == '!' || *p == '^', first = true;
	unsigned char from, to;

	*ret_wrong = "'[' without ']'; a '[' itself is written \\[";
	for (p += invert; *p != ']' || first; first = false) {
		if (*p == '[' && (p[1] == ':' || p[1] == '.' || p[1] == '=')) {
			*ret_wrong = "classes such as [:alpha:] are not known";
			return NULL;
		}
		p = take_byte(p, &from);
		if (!p)
			return NULL;
		to = from;
		if (p[0] == '-' && p[1] && p[1] != ']') {
			p = take_byte(p + 1, &to);
			if (!p)
				return NULL;
		}
		if (to < from) {
			*ret_wrong = "a range in '[]' that ends before it "
				     "begins";
			return NULL;
		}
		for (unsigned int c = from; c <= to; c++)
			set_add(set, (unsigned char)c);
	}
	if (set_has(set, '/')) {
		*ret_wrong = "a '/' in '[]'";
		return NULL;
	}
	if (invert)
		set_invert(set);
	return p + 1;
}

static void add(struct policy_glob *glob, enum kind kind, char byte)
{
	glob->tokens[glob->ntokens++] =
		(struct token){.kind = kind, .byte = (unsigned char)byte};
}

/* p is at a '*'. */
static const char *take_stars(struct policy_glob *glob, const char *p)
{
	bool begins = p == glob->text || p[-1] == '/';
	size_t n = strspn(p, "*");

	if (n == 1) {
		add(glob, STAR, 0);
	} else if (begins && p[n] == '/') {
		size_t last = glob->ntokens - 1;

		n++;
		/* Twice is as once. */
		if (glob->ntokens && glob->tokens[last].kind == DEEP_DIR)
			return p + n;
		add(glob, MAYBE, 0);
		add(glob, DEEP_DIR, 0);
	} else {
		add(glob, DEEP, 0);
	}
	return p + n;
}

static const char *take(struct policy_glob *glob, const char *p,
			const char **ret_wrong)
{
	struct set *set = &glob->sets[glob->nsets];

	switch (*p) {
	case '*':
		return take_stars(glob, p);
	case '?':
		set_invert(set);
		p++;
		break;
	case '[':
		p = take_set(p + 1, set, ret_wrong);
		break;
	case '\\':
		p++;
		*ret_wrong = "a '\\' at the end";
		if (!*p)
			return NULL;
		/* fall through */
	default:
		add(glob, LITERAL, *p);
		return p + 1;
	}
	add(glob, SET, 0);
	glob->tokens[glob->ntokens - 1].set = glob->nsets++;
	return p;
}

static size_t count(const char *text, const char *of)
{
	size_t n = 0;

	for (; *text; text++)
		n += strchr(of, *text) != NULL;
	return n;
}

int policy_glob_new(const char *pattern, struct policy_glob **ret,
		    const char **ret_wrong)
{
	_cleanup_(freep) struct policy_glob *glob = calloc(1, sizeof(*glob));
	const char *p;

	if (!glob)
		return -ENOMEM;
	glob->text = strdup(pattern);
	glob->tokens = calloc(strlen(pattern) + 1, sizeof(*glob->tokens));
	glob->sets = calloc(count(pattern, "?[") + 1, sizeof(*glob->sets));
	if (!glob->text || !glob->tokens || !glob->sets)
		return -ENOMEM;
	for (p = glob->text; *p;) {
		p = take(glob, p, ret_wrong);
		if (!p)
			return -EINVAL;
	}
	while (glob->nprefix < glob->ntokens &&
	       glob->tokens[glob->nprefix].kind == LITERAL)
		glob->nprefix++;
	while (glob->nprefix + glob->nsuffix < glob->ntokens &&
	       glob->tokens[glob->ntokens - glob->nsuffix - 1].kind == LITERAL)
		glob->nsuffix++;
	*ret = steal_ptr(&glob);
	return 0;
}

const char *policy_glob_text(const struct policy_glob *glob)
{
	return glob->text;
}

/* States that are on, all of them from low to high. */
struct states {
	char *on;
	size_t low, high;
	bool accepts; /* whatever follows */
};

/* A state, and those that are reached from it without a byte; stars do not stand
 * side by side, so these are few. */
static void enter(const struct policy_glob *glob, struct states *s, size_t i)
{
	enum kind kind;

	if (s->on[i])
		return;
	s->on[i] = 1;
	s->low = i < s->low ? i : s->low;
	s->high = i > s->high ? i : s->high;
	if (i == glob->ntokens)
		return;
	kind = glob->tokens[i].kind;
	s->accepts |= kind == DEEP && i + 1 == glob->ntokens;
	if (kind == STAR || kind == DEEP || kind == MAYBE)
		enter(glob, s, i + 1);
	if (kind == MAYBE)
		enter(glob, s, i + 2);
}

static void empty(struct states *s, size_t n)
{
	s->low = n;
	s->high = 0;
}

/* From the states in s, which is empty then, by c to those in next. */
static void step(const struct policy_glob *glob, unsigned char c,
		 struct states *s, struct states *next)
{
	for (size_t i = s->low; i <= s->high; i++) {
		const struct token *token = &glob->tokens[i];
		bool stays = false, goes = false;

		if (!s->on[i])
			continue;
		s->on[i] = 0;
		if (i == glob->ntokens) /* and there is more */
			break;
		switch (token->kind) {
		case LITERAL:
			goes = token->byte == c;
			break;
		case SET:
			goes = set_has(&glob->sets[token->set], c);
			break;
		case STAR:
			stays = c != '/';
			break;
		case DEEP:
			stays = true;
			break;
		case DEEP_DIR:
			stays = true;
			goes = c == '/';
			break;
		case MAYBE:
			break;
		}
		if (stays)
			enter(glob, next, i);
		if (goes)
			enter(glob, next, i + 1);
	}
	empty(s, glob->ntokens + 1);
}

/* Does what is literal at both ends fit? */
static bool ends_fit(const struct policy_glob *glob, const char *text)
{
	size_t len, i;

	for (i = 0; i < glob->nprefix; i++)
		if ((unsigned char)text[i] != glob->tokens[i].byte)
			return false; /* at the end of text too */
	if (!glob->nsuffix)
		return true;
	len = i + strlen(text + i);
	for (i = 1; i <= glob->nsuffix && i + glob->nprefix <= len; i++)
		if ((unsigned char)text[len - i] !=
		    glob->tokens[glob->ntokens - i].byte)
			return false;
	return i > glob->nsuffix;
}

bool policy_glob_match(const struct policy_glob *glob, const char *text)
{
	char on[2][glob->ntokens + 1];
	struct states a = {.on = on[0]}, b = {.on = on[1]};

	if (!ends_fit(glob, text))
		return false;
	text += glob->nprefix;
	if (glob->nprefix == glob->ntokens)
		return !*text;
	memset(on, 0, sizeof(on));
	empty(&a, glob->ntokens + 1);
	empty(&b, glob->ntokens + 1);
	enter(glob, &a, glob->nprefix);
	for (; *text && a.low <= a.high && !a.accepts; text++) {
		struct states c;

		step(glob, (unsigned char)*text, &a, &b);
		c = a;
		a = b;
		b = c;
	}
	return a.accepts || (!*text && a.on[glob->ntokens]);
}
