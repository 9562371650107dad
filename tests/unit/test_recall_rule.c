/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "recall_rule.h"
#include "util.h"

/* "[NAME]" begins a section, "KEY=VALUE" is a key. */
static int read_rules(const char *const *lines, struct recall_rules **ret,
		      char **ret_why)
{
	int err = 0;

	*ret = NULL;
	for (unsigned int line = 1; !err && lines[line - 1]; line++) {
		char *text = strdup(lines[line - 1]), *value;

		value = strchr(text, '=');
		if (text[0] == '[') {
			text[strlen(text) - 1] = '\0';
			err = recall_rules_begin(ret, text + 1, "x.conf", line,
						 ret_why);
		} else {
			*value++ = '\0';
			err = recall_rules_set(*ret, text, value, line,
					       ret_why);
		}
		free(text);
	}
	return err ? err : recall_rules_check(*ret, ret_why);
}

static struct recall_rules *rules_of(const char *const *lines)
{
	struct recall_rules *rules;
	char *why = NULL;

	if (read_rules(lines, &rules, &why))
		fail_msg("%s", why);
	return rules;
}

static int eval(const struct recall_rules *rules, struct recall_facts facts)
{
	struct recall_verdict verdict;

	recall_rules_eval(rules, &facts, &verdict);
	if (verdict.rule < 0)
		assert_int_equal(verdict.action, RECALL_RESTORE);
	return verdict.rule;
}

#define LINES(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_by_user(void **state)
{
	struct recall_rules *rules =
		rules_of(LINES("[a]", "user=  1000\troot ", "action=refuse",
			       "[b]", "user=1001", "action=in-place"));
	struct recall_verdict verdict;

	(void)state;
	assert_int_equal(recall_rules_needs(rules), 0);
	assert_int_equal(eval(rules, (struct recall_facts){.uid = 1000}), 0);
	assert_int_equal(eval(rules, (struct recall_facts){.uid = 0}), 0);
	assert_int_equal(eval(rules, (struct recall_facts){.uid = 1001}), 1);
	assert_int_equal(eval(rules, (struct recall_facts){.uid = 10}), -1);
	recall_rules_eval(rules, &(struct recall_facts){.uid = 1001}, &verdict);
	assert_int_equal(verdict.action, RECALL_IN_PLACE);
	recall_rules_unref(rules);
}

static void test_by_group(void **state)
{
	struct recall_rules *rules =
		rules_of(LINES("[a]", "group=5 root", "action=refuse"));
	const uint32_t groups[] = {100, 5}, others[] = {100, 50};

	(void)state;
	assert_int_equal(recall_rules_needs(rules), RECALL_NEEDS_GROUPS);
	assert_int_equal(eval(rules, (struct recall_facts){.groups = groups,
							   .ngroups = 2}),
			 0);
	assert_int_equal(eval(rules, (struct recall_facts){.groups = groups,
							   .ngroups = 1}),
			 -1);
	assert_int_equal(eval(rules, (struct recall_facts){.groups = others,
							   .ngroups = 2}),
			 -1);
	recall_rules_unref(rules);
}

static bool in_cgroup(const char *pattern, const char *path)
{
	char key[128];
	struct recall_rules *rules;
	const char *const other[] = {"/elsewhere", path};
	int ret;

	snprintf(key, sizeof(key), "cgroup=%s", pattern);
	rules = rules_of(LINES("[a]", key, "action=refuse"));
	assert_int_equal(recall_rules_needs(rules), RECALL_NEEDS_CGROUP);
	ret = eval(rules,
		   (struct recall_facts){.cgroups = other, .ncgroups = 2});
	recall_rules_unref(rules);
	return ret == 0;
}

static void test_by_cgroup(void **state)
{
	(void)state;
	assert_true(in_cgroup("/a/b", "/a/b"));
	assert_true(in_cgroup("/a/b/", "/a/b"));
	assert_true(in_cgroup("/a/b", "/a/b/c/d"));
	assert_false(in_cgroup("/a/b", "/a/bc"));
	assert_false(in_cgroup("/a/b", "/a"));
	assert_false(in_cgroup("/a/b", "/x/a/b"));
	assert_true(in_cgroup("/system.slice/tracker*",
			      "/system.slice/tracker-miner.service"));
	assert_true(in_cgroup("/user.slice/*/app.slice",
			      "/user.slice/user-1000.slice/app.slice/x"));
	assert_false(in_cgroup("/user.slice/*/app.slice",
			       "/user.slice/a/b/app.slice"));
	assert_true(in_cgroup("/", "/a"));
	assert_true(in_cgroup("/nothing /a", "/a"));
	assert_true(in_cgroup("/a\\ b", "/a b"));
	assert_false(in_cgroup("/a", ""));
}

static bool is_command(const char *pattern, const char *thread,
		       const char *process)
{
	char key[128];
	struct recall_rules *rules;
	int ret;

	snprintf(key, sizeof(key), "command=%s", pattern);
	rules = rules_of(LINES("[a]", key, "action=refuse"));
	assert_int_equal(recall_rules_needs(rules), RECALL_NEEDS_COMMAND);
	ret = eval(rules, (struct recall_facts){.comms = {thread, process}});
	recall_rules_unref(rules);
	return ret == 0;
}

static void test_by_command(void **state)
{
	(void)state;
	assert_true(is_command("updatedb", "updatedb", NULL));
	assert_false(is_command("updatedb", "updatedb.real", NULL));
	assert_true(is_command("updatedb*", "updatedb.real", NULL));
	assert_true(is_command("tumblerd", "pool-0", "tumblerd"));
	assert_true(is_command("pool-*", "pool-0", "tumblerd"));
	/* As the kernel cuts it. */
	assert_true(is_command("tracker-miner-fs-3", "tracker-miner-f", NULL));
	assert_true(is_command("a b  c", "c", NULL));
	assert_true(is_command("Web\\ Content", "Web Content", NULL));
	assert_false(is_command("Web Content", "Web Content", NULL));
	/* Not known. */
	assert_false(is_command("*", NULL, NULL));
}

static void test_no_nonblock(void **state)
{
	(void)state;
	assert_true(recall_means_no_nonblock(
		&(struct recall_facts){.comms = {"tar"}}));
	assert_true(recall_means_no_nonblock(
		&(struct recall_facts){.comms = {"worker", "grep"}}));
	assert_false(recall_means_no_nonblock(
		&(struct recall_facts){.comms = {"tart", NULL}}));
}

static void test_all_keys(void **state)
{
	struct recall_rules *rules =
		rules_of(LINES("[a]", "user=1", "command=cat", "action=refuse",
			       "[b]", "command=cat", "action=restore",
			       "nonblock=wait", "[all]", "action=in-place"));
	struct recall_verdict verdict;

	(void)state;
	assert_int_equal(recall_rules_needs(rules), RECALL_NEEDS_COMMAND);
	assert_int_equal(
		eval(rules, (struct recall_facts){.uid = 1, .comms = {"cat"}}),
		0);
	recall_rules_eval(rules,
			  &(struct recall_facts){.uid = 2, .comms = {"cat"}},
			  &verdict);
	assert_int_equal(verdict.rule, 1);
	assert_int_equal(verdict.action, RECALL_RESTORE);
	assert_true(verdict.waits);
	assert_int_equal(
		eval(rules, (struct recall_facts){.uid = 1, .comms = {"dd"}}),
		2);
	recall_rules_unref(rules);
}

static void test_counts(void **state)
{
	struct recall_rules *rules = rules_of(LINES("[a]", "action=refuse")),
			    *more = rules_of(LINES("[b]", "user=1",
						   "action=refuse", "[a]",
						   "action=in-place"));
	struct recall_info info;

	(void)state;
	recall_rules_count(rules, 0, RECALL_OPENS);
	recall_rules_count(rules, 0, RECALL_OPENS);
	recall_rules_count(rules, 0, RECALL_REFUSED);
	recall_rules_count(rules, -1, RECALL_OPENS);
	recall_rules_count(rules, 1, RECALL_OPENS);
	recall_rules_inherit(more, rules);
	recall_rules_unref(rules);
	assert_int_equal(recall_rules_n(more), 2);
	assert_int_equal(recall_rules_n(NULL), 0);
	recall_rules_info(more, 0, &info);
	assert_int_equal(info.counts[RECALL_OPENS], 0);
	recall_rules_info(more, 1, &info);
	assert_string_equal(info.name, "a");
	assert_string_equal(info.file, "x.conf");
	assert_int_equal(info.line, 4);
	assert_int_equal(info.action, RECALL_IN_PLACE);
	assert_int_equal(info.counts[RECALL_OPENS], 2);
	assert_int_equal(info.counts[RECALL_REFUSED], 1);
	recall_rules_unref(more);
}

static void test_wrong(void **state)
{
	static const struct {
		const char *lines[5];
		const char *why;
	} rows[] = {
		{{"[a]"}, "x.conf:1: [recall a]: it says nothing; give action"},
		{{"[a]", "user=1", "[b]", "action=refuse"},
		 "x.conf:1: [recall a]: it says nothing; give action"},
		{{"[]"}, "x.conf:1: [recall ]: not a name"},
		{{"[a]", "action=refuse", "[a]"},
		 "x.conf:3: [recall a]: given twice"},
		{{"[a]", "colour=red"},
		 "x.conf:2: [recall a] colour = red: unknown key"},
		{{"[a]", "action=maybe"},
		 "x.conf:2: [recall a] action = maybe: none of"},
		{{"[a]", "action=refuse", "action=refuse"},
		 "x.conf:3: [recall a] action = refuse: given twice"},
		{{"[a]", "user=1", "user=2"},
		 "x.conf:3: [recall a] user = 2: given twice"},
		{{"[a]", "user=no such user"},
		 "x.conf:2: [recall a] user = no such user: there is no such"},
		{{"[a]", "group=4294967295"},
		 "x.conf:2: [recall a] group = 4294967295: there is no such"},
		{{"[a]", "user="}, "x.conf:2: [recall a] user = : no value"},
		{{"[a]", "command= "}, "x.conf:2: [recall a] command =  : no"},
		{{"[a]", "command=/bin/cat"},
		 "x.conf:2: [recall a] command = /bin/cat: the name"},
		{{"[a]", "cgroup=a/b"}, "x.conf:2: [recall a] cgroup = a/b: "},
		{{"[a]", "nonblock=yes"},
		 "x.conf:2: [recall a] nonblock = yes: neither"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct recall_rules *rules;
		char *why = NULL;

		assert_int_equal(read_rules(rows[i].lines, &rules, &why),
				 -EINVAL);
		if (strncmp(why, rows[i].why, strlen(rows[i].why)))
			fail_msg("%s", why);
		free(why);
		recall_rules_unref(rules);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_by_user),
		cmocka_unit_test(test_by_group),
		cmocka_unit_test(test_by_cgroup),
		cmocka_unit_test(test_by_command),
		cmocka_unit_test(test_no_nonblock),
		cmocka_unit_test(test_all_keys),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
