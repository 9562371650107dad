/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_TESTS_RIG_H
#define TIERFS_TESTS_RIG_H

/*
 * The tier without FUSE: a real front and a real target in directories of
 * their own, journal, mover, rings. One at a time.
 */

#include "check.h"

#include "tier.h"

struct rig {
	char dir[64], front_path[80], target_path[80];
	struct config config;
	struct front *front;
	struct node_table *nodes;
	struct journal *journal;
	struct mover *mover;
	struct ring *ring;
	struct target *targets[1];
	struct copy_limit *limit;
	struct tier *tier;
};
extern struct rig rig;

/* Makes the directories, in PREFIX.XXXXXX; removes them. */
void rig_make(const char *prefix);
int rig_remove(void);
/* What a mount does, recovery included, and what an unmount does. */
void rig_up(void);
void rig_down(void);

/* ---- doing one thing and waiting for it: for any thread ---------------- */

/* A file behind the mount, of a content that depends on its name. */
void make(const char *name, size_t size);
struct node *look(const char *name);

/* The answer to the thread's last ask(). */
extern _Thread_local struct tier_request last;
enum tier_result ask(struct node *node, enum tier_op op);
enum tier_result ask_prio(struct node *node, enum tier_op op,
			  enum mover_prio prio);

int open_file(struct node *node, int flags);
int link_file(struct node *node, const char *newname);
int make_resident(struct node *node);
/* Of a file open for writing, wherever its data is. */
int write_at(struct node *node, const void *buf, size_t len, uint64_t off);
int truncate_to(struct node *node, uint64_t size);
int zero_at(struct node *node, uint64_t off, uint64_t len, bool extend);
int sync_file(struct node *node);
int64_t read_at(struct node *node, void *buf, size_t len, uint64_t off);
/* By who; ret_kept_off may be NULL. */
int64_t read_as(struct node *node, void *buf, size_t len, uint64_t off,
		const struct tier_who *who, bool *ret_kept_off);
/* Opens, reads and compares with what make() wrote. */
void check_data(struct node *node, const char *name, size_t size);

enum spill_state state_of(struct node *node);
uint64_t front_bytes(const char *name);
/* Waits for the background to delete the others. */
void expect_objects(int expected);
void assert_same_stat(const struct stat *a, const struct stat *b);

#endif
