/* SPDX-License-Identifier: MIT */
/*
 * What the catalog is told.
 *
 * It makes a row from what the front says when the event is taken in, so an
 * event must come after what it tells of; one too many does no harm. Names are
 * told under the directory's lock, or, by what makes a file, before the request
 * is answered: until then the kernel holds the directory's own. What concerns
 * one file is told under its node's lock, so that it names the inode which the
 * file has then, before or after a swap.
 *
 * Where the EA is set is told in tier_ea_set() for all that changes states.
 * What follows it on the inode (a release cuts off the data) is told again. A
 * file that is being written is told at the last close: with passthrough there
 * is nothing to be seen before. One without a name has no row.
 */
#include "tier_impl.h"

#include "cleanup.h"

static void tell(struct tier *tier, struct node *node,
		 void (*fn)(struct catalog *, const struct front_handle *,
			    const struct front_handle *, const char *))
{
	struct catalog *catalog = tier->parts.catalog;
	struct front_handle file, parent;

	if (!catalog || (!S_ISREG(node->type) && !S_ISDIR(node->type)) ||
	    atomic_load(&node->flags) & NODE_UNLINKED)
		return;
	file = node_handle(node);
	if (!node->parent) {
		fn(catalog, &file, NULL, NULL);
		return;
	}
	parent = node_handle(node->parent);
	fn(catalog, &file, &parent, node_name(node));
}

void tier_tell_changed(struct tier *tier, struct node *node)
{
	tell(tier, node, catalog_changed);
}

void tier_tell_accessed(struct tier *tier, struct node *node)
{
	tell(tier, node, catalog_accessed);
}

void tier_tell_backdated(struct tier *tier, struct node *node)
{
	tell(tier, node, catalog_backdated);
}

void tier_changed(struct tier *tier, struct node *node)
{
	if (!tier->parts.catalog)
		return;
	pthread_mutex_lock(&node->lock);
	tier_tell_changed(tier, node);
	pthread_mutex_unlock(&node->lock);
}

void tier_tell_named(struct tier *tier, const struct front_handle *file,
		     struct node *parent, const char *name)
{
	struct front_handle dir;

	if (!tier->parts.catalog)
		return;
	dir = node_handle(parent);
	catalog_named(tier->parts.catalog, file, &dir, name);
}

void tier_tell_unnamed(struct tier *tier, const struct front_handle *file,
		       struct node *parent, const char *name,
		       enum tier_left left)
{
	struct front_handle dir;

	if (!tier->parts.catalog)
		return;
	dir = node_handle(parent);
	if (left == LEFT_NOTHING)
		catalog_removed(tier->parts.catalog, file, &dir, name);
	else if (left == LEFT_ORPHAN)
		catalog_unnamed(tier->parts.catalog, file, &dir, name);
	else
		catalog_unlinked(tier->parts.catalog, file, &dir, name);
}
