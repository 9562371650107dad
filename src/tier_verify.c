/* SPDX-License-Identifier: MIT */
/*
 * Objects that are read in place are checked by the way.
 *
 * A restore compares the checksum before anybody sees the file. Reading in place
 * has given out most of an object before its checksum can be known: what can be
 * done is that the read which completes the whole does not succeed, and none
 * after it.
 *
 * Sequential readers get that at no cost but the hash. The checksum is of the
 * bytes in order, while the kernel's read-ahead has several requests under way,
 * which complete in any order. So one that completes before its predecessors is
 * held back until these have, as long as an unbroken row of requests under way
 * or held back leads to it from where the hash is; without such a row nobody
 * knows when its turn would come, and it goes on. A reader who begins elsewhere
 * is therefore never held up by another's place. But the one thread of ours that
 * lost the CPU before it could begin its read is no reason to miss a whole
 * object's damage: of what goes on not far ahead of the hash a copy is kept for
 * it.
 *
 * Who reads in another order has no such row. Once as much as the whole was
 * read (parts may have been read twice: then it is too early, which does no
 * harm) a job reads the object once more, when nobody else wants the disk.
 *
 * That job decides in all cases, from the medium, so that a bit that flipped in
 * memory condemns no object. A damaged one is marked in the file's EA: reads
 * fail at once, and so does what would restore it by itself. The object stays.
 * Asking for a restore tries, and finds a repaired one; a read has it looked at
 * again now and then.
 *
 * Completions come one after another on the target's ring thread: the hash is
 * that thread's. Lists are under src->lock.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "cleanup.h"
#include "log.h"
#include "oid.h"
#include "tier_impl.h"
#include "util.h"

#define AGAIN_NS (10 * NSEC_PER_SEC)
#define REST	 20 /* times what the last check took */

/* Read-ahead is 128 KiB unless somebody set another one, and a few requests of
 * it are under way at a time. */
#define KEEP_AHEAD (4 << 20)
#define KEEP_ALL   (64 << 20) /* bytes of memory, for all files together */

/* What was read ahead of the hash. */
struct kept {
	struct cds_list_head link;
	uint64_t off, end;
	unsigned char data[];
};

static _Atomic(uint64_t) kept_bytes;

struct check {
	struct mover_job job;
	struct tier *tier;
	struct node *node; /* a reference */
	struct spill_copy copy;
	uint64_t size;
	struct spill_sum sum;
	bool suspect; /* reading in place gave something else */
};

/* ---- the mark --------------------------------------------------------------- */

static bool names(const struct spill_ea *ea, const struct spill_copy *copy)
{
	return ea->ncopies && ea->copies[0].target == copy->target &&
	       ea->copies[0].oid == copy->oid;
}

/* Sets or clears the mark, if the file still relies on that copy. True: it
 * was not so before. */
static bool mark(struct tier *tier, struct node *node,
		 const struct spill_copy *copy, bool damaged)
{
	struct tier_file *file;
	struct spill_ea ea;
	bool changed;

	if (tier_file_lock(tier, node, &file))
		return false;
	ea = file->ea;
	if (damaged)
		ea.flags |= TIERFS_EA_F_DAMAGED;
	else
		ea.flags &= ~TIERFS_EA_F_DAMAGED;
	changed = ea.flags != file->ea.flags && names(&ea, copy) &&
		  (ea.state == SPILL_RELEASED || ea.state == SPILL_DIRTY);
	if (changed)
		tier_ea_set(file, &ea, true);
	/* Those to come know it; those under way end as they began. */
	if (file->src && file->src->remote && names(&ea, copy)) {
		tier_src_put(file->src);
		file->src = NULL;
	}
	tier_file_unlock(file);
	return changed;
}

bool tier_damaged(struct node *node)
{
	return node->file->ea.flags & TIERFS_EA_F_DAMAGED;
}

void tier_damage_found(struct tier *tier, struct node *node,
		       const struct spill_copy *copy, const char *what)
{
	struct target *target = tier_target(tier, copy->target);
	char path[256], object[256];

	if (!target || !mark(tier, node, copy, true))
		return;
	target_object_path(target, copy->oid, object, sizeof(object));
	log_error("target %s: object %s of %s is %s; it is kept, and the file "
		  "stays released",
		  target_name(target), object,
		  node_path(node, path, sizeof(path)), what);
}

/* ---- the check ------------------------------------------------------------- */

static void check_ended(struct check *c, int err)
{
	struct target *target = tier_target(c->tier, c->copy.target);
	char path[256];

	if (err == -ENOENT) {
		tier_damage_found(c->tier, c->node, &c->copy, "missing");
	} else if (err == -EBADMSG) {
		tier_damage_found(c->tier, c->node, &c->copy,
				  "damaged: its checksum is not that of the "
				  "migrated file");
	} else if (!err) {
		mark(c->tier, c->node, &c->copy, false);
		if (c->suspect)
			log_warn("target %s: object %016" PRIx64 " of %s was "
				 "not as migrated when it was read, and is "
				 "now",
				 target_name(target), c->copy.oid,
				 node_path(c->node, path, sizeof(path)));
	}
}

static void check_run(struct mover_job *job)
{
	struct check *c = container_of(job, struct check, job);
	struct target *target = tier_target(c->tier, c->copy.target);
	const struct copy_env env = {.limit = c->tier->parts.limit};
	int64_t began = monotonic_ns();
	struct target_object *object;
	int ret = -ECANCELED;

	if (!atomic_load(&job->ctl.cancelled))
		ret = target_object_open(target, c->copy.oid, &object);
	if (!ret) {
		ret = copy_check(&env, object, c->size, &c->sum, &job->ctl);
		target_object_close(object);
	}
	check_ended(c, ret);
	pthread_mutex_lock(&c->tier->watch_lock);
	c->tier->watch[c->copy.target].check_at =
		monotonic_ns() +
		max_t(int64_t, AGAIN_NS, REST * (monotonic_ns() - began));
	pthread_mutex_unlock(&c->tier->watch_lock);
	node_unref(c->node);
	c->node = NULL;
}

static void check_free(struct mover_job *job)
{
	free(job->path);
	free(container_of(job, struct check, job));
}

/* Never waits: from the ring's thread, or with node->lock held. */
static void check_start(struct tier *tier, struct node *node,
			const struct spill_copy *copy, uint64_t size,
			const struct spill_sum *sum, bool suspect)
{
	struct target *target = tier_target(tier, copy->target);
	struct check *c = calloc(1, sizeof(*c));

	if (!c || !target) {
		free(c);
		return;
	}
	*c = (struct check){.tier = tier,
			    .node = node_ref(node),
			    .copy = *copy,
			    .size = size,
			    .sum = *sum,
			    .suspect = suspect};
	c->job.refs = 1;
	c->job.op = "verify";
	c->job.prio = suspect ? MOVER_ASKED : MOVER_IDLE;
	c->job.lane = copy->target + 1u;
	c->job.order = copy->oid;
	c->job.bytes = size;
	c->job.path = strdup("");
	c->job.run = check_run;
	c->job.free = check_free;
	snprintf(c->job.target, sizeof(c->job.target), "%s",
		 target_name(target));
	if (mover_submit(tier->parts.mover, &c->job, NULL)) {
		node_unref(node);
		check_free(&c->job);
	}
}

void tier_damage_again(struct tier_file *file)
{
	struct tier *tier = file->tier;
	const struct spill_ea *ea = &file->ea;
	struct tier_watch *watch = &tier->watch[ea->copies[0].target];
	int64_t now = monotonic_ns();
	bool go;

	pthread_mutex_lock(&tier->watch_lock);
	go = now >= watch->check_at;
	if (go)
		watch->check_at = now + AGAIN_NS;
	pthread_mutex_unlock(&tier->watch_lock);
	if (go)
		check_start(tier, file->node, &ea->copies[0],
			    tier_object_size(file), &ea->sum, false);
}

uint64_t tier_object_size(struct tier_file *file)
{
	if (file->ea.state != SPILL_DIRTY)
		return file->ea.size;
	if (!file->delta && tier_dirty_load(file))
		return 0;
	return delta_base(file->delta)->size;
}

/* ---- while it is read ----------------------------------------------------- */

/* What a read should have given. */
static int64_t expected(const struct tier_read *read)
{
	const struct tier_src *src = read->src;

	if (read->obj_off >= src->size)
		return 0;
	return min_t(uint64_t, read->obj_len, src->size - read->obj_off);
}

static uint64_t end_of(const struct tier_read *read)
{
	return read->obj_off + expected(read);
}

void tier_verify_begin(struct tier_read *read)
{
	struct tier_src *src = read->src;

	pthread_mutex_lock(&src->lock);
	cds_list_add_tail(&read->link, &src->flying);
	pthread_mutex_unlock(&src->lock);
}

static const struct tier_read *covers(const struct cds_list_head *list,
				      uint64_t pos)
{
	const struct tier_read *read;

	cds_list_for_each_entry (read, list, link)
		if (read->obj_off <= pos && pos < end_of(read))
			return read;
	return NULL;
}

static const struct kept *kept_at(const struct tier_src *src, uint64_t pos)
{
	const struct kept *kept;

	cds_list_for_each_entry (kept, &src->kept, link)
		if (kept->off <= pos && pos < kept->end)
			return kept;
	return NULL;
}

/* Does an unbroken row lead to it from where the hash is? src->lock held. */
static bool has_turn(const struct tier_src *src, const struct tier_read *read)
{
	uint64_t pos = src->hashed;

	while (pos < read->obj_off) {
		const struct tier_read *next = covers(&src->flying, pos);
		const struct kept *kept = kept_at(src, pos);

		if (!next)
			next = covers(&src->held, pos);
		if (!next && !kept)
			return false;
		pos = next ? end_of(next) : kept->end;
	}
	return true;
}

static void kept_free(struct kept *kept)
{
	cds_list_del(&kept->link);
	atomic_fetch_sub(&kept_bytes, kept->end - kept->off);
	free(kept);
}

void tier_verify_end(struct tier_src *src)
{
	struct kept *kept, *next;

	cds_list_for_each_entry_safe (kept, next, &src->kept, link)
		kept_free(kept);
	if (src->hash)
		XXH3_freeState(src->hash);
}

/* It goes on, but its bytes are not far ahead. Without the memory, the hash
 * stops here. */
static void keep(struct tier_src *src, const struct tier_read *read)
{
	uint64_t size = expected(read);
	struct kept *kept;

	if (read->obj_off > src->hashed + KEEP_AHEAD ||
	    kept_at(src, read->obj_off))
		return;
	if (atomic_fetch_add(&kept_bytes, size) + size > KEEP_ALL ||
	    !(kept = malloc(sizeof(*kept) + size))) {
		atomic_fetch_sub(&kept_bytes, size);
		return;
	}
	kept->off = read->obj_off;
	kept->end = read->obj_off + size;
	memcpy(kept->data, read->obj_buf, size);
	cds_list_add_tail(&kept->link, &src->kept);
}

/* Takes in what is next, of data that begin at off. src->lock is dropped for
 * that: the hash is the ring thread's. */
static void hash_next(struct tier_src *src, const unsigned char *data,
		      uint64_t off, uint64_t end)
{
	uint64_t from = src->hashed;
	XXH128_hash_t hash;

	pthread_mutex_unlock(&src->lock);
	if (from == 0)
		XXH3_128bits_reset(src->hash);
	XXH3_128bits_update(src->hash, data + (from - off), end - from);
	if (end == src->size) {
		hash = XXH3_128bits_digest(src->hash);
		if (hash.low64 != src->sum.low || hash.high64 != src->sum.high)
			atomic_store(&src->damaged, true);
		else
			atomic_store(&src->verified, true);
	}
	pthread_mutex_lock(&src->lock);
	src->hashed = end;
}

/* src->lock held. */
static void hash_kept(struct tier_src *src)
{
	struct kept *kept, *next;
	bool more;

	do {
		more = false;
		cds_list_for_each_entry_safe (kept, next, &src->kept, link) {
			if (kept->off > src->hashed)
				continue;
			if (kept->end > src->hashed) {
				hash_next(src, kept->data, kept->off,
					  kept->end);
				more = true;
			}
			kept_free(kept);
		}
	} while (more);
}

/* The next that can go on; moves it from held to out. src->lock held. */
static bool next_out(struct tier_src *src, struct cds_list_head *out)
{
	struct tier_read *read;

	cds_list_for_each_entry (read, &src->held, link) {
		bool done = end_of(read) <= src->hashed ||
			    atomic_load(&src->damaged);

		if (!done && read->obj_off <= src->hashed) {
			hash_next(src, (const void *)read->obj_buf,
				  read->obj_off, end_of(read));
			hash_kept(src);
			done = true;
		}
		if (!done && !has_turn(src, read)) {
			keep(src, read);
			done = true;
		}
		if (done) {
			cds_list_move(&read->link, out->prev);
			return true;
		}
	}
	return false;
}

/* As much as there is was read, but not in order. */
static bool seen_all(struct tier_src *src, int64_t n)
{
	src->seen += n > 0 ? n : 0;
	return src->seen >= src->size && src->hashed < src->size;
}

static void check_src(struct tier_src *src, struct node *node, bool suspect)
{
	const struct spill_copy copy = {
		.target = src->target_number,
		.oid = src->oid,
	};

	if (!atomic_exchange(&src->checked, true))
		check_start(src->tier, node, &copy, src->size, &src->sum,
			    suspect);
}

void tier_verify_missing(struct tier_read *read)
{
	check_src(read->src, read->node, true);
}

void tier_verify_done(struct tier_read *read, int64_t res)
{
	struct tier_src *src = read->src;
	struct tier_read *next;
	CDS_LIST_HEAD(out);
	bool all = false;

	if (!src->size)
		res = -EIO;
	/* The object ends early: the rest is not zeros. */
	if (res >= 0 && res < expected(read))
		atomic_store(&src->damaged, true);
	if (res > expected(read))
		res = expected(read);
	pthread_mutex_lock(&src->lock);
	cds_list_del(&read->link);
	if (!src->hash && !atomic_load(&src->verified))
		src->hash = XXH3_createState();
	read->res = res;
	if (res <= 0 || !src->hash || atomic_load(&src->verified))
		cds_list_add_tail(&read->link, &out);
	else
		cds_list_add_tail(&read->link, &src->held);
	while (next_out(src, &out))
		;
	if (!atomic_load(&src->verified))
		all = seen_all(src, res);
	pthread_mutex_unlock(&src->lock);
	if (atomic_load(&src->damaged))
		check_src(src, read->node, true);
	else if (all)
		check_src(src, read->node, false);
	cds_list_for_each_entry_safe (read, next, &out, link)
		tier_read_finish(read,
				 atomic_load(&src->damaged) ? -EIO : read->res);
}
