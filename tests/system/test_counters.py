# SPDX-License-Identifier: MIT
"""The counters of files by state, after crashes, against a fresh walk."""

import itertools
import os
import threading
import time

import pytest
from files import put
from rig import wait_for


def truly(tier):
    """Files and bytes by state, of a walk."""
    ret = {name: {"files": 0, "bytes": 0}
           for name in ("none", "migrating", "migrated", "released", "dirty")}
    files = {p.stat().st_ino: p for p in tier.mnt.rglob("*") if p.is_file()}
    for path in files.values():
        state = ret[os.getxattr(path, "user.tierfs.state").decode()]
        state["files"] += 1
        state["bytes"] += path.stat().st_size
    return ret


def some_work(directory, over):
    """Makes, writes, renames, links and removes, until it is over."""
    for i in itertools.count():
        path = directory / f"w{i}"
        put(path, 1000 + i)
        os.rename(path, directory / "renamed")
        if i % 3 == 0:
            os.link(directory / "renamed", path)
        if i % 7 == 0:
            (directory / "renamed").unlink()
        if over.wait(0.003):
            return


def test_counters_after_a_crash(one):
    """kill -9 in the middle of moves: once the walk is through the counters are
    those of a fresh walk, whatever goes on meanwhile."""
    one.mount("policy=manual", "restore_below=0")
    for turn in range(3):
        top = one.mnt / f"d{turn}"
        top.mkdir()
        for i in range(150):
            put(top / f"f{i}", 4000 + i, i)
        answer = one.ctl("migrate", "-r", "--release", "--no-wait", top)
        assert answer.status == 0, answer.err
        wait_for(lambda: one.state(top / "f0") == "released")
        with open(top / "f0", "r+b") as f:
            f.write(b"x")  # dirty, or restored
        one.kill()
        one.mount("policy=manual", "restore_below=0")
        over = threading.Event()
        worker = threading.Thread(target=some_work, args=(top, over))
        worker.start()
        try:
            wait_for(lambda: not one.mount_status()["catalog"]["walking"], 60)
            time.sleep(1.5)
        finally:
            over.set()
            worker.join()
        wait_for(lambda: one.mount_status()["states"] == truly(one), 20)
    before = truly(one)
    one.remount("policy=manual", "restore_below=0")
    wait_for(lambda: one.mount_status()["states"] == before, 20)


@pytest.mark.parametrize("options", [(), ("catalog=off",)])
def test_what_was_there_before(one, options):
    """A first mount counts it, though a file is open for writing the whole time,
    and moves do not have to wait for that."""
    for i in range(100):
        (one.front / f"d{i % 3}").mkdir(exist_ok=True)
        put(one.front / f"d{i % 3}" / f"f{i}", 5000 + i, i)
    os.link(one.front / "d0" / "f0", one.front / "link")
    one.mount(*options)
    with open(one.mnt / "d1" / "f1", "ab") as f:
        one.release(one.mnt / "d2")
        (one.mnt / "d0" / "f3").unlink()
        wait_for(lambda: one.mount_status()["states"] == truly(one), 20)
        f.write(b"x")
    (one.mnt / "d0" / "f6").unlink()
    wait_for(lambda: one.mount_status()["states"] == truly(one), 20)
    before = truly(one)
    one.umount()
    one.mount(*options)
    assert one.mount_status()["states"] == before
