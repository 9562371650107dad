/* SPDX-License-Identifier: MIT */
#include "crash.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "invariants.h"
#include "tier_impl.h"
#include "util.h"

struct shared *shared;

void crash_init(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(shared, MAP_FAILED);
}

void crash_forget(void)
{
	memset(shared->files, 0, sizeof(shared->files));
	strcpy(shared->where, "-");
}

/* ---- the model ---------------------------------------------------------- */

struct file *file_of(const char *name)
{
	for (int i = 0; i < FILES; i++)
		if (!strcmp(shared->files[i].name, name))
			return &shared->files[i];
	for (int i = 0; i < FILES; i++) {
		if (shared->files[i].name[0])
			continue;
		snprintf(shared->files[i].name, sizeof(shared->files[i].name),
			 "%s", name);
		return &shared->files[i];
	}
	fail();
	return NULL;
}

/* What a write takes away, and a move must not. Takes privileges. */
static bool give_capability(struct node *node)
{
	static const uint32_t caps[5] = {0x02000001, 1 << 13};
	_cleanup_node_fd_ struct node_fd fd = NODE_FD_NONE;

	return !node_fd_get(node, &fd) &&
	       !setxattr_fd(fd.fd, CAPABILITY, caps, sizeof(caps));
}

void new_file(const char *name, size_t size)
{
	struct file *f = file_of(name);
	struct node *node;

	make(name, size);
	f->nstates = 1;
	f->states[0] = (struct state){
		.exists = true, .seed = name[0], .size = size, .strict = true};
	node = look(name);
	if (give_capability(node))
		f->states[0].capable = size;
	assert_int_equal(tier_getattr(rig.tier, node, &f->states[0].st, NULL),
			 0);
	node_unref(node);
}

struct state *may_be(const char *name)
{
	struct file *f = file_of(name);

	f->states[1] = f->states[0];
	f->nstates = 2;
	return &f->states[1];
}

void is_now(const char *name)
{
	struct file *f = file_of(name);
	struct node *node;

	f->states[0] = f->states[1];
	f->nstates = 1;
	if (!f->states[0].exists)
		return;
	node = look(name);
	f->states[0].strict =
		tier_getattr(rig.tier, node, &f->states[0].st, NULL) == 0;
	node_unref(node);
}

/* ---- checking ----------------------------------------------------------- */

static bool same_content(const struct state *s, const char *buf, int64_t len)
{
	if ((size_t)len != s->size)
		return false;
	for (size_t i = 0; i < s->size; i++) {
		char c = (char)(i * 7 + (i >> 12) + (size_t)s->seed);

		if (s->patched && !i)
			c = '!';
		if (buf[i] != c)
			return false;
	}
	return true;
}

static int64_t read_all(struct node *node, char **ret)
{
	size_t room = 3 * 1024 * 1024;
	char *buf = aligned_alloc(TARGET_ALIGN, room);
	int64_t len;

	assert_non_null(buf);
	assert_int_equal(open_file(node, O_RDONLY), 0);
	len = read_at(node, buf, room, 0);
	tier_close(rig.tier, node, O_RDONLY);
	assert_true(len >= 0);
	*ret = buf;
	return len;
}

static void same_attributes(const char *name, const struct stat *a,
			    const struct stat *b)
{
	int64_t mtime = timespec_to_ns(b->st_mtim) - timespec_to_ns(a->st_mtim);
	int64_t ctime = timespec_to_ns(b->st_ctim) - timespec_to_ns(a->st_ctim);

	if (a->st_ino != b->st_ino || a->st_size != b->st_size ||
	    a->st_mode != b->st_mode || a->st_nlink != b->st_nlink || mtime ||
	    ctime)
		fail_msg("%s: ino %ju %ju, size %jd %jd, nlink %ju %ju, "
			 "mtime %+jd, ctime %+jd",
			 name, (uintmax_t)a->st_ino, (uintmax_t)b->st_ino,
			 (intmax_t)a->st_size, (intmax_t)b->st_size,
			 (uintmax_t)a->st_nlink, (uintmax_t)b->st_nlink,
			 (intmax_t)mtime, (intmax_t)ctime);
}

/* Which of its states it is in. */
static struct state *check_file(struct file *f)
{
	struct node *node;
	struct stat st;
	char *buf;
	int64_t len;
	int i;

	if (node_lookup(node_root(rig.nodes), f->name, NULL, &node)) {
		for (i = 0; i < f->nstates; i++)
			if (!f->states[i].exists)
				return &f->states[i];
		fail_msg("%s is missing", f->name);
	}
	assert_int_equal(tier_getattr(rig.tier, node, &st, NULL), 0);
	len = read_all(node, &buf);
	for (i = 0; i < f->nstates; i++)
		if (f->states[i].exists &&
		    same_content(&f->states[i], buf, len))
			break;
	free(buf);
	node_unref(node);
	if (i == f->nstates)
		fail_msg("%s: not its contents, %jd bytes", f->name,
			 (intmax_t)len);
	assert_int_equal(st.st_size, len);
	if (f->states[i].strict)
		same_attributes(f->name, &f->states[i].st, &st);
	if (f->states[i].capable && f->states[i].capable == f->states[i].size &&
	    !f->states[i].patched &&
	    getxattr_at(rig.front->root_fd, f->name, CAPABILITY, NULL, 0) < 0)
		fail_msg("%s: lost its capabilities", f->name);
	return &f->states[i];
}

void patch(struct node *node)
{
	assert_int_equal(open_file(node, O_RDWR), 0);
	assert_int_equal(write_at(node, "!", 1, 0), 0);
	tier_close(rig.tier, node, O_RDWR);
}

/* All that can be done to a file can be done, still. */
static void use_file(struct file *f)
{
	struct state now = *check_file(f);
	struct node *node;

	f->states[0] = now;
	f->nstates = 1;
	if (!now.exists)
		return;
	node = look(f->name);
	for (int i = 0; i < 2; i++) {
		enum tier_result result = ask(node, TIER_MIGRATE_RELEASE);

		if (result != (now.size ? TIER_DONE : TIER_ALREADY) &&
		    state_of(node) != SPILL_RELEASED)
			fail_msg("%s: %s", f->name, last.reason);
		check_file(f);
		result = ask(node, TIER_RESTORE);
		if (result != TIER_DONE && now.size)
			fail_msg("%s: %s", f->name, last.reason);
		check_file(f);
	}
	if (now.size) {
		patch(node);
		tier_settle(rig.tier, node);
		f->states[0].patched = true;
		f->states[0].strict = false;
		check_file(f);
	}
	node_unref(node);
}

void verify(void)
{
	rig_up();
	wait_settled();
	check_invariants();
	for (int i = 0; i < FILES; i++)
		if (shared->files[i].name[0])
			check_file(&shared->files[i]);
	for (int i = 0; i < FILES; i++)
		if (shared->files[i].name[0] && !shared->files[i].alias)
			use_file(&shared->files[i]);
	wait_settled();
	check_invariants();
	for (int i = 0; i < FILES; i++)
		if (shared->files[i].name[0] &&
		    shared->files[i].states[0].exists)
			assert_int_equal(tier_unlink(rig.tier,
						     node_root(rig.nodes),
						     shared->files[i].name),
					 0);
	wait_settled();
	check_invariants();
	rig_down();
}

/* ---- children ------------------------------------------------------------- */

void note_and_die(const char *name)
{
	for (int i = 0; fault_names[i]; i++)
		if (!strcmp(fault_names[i], name)) {
			shared->killed[i]++;
			shared->killed_in[i][shared->scenario] = true;
		}
	snprintf(shared->where, sizeof(shared->where), "%s", name);
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

bool in_child(void (*fn)(const void *arg, unsigned int nth), const void *arg,
	      unsigned int nth, const char *what)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) {
		setenv("CMOCKA_TEST_ABORT", "1", 1);
		alarm(60);
		fn(arg, nth);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return true;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("%s, %u: status 0x%x; killed last at %s", what, nth,
			 (unsigned int)status, shared->where);
	return false;
}

bool own_mounts(void)
{
	struct mntent *entry;
	FILE *mounts;

	if (unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return false;
	mounts = setmntent("/proc/self/mounts", "re");
	while (mounts && (entry = getmntent(mounts)))
		if (strstr(entry->mnt_dir, "/tierfs-test."))
			umount2(entry->mnt_dir, MNT_DETACH);
	if (mounts)
		endmntent(mounts);
	return true;
}

/* The rings of a killed process end a little later than it. They make path busy,
 * or keep the file system when it is unmounted already, and it the device. */
void umount_image(const char *path, const char *image)
{
	int tries = 0, gone = 0;
	char cmd[160];

	while (umount2(path, 0) < 0) {
		assert_int_equal(errno, EBUSY);
		assert_true(tries++ < 3000);
		usleep(10000);
	}
	snprintf(cmd, sizeof(cmd), "test -z \"$(losetup -j %s)\"", image);
	while (!gone) {
		gone = system(cmd) == 0;
		assert_true(tries++ < 3000);
		if (!gone)
			usleep(10000);
	}
}

const char *test_prefix(void)
{
	static char path[48];
	const char *dir = getenv("TIERFS_TEST_DIR");

	snprintf(path, sizeof(path), "%s/test_crash",
		 dir			    ? dir
		 : access("/dev/shm", W_OK) ? "/tmp"
					    : "/dev/shm");
	return path;
}
