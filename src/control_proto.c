/* SPDX-License-Identifier: MIT */
/*
 * Lines are bounded, so that a peer cannot make the daemon take memory. File
 * names are bytes and JSON is Unicode: what is not UTF-8 goes in hex beside a
 * text for people. Escapes inside the text were rejected: every reader would
 * have to know them to get a common name with a '%' or a '\' right.
 */
#include "control_proto.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"
#include "cleanup.h"

int proto_lines_init(struct proto_lines *lines)
{
	*lines = (struct proto_lines){.buf = malloc(CONTROL_LINE_MAX)};
	return lines->buf ? 0 : -ENOMEM;
}

void proto_lines_free(struct proto_lines *lines)
{
	free(lines->buf);
	lines->buf = NULL;
}

ssize_t proto_fill(struct proto_lines *lines, int fd)
{
	ssize_t n;

	if (lines->start > 0) {
		memmove(lines->buf, lines->buf + lines->start,
			lines->end - lines->start);
		lines->end -= lines->start;
		lines->start = 0;
	}
	if (lines->end == CONTROL_LINE_MAX)
		return -ENOBUFS;
	do {
		n = recv(fd, lines->buf + lines->end,
			 CONTROL_LINE_MAX - lines->end, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	lines->end += n;
	return n;
}

int proto_next(struct proto_lines *lines, const char **ret_line,
	       size_t *ret_len)
{
	char *from = lines->buf + lines->start;
	size_t have = lines->end - lines->start;
	char *nl = memchr(from + lines->seen, '\n', have - lines->seen);

	if (!nl) {
		lines->seen = have;
		return have == CONTROL_LINE_MAX ? -EMSGSIZE : 0;
	}
	*ret_line = from;
	*ret_len = nl - from;
	lines->start += nl + 1 - from;
	lines->seen = 0;
	return 1;
}

int proto_parse(const char *line, size_t len, json_t **ret,
		char why[PROTO_WHY_LEN])
{
	json_error_t err;
	json_t *obj;

	obj = json_loadb(line, len, JSON_REJECT_DUPLICATES, &err);
	if (!obj) {
		snprintf(why, PROTO_WHY_LEN, "not JSON, column %d: %.180s",
			 err.column, err.text);
		return -EINVAL;
	}
	if (!json_is_object(obj)) {
		json_decref(obj);
		snprintf(why, PROTO_WHY_LEN, "not a JSON object");
		return -EINVAL;
	}
	*ret = obj;
	return 0;
}

/* The length of the UTF-8 sequence at s (NUL-terminated), 0: none. */
static size_t utf8_len(const unsigned char *s)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	uint32_t cp;
	size_t n;

	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] < 0xe0) {
		n = 2;
		cp = s[0] & 0x1f;
	} else if ((s[0] & 0xf0) == 0xe0) {
		n = 3;
		cp = s[0] & 0x0f;
	} else if (s[0] >= 0xf0 && s[0] < 0xf5) {
		n = 4;
		cp = s[0] & 0x07;
	} else {
		return 0;
	}
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		cp = cp << 6 | (s[i] & 0x3f);
	}
	if (cp < least[n] || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
		return 0;
	return n;
}

char *proto_utf8(const char *text, bool *ret_changed)
{
	const unsigned char *s = (const unsigned char *)text;
	char *ret = malloc(strlen(text) * 3 + 1);
	bool changed = false;
	char *to = ret;

	if (!ret)
		return NULL;
	while (*s) {
		size_t n = utf8_len(s);

		if (n > 0) {
			memcpy(to, s, n);
			to += n;
			s += n;
		} else {
			memcpy(to, "\xef\xbf\xbd", 3);
			to += 3;
			s++;
			changed = true;
		}
	}
	*to = '\0';
	if (ret_changed)
		*ret_changed = changed;
	return ret;
}

static char *hex_encode(const char *bytes)
{
	size_t len = strlen(bytes);
	char *ret = malloc(len * 2 + 1);

	if (!ret)
		return NULL;
	for (size_t i = 0; i < len; i++)
		sprintf(ret + i * 2, "%02x", (unsigned char)bytes[i]);
	ret[len * 2] = '\0';
	return ret;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

static int hex_decode(const char *hex, char **ret)
{
	size_t len = strlen(hex);
	_cleanup_free_ char *out = malloc(len / 2 + 1);

	if (!out)
		return -ENOMEM;
	if (len % 2)
		return -EINVAL;
	for (size_t i = 0; i < len; i += 2) {
		int hi = hex_digit(hex[i]), lo = hex_digit(hex[i + 1]);

		if (hi < 0 || lo < 0 || (hi | lo) == 0)
			return -EINVAL;
		out[i / 2] = hi << 4 | lo;
	}
	out[len / 2] = '\0';
	*ret = steal_ptr(&out);
	return 0;
}

static const char *hex_key(const char *key, char buf[32])
{
	snprintf(buf, 32, "%s_hex", key);
	return buf;
}

int proto_set_path(json_t *obj, const char *key, const char *path)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ char *hex = NULL;
	bool changed = false;
	char name[32];

	text = proto_utf8(path, &changed);
	if (!text || json_object_set_new(obj, key, json_string(text)))
		return -ENOMEM;
	if (!changed)
		return 0;
	hex = hex_encode(path);
	if (!hex ||
	    json_object_set_new(obj, hex_key(key, name), json_string(hex)))
		return -ENOMEM;
	return 0;
}

int proto_get_path(const json_t *obj, const char *key, char **ret)
{
	const json_t *value = obj;
	char name[32];
	char *copy;

	if (json_is_object(obj)) {
		value = json_object_get(obj, hex_key(key, name));
		if (value) {
			if (!json_is_string(value))
				return -EINVAL;
			return hex_decode(json_string_value(value), ret);
		}
		value = json_object_get(obj, key);
	}
	if (!value)
		return -ENOENT;
	if (!json_is_string(value))
		return -EINVAL;
	copy = strdup(json_string_value(value));
	if (!copy)
		return -ENOMEM;
	*ret = copy;
	return 0;
}

bool proto_path_valid(const char *path)
{
	if (path[0] != '/')
		return false;
	while (*path) {
		size_t len;

		path += strspn(path, "/");
		len = strcspn(path, "/");
		if ((len == 1 && path[0] == '.') ||
		    (len == 2 && path[0] == '.' && path[1] == '.'))
			return false;
		path += len;
	}
	return true;
}

json_t *proto_finding(const struct check_finding *finding)
{
	_cleanup_free_ char *object = proto_utf8(finding->object, NULL);
	_cleanup_free_ char *detail = proto_utf8(finding->detail, NULL);
	json_t *data = object && detail ? json_object() : NULL;

	if (!data ||
	    json_object_set_new(data, "kind",
				json_string(check_kind_name(finding->kind))) ||
	    proto_set_path(data, "path", finding->path) ||
	    json_object_set_new(data, "target", json_string(finding->target)) ||
	    json_object_set_new(data, "object", json_string(object)) ||
	    json_object_set_new(data, "detail", json_string(detail)) ||
	    json_object_set_new(data, "repaired",
				json_boolean(finding->repaired))) {
		json_decref(data);
		return NULL;
	}
	return data;
}
