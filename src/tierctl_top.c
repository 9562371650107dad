/* SPDX-License-Identifier: MIT */
/*
 * `tierctl top`: status and queue, once a second, on a screen of any terminal.
 *
 * The whole screen is made first and written at once, each line cut to the
 * terminal's width, so that it does not flicker. Rates are of what the policy
 * and the jobs have moved since the last answer; a terminal that changes its
 * size is drawn anew from the same one. What goes wrong is said when the screen
 * is the old one again. Without a terminal it is one screen, and the end.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "cleanup.h"
#include "tierctl.h"
#include "util.h"

#define EVERY_MS 1000
#define ROWS_MAX 200

static struct {
	char line[ROWS_MAX][512];
	int n, rows, cols;
	json_t *mounts, *jobs;
	/* Of the last screen, by mount. */
	json_t *before;
	int64_t before_ns;
} top;

static volatile sig_atomic_t ending;

static void on_signal(int sig)
{
	if (sig != SIGWINCH)
		ending = 1;
}

__attribute__((format(printf, 1, 2))) static void line(const char *text, ...)
{
	va_list args;

	if (top.n >= top.rows)
		return;
	va_start(args, text);
	vsnprintf(top.line[top.n++], sizeof(top.line[0]), text, args);
	va_end(args);
}

static const char *str(const json_t *obj, const char *key)
{
	const char *ret = json_string_value(json_object_get(obj, key));

	return ret ? ret : "";
}

static double num(const json_t *obj, const char *key)
{
	return json_number_value(json_object_get(obj, key));
}

/* ---- asking -------------------------------------------------------------------- */

static void take_mount(struct tool *tool, json_t *data)
{
	json_array_append(top.mounts, data);
}

static void take_job(struct tool *tool, json_t *data)
{
	json_array_append(top.jobs, data);
}

static void ask(struct tool *tool, struct daemon *d, const char *command,
		void (*fn)(struct tool *tool, json_t *data))
{
	session_ask(tool, d,
		    json_pack("{s:i, s:s}", "version", CONTROL_VERSION,
			      "command", command),
		    fn);
}

/* ---- the screen ------------------------------------------------------------------ */

/* "#####...|..", 20 wide, with a mark for the watermark. */
static void bar(const json_t *front, char ret[32])
{
	double bytes = num(front, "bytes");
	int used = bytes > 0 ? (int)(20 * num(front, "used") / bytes + 0.5) : 0;
	int high = (int)(20 * num(front, "high") / 100);

	for (int i = 0; i < 20; i++)
		ret[i] = i < used ? '#' : i == high ? '|' : '.';
	ret[20] = '\0';
}

static double rate(const json_t *now, const json_t *then, double sec,
		   const char *key, const char *what)
{
	double a = num(json_object_get(now, key), what);
	double b = num(json_object_get(then, key), what);

	return then && sec > 0 && a > b ? (a - b) / sec : 0;
}

static void show_policy(const json_t *policy, const json_t *then, double sec)
{
	static const char *const keys[] = {"migrated", "released", "restored"};
	json_t *held;
	size_t i;

	if (!json_is_object(policy))
		return;
	line("  policy %s, %s: %s%s%s", str(policy, "mode"),
	     str(policy, "strategy"), str(policy, "doing"),
	     *str(policy, "detail") ? ": " : "", str(policy, "detail"));
	for (i = 0; i < ARRAY_SIZE(keys); i++) {
		const json_t *moved = json_object_get(policy, keys[i]);
		char bytes[SIZE_TEXT_LEN], speed[SIZE_TEXT_LEN];

		line("    %-9s %10.0f files %7s   %8.1f files/s %7s/s", keys[i],
		     num(moved, "files"),
		     size_text((uint64_t)num(moved, "bytes"), bytes),
		     rate(policy, then, sec, keys[i], "files"),
		     size_text((uint64_t)rate(policy, then, sec, keys[i],
					      "bytes"),
			       speed));
	}
	json_array_foreach(json_object_get(policy, "cannot_move"), i,
			   held) if (i < 3)
		line("    cannot move %.0f files: %s", num(held, "files"),
		     str(held, "reason"));
}

static void show_mount(const json_t *mount, const json_t *then, double sec)
{
	const json_t *front = json_object_get(mount, "front");
	const json_t *queues = json_object_get(mount, "queues");
	_cleanup_free_ char *name = print_safe(str(mount, "mount"));
	char a[SIZE_TEXT_LEN], b[SIZE_TEXT_LEN], graph[32];
	json_t *states = json_object_get(mount, "states"), *target;
	double bytes = num(front, "bytes");
	size_t i;

	bar(front, graph);
	line("%s on %s", str(mount, "name"), name ? name : "?");
	line("  front  [%s] %5.1f%%  %s of %s, high %.3g%%, low %.3g%%", graph,
	     bytes > 0 ? 100 * num(front, "used") / bytes : 0,
	     size_text((uint64_t)num(front, "used"), a),
	     size_text((uint64_t)bytes, b), num(front, "high"),
	     num(front, "low"));
	json_array_foreach(json_object_get(mount, "targets"), i, target)
		line("  target %s: %s, %s of %s", str(target, "name"),
		     str(target, "condition"),
		     size_text((uint64_t)num(target, "used"), a),
		     size_text((uint64_t)num(target, "bytes"), b));
	line("  files  %.0f resident, %.0f migrated, %.0f released, %.0f dirty",
	     num(json_object_get(states, "none"), "files"),
	     num(json_object_get(states, "migrated"), "files"),
	     num(json_object_get(states, "released"), "files"),
	     num(json_object_get(states, "dirty"), "files"));
	line("  queue  %.0f recalls, %.0f asked for, %.0f idle",
	     num(queues, "recall"), num(queues, "asked"), num(queues, "idle"));
	show_policy(json_object_get(mount, "policy"),
		    json_object_get(then, "policy"), sec);
}

static void show_job(const json_t *job)
{
	_cleanup_free_ char *path = print_safe(str(job, "path"));
	char done[SIZE_TEXT_LEN], bytes[SIZE_TEXT_LEN], speed[SIZE_TEXT_LEN];

	line("%6.0f %-8s %-8s %7s %7s %8s/s  %s", num(job, "id"),
	     str(job, "op"), str(job, "state"),
	     size_text((uint64_t)num(job, "done"), done),
	     size_text((uint64_t)num(job, "bytes"), bytes),
	     size_text((uint64_t)num(job, "rate"), speed), path ? path : "?");
}

static void show_all(int64_t now)
{
	double sec = (double)(now - top.before_ns) / NSEC_PER_SEC;
	json_t *item;
	size_t i;

	top.n = 0;
	json_array_foreach(top.mounts, i, item)
	{
		show_mount(item, json_array_get(top.before, i), sec);
		line("%s", "");
	}
	if (json_array_size(top.jobs))
		line("%6s %-8s %-8s %7s %7s %10s  %s", "JOB", "OP", "STATE",
		     "DONE", "OF", "RATE", "PATH");
	json_array_foreach(top.jobs, i, item) show_job(item);
}

/* Bytes of text that fit into cols, whole characters of UTF-8; how many columns
 * are left. */
static int fitting(const char *text, int cols, int *ret_left)
{
	int i = 0;

	for (; text[i]; i++) {
		if (((unsigned char)text[i] & 0xc0) == 0x80)
			continue;
		if (cols == 0)
			break;
		cols--;
	}
	*ret_left = cols;
	return i;
}

static void draw(bool terminal)
{
	if (terminal)
		fputs("\033[H", stdout);
	for (int i = 0; i < top.n; i++) {
		int left, fits = fitting(top.line[i], top.cols, &left);

		if (!terminal) {
			printf("%s\n", top.line[i]);
			continue;
		}
		/* In the last column the cursor is still on its character. */
		printf("%.*s%s%s", fits, top.line[i], left ? "\033[K" : "",
		       i + 1 < top.n ? "\r\n" : "");
	}
	if (terminal && top.n < top.rows)
		fputs("\r\n\033[J", stdout);
	fflush(stdout);
}

static void measure(bool terminal)
{
	struct winsize size = {0};

	top.rows = ROWS_MAX;
	top.cols = 80;
	if (!terminal)
		return;
	top.rows = 24;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size))
		return;
	if (size.ws_row)
		top.rows = min_t(int, size.ws_row, ROWS_MAX);
	if (size.ws_col)
		top.cols = size.ws_col;
}

enum pause {
	PAUSE_OVER,
	PAUSE_RESIZED,
	PAUSE_END
};

/* A second, or until a key ends it or the size changes. */
static enum pause pause_key(void)
{
	int64_t end = monotonic_ns() + EVERY_MS * 1000000LL, left;
	struct pollfd pfd = {.fd = STDIN_FILENO, .events = POLLIN};
	char key;

	while (!ending && (left = end - monotonic_ns()) > 0) {
		int n = poll(&pfd, 1, (int)(left / 1000000) + 1);

		if (n < 0 && errno == EINTR)
			return ending ? PAUSE_END : PAUSE_RESIZED;
		if (n < 0)
			return PAUSE_END;
		if (n && (read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' ||
			  key == 'Q' || key == 3))
			return PAUSE_END;
	}
	return ending ? PAUSE_END : PAUSE_OVER;
}

static void ask_all(struct tool *tool)
{
	struct sigaction sa = {.sa_handler = on_signal};

	top.mounts = json_array();
	top.jobs = json_array();
	for (unsigned int i = 0; i < tool->ndaemons; i++) {
		ask(tool, &tool->daemons[i], "status", take_mount);
		ask(tool, &tool->daemons[i], "queue", take_job);
	}
	/* Over those of the session, which only end an answer. */
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	sigaction(SIGWINCH, &sa, NULL);
}

/* Shows what was answered, for a second: true, it is the end. */
static bool show(struct tool *tool, bool terminal)
{
	int64_t now = monotonic_ns();
	bool bad = tool->denied || tool->failed;
	enum pause pause;

	do {
		measure(terminal);
		show_all(now);
		if (!tool->denied && (!terminal || !bad))
			draw(terminal);
		pause = terminal && !bad ? pause_key() : PAUSE_END;
	} while (pause == PAUSE_RESIZED);
	json_decref(top.before);
	top.before = top.mounts;
	top.before_ns = now;
	json_decref(top.jobs);
	return pause == PAUSE_END;
}

void top_command(struct tool *tool)
{
	bool terminal = isatty(STDOUT_FILENO) && isatty(STDIN_FILENO) &&
			!tool->opt.json;
	static char said[4096];
	struct termios old, raw;
	bool set = terminal && !tcgetattr(STDIN_FILENO, &old);

	ask_all(tool);
	if (set && !tool->denied && !tool->failed) {
		raw = old;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		raw.c_cc[VSUSP] = _POSIX_VDISABLE;
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
		fputs("\033[?1049h\033[?25l", stdout);
		setvbuf(stderr, said, _IOFBF, sizeof(said));
	} else {
		set = false;
	}
	while (!show(tool, terminal))
		ask_all(tool);
	if (set) {
		fputs("\033[?25h\033[?1049l", stdout);
		fflush(stdout);
		tcsetattr(STDIN_FILENO, TCSANOW, &old);
		fflush(stderr);
	}
	json_decref(top.before);
}
