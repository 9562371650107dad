/* SPDX-License-Identifier: MIT */

/*
 * Together is the first guess, and what is kept when the two are about alike:
 * apart, what a request costs depends on how deeply the other CPU sleeps, which
 * can be different a moment later.
 *
 * Where others want the CPU, a thread that gives way to everybody hardly runs:
 * fewer requests come than make a flow, though one is ready to run. So that costs
 * some ticks, and the next trial is some time later, twice as much each time.
 *
 * Ticks in which nothing flows are not counted: what was found of a burst of
 * requests holds for the next one.
 */

#include "turns.h"

#define LEAST_NS 250000 /* a request: what can be saved is a tenth of it */
#define OTHERS	 8	/* one of so many is let pass */
#define ALIKE	 0.9

static bool is_quiet(const struct turns_tick *tick)
{
	return tick->requests * LEAST_NS < tick->ns;
}

static bool is_alone(const struct turns_tick *tick)
{
	return tick->others * OTHERS <= tick->requests;
}

bool turns_flows(const struct turns_tick *tick)
{
	return !is_quiet(tick) && is_alone(tick);
}

static void enter(struct turns *t, int phase, unsigned int ticks)
{
	t->phase = phase;
	t->left = ticks;
	t->requests = 0;
	t->ns = 0;
}

static void found(struct turns *t, bool apart)
{
	if (!apart)
		t->in_a_row = 0;
	else if (t->in_a_row < TURNS_DOUBLED)
		t->in_a_row++;
	t->apart_is_better = apart;
	enter(t, TURNS_KEEP,
	      apart ? TURNS_TICKS_APART << t->in_a_row : TURNS_TICKS_KEPT);
}

static void end_phase(struct turns *t)
{
	double rate = (double)t->requests / (double)t->ns;

	switch (t->phase) {
	case TURNS_KEEP:
		enter(t, TURNS_MEASURE, TURNS_TICKS_TRIED);
		break;
	case TURNS_MEASURE:
		t->rate = rate;
		enter(t, TURNS_TRY, TURNS_TICKS_TRIED);
		break;
	case TURNS_TRY:
		if (t->together)
			found(t, rate < ALIKE * t->rate);
		else
			found(t, t->rate < ALIKE * rate);
		break;
	}
}

static bool not_now(struct turns *t)
{
	/* What was begun to be compared is another thing by then. */
	if (t->phase != TURNS_KEEP)
		enter(t, TURNS_KEEP, 1);
	t->together = false;
	return false;
}

bool turns_next(struct turns *t, const struct turns_tick *tick)
{
	if (!is_alone(tick))
		return not_now(t);
	if (is_quiet(tick)) {
		t->starved += tick->starved;
		if (++t->quiet < TURNS_TICKS_QUIET)
			return t->together;
		if (t->starved == TURNS_TICKS_QUIET)
			found(t, true);
		return not_now(t);
	}
	t->quiet = 0;
	t->starved = 0;
	t->requests += tick->requests;
	t->ns += tick->ns;
	if (--t->left == 0)
		end_phase(t);
	t->together = t->apart_is_better == (t->phase == TURNS_TRY);
	return t->together;
}
