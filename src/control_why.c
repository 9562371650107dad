/* SPDX-License-Identifier: MIT */
/* `tierctl why`: for who can read the file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "control_int.h"
#include "policy.h"

static json_t *obstacles_json(const struct policy_why *why)
{
	json_t *ret = json_array();

	for (unsigned int i = 0; i < why->nobstacles; i++) {
		const struct policy_obstacle *o = &why->obstacles[i];
		_cleanup_free_ char *detail = proto_utf8(o->detail, NULL);

		json_array_append_new(ret, json_pack("{s:s, s:s}", "kind",
						     o->kind, "detail",
						     detail ? detail : ""));
	}
	return ret;
}

static json_t *rule_json(const struct rule_name *rule)
{
	json_t *ret = json_pack("{s:s, s:n, s:n}", "name",
				rule->name ? rule->name : "", "file", "line");

	if (ret && rule->file) {
		proto_set_path(ret, "file", rule->file);
		json_object_set_new(ret, "line", json_integer(rule->line));
	}
	return ret;
}

static json_t *why_json(const struct policy_why *why, const char *as)
{
	json_t *ret = json_object();
	json_t *rest = json_pack(
		"{s:s, s:o, s:o, s:o, s:s}", "state",
		spill_state_name(why->state), "rule", rule_json(&why->rule),
		"rank",
		why->ranked ? json_integer((json_int_t)why->rank) : json_null(),
		"obstacles", obstacles_json(why), "next", why->next);

	if (!ret || !rest || proto_set_path(ret, "path", as) ||
	    json_object_update(ret, rest)) {
		json_decref(ret);
		ret = NULL;
	}
	json_decref(rest);
	return ret;
}

static void why_path(void *arg, struct control_cmd *cmd, const json_t *value)
{
	_cleanup_(node_unrefp) struct node *node = NULL;
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *as = NULL;
	struct policy_why why;
	bool can_read = false;
	json_t *data;
	int err;

	if (control_get_path(value, &path, &as))
		return; /* was checked */
	err = peer_node(cmd->conn, path, &can_read, NULL, &node);
	if (!err && !can_read)
		err = -EACCES;
	if (!err && !S_ISREG(node->type)) {
		move_result(cmd, as, "refused", "not a regular file", 0);
		return;
	}
	if (!err)
		err = policy_why(arg, node, &why);
	if (err) {
		move_error(cmd, as, err);
		return;
	}
	data = why_json(&why, as);
	policy_why_end(&why);
	conn_result(cmd->conn, data);
}

void control_why(struct control_cmd *cmd)
{
	struct policy_eye *eye;
	char buf[96];
	int err = cmd->control->policy
			  ? policy_ask_begin(cmd->control->policy, &eye)
			  : -EOPNOTSUPP;

	if (err) {
		snprintf(cmd->error, sizeof(cmd->error), "the catalog: %s",
			 control_reason(err, buf));
		return;
	}
	do
		move_each_path(cmd, why_path, eye);
	while (move_next_paths(cmd));
	policy_ask_end(eye);
}
