/* SPDX-License-Identifier: MIT */
/*
 * tierctl: asks the daemons of tierfs mounts, and has them move data.
 *
 * All rights are checked by the daemon; the tool only finds it, sends paths
 * and prints what comes back. It exits as soon as nothing more can come.
 */
#include "tierctl.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "config.h"

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#endif

/* Letters of options a command takes: r recursive, R release, n no-wait,
 * 0 and f: names from a file. */
static const struct command commands[] = {
	{"status", "[PATH...]", "0f", "what mounts, or files, are like",
	 "Without PATH: each mount, with the front's use and watermarks, "
	 "files\n"
	 "and bytes by state, targets, queues and the last errors (root). "
	 "With\n"
	 "PATH: each file's state, size, bytes on the front, copies, whether "
	 "it\n"
	 "is pinned and how often it is open (who can read it).\n",
	 true, true, print_file_status},
	{"migrate", "PATH...", "rRn0f", "copy files to the target",
	 "Copy the files' data to the target. With --release, also drop it "
	 "from\n"
	 "the front afterwards.\n",
	 true, false, print_move},
	{"release", "PATH...", "rn0f",
	 "drop the data of migrated files from the front",
	 "Drop the data of files that are migrated from the front. What is "
	 "not\n"
	 "migrated, or is in use, is refused.\n",
	 true, false, print_move},
	{"restore", "PATH...", "rn0fBK", "bring released files back",
	 "Bring the data of released files back to the front. With --budget, "
	 "as\n"
	 "much as that: what was used last first, or as named. With --keep, "
	 "they\n"
	 "are not released until then, those that are on the front already "
	 "neither.\n"
	 "Both imply -r.\n",
	 true, false, print_move},
	{"pin", "PATH...", "rn0f", "keep files on the front",
	 "Keep files on the front, and bring them back if they are released. "
	 "A\n"
	 "pinned directory pins all that is below it, now and later; -r "
	 "changes\n"
	 "nothing about that.\n",
	 true, false, print_move},
	{"unpin", "PATH...", "rn0f", "the opposite",
	 "Take the pin of files or directories away. With -r, also the pins "
	 "of\n"
	 "everything below directories.\n",
	 true, false, print_move},
	{"report", "[DIR]", "", "files and bytes by state, size and age",
	 "Files and bytes below DIR, or the whole mount, by state, size and "
	 "time of the\n"
	 "last modification (who can list DIR). They are kept up to date as "
	 "files change:\n"
	 "nothing is walked.\n",
	 true, true, print_report},
	{"find", "DIR [TEST...]", "", "list files by state, size, age, ...",
	 "The regular files below DIR for which all tests hold, in no order, "
	 "from the\n"
	 "catalog (who can list the directory that a file is in). Tests as of "
	 "find(1):\n"
	 "  -state S[,S...]     none, migrating, migrated, released, dirty\n"
	 "  -size [+-]N[cwbkMGTP], -empty\n"
	 "  -atime, -mtime, -ctime [+-]DAYS, -amin, -mmin, -cmin "
	 "[+-]MINUTES\n"
	 "  -newer FILE, -user NAME, -group NAME, -name GLOB\n"
	 "  -pinned             itself, not by a directory above\n"
	 "  -damaged            the object is not what was migrated\n"
	 "  -print, -print0, -ls\n",
	 true, true, print_found},
	{"why", "PATH...", "0f", "why files are where they are",
	 "Each file's state, the rule that it falls under (file and line), how "
	 "many\n"
	 "files go before it when room is needed, what holds it back, and what "
	 "will\n"
	 "happen to it next (who can read the file).\n",
	 true, true, print_why},
	{"policy", "run", "D", "one pass of the policy, now",
	 "Move all that is due, and make room if the front is too full, as the "
	 "daemon\n"
	 "does by itself with policy=auto, but at any hour (root). Closes the "
	 "circuit\n"
	 "breaker. With --dry-run, say what would be done, in order. With "
	 "several\n"
	 "mounts, --mount says which.\n",
	 false},
	{"top", "", "", "a live screen of status and queue",
	 "The mounts and their jobs, once a second (root). q ends it. When not "
	 "on a\n"
	 "terminal, one screen.\n",
	 false},
	{"unkeep", "PATH...", "rn0f", "end what restore --keep said",
	 "Files that are kept by restore --keep may be released again.\n", true,
	 false, print_move},
	{"queue", "", "A", "the jobs that run and wait",
	 "The jobs that run and wait (root): commands that move data, batches "
	 "that\n"
	 "were asked for with --no-wait, and what else the daemon moves.\n",
	 false},
	{"cancel", "ID...", "", "cancel jobs",
	 "Cancel jobs of the queue (root, and who asked for them). What is "
	 "done\n"
	 "stays done. With several mounts, --mount says whose.\n",
	 false},
	{"check", "", "PVFT", "compare attributes, objects and journal",
	 "Compare what the files' attributes, the objects on the targets, the\n"
	 "journal and .tierfs say about each other, and tell what does not fit "
	 "(root).\n"
	 "What cannot lose data is repaired with --repair; objects that "
	 "nothing names\n"
	 "are moved to lost+found beside the target's objects. With --front, a "
	 "front\n"
	 "that is not mounted is checked, and cannot be mounted meanwhile; its "
	 "targets\n"
	 "are where --target says, or fstab, or the configuration file. Takes "
	 "24 bytes\n"
	 "of memory an object.\n",
	 false},
	{"drain", "", "", "restore everything, for good",
	 "Restore everything and delete the copies, so that the front is a "
	 "plain\n"
	 "directory when it is unmounted (root). Pins are removed, and nothing "
	 "is\n"
	 "migrated any more. Refused if the front has no room. Stopped, it can "
	 "be\n"
	 "begun again. With several mounts, --mount says which.\n",
	 false},
	{"metrics", "", "", "OpenMetrics text",
	 "What the daemons count, as OpenMetrics text (root).\n", false},
};

enum long_only {
	OPT_JSON = 256,
	OPT_MOUNT,
	OPT_NO_WAIT,
	OPT_FILES_FROM,
	OPT_RELEASE,
	OPT_REPAIR,
	OPT_VERIFY,
	OPT_FRONT,
	OPT_TARGET,
	OPT_BUDGET,
	OPT_KEEP,
	OPT_ALL,
	OPT_DRY_RUN,
};

static const struct option long_options[] = {
	{"json", no_argument, NULL, OPT_JSON},
	{"quiet", no_argument, NULL, 'q'},
	{"mount", required_argument, NULL, OPT_MOUNT},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{"recursive", no_argument, NULL, 'r'},
	{"release", no_argument, NULL, OPT_RELEASE},
	{"no-wait", no_argument, NULL, OPT_NO_WAIT},
	{"null", no_argument, NULL, '0'},
	{"files-from", required_argument, NULL, OPT_FILES_FROM},
	{"repair", no_argument, NULL, OPT_REPAIR},
	{"verify", no_argument, NULL, OPT_VERIFY},
	{"front", required_argument, NULL, OPT_FRONT},
	{"target", required_argument, NULL, OPT_TARGET},
	{"budget", required_argument, NULL, OPT_BUDGET},
	{"keep", required_argument, NULL, OPT_KEEP},
	{"all", no_argument, NULL, OPT_ALL},
	{"dry-run", no_argument, NULL, OPT_DRY_RUN},
	{NULL},
};

static const struct {
	char letter;
	const char *text;
} option_help[] = {
	{'r', "  -r, --recursive     directories: all files below\n"},
	{'R',
	 "      --release       drop the data from the front afterwards\n"},
	{'B', "      --budget=SIZE   restore as much as that\n"},
	{'K', "      --keep=TIME     release none of it until then: 3d, fri, "
	      "2026-12-01\n"},
	{'n', "      --no-wait       return when it is queued; it outlives a "
	      "remount\n"},
	{'A',
	 "      --all           what has ended, too, and each small job\n"},
	{'f', "      --files-from=FILE\n"
	      "                      read further PATHs from FILE, one a line; "
	      "- is stdin\n"},
	{'0', "  -0, --null          names in FILE end with a zero byte\n"},
	{'P', "      --repair        repair what cannot lose data\n"},
	{'V', "      --verify        read all objects, compare checksums\n"},
	{'F', "      --front=DIR     the front DIR, which is not mounted\n"},
	{'D', "      --dry-run       only say what would be done\n"},
	{'T', "      --target=NAME=DIR\n"
	      "                      where its target NAME is; may be given "
	      "again\n"},
};

void complain(const char *what, const char *why)
{
	char *safe = what ? print_safe(what) : NULL;

	print_clear();
	fflush(stdout);
	if (safe)
		fprintf(stderr, "tierctl: %s: %s\n", safe, why);
	else
		fprintf(stderr, "tierctl: %s\n", why);
	free(safe);
}

/* ---- help --------------------------------------------------------------------- */

static const char global_help[] =
	"Global options, before or after the command:\n"
	"      --json          one JSON object a line\n"
	"  -q, --quiet         errors alone\n"
	"      --mount DIR     the mount that DIR is on\n"
	"  -h, --help          this text, or the command's\n"
	"  -V, --version       the version\n";

static void help(void)
{
	printf("usage: tierctl [--json] [--quiet] [--mount DIR] COMMAND "
	       "[ARGS]\n\nCommands:\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-8s %-10s %s\n", commands[i].name, commands[i].args,
		       commands[i].brief);
	printf("\n%s\n"
	       "tierctl COMMAND --help tells more.\n"
	       "Exit status: 0 all done; 1 something was refused or failed; "
	       "2 usage;\n3 no daemon, or no right to ask it.\n",
	       global_help);
}

static void help_command(const struct command *command)
{
	printf("usage: tierctl %s%s%s%s\n\n%s\n", command->name,
	       *command->options ? " [OPTIONS]" : "", *command->args ? " " : "",
	       command->args, command->help);
	if (*command->options)
		printf("Options:\n");
	for (size_t i = 0; i < ARRAY_SIZE(option_help); i++) {
		if (strchr(command->options, option_help[i].letter))
			fputs(option_help[i].text, stdout);
	}
	printf("%s%s", *command->options ? "\n" : "", global_help);
}

/* ---- options ------------------------------------------------------------------ */

static int usage(const char *what, const char *why)
{
	complain(what, why);
	fprintf(stderr, "Try 'tierctl --help'.\n");
	return EXIT_USAGE;
}

static const struct command *command_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	}
	return NULL;
}

/* An option that is only noted. False: it is none. */
static bool note(struct options *opt, int c)
{
	const struct {
		int c;
		bool *flag;
	} flags[] = {
		{OPT_JSON, &opt->json},	      {'q', &opt->quiet},
		{'r', &opt->recursive},	      {OPT_RELEASE, &opt->release},
		{OPT_NO_WAIT, &opt->no_wait}, {'0', &opt->zero},
		{OPT_REPAIR, &opt->repair},   {OPT_VERIFY, &opt->verify},
		{OPT_ALL, &opt->all},	      {OPT_DRY_RUN, &opt->dry_run},
	};
	const struct {
		int c;
		const char **text;
	} texts[] = {
		{OPT_MOUNT, &opt->mount},
		{OPT_FRONT, &opt->front},
		{OPT_FILES_FROM, &opt->files_from},
		{OPT_BUDGET, &opt->budget_text},
		{OPT_KEEP, &opt->keep_text},
	};

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		if (flags[i].c == c)
			return *flags[i].flag = true;
	}
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		if (texts[i].c == c)
			return (*texts[i].text = optarg) != NULL;
	}
	return false;
}

/* Reads argv. -1: go on, else the exit code. */
static int parse(int argc, char **argv, struct options *opt)
{
	bool want_help = false;
	int c;

	/* As many as there can be, and a NULL. */
	opt->targets = calloc((size_t)argc + 1, sizeof(*opt->targets));
	if (!opt->targets)
		return usage(NULL, "out of memory");
	while ((c = getopt_long(argc, argv, "qhVr0", long_options, NULL)) !=
	       -1) {
		switch (c) {
		case 'h':
			want_help = true;
			break;
		case 'V':
			printf("tierctl %s\n", TIERFS_VERSION);
			return EXIT_DONE;
		case OPT_TARGET:
			opt->targets[opt->ntargets++] = optarg;
			break;
		default:
			if (note(opt, c))
				break;
			/* getopt has said why */
			fprintf(stderr, "Try 'tierctl --help'.\n");
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		opt->command = command_find(argv[optind]);
		if (!opt->command)
			return usage(argv[optind], "unknown command");
		opt->args = argv + optind + 1;
		opt->nargs = argc - optind - 1;
	}
	if (!want_help)
		return -1;
	if (opt->command)
		help_command(opt->command);
	else
		help();
	return EXIT_DONE;
}

/* Do the options fit the command? -1: yes, else the exit code. */
static int check(const struct options *opt)
{
	const struct {
		bool given;
		char letter;
		const char *why;
	} given[] = {
		{opt->recursive, 'r', "does not take -r"},
		{opt->release, 'R', "does not take --release"},
		{opt->no_wait, 'n', "does not take --no-wait"},
		{opt->zero, '0', "does not take -0"},
		{opt->files_from, 'f', "does not take --files-from"},
		{opt->repair, 'P', "does not take --repair"},
		{opt->verify, 'V', "does not take --verify"},
		{opt->front, 'F', "does not take --front"},
		{opt->ntargets, 'T', "does not take --target"},
		{opt->budget_text, 'B', "does not take --budget"},
		{opt->keep_text, 'K', "does not take --keep"},
		{opt->all, 'A', "does not take --all"},
		{opt->dry_run, 'D', "does not take --dry-run"},
	};
	const struct command *command = opt->command;

	if (!command)
		return usage(NULL, "a command is missing");
	for (size_t i = 0; i < ARRAY_SIZE(given); i++) {
		if (given[i].given &&
		    !strchr(command->options, given[i].letter))
			return usage(command->name, given[i].why);
	}
	if (opt->zero && !opt->files_from)
		return usage("-0", "is for --files-from");
	if (opt->ntargets && !opt->front)
		return usage("--target", "is for --front");
	if (opt->front && opt->mount)
		return usage("--front", "is for what is not mounted");
	if (!*command->args && opt->nargs > 0)
		return usage(command->name, "takes no arguments");
	if (*command->args && command->args[0] != '[' && opt->nargs == 0 &&
	    !opt->files_from)
		return usage(command->name, command->paths ? "a PATH is missing"
					    : !strcmp(command->name, "cancel")
						    ? "an ID is missing"
						    : "run is missing");
	return -1;
}

/* What --budget and --keep say. -1: fine, else the exit code. */
static int check_keep(struct options *opt)
{
	const char *why = NULL;

	if (opt->budget_text &&
	    (config_parse_size(opt->budget_text, &opt->budget) ||
	     !opt->budget || opt->budget > INT64_MAX))
		return usage(opt->budget_text, "is no size such as 10G");
	if (opt->keep_text)
		why = keep_parse(opt->keep_text, time(NULL), &opt->keep);
	if (why)
		return usage(opt->keep_text, why);
	opt->recursive = opt->recursive || opt->budget || opt->keep;
	return -1;
}

/* ---- commands without paths ------------------------------------------------------ */

static json_t *request(const char *name)
{
	return json_pack("{s:i, s:s}", "version", CONTROL_VERSION, "command",
			 name);
}

static void ask_all(struct tool *tool,
		    void (*fn)(struct tool *tool, json_t *data))
{
	for (unsigned int i = 0; i < tool->ndaemons; i++) {
		json_t *obj = request(tool->opt.command->name);

		if (tool->opt.all)
			json_object_set_new(obj, "all", json_true());
		session_ask(tool, &tool->daemons[i], obj, fn);
	}
}

static int cancel(struct tool *tool)
{
	const struct options *opt = &tool->opt;

	if (tool->ndaemons > 1)
		return usage("cancel", "there are several mounts: choose one "
				       "with --mount");
	for (int i = 0; i < opt->nargs; i++) {
		json_t *obj = request("cancel");
		char *end;
		long long id;

		errno = 0;
		id = strtoll(opt->args[i], &end, 10);
		if (errno || *end || end == opt->args[i] || id <= 0) {
			json_decref(obj);
			return usage(opt->args[i], "is not the ID of a job");
		}
		json_object_set_new(obj, "job", json_integer(id));
		session_ask(tool, &tool->daemons[0], obj, print_move);
	}
	return -1;
}

static int drain(struct tool *tool)
{
	const struct options *opt = &tool->opt;
	json_t *obj = request("drain");
	struct daemon *d = tool->daemons;
	char *mount;

	if (tool->ndaemons > 1) {
		json_decref(obj);
		return usage("drain", "there are several mounts: choose one "
				      "with --mount");
	}
	if (!opt->json && !opt->quiet && isatty(2))
		json_object_set_new(obj, "progress", json_true());
	session_ask(tool, d, obj, print_move);
	print_clear();
	if (tool->failed || tool->denied || opt->json || opt->quiet)
		return -1;
	mount = print_safe(d->mount);
	printf("%s is drained. When it is unmounted, its front is a plain "
	       "directory;\n.tierfs there, and %s in the targets, are not "
	       "needed any more.\n",
	       mount ? mount : "It", d->name);
	free(mount);
	return -1;
}

static int run(struct tool *tool)
{
	const struct options *opt = &tool->opt;
	const char *name = opt->command->name;
	int ret = -1;

	if (opt->command->paths && (opt->nargs > 0 || opt->files_from)) {
		session_paths(tool);
		if (!opt->command->reads)
			print_summary(tool);
	} else if (!strcmp(name, "status")) {
		ask_all(tool, print_mount);
	} else if (!strcmp(name, "report")) {
		ask_all(tool, print_report);
	} else if (!strcmp(name, "queue")) {
		ask_all(tool, print_job);
	} else if (!strcmp(name, "check")) {
		if (opt->front)
			check_front(tool);
		else
			check_mounts(tool);
	} else if (!strcmp(name, "drain")) {
		ret = drain(tool);
	} else if (!strcmp(name, "policy")) {
		ret = policy_command(tool);
	} else if (!strcmp(name, "top")) {
		top_command(tool);
	} else if (!strcmp(name, "metrics")) {
		ask_all(tool, print_metric);
		if (!tool->denied)
			print_metrics_end();
	} else {
		ret = cancel(tool);
	}
	return ret;
}

int main(int argc, char **argv)
{
	struct tool tool = {0};
	int ret;

	ret = find_parse(&argc, argv, &tool.opt);
	if (ret < 0)
		ret = parse(argc, argv, &tool.opt);
	if (ret < 0)
		ret = check(&tool.opt);
	if (ret < 0)
		ret = check_keep(&tool.opt);
	if (ret < 0 && !tool.opt.front && !daemons_find(&tool))
		ret = EXIT_NONE;
	if (ret < 0)
		ret = run(&tool);
	if (ret < 0) {
		ret = EXIT_DONE;
		if (tool.failed || (tool.none && tool.asked))
			ret = EXIT_SOME;
		else if (tool.denied || tool.none)
			ret = EXIT_NONE;
	}
	daemons_free(&tool);
	free(tool.opt.targets);
	json_decref(tool.opt.filter);
	if (fflush(stdout) || ferror(stdout)) {
		complain("standard output", strerror(errno));
		ret = ret == EXIT_DONE ? EXIT_SOME : ret;
	}
	return ret;
}
