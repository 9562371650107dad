#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A front near high, most of it premigrated files of 16 MiB, while somebody needs
more than there is room for: how long the use goes on rising once it is above high,
how high it comes, and that the writer gets no ENOSPC. Twice: with

    reserved   room taken at 1 GiB/s, by fallocate(2) through the mount
    written    data written through the mount as fast as it goes, on disks in
               memory ($TIERFS_TEST_DIR or /dev/shm), of which it takes about
               1.5 times what is written

    bench_incoming.py --gib=24 --only=reserved      the front's size; a half of it
                                                    comes in
"""

import errno
import os
import sys
import threading
import time

os.environ.setdefault("TIERFS_TEST_DIR", "/dev/shm")

from bench import arguments, progress, report, rig  # noqa: E402
from bench_drain_high import SIZE, make, name, use  # noqa: E402
from files import GIB, MIB  # noqa: E402

HIGH, LOW = 80, 60
FILE = 64 * MIB
GOAL = 3  # seconds
RATE = GIB  # bytes a second
SIZES = {"reserved": 24, "written": 8}  # GiB of the front


class Use(threading.Thread):
    """The use of the front, from time to time."""

    def __init__(self, disk):
        super().__init__(daemon=True)
        self.disk, self.seen, self.ended = disk, [], False

    def run(self):
        while not self.ended:
            self.seen.append((time.monotonic(), use(self.disk)))
            time.sleep(0.005)

    def end(self):
        self.ended = True
        self.join()
        return self.seen


def fill_file(fd, block):
    """With FILE bytes of block, or of nothing."""
    if block is None:
        os.posix_fallocate(fd, 0, FILE)
    else:
        for _ in range(0, FILE, len(block)):
            os.write(fd, block)


def come_in(tier, size, written):
    """Bytes and seconds; less than size: ENOSPC."""
    block = memoryview(os.urandom(4 * MIB)) if written else None
    start, done = time.monotonic(), 0
    try:
        while done < size:
            fd = os.open(tier.mnt / f"new{done // FILE}",
                         os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                fill_file(fd, block)
            finally:
                os.close(fd)
            done += FILE
            if not written:
                time.sleep(max(0, start + done / RATE - time.monotonic()))
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
    return done, time.monotonic() - start


def fill(r, args):
    size = int(args.gib * GIB)
    front = r.disk("front", args.fs, size)
    target = r.disk("target", "ext4", size)
    tier = r.tier(args.fs, front=front, target=target)
    block = os.urandom(MIB)
    n = 0
    while use(front) < HIGH - 3:
        if n % 1000 == 0:
            (tier.front / f"d{n // 1000}").mkdir()
        make(name(tier, n), block, True)
        n += 1
    tier.mount("policy=manual", "high=99", "low=98", "migrate_size=1",
               "migrate_age=365d")
    tier.migrate(tier.mnt)
    tier.do("report", tier.mnt)
    front.settle()
    progress(f"{n} files of {SIZE // MIB} MiB, {use(front):.1f} % in use")
    tier.change("policy=auto", f"high={HIGH}", f"low={LOW}")
    # As it is after a while: the thread sleeps as long as it may.
    time.sleep(3)
    return tier, front


def rises(samples):
    """Each time that it came above high: seconds until it fell, and the highest."""
    found, since, top = [], None, (0, 0)
    for t, u in samples:
        if since is None and u >= HIGH:
            since, top = t, (t, u)
        elif since is not None and u > top[1]:
            top = (t, u)
        elif since is not None and u < HIGH - 1:
            found.append((top[0] - since, top[1]))
            since = None
    if since is not None:
        found.append((samples[-1][0] - since, top[1]))
    return found


def measure(args, kind):
    """Did it all come in?"""
    with rig() as r:
        tier, front = fill(r, args)
        seen = Use(front)
        seen.start()
        wanted = int(args.gib * GIB) // 2 // FILE * FILE
        done, took = come_in(tier, wanted, kind == "written")
        samples = seen.end()
        released = tier.mount_status()["policy"]["released"]
        tier.umount()
    found = rises(samples)
    if not found:
        sys.exit("it never came above high")
    report(f"seconds_until_it_falls_{kind}", max(t for t, _ in found), GOAL,
           at_most=True, times=len(found), high=HIGH,
           highest=max(u for _, u in found), incoming_mib=done / MIB,
           incoming_mib_s=done / took / MIB, enospc=done < wanted,
           released=released["files"], load=os.getloadavg()[0])
    return done == wanted


def main():
    args = arguments(__doc__, gib=0.0, fs="ext4", only="")
    gib, good = args.gib, True
    for kind in [args.only] if args.only else SIZES:
        args.gib = gib or SIZES[kind]
        good &= measure(args, kind)
    sys.exit(0 if good else "ENOSPC")


if __name__ == "__main__":
    main()
