#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Migrating to the throttled target until it is durable: big files against the
target's write bandwidth; small ones against copying them with an fsync(2) each (a
sample of them: the time for a file is compared), and against rsync -a with one
sync -f at its end, with the I/Os of each.

    bench_migrate.py                       everything
    bench_migrate.py --mib=0 --sample=0    only small files to rsync
    bench_migrate.py --mib=64 --files=200 --sample=50 --iops=2000   does it run?
"""

import os
import shutil
import sys
from statistics import median

from bench import (HDD_BPS, HDD_IOPS, SEEKS, arguments, cold, compare,
                   drop_caches, progress, report, rig, seconds,
                   serviced)
from files import GIB, MIB, libc
from rig import run, wait_for


def syncfs(path):
    fd = os.open(path, os.O_RDONLY)
    libc.syncfs(fd)
    os.close(fd)


def copy_and_fsync_each(source, target, n):
    """In this process: nothing is spent on starting programs."""
    for name in sorted(os.listdir(source))[:n]:
        shutil.copy2(source / name, target / name)
        fd = os.open(target / name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def rsync(source, target):
    run("rsync", "-a", f"{source}/", f"{target}/")
    syncfs(target)


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    syncfs(path)
    return path


def big(r, args):
    front = r.disk("front", "ext4", (args.mib + 1024) * MIB)
    target = r.disk("target", "ext4", (2 * args.mib + 1024) * MIB)
    tier = r.tier("ext4", front=front, target=target)
    tier.mount()
    block = os.urandom(MIB)
    for i in range(4):
        with open(tier.mnt / f"f{i}", "wb") as f:
            for n in range(args.mib // 4):
                f.write(n.to_bytes(8, "little") + block[8:])
    front.settle()
    if not target.throttle(write_bps=HDD_BPS, write_iops=HDD_IOPS):
        sys.exit("the blkio cgroup of this machine can't be used")

    def ours():
        """Bytes a second, copies of an earlier round made stale first."""
        for i in range(4):
            with open(tier.mnt / f"f{i}", "r+b") as f:
                f.write(os.urandom(8))
        front.settle()
        target.settle()
        return args.mib * MIB / cold(tier.migrate, tier.mnt)

    def theirs():
        """Direct writing of a quarter as much."""
        path = target.path / "dd"
        drop_caches()
        took = seconds(run, "dd", "if=/dev/zero", f"of={path}", "bs=4M",
                       f"count={args.mib // 16}", "oflag=direct",
                       "conv=fsync")
        path.unlink()
        return args.mib // 16 * 4 * MIB / took

    compare(f"migrate {args.mib} MiB", args.runs, ours, theirs, 0.95,
            unit="bytes/s")
    target.throttle(write_bps=0, write_iops=0)
    tier.close()


def small(r, args):
    inodes = ("-N", str(4 * args.files + 20000))
    tier = r.tier("ext4", front=r.disk("front-small", "ext4", 2 * GIB, inodes),
                  target=r.disk("target-small", "ext4", 4 * GIB, inodes))
    target = tier.target_disk
    tier.mount()
    top = tier.mnt / "small"
    copies = target.path / "copies"
    ios = {}

    def gone():
        """What an earlier round migrated is deleted at the target, too."""
        tier.disk.settle()
        return not tier.objects()

    def prepare():
        target.throttle(write_bps=0, write_iops=0)
        if top.exists():
            shutil.rmtree(top)
        top.mkdir()
        for i in range(args.files):
            (top / f"f{i:05}").write_bytes(os.urandom(16384))
        fresh(copies)
        wait_for(gone, 120)
        tier.disk.settle()
        target.settle()
        drop_caches()
        if not target.throttle(write_bps=HDD_BPS, write_iops=args.iops):
            sys.exit("the blkio cgroup of this machine can't be used")

    def count(how, *what):
        """Seconds; the I/Os are noted."""
        prepare()
        before = serviced(target)
        took = seconds(how, *what)
        ios.setdefault(how.__name__, []).append(serviced(target) - before)
        progress(f"{how.__name__}: {ios[how.__name__][-1]} I/Os")
        return took

    def migrate(path):
        tier.do("migrate", "-r", path, timeout=3600)

    def ours():
        return count(migrate, top)

    if args.sample:
        compare(f"migrate {args.files} of 16 KiB, to copying and fsync of each",
                args.fsyncs, lambda: ours() / args.files,
                lambda: count(copy_and_fsync_each, top, copies,
                              args.sample) / args.sample,
                5, unit="s a file", higher=False)
    ios.clear()
    if not args.runs:
        return
    compare(f"migrate {args.files} of 16 KiB, to rsync and one sync -f",
            args.runs, ours, lambda: count(rsync, top, copies), 1, unit="s",
            higher=False)
    mine, rsyncs = (median(ios[name]) for name in ("migrate", "rsync"))
    report(f"I/Os of {args.files} of 16 KiB, to those of rsync", mine / rsyncs,
           1.05, at_most=True, unit="I/Os", ours=mine, theirs=rsyncs)
    target.throttle(write_bps=0, write_iops=0)
    tier.close()


def main():
    args = arguments(__doc__, runs=3, fsyncs=1, mib=4096, files=20000,
                     sample=500, iops=SEEKS)
    with rig() as r:
        if args.mib:
            big(r, args)
        if args.files:
            small(r, args)


if __name__ == "__main__":
    main()
