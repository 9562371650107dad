/* SPDX-License-Identifier: MIT */
/* Changes that the catalog was not told of, and cannot be: it is closed. */
#include "catalog_int.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int unclean(struct front *front)
{
	struct catalog_db db;
	int err;

	err = catalog_db_open(front->meta_fd, SQLITE_OPEN_READWRITE, &db);
	if (err)
		return err;
	err = catalog_db_exec(&db, "PRAGMA synchronous = FULL");
	if (!err)
		err = catalog_db_set_meta(&db, "clean", 0);
	catalog_db_close(&db);
	return err;
}

int catalog_outdated(struct front *front)
{
	if (faccessat(front->meta_fd, CATALOG_NAME, F_OK, AT_SYMLINK_NOFOLLOW) <
		    0 &&
	    errno == ENOENT)
		return 0;
	/* None is as good: the next one finds all. */
	return unclean(front) ? catalog_schema_remove(front) : 0;
}
