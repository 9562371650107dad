/* SPDX-License-Identifier: MIT */

/*
 * tierfs: mounts a tier and serves it.
 *
 * The process that was started waits, unless -f, for the one that serves: a
 * byte through a pipe says that the mount answers, its end without one that it
 * never will. Until then the server's warnings and errors go to the starter's
 * stderr, too. The fork comes before anything is opened: locks, threads and SQLite do not
 * survive one.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "cleanup.h"
#include "config.h"
#include "control.h"
#include "fs.h"
#include "log.h"
#include "main_leave.h"
#include "main_reload.h"
#include "main_remount.h"
#include "main_stack.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

struct daemon {
	const struct config *config; /* as it was mounted */
	/* As it was remounted, or NULL; under remount_lock. */
	struct config *remounted;
	pthread_mutex_t remount_lock;
	int ready_fd; /* the pipe to the starter, or -1 */
	struct stack stack;
	struct fs *fs;
	struct control *control;
	struct reload *reload;
};

static void tell_systemd(const char *state)
{
#ifdef HAVE_SYSTEMD
	sd_notify(0, state);
#else
	(void)state;
#endif
}

/* Lets go of the starter and its terminal. */
static void detach(struct daemon *daemon)
{
	int null;

	if (daemon->ready_fd < 0)
		return;
	log_leave_stderr();
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		close(null);
	}
	if (write(daemon->ready_fd, "1", 1) < 0)
		log_debug("the starter is gone");
	close(daemon->ready_fd);
	daemon->ready_fd = -1;
}

/* remount_lock is held. */
static const struct config *config_now(struct daemon *daemon)
{
	return daemon->remounted ? daemon->remounted : daemon->config;
}

/* Takes next over, unless it fails. remount_lock is held. */
static int adopt(struct daemon *daemon, struct config *next)
{
	int err = fs_retune(daemon->fs, next);

	if (err)
		return err;
	stack_retune(&daemon->stack, next);
	config_free(daemon->remounted);
	daemon->remounted = next;
	return 0;
}

/* -o remount: all of it, or nothing. */
static int change(void *arg, char *const *options, bool check, char **ret_why)
{
	struct daemon *daemon = arg;
	struct config *next = NULL;
	int err;

	pthread_mutex_lock(&daemon->remount_lock);
	err = config_remount(config_now(daemon), options, &next, ret_why);
	if (!err && !check)
		err = adopt(daemon, next);
	if (!err && !check)
		log_info("remounted");
	else
		config_free(next);
	pthread_mutex_unlock(&daemon->remount_lock);
	return err;
}

/* SIGHUP: the same of the file. */
static void reload(void *arg)
{
	_cleanup_free_ char *why = NULL;
	struct daemon *daemon = arg;
	struct config *next = NULL;
	int err;

	pthread_mutex_lock(&daemon->remount_lock);
	err = config_reload(daemon->config, config_now(daemon), &next, &why);
	if (!err)
		err = adopt(daemon, next);
	if (!err) {
		log_info("configuration reloaded: %zu rules",
			 policy_rules_count(next->rules));
	} else {
		log_error("configuration not reloaded, the old one stays: %s",
			  why ? why : strerror(-err));
		config_free(next);
	}
	pthread_mutex_unlock(&daemon->remount_lock);
}

/* How requests come, and if it is the slower way, why. */
static void say_way(const struct config *config, bool io_uring, const char *why)
{
	if (io_uring)
		log_info("requests come over io_uring");
	else if (config->io_uring == URING_ON)
		log_warn("io_uring=on, but requests come by /dev/fuse: %s",
			 why);
	else
		log_info("requests come by /dev/fuse: %s", why);
}

/* The mount answers. */
static int ready(void *arg)
{
	struct daemon *daemon = arg;
	struct control_parts parts = {
		.tier = daemon->stack.tier,
		.mountpoint = daemon->config->mountpoint,
		.remount = change,
		.remount_arg = daemon,
	};
	_cleanup_free_ char *why = NULL;
	char no_passthrough[160], no_uring[160];
	int err;

	err = stack_serve(&daemon->stack);
	if (err) {
		log_error("starting the policy: %s", strerror(-err));
		return err;
	}
	parts.policy = daemon->stack.policy;
	parts.passthrough = fs_passthrough(daemon->fs, no_passthrough,
					   sizeof(no_passthrough));
	parts.passthrough_why = no_passthrough;
	parts.io_uring = fs_uring(daemon->fs, no_uring, sizeof(no_uring));
	parts.io_uring_why = no_uring;
	err = control_start(&parts, &daemon->control, &why);
	if (err) {
		log_error("%s", why ? why : strerror(-err));
		return err;
	}
	err = reload_start(reload, daemon, &daemon->reload);
	if (err) {
		log_error("starting a thread: %s", strerror(-err));
		return err;
	}
	if (!parts.passthrough &&
	    daemon->config->passthrough == PASSTHROUGH_AUTO)
		log_info("no passthrough: %s", no_passthrough);
	say_way(daemon->config, parts.io_uring, no_uring);
	tell_systemd("READY=1");
	detach(daemon);
	return 0;
}

static int serve(struct daemon *daemon)
{
	struct fs_parts parts = {.config = daemon->config};
	_cleanup_free_ char *why = NULL;
	int err = stack_open(daemon->config, &daemon->stack, &why);

	if (!err) {
		parts.front = daemon->stack.front;
		parts.nodes = daemon->stack.nodes;
		parts.tier = daemon->stack.tier;
		err = fs_mount(&parts, &daemon->fs, &why);
	}
	if (!err) {
		err = fs_serve(daemon->fs, ready, daemon, &why);
		front_ending(daemon->stack.front);
		tell_systemd("STOPPING=1");
		fs_leave(daemon->fs);
		leave_begin(&daemon->stack);
		leave_may_hang(true);
		reload_stop(daemon->reload);
		if (daemon->control)
			control_stop(daemon->control);
		fs_end(daemon->fs);
		leave_may_hang(false);
	}
	stack_close(&daemon->stack);
	leave_end();
	if (err && why)
		log_error("%s", why);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* What the process is, whoever started it. */
static void prepare(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	/* File sizes are the client's to limit: a limit of ours would kill. */
	limit.rlim_cur = limit.rlim_max = RLIM_INFINITY;
	setrlimit(RLIMIT_FSIZE, &limit);
	signal(SIGXFSZ, SIG_IGN);
	reload_prepare();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGIO, SIG_IGN); /* a lease that is broken */
	/* Writing back the front's pages must not wait for this process, while
	 * it waits for memory that would be free after that. */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	umask(022);
}

/* The starter: 0 when the child says that the mount answers. */
static int await(int fd)
{
	ssize_t n;
	char byte;

	do {
		n = read(fd, &byte, 1);
	} while (n < 0 && errno == EINTR);
	return n == 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Forks; returns in the child, in a session of its own. */
static void go_background(struct daemon *daemon)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0) {
		log_error("pipe: %s", strerror(errno));
		exit(EXIT_FAILURE);
	}
	pid = fork();
	if (pid < 0) {
		log_error("fork: %s", strerror(errno));
		exit(EXIT_FAILURE);
	}
	if (pid > 0) {
		close(fds[1]);
		_exit(await(fds[0]));
	}
	close(fds[0]);
	daemon->ready_fd = fds[1];
	log_to_system("tierfs");
	setsid();
	if (chdir("/") < 0)
		log_debug("chdir: %s", strerror(errno));
}

int main(int argc, char **argv)
{
	struct daemon daemon = {.ready_fd = -1,
				.remount_lock = PTHREAD_MUTEX_INITIALIZER};
	_cleanup_free_ char *why = NULL;
	struct config *config;
	int err, status;

	err = config_parse(argc, argv, &config, &why);
	if (err == -ECANCELED)
		return EXIT_SUCCESS;
	if (err) {
		fprintf(stderr, "tierfs: %s\n", why ? why : strerror(-err));
		return EXIT_FAILURE;
	}
	if (config->remount) {
		err = remount(config, &why);
		if (err)
			fprintf(stderr, "tierfs: %s\n",
				why ? why : strerror(-err));
		config_free(config);
		return err ? EXIT_FAILURE : EXIT_SUCCESS;
	}
	if (config->debug)
		log_set_level(LOG_LEVEL_DEBUG);
	daemon.config = config;
	if (!config->foreground)
		go_background(&daemon);
	prepare();
	status = serve(&daemon);
	config_free(daemon.remounted);
	config_free(config);
	return status;
}
