/* SPDX-License-Identifier: MIT */
#include "main_reload.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cleanup.h"
#include "util.h"

struct reload {
	pthread_t thread;
	int signal_fd, stop_fd;
	void (*fn)(void *arg);
	void *arg;
};

static void reload_free(struct reload *reload)
{
	if (reload->signal_fd >= 0)
		close(reload->signal_fd);
	if (reload->stop_fd >= 0)
		close(reload->stop_fd);
	free(reload);
}

static void freep(struct reload **reload)
{
	if (*reload)
		reload_free(*reload);
}

static void hangup(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGHUP);
}

void reload_prepare(void)
{
	sigset_t set;

	hangup(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	/* libfuse leaves alone what is not the default, which is to end. What
	 * is blocked reaches the descriptor though it is ignored. */
	signal(SIGHUP, SIG_IGN);
}

static void *run(void *arg)
{
	struct reload *reload = arg;
	struct pollfd fds[] = {
		{.fd = reload->stop_fd, .events = POLLIN},
		{.fd = reload->signal_fd, .events = POLLIN},
	};
	struct signalfd_siginfo info;

	for (;;) {
		if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
			return NULL;
		if (fds[0].revents)
			return NULL;
		if (read(reload->signal_fd, &info, sizeof(info)) ==
		    sizeof(info))
			reload->fn(reload->arg);
	}
}

int reload_start(void (*fn)(void *arg), void *arg, struct reload **ret)
{
	_cleanup_(freep) struct reload *reload = calloc(1, sizeof(*reload));
	sigset_t set;
	int err;

	if (!reload)
		return -ENOMEM;
	hangup(&set);
	reload->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	reload->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (reload->signal_fd < 0 || reload->stop_fd < 0)
		return -errno;
	reload->fn = fn;
	reload->arg = arg;
	err = thread_start(&reload->thread, "reload", run, reload);
	if (err)
		return err;
	*ret = steal_ptr(&reload);
	return 0;
}

void reload_stop(struct reload *reload)
{
	if (!reload)
		return;
	eventfd_write(reload->stop_fd, 1);
	pthread_join(reload->thread, NULL);
	reload_free(reload);
}
