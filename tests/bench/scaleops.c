/* SPDX-License-Identifier: MIT */

/*
 * What bench_scale.py does many times: filling a tree, and one operation on each
 * of many names in it, timed without what Python would add.
 *
 *	scaleops fill TOP FROM TO [PROCESSES]
 *	scaleops stat|create|unlink TOP < NAMES
 *
 * File I of a tree is tA/dB/file-I.dat: 1000 a directory, 100 directories in
 * each above. They have sizes and no data. NAMES are below TOP, one a line;
 * their directories are looked up before the clock starts. Prints the median of
 * what they took, in seconds, and the mean.
 */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PER_DIR	  1000
#define PER_TOP	  100
#define SIZE_MOST 30000

static void make_dir(const char *path)
{
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		err(1, "%s", path);
}

/* Of directory n the files from up to to. */
static void fill_dir(long n, long from, long to)
{
	char path[64];
	int dir;

	snprintf(path, sizeof(path), "t%03ld", n / PER_TOP);
	make_dir(path);
	snprintf(path, sizeof(path), "t%03ld/d%02ld", n / PER_TOP, n % PER_TOP);
	make_dir(path);
	dir = open(path, O_RDONLY | O_DIRECTORY);
	if (dir < 0)
		err(1, "%s", path);
	for (long i = from; i < to; i++) {
		int fd;

		snprintf(path, sizeof(path), "file-%07ld.dat", i);
		fd = openat(dir, path, O_CREAT | O_EXCL | O_WRONLY, 0644);
		if (fd < 0 || ftruncate(fd, 1 + i * 7919 % SIZE_MOST) < 0)
			err(1, "%s", path);
		close(fd);
	}
	close(dir);
}

static int fill(long from, long to, int processes)
{
	int status;

	for (int p = 0; p < processes; p++) {
		switch (fork()) {
		case -1:
			err(1, "fork");
		case 0:
			break;
		default:
			continue;
		}
		for (long i = from; i < to; i += PER_DIR)
			if (i / PER_DIR % processes == p)
				fill_dir(i / PER_DIR, i,
					 i + PER_DIR < to ? i + PER_DIR : to);
		_exit(0);
	}
	while (wait(&status) > 0)
		if (status)
			return 1;
	return 0;
}

static int look(const char *name)
{
	struct stat st;

	return lstat(name, &st);
}

static int create(const char *name)
{
	int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644);

	return fd < 0 ? -1 : close(fd);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* All lines, and how many. */
static char **read_names(size_t *ret_n)
{
	char **names = NULL, *line = NULL;
	size_t n = 0, cap = 0, room = 0;
	ssize_t len;

	while ((len = getline(&line, &room, stdin)) > 0) {
		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		if (n == cap) {
			cap = cap ? 2 * cap : 1024;
			names = reallocarray(names, cap, sizeof(*names));
		}
		if (!names || !(names[n++] = strdup(line)))
			errx(1, "no memory");
	}
	free(line);
	*ret_n = n;
	return names;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int run(const char *what, int (*op)(const char *name))
{
	size_t n;
	char **names = read_names(&n);
	double *took = calloc(n + 1, sizeof(*took)), start, at, all = 0;

	if (!took || !n)
		errx(1, "no names");

	for (size_t i = 0; i < n; i++) {
		char dir[PATH_MAX];
		const char *slash = strrchr(names[i], '/');

		snprintf(dir, sizeof(dir), "%.*s",
			 slash ? (int)(slash - names[i]) : 1,
			 slash ? names[i] : ".");
		if (look(dir) < 0)
			err(1, "%s", dir);
	}
	start = now();
	for (size_t i = 0; i < n; i++) {
		if (op(names[i]) < 0)
			err(1, "%s %s", what, names[i]);
		at = now();
		took[i] = at - start;
		all += took[i];
		start = at;
	}
	qsort(took, n, sizeof(*took), compare);
	printf("%.9f %.9f\n", took[n / 2], all / (double)n);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";

	if (argc > 2 && chdir(argv[2]) < 0)
		err(1, "%s", argv[2]);
	if (!strcmp(what, "fill") && argc > 4)
		return fill(atol(argv[3]), atol(argv[4]),
			    argc > 5 ? atoi(argv[5]) : 1);
	if (!strcmp(what, "stat"))
		return run(what, look);
	if (!strcmp(what, "create"))
		return run(what, create);
	if (!strcmp(what, "unlink"))
		return run(what, unlink);
	errx(2, "usage: scaleops fill TOP FROM TO [PROCESSES]\n"
		"       scaleops stat|create|unlink TOP < NAMES");
}
