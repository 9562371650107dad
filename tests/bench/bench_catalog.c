/* SPDX-License-Identifier: MIT */
/*
 * The catalog's numbers.
 *
 *   bench_catalog adopt DIR     takes in the tree DIR, which becomes a front
 *   bench_catalog report DIR    a report on its root, and again
 *   bench_catalog events DIR    what telling costs
 *   bench_catalog coldest DIR N the 10,000 coldest of N rows that are made up
 */
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "catalog_int.h"
#include "front.h"
#include "util.h"

static double seconds(int64_t from)
{
	return (double)(monotonic_ns() - from) / NSEC_PER_SEC;
}

static void die(const char *what, int err)
{
	fprintf(stderr, "%s: %s\n", what, strerror(-err));
	exit(1);
}

/* Of the process, in KiB. */
static long resident(void)
{
	long pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	if (file && fscanf(file, "%*s %ld", &pages) != 1)
		pages = 0;
	if (file)
		fclose(file);
	return pages * 4;
}

static struct catalog *must_open(const char *dir, bool walk)
{
	struct catalog_config config = {.walk = walk};
	struct catalog *c;
	char *why = NULL;
	int err;

	err = front_open(dir, "bench", &config.front, &why);
	if (err)
		die(why ? why : dir, err);
	err = catalog_open(&config, &c, &why);
	if (err)
		die("catalog_open", err);
	if (why)
		fprintf(stderr, "%s\n", why);
	return c;
}

static void adopt(const char *dir)
{
	int64_t start = monotonic_ns();
	struct catalog *c = must_open(dir, true);
	long before = resident();
	struct catalog_stats stats;
	double took;
	int err;

	err = catalog_settle(c, true, 3600 * NSEC_PER_SEC);
	if (err)
		die("catalog_settle", err);
	took = seconds(start);
	catalog_stats(c, &stats);
	printf("adopt: %.2f s, %llu files, %llu dirs, %.0f entries a second, "
	       "%ld KiB more memory\n",
	       took, (unsigned long long)stats.files,
	       (unsigned long long)stats.dirs, (double)stats.walked / took,
	       resident() - before);
	catalog_close(c);
}

static void report(const char *dir)
{
	struct catalog *c = must_open(dir, false);

	for (int i = 0; i < 3; i++) {
		int64_t start = monotonic_ns();
		struct catalog_reader *r;
		struct histogram h;
		int64_t files = 0;
		int err;

		err = catalog_reader_open(c, &r);
		if (!err)
			err = catalog_report(r, c->root_key, &h);
		if (err)
			die("report", err);
		for (int s = 0; s < SPILL_STATES; s++)
			files += h.states[s].files;
		printf("report: %.2f ms, %lld files\n", seconds(start) * 1000,
		       (long long)files);
		histogram_free(&h);
		catalog_reader_close(r);
	}
	catalog_close(c);
}

static void events(const char *dir)
{
	struct catalog *c = must_open(dir, false);
	const unsigned int n = 60000;
	int64_t start;
	double told, all;

	for (int i = 0; i < 3; i++) {
		start = monotonic_ns();
		for (unsigned int k = 0; k < n; k++)
			catalog_changed(c, &c->root, &c->root, "a.name.of.one");
		told = seconds(start);
		catalog_settle(c, false, 60 * NSEC_PER_SEC);
		all = seconds(start);
		printf("events: %.0f ns a call, %.0f ns with taking in\n",
		       told * 1e9 / n, all * 1e9 / n);
	}
	catalog_close(c);
}

static bool count(void *arg, const struct catalog_row *row)
{
	++*(size_t *)arg;
	return true;
}

static void fill(struct catalog *c, int64_t n)
{
	char sql[1024];
	int err;

	snprintf(sql, sizeof(sql),
		 "BEGIN; WITH RECURSIVE i(k) AS (SELECT 1000 UNION ALL SELECT "
		 "k + 1 FROM i LIMIT %lld) INSERT OR IGNORE INTO files "
		 "SELECT k, %lld, x'010102030405060708', "
		 "cast('name-' || k AS BLOB), 0, 0, 1, 0, k %% 5, k * 37, "
		 "k * 37, k, k, k, NULL, k * 1000003 %% 100000007, "
		 "k * 7919 %% 1000000007 FROM i;"
		 "INSERT INTO ranks SELECT state, rank, key FROM files"
		 " ORDER BY 1, 2, 3; COMMIT;",
		 (long long)n, (long long)c->root_key);
	err = catalog_db_exec(&c->db, sql);
	if (err)
		die(sqlite3_errmsg(c->db.sql), err);
}

static void coldest(const char *dir, int64_t n)
{
	struct catalog *c = must_open(dir, false);
	struct catalog_reader *r;
	int64_t start = monotonic_ns();
	int err;

	/* Its thread sleeps then: the connection is ours. */
	catalog_settle(c, true, 10 * NSEC_PER_SEC);
	usleep(300000);
	fill(c, n);
	printf("coldest: filled in %.1f s\n", seconds(start));
	for (int i = 0; i < 5; i++) {
		size_t got = 0;

		start = monotonic_ns();
		err = catalog_reader_open(c, &r);
		if (!err)
			err = catalog_coldest(r, SPILL_MIGRATED, INT64_MIN,
					      10000, count, &got);
		if (err)
			die("coldest", err);
		printf("coldest: %zu of %lld in %.1f ms\n", got, (long long)n,
		       seconds(start) * 1000);
		catalog_reader_close(r);
	}
	catalog_abandon(c);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "adopt"))
		adopt(argv[2]);
	else if (argc == 3 && !strcmp(argv[1], "report"))
		report(argv[2]);
	else if (argc == 3 && !strcmp(argv[1], "events"))
		events(argv[2]);
	else if (argc == 4 && !strcmp(argv[1], "coldest"))
		coldest(argv[2], atoll(argv[3]));
	else
		return 2;
	return 0;
}
