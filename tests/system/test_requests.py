# SPDX-License-Identifier: MIT
"""How many requests operations cost, and that what saves one is not seen."""

import ctypes
import errno
import mmap
import os
import subprocess
from pathlib import Path

import pytest

from files import libc, put
from fuse_requests import requests

FILES, DIRS = 200, 20
LABEL = "security.selinux"
SHOWN = "st_size", "st_mtime_ns", "st_ctime_ns", "st_blocks", "st_mode"


@pytest.fixture(name="counted")
def counter(rig, one):
    """A mounted tier, and what counts the requests of a call on it."""
    it, why = requests(rig)
    if not it:
        pytest.skip(why)
    one.mount()

    def count(what):
        it.start(os.minor(os.stat(one.mnt).st_dev))
        try:
            what()
        finally:
            counts = it.stop()
        return counts

    yield one, count
    it.close()


def test_creating(counted):
    tier, count = counted

    def create():
        for i in range(FILES):
            os.close(os.open(tier.mnt / f"f{i}", os.O_CREAT | os.O_WRONLY))

    def look():
        for i in range(FILES):
            assert os.stat(tier.mnt / f"f{i}").st_size == 0

    counts = count(create)
    # GETATTR is the directory's; a few more of what else looks at it.
    assert counts["LOOKUP"] == counts["CREATE"] == FILES
    assert counts["GETATTR"] <= FILES + 5, counts
    assert sum(counts.values()) <= 4 * FILES + 10, counts
    assert sum(count(look).values()) <= 5


def test_walking(counted):
    tier, count = counted
    for d in range(DIRS):
        (tier.mnt / f"d{d}").mkdir()
        put(tier.mnt / f"d{d}" / "f", 10)

    def walk():
        found = subprocess.run(["find", tier.mnt, "-size", "-1000k"],
                               check=True, capture_output=True)
        assert len(found.stdout.splitlines()) == 2 * DIRS + 1

    tier.remount()
    counts = count(walk)
    assert counts["READDIRPLUS"] <= 2 * (DIRS + 1), counts
    assert counts["OPENDIR"] <= 1 and not counts["RELEASEDIR"], counts
    count(walk)
    assert sum(count(walk).values()) <= 5


@pytest.mark.skipif("selinuxfs" in Path("/proc/filesystems").read_text(),
                    reason="there are labels")
def test_long_lists(counted):
    tier, count = counted
    for i in range(FILES):
        put(tier.mnt / f"f{i}", 10)

    def long_list():
        listed = subprocess.run(["ls", "-l", tier.mnt], check=True,
                                capture_output=True)
        assert len(listed.stdout.splitlines()) == FILES + 1

    count(long_list)  # the ACLs, which the kernel remembers
    assert sum(count(long_list).values()) <= 5

    # A label that is there is shown, and then there is none again.
    path = tier.mnt / "f0"
    os.setxattr(path, LABEL, b"system_u:object_r:tmp_t:s0")
    assert os.getxattr(path, LABEL) == b"system_u:object_r:tmp_t:s0"
    assert LABEL in os.listxattr(path)
    os.removexattr(path, LABEL)
    for name, error in ((LABEL, errno.EOPNOTSUPP),
                        ("security.other", errno.ENODATA)):
        with pytest.raises(OSError) as caught:
            os.getxattr(path, name)
        assert caught.value.errno == error
        assert name not in os.listxattr(path)


@pytest.mark.parametrize("change", [
    "write", "truncate", "fallocate", "map", "copy_file_range", "chmod"])
def test_a_new_file_is_seen_as_it_is(tier, change):
    """Its attributes are cached while it is empty, and not after."""
    path = tier.mnt / f"new-{change}"
    source = tier.mnt / f"source-{change}"
    put(source, 10000)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)

    def same():
        seen, front = ({name: getattr(os.stat(top / path.name), name)
                        for name in SHOWN} for top in (tier.mnt, tier.front))
        assert seen == front
        return front

    empty = same()
    if change == "write":
        os.write(fd, b"x" * 5000)
    elif change == "truncate":
        os.ftruncate(fd, 5000)
    elif change == "fallocate":
        assert libc.fallocate(fd, 1, ctypes.c_long(0),
                              ctypes.c_long(65536)) == 0  # KEEP_SIZE
    elif change == "copy_file_range":
        with open(source, "rb") as f:
            assert os.copy_file_range(f.fileno(), fd, 5000) > 0
    elif change == "chmod":
        os.fchmod(fd, 0o640)
    else:
        os.ftruncate(fd, 5000)
        same()
        with mmap.mmap(fd, 5000) as m:
            m[0:5] = b"hello"
            same()
            os.close(fd)
            fd = -1
            m[4500:4505] = b"hello"
            m.flush()
            same()
    assert same() != empty
    if fd >= 0:
        os.close(fd)
    same()
