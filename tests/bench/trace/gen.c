// SPDX-License-Identifier: MIT
/*
 * The generator: a week of an office or a laboratory, seeded.
 *
 * Files lie in projects; sizes are log-normal (a project's files are alike),
 * some from a Pareto tail. Time goes in minutes; each has as many reads, writes
 * and creations as its hour of the day asks for. A read goes
 *
 *  - to a project that is worked on. A few are at any time, each for some two
 *    days; then it is left. Within it Zipf again, flatter;
 *  - by Zipf over all files. Which file has which rank changes all the time
 *    (drift), so what was hot is left and what was cold becomes hot;
 *  - to what was created lately;
 *  - to any file at all.
 *
 * Most creations are in the projects that are worked on; a third are temporary
 * and live some hours. Twice a week a burst writes many large files at once,
 * half of which are read once in the two days after it, and some deleted. Each
 * night from two o'clock a backup reads every file there is, in the order of
 * the directories, in four hours.
 */
#include "trace.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

#define MIB	   (1ULL << 20)
#define MINUTE	   (60 * NSEC_PER_SEC)
#define START	   (1767571200 * NSEC_PER_SEC) /* a Monday, 0:00 UTC */
#define ACTIVE	   6			       /* projects worked on */
#define ANY_FILE   UINT32_MAX		       /* or none */
#define RECENT	   512
#define LATER_MOST 65536
#define TAIL_LEAST (64 * MIB)
#define SIZE_MOST  (8192 * MIB)
#define BACKUP_AT  2 /* o'clock */
#define BACKUP_MIN 240

struct later {
	int64_t at;
	uint32_t file;
	enum trace_kind kind;
};

struct gen {
	struct trace *t;
	uint64_t dice[2];
	uint64_t bytes;	   /* now */
	uint32_t *by_rank; /* files */
	uint32_t nranks;
	double *zipf; /* cumulative, of nranks */
	struct {
		uint32_t project;
		int64_t until;
	} active[ACTIVE];
	uint32_t **members; /* by project */
	uint32_t *nmembers, *members_room;
	double *scale;		 /* of a project's sizes */
	uint32_t recent[RECENT]; /* a ring */
	uint32_t nrecent;
	struct later *later; /* a heap, the soonest first */
	size_t nlater;
	uint32_t backup_project, backup_member, backup_left;
	int err;
};

/* ---- dice ---------------------------------------------------------------- */

static uint64_t dice(struct gen *g) /* xoroshiro128+ */
{
	uint64_t a = g->dice[0], b = g->dice[1], ret = a + b;

	b ^= a;
	g->dice[0] = (a << 24 | a >> 40) ^ b ^ b << 16;
	g->dice[1] = b << 37 | b >> 27;
	return ret;
}

static double uniform(struct gen *g) /* 0 < x < 1 */
{
	return ((double)(dice(g) >> 12) + 0.5) / (double)(1ULL << 52);
}

static uint32_t below(struct gen *g, uint32_t n)
{
	return (uint32_t)(((dice(g) >> 32) * n) >> 32);
}

static double normal(struct gen *g)
{
	double r = sqrt(-2 * log(uniform(g)));

	return r * cos(2 * M_PI * uniform(g));
}

static uint32_t poisson(struct gen *g, double mean)
{
	double p = exp(-mean), x = uniform(g);
	uint32_t n = 0;

	for (double sum = p; x > sum && n < 100000; sum += p)
		p *= mean / ++n;
	return n;
}

static uint64_t some_size(struct gen *g, uint32_t project)
{
	const struct trace_params *p = &g->t->params;
	double size;

	if (uniform(g) < p->tail)
		size = TAIL_LEAST * pow(uniform(g), -1 / 1.1);
	else
		size = (double)p->median * g->scale[project] *
		       exp(normal(g) * p->sigma);
	return (uint64_t)fmin(fmax(size, 1), SIZE_MOST);
}

/* ---- what is made -------------------------------------------------------- */

static bool grow(void *array, size_t item, size_t n, size_t *room)
{
	void **at = array, *more;
	size_t want = *room ? *room * 2 : 1024;

	if (n < *room)
		return true;
	more = realloc(*at, want * item);
	if (!more)
		return false;
	*at = more;
	*room = want;
	return true;
}

static void emit(struct gen *g, int64_t at, uint32_t file, enum trace_kind kind,
		 uint64_t bytes)
{
	struct trace *t = g->t;

	if (!grow(&t->events, sizeof(*t->events), t->nevents,
		  &t->events_room)) {
		g->err = -ENOMEM;
		return;
	}
	/* A burst goes on in the minute that follows. */
	if (t->nevents)
		at = max_t(int64_t, at, t->events[t->nevents - 1].at);
	t->events[t->nevents++] = (struct trace_event){
		.at = at, .file = file, .kind = kind, .bytes = bytes};
}

static void resize(struct gen *g, uint32_t file, uint64_t size)
{
	struct trace *t = g->t;

	g->bytes += size - t->files[file].final;
	t->files[file].final = size;
	if (g->bytes > t->most_bytes)
		t->most_bytes = g->bytes;
}

/* A file that is in project; ANY_FILE: no memory. */
static uint32_t add_file(struct gen *g, uint32_t project)
{
	struct trace *t = g->t;
	size_t room = t->room, members = g->members_room[project];

	if (!grow(&t->files, sizeof(*t->files), t->nfiles, &room) ||
	    !grow(&g->members[project], sizeof(**g->members),
		  g->nmembers[project], &members)) {
		g->err = -ENOMEM;
		return ANY_FILE;
	}
	t->room = (uint32_t)room;
	g->members_room[project] = (uint32_t)members;
	t->files[t->nfiles] =
		(struct trace_file){.project = project, .alive = true};
	g->members[project][g->nmembers[project]++] = t->nfiles;
	return t->nfiles++;
}

static void create(struct gen *g, int64_t at, uint32_t project, uint64_t size,
		   uint32_t *ret)
{
	uint32_t file = add_file(g, project);

	*ret = file;
	if (file == ANY_FILE)
		return;
	resize(g, file, size);
	emit(g, at, file, TRACE_CREATE, size);
	g->recent[g->nrecent++ % RECENT] = file;
	/* One of the ranks is its from now on. */
	g->by_rank[below(g, g->nranks)] = file;
}

/* What happens to a file that is there. */
static void happen(struct gen *g, int64_t at, uint32_t file,
		   enum trace_kind kind)
{
	struct trace_file *f = &g->t->files[file];
	uint64_t bytes = f->final;

	if (!f->alive)
		return;
	switch (kind) {
	case TRACE_UNLINK:
		resize(g, file, 0);
		f->alive = false;
		bytes = 0;
		break;
	case TRACE_REWRITE:
		bytes = (uint64_t)fmin((double)bytes * exp(normal(g) * 0.2) + 1,
				       SIZE_MOST);
		resize(g, file, bytes);
		break;
	case TRACE_UPDATE:
		bytes = max_t(uint64_t, 1, min_t(uint64_t, bytes / 16, MIB));
		break;
	default:
		break;
	}
	emit(g, at, file, kind, bytes);
}

static void plan(struct gen *g, int64_t at, uint32_t file, enum trace_kind kind)
{
	size_t i = g->nlater;

	if (i == LATER_MOST)
		return;
	g->nlater++;
	for (; i && g->later[(i - 1) / 2].at > at; i = (i - 1) / 2)
		g->later[i] = g->later[(i - 1) / 2];
	g->later[i] = (struct later){at, file, kind};
}

static struct later unplan(struct gen *g)
{
	struct later ret = g->later[0], last = g->later[--g->nlater];
	size_t i = 0, k;

	while ((k = 2 * i + 1) < g->nlater) {
		if (k + 1 < g->nlater && g->later[k + 1].at < g->later[k].at)
			k++;
		if (last.at <= g->later[k].at)
			break;
		g->later[i] = g->later[k];
		i = k;
	}
	g->later[i] = last;
	return ret;
}

/* ---- choosing ------------------------------------------------------------ */

static uint32_t by_zipf(struct gen *g)
{
	double x = uniform(g) * g->zipf[g->nranks - 1];
	uint32_t lo = 0, hi = g->nranks - 1;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (g->zipf[mid] < x)
			lo = mid + 1;
		else
			hi = mid;
	}
	return g->by_rank[lo];
}

static uint32_t worked_on(struct gen *g)
{
	return g->active[below(g, ACTIVE)].project;
}

/* The newer its files, the more they are used. */
static uint32_t in_project(struct gen *g)
{
	uint32_t project = worked_on(g), n = g->nmembers[project];

	if (!n)
		return ANY_FILE;
	return g->members[project][n - 1 - (uint32_t)(pow(uniform(g), 2) * n)];
}

/* One that is there, or ANY_FILE. */
static uint32_t some_file(struct gen *g)
{
	uint32_t ret = ANY_FILE;

	for (int tries = 0; tries < 16; tries++) {
		double x = uniform(g);

		if (x < 0.45)
			ret = in_project(g);
		else if (x < 0.85)
			ret = by_zipf(g);
		else if (x < 0.93 && g->nrecent >= RECENT)
			ret = g->recent[below(g, RECENT)];
		else
			ret = below(g, g->t->nfiles);
		if (ret != ANY_FILE && g->t->files[ret].alive)
			return ret;
	}
	return ANY_FILE;
}

/* ---- time ---------------------------------------------------------------- */

/* How much of a day's work is done in an hour, and that as part of a minute. */
static double busy(int64_t at)
{
	static const double hours[24] = {1, 1, 1, 1, 1,	 1, 2, 4, 8, 10, 10, 9,
					 6, 8, 9, 9, 10, 8, 5, 3, 3, 3,	 2,  1};
	int64_t since = at - START;
	int day = (int)(since / TRACE_DAY % 7);
	double sum = 0;

	for (int i = 0; i < 24; i++)
		sum += hours[i];
	return hours[since % TRACE_DAY / TRACE_HOUR] / sum / 60 *
	       (day < 5 ? 1.25 : 0.375);
}

static void turn_projects(struct gen *g, int64_t at)
{
	for (int i = 0; i < ACTIVE; i++) {
		if (g->active[i].until > at)
			continue;
		g->active[i].project = below(g, g->t->params.projects);
		g->active[i].until =
			at + (int64_t)((1.0 + 2 * uniform(g)) * TRACE_DAY);
	}
}

static void drift(struct gen *g)
{
	const struct trace_params *p = &g->t->params;
	double mean = p->drift * g->nranks / (24 * 60);

	for (uint32_t n = poisson(g, mean); n; n--) {
		uint32_t a = below(g, g->nranks), b = below(g, g->nranks);
		uint32_t file = g->by_rank[a];

		g->by_rank[a] = g->by_rank[b];
		g->by_rank[b] = file;
	}
}

/* Two of them a week, Tuesdays and Thursdays at eleven. */
static void burst(struct gen *g, int64_t at)
{
	const struct trace_params *p = &g->t->params;
	int64_t since = at - START;
	int day = (int)(since / TRACE_DAY % 7);
	uint32_t project = worked_on(g), file;
	double left = p->peak * (double)g->t->initial_bytes;

	if (since % TRACE_DAY != 11 * TRACE_HOUR || (day != 1 && day != 3))
		return;
	while (left >= 1 && !g->err) {
		uint64_t size = (uint64_t)fmin(
			left, 256 * (double)MIB * (0.5 + 3 * uniform(g)));

		create(g, at, project, size, &file);
		left -= (double)size;
		at += (int64_t)size; /* at 1 GB/s */
		if (below(g, 2))
			plan(g, at + (int64_t)(uniform(g) * 2 * TRACE_DAY),
			     file, TRACE_READ);
		if (!below(g, 4))
			plan(g, at + 3 * TRACE_DAY, file, TRACE_UNLINK);
	}
}

/* The files of that minute of the night. */
static void backup(struct gen *g, int64_t at)
{
	struct trace *t = g->t;
	int64_t minute = (at - START) % TRACE_DAY / MINUTE - BACKUP_AT * 60;
	uint32_t n, k = 0;

	if (!t->params.backup || minute < 0 || minute >= BACKUP_MIN)
		return;
	if (!minute) {
		g->backup_project = g->backup_member = 0;
		g->backup_left = t->nfiles;
	}
	n = g->backup_left / (uint32_t)(BACKUP_MIN - minute);
	while (k < n && g->backup_project < t->params.projects) {
		uint32_t p = g->backup_project;

		if (g->backup_member == g->nmembers[p]) {
			g->backup_project++;
			g->backup_member = 0;
			continue;
		}
		plan(g, at + k * MINUTE / n, g->members[p][g->backup_member++],
		     TRACE_BACKUP);
		k++;
	}
	g->backup_left -= k;
}

static void create_some(struct gen *g, int64_t at)
{
	uint32_t project =
		below(g, 5) ? worked_on(g) : below(g, g->t->params.projects);
	uint32_t file;

	create(g, at, project, some_size(g, project), &file);
	if (file != ANY_FILE && !below(g, 3))
		plan(g, at + (int64_t)(-log(uniform(g)) * 4 * TRACE_HOUR), file,
		     TRACE_UNLINK);
}

static void act(struct gen *g, const struct later *l)
{
	uint32_t file = l->file;

	if (l->kind == TRACE_CREATE) {
		create_some(g, l->at);
		return;
	}
	if (file == ANY_FILE)
		file = some_file(g);
	if (file != ANY_FILE)
		happen(g, l->at, file, l->kind);
}

static void minute(struct gen *g, int64_t at)
{
	const struct trace_params *p = &g->t->params;
	double part = busy(at);
	uint32_t reads = poisson(g, p->reads * part);
	uint32_t writes = poisson(g, p->writes * part);
	uint32_t n = reads + writes + poisson(g, p->creates * part);

	turn_projects(g, at);
	drift(g);
	backup(g, at);
	burst(g, at);
	for (uint32_t i = 0; i < n; i++) {
		enum trace_kind kind = TRACE_CREATE;

		if (i < reads)
			kind = TRACE_READ;
		else if (i < reads + writes)
			kind = below(g, 3) ? TRACE_REWRITE : TRACE_UPDATE;
		plan(g, at + (int64_t)(uniform(g) * MINUTE), ANY_FILE, kind);
	}
	while (g->nlater && g->later[0].at < at + MINUTE && !g->err) {
		struct later later = unplan(g);

		act(g, &later);
	}
}

/* ---- life ---------------------------------------------------------------- */

static int gen_init(struct gen *g)
{
	const struct trace_params *p = &g->t->params;
	double sum = 0;

	g->members = calloc(p->projects, sizeof(*g->members));
	g->nmembers = calloc(p->projects, sizeof(*g->nmembers));
	g->members_room = calloc(p->projects, sizeof(*g->members_room));
	g->scale = calloc(p->projects, sizeof(*g->scale));
	g->by_rank = calloc(p->files, sizeof(*g->by_rank));
	g->zipf = calloc(p->files, sizeof(*g->zipf));
	g->later = calloc(LATER_MOST, sizeof(*g->later));
	if (!g->members || !g->nmembers || !g->members_room || !g->scale ||
	    !g->by_rank || !g->zipf || !g->later)
		return -ENOMEM;
	g->dice[0] = p->seed * 0x9e3779b97f4a7c15ULL + 1;
	g->dice[1] = ~p->seed;
	for (int i = 0; i < 64; i++)
		dice(g);
	g->nranks = p->files;
	for (uint32_t i = 0; i < p->files; i++)
		g->zipf[i] = sum += pow(i + 1, -p->zipf);
	for (uint32_t i = 0; i < p->projects; i++)
		g->scale[i] = exp(normal(g));
	return 0;
}

static void first_files(struct gen *g)
{
	const struct trace_params *p = &g->t->params;

	for (uint32_t i = 0; i < p->files && !g->err; i++) {
		uint32_t project = below(g, p->projects);
		uint32_t file = add_file(g, project);
		struct trace_file *f = &g->t->files[file];
		/* Last used between an hour and a year ago. */
		double ago = exp(uniform(g) * log(365 * 24)) * TRACE_HOUR;

		if (file == ANY_FILE)
			return;
		f->initial = true;
		f->size = some_size(g, project);
		f->atime = START - (int64_t)ago;
		f->mtime = f->atime - (int64_t)(ago * uniform(g));
		resize(g, file, f->size);
		g->by_rank[i] = file;
	}
	g->t->initial_bytes = g->bytes;
}

static void gen_free(struct gen *g)
{
	for (uint32_t i = 0; g->members && i < g->t->params.projects; i++)
		free(g->members[i]);
	free(g->members);
	free(g->nmembers);
	free(g->members_room);
	free(g->scale);
	free(g->by_rank);
	free(g->zipf);
	free(g->later);
}

int trace_generate(const struct trace_params *params, struct trace *ret)
{
	struct trace t = {.params = *params, .start = START};
	struct gen g = {.t = &t};

	t.counted = START + params->days * TRACE_DAY;
	t.end = t.counted + params->days * TRACE_DAY;
	g.err = gen_init(&g);
	if (!g.err)
		first_files(&g);
	for (int64_t at = t.start; at < t.end && !g.err; at += MINUTE)
		minute(&g, at);
	gen_free(&g);
	if (g.err) {
		trace_free(&t);
		return g.err;
	}
	*ret = t;
	return 0;
}

void trace_free(struct trace *trace)
{
	free(trace->files);
	free(trace->events);
}

void trace_defaults(struct trace_params *ret)
{
	*ret = (struct trace_params){.seed = 1,
				     .files = 50000,
				     .projects = 400,
				     .days = 7,
				     .reads = 40000,
				     .writes = 4000,
				     .creates = 1000,
				     .zipf = 0.9,
				     .drift = 0.3,
				     .median = 256 * 1024,
				     .sigma = 2.3,
				     .tail = 0.01,
				     .peak = 0.03,
				     .backup = true};
}
