/* SPDX-License-Identifier: MIT */
/*
 * Batches that outlive a mount, and what is kept: see batch.h.
 *
 * One connection under one mutex, which is nothing but SQLite's own: it is held
 * across what blocks on the front's disk, and only threads of the control
 * server and background workers take it. A thread of its own (as the journal
 * has) was rejected: nobody here may not wait.
 *
 * What a crash leaves: a batch is BATCH_ASKED, its paths coming in transactions
 * of some hundred, until batch_ready() commits the change to BATCH_WAITING and
 * syncs the log, which makes all before it durable too. Only then its asker is
 * told. What is still BATCH_ASKED at the next mount was acknowledged to nobody
 * and is dropped. Counts are noted without a sync: they are for people.
 *
 * Where a batch has come to is not stored: a step that was taken is found to be
 * so at the cost of a look at the front, and one that failed is tried again.
 */
#include "batch.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "batch_db.h"
#include "cleanup.h"
#include "util.h"

#define PURGE_NS (3600 * NSEC_PER_SEC)

struct batches {
	pthread_mutex_t lock; /* db */
	struct batch_db *db;  /* NULL: done without, for err */
	int err;
	int64_t next_purge;
	struct keep_table *keeps; /* changed under lock */
};

void batch_clear(struct batch *batch)
{
	free(batch->groups);
	free(batch->label);
	batch->groups = NULL;
	batch->label = NULL;
}

void batch_items_free(struct batch_item *items, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(items[i].path);
		free(items[i].as);
	}
}

/* ---- transactions ------------------------------------------------------------ */

/* The lock is held from here to tx_end(), also after a failure. */
static int tx_begin(struct batches *b, bool durable)
{
	int err;

	pthread_mutex_lock(&b->lock);
	if (!b->db)
		return b->err;
	err = batch_db_run(b->db, durable ? ST_FULL : ST_NORMAL);
	return err ? err : batch_db_run(b->db, ST_BEGIN);
}

static int tx_end(struct batches *b, int err)
{
	if (!err)
		err = batch_db_run(b->db, ST_COMMIT);
	if (err && b->db)
		batch_db_rollback(b->db);
	pthread_mutex_unlock(&b->lock);
	return err;
}

static sqlite3_stmt *st_of(struct batches *b, enum batch_statement which)
{
	sqlite3_stmt *st = batch_db_st(b->db, which);

	sqlite3_clear_bindings(st);
	return st;
}

static int run_id(struct batches *b, enum batch_statement which, uint64_t id)
{
	sqlite3_bind_int64(st_of(b, which), 1, (int64_t)id);
	return batch_db_run(b->db, which);
}

/* ---- batches ------------------------------------------------------------------- */

static void bind_text(sqlite3_stmt *st, int at, const char *text)
{
	/* A path may be any bytes. */
	sqlite3_bind_blob(st, at, text ? text : "", text ? strlen(text) : 0,
			  SQLITE_STATIC);
}

int batch_add(struct batches *b, const struct batch *batch)
{
	int err = tx_begin(b, false);

	if (!err) {
		sqlite3_stmt *st = st_of(b, ST_ADD);

		sqlite3_bind_int64(st, 1, (int64_t)batch->id);
		sqlite3_bind_text(st, 2, batch->op, -1, SQLITE_STATIC);
		sqlite3_bind_int(st, 3, batch->recursive);
		sqlite3_bind_int(st, 4, batch->release);
		sqlite3_bind_int64(st, 5, batch->uid);
		sqlite3_bind_int64(st, 6, batch->gid);
		sqlite3_bind_blob(st, 7, batch->groups,
				  (int)(batch->ngroups * sizeof(gid_t)),
				  SQLITE_STATIC);
		sqlite3_bind_int64(st, 8, (int64_t)batch->budget);
		sqlite3_bind_int64(st, 9, batch->keep_until);
		bind_text(st, 10, batch->label);
		sqlite3_bind_int64(st, 11, (int64_t)batch->files);
		sqlite3_bind_int64(st, 12, (int64_t)batch->bytes);
		sqlite3_bind_int64(st, 13, batch->asked_ns);
		sqlite3_bind_int(st, 14, BATCH_ASKED);
		err = batch_db_run(b->db, ST_ADD);
	}
	return tx_end(b, err);
}

int batch_add_items(struct batches *b, uint64_t id, uint64_t first,
		    const struct batch_item *items, size_t n)
{
	int err = tx_begin(b, false);

	for (size_t i = 0; !err && i < n; i++) {
		sqlite3_stmt *st = st_of(b, ST_ITEM);

		sqlite3_bind_int64(st, 1, (int64_t)id);
		sqlite3_bind_int64(st, 2, (int64_t)(first + i));
		bind_text(st, 3, items[i].path);
		bind_text(st, 4, items[i].as);
		err = batch_db_run(b->db, ST_ITEM);
	}
	return tx_end(b, err);
}

int batch_ready(struct batches *b, const struct batch *batch)
{
	int err = tx_begin(b, true);

	if (!err) {
		sqlite3_stmt *st = st_of(b, ST_READY);

		sqlite3_bind_int64(st, 1, (int64_t)batch->id);
		sqlite3_bind_int(st, 2, BATCH_WAITING);
		bind_text(st, 3, batch->label);
		sqlite3_bind_int64(st, 4, (int64_t)batch->files);
		sqlite3_bind_int64(st, 5, (int64_t)batch->bytes);
		err = batch_db_run(b->db, ST_READY);
	}
	return tx_end(b, err);
}

/* Within a transaction. */
static int note(struct batches *b, const struct batch *batch)
{
	const struct batch_counts *counts = &batch->counts;
	char reasons[BATCH_REASONS * BATCH_REASON_LEN];
	sqlite3_stmt *st = st_of(b, ST_NOTE);
	size_t len = 0;

	for (int i = 0; i < BATCH_REASONS && batch->reasons[i][0]; i++)
		len += (size_t)snprintf(reasons + len, sizeof(reasons) - len,
					"%s", batch->reasons[i]) +
		       1;
	sqlite3_bind_int64(st, 1, (int64_t)batch->id);
	sqlite3_bind_int64(st, 2, (int64_t)counts->done);
	sqlite3_bind_int64(st, 3, (int64_t)counts->already);
	sqlite3_bind_int64(st, 4, (int64_t)counts->refused);
	sqlite3_bind_int64(st, 5, (int64_t)counts->failed);
	sqlite3_bind_int64(st, 6, (int64_t)counts->moved);
	sqlite3_bind_blob(st, 7, reasons, (int)len, SQLITE_STATIC);
	return batch_db_run(b->db, ST_NOTE);
}

int batch_note(struct batches *b, const struct batch *batch)
{
	int err = tx_begin(b, false);

	return tx_end(b, err ? err : note(b, batch));
}

int batch_end(struct batches *b, const struct batch *batch)
{
	const int64_t long_ago = BATCH_ENDED_DAYS * 86400 * NSEC_PER_SEC;
	int err = tx_begin(b, true);

	if (!err)
		err = note(b, batch);
	if (!err) {
		sqlite3_stmt *st = st_of(b, ST_END);

		sqlite3_bind_int64(st, 1, (int64_t)batch->id);
		sqlite3_bind_int(st, 2, batch->state);
		sqlite3_bind_int64(st, 3, batch->ended_ns);
		err = batch_db_run(b->db, ST_END);
	}
	if (!err)
		err = run_id(b, ST_DROP_ITEMS, batch->id);
	if (!err) {
		sqlite3_stmt *st = st_of(b, ST_FORGET);

		sqlite3_bind_int64(st, 1, batch->ended_ns - long_ago);
		sqlite3_bind_int(st, 2, BATCH_ENDED_MAX);
		err = batch_db_run(b->db, ST_FORGET);
	}
	return tx_end(b, err);
}

/* Within a transaction. */
static int drop(struct batches *b, uint64_t id)
{
	int err = run_id(b, ST_DROP_ITEMS, id);

	return err ? err : run_id(b, ST_DROP, id);
}

int batch_drop(struct batches *b, uint64_t id)
{
	int err = tx_begin(b, false);

	return tx_end(b, err ? err : drop(b, id));
}

/* ---- reading ----------------------------------------------------------------------- */

static char *column_dup(sqlite3_stmt *st, int at)
{
	const void *bytes = sqlite3_column_blob(st, at);
	int len = sqlite3_column_bytes(st, at);

	return strndup(bytes ? bytes : "", bytes ? len : 0);
}

static void read_reasons(sqlite3_stmt *st, struct batch *batch)
{
	const char *text = sqlite3_column_blob(st, 20);
	const char *end = text ? text + sqlite3_column_bytes(st, 20) : NULL;

	for (int i = 0; i < BATCH_REASONS && text && text < end; i++) {
		size_t len = strnlen(text, end - text);

		snprintf(batch->reasons[i], BATCH_REASON_LEN, "%.*s", (int)len,
			 text);
		text += len + 1;
	}
}

static int read_batch(sqlite3_stmt *st, struct batch *ret)
{
	const void *groups = sqlite3_column_blob(st, 6);
	size_t len = (size_t)sqlite3_column_bytes(st, 6);

	*ret = (struct batch){
		.id = sqlite3_column_int64(st, 0),
		.recursive = sqlite3_column_int(st, 2),
		.release = sqlite3_column_int(st, 3),
		.uid = sqlite3_column_int64(st, 4),
		.gid = sqlite3_column_int64(st, 5),
		.budget = sqlite3_column_int64(st, 7),
		.keep_until = sqlite3_column_int64(st, 8),
		.files = sqlite3_column_int64(st, 10),
		.bytes = sqlite3_column_int64(st, 11),
		.asked_ns = sqlite3_column_int64(st, 12),
		.ended_ns = sqlite3_column_int64(st, 13),
		.state = sqlite3_column_int(st, 14),
		.counts =
			{
				.done = sqlite3_column_int64(st, 15),
				.already = sqlite3_column_int64(st, 16),
				.refused = sqlite3_column_int64(st, 17),
				.failed = sqlite3_column_int64(st, 18),
				.moved = sqlite3_column_int64(st, 19),
			},
	};
	snprintf(ret->op, sizeof(ret->op), "%s",
		 (const char *)sqlite3_column_text(st, 1));
	ret->label = column_dup(st, 9);
	ret->groups = calloc(len / sizeof(gid_t) + 1, sizeof(gid_t));
	if (!ret->label || !ret->groups) {
		batch_clear(ret);
		return -ENOMEM;
	}
	ret->ngroups = len / sizeof(gid_t);
	if (len)
		memcpy(ret->groups, groups, ret->ngroups * sizeof(gid_t));
	read_reasons(st, ret);
	return 0;
}

int batch_each(struct batches *b, void (*fn)(void *arg, struct batch *batch),
	       void *arg)
{
	int err = 0, rc = SQLITE_DONE;
	struct batch batch;
	sqlite3_stmt *st;

	pthread_mutex_lock(&b->lock);
	st = b->db ? batch_db_st(b->db, ST_LIST) : NULL;
	while (st && !err && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		err = read_batch(st, &batch);
		if (!err)
			fn(arg, &batch);
	}
	if (!err && b->db)
		err = batch_db_errno(b->db, rc);
	if (st)
		sqlite3_reset(st);
	pthread_mutex_unlock(&b->lock);
	return err;
}

ssize_t batch_items(struct batches *b, uint64_t id, uint64_t first,
		    struct batch_item *ret, size_t n)
{
	int err = 0, rc = SQLITE_DONE;
	sqlite3_stmt *st;
	size_t got = 0;

	pthread_mutex_lock(&b->lock);
	st = b->db ? st_of(b, ST_ITEMS) : NULL;
	if (st) {
		sqlite3_bind_int64(st, 1, (int64_t)id);
		sqlite3_bind_int64(st, 2, (int64_t)first);
		sqlite3_bind_int64(st, 3, (int64_t)n);
	}
	while (st && !err && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		ret[got].path = column_dup(st, 0);
		ret[got].as = column_dup(st, 1);
		if (!ret[got].path || !ret[got].as)
			err = -ENOMEM;
		got++;
	}
	if (!err)
		err = b->db ? batch_db_errno(b->db, rc) : b->err;
	if (st)
		sqlite3_reset(st);
	pthread_mutex_unlock(&b->lock);
	if (err) {
		batch_items_free(ret, got);
		return err;
	}
	return got;
}

/* ---- what is kept ------------------------------------------------------------------ */

static size_t handle_blob(const struct front_handle *handle,
			  uint8_t blob[1 + FRONT_HANDLE_BYTES])
{
	blob[0] = handle->type;
	memcpy(blob + 1, handle->bytes, handle->len);
	return 1u + handle->len;
}

/* What ended is forgotten now and then. Within a transaction. */
static void purge(struct batches *b)
{
	int64_t now = realtime_ns();

	if (now < b->next_purge)
		return;
	b->next_purge = now + PURGE_NS;
	sqlite3_bind_int64(st_of(b, ST_KEEP_PURGE), 1, now);
	batch_db_run(b->db, ST_KEEP_PURGE);
	keep_table_purge(b->keeps, now);
}

int batch_keep(struct batches *b, const struct front_handle *handle,
	       int64_t until)
{
	enum batch_statement which = until > 0 ? ST_KEEP : ST_UNKEEP;
	uint8_t blob[1 + FRONT_HANDLE_BYTES];
	size_t len = handle_blob(handle, blob);
	int err = tx_begin(b, false), in_memory;

	in_memory = keep_table_set(b->keeps, handle, until);
	if (!err) {
		sqlite3_stmt *st = st_of(b, which);

		purge(b);
		sqlite3_bind_blob(st, 1, blob, (int)len, SQLITE_STATIC);
		if (until > 0)
			sqlite3_bind_int64(st, 2, until);
		err = batch_db_run(b->db, which);
	}
	err = tx_end(b, err);
	return in_memory ? in_memory : err;
}

int batch_keep_sync(struct batches *b)
{
	int err = tx_begin(b, true);

	if (!err) {
		/* A commit that changes nothing would sync nothing: the row of
		 * a handle that no file has. */
		sqlite3_stmt *st = st_of(b, ST_KEEP);

		sqlite3_bind_zeroblob(st, 1, 1);
		sqlite3_bind_int64(st, 2, realtime_ns());
		err = batch_db_run(b->db, ST_KEEP);
	}
	return tx_end(b, err);
}

int64_t batch_kept_until(struct batches *b, const struct front_handle *handle)
{
	int64_t until = b ? keep_table_get(b->keeps, handle) : 0;

	return until > realtime_ns() ? until : 0;
}

/* ---- life ------------------------------------------------------------------------------ */

static int load_keeps(struct batches *b)
{
	sqlite3_stmt *st = batch_db_st(b->db, ST_KEEPS);
	int64_t now = realtime_ns();
	int rc, err = 0;

	while (!err && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		const uint8_t *blob = sqlite3_column_blob(st, 0);
		int len = sqlite3_column_bytes(st, 0);
		struct front_handle handle = {.len = (uint8_t)(len - 1)};

		if (len < 2 || len > 1 + FRONT_HANDLE_BYTES ||
		    sqlite3_column_int64(st, 1) <= now)
			continue;
		handle.type = blob[0];
		memcpy(handle.bytes, blob + 1, handle.len);
		err = keep_table_set(b->keeps, &handle,
				     sqlite3_column_int64(st, 1));
	}
	if (!err)
		err = batch_db_errno(b->db, rc);
	sqlite3_reset(st);
	return err;
}

/* The batches whose asker was never told. */
static int drop_asked(struct batches *b)
{
	sqlite3_stmt *st = batch_db_st(b->db, ST_LIST);
	_cleanup_free_ uint64_t *ids = NULL;
	size_t n = 0;
	int rc, err = 0;

	while (!err && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		uint64_t *more;

		if (sqlite3_column_int(st, 14) != BATCH_ASKED)
			continue;
		more = reallocarray(ids, n + 1, sizeof(*ids));
		err = more ? 0 : -ENOMEM;
		if (more) {
			ids = more;
			ids[n++] = sqlite3_column_int64(st, 0);
		}
	}
	if (!err)
		err = batch_db_errno(b->db, rc);
	sqlite3_reset(st);
	if (!err && n) {
		err = tx_begin(b, false);
		for (size_t i = 0; !err && i < n; i++)
			err = drop(b, ids[i]);
		err = tx_end(b, err);
	}
	return err;
}

static int open_once(struct batches *b, int dirfd, char **ret_why)
{
	int err = batch_db_open(dirfd, &b->db, ret_why);

	if (!err)
		err = load_keeps(b);
	if (!err)
		err = drop_asked(b);
	if (err && b->db) {
		batch_db_close(b->db);
		b->db = NULL;
	}
	return err;
}

/* Out of the way, with its log. */
static int put_aside(int dirfd)
{
	if (renameat(dirfd, "batches.db", dirfd, "batches.db.bad") < 0)
		return -errno;
	if (renameat(dirfd, "batches.db-wal", dirfd, "batches.db.bad-wal") < 0)
		unlinkat(dirfd, "batches.db.bad-wal", 0);
	unlinkat(dirfd, "batches.db-journal", 0);
	return 0;
}

int batches_open(int dirfd, struct batches **ret, char **ret_why)
{
	_cleanup_free_ char *what = NULL, *again = NULL;
	struct batches *b = calloc(1, sizeof(*b));
	int err = b ? keep_table_new(&b->keeps) : -ENOMEM;

	if (err) {
		free(b);
		return err;
	}
	pthread_mutex_init(&b->lock, NULL);
	b->err = open_once(b, dirfd, &what);
	if (b->err == -EBADMSG || b->err == -EPROTONOSUPPORT) {
		int bad = b->err;

		b->err = put_aside(dirfd);
		if (!b->err)
			b->err = open_once(b, dirfd, &again);
		if (!b->err)
			fail_why(ret_why, bad,
				 "batches.db: %s: put aside as batches.db.bad; "
				 "what was asked for with --no-wait or --keep "
				 "is forgotten",
				 what ? what : strerror(-bad));
	}
	if (b->err)
		fail_why(ret_why, b->err,
			 "batches.db: %s: --no-wait and --keep do not work",
			 again	? again
			 : what ? what
				: strerror(-b->err));
	*ret = b;
	return 0;
}

void batches_close(struct batches *b)
{
	if (!b)
		return;
	batch_db_close(b->db);
	keep_table_free(b->keeps);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

uint64_t batches_last_id(struct batches *b)
{
	uint64_t ret = 0;
	sqlite3_stmt *st;

	pthread_mutex_lock(&b->lock);
	st = b->db ? batch_db_st(b->db, ST_LAST_ID) : NULL;
	if (st && sqlite3_step(st) == SQLITE_ROW)
		ret = sqlite3_column_int64(st, 0);
	if (st)
		sqlite3_reset(st);
	pthread_mutex_unlock(&b->lock);
	return ret;
}
