/* SPDX-License-Identifier: MIT */
/* The policy on a real tier and a real catalog, without FUSE. */
#include "rig.h"
#include "rules_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "catalog.h"
#include "policy_int.h"

#define SEC	 NSEC_PER_SEC
#define DAY	 (86400 * SEC)
#define PATIENCE (60 * SEC)

static struct catalog *catalog;
static struct policy *policy;

static struct policy_setup setup_of(struct config *cfg)
{
	return (struct policy_setup){.rules = cfg->rules,
				     .hours = cfg->background,
				     .promote = cfg->promote,
				     .breaker = cfg->breaker};
}

static int up(void **state)
{
	rig_make("/tmp/test_policy");
	rig.config.high = 100;
	rig.config.low = 99;
	rig_up();
	return 0;
}

/* The catalog hears of all files. */
static void tell_all(void)
{
	struct front_handle root, file;
	DIR *dir = opendir(rig.front_path);
	struct dirent *entry;

	assert_non_null(dir);
	assert_int_equal(
		front_handle_at(rig.front, rig.front->root_fd, "", &root), 0);
	while ((entry = readdir(dir))) {
		if (entry->d_type != DT_REG)
			continue;
		assert_int_equal(front_handle_at(rig.front, rig.front->root_fd,
						 entry->d_name, &file),
				 0);
		catalog_named(catalog, &file, &root, entry->d_name);
	}
	closedir(dir);
	assert_int_equal(catalog_settle(catalog, false, PATIENCE), 0);
}

/* With these rules, once the catalog knows of all files. */
static void begin(const char *text)
{
	struct catalog_config config = {.front = rig.front};
	struct config *cfg = config_of(text);
	struct policy_setup setup = setup_of(cfg);
	char *why = NULL;

	assert_int_equal(catalog_open(&config, &catalog, &why), 0);
	assert_int_equal(policy_start(rig.tier, catalog, &setup, &policy), 0);
	tell_all();
	config_free(cfg);
}

static int down(void **state)
{
	/* Nothing is in flight. */
	if (policy)
		policy_stop(policy);
	policy_free(policy);
	catalog_close(catalog);
	policy = NULL;
	catalog = NULL;
	rig_down();
	return rig_remove();
}

/* A file that was last used so many days ago. */
static void put(const char *name, size_t size, int days)
{
	struct timespec ts[2];

	make(name, size);
	ts[0] = ts[1] = timespec_from_ns(realtime_ns() - days * DAY);
	assert_int_equal(utimensat(rig.front->root_fd, name, ts, 0), 0);
}

static void put_migrated(const char *name, size_t size, int days)
{
	struct node *node;

	put(name, size, days);
	node = look(name);
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_DONE);
	node_unref(node);
}

/* What a pass says that it does, or did: "op path result\n" ... */
struct said {
	char text[65536];
	size_t len;
	bool results;
};

static void each(void *arg, const struct policy_done *done)
{
	struct said *said = arg;

	said->len += (size_t)snprintf(
		said->text + said->len, sizeof(said->text) - said->len,
		"%d %d %s %d\n", done->op, done->cause, done->path,
		said->results ? (int)done->result : 0);
	assert_true(said->len < sizeof(said->text));
}

static bool never(void *arg)
{
	return false;
}

static struct said said, done;

static int run_pass(bool dry, struct said *ret)
{
	struct policy_runner runner = {
		.dry = dry, .each = each, .stop = never, .arg = ret};
	int err;

	memset(ret, 0, sizeof(*ret));
	err = policy_run(policy, &runner);
	assert_int_equal(catalog_settle(catalog, false, PATIENCE), 0);
	return err;
}

/* ---- what is pure --------------------------------------------------------------- */

static void breaker_opens_and_closes(void **state)
{
	struct policy_breaker b = {0};
	int64_t now = SEC;
	int i;

	/* A share of failures below the limit, for ever. */
	for (i = 0; i < 1000; i++)
		assert_false(breaker_result(&b, 60, i % 2, "x", now));
	assert_int_equal(breaker_allows(&b, now), UINT32_MAX);
	for (i = 0; i < BREAKER_LAST; i++)
		if (breaker_result(&b, 50, false, "bad disk", now))
			break;
	assert_in_range(i, 0, 8);
	assert_string_equal(b.why, "bad disk");
	assert_int_equal(breaker_allows(&b, now), 0);
	/* What was under way then. */
	assert_false(breaker_result(&b, 50, false, "x", now));
	assert_int_equal(b.until, now + BREAKER_PAUSE_NS);
	/* A trial that fails: twice as long, and so on, to a limit. */
	for (int64_t pause = 2 * BREAKER_PAUSE_NS; pause < BREAKER_MOST_NS;
	     pause *= 2) {
		now = b.until;
		assert_int_equal(breaker_allows(&b, now), BREAKER_TRIAL);
		assert_true(breaker_result(&b, 50, false, "x", now));
		assert_int_equal(b.until, now + pause);
		assert_false(breaker_result(&b, 50, false, "x", now));
	}
	now = b.until;
	assert_true(breaker_result(&b, 50, false, "x", now));
	assert_int_equal(b.until, now + BREAKER_MOST_NS);
	/* One that does not. */
	now = b.until;
	assert_false(breaker_result(&b, 50, true, NULL, now));
	assert_int_equal(breaker_allows(&b, now), UINT32_MAX);
	/* A few say nothing; 0 per cent is never. */
	for (i = 0; i < BREAKER_MIN - 1; i++)
		assert_false(breaker_result(&b, 50, false, "x", now));
	for (i = 0; i < 1000; i++)
		assert_false(breaker_result(&b, 0, false, "x", now));
}

static void holds_grow_and_end(void **state)
{
	struct policy_holds h;
	int64_t now = SEC, pause = HOLD_FIRST_NS;

	holds_init(&h);
	assert_int_equal(holds_until(&h, 7, 0, now), 0);
	for (int i = 0; i < 20; i++) {
		holds_add(&h, 7, 100, "in use", now);
		assert_int_equal(holds_until(&h, 7, 0, now), now + pause);
		assert_int_equal(holds_until(&h, 7, 0, now + pause), 0);
		now += pause;
		pause = min_t(int64_t, pause * 2, HOLD_MOST_NS);
	}
	assert_string_equal(holds_why(&h, 7), "in use");
	assert_int_equal(h.kinds[0].files, 1);
	assert_int_equal(h.kinds[0].bytes, 100);
	holds_add(&h, 8, 1, "pinned", now);
	holds_add(&h, 7, 5, "pinned", now);
	assert_int_equal(h.kinds[0].files, 0);
	assert_int_equal(h.kinds[1].files, 2);
	assert_int_equal(h.kinds[1].bytes, 6);
	/* Moved: not looked at for a moment, and not counted. */
	holds_done(&h, 7, SPILL_MIGRATED, now);
	assert_null(holds_why(&h, 7));
	assert_true(holds_until(&h, 7, SPILL_MIGRATED, now) > now);
	assert_int_equal(holds_until(&h, 7, SPILL_RELEASED, now), 0);
	assert_int_equal(h.kinds[1].files, 1);
	holds_expire(&h, now + 2 * HOLD_MOST_NS);
	assert_int_equal(h.n, 0);
	/* Bounded, in files and in reasons. */
	for (uint64_t i = 0; i < HOLDS_MAX + 10; i++) {
		char why[32];

		snprintf(why, sizeof(why), "reason %d", (int)(i % 40));
		holds_add(&h, i, 1, why, now);
	}
	assert_int_equal(h.n, HOLDS_MAX);
	assert_int_equal(holds_until(&h, 0, 0, now), 0);
	assert_true(h.kinds[HOLD_KINDS - 1].files > 0);
	holds_free(&h);
}

static void room_keeps_ahead(void **state)
{
	struct policy_room room;

	policy_room_of(&room, 950, 1000, 90, 80, 7);
	assert_true(room.full);
	assert_int_equal(room.over, 150);
	assert_int_equal(room.ahead, 125);
	assert_int_equal(room.copied, 7);
	policy_room_of(&room, 899, 1000, 90, 80, 0);
	assert_false(room.full);
	assert_int_equal(room.over, 99);
	policy_room_of(&room, 710, 1000, 90, 80, 0);
	assert_int_equal(room.over, 0);
	assert_int_equal(room.spare, 90);
	assert_int_equal(room.ahead, 125);
	policy_room_of(&room, 690, 1000, 90, 80, 0);
	assert_int_equal(room.ahead, 0);
	policy_room_of(&room, 0, 0, 90, 80, 0);
	assert_false(room.full);
}

static void judged(void **state)
{
	const struct rule_verdict v = {.migrate_at = 100 * SEC,
				       .release_at = 200 * SEC,
				       .rank = 5,
				       .changes_at = INT64_MAX};
	struct rule_verdict keep = v, changing = v;
	const struct {
		const struct rule_verdict *v;
		enum spill_state state;
		unsigned int flags;
		uint64_t size;
		int64_t now;
		bool hot;
		int64_t held, due, rank;
	} rows[] = {
		{&v, SPILL_NONE, 0, 9, SEC, false, 0, 100 * SEC, 5},
		{&v, SPILL_NONE, 0, 9, 150 * SEC, false, 0, 100 * SEC, 5},
		{&v, SPILL_NONE, 0, 9, SEC, false, 300 * SEC, 300 * SEC, 5},
		{&v, SPILL_NONE, 0, 0, SEC, false, 0, INT64_MAX, INT64_MAX},
		{&v, SPILL_NONE, CATALOG_PINNED, 9, SEC, false, 0, INT64_MAX,
		 INT64_MAX},
		{&v, SPILL_NONE, CATALOG_FOREIGN, 9, SEC, false, 0, INT64_MAX,
		 INT64_MAX},
		{&v, SPILL_MIGRATED, 0, 9, SEC, false, 0, 200 * SEC, 5},
		{&v, SPILL_MIGRATED, 0, 9, SEC, true, 0, 200 * SEC, 5},
		{&v, SPILL_RELEASED, 0, 9, SEC, false, 0, INT64_MAX, INT64_MAX},
		{&v, SPILL_RELEASED, 0, 9, SEC, true, 0, SEC, INT64_MAX},
		{&v, SPILL_DIRTY, 0, 9, SEC, true, 0, INT64_MAX, INT64_MAX},
		{&keep, SPILL_NONE, 0, 9, SEC, false, 0, INT64_MAX, INT64_MAX},
		{&changing, SPILL_NONE, 0, 9, SEC, false, 0, 70 * SEC, 5},
		/* It may have changed: not asked for at once. */
		{&changing, SPILL_NONE, 0, 9, 75 * SEC, false, 0, 135 * SEC, 5},
	};

	keep.keep = true;
	changing.changes_at = 70 * SEC;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct catalog_row row = {.state = rows[i].state,
					  .flags = rows[i].flags,
					  .size = rows[i].size};

		policy_judge_row(rows[i].v, rows[i].now, rows[i].hot,
				 rows[i].held, &row);
		if (row.due != rows[i].due || row.rank != rows[i].rank)
			fail_msg("row %zu: due %lld, rank %lld", i,
				 (long long)row.due, (long long)row.rank);
		row.pinned_above = true;
		policy_judge_row(rows[i].v, rows[i].now, rows[i].hot,
				 rows[i].held, &row);
		assert_true(row.due == INT64_MAX && row.rank == INT64_MAX);
	}
}

/* ---- choosing --------------------------------------------------------------------- */

static void coldest(enum tier_op op, struct policy_limit limit,
		    const char *expected)
{
	struct policy_eye eye;
	struct policy_plan plan;
	struct policy_pick pick = {
		.eye = &eye, .plan = &plan, .rows_most = SIZE_MAX};
	struct policy_step *step;
	char text[256] = "";

	assert_int_equal(policy_eye_open(policy, &eye), 0);
	policy_plan_init(&plan);
	assert_int_equal(
		policy_pick_coldest(&pick, op, CAUSE_ROOM, INT64_MIN, limit),
		0);
	cds_list_for_each_entry (step, &plan.list, link)
		strcat(text, step->path);
	assert_string_equal(text, expected);
	policy_plan_clear(&plan);
	policy_eye_close(&eye);
}

#define SMALL_RULES "[tierfs]\nmigrate_size = 1\nmigrate_age = 100d\n"

static void the_coldest_go_first(void **state)
{
	const struct policy_limit all = {SIZE_MAX, UINT64_MAX};
	struct node *node;

	put_migrated("c", 8192, 3);
	put_migrated("a", 8192, 5);
	put_migrated("pinned", 8192, 9);
	put_migrated("b", 8192, 4);
	put("x", 8192, 8);
	put("y", 4096, 7);
	put("z", 0, 7);
	node = look("pinned");
	assert_int_equal(tier_pin(rig.tier, node, true), 0);
	node_unref(node);
	begin(SMALL_RULES);
	coldest(TIER_RELEASE, all, "/a/b/c");
	coldest(TIER_RELEASE, (struct policy_limit){2, UINT64_MAX}, "/a/b");
	coldest(TIER_RELEASE, (struct policy_limit){9, 8193}, "/a/b");
	coldest(TIER_RELEASE, (struct policy_limit){9, 0}, "");
	coldest(TIER_MIGRATE, all, "/x/y");
	/* The catalog has not heard of that yet: what is so is looked at. */
	node = look("a");
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	node_unref(node);
	coldest(TIER_RELEASE, all, "/b/c");
}

/* Files of the same rank, more than are read at once, and gaps. */
static void ranks_may_be_equal(void **state)
{
	const int n = 3000;
	struct timespec ts[2];
	struct policy_eye eye;
	struct policy_plan plan;
	struct policy_pick pick = {
		.eye = &eye, .plan = &plan, .rows_most = SIZE_MAX};
	char name[16];

	ts[0] = ts[1] = timespec_from_ns(realtime_ns() - DAY);
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		make(name, 1);
		assert_int_equal(utimensat(rig.front->root_fd, name, ts, 0), 0);
	}
	begin(SMALL_RULES);
	assert_int_equal(policy_eye_open(policy, &eye), 0);
	policy_plan_init(&plan);
	assert_int_equal(policy_pick_coldest(
				 &pick, TIER_MIGRATE, CAUSE_AHEAD, INT64_MIN,
				 (struct policy_limit){SIZE_MAX, UINT64_MAX}),
			 0);
	assert_int_equal(plan.n, n);
	policy_plan_clear(&plan);
	policy_eye_close(&eye);
}

/* ---- a pass --------------------------------------------------------------------------- */

static unsigned int seed;

static int pick_number(int below)
{
	return rand_r(&seed) % below;
}

/* The real pass does what the dry one says, in that order, and then nothing is
 * left to do. */
static void a_pass_does_what_it_says(void **state)
{
	const char *rules = "[tierfs]\nmigrate_size = 3000\nmigrate_age = 5d\n"
			    "[rule k]\nname = k*\nkeep = yes\n"
			    "[rule r]\nname = r*\nmigrate = after 2d\n"
			    "release = after 6d\n";
	int n = 150, released = 0, migrated = 0;
	char name[16];

	seed = getenv("SEED") ? (unsigned int)atoi(getenv("SEED"))
			      : (unsigned int)time(NULL);
	print_message("seed %u\n", seed);
	for (int i = 0; i < n; i++) {
		int days = pick_number(10);

		snprintf(name, sizeof(name), "%c%d", "fkr"[pick_number(3)], i);
		if (pick_number(3))
			put(name, (size_t)pick_number(8000), days);
		else
			put_migrated(name, 1 + (size_t)pick_number(8000), days);
	}
	put_migrated("rx", 100, 9);
	put("fx", 4000, 9);
	begin(rules);
	assert_int_equal(run_pass(true, &said), 0);
	assert_true(said.len > 0);
	assert_int_equal(run_pass(true, &done), 0);
	assert_string_equal(said.text, done.text);
	assert_int_equal(run_pass(false, &done), 0);
	assert_string_equal(said.text, done.text);
	for (const char *p = said.text; *p; p = strchr(p, '\n') + 1) {
		migrated += *p == '0' + TIER_MIGRATE;
		released += *p == '0' + TIER_RELEASE;
	}
	assert_true(migrated > 0 && released > 0);
	tell_all();
	assert_int_equal(run_pass(true, &said), 0);
	assert_string_equal(said.text, "");
}

/* What fails is told, and held. */
static void what_fails_is_held(void **state)
{
	struct policy_status status;
	int fd;

	put("f", 8192, 9);
	put("g", 8192, 8);
	begin("[tierfs]\nmigrate_size = 1\nmigrate_age = 1d\n");
	fd = openat(rig.front->root_fd, "f", O_RDWR); /* behind the mount */
	assert_true(fd >= 0);
	assert_int_equal(run_pass(true, &said), 0);
	done.results = true;
	assert_int_equal(run_pass(false, &done), 0);
	assert_string_equal(said.text, done.text);
	policy_status(policy, &status);
	assert_int_equal(status.migrated.files, 1);
	assert_int_equal(status.refused, 1);
	assert_int_equal(status.nheld, 1);
	assert_int_equal(status.held[0].files, 1);
	assert_non_null(strstr(status.held[0].reason, "in use"));
	close(fd);
}

static size_t hot_within(uint64_t bytes)
{
	struct policy_eye eye;
	struct policy_plan plan;
	struct policy_pick pick = {
		.eye = &eye, .plan = &plan, .rows_most = 100, .by_hand = true};
	size_t n;

	assert_int_equal(policy_eye_open(policy, &eye), 0);
	policy_eye_blink(&eye);
	policy_plan_init(&plan);
	assert_int_equal(policy_pick_due(&pick, CAUSE_HOT,
					 (struct policy_limit){10, bytes}),
			 0);
	n = plan.n;
	policy_plan_clear(&plan);
	policy_eye_close(&eye);
	return n;
}

static void hot_files_fit_or_stay(void **state)
{
	struct front_handle handle;
	struct node *node;

	(void)state;
	put_migrated("h", 100000, 3);
	node = look("h");
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	handle = node_handle(node);
	begin("[tierfs]\nstrategy = heat\npromote = 1.5\n");
	for (int i = 0; i < 3; i++) {
		catalog_accessed(catalog, &handle, NULL, NULL);
		assert_int_equal(catalog_settle(catalog, false, PATIENCE), 0);
	}
	assert_int_equal(hot_within(99999), 0);
	assert_int_equal(hot_within(100000), 1);
	node_unref(node);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(breaker_opens_and_closes),
		cmocka_unit_test(holds_grow_and_end),
		cmocka_unit_test(room_keeps_ahead),
		cmocka_unit_test(judged),
		cmocka_unit_test_setup_teardown(the_coldest_go_first, up, down),
		cmocka_unit_test_setup_teardown(ranks_may_be_equal, up, down),
		cmocka_unit_test_setup_teardown(a_pass_does_what_it_says, up,
						down),
		cmocka_unit_test_setup_teardown(what_fails_is_held, up, down),
		cmocka_unit_test_setup_teardown(hot_files_fit_or_stay, up,
						down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
