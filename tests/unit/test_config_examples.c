/* SPDX-License-Identifier: MIT */
/* The examples that are installed: they parse, and say what is so. */
#include "rules_file.h"

#include "config_rule.h"

static char *read_example(const char *name)
{
	_cleanup_free_ char *path = NULL;
	char *text = calloc(1, 65536);
	FILE *f;

	assert_true(asprintf(&path, "%s/%s", EXAMPLES, name) > 0);
	f = fopen(path, "r");
	assert_true(f && text);
	assert_true(fread(text, 1, 65535, f) > 100);
	fclose(f);
	return text;
}

static void strategies(void **state)
{
	static const char *const names[] = {"age.conf", "burst.conf",
					    "heat.conf"};

	for (int i = 0; i < 3; i++) {
		_cleanup_free_ char *text = read_example(names[i]);
		struct config *cfg = config_of(text);

		assert_int_equal(cfg->strategy, STRATEGY_AGE + i);
		assert_int_equal(cfg->ntargets, 1);
		config_free(cfg);
	}
}

static void backups(void **state)
{
	static const char *const cgroups[] = {
		"/system.slice/restic-db.service"};
	_cleanup_free_ char *text = read_example("backup.conf");
	struct recall_facts facts = {.uid = 1000, .comms = {"cat", "cat"}};
	struct config *cfg = config_of(text);
	struct recall_verdict v;

	assert_int_equal(recall_rules_n(cfg->recall), 4);
	recall_rules_eval(cfg->recall, &facts, &v);
	assert_int_equal(v.action, RECALL_RESTORE);
	facts.cgroups = cgroups;
	facts.ncgroups = 1;
	recall_rules_eval(cfg->recall, &facts, &v);
	assert_int_equal(v.action, RECALL_IN_PLACE);
	facts = (struct recall_facts){.uid = 0, .comms = {"tar", "tar"}};
	recall_rules_eval(cfg->recall, &facts, &v);
	assert_int_equal(v.action, RECALL_IN_PLACE);
	facts.comms[0] = "updatedb";
	facts.comms[1] = NULL;
	recall_rules_eval(cfg->recall, &facts, &v);
	assert_int_equal(v.action, RECALL_REFUSE);
	config_free(cfg);
}

/* The lines that are "#KEY = VALUE", with KEY and VALUE; NULL: no more. */
static char *next_commented(char **p, char **value)
{
	char *line;

	while ((line = strsep(p, "\n"))) {
		size_t len = strspn(line + (*line == '#'),
				    "abcdefghijklmnopqrstuvwxyz_");

		if (*line != '#' || strncmp(line + 1 + len, " = ", 3))
			continue;
		line[1 + len] = '\0';
		*value = line + 1 + len + 3;
		return line + 1;
	}
	return NULL;
}

/* What is commented out can be taken as it is, and the first of a key shows its
 * default. */
static void the_commented_one(void **state)
{
	_cleanup_free_ char *text = read_example("tierfs.conf.example");
	const struct config_origin from = {.file = "example"};
	struct config *cfg = config_of(text);
	char *p = strstr(text, "\n#"), *rule = strstr(text, "#[rule all]");
	char *key, *value, *last = (char *)"";
	unsigned int n = 0;

	assert_true(policy_rules_count(cfg->rules) > 3);
	assert_non_null(rule);
	rule[-1] = '\0';
	while ((key = next_commented(&p, &value))) {
		struct config before = *cfg;
		char *why = NULL;

		if (config_set(cfg, key, value, &from, &why))
			fail_msg("%s", why);
		n++;
		if (!strcmp(key, last) || !strcmp(key, "spill") ||
		    !strcmp(key, "name") || !strcmp(key, "max_threads") ||
		    (!strcmp(key, "allow_other") && geteuid()))
			continue;
		if (memcmp(&before, cfg, sizeof(before)))
			fail_msg("%s = %s is not the default", key, value);
		last = key;
	}
	assert_true(n > 20);
	config_free(cfg);
}

static void the_rule_with_every_key(void **state)
{
	_cleanup_free_ char *text = read_example("tierfs.conf.example"),
			    *body = calloc(1, 65536);
	char *line, *p = strstr(text, "#[rule all]");

	assert_true(p && body);
	strcpy(body, "[tierfs]\nspill = hdd=/mnt/hdd\n");
	while ((line = strsep(&p, "\n")) && *line == '#')
		strcat(strcat(body, line + 1), "\n");
	config_free(config_of(body));
	for (size_t i = 0; config_rule_keys[i].name; i++) {
		_cleanup_free_ char *key = NULL;

		assert_true(asprintf(&key,
				     "\n%s = ", config_rule_keys[i].name) > 0);
		if (!strstr(body, key) && strcmp(key, "\nkeep = "))
			fail_msg("no %s", key + 1);
	}
}

static void every_option(void **state)
{
	_cleanup_free_ char *text = read_example("tierfs.conf.example");
	const char *key;

	for (int i = 0; (key = config_option_key(i)); i++) {
		_cleanup_free_ char *a = NULL, *b = NULL;

		assert_true(asprintf(&a, "\n%s = ", key) > 0 &&
			    asprintf(&b, "\n#%s = ", key) > 0);
		if (!strstr(text, a) && !strstr(text, b) &&
		    strcmp(key, "config"))
			fail_msg("no %s", key);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(strategies),
		cmocka_unit_test(backups),
		cmocka_unit_test(the_commented_one),
		cmocka_unit_test(the_rule_with_every_key),
		cmocka_unit_test(every_option),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
