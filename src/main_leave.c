/* SPDX-License-Identifier: MIT */
/*
 * Ending although a target hangs.
 *
 * What is in the kernel, waiting for a disk that does not answer, cannot be
 * called back: not a system call, not an operation of a ring. Its thread is
 * there until the disk answers, and so is the process, and what it has open.
 * But umount(8) and the next mount must not wait for that, so the front is let
 * go of by hand.
 *
 * On the front that is a crash, for which everything is made: what was under way
 * is undone or finished at the next mount. Before it the front is synced, and the
 * counts are saved, so nothing else is lost.
 *
 * A thread that comes back from the target meanwhile must not touch a front
 * that is another daemon's already. So every descriptor that leads there is
 * replaced by one that leads nowhere, the lock's last, before the process ends
 * and with it all of its threads but those in the kernel. Sockets go too, or the
 * next daemon would take this one for alive. Those of the target stay: to close
 * them may hang as well.
 *
 * The main thread may come back, too: it stops at its next mark.
 */
#include "main_leave.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "front.h"
#include "log.h"
#include "main_stack.h"
#include "tier.h"
#include "tierfs/target.h"
#include "util.h"

#define LIMIT_NS  (5 * NSEC_PER_SEC)
#define WAITED_NS NSEC_PER_SEC

static struct {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct stack *stack; /* NULL: not leaving */
	bool may_hang;
	bool tier_ends;
	bool ended;
} leave = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- letting go ------------------------------------------------------------ */

/* Without asking the file system, which may be the one that hangs. */
static bool look(int fd, struct statx *ret)
{
	return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
		     STATX_TYPE | STATX_MNT_ID, ret) == 0;
}

/* Not by dup3(): to ThreadSanitizer a descriptor is memory, which others use
 * here while it is changed. They are meant to. */
static void replace(int nowhere, int fd)
{
	syscall(SYS_dup3, nowhere, fd, O_CLOEXEC);
}

static void replace_all(int nowhere, uint64_t mount, int lock_fd)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		int fd = atoi(entry->d_name);
		struct statx st;

		if (entry->d_name[0] == '.' || fd <= STDERR_FILENO ||
		    fd == nowhere || fd == lock_fd || fd == dirfd(dir) ||
		    !look(fd, &st))
			continue;
		if (st.stx_mnt_id == mount || S_ISSOCK(st.stx_mode))
			replace(nowhere, fd);
	}
	if (dir)
		closedir(dir);
}

static void let_go(struct front *front)
{
	int nowhere = open("/proc/self", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct statx st;

	if (nowhere < 0 || !look(front->root_fd, &st))
		return;
	/* New ones come by these. */
	replace(nowhere, front->root_fd);
	replace(nowhere, front->meta_fd);
	if (front->given_fd >= 0)
		replace(nowhere, front->given_fd);
	if (front->mount_fd >= 0)
		replace(nowhere, front->mount_fd);
	replace_all(nowhere, st.stx_mnt_id, front->lock_fd);
	replace_all(nowhere, st.stx_mnt_id, front->lock_fd);
	close(front->lock_fd);
}

static void name_target(const struct stack *stack, char *buf, size_t len)
{
	snprintf(buf, len, "a target");
	for (unsigned int i = 0; !leave.tier_ends && i < TIERFS_TARGETS_MAX;
	     i++) {
		struct target *target = stack->targets[i];

		if (target && target_oldest_wait(target) > WAITED_NS) {
			snprintf(buf, len, "target %s", target_name(target));
			return;
		}
	}
}

/* leave.lock is held, and kept. */
static void give_up(struct stack *stack)
{
	char name[64];

	name_target(stack, name, sizeof(name));
	log_error("%s does not answer: ending without it; what was under way "
		  "there is settled by the next mount",
		  name);
	if (!leave.tier_ends && stack->tier)
		tier_abandon(stack->tier);
	if (stack->front)
		let_go(stack->front);
	_exit(EXIT_SUCCESS);
}

/* ---- watching --------------------------------------------------------------- */

static void *watch(void *arg)
{
	struct timespec until = timespec_from_ns(monotonic_ns() + LIMIT_NS);

	pthread_mutex_lock(&leave.lock);
	while (!leave.ended)
		if (pthread_cond_timedwait(&leave.cond, &leave.lock, &until) ==
		    ETIMEDOUT)
			break;
	while (!leave.ended && !leave.may_hang)
		pthread_cond_wait(&leave.cond, &leave.lock);
	if (!leave.ended)
		give_up(leave.stack);
	pthread_mutex_unlock(&leave.lock);
	return NULL;
}

void leave_begin(struct stack *stack)
{
	pthread_condattr_t attr;
	pthread_t thread;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&leave.cond, &attr);
	pthread_condattr_destroy(&attr);
	leave.stack = stack;
	/* Without the thread it waits for ever, as a target may. */
	if (thread_start(&thread, "leave", watch, NULL))
		log_warn("no thread to watch the end");
	else
		pthread_detach(thread);
}

void leave_may_hang(bool may)
{
	pthread_mutex_lock(&leave.lock);
	leave.may_hang = may;
	if (leave.stack)
		pthread_cond_broadcast(&leave.cond);
	pthread_mutex_unlock(&leave.lock);
}

void leave_tier_ends(void)
{
	pthread_mutex_lock(&leave.lock);
	leave.tier_ends = true;
	pthread_mutex_unlock(&leave.lock);
}

void leave_end(void)
{
	pthread_mutex_lock(&leave.lock);
	leave.ended = true;
	if (leave.stack)
		pthread_cond_broadcast(&leave.cond);
	pthread_mutex_unlock(&leave.lock);
}
