/* SPDX-License-Identifier: MIT */
/*
 * Sections [rule NAME] of the configuration file.
 *
 * What is wrong within a rule is found at its line; that a rule does nothing, or
 * can never be reached, when the next section begins.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "config_parse.h"
#include "config_rule.h"
#include "config_setter.h"
#include "util.h"

static int begin(struct config *cfg, const char *name,
		 const struct config_origin *from, char **ret_why)
{
	struct policy_rule_set *set = cfg->rule_set;
	struct policy_rule *more;

	if (!set) {
		set = calloc(1, sizeof(*set));
		if (!set)
			return -ENOMEM;
		atomic_init(&set->refs, 1);
		cfg->rule_set = set;
		set->file = strdup(from->file);
		if (!set->file)
			return -ENOMEM;
	}
	if (!config_name_valid(name) || !strcmp(name, "default"))
		return fail_why(
			ret_why, -EINVAL,
			"%s:%u: [rule %s]: a rule needs a name: 1 to 63 "
			"of A-Z a-z 0-9 . _ -, the first none of . -, "
			"and not default",
			from->file, from->line, name);
	for (size_t i = 0; i < set->n; i++) {
		const struct policy_rule *other = &set->rules[i];

		if (!strcmp(other->name, name))
			return fail_why(ret_why, -EINVAL,
					"%s:%u: [rule %s]: the name is that of "
					"line %u",
					from->file, from->line, name,
					other->line);
		if (policy_rule_fits_all(other))
			return fail_why(ret_why, -EINVAL,
					"%s:%u: [rule %s]: never reached: "
					"[rule %s] in line %u has no "
					"conditions, so it decides for all",
					from->file, from->line, name,
					other->name, other->line);
	}
	more = reallocarray(set->rules, set->n + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	set->rules = more;
	more[set->n] = (struct policy_rule){.line = from->line,
					    .release = {.kind = WHEN_NEEDED}};
	memcpy(more[set->n++].name, name, strlen(name) + 1);
	cfg->rule_keys = 0;
	return 0;
}

static int set_key(struct config *cfg, const char *key, const char *value,
		   const struct config_origin *from, char **ret_why)
{
	struct policy_rule *rule = &cfg->rule_set->rules[cfg->rule_set->n - 1];
	const char *wrong = "unknown key";
	const struct config_rule_key *k = config_rule_keys;
	unsigned int bit;

	while (k->name && strcmp(k->name, key))
		k++;
	bit = 1U << (k - config_rule_keys);
	if (k->name) {
		if (cfg->rule_keys & bit)
			wrong = "given twice";
		else if (!*value)
			wrong = "no value";
		else
			wrong = k->set(rule, value);
		cfg->rule_keys |= bit;
	}
	if (!wrong && !strcmp(key, "target"))
		rule->target_line = from->line;
	if (!wrong)
		return 0;
	return fail_why(ret_why, wrong == config_no_memory ? -ENOMEM : -EINVAL,
			"%s:%u: [rule %s] %s = %s: %s", from->file, from->line,
			rule->name, key, value, wrong);
}

static int end(struct config *cfg, char **ret_why)
{
	const struct policy_rule_set *set = cfg->rule_set;
	const struct policy_rule *rule = &set->rules[set->n - 1];
	bool acts = false, moves = false;
	const char *wrong = NULL;

	for (size_t i = 0; config_rule_keys[i].name; i++) {
		if (!(cfg->rule_keys & 1U << i))
			continue;
		acts |= config_rule_keys[i].acts;
		moves |= config_rule_keys[i].moves;
	}
	if (!acts)
		wrong = "it says nothing; give keep, migrate, release, "
			"read_in_place or target";
	else if (rule->keep && moves)
		wrong = "keep = yes, and migrate, release or target";
	else if (rule->migrate.kind == WHEN_NEEDED &&
		 rule->release.kind == WHEN_NEVER)
		wrong = "migrate = when-needed and release = never: nothing "
			"would move; give keep = yes";
	if (!wrong)
		return 0;
	return fail_why(ret_why, -EINVAL, "%s:%u: [rule %s]: %s", set->file,
			rule->line, rule->name, wrong);
}

const struct config_section config_rule_section = {
	.kind = "rule", .begin = begin, .set = set_key, .end = end};

static struct policy_params params_of(const struct config *cfg)
{
	struct policy_params params = {
		.strategy = cfg->strategy,
		.half_life_ns = (int64_t)cfg->half_life_ns,
		.migrate_age_ns = (int64_t)cfg->migrate_age_ns,
		.migrate_size = (int64_t)cfg->migrate_size,
		.cold = cfg->cold,
		.ntargets = cfg->ntargets,
	};

	for (unsigned int i = 0; i < cfg->ntargets; i++)
		params.targets[i] = cfg->targets[i].name;
	return params;
}

int config_make_rules(struct config *cfg, char **ret_why)
{
	struct policy_params params = params_of(cfg);
	struct policy_rules *rules;
	size_t i;
	int err = policy_rules_new(cfg->rule_set, &params, &rules, &i);

	if (err == -ENOENT) {
		const struct policy_rule *rule = &cfg->rule_set->rules[i];

		return fail_why(ret_why, -EINVAL,
				"%s:%u: [rule %s] target = %s: there is no "
				"target of that name",
				cfg->rule_set->file, rule->target_line,
				rule->name, rule->target);
	}
	if (err)
		return err;
	policy_rules_unref(cfg->rules);
	cfg->rules = rules;
	cfg->promote = cfg->strategy == STRATEGY_HEAT ? cfg->promote_at : 0;
	return 0;
}
