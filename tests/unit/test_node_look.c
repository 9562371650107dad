/* SPDX-License-Identifier: MIT */

/* Which attributes a file has that is met for the first time. */

#include <sys/xattr.h>

#include "node_env.h"
#include "util.h"

static void test_ea(void **state)
{
	struct node *a, *d;
	int fd;

	make("a");
	make("plain");
	fd = openat(front->root_fd, "a", O_RDWR);
	assert_int_equal(fsetxattr(fd, front->ea_spill, "x", 1, 0), 0);
	assert_int_equal(node_from_fd(table, fd, NULL, &a), 0);
	close(fd);
	assert_true(a->flags & NODE_EA);
	assert_int_equal(mkdirat(front->root_fd, "d", 0755), 0);
	d = look("d");
	assert_false(d->flags & NODE_EA);
	node_unref(d);
	d = look("plain");
	assert_false(d->flags & NODE_EA);
	node_unref(d);
	node_unref(a);
}

static void give(const char *path, const char *name, const void *value,
		 size_t size)
{
	int fd = openat(front->root_fd, path, O_PATH);

	assert_int_equal(setxattr_fd(fd, name, value, size), 0);
	close(fd);
}

static bool has_xattrs(const char *path)
{
	struct node *node = look(path);
	bool has = node->flags & NODE_XATTRS;

	assert_int_equal(node_xattr_absent(node, "user.x"), !has);
	assert_false(node_xattr_absent(node, "security.ima"));
	node_unref(node);
	return has;
}

/* Which files may have what clients give. */
static void test_xattrs(void **state)
{
	const struct {
		uint32_t version;
		struct {
			uint16_t tag, perm;
			uint32_t id;
		} entries[3];
	} acl = {2, {{0x01, 7, -1}, {0x04, 5, -1}, {0x20, 5, -1}}};
	char name[220];
	struct node *node;

	make("plain");
	assert_false(has_xattrs("plain"));
	give("plain", "security.other", "x", 1);
	assert_false(has_xattrs("plain"));
	give("plain", front->ea_spill, "x", 1);
	assert_false(has_xattrs("plain"));
	give("plain", "user.x", "x", 1);
	assert_true(has_xattrs("plain"));
	make("aside");
	give("aside", TIERFS_EA_CAPS_TRUSTED, "x", 1);
	assert_true(has_xattrs("aside"));
	assert_int_equal(mkdirat(front->root_fd, "d", 0755), 0);
	assert_false(has_xattrs("d"));
	give("d", "system.posix_acl_default", &acl, sizeof(acl));
	assert_true(has_xattrs("d"));
	assert_int_equal(mknodat(front->root_fd, "fifo", S_IFIFO | 0600, 0), 0);
	assert_true(has_xattrs("fifo"));

	/* More names than are looked at, the spill EA's perhaps among them. */
	make("many");
	for (unsigned int i = 0; i < 2; i++) {
		snprintf(name, sizeof(name), "security.%u%0200d", i, 0);
		give("many", name, "x", 1);
	}
	assert_true(has_xattrs("many"));
	node = look("many");
	assert_true(node->flags & NODE_EA);
	node_unref(node);

	/* Given to a node that is known. */
	make("known");
	node = look("known");
	assert_true(node_xattr_absent(node, "user.x"));
	assert_true(node_xattr_absent(node, "security.capability"));
	assert_true(node_xattr_absent(node, "system.posix_acl_access"));
	node_xattr_given(node);
	assert_false(node_xattr_absent(node, "user.x"));
	node_unref(node);

	/* A front that answers otherwise than with ENODATA. */
	front->plain_xattrs = false;
	assert_true(has_xattrs("known"));
	front->plain_xattrs = true;
}

static bool lists_none(const char *path)
{
	struct node *node = look(path);
	bool none = node_xattrs_none(node);

	node_unref(node);
	return none;
}

/* Which files surely have no attribute at all. */
static void test_none(void **state)
{
	struct node *node;
	int fd;

	make("plain");
	assert_true(lists_none("plain"));
	give("plain", "security.other", "x", 1);
	assert_false(lists_none("plain"));
	make("opened");
	node = look("opened");
	fd = node_open(node, O_PATH);
	assert_true(node_xattrs_none(node));
	close(fd);
	fd = node_open(node, O_RDONLY);
	assert_false(node_xattrs_none(node));
	close(fd);
	node_unref(node);
	make("given");
	node = look("given");
	assert_true(node_xattrs_none(node));
	node_xattr_given(node);
	assert_false(node_xattrs_none(node));
	node_unref(node);
	assert_int_equal(mknodat(front->root_fd, "fifo", S_IFIFO | 0600, 0), 0);
	assert_false(lists_none("fifo"));
}

/* What is made in a directory with such attributes may have inherited them. */
static void test_xattrs_of_new(void **state)
{
	struct node *root = node_root(table), *node;
	const uint8_t flags = root->flags;
	int fd;

	for (int i = 0; i < 2; i++) {
		atomic_store(&root->flags, i ? NODE_XATTRS : 0);
		make(i ? "b" : "a");
		fd = openat(front->root_fd, i ? "b" : "a", O_RDWR);
		assert_int_equal(
			node_of_fd(table, root, i ? "b" : "a", fd, NULL, &node),
			0);
		close(fd);
		assert_false(node_xattrs_none(node));
		assert_int_equal(node->flags, i ? NODE_XATTRS : 0);
		node_unref(node);
	}
	atomic_store(&root->flags, flags);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_ea),	 T(test_xattrs), T(test_xattrs_of_new),
		T(test_none),	 TP(test_none),	 TP(test_ea),
		TP(test_xattrs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
