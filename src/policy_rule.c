/* SPDX-License-Identifier: MIT */
/*
 * The verdict on a file.
 *
 * Conditions that only an event changes are looked at first: a rule that one of
 * them rules out never fits by waiting. Of those that time changes the first
 * that does not hold says when the rule may fit, at the earliest; when all hold,
 * the first that ceases says when it may not. So changes_at is never too late,
 * though it may be too early: then the verdict is only made once more.
 *
 * A write is a use: the last use is the later of access and modification. A
 * modification after the last change of the inode was forged by utimes(2), and
 * counts as that change. A file's heat is at least that of one access then, so
 * that a new file is not the coldest of all.
 *
 * Small files hold little room and cost a seek each, so they go last: one order
 * of ranks, and theirs begins behind the others'. Times fit below up to 2116;
 * what is later, or in the other band before 1970, is at its end.
 */
#include "policy_rule.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "cleanup.h"
#include "policy_glob.h"
#include "policy_rule_impl.h"
#include "util.h"

#define NEVER INT64_MAX

struct policy_rules {
	atomic_uint refs;
	struct policy_rule_set *set; /* or NULL */
	struct policy_params params; /* without the targets' names */
	int *targets;		     /* by rule */
	uint64_t fingerprint;
};

/* What is asked of a file more than once. */
struct subject {
	const struct rule_facts *facts;
	const struct policy_params *params;
	int64_t now;
	int64_t times[RULE_TIMES];
	int64_t heat;
};

static int64_t saturated(__int128 value)
{
	if (value > INT64_MAX)
		return INT64_MAX;
	return value < INT64_MIN ? INT64_MIN : (int64_t)value;
}

/* ---- conditions that time does not change --------------------------------- */

static bool globs_fit(const struct rule_globs *globs, const char *text)
{
	for (size_t i = 0; i < globs->n; i++)
		if (policy_glob_match(globs->glob[i], text))
			return true;
	return globs->n == 0;
}

static bool ids_fit(const struct rule_ids *ids, uint32_t id)
{
	for (size_t i = 0; i < ids->n; i++)
		if (ids->id[i] == id)
			return true;
	return ids->n == 0;
}

static bool size_fits(const struct rule_ranges *ranges, uint64_t size)
{
	for (size_t i = 0; i < ranges->n; i++)
		if (size >= (uint64_t)ranges->range[i].min &&
		    size <= (uint64_t)ranges->range[i].max)
			return true;
	return ranges->n == 0;
}

static bool xattr_fits(const struct rule_xattr *xattr,
		       const struct rule_facts *facts)
{
	char value[RULE_XATTR_VALUE_MAX];
	int len;

	if (!xattr->value)
		return facts->xattr(facts->arg, xattr->name, NULL, 0) >= 0;
	len = facts->xattr(facts->arg, xattr->name, value, sizeof(value));
	return len >= 0 && (size_t)len == strlen(xattr->value) &&
	       !memcmp(value, xattr->value, (size_t)len);
}

static bool xattrs_fit(const struct rule_xattrs *xattrs,
		       const struct rule_facts *facts)
{
	for (size_t i = 0; facts->xattr && i < xattrs->n; i++)
		if (xattr_fits(&xattrs->xattr[i], facts))
			return true;
	return xattrs->n == 0;
}

/* ---- conditions that time changes ------------------------------------------ */

/* Does from <= now < until hold? *flips becomes no later than when that
 * changes. until NEVER: it has no end. */
static bool is_between(__int128 from, __int128 until, int64_t now,
		       int64_t *flips)
{
	if (now < from) {
		*flips = min_t(int64_t, *flips, saturated(from));
		return false;
	}
	if (until < NEVER && now < until)
		*flips = min_t(int64_t, *flips, saturated(until));
	return until >= NEVER || now < until;
}

static bool age_fits(const struct rule_ranges *ranges, int64_t time,
		     int64_t now, int64_t *flips)
{
	bool fits = ranges->n == 0;

	for (size_t i = 0; i < ranges->n; i++) {
		const struct rule_range *r = &ranges->range[i];
		__int128 from = r->min, until = r->max;

		/* The ends of the scale stand for no bound. */
		if (from > INT64_MIN)
			from += time;
		if (until < NEVER)
			until += (__int128)time + 1;
		fits |= is_between(from, until, now, flips);
	}
	return fits;
}

static bool heat_fits(const struct rule_heats *heats, const struct subject *s,
		      int64_t *flips)
{
	int64_t half_life = s->params->half_life_ns;
	bool fits = heats->n == 0;

	for (size_t i = 0; i < heats->n; i++) {
		const struct rule_heat *r = &heats->range[i];

		fits |= is_between(heat_when(s->heat, r->upto, half_life),
				   heat_when(s->heat, r->above, half_life),
				   s->now, flips);
	}
	return fits;
}

/* *changes becomes no later than when that may be otherwise. */
static bool rule_fits(const struct policy_rule *rule, const struct subject *s,
		      int64_t *changes)
{
	const struct rule_facts *facts = s->facts;
	const char *base = strrchr(facts->path, '/');
	int64_t held = NEVER;

	if (!globs_fit(&rule->path, facts->path) ||
	    !globs_fit(&rule->base, base ? base + 1 : facts->path) ||
	    !size_fits(&rule->size, facts->size) ||
	    !ids_fit(&rule->uid, facts->uid) ||
	    !ids_fit(&rule->gid, facts->gid))
		return false;
	for (int i = 0; i <= RULE_TIMES; i++) {
		int64_t flips = NEVER;
		bool fits = i < RULE_TIMES
				    ? age_fits(&rule->age[i], s->times[i],
					       s->now, &flips)
				    : heat_fits(&rule->heat, s, &flips);

		if (!fits) {
			*changes = min_t(int64_t, *changes, flips);
			return false;
		}
		held = min_t(int64_t, held, flips);
	}
	if (!xattrs_fit(&rule->xattr, facts))
		return false;
	*changes = min_t(int64_t, *changes, held);
	return true;
}

bool policy_rule_fits_all(const struct policy_rule *rule)
{
	for (int i = 0; i < RULE_TIMES; i++)
		if (rule->age[i].n)
			return false;
	return !rule->path.n && !rule->base.n && !rule->size.n &&
	       !rule->uid.n && !rule->gid.n && !rule->heat.n && !rule->xattr.n;
}

/* ---- the verdict ------------------------------------------------------------ */

static int64_t rank_of(const struct subject *s, bool small)
{
	int64_t rank = s->params->strategy == STRATEGY_HEAT
			       ? s->heat
			       : s->times[RULE_ACCESS];

	rank = min_t(int64_t, rank, RANK_SMALL - 1);
	if (small)
		rank = RANK_SMALL +
		       min_t(int64_t, max_t(int64_t, rank, 0), RANK_SMALL - 2);
	return rank;
}

/* As without rules. */
static void by_default(const struct subject *s, struct rule_verdict *v)
{
	const struct policy_params *p = s->params;
	bool small = s->facts->size < (uint64_t)p->migrate_size;
	int64_t at = NEVER;

	*v = (struct rule_verdict){.migrate_at = NEVER,
				   .release_at = NEVER,
				   .rank = NEVER,
				   .read_in_place = true,
				   .target = -1};
	switch (p->strategy) {
	case STRATEGY_AGE:
		at = saturated((__int128)s->times[RULE_ACCESS] +
			       p->migrate_age_ns);
		break;
	case STRATEGY_BURST:
		at = saturated((__int128)s->times[RULE_CHANGE] +
			       POLICY_BURST_DELAY);
		break;
	case STRATEGY_HEAT:
		at = heat_when(s->heat, p->cold, p->half_life_ns);
		break;
	}
	if (!small || p->strategy == STRATEGY_BURST)
		v->migrate_at = at;
	v->rank = rank_of(s, small);
}

static int64_t when(const struct rule_when *w, const struct subject *s)
{
	if (w->kind != WHEN_AFTER)
		return NEVER;
	return saturated((__int128)s->times[w->since] + w->delay);
}

static void apply(const struct policy_rule *rule, const struct subject *s,
		  struct rule_verdict *v)
{
	if (rule->migrate.kind != WHEN_DEFAULT) {
		v->migrate_at = when(&rule->migrate, s);
		v->rank = rank_of(s, false);
	}
	v->release_at = when(&rule->release, s);
	v->read_in_place = !rule->restores;
	v->keep = rule->keep;
	if (v->keep)
		v->migrate_at = v->release_at = NEVER;
	if (v->keep || rule->release.kind == WHEN_NEVER)
		v->rank = NEVER;
}

void policy_rules_eval(const struct policy_rules *rules,
		       const struct rule_facts *facts, int64_t now,
		       struct rule_verdict *ret)
{
	struct subject s = {
		.facts = facts, .params = &rules->params, .now = now};
	const struct policy_rule_set *set = rules->set;
	int64_t changes = NEVER;
	size_t i, n = set ? set->n : 0;

	s.times[RULE_CHANGE] = facts->ctime;
	s.times[RULE_MODIFICATION] = min_t(int64_t, facts->mtime, facts->ctime);
	s.times[RULE_ACCESS] =
		max_t(int64_t, facts->access, s.times[RULE_MODIFICATION]);
	s.heat = heat_touch(HEAT_NONE, s.times[RULE_ACCESS],
			    s.params->half_life_ns);
	s.heat = max_t(int64_t, s.heat, facts->heat);

	by_default(&s, ret);
	ret->rule.name = "default";
	for (i = 0; i < n; i++)
		if (rule_fits(&set->rules[i], &s, &changes))
			break;
	if (i < n) {
		apply(&set->rules[i], &s, ret);
		ret->rule.name = set->rules[i].name;
		ret->rule.file = set->file;
		ret->rule.line = set->rules[i].line;
		ret->target = rules->targets[i];
	}
	ret->changes_at = changes;
	if (facts->size == 0) /* nothing to move */
		ret->migrate_at = ret->release_at = ret->rank = NEVER;
}

/* ---- what makes one set another ----------------------------------------------- */

#define MEANING 2 /* another for another meaning of the same rules */

static void mix(XXH3_state_t *x, const void *data, size_t len)
{
	XXH3_64bits_update(x, &len, sizeof(len));
	XXH3_64bits_update(x, data, len);
}

static void mix_text(XXH3_state_t *x, const char *text)
{
	mix(x, text ? text : "", text ? strlen(text) + 1 : 0);
}

static void mix_int(XXH3_state_t *x, int64_t value)
{
	mix(x, &value, sizeof(value));
}

static void mix_globs(XXH3_state_t *x, const struct rule_globs *globs)
{
	mix_int(x, (int64_t)globs->n);
	for (size_t i = 0; i < globs->n; i++)
		mix_text(x, policy_glob_text(globs->glob[i]));
}

static void mix_when(XXH3_state_t *x, const struct rule_when *when)
{
	mix_int(x, when->kind);
	if (when->kind == WHEN_AFTER) {
		mix_int(x, when->since);
		mix_int(x, when->delay);
	}
}

/* Not the name, nor where it stands: they judge nothing. */
static void mix_rule(XXH3_state_t *x, const struct policy_rule *rule)
{
	mix_globs(x, &rule->path);
	mix_globs(x, &rule->base);
	mix(x, rule->size.range, rule->size.n * sizeof(*rule->size.range));
	for (int i = 0; i < RULE_TIMES; i++)
		mix(x, rule->age[i].range,
		    rule->age[i].n * sizeof(*rule->age[i].range));
	mix(x, rule->uid.id, rule->uid.n * sizeof(*rule->uid.id));
	mix(x, rule->gid.id, rule->gid.n * sizeof(*rule->gid.id));
	mix(x, rule->heat.range, rule->heat.n * sizeof(*rule->heat.range));
	mix_int(x, (int64_t)rule->xattr.n);
	for (size_t i = 0; i < rule->xattr.n; i++) {
		mix_text(x, rule->xattr.xattr[i].name);
		mix_text(x, rule->xattr.xattr[i].value);
	}
	mix_int(x, rule->keep);
	mix_when(x, &rule->migrate);
	mix_when(x, &rule->release);
	mix_int(x, rule->restores);
	mix_text(x, rule->target);
}

static int make_fingerprint(struct policy_rules *rules)
{
	const struct policy_params *p = &rules->params;
	const struct policy_rule_set *set = rules->set;
	XXH3_state_t *x = XXH3_createState();

	if (!x)
		return -ENOMEM;
	XXH3_64bits_reset(x);
	mix_int(x, MEANING);
	mix_int(x, p->strategy);
	mix_int(x, p->half_life_ns);
	mix_int(x, p->strategy == STRATEGY_AGE ? p->migrate_age_ns : 0);
	mix_int(x, p->migrate_size);
	if (p->strategy == STRATEGY_HEAT)
		mix(x, &p->cold, sizeof(p->cold));
	for (size_t i = 0; set && i < set->n; i++) {
		mix_rule(x, &set->rules[i]);
		mix_int(x, rules->targets[i]);
	}
	rules->fingerprint = XXH3_64bits_digest(x);
	XXH3_freeState(x);
	return 0;
}

/* ---- life --------------------------------------------------------------------- */

static void globs_free(struct rule_globs *globs)
{
	for (size_t i = 0; i < globs->n; i++)
		policy_glob_free(globs->glob[i]);
	free(globs->glob);
}

static void rule_clear(struct policy_rule *rule)
{
	globs_free(&rule->path);
	globs_free(&rule->base);
	free(rule->size.range);
	for (int i = 0; i < RULE_TIMES; i++)
		free(rule->age[i].range);
	free(rule->uid.id);
	free(rule->gid.id);
	free(rule->heat.range);
	for (size_t i = 0; i < rule->xattr.n; i++) {
		free(rule->xattr.xattr[i].name);
		free(rule->xattr.xattr[i].value);
	}
	free(rule->xattr.xattr);
}

struct policy_rule_set *policy_rule_set_ref(struct policy_rule_set *set)
{
	if (set)
		atomic_fetch_add(&set->refs, 1);
	return set;
}

void policy_rule_set_unref(struct policy_rule_set *set)
{
	if (!set || atomic_fetch_sub(&set->refs, 1) > 1)
		return;
	for (size_t i = 0; i < set->n; i++)
		rule_clear(&set->rules[i]);
	free(set->rules);
	free(set->file);
	free(set);
}

struct policy_rules *policy_rules_ref(struct policy_rules *rules)
{
	atomic_fetch_add(&rules->refs, 1);
	return rules;
}

void policy_rules_unref(struct policy_rules *rules)
{
	if (!rules || atomic_fetch_sub(&rules->refs, 1) > 1)
		return;
	policy_rule_set_unref(rules->set);
	free(rules->targets);
	free(rules);
}

static void unrefp(struct policy_rules **rules)
{
	policy_rules_unref(*rules);
}

/* The number of the target that a rule names, -1: none is named. */
static int find_target(const struct policy_params *params, const char *name,
		       int *ret)
{
	*ret = -1;
	if (!*name)
		return 0;
	for (unsigned int i = 0; i < params->ntargets; i++)
		if (!strcmp(params->targets[i], name))
			*ret = (int)i;
	return *ret < 0 ? -ENOENT : 0;
}

int policy_rules_new(struct policy_rule_set *set,
		     const struct policy_params *params,
		     struct policy_rules **ret, size_t *ret_rule)
{
	_cleanup_(unrefp) struct policy_rules *rules =
		calloc(1, sizeof(*rules));
	size_t i, n = set ? set->n : 0;
	int err;

	if (!rules)
		return -ENOMEM;
	atomic_init(&rules->refs, 1);
	rules->set = policy_rule_set_ref(set);
	rules->params = *params;
	rules->targets = calloc(n + 1, sizeof(*rules->targets));
	if (!rules->targets)
		return -ENOMEM;
	for (i = 0; i < n; i++)
		if (find_target(params, set->rules[i].target,
				&rules->targets[i])) {
			*ret_rule = i;
			return -ENOENT;
		}
	/* They are the configuration's, which ends before. */
	rules->params.ntargets = 0;
	memset(rules->params.targets, 0, sizeof(rules->params.targets));
	err = make_fingerprint(rules);
	if (err)
		return err;
	*ret = steal_ptr(&rules);
	return 0;
}

size_t policy_rules_count(const struct policy_rules *rules)
{
	return rules->set ? rules->set->n : 0;
}

enum policy_strategy policy_rules_strategy(const struct policy_rules *rules)
{
	return rules->params.strategy;
}

int64_t policy_rules_half_life(const struct policy_rules *rules)
{
	return rules->params.half_life_ns;
}

uint64_t policy_rules_fingerprint(const struct policy_rules *rules)
{
	return rules->fingerprint;
}
