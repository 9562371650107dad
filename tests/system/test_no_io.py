# SPDX-License-Identifier: MIT
"""Metadata never wakes the target's disk.

The target's file system is frozen meanwhile: it writes nothing of its own, as
it otherwise does whenever it likes, so every I/O that is counted was caused by
us; and an access of ours that would write, if only an atime, is stuck."""

import os
import subprocess

from rig import drop_caches, put, wait_for

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


def test_walks_do_no_io(tier):
    """ls -lR, find, du, stat and getfattr over a released tree, with caches
    dropped and the file system freshly mounted: zero I/Os at the target. Nor
    do renames, links, modes and attributes."""
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
            drop_caches()
            before = disk.ios()
            walk(command, tier.mnt)
            assert disk.ios() == before, command
        drop_caches()
        before = disk.ios()
        os.rename(tier.mnt / "d0", tier.mnt / "e0")
        os.chmod(tier.mnt / "e0/f1", 0o600)
        os.setxattr(tier.mnt / "e0/f2", "user.x", b"y")
        os.link(tier.mnt / "e0/f3", tier.mnt / "link")
        assert disk.ios() == before
        # The counter counts reads.
        assert len((tier.mnt / "e0/f4").read_bytes()) == 5000
        assert disk.ios()[0] > before[0]
    # The counter counts writes.
    (tier.mnt / "e0/f5").unlink()
    wait_for(lambda: len(tier.objects()) < 300, 60)
    disk.settle()
    assert disk.ios()[1] > before[1]
