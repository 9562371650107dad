/* SPDX-License-Identifier: MIT */
/*
 * The table is written here a second time, as text and by hand: an event a
 * line, a state a column. A cell is the next state (n g m r d, as the columns;
 * '.' for the same) and the actions, or the error:
 *   c copy out, x cancel, t drop data, o delete object, s suspect,
 *   b copy back, f copy back first, a answer from the object;
 *   !a already, !b busy, !i invalid.
 * Where a suspect copy changes the cell, that follows a '/'.
 */
#include "check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "state.h"
#include "util.h"

static const char columns[] = "ngmrd";

static const struct {
	enum state_event event;
	const char *name;
	const char *cells[SPILL_STATES];
} rows[] = {
	/* clang-format off */
	/*                                           none     migrating migrated released dirty */
	{EVENT_MIGRATE,	      "migrate",	  {"gc/!b", "!b",     "!a/!b", "!a",  "!b"}},
	{EVENT_MIGRATE_DONE,  "migrate done",	  {"!i",    "m./no",  "!i",    "!i",  "!i"}},
	{EVENT_MIGRATE_FAIL,  "migrate failed",	  {"!i",    "no",     "!i",    "!i",  "!i"}},
	{EVENT_RELEASE,	      "release",	  {"!i",    "!b",     "rt/!b", "!a",  ".f"}},
	{EVENT_OPEN_WRITE,    "open for writing", {".",	    "nxo",    ".s/.",  ".",   "."}},
	{EVENT_OPEN_RESIDENT, "open for writing, no log",
						  {".",	    "nxo",    ".s/.",  ".f",  "."}},
	{EVENT_CLOSE_SAME,    "close unchanged",  {".",	    ".",      ".",     ".",   "."}},
	{EVENT_CLOSE_CHANGED, "close changed",	  {".",	    "nxo",    "no",    "!i",  "."}},
	{EVENT_TRUNCATE_ZERO, "truncate to zero", {".",	    "nxo",    "no",    "no",  ".b"}},
	{EVENT_TRUNCATE,      "truncate",	  {".",	    "nxo",    "no",    "d",   "."}},
	{EVENT_READ,	      "read",		  {".",	    ".",      ".",     ".a",  ".a"}},
	{EVENT_READ_OFTEN,    "read often",	  {".",	    ".",      ".",     ".ab", ".ab"}},
	{EVENT_RESTORE,	      "restore",	  {"!a",    "!a",     "!a",    ".b",  ".b"}},
	{EVENT_RESTORE_DONE,  "restore done",	  {"!i",    "!i",     "!i",    "m",   "no"}},
	{EVENT_WRITE,	      "write",		  {".",	    "nxo",    ".s/.",  "d",   "."}},
	{EVENT_UNLINK,	      "unlink",		  {".",	    "nxo",    "no",    "no",  "no"}},
	{EVENT_LINK,	      "link",		  {".",	    ".",      ".",     ".",   ".f"}},
	/* clang-format on */
};

static unsigned int action(char c)
{
	switch (c) {
	case '.':
		return 0;
	case 'c':
		return ACT_COPY_OUT;
	case 'x':
		return ACT_CANCEL_COPY;
	case 't':
		return ACT_DROP_DATA;
	case 'o':
		return ACT_DELETE_OBJECT;
	case 's':
		return ACT_SUSPECT;
	case 'b':
		return ACT_RESTORE;
	case 'f':
		return ACT_RESTORE_FIRST;
	case 'a':
		return ACT_READ_OBJECT;
	default:
		fail_msg("no such action: %c", c);
		return 0;
	}
}

static struct state_result expect(enum spill_state state, const char *cell)
{
	struct state_result want = {.next = state};

	if (cell[0] == '!') {
		want.err = cell[1] == 'a'   ? -EALREADY
			   : cell[1] == 'b' ? -EBUSY
					    : -EINVAL;
		return want;
	}
	if (cell[0] != '.') {
		assert_non_null(strchr(columns, cell[0]));
		want.next = strchr(columns, cell[0]) - columns;
	}
	for (cell++; *cell && *cell != '/'; cell++)
		want.actions |= action(*cell);
	return want;
}

static void every_cell(void **unused)
{
	unsigned int state, suspect, failed = 0;
	size_t i;

	assert_int_equal(ARRAY_SIZE(rows), STATE_EVENTS);
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		for (state = 0; state < SPILL_STATES; state++)
			for (suspect = 0; suspect < 2; suspect++) {
				const char *cell = rows[i].cells[state];
				const char *alt = strchr(cell, '/');
				struct state_result want, got;

				if (suspect && alt)
					cell = alt + 1;
				want = expect(state, cell);
				got = state_next(state, suspect, rows[i].event);
				if (want.err == got.err &&
				    want.next == got.next &&
				    want.actions == got.actions)
					continue;
				print_error("%s, %s, suspect %u: "
					    "err %d next %d actions %#x\n",
					    spill_state_name(state),
					    rows[i].name, suspect, got.err,
					    got.next, got.actions);
				failed++;
			}
	assert_int_equal(failed, 0);
}

/* Promise P1, said once more of all cells at once: what deletes the objects
 * of a stub leaves no stub, and does so only when the contents end or are back
 * on the front. */
static void stubs_keep_their_objects(void **unused)
{
	unsigned int state, suspect, event;

	for (state = SPILL_RELEASED; state <= SPILL_DIRTY; state++)
		for (suspect = 0; suspect < 2; suspect++)
			for (event = 0; event < STATE_EVENTS; event++) {
				struct state_result r =
					state_next(state, suspect, event);

				if (!(r.actions & ACT_DELETE_OBJECT)) {
					assert_int_not_equal(r.next,
							     SPILL_NONE);
					continue;
				}
				assert_int_equal(r.next, SPILL_NONE);
				assert_true((event == EVENT_TRUNCATE_ZERO &&
					     state == SPILL_RELEASED) ||
					    event == EVENT_UNLINK ||
					    (event == EVENT_RESTORE_DONE &&
					     state == SPILL_DIRTY));
			}
}

static void data_is_dropped_in_one_cell(void **unused)
{
	unsigned int state, suspect, event, n = 0;

	for (state = 0; state < SPILL_STATES; state++)
		for (suspect = 0; suspect < 2; suspect++)
			for (event = 0; event < STATE_EVENTS; event++) {
				struct state_result r =
					state_next(state, suspect, event);

				if (!(r.actions & ACT_DROP_DATA))
					continue;
				assert_int_equal(state, SPILL_MIGRATED);
				assert_int_equal(suspect, 0);
				assert_int_equal(event, EVENT_RELEASE);
				n++;
			}
	assert_int_equal(n, 1);
}

static void outside_the_table(void **unused)
{
	assert_int_equal(state_next(SPILL_STATES, 0, EVENT_READ).err, -EINVAL);
	assert_int_equal(state_next(SPILL_NONE, 0, STATE_EVENTS).err, -EINVAL);
	assert_int_equal(state_next(SPILL_NONE, 1, -1).err, -EINVAL);
}

static void names(void **unused)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rows); i++)
		assert_string_equal(state_event_name(rows[i].event),
				    rows[i].name);
	assert_string_equal(state_event_name(STATE_EVENTS), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_cell),
		cmocka_unit_test(stubs_keep_their_objects),
		cmocka_unit_test(data_is_dropped_in_one_cell),
		cmocka_unit_test(outside_the_table),
		cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
