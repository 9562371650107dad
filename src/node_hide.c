/* SPDX-License-Identifier: MIT */
/*
 * A directory's times while files in it are swapped.
 *
 * A restore puts another inode at a name. On the front that changes mtime and
 * ctime of the directory, in which nothing happened that its users did; tar says
 * that it changed as it was read. mtime is put back by who swaps. ctime cannot
 * be, so what was shown before is shown for it, until something else changes it.
 * That is known in memory alone, as long as the kernel knows the directory, and so
 * to whoever has it open: after that it is another, once.
 *
 * What is known is there before a swap changes anything, and whoever looks at a
 * directory looks whether it is after his stat. If so, that may have come in the
 * middle: it is taken again with the directory's lock, for which a swap is one
 * step.
 */
#include <stdlib.h>

#include "node_impl.h"
#include "util.h"

/* Under the directory's lock. ns. */
struct node_hidden {
	int64_t real;  /* the ctime for which shown is shown */
	int64_t shown; /* ctime */
};

bool node_hides(const struct node *dir)
{
	return S_ISDIR(dir->type) && atomic_load(&dir->hidden);
}

int node_hide_stat(struct node *dir, struct stat *ret)
{
	struct node_hidden *h = atomic_load(&dir->hidden);
	int err;

	node_dir_lock(dir);
	err = node_stat(dir, ret);
	if (!err && h->real == timespec_to_ns(ret->st_ctim))
		ret->st_ctim = timespec_from_ns(h->shown);
	node_dir_unlock(dir);
	return err;
}

void node_hide_begin(struct node *dir)
{
	struct node_hidden *h = atomic_load(&dir->hidden);
	struct stat st;

	if (!h)
		h = calloc(1, sizeof(*h));
	if (!h || node_stat(dir, &st))
		goto out;
	if (h->real != timespec_to_ns(st.st_ctim))
		h->real = h->shown = timespec_to_ns(st.st_ctim);
out:
	atomic_store(&dir->hidden, h);
}

void node_hide_end(struct node *dir)
{
	struct node_hidden *h = atomic_load(&dir->hidden);
	struct stat st;

	if (h && !node_stat(dir, &st))
		h->real = timespec_to_ns(st.st_ctim);
}

void node_hide_free(struct node *dir)
{
	if (S_ISDIR(dir->type))
		free(atomic_load(&dir->hidden));
}
