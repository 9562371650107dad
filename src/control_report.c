/* SPDX-License-Identifier: MIT */
/*
 * tierctl report: what the catalog has counted, at once and without a walk. And
 * what there is to say of the catalog itself.
 *
 * What was told before the question is taken in first, if that is done within a
 * second; the answer says if the walk is not through.
 */
#include <errno.h>
#include <string.h>

#include "catalog.h"
#include "cleanup.h"
#include "control_int.h"
#include "util.h"

#define SETTLE_NS NSEC_PER_SEC

json_t *control_catalog(struct control *control)
{
	struct catalog *catalog = control->parts->catalog;
	struct catalog_stats stats;

	if (!catalog)
		return json_null();
	catalog_stats(catalog, &stats);
	return json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:b, s:s}", "files",
		(json_int_t)stats.files, "dirs", (json_int_t)stats.dirs,
		"queued", (json_int_t)stats.queued, "events",
		(json_int_t)stats.events, "dropped", (json_int_t)stats.dropped,
		"walking", stats.walking, "walked", (json_int_t)stats.walked,
		"marked", (json_int_t)stats.marked, "judging", stats.judging,
		"error", stats.err ? strerrordesc_np(-stats.err) : "");
}

int control_reader(struct control_cmd *cmd, struct catalog_reader **ret)
{
	struct catalog *catalog = cmd->control->parts->catalog;
	char buf[96];
	int err;

	if (!catalog) {
		snprintf(cmd->error, sizeof(cmd->error),
			 "this mount has no catalog");
		return -EOPNOTSUPP;
	}
	/* Late is no reason not to answer. */
	(void)catalog_settle(catalog, false, SETTLE_NS);
	err = catalog_reader_open(catalog, ret);
	if (err)
		snprintf(cmd->error, sizeof(cmd->error), "the catalog: %s",
			 control_reason(err, buf));
	return err;
}

int control_dir_key(struct control_cmd *cmd, const char *path, uint64_t *ret)
{
	_cleanup_close_ int fd = peer_list(cmd->conn, path);
	struct front_handle handle;
	int err;

	if (fd < 0)
		return fd;
	err = front_handle_at(cmd->control->parts->front, fd, "", &handle);
	if (!err)
		*ret = catalog_key(&handle);
	return err;
}

void control_note(struct control_cmd *cmd)
{
	struct catalog_stats stats;

	catalog_stats(cmd->control->parts->catalog, &stats);
	if (stats.walking || stats.marked)
		snprintf(cmd->note, sizeof(cmd->note),
			 "incomplete: %llu directories are still to be walked",
			 (unsigned long long)stats.marked);
}

/* ---- the answer ------------------------------------------------------------ */

static json_t *cell(const struct histogram_cell *cell)
{
	return json_pack("{s:I, s:I}", "files", (json_int_t)cell->files,
			 "bytes", (json_int_t)cell->bytes);
}

static json_t *with(json_t *cell, const char *key, json_int_t value)
{
	if (cell)
		json_object_set_new(cell, key, json_integer(value));
	return cell;
}

static json_t *sizes_json(const struct histogram *h)
{
	json_t *ret = json_array();

	/* 2^63 is the last that JSON's integers can say, and no file is so
	 * large. */
	for (unsigned int i = 0; i < 63; i++)
		if (h->sizes[i].files)
			json_array_append_new(ret,
					      with(cell(&h->sizes[i]), "below",
						   (json_int_t)1 << i));
	return ret;
}

static json_t *ages_json(const struct histogram *h)
{
	json_t *ret = json_array();

	for (size_t i = 0; i < h->nages; i++)
		json_array_append_new(ret,
				      with(cell(&h->ages[i].cell), "since",
					   h->ages[i].week * HISTOGRAM_WEEK));
	return ret;
}

static json_t *report_json(struct control *control, const struct histogram *h,
			   const char *as)
{
	struct histogram_cell all = {0};
	json_t *states = json_object(), *ret;
	struct catalog_stats stats;

	for (int i = 0; i < SPILL_STATES; i++) {
		all.files += h->states[i].files;
		all.bytes += h->states[i].bytes;
		json_object_set_new(states, spill_state_name(i),
				    cell(&h->states[i]));
	}
	catalog_stats(control->parts->catalog, &stats);
	ret = json_pack("{s:I, s:I, s:o, s:o, s:o, s:b, s:I}", "files",
			(json_int_t)all.files, "bytes", (json_int_t)all.bytes,
			"states", states, "sizes", sizes_json(h), "ages",
			ages_json(h), "complete",
			!stats.walking && !stats.marked, "marked",
			(json_int_t)stats.marked);
	if (ret && proto_set_path(ret, "path", as)) {
		json_decref(ret);
		ret = NULL;
	}
	return ret;
}

static void report(struct control_cmd *cmd, struct catalog_reader *reader,
		   const char *path, const char *as)
{
	struct histogram h = {0};
	uint64_t key;
	int err = control_dir_key(cmd, path, &key);

	if (!err)
		err = catalog_report(reader, key, &h);
	if (err == -ENOENT)
		move_result(cmd, as, "failed",
			    "not in the catalog: gone, or not walked yet", 0);
	else if (err)
		move_error(cmd, as, err);
	else
		conn_result(cmd->conn, report_json(cmd->control, &h, as));
	histogram_free(&h);
}

static void report_paths(struct control_cmd *cmd, struct catalog_reader *reader)
{
	json_t *value;
	size_t i;

	json_array_foreach(cmd->paths, i, value)
	{
		_cleanup_free_ char *path = NULL;
		_cleanup_free_ char *as = NULL;

		if (!cmd->stopping && !control_get_path(value, &path, &as))
			report(cmd, reader, path, as);
	}
}

void control_report(struct control_cmd *cmd)
{
	struct catalog_reader *reader = NULL;

	if (control_reader(cmd, &reader))
		return;
	if (!cmd->paths && !cmd->more) {
		report(cmd, reader, "/", cmd->control->mountpoint);
	} else {
		do {
			report_paths(cmd, reader);
		} while (move_next_paths(cmd));
	}
	catalog_reader_close(reader);
}
