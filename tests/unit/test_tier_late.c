/* SPDX-License-Identifier: MIT */

/*
 * Intents that are in the journal for longer than they are needed, while their
 * file is swapped, which they do not know. Recovery must not take one, which
 * leads to the old stub, for a copy that nobody names.
 *
 * Late: a thread syncs the front for a migration that is just committed, and is held
 * up before it reports the intent. Meanwhile the file is released and restored,
 * and then everything dies.
 *
 * Never came: who opens a released file to cut it off is interrupted while the
 * intent is on its way.
 *
 * Unchanged: the file was open for writing, was released, which syncs it alone, and
 * is restored, by the same daemon or, after a crash, by the next.
 *
 * Not applied: the file is restored while it is open for writing, so that its object
 * is to go; but the restore is cancelled, or everything dies, and the next is one
 * that keeps the object.
 *
 * And what the ctime is of a file whose copy is suspect.
 */

#include "crash.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "fault.h"
#include "tier_impl.h"
#include "util.h"

static sem_t held, go;

static void hold(const char *name)
{
	struct timespec until;

	(void)name;
	sem_post(&held);
	/* With the others kept waiting for it, it goes on by itself. */
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 1;
	sem_timedwait(&go, &until);
}

static void *sync_main(void *arg)
{
	tier_sync(rig.tier);
	return arg;
}

static void begin_sync(const char *name)
{
	pthread_t thread;

	(void)name;
	fault_arm("sync-synced", 1, hold);
	pthread_create(&thread, NULL, sync_main, NULL);
	pthread_detach(thread);
	sem_wait(&held);
}

static struct node *a_file(void)
{
	sem_init(&held, 0, 0);
	sem_init(&go, 0, 0);
	rig_up();
	new_file("a", 70000);
	return look("a");
}

static void child_run(const void *arg, unsigned int nth)
{
	static const enum tier_op ops[] = {TIER_MIGRATE, TIER_RELEASE,
					   TIER_RESTORE};
	struct node *node;

	(void)arg;
	(void)nth;
	node = a_file();
	assert_int_equal(fault_arm("migrate-committed", 1, begin_sync), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(ask(node, ops[i]), TIER_DONE);
	kill(getpid(), SIGKILL);
}

static void child_verify(const void *arg, unsigned int nth)
{
	(void)arg;
	(void)nth;
	verify();
}

typedef void child_fn(const void *arg, unsigned int nth);

/* next, if there is one, dies after it, on what that left. */
static void die_and_are_whole(child_fn *child, child_fn *next, const char *what)
{
	crash_forget();
	rig_make(test_prefix());
	assert_true(in_child(child, NULL, 0, what));
	if (next)
		assert_true(in_child(next, NULL, 0, what));
	in_child(child_verify, NULL, 0, what);
	assert_int_equal(rig_remove(), 0);
}

static void test_late(void **state)
{
	(void)state;
	die_and_are_whole(child_run, NULL, "late");
}

/* Too late to be interrupted; but this client does not try again either. */
static void no_resume(struct tier_wait *wait, int err)
{
	(void)wait;
	(void)err;
}

/* Is an intent there, or on its way? */
static bool has_intent(struct node *node)
{
	bool ret;

	pthread_mutex_lock(&node->lock);
	ret = node->file &&
	      (node->file->write_intent || node->file->journaling);
	pthread_mutex_unlock(&node->lock);
	return ret;
}

static void child_interrupted(const void *arg, unsigned int nth)
{
	struct tier_wait wait = {.resume = no_resume};
	struct node *node;

	(void)arg;
	(void)nth;
	node = a_file();
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_DONE);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	/* A sync that would report it is held up. */
	assert_int_equal(fault_arm("sync-synced", 1, hold), 0);
	assert_int_equal(tier_open(rig.tier, node, O_RDWR | O_TRUNC, &wait),
			 -EINPROGRESS);
	tier_wait_cancel(node, &wait);
	while (has_intent(node))
		usleep(1000);
	assert_int_equal(ask(node, TIER_RESTORE), TIER_DONE);
	kill(getpid(), SIGKILL);
}

static void test_never_came(void **state)
{
	(void)state;
	die_and_are_whole(child_interrupted, NULL, "never came");
}

static void release_unchanged(void)
{
	struct node *node = a_file();

	assert_int_equal(ask(node, TIER_MIGRATE), TIER_DONE);
	assert_int_equal(open_file(node, O_RDWR), 0);
	tier_close(rig.tier, node, O_RDWR);
	tier_settle(rig.tier, node);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	node_unref(node);
}

static void restore_and_die(void)
{
	struct node *node = look("a");

	assert_int_equal(ask(node, TIER_RESTORE), TIER_DONE);
	kill(getpid(), SIGKILL);
}

static void child_unchanged(const void *arg, unsigned int nth)
{
	(void)arg;
	(void)nth;
	release_unchanged();
	restore_and_die();
}

static void child_dies_released(const void *arg, unsigned int nth)
{
	(void)arg;
	(void)nth;
	release_unchanged();
	kill(getpid(), SIGKILL);
}

static void child_restores(const void *arg, unsigned int nth)
{
	(void)arg;
	(void)nth;
	rig_up();
	restore_and_die();
}

static void test_unchanged(void **state)
{
	(void)state;
	die_and_are_whole(child_unchanged, NULL, "unchanged");
	die_and_are_whole(child_dies_released, child_restores,
			  "unchanged, next");
}

static struct node *applied;

static void cancel_restore(const char *name)
{
	(void)name;
	pthread_mutex_lock(&applied->lock);
	tier_move_cancel(applied->file);
	pthread_mutex_unlock(&applied->lock);
}

static void restore_while_open(void (*then)(const char *name))
{
	applied = a_file();
	assert_int_equal(ask(applied, TIER_MIGRATE), TIER_DONE);
	assert_int_equal(ask(applied, TIER_RELEASE), TIER_DONE);
	assert_int_equal(open_file(applied, O_RDWR), 0);
	assert_int_equal(state_of(applied), SPILL_RELEASED);
	assert_int_equal(fault_arm("apply-journaled", 1, then), 0);
	assert_int_equal(ask(applied, TIER_RESTORE), TIER_FAILED);
	tier_close(rig.tier, applied, O_RDWR);
}

static void child_cancelled(const void *arg, unsigned int nth)
{
	(void)arg;
	(void)nth;
	restore_while_open(cancel_restore);
	restore_and_die();
}

static void child_dies_applying(const void *arg, unsigned int nth)
{
	(void)arg;
	(void)nth;
	restore_while_open(note_and_die);
}

static void test_not_applied(void **state)
{
	(void)state;
	die_and_are_whole(child_cancelled, NULL, "cancelled");
	die_and_are_whole(child_dies_applying, child_restores,
			  "applying, next");
}

static struct node *suspect_file(void)
{
	struct node *node = a_file();

	assert_int_equal(ask(node, TIER_MIGRATE), TIER_DONE);
	assert_int_equal(open_file(node, O_RDWR), 0);
	return node;
}

static int64_t ctime_of(struct node *node)
{
	struct stat st;

	assert_int_equal(tier_getattr(rig.tier, node, &st, NULL), 0);
	return timespec_to_ns(st.st_ctim);
}

/* As ext4's fallocate() leaves it: ctime is later than mtime. */
static void child_ctime(const void *arg, unsigned int nth)
{
	struct node *node;
	int64_t ctime;

	(void)arg;
	(void)nth;
	node = suspect_file();
	may_be("a")->patched = true;
	patch(node);
	ctime = ctime_of(node);
	assert_int_equal(fchmodat(rig.front->root_fd, "a", 0640, 0), 0);
	assert_true(ctime_of(node) > ctime);
	is_now("a");
	kill(getpid(), SIGKILL);
}

static void test_ctime(void **state)
{
	(void)state;
	die_and_are_whole(child_ctime, NULL, "ctime");
}

/* A rename over a file gives that a second name first, which changes the ctime of
 * its inode: here while it has a log that is not settled. */
static void child_renames_over(const void *arg, unsigned int nth)
{
	struct node *node = a_file();

	(void)arg;
	(void)nth;
	new_file("b", 100);
	assert_int_equal(ask(node, TIER_MIGRATE), TIER_DONE);
	assert_int_equal(ask(node, TIER_RELEASE), TIER_DONE);
	may_be("a")->patched = true;
	patch(node);
	assert_int_equal(state_of(node), SPILL_DIRTY);
	is_now("a");
	usleep(20000); /* a tick of the front's clock */
	assert_int_equal(fault_arm("rename-linked", 1, note_and_die), 0);
	tier_rename(rig.tier, node_root(rig.nodes), "b", node_root(rig.nodes),
		    "a", 0);
}

static void test_renames_over(void **state)
{
	(void)state;
	die_and_are_whole(child_renames_over, NULL, "rename over");
}

/* The EA is set for other reasons while the file is open for writing. */
static void child_pinned(const void *arg, unsigned int nth)
{
	struct node *node;
	int64_t ctime;

	(void)arg;
	(void)nth;
	node = suspect_file();
	ctime = ctime_of(node);
	assert_int_equal(tier_pin(rig.tier, node, true), 0);
	assert_true(ctime_of(node) == ctime);
	patch(node);
	ctime = ctime_of(node);
	assert_int_equal(tier_pin(rig.tier, node, false), 0);
	assert_true(ctime_of(node) == ctime);
	tier_close(rig.tier, node, O_RDWR);
	tier_settle(rig.tier, node);
	assert_int_equal(state_of(node), SPILL_NONE);
	assert_true(ctime_of(node) == ctime);
	node_unref(node);
	rig_down();
}

static void test_pinned(void **state)
{
	(void)state;
	crash_forget();
	rig_make(test_prefix());
	assert_false(in_child(child_pinned, NULL, 0, "pinned"));
	assert_int_equal(rig_remove(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_late),
		cmocka_unit_test(test_never_came),
		cmocka_unit_test(test_unchanged),
		cmocka_unit_test(test_not_applied),
		cmocka_unit_test(test_ctime),
		cmocka_unit_test(test_pinned),
		cmocka_unit_test(test_renames_over),
	};

	crash_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
