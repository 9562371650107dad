/* SPDX-License-Identifier: MIT */
/* The synthetic trace of tests/bench, a tiny one: what must hold whatever the
 * policies are worth. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "policy_rule_impl.h"
#include "trace.h"
#include "util.h"

#define MIB (1ULL << 20)

static struct trace_params tiny(uint64_t seed)
{
	struct trace_params p;

	trace_defaults(&p);
	p.seed = seed;
	p.files = 1500;
	p.projects = 25;
	p.days = 2;
	p.reads = 2000;
	p.writes = 200;
	p.creates = 100;
	p.tail = 0; /* no file is as large as the front */
	p.sigma = 1.8;
	return p;
}

static struct trace_policy policy_of(enum policy_strategy strategy)
{
	const struct policy_params params = {
		.strategy = strategy,
		.half_life_ns = TRACE_DAY,
		.migrate_age_ns = TRACE_DAY,
		.migrate_size = MIB,
		.cold = 0.5,
	};
	struct trace_policy ret = {
		.high = 90,
		.low = 80,
		.promote = 3,
		.restore_after = 3,
		.dirty_entries = 1024,
		.dirty_bytes = 64 * MIB,
		.restore_below = MIB,
		.backup = BACKUP_IN_PLACE,
	};
	size_t rule;

	assert_int_equal(policy_rules_new(NULL, &params, &ret.rules, &rule), 0);
	return ret;
}

static struct trace generated(uint64_t seed)
{
	struct trace_params p = tiny(seed);
	struct trace t;

	assert_int_equal(trace_generate(&p, &t), 0);
	return t;
}

static struct trace_result replayed(const struct trace *t,
				    const struct trace_policy *policy,
				    uint64_t front)
{
	struct trace_result r;

	/* It checks its sums itself. */
	assert_int_equal(trace_engine(t, policy, front, &r), 0);
	return r;
}

static void same_seed_same_week(void **state)
{
	struct trace a = generated(7), b = generated(7), c = generated(8);
	struct trace_policy heat = policy_of(STRATEGY_HEAT);
	struct trace_result x = replayed(&a, &heat, a.initial_bytes / 5);
	struct trace_result y = replayed(&b, &heat, b.initial_bytes / 5);

	assert_true(a.nevents > 10000);
	assert_int_equal(a.nevents, b.nevents);
	for (size_t i = 0; i < a.nevents; i++) {
		assert_true(a.events[i].at == b.events[i].at);
		assert_true(a.events[i].bytes == b.events[i].bytes);
		assert_true(a.events[i].file == b.events[i].file);
		assert_true(a.events[i].kind == b.events[i].kind);
	}
	assert_memory_equal(&x, &y, sizeof(x));
	assert_true(a.nevents != c.nevents ||
		    memcmp(a.events, c.events, sizeof(*a.events)));
	policy_rules_unref(heat.rules);
	trace_free(&a);
	trace_free(&b);
	trace_free(&c);
}

/* Files are read and written only while they are there, by increasing time. */
static void trace_is_sound(void **state)
{
	struct trace t = generated(1);
	bool *there = calloc(t.nfiles, sizeof(*there));
	uint64_t *size = calloc(t.nfiles, sizeof(*size));
	uint64_t seen[TRACE_KINDS] = {0};
	int64_t at = t.start;

	for (uint32_t i = 0; i < t.nfiles; i++) {
		there[i] = t.files[i].initial;
		size[i] = t.files[i].size;
	}
	for (size_t i = 0; i < t.nevents; i++) {
		const struct trace_event *e = &t.events[i];

		assert_true(e->at >= at && e->at < t.end + TRACE_HOUR);
		at = e->at;
		seen[e->kind]++;
		assert_int_equal(there[e->file], e->kind != TRACE_CREATE);
		there[e->file] = e->kind != TRACE_UNLINK;
		if (e->kind == TRACE_READ || e->kind == TRACE_BACKUP)
			assert_true(e->bytes == size[e->file]);
		else if (e->kind != TRACE_UPDATE)
			size[e->file] = e->bytes;
	}
	for (int k = 0; k < TRACE_KINDS; k++)
		assert_true(seen[k] > 0);
	free(there);
	free(size);
	trace_free(&t);
}

/* All that was asked for was answered, from the one or from the other. */
static void sums_hold(const struct trace *t, const struct trace_count *c,
		      bool reads_twice)
{
	uint64_t reads = 0, bytes = 0, written = 0, missed;

	for (size_t i = 0; i < t->nevents; i++) {
		const struct trace_event *e = &t->events[i];

		if (e->at < t->counted || e->kind == TRACE_BACKUP)
			continue;
		if (e->kind != TRACE_READ) {
			written += e->bytes;
			continue;
		}
		reads++;
		bytes += e->bytes;
	}
	assert_true(c->reads == reads && c->read_bytes == bytes);
	assert_true(c->written + c->denied == written);
	missed = c->read_bytes - c->hit_bytes + c->backup_bytes -
		 c->backup_hit_bytes;
	assert_true(c->target_read == missed + (reads_twice ? c->restored : 0));
	assert_true(c->wasted <= c->migrated);
}

static void nobody_beats_the_future(void **state)
{
	for (uint64_t seed = 1; seed <= 3; seed++) {
		struct trace t = generated(seed);
		uint64_t front = t.initial_bytes / 4;
		struct trace_result belady, by_size, lru, r;
		struct trace_bound bound;

		assert_int_equal(trace_cache(&t, CACHE_BELADY, front, &belady),
				 0);
		assert_int_equal(
			trace_cache(&t, CACHE_BELADY_SIZE, front, &by_size), 0);
		assert_int_equal(trace_cache(&t, CACHE_LRU, front, &lru), 0);
		assert_int_equal(trace_bound(&t, front, false, &bound), 0);
		sums_hold(&t, &belady.count, false);
		sums_hold(&t, &lru.count, false);
		assert_true(belady.count.hit_bytes > lru.count.hit_bytes);
		assert_true(by_size.count.hits > lru.count.hits);
		assert_true(bound.hits >= (double)by_size.count.hits);
		assert_true(bound.hit_bytes >= (double)belady.count.hit_bytes);
		for (int k = STRATEGY_AGE; k <= STRATEGY_HEAT; k++) {
			struct trace_policy policy = policy_of(k);

			r = replayed(&t, &policy, front);
			sums_hold(&t, &r.count, true);
			assert_true(r.count.migrated > 0 && r.count.released);
			assert_true(belady.count.hit_bytes >=
				    r.count.hit_bytes);
			assert_true(by_size.count.hits >= r.count.hits);
			policy_rules_unref(policy.rules);
		}
		trace_free(&t);
	}
}

/* A front that has room for all is never released, nor read past. */
static void room_for_all(void **state)
{
	struct trace t = generated(1);
	struct trace_policy age = policy_of(STRATEGY_AGE);
	struct trace_result r = replayed(&t, &age, t.most_bytes * 2);

	assert_true(r.count.hits == r.count.reads);
	assert_true(r.count.target_read == 0 && r.count.released == 0);
	assert_true(r.count.migrated > 0); /* what is cold has its copy */
	policy_rules_unref(age.rules);
	trace_free(&t);
}

/* A full front says so: with nothing that may go, and with a burst that is
 * larger than it. */
static void full_front(void **state)
{
	struct trace t = generated(1);
	struct trace_policy age = policy_of(STRATEGY_AGE);
	struct trace_result r = replayed(&t, &age, t.initial_bytes / 100);

	assert_true(r.count.enospc > 0 && r.count.denied > 0);
	policy_rules_unref(age.rules);
	trace_free(&t);
}

/* Only backups: what a rule knows restores nothing; what is seen as any program
 * neither, if one pass a night is not past restore_after. */
static void backups(void **state)
{
	struct trace_params p = tiny(1);
	struct trace_policy age = policy_of(STRATEGY_AGE);
	struct trace_result r;
	struct trace t;

	p.reads = p.writes = p.creates = 0;
	p.peak = 0;
	p.days = 3;
	assert_int_equal(trace_generate(&p, &t), 0);
	r = replayed(&t, &age, t.initial_bytes / 4);
	assert_true(r.count.backups > p.files && r.count.reads == 0);
	assert_true(r.count.restored == 0);
	age.backup = BACKUP_PLAIN;
	r = replayed(&t, &age, t.initial_bytes / 4);
	assert_true(r.count.restored == 0); /* nights are far apart */
	age.restore_after = 0;
	r = replayed(&t, &age, t.initial_bytes / 4);
	assert_true(r.count.restored > 0);
	age.restore_budget = t.initial_bytes / 100;
	r = replayed(&t, &age, t.initial_bytes / 4);
	assert_true(r.count.restored > 0 &&
		    r.count.restored <= 4 * age.restore_budget);
	policy_rules_unref(age.rules);
	trace_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_seed_same_week),
		cmocka_unit_test(trace_is_sound),
		cmocka_unit_test(nobody_beats_the_future),
		cmocka_unit_test(room_for_all),
		cmocka_unit_test(full_front),
		cmocka_unit_test(backups),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
