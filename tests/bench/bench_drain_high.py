#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A full front drained from high to low by the policy: files a second, from the
moment that it is above high until it is at low; the files are of 16 MiB, written
blocks on the front and premigrated.

    bench_drain_high.py --files=600      as many as there is disk for
    bench_drain_high.py --reserved=1     blocks that are reserved, not written:
                                         the same for the front, and little disk
    bench_drain_high.py --cached=1       the files are in the page cache, which
                                         takes about a millisecond each to leave
"""

import os
import sys
import time

from bench import arguments, progress, report, rig
from files import MIB
from rig import binary, drop_caches, run, wait_for

SIZE = 16 * MIB


def make(path, block, reserved):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    if reserved:
        os.posix_fallocate(fd, 0, SIZE)
        os.pwrite(fd, block[:4096], 0)
    else:
        for i in range(SIZE // len(block)):
            os.pwrite(fd, block, i * len(block))
    os.close(fd)


def change(tier, *options):
    run(binary("tierfs"), "-o", ",".join(("remount", *options)), tier.front,
        tier.mnt)


def use(disk):
    st = os.statvfs(disk.path)
    used = st.f_blocks - st.f_bfree
    return 100 * used / (used + st.f_bavail)


def moved(tier):
    return tier.mount_status()["policy"]["released"]["files"]


def drain(r, args):
    front = r.disk("front", args.fs, args.files * SIZE * 9 // 8 + 2048 * MIB)
    target = r.disk("target", "ext4", (MIB * 2048 if args.reserved else
                                       args.files * SIZE * 9 // 8 + MIB * 2048))
    tier = r.tier(args.fs, front=front, target=target)
    block = os.urandom(MIB)
    for i in range(args.files):
        if i % 1000 == 0:
            (tier.front / f"d{i // 1000}").mkdir()
        make(tier.front / f"d{i // 1000}" / f"f{i}", block, args.reserved)
    progress(f"{args.files} files written, {use(front):.0f} % in use")
    tier.mount("policy=manual", "high=99", "low=98", "migrate_size=1",
               "migrate_age=365d")
    tier.migrate(tier.mnt)
    front.settle()
    target.settle()
    tier.do("report", tier.mnt)
    if not args.cached:
        # The coldest files of a front larger than the memory are not there.
        drop_caches()
    full = use(front)
    progress(f"migrated, {full:.0f} % in use")
    # What it takes from full to nearly empty, which is the most files.
    change(tier, f"high={full - 1:.2f}", "low=5")
    start = time.monotonic()
    change(tier, "policy=auto")
    wait_for(lambda: use(front) <= 5.05, 170, step=0.005)
    took = time.monotonic() - start
    files = moved(tier)
    tier.umount()
    return files, took


def main():
    args = arguments(__doc__, files=300, reserved=0, cached=0, fs="ext4")
    if args.files < 10:
        sys.exit("more files")
    with rig() as r:
        files, took = drain(r, args)
    report("files_a_second", files / took, 2000, files=files, seconds=took,
           fs=args.fs, reserved=args.reserved, cached=args.cached)


if __name__ == "__main__":
    main()
