/* SPDX-License-Identifier: MIT */
/*
 * The files that are kept, in memory: what batches.db says, for readers.
 *
 * Who decides about a release asks for each candidate, so asking takes no lock:
 * liburcu's hash table, with a 64 bit hash of the handle as key. Two files with
 * the same hash would be kept both: harmless, and nobody will see it. About 50
 * bytes a file.
 */
#include <urcu-bp.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <urcu/rculfhash.h>
#include <xxhash.h>

#include "batch_impl.h"
#include "util.h"

struct keep_table {
	struct cds_lfht *lfht;
};

struct keep {
	struct cds_lfht_node hash;
	struct rcu_head rcu;
	uint64_t key;
	_Atomic(int64_t) until;
};

static uint64_t keep_key(const struct front_handle *handle)
{
	return XXH3_64bits_withSeed(handle->bytes, handle->len, handle->type);
}

static int keep_match(struct cds_lfht_node *node, const void *key)
{
	return container_of(node, struct keep, hash)->key ==
	       *(const uint64_t *)key;
}

static struct keep *keep_find(struct keep_table *table, uint64_t key)
{
	struct cds_lfht_iter iter;
	struct cds_lfht_node *node;

	cds_lfht_lookup(table->lfht, key, keep_match, &key, &iter);
	node = cds_lfht_iter_get_node(&iter);
	return node ? container_of(node, struct keep, hash) : NULL;
}

static void keep_free(struct rcu_head *rcu)
{
	struct keep *keep = container_of(rcu, struct keep, rcu);

	TSAN_ACQUIRE(keep);
	free(keep);
}

static void keep_del(struct keep_table *table, struct keep *keep)
{
	if (cds_lfht_del(table->lfht, &keep->hash))
		return;
	TSAN_RELEASE(keep);
	call_rcu(&keep->rcu, keep_free);
}

int keep_table_new(struct keep_table **ret)
{
	struct keep_table *table = calloc(1, sizeof(*table));

	if (!table)
		return -ENOMEM;
	table->lfht = cds_lfht_new(64, 64, 0, CDS_LFHT_AUTO_RESIZE, NULL);
	if (!table->lfht) {
		free(table);
		return -ENOMEM;
	}
	*ret = table;
	return 0;
}

void keep_table_free(struct keep_table *table)
{
	if (!table)
		return;
	keep_table_purge(table, INT64_MAX);
	rcu_barrier();
	cds_lfht_destroy(table->lfht, NULL);
	free(table);
}

void keep_table_purge(struct keep_table *table, int64_t now)
{
	struct cds_lfht_iter iter;
	struct keep *keep;

	rcu_read_lock();
	cds_lfht_for_each_entry (table->lfht, &iter, keep, hash) {
		if (atomic_load(&keep->until) <= now)
			keep_del(table, keep);
	}
	rcu_read_unlock();
}

int keep_table_set(struct keep_table *table, const struct front_handle *handle,
		   int64_t until)
{
	uint64_t key = keep_key(handle);
	struct keep *keep;
	int err = 0;

	rcu_read_lock();
	keep = keep_find(table, key);
	if (keep && until > 0) {
		atomic_store(&keep->until, until);
	} else if (keep) {
		keep_del(table, keep);
	} else if (until > 0) {
		keep = calloc(1, sizeof(*keep));
		if (keep) {
			keep->key = key;
			atomic_init(&keep->until, until);
			TSAN_RELEASE(table);
			cds_lfht_add(table->lfht, key, &keep->hash);
		} else {
			err = -ENOMEM;
		}
	}
	rcu_read_unlock();
	return err;
}

int64_t keep_table_get(struct keep_table *table,
		       const struct front_handle *handle)
{
	struct keep *keep;
	int64_t ret = 0;

	rcu_read_lock();
	TSAN_ACQUIRE(table);
	keep = keep_find(table, keep_key(handle));
	if (keep)
		ret = atomic_load(&keep->until);
	rcu_read_unlock();
	return ret;
}
