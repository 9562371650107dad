/* SPDX-License-Identifier: MIT */
/*
 * What the targets have: a sorted list each, in which files claim objects.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "check_int.h"
#include "cleanup.h"
#include "util.h"

#define VERIFY_CHUNK (1u << 20)

/* ---- listing --------------------------------------------------------------- */

struct listing {
	struct check *c;
	struct check_target *t;
};

static int list_one(void *arg, uint64_t oid, uint64_t size)
{
	struct listing *l = arg;
	struct check_target *t = l->t;

	if (t->n == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 1024;
		void *objects =
			reallocarray(t->objects, cap, sizeof(*t->objects));

		if (!objects)
			return -ENOMEM;
		t->objects = objects;
		t->cap = cap;
	}
	t->objects[t->n++] = (struct check_object){.oid = oid, .size = size};
	l->c->totals.objects++;
	return check_tick(l->c) ? l->c->err : 0;
}

int check_list_objects(struct check *c)
{
	for (unsigned int i = 0; i < TIERFS_TARGETS_MAX; i++) {
		struct check_target *t = &c->targets[i];
		struct listing l = {.c = c, .t = t};
		int err;

		if (!t->target || !target_online(t->target, NULL, 0))
			continue;
		err = target_each(t->target, list_one, &l);
		if (err == -ENOMEM || err == -ECANCELED)
			return err;
		/* Told as what is offline: it cannot be looked at. */
		t->listed = !err;
		if (err)
			target_failed(t->target, "listing the objects", err);
	}
	return 0;
}

void check_free_objects(struct check *c)
{
	for (unsigned int i = 0; i < TIERFS_TARGETS_MAX; i++)
		free(c->targets[i].objects);
}

static int by_oid(const void *a, const void *b)
{
	const struct check_object *x = a, *y = b;

	return (x->oid > y->oid) - (x->oid < y->oid);
}

struct check_object *check_find_object(struct check *c, uint8_t target,
				       uint64_t oid)
{
	struct check_target *t = &c->targets[target];
	const struct check_object key = {.oid = oid};

	/* target_each() gives them in order. */
	return t->n ? bsearch(&key, t->objects, t->n, sizeof(key), by_oid)
		    : NULL;
}

int check_object_size(struct check *c, uint8_t target, uint64_t oid, bool fresh,
		      uint64_t *ret)
{
	struct check_object *known = check_find_object(c, target, oid);
	struct target_object *object;
	int err;

	if (known && !fresh) {
		*ret = known->size;
		return 0;
	}
	err = target_object_open(c->targets[target].target, oid, &object);
	if (err)
		return err;
	err = target_object_size(object, ret);
	target_object_close(object);
	return err;
}

/* ---- claims ------------------------------------------------------------------ */

static void add_shared(struct check *c, uint8_t target, uint64_t oid)
{
	for (size_t i = 0; i < c->nshared; i++)
		if (c->shared[i].target == target && c->shared[i].oid == oid)
			return;
	if (c->nshared == c->cap_shared) {
		size_t cap = c->cap_shared ? c->cap_shared * 2 : 16;
		void *shared = reallocarray(c->shared, cap, sizeof(*c->shared));

		if (!shared) {
			c->err = -ENOMEM;
			return;
		}
		c->shared = shared;
		c->cap_shared = cap;
	}
	c->shared[c->nshared++] =
		(struct check_shared){.target = target, .oid = oid};
}

void check_claim(struct check *c, uint8_t target, uint64_t oid, uint64_t ino)
{
	struct check_object *object = check_find_object(c, target, oid);

	if (!object)
		return; /* missing, or made since it was listed */
	if (object->ino && object->ino != ino && !c->claiming)
		add_shared(c, target, oid);
	if (!object->ino)
		object->ino = ino;
}

void check_unclaim(struct check *c, uint8_t target, uint64_t oid, uint64_t ino)
{
	struct check_object *object = check_find_object(c, target, oid);

	if (object && object->ino == ino)
		object->ino = 0;
}

/* ---- contents ------------------------------------------------------------------ */

struct sync_read {
	struct target_io io;
	sem_t sem;
	int64_t res;
};

static void read_done(struct target_io *io, int64_t res)
{
	struct sync_read *read = container_of(io, struct sync_read, io);

	read->res = res;
	sem_post(&read->sem);
}

static int64_t read_chunk(struct target_object *object, void *buf, uint64_t off)
{
	struct sync_read read = {.io.done = read_done};

	sem_init(&read.sem, 0, 0);
	target_read_async(object, buf, VERIFY_CHUNK, off, true, &read.io);
	while (sem_wait(&read.sem) < 0)
		;
	sem_destroy(&read.sem);
	return read.res;
}

static int hash_object(struct check *c, struct target_object *object,
		       XXH3_state_t *hash, void *buf)
{
	uint64_t off = 0;

	for (;;) {
		int64_t n = read_chunk(object, buf, off);

		if (n < 0)
			return (int)n;
		XXH3_128bits_update(hash, buf, (size_t)n);
		off += (uint64_t)n;
		c->totals.verified += (uint64_t)n;
		if (n < VERIFY_CHUNK)
			return 0;
		c->since_tick += 64; /* it takes longer than a file */
		if (check_tick(c))
			return c->err;
	}
}

int check_verify(struct check *c, uint8_t target, uint64_t oid,
		 const struct spill_sum *sum)
{
	_cleanup_free_ void *buf = aligned_alloc(TARGET_ALIGN, VERIFY_CHUNK);
	XXH3_state_t *hash = XXH3_createState();
	struct target_object *object = NULL;
	XXH128_hash_t digest;
	int err;

	if (!buf || !hash) {
		XXH3_freeState(hash);
		return -ENOMEM;
	}
	XXH3_128bits_reset(hash);
	err = target_object_open(c->targets[target].target, oid, &object);
	if (!err)
		err = hash_object(c, object, hash, buf);
	target_object_close(object);
	digest = XXH3_128bits_digest(hash);
	XXH3_freeState(hash);
	if (!err && (digest.low64 != sum->low || digest.high64 != sum->high))
		err = -EBADMSG;
	return err;
}

/* ---- what nothing names ---------------------------------------------------------- */

/* Whose it was, as far as it says so itself. */
static char *origin_text(struct target_object *object, char **ret_path)
{
	struct target_origin origin;
	char path[PATH_MAX], when[32] = "?";
	char *text = NULL;
	time_t sec;
	struct tm tm;

	if (target_object_get_origin(object, &origin, path, sizeof(path)))
		return strdup("it does not say whose it was");
	sec = origin.mtime / NSEC_PER_SEC;
	if (gmtime_r(&sec, &tm))
		strftime(when, sizeof(when), "%F %T", &tm);
	if (origin.path && *origin.path)
		*ret_path = strdup(origin.path);
	if (asprintf(&text,
		     "it was of inode %" PRIu64 ", owner %u:%u, mode %04o, "
		     "modified %s UTC",
		     origin.ino, origin.uid, origin.gid, origin.mode & 07777,
		     when) < 0)
		return NULL;
	return text;
}

static void leaked(struct check *c, uint8_t target, uint64_t oid, bool sure)
{
	_cleanup_free_ char *whose = NULL, *path = NULL;
	struct target *t = c->targets[target].target;
	struct target_object *object;
	const char *what;
	bool repaired = false;
	uint64_t size = 0;
	int err;

	/* Asked for after the journal: what was being deleted is gone now. */
	err = target_object_open(t, oid, &object);
	if (err == -ENOENT)
		return;
	if (!err) {
		err = target_object_size(object, &size);
		whose = origin_text(object, &path);
		target_object_close(object);
	}
	if (err) {
		check_found(c, CHECK_UNREADABLE, "", target, oid, false, "%s",
			    strerror(-err));
		return;
	}
	if (c->blind)
		what = "left: what could not be read may name it";
	else if (!sure)
		what = "left: files were renamed all the time";
	else if (!c->parts.journal)
		what = "left: without the journal it may be in use";
	else if (!c->parts.repair)
		what = "nothing names it";
	else if ((err = check_set_aside(c, target, oid)))
		what = strerror(-err);
	else
		what = "moved to lost+found";
	repaired = !c->blind && sure && c->parts.journal && c->parts.repair &&
		   !err;
	check_found(c, CHECK_LEAKED_OBJECT, path ? path : "", target, oid,
		    repaired, "%s; %" PRIu64 " bytes; %s", what, size,
		    whose ? whose : "");
}

void check_leaked(struct check *c, bool sure)
{
	for (unsigned int i = 0; i < TIERFS_TARGETS_MAX; i++) {
		struct check_target *t = &c->targets[i];

		for (size_t k = 0; t->listed && k < t->n; k++) {
			if (t->objects[k].ino || check_tick(c))
				continue;
			if (check_known_intent(c, (uint8_t)i,
					       t->objects[k].oid))
				continue;
			leaked(c, (uint8_t)i, t->objects[k].oid, sure);
		}
	}
}

bool check_unclaimed(struct check *c)
{
	for (size_t i = 0; i < c->nholders; i++)
		if (!c->holders[i].owned)
			return true;
	for (unsigned int i = 0; i < TIERFS_TARGETS_MAX; i++)
		for (size_t k = 0; k < c->targets[i].n; k++)
			if (!c->targets[i].objects[k].ino)
				return true;
	return false;
}
