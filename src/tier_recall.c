/* SPDX-License-Identifier: MIT */
/*
 * Who may bring data back, and how much of it comes back unasked.
 *
 * A restore is somebody's wish (a write that cannot be logged, tierctl), or the
 * daemon's own idea: a file is read again and again. The first is done for
 * whoever the rules do not refuse. The second is bounded, for it wears the front
 * out and pushes other files off it: by the room there is, and by a budget of
 * bytes a day. Past either the file is read in place, as before, and nothing
 * waits or fails. Nothing is tried again by itself: the next read that counts
 * asks again, which costs a statfs(2), and after a restore that found no room
 * all the same there is a back-off for all of them.
 *
 * What a restore will cost is taken from the budget when it is begun, and given
 * back if it ends before it wrote anything. A crash in between leaves it taken,
 * but for the last second, which the journal is behind.
 *
 * Reads that say that a file will be read again are those of several passes: one
 * process that opens a file, looks, closes it and opens it again is one pass
 * (tar, rsync, file managers). So opens of the last reader within PASS_MS of
 * one that counted do not count. A file of which the reader's pid is not known
 * (another pid namespace) counts each.
 *
 * And they are those of one time: what came every night would come past any
 * limit at last. The first that counts begins a time, TIER_READS_NS long, and the
 * first after it another. Half a day, so that a nightly backup that comes earlier
 * than the last one does not count as twice. Counter and beginning are the
 * node's: they go with it, when the kernel forgets the file or at an unmount,
 * which costs some reads in place. Rejected: keeping them in the EA or the
 * catalog, which would make a write of each read; and what is used for longer
 * than that has heat.
 *
 * O_NONBLOCK does not wait for a target. The first read gets EAGAIN and begins
 * nothing: grep -r opens everything so, and goes on to the next file. A second
 * try, RETRY_MS to RETRY_MAX_MS later, says that the data is wanted, and begins a
 * restore, within the same bounds.
 */
#include <errno.h>
#include <string.h>

#include "tier_impl.h"
#include "util.h"

#define BUDGET_KEY   "restored"
#define PASS_MS	     5000
#define READS_TICKS  (TIER_READS_NS / 1000000 >> READS_SHIFT)
#define READS_SHIFT  16 /* of ms; in 16 bits that is 49 days */
#define RETRY_MS     20
#define RETRY_MAX_MS 60000
#define ROOM_MIN_NS  NSEC_PER_SEC
#define ROOM_MAX_NS  (300 * NSEC_PER_SEC)

/* What a restore leaves free on the front, for those who write. */
#define RESERVE_SHIFT 7 /* 1/128 of it */

/* ---- rules ----------------------------------------------------------------- */

void tier_set_rules(struct tier *tier, struct recall_rules *rules)
{
	struct recall_rules *old;

	pthread_mutex_lock(&tier->recall_lock);
	old = tier->rules;
	if (rules != old) {
		if (rules && old)
			recall_rules_inherit(rules, old);
		tier->rules = recall_rules_ref(rules);
		tier->rules_generation++;
		atomic_store(&tier->has_rules, rules != NULL);
	}
	pthread_mutex_unlock(&tier->recall_lock);
	if (rules != old)
		recall_rules_unref(old);
}

struct recall_rules *tier_rules(struct tier *tier, uint16_t *ret_generation)
{
	struct recall_rules *rules;

	pthread_mutex_lock(&tier->recall_lock);
	rules = recall_rules_ref(tier->rules);
	if (ret_generation)
		*ret_generation = tier->rules_generation;
	pthread_mutex_unlock(&tier->recall_lock);
	return rules;
}

int tier_who_check(struct tier *tier, const struct tier_who *who)
{
	return who && !who->judged &&
			       (who->nonblock || atomic_load(&tier->has_rules))
		       ? -EDESTADDRREQ
		       : 0;
}

/* By the rule that said so, if it is in use still. */
static int refused(struct tier *tier, const struct tier_who *who)
{
	pthread_mutex_lock(&tier->recall_lock);
	if (tier->rules && tier->rules_generation == who->generation)
		recall_rules_count(tier->rules, who->rule, RECALL_REFUSED);
	pthread_mutex_unlock(&tier->recall_lock);
	return -EAGAIN;
}

static bool never_waits(struct tier *tier, const struct tier_who *who)
{
	return who && who->nonblock && !who->waits &&
	       !atomic_load(&tier->tunables.nonblock_waits);
}

bool tier_kept_off(struct tier *tier, const struct tier_who *who)
{
	return never_waits(tier, who) || (who && who->action == RECALL_REFUSE);
}

int tier_recall_for(struct tier_file *file, struct tier_wait *wait)
{
	const struct tier_who *who = wait->who;
	int ret = tier_who_check(file->tier, who);

	if (ret)
		return ret;
	if (who && who->action == RECALL_REFUSE)
		return refused(file->tier, who);
	ret = tier_recall(file, MOVER_RECALL);
	if (ret)
		return ret;
	return never_waits(file->tier, who) ? -EAGAIN : -EINPROGRESS;
}

/* ---- room and budget -------------------------------------------------------- */

int tier_check_room(struct tier *tier, uint64_t need)
{
	uint64_t used, avail;
	int ret = front_usage(tier->parts.front, &used, &avail);

	if (ret)
		return ret;
	return need + ((used + avail) >> RESERVE_SHIFT) > avail ? -ENOSPC : 0;
}

const char *tier_own_begin(struct tier *tier, uint64_t bytes)
{
	uint64_t limit = atomic_load(&tier->tunables.restore_budget);
	const char *why = NULL;

	if (!limit)
		limit = UINT64_MAX;

	pthread_mutex_lock(&tier->recall_lock);
	if (monotonic_ns() < tier->room_retry_at ||
	    tier_check_room(tier, bytes + tier->own_coming)) {
		why = "no room on the front";
		tier->own_no_room++;
	} else if (!budget_take(&tier->budget, limit, bytes, realtime_ns())) {
		why = "the restore_budget of the day is used up";
		tier->own_no_budget++;
	} else {
		tier->own_coming += bytes;
		tier->budget_dirty = true;
	}
	pthread_mutex_unlock(&tier->recall_lock);
	return why;
}

void tier_own_end(struct tier *tier, uint64_t bytes, bool wrote, int err)
{
	pthread_mutex_lock(&tier->recall_lock);
	tier->own_coming -= bytes;
	if (!wrote) {
		budget_give(&tier->budget, bytes, realtime_ns());
		tier->budget_dirty = true;
	}
	if (err == -ENOSPC) {
		tier->room_retry_ns =
			tier->room_retry_ns
				? min_t(int64_t, 2 * tier->room_retry_ns,
					ROOM_MAX_NS)
				: ROOM_MIN_NS;
		tier->room_retry_at = monotonic_ns() + tier->room_retry_ns;
	} else if (!err) {
		tier->room_retry_ns = tier->room_retry_at = 0;
	}
	pthread_mutex_unlock(&tier->recall_lock);
}

uint64_t tier_restore_cost(const struct tier_file *file)
{
	return min_t(uint64_t, tier_stub_size(file),
		     tier_stub_blocks(file) * 512);
}

/* Nobody waits, nobody is told. */
static void restore_unasked(struct tier_file *file)
{
	uint64_t bytes = tier_restore_cost(file);

	if (file->move || tier_own_begin(file->tier, bytes))
		return;
	if (tier_recall(file, MOVER_ASKED) || !file->move)
		tier_own_end(file->tier, bytes, false, -EIO);
	else /* its end takes the lock that we hold */
		file->move->own = bytes;
}

/* ---- reads ------------------------------------------------------------------- */

/* How long ago, in ms, the same process came; UINT32_MAX: it did not. */
static uint32_t since_reader(const struct node *node,
			     const struct tier_who *who, uint32_t now)
{
	if (!who || !node->reader_at || node->reader != who->pid)
		return UINT32_MAX;
	return now - node->reader_at;
}

static void set_reader(struct node *node, const struct tier_who *who,
		       uint32_t now)
{
	node->reader = who ? who->pid : 0;
	node->reader_at = now ? now : 1; /* 0: nobody */
}

static uint32_t now_ms(void)
{
	return (uint32_t)(monotonic_ns() / 1000000);
}

static void count(struct node *node, uint32_t now)
{
	uint16_t tick = (uint16_t)(now >> READS_SHIFT);

	if (!node->reads || (uint16_t)(tick - node->reads_at) >= READS_TICKS) {
		node->reads = 0;
		node->reads_at = tick;
	}
	if (node->reads < UINT16_MAX)
		node->reads++;
}

void tier_count_read(struct tier_file *file, const struct tier_who *who)
{
	uint32_t limit = atomic_load(&file->tier->tunables.restore_after);
	struct node *node = file->node;
	uint32_t now = now_ms();

	if (!file->unread)
		return;
	file->unread--;
	if (!who || !who->pid || !node->reads ||
	    since_reader(node, who, now) > PASS_MS) {
		count(node, now);
		set_reader(node, who, now);
	}
	if (limit != CONFIG_NEVER && node->reads > limit)
		restore_unasked(file);
}

static int read_later(struct tier_file *file, const struct tier_who *who)
{
	uint32_t limit = atomic_load(&file->tier->tunables.restore_after);
	struct node *node = file->node;
	uint32_t now = now_ms();
	uint32_t since = node->reader_at ? now - node->reader_at : UINT32_MAX;
	bool same = node->reader == who->pid;

	/* Two who take turns do not keep each other from it. */
	if (since > (same ? RETRY_MAX_MS : PASS_MS))
		set_reader(node, who, now);
	else if (same && since >= RETRY_MS && limit != CONFIG_NEVER &&
		 who->action == RECALL_RESTORE)
		restore_unasked(file);
	return -EAGAIN;
}

int tier_may_read(struct tier_file *file, const struct tier_who *who,
		  bool is_there)
{
	if (who && who->action == RECALL_REFUSE)
		return refused(file->tier, who);
	/* What fails does so at once. */
	if (never_waits(file->tier, who) && is_there)
		return read_later(file, who);
	if (!who || who->action == RECALL_RESTORE)
		tier_count_read(file, who);
	return 0;
}

/* ---- what is kept, what can be asked --------------------------------------- */

int tier_load_budget(struct tier *tier)
{
	struct budget budget;
	int ret = journal_get(tier->parts.journal, BUDGET_KEY, &budget,
			      sizeof(budget));

	/* Of another version: a day begins. */
	if (ret == -ENOENT || ret == -ERANGE)
		return 0;
	if (ret < 0)
		return ret;
	if (ret == sizeof(budget) && budget.hour >= 0)
		tier->budget = budget;
	return 0;
}

void tier_save_budget(struct tier *tier)
{
	struct budget budget;
	bool dirty;

	pthread_mutex_lock(&tier->recall_lock);
	dirty = tier->budget_dirty;
	tier->budget_dirty = false;
	budget = tier->budget;
	pthread_mutex_unlock(&tier->recall_lock);
	if (dirty)
		journal_put(tier->parts.journal, BUDGET_KEY, &budget,
			    sizeof(budget));
}

void tier_own_restores(struct tier *tier, struct tier_own_restores *ret)
{
	*ret = (struct tier_own_restores){
		.limit = atomic_load(&tier->tunables.restore_budget)};
	pthread_mutex_lock(&tier->recall_lock);
	ret->used = budget_used(&tier->budget, realtime_ns());
	ret->no_budget = tier->own_no_budget;
	ret->no_room = tier->own_no_room;
	pthread_mutex_unlock(&tier->recall_lock);
}
