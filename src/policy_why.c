/* SPDX-License-Identifier: MIT */
/*
 * Why a file is where it is: what the thread would see, put into words. The same
 * look and the same bars as when it acts, so that the answer is what happens.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "batch.h"
#include "cleanup.h"
#include "policy_int.h"

struct question {
	struct policy_eye *eye;
	struct policy_why *why;
	struct policy_look look;
	struct catalog_row row;
	bool known; /* has a row */
	bool automatic;
	double high; /* what is acted upon */
	bool bars;   /* an obstacle that time or somebody has to take away */
};

__attribute__((format(printf, 3, 4))) static void
obstacle(struct question *q, const char *kind, const char *detail, ...)
{
	struct policy_obstacle *o = &q->why->obstacles[q->why->nobstacles];
	va_list args;

	if (q->why->nobstacles == POLICY_OBSTACLES)
		return;
	q->why->nobstacles++;
	o->kind = kind;
	va_start(args, detail);
	vsnprintf(o->detail, sizeof(o->detail), detail, args);
	va_end(args);
}

__attribute__((format(printf, 2, 3))) static void next(struct question *q,
						       const char *text, ...)
{
	va_list args;

	va_start(args, text);
	vsnprintf(q->why->next, sizeof(q->why->next), text, args);
	va_end(args);
}

#define WHEN_LEN 32

static const char *when(int64_t ns, char buf[WHEN_LEN])
{
	time_t sec = ns / NSEC_PER_SEC;
	struct tm tm;

	if (!localtime_r(&sec, &tm) || !strftime(buf, WHEN_LEN, "%F %T", &tm))
		snprintf(buf, WHEN_LEN, "?");
	return buf;
}

/* ---- obstacles ----------------------------------------------------------------- */

static void pinned(struct question *q)
{
	struct node *dir =
		tier_pinned_above(q->eye->policy->tier, q->look.node);
	char path[PATH_MAX];

	if (!dir) {
		obstacle(q, "pinned", "it is pinned");
		return;
	}
	obstacle(q, "pinned", "by the directory %s",
		 node_path(dir, path, sizeof(path)));
	node_unref(dir);
}

static void of_file(struct question *q)
{
	const struct tier_file_status *status = &q->look.status;
	struct front_handle handle = node_handle(q->look.node);
	int64_t kept = batch_kept_until(
		tier_parts(q->eye->policy->tier)->batches, &handle);
	char at[WHEN_LEN];

	if (status->pinned)
		pinned(q);
	if (kept)
		obstacle(q, "kept", "until %s: restore --keep", when(kept, at));
	if (status->open)
		obstacle(q, "open", "open %u times", status->open);
	if (status->damaged)
		obstacle(q, "damaged", "its object is not what was migrated");
	if (status->state == SPILL_DIRTY)
		obstacle(q, "dirty",
			 "written while released: the log on the "
			 "front is to be applied first");
	if (status->state == SPILL_MIGRATING)
		obstacle(q, "moving", "it is being copied");
	if (status->size == 0)
		obstacle(q, "empty", "there is nothing to move");
}

/* Does it go last, because it is small? */
static bool is_small(const struct question *q)
{
	return q->look.verdict.rank >= RANK_SMALL &&
	       q->look.verdict.rank != INT64_MAX;
}

static void of_rule(struct question *q)
{
	const struct rule_verdict *verdict = &q->look.verdict;
	char at[WHEN_LEN];

	if (verdict->keep)
		obstacle(q, "excluded", "rule %s keeps it on the front",
			 verdict->rule.name);
	else if (q->look.status.state != SPILL_NONE)
		return;
	else if (verdict->migrate_at == INT64_MAX && is_small(q))
		obstacle(q, "small",
			 "goes only when the front is above high, after what "
			 "is larger");
	else if (verdict->rank == INT64_MAX)
		obstacle(q, "excluded", "rule %s does not move it",
			 verdict->rule.name);
	else if (verdict->migrate_at == INT64_MAX)
		obstacle(q, "room", "it goes only when room is needed");
	else if (verdict->migrate_at > q->eye->now)
		obstacle(q, "young", "not before %s",
			 when(verdict->migrate_at, at));
}

static void of_policy(struct question *q)
{
	static const char *const kinds[] = {
		[BAR_DRAINING] = "draining",
		[BAR_BREAKER] = "breaker",
		[BAR_WINDOW] = "window",
	};
	struct policy *policy = q->eye->policy;
	struct policy_limit limit;
	struct policy_room room;
	char why[160] = "", at[WHEN_LEN];
	int64_t until, held;
	enum policy_bar bar;
	uint64_t key = q->row.key;
	const char *reason;

	if (!q->automatic)
		obstacle(q, "manual", "policy=manual: nothing moves by itself");
	if (!q->known)
		obstacle(q, "unknown", "it is not in the catalog yet");
	pthread_mutex_lock(&policy->lock);
	held = q->known ? holds_until(&policy->holds, key, (int)q->row.state,
				      q->eye->now)
			: 0;
	reason = holds_why(&policy->holds, key);
	if (held && reason)
		obstacle(q, "held", "tried in vain (%s); again at %s", reason,
			 when(held, at));
	pthread_mutex_unlock(&policy->lock);
	if (q->known && policy_in_flight(policy, key))
		obstacle(q, "moving", "it is being moved");
	if (policy_room(policy, &room))
		return;
	q->high = room.high;
	bar = policy_bar(policy, &room, false, why, sizeof(why), &limit,
			 &until);
	if (bar == BAR_TARGET)
		obstacle(q,
			 policy_online(policy) ? "target_full"
					       : "target_offline",
			 "%s", why);
	else if (bar)
		obstacle(q, kinds[bar], "%s", why);
}

/* ---- what comes ------------------------------------------------------------------- */

static bool has(const struct question *q, const char *kind)
{
	for (unsigned int i = 0; i < q->why->nobstacles; i++)
		if (!strcmp(q->why->obstacles[i].kind, kind))
			return true;
	return false;
}

/* What keeps it for good, as far as anybody knows. */
static const char *stays(const struct question *q)
{
	static const char *const kinds[] = {"draining", "manual", "pinned",
					    "excluded", "empty",  "damaged"};
	static const char *const texts[] = {
		"nothing: the file system is being drained",
		"nothing by itself: policy=manual",
		"nothing: it is pinned",
		"nothing: its rule keeps it on the front",
		"nothing: it is empty",
		"nothing: it is damaged; see tierctl check",
	};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (has(q, kinds[i]))
			return texts[i];
	return NULL;
}

static void next_copy(struct question *q)
{
	const struct rule_verdict *verdict = &q->look.verdict;
	static const struct {
		const char *kind, *text;
	} waits[] = {
		{"target_offline", "when its target is back"},
		{"target_full", "when a target has room"},
		{"breaker", "when the breaker closes"},
		{"window", "in the hours for it, or when the front is fuller"},
		{"held", "when it is tried again"},
		{"unknown", "when the catalog has it"},
	};
	char at[WHEN_LEN];

	if (verdict->migrate_at == INT64_MAX && verdict->rank == INT64_MAX) {
		next(q, "nothing: its rule does not move it");
		return;
	}
	if (verdict->migrate_at == INT64_MAX) {
		next(q, "copied only when the front needs room%s",
		     is_small(q) ? " and nothing larger can go" : "");
		return;
	}
	if (verdict->migrate_at > q->eye->now) {
		next(q, "copied to a target after %s",
		     when(verdict->migrate_at, at));
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(waits); i++) {
		if (has(q, waits[i].kind)) {
			next(q, "copied to a target %s", waits[i].text);
			return;
		}
	}
	next(q, "copied to a target at the next pass");
}

static void next_release(struct question *q)
{
	const struct rule_verdict *verdict = &q->look.verdict;
	const char *last = is_small(q) ? ", after what is larger" : "";
	char at[WHEN_LEN];

	if (verdict->release_at <= q->eye->now)
		next(q, "its data is dropped at the next pass%s",
		     q->look.status.open ? " after it was closed" : "");
	else if (verdict->release_at != INT64_MAX)
		next(q,
		     "its data is dropped after %s, or when the front is "
		     "more than %.3g%% in use%s",
		     when(verdict->release_at, at), q->high, last);
	else
		next(q,
		     "its data is dropped when the front is more than %.3g%% "
		     "in use%s",
		     q->high, last);
}

static void of_next(struct question *q)
{
	const char *kept = stays(q);

	switch (q->look.status.state) {
	case SPILL_RELEASED:
		next(q, "it stays on its target until it is restored, by hand "
			"or by being read");
		break;
	case SPILL_DIRTY:
		next(q, "it is restored when its log is past a limit");
		break;
	case SPILL_MIGRATING:
		next(q, "it is being copied");
		break;
	case SPILL_MIGRATED:
		if (kept)
			next(q, "%s", kept);
		else
			next_release(q);
		break;
	default:
		if (kept)
			next(q, "%s", kept);
		else
			next_copy(q);
	}
}

/* ---- asking --------------------------------------------------------------------------- */

int policy_ask_begin(struct policy *policy, struct policy_eye **ret)
{
	struct policy_eye *eye = calloc(1, sizeof(*eye));
	int err = eye ? policy_eye_open(policy, eye) : -ENOMEM;

	if (err) {
		free(eye);
		return err;
	}
	*ret = eye;
	return 0;
}

void policy_ask_end(struct policy_eye *eye)
{
	policy_eye_close(eye);
	free(eye);
}

/* How many go before it. */
static void of_rank(struct question *q)
{
	struct policy_why *why = q->why;
	enum spill_state state = q->look.status.state;

	if (q->known && q->row.rank != INT64_MAX && q->row.state == state &&
	    (state == SPILL_NONE || state == SPILL_MIGRATED))
		why->ranked = !catalog_position(q->eye->rows, state,
						q->row.rank, &why->rank);
}

int policy_why(struct policy_eye *eye, struct node *node,
	       struct policy_why *ret)
{
	struct front_handle handle = node_handle(node);
	struct question q = {.eye = eye, .why = ret};
	int err;

	memset(ret, 0, sizeof(*ret));
	policy_eye_blink(eye);
	q.automatic =
		atomic_load(&tier_tunables(eye->policy->tier)->policy_auto);
	q.high = atomic_load(&tier_tunables(eye->policy->tier)->high);
	q.known = !catalog_get(eye->rows, catalog_key(&handle), &q.row);
	err = policy_look_node(eye, node, q.known ? &q.row : NULL, &q.look);
	if (err)
		return err;
	ret->state = q.look.status.state;
	ret->rules = policy_rules_ref(eye->rules);
	ret->rule = q.look.verdict.rule;
	of_rank(&q);
	of_file(&q);
	of_rule(&q);
	of_policy(&q);
	of_next(&q);
	policy_look_end(&q.look);
	return 0;
}

void policy_why_end(struct policy_why *why)
{
	policy_rules_unref(why->rules);
	why->rules = NULL;
}
