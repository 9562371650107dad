/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_FRONT_FORMAT_H
#define TIERFS_FRONT_FORMAT_H

/*
 * The front's format file and its lock, for front.c alone.
 *
 *   # comments and empty lines, anywhere
 *   version=1
 *   uuid=6f1c2c9e-...
 *   name=NAME
 *   ea=trusted                  or user: under which name the spill EA is
 *   target.0=NAME UUID          the targets, numbered as in the spill EA
 *
 * Nothing else is taken: what a daemon does not understand it must not run on.
 */

#include "front.h"

#define FRONT_FORMAT_FILE "format"

bool front_uuid_valid(const char *text);

/* Reads uuid, name, trusted and targets of front->meta_fd's format file.
 * -ENOENT: there is none; -EBADMSG, -EPROTONOSUPPORT with the line in
 * *ret_why; *front is unchanged on failure. */
int front_format_read(struct front *front, char **ret_why);
/* The same of len bytes of text, which is changed; nothing is read. */
int front_format_parse(struct front *front, char *text, size_t len,
		       char **ret_why);
/* What is written: to be freed. -ENOMEM. */
int front_format_text(const struct front *front, char **ret, size_t *ret_len);
/* Writes it, durably. */
int front_format_write(const struct front *front);

/* Takes the front for this process, as front->lock_fd. -EBUSY. */
int front_lock(struct front *front, char **ret_why);

#endif
