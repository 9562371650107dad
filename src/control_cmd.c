/* SPDX-License-Identifier: MIT */
/*
 * Requests of the control protocol: what they say, who may ask, and the
 * commands that only read. What moves data is in control_move.c.
 *
 * A request is checked whole before anything is done, and what is unknown in
 * it is an error: a newer client's wish is not half fulfilled.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "catalog.h"
#include "cleanup.h"
#include "control_int.h"
#include "util.h"

enum command_kind {
	KIND_HELLO,
	KIND_STATUS,
	KIND_MOVE,
	KIND_QUEUE,
	KIND_CANCEL,
	KIND_METRICS,
	KIND_REMOUNT,
	KIND_CHECK,
	KIND_DRAIN,
	KIND_REPORT,
	KIND_FIND,
	KIND_WHY,
	KIND_POLICY,
};

/* Keys a command takes beside version and command. */
enum command_keys {
	KEY_PATHS = 0x01, /* and more */
	KEY_RECURSIVE = 0x02,
	KEY_RELEASE = 0x04,
	KEY_WAIT = 0x08, /* and progress */
	KEY_JOB = 0x10,
	KEY_REMOUNT = 0x20, /* options and check */
	KEY_CHECK = 0x40,   /* repair, verify, progress */
	KEY_DRAIN = 0x80,   /* progress */
	KEY_FILTER = 0x100,
	KEY_KEEP = 0x200, /* budget, keep */
	KEY_ALL = 0x400,
	KEY_POLICY = 0x1000, /* dry_run */
};

#define KEYS_MOVE (KEY_PATHS | KEY_RECURSIVE | KEY_WAIT)

static const struct command {
	const char *name;
	enum command_kind kind;
	unsigned int keys;
	enum control_op op;
} commands[] = {
	{"hello", KIND_HELLO},
	{"status", KIND_STATUS, KEY_PATHS},
	{"migrate", KIND_MOVE, KEYS_MOVE | KEY_RELEASE, CONTROL_MIGRATE},
	{"release", KIND_MOVE, KEYS_MOVE, CONTROL_RELEASE},
	{"restore", KIND_MOVE, KEYS_MOVE | KEY_KEEP, CONTROL_RESTORE},
	{"pin", KIND_MOVE, KEYS_MOVE, CONTROL_PIN},
	{"unpin", KIND_MOVE, KEYS_MOVE, CONTROL_UNPIN},
	{"unkeep", KIND_MOVE, KEYS_MOVE, CONTROL_UNKEEP},
	{"queue", KIND_QUEUE, KEY_ALL},
	{"cancel", KIND_CANCEL, KEY_JOB},
	{"metrics", KIND_METRICS},
	{"remount", KIND_REMOUNT, KEY_REMOUNT},
	{"check", KIND_CHECK, KEY_CHECK},
	{"drain", KIND_DRAIN, KEY_DRAIN},
	{"report", KIND_REPORT, KEY_PATHS},
	{"find", KIND_FIND, KEY_PATHS | KEY_FILTER},
	{"why", KIND_WHY, KEY_PATHS},
	{"policy-run", KIND_POLICY, KEY_POLICY},
};

static const struct key {
	const char *name;
	unsigned int of; /* 0: of every command */
	json_type type;
} keys[] = {
	{"version", 0, JSON_INTEGER},
	{"command", 0, JSON_STRING},
	{"paths", KEY_PATHS, JSON_ARRAY},
	{"more", KEY_PATHS, JSON_TRUE},
	{"recursive", KEY_RECURSIVE, JSON_TRUE},
	{"release", KEY_RELEASE, JSON_TRUE},
	{"wait", KEY_WAIT, JSON_TRUE},
	{"progress", KEY_WAIT | KEY_CHECK | KEY_DRAIN, JSON_TRUE},
	{"job", KEY_JOB, JSON_INTEGER},
	{"budget", KEY_KEEP, JSON_INTEGER},
	{"keep", KEY_KEEP, JSON_INTEGER},
	{"all", KEY_ALL, JSON_TRUE},
	{"options", KEY_REMOUNT, JSON_ARRAY},
	{"check", KEY_REMOUNT, JSON_TRUE},
	{"repair", KEY_CHECK, JSON_TRUE},
	{"verify", KEY_CHECK, JSON_TRUE},
	{"filter", KEY_FILTER, JSON_OBJECT},
	{"dry_run", KEY_POLICY, JSON_TRUE},
};

const char *control_reason(int err, char buf[96])
{
	static const struct {
		int err;
		const char *text;
	} texts[] = {
		{EXDEV, "not on this file system"},
		{EOPNOTSUPP, "not supported"},
		{EPROTONOSUPPORT, "written by a newer version of tierfs"},
		{EBADMSG, "its spill attribute is damaged"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		if (texts[i].err == -err)
			return texts[i].text;
	}
	/* The GNU one: may or may not use buf. */
	return strerror_r(-err, buf, 96);
}

/* ---- parsing ----------------------------------------------------------------- */

int control_get_path(const json_t *value, char **ret_path, char **ret_as)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *as = NULL;
	int err;

	if (!json_is_string(value) && !json_is_object(value))
		return -EINVAL;
	err = proto_get_path(value, "path", &path);
	if (err)
		return err == -ENOENT ? -EINVAL : err;
	err = json_is_object(value) ? proto_get_path(value, "as", &as)
				    : -ENOENT;
	if (err == -ENOENT) {
		as = strdup(path);
		err = as ? 0 : -ENOMEM;
	}
	if (err)
		return err;
	*ret_path = steal_ptr(&path);
	*ret_as = steal_ptr(&as);
	return 0;
}

static int check_paths(const json_t *paths, char why[PROTO_WHY_LEN])
{
	json_t *value;
	size_t i;

	if (!json_is_array(paths)) {
		snprintf(why, PROTO_WHY_LEN, "paths: not an array");
		return -EINVAL;
	}
	json_array_foreach(paths, i, value)
	{
		_cleanup_free_ char *path = NULL;
		_cleanup_free_ char *as = NULL;

		if (control_get_path(value, &path, &as)) {
			snprintf(why, PROTO_WHY_LEN, "paths[%zu]: not a path",
				 i);
			return -EINVAL;
		}
		if (!proto_path_valid(path)) {
			snprintf(why, PROTO_WHY_LEN,
				 "paths[%zu]: not absolute, or with . or ..",
				 i);
			return -EINVAL;
		}
	}
	return 0;
}

int control_get_paths(const json_t *obj, json_t **ret_paths, bool *ret_more,
		      char why[PROTO_WHY_LEN])
{
	json_t *paths = json_object_get(obj, "paths");
	json_t *more = json_object_get(obj, "more");

	if (more && !json_is_boolean(more)) {
		snprintf(why, PROTO_WHY_LEN, "more: not true or false");
		return -EINVAL;
	}
	if (paths && check_paths(paths, why))
		return -EINVAL;
	*ret_paths = paths ? json_incref(paths) : NULL;
	*ret_more = json_is_true(more);
	return 0;
}

static const struct key *key_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (!strcmp(keys[i].name, name))
			return &keys[i];
	}
	return NULL;
}

static bool key_type_is(const struct key *key, const json_t *value)
{
	if (key->type == JSON_TRUE)
		return json_is_boolean(value);
	return json_typeof(value) == key->type;
}

/* The command of a request whose keys are all known to it, else NULL. */
static const struct command *request_check(json_t *obj, char why[PROTO_WHY_LEN])
{
	const json_t *version = json_object_get(obj, "version");
	const char *name = json_string_value(json_object_get(obj, "command"));
	const struct command *command = NULL;
	const char *key;
	json_t *value;

	if (!json_is_integer(version) ||
	    json_integer_value(version) != CONTROL_VERSION) {
		snprintf(why, PROTO_WHY_LEN,
			 "version: this daemon speaks version %d",
			 CONTROL_VERSION);
		return NULL;
	}
	for (size_t i = 0; name && i < ARRAY_SIZE(commands); i++) {
		if (!strcmp(commands[i].name, name))
			command = &commands[i];
	}
	if (!command) {
		snprintf(why, PROTO_WHY_LEN, "command: unknown: %.100s",
			 name ? name : "(none)");
		return NULL;
	}
	json_object_foreach(obj, key, value)
	{
		const struct key *known = key_find(key);

		if (!known || (known->of && !(known->of & command->keys))) {
			snprintf(why, PROTO_WHY_LEN, "%.100s: not known to %s",
				 key, name);
			return NULL;
		}
		if (!key_type_is(known, value)) {
			snprintf(why, PROTO_WHY_LEN, "%s: of the wrong type",
				 key);
			return NULL;
		}
	}
	if (command->kind == KIND_MOVE || command->kind == KIND_CANCEL ||
	    command->kind == KIND_REMOUNT || command->kind == KIND_FIND) {
		key = command->kind == KIND_CANCEL    ? "job"
		      : command->kind == KIND_REMOUNT ? "options"
						      : "paths";
		if (!json_object_get(obj, key)) {
			snprintf(why, PROTO_WHY_LEN, "%s: missing", key);
			return NULL;
		}
	}
	return command;
}

/* ---- commands that read -------------------------------------------------------- */

static void status_path(void *arg, struct control_cmd *cmd, const json_t *value)
{
	_cleanup_(node_unrefp) struct node *node = NULL;
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *as = NULL;
	bool can_read = false;
	json_t *data = NULL;
	int err;

	if (control_get_path(value, &path, &as))
		return; /* was checked */
	err = peer_node(cmd->conn, path, &can_read, NULL, &node);
	if (!err && !can_read)
		err = -EACCES;
	if (!err)
		data = control_file_status(cmd->control, node, as, &err);
	if (data)
		conn_result(cmd->conn, data);
	else
		move_error(cmd, as, err);
}

static void status_paths(struct control_cmd *cmd)
{
	do
		move_each_path(cmd, status_path, NULL);
	while (move_next_paths(cmd));
}

/* Sends each object of an array. */
static void send_all(struct control_conn *conn, json_t *array)
{
	json_t *value;
	size_t i;

	if (!array) {
		conn_end(conn, "failed", "out of memory");
		return;
	}
	json_array_foreach(array, i, value)
		conn_result(conn, json_incref(value));
	json_decref(array);
	conn_end(conn, "done", "");
}

/* ---- dispatch --------------------------------------------------------------------- */

static bool flag(const json_t *obj, const char *key, bool otherwise)
{
	const json_t *value = json_object_get(obj, key);

	return value ? json_is_true(value) : otherwise;
}

static void find(struct control_cmd *cmd, const json_t *obj)
{
	_cleanup_free_ char *name = NULL;
	struct catalog_filter filter;

	if (!control_get_filter(json_object_get(obj, "filter"), &filter, &name,
				cmd->error))
		control_find(cmd, &filter);
}

/* The end of a command, and of what it was. True, for its callers. */
static bool end_paths(struct control_cmd *cmd, uint64_t batch)
{
	const char *why = cmd->stopping ? job_why_ended(cmd) : cmd->note;
	bool bad = cmd->failed || cmd->stopping;
	json_t *end = json_pack("{s:s, s:s, s:s}", "type", "end", "status",
				bad ? "failed" : "done", "reason", why);

	if (end && batch)
		json_object_set_new(end, "job",
				    json_integer((json_int_t)batch));
	conn_answer(cmd->conn, end);
	conn_flush(cmd->conn);
	return true;
}

/* A command that takes paths. False: the connection is to be closed. */
static bool run_paths(struct control_conn *conn, const struct command *command,
		      const json_t *obj)
{
	struct control_cmd cmd = {
		.conn = conn,
		.control = conn->control,
		.op = command->op,
		.name = command->name,
		.recursive = flag(obj, "recursive", false),
		.release = flag(obj, "release", false),
		.progress = flag(obj, "progress", false),
	};
	uint64_t batch = 0;
	bool ret = false;

	CDS_INIT_LIST_HEAD(&cmd.done);
	if (control_get_paths(obj, &cmd.paths, &cmd.more, cmd.error) ||
	    !list_budget(&cmd, obj, cmd.error)) {
		json_decref(cmd.paths);
		conn_end(conn, "error", cmd.error);
		return false;
	}
	if (command->kind == KIND_STATUS) {
		status_paths(&cmd);
	} else if (command->kind == KIND_REPORT) {
		control_report(&cmd);
	} else if (command->kind == KIND_FIND) {
		find(&cmd, obj);
	} else if (command->kind == KIND_WHY) {
		control_why(&cmd);
	} else if (!flag(obj, "wait", true)) {
		control_ask(&cmd, &batch);
	} else {
		job_enter(&cmd);
		control_move(&cmd);
	}
	json_decref(cmd.paths);
	list_free(&cmd);
	if (cmd.error[0])
		conn_end(conn, "error", cmd.error);
	else
		ret = end_paths(&cmd, batch);
	job_leave(&cmd);
	return ret;
}

static void strings_free(char ***strings)
{
	for (char **s = *strings; s && *s; s++)
		free(*s);
	free(*strings);
}

/* The options ("KEY" or "KEY=VALUE") of a request: strings, ended by NULL. */
static int get_options(const json_t *array, char ***ret)
{
	_cleanup_(strings_free) char **options =
		calloc(json_array_size(array) + 1, sizeof(*options));
	json_t *value;
	size_t i;

	if (!options)
		return -ENOMEM;
	json_array_foreach(array, i, value)
	{
		int err = proto_get_path(value, "option", &options[i]);

		if (err)
			return err == -ENOMEM ? err : -EINVAL;
	}
	*ret = steal_ptr(&options);
	return 0;
}

static void do_remount(struct control_conn *conn, const json_t *obj)
{
	struct control *control = conn->control;
	_cleanup_(strings_free) char **options = NULL;
	_cleanup_free_ char *why = NULL;
	int err = get_options(json_object_get(obj, "options"), &options);

	if (!err)
		err = control->remount(
			control->remount_arg, options,
			json_is_true(json_object_get(obj, "check")), &why);
	if (err)
		conn_end(conn, "failed", why ? why : strerror(-err));
	else
		conn_end(conn, "done", "");
}

static bool do_drain(struct control_conn *conn, const json_t *obj)
{
	struct control *control = conn->control;
	bool ret = false;
	struct control_cmd cmd = {
		.conn = conn,
		.control = control,
		.name = "drain",
		.recursive = true,
		.progress = flag(obj, "progress", false),
	};

	if (atomic_exchange(&control->draining, true)) {
		conn_end(conn, "error", "it is being drained already");
		return false;
	}
	CDS_INIT_LIST_HEAD(&cmd.done);
	job_enter(&cmd);
	job_named(&cmd, "/");
	control_drain(&cmd);
	atomic_store(&control->draining, false);
	list_free(&cmd);
	if (cmd.error[0])
		conn_end(conn, "error", cmd.error);
	else
		ret = end_paths(&cmd, 0);
	job_leave(&cmd);
	return ret;
}

static bool do_policy(struct control_conn *conn, const json_t *obj)
{
	struct control_cmd cmd = {
		.conn = conn,
		.control = conn->control,
		.name = "policy-run",
		.complete = true,
	};

	CDS_INIT_LIST_HEAD(&cmd.done);
	return control_policy_run(&cmd, flag(obj, "dry_run", false));
}

static bool do_check(struct control_conn *conn, const json_t *obj)
{
	struct control_cmd cmd = {
		.conn = conn,
		.control = conn->control,
		.name = "check",
		.progress = flag(obj, "progress", false),
		.complete = true,
	};

	CDS_INIT_LIST_HEAD(&cmd.done);
	return control_check(&cmd, flag(obj, "repair", false),
			     flag(obj, "verify", false));
}

static json_t *one(json_t *value)
{
	json_t *array = value ? json_array() : NULL;

	if (!array || json_array_append_new(array, value)) {
		json_decref(array);
		return NULL;
	}
	return array;
}

bool control_request(struct control_conn *conn, const char *line, size_t len)
{
	const struct command *command = NULL;
	char why[PROTO_WHY_LEN];
	json_t *obj = NULL;
	bool ret = true;

	if (!proto_parse(line, len, &obj, why))
		command = request_check(obj, why);
	if (!command) {
		conn_end(conn, "error", why);
		json_decref(obj);
		return false;
	}
	if (command->kind == KIND_MOVE || command->kind == KIND_REPORT ||
	    command->kind == KIND_FIND || command->kind == KIND_WHY ||
	    (command->kind == KIND_STATUS &&
	     (json_object_get(obj, "paths") || json_object_get(obj, "more"))))
		ret = run_paths(conn, command, obj);
	else if (command->kind == KIND_HELLO)
		send_all(conn, one(control_hello(conn->control)));
	else if (command->kind == KIND_CANCEL)
		control_cancel(conn, obj);
	else if (conn->peer.uid != 0 &&
		 conn->peer.uid != conn->control->self.uid)
		conn_end(conn, "denied", "only root may ask for this");
	else if (command->kind == KIND_REMOUNT)
		do_remount(conn, obj);
	else if (command->kind == KIND_CHECK)
		ret = do_check(conn, obj);
	else if (command->kind == KIND_DRAIN)
		ret = do_drain(conn, obj);
	else if (command->kind == KIND_POLICY)
		ret = do_policy(conn, obj);
	else if (command->kind == KIND_STATUS)
		send_all(conn, one(control_status(conn->control)));
	else if (command->kind == KIND_QUEUE)
		send_all(conn,
			 control_queue(conn->control, flag(obj, "all", false)));
	else
		send_all(conn, control_metrics(conn->control));
	json_decref(obj);
	return ret;
}
