/* SPDX-License-Identifier: MIT */
/*
 * One cell for each state and event, and a few that a suspect copy changes.
 *
 * The copies of RELEASED and DIRTY are the only data there is. So nothing but
 * an event that ends the contents (truncate to zero, unlink) or the return of
 * the data to the front deletes them; in particular no close does, whatever it
 * claims, and no suspicion: that is about a copy whose file is on the front.
 * Not even truncating a DIRTY file to zero does: a durable EA that still says
 * DIRTY would then have neither log nor object.
 *
 * A write under way and a copy under way exclude each other: an event that
 * changes MIGRATING cancels the copy, even where it should not arise.
 */
#include "state.h"

#include <errno.h>

#include "util.h"

#define AS_IS(state)                                                           \
	{                                                                      \
		.next = (state)                                                \
	}
#define TO(state, act)                                                         \
	{                                                                      \
		.next = (state), .actions = (act)                              \
	}
#define NO(state, e)                                                           \
	{                                                                      \
		.err = -(e), .next = (state)                                   \
	}

#define DELETED	  TO(SPILL_NONE, ACT_DELETE_OBJECT)
#define CANCELLED TO(SPILL_NONE, ACT_CANCEL_COPY | ACT_DELETE_OBJECT)

/* clang-format off */
static const struct state_result table[SPILL_STATES][STATE_EVENTS] = {
	[SPILL_NONE] = {
		[EVENT_MIGRATE] = TO(SPILL_MIGRATING, ACT_COPY_OUT),
		/* A copy that was cancelled: its object is being deleted. */
		[EVENT_MIGRATE_DONE] = NO(SPILL_NONE, EINVAL),
		[EVENT_MIGRATE_FAIL] = NO(SPILL_NONE, EINVAL),
		[EVENT_RELEASE] = NO(SPILL_NONE, EINVAL),
		[EVENT_OPEN_WRITE] = AS_IS(SPILL_NONE),
		[EVENT_OPEN_RESIDENT] = AS_IS(SPILL_NONE),
		[EVENT_CLOSE_SAME] = AS_IS(SPILL_NONE),
		[EVENT_CLOSE_CHANGED] = AS_IS(SPILL_NONE),
		[EVENT_TRUNCATE_ZERO] = AS_IS(SPILL_NONE),
		[EVENT_TRUNCATE] = AS_IS(SPILL_NONE),
		[EVENT_READ] = AS_IS(SPILL_NONE),
		[EVENT_READ_OFTEN] = AS_IS(SPILL_NONE),
		[EVENT_RESTORE] = NO(SPILL_NONE, EALREADY),
		[EVENT_RESTORE_DONE] = NO(SPILL_NONE, EINVAL),
		[EVENT_WRITE] = AS_IS(SPILL_NONE),
		[EVENT_UNLINK] = AS_IS(SPILL_NONE),
		[EVENT_LINK] = AS_IS(SPILL_NONE),
	},
	[SPILL_MIGRATING] = {
		[EVENT_MIGRATE] = NO(SPILL_MIGRATING, EBUSY),
		[EVENT_MIGRATE_DONE] = AS_IS(SPILL_MIGRATED),
		[EVENT_MIGRATE_FAIL] = DELETED,
		[EVENT_RELEASE] = NO(SPILL_MIGRATING, EBUSY),
		[EVENT_OPEN_WRITE] = CANCELLED,
		[EVENT_OPEN_RESIDENT] = CANCELLED,
		[EVENT_CLOSE_SAME] = AS_IS(SPILL_MIGRATING),
		[EVENT_CLOSE_CHANGED] = CANCELLED,
		[EVENT_TRUNCATE_ZERO] = CANCELLED,
		[EVENT_TRUNCATE] = CANCELLED,
		[EVENT_READ] = AS_IS(SPILL_MIGRATING),
		[EVENT_READ_OFTEN] = AS_IS(SPILL_MIGRATING),
		[EVENT_RESTORE] = NO(SPILL_MIGRATING, EALREADY),
		[EVENT_RESTORE_DONE] = NO(SPILL_MIGRATING, EINVAL),
		[EVENT_WRITE] = CANCELLED,
		[EVENT_UNLINK] = CANCELLED,
		[EVENT_LINK] = AS_IS(SPILL_MIGRATING),
	},
	[SPILL_MIGRATED] = {
		[EVENT_MIGRATE] = NO(SPILL_MIGRATED, EALREADY),
		[EVENT_MIGRATE_DONE] = NO(SPILL_MIGRATED, EINVAL),
		[EVENT_MIGRATE_FAIL] = NO(SPILL_MIGRATED, EINVAL),
		[EVENT_RELEASE] = TO(SPILL_RELEASED, ACT_DROP_DATA),
		[EVENT_OPEN_WRITE] = TO(SPILL_MIGRATED, ACT_SUSPECT),
		[EVENT_OPEN_RESIDENT] = TO(SPILL_MIGRATED, ACT_SUSPECT),
		[EVENT_CLOSE_SAME] = AS_IS(SPILL_MIGRATED),
		[EVENT_CLOSE_CHANGED] = DELETED,
		[EVENT_TRUNCATE_ZERO] = DELETED,
		[EVENT_TRUNCATE] = DELETED,
		[EVENT_READ] = AS_IS(SPILL_MIGRATED),
		[EVENT_READ_OFTEN] = AS_IS(SPILL_MIGRATED),
		[EVENT_RESTORE] = NO(SPILL_MIGRATED, EALREADY),
		[EVENT_RESTORE_DONE] = NO(SPILL_MIGRATED, EINVAL),
		[EVENT_WRITE] = TO(SPILL_MIGRATED, ACT_SUSPECT),
		[EVENT_UNLINK] = DELETED,
		[EVENT_LINK] = AS_IS(SPILL_MIGRATED),
	},
	[SPILL_RELEASED] = {
		[EVENT_MIGRATE] = NO(SPILL_RELEASED, EALREADY),
		[EVENT_MIGRATE_DONE] = NO(SPILL_RELEASED, EINVAL),
		[EVENT_MIGRATE_FAIL] = NO(SPILL_RELEASED, EINVAL),
		[EVENT_RELEASE] = NO(SPILL_RELEASED, EALREADY),
		[EVENT_OPEN_WRITE] = AS_IS(SPILL_RELEASED),
		[EVENT_OPEN_RESIDENT] = TO(SPILL_RELEASED, ACT_RESTORE_FIRST),
		[EVENT_CLOSE_SAME] = AS_IS(SPILL_RELEASED),
		[EVENT_CLOSE_CHANGED] = NO(SPILL_RELEASED, EINVAL),
		[EVENT_TRUNCATE_ZERO] = DELETED,
		[EVENT_TRUNCATE] = AS_IS(SPILL_DIRTY),
		[EVENT_READ] = TO(SPILL_RELEASED, ACT_READ_OBJECT),
		[EVENT_READ_OFTEN] = TO(SPILL_RELEASED,
					ACT_READ_OBJECT | ACT_RESTORE),
		[EVENT_RESTORE] = TO(SPILL_RELEASED, ACT_RESTORE),
		[EVENT_RESTORE_DONE] = AS_IS(SPILL_MIGRATED),
		[EVENT_WRITE] = AS_IS(SPILL_DIRTY),
		[EVENT_UNLINK] = DELETED,
		[EVENT_LINK] = AS_IS(SPILL_RELEASED),
	},
	[SPILL_DIRTY] = {
		[EVENT_MIGRATE] = NO(SPILL_DIRTY, EBUSY),
		[EVENT_MIGRATE_DONE] = NO(SPILL_DIRTY, EINVAL),
		[EVENT_MIGRATE_FAIL] = NO(SPILL_DIRTY, EINVAL),
		[EVENT_RELEASE] = TO(SPILL_DIRTY, ACT_RESTORE_FIRST),
		[EVENT_OPEN_WRITE] = AS_IS(SPILL_DIRTY),
		[EVENT_OPEN_RESIDENT] = AS_IS(SPILL_DIRTY),
		[EVENT_CLOSE_SAME] = AS_IS(SPILL_DIRTY),
		[EVENT_CLOSE_CHANGED] = AS_IS(SPILL_DIRTY),
		/* The log is what says so. */
		[EVENT_TRUNCATE_ZERO] = TO(SPILL_DIRTY, ACT_RESTORE),
		[EVENT_TRUNCATE] = AS_IS(SPILL_DIRTY),
		[EVENT_READ] = TO(SPILL_DIRTY, ACT_READ_OBJECT),
		[EVENT_READ_OFTEN] = TO(SPILL_DIRTY,
					ACT_READ_OBJECT | ACT_RESTORE),
		[EVENT_RESTORE] = TO(SPILL_DIRTY, ACT_RESTORE),
		/* The log was applied: the object is not the file any more. */
		[EVENT_RESTORE_DONE] = DELETED,
		[EVENT_WRITE] = AS_IS(SPILL_DIRTY),
		[EVENT_UNLINK] = DELETED,
		[EVENT_LINK] = TO(SPILL_DIRTY, ACT_RESTORE_FIRST),
	},
};

/* What is different while the file is, or may still be, written to. */
static const struct {
	enum spill_state state;
	enum state_event event;
	struct state_result result;
} suspects[] = {
	{SPILL_NONE, EVENT_MIGRATE, NO(SPILL_NONE, EBUSY)},
	{SPILL_MIGRATING, EVENT_MIGRATE_DONE, DELETED},
	{SPILL_MIGRATED, EVENT_MIGRATE, NO(SPILL_MIGRATED, EBUSY)},
	{SPILL_MIGRATED, EVENT_RELEASE, NO(SPILL_MIGRATED, EBUSY)},
	/* The journal knows already. */
	{SPILL_MIGRATED, EVENT_OPEN_WRITE, AS_IS(SPILL_MIGRATED)},
	{SPILL_MIGRATED, EVENT_OPEN_RESIDENT, AS_IS(SPILL_MIGRATED)},
	{SPILL_MIGRATED, EVENT_WRITE, AS_IS(SPILL_MIGRATED)},
};
/* clang-format on */

struct state_result state_next(enum spill_state state, int suspect,
			       enum state_event event)
{
	size_t i;

	if ((size_t)state >= SPILL_STATES || (size_t)event >= STATE_EVENTS)
		return (struct state_result){.err = -EINVAL, .next = state};
	for (i = 0; suspect && i < ARRAY_SIZE(suspects); i++)
		if (suspects[i].state == state && suspects[i].event == event)
			return suspects[i].result;
	return table[state][event];
}

const char *state_event_name(enum state_event event)
{
	static const char *const names[STATE_EVENTS] = {
		[EVENT_MIGRATE] = "migrate",
		[EVENT_MIGRATE_DONE] = "migrate done",
		[EVENT_MIGRATE_FAIL] = "migrate failed",
		[EVENT_RELEASE] = "release",
		[EVENT_OPEN_WRITE] = "open for writing",
		[EVENT_OPEN_RESIDENT] = "open for writing, no log",
		[EVENT_CLOSE_SAME] = "close unchanged",
		[EVENT_CLOSE_CHANGED] = "close changed",
		[EVENT_TRUNCATE_ZERO] = "truncate to zero",
		[EVENT_TRUNCATE] = "truncate",
		[EVENT_READ] = "read",
		[EVENT_READ_OFTEN] = "read often",
		[EVENT_RESTORE] = "restore",
		[EVENT_RESTORE_DONE] = "restore done",
		[EVENT_WRITE] = "write",
		[EVENT_UNLINK] = "unlink",
		[EVENT_LINK] = "link",
	};

	return (size_t)event < ARRAY_SIZE(names) ? names[event] : "unknown";
}
