/* SPDX-License-Identifier: MIT */
#include "catalog_int.h"

int catalog_walk_start(struct catalog *c)
{
	return 0;
}

void catalog_walk_stop(struct catalog *c)
{
}

int catalog_walk_some(struct catalog *c, bool *ret_more)
{
	return 0;
}

void catalog_walk_done(struct catalog *c)
{
}

void catalog_walk_failed(struct catalog *c)
{
}

bool catalog_walk_ready(struct catalog *c)
{
	return false;
}

int catalog_walk_due(struct catalog *c, bool *ret, uint64_t *ret_marked)
{
	*ret = false;
	*ret_marked = 0;
	return 0;
}
