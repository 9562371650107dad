/* SPDX-License-Identifier: MIT */
/*
 * Applying a log to a file. It needs neither the view nor its lock: what lies
 * before `end` never changes, so entries may be appended behind it meanwhile.
 *
 * Each entry says what bytes are afterwards, not how they change, so that to
 * apply one again (after a failure, or over a file that has seen later ones
 * when all are applied again) ends in the same contents.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "delta_impl.h"
#include "util.h"

static int change(int fd, int mode, uint64_t off, uint64_t len)
{
	int ret;

	do {
		ret = fallocate(fd, mode, (off_t)off, (off_t)len);
	} while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : 0;
}

static int resize(int fd, uint64_t size)
{
	int ret;

	do {
		ret = ftruncate(fd, (off_t)size);
	} while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : 0;
}

/* For file systems that cannot punch. */
static int write_zeros(int fd, uint64_t off, uint64_t len)
{
	static const char zeros[64 << 10];
	struct stat st;
	size_t n;
	int ret = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (off >= (uint64_t)st.st_size)
		return 0;
	len = min_t(uint64_t, len, (uint64_t)st.st_size - off);
	for (; len && !ret; off += n, len -= n) {
		n = min_t(uint64_t, len, sizeof(zeros));
		ret = pwrite_full(fd, zeros, n, (off_t)off);
	}
	return ret;
}

static int punch(int fd, uint64_t off, uint64_t len)
{
	int ret = change(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off,
			 len);

	return ret == -EOPNOTSUPP ? write_zeros(fd, off, len) : ret;
}

static int zero(int fd, uint64_t off, uint64_t len)
{
	int ret = change(fd, FALLOC_FL_ZERO_RANGE, off, len);
	struct stat st;

	if (ret != -EOPNOTSUPP)
		return ret;
	ret = punch(fd, off, len);
	if (ret)
		return ret;
	if (fstat(fd, &st) < 0)
		return -errno;
	return off + len > (uint64_t)st.st_size ? resize(fd, off + len) : 0;
}

static int apply(int fd, const struct delta_entry *entry)
{
	switch (entry->kind) {
	case TIERFS_LOG_WRITE:
		return pwrite_full(fd, entry->data, entry->len,
				   (off_t)entry->off);
	case TIERFS_LOG_TRUNCATE:
		return resize(fd, entry->off);
	case TIERFS_LOG_PUNCH:
		return punch(fd, entry->off, entry->len);
	default:
		return zero(fd, entry->off, entry->len);
	}
}

static int begin(int fd, const struct delta_base *expect, struct delta_pos *pos)
{
	uint8_t buf[TIERFS_LOG_HEAD];
	struct delta_base base;
	struct delta_pos first;
	int ret;

	ret = pread_full(fd, buf, sizeof(buf), 0);
	if (ret)
		return ret == -ENODATA ? -EBADMSG : ret;
	ret = delta_decode_header(buf, &base, &first);
	if (ret)
		return ret;
	if (base.oid != expect->oid || base.target != expect->target)
		return -EBADMSG;
	*pos = first;
	return 0;
}

int delta_replay(int fd, const struct delta_base *expect, int to_fd,
		 struct delta_pos *pos, uint64_t end,
		 const _Atomic(bool) *cancel)
{
	_cleanup_delta_reader_ struct delta_reader reader = {.fd = fd};
	struct delta_entry entry;
	struct delta_pos next;
	int ret;

	if (pos->off == 0 && end != 0) {
		ret = begin(fd, expect, pos);
		if (ret)
			return ret;
	}
	while (pos->off < end) {
		if (cancel && atomic_load(cancel))
			return -ECANCELED;
		next = *pos;
		ret = delta_reader_next(&reader, &next, end, &entry);
		if (ret <= 0)
			return ret ? ret : -EBADMSG;
		ret = apply(to_fd, &entry);
		if (ret)
			return ret;
		*pos = next;
	}
	return 0;
}
