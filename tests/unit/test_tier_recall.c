/* SPDX-License-Identifier: MIT */
/* Who may bring data back, who waits, and what nobody asked for. */
#include "rig.h"
#include "tier_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util.h"

#define SIZE 70000

static int setup(void **state)
{
	(void)state;
	rig_make("/tmp/test_tier_recall");
	rig_up();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	tier_set_rules(rig.tier, NULL);
	rig_down();
	recall_rules_unref(rig.config.recall);
	rig.config.recall = NULL;
	return rig_remove();
}

static struct node *released(const char *name)
{
	struct node *node;

	make(name, SIZE);
	node = look(name);
	assert_int_equal(ask(node, TIER_MIGRATE_RELEASE), TIER_DONE);
	return node;
}

static int open_for(struct node *node, int flags, const struct tier_who *who)
{
	struct tier_wait wait = {.who = who};

	return tier_open(rig.tier, node, flags, &wait);
}

static int64_t read_for(struct node *node, size_t len,
			const struct tier_who *who)
{
	void *buf = aligned_alloc(TARGET_ALIGN, len);
	bool kept_off;
	int64_t res = read_as(node, buf, len, 0, who, &kept_off);

	free(buf);
	assert_int_equal(kept_off, res == -EAGAIN);
	return res;
}

/* Opens, reads and closes. */
static int64_t look_at(struct node *node, const struct tier_who *who)
{
	int64_t ret = open_for(node, O_RDONLY, who);

	if (ret)
		return ret;
	ret = read_for(node, 4096, who);
	tier_close(rig.tier, node, O_RDONLY);
	return ret;
}

static enum spill_state later(struct node *node)
{
	mover_drain(rig.mover);
	return state_of(node);
}

static void use_rule(const char *action)
{
	struct recall_rules *rules = NULL;

	assert_int_equal(recall_rules_begin(&rules, "r", "f", 1, NULL), 0);
	assert_int_equal(recall_rules_set(rules, "action", action, 2, NULL), 0);
	rig.config.recall = rules;
	tier_retune(rig.tier, &rig.config);
}

static uint64_t refusals(void)
{
	struct recall_rules *rules = tier_rules(rig.tier, NULL);
	struct recall_info info;

	recall_rules_info(rules, 0, &info);
	recall_rules_unref(rules);
	return info.counts[RECALL_REFUSED];
}

static void test_judged(void **state)
{
	const struct tier_who any = {.pid = 7}, judged = {.judged = true};
	const struct tier_who nonblock = {.nonblock = true};
	struct node *node = released("a"), *other;

	(void)state;
	/* Without rules nobody is looked at, but who does not wait. */
	assert_int_equal(open_for(node, O_RDONLY, &any), 0);
	tier_close(rig.tier, node, O_RDONLY);
	assert_int_equal(open_for(node, O_RDONLY, &nonblock), -EDESTADDRREQ);
	use_rule("restore");
	assert_int_equal(open_for(node, O_RDONLY, &any), -EDESTADDRREQ);
	assert_int_equal(open_for(node, O_RDWR, &any), -EDESTADDRREQ);
	assert_int_equal(open_for(node, O_RDONLY, NULL), 0);
	tier_close(rig.tier, node, O_RDONLY);
	assert_int_equal(open_for(node, O_RDONLY, &judged), 0);
	tier_close(rig.tier, node, O_RDONLY);
	make("b", SIZE);
	other = look("b");
	assert_int_equal(open_for(other, O_RDONLY, &any), 0);
	tier_close(rig.tier, other, O_RDONLY);
	node_unref(other);
	node_unref(node);
}

static void test_refused(void **state)
{
	struct tier_who who = {.judged = true, .action = RECALL_REFUSE};
	struct tier_wait wait = {.who = &who};
	struct node *node = released("a");

	(void)state;
	use_rule("refuse");
	recall_rules_unref(tier_rules(rig.tier, &who.generation));
	for (int i = 0; i < 5; i++)
		assert_int_equal(look_at(node, &who), -EAGAIN);
	assert_int_equal(refusals(), 5);
	assert_int_equal(tier_need_resident(rig.tier, node, &wait), -EAGAIN);
	assert_int_equal(tier_untier(rig.tier, node, &wait), -EAGAIN);
	assert_int_equal(refusals(), 7);
	/* What is written needs nothing, nor does reading it. */
	assert_int_equal(open_for(node, O_RDWR, &who), 0);
	assert_int_equal(write_at(node, "x", 1, 5000), 0);
	assert_int_equal(read_for(node, 4096, &who), -EAGAIN);
	assert_int_equal(
		tier_link(rig.tier, node, node_root(rig.nodes), "b", &wait),
		-EAGAIN);
	tier_close(rig.tier, node, O_RDWR);
	rig.config.restore_below = SIZE + 1;
	tier_retune(rig.tier, &rig.config);
	node_unref(node);
	node = released("c");
	assert_int_equal(open_for(node, O_RDWR, &who), -EAGAIN);
	assert_int_equal(later(node), SPILL_RELEASED);
	/* Of rules that are gone nobody counts. */
	assert_int_equal(refusals(), 10);
	who.generation++;
	assert_int_equal(look_at(node, &who), -EAGAIN);
	assert_int_equal(refusals(), 10);
	node_unref(node);
}

static void test_in_place(void **state)
{
	const struct tier_who who = {.judged = true, .action = RECALL_IN_PLACE};
	const struct tier_who other = {.pid = 9};
	struct node *node = released("a");

	(void)state;
	rig.config.restore_after = 0;
	tier_retune(rig.tier, &rig.config);
	for (int i = 0; i < 5; i++)
		assert_int_equal(look_at(node, &who), 4096);
	/* Nor does he count for others who only look. */
	assert_int_equal(open_for(node, O_RDONLY, &other), 0);
	assert_int_equal(look_at(node, &who), 4096);
	assert_int_equal(later(node), SPILL_RELEASED);
	assert_int_equal(read_for(node, 4096, &other), 4096);
	tier_close(rig.tier, node, O_RDONLY);
	assert_int_equal(later(node), SPILL_MIGRATED);
	node_unref(node);
}

static void test_nonblock(void **state)
{
	const struct tier_who who = {
		.pid = 7, .nonblock = true, .judged = true};
	const struct tier_who other = {
		.pid = 8, .nonblock = true, .judged = true};
	const struct tier_who waits = {
		.pid = 7, .nonblock = true, .judged = true, .waits = true};
	struct node *node = released("a");

	(void)state;
	assert_int_equal(look_at(node, &who), -EAGAIN);
	assert_int_equal(look_at(node, &who), -EAGAIN); /* at once */
	assert_int_equal(later(node), SPILL_RELEASED);
	assert_int_equal(look_at(node, &waits), 4096);
	usleep(40000);
	/* Another's first is not his second. */
	assert_int_equal(look_at(node, &other), -EAGAIN);
	assert_int_equal(later(node), SPILL_RELEASED);
	assert_int_equal(look_at(node, &who), -EAGAIN);
	assert_int_equal(later(node), SPILL_MIGRATED);
	node_unref(node);

	rig.config.restore_after = CONFIG_NEVER;
	tier_retune(rig.tier, &rig.config);
	node = released("b");
	assert_int_equal(look_at(node, &who), -EAGAIN);
	usleep(40000);
	assert_int_equal(look_at(node, &who), -EAGAIN);
	assert_int_equal(later(node), SPILL_RELEASED);
	/* What is in the log is there. */
	assert_int_equal(open_for(node, O_RDWR, &who), 0);
	assert_int_equal(truncate_to(node, 0), 0);
	tier_close(rig.tier, node, O_RDWR);
	rig.config.restore_below = SIZE + 1;
	rig.config.nonblock_waits = true;
	tier_retune(rig.tier, &rig.config);
	node_unref(node);
	node = released("c");
	assert_int_equal(look_at(node, &who), 4096);
	rig.config.nonblock_waits = false;
	tier_retune(rig.tier, &rig.config);
	assert_int_equal(open_for(node, O_RDWR, &who), -EAGAIN);
	assert_int_equal(later(node), SPILL_MIGRATED);
	assert_int_equal(open_file(node, O_RDWR), 0);
	tier_close(rig.tier, node, O_RDWR);
	node_unref(node);
}

static void test_passes(void **state)
{
	struct node *node = released("a");
	struct tier_who who = {.pid = 7};

	(void)state;
	for (int i = 0; i < 5; i++)
		assert_int_equal(look_at(node, &who), 4096);
	for (who.pid = 8; who.pid <= 9; who.pid++)
		assert_int_equal(look_at(node, &who), 4096);
	assert_int_equal(later(node), SPILL_RELEASED);
	assert_int_equal(look_at(node, &who), 4096);
	assert_int_equal(later(node), SPILL_MIGRATED);
	/* It begins anew. Who is not known counts each time. */
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	who.pid = 0;
	for (int i = 0; i < 3; i++)
		assert_int_equal(look_at(node, &who), 4096);
	assert_int_equal(later(node), SPILL_RELEASED);
	assert_int_equal(look_at(node, &who), 4096);
	assert_int_equal(later(node), SPILL_MIGRATED);
	node_unref(node);
}

static void test_budget(void **state)
{
	struct node *a = released("a"), *b = released("b");
	struct tier_own_restores own;
	uint64_t cost;

	(void)state;
	rig.config.restore_after = 0;
	rig.config.restore_budget = SIZE * 3 / 2;
	tier_retune(rig.tier, &rig.config);
	check_data(a, "a", SIZE);
	assert_int_equal(later(a), SPILL_MIGRATED);
	tier_own_restores(rig.tier, &own);
	cost = own.used;
	assert_in_range(cost, 1, SIZE);
	assert_int_equal(own.limit, SIZE * 3 / 2);
	check_data(b, "b", SIZE);
	check_data(b, "b", SIZE);
	assert_int_equal(later(b), SPILL_RELEASED);
	tier_own_restores(rig.tier, &own);
	assert_int_equal(own.no_budget, 2);
	assert_int_equal(own.no_room, 0);
	/* The policy's idea, too. */
	assert_int_equal(ask_prio(b, TIER_RESTORE, MOVER_IDLE), TIER_REFUSED);
	assert_non_null(strstr(last.reason, "restore_budget"));
	node_unref(a);
	node_unref(b);
	rig_down();
	rig_up();
	b = look("b");
	check_data(b, "b", SIZE);
	assert_int_equal(later(b), SPILL_RELEASED);
	assert_int_equal(ask(b, TIER_RESTORE), TIER_DONE);
	tier_own_restores(rig.tier, &own);
	assert_int_equal(own.used, cost);
	assert_int_equal(ask(b, TIER_RELEASE), TIER_DONE);
	rig.config.restore_budget = 2 * SIZE;
	tier_retune(rig.tier, &rig.config);
	assert_int_equal(ask_prio(b, TIER_RESTORE, MOVER_IDLE), TIER_DONE);
	tier_own_restores(rig.tier, &own);
	assert_int_equal(own.used, 2 * cost);
	node_unref(b);
}

/* What wrote nothing costs nothing. */
static void test_given_back(void **state)
{
	struct tier_own_restores own;

	(void)state;
	assert_null(tier_own_begin(rig.tier, 1000));
	tier_own_restores(rig.tier, &own);
	assert_int_equal(own.used, 1000);
	tier_own_end(rig.tier, 1000, true, -EIO);
	assert_null(tier_own_begin(rig.tier, 500));
	tier_own_end(rig.tier, 500, false, -ECANCELED);
	tier_own_restores(rig.tier, &own);
	assert_int_equal(own.used, 1000);
	/* One that found no room keeps all others off for a while. */
	assert_null(tier_own_begin(rig.tier, 1));
	tier_own_end(rig.tier, 1, false, -ENOSPC);
	assert_non_null(tier_own_begin(rig.tier, 1));
	assert_non_null(tier_own_begin(rig.tier, UINT64_MAX / 2));
	tier_own_restores(rig.tier, &own);
	assert_int_equal(own.no_room, 2);
}

/* What comes every night does not count as more than one, what comes on one day
 * does. */
static void test_counts_lapse(void **state)
{
	const uint16_t ticks = TIER_READS_NS / 1000000 >> 16;
	struct node *node = released("a");
	struct tier_who who = {.pid = 100};

	(void)state;
	for (; who.pid < 110; who.pid++) {
		assert_int_equal(look_at(node, &who), 4096);
		assert_int_equal(node->reads, 1);
		assert_int_equal(later(node), SPILL_RELEASED);
		node->reads_at -= ticks;
	}
	for (; who.pid < 113; who.pid++) {
		assert_int_equal(look_at(node, &who), 4096);
		assert_int_equal(later(node), SPILL_RELEASED);
	}
	node->reads_at -= ticks - 2; /* time goes on */
	assert_int_equal(look_at(node, &who), 4096);
	assert_int_equal(later(node), SPILL_MIGRATED);
	node_unref(node);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_counts_lapse), T(test_judged),	  T(test_refused),
		T(test_in_place),     T(test_nonblock),	  T(test_passes),
		T(test_budget),	      T(test_given_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
