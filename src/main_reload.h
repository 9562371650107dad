/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_MAIN_RELOAD_H
#define TIERFS_MAIN_RELOAD_H

/*
 * SIGHUP: the configuration is read again.
 *
 * A thread takes the signal from a descriptor, so nothing runs in a handler. It
 * is blocked everywhere else.
 */

/* Before any thread: blocks the signal. One that comes is kept. */
void reload_prepare(void);

struct reload;
/* Calls fn on the thread for each signal; several that come at once are one.
 * -errno. */
int reload_start(void (*fn)(void *arg), void *arg, struct reload **ret);
/* Returns when fn has. NULL is allowed. */
void reload_stop(struct reload *reload);

#endif
