#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Reading released files in place from the throttled target, against reading
the objects themselves: all of a large one by cat, and the first 4 KiB of many,
opened with caches dropped before each.

    bench_read_released.py                 everything
    bench_read_released.py --mib=0         only the first 4 KiB

The throttle is a rate, not a disk's latency: it lets the I/Os of a tenth of a
second through at once, then holds the next. A single cold file is read at the
speed of what is below the throttle. Hence rows of files, caches dropped before
each row and the allowance spent, and the time of a row. What tierfs itself adds
to a cold file is printed as own_time: measured without the throttle, with caches
dropped before each file, the front's metadata being cold, too. And at_5_ms is the
ratio that follows for a disk that takes 5 ms for each I/O.
"""

import mmap
import os
import random
import sys
import time
from statistics import median

from bench import (HDD_BPS, HDD_IOPS, SEEKS, arguments, cold, compare,
                   progress, report, rig, serviced)
from files import GIB, MIB
from rig import run


def cat(path):
    run("sh", "-c", 'exec cat "$1" >/dev/null', "sh", path)


def whole(r, args):
    front = r.disk("front", "ext4", 3 * GIB)
    target = r.disk("target", "ext4", 3 * GIB)
    tier = r.tier("ext4", front=front, target=target)
    tier.mount("restore_after=never")
    path = tier.mnt / "f"
    with open(path, "wb") as f:
        for _ in range(args.mib):
            f.write(os.urandom(MIB))
    tier.release(path)
    copy = tier.status(path)["copies"][0]["object"]
    if not target.throttle(read_bps=HDD_BPS, read_iops=HDD_IOPS):
        sys.exit("the blkio cgroup of this machine can't be used")
    compare(f"read {args.mib} MiB", args.runs, lambda: cold(cat, path),
            lambda: cold(cat, copy), 0.95, unit="s", higher=False)
    assert tier.state(path) == "released"
    target.throttle(read_bps=0, read_iops=0)
    tier.close()


def head(path):
    """Seconds until the first 4 KiB are there."""
    start = time.monotonic()
    fd = os.open(path, os.O_RDONLY)
    got = os.pread(fd, 4096, 0)
    took = time.monotonic() - start
    os.close(fd)
    assert len(got) == 4096
    return took


def spend(disk):
    """Reads the device until the throttle holds an I/O."""
    fd = os.open(disk.loop, os.O_RDONLY | os.O_DIRECT)
    buf = mmap.mmap(-1, 4096)
    took = 0
    while took < 0.02:
        start = time.monotonic()
        os.preadv(fd, [buf], random.randrange(GIB // 4096) * 4096)
        took = time.monotonic() - start
    os.close(fd)


def forget():
    """Nothing is dirty: all that was cached goes."""
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3")


def row(disk, paths, each):
    """Seconds and I/Os at the target for a file: the mean. Caches are empty
    before each file, or before the first."""
    # The throttle counts where there is one.
    count = (lambda d: d.ios()[0]) if each else serviced
    before, took = count(disk), 0
    forget()
    for path in paths:
        if each:
            forget()
        took += head(path)
    return took / len(paths), (count(disk) - before) / len(paths)


def rows_in_turn(disk, rows, count, each):
    """[((seconds, I/Os) through the mount, and of the object)]"""
    pairs = []
    for n in range(count):
        pair = [None, None]
        # Who is first, and who reads which files, changes.
        for side in ((0, 1) if n % 2 else (1, 0)):
            files = rows[(side + n // 2) % 2]
            if not each:
                spend(disk)
            pair[side] = row(disk, [file[side] for file in files], each)
        pairs.append(pair)
        ours, theirs = pair
        progress(f"first 4 KiB: {ours[0] * 1e3:.2f} to {theirs[0] * 1e3:.2f} "
                 f"ms, {ours[1]:.2f} to {theirs[1]:.2f} I/Os")
    return pairs


def heads(r, args):
    tier = r.tier("ext4")
    disk = tier.target_disk
    tier.mount("restore_after=never")
    rows = []
    for n in (0, 1):
        top = tier.mnt / f"d{n}"
        top.mkdir()
        for i in range(args.files):
            (top / f"f{i}").write_bytes(os.urandom(65536))
        tier.release(top)
        rows.append([(path, tier.status(path)["copies"][0]["object"])
                     for path in sorted(top.iterdir())])
    # What is in the journal alone stays in memory: empty it, and let no access
    # time (of the objects, when read directly) fill it again.
    disk.remount("noatime")
    run("fsfreeze", "-f", disk.path)
    run("fsfreeze", "-u", disk.path)

    free = rows_in_turn(disk, rows, args.rows, each=True)
    own = [ours[0] - theirs[0] for ours, theirs in free]
    disk_time = [theirs[0] + theirs[1] * 0.005 for _, theirs in free]
    if not disk.throttle(read_bps=HDD_BPS, read_iops=args.iops):
        sys.exit("the blkio cgroup of this machine can't be used")
    held = rows_in_turn(disk, rows, args.rows, each=False)
    ratios = [ours[0] / theirs[0] for ours, theirs in held]
    report("first 4 KiB", median(ratios), 1.2, at_most=True, unit="s",
           rows=args.rows, files=args.files,
           ours=median(ours[0] for ours, _ in held),
           theirs=median(theirs[0] for _, theirs in held),
           lowest=min(ratios), highest=max(ratios), own_time=median(own),
           own_time_lowest=min(own), own_time_highest=max(own),
           at_5_ms=median(1 + a / b for a, b in zip(own, disk_time)))
    ios = [median(pair[side][1] for pair in free) for side in (0, 1)]
    report("first 4 KiB, I/Os of a cold file at the target", ios[0] / ios[1],
           1.05, at_most=True, unit="I/Os", ours=ios[0], theirs=ios[1])
    assert all(tier.state(path) == "released" for path, _ in rows[0])
    disk.throttle(read_bps=0, read_iops=0)
    tier.close()


def main():
    args = arguments(__doc__, runs=3, mib=1024, rows=8, files=64, iops=SEEKS)
    with rig() as r:
        if args.mib:
            whole(r, args)
        if args.rows:
            heads(r, args)


if __name__ == "__main__":
    main()
