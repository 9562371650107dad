#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the foreground notices of the background: the 99th percentile of
latencies with it, in terms of that without it, in turn in short slots.

    reads    random reads of 4 KiB (fio) of a resident file, cached and O_DIRECT,
             while the policy copies to a throttled target, at idle I/O priority
             as always; without: its bandwidth limit stops it
    stat     while thousands of readers wait for files of a target that holds
             all reads; without: when all have been answered

    bench_foreground.py                       everything, two minutes
    bench_foreground.py --only=stat           or cached, or O_DIRECT
    bench_foreground.py --rounds=1 --ms=300 --gib=1 --waiting=50    does it run?

Disks are in memory ($TIERFS_TEST_DIR or /dev/shm): both of them on one disk of
the machine would measure that.
"""

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("TIERFS_TEST_DIR", "/dev/shm")

# pylint: disable=wrong-import-position
from bench import arguments, compare, progress, report_pairs, rig, seconds
from files import GIB, MIB, libc
from rig import drop_caches, run, wait_for, waiting_threads

FILE = 64 * MIB
STOPPED = "bwlimit=1k"
# One process, whose threads read a file each, having opened all; it says when
# it has begun, and how many bytes it has read.
READERS = """
import os, sys, threading
top, n = sys.argv[1], int(sys.argv[2])
got = []
fds = [os.open(f"{top}/{i}", os.O_RDONLY) for i in range(n)]
threading.stack_size(65536)
threads = [threading.Thread(target=lambda fd=fd: got.append(
    len(os.pread(fd, 4096, 0)))) for fd in fds]
for t in threads:
    t.start()
print("reading", flush=True)
for t in threads:
    t.join()
print(sum(got))
"""
AT_STATX_FORCE_SYNC, STATX_BASIC, AT_FDCWD = 0x2000, 0x7ff, -100


# -- reads -----------------------------------------------------------------

def fill(path, size):
    block = os.urandom(4 * MIB)
    with open(path, "wb") as f:
        for _ in range(0, size, len(block)):
            f.write(block)


def read_p99(path, args, direct):
    """Microseconds: the median and the 99th percentile."""
    done = run("fio", "--name=r", f"--filename={path}", "--rw=randread",
               "--bs=4k", "--ioengine=psync", f"--direct={int(direct)}",
               "--invalidate=0", "--time_based", f"--runtime={args.ms}ms",
               "--norandommap", "--randrepeat=0", "--percentile_list=50:99",
               "--output-format=json", cwd=path.parents[1])
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    assert not job["error"], job["error"]
    found = job["read"]["clat_ns"]["percentile"]
    return found["50.000000"] / 1e3, found["99.000000"] / 1e3


class Copying:
    """The background, which can be stopped and goes on where it was."""

    def __init__(self, tier, args):
        self.tier, self.disk, self.args = tier, tier.target_disk, args
        self.rates = []

    def written(self):
        return self.disk.sectors()[1] * 512

    def go(self):
        self.tier.change("bwlimit=none")
        before = self.written()
        wait_for(lambda: self.written() > before + 8 * MIB, 30)

    def stop(self):
        self.tier.change(STOPPED)
        before = -1
        while before != self.written():
            before = self.written()
            time.sleep(0.1)

    def p99(self, path, direct):
        """With it."""
        self.go()
        before, start = self.written(), time.monotonic()
        median, worst = read_p99(path, self.args, direct)
        rate = (self.written() - before) / (time.monotonic() - start)
        self.stop()
        self.rates.append(rate / MIB)
        progress(f"with: {median:.2f} us, p99 {worst:.2f} us, copying "
                 f"{rate / MIB:.0f} MiB/s")
        assert rate > 0, "nothing was left to copy: more --gib"
        return worst


def reads(r, args):
    front = r.disk("front", "ext4", args.gib * GIB + (args.mib + 512) * MIB)
    target = r.disk("target", "ext4", args.gib * GIB + 512 * MIB)
    tier = r.tier("ext4", front=front, target=target)
    fill(tier.front / "hot", args.mib * MIB)
    top = tier.front / "old"
    top.mkdir()
    for i in range(args.gib * GIB // FILE):
        fill(top / f"{i}", FILE)
        os.utime(top / f"{i}", (0, 0))
    if not target.throttle(write_bps=args.bps * MIB, write_iops=args.iops):
        sys.exit("the blkio cgroup of this machine can't be used")
    front.settle()
    drop_caches()
    # What is hot is young.
    tier.mount("policy=auto", "migrate_age=1d", "migrate_size=1m", STOPPED)
    hot = tier.mnt / "hot"
    copying = Copying(tier, args)

    def without(direct):
        median, worst = read_p99(hot, args, direct)
        progress(f"without: {median:.2f} us, p99 {worst:.2f} us")
        return worst

    for name, direct in (("cached", False), ("O_DIRECT", True)):
        if args.only not in ("", name):
            continue
        hot.read_bytes()
        compare(f"p99 of 4 KiB random reads, {name}, while copying",
                args.rounds, lambda d=direct: copying.p99(hot, d),
                lambda d=direct: without(d), 1.3, at_most=True, unit="us")
    progress(f"copying: {min(copying.rates):.0f} to "
             f"{max(copying.rates):.0f} MiB/s")
    target.throttle(write_bps=0, write_iops=0)
    tier.umount()
    tier.close()
    r.drop(front)
    r.drop(target)


# -- stat ------------------------------------------------------------------

_buf = ctypes.create_string_buffer(256)


def ask(path):
    """stat(2) that the kernel asks the daemon for."""
    if libc.statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_BASIC, _buf):
        raise OSError(ctypes.get_errno(), path)


def look(path):
    os.stat(path)


def look_in_vain(path):
    try:
        os.stat(path)
    except FileNotFoundError:
        return
    raise AssertionError(path)


class Names:
    """Names that are not there, each of them new."""

    def __init__(self, top):
        self.top, self.count = top, 0

    def take(self, n):
        self.count += n
        return [f"{self.top}/absent{i}"
                for i in range(self.count - n, self.count)]


def p99(call, paths):
    """Microseconds."""
    clock, took = time.perf_counter_ns, []
    gc.disable()
    for path in paths:
        start = clock()
        call(path)
        took.append(clock() - start)
    gc.enable()
    took.sort()
    return took[len(took) * 99 // 100] / 1e3


class Waiting:
    """Readers that all wait for the target."""

    def __init__(self, tier, n):
        self.tier, self.n, self.readers = tier, n, None

    def waiting(self):
        return waiting_threads(self.readers.pid)

    def begin(self):
        drop_caches()
        self.tier.target_disk.throttle(read_bps=1)
        self.readers = subprocess.Popen(
            [sys.executable, "-c", READERS, self.tier.mnt / "cold",
             str(self.n)], stdout=subprocess.PIPE, text=True)
        assert self.readers.stdout.readline() == "reading\n"
        wait_for(lambda: self.waiting() >= self.n, 120, step=0.5)

    def end(self):
        waited = self.waiting()
        self.tier.target_disk.throttle(read_bps=0)
        out, _ = self.readers.communicate(timeout=170)
        assert int(out) == self.n * 4096, out
        assert waited >= self.n, f"only {waited} waited"


def stats(r, args):
    inodes = ("-N", str(2 * args.waiting + 10000))
    tier = r.tier("ext4", front=r.disk("front", "ext4", GIB, inodes),
                  target=r.disk("target", "ext4", GIB, inodes))
    # A descriptor each is the client's: the daemon inherits less.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.waiting + 100 > hard:
        sys.exit(f"only {hard} descriptors")
    tier.mount("restore_after=never", "recall_timeout=none")
    cold = tier.mnt / "cold"
    cold.mkdir()
    for i in range(args.waiting):
        (cold / f"{i}").write_bytes(b"x" * 4096)
    tier.release(cold)
    hot = tier.mnt / "hot"
    hot.write_bytes(b"x" * 4096)
    absent = Names(tier.mnt)
    n = args.stats
    rows = {"known to the kernel": (look, lambda: [str(hot)] * n),
            "of a resident file": (ask, lambda: [bytes(hot)] * n),
            "of files that are waited for":
                (ask, lambda: [bytes(cold / f"{i % args.waiting}")
                               for i in range(n)]),
            "of absent names": (look_in_vain, lambda: absent.take(n))}
    waiting = Waiting(tier, args.waiting)

    def slot():
        for call, paths in rows.values():
            p99(call, paths()[:n // 10])  # what the last one has left cold
        took = {name: p99(call, paths())
                for name, (call, paths) in rows.items()}
        progress(", ".join(f"{name} {us:.1f}" for name, us in took.items()))
        return took

    pairs = []
    for _ in range(args.rounds):
        free = slot()
        progress(f"{args.waiting} wait after "
                 f"{seconds(waiting.begin):.1f} s")
        pairs.append((slot(), free))
        progress(f"answered in {seconds(waiting.end):.1f} s")
    for name in rows:
        report_pairs(f"p99 of stat {name}, {args.waiting} readers waiting",
                     [(a[name], b[name]) for a, b in pairs], 2, at_most=True,
                     unit="us")
    tier.close()


def main():
    args = arguments(__doc__, rounds=5, ms=1000, mib=64, gib=4, bps=150,
                     iops=200, waiting=10000, stats=5000, only="")
    with rig() as r:
        if args.only != "stat":
            reads(r, args)
        if args.only in ("", "stat"):
            stats(r, args)


if __name__ == "__main__":
    main()
