/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "policy_glob.h"
#include "util.h"

static bool matches(const char *pattern, const char *text)
{
	const char *wrong = NULL;
	struct policy_glob *glob;
	bool ret;

	if (policy_glob_new(pattern, &glob, &wrong))
		fail_msg("%s: %s", pattern, wrong);
	assert_string_equal(policy_glob_text(glob), pattern);
	ret = policy_glob_match(glob, text);
	policy_glob_free(glob);
	return ret;
}

static void known(void **state)
{
	static const struct {
		const char *pattern, *text;
		bool fits;
	} rows[] = {
		{"/a", "/a", true},
		{"/a", "/ab", false},
		{"/ab", "/a", false},
		{"/a", "", false},
		{"", "", true},
		{"", "a", false},
		{"/scratch/**", "/scratch/a", true},
		{"/scratch/**", "/scratch/a/b/.c", true},
		{"/scratch/**", "/scratch", false},
		{"/scratch/**", "/scratch2/a", false},
		{"/scratch/**", "/x/scratch/a", false},
		{"/scratch/*", "/scratch/a", true},
		{"/scratch/*", "/scratch/.a", true},
		{"/scratch/*", "/scratch/a/b", false},
		{"/a/**/b", "/a/b", true},
		{"/a/**/b", "/a/x/b", true},
		{"/a/**/b", "/a/x/y/b", true},
		{"/a/**/b", "/a/xb", false},
		{"/a/**/b", "/ab", false},
		{"/a/**/b", "/a/b/c", false},
		{"/a/**/b/**/c", "/a/b/c", true},
		{"/a/**/b/**/c", "/a/c/b/b/x/c", true},
		{"/a/**/b/**/c", "/a/c/c", false},
		{"/**/b", "/b", true},
		{"/**/b", "/a/b", true},
		{"/**/b", "/ab", false},
		{"**/b", "b", true},
		{"**/b", "a/b", true},
		{"/**", "/", true},
		{"/**", "/a/b", true},
		{"/a**b", "/a/x/b", true},
		{"/a**b", "/ab", true},
		{"/a**b", "/a/bc", false},
		{"/a***", "/a/b", true},
		{"/?", "/a", true},
		{"/?", "/", false},
		{"/?b", "//b", false},
		{"/a?b", "/a/b", false},
		{"*.tmp", "a.tmp", true},
		{"*.tmp", ".tmp", true},
		{"*.tmp", "a.tmpx", false},
		{"*.t*p", "a.t.tp", true},
		{"[a-c]x", "bx", true},
		{"[a-c]x", "dx", false},
		{"[!a-c]x", "dx", true},
		{"[^a-c]x", "ax", false},
		{"[!a]b", "/b", false},
		{"[]a]", "]", true},
		{"[!]a]", "]", false},
		{"[a-]", "-", true},
		{"[\\]a]", "]", true},
		{"[\\a-\\c]", "b", true},
		{"a]", "a]", true},
		{"\\*", "*", true},
		{"\\*", "a", false},
		{"\\[a]", "[a]", true},
		{"a\\ b", "a b", true},
		{"\xff*", "\xff\xfe", true},
		{"[\x80-\xff]", "\xe9", true},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (matches(rows[i].pattern, rows[i].text) != rows[i].fits)
			fail_msg("%s %s", rows[i].pattern, rows[i].text);
}

static void wrong_ones(void **state)
{
	static const char *const rows[] = {
		"[",	 "[a",	    "[]",  "[!]",  "[z-a]", "a\\",    "[a\\",
		"[a-\\", "[[:x:]]", "[/]", "[!/]", "[+-a]", "/x/[]a", "[.-0]",
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct policy_glob *glob = (void *)1;
		const char *wrong = NULL;

		if (policy_glob_new(rows[i], &glob, &wrong) != -EINVAL)
			fail_msg("%s", rows[i]);
		assert_true(glob == (void *)1 && wrong && *wrong);
	}
}

/* As it is defined, whatever time that takes. */
static bool naive(const char *p, const char *begin, const char *t)
{
	if (!*p)
		return !*t;
	if (p[0] == '*' && p[1] == '*') {
		const char *rest = p + strspn(p, "*");

		if ((p == begin || p[-1] == '/') && *rest == '/') {
			if (naive(rest + 1, begin, t))
				return true;
			for (; *t; t++)
				if (*t == '/' && naive(rest + 1, begin, t + 1))
					return true;
			return false;
		}
		for (;; t++) {
			if (naive(rest, begin, t))
				return true;
			if (!*t)
				return false;
		}
	}
	if (*p == '*') {
		for (;; t++) {
			if (naive(p + 1, begin, t))
				return true;
			if (!*t || *t == '/')
				return false;
		}
	}
	if (*p == '?')
		return *t && *t != '/' && naive(p + 1, begin, t + 1);
	if (*p == '[') /* [!a] is the only one */
		return *t && *t != '/' && *t != 'a' &&
		       naive(p + 4, begin, t + 1);
	return *t == *p && naive(p + 1, begin, t + 1);
}

static void as_the_naive_one(void **state)
{
	static const char *const parts[] = {"a",  "b", "/",   "*",
					    "**", "?", "[!a]"};
	unsigned int seed = 99, yes = 0;

	for (int round = 0; round < 300000; round++) {
		char pattern[64] = "", text[16] = "";

		for (int i = seed % 8; i >= 0; i--) {
			seed = seed * 1103515245 + 12345;
			strcat(pattern, parts[(seed >> 16) % 7]);
		}
		for (size_t i = (seed >> 8) % 9; i > 0; i--) {
			seed = seed * 1103515245 + 12345;
			text[strlen(text)] = "ab/"[(seed >> 16) % 3];
		}
		if (matches(pattern, text) != naive(pattern, pattern, text))
			fail_msg("%s %s", pattern, text);
		yes += matches(pattern, text);
	}
	assert_true(yes > 10000);
}

/* Any that goes back would take years. */
static void hard_ones_take_no_time(void **state)
{
	char pattern[4096] = "/", text[4096];

	for (int i = 0; i < 1000; i++)
		strcat(pattern, i % 2 ? "*a" : "**");
	strcat(pattern, "b");
	memset(text, 'a', sizeof(text) - 1);
	text[0] = '/';
	text[sizeof(text) - 1] = '\0';
	assert_false(matches(pattern, text));
	text[sizeof(text) - 2] = 'b';
	assert_true(matches(pattern, text));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known),
		cmocka_unit_test(wrong_ones),
		cmocka_unit_test(as_the_naive_one),
		cmocka_unit_test(hard_ones_take_no_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
