/* SPDX-License-Identifier: MIT */
#include "stress.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "invariants.h"
#include "rig.h"
#include "stress_model.h"
#include "stress_round.h"
#include "tier_impl.h"
#include "util.h"

static pthread_mutex_t slot_locks[SLOTS];
static _Thread_local uint64_t rng;

static uint32_t rnd(uint32_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)(rng >> 20) % below;
}

/* ---- names ----------------------------------------------------------------- */

static const char *slot_name(unsigned int slot, char buf[16])
{
	snprintf(buf, 16, "f%u", slot);
	return buf;
}

/* A file with a second name is never unlinked or renamed. */
static bool linked(unsigned int slot)
{
	return slot % 4 == 3;
}

static unsigned int max_pages(unsigned int slot)
{
	return slot < 2 ? PAGES : 9;
}

static struct node *get_node(unsigned int slot)
{
	struct node *node;
	char name[16];
	int err = node_lookup(node_root(rig.nodes), slot_name(slot, name), NULL,
			      &node);

	if (err == -ENOENT)
		return NULL;
	ok(!err, "look-up", err);
	return node;
}

static struct content *content_of(unsigned int slot)
{
	return &m->contents[m->slots[slot].now];
}

static void remember(unsigned int slot, struct node *node)
{
	int err = tier_getattr(rig.tier, node, &content_of(slot)->st, NULL);

	ok(!err, "getattr", err);
}

/* sync: it ended with an fsync. */
static void ended(unsigned int slot, struct node *node, bool sync)
{
	remember(slot, node);
	if (sync || !m->power) {
		certain(content_of(slot));
		slot_certain(&m->slots[slot]);
	}
}

/* ---- operations, under the slot's lock ---------------------------------------- */

static void op_write(unsigned int slot, struct node *node)
{
	uint8_t page[PAGE] __attribute__((aligned(8)));
	unsigned int id = m->slots[slot].now, n = 1 + rnd(3);
	struct content *c = content_of(slot);
	bool sync = rnd(3) == 0;
	int err = open_file(node, O_RDWR);

	ok(!err, "open to write", err);
	while (n--) {
		unsigned int i = rnd(max_pages(slot));
		uint32_t version = atomic_fetch_add(&m->version, 1) + 1;

		if (rnd(8) == 0 && i < c->size) {
			may_be_zero(c, i);
			err = zero_at(node, i * PAGE, PAGE, rnd(2));
			ok(!err, "zero", err);
			c->now[i] = 0;
			continue;
		}
		fill_page(page, id, i, version);
		may_be_page(c, i, version);
		err = write_at(node, page, PAGE, i * PAGE);
		ok(!err, "write", err);
		c->now[i] = version;
		c->size = max_t(uint32_t, c->size, i + 1);
	}
	if (sync)
		sync = synced(sync_file(node), "fsync");
	tier_close(rig.tier, node, O_RDWR);
	ended(slot, node, sync);
}

static void op_truncate(unsigned int slot, struct node *node)
{
	struct content *c = content_of(slot);
	unsigned int size = rnd(2) ? 0 : rnd(max_pages(slot));
	int flags = size ? O_RDWR : O_RDWR | O_TRUNC;
	bool sync = rnd(3) == 0;
	int err;

	may_be_size(c, size);
	err = open_file(node, flags);
	ok(!err, "open to truncate", err);
	err = truncate_to(node, size * PAGE);
	ok(!err, "truncate", err);
	if (sync)
		sync = synced(sync_file(node), "fsync");
	is_size(c, size);
	tier_close(rig.tier, node, flags);
	ended(slot, node, sync);
}

static void op_nothing(struct node *node)
{
	int err = open_file(node, O_RDWR);

	ok(!err, "open for nothing", err);
	tier_close(rig.tier, node, O_RDWR);
}

static void op_chmod(unsigned int slot, struct node *node)
{
	char name[16];

	content_of(slot)->dirty = true;
	tier_meta_begin(rig.tier, node);
	ok(fchmodat(rig.front->root_fd, slot_name(slot, name), 0600 + rnd(64),
		    0) == 0,
	   "chmod", errno);
	tier_meta_end(rig.tier, node);
	remember(slot, node);
	if (!m->power)
		content_of(slot)->dirty = false;
}

static uint8_t *read_file(struct node *node, int64_t *ret_len)
{
	const size_t room = (PAGES + 1) * PAGE;
	uint8_t *buf = aligned_alloc(TARGET_ALIGN, room);
	int err;

	ok(buf, "memory", ENOMEM);
	err = open_file(node, O_RDONLY);
	ok(!err, "open to read", err);
	*ret_len = read_at(node, buf, room, 0);
	ok(*ret_len >= 0, "read", (int)*ret_len);
	tier_close(rig.tier, node, O_RDONLY);
	return buf;
}

static void op_read(unsigned int slot, struct node *node)
{
	unsigned int id = m->slots[slot].now;
	struct content *c = content_of(slot);
	char name[16];
	int64_t len;
	uint8_t *buf = read_file(node, &len);

	slot_name(slot, name);
	ok(len == c->size * PAGE, "its size", EINVAL);
	for (unsigned int i = 0; i < c->size; i++)
		ok(page_version(buf + i * PAGE, id, i, name) == c->now[i],
		   "an older page", EINVAL);
	free(buf);
}

static void op_stat(unsigned int slot, struct node *node)
{
	struct stat st;
	char name[16];
	int err = tier_getattr(rig.tier, node, &st, NULL);

	ok(!err, "getattr", err);
	if (!atomic_load(&m->cut))
		same_stat(slot_name(slot, name), &content_of(slot)->st, &st);
}

static void op_unlink(unsigned int slot)
{
	struct slot *s = &m->slots[slot];
	char name[16];
	int err;

	may_be_content(s, 0);
	content_of(slot)->dirty = true;
	err = tier_unlink(rig.tier, node_root(rig.nodes),
			  slot_name(slot, name));
	ok(!err, "unlink", err);
	s->now = 0;
	if (!m->power)
		slot_certain(s);
}

static void create(unsigned int slot)
{
	struct slot *s = &m->slots[slot];
	unsigned int id = atomic_fetch_add(&m->next, 1) + 1;
	char name[16], second[16];
	struct content *c;
	struct node *node;
	int fd, err;

	ok(id < CONTENTS, "model is full", ENOSPC);
	c = &m->contents[id];
	c->dirty = true;
	may_be_content(s, id);
	fd = openat(rig.front->root_fd, slot_name(slot, name),
		    O_CREAT | O_EXCL | O_RDWR, 0640);
	ok(fd >= 0, "create", errno);
	close(fd);
	s->now = id;
	node = get_node(slot);
	ok(node, "created", ENOENT);
	tier_created(rig.tier, node, node_root(rig.nodes),
		     slot_name(slot, name));
	if (linked(slot)) {
		snprintf(second, sizeof(second), "l%u", slot);
		err = link_file(node, second);
		ok(!err, "link", err);
	}
	if (max_pages(slot) == PAGES && rnd(2)) {
		may_be_page(c, PAGES - 1, 0);
		for (unsigned int i = 0; i < 8; i++)
			op_write(slot, node);
	}
	op_write(slot, node);
	node_unref(node);
}

static void op_rename(unsigned int from, unsigned int to)
{
	struct slot *a = &m->slots[from], *b = &m->slots[to];
	char name[16], newname[16];
	struct node *node;
	int err;

	may_be_content(a, 0);
	may_be_content(b, a->now);
	content_of(from)->dirty = true;
	if (b->now)
		content_of(to)->dirty = true;
	err = tier_rename(rig.tier, node_root(rig.nodes), slot_name(from, name),
			  node_root(rig.nodes), slot_name(to, newname), 0);
	ok(!err, "rename", err);
	b->now = a->now;
	a->now = 0;
	node = get_node(to);
	ok(node, "renamed", ENOENT);
	remember(to, node);
	node_unref(node);
	if (!m->power) {
		slot_certain(a);
		slot_certain(b);
		content_of(to)->dirty = false;
	}
}

static struct stress_round kind;

static unsigned int pick_slot(void)
{
	return (kind.first + rnd(kind.slots)) % SLOTS;
}

/* ---- threads ------------------------------------------------------------------- */

static void move_some(void)
{
	static const enum tier_op ops[] = {TIER_MIGRATE, TIER_RELEASE,
					   TIER_MIGRATE_RELEASE, TIER_RESTORE};
	unsigned int slot = pick_slot(), op = rnd(4);
	struct node *node = get_node(slot);
	char what[320];

	if (!node)
		return;
	if (ask(node, ops[op]) == TIER_FAILED) {
		snprintf(what, sizeof(what), "move %u of f%u: %s", op, slot,
			 last.reason);
		ok(strstr(last.reason, "cancel") ||
			   strstr(last.reason, "No such file") ||
			   strstr(last.reason, "Stale"),
		   what, EIO);
	}
	node_unref(node);
}

static void rename_some(unsigned int from, unsigned int to)
{
	if (from == to || atomic_load(&m->next) >= CONTENTS - 100 ||
	    linked(from) || linked(to) || max_pages(from) != max_pages(to))
		return;
	pthread_mutex_lock(&slot_locks[min_t(unsigned int, from, to)]);
	pthread_mutex_lock(&slot_locks[max_t(unsigned int, from, to)]);
	if (m->slots[from].now && m->slots[from].n < MAY - 1 &&
	    m->slots[to].n < MAY - 1)
		op_rename(from, to);
	pthread_mutex_unlock(&slot_locks[from]);
	pthread_mutex_unlock(&slot_locks[to]);
}

static void change_one(enum op op, unsigned int slot)
{
	struct slot *s = &m->slots[slot];
	struct node *node;

	if (s->n >= MAY - 2) {
		/* Else the end is near: that is waited for. */
		ok(synced(syncfs(rig.front->root_fd), "syncfs"), "cut", 0);
		slot_certain(s);
	}
	if (!s->now) {
		create(slot);
		return;
	}
	node = get_node(slot);
	ok(node, "a name that was there", ENOENT);
	switch (op) {
	case OP_WRITE:
		op_write(slot, node);
		break;
	case OP_READ:
		op_read(slot, node);
		break;
	case OP_STAT:
		op_stat(slot, node);
		break;
	case OP_TRUNCATE:
		op_truncate(slot, node);
		break;
	case OP_CHMOD:
		op_chmod(slot, node);
		break;
	case OP_UNLINK:
		if (!linked(slot) && atomic_load(&m->next) < CONTENTS - 100)
			op_unlink(slot);
		break;
	default:
		op_nothing(node);
	}
	node_unref(node);
}

static void *stress_thread(void *arg)
{
	rng = (uint64_t)(uintptr_t)arg;
	for (;;) {
		unsigned int dice = rnd(100), slot = pick_slot();
		enum op op = 0;

		while (dice >= kind.share[op])
			dice -= kind.share[op++];
		atomic_fetch_add(&m->ops[op], 1);
		if (op == OP_MOVE) {
			move_some();
		} else if (op == OP_RENAME) {
			rename_some(slot, pick_slot());
		} else {
			pthread_mutex_lock(&slot_locks[slot]);
			change_one(op, slot);
			pthread_mutex_unlock(&slot_locks[slot]);
		}
	}
	return NULL;
}

void stress_run(unsigned int round)
{
	pthread_t thread;

	/* Some are restored before they are written to, some logs get long. */
	rig.config.restore_below = 3 * PAGE;
	rig.config.dirty_entries = 12;
	tier_retune(rig.tier, &rig.config);

	kind = stress_round(round);
	atomic_store(&m->cut, false);
	for (int i = 0; i < SLOTS; i++)
		pthread_mutex_init(&slot_locks[i], NULL);
	for (uint64_t i = 0; i < THREADS; i++) {
		uint64_t seed = (m->seed + round * THREADS + i + 1) *
				0x9E3779B97F4A7C15u;

		pthread_create(&thread, NULL, stress_thread,
			       (void *)(uintptr_t)(seed | 1));
	}
	for (;;)
		pause();
}

void stress_cut(void)
{
	atomic_store(&m->cut, true);
}

/* ---- verifying ------------------------------------------------------------------ */

/* Which content that is: the pages say it. Without any it is one that may be
 * without, of that size and number: a new file can have that of one that was
 * unlinked. */
static unsigned int find_content(struct slot *s, const uint8_t *buf,
				 int64_t len, uint64_t ino)
{
	unsigned int found = 0, like = 0;

	for (int64_t off = 0; off < len && !found; off += PAGE)
		memcpy(&found, buf + off + 4, sizeof(found));
	for (unsigned int i = s->n; i-- > 0;) {
		unsigned int id = s->may[i];
		const struct content *c = &m->contents[id];

		if (id && found == id)
			return id;
		if (!id || found || (c->st.st_ino != ino && c->st.st_ino))
			continue;
		if (may_be_zeros(c, (unsigned int)(len / PAGE)))
			return id;
		like = id;
	}
	return like;
}

static const char *state_name(unsigned int slot)
{
	struct spill_ea ea = {0};
	char name[16];

	front_ea_get_at(rig.front, rig.front->root_fd, slot_name(slot, name),
			&ea);
	return spill_state_name(ea.state);
}

static void verify_content(unsigned int slot, struct content *c,
			   const struct stat *st, const uint8_t *buf,
			   int64_t len)
{
	unsigned int id = m->slots[slot].now;
	char name[16];

	slot_name(slot, name);
	assert_int_equal(len % PAGE, 0);
	if (len < c->size_lo * PAGE || len > c->size_hi * PAGE)
		fail_msg("%s (%s): %jd bytes, not %u to %u pages", name,
			 state_name(slot), (intmax_t)len, c->size_lo,
			 c->size_hi);
	for (unsigned int i = 0; i < len / PAGE; i++) {
		uint32_t v = page_version(buf + i * PAGE, id, i, name);

		if (v ? v < c->lo[i] || v > c->hi[i] : c->lo[i] && !c->zero[i])
			fail_msg("%s (%s): page %u of %u has version %u, not "
				 "%u to %u%s",
				 name, state_name(slot), i, c->size_hi, v,
				 c->lo[i], c->hi[i], c->zero[i] ? " or 0" : "");
		c->now[i] = v;
	}
	is_size(c, (unsigned int)(len / PAGE));
	if (!c->dirty)
		same_stat(name, &c->st, st);
	else if (c->st.st_ino && c->st.st_ino != st->st_ino)
		fail_msg("%s: number %ju, was %ju", name, (uintmax_t)st->st_ino,
			 (uintmax_t)c->st.st_ino);
	c->st = *st;
	certain(c);
}

static void verify_slot(unsigned int slot)
{
	struct slot *s = &m->slots[slot];
	struct node *node = get_node(slot);
	struct stat st;
	uint8_t *buf;
	int64_t len;

	s->now = 0;
	if (node) {
		assert_int_equal(tier_getattr(rig.tier, node, &st, NULL), 0);
		buf = read_file(node, &len);
		assert_int_equal(st.st_size, len);
		s->now = find_content(s, buf, len, st.st_ino);
		if (!s->now)
			fail_msg("f%u: not what it can be", slot);
		verify_content(slot, content_of(slot), &st, buf, len);
		free(buf);
		node_unref(node);
	} else {
		bool gone = s->n == 0;

		for (unsigned int i = 0; i < s->n; i++)
			gone |= s->may[i] == 0;
		if (!gone)
			fail_msg("f%u is missing", slot);
	}
	slot_certain(s);
}

/* The second name: a crash may have come before it was made. */
static void relink(unsigned int slot)
{
	struct node *node = get_node(slot);
	char second[16];
	int err;

	if (!node)
		return;
	snprintf(second, sizeof(second), "l%u", slot);
	err = link_file(node, second);
	assert_true(!err || err == -EEXIST);
	remember(slot, node);
	node_unref(node);
}

static void use(unsigned int slot)
{
	struct node *node = get_node(slot);

	if (!node)
		return;
	if (rnd(2) && ask(node, TIER_MIGRATE_RELEASE) > TIER_ALREADY)
		fail_msg("f%u: %s", slot, last.reason);
	op_read(slot, node);
	op_stat(slot, node);
	if (rnd(2) && ask(node, TIER_RESTORE) > TIER_ALREADY)
		fail_msg("f%u: %s", slot, last.reason);
	op_read(slot, node);
	op_stat(slot, node);
	node_unref(node);
}

void stress_verify(void)
{
	atomic_store(&m->cut, false);
	wait_settled();
	check_invariants();
	for (unsigned int i = 0; i < SLOTS; i++)
		verify_slot(i);
	rng = m->version * 2654435761u + 1;
	for (unsigned int i = 0; i < SLOTS; i++) {
		if (linked(i))
			relink(i);
		use(i);
	}
	wait_settled();
	check_invariants();
}

void stress_init(uint64_t seed, bool power)
{
	m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(m, MAP_FAILED);
	m->seed = seed;
	m->power = power;
	for (int i = 0; i < SLOTS; i++)
		slot_certain(&m->slots[i]);
}
