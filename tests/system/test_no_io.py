# SPDX-License-Identifier: MIT
"""Metadata never wakes the target's disk.

The target's file system is frozen meanwhile: it writes nothing of its own, as
it otherwise does whenever it likes, so every I/O that is counted was caused by
us; and an access of ours that would write, if only an atime, is stuck."""

import os
import subprocess

from files import put
from rig import wait_for

WALKS = (["ls", "-lR"], ["find", "-newer", "/etc/passwd", "-size", "+1"],
         ["du", "-s"], ["getfattr", "-R"])


def walk(command, top):
    """command on all of top, and a stat of every file."""
    name, *options = command
    argv = [name, top, *options] if name == "find" else [*command, top]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    for parent, _, files in os.walk(top):
        for name in files:
            os.stat(os.path.join(parent, name))


def change(top):
    """Renames, links, modes and attributes."""
    os.rename(top / "d0", top / "e0")
    os.chmod(top / "e0/f1", 0o600)
    os.setxattr(top / "e0/f2", "user.x", b"y")
    os.link(top / "e0/f3", top / "link")
    os.unlink(top / "link")
    os.rename(top / "e0", top / "d0")


def test_walks_do_no_io(tier):
    """ls -lR, find, du, stat and getfattr over a released tree, with caches
    dropped and the file system freshly mounted: zero I/Os at the target. Nor
    do changes of metadata."""
    for d in range(10):
        (tier.mnt / f"d{d}").mkdir()
        for i in range(30):
            put(tier.mnt / f"d{d}/f{i}", 5000, i)
    tier.release(tier.mnt)
    assert len(tier.objects()) == 300
    tier.remount()
    disk = tier.target_disk
    with disk.frozen():
        for command in WALKS:
            disk.untouched_by(lambda: walk(command, tier.mnt))
        disk.untouched_by(lambda: change(tier.mnt))
        # The counters count reads.
        reads, sectors = disk.ios()[0], disk.sectors()[0]
        assert len((tier.mnt / "d0/f4").read_bytes()) == 5000
        assert disk.ios()[0] > reads
        assert disk.sectors()[0] > sectors
    # The counters count writes.
    writes, sectors = disk.ios()[1], disk.sectors()[1]
    (tier.mnt / "d0/f5").unlink()
    wait_for(lambda: len(tier.objects()) < 300, 60)
    disk.settle()
    assert disk.ios()[1] > writes
    assert disk.sectors()[1] > sectors
