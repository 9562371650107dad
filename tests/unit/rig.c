/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mover_copy.h"
#include "ring.h"
#include "util.h"

struct rig rig;

void rig_up(void)
{
	struct target_config tc = {
		.name = "hdd", .path = rig.target_path, .fsname = "test"};
	char *why = NULL;

	signal(SIGIO, SIG_IGN); /* a lease is broken */
	if (front_open(rig.front_path, "test", &rig.front, &why))
		fail_msg("%s", why);
	tc.front_uuid = rig.front->uuid;
	if (rig.front->ntargets)
		tc.uuid = rig.front->targets[0].uuid;
	if (target_open(&tc, &rig.targets[0], &why))
		fail_msg("%s", why);
	if (!rig.front->ntargets) {
		unsigned int number;

		assert_int_equal(front_add_target(rig.front, "hdd",
						  target_uuid(rig.targets[0]),
						  &number),
				 0);
		assert_int_equal(number, 0);
	}
	assert_int_equal(node_table_new(rig.front, 64, &rig.nodes), 0);
	if (journal_open(rig.front->meta_fd, &rig.journal, &why))
		fail_msg("%s", why);
	assert_int_equal(ring_start(64, &rig.ring), 0);
	assert_int_equal(copy_limit_new(0, &rig.limit), 0);
	assert_int_equal(mover_start(2, 2, 0, &rig.mover), 0);
	assert_int_equal(tier_start(&(struct tier_parts){.config = &rig.config,
							 .front = rig.front,
							 .nodes = rig.nodes,
							 .journal = rig.journal,
							 .mover = rig.mover,
							 .targets = rig.targets,
							 .ntargets = 1,
							 .ring = rig.ring,
							 .limit = rig.limit},
				    &rig.tier),
			 0);
	assert_int_equal(tier_recover(rig.tier), 0);
}

void rig_down(void)
{
	tier_quiesce(rig.tier);
	tier_stop(rig.tier);
	journal_close(rig.journal);
	mover_free(rig.mover);
	copy_limit_free(rig.limit);
	target_close(rig.targets[0]);
	ring_stop(rig.ring);
	node_table_free(rig.nodes);
	front_close(rig.front);
}

void rig_make(const char *prefix)
{
	memset(&rig, 0, sizeof(rig));
	snprintf(rig.dir, sizeof(rig.dir), "%s.XXXXXX", prefix);
	assert_non_null(mkdtemp(rig.dir));
	snprintf(rig.front_path, sizeof(rig.front_path), "%s/front", rig.dir);
	snprintf(rig.target_path, sizeof(rig.target_path), "%s/hdd", rig.dir);
	assert_int_equal(mkdir(rig.front_path, 0755), 0);
	assert_int_equal(mkdir(rig.target_path, 0755), 0);
	rig.config.restore_after = 3;
	rig.config.dirty_entries = 1024;
	rig.config.dirty_bytes = 64 << 20;
}

int rig_remove(void)
{
	char cmd[96];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", rig.dir);
	return system(cmd) ? -1 : 0;
}

/* ---- doing one thing and waiting for it ------------------------------- */

void make(const char *name, size_t size)
{
	int fd = openat(rig.front->root_fd, name, O_CREAT | O_EXCL | O_RDWR,
			0640);
	char *data = malloc(size);

	assert_true(fd >= 0);
	for (size_t i = 0; i < size; i++)
		data[i] = (char)(i * 7 + (i >> 12) + (size_t)name[0]);
	assert_int_equal(pwrite(fd, data, size, 0), size);
	free(data);
	close(fd);
}

struct node *look(const char *name)
{
	struct node *node;

	assert_int_equal(node_lookup(node_root(rig.nodes), name, NULL, &node),
			 0);
	return node;
}

struct asked {
	struct tier_request req;
	sem_t sem;
};

static void on_done(struct tier_request *req)
{
	sem_post(&container_of(req, struct asked, req)->sem);
}

_Thread_local struct tier_request last;

enum tier_result ask_prio(struct node *node, enum tier_op op,
			  enum mover_prio prio)
{
	struct asked asked = {.req = {.node = node, .done = on_done}};
	struct tier_request *req = &asked.req;

	sem_init(&asked.sem, 0, 0);
	tier_submit(rig.tier, op, prio, &req, 1);
	sem_wait(&asked.sem);
	sem_destroy(&asked.sem);
	last = asked.req;
	return last.result;
}

enum tier_result ask(struct node *node, enum tier_op op)
{
	return ask_prio(node, op, MOVER_ASKED);
}

struct opened {
	struct tier_wait wait;
	sem_t sem;
	int err;
};

static void on_resume(struct tier_wait *wait, int err)
{
	struct opened *o = container_of(wait, struct opened, wait);

	o->err = err;
	sem_post(&o->sem);
}

/* Until it need not wait. */
static int try_again(int (*try)(struct node *node, const void *arg,
				struct tier_wait *wait),
		     struct node *node, const void *arg)
{
	struct opened o = {.wait.resume = on_resume};
	int ret;

	sem_init(&o.sem, 0, 0);
	while ((ret = try(node, arg, &o.wait)) == -EINPROGRESS) {
		sem_wait(&o.sem);
		if (o.err) {
			ret = o.err;
			break;
		}
	}
	sem_destroy(&o.sem);
	return ret;
}

static int try_open(struct node *node, const void *arg, struct tier_wait *wait)
{
	return tier_open(rig.tier, node, *(const int *)arg, wait);
}

int open_file(struct node *node, int flags)
{
	return try_again(try_open, node, &flags);
}

static int try_link(struct node *node, const void *arg, struct tier_wait *wait)
{
	return tier_link(rig.tier, node, node_root(rig.nodes), arg, wait);
}

int link_file(struct node *node, const char *newname)
{
	return try_again(try_link, node, newname);
}

static int try_resident(struct node *node, const void *arg,
			struct tier_wait *wait)
{
	(void)arg;
	return tier_need_resident(rig.tier, node, wait);
}

int make_resident(struct node *node)
{
	return try_again(try_resident, node, NULL);
}

int write_at(struct node *node, const void *buf, size_t len, uint64_t off)
{
	struct tier_data data;
	int ret;

	do {
		ret = tier_data_get(rig.tier, node, true, &data);
		if (ret == -EREMOTE) {
			ret = tier_write(rig.tier, node, buf, len, off);
		} else if (!ret) {
			if (pwrite(data.fd, buf, len, (off_t)off) !=
			    (ssize_t)len)
				ret = errno ? -errno : -EIO;
			tier_data_put(&data);
		}
	} while (ret == -EALREADY);
	return ret;
}

int truncate_to(struct node *node, uint64_t size)
{
	struct tier_data data;
	int ret;

	do {
		ret = tier_data_get(rig.tier, node, true, &data);
		if (ret == -EREMOTE) {
			ret = tier_truncate(rig.tier, node, size);
		} else if (!ret) {
			if (ftruncate(data.fd, (off_t)size) < 0)
				ret = -errno;
			tier_data_put(&data);
		}
	} while (ret == -EALREADY);
	return ret;
}

static int zero_resident(int fd, uint64_t off, uint64_t len, bool extend)
{
	int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct stat st;

	if (extend &&
	    !fallocate(fd, FALLOC_FL_ZERO_RANGE, (off_t)off, (off_t)len))
		return 0;
	if (extend && errno != EOPNOTSUPP) /* tmpfs */
		return -errno;
	if (fallocate(fd, punch, (off_t)off, (off_t)len) < 0 ||
	    fstat(fd, &st) < 0)
		return -errno;
	if (extend && (uint64_t)st.st_size < off + len &&
	    ftruncate(fd, (off_t)(off + len)) < 0)
		return -errno;
	return 0;
}

int zero_at(struct node *node, uint64_t off, uint64_t len, bool extend)
{
	struct tier_data data;
	int ret;

	do {
		ret = tier_data_get(rig.tier, node, true, &data);
		if (ret == -EREMOTE) {
			ret = tier_zero(rig.tier, node, off, len, extend);
		} else if (!ret) {
			ret = zero_resident(data.fd, off, len, extend);
			tier_data_put(&data);
		}
	} while (ret == -EALREADY);
	return ret;
}

int sync_file(struct node *node)
{
	struct tier_data data;
	int ret;

	do {
		ret = tier_data_get(rig.tier, node, false, &data);
		if (ret == -EREMOTE) {
			ret = tier_fsync(rig.tier, node, false);
		} else if (!ret) {
			if (fsync(data.fd) < 0)
				ret = -errno;
			tier_data_put(&data);
		}
	} while (ret == -EALREADY);
	return ret;
}

struct reading {
	struct tier_read read;
	sem_t sem;
	int64_t res;
};

static void on_read(struct tier_read *read, int64_t res)
{
	struct reading *r = container_of(read, struct reading, read);

	r->res = res;
	sem_post(&r->sem);
}

int64_t read_as(struct node *node, void *buf, size_t len, uint64_t off,
		const struct tier_who *who, bool *ret_kept_off)
{
	struct reading r = {.read = {.done = on_read,
				     .buf = buf,
				     .len = len,
				     .off = off,
				     .who = who}};

	sem_init(&r.sem, 0, 0);
	tier_read(rig.tier, node, &r.read);
	sem_wait(&r.sem);
	sem_destroy(&r.sem);
	if (ret_kept_off)
		*ret_kept_off = r.read.kept_off;
	return r.res;
}

int64_t read_at(struct node *node, void *buf, size_t len, uint64_t off)
{
	return read_as(node, buf, len, off, NULL, NULL);
}

void check_data(struct node *node, const char *name, size_t size)
{
	size_t room = (size + TARGET_ALIGN) / TARGET_ALIGN * TARGET_ALIGN;
	char *buf = aligned_alloc(TARGET_ALIGN, room);

	assert_int_equal(open_file(node, O_RDONLY), 0);
	assert_int_equal(read_at(node, buf, room, 0), size);
	for (size_t i = 0; i < size; i++)
		if (buf[i] != (char)(i * 7 + (i >> 12) + (size_t)name[0]))
			fail_msg("byte %zu of %s", i, name);
	tier_close(rig.tier, node, O_RDONLY);
	free(buf);
}

enum spill_state state_of(struct node *node)
{
	enum spill_state state;

	assert_int_equal(tier_state(rig.tier, node, &state), 0);
	return state;
}

uint64_t front_bytes(const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(rig.front->root_fd, name, &st, 0), 0);
	return (uint64_t)st.st_size;
}

static int objects;

static int count_object(void *arg, uint64_t oid, uint64_t size)
{
	(void)arg;
	(void)oid;
	(void)size;
	objects++;
	return 0;
}

/* Objects are deleted in the background, once a second. */
void expect_objects(int expected)
{
	for (int i = 0; i < 100; i++) {
		objects = 0;
		assert_int_equal(
			target_each(rig.targets[0], count_object, NULL), 0);
		if (objects == expected)
			return;
		usleep(50000);
	}
	assert_int_equal(objects, expected);
}

void assert_same_stat(const struct stat *a, const struct stat *b)
{
	assert_int_equal(a->st_ino, b->st_ino);
	assert_int_equal(a->st_size, b->st_size);
	assert_int_equal(a->st_blocks, b->st_blocks);
	assert_int_equal(a->st_mode, b->st_mode);
	assert_int_equal(a->st_nlink, b->st_nlink);
	assert_int_equal(timespec_to_ns(a->st_mtim),
			 timespec_to_ns(b->st_mtim));
	assert_int_equal(timespec_to_ns(a->st_ctim),
			 timespec_to_ns(b->st_ctim));
}
