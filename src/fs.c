/* SPDX-License-Identifier: MIT */

/*
 * The session: mounting, what is agreed with the kernel, the end.
 *
 * Passthrough is known to work only when a file could be registered, and that
 * only after the kernel's first message. So a thread asks the mount for its
 * attributes, which waits for that, then tries with a file of the daemon's own,
 * and only then the mount is called ready.
 *
 * The end. libfuse joins its threads when the session ends; what is answered
 * later, from other threads, must be answered before the device is closed, for
 * its number may be reused. So all that waits is interrupted first. What a
 * target has of it may come much later, or never if it hangs: it is waited for
 * when the mount is gone.
 */

#include "fs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "log.h"

#define READ_AHEAD_KB 4096

/*
 * Requests of a CPU that are taken at once, at first: more are when they wait.
 */
#define FS_URING_DEPTH 8

/* linux/fuse.h since 6.9; older headers lack it. */
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN  _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

void fs_passthrough_lost(struct fs *fs, const char *what, int err)
{
	int on = FS_PT_ON;

	if (!atomic_compare_exchange_strong(&fs->passthrough, &on, FS_PT_OFF))
		return;
	pthread_mutex_lock(&fs->lock);
	snprintf(fs->why, sizeof(fs->why), "%s: %s", what, strerror(err));
	pthread_mutex_unlock(&fs->lock);
	log_warn("no passthrough from now on: %s: %s", what, strerror(err));
}

bool fs_passthrough(struct fs *fs, char *why, size_t len)
{
	bool on = atomic_load(&fs->passthrough) == FS_PT_ON;

	pthread_mutex_lock(&fs->lock);
	if (len)
		snprintf(why, len, "%s", on ? "" : fs->why);
	pthread_mutex_unlock(&fs->lock);
	return on;
}

/* A backing id that nobody's handle has. */
static void give_back(void *arg, int id)
{
	struct fs *fs = arg;
	uint32_t number = (uint32_t)id;

	ioctl(fuse_session_fd(fs->se), BACKING_CLOSE, &number);
}

static void refuse_passthrough(struct fs *fs, const char *why)
{
	atomic_store(&fs->passthrough, FS_PT_OFF);
	pthread_mutex_lock(&fs->lock);
	snprintf(fs->why, sizeof(fs->why), "%s", why);
	pthread_mutex_unlock(&fs->lock);
}

/* A front that is itself stacked (overlayfs) needs one level more, which is
 * then lacking above us: overlayfs over this mount works only without. */
static unsigned int front_depth(const struct front *front)
{
	struct statfs st;

	if (fstatfs(front->root_fd, &st) < 0)
		return 0;
	return st.f_type == OVERLAYFS_SUPER_MAGIC ? 1 : 0;
}

static void init(void *userdata, struct fuse_conn_info *conn)
{
	struct fs *fs = userdata;

	conn->max_write = FS_MAX_IO;
	conn->no_interrupt = 0;
	/* Asynchronous reads that wait for a target are in the background, as
	 * are readahead and the end of handles: with the kernel's dozen of them
	 * unanswered it would send no more, of no file. And from three quarters
	 * of that on it would read by single pages. */
	conn->max_background = UINT16_MAX;
	conn->congestion_threshold = UINT16_MAX;
	conn->max_backing_stack_depth = front_depth(fs->parts.front);

	fuse_set_feature_flag(conn, FUSE_CAP_PARALLEL_DIROPS);
	fuse_set_feature_flag(conn, FUSE_CAP_CACHE_SYMLINKS);
	fuse_set_feature_flag(conn, FUSE_CAP_POSIX_ACL);
	fuse_set_feature_flag(conn, FUSE_CAP_DONT_MASK);
	fuse_set_feature_flag(conn, FUSE_CAP_HANDLE_KILLPRIV_V2);
	fuse_set_feature_flag(conn, FUSE_CAP_IOCTL_DIR);
	/* A node id means nothing to another daemon. */
	fuse_set_feature_flag(conn, FUSE_CAP_NO_EXPORT_SUPPORT);
	fuse_set_feature_flag(conn, FUSE_CAP_READDIRPLUS);
	fuse_unset_feature_flag(conn, FUSE_CAP_READDIRPLUS_AUTO);
	fs->no_opendir =
		fuse_set_feature_flag(conn, FUSE_CAP_NO_OPENDIR_SUPPORT);
	/* Nothing changes but by us: do not ask before each read. */
	fuse_unset_feature_flag(conn, FUSE_CAP_AUTO_INVAL_DATA);
	/* Requests are small but for writes past the passthrough: reading them
	 * by way of a pipe costs one system call more for each. And seven more
	 * where the pipe may not be as large as a request (no
	 * CAP_SYS_RESOURCE), as libfuse then tries again for each. */
	fuse_unset_feature_flag(conn, FUSE_CAP_SPLICE_READ);
	fuse_unset_feature_flag(conn, FUSE_CAP_FLOCK_LOCKS);
	fuse_unset_feature_flag(conn, FUSE_CAP_POSIX_LOCKS);

	if (fs->parts.config->passthrough == PASSTHROUGH_OFF)
		refuse_passthrough(fs, "switched off (passthrough=off)");
	else if (!fuse_get_feature_flag(conn, FUSE_CAP_PASSTHROUGH))
		refuse_passthrough(fs, "the kernel does not offer it "
				       "(Linux 6.9 or later, "
				       "CONFIG_FUSE_PASSTHROUGH)");
	else if (geteuid() != 0)
		refuse_passthrough(fs, "not allowed: it needs CAP_SYS_ADMIN");
	else
		fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH);
	fs->session_pt = atomic_load(&fs->passthrough) == FS_PT_ON;
	fs_uring_init(fs, conn);
}

static const struct fuse_lowlevel_ops plain_ops = {
	.init = init,
	.lookup = fs_lookup,
	.forget = fs_forget,
	.forget_multi = fs_forget_multi,
	.getattr = fs_getattr,
	.setattr = fs_setattr,
	.statx = fs_statx,
	.statfs = fs_statfs,
	.readlink = fs_readlink,
	.mknod = fs_mknod,
	.mkdir = fs_mkdir,
	.symlink = fs_symlink,
	.unlink = fs_unlink,
	.rmdir = fs_rmdir,
	.rename = fs_rename,
	.link = fs_link,
	.opendir = fs_opendir,
	.readdir = fs_readdir,
	.readdirplus = fs_readdirplus,
	.releasedir = fs_releasedir,
	.fsyncdir = fs_fsyncdir,
	.open = fs_open,
	.create = fs_create,
	.tmpfile = fs_tmpfile,
	.release = fs_release,
	.read = fs_read,
	.write_buf = fs_write_buf,
	.flush = fs_flush,
	.fsync = fs_fsync,
	.fallocate = fs_fallocate,
	.copy_file_range = fs_copy_file_range,
	.lseek = fs_lseek,
	.getxattr = fs_getxattr,
	.setxattr = fs_setxattr,
	.listxattr = fs_listxattr,
	.removexattr = fs_removexattr,
	.ioctl = fs_ioctl,
};

static void log_fuse(enum fuse_log_level level, const char *fmt, va_list args)
{
	char text[LOG_LINE_MAX];
	int saved = errno;
	size_t len;

	vsnprintf(text, sizeof(text), fmt, args);
	len = strlen(text);
	if (len && text[len - 1] == '\n')
		text[len - 1] = '\0';
	if (level <= FUSE_LOG_WARNING)
		log_warn("%s", text);
	else
		log_debug("%s", text);
	errno = saved;
}

/* ---- mounting ---------------------------------------------------------------- */

/* A value in a list of options: commas and backslashes are escaped. */
static void put_escaped(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == ',' || *text == '\\')
			fputc('\\', out);
		fputc(*text, out);
	}
}

static char *mount_options(const struct config *cfg, bool io_uring)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	fputs("subtype=tierfs,default_permissions,fsname=", out);
	put_escaped(out, cfg->front);
	if (geteuid() == 0)
		fputs(",dev,suid", out);
	if (cfg->allow_other)
		fputs(",allow_other", out);
	if (cfg->ro)
		fputs(",ro", out);
	if (cfg->noatime)
		fputs(",noatime", out);
	if (io_uring)
		fprintf(out, ",io_uring,io_uring_q_depth=%d", FS_URING_DEPTH);
	if (cfg->debug)
		fputs(",debug", out);
	if (cfg->fuse_opts && *cfg->fuse_opts)
		fprintf(out, ",%s", cfg->fuse_opts);
	if (fclose(out) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static int fail(char **ret_why, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	if (vasprintf(ret_why, fmt, args) < 0)
		*ret_why = NULL;
	va_end(args);
	return err;
}

static int session_new(struct fs *fs, char **ret_why)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_lowlevel_ops ops = plain_ops;
	_cleanup_free_ char *options = NULL;

	fs->uring_asked = fs_uring_ask(fs);
	if (fs->uring_asked)
		fs_later_ops(&ops);
	options = mount_options(fs->parts.config, fs->uring_asked);
	if (!options || fuse_opt_add_arg(&args, "tierfs") < 0 ||
	    fuse_opt_add_arg(&args, "-o") < 0 ||
	    fuse_opt_add_arg(&args, options) < 0) {
		fuse_opt_free_args(&args);
		return fail(ret_why, -ENOMEM, "out of memory");
	}
	fs->se = fuse_session_new(&args, &ops, sizeof(ops), fs);
	fuse_opt_free_args(&args);
	if (!fs->se)
		return fail(ret_why, -EINVAL,
			    "libfuse refuses the options \"%s\"", options);
	return 0;
}

int fs_mount(const struct fs_parts *parts, struct fs **ret, char **ret_why)
{
	const char *where = parts->config->mountpoint;
	struct fs *fs = calloc(1, sizeof(*fs));
	int err;

	if (!fs)
		return fail(ret_why, -ENOMEM, "out of memory");
	fs->parts = *parts;
	fs->passthrough = FS_PT_ON;
	fs->selinux = fs_selinux_known();
	pthread_mutex_init(&fs->walk.lock, NULL);
	pthread_mutex_init(&fs->lock, NULL);
	fs_park_init(fs);
	fuse_set_log_func(log_fuse);
	err = fs_work_new(fs);
	if (!err)
		err = session_new(fs, ret_why);
	if (!err && fuse_session_mount(fs->se, where) != 0)
		err = fail(ret_why, -EIO, "cannot mount on %s: %s", where,
			   strerror(errno));
	if (err) {
		if (fs->se)
			fuse_session_destroy(fs->se);
		fs_work_end(fs);
		free(fs);
		return err;
	}
	*ret = fs;
	return 0;
}

/* ---- serving ------------------------------------------------------------------ */

/* Sequential reads in place are as long as the kernel reads ahead. */
static void raise_read_ahead(dev_t dev)
{
	_cleanup_close_ int fd = -1;
	char path[64], value[16];
	int len;

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb",
		 major(dev), minor(dev));
	len = snprintf(value, sizeof(value), "%d", READ_AHEAD_KB);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, len) != len)
		log_debug("%s: %s", path, strerror(errno));
}

/* Tries to register a file as a client's open would. */
static void try_passthrough(struct fs *fs)
{
	struct backing_map map = {0};
	_cleanup_close_ int fd = -1;
	int got;

	fd = openat(fs->parts.front->meta_fd, "format", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	map.fd = fd;
	got = ioctl(fuse_session_fd(fs->se), BACKING_OPEN, &map);
	if (got < 0) {
		fs_passthrough_lost(fs, "the kernel refuses to register files",
				    errno);
		return;
	}
	give_back(fs, got);
}

static int make_ready(struct fs *fs)
{
	const struct config *config = fs->parts.config;
	struct statvfs seen; /* fs_uring_seen() */
	struct stat st;
	int err;

	if (stat(config->mountpoint, &st) < 0 ||
	    statvfs(config->mountpoint, &seen) < 0) {
		err = -errno;
		log_error("%s does not answer: %s", config->mountpoint,
			  strerror(-err));
		return err;
	}
	raise_read_ahead(st.st_dev);
	if (atomic_load(&fs->passthrough) == FS_PT_ON)
		try_passthrough(fs);
	/* Without memory nothing is kept. */
	if (atomic_load(&fs->passthrough) == FS_PT_ON)
		node_keep_start(fs->parts.nodes, FS_KEEP_MAX, give_back, fs);
	if (config->passthrough == PASSTHROUGH_ON &&
	    atomic_load(&fs->passthrough) != FS_PT_ON) {
		log_error("passthrough=on, but it cannot be had: %s", fs->why);
		return -EOPNOTSUPP;
	}
	return fs->ready(fs->ready_arg);
}

static void *ready_thread(void *arg)
{
	struct fs *fs = arg;

	fs->ready_err = make_ready(fs);
	if (fs->ready_err)
		fuse_session_exit(fs->se);
	return NULL;
}

/*
 * By /dev/fuse a request costs 21 us, two wake-ups of a CPU, where the two cannot
 * be on one (fs_turns.c). Threads that poll for the next one instead of sleeping
 * make it 20: the client's remains. With one thread it is 60: with some, one is
 * often still about when the next comes.
 */
static int loop(struct fs *fs)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	int err;

	if (!config)
		return -ENOMEM;
	if (fs->parts.config->max_threads)
		fuse_loop_cfg_set_max_threads(config,
					      fs->parts.config->max_threads);
	err = fuse_session_loop_mt(fs->se, config);
	fuse_loop_cfg_destroy(config);
	return err < 0 ? err : 0; /* > 0: the signal that ended it */
}

int fs_retune(struct fs *fs, const struct config *config)
{
	int err = fs_park_timeout(fs, config->recall_timeout_ns);

	bool noatime = config->noatime || config->ro;

	if (err)
		return err;
	atomic_store(&fs->no_atime, noatime);
	/* Without privileges it is for what is read in place alone. */
	front_set_noatime(fs->parts.front, noatime);
	return 0;
}

int fs_serve(struct fs *fs, int (*ready)(void *arg), void *arg, char **ret_why)
{
	pthread_t thread;
	int err;

	fs->ready = ready;
	fs->ready_arg = arg;
	err = fs_retune(fs, fs->parts.config);
	if (err)
		return fail(ret_why, err, "starting a thread: %s",
			    strerror(-err));
	err = fs_turns_start(fs);
	if (err)
		log_debug("no turns: %s", strerror(-err));
	if (fuse_set_signal_handlers(fs->se) != 0)
		return fail(ret_why, -EIO, "cannot handle signals");
	err = -pthread_create(&thread, NULL, ready_thread, fs);
	if (!err) {
		err = loop(fs);
		pthread_join(thread, NULL);
	}
	fuse_remove_signal_handlers(fs->se);
	if (fs->ready_err)
		return fs->ready_err; /* and was logged */
	if (err)
		return fail(ret_why, err, "the session failed: %s",
			    strerror(-err));
	return 0;
}

void fs_leave(struct fs *fs)
{
	fs_turns_stop(fs);
	fs_work_end(fs);
	fs_park_answer(fs);
	/* Now, so that the front is free when we are gone: what the kernel has
	 * to do for it at the end of a mount is done later. */
	node_keep_stop(fs->parts.nodes);
	fuse_session_unmount(fs->se);
}

void fs_end(struct fs *fs)
{
	fs_park_end(fs);
	fuse_session_destroy(fs->se);
	fs_turns_free(fs);
	pthread_mutex_destroy(&fs->walk.lock);
	pthread_mutex_destroy(&fs->lock);
	free(fs);
}
