/* SPDX-License-Identifier: MIT */

/*
 * A client alone and the thread that serves it, in turns on one CPU.
 *
 * Who asks for metadata waits for the answer, so that one of the two sleeps while
 * the other works: a second CPU gains nothing, but has to be woken. In a virtual
 * machine that is most of a request (two CPUs of an EPYC, the cheapest request):
 *
 *	/dev/fuse, on two CPUs as the scheduler has it		22 us
 *	io_uring, the client sent back and forth between both	33 to 44 us
 *	either, on one CPU					11 us
 *
 * A ring's thread is bound to the CPU of its clients. But when it answers, it has
 * not left the CPU yet, and the scheduler moves the client to one that is idle
 * (select_idle_sibling()), from where the next request goes to the other ring.
 * That a CPU runs nothing but SCHED_IDLE threads is as good as idle to it
 * (sched_idle_cpu()): for such a thread the client stays. By /dev/fuse the threads
 * have to be bound to the client's CPU, too. Both ways the kernel could do it by
 * itself, if it woke either as one who is about to be waited for (WF_SYNC).
 *
 * A SCHED_IDLE thread gives way to everybody, and it may hold a lock of the front
 * while it does. Two clients would be kept on a CPU, though another is idle (their
 * creates took a fifth longer). Who reads and writes through the daemon has
 * requests under way while he works. So it is done only while one client alone has
 * short requests in a dense sequence, given up after some ticks in which few were
 * answered, and compared with not doing it twice a second (turns.c). At the worst
 * somebody with a lot to compute gets onto that CPU: then requests take some ticks
 * longer, once, and a tenth of a second if he is of a real-time priority.
 *
 * The conductor looks once in a tick; it sleeps while little is asked, and is
 * woken by the threads that serve. It is one of the two itself while they are
 * together: a CPU that goes to sleep after it would take over the client
 * (sched_balance_newidle()), and where it ran as a normal thread the client would
 * be sent away. What moves the client all the same (the kernel's own threads) is
 * seen at the next tick. So that it cannot be kept from running for long, which
 * would keep everybody from being served, a guard looks after it ten times a second.
 *
 * The threads that serve count for themselves alone. What can interleave: a thread
 * joins, and ends, under the lock, so that the conductor never touches what is not
 * a thread of ours. One that libfuse starts inherits how its starter is scheduled;
 * it is put right at its first request that counts, or when the client is done.
 * Threads of our own are never as those (thread_start()).
 *
 * To leave SCHED_IDLE takes CAP_SYS_NICE (or RLIMIT_NICE), which a container may be
 * without: the conductor tries with itself, and where it cannot return, or may run
 * on one CPU alone, nothing of this is done. Nor does it go where the process's
 * first thread may not: taskset(1) is obeyed.
 */

#include "fs_impl.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <unistd.h>

#include "turns.h"

#define TICK	 (1 * 1000 * 1000) /* ns */
#define TICK_MAX (64 * TICK)
#define WAKE_AT	 32 /* requests of a thread, while the conductor sleeps */
#define GUARD_NS (100 * TICK)

struct server {
	struct cds_list_head link; /* under the lock */
	struct fs_turns *turns;
	pid_t tid;
	bool of_ring;

	/* The thread's own, which the conductor reads. */
	_Atomic(unsigned int) requests, others;
	_Atomic(pid_t) client; /* the last one */

	/* The conductor's. */
	unsigned int seen, seen_others, came;
	int cpu; /* together there, or -1 */
};

struct fs_turns {
	pthread_mutex_t lock; /* a leaf, of the list */
	struct cds_list_head servers;
	pthread_key_t at_end; /* of a thread that joined */

	sem_t alarm; /* for the conductor: when one of these changes */
	_Atomic(bool) asleep, stopping;
	pthread_t conductor;
	bool runs;

	/* What the guard looks at. */
	pthread_t guard;
	sem_t bell; /* when one of these is set */
	_Atomic(bool) is_bound, is_over;
	_Atomic(unsigned int) ticks;

	/* The conductor's. */
	struct turns plan;
	struct server itself;
	pid_t client; /* who asked most in the last tick with requests */
};

static _Thread_local struct server *this_server;
static _Thread_local bool is_outside;

/* ---- the threads that serve --------------------------------------------------- */

/*
 * A close sends a RELEASE that nobody waits for, but that wakes the ring's thread
 * on the client's own CPU: it took the place of the client at once, which came
 * back when it was done: two switches of three for an open and a close. As a
 * batch thread it waits until the client has to, in its next request, and does
 * both in one turn. Who waits for an answer is off the CPU anyway; with others
 * that keep it busy no difference was to be measured.
 */
static void be_apart(pid_t tid, bool of_ring)
{
	const struct sched_param param = {0};

	if (of_ring)
		sched_setscheduler(tid, SCHED_BATCH, &param);
	else
		thread_as_usual(tid);
}

static void be_together(pid_t tid, bool of_ring, int cpu)
{
	const struct sched_param param = {0};
	cpu_set_t cpus;

	sched_setscheduler(tid, SCHED_IDLE, &param);
	if (!of_ring) {
		CPU_ZERO(&cpus);
		CPU_SET(cpu, &cpus);
		sched_setaffinity(tid, sizeof(cpus), &cpus);
	}
}

static void leave(void *arg)
{
	struct server *server = arg;

	pthread_mutex_lock(&server->turns->lock);
	cds_list_del(&server->link);
	pthread_mutex_unlock(&server->turns->lock);
	free(server);
}

static struct server *join(fuse_req_t req)
{
	struct fs_turns *turns = fs_of(req)->turns;
	struct server *server;

	is_outside = true;
	be_apart(0, fuse_req_is_uring(req));
	if (!turns)
		return NULL;
	server = calloc(1, sizeof(*server));
	if (!server)
		return NULL;
	server->turns = turns;
	server->tid = gettid();
	server->of_ring = fuse_req_is_uring(req);
	server->cpu = -1;
	if (pthread_setspecific(turns->at_end, server)) {
		free(server);
		return NULL;
	}
	thread_usual_io();
	pthread_mutex_lock(&turns->lock);
	cds_list_add(&server->link, &turns->servers);
	pthread_mutex_unlock(&turns->lock);
	this_server = server;
	is_outside = false;
	return server;
}

static void add(_Atomic(unsigned int) *count)
{
	atomic_store_explicit(
		count, atomic_load_explicit(count, memory_order_relaxed) + 1,
		memory_order_relaxed);
}

static void count(fuse_req_t req, bool is_short)
{
	struct server *server = this_server;
	pid_t client;

	if (is_outside || (!server && !(server = join(req))))
		return;
	client = fuse_req_ctx(req)->pid;
	if (!is_short || client != server->client) {
		atomic_store_explicit(&server->client, client,
				      memory_order_relaxed);
		add(&server->others);
	}
	add(&server->requests);
	if (server->requests % WAKE_AT == 0 &&
	    atomic_load_explicit(&server->turns->asleep,
				 memory_order_relaxed) &&
	    atomic_exchange(&server->turns->asleep, false))
		sem_post(&server->turns->alarm);
}

void fs_turn(fuse_req_t req)
{
	count(req, true);
}

void fs_turn_data(fuse_req_t req)
{
	count(req, false);
}

void fs_turn_never(void)
{
	is_outside = true;
}

/* ---- the conductor ------------------------------------------------------------- */

/* Adds up what came since the last time, and finds the client. */
static void look(struct fs_turns *turns, struct turns_tick *tick)
{
	unsigned int most = 0;
	struct server *server;

	tick->requests = 0;
	tick->others = 0;
	pthread_mutex_lock(&turns->lock);
	cds_list_for_each_entry (server, &turns->servers, link) {
		unsigned int now = server->requests, others = server->others;

		server->came = now - server->seen;
		server->seen = now;
		tick->requests += server->came;
		tick->others += others - server->seen_others;
		server->seen_others = others;
		if (server->came > most) {
			most = server->came;
			turns->client = server->client;
		}
	}
	cds_list_for_each_entry (server, &turns->servers, link)
		if (server->client != turns->client)
			tick->others += server->came;
	pthread_mutex_unlock(&turns->lock);
}

/* cpu: where to be together, or -1. */
static void set(struct server *server, int cpu)
{
	if (cpu == server->cpu)
		return;
	server->cpu = cpu;
	if (cpu >= 0)
		be_together(server->tid, server->of_ring, cpu);
	else
		be_apart(server->tid, server->of_ring);
}

/* Those that have it from the thread which started them. */
static void set_heirs(void)
{
	DIR *tasks = opendir("/proc/self/task");
	const struct dirent *entry;

	while (tasks && (entry = readdir(tasks))) {
		pid_t tid = atoi(entry->d_name);

		if (tid && sched_getscheduler(tid) == SCHED_IDLE)
			be_apart(tid, false);
	}
	if (tasks)
		closedir(tasks);
}

/* Where the client is, if that is a place for threads of this process. */
static int place(const struct fs_turns *turns)
{
	int cpu = thread_cpu(turns->client);
	cpu_set_t cpus;

	if (cpu < 0 || cpu >= CPU_SETSIZE ||
	    sched_getaffinity(getpid(), sizeof(cpus), &cpus) < 0)
		return -1;
	return CPU_ISSET(cpu, &cpus) ? cpu : -1;
}

static void tell_guard(struct fs_turns *turns, bool is_bound)
{
	atomic_store(&turns->is_bound, is_bound);
	sem_post(&turns->bell);
}

static void arrange(struct fs_turns *turns, bool together)
{
	bool was = turns->itself.cpu >= 0;
	int cpu = together ? place(turns) : -1;
	struct server *server;

	/* Before there is something to guard, and until there is nothing. */
	if (cpu >= 0 && !was)
		tell_guard(turns, true);
	set(&turns->itself, cpu);
	pthread_mutex_lock(&turns->lock);
	/* Those of /dev/fuse take turns among themselves. */
	cds_list_for_each_entry (server, &turns->servers, link)
		if (cpu < 0 || server->came || !server->of_ring)
			set(server, cpu);
	pthread_mutex_unlock(&turns->lock);
	if (cpu < 0 && was) {
		set_heirs();
		tell_guard(turns, false);
	}
}

/* Is a thread ready to run that does not? Of use when little was answered. */
static bool is_starved(struct fs_turns *turns)
{
	struct server *server;
	bool is = false;

	pthread_mutex_lock(&turns->lock);
	cds_list_for_each_entry (server, &turns->servers, link)
		is |= server->cpu >= 0 && thread_is_ready(server->tid);
	pthread_mutex_unlock(&turns->lock);
	return is;
}

static bool is_possible(void)
{
	const struct sched_param param = {0};
	cpu_set_t cpus;

	return sched_getaffinity(getpid(), sizeof(cpus), &cpus) == 0 &&
	       CPU_COUNT(&cpus) > 1 &&
	       sched_getscheduler(getpid()) != SCHED_IDLE &&
	       sched_setscheduler(0, SCHED_IDLE, &param) == 0 &&
	       sched_setscheduler(0, SCHED_OTHER, &param) == 0;
}

/* Or until it is over. */
static void wait_until(struct fs_turns *turns, int64_t until)
{
	const struct timespec at = timespec_from_ns(until);

	while (!atomic_load(&turns->stopping) &&
	       (sem_clockwait(&turns->alarm, CLOCK_MONOTONIC, &at) == 0 ||
		errno != ETIMEDOUT))
		;
}

static void sleep_until_asked(struct fs_turns *turns)
{
	struct turns_tick tick;

	atomic_store(&turns->asleep, true);
	while (atomic_load(&turns->asleep) && !atomic_load(&turns->stopping))
		sem_wait(&turns->alarm);
	look(turns, &tick);
}

static void conduct(struct fs_turns *turns)
{
	int64_t length = TICK_MAX, begun = 0, now;
	struct turns_tick tick = {0};
	bool flows;

	while (!atomic_load(&turns->stopping)) {
		if (length >= TICK_MAX && tick.requests < WAKE_AT) {
			sleep_until_asked(turns);
			begun = monotonic_ns();
			length = TICK;
		}
		wait_until(turns, begun + length);
		look(turns, &tick);
		now = monotonic_ns();
		tick.ns = (uint64_t)(now - begun);
		begun = now;
		flows = turns_flows(&tick);
		tick.starved = !flows && is_starved(turns);
		if (flows)
			length = TICK;
		else if (length < TICK_MAX)
			length *= 2;
		add(&turns->ticks);
		arrange(turns, turns_next(&turns->plan, &tick));
	}
	arrange(turns, false);
}

static void *conductor(void *arg)
{
	struct fs_turns *turns = arg;

	turns->itself.tid = gettid();
	if (!is_possible())
		return NULL;
	conduct(turns);
	return NULL;
}

/* ---- the guard -------------------------------------------------------------------- */

static void *guard(void *arg)
{
	struct fs_turns *turns = arg;

	while (!atomic_load(&turns->is_over)) {
		struct timespec at =
			timespec_from_ns(monotonic_ns() + GUARD_NS);
		unsigned int ticks = turns->ticks;

		if (!atomic_load(&turns->is_bound))
			sem_wait(&turns->bell);
		else if (sem_clockwait(&turns->bell, CLOCK_MONOTONIC, &at) <
				 0 &&
			 errno == ETIMEDOUT && ticks == turns->ticks)
			/* It sees to the others then. */
			be_apart(turns->itself.tid, false);
	}
	return NULL;
}

/* ---- begin and end --------------------------------------------------------------- */

static void end_guard(struct fs_turns *turns)
{
	atomic_store(&turns->is_over, true);
	sem_post(&turns->bell);
	pthread_join(turns->guard, NULL);
}

int fs_turns_start(struct fs *fs)
{
	struct fs_turns *turns = calloc(1, sizeof(*turns));
	int err;

	if (!turns)
		return -ENOMEM;
	CDS_INIT_LIST_HEAD(&turns->servers);
	turns->plan = (struct turns)TURNS_NEW;
	turns->itself.cpu = -1;
	err = -pthread_key_create(&turns->at_end, leave);
	if (err) {
		free(turns);
		return err;
	}
	pthread_mutex_init(&turns->lock, NULL);
	sem_init(&turns->alarm, 0, 0);
	sem_init(&turns->bell, 0, 0);
	fs->turns = turns;
	err = thread_start(&turns->guard, "turns-guard", guard, turns);
	if (err)
		return err;
	err = thread_start(&turns->conductor, "turns", conductor, turns);
	if (err)
		end_guard(turns);
	turns->runs = !err;
	return err;
}

void fs_turns_stop(struct fs *fs)
{
	struct fs_turns *turns = fs->turns;

	if (!turns || !turns->runs)
		return;
	atomic_store(&turns->stopping, true);
	sem_post(&turns->alarm);
	pthread_join(turns->conductor, NULL);
	end_guard(turns);
	turns->runs = false;
}

void fs_turns_free(struct fs *fs)
{
	struct fs_turns *turns = fs->turns;

	if (!turns)
		return;
	pthread_key_delete(turns->at_end);
	sem_destroy(&turns->bell);
	sem_destroy(&turns->alarm);
	pthread_mutex_destroy(&turns->lock);
	free(turns);
	fs->turns = NULL;
}
