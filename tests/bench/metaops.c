/* SPDX-License-Identifier: MIT */

/*
 * One operation on each of many files, timed without what a shell or Python
 * would add: names are made before, and clients start together.
 *
 *	metaops OP DIR FILES [CLIENTS [MILLISECONDS]]
 *
 * Each client works in a directory of its own, DIR/0, DIR/1, ..., relative to
 * it. What changes nothing is repeated for MILLISECONDS at least. Prints the
 * seconds that passed, the number of operations, and the seconds of CPU time that
 * the clients took; any failure ends it with status 1, for what failed is no
 * measurement.
 */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NAME_LEN  24
#define BLOCK	  4096
#define PER_DIR	  100
#define TREE_SIZE 3000

typedef char name_t[NAME_LEN];

static char block[BLOCK];

static int create(const char *from, const char *to)
{
	int fd = open(from, O_CREAT | O_EXCL | O_WRONLY, 0644);

	return fd < 0 ? -1 : close(fd);
}

static int create_4k(const char *from, const char *to)
{
	int fd = open(from, O_CREAT | O_EXCL | O_WRONLY, 0644);

	if (fd < 0 || write(fd, block, sizeof(block)) != sizeof(block))
		return -1;
	return close(fd);
}

static int look(const char *from, const char *to)
{
	struct stat st;

	return stat(from, &st);
}

/* The cheapest request that there is: the kernel's own knowledge will not do. */
static int getattr(const char *from, const char *to)
{
	struct statx st;

	return statx(AT_FDCWD, from, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS,
		     &st);
}

static int absent(const char *from, const char *to)
{
	struct stat st;

	return stat(to, &st) < 0 && errno == ENOENT ? 0 : -1;
}

static int open_close(const char *from, const char *to)
{
	int fd = open(from, O_RDONLY);

	return fd < 0 ? -1 : close(fd);
}

static int read_4k(const char *from, const char *to)
{
	char buf[BLOCK];
	int fd = open(from, O_RDONLY);

	if (fd < 0 || read(fd, buf, sizeof(buf)) != sizeof(buf))
		return -1;
	return close(fd);
}

static int unlink_it(const char *from, const char *to)
{
	return unlink(from);
}

static int rename_back(const char *from, const char *to)
{
	return rename(to, from);
}

/* A directory for each PER_DIR files, which have a size but no data. */
static int tree(const char *from, const char *to)
{
	int fd;

	if (mkdir(to, 0755) < 0 && errno != EEXIST)
		return -1;
	fd = open(from, O_CREAT | O_EXCL | O_WRONLY, 0644);
	if (fd < 0 || ftruncate(fd, TREE_SIZE) < 0)
		return -1;
	return close(fd);
}

static const struct op {
	const char *name;
	int (*run)(const char *from, const char *to);
	bool repeats;
} ops[] = {
	{"create", create, false},    {"create4k", create_4k, false},
	{"stat", look, true},	      {"stat1", look, false},
	{"absent", absent, true},     {"getattr", getattr, true},
	{"open", open_close, true},   {"read4k", read_4k, true},
	{"rename", rename, false},    {"back", rename_back, false},
	{"unlink", unlink_it, false}, {"tree", tree, false},
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void names(const struct op *op, name_t *from, name_t *to, int files)
{
	for (int i = 0; i < files; i++) {
		snprintf(from[i], NAME_LEN, "f%06d", i);
		snprintf(to[i], NAME_LEN, "g%06d", i);
		if (op->run == tree) {
			snprintf(to[i], NAME_LEN, "d%04d", i / PER_DIR);
			snprintf(from[i], NAME_LEN, "d%04d/f%06d", i / PER_DIR,
				 i);
		}
	}
}

/* A client: says that it is ready, waits, works, and says how much. */
static void client(const struct op *op, const char *dir, int files,
		   double least, int go, int said)
{
	name_t *from = calloc(files, sizeof(*from));
	name_t *to = calloc(files, sizeof(*to));
	long done = 0;
	double end;
	char c;

	if (!from || !to || chdir(dir) < 0)
		err(1, "%s", dir);
	names(op, from, to, files);
	if (write(said, &done, sizeof(done)) != sizeof(done) ||
	    read(go, &c, 1) != 0)
		err(1, "pipe");
	end = now() + least;
	do {
		for (int i = 0; i < files; i++)
			if (op->run(from[i], to[i]) < 0)
				err(1, "%s %s/%s", op->name, dir, from[i]);
		done += files;
	} while (op->repeats && now() < end);
	if (write(said, &done, sizeof(done)) != sizeof(done))
		err(1, "pipe");
	_exit(0);
}

/* Of the clients, who have ended. */
static double cpu(void)
{
	struct rusage used;

	getrusage(RUSAGE_CHILDREN, &used);
	return used.ru_utime.tv_sec + used.ru_stime.tv_sec +
	       (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

static const struct op *find(const char *name)
{
	for (size_t i = 0; i < sizeof(ops) / sizeof(*ops); i++)
		if (!strcmp(ops[i].name, name))
			return &ops[i];
	errx(2, "%s: no such operation", name);
}

int main(int argc, char **argv)
{
	int clients = argc > 4 ? atoi(argv[4]) : 1;
	double least = argc > 5 ? atoi(argv[5]) / 1e3 : 0;
	int go[2], said[2], status;
	long n, total = 0;
	double start;

	if (argc < 4 || clients < 1 || atoi(argv[3]) < 1)
		errx(2, "usage: metaops OP DIR FILES [CLIENTS [MS]]");
	if (pipe(go) < 0 || pipe(said) < 0)
		err(1, "pipe");
	for (int i = 0; i < clients; i++) {
		char dir[4096];

		snprintf(dir, sizeof(dir), "%s/%d", argv[2], i);
		switch (fork()) {
		case -1:
			err(1, "fork");
		case 0:
			close(go[1]);
			client(find(argv[1]), dir, atoi(argv[3]), least, go[0],
			       said[1]);
		}
	}
	close(said[1]);
	for (int i = 0; i < clients; i++)
		if (read(said[0], &n, sizeof(n)) != sizeof(n))
			errx(1, "a client ended");
	start = now();
	close(go[1]);
	for (int i = 0; i < clients; i++) {
		if (read(said[0], &n, sizeof(n)) != sizeof(n))
			errx(1, "a client ended");
		total += n;
	}
	start = now() - start;
	while (wait(&status) > 0)
		if (status)
			return 1;
	printf("%.9f %ld %.6f\n", start, total, cpu());
	return 0;
}
