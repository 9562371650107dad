/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_LOG_H
#define TIERFS_LOG_H

/*
 * The daemon's messages. Only the edges log (main, fs, control, the mover's
 * workers): library code returns errors.
 *
 * Before log_to_system() messages go to stderr, afterwards to the journal (via
 * libsystemd where built with it) or syslog, and until log_leave_stderr() what is
 * a warning or worse to stderr, too: who mounts a file system wants to know what
 * is wrong, and nothing else. The last LOG_KEEP warnings and errors are kept for
 * `tierctl status`. Any thread; takes one leaf mutex.
 */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARN,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG
};

#define LOG_KEEP     16
#define LOG_LINE_MAX 512

void log_set_level(enum log_level level);
void log_to_system(const char *ident);
void log_leave_stderr(void);

__attribute__((format(printf, 2, 3))) void log_at(enum log_level level,
						  const char *fmt, ...);

#define log_error(...) log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

struct log_kept {
	int64_t when; /* realtime ns */
	enum log_level level;
	char text[LOG_LINE_MAX];
};

/* Copies the newest kept messages, newest first; returns how many (<= cap). */
size_t log_last(struct log_kept *ret, size_t cap);

#endif
