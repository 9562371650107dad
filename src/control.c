/* SPDX-License-Identifier: MIT */
/*
 * The control server's socket and connections.
 *
 * One thread accepts; each connection has a thread, which may block: on its
 * client (which only stalls its own command), on the front, on jobs. Their
 * number is bounded, for each user too, so that a user can neither exhaust the
 * daemon nor keep root out. When places are wanted, clients that are waited for
 * lose theirs.
 *
 * The socket is bound under another name and renamed into place, so it is
 * never seen before it answers; a socket that nobody listens to is a crashed
 * daemon's and is replaced.
 *
 * Stopping: every connection is shut down, which each thread sees in poll(2)
 * or send(2), and cancels what it asked for; control_stop() waits for all of
 * them, and for what runs batches (control_batch.c). A thread is detached and
 * counted under the lock; its last act is to count itself out.
 */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "cleanup.h"
#include "control_int.h"
#include "log.h"
#include "util.h"

#define OUT_FLUSH  32768 /* queued answers are sent from here on */
#define OUT_TICKET "{\"type\":\"end\",\"status\":\"error\",\"reason\":\""

/* ---- answers ------------------------------------------------------------ */

void conn_idle(struct control_conn *conn, bool idle)
{
	if (!idle)
		atomic_store(&conn->idle_since, 0);
	else if (!atomic_load(&conn->idle_since))
		atomic_store(&conn->idle_since, monotonic_ns());
}

void conn_flush(struct control_conn *conn)
{
	bool idle = atomic_load(&conn->idle_since);
	size_t off = 0;

	conn_idle(conn, true);

	while (off < conn->out_len && conn->fd >= 0 && !conn->gone) {
		ssize_t n = send(conn->fd, conn->out + off, conn->out_len - off,
				 MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			conn->gone = true;
		else
			off += n;
	}
	conn->out_len = 0;
	conn_idle(conn, idle);
}

static void conn_queue(struct control_conn *conn, const char *text, size_t len)
{
	if (conn->fd < 0 || conn->gone)
		return;
	if (conn->out_len + len + 1 > conn->out_cap) {
		size_t cap = conn->out_len + len + 1 + OUT_FLUSH;
		char *out = realloc(conn->out, cap);

		if (!out) {
			/* Half an answer is worse than none. */
			conn->gone = true;
			return;
		}
		conn->out = out;
		conn->out_cap = cap;
	}
	memcpy(conn->out + conn->out_len, text, len);
	conn->out_len += len;
	conn->out[conn->out_len++] = '\n';
	if (conn->out_len >= OUT_FLUSH)
		conn_flush(conn);
}

void conn_answer(struct control_conn *conn, json_t *answer)
{
	char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;

	json_decref(answer);
	if (!text) {
		conn->gone = true;
		return;
	}
	conn_queue(conn, text, strlen(text));
	free(text);
}

void conn_result(struct control_conn *conn, json_t *data)
{
	conn_answer(conn,
		    json_pack("{s:s, s:o}", "type", "result", "data", data));
}

void conn_file_result(struct control_conn *conn, const char *op, const char *as,
		      const char *result, const char *reason, uint64_t bytes)
{
	_cleanup_free_ char *why = proto_utf8(reason, NULL);
	json_t *data = json_object();

	if (!why || !data || proto_set_path(data, "path", as) ||
	    json_object_set_new(data, "op", json_string(op)) ||
	    json_object_set_new(data, "result", json_string(result)) ||
	    json_object_set_new(data, "reason", json_string(why)) ||
	    json_object_set_new(data, "bytes", json_integer(bytes))) {
		json_decref(data);
		data = NULL;
	}
	conn_result(conn, data);
}

void conn_end(struct control_conn *conn, const char *status, const char *reason)
{
	_cleanup_free_ char *why = proto_utf8(reason, NULL);

	conn_answer(conn, json_pack("{s:s, s:s, s:s}", "type", "end", "status",
				    status, "reason", why ? why : ""));
	conn_flush(conn);
}

/* ---- connections --------------------------------------------------------- */

void conn_free(struct control_conn *conn)
{
	if (conn->fd >= 0)
		close(conn->fd);
	if (conn->event_fd >= 0)
		close(conn->event_fd);
	peer_free(&conn->peer);
	proto_lines_free(&conn->lines);
	free(conn->out);
	free(conn);
}

/* Requests of a client, one after another. */
static void conn_serve(struct control_conn *conn)
{
	struct pollfd pfd = {.fd = conn->fd, .events = POLLIN};
	const char *line;
	size_t len;
	ssize_t n;

	while (!conn->gone && !conn->broken &&
	       !atomic_load(&conn->control->stopping)) {
		int have = proto_next(&conn->lines, &line, &len);

		if (have < 0) {
			conn_end(conn, "error", "line too long");
			return;
		}
		if (have > 0) {
			conn_idle(conn, false);
			if (!control_request(conn, line, len))
				return;
			continue;
		}
		conn_idle(conn, true);
		if (conn->eof || (poll(&pfd, 1, -1) < 0 && errno != EINTR))
			return;
		n = proto_fill(&conn->lines, conn->fd);
		if (n == 0)
			conn->eof = true;
		else if (n < 0 && n != -EAGAIN)
			return;
	}
}

static void *conn_thread(void *arg)
{
	struct control_conn *conn = arg;
	struct control *control = conn->control;

	conn_serve(conn);
	pthread_mutex_lock(&control->lock);
	cds_list_del(&conn->link);
	pthread_mutex_unlock(&control->lock);
	conn_free(conn);
	pthread_mutex_lock(&control->lock);
	control->nconns--;
	pthread_cond_broadcast(&control->cond);
	pthread_mutex_unlock(&control->lock);
	return NULL;
}

/* Whoever has waited longest for its client, not root's and of this user if
 * only that one's are too many, has to go: so those who say half a request, or
 * take no answers, cannot keep others out for long. control->lock held. */
static void shut_out(struct control *control, uid_t uid, bool own)
{
	int64_t before = monotonic_ns() - CONTROL_IDLE_NS;
	struct control_conn *conn, *worst = NULL;

	cds_list_for_each_entry (conn, &control->conns, link) {
		int64_t since = atomic_load(&conn->idle_since);

		if (conn->fd < 0 || conn->peer.uid == 0 || !since ||
		    since >= before || (own && conn->peer.uid != uid))
			continue;
		worst = conn;
		before = since;
	}
	if (worst)
		shutdown(worst->fd, SHUT_RDWR);
}

/* Is there room for one more of this user? control->lock held. */
static bool conn_room(struct control *control, uid_t uid)
{
	unsigned int user = 0, rest = 0;
	struct control_conn *conn;

	if (control->nconns >= CONTROL_CONNS)
		return false;
	if (uid == 0)
		return true;
	cds_list_for_each_entry (conn, &control->conns, link) {
		rest += conn->peer.uid != 0;
		user += conn->peer.uid == uid;
	}
	if (user < CONTROL_CONNS_USER && rest < CONTROL_CONNS_REST)
		return true;
	shut_out(control, uid, user >= CONTROL_CONNS_USER);
	return false;
}

/* Starts the thread of conn, which it takes over. */
static int conn_start(struct control_conn *conn)
{
	struct control *control = conn->control;
	pthread_t thread;
	int err = -EAGAIN;

	pthread_mutex_lock(&control->lock);
	if (!atomic_load(&control->stopping) &&
	    conn_room(control, conn->peer.uid)) {
		cds_list_add_tail(&conn->link, &control->conns);
		control->nconns++;
		err = thread_start(&thread, "control-conn", conn_thread, conn);
		if (!err) {
			pthread_detach(thread);
		} else {
			cds_list_del(&conn->link);
			control->nconns--;
		}
	}
	pthread_mutex_unlock(&control->lock);
	if (err)
		conn_free(conn);
	return err;
}

struct control_conn *conn_new(struct control *control, int fd)
{
	struct control_conn *conn = calloc(1, sizeof(*conn));

	if (!conn)
		return NULL;
	conn->control = control;
	conn->fd = fd;
	conn->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (conn->event_fd < 0 || proto_lines_init(&conn->lines)) {
		conn->fd = -1;
		conn_free(conn);
		return NULL;
	}
	return conn;
}

static void refuse(int fd, const char *reason)
{
	char line[128];
	int n = snprintf(line, sizeof(line), OUT_TICKET "%s\"}\n", reason);

	if (send(fd, line, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("control: a client did not wait for its refusal");
}

static void accept_one(struct control *control)
{
	_cleanup_close_ int fd = -1;
	struct control_conn *conn;
	int err;

	fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
			log_warn("control: cannot accept: %s", strerror(errno));
			nanosleep(&(struct timespec){.tv_nsec = 100000000},
				  NULL);
		}
		return;
	}
	conn = conn_new(control, fd);
	if (!conn || peer_get(fd, &conn->peer)) {
		refuse(fd, "out of memory");
		if (conn) {
			conn->fd = -1;
			conn_free(conn);
		}
		return;
	}
	/* Kept apart: conn_start() closes conn's own when it refuses. */
	conn->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	err = conn->fd < 0 ? -errno : 0;
	if (err)
		conn_free(conn);
	else
		err = conn_start(conn);
	if (err)
		refuse(fd, "too many connections, try again later");
}

static void *acceptor_thread(void *arg)
{
	struct control *control = arg;
	struct pollfd pfd[] = {{.fd = control->listen_fd, .events = POLLIN},
			       {.fd = control->stop_fd, .events = POLLIN}};

	while (!atomic_load(&control->stopping)) {
		if (poll(pfd, 2, -1) > 0 && pfd[0].revents)
			accept_one(control);
	}
	return NULL;
}

/* ---- the socket ------------------------------------------------------------ */

/* Does anybody listen there who is not dead, but held by the kernel? */
static bool answers(const struct sockaddr_un *addr)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	_cleanup_close_ int fd =
		socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return false;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		return errno == EAGAIN;
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
	       cred.pid <= 0 || !process_is_dead(cred.pid);
}

/* The directory of the sockets. */
static int socket_dir(char *buf, size_t len)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	int n;

	if (geteuid() == 0)
		n = snprintf(buf, len, "%s", CONTROL_DIR);
	else if (run)
		n = snprintf(buf, len, "%s/tierfs", run);
	else
		return -ENOENT;
	if (n < 0 || (size_t)n >= len)
		return -ENAMETOOLONG;
	if (mkdir(buf, 0755) < 0 && errno != EEXIST)
		return -errno;
	return 0;
}

static int socket_bind(struct control *control, const char *tmp)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;

	control->listen_fd =
		socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (control->listen_fd < 0)
		return -errno;
	memcpy(addr.sun_path, tmp, strlen(tmp) + 1);
	unlink(tmp);
	if (bind(control->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) <
		    0 ||
	    chmod(tmp, 0666) < 0 || listen(control->listen_fd, 16) < 0 ||
	    stat(tmp, &st) < 0 || rename(tmp, control->path) < 0)
		return -errno;
	control->path_ino = st.st_ino;
	return 0;
}

static int socket_make(struct control *control, char **ret_why)
{
	const char *name = control->parts->config->name;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char dir[64], tmp[sizeof(addr.sun_path)] = "";
	int err, n;

	err = socket_dir(dir, sizeof(dir));
	if (!err &&
	    asprintf(&control->path, "%s/%s" CONTROL_SUFFIX, dir, name) < 0) {
		control->path = NULL;
		err = -ENOMEM;
	}
	if (!err) {
		n = snprintf(tmp, sizeof(tmp), "%s/.%s.%d", dir, name,
			     (int)getpid());
		if ((size_t)n >= sizeof(tmp) ||
		    strlen(control->path) >= sizeof(addr.sun_path))
			err = -ENAMETOOLONG;
	}
	if (!err) {
		strcpy(addr.sun_path, control->path);
		if (answers(&addr))
			err = -EADDRINUSE;
	}
	if (!err) {
		err = socket_bind(control, tmp);
		if (err)
			unlink(tmp);
	}
	if (err && asprintf(ret_why, "control socket of %s in %s: %s", name,
			    CONTROL_DIR,
			    err == -EADDRINUSE ? "another daemon has this name"
					       : strerror(-err)) < 0)
		*ret_why = NULL;
	return err;
}

static void control_free(struct control *control)
{
	if (control->listen_fd >= 0)
		close(control->listen_fd);
	if (control->stop_fd >= 0)
		close(control->stop_fd);
	peer_free(&control->self);
	batches_forget(control);
	pthread_mutex_destroy(&control->lock);
	pthread_cond_destroy(&control->cond);
	free(control->mountpoint);
	free(control->path);
	free(control);
}

static void socket_remove(struct control *control)
{
	struct stat st;

	if (!stat(control->path, &st) && st.st_ino == control->path_ino)
		unlink(control->path);
}

/* ---- life -------------------------------------------------------------------- */
static struct control *control_new(const struct control_parts *parts)
{
	struct control *control = calloc(1, sizeof(*control));
	pthread_condattr_t attr;

	if (!control)
		return NULL;
	control->tier = parts->tier;
	control->policy = parts->policy;
	control->parts = tier_parts(parts->tier);
	control->remount = parts->remount;
	control->remount_arg = parts->remount_arg;
	control->listen_fd = -1;
	CDS_INIT_LIST_HEAD(&control->conns);
	CDS_INIT_LIST_HEAD(&control->live);
	CDS_INIT_LIST_HEAD(&control->jobs);
	pthread_mutex_init(&control->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&control->cond, &attr);
	pthread_condattr_destroy(&attr);
	control_set_passthrough(control, parts->passthrough,
				parts->passthrough_why);
	control->io_uring = parts->io_uring;
	snprintf(control->io_uring_why, sizeof(control->io_uring_why), "%s",
		 parts->io_uring_why ? parts->io_uring_why : "");
	control->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	control->mountpoint = strdup(parts->mountpoint);
	if (control->stop_fd < 0 || !control->mountpoint ||
	    peer_self(&control->self)) {
		control_free(control);
		return NULL;
	}
	return control;
}

int control_start(const struct control_parts *parts, struct control **ret,
		  char **ret_why)
{
	struct control *control = control_new(parts);
	int err;

	if (!control) {
		*ret_why = strdup("out of memory");
		return -ENOMEM;
	}
	control_find_device(control);
	batches_load(control);
	err = socket_make(control, ret_why);
	if (err) {
		control_free(control);
		return err;
	}
	err = thread_start(&control->acceptor, "control", acceptor_thread,
			   control);
	if (err) {
		*ret_why = strdup(strerror(-err));
		socket_remove(control);
		control_free(control);
		return err;
	}
	batches_start(control);
	*ret = control;
	return 0;
}

void control_set_passthrough(struct control *control, bool passthrough,
			     const char *why)
{
	pthread_mutex_lock(&control->lock);
	control->passthrough = passthrough;
	snprintf(control->passthrough_why, sizeof(control->passthrough_why),
		 "%s", why ? why : "");
	pthread_mutex_unlock(&control->lock);
}

/* Waits up to 200 ms for conns or runners to become fewer. Lock held. */
static void stop_wait(struct control *control)
{
	struct timespec until = timespec_from_ns(monotonic_ns() + 200000000);

	pthread_cond_timedwait(&control->cond, &control->lock, &until);
}

void control_stop(struct control *control)
{
	struct control_conn *conn;
	struct control_job *job;

	if (!control)
		return;
	atomic_store(&control->stopping, true);
	eventfd_write(control->stop_fd, 1);
	pthread_join(control->acceptor, NULL);
	socket_remove(control);
	pthread_mutex_lock(&control->lock);
	cds_list_for_each_entry (conn, &control->conns, link) {
		if (conn->fd >= 0)
			shutdown(conn->fd, SHUT_RDWR);
		eventfd_write(conn->event_fd, 1);
	}
	cds_list_for_each_entry (job, &control->jobs, link) {
		if (job->event_fd >= 0)
			eventfd_write(job->event_fd, 1);
	}
	while (control->nconns > 0 || control->nrunners > 0)
		stop_wait(control);
	pthread_mutex_unlock(&control->lock);
	control_free(control);
}
