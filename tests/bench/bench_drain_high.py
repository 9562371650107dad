#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A full front drained from high to low by the policy: files a second, from the
moment that it is above high until it is at low; the files are of 16 MiB, written
blocks on the front and premigrated. Three times:

    cold    the files are not in the page cache, as the coldest of a front that is
            larger than the memory
    near    they were, all of them, and the front has been near high since: for as
            long as it took them to leave
    cached  they are, all of them: it goes from far below high to above at once

    bench_drain_high.py --files=600      as many as there is disk for
    bench_drain_high.py --reserved=1     blocks that are reserved, not written:
                                         the same for the front, and little disk
"""

import os
import sys
import time

from bench import arguments, progress, report, rig
from files import MIB, cached
from rig import drop_caches, wait_for

SIZE = 16 * MIB
GOAL = 2000
LOW = 5  # of a hundred
STATES = ("cold", "near", "cached")


def make(path, block, reserved):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    if reserved:
        os.posix_fallocate(fd, 0, SIZE)
        os.pwrite(fd, block[:4096], 0)
    else:
        for i in range(SIZE // len(block)):
            os.pwrite(fd, block, i * len(block))
    os.close(fd)


def use(disk):
    st = os.statvfs(disk.path)
    used = st.f_blocks - st.f_bfree
    return 100 * used / (used + st.f_bavail)


def over(disk):
    """The bytes to go."""
    st = os.statvfs(disk.path)
    used = st.f_blocks - st.f_bfree
    return (used - (used + st.f_bavail) * LOW / 100) * st.f_frsize


def moved(tier):
    return tier.mount_status()["policy"]["released"]["files"]


def share_cached(tier, files):
    """The share of the files' bytes that is in the page cache: of some."""
    some = range(0, files, max(1, files // 20))
    found = [cached(name(tier, i)) for i in some]
    if None in found:
        sys.exit("cachestat(2) is there from Linux 6.5 on")
    return sum(found) / len(some) / SIZE


def name(tier, i):
    return tier.front / f"d{i // 1000}" / f"f{i}"


def read(tier, i):
    fd = os.open(name(tier, i), os.O_RDONLY | os.O_NOATIME)
    while os.read(fd, MIB):
        pass
    os.close(fd)


def drain(r, args, state):
    front = r.disk("front", args.fs, args.files * SIZE * 9 // 8 + 2048 * MIB)
    target = r.disk("target", "ext4", (MIB * 2048 if args.reserved else
                                       args.files * SIZE * 9 // 8 + MIB * 2048))
    tier = r.tier(args.fs, front=front, target=target)
    block = os.urandom(MIB)
    for i in range(args.files):
        if i % 1000 == 0:
            (tier.front / f"d{i // 1000}").mkdir()
        make(name(tier, i), block, args.reserved)
    tier.mount("policy=manual", "high=99", "low=98", "migrate_size=1",
               "migrate_age=365d")
    tier.migrate(tier.mnt)
    front.settle()
    target.settle()
    tier.do("report", tier.mnt)
    drop_caches()
    for i in range(args.files if state != "cold" else 0):
        read(tier, i)
    full = use(front)
    share = share_cached(tier, args.files)
    progress(f"{state}: {args.files} files, {full:.0f} % in use, "
             f"{100 * share:.0f} % of that in the page cache")
    # What it takes from full to nearly empty, which is the most files.
    if state == "near":
        tier.change("policy=auto", f"high={full + 1:.2f}", f"low={LOW}")
        start = time.monotonic()
        left = 1 - over(front) / (args.files * SIZE)
        wait_for(lambda: share_cached(tier, args.files) < left + 0.06, 60)
        progress(f"they left within {time.monotonic() - start:.2f} s")
    tier.change(f"high={full - 1:.2f}", f"low={LOW}")
    start = time.monotonic()
    tier.change("policy=auto")
    wait_for(lambda: use(front) <= LOW + 0.05, 170, step=0.005)
    took = time.monotonic() - start
    files = moved(tier)
    tier.umount()
    return files, took, share


def main():
    args = arguments(__doc__, files=300, reserved=0, state="", fs="ext4")
    if args.files < 10:
        sys.exit("more files")
    for state in [args.state] if args.state else STATES:
        with rig() as r:
            files, took, share = drain(r, args, state)
        report(f"files_a_second_{state}", files / took, GOAL, files=files,
               seconds=took, fs=args.fs, reserved=args.reserved, cached=share,
               load=os.getloadavg()[0])


if __name__ == "__main__":
    main()
