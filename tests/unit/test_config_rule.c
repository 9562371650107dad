/* SPDX-License-Identifier: MIT */
#include "rules_file.h"

#include <errno.h>

/* A line in a rule, and what is said of it. */
static const struct {
	const char *line, *why;
} wrong_rows[] = {
	{"foo = 1", "foo = 1: unknown key"},
	{"high = 1", "high = 1: unknown key"},
	{"path =", "path = : no value"},
	{"path = a", "path = a: a path does not begin with /"},
	{"path = /a b", "path = /a b: a path does not begin with /"},
	{"path = /a/",
	 "path = /a/: a directory; for what is below it give DIR/**"},
	{"path = //a", "path = //a: a path with //"},
	{"path = /[a", "path = /[a: '[' without ']'; a '[' itself is "
		       "written \\["},
	{"name = a/b", "name = a/b: a name has no /; give path"},
	{"size = 10M", "size = 10M: give > A, >= A, < A, <= A or A..B"},
	{"size = > 10X", "size = > 10X: not a size, such as 10M, 1.5G or 4KiB"},
	{"size = < 0", "size = < 0: nothing is less"},
	{"size = >", "size = >: nothing behind < or >"},
	{"size = 2M..1M", "size = 2M..1M: a range that ends before it begins"},
	{"size = ..1M", "size = ..1M: not a size, such as 10M, 1.5G or 4KiB"},
	{"size = > 9223372036854775807",
	 "size = > 9223372036854775807: not a size, such as 10M, 1.5G "
	 "or 4KiB"},
	{"access = > 30",
	 "access = > 30: not a time, such as 90s, 15m, 1d or 2w"},
	{"change = 1d", "change = 1d: give > A, >= A, < A, <= A or A..B"},
	{"modification = > 1d <",
	 "modification = > 1d <: nothing behind < or >"},
	{"heat = > x", "heat = > x: not a temperature, such as 0.5 or 3"},
	{"heat = < 0", "heat = < 0: nothing is less"},
	{"heat = 2..1", "heat = 2..1: a range that ends before it "
			"begins"},
	{"owner = no-such-user", "owner = no-such-user: there is no such user"},
	{"owner = 4294967295", "owner = 4294967295: there is no such user"},
	{"owner = root -1", "owner = root -1: there is no such user"},
	{"group = no-such-group",
	 "group = no-such-group: there is no such group"},
	{"xattr = project", "xattr = project: not the name of an "
			    "attribute, such as user.project"},
	{"xattr = .a", "xattr = .a: not the name of an attribute, "
		       "such as user.project"},
	{"xattr = trusted.tierfs.spill=1",
	 "xattr = trusted.tierfs.spill=1: tierfs's own attributes are "
	 "not for rules"},
	{"keep = no", "keep = no: only yes; without it the file is not kept"},
	{"migrate = never", "migrate = never: give keep = yes, or "
			    "migrate = when-needed"},
	{"migrate = 1d", "migrate = 1d: none of now, when-needed and "
			 "after TIME [since "
			 "access|modification|change]"},
	{"migrate = after 1d since",
	 "migrate = after 1d since: none of now, when-needed and after "
	 "TIME [since access|modification|change]"},
	{"migrate = after 1d since birth",
	 "migrate = after 1d since birth: since what? access, "
	 "modification or change"},
	{"release = after 1y", "release = after 1y: not a time, such "
			       "as 90s, 15m, 1d or 2w"},
	{"read_in_place = maybe", "read_in_place = maybe: neither yes nor no"},
	{"target = a/b", "target = a/b: not a target's name"},
	{"target = tape", "target = tape: there is no target of that name"},
	{"migrate = now\nmigrate = now", NULL},
};

static void wrong_lines(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(wrong_rows); i++) {
		_cleanup_free_ char *text = NULL, *want = NULL, *why = NULL;
		struct config *cfg;
		unsigned int line = wrong_rows[i].why ? 4 : 5;

		assert_true(asprintf(&text,
				     "[tierfs]\nspill = hdd=/hdd\n"
				     "[rule a]\n%s\nrelease = now\n",
				     wrong_rows[i].line) > 0);
		assert_true(asprintf(&want, "FILE:%u: [rule a] %s", line,
				     wrong_rows[i].why ? wrong_rows[i].why
						       : "migrate = now: given "
							 "twice") > 0);
		assert_int_equal(read_text(text, &cfg, &why), -EINVAL);
		assert_string_equal(why, want);
	}
}

static void wrong_sections(void **state)
{
	static const char a_name[] =
		"a rule needs a name: 1 to 63 of A-Z a-z 0-9 . _ -, the first "
		"none of . -, and not default";
	static const struct {
		const char *text, *why, *more;
	} rows[] = {
		{"[rule]\n", "FILE:1: [rule ]: ", a_name},
		{"[rule a b]\n", "FILE:1: [rule a b]: ", a_name},
		{"\n[rule default]\n", "FILE:2: [rule default]: ", a_name},
		{"[rule a]", "FILE:1: [rule a]: it says nothing; give keep, "
			     "migrate, release, read_in_place or target"},
		{"[rule a]\npath = /a\n[rule b]\nkeep = yes\n",
		 "FILE:1: [rule a]: it says nothing; give keep, migrate, "
		 "release, read_in_place or target"},
		{"[rule a]\npath = /a\n[tierfs]\n",
		 "FILE:1: [rule a]: it says nothing; give keep, migrate, "
		 "release, read_in_place or target"},
		{"[rule a]\nkeep = yes\nmigrate = now\n",
		 "FILE:1: [rule a]: keep = yes, and migrate, release or "
		 "target"},
		{"[rule a]\nmigrate = when-needed\nrelease = never\n",
		 "FILE:1: [rule a]: migrate = when-needed and release = "
		 "never: nothing would move; give keep = yes"},
		{"[rule a]\nkeep = yes\n[rule b]\nkeep = yes\n",
		 "FILE:3: [rule b]: never reached: [rule a] in line 1 has no "
		 "conditions, so it decides for all"},
		{"[rule a]\nname = x\nkeep = yes\n[rule a]\n",
		 "FILE:4: [rule a]: the name is that of line 1"},
		{"[rules a]\n", "FILE:1: [rules a]: unknown section"},
		{"[rule a] x\n", "FILE:1: [rule a] x: unknown section"},
		{"[rule a\n", "FILE:1: [rule a: unknown section"},
		{"[tierfs x]\n", "FILE:1: [tierfs x]: unknown section"},
		{"[tierfs]\nstrategy = lru\n",
		 "FILE:2: strategy=lru: none of age, burst and heat"},
		{"[tierfs]\nhalf_life = 0\n",
		 "FILE:2: half_life=0: nothing has no half"},
		{"[tierfs]\ncold = 0\n",
		 "FILE:2: cold=0: not a temperature above 0, such as 0.5"},
		{"[tierfs]\npromote = no\n",
		 "FILE:2: promote=no: not a temperature above 0, such as 0.5"},
		{"[tierfs]\nbackground = only sat\n",
		 "FILE:2: background=only sat: days without a time, such as "
		 "00:00-24:00"},
		{"[tierfs]\nreserve = 101%\n",
		 "FILE:2: reserve=101%: neither a per cent, such as 5%, nor a "
		 "size"},
		{"[tierfs]\nstrategy = heat\npromote = 0.5\n",
		 "options cold=0.5, promote=0.5: promote is not above cold"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_free_ char *want = NULL, *why = NULL;
		struct config *cfg;

		assert_true(asprintf(&want, "%s%s", rows[i].why,
				     rows[i].more ? rows[i].more : "") > 0);
		assert_int_equal(read_text(rows[i].text, &cfg, &why), -EINVAL);
		assert_string_equal(why, want);
	}
}

static void what_the_options_set(void **state)
{
	struct config *cfg = config_of("");

	assert_int_equal(cfg->strategy, STRATEGY_AGE);
	assert_true(cfg->half_life_ns == 12 * 3600ULL * NSEC_PER_SEC);
	assert_true(cfg->cold == 0.5 && cfg->promote_at == 3);
	assert_true(cfg->promote == 0); /* not with age */
	assert_true(cfg->background.always);
	assert_true(cfg->restore_budget == 0);
	assert_true(cfg->reserve_percent == 2 && !cfg->reserve_bytes);
	assert_true(cfg->breaker == 50 && cfg->walk_rate == 0);
	assert_int_equal(policy_rules_count(cfg->rules), 0);
	config_free(cfg);
	cfg = config_of("[tierfs] # a comment\n"
			"strategy = heat\nhalf_life = 1d\ncold = 0.25\n"
			"promote = none\nrestore_budget = 10G\n"
			"background = only 02:00-06:00, or above 85%\n"
			"reserve = 10G\nbreaker = 20%\nwalk_rate = 1000\n"
			"[rule a] ; another\nname = *.a\nkeep = yes\n"
			"[rule b]\nmigrate = now\n[tierfs]\nhigh = 70\n"
			"low = 60\n");
	assert_int_equal(policy_rules_strategy(cfg->rules), STRATEGY_HEAT);
	assert_true(policy_rules_half_life(cfg->rules) ==
		    86400LL * NSEC_PER_SEC);
	assert_true(cfg->cold == 0.25 && cfg->promote == 0);
	assert_true(cfg->restore_budget == 10ULL << 30);
	assert_true(!cfg->background.always && cfg->background.n == 1 &&
		    cfg->background.above == 85);
	assert_true(cfg->reserve_percent == 0 &&
		    cfg->reserve_bytes == 10ULL << 30);
	assert_true(cfg->breaker == 20 && cfg->walk_rate == 1000);
	assert_true(cfg->high == 70);
	assert_int_equal(policy_rules_count(cfg->rules), 2);
	config_free(cfg);
}

/* A remount makes the rules anew, of the same sections. */
static void by_a_remount(void **state)
{
	struct config *cfg = config_of("[tierfs]\nspill = hdd=/hdd\n"
				       "[rule a]\nname = *.a\ntarget = hdd\n");
	char *const age[] = {(char *)"migrate_age=3d", NULL};
	char *const heat[] = {(char *)"strategy=heat", NULL};
	char *const rate[] = {(char *)"walk_rate=3", NULL};
	struct config *to = NULL;
	char *why = NULL;

	assert_int_equal(config_remount(cfg, age, &to, &why), 0);
	assert_int_equal(policy_rules_count(to->rules), 1);
	assert_true(policy_rules_fingerprint(to->rules) !=
		    policy_rules_fingerprint(cfg->rules));
	assert_true(to->promote == 0);
	config_free(to);
	assert_int_equal(config_remount(cfg, heat, &to, &why), 0);
	assert_true(to->promote == 3);
	config_free(to);
	assert_int_equal(config_remount(cfg, rate, &to, &why), -EINVAL);
	assert_string_equal(why, "option walk_rate=3: cannot be changed while "
				 "mounted");
	free(why);
	config_free(cfg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_lines),
		cmocka_unit_test(wrong_sections),
		cmocka_unit_test(what_the_options_set),
		cmocka_unit_test(by_a_remount),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
