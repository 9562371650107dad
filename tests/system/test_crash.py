# SPDX-License-Identifier: MIT
"""Killed daemons and cut power: every file is whole afterwards."""

import random
import subprocess
import threading
import time

import pytest

from files import MIB, data, put
from rig import binary, wait_for


def fill(tier, count=40):
    """Files small and large: {path: bytes}."""
    known = {}
    for i in range(count):
        path = tier.mnt / f"f{i}"
        known[path] = put(path, [1000, 70000, 600000, 5 * MIB][i % 4], i)
    return known


def check(tier, known):
    for path, content in known.items():
        assert path.read_bytes() == content, path
        assert path.stat().st_size == len(content)
    # Nothing hangs in between, and all of it can go around again.
    wait_for(lambda: tier.mount_status()["states"]["migrating"]["files"] == 0)
    tier.release(tier.mnt)
    for path, content in known.items():
        assert path.read_bytes() == content, path
    # No object that nobody names.
    wait_for(lambda: len(tier.objects()) == len(known), 20)


COMMANDS = [["migrate", "-r"], ["migrate", "-r", "--release"], ["restore", "-r"]]


@pytest.mark.slow(300)
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.3])
def test_kill_9(tier, delay):
    """At some moment of migrate, release and restore, one after the other."""
    known = fill(tier)
    for command in COMMANDS * 2:
        tool = subprocess.Popen([binary("tierctl"), *command, tier.mnt],
                                stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        time.sleep(delay)
        tier.kill()
        assert tool.wait(30) in (0, 1, 3)
        tier.mount()
        for path, content in known.items():
            assert path.read_bytes() == content, (command, path)
    check(tier, known)


@pytest.mark.slow(300)
def test_kill_9_under_writers(tier):
    """What was fsynced before is there after; nothing is torn."""
    known = fill(tier, 20)
    tier.release(tier.mnt)
    for path in list(known)[::2]:
        with open(path, "r+b") as f:
            f.write(b"changed")
        known[path] = b"changed" + known[path][7:]
    over = threading.Event()

    def writer():
        i = 0
        while not over.is_set():
            try:
                put(tier.mnt / f"extra{i % 10}", 100000)
            except OSError:
                return
            i += 1

    thread = threading.Thread(target=writer)
    thread.start()
    time.sleep(0.2)
    tier.kill()
    over.set()
    thread.join()
    tier.mount()
    for path in tier.mnt.glob("extra*"):
        path.unlink()
    check(tier, known)


@pytest.mark.slow(300)
@pytest.mark.parametrize("whose", ["front", "target", "both"])
def test_power_cut(own, whose):
    """EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN at moments of each command: what
    was durable before is whole after."""
    own.mount()
    known = fill(own, 24)
    own.disk.settle()
    dice = random.Random(whose)
    for command in COMMANDS * 2:
        tool = subprocess.Popen([binary("tierctl"), *command, own.mnt],
                                stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        time.sleep(dice.choice([0.02, 0.1, 0.4]))
        if whose in ("target", "both"):
            own.target_disk.power_cut()
        if whose in ("front", "both"):
            own.disk.power_cut()
        own.kill()
        tool.wait(60)
        for disk in (own.disk, own.target_disk):
            disk.umount()
            disk.mount()
        own.mount()
        for path, content in known.items():
            assert path.read_bytes() == content, (command, path)
    check(own, known)


@pytest.mark.slow(300)
def test_power_cut_after_writes(own):
    """A released file that was changed and fsynced keeps the change, though
    its object is older."""
    own.mount()
    known = fill(own, 12)
    own.release(own.mnt)
    for n, path in enumerate(known):
        content = known[path]
        with open(path, "r+b") as f:
            if n % 3 == 0:
                f.truncate(0)
                content = b""
            f.write(b"after")
            content = b"after" + content[5:]
            f.flush()
            subprocess.run(["sync", path], check=True)
        known[path] = content
    own.disk.power_cut()
    own.kill()
    own.disk.umount()
    own.disk.mount()
    own.mount()
    for path, content in known.items():
        assert path.read_bytes() == content, path
    check(own, {p: c for p, c in known.items() if c})


def test_kill_9_loses_no_count(one):
    """Restarting often neither repeats nor loses an object's number."""
    one.mount()
    for i in range(5):
        path = one.mnt / f"f{i}"
        put(path, 10000, i)
        one.release(path)
        one.kill()
        one.mount()
    for i in range(5):
        assert (one.mnt / f"f{i}").read_bytes() == data(10000, i)
    assert len({one.status(one.mnt / f"f{i}")["copies"][0]["oid"]
                for i in range(5)}) == 5
