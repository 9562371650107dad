/* SPDX-License-Identifier: MIT */

/* The node table on a directory of its own, by handles and without. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "node_env.h"
#include "util.h"

/* What is in the file behind a node. */
static void assert_contents(struct node *node, const char *text)
{
	char buf[64] = "";
	int fd = node_open(node, O_RDONLY);

	assert_true(fd >= 0);
	assert_true(read(fd, buf, sizeof(buf) - 1) >= 0);
	assert_string_equal(buf, text);
	close(fd);
}

static void assert_path(struct node *node, const char *path)
{
	char buf[300];

	assert_string_equal(node_path(node, buf, sizeof(buf)), path);
}

static bool same_handle(struct node *node, const struct front_handle *handle)
{
	struct front_handle now = node_handle(node);

	return front_handle_equal(&now, handle);
}

static void test_identity(void **state)
{
	int root = front->root_fd;
	struct node *a, *b, *d, *same = NULL;
	struct stat st;

	make("a");
	a = look("a");
	assert_ptr_equal(look("a"), a);
	node_unref(a);
	assert_int_equal(a->type, S_IFREG);
	assert_path(a, "/a");

	assert_int_equal(mkdirat(root, "d", 0755), 0);
	d = look("d");
	assert_int_equal(linkat(root, "a", root, "d/link", 0), 0);
	assert_int_equal(node_lookup(d, "link", &st, &same), 0);
	assert_ptr_equal(same, a);
	assert_int_equal(st.st_nlink, 2);
	assert_path(a, "/d/link");
	node_unref(same);

	assert_int_equal(renameat(root, "d/link", root, "moved"), 0);
	same = look("moved");
	assert_ptr_equal(same, a);
	assert_path(a, "/moved");
	node_unref(same);
	assert_int_equal(node_lookup(d, "link", NULL, &same), -ENOENT);

	assert_int_equal(renameat(root, "d", root, "e"), 0);
	pthread_mutex_lock(&d->lock);
	node_renamed(d, node_root(table), "e");
	pthread_mutex_unlock(&d->lock);
	assert_path(d, "/e");
	make("e/b");
	assert_int_equal(node_walk(table, "/e//./b", &b), 0);
	assert_path(b, "/e/b");
	assert_path(node_root(table), "/");
	assert_int_equal(node_count(table), 4);
	node_unref(b);
	node_unref(d);
	node_unref(a);
	assert_int_equal(node_count(table), 1);
}

/* Names that have room in the node, and others. */
static void test_names(void **state)
{
	static const size_t lengths[] = {1, 255, 7, 8, 9, 254, 40, 1, 16, 17};
	char path[300] = "/", *name = path + 1;
	struct front_handle handle;
	struct node *a;

	for (size_t first = 0; first < ARRAY_SIZE(lengths); first++) {
		memset(name, 'a', lengths[first]);
		name[lengths[first]] = '\0';
		make(name);
		a = look(name);
		handle = node_handle(a);
		assert_path(a, path);
		for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
			memset(name, 'b' + (int)i, lengths[i]);
			name[lengths[i]] = '\0';
			pthread_mutex_lock(&a->lock);
			node_renamed(a, node_root(table), name);
			pthread_mutex_unlock(&a->lock);
			assert_path(a, path);
			assert_true(same_handle(a, &handle));
		}
		pthread_mutex_lock(&a->lock);
		node_unlinked(a);
		assert_null(node_name(a));
		pthread_mutex_unlock(&a->lock);
		assert_path(a, "(unlinked)");
		assert_true(same_handle(a, &handle));
		node_unref(a);
		memset(name, 'a', lengths[first]);
		name[lengths[first]] = '\0';
		assert_int_equal(unlinkat(front->root_fd, name, 0), 0);
	}
}

static void test_life(void **state)
{
	struct front_handle handle;
	struct node *a, *d, *b = NULL, *found;

	make("a");
	a = look("a");
	handle = node_handle(a);
	node_kept(a);
	node_kept(a);
	node_unref(a);
	found = node_find(table, &handle);
	assert_ptr_equal(found, a);
	node_unref(found);
	node_forget(a, 1);
	assert_int_equal(node_count(table), 2);
	node_forget(a, 1);
	assert_int_equal(node_count(table), 1);
	assert_null(node_find(table, &handle));

	/* A child keeps its parents. */
	assert_int_equal(mkdirat(front->root_fd, "d", 0755), 0);
	make("d/b");
	d = look("d");
	assert_int_equal(node_lookup(d, "b", NULL, &b), 0);
	node_unref(d);
	assert_int_equal(node_count(table), 3);
	assert_path(b, "/d/b");
	pthread_mutex_lock(&b->lock);
	node_unlinked(b);
	pthread_mutex_unlock(&b->lock);
	assert_path(b, "(unlinked)");
	assert_true(b->flags & NODE_UNLINKED);
	assert_int_equal(node_count(table), 2);
	node_unref(b);
	assert_int_equal(node_count(table), 1);
}

/* An unlinked file stays reachable by the pin alone. */
static void test_pin(void **state)
{
	struct node_fd nfd = NODE_FD_NONE;
	struct node *a;
	struct stat st;

	make("a");
	a = look("a");
	node_pin(a, openat(front->root_fd, "a", O_PATH | O_CLOEXEC));
	assert_int_equal(unlinkat(front->root_fd, "a", 0), 0);
	sync();
	assert_contents(a, "a");
	assert_int_equal(node_fd_get(a, &nfd), 0);
	assert_int_equal(fstat(nfd.fd, &st), 0);
	assert_int_equal(st.st_nlink, 0);
	node_fd_put(&nfd);
	node_unref(a);
}

static void swap(struct node *node, const char *from, const char *name)
{
	struct front_handle handle;
	int old;

	node_dir_lock(node_root(table));
	pthread_mutex_lock(&node->lock);
	old = node_open(node, O_PATH); /* alive until the key is new */
	assert_true(old >= 0);
	assert_int_equal(renameat(front->root_fd, from, front->root_fd, name),
			 0);
	assert_int_equal(front_handle_at(front, front->root_fd, name, &handle),
			 0);
	assert_int_equal(node_swap(node, &handle), 0);
	close(old);
	pthread_mutex_unlock(&node->lock);
	node_dir_unlock(node_root(table));
}

static void test_swap(void **state)
{
	struct node_fd before = NODE_FD_NONE, after = NODE_FD_NONE;
	struct front_handle old, other;
	struct stat st1, st2;
	struct node *a, *b;

	make("a");
	make("new");
	make("newer");
	a = look("a");
	old = node_handle(a);
	assert_int_equal(node_fd_get(a, &before), 0);
	fstat(before.fd, &st1);
	swap(a, "new", "a");
	assert_contents(a, "new");
	assert_null(node_find(table, &old));
	b = look("a");
	assert_ptr_equal(b, a);
	node_unref(b);
	assert_int_equal(node_fd_get(a, &after), 0);
	fstat(after.fd, &st2);
	assert_int_not_equal(st1.st_ino, st2.st_ino);
	/* A borrowed descriptor is good until it is put, whichever it is. */
	assert_int_equal(fstat(before.fd, &st2), 0);
	node_fd_put(&before);
	node_fd_put(&after);
	swap(a, "newer", "a");
	assert_contents(a, "newer");
	assert_int_equal(node_count(table), 2);

	/* Somebody else's handle. */
	make("b");
	b = look("b");
	other = node_handle(b);
	pthread_mutex_lock(&a->lock);
	if (front->by_handle)
		assert_int_equal(node_swap(a, &other), -EEXIST);
	else
		assert_true(node_swap(a, &other) < 0);
	pthread_mutex_unlock(&a->lock);
	assert_contents(a, "newer");
	node_unref(b);
	node_unref(a);
}

#define MANY 3000

static unsigned int open_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			n++;
	return n;
}

static void test_many(void **state)
{
	static struct node *nodes[MANY];
	struct node_fd fds[2 * FD_MAX];
	unsigned int before = open_fds();
	struct stat st;
	char name[16];

	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		make(name);
		nodes[i] = look(name);
	}
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < MANY; i++) {
			struct node_fd nfd;

			snprintf(name, sizeof(name), "f%d", i);
			assert_int_equal(node_fd_get(nodes[i], &nfd), 0);
			assert_int_equal(fstat(nfd.fd, &st), 0);
			assert_int_equal(st.st_size, strlen(name));
			node_fd_put(&nfd);
		}
	}
	assert_true(open_fds() - before <= FD_MAX);
	/* More at once than there is room for. */
	for (int i = 0; i < 2 * FD_MAX; i++)
		assert_int_equal(node_fd_get(nodes[i], &fds[i]), 0);
	for (int i = 0; i < 2 * FD_MAX; i++)
		node_fd_put(&fds[i]);
	assert_true(open_fds() - before <= FD_MAX);
	for (int i = 0; i < MANY; i++)
		node_unref(nodes[i]);
	assert_int_equal(node_count(table), 1);
	assert_int_equal(open_fds(), before);
}

static void test_walk(void **state)
{
	struct node *node = NULL;
	char name[300];

	make("a");
	assert_int_equal(symlinkat("a", front->root_fd, "l"), 0);
	assert_int_equal(mkdirat(front->root_fd, "d", 0700), 0);
	make("d/b");
	assert_int_equal(node_walk(table, "/", &node), 0);
	assert_ptr_equal(node, node_root(table));
	node_unref(node);
	node = NULL;
	assert_int_equal(node_walk(table, "/a/x", &node), -ENOTDIR);
	assert_int_equal(node_walk(table, "/none", &node), -ENOENT);
	assert_int_equal(node_walk(table, "/.tierfs/lock", &node), -ENOENT);
	assert_int_equal(node_walk(table, "/l/x", &node), -ENOTDIR);
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(node_walk(table, name, &node), -ENAMETOOLONG);
	assert_null(node);
	assert_int_equal(node_walk(table, "/l", &node), 0);
	assert_int_equal(node->type, S_IFLNK);
	node_unref(node);
}

/* ---- all at once ------------------------------------------------------- */

#define STRESS_FILES  16
#define STRESS_ROUNDS 400

static void *stress(void *arg)
{
	unsigned int seed = (uintptr_t)arg;

	for (int i = 0; i < STRESS_ROUNDS; i++) {
		struct node_fd nfd = NODE_FD_NONE;
		struct node *node, *again;
		struct stat st;
		char name[16], path[64];

		snprintf(name, sizeof(name), "s%d",
			 rand_r(&seed) % STRESS_FILES);
		node = look(name);
		node_kept(node);
		assert_int_equal(node_fd_get(node, &nfd), 0);
		assert_int_equal(fstat(nfd.fd, &st), 0);
		if (rand_r(&seed) % 4 == 0) {
			char from[32];

			snprintf(from, sizeof(from), "n%lu.%d",
				 (unsigned long)(uintptr_t)arg, i);
			make(from);
			swap(node, from, name);
		}
		node_path(node, path, sizeof(path));
		assert_string_equal(path + 1, name);
		again = look(name);
		assert_ptr_equal(again, node);
		node_unref(again);
		node_fd_put(&nfd);
		node_forget(node, 1);
		node_unref(node);
	}
	return NULL;
}

static void test_stress(void **state)
{
	pthread_t threads[6];
	char name[16];

	for (int i = 0; i < STRESS_FILES; i++) {
		snprintf(name, sizeof(name), "s%d", i);
		make(name);
	}
	for (uintptr_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, stress,
						(void *)(i + 1)),
				 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(node_count(table), 1);
}

/* ---- what is kept of closed files ------------------------------------------ */

#define KEPT 3

static int given_back[16], ngiven;

static void give_back(void *arg, int id)
{
	assert_ptr_equal(arg, &ngiven);
	given_back[ngiven++] = id;
}

static bool keep(struct node *node, int id)
{
	struct node_kept kept = {.id = id, .uid = 1000, .gid = 100};

	return node_keep(node, &kept);
}

static void assert_given_back(int id)
{
	assert_int_equal(ngiven, id ? 1 : 0);
	if (id)
		assert_int_equal(given_back[0], id);
	ngiven = 0;
}

static void test_keep(void **state)
{
	struct node *n[KEPT + 2];
	char name[2] = "a";

	ngiven = 0;
	for (int i = 0; i < KEPT + 2; i++, name[0]++) {
		make(name);
		n[i] = look(name);
	}
	assert_false(keep(n[0], 9)); /* not begun */
	assert_int_equal(node_keep_start(table, KEPT, give_back, &ngiven), 0);
	assert_int_equal(node_keep_take(n[0], 1000, 100), 0);
	for (int i = 0; i < KEPT; i++)
		assert_true(keep(n[i], i + 1));
	assert_int_equal(node_keep_take(n[0], 1000, 100), 1);
	assert_int_equal(node_keep_take(n[0], 1000, 100), 0);
	keep(n[0], 1);
	assert_given_back(0);
	keep(n[3], 4); /* in the place of the one unused for longest */
	assert_given_back(2);
	assert_int_equal(node_keep_take(n[1], 1000, 100), 0);
	/* Not for others. */
	assert_int_equal(node_keep_take(n[2], 0, 100), 0);
	assert_given_back(3);
	keep(n[2], 3);
	assert_int_equal(node_keep_take(n[2], 1000, 0), 0);
	assert_given_back(3);
	keep(n[0], 5); /* another one */
	assert_given_back(1);
	node_keep_drop(n[0]);
	assert_given_back(5);
	node_keep_drop(n[0]);
	assert_given_back(0);
	node_unref(n[3]);
	assert_given_back(4);
	make("new");
	keep(n[1], 6);
	swap(n[1], "new", "b");
	assert_given_back(6);
	keep(n[4], 7);
	node_keep_stop(table);
	assert_given_back(7);
	assert_false(keep(n[4], 8));
	for (int i = 0; i < KEPT + 2; i++)
		if (i != 3)
			node_unref(n[i]);
	assert_given_back(0);
}

static _Atomic(int) giving; /* 1: begun, 2: done */

static void give_back_slowly(void *arg, int id)
{
	atomic_store(&giving, 1);
	usleep(50000);
	atomic_store(&giving, 2);
}

static void *drop(void *node)
{
	node_keep_drop(node);
	return NULL;
}

/* Nothing is given back once it has stopped, by nobody. */
static void test_keep_stop(void **state)
{
	pthread_t thread;
	struct node *n;

	make("a");
	n = look("a");
	assert_int_equal(node_keep_start(table, KEPT, give_back_slowly, NULL),
			 0);
	assert_true(keep(n, 1));
	assert_int_equal(pthread_create(&thread, NULL, drop, n), 0);
	while (!atomic_load(&giving))
		usleep(100);
	node_keep_stop(table);
	assert_int_equal(atomic_load(&giving), 2);
	pthread_join(thread, NULL);
	node_unref(n);
}

static void test_size(void **state)
{
	/* With a handle of ext4's and a name of 28, in 176 bytes of malloc's. */
	assert_true(offsetof(struct node, first_key.bytes) + 8 + 29 <= 168);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_identity), TP(test_identity),
		T(test_names),	  T(test_life),
		TP(test_life),	  T(test_pin),
		T(test_swap),	  TP(test_swap),
		T(test_keep),	  T(test_keep_stop),
		T(test_many),	  T(test_walk),
		TP(test_walk),	  T(test_stress),
		TP(test_stress),  cmocka_unit_test(test_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
