#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A 4 KiB write to a released file of 10 GiB on a throttled target, against
the same write to a resident one: open, pwrite at random, close; the same with
fsync; and through a handle that stays open, where the one is a request to the
daemon and the other never leaves the kernel. And the target's reads meanwhile.
"""

import os
import random
import sys

from bench import (HDD_BPS, HDD_IOPS, arguments, compare, progress, report,
                   rig, seconds)
from files import GIB, MIB

SIZE = 10 * GIB
PAGE = os.urandom(4096)


def sparse(path):
    """10 GiB, with a MiB of data in each."""
    with open(path, "wb") as f:
        f.truncate(SIZE)
        for at in range(0, SIZE, GIB):
            f.seek(at)
            f.write(os.urandom(MIB))


def writes(path, dice, count, sync, size=SIZE):
    for _ in range(count):
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, PAGE, dice.randrange(size // 4096) * 4096)
        if sync:
            os.fsync(fd)
        os.close(fd)


def writes_open(path, dice, count):
    fd = os.open(path, os.O_WRONLY)
    for _ in range(count):
        os.pwrite(fd, PAGE, dice.randrange(SIZE // 4096) * 4096)
    os.close(fd)


def main():
    args = arguments(__doc__, runs=9, count=200)
    with rig() as r:
        front = r.disk("front", "ext4", 3 * GIB)
        target = r.disk("target", "ext4", 3 * GIB)
        tier = r.tier("ext4", front=front, target=target)
        tier.mount("restore_after=never", "dirty_entries=1000000",
                   "dirty_bytes=1G")
        ours, theirs = tier.mnt / "released", tier.mnt / "resident"
        firsts = [tier.mnt / f"first{i}" for i in range(args.runs * 20)]
        sparse(ours)
        sparse(theirs)
        others = [tier.mnt / f"other{i}" for i in range(args.runs * 20)]
        for path in firsts + others:
            with open(path, "wb") as f:
                f.truncate(2 * MIB)
                f.write(PAGE)
        tier.release(ours, *firsts)
        if not target.throttle(read_bps=HDD_BPS, read_iops=HDD_IOPS,
                               write_bps=HDD_BPS, write_iops=HDD_IOPS):
            sys.exit("the blkio cgroup of this machine can't be used")
        front.settle()
        target.drop_caches()
        before = target.ios()[0]

        def pair(name, call, *more):
            front.settle()
            a, b = random.Random(1), random.Random(1)
            compare(f"4 KiB write: {name}", args.runs,
                    lambda: seconds(call, ours, a, args.count, *more)
                    / args.count * 1e6,
                    lambda: seconds(call, theirs, b, args.count, *more)
                    / args.count * 1e6, 3, at_most=True, unit="us")

        pair("open, pwrite, close", writes, False)
        pair("open, pwrite, fsync, close", writes, True)
        pair("pwrite", writes_open)
        front.settle()
        dice = random.Random(3)

        def first(paths):
            return sum(seconds(writes, next(paths), dice, 1, False, 2 * MIB)
                       for _ in range(20)) / 20 * 1e6

        some, more = iter(firsts), iter(others)
        compare("4 KiB write: the first to a file", args.runs,
                lambda: first(some), lambda: first(more), 3, at_most=True,
                unit="us")
        reads = target.ios()[0] - before
        progress(f"{reads} reads at the target")
        report("reads at the target", reads, 0, True)
        assert tier.state(ours) == "dirty"
        tier.close()


if __name__ == "__main__":
    main()
