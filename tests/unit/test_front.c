/* SPDX-License-Identifier: MIT */
/* Each test has a directory of its own below the temporary one, as the front:
 * real files with real attributes and handles. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cleanup.h"
#include "front.h"
#include "util.h"

#define UUID_A "11111111-2222-3333-4444-555555555555"
#define UUID_B "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"

static char dir[64]; /* the test's front */

static int setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%s/tierfs-front-XXXXXX",
		 tmp && strlen(tmp) < 30 ? tmp : "/var/tmp");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *st, int type,
			struct FTW *ftw)
{
	return remove(path);
}

static int teardown(void **state)
{
	return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static char *below(const char *path)
{
	static char bufs[4][256];
	static unsigned int next;
	char *buf = bufs[next++ % 4];

	snprintf(buf, sizeof(bufs[0]), "%s/%s", dir, path);
	return buf;
}

static void write_text(const char *path, const char *text, size_t len)
{
	int fd = open(below(path), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite_full(fd, text, len, 0), 0);
	close(fd);
}

static void read_text(const char *path, char *buf, size_t size)
{
	int fd = open(below(path), O_RDONLY);
	ssize_t n;

	assert_true(fd >= 0);
	n = read(fd, buf, size - 1);
	assert_true(n >= 0);
	buf[n] = '\0';
	close(fd);
}

static struct front *opened(const char *name)
{
	_cleanup_free_ char *why = NULL;
	struct front *front = NULL;
	int err = front_open(dir, name, &front, &why);

	if (err)
		fail_msg("front_open: %d %s", err, why ? why : "-");
	assert_null(why);
	return front;
}

/* front_open(path, name) fails with err, and a message that holds text. */
static void assert_refused(const char *path, const char *name, int err,
			   const char *text)
{
	struct front *front = (void *)1;
	_cleanup_free_ char *why = NULL;
	int got = front_open(path, name, &front, &why);

	if (got != err)
		fail_msg("%d (%s), not %d", got, why ? why : "-", err);
	assert_ptr_equal(front, (void *)1);
	assert_non_null(why);
	if (!strstr(why, text) || !strstr(why, path))
		fail_msg("'%s' lacks '%s' or '%s'", why, text, path);
}

static void a_new_front(void **state)
{
	static const char *const subdirs[] = {
		".tierfs/staging", ".tierfs/inodes", ".tierfs/orphans"};
	struct front *front = opened("fast");
	char text[1024], want[1024], uuid[37];
	struct stat st;
	size_t i;

	assert_string_equal(front->path, dir);
	assert_string_equal(front->name, "fast");
	assert_int_equal(strlen(front->uuid), 36);
	assert_int_equal(front->ntargets, 0);
	assert_int_equal(stat(below(".tierfs"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(front->meta_ino, st.st_ino);
	assert_int_equal(front->dev, st.st_dev);
	for (i = 0; i < ARRAY_SIZE(subdirs); i++) {
		assert_int_equal(stat(below(subdirs[i]), &st), 0);
		assert_int_equal(st.st_mode & 07777, 0700);
	}
	assert_int_equal(access(below(".tierfs/probe"), F_OK), -1);
	snprintf(want, sizeof(want), "version=1\nuuid=%s\nname=fast\nea=%s\n",
		 front->uuid, front->trusted ? "trusted" : "user");
	read_text(".tierfs/format", text, sizeof(text));
	assert_non_null(strstr(text, want));
	assert_int_equal(stat(below(".tierfs/format"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	memcpy(uuid, front->uuid, sizeof(uuid));
	front_close(front);

	front = opened("fast");
	assert_string_equal(front->uuid, uuid);
	front_close(front);
}

static void as_root_by_handle_and_trusted(void **state)
{
	struct front *front;

	if (geteuid() != 0)
		skip();
	front = opened("fast");
	assert_true(front->trusted);
	assert_true(front->by_handle);
	assert_string_equal(front->ea_spill, TIERFS_EA_TRUSTED);
	front_close(front);
}

static void what_is_no_front(void **state)
{
	write_text("file", "", 0);
	assert_refused(below("none"), "n", -ENOENT, "No such file");
	assert_refused(below("file"), "n", -ENOTDIR, "Not a directory");
}

static void only_one_at_a_time(void **state)
{
	struct front *front = opened("fast");
	char text[80];

	snprintf(text, sizeof(text),
		 "another tierfs has it mounted (process %d)", (int)getpid());
	assert_refused(dir, "fast", -EBUSY, text);
	front_close(front);
	front_close(opened("fast"));
}

static void another_name(void **state)
{
	front_close(opened("fast"));
	assert_refused(dir, "slow", -EEXIST, "has the name 'fast', not 'slow'");
	front_close(opened("fast"));
}

static void a_lost_format_file(void **state)
{
	front_close(opened("fast"));
	assert_int_equal(unlink(below(".tierfs/format")), 0);
	/* As a crash in the first opening leaves it. */
	front_close(opened("fast"));
	assert_int_equal(unlink(below(".tierfs/format")), 0);
	write_text(".tierfs/journal.db", "x", 1);
	assert_refused(dir, "fast", -EBADMSG, "journal but no format file");
	assert_int_equal(access(below(".tierfs/format"), F_OK), -1);
}

static void a_planted_meta_dir(void **state)
{
	assert_int_equal(mkdir(below(".tierfs"), 0700), 0);
	assert_int_equal(chmod(below(".tierfs"), 0777), 0);
	assert_refused(dir, "fast", -EACCES, "with mode 0777");
	assert_int_equal(chmod(below(".tierfs"), 0700), 0);
	if (geteuid() == 0) {
		assert_int_equal(chown(below(".tierfs"), 4711, 4711), 0);
		assert_refused(dir, "fast", -EACCES, "belongs to uid 4711");
	}
	assert_int_equal(rmdir(below(".tierfs")), 0);
	assert_int_equal(symlink("/tmp", below(".tierfs")), 0);
	assert_refused(dir, "fast", -ENOTDIR, "cannot make .tierfs");
	assert_int_equal(unlink(below(".tierfs")), 0);
	write_text(".tierfs", "", 0);
	assert_refused(dir, "fast", -ENOTDIR, "cannot make .tierfs");
}

static void a_read_only_front(void **state)
{
	if (geteuid() != 0)
		skip();
	assert_int_equal(mkdir(below("ro"), 0700), 0);
	if (mount("tmpfs", below("ro"), "tmpfs", MS_RDONLY, NULL) < 0)
		skip();
	assert_refused(below("ro"), "fast", -EROFS, "read-only");
	assert_int_equal(umount(below("ro")), 0);
}

static void format_files(void **state)
{
#define HEAD "version=1\nuuid=" UUID_A "\nname=fast\nea=user\n"
	static const struct {
		const char *text;
		int err;
		const char *why;
	} rows[] = {
		{"", -EBADMSG, "format:0: no version in the file"},
		{"\n\n", -EBADMSG, "format:2: no version in the file"},
		{"version=1\n", -EBADMSG, "format:1: no uuid in the file"},
		{"version=2\nnonsense\n", -EPROTONOSUPPORT,
		 "format:1: version 2 is newer than this tierfs (1)"},
		{"version=10\n", -EPROTONOSUPPORT, "version 10 is newer"},
		{"version=01\n", -EBADMSG, "version '01' is not a number"},
		{"version=x\n", -EBADMSG, "format:1: version 'x' is not"},
		{"version=\n", -EBADMSG, "version '' is not a number"},
		{"version=1 \n", -EBADMSG, "version '1 ' is not a number"},
		{"uuid=" UUID_A "\n", -EBADMSG,
		 "format:1: 'uuid' before the version"},
		{"version=1\nuuid=" UUID_A "\nname=fast\n", -EBADMSG,
		 "format:3: no ea in the file"},
		{"version=1\nuuid=" UUID_A "\nea=user\n", -EBADMSG,
		 "no name in the file"},
		{"version=1\nname=fast\nea=user\n", -EBADMSG,
		 "no uuid in the file"},
		{"version=1\nuuid=123\n", -EBADMSG,
		 "format:2: '123' is not a UUID"},
		{"version=1\nuuid=" UUID_A "0\n", -EBADMSG, "is not a UUID"},
		{"version=1\nname=.x\n", -EBADMSG, "'.x' is not a name"},
		{"version=1\nea=system\n", -EBADMSG,
		 "ea 'system' is neither trusted nor user"},
		{HEAD "name=fast\n", -EBADMSG,
		 "format:5: key 'name' is unknown or given twice"},
		{HEAD "version=1\n", -EBADMSG, "'version' is unknown or given"},
		{HEAD "color=red\n", -EBADMSG,
		 "format:5: key 'color' is unknown or given twice"},
		{HEAD "nonsense\n", -EBADMSG,
		 "format:5: 'nonsense' is not KEY=VALUE"},
		{HEAD "# cut", -EBADMSG, "format:5: the line is cut off"},
		{HEAD "target.1=hdd " UUID_A "\n", -EBADMSG,
		 "format:5: target 1 where 0 comes next"},
		{HEAD "target.0=hdd\n", -EBADMSG,
		 "target 0 is not 'NAME UUID'"},
		{HEAD "target.0=h/d " UUID_A "\n", -EBADMSG,
		 "target 0 is not 'NAME UUID'"},
		{HEAD "target.0=a " UUID_A "\ntarget.1=a " UUID_B "\n",
		 -EBADMSG, "format:6: target 1 is the same as 0"},
		{HEAD "target.0=a " UUID_A "\ntarget.1=b " UUID_A "\n",
		 -EBADMSG, "format:6: target 1 is the same as 0"},
	};
	char text[1024];
	size_t i;

	assert_int_equal(mkdir(below(".tierfs"), 0700), 0);
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		write_text(".tierfs/format", rows[i].text,
			   strlen(rows[i].text));
		assert_refused(dir, "fast", rows[i].err, rows[i].why);
		/* Not mended, not touched. */
		read_text(".tierfs/format", text, sizeof(text));
		assert_string_equal(text, rows[i].text);
	}
	write_text(".tierfs/format", HEAD "name\0\n", sizeof(HEAD) + 5);
	assert_refused(dir, "fast", -EBADMSG, "a NUL byte");
	write_text(".tierfs/format",
		   "# x\n\n" HEAD "#\ntarget.0=a " UUID_B "\n",
		   strlen("# x\n\n" HEAD "#\ntarget.0=a " UUID_B "\n"));
	front_close(opened("fast"));
}

static void targets_are_remembered(void **state)
{
	struct front *front = opened("fast");
	unsigned int number = 99, i;
	char name[16], uuid[37];

	assert_int_equal(front_add_target(front, "hdd", UUID_A, &number), 0);
	assert_int_equal(number, 0);
	assert_int_equal(front_add_target(front, "hdd", UUID_B, &number),
			 -EEXIST);
	assert_int_equal(front_add_target(front, "two", UUID_A, &number),
			 -EEXIST);
	assert_int_equal(front_add_target(front, "a b", UUID_B, &number),
			 -EINVAL);
	assert_int_equal(front_add_target(front, "two", "1", &number), -EINVAL);
	assert_int_equal(front_add_target(front, "two", UUID_B, &number), 0);
	assert_int_equal(number, 1);
	front_close(front);

	front = opened("fast");
	assert_int_equal(front->ntargets, 2);
	assert_string_equal(front->targets[0].name, "hdd");
	assert_string_equal(front->targets[0].uuid, UUID_A);
	assert_string_equal(front->targets[1].name, "two");
	assert_string_equal(front->targets[1].uuid, UUID_B);
	for (i = 2; i < TIERFS_TARGETS_MAX; i++) {
		snprintf(name, sizeof(name), "t%u", i);
		snprintf(uuid, sizeof(uuid), "%08x-0000-0000-0000-000000000000",
			 i);
		assert_int_equal(front_add_target(front, name, uuid, &number),
				 0);
	}
	assert_int_equal(front_add_target(front, "x",
					  "12345678-0000-0000-0000-"
					  "000000000000",
					  &number),
			 -ENOSPC);
	front_close(front);
	front = opened("fast");
	assert_int_equal(front->ntargets, TIERFS_TARGETS_MAX);
	front_close(front);
}

static void a_failed_write_adds_nothing(void **state)
{
	struct front *front = opened("fast");
	unsigned int number = 99;

	/* In the way of the temporary file. */
	assert_int_equal(mkdir(below(".tierfs/format.new"), 0700), 0);
	assert_int_equal(front_add_target(front, "hdd", UUID_A, &number),
			 -EISDIR);
	assert_int_equal(number, 99);
	assert_int_equal(front->ntargets, 0);
	assert_int_equal(rmdir(below(".tierfs/format.new")), 0);
	front_close(front);
	front = opened("fast");
	assert_int_equal(front->ntargets, 0);
	front_close(front);
}

static void handles(void **state)
{
	struct front_handle a, b, link, again;
	struct front *front = opened("fast");
	struct stat st, st2;
	int fd;

	write_text("a", "a", 1);
	write_text("b", "b", 1);
	assert_int_equal(symlink("a", below("link")), 0);
	assert_int_equal(front_handle_at(front, front->root_fd, "a", &a), 0);
	assert_int_equal(front_handle_at(front, front->root_fd, "b", &b), 0);
	assert_int_equal(front_handle_at(front, front->root_fd, "link", &link),
			 0);
	assert_false(front_handle_equal(&a, &b));
	assert_false(front_handle_equal(&a, &link));
	assert_int_equal(front_handle_at(front, front->root_fd, "no", &b),
			 -ENOENT);
	/* By O_PATH descriptor, the same. */
	fd = open(below("a"), O_PATH | O_NOFOLLOW);
	assert_int_equal(front_handle_at(front, fd, "", &again), 0);
	assert_true(front_handle_equal(&a, &again));
	assert_memory_equal(&a, &again, sizeof(a));
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	if (front->by_handle) {
		assert_int_equal(rename(below("a"), below("c")), 0);
		fd = front_open_handle(front, &a, O_RDWR);
		assert_true(fd >= 0);
		assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		assert_int_equal(fstat(fd, &st2), 0);
		assert_int_equal(st.st_ino, st2.st_ino);
		close(fd);
		fd = front_open_handle(front, &link, O_PATH | O_NOFOLLOW);
		assert_true(fd >= 0);
		assert_int_equal(fstat(fd, &st2), 0);
		assert_true(S_ISLNK(st2.st_mode));
		close(fd);
		assert_int_equal(unlink(below("c")), 0);
		assert_int_equal(front_open_handle(front, &a, O_PATH), -ESTALE);
		a.len = 0;
		assert_int_equal(front_open_handle(front, &a, O_PATH), -ESTALE);
	}
	front_close(front);
}

static struct spill_ea sample(void)
{
	return (struct spill_ea){
		.state = SPILL_MIGRATED,
		.size = 12345,
		.ncopies = 1,
		.copies = {{.target = 1, .oid = 2}},
	};
}

static void attributes(void **state)
{
	struct front *front = opened("fast");
	struct spill_ea ea = sample(), back;
	uint8_t raw[200] = {0};
	int fd;

	write_text("a", "a", 1);
	assert_int_equal(front_ea_get_at(front, front->root_fd, "a", &back),
			 -ENODATA);
	assert_int_equal(front_ea_get_at(front, front->root_fd, "x", &back),
			 -ENOENT);
	fd = open(below("a"), O_PATH);
	assert_int_equal(front_ea_get(front, fd, &back), -ENODATA);
	assert_int_equal(front_ea_set(front, fd, &ea), 0);
	assert_int_equal(
		getxattr(below("a"), front->ea_spill, raw, sizeof(raw)), 60);
	assert_int_equal(front_ea_get(front, fd, &back), 0);
	assert_int_equal(back.size, 12345);
	memset(&back, 0, sizeof(back));
	assert_int_equal(front_ea_get_at(front, front->root_fd, "a", &back), 0);
	assert_int_equal(back.size, 12345);
	assert_int_equal(back.copies[0].oid, 2);

	/* What cannot be encoded leaves what was there. */
	ea.ncopies = 9;
	assert_int_equal(front_ea_set(front, fd, &ea), -EINVAL);
	assert_int_equal(front_ea_get(front, fd, &back), 0);

	raw[20] ^= 1;
	assert_int_equal(setxattr(below("a"), front->ea_spill, raw, 60, 0), 0);
	assert_int_equal(front_ea_get(front, fd, &back), -EBADMSG);
	assert_int_equal(setxattr(below("a"), front->ea_spill, raw, 200, 0), 0);
	assert_int_equal(front_ea_get(front, fd, &back), -EBADMSG);
	close(fd);

	/* An empty one is removed; to remove what is not there is done. */
	fd = open(below("a"), O_RDONLY);
	memset(&ea, 0, sizeof(ea));
	assert_int_equal(front_ea_set(front, fd, &ea), 0);
	assert_int_equal(
		getxattr(below("a"), front->ea_spill, raw, sizeof(raw)), -1);
	assert_int_equal(errno, ENODATA);
	assert_int_equal(front_ea_set(front, fd, &ea), 0);
	assert_int_equal(front_ea_get(front, fd, &back), -ENODATA);
	close(fd);
	front_close(front);
}

static void the_recorded_attribute_is_kept(void **state)
{
	struct front *front;

	assert_int_equal(mkdir(below(".tierfs"), 0700), 0);
	write_text(".tierfs/format", HEAD, strlen(HEAD));
	front = opened("fast");
	assert_false(front->trusted);
	assert_string_equal(front->ea_spill, TIERFS_EA_USER);
	front_close(front);
}

/* As nobody, in a child: returns 0 when all is as it should be. */
static int as_nobody(bool known)
{
	struct front *front = NULL;
	char *why = NULL;
	int err;

	if (setgid(65534) < 0 || setuid(65534) < 0)
		return 2;
	err = front_open(dir, "fast", &front, &why);
	if (known)
		return err == -EOPNOTSUPP && why &&
				       strstr(why, "takes CAP_SYS_ADMIN")
			       ? 0
			       : 3;
	return !err && !front->trusted && !front->by_handle ? 0 : 4;
}

static void assert_as_nobody(bool known)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(as_nobody(known));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void without_privileges(void **state)
{
	static const char text[] =
		"version=1\nuuid=" UUID_A "\nname=fast\nea=trusted\n";

	if (geteuid() != 0)
		skip();
	assert_int_equal(chown(dir, 65534, 65534), 0);
	assert_as_nobody(false);
	/* A front of root's must not be read with other eyes. */
	write_text(".tierfs/format", text, strlen(text));
	assert_int_equal(chown(below(".tierfs/format"), 65534, 65534), 0);
	assert_as_nobody(true);
}

static void usage(void **state)
{
	struct front *front = opened("fast");
	uint64_t used, avail;
	struct statvfs vfs;

	assert_int_equal(front_usage(front, &used, &avail), 0);
	assert_int_equal(statvfs(dir, &vfs), 0);
	assert_true(used > 0);
	assert_true(used + avail <= (uint64_t)vfs.f_blocks * vfs.f_frsize);
	/* Others write meanwhile. */
	assert_true(avail < (uint64_t)vfs.f_bavail * vfs.f_frsize + (1 << 30));
	assert_true(avail + (1 << 30) > (uint64_t)vfs.f_bavail * vfs.f_frsize);
	front_close(front);
}

#define REUSES 20000

static void *reuse_numbers(void *arg)
{
	const int *top = arg;

	for (int i = 0; i < REUSES; i++) {
		int fd = openat(*top, "new", O_WRONLY | O_CREAT | O_EXCL, 0600);

		if (fd < 0 || close(fd) || unlinkat(*top, "new", 0))
			return arg;
	}
	return NULL;
}

/* A file that is gone is gone, and not for want of memory, while others are
 * given its number. */
static void a_number_is_reused(void **state)
{
	struct front *front = opened("fast");
	struct front_handle handle;
	unsigned int others = 0;
	pthread_t thread;
	void *failed;
	int top;

	top = open(dir, O_RDONLY | O_DIRECTORY);
	assert_true(top >= 0);
	write_text("old", "", 0);
	assert_int_equal(front_handle_at(front, top, "old", &handle), 0);
	assert_int_equal(unlinkat(top, "old", 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, reuse_numbers, &top), 0);
	for (int i = 0; i < REUSES; i++)
		others += front_open_handle(front, &handle, O_PATH) != -ESTALE;
	pthread_join(thread, &failed);
	close(top);
	assert_true(!failed && !others);
	front_close(front);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_new_front),
		TEST(as_root_by_handle_and_trusted),
		TEST(what_is_no_front),
		TEST(only_one_at_a_time),
		TEST(another_name),
		TEST(a_lost_format_file),
		TEST(a_planted_meta_dir),
		TEST(a_read_only_front),
		TEST(format_files),
		TEST(targets_are_remembered),
		TEST(a_failed_write_adds_nothing),
		TEST(handles),
		TEST(a_number_is_reused),
		TEST(attributes),
		TEST(the_recorded_attribute_is_kept),
		TEST(without_privileges),
		TEST(usage),
	};

	umask(022);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
