/* SPDX-License-Identifier: MIT */
/*
 * One file's attribute against what it says.
 *
 * Each judgement is made of two looks with whatever is asked of the target, the
 * journal or .tierfs between them, and is dropped when they differ: check.c
 * tells why that suffices while a daemon serves the front.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "check_int.h"
#include "cleanup.h"
#include "delta.h"

int check_look(struct check *c, int dirfd, const char *name,
	       struct check_seen *ret)
{
	int err;

	memset(ret, 0, sizeof(*ret));
	err = front_ea_get_at(c->parts.front, dirfd, name, &ret->ea);
	if (!err && fstatat(dirfd, name, &ret->st, AT_SYMLINK_NOFOLLOW) < 0)
		err = -errno;
	return err;
}

static bool same_ea(const struct spill_ea *a, const struct spill_ea *b)
{
	uint8_t x[TIERFS_EA_MAX], y[TIERFS_EA_MAX];
	int n = spill_ea_encode(a, x, sizeof(x));

	return n >= 0 && n == spill_ea_encode(b, y, sizeof(y)) &&
	       !memcmp(x, y, (size_t)n);
}

/* Is the file still as it was seen? */
static bool still(struct check *c, int dirfd, const char *name,
		  const struct check_seen *seen)
{
	struct check_seen now;

	return !check_look(c, dirfd, name, &now) &&
	       now.st.st_ino == seen->st.st_ino &&
	       now.st.st_size == seen->st.st_size &&
	       same_ea(&now.ea, &seen->ea);
}

struct judge {
	struct check *c;
	int dirfd;
	const char *name;
	const struct check_seen *seen;
	/* What the object's size must be, when that is known. */
	bool sized;
	uint64_t size;
};

static bool resident(const struct check_seen *seen)
{
	return seen->ea.state != SPILL_RELEASED &&
	       seen->ea.state != SPILL_DIRTY;
}

/* Copies that a resident file can do without. The objects are nobody's now,
 * unless another file names them. */
static bool forgotten(const struct judge *j)
{
	const struct spill_ea *ea = &j->seen->ea;

	if (!j->c->parts.repair || !resident(j->seen) ||
	    check_forget(j->c, j->dirfd, j->name, j->seen))
		return false;
	for (unsigned int i = 0; i < ea->ncopies; i++)
		check_unclaim(j->c, ea->copies[i].target, ea->copies[i].oid,
			      j->seen->st.st_ino);
	return true;
}

static const char *outcome(const struct judge *j, bool repaired)
{
	if (j->seen->ea.state == SPILL_DIRTY)
		return "what was not written since its release is lost";
	if (!resident(j->seen))
		return "its contents are lost";
	return repaired ? "forgotten: the file is on the front"
			: "the file itself is on the front";
}

/* True: it names the copy no more. */
static bool judge_size(const struct judge *j, const struct spill_copy *copy)
{
	struct check *c = j->c;
	uint64_t size = 0;
	bool repaired;
	int err;

	err = check_object_size(c, copy->target, copy->oid, false, &size);
	/* As it was listed, it may have been on its way. */
	if (!err && size != j->size && j->sized)
		err = check_object_size(c, copy->target, copy->oid, true,
					&size);
	if (!err && (size == j->size || !j->sized))
		return false;
	if (!still(c, j->dirfd, j->name, j->seen))
		return true;
	if (err && err != -ENOENT) {
		check_found(c, CHECK_UNREADABLE, NULL, copy->target, copy->oid,
			    false, "%s", strerror(-err));
		return true;
	}
	repaired = forgotten(j);
	if (err)
		check_found(c, CHECK_MISSING_OBJECT, NULL, copy->target,
			    copy->oid, repaired, "%s", outcome(j, repaired));
	else
		check_found(c, CHECK_WRONG_SIZE, NULL, copy->target, copy->oid,
			    repaired,
			    "it has %" PRIu64 " bytes instead of %" PRIu64
			    "; %s",
			    size, j->size,
			    resident(j->seen) ? outcome(j, repaired)
					      : "the file cannot be restored");
	return repaired;
}

static bool judge_contents(const struct judge *j, const struct spill_copy *copy)
{
	struct check *c = j->c;
	bool repaired;
	int err;

	err = check_verify(c, copy->target, copy->oid, &j->seen->ea.sum);
	if (!err || err == -ECANCELED || err == -ENOMEM ||
	    !still(c, j->dirfd, j->name, j->seen)) {
		if (err == -ECANCELED || err == -ENOMEM)
			c->err = err;
		return false;
	}
	repaired = forgotten(j);
	check_found(c,
		    err == -EBADMSG ? CHECK_DAMAGED_OBJECT : CHECK_UNREADABLE,
		    NULL, copy->target, copy->oid, repaired, "%s; %s",
		    err == -EBADMSG ? "its checksum is not the file's"
				    : strerror(-err),
		    resident(j->seen) ? outcome(j, repaired)
				      : "the file cannot be restored");
	return repaired;
}

/* What a step leaves while it is in flight, and at no other time. */
static bool judge_flight(const struct judge *j)
{
	const struct spill_copy *copy = &j->seen->ea.copies[0];
	const struct spill_ea *ea = &j->seen->ea;
	struct check *c = j->c;
	bool stub = ea->state == SPILL_RELEASED;
	bool repaired;

	if (ea->state != SPILL_MIGRATING &&
	    !(ea->flags & TIERFS_EA_F_WRITING && ea->state == SPILL_MIGRATED) &&
	    !(stub && j->seen->st.st_size > 0))
		return false;
	if (check_in_flight(c, copy->target, copy->oid) ||
	    !still(c, j->dirfd, j->name, j->seen))
		return true;
	if (stub) {
		check_found(c, CHECK_STUB_WITH_DATA, NULL, copy->target,
			    copy->oid, false,
			    "%lld bytes were written to it beside the mount; "
			    "the file is the object's %" PRIu64 " bytes",
			    (long long)j->seen->st.st_size, ea->size);
		return false;
	}
	repaired = forgotten(j);
	check_found(c, CHECK_UNFINISHED, NULL, copy->target, copy->oid,
		    repaired, "%s; %s",
		    ea->state == SPILL_MIGRATING
			    ? "it says that it is being migrated"
			    : "it says that it is being written to",
		    outcome(j, repaired));
	return repaired;
}

static bool judge_resident(const struct judge *j)
{
	const struct spill_ea *ea = &j->seen->ea;
	struct check *c = j->c;
	bool repaired;

	if (ea->state != SPILL_MIGRATED || ea->flags & TIERFS_EA_F_WRITING ||
	    (uint64_t)j->seen->st.st_size == ea->size)
		return false;
	if (check_in_flight(c, ea->copies[0].target, ea->copies[0].oid) ||
	    !still(c, j->dirfd, j->name, j->seen))
		return true;
	repaired = forgotten(j);
	check_found(c, CHECK_STALE_COPY, NULL, ea->copies[0].target,
		    ea->copies[0].oid, repaired,
		    "it has %lld bytes, and had %" PRIu64
		    " when it was migrated: changed beside the mount; %s",
		    (long long)j->seen->st.st_size, ea->size,
		    outcome(j, repaired));
	return repaired;
}

/*
 * The log of a DIRTY file, which also knows the object's size. While a daemon
 * appends to it (LOGGING) it is left to that; after a crash, its end may be torn.
 */
static void judge_log(struct judge *j)
{
	const struct spill_ea *ea = &j->seen->ea;
	const struct delta_base expect = {.oid = ea->copies[0].oid,
					  .target = ea->copies[0].target};
	bool logging = ea->flags & TIERFS_EA_F_LOGGING;
	_cleanup_close_ int fd = -1;
	struct delta *log = NULL;
	struct check *c = j->c;
	int err;

	if (logging && c->parts.tier)
		return;
	fd = openat(j->dirfd, j->name,
		    O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	err = fd < 0 ? -errno : delta_load(fd, &expect, !logging, &log);
	if (!err && delta_log_end(log)) {
		j->sized = true;
		j->size = delta_base(log)->size;
	}
	delta_free(log);
	if (!err || !still(c, j->dirfd, j->name, j->seen))
		return;
	if (err == -EBADMSG)
		check_found(c, CHECK_DAMAGED_LOG, NULL, expect.target,
			    expect.oid, false,
			    "what was written since its release is lost; the "
			    "object has what it was before");
	else if (err == -EPROTONOSUPPORT)
		check_found(c, CHECK_DAMAGED_LOG, NULL, expect.target,
			    expect.oid, false,
			    "written by a newer version of tierfs; left alone");
	else
		check_found(c, CHECK_UNREADABLE, NULL, -1, 0, false, "%s",
			    strerror(-err));
}

static void judge_number(const struct judge *j)
{
	const struct spill_ea *ea = &j->seen->ea;
	struct check *c = j->c;

	if (!(ea->flags & TIERFS_EA_F_INO) || check_holder_there(c, ea->ino) ||
	    !still(c, j->dirfd, j->name, j->seen))
		return;
	check_found(c, CHECK_MISSING_INODE, NULL, -1, 0, false,
		    "it shows the inode number %" PRIu64
		    ", which a new file can get",
		    ea->ino);
}

static void judge_copies(struct judge *j)
{
	const struct spill_ea *ea = &j->seen->ea;
	struct check *c = j->c;

	if (judge_flight(j) || judge_resident(j))
		return;
	j->sized = ea->state != SPILL_DIRTY;
	j->size = ea->size;
	if (ea->state == SPILL_DIRTY)
		judge_log(j);
	for (unsigned int i = 0; i < ea->ncopies && !c->err; i++) {
		const struct spill_copy *copy = &ea->copies[i];
		struct check_target *t = &c->targets[copy->target];

		if (copy->target >= c->parts.front->ntargets) {
			check_found(c, CHECK_UNKNOWN_TARGET, NULL, -1, 0, false,
				    "its attribute names target number %u",
				    copy->target);
			continue;
		}
		if (!t->listed) {
			t->untold++;
			continue;
		}
		/* While it is written, it is not compared. */
		if (ea->state == SPILL_MIGRATING ||
		    ea->flags & TIERFS_EA_F_WRITING)
			continue;
		if (judge_size(j, copy))
			return;
		if (c->parts.verify && judge_contents(j, copy))
			return;
	}
}

static void claim(struct check *c, const struct check_seen *seen)
{
	for (unsigned int i = 0; i < seen->ea.ncopies; i++)
		check_claim(c, seen->ea.copies[i].target,
			    seen->ea.copies[i].oid, seen->st.st_ino);
	check_own_holder(c, seen->ea.flags & TIERFS_EA_F_INO ? seen->ea.ino
							     : seen->st.st_ino);
}

static void bad_attribute(struct check *c, int dirfd, const char *name, int err)
{
	struct check_seen now;

	if (check_look(c, dirfd, name, &now) != err)
		return;
	c->blind = true;
	if (err == -EPROTONOSUPPORT)
		check_found(c, CHECK_NEWER_ATTRIBUTE, NULL, -1, 0, false,
			    "written by a newer version of tierfs; left alone");
	else if (err == -EBADMSG)
		check_found(c, CHECK_DAMAGED_ATTRIBUTE, NULL, -1, 0, false,
			    "left alone: where its contents are is not known");
	else
		check_found(c, CHECK_UNREADABLE, NULL, -1, 0, false, "%s",
			    strerror(-err));
}

void check_file(struct check *c, int dirfd, const char *name)
{
	struct check_seen seen;
	struct judge j = {.c = c, .dirfd = dirfd, .name = name, .seen = &seen};
	int err;

	c->totals.files++;
	err = check_look(c, dirfd, name, &seen);
	if (err == -ENODATA || err == -ENOENT)
		return;
	if (err) {
		bad_attribute(c, dirfd, name, err);
		return;
	}
	c->totals.tiered++;
	claim(c, &seen);
	if (S_ISDIR(seen.st.st_mode) && seen.ea.state == SPILL_NONE)
		return;
	if (!S_ISREG(seen.st.st_mode)) {
		check_found(c, CHECK_DAMAGED_ATTRIBUTE, NULL, -1, 0, false,
			    "it is no regular file, and says that it is %s",
			    spill_state_name(seen.ea.state));
		return;
	}
	judge_copies(&j);
	judge_number(&j);
}

void check_claim_file(struct check *c, int dirfd, const char *name)
{
	struct check_seen seen;
	bool was = c->claiming;

	/* A file that is seen again may be another inode now. */
	c->claiming = true;
	if (!check_look(c, dirfd, name, &seen))
		claim(c, &seen);
	c->claiming = was;
}

/* Does the first that was found still name it, and is it another inode? */
static bool still_shared(struct check *c, const struct check_shared *s,
			 ino_t other)
{
	struct check_seen first;

	if (check_look(c, c->parts.front->root_fd, s->path + 1, &first) ||
	    first.st.st_ino == other)
		return false;
	for (unsigned int i = 0; i < first.ea.ncopies; i++)
		if (first.ea.copies[i].target == s->target &&
		    first.ea.copies[i].oid == s->oid)
			return true;
	return false;
}

void check_shared_file(struct check *c, int dirfd, const char *name)
{
	struct check_seen seen;

	if (check_look(c, dirfd, name, &seen))
		return;
	for (unsigned int i = 0; i < seen.ea.ncopies; i++) {
		const struct spill_copy *copy = &seen.ea.copies[i];

		for (size_t k = 0; k < c->nshared; k++) {
			struct check_shared *s = &c->shared[k];

			if (s->target != copy->target || s->oid != copy->oid)
				continue;
			if (!s->path) {
				s->path = strdup(c->path);
				s->ino = seen.st.st_ino;
			} else if (s->ino != seen.st.st_ino &&
				   still_shared(c, s, seen.st.st_ino) &&
				   still(c, dirfd, name, &seen)) {
				check_found(c, CHECK_SHARED_OBJECT, NULL,
					    copy->target, copy->oid, false,
					    "%s names it, too", s->path);
			}
		}
	}
}
