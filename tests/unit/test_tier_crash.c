/* SPDX-License-Identifier: MIT */

/*
 * The tier dies at each of its durable steps, and nothing is lost.
 *
 * Every scenario is run in a child that is killed at its first fault point,
 * then, anew, at its second, and so on until it survives. After each kill,
 * recovery is run in a child that is killed at its first point, then again on
 * what that left and killed at its second, and so on until it survives. Then
 * all is checked: contents, attributes, objects, .tierfs, and that what was
 * interrupted can be done. At last, every name in fault_names must have killed
 * somebody.
 *
 * TIERFS_CRASH_ONLY=SCENARIO[:N] runs that one alone, killed at the N-th point
 * alone. TIERFS_CRASH_STEP=N kills at every N-th, others in each run.
 */

#include "crash.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fault.h"
#include "invariants.h"
#include "tier_impl.h"
#include "util.h"

#define SMALL 70000
#define LARGE (2 * 1024 * 1024 + 77)

/* ---- scenarios ------------------------------------------------------------ */

static void do_ask(const char *name, enum tier_op op, enum tier_result expected)
{
	struct node *node = look(name);

	if (ask(node, op) != expected)
		fail_msg("%s: %s", name, last.reason);
	node_unref(node);
}

static void link_to(const char *name, const char *newname)
{
	struct node *node = look(name);
	struct file *f = file_of(newname);

	assert_int_equal(link_file(node, newname), 0);
	may_be(name);
	is_now(name);
	snprintf(f->name, sizeof(f->name), "%s", newname);
	f->alias = true;
	f->nstates = 1;
	f->states[0] = file_of(name)->states[0];
	node_unref(node);
}

static void prepare_new(void)
{
	new_file("a", SMALL);
	new_file("b", LARGE);
	new_file("c", 1);
	new_file("d", SMALL);
}

static void prepare_migrated(void)
{
	prepare_new();
	do_ask("a", TIER_MIGRATE, TIER_DONE);
	do_ask("b", TIER_MIGRATE, TIER_DONE);
}

static void prepare_released(void)
{
	prepare_new();
	do_ask("a", TIER_MIGRATE_RELEASE, TIER_DONE);
	do_ask("b", TIER_MIGRATE_RELEASE, TIER_DONE);
	do_ask("c", TIER_MIGRATE, TIER_DONE);
}

static void prepare_again(void)
{
	prepare_released();
	do_ask("a", TIER_RESTORE, TIER_DONE);
	do_ask("a", TIER_RELEASE, TIER_DONE);
}

static void write_log(const char *name)
{
	struct node *node = look(name);

	may_be(name)->patched = true;
	patch(node);
	is_now(name);
	node_unref(node);
}

static void prepare_dirty(void)
{
	prepare_released();
	write_log("a");
	write_log("b");
}

static void prepare_dirty_again(void)
{
	prepare_again();
	write_log("a");
}

static void prepare_links(void)
{
	prepare_new();
	link_to("a", "a2");
	link_to("b", "b2");
	do_ask("a", TIER_MIGRATE_RELEASE, TIER_DONE);
	do_ask("b", TIER_MIGRATE_RELEASE, TIER_DONE);
}

/* The ctime that was kept in the EA ended with the change. */
static void change_mode(const char *name)
{
	struct node *node = look(name);

	tier_meta_begin(rig.tier, node);
	assert_int_equal(fchmodat(rig.front->root_fd, name, 0600, 0), 0);
	tier_meta_end(rig.tier, node);
	node_unref(node);
	may_be(name);
	is_now(name);
}

static void prepare_links_chmod(void)
{
	prepare_links();
	change_mode("a");
	file_of("a2")->states[0] = file_of("a")->states[0];
}

static void prepare_migrated_chmod(void)
{
	prepare_migrated();
	change_mode("a");
}

static void prepare_released_chmod(void)
{
	prepare_released();
	change_mode("a");
}

static void run_migrate(void)
{
	do_ask("a", TIER_MIGRATE, TIER_DONE);
	do_ask("b", TIER_MIGRATE, TIER_DONE);
}

/* Nothing larger than that can be written, here as on the target. */
static void limit_file_size(rlim_t bytes)
{
	struct rlimit rl = {.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &rl), 0);
}

static void run_migrate_fails(void)
{
	limit_file_size(LARGE / 2);
	do_ask("b", TIER_MIGRATE, TIER_FAILED);
	limit_file_size(RLIM_INFINITY);
}

static void run_release(void)
{
	do_ask("a", TIER_RELEASE, TIER_DONE);
	do_ask("b", TIER_RELEASE, TIER_DONE);
}

static void run_release_dirty(void)
{
	do_ask("a", TIER_RELEASE, TIER_DONE);
	wait_settled();
}

static void run_migrate_release(void)
{
	do_ask("a", TIER_MIGRATE_RELEASE, TIER_DONE);
}

static void run_restore(void)
{
	do_ask("a", TIER_RESTORE, TIER_DONE);
}

static void run_restore_fails(void)
{
	limit_file_size(LARGE / 2);
	do_ask("b", TIER_RESTORE, TIER_FAILED);
	limit_file_size(RLIM_INFINITY);
}

static void run_write(void)
{
	struct node *node = look("a");
	struct state *s;

	s = may_be("a");
	s->patched = true;
	s->strict = false;
	patch(node);
	is_now("a");
	tier_settle(rig.tier, node);
	node_unref(node);
	wait_settled();
}

static void run_log(void)
{
	struct node *node = look("a");
	struct state *s = may_be("a");

	s->patched = true;
	s->strict = false;
	/* Twice the same is nothing new, but for the times. */
	file_of("a")->states[0].strict &= !file_of("a")->states[0].patched;
	assert_int_equal(open_file(node, O_RDWR), 0);
	assert_int_equal(write_at(node, "!", 1, 0), 0);
	assert_int_equal(sync_file(node), 0);
	assert_int_equal(truncate_to(node, SMALL), 0);
	tier_close(rig.tier, node, O_RDWR);
	is_now("a");
	node_unref(node);
	wait_settled();
}

/* It is restored because it may be written to, so the object goes. */
static void run_restore_open(void)
{
	struct node *node = look("a");

	assert_int_equal(open_file(node, O_RDWR), 0);
	do_ask("a", TIER_RESTORE, TIER_DONE);
	tier_close(rig.tier, node, O_RDWR);
	assert_int_equal(state_of(node), SPILL_NONE);
	node_unref(node);
	wait_settled();
}

static void run_limit(void)
{
	struct node *node = look("a");
	struct state *s = may_be("a");

	s->patched = true;
	s->strict = false;
	rig.config.dirty_entries = 0;
	tier_retune(rig.tier, &rig.config);
	patch(node);
	mover_drain(rig.mover);
	assert_int_equal(state_of(node), SPILL_NONE);
	is_now("a");
	node_unref(node);
	wait_settled();
}

static void run_restore_dirty(void)
{
	do_ask("a", TIER_RESTORE, TIER_DONE);
	do_ask("b", TIER_RESTORE, TIER_DONE);
	wait_settled();
}

/* What a power cut leaves: an entry that is not whole. */
static void run_torn(void)
{
	struct spill_ea ea;
	struct node *node;
	struct stat st;
	int fd = openat(rig.front->root_fd, "a", O_RDWR | O_APPEND);

	file_of("a")->states[0].strict = false;
	assert_int_equal(write(fd, "LOGE", 4), 4);
	assert_int_equal(front_ea_get(rig.front, fd, &ea), 0);
	ea.flags |= TIERFS_EA_F_LOGGING;
	assert_int_equal(front_ea_set(rig.front, fd, &ea), 0);
	close(fd);
	node = look("a");
	assert_int_equal(tier_getattr(rig.tier, node, &st, NULL), 0);
	node_unref(node);
	wait_settled();
}

static void run_link_dirty(void)
{
	struct node *node = look("a");

	file_of("a")->states[0].strict = false;
	assert_int_equal(link_file(node, "a2"), 0);
	node_unref(node);
	wait_settled();
}

static void run_write_nothing(void)
{
	struct node *node = look("a");

	assert_int_equal(open_file(node, O_RDWR), 0);
	tier_close(rig.tier, node, O_RDWR);
	tier_settle(rig.tier, node);
	node_unref(node);
	wait_settled();
}

static void run_truncate(void)
{
	struct node *node = look("a");
	struct state *s = may_be("a");

	s->size = 0;
	s->strict = false;
	assert_int_equal(open_file(node, O_WRONLY | O_TRUNC), 0);
	assert_int_equal(truncate_to(node, 0), 0);
	tier_close(rig.tier, node, O_WRONLY | O_TRUNC);
	is_now("a");
	node_unref(node);
	wait_settled();
}

static void run_unlink(void)
{
	may_be("a")->exists = false;
	assert_int_equal(tier_unlink(rig.tier, node_root(rig.nodes), "a"), 0);
	is_now("a");
	wait_settled();
}

static void run_unlink_open(void)
{
	struct node *node = look("a");

	assert_int_equal(open_file(node, O_RDONLY), 0);
	may_be("a")->exists = false;
	assert_int_equal(tier_unlink(rig.tier, node_root(rig.nodes), "a"), 0);
	is_now("a");
	tier_close(rig.tier, node, O_RDONLY);
	node_unref(node);
	wait_settled();
}

static void run_rename_over(void)
{
	struct node *root = node_root(rig.nodes);
	struct state *a = may_be("a"), *d = may_be("d");

	*a = file_of("d")->states[0];
	a->strict = false; /* a rename changes the ctime of what it renames */
	file_of("d")->states[0].strict = false;
	d->exists = false;
	assert_int_equal(tier_rename(rig.tier, root, "d", root, "a", 0), 0);
	is_now("a");
	is_now("d");
	wait_settled();
}

static void *migrate_idly(void *arg)
{
	ask_prio(arg, TIER_MIGRATE, MOVER_IDLE);
	return NULL;
}

/* A migration is stopped by an open for writing. */
static void run_cancel(void)
{
	struct node *node = look("b");
	pthread_t thread;

	copy_limit_set(rig.limit, 1 << 20);
	assert_int_equal(pthread_create(&thread, NULL, migrate_idly, node), 0);
	usleep(100000);
	assert_int_equal(open_file(node, O_RDWR), 0);
	tier_close(rig.tier, node, O_RDWR);
	pthread_join(thread, NULL);
	node_unref(node);
	wait_settled();
}

static const struct scenario {
	const char *name;
	void (*prepare)(void);
	void (*run)(void);
} scenarios[] = {
	{"migrate", prepare_new, run_migrate},
	{"migrate-fails", prepare_new, run_migrate_fails},
	{"migrate-cancelled", prepare_new, run_cancel},
	{"release", prepare_migrated, run_release},
	{"migrate-release", prepare_new, run_migrate_release},
	{"restore", prepare_released, run_restore},
	{"restore-again", prepare_again, run_restore},
	{"restore-fails", prepare_released, run_restore_fails},
	{"fill", prepare_links, run_restore},
	{"fill-fails", prepare_links, run_restore_fails},
	{"release-chmod", prepare_migrated_chmod, run_release},
	{"restore-chmod", prepare_released_chmod, run_restore},
	{"fill-chmod", prepare_links_chmod, run_restore},
	{"write-migrated", prepare_migrated, run_write},
	{"log", prepare_released, run_log},
	{"log-again", prepare_dirty, run_log},
	{"log-limit", prepare_released, run_limit},
	{"log-torn", prepare_dirty, run_torn},
	{"log-restore", prepare_dirty, run_restore_dirty},
	{"log-restore-again", prepare_dirty_again, run_restore},
	{"log-restore-open", prepare_released, run_restore_open},
	{"log-restore-fails", prepare_dirty, run_restore_fails},
	{"log-release", prepare_dirty, run_release_dirty},
	{"log-truncate", prepare_dirty, run_truncate},
	{"log-link", prepare_dirty, run_link_dirty},
	{"log-unlink", prepare_dirty, run_unlink},
	{"log-unlink-open", prepare_dirty_again, run_unlink_open},
	{"log-rename-over", prepare_dirty, run_rename_over},
	{"write-nothing", prepare_migrated, run_write_nothing},
	{"truncate-migrated", prepare_migrated, run_truncate},
	{"truncate-released", prepare_released, run_truncate},
	{"unlink-migrated", prepare_migrated, run_unlink},
	{"unlink-released", prepare_released, run_unlink},
	{"unlink-restored", prepare_again, run_unlink},
	{"unlink-open", prepare_again, run_unlink_open},
	{"rename-over", prepare_again, run_rename_over},
};

/* ---- children ------------------------------------------------------------- */

static void child_run(const void *arg, unsigned int nth)
{
	const struct scenario *s = arg;

	rig_up();
	s->prepare();
	wait_settled();
	assert_int_equal(fault_arm("*", nth, note_and_die), 0);
	s->run();
	fault_arm(NULL, 0, NULL);
	rig_down();
}

static void child_recover(const void *arg, unsigned int nth)
{
	(void)arg;
	assert_int_equal(fault_arm("*", nth, note_and_die), 0);
	rig_up();
	wait_settled();
	fault_arm(NULL, 0, NULL);
	rig_down();
}

static void child_verify(const void *arg, unsigned int nth)
{
	(void)arg;
	(void)nth;
	verify();
}

/* From point to point: more than 1 for a sanitizer that takes long. */
static unsigned int step(void)
{
	const char *value = getenv("TIERFS_CRASH_STEP");

	return value ? max_t(unsigned int, (unsigned int)atoi(value), 1) : 1;
}

/* False: the scenario was not killed: it has no more points. */
static bool crash_once(const struct scenario *s, unsigned int nth)
{
	char at[32], what[96];
	unsigned int again = nth % step();
	bool killed;

	crash_forget();
	shared->scenario = (unsigned int)(s - scenarios);
	rig_make(test_prefix());
	killed = in_child(child_run, s, nth, s->name);
	memcpy(at, shared->where, sizeof(at));
	snprintf(what, sizeof(what), "recovery of %s at %s", s->name, at);
	if (getenv("TIERFS_CRASH_ONLY"))
		print_message("%s %u: %s\n", s->name, nth, at);
	while (killed && again < 100 &&
	       in_child(child_recover, NULL, again + 1, what))
		again += step();
	snprintf(what, sizeof(what), "%s killed at %s, %u recoveries", s->name,
		 at, again);
	in_child(child_verify, NULL, nth, what);
	assert_int_equal(rig_remove(), 0);
	return killed;
}

static void test_scenario(void **state)
{
	const struct scenario *s = *state;
	const char *only = getenv("TIERFS_CRASH_ONLY");
	unsigned int nth = 1 + (unsigned int)getpid() % step(), end = 200;
	size_t len;

	if (only) {
		len = strcspn(only, ":");
		if (len != strlen(s->name) || strncmp(only, s->name, len))
			skip();
		if (only[len])
			nth = end = (unsigned int)atoi(only + len + 1);
	}
	while (nth <= end && crash_once(s, nth))
		nth += step();
}

/* Each point, how often it killed, and in which scenarios (or recoveries of
 * them): tools/fault-table reads this. */
static void test_all_passed(void **state)
{
	int missed = 0;

	(void)state;
	if (getenv("TIERFS_CRASH_ONLY") || step() > 1)
		skip();
	for (int i = 0; fault_names[i]; i++) {
		print_message("fault %s %u", fault_names[i], shared->killed[i]);
		for (size_t k = 0; k < ARRAY_SIZE(scenarios); k++)
			if (shared->killed_in[i][k])
				print_message(" %s", scenarios[k].name);
		print_message("\n");
		missed += !shared->killed[i];
	}
	assert_int_equal(missed, 0);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_SIZE(scenarios) + 1];
	size_t n = 0;

	_Static_assert(ARRAY_SIZE(scenarios) <= MAX_SCENARIOS, "crash.h");
	crash_init();
	for (; n < ARRAY_SIZE(scenarios); n++)
		tests[n] = (struct CMUnitTest){.name = scenarios[n].name,
					       .test_func = test_scenario,
					       .initial_state =
						       (void *)&scenarios[n]};
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_all_passed);
	return _cmocka_run_group_tests("crash", tests, n, NULL, NULL);
}
