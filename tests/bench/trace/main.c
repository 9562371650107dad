// SPDX-License-Identifier: MIT
/*
 * trace: generates, replays, and prints a line of JSON for the trace and for
 * each policy at each size of the front. bench_policy_trace.py makes a table
 * and a picture of them.
 */
#include "trace.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "config.h"

#define SHARES_MAX   32
#define POLICIES_MAX 32

struct policy_arg {
	const char *name;
	char *options;
	enum trace_backup backup;
};

struct args {
	struct trace_params params;
	double shares[SHARES_MAX];
	int nshares;
	struct policy_arg policies[POLICIES_MAX];
	int npolicies;
};

static void usage(FILE *out)
{
	fprintf(out,
		"usage: trace [OPTION...]\n"
		"  --share=PCT[,PCT...]  size of the front, of the files' "
		"bytes "
		"at the start\n"
		"  --policy=NAME:OPTIONS the daemon's options (-o); may be "
		"repeated\n"
		"  --backup=plain|in-place|unseen\n"
		"                        what the policies that follow see in "
		"the backup\n"
		"  --seed, --files, --projects, --days, --reads, --writes, "
		"--creates,\n"
		"  --zipf, --drift, --median, --sigma, --tail, --peak, "
		"--no-backup\n");
}

static bool number(struct trace_params *p, const char *key, const char *value)
{
	const struct {
		const char *key;
		uint32_t *n;
		uint64_t *u;
		double *d;
	} keys[] = {
		{"seed", NULL, &p->seed, NULL},
		{"files", &p->files, NULL, NULL},
		{"projects", &p->projects, NULL, NULL},
		{"days", &p->days, NULL, NULL},
		{"reads", &p->reads, NULL, NULL},
		{"writes", &p->writes, NULL, NULL},
		{"creates", &p->creates, NULL, NULL},
		{"zipf", NULL, NULL, &p->zipf},
		{"drift", NULL, NULL, &p->drift},
		{"median", NULL, &p->median, NULL},
		{"sigma", NULL, NULL, &p->sigma},
		{"tail", NULL, NULL, &p->tail},
		{"peak", NULL, NULL, &p->peak},
	};

	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		if (strcmp(keys[i].key, key))
			continue;
		if (keys[i].n)
			*keys[i].n = (uint32_t)strtoul(value, NULL, 10);
		else if (keys[i].u)
			*keys[i].u = strtoull(value, NULL, 10);
		else
			*keys[i].d = strtod(value, NULL);
		return true;
	}
	return false;
}

static void shares(struct args *a, char *text)
{
	char *at, *save;

	a->nshares = 0;
	for (at = strtok_r(text, ",", &save); at && a->nshares < SHARES_MAX;
	     at = strtok_r(NULL, ",", &save))
		a->shares[a->nshares++] = strtod(at, NULL);
}

static bool parse(int argc, char **argv, struct args *a)
{
	enum trace_backup backup = BACKUP_PLAIN;

	for (int i = 1; i < argc; i++) {
		char *key = argv[i], *value = strchr(key, '=');

		if (!strcmp(key, "--no-backup")) {
			a->params.backup = false;
			continue;
		}
		if (strncmp(key, "--", 2) || !value)
			return false;
		*value++ = '\0';
		key += 2;
		if (!strcmp(key, "share")) {
			shares(a, value);
		} else if (!strcmp(key, "backup")) {
			backup = *value == 'p'	 ? BACKUP_PLAIN
				 : *value == 'i' ? BACKUP_IN_PLACE
						 : BACKUP_UNSEEN;
		} else if (!strcmp(key, "policy")) {
			char *options = strchr(value, ':');

			if (!options || a->npolicies == POLICIES_MAX)
				return false;
			*options++ = '\0';
			a->policies[a->npolicies++] =
				(struct policy_arg){value, options, backup};
		} else if (!number(&a->params, key, value)) {
			return false;
		}
	}
	return a->params.files && a->params.projects && a->params.days;
}

/* The daemon's configuration with these options: its paths must be there. */
static int configure(const char *dir, const char *options, struct config **ret)
{
	_cleanup_free_ char *all = NULL, *front = NULL, *mnt = NULL,
			    *why = NULL;
	int err;

	if (asprintf(&all, "spill=%s/target%s%s", dir, *options ? "," : "",
		     options) < 0 ||
	    asprintf(&front, "%s/front", dir) < 0 ||
	    asprintf(&mnt, "%s/mnt", dir) < 0)
		return -1;
	err = config_parse(5, (char *[]){"tierfs", "-o", all, front, mnt, NULL},
			   ret, &why);
	if (err)
		fprintf(stderr, "trace: %s\n", why ? why : strerror(-err));
	return err;
}

static void print(const char *name, double share, const struct trace_result *r,
		  const struct trace *trace)
{
	const struct trace_count *c = &r->count;

	printf("{\"kind\": \"result\", \"policy\": \"%s\", \"share\": %g, "
	       "\"front\": %lu, \"reads\": %lu, \"hits\": %lu, "
	       "\"read_bytes\": %lu, \"hit_bytes\": %lu, \"backups\": %lu, "
	       "\"backup_hits\": %lu, \"backup_bytes\": %lu, "
	       "\"backup_hit_bytes\": %lu, \"written\": %lu, \"denied\": %lu, "
	       "\"enospc\": %lu, \"restores\": %lu, \"restored\": %lu, "
	       "\"migrations\": %lu, \"migrated\": %lu, \"wasted\": %lu, "
	       "\"released\": %lu, \"target_read\": %lu, \"wakeups\": %lu, "
	       "\"full\": %.2f, \"warm_hours\": %u, \"hour_reads\": [",
	       name, share, r->front, c->reads, c->hits, c->read_bytes,
	       c->hit_bytes, c->backups, c->backup_hits, c->backup_bytes,
	       c->backup_hit_bytes, c->written, c->denied, c->enospc,
	       c->restores, c->restored, c->migrations, c->migrated, c->wasted,
	       c->released, c->target_read, c->wakeups, c->full,
	       trace->params.days * 24);
	for (uint32_t i = 0; i < r->hours; i++)
		printf("%s%u", i ? ", " : "", r->hour_reads[i]);
	printf("], \"hour_hits\": [");
	for (uint32_t i = 0; i < r->hours; i++)
		printf("%s%u", i ? ", " : "", r->hour_hits[i]);
	printf("], \"hour_use\": [");
	for (uint32_t i = 0; i < r->hours; i++)
		printf("%s%.1f", i ? ", " : "", (double)r->hour_use[i]);
	printf("]}\n");
}

static int replay(const struct trace *trace, const char *dir,
		  const struct policy_arg *arg, double share, uint64_t front)
{
	struct trace_result result;
	struct config *cfg;
	int err = configure(dir, arg->options, &cfg);

	if (err)
		return err;
	err = trace_engine(trace,
			   &(struct trace_policy){
				   .rules = cfg->rules,
				   .high = cfg->high,
				   .low = cfg->low,
				   .promote = cfg->promote,
				   .restore_after = cfg->restore_after,
				   .restore_budget = cfg->restore_budget,
				   .dirty_entries = cfg->dirty_entries,
				   .dirty_bytes = cfg->dirty_bytes,
				   .restore_below = cfg->restore_below,
				   .backup = arg->backup,
			   },
			   front, &result);
	if (!err)
		print(arg->name, share, &result, trace);
	config_free(cfg);
	return err;
}

static int compare(const struct trace *trace, double share, uint64_t front)
{
	struct trace_result result;
	struct trace_bound bound;
	int err;

	for (int k = 0; k < TRACE_CACHES; k++) {
		err = trace_cache(trace, k, front, &result);
		if (err)
			return err;
		print(trace_cache_name(k), share, &result, trace);
	}
	err = trace_bound(trace, front, false, &bound);
	if (!err)
		printf("{\"kind\": \"bound\", \"share\": %g, \"hits\": %.1f, "
		       "\"hit_bytes\": %.0f}\n",
		       share, bound.hits, bound.hit_bytes);
	return err;
}

static int all(const struct args *args, const char *dir)
{
	struct trace trace;
	int err = trace_generate(&args->params, &trace);

	if (err)
		return err;
	trace_print(&trace, stdout);
	for (int i = 0; i < args->nshares && !err; i++) {
		uint64_t front = (uint64_t)((double)trace.initial_bytes *
					    args->shares[i] / 100);

		err = compare(&trace, args->shares[i], front);
		for (int k = 0; k < args->npolicies && !err; k++)
			err = replay(&trace, dir, &args->policies[k],
				     args->shares[i], front);
		fflush(stdout);
	}
	trace_free(&trace);
	return err;
}

int main(int argc, char **argv)
{
	static const char *const subs[] = {"front", "mnt", "target"};
	char dir[] = "/tmp/tierfs-trace-XXXXXX", path[64];
	struct args args = {.shares = {20}, .nshares = 1};
	int err;

	trace_defaults(&args.params);
	if (!parse(argc, argv, &args)) {
		usage(stderr);
		return 2;
	}
	if (!mkdtemp(dir)) {
		perror("trace: /tmp");
		return 1;
	}
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, subs[i]);
		mkdir(path, 0700);
	}
	err = all(&args, dir);
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, subs[i]);
		rmdir(path);
	}
	rmdir(dir);
	if (err)
		fprintf(stderr, "trace: %s\n", strerror(-err));
	return err ? 1 : 0;
}
