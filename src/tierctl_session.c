/* SPDX-License-Identifier: MIT */
/*
 * Talking to daemons: paths go out as the daemons take them, results come in
 * as they are ready, with several mounts at once, from one poll(2) loop. What
 * is kept is bounded: a line of paths being made and OUT_MAX bytes to be sent
 * for each daemon; names are read only when there is room.
 *
 * SIGINT: a daemon that has all of its paths is told to stop, so that its
 * answers still come; else the connection is closed, which cancels too. A
 * second one closes all.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cleanup.h"
#include "tierctl.h"

#define OUT_MAX	      131072
#define CHUNK_MAX     24576 /* bytes of paths in a line, before the last */
#define DAEMONS_MAX   256
#define READ_AT_ONCE  64
#define PATH_LINE_MAX 4096 /* a name longer than that is no path */

static int sig_pipe[2] = {-1, -1};
static volatile sig_atomic_t interrupts;

static void on_signal(int sig)
{
	int err = errno;

	interrupts++;
	if (write(sig_pipe[1], "", 1) < 0)
		errno = 0; /* the pipe is full: it wakes all the same */
	errno = err;
}

static void signals_init(void)
{
	struct sigaction sa = {.sa_handler = on_signal};

	if (pipe2(sig_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
		return;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
}

/* ---- lines -------------------------------------------------------------------- */

static void queue_line(struct daemon *d, json_t *obj)
{
	char *text = obj ? json_dumps(obj, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;
	char *out;

	json_decref(obj);
	out = text ? realloc(d->out, d->out_len + len + 1) : NULL;
	if (!out) {
		complain(NULL, "out of memory");
		exit(EXIT_SOME);
	}
	d->out = out;
	memcpy(out + d->out_len, text, len);
	d->out_len += len;
	out[d->out_len++] = '\n';
	free(text);
}

/* Sends what can be sent without waiting. An error is left to be seen when
 * reading: there may still be an answer that says why. */
static void send_some(struct daemon *d)
{
	ssize_t n =
		send(d->fd, d->out, d->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		n = d->out_len;
	memmove(d->out, d->out + n, d->out_len - n);
	d->out_len -= n;
}

/* The next answer that is there: a new reference, NULL: not yet, or the daemon
 * is lost: d->ended. */
static json_t *next_answer(struct daemon *d)
{
	char why[PROTO_WHY_LEN];
	const char *line;
	json_t *answer;
	size_t len;

	switch (proto_next(&d->lines, &line, &len)) {
	case 0:
		return NULL;
	case 1:
		if (!proto_parse(line, len, &answer, why))
			return answer;
		break;
	default:
		snprintf(why, sizeof(why), "line too long");
	}
	complain(d->mount ? d->mount : "daemon", why);
	d->ended = true;
	return NULL;
}

json_t *session_call(struct daemon *d, json_t *request)
{
	json_t *ret = NULL;

	queue_line(d, request);
	while (d->out_len > 0) {
		ssize_t n = send(d->fd, d->out, d->out_len, MSG_NOSIGNAL);

		if (n < 0)
			break;
		memmove(d->out, d->out + n, d->out_len - n);
		d->out_len -= n;
	}
	d->out_len = 0;
	for (;;) {
		struct pollfd pfd = {.fd = d->fd, .events = POLLIN};
		json_t *answer = next_answer(d);
		const char *type;

		if (answer) {
			type = json_string_value(
				json_object_get(answer, "type"));
			if (type && !strcmp(type, "end")) {
				if (ret)
					json_decref(answer);
				else
					ret = answer;
				return ret;
			}
			json_decref(ret);
			ret = answer;
			continue;
		}
		if (d->ended || poll(&pfd, 1, 10000) <= 0 ||
		    proto_fill(&d->lines, d->fd) <= 0)
			return ret;
	}
}

/* ---- paths ---------------------------------------------------------------------- */

/* Where names come from: the arguments, then a file. */
struct source {
	const struct options *opt;
	int next;
	FILE *file;
	char *line;
	size_t cap;
	bool end;
};

static bool source_open(struct source *src)
{
	const char *name = src->opt->files_from;

	if (!name)
		return true;
	src->file = strcmp(name, "-") ? fopen(name, "re") : stdin;
	if (!src->file)
		complain(name, strerror(errno));
	return src->file;
}

static const char *source_next(struct tool *tool, struct source *src)
{
	int delim = src->opt->zero ? '\0' : '\n';
	ssize_t len;

	if (src->next < src->opt->nargs)
		return src->opt->args[src->next++];
	while (src->file && !interrupts) {
		len = getdelim(&src->line, &src->cap, delim, src->file);
		if (len < 0) {
			if (ferror(src->file) && !interrupts) {
				complain(src->opt->files_from, strerror(errno));
				tool->failed = true;
			}
			break;
		}
		if (src->line[len - 1] == delim)
			src->line[--len] = '\0';
		if (len == 0)
			continue; /* an empty line names nothing */
		if (strlen(src->line) == (size_t)len)
			return src->line;
		complain(src->line, "a zero byte in a name");
		tool->failed = true;
	}
	src->end = true;
	return NULL;
}

static void source_close(struct source *src)
{
	if (src->file && src->file != stdin)
		fclose(src->file);
	free(src->line);
}

static void send_chunk(struct tool *tool, struct daemon *d, bool more)
{
	const struct options *opt = &tool->opt;
	json_t *obj = json_object();
	bool moves = !opt->command->reads;

	if (!d->asked) {
		json_object_set_new(obj, "version",
				    json_integer(CONTROL_VERSION));
		json_object_set_new(obj, "command",
				    json_string(opt->command->name));
		if (opt->recursive)
			json_object_set_new(obj, "recursive", json_true());
		if (opt->release)
			json_object_set_new(obj, "release", json_true());
		if (opt->budget)
			json_object_set_new(
				obj, "budget",
				json_integer((json_int_t)opt->budget));
		if (opt->keep)
			json_object_set_new(obj, "keep",
					    json_integer(opt->keep));
		d->moves = moves;
		if (opt->no_wait)
			json_object_set_new(obj, "wait", json_false());
		if (opt->filter)
			json_object_set(obj, "filter", opt->filter);
		if (moves && !opt->json && !opt->quiet && isatty(2))
			json_object_set_new(obj, "progress", json_true());
	}
	json_object_set_new(obj, "paths", d->chunk ? d->chunk : json_array());
	json_object_set_new(obj, "more", json_boolean(more));
	d->chunk = NULL;
	d->chunk_len = 0;
	d->asked = true;
	d->closed = !more;
	tool->asked = true;
	queue_line(d, obj);
}

static void path_failed(struct tool *tool, const char *path, const char *why,
			bool none)
{
	const struct options *opt = &tool->opt;

	complain(path, why);
	if (none)
		tool->none = true;
	else
		tool->failed = true;
	tool->n_bad++;
	if (opt->json && !opt->command->reads) {
		json_t *data = json_object();

		proto_set_path(data, "path", path);
		json_object_set_new(data, "op",
				    json_string(opt->command->name));
		json_object_set_new(data, "result", json_string("failed"));
		json_object_set_new(data, "reason", json_string(why));
		json_object_set_new(data, "bytes", json_integer(0));
		print_json(data);
		json_decref(data);
	}
}

static void add_path(struct tool *tool, const char *name)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *text = NULL;
	const char *why = "";
	struct daemon *d;
	json_t *obj;
	bool none = false;
	size_t len;

	d = strlen(name) < PATH_LINE_MAX
		    ? path_resolve(tool, name, &path, &why, &none)
		    : (why = strerror(ENAMETOOLONG), NULL);
	if (!d) {
		path_failed(tool, name, why, none);
		return;
	}
	if (d->ended)
		return; /* it has been said */
	obj = json_object();
	if (proto_set_path(obj, "path", path) ||
	    proto_set_path(obj, "as", name) ||
	    !(text = json_dumps(obj, JSON_COMPACT))) {
		json_decref(obj);
		path_failed(tool, name, strerror(ENOMEM), false);
		return;
	}
	len = strlen(text) + 1;
	if (d->chunk && d->chunk_len + len > CHUNK_MAX)
		send_chunk(tool, d, true);
	if (!d->chunk)
		d->chunk = json_array();
	json_array_append_new(d->chunk, obj);
	d->chunk_len += len;
}

/* Reads some names if every daemon has room for them. */
static void feed(struct tool *tool, struct source *src)
{
	for (unsigned int i = 0; i < tool->ndaemons; i++) {
		if (tool->daemons[i].out_len > OUT_MAX)
			return;
	}
	for (int i = 0; i < READ_AT_ONCE && !interrupts; i++) {
		const char *name = source_next(tool, src);

		if (!name)
			break;
		add_path(tool, name);
	}
	/* A list that was cut off is not to be taken for a whole one. */
	if (!src->end || (interrupts && tool->opt.no_wait))
		return;
	for (unsigned int i = 0; i < tool->ndaemons; i++) {
		struct daemon *d = &tool->daemons[i];

		if ((d->asked || d->chunk) && !d->ended)
			send_chunk(tool, d, false);
	}
}

/* ---- answers ------------------------------------------------------------------------ */

static void got_end(struct tool *tool, struct daemon *d, json_t *answer)
{
	const char *status = "", *reason = "";

	json_unpack(answer, "{s:s, s:s}", "status", &status, "reason", &reason);
	d->ended = true;
	if (json_object_get(answer, "job"))
		tool->job = json_integer_value(json_object_get(answer, "job"));
	if (!strcmp(status, "done")) {
		if (*reason && !tool->opt.quiet)
			complain(d->mount, reason);
		return;
	}
	if (!strcmp(status, "denied")) {
		complain(d->mount, reason);
		tool->denied = true;
		return;
	}
	if (!strcmp(status, "error") || !strcmp(reason, "cancelled"))
		complain(d->mount, reason);
	tool->failed = true;
}

static void got_progress(struct tool *tool, struct daemon *d, json_t *answer)
{
	json_int_t files = 0, done = 0, bytes = 0, moved = 0;
	int complete = 0;

	json_unpack(answer, "{s:I, s:I, s:I, s:I, s:b}", "files", &files,
		    "files_done", &done, "bytes", &bytes, "bytes_done", &moved,
		    "complete", &complete);
	d->files = files;
	d->files_done = done;
	d->bytes = bytes;
	d->bytes_done = moved;
	d->complete = complete;
	print_progress(tool);
}

static void got_answer(struct tool *tool, struct daemon *d, json_t *answer,
		       void (*fn)(struct tool *tool, json_t *data))
{
	const char *type = json_string_value(json_object_get(answer, "type"));

	if (!type)
		return;
	if (!strcmp(type, "result"))
		fn(tool, json_object_get(answer, "data"));
	else if (!strcmp(type, "progress"))
		got_progress(tool, d, answer);
	else if (!strcmp(type, "end"))
		got_end(tool, d, answer);
}

/* Takes what has come from d. */
static void receive(struct tool *tool, struct daemon *d,
		    void (*fn)(struct tool *tool, json_t *data))
{
	ssize_t n = proto_fill(&d->lines, d->fd);
	json_t *answer;

	while (!d->ended && (answer = next_answer(d))) {
		got_answer(tool, d, answer, fn);
		json_decref(answer);
	}
	if (d->ended || n > 0 || n == -EAGAIN || n == -ENOBUFS)
		return;
	complain(d->mount, "the daemon has gone");
	d->ended = true;
	/* What it was doing for us is left as it is. */
	if (d->moves)
		tool->failed = true;
	else
		tool->denied = true;
}

/* ---- the loop --------------------------------------------------------------------------- */

static void interrupt(struct tool *tool, struct source *src)
{
	static int seen;

	if (interrupts == seen)
		return;
	if (seen == 0)
		complain(NULL, "interrupted");
	tool->failed = true;
	if (src)
		src->end = true;
	for (unsigned int i = 0; i < tool->ndaemons; i++) {
		struct daemon *d = &tool->daemons[i];

		if (!d->asked || d->ended)
			continue;
		if (d->closed && seen == 0) {
			queue_line(d, json_pack("{s:b}", "stop", true));
		} else {
			shutdown(d->fd, SHUT_RDWR);
			close(d->fd);
			d->fd = -1;
			d->ended = true;
		}
	}
	seen = interrupts;
}

/* One round: sends, waits, receives. False: nothing is left to wait for. */
static bool turn(struct tool *tool, bool feeding,
		 void (*fn)(struct tool *tool, json_t *data))
{
	struct pollfd pfd[DAEMONS_MAX + 1] = {
		{.fd = sig_pipe[0], .events = POLLIN}};
	struct daemon *who[DAEMONS_MAX];
	nfds_t n = 1;
	char byte[16];

	for (unsigned int i = 0; i < tool->ndaemons && n <= DAEMONS_MAX; i++) {
		struct daemon *d = &tool->daemons[i];

		if (!d->asked || d->ended)
			continue;
		if (d->out_len > 0)
			send_some(d);
		who[n - 1] = d;
		pfd[n++] = (struct pollfd){
			.fd = d->fd,
			.events = POLLIN | (d->out_len > 0 ? POLLOUT : 0)};
		feeding = feeding && d->out_len <= OUT_MAX;
	}
	if (n == 1)
		return feeding;
	if (poll(pfd, n, feeding ? 0 : -1) <= 0)
		return true;
	if (pfd[0].revents && read(sig_pipe[0], byte, sizeof(byte)) < 0)
		return true;
	for (nfds_t i = 1; i < n; i++) {
		if (pfd[i].revents & ~POLLOUT)
			receive(tool, who[i - 1], fn);
	}
	fflush(stdout);
	return true;
}

void session_paths(struct tool *tool)
{
	struct source src = {.opt = &tool->opt};
	void (*fn)(struct tool *, json_t *) = tool->opt.command->print;

	if (!source_open(&src)) {
		tool->failed = true;
		return;
	}
	signals_init();
	do {
		interrupt(tool, &src);
		if (!src.end)
			feed(tool, &src);
	} while (turn(tool, !src.end, fn) || !src.end);
	/* Before anything was asked. */
	interrupt(tool, &src);
	source_close(&src);
	print_clear();
}

void session_ask(struct tool *tool, struct daemon *d, json_t *request,
		 void (*fn)(struct tool *tool, json_t *data))
{
	if (sig_pipe[0] < 0)
		signals_init();
	d->asked = d->closed = true;
	d->ended = false;
	tool->asked = true;
	queue_line(d, request);
	while (!d->ended) {
		interrupt(tool, NULL);
		turn(tool, false, fn);
	}
	d->asked = false;
}
