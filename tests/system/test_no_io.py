# SPDX-License-Identifier: MIT
"""Metadata never wakes the target's disk."""

import os
import subprocess

from rig import drop_caches, put


def test_walks_do_no_io(tier):
    """ls -lR, find, du, stat and getfattr over a released tree, with caches
    dropped and the file system freshly mounted: zero I/Os at the target."""
    for d in range(10):
        (tier.mnt / f"d{d}").mkdir()
        for i in range(30):
            put(tier.mnt / f"d{d}/f{i}", 5000, i)
    tier.release(tier.mnt)
    assert len(tier.objects()) == 300
    tier.remount()
    disk = tier.target_disk
    for _ in range(3):
        disk.settle()
    for command in (["ls", "-lR"], ["find", "-newer", "/etc/passwd", "-size",
                                    "+1"], ["du", "-s"], ["getfattr", "-R"]):
        drop_caches()
        before = disk.ios()
        subprocess.run([*command[:1], str(tier.mnt), *command[1:]]
                       if command[0] == "find" else
                       [*command, str(tier.mnt)], check=True,
                       stdout=subprocess.DEVNULL)
        for parent, _, files in os.walk(tier.mnt):
            for name in files:
                os.stat(os.path.join(parent, name))
        assert disk.ios() == before, command
    # Nor do renames, links, modes and attributes.
    drop_caches()
    before = disk.ios()
    os.rename(tier.mnt / "d0", tier.mnt / "e0")
    os.chmod(tier.mnt / "e0/f1", 0o600)
    os.setxattr(tier.mnt / "e0/f2", "user.x", b"y")
    os.link(tier.mnt / "e0/f3", tier.mnt / "link")
    assert disk.ios() == before
    # The counter counts.
    (tier.mnt / "e0/f4").read_bytes()
    assert disk.ios() != before
