/* SPDX-License-Identifier: MIT */
/*
 * The control socket: what a client sends, byte by byte, to a connection of a
 * real tier on directories of its own, which does what it is asked. The first
 * byte says who asks: "u" somebody, anything else root.
 *
 * A client of its own thread takes the answers, since a command stops when
 * nobody does. control.c is included for what is behind its acceptor.
 */
#include "../../src/control.c"

#include <semaphore.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "rig.h"

#define NOBODY 65534

static struct control *control;
static struct config *base;

static struct {
	sem_t go, done;
	int fd;
	char *text;
	size_t len, cap;
} client;

static int on_remount(void *arg, char *const *options, bool check,
		      char **ret_why)
{
	struct config *to = NULL;
	int err = config_remount(base, options, &to, ret_why);

	must(!err == !!to && (!err || (*ret_why && **ret_why)));
	config_free(to);
	return err;
}

static void *client_thread(void *arg)
{
	for (;;) {
		ssize_t n;

		sem_wait(&client.go);
		client.len = 0;
		do {
			if (client.cap - client.len < 65536) {
				client.cap += 65536;
				client.text = realloc(client.text, client.cap);
				must(client.text);
			}
			n = read(client.fd, client.text + client.len,
				 client.cap - client.len);
			client.len += n > 0 ? (size_t)n : 0;
		} while (n > 0);
		sem_post(&client.done);
	}
	return NULL;
}

static void end(void)
{
	rig_remove();
}

/* The rig's tier has none, as its tests need none. */
static struct tier_parts *rig_parts(void)
{
	return (struct tier_parts *)tier_parts(rig.tier);
}

static void start_tier(void)
{
	char root[64], mnt[96], spill[96];
	char *argv[] = {(char *)"tierfs", (char *)"-o", spill,
			rig.front_path,	  mnt,		NULL};
	char *why = NULL;

	snprintf(root, sizeof(root), "%s/tierfs-fuzz",
		 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	rig_make(root);
	rig_up();
	snprintf(rig.config.name, sizeof(rig.config.name), "fuzz");
	must(!mkdirat(rig.front->root_fd, "d", 0755));
	make("f", 5000);
	make("d/g", 100000);
	make("d/\xff", 10);
	must(!symlinkat("f", rig.front->root_fd, "link"));
	snprintf(mnt, sizeof(mnt), "%s/mnt", rig.dir);
	snprintf(spill, sizeof(spill), "spill=hdd=%s", rig.target_path);
	must(!mkdir(mnt, 0755) && !chmod(rig.dir, 0755));
	must(!config_parse(5, argv, &base, &why));
	must(!batches_open(rig.front->meta_fd, &rig_parts()->batches, &why) &&
	     !why);
	control = control_new(&(struct control_parts){
		.tier = rig.tier, .mountpoint = mnt, .remount = on_remount});
	must(control);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	pthread_t thread;

	log_set_level(LOG_LEVEL_ERROR);
	start_tier();
	atexit(end);
	sem_init(&client.go, 0, 0);
	sem_init(&client.done, 0, 0);
	must(!thread_start(&thread, "client", client_thread, NULL));
	pthread_detach(thread);
	return 0;
}

/* ---- what holds of every answer ----------------------------------------------- */

static void check_path(const json_t *obj, const char *key)
{
	_cleanup_free_ char *path = NULL;

	must(!proto_get_path(obj, key, &path));
	json_t *again = json_object();
	must(!proto_set_path(again, key, path));
	must(json_equal(json_object_get(again, key),
			json_object_get(obj, key)));
	json_decref(again);
}

/* Whole lines, each an answer; as many ends as there were whole requests up to
 * one that could not be understood. */
static void check_answers(size_t requests)
{
	const char *at = client.text, *stop = at + client.len;
	const char *type = "";
	size_t ends = 0;

	while (at < stop) {
		const char *nl = memchr(at, '\n', (size_t)(stop - at));
		char why[PROTO_WHY_LEN];
		const char *status;
		json_t *obj, *data;

		must(nl && !proto_parse(at, (size_t)(nl - at), &obj, why));
		type = json_string_value(json_object_get(obj, "type"));
		must(type);
		if (!strcmp(type, "end")) {
			ends++;
			status = json_string_value(
				json_object_get(obj, "status"));
			must(status);
			must(!strcmp(status, "done") ||
			     json_is_string(json_object_get(obj, "reason")));
			type = !strcmp(status, "error") ? "error" : "end";
			must(*type != 'e' || type[1] == 'n' || nl + 1 == stop);
		} else if (!strcmp(type, "result")) {
			data = json_object_get(obj, "data");
			must(json_is_object(data));
			if (json_object_get(data, "path"))
				check_path(data, "path");
			type = "result";
		} else {
			must(!strcmp(type, "progress"));
			type = "progress";
		}
		json_decref(obj);
		at = nl + 1;
	}
	must(ends <= requests);
	must(!requests == !ends);
	must(!ends || !strcmp(type, "end") || !strcmp(type, "error"));
}

/* ---- lines and paths by themselves ---------------------------------------------- */

static void round_trip(const char *path)
{
	json_t *obj = json_object(), *again = NULL;
	_cleanup_free_ char *line = NULL, *back = NULL;
	char why[PROTO_WHY_LEN];

	must(obj && !proto_set_path(obj, "path", path));
	line = json_dumps(obj, JSON_COMPACT);
	must(line && !strchr(line, '\n'));
	must(!proto_parse(line, strlen(line), &again, why));
	must(!proto_get_path(again, "path", &back) && !strcmp(back, path));
	json_decref(obj);
	json_decref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = NULL;
	struct control_conn *conn;
	size_t requests = 0;
	int fds[2];

	text = strndup((const char *)data, size);
	must(text);
	round_trip(text);
	if (size < 2)
		return 0;
	for (size_t i = 1; i < size; i++)
		requests += data[i] == '\n';
	must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
	conn = conn_new(control, fds[0]);
	must(conn && !peer_copy(&control->self, &conn->peer));
	if (data[0] == 'u') {
		conn->peer.uid = conn->peer.gid = NOBODY;
		conn->peer.ngroups = 0;
	}
	client.fd = fds[1];
	must(send(fds[1], data + 1, size - 1, MSG_DONTWAIT) ==
	     (ssize_t)(size - 1));
	shutdown(fds[1], SHUT_WR);
	sem_post(&client.go);
	conn_serve(conn);
	must(!conn->broken);
	conn_free(conn);
	while (sem_wait(&client.done)) /* libFuzzer's clock */
		must(errno == EINTR);
	close(fds[1]);
	check_answers(requests);
	return 0;
}
