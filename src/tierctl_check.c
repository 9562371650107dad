/* SPDX-License-Identifier: MIT */
/*
 * tierctl check: asks the daemons, or compares by itself what none serves.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check_offline.h"
#include "cleanup.h"
#include "tierctl.h"

static volatile sig_atomic_t stopped;

void check_mounts(struct tool *tool)
{
	const struct options *opt = &tool->opt;
	bool progress = !opt->json && !opt->quiet && isatty(2);

	for (unsigned int i = 0; i < tool->ndaemons; i++)
		session_ask(tool, &tool->daemons[i],
			    json_pack("{s:i, s:s, s:b, s:b, s:b}", "version",
				      CONTROL_VERSION, "command", "check",
				      "repair", opt->repair, "verify",
				      opt->verify, "progress", progress),
			    print_finding);
	print_clear();
	if (!tool->n_bad && !tool->n_done && !tool->failed && !tool->denied &&
	    !opt->json && !opt->quiet)
		puts("nothing is wrong");
}

/* ---- without a daemon ------------------------------------------------------ */

static const char *top; /* the front's path */

static void found(void *arg, const struct check_finding *finding)
{
	struct check_finding named = *finding;
	_cleanup_free_ char *path = NULL;
	json_t *data;

	if (*finding->path &&
	    asprintf(&path, "%s%s%s", top, *finding->path == '/' ? "" : "/",
		     finding->path) >= 0)
		named.path = path;
	data = proto_finding(&named);
	print_finding(arg, data);
	json_decref(data);
}

static void on_signal(int sig)
{
	(void)sig;
	stopped = 1;
}

static bool tick(void *arg, const struct check_totals *totals)
{
	(void)arg;
	(void)totals;
	return stopped;
}

static int check(struct tool *tool, struct check_totals *totals, char **ret_why)
{
	const struct sigaction sa = {.sa_handler = on_signal};
	struct check_parts parts = {
		.repair = tool->opt.repair,
		.verify = tool->opt.verify,
		.found = found,
		.tick = tick,
		.arg = tool,
	};
	_cleanup_(check_offline_closep) struct check_offline *offline = NULL;
	int err;

	err = check_offline_open(top, tool->opt.targets, &offline, ret_why);
	if (err)
		return err;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	check_offline_parts(offline, &parts);
	return check_run(&parts, totals);
}

void check_front(struct tool *tool)
{
	_cleanup_free_ char *why = NULL;
	_cleanup_free_ char *real = realpath(tool->opt.front, NULL);
	struct check_totals totals = {0};
	int err;

	top = real ? real : tool->opt.front;
	err = check(tool, &totals, &why);
	if (err == -ECANCELED)
		complain(NULL, "interrupted");
	else if (err)
		complain(NULL, why ? why : strerror(-err));
	if (err || totals.findings > totals.repaired)
		tool->failed = true;
	if (err || tool->opt.json || tool->opt.quiet)
		return;
	if (totals.intents)
		printf("%llu steps were in flight: the next mount ends or "
		       "undoes them\n",
		       (unsigned long long)totals.intents);
	printf("%llu of %llu files and directories have attributes; %llu "
	       "objects\n",
	       (unsigned long long)totals.tiered,
	       (unsigned long long)totals.files,
	       (unsigned long long)totals.objects);
	if (!totals.findings)
		puts("nothing is wrong");
}
