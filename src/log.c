/* SPDX-License-Identifier: MIT */
/*
 * The line is made on the caller's stack and written with one call outside the
 * mutex, which guards the kept messages alone: a reader of stderr or a journal
 * that is slow delays the thread that speaks and no other. Lines of different
 * threads do not mix; their order is that of the writes.
 *
 * Messages hold file names, which may hold anything: control characters become
 * '?', so that a name can neither forge a line nor drive a terminal.
 */
#include "log.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>
#ifdef HAVE_SYSTEMD
#include <systemd/sd-journal.h>
#endif

#include "util.h"

enum log_sink {
	SINK_STDERR,
	SINK_SYSLOG,
	SINK_JOURNAL
};

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

static _Atomic(int) max_level = LOG_LEVEL_INFO;
static _Atomic(int) sink = SINK_STDERR;
/* Up to this level to stderr, whatever the sink is. */
static _Atomic(int) stderr_level = LOG_LEVEL_WARN;
static char ident_buf[64] = "tierfs";

static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;
static struct log_kept kept[LOG_KEEP]; /* under kept_lock, as is nkept */
static size_t nkept;		       /* ever; the next goes to nkept % KEEP */

void log_set_level(enum log_level level)
{
	atomic_store(&max_level, level);
}

void log_to_system(const char *ident)
{
	snprintf(ident_buf, sizeof(ident_buf), "%s", ident);
#ifdef HAVE_SYSTEMD
	/* Without a journal sd_journal_send() drops messages silently. */
	if (access(JOURNAL_SOCKET, W_OK) == 0) {
		atomic_store(&sink, SINK_JOURNAL);
		return;
	}
#endif
	openlog(ident_buf, LOG_PID, LOG_DAEMON);
	atomic_store(&sink, SINK_SYSLOG);
}

void log_leave_stderr(void)
{
	atomic_store(&stderr_level, -1);
}

static void keep(enum log_level level, const char *text)
{
	struct log_kept *slot;

	pthread_mutex_lock(&kept_lock);
	slot = &kept[nkept++ % LOG_KEEP];
	slot->when = realtime_ns();
	slot->level = level;
	memcpy(slot->text, text, strlen(text) + 1);
	pthread_mutex_unlock(&kept_lock);
}

static void emit_stderr(char *text)
{
	struct iovec iov[] = {
		{.iov_base = (void *)"tierfs: ", .iov_len = 8},
		{.iov_base = text, .iov_len = strlen(text)},
		{.iov_base = (void *)"\n", .iov_len = 1},
	};

	if (writev(STDERR_FILENO, iov, ARRAY_SIZE(iov)) < 0)
		return; /* nowhere left to say it */
}

static void emit(enum log_level level, char *text)
{
	static const int prio[] = {
		[LOG_LEVEL_ERROR] = LOG_ERR,
		[LOG_LEVEL_WARN] = LOG_WARNING,
		[LOG_LEVEL_INFO] = LOG_INFO,
		[LOG_LEVEL_DEBUG] = LOG_DEBUG,
	};
	enum log_sink to = (enum log_sink)atomic_load(&sink);

	if (to == SINK_STDERR || (int)level <= atomic_load(&stderr_level))
		emit_stderr(text);
	switch (to) {
	case SINK_STDERR:
		break;
#ifdef HAVE_SYSTEMD
	case SINK_JOURNAL:
		sd_journal_send("MESSAGE=%s", text, "PRIORITY=%d", prio[level],
				"SYSLOG_IDENTIFIER=%s", ident_buf, NULL);
		break;
#endif
	default:
		syslog(prio[level], "%s", text);
	}
}

void log_at(enum log_level level, const char *fmt, ...)
{
	char text[LOG_LINE_MAX];
	int saved = errno; /* callers pass strerror(errno), and go on with it */
	va_list ap;
	char *p;

	if ((int)level > atomic_load(&max_level))
		return;
	va_start(ap, fmt);
	if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
		snprintf(text, sizeof(text), "%s", fmt);
	va_end(ap);
	for (p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	if (level <= LOG_LEVEL_WARN)
		keep(level, text);
	emit(level, text);
	errno = saved;
}

size_t log_last(struct log_kept *ret, size_t cap)
{
	size_t n, i;

	pthread_mutex_lock(&kept_lock);
	n = min_t(size_t, min_t(size_t, nkept, LOG_KEEP), cap);
	for (i = 0; i < n; i++)
		ret[i] = kept[(nkept - 1 - i) % LOG_KEEP];
	pthread_mutex_unlock(&kept_lock);
	return n;
}
