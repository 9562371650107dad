/* SPDX-License-Identifier: MIT */
#include "invariants.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rig.h"
#include "tier_impl.h"

#define MAX 4096

struct named {
	uint64_t oid, size;
	bool there;
	char name[16];
	enum spill_state state;
};

struct found {
	struct named copies[MAX];
	size_t ncopies;
	uint64_t shown[MAX]; /* numbers that files show */
	size_t nshown;
	uint64_t raw[MAX]; /* numbers that files have: links count once */
	size_t nraw;
	uint64_t held[MAX]; /* shown, but of another inode */
	size_t nheld;
};

static DIR *open_dir(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir;

	assert_true(fd >= 0);
	dir = fdopendir(fd);
	assert_non_null(dir);
	return dir;
}

static int count_entries(int dirfd)
{
	DIR *dir = open_dir(dirfd);
	struct dirent *entry;
	int n = 0;

	while ((entry = readdir(dir)))
		n += entry->d_name[0] != '.';
	closedir(dir);
	return n;
}

/* Files that were written while released. */
static int count_unsettled(void)
{
	DIR *dir = open_dir(rig.front->root_fd);
	struct dirent *entry;
	struct spill_ea ea;
	int n = 0;

	while ((entry = readdir(dir))) {
		struct node *node;
		struct stat st;

		if (entry->d_name[0] == '.' ||
		    front_ea_get_at(rig.front, rig.front->root_fd,
				    entry->d_name, &ea) ||
		    !(ea.flags & TIERFS_EA_F_LOGGING))
			continue;
		n++;
		/* After a crash it is looking at them that settles them. */
		if (node_lookup(node_root(rig.nodes), entry->d_name, NULL,
				&node))
			continue;
		tier_getattr(rig.tier, node, &st, NULL);
		node_unref(node);
	}
	closedir(dir);
	return n;
}

void wait_settled(void)
{
	struct intent *intents = NULL;
	int staging = 0, orphans = 0, unsettled = 0;
	size_t n = 0;

	for (int i = 0; i < 300; i++) {
		tier_stale_kick(rig.tier);
		mover_drain(rig.mover);
		intents = NULL;
		assert_int_equal(journal_intents(rig.journal, &intents, &n), 0);
		staging = count_entries(rig.front->staging_fd);
		orphans = count_entries(rig.front->orphans_fd);
		unsettled = count_unsettled();
		if (!n && !staging && !orphans && !unsettled)
			return;
		if (i < 299)
			free(intents);
		usleep(i < 5 ? 1000 : 20000);
	}
	fail_msg("left: %zu intents (first: kind %d, id %" PRIu64
		 "), %d in staging, %d orphans, %d logs not settled",
		 n, n ? (int)intents[0].kind : 0, n ? intents[0].id : 0,
		 staging, orphans, unsettled);
}

static bool seen(uint64_t *list, size_t n, uint64_t number)
{
	for (size_t i = 0; i < n; i++)
		if (list[i] == number)
			return true;
	return false;
}

static void add_copy(struct found *f, const struct spill_ea *ea,
		     const char *name)
{
	assert_int_equal(ea->ncopies, 1);
	assert_int_equal(ea->copies[0].target, 0);
	assert_true(f->ncopies < MAX);
	for (size_t i = 0; i < f->ncopies; i++)
		if (f->copies[i].oid == ea->copies[0].oid)
			fail_msg("%s: its object has another file", name);
	f->copies[f->ncopies] = (struct named){
		.oid = ea->copies[0].oid, .size = ea->size, .state = ea->state};
	snprintf(f->copies[f->ncopies++].name, sizeof(f->copies[0].name), "%s",
		 name);
}

/* The log is whole, and says what the EA says. ea->size becomes the object's. */
static void look_at_log(const char *name, struct spill_ea *ea)
{
	struct delta_base base = {.oid = ea->copies[0].oid,
				  .target = ea->copies[0].target,
				  .size = ea->size};
	struct delta *delta;
	int fd, ret;

	if (ea->flags & TIERFS_EA_F_LOGGING)
		fail_msg("%s: its log is not settled", name);
	fd = openat(rig.front->root_fd, name, O_RDONLY | O_NOATIME);
	assert_true(fd >= 0);
	ret = delta_load(fd, &base, true, &delta);
	close(fd);
	if (ret)
		fail_msg("%s: its log: %s", name, strerror(-ret));
	assert_int_equal(delta_size(delta), ea->size);
	ea->size = delta_base(delta)->size;
	delta_free(delta);
}

static void look_at(struct found *f, const char *name)
{
	struct spill_ea ea = {0};
	struct stat st;
	uint64_t ino;
	int ret;

	assert_int_equal(
		fstatat(rig.front->root_fd, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	if (!S_ISREG(st.st_mode) || seen(f->raw, f->nraw, st.st_ino))
		return;
	assert_true(f->nraw < MAX);
	f->raw[f->nraw++] = st.st_ino;
	ret = front_ea_get_at(rig.front, rig.front->root_fd, name, &ea);
	if (ret && ret != -ENODATA)
		fail_msg("%s: EA: %s", name, strerror(-ret));
	ino = ea.flags & TIERFS_EA_F_INO ? ea.ino : st.st_ino;
	if (seen(f->shown, f->nshown, ino))
		fail_msg("%s: another file shows its number", name);
	f->shown[f->nshown++] = ino;
	if (ino != st.st_ino)
		f->held[f->nheld++] = ino;
	if (ea.flags & TIERFS_EA_F_WRITING)
		fail_msg("%s: its copy is suspect", name);
	if (ea.state == SPILL_MIGRATING)
		fail_msg("%s: is being migrated", name);
	if (ea.state == SPILL_NONE)
		return;
	if (ea.state == SPILL_DIRTY)
		look_at_log(name, &ea);
	else if ((uint64_t)st.st_size !=
		 (ea.state == SPILL_RELEASED ? 0 : ea.size))
		fail_msg("%s is %s, with %jd bytes on the front, of %" PRIu64,
			 name, spill_state_name(ea.state), (intmax_t)st.st_size,
			 ea.size);
	add_copy(f, &ea, name);
}

static int look_at_object(void *arg, uint64_t oid, uint64_t size)
{
	struct found *f = arg;

	for (size_t i = 0; i < f->ncopies; i++) {
		if (f->copies[i].oid != oid)
			continue;
		f->copies[i].there = true;
		assert_int_equal(f->copies[i].size, size);
		return 0;
	}
	fail_msg("object %016" PRIx64 " is leaked", oid);
	return 0;
}

static void check_holders(struct found *f)
{
	DIR *dir = open_dir(rig.front->inodes_fd);
	struct dirent *entry;
	struct spill_ea ea;
	struct stat st;
	size_t n = 0;

	while ((entry = readdir(dir))) {
		uint64_t ino = strtoull(entry->d_name, NULL, 10);

		if (entry->d_name[0] == '.')
			continue;
		if (!seen(f->held, f->nheld, ino))
			fail_msg("inodes/%s: no file shows it", entry->d_name);
		assert_int_equal(entry->d_ino, ino);
		assert_int_equal(fstatat(rig.front->inodes_fd, entry->d_name,
					 &st, AT_SYMLINK_NOFOLLOW),
				 0);
		assert_int_equal(st.st_size, 0);
		assert_int_equal(front_ea_get_at(rig.front,
						 rig.front->inodes_fd,
						 entry->d_name, &ea),
				 -ENODATA);
		n++;
	}
	closedir(dir);
	assert_int_equal(n, f->nheld);
}

void check_invariants(void)
{
	struct found *f = calloc(1, sizeof(*f));
	DIR *dir = open_dir(rig.front->root_fd);
	struct dirent *entry;

	assert_non_null(f);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			look_at(f, entry->d_name);
	closedir(dir);
	assert_int_equal(target_each(rig.targets[0], look_at_object, f), 0);
	for (size_t i = 0; i < f->ncopies; i++)
		if (!f->copies[i].there)
			fail_msg("%s (%s): object %016" PRIx64 " is missing",
				 f->copies[i].name,
				 spill_state_name(f->copies[i].state),
				 f->copies[i].oid);
	check_holders(f);
	free(f);
}
