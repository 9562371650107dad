/* SPDX-License-Identifier: MIT */

/*
 * Who asks: what the rules of recall are about.
 *
 * It is asked when a file is opened whose data is not on the front, and decided
 * for the handle: a descriptor that is handed on, or inherited, keeps what was
 * said of who opened it, and so does one that was open before the rules changed.
 * A process is looked at in /proc, as far as some rule needs it; it waits for
 * the answer to its open, so it is there. What cannot be seen (its pid is not one
 * of our namespace: 0; no /proc) fits no key.
 *
 * O_NONBLOCK must have been asked for by the open, and be set still. That some
 * fcntl(2) has set it says nothing of who reads: Go's runtime sets it on every
 * file that epoll takes, which those of FUSE are, and would wait for ever for the
 * edge after an EAGAIN, as a regular file is ready all the time.
 *
 * FUSE's pid is the thread's. A command's name is that of the thread or of its
 * process, either will do: programs name their threads.
 */

#include "fs_impl.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define PROC_TEXT   8192
#define GROUPS_MAX  256
#define CGROUPS_MAX 32

struct facts {
	struct recall_facts rule;
	char status[PROC_TEXT], cgroup[PROC_TEXT];
	char comm[2][64];
	uint32_t groups[GROUPS_MAX + 1];
	const char *cgroups[CGROUPS_MAX];
};

/* The rest of the line that begins with key. */
static const char *line_of(const char *text, const char *key)
{
	size_t len = strlen(key);

	while (text && strncmp(text, key, len)) {
		text = strchr(text, '\n');
		text += text != NULL;
	}
	return text ? text + len : NULL;
}

static void add_groups(struct facts *facts)
{
	const char *at = line_of(facts->status, "Groups:");
	char *end;

	while (at && facts->rule.ngroups < GROUPS_MAX + 1) {
		unsigned long gid;

		at += strspn(at, " \t");
		gid = strtoul(at, &end, 10);
		if (end == at)
			break;
		facts->groups[facts->rule.ngroups++] = (uint32_t)gid;
		at = end;
	}
}

static void add_comm(struct facts *facts, unsigned int i, pid_t pid)
{
	char *comm = facts->comm[i];

	if (proc_read(pid, "comm", comm, sizeof(facts->comm[i])) < 0)
		return;
	comm[strcspn(comm, "\n")] = '\0';
	facts->rule.comms[i] = comm;
}

static void add_comms(struct facts *facts, pid_t pid)
{
	const char *text = line_of(facts->status, "Tgid:");
	pid_t tgid = text ? (pid_t)strtol(text, NULL, 10) : 0;

	add_comm(facts, 0, pid);
	if (tgid > 0 && tgid != pid)
		add_comm(facts, 1, tgid);
}

/* "N:CONTROLLERS:PATH" each line; a path may have colons. */
static void add_cgroups(struct facts *facts)
{
	char *at = facts->cgroup, *line;

	while ((line = strsep(&at, "\n")) &&
	       facts->rule.ncgroups < CGROUPS_MAX) {
		char *path = strchr(line, ':');

		path = path ? strchr(path + 1, ':') : NULL;
		if (path)
			facts->cgroups[facts->rule.ncgroups++] = path + 1;
	}
}

static void find_facts(fuse_req_t req, unsigned int needs, struct facts *facts)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	facts->rule = (struct recall_facts){.uid = ctx->uid,
					    .groups = facts->groups,
					    .cgroups = facts->cgroups};
	facts->groups[facts->rule.ngroups++] = ctx->gid;
	if (ctx->pid <= 0)
		return;
	if (needs & (RECALL_NEEDS_GROUPS | RECALL_NEEDS_COMMAND) &&
	    proc_read(ctx->pid, "status", facts->status,
		      sizeof(facts->status)) >= 0) {
		if (needs & RECALL_NEEDS_GROUPS)
			add_groups(facts);
		if (needs & RECALL_NEEDS_COMMAND)
			add_comms(facts, ctx->pid);
	}
	if (needs & RECALL_NEEDS_CGROUP &&
	    proc_read(ctx->pid, "cgroup", facts->cgroup,
		      sizeof(facts->cgroup)) >= 0)
		add_cgroups(facts);
}

struct tier_who fs_who(fuse_req_t req, bool nonblock)
{
	return (struct tier_who){.pid = fuse_req_ctx(req)->pid,
				 .nonblock = nonblock,
				 .rule = -1};
}

void fs_who_judge(fuse_req_t req, struct tier_who *who)
{
	_cleanup_free_ struct facts *facts = calloc(1, sizeof(*facts));
	struct recall_verdict verdict = {.rule = -1};
	struct recall_rules *rules = tier_rules(fs_tier(req), &who->generation);
	unsigned int needs = rules ? recall_rules_needs(rules) : 0;

	/* Without memory what follows fails as well. */
	if (facts) {
		if (who->nonblock)
			needs |= RECALL_NEEDS_COMMAND;
		find_facts(req, needs, facts);
	}
	if (rules && facts) {
		recall_rules_eval(rules, &facts->rule, &verdict);
		recall_rules_count(rules, verdict.rule, RECALL_OPENS);
	}
	if (facts && verdict.rule < 0)
		verdict.waits = recall_means_no_nonblock(&facts->rule);
	recall_rules_unref(rules);
	who->judged = true;
	who->action = verdict.action;
	who->waits = verdict.waits;
	who->rule = (int16_t)verdict.rule;
}

/* ---- handles ---------------------------------------------------------------- */

#define FH_JUDGED     (UINT64_C(1) << 32)
#define FH_WAITS      (UINT64_C(1) << 33)
#define FH_ACTION     34 /* 2 bits */
#define FH_RULE	      36 /* 12 bits, of rule + 1 */
#define FH_GENERATION 48 /* 16 bits */

_Static_assert(RECALL_RULES_MAX + 1 < 1 << (FH_GENERATION - FH_RULE), "");
_Static_assert(RECALL_ACTIONS <= 1 << (FH_RULE - FH_ACTION), "");

uint64_t fs_handle_new(int flags, const struct tier_who *who)
{
	return (uint32_t)flags | (who->judged ? FH_JUDGED : 0) |
	       (who->waits ? FH_WAITS : 0) |
	       (uint64_t)who->action << FH_ACTION |
	       (uint64_t)(who->rule + 1) << FH_RULE |
	       (uint64_t)who->generation << FH_GENERATION;
}

struct tier_who fs_handle_who(fuse_req_t req, uint64_t fh, int flags)
{
	struct tier_who who = fs_who(req, flags & (int)fh & O_NONBLOCK);

	who.judged = fh & FH_JUDGED;
	who.waits = fh & FH_WAITS;
	who.action = fh >> FH_ACTION & ((1 << (FH_RULE - FH_ACTION)) - 1);
	who.rule = (int16_t)((fh >> FH_RULE &
			      ((1 << (FH_GENERATION - FH_RULE)) - 1)) -
			     1);
	who.generation = (uint16_t)(fh >> FH_GENERATION);
	return who;
}
