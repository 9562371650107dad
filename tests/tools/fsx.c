/* SPDX-License-Identifier: MIT */

/*
 * fsx: one file under random operations, compared with a copy in memory.
 *
 * After the idea of the fsx that file systems have been tested with since
 * 1991, written anew. Each operation is done to the file and to the copy; every
 * read, by read(2), by a mapping or by a second descriptor, is compared. The
 * same seed gives the same operations; when contents differ, the last
 * operations are printed with the seed, and the exit status is 1. Operations
 * that the file system doesn't have (EOPNOTSUPP) are given up, as are those
 * named by -x. With -c, COMMAND is run by the shell, with the file closed,
 * after every -i operations (50).
 *
 * usage: fsx [-q] [-N operations] [-S seed] [-l max-length] [-x operation]...
 *            [-c COMMAND] [-i operations] FILE
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_OPS	 200
#define OP_BYTES 65536 /* the most that one operation touches */

static const char *path;
static int fd = -1;
static uint64_t seed, state;
static unsigned long op_count;
static size_t max_len = 256 * 1024;
static size_t size;	    /* of the file */
static unsigned char *good; /* what the file holds; zeros past size */
static unsigned char *temp;
static char history[LOG_OPS][96];

static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void note(const char *fmt, ...)
{
	char *line = history[op_count % LOG_OPS];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(history[0]), fmt, ap);
	va_end(ap);
}

__attribute__((noreturn)) static void fail(const char *what, int err)
{
	unsigned long from = op_count < LOG_OPS ? 0 : op_count - LOG_OPS + 1;

	for (; from <= op_count; from++)
		fprintf(stderr, "%lu: %s\n", from, history[from % LOG_OPS]);
	fprintf(stderr, "fsx: %s: %s%s%s; seed %llu, operation %lu\n", path,
		what, err ? ": " : "", err ? strerror(err) : "",
		(unsigned long long)seed, op_count);
	exit(1);
}

/* splitmix64: the same numbers everywhere. */
static uint64_t dice(void)
{
	uint64_t z = (state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static size_t below(size_t n)
{
	return n ? dice() % n : 0;
}

/* A range of at least one byte that begins before limit and ends there at
 * the latest. */
static void range(size_t limit, size_t *ret_off, size_t *ret_len)
{
	size_t off = below(limit);
	size_t len = 1 + below(OP_BYTES);

	if (len > limit - off)
		len = limit - off;
	*ret_off = off;
	*ret_len = len;
}

static void compare(const unsigned char *got, size_t off, size_t len,
		    const char *how)
{
	size_t i = 0;
	char what[128];

	if (memcmp(got, good + off, len) == 0)
		return;
	while (got[i] == good[off + i])
		i++;
	snprintf(what, sizeof(what),
		 "%s of 0x%zx at 0x%zx: at 0x%zx is 0x%02x, was 0x%02x", how,
		 len, off, off + i, got[i], good[off + i]);
	fail(what, 0);
}

/* New contents that tell where and when they were written. */
static void fill(size_t off, size_t len)
{
	uint64_t word = dice();
	size_t i;

	for (i = 0; i < len; i++)
		good[off + i] = (unsigned char)((word >> (i % 8 * 8)) + i / 8);
}

static void grown(size_t end)
{
	if (end > size)
		size = end;
}

static void open_file(int flags)
{
	fd = open(path, O_RDWR | O_CLOEXEC | flags, 0600);
	if (fd < 0)
		fail("open", errno);
}

static void close_file(void)
{
	if (close(fd) < 0)
		fail("close", errno);
	fd = -1;
}

/* -- operations: 0, or -EOPNOTSUPP when the file system can't ------------- */

static int op_read(void)
{
	size_t off, len;

	if (!size)
		return 0;
	range(size, &off, &len);
	note("read 0x%zx 0x%zx", off, len);
	if (pread(fd, temp, len, (off_t)off) != (ssize_t)len)
		fail("short read", errno);
	compare(temp, off, len, "read");
	return 0;
}

static int op_write(void)
{
	size_t off, len;

	range(max_len, &off, &len);
	note("write 0x%zx 0x%zx", off, len);
	fill(off, len);
	if (pwrite(fd, good + off, len, (off_t)off) != (ssize_t)len)
		fail("short write", errno);
	grown(off + len);
	return 0;
}

static int op_append(void)
{
	size_t off = size, len = 1 + below(4096);
	int appending;

	if (off + len > max_len)
		return 0;
	note("append 0x%zx 0x%zx", off, len);
	fill(off, len);
	appending = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (appending < 0)
		fail("open to append", errno);
	if (write(appending, good + off, len) != (ssize_t)len)
		fail("append", errno);
	close(appending);
	grown(off + len);
	return 0;
}

static int op_truncate(void)
{
	size_t to = below(8) ? below(max_len) : 0;
	bool by_name = below(2);

	note("%s 0x%zx -> 0x%zx", by_name ? "truncate" : "ftruncate", size, to);
	if ((by_name ? truncate(path, (off_t)to) : ftruncate(fd, (off_t)to)) <
	    0)
		fail("truncate", errno);
	if (to < size)
		memset(good + to, 0, size - to);
	size = to;
	return 0;
}

static unsigned char *map(size_t off, size_t len, int prot, size_t *ret_skip)
{
	size_t skip = off % (size_t)sysconf(_SC_PAGESIZE);
	unsigned char *m = mmap(NULL, len + skip, prot, MAP_SHARED, fd,
				(off_t)(off - skip));

	if (m == MAP_FAILED)
		fail("mmap", errno);
	*ret_skip = skip;
	return m;
}

static int op_map_read(void)
{
	size_t off, len, skip;
	unsigned char *m;

	if (!size)
		return 0;
	range(size, &off, &len);
	note("map read 0x%zx 0x%zx", off, len);
	m = map(off, len, PROT_READ, &skip);
	compare(m + skip, off, len, "map read");
	munmap(m, len + skip);
	return 0;
}

/* Sometimes the descriptor is closed before the mapping is written. */
static int op_map_write(void)
{
	size_t off, len, skip;
	bool closed = below(4) == 0, sync = below(4) == 0;
	unsigned char *m;

	range(max_len, &off, &len);
	note("map write 0x%zx 0x%zx%s%s", off, len, closed ? " closed" : "",
	     sync ? " msync" : "");
	if (off + len > size) {
		if (ftruncate(fd, (off_t)(off + len)) < 0)
			fail("truncate to map", errno);
		grown(off + len);
	}
	m = map(off, len, PROT_READ | PROT_WRITE, &skip);
	if (closed)
		close_file();
	fill(off, len);
	memcpy(m + skip, good + off, len);
	if (sync && msync(m, len + skip, MS_SYNC) < 0)
		fail("msync", errno);
	munmap(m, len + skip);
	if (closed)
		open_file(0);
	return 0;
}

static int do_fallocate(int mode, size_t off, size_t len, const char *what)
{
	note("%s 0x%zx 0x%zx", what, off, len);
	if (fallocate(fd, mode, (off_t)off, (off_t)len) == 0)
		return 0;
	if (errno == EOPNOTSUPP || errno == ENOSYS)
		return -EOPNOTSUPP;
	fail(what, errno);
}

static int op_fallocate(void)
{
	size_t off, len;
	bool keep = below(2);
	int err;

	range(max_len, &off, &len);
	err = do_fallocate(keep ? FALLOC_FL_KEEP_SIZE : 0, off, len,
			   keep ? "fallocate keep" : "fallocate");
	if (!err && !keep)
		grown(off + len);
	return err;
}

static int op_punch(void)
{
	size_t off, len, end;
	int err;

	if (!size)
		return 0;
	range(size, &off, &len);
	err = do_fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len,
			   "punch");
	end = off + len < size ? off + len : size;
	if (!err)
		memset(good + off, 0, end - off);
	return err;
}

static int op_zero(void)
{
	size_t off, len;
	bool keep = below(2);
	int err;

	range(max_len, &off, &len);
	err = do_fallocate(FALLOC_FL_ZERO_RANGE |
				   (keep ? FALLOC_FL_KEEP_SIZE : 0),
			   off, len, keep ? "zero keep" : "zero");
	if (err)
		return err;
	memset(good + off, 0, len);
	if (!keep)
		grown(off + len);
	return 0;
}

/* Collapse and insert work on whole blocks. */
#define BLOCK 4096

static int op_collapse(void)
{
	size_t off = below(size / BLOCK + 1) * BLOCK;
	size_t len = (1 + below(4)) * BLOCK;
	int err;

	if (off + len >= size)
		return 0;
	err = do_fallocate(FALLOC_FL_COLLAPSE_RANGE, off, len, "collapse");
	if (err)
		return err;
	memmove(good + off, good + off + len, size - off - len);
	memset(good + size - len, 0, len);
	size -= len;
	return 0;
}

static int op_insert(void)
{
	size_t off = below(size / BLOCK + 1) * BLOCK;
	size_t len = (1 + below(4)) * BLOCK;
	int err;

	if (off >= size || size + len > max_len)
		return 0;
	err = do_fallocate(FALLOC_FL_INSERT_RANGE, off, len, "insert");
	if (err)
		return err;
	memmove(good + off + len, good + off, size - off);
	memset(good + off, 0, len);
	size += len;
	return 0;
}

static int op_copy_range(void)
{
	size_t from, to, len, done = 0;

	if (size < 2)
		return 0;
	range(size, &from, &len);
	to = below(max_len - len);
	if (from < to + len && to < from + len)
		return 0;
	note("copy range 0x%zx -> 0x%zx 0x%zx", from, to, len);
	while (done < len) {
		loff_t in = (loff_t)(from + done), out = (loff_t)(to + done);
		ssize_t n = copy_file_range(fd, &in, fd, &out, len - done, 0);

		if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
			return -EOPNOTSUPP;
		if (n <= 0)
			fail("copy_file_range", errno);
		done += (size_t)n;
	}
	memcpy(good + to, good + from, len);
	grown(to + len);
	return 0;
}

static int op_sync(void)
{
	note("fsync");
	if ((below(2) ? fsync(fd) : fdatasync(fd)) < 0)
		fail("fsync", errno);
	return 0;
}

static int op_reopen(void)
{
	note("close, open");
	close_file();
	open_file(0);
	return 0;
}

/* Everything, by a descriptor that was not there before. */
static int op_verify(void)
{
	int other = open(path, O_RDONLY | O_CLOEXEC);
	size_t off = 0;
	struct stat st;

	note("verify 0x%zx", size);
	if (other < 0 || fstat(other, &st) < 0)
		fail("open to verify", errno);
	if ((size_t)st.st_size != size) {
		char what[80];

		snprintf(what, sizeof(what), "size is 0x%llx, was 0x%zx",
			 (unsigned long long)st.st_size, size);
		fail(what, 0);
	}
	while (off < size) {
		ssize_t n = pread(other, temp, OP_BYTES, (off_t)off);

		if (n <= 0)
			fail("read to verify", n ? errno : 0);
		compare(temp, off, (size_t)n, "verify");
		off += (size_t)n;
	}
	close(other);
	return 0;
}

static struct op {
	int (*run)(void);
	unsigned int weight;
	const char *name;
	unsigned long done;
} ops[] = {
	{op_read, 20, "read", 0},	   {op_write, 20, "write", 0},
	{op_append, 4, "append", 0},	   {op_truncate, 6, "truncate", 0},
	{op_map_read, 10, "map read", 0},  {op_map_write, 10, "map write", 0},
	{op_fallocate, 4, "fallocate", 0}, {op_punch, 6, "punch", 0},
	{op_zero, 4, "zero range", 0},	   {op_collapse, 2, "collapse", 0},
	{op_insert, 2, "insert", 0},	   {op_copy_range, 5, "copy range", 0},
	{op_sync, 1, "fsync", 0},	   {op_reopen, 4, "reopen", 0},
	{op_verify, 2, "verify", 0},
};

#define OPS (sizeof(ops) / sizeof(ops[0]))

static bool give_up(const char *name)
{
	size_t i;

	for (i = 0; i < OPS; i++)
		if (strcmp(ops[i].name, name) == 0) {
			ops[i].weight = 0;
			return true;
		}
	return false;
}

static void run_command(const char *command)
{
	int status;

	note("command");
	close_file();
	status = system(command);
	if (status)
		fail("the command failed", status < 0 ? errno : 0);
	open_file(0);
}

static void one_operation(void)
{
	unsigned int total = 0, pick;
	size_t i;

	for (i = 0; i < OPS; i++)
		total += ops[i].weight;
	pick = (unsigned int)below(total);
	for (i = 0; pick >= ops[i].weight; i++)
		pick -= ops[i].weight;
	note("%s: nothing", ops[i].name);
	if (ops[i].run() == -EOPNOTSUPP)
		ops[i].weight = 0;
	else
		ops[i].done++;
}

__attribute__((noreturn)) static void usage(void)
{
	fprintf(stderr,
		"usage: fsx [-q] [-N operations] [-S seed] [-l max]\n"
		"           [-x operation]... [-c command] [-i every] FILE\n");
	exit(2);
}

int main(int argc, char **argv)
{
	unsigned long n = 10000, every = 50;
	const char *command = NULL;
	bool quiet = false;
	size_t i;
	int opt;

	while ((opt = getopt(argc, argv, "qN:S:l:x:c:i:")) != -1) {
		if (opt == 'q')
			quiet = true;
		else if (opt == 'N')
			n = strtoul(optarg, NULL, 0);
		else if (opt == 'S')
			seed = strtoull(optarg, NULL, 0);
		else if (opt == 'l')
			max_len = strtoul(optarg, NULL, 0);
		else if (opt == 'c')
			command = optarg;
		else if (opt == 'i')
			every = strtoul(optarg, NULL, 0);
		else if (opt != 'x' || !give_up(optarg))
			usage();
	}
	if (optind + 1 != argc || max_len <= OP_BYTES || every == 0)
		usage();
	path = argv[optind];
	state = seed;
	good = calloc(1, max_len);
	temp = malloc(OP_BYTES);
	if (!good || !temp)
		fail("no memory", 0);
	note("create");
	open_file(O_CREAT | O_TRUNC);
	while (op_count < n) {
		op_count++;
		if (command && op_count % every == 0)
			run_command(command);
		else
			one_operation();
	}
	op_count++;
	op_verify();
	close_file();
	for (i = 0; i < OPS && !quiet; i++)
		printf("%-10s %lu\n", ops[i].name, ops[i].done);
	return 0;
}
