/* SPDX-License-Identifier: MIT */
#ifndef TESTS_NODE_ENV_H
#define TESTS_NODE_ENV_H

/* A node table on a directory of its own, by handles, or with descriptors where a
 * test's state is not NULL (TP()). */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "node.h"

#define FD_MAX 8

static struct front *front;
static struct node_table *table;
static char dir[64];

static int setup(void **state)
{
	char *why = NULL;

	snprintf(dir, sizeof(dir), "/tmp/test_node.XXXXXX");
	assert_non_null(mkdtemp(dir));
	if (front_open(dir, "test", &front, &why))
		fail_msg("%s", why);
	if (*state)
		front->by_handle = false;
	assert_int_equal(node_table_new(front, FD_MAX, &table), 0);
	return 0;
}

static int teardown(void **state)
{
	char cmd[96];

	node_table_free(table);
	front_close(front);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd) ? -1 : 0;
}

static void make(const char *name)
{
	int fd = openat(front->root_fd, name, O_CREAT | O_EXCL | O_RDWR, 0644);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, name, strlen(name), 0), strlen(name));
	close(fd);
}

static struct node *look(const char *name)
{
	struct node *node = NULL;

	assert_int_equal(node_lookup(node_root(table), name, NULL, &node), 0);
	return node;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TP(name)                                                               \
	{                                                                      \
#name " pinned", name, setup, teardown, (void *)1              \
	}

#endif
