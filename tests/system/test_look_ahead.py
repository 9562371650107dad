# SPDX-License-Identifier: MIT
"""A directory is listed with somebody looking ahead in it."""

import os
import threading
import time
from pathlib import Path

import pytest

from rig import drop_caches, fuse_parameter, wait_for

FILES, SMALL = 300, 10
ROUNDS = 15

# The kernel has one parameter for io_uring.
pytestmark = pytest.mark.xdist_group("io_uring")


@pytest.fixture(name="tier", params=["off", "on"])
def by_each_way(rig, request):
    tier = rig.tier("ext4")
    with fuse_parameter("Y"):
        tier.mount(f"io_uring={request.param}")
    tier.uring = tier.mount_status()["io_uring"]
    assert tier.uring == (request.param == "on")
    yield tier
    tier.close()


def fill(top, n):
    top.mkdir()
    for i in range(n):
        (top / f"stays{i}").write_bytes(b"x" * i)


def workers(tier):
    names = (p.read_text() for p in
             Path(f"/proc/{tier.daemon.pid}/task").glob("*/comm"))
    return sum(name == "fuse-work\n" for name in names)


def sizes(top):
    """Of all that a listing finds, by name: a list each."""
    found = {}
    with os.scandir(top) as entries:
        for entry in entries:
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
            found.setdefault(entry.name, []).append(size)
    return found


def test_only_where_it_helps(tier):
    """By /dev/fuse nothing else needs a worker. Over io_uring others may have
    started one, which is idle, and then no other one is."""
    fill(tier.front / "small", SMALL)
    fill(tier.front / "large", FILES)
    drop_caches()
    assert len(sizes(tier.mnt / "small")) == SMALL
    assert tier.uring or not workers(tier)
    assert len(sizes(tier.mnt / "large")) == FILES
    wait_for(lambda: workers(tier) >= 1, 5)


def reads(disk):
    """That reached it so far, when nobody reads it any more."""
    seen = [disk.ios()[0], time.monotonic()]

    def is_quiet():
        now = disk.ios()[0]
        if now != seen[0]:
            seen[:] = now, time.monotonic()
        return time.monotonic() - seen[1] > 0.3
    wait_for(is_quiet)
    return seen[0]


def test_the_next_of_a_walk(tier):
    """Who lists one directory after the other finds the next one read; who lists
    them in another order does not."""
    top = tier.front / "top"
    top.mkdir()
    for d in range(8):
        fill(top / f"dir{d}", FILES)

    def costs(backwards):
        """Reads of the front's disk for each that is listed."""
        drop_caches()
        with os.scandir(tier.mnt / "top") as entries:
            dirs = [entry.path for entry in entries]
        cost = []
        for path in reversed(dirs) if backwards else dirs:
            before = reads(tier.disk)
            assert len(sizes(path)) == FILES
            cost.append(tier.disk.ios()[0] - before)
        return cost

    costs(True)  # what was just written is not dropped as easily
    assert all(costs(True))
    # While one is listed the next one is read; the last one has none. Tests that
    # run beside this one drop caches, too.
    assert any(costs(False)[-1] == 0 for _ in range(5))


def test_while_names_come_and_go(tier):
    """What stays is listed once, as it is."""
    top = tier.mnt / "dir"
    fill(top, FILES)
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            for i in range(0, FILES, 3):
                (top / f"goes{i}").write_bytes(b"y")
                (top / f"goes{i}").rename(top / f"moved{i}")
            for i in range(0, FILES, 3):
                (top / f"moved{i}").unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(ROUNDS):
            drop_caches()
            found = sizes(top)
            for i in range(FILES):
                assert found[f"stays{i}"] == [i]
    finally:
        stop.set()
        other.join()
