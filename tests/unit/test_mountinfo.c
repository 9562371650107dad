/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "mountinfo.h"
#include "util.h"

static void test_line(void **state)
{
	char line[] = "36 35 98:0 /mnt1 /m\\040n\\134t2 rw,noatime master:1 "
		      "shared:7 - ext3 /dev/r\\011oot rw,errors=continue\n";
	struct mount m;

	assert_true(mount_parse(line, &m));
	assert_ptr_equal(m.line, line);
	assert_int_equal(m.id, 36);
	assert_string_equal(m.device, "98:0");
	assert_string_equal(m.root, "/mnt1");
	assert_string_equal(m.point, "/m n\\t2");
	assert_string_equal(m.options, "rw,noatime");
	assert_string_equal(m.type, "ext3");
	assert_string_equal(m.source, "/dev/r\toot");
	assert_string_equal(m.super, "rw,errors=continue");
}

/* No tags; a source that is empty, or looks like the mark; a backslash that
 * escapes nothing. */
static void test_odd_line(void **state)
{
	char none[] = "1 1 0:1 / /a\\9 ro - tmpfs  rw";
	char mark[] = "1 1 0:1 / /a ro - tmpfs - rw";
	struct mount m;

	assert_true(mount_parse(none, &m));
	assert_string_equal(m.point, "/a\\9");
	assert_string_equal(m.source, "");
	assert_string_equal(m.super, "rw");
	assert_true(mount_parse(mark, &m));
	assert_string_equal(m.source, "-");
}

static void test_not_a_line(void **state)
{
	static const char *const lines[] = {
		"",
		"\n",
		"1 1 0:1 / /a",
		"1 1 0:1 / /a ro",
		"1 1 0:1 / /a ro shared:1 tmpfs none rw",
		"1 1 0:1 / /a ro - tmpfs none",
	};
	struct mount m = {.id = 5};

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		_cleanup_free_ char *line = strdup(lines[i]);

		assert_false(mount_parse(line, &m));
		assert_int_equal(m.id, 5);
	}
}

static void test_read(void **state)
{
	_cleanup_(mounts_free) struct mounts all = {.mounts = NULL};
	const struct mount *proc = NULL;
	char device[32];
	struct statx stx;

	assert_int_equal(mounts_read(&all), 0);
	for (size_t i = 0; i < all.n; i++)
		if (!strcmp(all.mounts[i].point, "/proc"))
			proc = &all.mounts[i];
	assert_non_null(proc);
	assert_string_equal(proc->type, "proc");
	assert_int_equal(statx(AT_FDCWD, "/proc", 0, STATX_MNT_ID, &stx), 0);
	assert_int_equal(proc->id, stx.stx_mnt_id);
	snprintf(device, sizeof(device), "%u:%u", stx.stx_dev_major,
		 stx.stx_dev_minor);
	assert_string_equal(proc->device, device);
	mounts_free(&all);
	assert_int_equal(all.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_line),
		cmocka_unit_test(test_odd_line),
		cmocka_unit_test(test_not_a_line),
		cmocka_unit_test(test_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
