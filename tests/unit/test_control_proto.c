/* SPDX-License-Identifier: MIT */
/* Lines and paths of the control protocol. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "control_proto.h"

/* ---- paths -------------------------------------------------------------- */

static void round_trip(const char *path)
{
	json_t *obj = json_object(), *again;
	char *text, *back = NULL;
	json_error_t err;

	assert_int_equal(proto_set_path(obj, "path", path), 0);
	text = json_dumps(obj, JSON_COMPACT);
	assert_non_null(text);
	assert_null(strchr(text, '\n'));
	again = json_loads(text, 0, &err);
	assert_non_null(again);
	assert_int_equal(proto_get_path(again, "path", &back), 0);
	assert_string_equal(back, path);
	free(back);
	free(text);
	json_decref(again);
	json_decref(obj);
}

static void test_every_path_survives(void **state)
{
	char all[256] = "/";
	char two[8];

	round_trip("/");
	round_trip("/plain");
	round_trip("/new\nline\ttab\"quote\\back\x7f");
	round_trip("/h\xc3\xa4user/\xe2\x82\xac/\xf0\x9f\x98\x80");
	for (int i = 1; i < 255; i++)
		all[i] = i;
	all[255] = '\0';
	round_trip(all);
	for (int a = 1; a < 256; a++) {
		for (int b = 1; b < 256; b += 3) {
			snprintf(two, sizeof(two), "/%c%cx", a, b);
			round_trip(two);
		}
	}
}

static void test_lossy_text_has_hex(void **state)
{
	/* A lone continuation, overlong, a surrogate, too high, cut short. */
	static const char *const bad[] = {"\x80",	  "\xc0\xaf",
					  "\xed\xa0\x80", "\xf4\x90\x80\x80",
					  "\xe2\x82",	  "\xff"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *obj = json_object();
		bool changed = false;

		free(proto_utf8(bad[i], &changed));
		assert_true(changed);
		assert_int_equal(proto_set_path(obj, "p", bad[i]), 0);
		assert_non_null(json_object_get(obj, "p_hex"));
		assert_non_null(json_object_get(obj, "p"));
		json_decref(obj);
	}
}

static void test_plain_text_has_none(void **state)
{
	json_t *obj = json_object();

	assert_int_equal(proto_set_path(obj, "p", "/\xc3\xa4"), 0);
	assert_null(json_object_get(obj, "p_hex"));
	assert_string_equal(json_string_value(json_object_get(obj, "p")),
			    "/\xc3\xa4");
	json_decref(obj);
}

static void path_error(const char *json, int want)
{
	json_error_t err;
	json_t *value = json_loads(json, JSON_DECODE_ANY, &err);
	char *path = (char *)"untouched";

	assert_non_null(value);
	assert_int_equal(proto_get_path(value, "path", &path), want);
	assert_string_equal(path, "untouched");
	json_decref(value);
}

static void test_bad_paths(void **state)
{
	path_error("{}", -ENOENT);
	path_error("{\"path\": 5}", -EINVAL);
	path_error("7", -EINVAL);
	path_error("{\"path_hex\": \"2\"}", -EINVAL);
	path_error("{\"path_hex\": \"2g\"}", -EINVAL);
	path_error("{\"path_hex\": \"2F\"}", -EINVAL);
	path_error("{\"path_hex\": \"2f00\"}", -EINVAL);
	path_error("{\"path_hex\": [], \"path\": \"/a\"}", -EINVAL);
}

static void test_which_paths_are_valid(void **state)
{
	static const char *const good[] = {"/",	   "//",  "/a",	  "/a/b/",
					   "/...", "/.a", "/..a", "/a//b"};
	static const char *const bad[] = {"",	  "a",	    "./a",
					  "/.",	  "/..",    "/a/..",
					  "/../", "/a/./b", "/a/../b"};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(proto_path_valid(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(proto_path_valid(bad[i]));
}

/* ---- parsing --------------------------------------------------------------- */

static void parse_error(const char *line, size_t len, const char *want)
{
	char why[PROTO_WHY_LEN] = "";
	json_t *obj = NULL;

	assert_int_equal(proto_parse(line, len, &obj, why), -EINVAL);
	assert_null(obj);
	if (!strstr(why, want))
		fail_msg("'%s' does not say '%s'", why, want);
}

static void test_malformed_lines_are_named(void **state)
{
	char deep[60000];

	parse_error("", 0, "not JSON");
	parse_error("nonsense", 8, "not JSON");
	parse_error("[1]", 3, "not a JSON object");
	parse_error("{\"a\":1", 6, "column");
	parse_error("{\"a\":1} x", 9, "not JSON");
	parse_error("{\"a\":1,\"a\":2}", 13, "duplicate");
	parse_error("{\"a\":\"\\u0000\"}", 14, "not JSON");
	parse_error("{\"a\":\"\xff\"}", 9, "0xff");
	parse_error("\0\0", 2, "not JSON");
	memset(deep, '[', sizeof(deep));
	parse_error(deep, sizeof(deep), "depth");
}

static void test_a_good_line(void **state)
{
	char why[PROTO_WHY_LEN];
	json_t *obj;

	assert_int_equal(proto_parse("{\"a\": 1}", 8, &obj, why), 0);
	assert_int_equal(json_integer_value(json_object_get(obj, "a")), 1);
	json_decref(obj);
}

/* ---- lines --------------------------------------------------------------- */

struct pair {
	int fd[2];
	struct proto_lines lines;
};

static int setup(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p->fd), 0);
	assert_int_equal(proto_lines_init(&p->lines), 0);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	close(p->fd[0]);
	if (p->fd[1] >= 0)
		close(p->fd[1]);
	proto_lines_free(&p->lines);
	free(p);
	return 0;
}

static void put(struct pair *p, const char *text, size_t len)
{
	assert_int_equal(send(p->fd[1], text, len, 0), len);
}

static void want(struct pair *p, const char *text)
{
	const char *line;
	size_t len;

	assert_int_equal(proto_next(&p->lines, &line, &len), 1);
	assert_int_equal(len, strlen(text));
	assert_memory_equal(line, text, len);
}

static void test_lines_in_pieces(void **state)
{
	struct pair *p = *state;
	const char *line;
	size_t len;

	assert_int_equal(proto_fill(&p->lines, p->fd[0]), -EAGAIN);
	put(p, "one\ntw", 6);
	assert_int_equal(proto_fill(&p->lines, p->fd[0]), 6);
	want(p, "one");
	assert_int_equal(proto_next(&p->lines, &line, &len), 0);
	put(p, "o\n\nthree", 8);
	assert_int_equal(proto_fill(&p->lines, p->fd[0]), 8);
	want(p, "two");
	want(p, "");
	assert_int_equal(proto_next(&p->lines, &line, &len), 0);
	close(p->fd[1]);
	p->fd[1] = -1;
	assert_int_equal(proto_fill(&p->lines, p->fd[0]), 0);
	assert_int_equal(proto_next(&p->lines, &line, &len), 0);
}

/* The longest line is taken, one byte more is refused. */
static void test_the_longest_line(void **state)
{
	struct pair *p = *state;
	char *text = malloc(CONTROL_LINE_MAX);
	const char *line;
	size_t len;

	memset(text, 'x', CONTROL_LINE_MAX);
	text[CONTROL_LINE_MAX - 1] = '\n';
	put(p, text, CONTROL_LINE_MAX);
	while (proto_next(&p->lines, &line, &len) == 0)
		assert_true(proto_fill(&p->lines, p->fd[0]) > 0);
	assert_int_equal(len, CONTROL_LINE_MAX - 1);
	text[CONTROL_LINE_MAX - 1] = 'x';
	put(p, text, CONTROL_LINE_MAX);
	while (proto_next(&p->lines, &line, &len) == 0)
		assert_true(proto_fill(&p->lines, p->fd[0]) > 0);
	assert_int_equal(proto_next(&p->lines, &line, &len), -EMSGSIZE);
	assert_int_equal(proto_fill(&p->lines, p->fd[0]), -ENOBUFS);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_path_survives),
		cmocka_unit_test(test_lossy_text_has_hex),
		cmocka_unit_test(test_plain_text_has_none),
		cmocka_unit_test(test_bad_paths),
		cmocka_unit_test(test_which_paths_are_valid),
		cmocka_unit_test(test_malformed_lines_are_named),
		cmocka_unit_test(test_a_good_line),
		cmocka_unit_test_setup_teardown(test_lines_in_pieces, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_the_longest_line, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
