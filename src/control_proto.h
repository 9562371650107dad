/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CONTROL_PROTO_H
#define TIERFS_CONTROL_PROTO_H

/*
 * The control protocol's lines and paths (include/tierfs/control.h), for both
 * sides. Pure but for proto_fill(); no locks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <jansson.h>

#include "tierfs/control.h"

/* Room for a message about a malformed line. */
#define PROTO_WHY_LEN 256

/* Lines from a socket. buf has room for the longest. */
struct proto_lines {
	char *buf;
	size_t start, end; /* what is not yet given out */
	size_t seen;	   /* of it, known to hold no newline */
};

int proto_lines_init(struct proto_lines *lines);
void proto_lines_free(struct proto_lines *lines);
/* Receives what is there, without waiting. The number of bytes, 0 at the end
 * of the stream, -EAGAIN, -ENOBUFS (next line first), other errors. */
ssize_t proto_fill(struct proto_lines *lines, int fd);
/* The next whole line, without its newline: 1, *ret_line valid until the next
 * call of either function; 0: not all there; -EMSGSIZE: too long. */
int proto_next(struct proto_lines *lines, const char **ret_line,
	       size_t *ret_len);

/* One line as an object: 0, or -EINVAL and why says what is wrong where. */
int proto_parse(const char *line, size_t len, json_t **ret,
		char why[PROTO_WHY_LEN]);

/* A copy of text with U+FFFD for each byte that is not part of UTF-8;
 * *ret_changed (may be NULL) says if there was one. NULL: no memory. */
char *proto_utf8(const char *text, bool *ret_changed);

/* Sets key, and key_hex when the path is not UTF-8. 0 or -ENOMEM. */
int proto_set_path(json_t *obj, const char *key, const char *path);
/* Reads key_hex or key of obj, or obj itself when it is a string. *ret is to
 * be freed. -ENOENT: neither; -EINVAL: not a string, odd hex, a zero byte. */
int proto_get_path(const json_t *obj, const char *key, char **ret);

struct check_finding;
/* The object of `tierctl --json check`. NULL: no memory. */
json_t *proto_finding(const struct check_finding *finding);

/* Is path one that the protocol takes: absolute, no "." and ".."? */
bool proto_path_valid(const char *path);

#endif
