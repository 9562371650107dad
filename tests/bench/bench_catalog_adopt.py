#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A tree that is there before the first mount: how soon the catalog knows all
of it, in terms of `find -ls` over the same tree, and what memory that takes.

Adopting is from the daemon's start to when the walk is through and all rows are
judged, with neither catalog.db nor journal.db, by policy=auto. In turns with
find; cold: caches dropped before each. Both sides' CPU seconds are in the
report: on a machine that does other things too they say more than the clock.
Memory is what the daemon has when it is done, and at most, more than with an
empty front."""

import os
import re
import resource
import statistics
import subprocess
import time
from pathlib import Path

from bench import arguments, drop_caches, progress, report, rig
from files import GIB

DEEP = 20


def fill(top, files):
    """Directories of 60, 300 and some of 10,000 files; some of them deep.
    Sizes by powers of two up to 8 MiB (all holes), ages up to two years."""
    seed, made, now, n = 1, 0, int(time.time()), 0
    while made < files:
        path = f"{top}/t{n // 1000}/d{n % 1000:03}"
        if n % 50 == 7:
            path += "".join(f"/deep{i}" for i in range(DEEP))
        os.makedirs(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        some = 10000 if n % 200 == 3 else 300 if n % 10 == 0 else 60
        for i in range(min(some, files - made)):
            seed = (seed * 1103515245 + 12345) & 0xFFFFFFFF
            file = os.open(f"file-{i:06}.{'dat' if i % 3 else 'txt'}",
                           os.O_CREAT | os.O_WRONLY, dir_fd=fd)
            os.ftruncate(file, (seed >> 8) % (1 << 10 + i % 14))
            os.utime(file, (now - (seed >> 4) % 51840000,
                            now - (seed >> 3) % 51840000))
            os.close(file)
            made += 1
        os.close(fd)
        n += 1
    progress(f"{made} files in {n} directories")


def find(tier):
    """(seconds, CPU seconds) of find -ls."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    subprocess.run(["find", tier.front, "-ls"], stdout=subprocess.DEVNULL,
                   check=True)
    took = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, (after.ru_utime + after.ru_stime
                  - before.ru_utime - before.ru_stime)


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text(
        encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid):
    """(now, at most) in MiB."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return [int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1024
            for name in ("VmRSS", "VmHWM")]


def adopt(tier, files, options):
    """(seconds, CPU seconds, memory now, at most)."""
    for name in ("catalog.db", "journal.db"):
        for path in (tier.front / ".tierfs").glob(name + "*"):
            path.unlink()
    start = time.monotonic()
    tier.mount(*options)
    while True:
        seen = tier.mount_status()["catalog"]
        took = time.monotonic() - start
        if not seen["walking"] and not seen["judging"] \
                and seen["files"] >= files:
            break
        time.sleep(0.2)  # asking is a process each time
    assert seen["files"] == files and not seen["dropped"], seen
    result = took, cpu(tier.daemon.pid), *memory(tier.daemon.pid)
    tier.umount()
    return result


def compare(name, tier, args, cold, empty):
    pairs = []
    for n in range(args.runs):
        got = {}
        for side in ("find", "adopt") if n % 2 else ("adopt", "find"):
            if cold:
                drop_caches()
            got[side] = find(tier) if side == "find" else \
                adopt(tier, args.files, [f"policy={args.policy}"])
        pairs.append((got["adopt"], got["find"]))
        progress(f"{name}: adopting {got['adopt'][0]:.2f} s (CPU "
                 f"{got['adopt'][1]:.2f} s, {got['adopt'][3]:.0f} MiB at most)"
                 f", find {got['find'][0]:.2f} s (CPU {got['find'][1]:.2f} s)"
                 f", load {os.getloadavg()[0]:.1f}")
    ratios = [f[0] / a[0] for a, f in pairs]
    ours, theirs = zip(*pairs)

    def median(side, at):
        return statistics.median(x[at] for x in side)

    report(name, statistics.median(ratios), 1, runs=args.runs,
           files=args.files, ours=median(ours, 0), theirs=median(theirs, 0),
           ours_cpu=median(ours, 1), theirs_cpu=median(theirs, 1),
           lowest=min(ratios), highest=max(ratios),
           load=round(os.getloadavg()[0], 1))
    report(f"{name}, memory", max(a[3] for a in ours) - empty[3], 100,
           at_most=True, unit="MiB", empty=round(empty[3], 1),
           after=round(max(a[2] for a in ours) - empty[2], 1))


def main():
    args = arguments(__doc__, runs=5, files=1000000, policy="auto")
    with rig() as r:
        disk = r.disk("front-adopt", "ext4", 2 * GIB + args.files * 1024,
                      ("-N", str(args.files + args.files // 5 + 10000)))
        tier = r.tier(front=disk)
        empty = adopt(tier, 0, [f"policy={args.policy}"])
        fill(tier.front, args.files)
        disk.settle()
        find(tier)
        compare("adopt, warm", tier, args, False, empty)
        compare("adopt, cold", tier, args, True, empty)
        # The disk goes as a whole; to remove the files one by one takes long.
        r.drop(disk)


if __name__ == "__main__":
    main()
