/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_BATCH_IMPL_H
#define TIERFS_BATCH_IMPL_H

/* What batch*.c share; for them alone. */

#include "batch.h"

/* The files that are kept: a hash table for readers without locks. */
struct keep_table;

int keep_table_new(struct keep_table **ret);
void keep_table_free(struct keep_table *table);
/* Writers hold a lock of theirs. until 0: removes. -ENOMEM. */
int keep_table_set(struct keep_table *table, const struct front_handle *handle,
		   int64_t until);
/* Removes what ended before now. */
void keep_table_purge(struct keep_table *table, int64_t now);
int64_t keep_table_get(struct keep_table *table,
		       const struct front_handle *handle);

#endif
