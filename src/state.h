/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_STATE_H
#define TIERFS_STATE_H

/*
 * The state machine of a file, as a pure function.
 *
 * state_next() says what an event does to a file in a state: the state it will
 * be in, and what the tier has to do for it, or that the event is refused. The
 * tier does nothing that this table does not say; the table knows no files.
 *
 *             migrate      release       open for writing  truncate to 0 ...
 *   none      -> MIGRATING refused       as is             as is
 *   MIGRATING refused      refused       cancel -> none    cancel -> none
 *   MIGRATED  already      -> RELEASED   copy is suspect   -> none, delete
 *   RELEASED  already      already       as is             -> none, delete
 *   DIRTY     refused      restore first as is             as is, restore
 *
 * Refused is -EBUSY where trying again later can help, else -EINVAL, which is
 * also for events that cannot be. To restore what is resident is -EALREADY.
 * While the copies of MIGRATED are suspect, migrate and release are -EBUSY.
 *
 * A write to RELEASED makes it DIRTY. A file that may not become that (small,
 * or with several names) is restored when it is opened for writing, and one
 * that is that before it gets a second name. The log of a DIRTY file that is
 * cut to nothing stays what the file is: it is restored from the log alone.
 */

#include "spill_ea.h"

enum state_event {
	EVENT_MIGRATE,	    /* asked for, or by policy */
	EVENT_MIGRATE_DONE, /* copy complete and durable, nothing changed */
	EVENT_MIGRATE_FAIL, /* copying failed */
	EVENT_RELEASE,
	EVENT_OPEN_WRITE,    /* an open for writing; passthrough hides writes */
	EVENT_OPEN_RESIDENT, /* the same of a file that gets no log */
	EVENT_CLOSE_SAME,    /* last close, and nothing was written */
	EVENT_CLOSE_CHANGED, /* last close after a change */
	EVENT_TRUNCATE_ZERO, /* O_TRUNC or truncate(0) */
	EVENT_TRUNCATE,	     /* truncate to anything else, of a closed file */
	EVENT_READ,
	EVENT_READ_OFTEN,   /* past the limit of opens in place */
	EVENT_RESTORE,	    /* asked for */
	EVENT_RESTORE_DONE, /* data durable on the front, unchanged */
	EVENT_WRITE,	    /* data written where the daemon sees it */
	EVENT_UNLINK,	    /* the last name is removed or renamed over */
	EVENT_LINK,	    /* it gets a further name */
	STATE_EVENTS
};

enum state_action {
	ACT_COPY_OUT = 0x01,	  /* copy the front's data to a target */
	ACT_CANCEL_COPY = 0x02,	  /* stop the copy that runs */
	ACT_DROP_DATA = 0x04,	  /* truncate the front's file, keep times */
	ACT_DELETE_OBJECT = 0x08, /* once the change is durable */
	ACT_SUSPECT = 0x10,	  /* journal: the copies may become stale */
	ACT_RESTORE = 0x20,	  /* copy back, the event need not wait */
	ACT_RESTORE_FIRST = 0x40, /* copy back, then the event again */
	ACT_READ_OBJECT = 0x80,	  /* answer from the copies */
};

struct state_result {
	int err; /* 0; -EALREADY: nothing to do; -EBUSY; -EINVAL */
	enum spill_state next; /* after the actions; as before if err */
	unsigned int actions;  /* of enum state_action */
};

/* Total: every state and event has an answer. suspect: TIERFS_EA_F_WRITING. */
struct state_result state_next(enum spill_state state, int suspect,
			       enum state_event event);

const char *state_event_name(enum state_event event);

#endif
