/* SPDX-License-Identifier: MIT */
#include "rules_file.h"

#include <errno.h>

#define SEC	  NSEC_PER_SEC
#define HOUR	  (3600 * SEC)
#define DAY	  (24 * HOUR)
#define HALF_LIFE (12 * HOUR) /* the default */
#define NOW	  (1763700000 * SEC)
#define NEVER	  INT64_MAX
#define TARGETS	  "[tierfs]\nspill = hdd=/hdd\nspill = tape=/tape\n"

static int no_xattr(void *arg, const char *name, void *buf, size_t size)
{
	return -ENODATA;
}

/* arg: "NAME=VALUE". */
static int one_xattr(void *arg, const char *name, void *buf, size_t size)
{
	const char *value = strchr(arg, '=');
	size_t len = strlen(value + 1);

	if (strlen(name) != (size_t)(value - (char *)arg) ||
	    strncmp(name, arg, strlen(name)))
		return -ENODATA;
	if (!size)
		return (int)len;
	if (len > size)
		return -ERANGE;
	memcpy(buf, value + 1, len);
	return (int)len;
}

/* A file of 100 MiB, last used and changed 10 days ago. */
static struct rule_facts facts(void)
{
	return (struct rule_facts){
		.path = "/a/b.tmp",
		.size = 100 << 20,
		.access = NOW - 10 * DAY,
		.mtime = NOW - 10 * DAY,
		.ctime = NOW - 10 * DAY,
		.uid = 1000,
		.gid = 100,
		.heat = HEAT_NONE,
		.xattr = no_xattr,
	};
}

static struct rule_verdict eval_at(const char *text, const struct rule_facts *f,
				   int64_t now)
{
	struct policy_rules *rules = rules_of(text);
	struct rule_verdict v;

	policy_rules_eval(rules, f, now, &v);
	/* The strings go with the rules. */
	v.rule.name = !strcmp(v.rule.name, "default") ? "default" : "a rule";
	v.rule.file = v.rule.file ? "FILE" : NULL;
	policy_rules_unref(rules);
	return v;
}

/* Does one rule with that condition decide? */
static bool fits_at(const char *line, const struct rule_facts *f, int64_t now)
{
	_cleanup_free_ char *text = NULL;

	assert_true(asprintf(&text, "[rule a]\n%s\nkeep = yes\n", line) > 0);
	return eval_at(text, f, now).keep;
}

static void each_condition(void **state)
{
	static const struct {
		const char *line;
		bool fits;
	} rows[] = {
		{"path = /a/**", true},
		{"path = /b/** /a/*", true},
		{"path = /b/**", false},
		{"name = *.tmp", true},
		{"name = *.bak *.tmp", true},
		{"name = b", false},
		{"size = > 100M", false},
		{"size = >= 100M", true},
		{"size = < 100M", false},
		{"size = <= 100M", true},
		{"size = 100M..100M", true},
		{"size = 1M..99M", false},
		{"size = < 1M > 1M", true},
		{"size = < 1M >200M", false},
		{"owner = 1000", true},
		{"owner = root 1000", true},
		{"owner = root", false},
		{"group = 100", true},
		{"group = root", false},
		{"access = > 9d", true},
		{"access = < 9d", false},
		{"access = 9d..11d", true},
		{"access = 1d..2d 9d..11d", true},
		{"modification = >= 10d", true},
		{"modification = > 10d", false},
		{"modification = <= 10d", true},
		{"change = < 10d", false},
		{"change = 10d..10d", true},
		{"xattr = user.x", true},
		{"xattr = user.y", false},
		{"xattr = user.x=apollo\\ 11", true},
		{"xattr = user.x=apollo", false},
		{"xattr = user.x=Apollo user.x=apollo\\ 11", true},
		{"xattr = user.y user.z", false},
		{"path = /a/**\nname = *.tmp\nsize = > 1M\nowner = 1000", true},
		{"path = /a/**\nname = *.tmp\nsize = > 1M\nowner = 0", false},
		{"path = /a/**\naccess = < 1d", false},
	};
	struct rule_facts f = facts();

	f.xattr = one_xattr;
	f.arg = (char *)"user.x=apollo 11";
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (fits_at(rows[i].line, &f, NOW) != rows[i].fits)
			fail_msg("%s", rows[i].line);
	f.xattr = NULL;
	assert_false(fits_at("xattr = user.x", &f, NOW));
}

/* Older than: not yet at that age, but 1 ns later. */
static void edges_of_age(void **state)
{
	struct rule_facts f = facts();
	int64_t at = f.access + 30 * DAY;

	assert_false(fits_at("access = > 30d", &f, at));
	assert_true(fits_at("access = > 30d", &f, at + 1));
	assert_false(fits_at("access = >= 30d", &f, at - 1));
	assert_true(fits_at("access = >= 30d", &f, at));
	assert_true(fits_at("access = < 30d", &f, at - 1));
	assert_false(fits_at("access = < 30d", &f, at));
	assert_true(fits_at("access = <= 30d", &f, at));
	assert_false(fits_at("access = <= 30d", &f, at + 1));
	/* The clock went back. */
	f.access = f.mtime = f.ctime = NOW + DAY;
	assert_true(fits_at("access = < 1d", &f, NOW));
	assert_false(fits_at("access = >= 0", &f, NOW));
	/* The ends of time. */
	f.access = f.mtime = f.ctime = INT64_MIN;
	assert_true(fits_at("access = > 30d", &f, INT64_MAX));
	f.access = f.mtime = f.ctime = INT64_MAX;
	assert_true(fits_at("access = < 1d", &f, INT64_MIN));
}

static void edges_of_heat(void **state)
{
	struct rule_facts f = facts();

	/* One access, 17 hours ago: 2^(-17/12) */
	f.access = f.mtime = f.ctime = NOW - 17 * HOUR;
	assert_true(fits_at("heat = < 0.38", &f, NOW));
	assert_false(fits_at("heat = < 0.37", &f, NOW));
	assert_true(fits_at("heat = 0.37..0.38", &f, NOW));
	f.access = NOW;
	assert_true(fits_at("heat = >= 1", &f, NOW));
	assert_false(fits_at("heat = > 1", &f, NOW));
	assert_true(fits_at("heat = <= 1", &f, NOW));
	assert_false(fits_at("heat = < 1", &f, NOW));
	assert_true(fits_at("heat = 1..2", &f, NOW));
	assert_true(fits_at("heat = >= 0", &f, NEVER));
	f.heat = heat_touch(heat_touch(HEAT_NONE, NOW, HALF_LIFE), NOW,
			    HALF_LIFE);
	assert_true(fits_at("heat = >= 2", &f, NOW));
	assert_false(fits_at("heat = >= 2", &f, NOW + HOUR));
}

static void a_write_is_a_use(void **state)
{
	struct rule_facts f = facts();

	f.mtime = f.ctime = NOW - HOUR;
	assert_true(fits_at("access = < 2h", &f, NOW));
	/* Forged: that of the change counts. */
	f.mtime = NOW + 1000 * DAY;
	assert_true(fits_at("access = < 2h", &f, NOW));
	assert_true(fits_at("modification = 1h..1h", &f, NOW));
	f.access = NOW - 20 * DAY;
	f.mtime = NOW - 30 * DAY;
	assert_true(fits_at("access = 20d..20d", &f, NOW));
	assert_true(fits_at("modification = 30d..30d", &f, NOW));
}

static void the_first_that_fits(void **state)
{
	static const char text[] =
		TARGETS "[rule pin]\npath = /keep/**\nkeep = yes\n"
			"[rule tmp]\nname = *.tmp\nmigrate = now\n"
			"release = after 1d\ntarget = tape\n"
			"[rule big]\nsize = > 1M\nmigrate = when-needed\n"
			"read_in_place = no\n";
	struct policy_rules *rules = rules_of(text);
	struct rule_facts f = facts();
	struct rule_verdict v;

	f.path = "/keep/a.tmp";
	policy_rules_eval(rules, &f, NOW, &v);
	assert_string_equal(v.rule.name, "pin");
	assert_int_equal(v.rule.line, 4);
	assert_true(v.keep && v.migrate_at == NEVER && v.release_at == NEVER &&
		    v.rank == NEVER && v.target == -1);
	f.path = "/a.tmp";
	policy_rules_eval(rules, &f, NOW, &v);
	assert_string_equal(v.rule.name, "tmp");
	assert_non_null(strstr(v.rule.file, "/fd/"));
	assert_true(!v.keep && v.migrate_at == f.ctime &&
		    v.release_at == f.access + DAY && v.rank == f.access &&
		    v.target == 1 && v.read_in_place);
	f.path = "/a";
	policy_rules_eval(rules, &f, NOW, &v);
	assert_string_equal(v.rule.name, "big");
	assert_true(v.migrate_at == NEVER && v.release_at == NEVER &&
		    v.rank == f.access && v.target == -1 && !v.read_in_place);
	f.size = 10;
	policy_rules_eval(rules, &f, NOW, &v);
	assert_string_equal(v.rule.name, "default");
	assert_null(v.rule.file);
	assert_int_equal(policy_rules_count(rules), 3);
	policy_rules_unref(rules);
}

static void each_action(void **state)
{
	struct rule_facts f = facts();
	struct rule_verdict v;

	f.mtime = NOW - 20 * DAY;
	f.ctime = NOW - 5 * DAY;
	v = eval_at("[rule a]\nmigrate = after 1d\n", &f, NOW);
	assert_true(v.migrate_at == f.access + DAY && v.release_at == NEVER);
	v = eval_at("[rule a]\nmigrate = after 1d since change\n", &f, NOW);
	assert_true(v.migrate_at == f.ctime + DAY);
	v = eval_at("[rule a]\nmigrate = after 1d since modification\n"
		    "release = after 2d since access\n",
		    &f, NOW);
	assert_true(v.migrate_at == f.mtime + DAY &&
		    v.release_at == f.access + 2 * DAY);
	v = eval_at("[rule a]\nmigrate = now\nrelease = now\n", &f, NOW);
	assert_true(v.migrate_at == f.ctime && v.release_at == f.ctime);
	v = eval_at("[rule a]\nmigrate = now\nrelease = never\n", &f, NOW);
	assert_true(v.migrate_at == f.ctime && v.release_at == NEVER &&
		    v.rank == NEVER && !v.keep);
	/* What it does not say is as by default. */
	v = eval_at("[rule a]\nread_in_place = no\n", &f, NOW);
	assert_true(v.migrate_at == f.access + DAY && v.release_at == NEVER &&
		    v.rank == f.access && !v.read_in_place);
	f.size = 5 << 20;
	v = eval_at("[rule a]\nread_in_place = no\n", &f, NOW);
	assert_true(v.migrate_at == NEVER && v.rank == RANK_SMALL + f.access);
	v = eval_at("[rule a]\nmigrate = when-needed\n", &f, NOW);
	assert_true(v.migrate_at == NEVER && v.rank == f.access);
	f.size = 0;
	v = eval_at("[rule a]\nmigrate = now\nrelease = now\n", &f, NOW);
	assert_true(v.migrate_at == NEVER && v.release_at == NEVER &&
		    v.rank == NEVER);
}

static void each_strategy(void **state)
{
	struct rule_facts f = facts();
	struct rule_verdict v, w;

	v = eval_at("", &f, NOW);
	assert_string_equal(v.rule.name, "default");
	assert_true(v.migrate_at == f.access + DAY && v.rank == f.access &&
		    v.release_at == NEVER && v.read_in_place &&
		    v.target == -1 && v.changes_at == NEVER);
	f.size = (10 << 20) - 1;
	v = eval_at("", &f, NOW);
	assert_true(v.migrate_at == NEVER && v.rank == RANK_SMALL + f.access &&
		    !v.keep);
	f.size++;
	assert_true(eval_at("", &f, NOW).rank == f.access);
	f.ctime = NOW;
	f.size = 1;
	v = eval_at("[tierfs]\nstrategy = burst\n", &f, NOW);
	assert_true(v.migrate_at == NOW + 30 * SEC &&
		    v.rank == RANK_SMALL + f.access);
	v = eval_at("[tierfs]\nstrategy = burst\nmigrate_size = 1\n", &f, NOW);
	assert_true(v.migrate_at == NOW + 30 * SEC && v.rank == f.access);

	f.size = 100 << 20;
	v = eval_at("[tierfs]\nstrategy = heat\n", &f, NOW);
	/* One access is half of it after a half-life. */
	assert_true(v.migrate_at > f.access + HALF_LIFE - SEC &&
		    v.migrate_at <= f.access + HALF_LIFE);
	f.access += HALF_LIFE / 2;
	w = eval_at("[tierfs]\nstrategy = heat\n", &f, NOW);
	assert_true(w.rank > v.rank); /* never accessed: by age */
	f.access -= HALF_LIFE / 2;
	f.heat = heat_touch(heat_touch(HEAT_NONE, f.access, HALF_LIFE),
			    f.access, HALF_LIFE);
	v = eval_at("[tierfs]\nstrategy = heat\n", &f, NOW);
	assert_true(v.rank > w.rank && v.rank == f.heat);
	assert_true(v.migrate_at > f.access + DAY - SEC &&
		    v.migrate_at <= f.access + DAY);
}

/* Small ones go last, whatever their times, in their order. */
static void small_ones_go_last(void **state)
{
	static const char *const texts[] = {
		"", "[tierfs]\nstrategy = burst\n",
		"[tierfs]\nstrategy = heat\n",
		"[rule a]\npath = /**\nread_in_place = no\n"};
	static const int64_t times[] = {INT64_MIN, -DAY,    0,
					NOW,	   NOW + 1, INT64_MAX - 1};
	struct rule_facts f = facts();

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		int64_t last = INT64_MIN, rank;

		for (size_t k = 0; k < 2 * ARRAY_SIZE(times); k++) {
			bool small = k >= ARRAY_SIZE(times);

			f.size = small ? 4096 : 100 << 20;
			f.access = f.mtime = f.ctime =
				times[k % ARRAY_SIZE(times)];
			rank = eval_at(texts[i], &f, NOW).rank;
			assert_true(rank >= last && rank != NEVER);
			assert_int_equal(rank >= RANK_SMALL, small);
			last = rank;
		}
	}
	/* A rule that says when: it is about all sizes. */
	f = facts();
	f.size = 1;
	assert_true(eval_at("[rule a]\npath = /**\nmigrate = when-needed\n", &f,
			    NOW)
			    .rank == f.access);
	assert_true(eval_at("[rule a]\npath = /**\nrelease = never\n", &f, NOW)
			    .rank == NEVER);
}

/* ---- time ------------------------------------------------------------------------ */

static uint64_t seed = 1;

static uint64_t next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void add_condition(FILE *f)
{
	static const char *const keys[] = {"access", "modification", "change",
					   "heat"};
	static const char *const ops[] = {"<", "<=", ">", ">="};
	static const char *const units[] = {"s", "m", "h", "d", "w"};
	static const char *const others[] = {
		"path = /a/**",	  "name = *.tmp *.bak", "size = > 10M",
		"xattr = user.x", "owner = 1000",
	};
	size_t key = next() % 6;

	if (key < 3 && next() % 3 == 0) {
		unsigned int a = next() % 20;

		fprintf(f, "%s = %ud..%ud\n", keys[key], a,
			a + (unsigned int)(next() % 9));
	} else if (key < 3) {
		fprintf(f, "%s = %s %u%s", keys[key], ops[next() % 4],
			1 + (unsigned int)(next() % 60), units[next() % 5]);
		fprintf(f, next() % 2 ? "\n" : " > 3w\n");
	} else if (key == 3) {
		fprintf(f, "heat = %s 0.%02u\n", ops[next() % 4],
			1 + (unsigned int)(next() % 90));
	} else {
		fprintf(f, "%s\n", others[next() % ARRAY_SIZE(others)]);
	}
}

/* One condition a rule: a key may be given once. */
static char *random_rules(void)
{
	static const char *const actions[] = {
		"keep = yes", "migrate = now", "migrate = when-needed",
		"migrate = after 3d\nrelease = after 1w since change",
		"read_in_place = no"};
	static const char *const strategies[] = {"age", "burst", "heat"};
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	unsigned int n = 1 + next() % 5;

	fprintf(f, "[tierfs]\nstrategy = %s\n", strategies[next() % 3]);
	for (unsigned int i = 0; i < n; i++) {
		fprintf(f, "[rule r%u]\n", i);
		add_condition(f);
		fprintf(f, "%s\n", actions[next() % ARRAY_SIZE(actions)]);
	}
	fclose(f);
	return text;
}

static bool same(const struct rule_verdict *a, const struct rule_verdict *b)
{
	return a->rule.name == b->rule.name && a->keep == b->keep &&
	       a->migrate_at == b->migrate_at &&
	       a->release_at == b->release_at && a->rank == b->rank &&
	       a->read_in_place == b->read_in_place && a->target == b->target;
}

static int64_t some_time(void)
{
	return NOW - (int64_t)(next() % (40 * DAY));
}

/* Nothing changes before changes_at, and it is not always now. */
static void changes_are_announced(void **state)
{
	unsigned int changed = 0, announced = 0;

	for (int round = 0; round < 3000; round++) {
		_cleanup_free_ char *text = random_rules();
		struct policy_rules *rules = rules_of(text);

		for (int file = 0; file < 20; file++) {
			struct rule_facts f = facts();
			struct rule_verdict v, w;
			int64_t now = NOW;

			f.access = some_time();
			f.mtime = some_time();
			f.ctime = some_time();
			f.path = next() % 2 ? "/a/b.tmp" : "/b/c";
			f.size = next() % 2 ? 1 << 20 : 1 << 28;
			f.heat = next() % 2 ? HEAT_NONE
					    : heat_touch(HEAT_NONE, f.access,
							 7 * DAY);
			policy_rules_eval(rules, &f, now, &v);
			for (int step = 0; step < 6; step++) {
				int64_t until = v.changes_at, at;

				assert_true(until > now);
				for (int i = 0; i < 4; i++) {
					int64_t left = until == NEVER
							       ? 100 * DAY
							       : until - now;

					at = now +
					     (int64_t)(next() % (uint64_t)left);
					if (i == 0)
						at = now + left - 1;
					policy_rules_eval(rules, &f, at, &w);
					if (!same(&v, &w))
						fail_msg("%s", text);
				}
				if (until == NEVER)
					break;
				announced++;
				now = until;
				policy_rules_eval(rules, &f, now, &w);
				changed += !same(&v, &w);
				v = w;
			}
		}
		policy_rules_unref(rules);
	}
	assert_true(announced > 10000 && changed > announced / 4);
}

/* ---- fingerprints ------------------------------------------------------------------ */

static uint64_t fingerprint(const char *text)
{
	struct policy_rules *rules = rules_of(text);
	uint64_t ret = policy_rules_fingerprint(rules);

	policy_rules_unref(rules);
	return ret;
}

static void what_a_fingerprint_tells_apart(void **state)
{
	static const char *const other[] = {
		"[rule a]\npath = /a\nmigrate = now\n",
		"[rule a]\nname = a\nmigrate = now\n",
		"[rule a]\npath = /a\nmigrate = when-needed\n",
		"[rule a]\npath = /a\nmigrate = after 1d\n",
		"[rule a]\npath = /a\nmigrate = after 1d since change\n",
		"[rule a]\npath = /a\nmigrate = after 2d\n",
		"[rule a]\npath = /a\nrelease = now\n",
		"[rule a]\npath = /a\nrelease = never\n",
		"[rule a]\npath = /a\nkeep = yes\n",
		"[rule a]\npath = /a\nread_in_place = no\n",
		"[rule a]\npath = /a\nread_in_place = yes\n",
		"[rule a]\npath = /a /b\nmigrate = now\n",
		"[rule a]\naccess = > 1d\nmigrate = now\n",
		"[rule a]\nchange = > 1d\nmigrate = now\n",
		"[rule a]\nsize = > 1K\nmigrate = now\n",
		"[rule a]\nheat = > 1\nmigrate = now\n",
		"[rule a]\nowner = 1\nmigrate = now\n",
		"[rule a]\ngroup = 1\nmigrate = now\n",
		"[rule a]\nxattr = user.a\nmigrate = now\n",
		"[rule a]\nxattr = user.a=\nmigrate = now\n",
		"[rule a]\nxattr = user.a=b\nmigrate = now\n",
		TARGETS "[rule a]\npath = /a\ntarget = hdd\n",
		TARGETS "[rule a]\npath = /a\ntarget = tape\n",
		"[tierfs]\nstrategy = burst\n",
		"[tierfs]\nstrategy = heat\n",
		"[tierfs]\nstrategy = heat\ncold = 0.2\n",
		"[tierfs]\nmigrate_age = 2d\n",
		"[tierfs]\nmigrate_size = 2M\n",
		"[tierfs]\nhalf_life = 2d\n",
		"",
	};
	uint64_t known[ARRAY_SIZE(other)];

	for (size_t i = 0; i < ARRAY_SIZE(other); i++) {
		known[i] = fingerprint(other[i]);
		assert_true(known[i] == fingerprint(other[i]));
		for (size_t j = 0; j < i; j++)
			if (known[i] == known[j])
				fail_msg("%s%s", other[i], other[j]);
	}
	/* The same, said otherwise. */
	assert_true(fingerprint("[rule a]\npath = /a\nmigrate = now\n") ==
		    fingerprint("#\n\n[rule b]\nmigrate = now\npath = /a\n"));
	assert_true(fingerprint("[rule a]\nsize = > 1023\nmigrate = now\n") ==
		    fingerprint("[rule a]\nsize = >= 1K\nmigrate = now\n"));
	assert_true(fingerprint("[tierfs]\nhigh = 95\n") == fingerprint(""));
	assert_true(fingerprint("[tierfs]\nstrategy = burst\n") ==
		    fingerprint("[tierfs]\nstrategy = burst\n"
				"migrate_age = 3d\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_condition),
		cmocka_unit_test(edges_of_age),
		cmocka_unit_test(edges_of_heat),
		cmocka_unit_test(a_write_is_a_use),
		cmocka_unit_test(the_first_that_fits),
		cmocka_unit_test(each_action),
		cmocka_unit_test(each_strategy),
		cmocka_unit_test(small_ones_go_last),
		cmocka_unit_test(changes_are_announced),
		cmocka_unit_test(what_a_fingerprint_tells_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
