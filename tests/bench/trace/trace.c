// SPDX-License-Identifier: MIT
/* What can be asked of a trace. */
#include "trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void trace_path(const struct trace *trace, uint32_t file, char *buf, size_t len)
{
	snprintf(buf, len, "/projects/%03u/%06u", trace->files[file].project,
		 file);
}

struct recency {
	int64_t atime;
	uint32_t file;
};

static int newest_first(const void *a, const void *b)
{
	const struct recency *x = a, *y = b;

	if (x->atime != y->atime)
		return x->atime > y->atime ? -1 : 1;
	return x->file < y->file ? -1 : x->file > y->file;
}

int trace_initial(const struct trace *trace, uint64_t bytes, bool **ret)
{
	struct recency *order = calloc(trace->nfiles + 1, sizeof(*order));
	bool *there = calloc(trace->nfiles + 1, sizeof(*there));
	uint32_t n = 0;

	if (!order || !there) {
		free(order);
		free(there);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < trace->nfiles; i++)
		if (trace->files[i].initial)
			order[n++] = (struct recency){trace->files[i].atime, i};
	qsort(order, n, sizeof(*order), newest_first);
	for (uint32_t i = 0; i < n; i++) {
		const struct trace_file *f = &trace->files[order[i].file];

		if (f->size > bytes)
			continue;
		there[order[i].file] = true;
		bytes -= f->size;
	}
	free(order);
	*ret = there;
	return 0;
}

int trace_next_reads(const struct trace *trace, int64_t **ret)
{
	size_t n = trace->nevents;
	int64_t *next = malloc((n + trace->nfiles + 1) * sizeof(*next));
	int64_t *of = next ? next + n : NULL; /* the file's, from here on */

	if (!next)
		return -ENOMEM;
	for (uint32_t i = 0; i < trace->nfiles; i++)
		of[i] = INT64_MAX;
	for (size_t i = n; i-- > 0;) {
		const struct trace_event *e = &trace->events[i];

		next[i] = of[e->file];
		if (e->kind == TRACE_READ)
			of[e->file] = e->at;
		else if (e->kind == TRACE_CREATE || e->kind == TRACE_REWRITE ||
			 e->kind == TRACE_UNLINK)
			of[e->file] = INT64_MAX;
	}
	*ret = next;
	return 0;
}

void trace_print(const struct trace *trace, FILE *out)
{
	static const char *const names[TRACE_KINDS] = {
		"reads", "backups", "creates", "rewrites", "updates", "unlinks",
	};
	uint64_t events[TRACE_KINDS] = {0}, bytes[TRACE_KINDS] = {0}, live = 0;
	uint64_t live_bytes = 0, large = 0;

	for (size_t i = 0; i < trace->nevents; i++) {
		const struct trace_event *e = &trace->events[i];

		if (e->at < trace->counted)
			continue;
		events[e->kind]++;
		bytes[e->kind] += e->bytes;
	}
	for (uint32_t i = 0; i < trace->nfiles; i++) {
		const struct trace_file *f = &trace->files[i];

		live += f->alive;
		live_bytes += f->final;
		large += f->final >= 10 << 20 ? f->final : 0;
	}
	fprintf(out,
		"{\"kind\": \"trace\", \"seed\": %lu, \"days\": %u, "
		"\"files\": %u, \"bytes\": %lu, \"most_bytes\": %lu, "
		"\"end_files\": %lu, \"end_bytes\": %lu, "
		"\"end_bytes_10m\": %lu, \"events\": %zu",
		trace->params.seed, trace->params.days, trace->params.files,
		trace->initial_bytes, trace->most_bytes, live, live_bytes,
		large, trace->nevents);
	for (int i = 0; i < TRACE_KINDS; i++)
		fprintf(out, ", \"%s\": %lu, \"%s_bytes\": %lu", names[i],
			events[i], names[i], bytes[i]);
	fprintf(out, "}\n");
}

void trace_disk_use(struct trace_disk *disk, struct trace_count *count,
		    int64_t at, int64_t until)
{
	if (at > disk->last + TRACE_GAP)
		count->wakeups++;
	if (until > disk->last)
		disk->last = until;
}
