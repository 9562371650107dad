/* SPDX-License-Identifier: MIT */
/*
 * tierctl find: files from the catalog, sent as they are found.
 *
 * The connection's thread reads and sends, and may wait for its client: the
 * catalog reads a piece at a time and keeps nothing open while it is told of
 * that, so who takes no answers holds up nobody, and costs a connection
 * (control.c).
 *
 * Who is not root is told only of what a walk could have told him: of each
 * directory the catalog names, its path is opened with his rights, must be one
 * that he may list, and the directory that the catalog means.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "catalog.h"
#include "cleanup.h"
#include "control_int.h"
#include "util.h"

#define NAME_GLOB_MAX 1024
#define FIND_PUMP     256 /* the client is looked at every so many files */

/* ---- what is asked for ------------------------------------------------------ */

static int bad(char why[PROTO_WHY_LEN], const char *key, const char *what)
{
	snprintf(why, PROTO_WHY_LEN, "filter: %.100s: %s", key, what);
	return -EINVAL;
}

/* [MIN, MAX], each a number or null. */
static int get_range(const json_t *value, int64_t *min, int64_t *max)
{
	const json_t *a = json_array_get(value, 0);
	const json_t *b = json_array_get(value, 1);

	if (json_array_size(value) != 2 ||
	    (!json_is_null(a) && !json_is_integer(a)) ||
	    (!json_is_null(b) && !json_is_integer(b)))
		return -EINVAL;
	if (json_is_integer(a))
		*min = json_integer_value(a);
	if (json_is_integer(b))
		*max = json_integer_value(b);
	return 0;
}

static int get_size(const json_t *value, struct catalog_filter *filter)
{
	int64_t min = 0, max = INT64_MAX;

	if (get_range(value, &min, &max) || min < 0 || max < 0)
		return -EINVAL;
	filter->size_min = (uint64_t)min;
	if (max < INT64_MAX)
		filter->size_max = (uint64_t)max;
	return 0;
}

static int get_id(const json_t *value, bool *by, uint32_t *ret)
{
	json_int_t id = json_integer_value(value);

	if (!json_is_integer(value) || id < 0 || id > UINT32_MAX)
		return -EINVAL;
	*by = true;
	*ret = (uint32_t)id;
	return 0;
}

static int get_states(const json_t *value, struct catalog_filter *filter)
{
	const json_t *name;
	size_t i;

	if (!json_is_array(value) || !json_array_size(value))
		return -EINVAL;
	json_array_foreach((json_t *)value, i, name)
	{
		int state = 0;

		while (state < SPILL_STATES && json_is_string(name) &&
		       strcmp(spill_state_name(state), json_string_value(name)))
			state++;
		if (!json_is_string(name) || state == SPILL_STATES)
			return -EINVAL;
		filter->states |= 1u << state;
	}
	return 0;
}

static int get_flags(const json_t *value, struct catalog_filter *filter)
{
	const json_t *name;
	size_t i;

	if (!json_is_array(value))
		return -EINVAL;
	json_array_foreach((json_t *)value, i, name)
	{
		const char *text = json_string_value(name);

		if (text && !strcmp(text, "pinned"))
			filter->flags |= CATALOG_PINNED;
		else if (text && !strcmp(text, "damaged"))
			filter->flags |= CATALOG_DAMAGED;
		else
			return -EINVAL;
	}
	return 0;
}

static int get_one(const char *key, const json_t *value,
		   struct catalog_filter *filter)
{
	if (!strcmp(key, "states"))
		return get_states(value, filter);
	if (!strcmp(key, "size"))
		return get_size(value, filter);
	if (!strcmp(key, "access"))
		return get_range(value, &filter->access_min,
				 &filter->access_max);
	if (!strcmp(key, "mtime"))
		return get_range(value, &filter->mtime_min, &filter->mtime_max);
	if (!strcmp(key, "ctime"))
		return get_range(value, &filter->ctime_min, &filter->ctime_max);
	if (!strcmp(key, "uid"))
		return get_id(value, &filter->by_uid, &filter->uid);
	if (!strcmp(key, "gid"))
		return get_id(value, &filter->by_gid, &filter->gid);
	if (!strcmp(key, "flags"))
		return get_flags(value, filter);
	return !strcmp(key, "name") || !strcmp(key, "name_hex") ? 0 : -ENOKEY;
}

int control_get_filter(const json_t *obj, struct catalog_filter *ret,
		       char **ret_name, char why[PROTO_WHY_LEN])
{
	struct catalog_filter filter = {
		.size_max = UINT64_MAX,
		.access_min = INT64_MIN,
		.access_max = INT64_MAX,
		.mtime_min = INT64_MIN,
		.mtime_max = INT64_MAX,
		.ctime_min = INT64_MIN,
		.ctime_max = INT64_MAX,
	};
	_cleanup_free_ char *name = NULL;
	const char *key;
	json_t *value;
	int err;

	json_object_foreach((json_t *)obj, key, value)
	{
		err = get_one(key, value, &filter);
		if (err)
			return bad(why, key,
				   err == -ENOKEY ? "unknown"
						  : "not what it takes");
	}
	err = obj ? proto_get_path(obj, "name", &name) : -ENOENT;
	if (err && err != -ENOENT)
		return bad(why, "name", "not a pattern");
	if (name && strlen(name) > NAME_GLOB_MAX)
		return bad(why, "name", "too long");
	filter.name = *ret_name = steal_ptr(&name);
	*ret = filter;
	return 0;
}

/* ---- the answers ------------------------------------------------------------- */

struct find {
	struct control_cmd *cmd;
	size_t prefix; /* of a path that as stands for */
	const char *as;
	unsigned int n;
	bool checks; /* the peer is not root */
	/* The directory that was checked last. */
	uint64_t home;
	bool visible;
	bool any; /* home is one */
};

static double seconds(int64_t ns)
{
	return (double)ns / NSEC_PER_SEC;
}

static json_t *row_json(const struct catalog_row *row, const char *path)
{
	json_t *ret = json_pack(
		"{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:b, s:b}",
		"state", spill_state_name(row->state), "size",
		(json_int_t)row->size, "front_bytes",
		(json_int_t)row->front_bytes, "uid", (json_int_t)row->uid,
		"gid", (json_int_t)row->gid, "nlink", (json_int_t)row->nlink,
		"access", seconds(row->access), "mtime", seconds(row->mtime),
		"ctime", seconds(row->ctime), "pinned",
		(row->flags & CATALOG_PINNED) != 0, "damaged",
		(row->flags & CATALOG_DAMAGED) != 0);

	if (ret && proto_set_path(ret, "path", path)) {
		json_decref(ret);
		ret = NULL;
	}
	return ret;
}

/* May the peer list the directory that the row is in? */
static bool may_see(struct find *f, const char *path,
		    const struct catalog_row *row)
{
	_cleanup_free_ char *dir = NULL;
	char *slash;
	uint64_t key;

	if (!f->checks || (f->any && f->home == row->home))
		return !f->checks || f->visible;
	dir = strdup(path);
	slash = dir ? strrchr(dir, '/') : NULL;
	if (!slash)
		return false;
	slash[slash == dir ? 1 : 0] = '\0';
	f->any = true;
	f->home = row->home;
	f->visible = !control_dir_key(f->cmd, dir, &key) && key == row->home;
	return f->visible;
}

static bool found(void *arg, const char *path, const struct catalog_row *row)
{
	struct find *f = arg;
	struct control_conn *conn = f->cmd->conn;
	size_t len = strlen(f->as);
	_cleanup_free_ char *as = NULL;

	if (++f->n % FIND_PUMP == 0)
		move_pump(f->cmd, 0);
	if (f->cmd->stopping || conn->gone)
		return false;
	if (!may_see(f, path, row))
		return true;
	if (strlen(path) <= f->prefix ||
	    asprintf(&as, "%.*s/%s",
		     (int)(len && f->as[len - 1] == '/' ? len - 1 : len), f->as,
		     path + f->prefix + 1) < 0) {
		as = NULL;
		return true; /* it was renamed to elsewhere meanwhile */
	}
	conn_result(conn, row_json(row, as));
	return true;
}

static void find_below(struct control_cmd *cmd, struct catalog_reader *reader,
		       const struct catalog_filter *filter, const char *path,
		       const char *as)
{
	const struct control *control = cmd->control;
	_cleanup_free_ char *prefix = NULL;
	struct find f = {
		.cmd = cmd,
		.as = as,
		.checks = cmd->conn->peer.uid != 0 &&
			  cmd->conn->peer.uid != control->self.uid,
	};
	uint64_t key;
	int err = control_dir_key(cmd, path, &key);

	if (!err)
		err = catalog_dir_path(reader, key, &prefix);
	if (!err) {
		f.prefix = strlen(prefix);
		if (f.prefix && prefix[f.prefix - 1] == '/')
			f.prefix--;
		err = catalog_find(reader, key, filter, found, &f);
	}
	if (err == -ENOENT)
		move_result(cmd, as, "failed",
			    "not in the catalog: gone, or not walked yet", 0);
	else if (err)
		move_error(cmd, as, err);
}

void control_find(struct control_cmd *cmd, const struct catalog_filter *filter)
{
	struct catalog_reader *reader = NULL;

	if (control_reader(cmd, &reader))
		return;
	do {
		json_t *value;
		size_t i;

		json_array_foreach(cmd->paths, i, value)
		{
			_cleanup_free_ char *path = NULL;
			_cleanup_free_ char *as = NULL;

			if (!cmd->stopping &&
			    !control_get_path(value, &path, &as))
				find_below(cmd, reader, filter, path, as);
		}
	} while (move_next_paths(cmd));
	catalog_reader_close(reader);
	control_note(cmd);
}
