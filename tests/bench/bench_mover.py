#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The mover: what bench_migrate.py does not measure.

    order    restoring small files whose names say nothing of where they lie, to
             copying their objects in the order of the names: both on a throttled
             target, its I/Os traced. blkio's throttle takes the same time for
             each of them, wherever it is; a disk does not: SEEK s for each that
             begins elsewhere than the last ended, or further on than a track or
             so, and the rest at its bandwidth. The time that follows is what is
             compared, without what the daemon adds (seconds_in_medium_order is
             the throttled target's)
    cpu      CPU time of the daemon for migrating large files, in the background
             or asked for: the share of a core at 500 MB/s
    cache    what is left in the page cache of a file that was read before, while
             much more than there is memory for is migrated and restored: the
             daemon is in a memory cgroup of MEMORY with it. cp(1) in its place is
             the proof that there was not enough for both. In terms of what is
             left after the same time in which nothing is done: a machine may
             page out what is not used (DAMON), without any need

    bench_mover.py                        everything, on ext4
    bench_mover.py --files=500 --mib=256  small: does it run?
    bench_mover.py --only=cpu
"""

import os
import random
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from bench import (arguments, cold, progress, report, report_pairs, rig,
                   seconds, serviced)
from files import GIB, MIB, cached, libc
from rig import drop_caches, run, wait_for
from tracing import instance

SEEK, TRACK = 0.008, MIB
SMALL = 16384
MEMORY, HOT = 384 * MIB, 96 * MIB
ISSUED = re.compile(r"block_rq_issue: [\d,]+ (\w+) (\d+) \(.*?\) (\d+) \+")


# -- order -----------------------------------------------------------------

@contextmanager
def traced(disk):
    """Yields a list that has (kind, first byte, bytes) of each I/O that the disk
    is given, when it ends."""
    top = instance(disk.rig, 32768)
    event = top / "events/block/block_rq_issue"
    rdev = os.stat(disk.loop).st_rdev
    found = []
    try:
        (event / "filter").write_text(
            f"dev == {os.major(rdev) << 20 | os.minor(rdev)}",
            encoding="ascii")
        (event / "enable").write_text("1", encoding="ascii")
        yield found
        (event / "enable").write_text("0", encoding="ascii")
        with open(top / "trace", encoding="ascii", errors="replace") as f:
            found += [(m[1], int(m[3]) * 512, int(m[2]))
                      for m in map(ISSUED.search, f) if m]
    finally:
        (event / "enable").write_text("0", encoding="ascii")
        top.rmdir()


def disk_time(ios, bps):
    """Seconds that a disk with a head takes, and how often that moves."""
    at, took, seeks = None, 0, 0
    for _, start, size in ios:
        gap = TRACK if at is None else start - at
        if 0 <= gap < TRACK:
            took += gap / bps
        else:
            took += SEEK
            seeks += 1
        took += size / bps
        at = start + size
    return took, seeks


def syncfs(path):
    fd = os.open(path, os.O_RDONLY)
    libc.syncfs(fd)
    os.close(fd)


def scattered(tier, args):
    """[path], of released files, and where their objects are."""
    top = tier.mnt / "small"
    top.mkdir()
    paths = [top / f"f{i:05}" for i in range(args.files)]
    for path in paths:
        path.write_bytes(os.urandom(SMALL))
    mixed = paths[:]
    random.Random(1).shuffle(mixed)
    # All of a command in its own order; more than one has are not sorted.
    for i in range(0, len(mixed), 2000):
        tier.do("migrate", *mixed[i:i + 2000])
    tier.do("release", "-r", top)
    return top, paths


def order(r, args):
    inodes = ("-N", str(4 * args.files + 20000))
    tier = r.tier("ext4", front=r.disk("front-small", "ext4", 2 * GIB, inodes),
                  target=r.disk("target-small", "ext4", 2 * GIB, inodes))
    disk = tier.target_disk
    tier.mount("restore_after=never")
    top, paths = scattered(tier, args)
    objects = {}
    for i in range(0, len(paths), 2000):
        for one in tier.do("status", *paths[i:i + 2000]):
            objects[one["path"]] = one["copies"][0]["object"]
    copies = tier.disk.path / "copies"
    seen = {}

    def measured(how):
        if not disk.throttle(read_bps=args.bps * MIB, read_iops=args.iops):
            sys.exit("the blkio cgroup of this machine can't be used")
        with traced(disk) as ios:
            before = serviced(disk)
            took = cold(how)
            count = serviced(disk) - before
        disk.throttle(read_bps=0, read_iops=0)
        model, seeks = disk_time(ios, args.bps * MIB)
        progress(f"{how.__name__}: {took:.1f} s, {count} I/Os, {seeks} seeks: "
                 f"{model:.1f} s of a disk")
        seen.setdefault(how.__name__, []).append((took, count, seeks))
        return model

    def in_medium_order():
        tier.do("restore", "-r", top)

    def in_name_order():
        copies.mkdir()
        for path in paths:
            with open(objects[str(path)], "rb") as f, \
                    open(copies / path.name, "wb") as g:
                g.write(f.read())
        syncfs(copies)

    pairs = []
    for _ in range(args.runs):
        ours = measured(in_medium_order)
        assert tier.state(paths[0]) == tier.state(paths[-1]) == "migrated"
        pairs.append((ours, measured(in_name_order)))
        run("rm", "-r", copies)
        tier.do("release", "-r", top)
    more = {f"{what}_{how}": sorted(n[i] for n in numbers)[len(numbers) // 2]
            for how, numbers in seen.items()
            for i, what in enumerate(("seconds", "ios", "seeks"))}
    report_pairs(f"restore {args.files} scattered files of 16 KiB, to name "
                 "order", pairs, 2, unit="s of a disk", higher=False, **more)
    tier.close()


# -- cpu -------------------------------------------------------------------

def spent(daemon):
    """CPU seconds, those of its io_uring workers too."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text(
        encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(top, mib, each=64):
    top.mkdir()
    block = os.urandom(4 * MIB)
    for i in range(mib // each):
        with open(top / f"{i}", "wb") as f:
            for n in range(each // 4):
                f.write(n.to_bytes(8, "little") + block[8:])


def cpu(r, args):
    size = args.mib // 64 * 64 * MIB
    front = r.disk("front", "ext4", (args.mib + 1024) * MIB)
    target = r.disk("target", "ext4", (args.mib + 1024) * MIB)
    tier = r.tier("ext4", front=front, target=target)
    fill(tier.front / "old", args.mib)
    for path in (tier.front / "old").iterdir():
        os.utime(path, (0, 0))
    front.settle()

    def asked():
        tier.migrate(tier.mnt / "old")

    def background():
        tier.change("policy=auto")
        wait_for(lambda: tier.mount_status()["states"]["migrated"]["bytes"]
                 >= size, 170, step=0.2)
        tier.change("policy=manual")

    def without_copies():
        """Written to since, they are to be copied again, or so it seems."""
        for path in (tier.mnt / "old").iterdir():
            with open(path, "r+b") as f:
                f.write(os.urandom(8))
        wait_for(lambda: not tier.objects(), 60)
        for path in (tier.mnt / "old").iterdir():
            os.utime(path, (0, 0))
        front.settle()
        target.settle()

    tier.mount("policy=manual", "migrate_age=1d", "migrate_size=1m",
               "catalog=on")
    tier.do("report", tier.mnt)
    for how in (background, asked):
        shares = []
        for _ in range(args.runs):
            drop_caches()
            before, start = spent(tier.daemon), time.monotonic()
            how()
            took = time.monotonic() - start
            used = spent(tier.daemon) - before
            shares.append(used / size * 500e6)
            progress(f"{how.__name__}: {size / took / 1e6:.0f} MB/s, "
                     f"{used / size * 1e9:.3f} CPU s a GB")
            without_copies()
        shares.sort()
        report(f"share of a core at 500 MB/s, {how.__name__}",
               shares[len(shares) // 2], 0.15, at_most=True, unit="cores",
               runs=args.runs, lowest=shares[0], highest=shares[-1])
    tier.close()
    r.drop(front)
    r.drop(target)


# -- cache -----------------------------------------------------------------

MEMCG = Path("/sys/fs/cgroup/memory")


def join(group, pid):
    (group / "cgroup.procs").write_text(str(pid), encoding="ascii")


def home():
    """The group that this process is in."""
    text = Path("/proc/self/cgroup").read_text(encoding="ascii")
    return MEMCG / re.search(r"^\d+:memory:/(.*)$", text, re.M)[1]


@contextmanager
def memory(limit):
    """A cgroup of the memory controller (version 1), or None."""
    top = MEMCG / f"tierfs-{os.getpid()}"
    try:
        top.mkdir()
        (top / "memory.limit_in_bytes").write_text(str(limit),
                                                   encoding="ascii")
    except OSError as e:
        progress(f"no memory cgroup: {e}")
        yield None
        return
    try:
        yield top
    finally:
        # Who is still in it, the daemon, goes back.
        for pid in (top / "cgroup.procs").read_text().split():
            join(home(), pid)
        top.rmdir()


def inside(group, *argv):
    subprocess.run(["sh", "-c", 'echo $$ >"$0" && exec "$@"',
                    group / "cgroup.procs", *argv], check=True,
                   stdout=subprocess.DEVNULL)


def cache(r, args):
    front = r.disk("front-cache", "ext4", (3 * args.mib + 1024) * MIB)
    target = r.disk("target-cache", "ext4", (3 * args.mib + 1024) * MIB)
    tier = r.tier("ext4", front=front, target=target)
    tier.mount("restore_after=never")
    large, small = tier.mnt / "large", tier.mnt / "small"
    fill(large, args.mib)
    small.mkdir()
    for i in range(args.files):
        (small / f"{i}").write_bytes(os.urandom(SMALL))
    hot = front.path / "hot"
    hot.write_bytes(os.urandom(HOT))
    front.settle()
    target.settle()

    def left(group, what):
        """The share of hot that is still there, and what() took how long."""
        drop_caches()
        inside(group, "cat", hot)
        there = cached(hot)
        assert there > 0.9 * HOT, f"of hot {there} bytes after reading it"
        took = seconds(what)
        return cached(hot) / there, took

    def by_daemon(group, *command):
        """left(), in terms of doing nothing."""
        join(group, tier.daemon.pid)
        share, took = left(group, lambda: tier.do(*command))
        join(home(), tier.daemon.pid)
        idle, _ = left(group, lambda: time.sleep(took))
        progress(f"{' '.join(map(str, command[:-2]))}: {took:.1f} s, "
                 f"{share:.3f} left, {idle:.3f} with nothing done")
        return share / idle

    with memory(MEMORY) as group:
        if not group:
            return
        share, _ = left(group, lambda: inside(
            group, "cp", "-r", large, front.path / "copy"))
        if share > 0.5:
            sys.exit(f"cp(1) leaves it in the cache: more than --mib="
                     f"{args.mib}")
        for name, path in ((f"{args.mib} MiB of large files", large),
                           (f"{args.files} files of 16 KiB", small)):
            for verb in ("migrate", "migrate --release", "restore"):
                report(f"of 96 MiB in the cache, left after {verb} {name}",
                       by_daemon(group, *verb.split(), "-r", path), 0.99,
                       memory=MEMORY // MIB)
    tier.close()


def main():
    args = arguments(__doc__, runs=3, files=20000, mib=2048, bps=150, iops=200,
                     only="")
    for part in (order, cpu, cache):
        if args.only in ("", part.__name__):
            with rig() as r:
                part(r, args)


if __name__ == "__main__":
    main()
