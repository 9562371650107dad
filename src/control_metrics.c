/* SPDX-License-Identifier: MIT */
/*
 * What is known, as families of OpenMetrics. The text is made by the asker,
 * who may have to merge the families of several mounts.
 */
#include <stdlib.h>

#include "catalog.h"
#include "cleanup.h"
#include "control_int.h"
#include "policy.h"
#include "util.h"

static json_t *family(json_t *all, const char *name, const char *type,
		      const char *unit, const char *help)
{
	json_t *ret =
		json_pack("{s:s, s:s, s:s, s:s, s:[]}", "family", name, "type",
			  type, "unit", unit, "help", help, "samples");

	json_array_append_new(all, ret);
	return ret; /* borrowed from all */
}

/* key may be NULL. */
static void sample(const struct control *control, json_t *family,
		   const char *suffix, const char *key, const char *label,
		   double value)
{
	json_t *labels =
		json_pack("{s:s}", "name", control->parts->config->name);

	if (labels && key)
		json_object_set_new(labels, key, json_string(label));
	json_array_append_new(json_object_get(family, "samples"),
			      json_pack("{s:s, s:o, s:f}", "suffix", suffix,
					"labels", labels, "value", value));
}

static void add_front(const struct control *control, json_t *all)
{
	const struct tier_tunables *tune = tier_tunables(control->tier);
	uint64_t used = 0, avail = 0;
	double high, low;
	json_t *f;

	if (front_usage(control->parts->front, &used, &avail))
		return;
	f = family(all, "tierfs_front_bytes", "gauge", "bytes",
		   "Bytes of the front, in use and available.");
	sample(control, f, "", "kind", "used", used);
	sample(control, f, "", "kind", "available", avail);
	f = family(all, "tierfs_front_watermark_ratio", "gauge", "ratio",
		   "Use of the front at which releasing starts and ends.");
	tier_watermarks(tune, used + avail, &high, &low);
	sample(control, f, "", "kind", "high", high / 100);
	sample(control, f, "", "kind", "low", low / 100);
}

static void add_states(const struct control *control, json_t *all)
{
	struct tier_counts counts;
	json_t *f;

	tier_counts(control->tier, &counts);
	f = family(all, "tierfs_files", "gauge", "", "Files by state.");
	for (int i = 0; i < SPILL_STATES; i++)
		sample(control, f, "", "state", spill_state_name(i),
		       counts.files[i]);
	f = family(all, "tierfs_file_bytes", "gauge", "bytes",
		   "Logical bytes of files by state.");
	for (int i = 0; i < SPILL_STATES; i++)
		sample(control, f, "", "state", spill_state_name(i),
		       counts.bytes[i]);
}

static void add_targets(const struct control *control, json_t *all)
{
	const struct tier_parts *parts = control->parts;
	json_t *online, *bytes, *used;

	online = family(all, "tierfs_target_online", "gauge", "",
			"1 for a target that can be used.");
	bytes = family(all, "tierfs_target_size_bytes", "gauge", "bytes",
		       "Capacity of a target, as last seen.");
	used = family(all, "tierfs_target_used_bytes", "gauge", "bytes",
		      "Bytes of a target in use, as last seen.");
	for (unsigned int i = 0; i < parts->ntargets; i++) {
		struct target *target = parts->targets[i];
		struct target_usage usage = {0};
		const char *name;

		if (!target)
			continue;
		name = target_name(target);
		target_usage(target, &usage);
		sample(control, online, "", "target", name,
		       target_online(target, NULL, 0));
		sample(control, bytes, "", "target", name, usage.bytes);
		sample(control, used, "", "target", name, usage.used);
	}
}

static void add_work(const struct control *control, json_t *all)
{
	static const char *const prios[] = {"recall", "asked", "idle"};
	size_t n[MOVER_PRIOS] = {0};
	struct journal_stats stats;
	json_t *f;

	mover_queued(control->parts->mover, n);
	f = family(all, "tierfs_jobs_waiting", "gauge", "",
		   "Jobs that wait, by priority.");
	for (int i = 0; i < MOVER_PRIOS; i++)
		sample(control, f, "", "priority", prios[i], n[i]);
	journal_stats(control->parts->journal, &stats);
	f = family(all, "tierfs_journal_commits", "counter", "",
		   "Commits of the journal.");
	sample(control, f, "_total", NULL, NULL, stats.commits);
	f = family(all, "tierfs_journal_intents", "counter", "",
		   "Intents written to the journal.");
	sample(control, f, "_total", NULL, NULL, stats.added);
	f = family(all, "tierfs_nodes", "gauge", "", "Files known in memory.");
	sample(control, f, "", NULL, NULL, node_count(control->parts->nodes));
}

static void add_catalog(const struct control *control, json_t *all)
{
	struct catalog *catalog = control->parts->catalog;
	struct catalog_stats stats;
	json_t *f;

	if (!catalog)
		return;
	catalog_stats(catalog, &stats);
	f = family(all, "tierfs_catalog_entries", "gauge", "",
		   "What the catalog knows, by kind.");
	sample(control, f, "", "kind", "files", stats.files);
	sample(control, f, "", "kind", "dirs", stats.dirs);
	f = family(all, "tierfs_catalog_queued", "gauge", "",
		   "Events that the catalog has not taken in yet.");
	sample(control, f, "", NULL, NULL, stats.queued);
	f = family(all, "tierfs_catalog_marked", "gauge", "",
		   "Directories that are to be walked.");
	sample(control, f, "", NULL, NULL, stats.marked);
	f = family(all, "tierfs_catalog_walking", "gauge", "",
		   "1 while the catalog does not know of all files yet.");
	sample(control, f, "", NULL, NULL, stats.walking);
	f = family(all, "tierfs_catalog_failing", "gauge", "",
		   "1 while the catalog cannot be written.");
	sample(control, f, "", NULL, NULL, stats.err != 0);
	f = family(all, "tierfs_catalog_events", "counter", "",
		   "Events that the catalog was told.");
	sample(control, f, "_total", NULL, NULL, stats.events);
	f = family(all, "tierfs_catalog_dropped", "counter", "",
		   "Events for which there was no room: directories were "
		   "marked.");
	sample(control, f, "_total", NULL, NULL, stats.dropped);
	f = family(all, "tierfs_catalog_walked", "counter", "",
		   "Directory entries that the walk has looked at.");
	sample(control, f, "_total", NULL, NULL, stats.walked);
}

static void add_recall(const struct control *control, json_t *all)
{
	struct recall_rules *rules = tier_rules(control->tier, NULL);
	struct tier_own_restores own;
	json_t *f, *g;

	tier_own_restores(control->tier, &own);
	f = family(all, "tierfs_restore_budget_bytes", "gauge", "bytes",
		   "Bytes a day that may be restored without being asked for.");
	if (own.limit)
		sample(control, f, "", NULL, NULL, own.limit);
	f = family(all, "tierfs_restored_day_bytes", "gauge", "bytes",
		   "Bytes restored so within the last 24 hours.");
	sample(control, f, "", NULL, NULL, own.used);
	f = family(all, "tierfs_restores_not_begun", "counter", "",
		   "Restores that reads would have begun.");
	sample(control, f, "_total", "for", "budget", own.no_budget);
	sample(control, f, "_total", "for", "room", own.no_room);
	f = family(all, "tierfs_recall_rule_opens", "counter", "",
		   "Files without their data opened by those a rule is about.");
	g = family(all, "tierfs_recall_rule_refused", "counter", "",
		   "Requests that a rule refused.");
	for (size_t i = 0; i < recall_rules_n(rules); i++) {
		struct recall_info info;

		recall_rules_info(rules, i, &info);
		sample(control, f, "_total", "rule", info.name,
		       info.counts[RECALL_OPENS]);
		sample(control, g, "_total", "rule", info.name,
		       info.counts[RECALL_REFUSED]);
	}
	recall_rules_unref(rules);
}

static void add_policy(const struct control *control, json_t *all)
{
	struct policy_status status;
	json_t *files, *bytes, *f;

	if (!control->policy)
		return;
	policy_status(control->policy, &status);
	const struct {
		const char *what;
		const struct policy_moved *moved;
	} rows[] = {{"migrated", &status.migrated},
		    {"released", &status.released},
		    {"restored", &status.restored}};

	files = family(all, "tierfs_policy_files", "counter", "",
		       "Files that were moved without being asked for.");
	bytes = family(all, "tierfs_policy_bytes", "counter", "bytes",
		       "Logical bytes of them.");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		sample(control, files, "_total", "what", rows[i].what,
		       rows[i].moved->files);
		sample(control, bytes, "_total", "what", rows[i].what,
		       rows[i].moved->bytes);
	}
	f = family(all, "tierfs_policy_in_vain", "counter", "",
		   "Attempts that were refused or failed.");
	sample(control, f, "_total", "result", "refused", status.refused);
	sample(control, f, "_total", "result", "failed", status.failed);
	f = family(all, "tierfs_policy_held_files", "gauge", "",
		   "Files that cannot be moved now, by reason.");
	for (unsigned int i = 0; i < status.nheld; i++)
		sample(control, f, "", "reason", status.held[i].reason,
		       status.held[i].files);
	f = family(all, "tierfs_policy_breaker_open", "gauge", "",
		   "1 while too much failed for anything to be copied.");
	sample(control, f, "", NULL, NULL, status.retry_at != 0);
}

json_t *control_metrics(struct control *control)
{
	json_t *all = json_array(), *f;

	if (!all)
		return NULL;
	f = family(all, "tierfs_build", "info", "", "The daemon.");
	sample(control, f, "_info", "version", TIERFS_VERSION, 1);
	f = family(all, "tierfs_passthrough", "gauge", "",
		   "1 where resident files are read and written by the kernel "
		   "alone.");
	pthread_mutex_lock(&control->lock);
	sample(control, f, "", NULL, NULL, control->passthrough);
	pthread_mutex_unlock(&control->lock);
	f = family(all, "tierfs_io_uring", "gauge", "",
		   "1 where requests come over io_uring, 0 by /dev/fuse.");
	sample(control, f, "", NULL, NULL, control->io_uring);
	add_front(control, all);
	add_states(control, all);
	add_targets(control, all);
	add_work(control, all);
	add_policy(control, all);
	add_catalog(control, all);
	add_recall(control, all);
	return all;
}
