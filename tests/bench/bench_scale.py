#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What an operation costs as the namespace grows: one front with 10,000 files,
then 100,000, then a million (or --sizes=10000,1000000,5000000), made on the
front while nothing is mounted and then adopted.

At each size, in rounds: looking up names that neither the kernel nor the daemon
knows, creating and removing files, all in ten directories that are others each
round; the same on the bare front in turn. Releasing and restoring --moves small
files that were migrated before. A pass of the policy: its dry run, and what the
engine itself takes, for as many files that are due. Mounting after a clean end
with cold caches, against an empty front on the same disk. Last, what the daemon
takes for each node when all files were looked at, and how soon it is gone then.

Times are a file, medians of the rounds (and of the names of a round, but for
"mean"); "cpu" is the daemon's, with what the catalog takes in afterwards. A
number's verdict is how it grew from the first size to the last; the bare front's
own growth is shown beside it."""

import os
import random
import re
import statistics
import subprocess
import time
from pathlib import Path

from bench import arguments, drop_caches, progress, report, rig, seconds
from bench_recovery import answer, umount
from files import GIB, MIB
from rig import build_dir, run, wait_for

PER_DIR, PER_TOP, DIRS = 1000, 100, 10
OPTIONS = ("migrate_size=64K", "migrate_age=1d", "high=95", "low=90")
OLD = 30 * 86400


def scaleops(what, top, *args, names=None):
    """Seconds a name, (median, mean)."""
    program = build_dir() / "tests" / "bench" / "scaleops"
    done = run(program, what, top, *args,
               input="".join(f"{name}\n" for name in names) if names else None)
    return [float(number) for number in done.stdout.split()]


def directory(n):
    return f"t{n // PER_TOP:03}/d{n % PER_TOP:02}"


def metric(tier, name):
    text = tier.ctl("--mount", tier.mnt, "metrics", text=True).out
    return int(float(re.search(rf"^{name}(?:{{.*}})? (\S+)", text, re.M)[1]))


def cpu(pid, only=None):
    """Seconds that its threads (of one name) have taken."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            if only in (None, (task / "comm").read_text().strip()):
                total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            pass
    return total / 1e9


def settle(tier):
    """What was told is in the catalog."""
    wait_for(lambda: not tier.mount_status()["catalog"]["queued"], 600, 0.05)
    time.sleep(0.3)


def forget(tier):
    """Names and inodes are dropped by the kernel, and nodes by the daemon."""
    Path("/proc/sys/vm/drop_caches").write_text("2", encoding="ascii")
    wait_for(lambda: metric(tier, "tierfs_nodes") < 100, 120, 0.05)


class Scale:
    """The front and its tier, at one size after the other."""

    def __init__(self, r, args):
        self.args, self.rand = args, random.Random(1)
        most = max(args.sizes)
        self.disk = r.disk("front-scale", "ext4", 2 * GIB + most * 1024,
                           ("-N", str(most + most // 100 + 60000)))
        self.tier = r.tier(front=self.disk)
        self.empty = r.tier(front=self.disk)
        self.bare = self.disk.path / "bare"
        self.bare.mkdir()
        scaleops("fill", self.bare, 0, DIRS * PER_DIR)
        (self.empty.front / "first").touch()
        (self.tier.front / "first").touch()
        for name, size in (("work", 4096), ("old", 100000)):
            (self.tier.front / name).mkdir()
            for i in range(args.moves):
                path = self.tier.front / name / f"file-{i:05}.dat"
                path.write_bytes(os.urandom(4096))
                os.truncate(path, size)
        self.files = 0
        self.rows = {}  # {size: {name: number}}

    # -- growing ---------------------------------------------------------------

    def grow(self, files):
        for path in (self.tier.front / ".tierfs").glob("catalog.db*"):
            path.unlink()
        took = seconds(scaleops, "fill", self.tier.front, self.files, files,
                       os.cpu_count())
        progress(f"{files - self.files} files made in {took:.0f} s")
        self.files = files
        self.disk.settle()
        start = time.monotonic()
        self.tier.mount("policy=manual", *OPTIONS)

        def adopted():
            seen = self.tier.mount_status()["catalog"]
            return seen["files"] >= files and not seen["walking"] \
                and not seen["judging"]

        wait_for(adopted, 3600, 0.5)
        self.note("adopted, s", time.monotonic() - start)
        if not self.tier.objects():
            self.tier.migrate(self.tier.mnt / "work")
        self.umount()

    def note(self, name, *values):
        self.rows.setdefault(self.files, {})[name] = values
        progress(f"{self.files}: {name}: "
                 + ", ".join(f"{v:.4g}" for v in sorted(values)))

    def median(self, size, name):
        return statistics.median(self.rows[size][name])

    # -- names -----------------------------------------------------------------

    def names(self):
        """Of files that are there, of some that are not, and those on the bare
        front."""
        dirs = self.rand.sample(range(self.files // PER_DIR), DIRS)
        each = self.args.names // DIRS
        there, new, bare = [], [], []
        for n, d in enumerate(dirs):
            for i in self.rand.sample(range(PER_DIR), each):
                there.append(f"{directory(d)}/file-{d * PER_DIR + i:07}.dat")
                new.append(f"{directory(d)}/new-{i:07}.dat")
                bare.append(f"{directory(n)}/new-{i:07}.dat")
        for names in (there, new, bare):
            self.rand.shuffle(names)
        return there, new, bare

    def ops(self):
        """Lookups, creates and unlinks through the mount and on the front."""
        tier = self.tier
        got = {}

        def take(name, value):
            got.setdefault(name, []).append(value * 1e6)

        def timed(name, what, top, names):
            median, mean = scaleops(what, top, names=names)
            take(f"{name}, us", median)
            take(f"{name} mean, us", mean)

        def ours(what, names):
            before = cpu(tier.daemon.pid)
            timed(what, what, tier.mnt, names)
            if what != "stat":
                settle(tier)
            take(f"{what} cpu, us",
                 (cpu(tier.daemon.pid) - before) / len(names))

        def theirs(what, top, names):
            timed(f"{what} bare", what, top, names)

        for n in range(self.args.runs):
            there, new, bare = self.names()
            for side in (0, 1) if n % 2 else (1, 0):
                forget(tier)
                if side:
                    ours("stat", there)
                else:
                    theirs("stat", tier.front, there)
            for what in ("create", "unlink"):
                for side in (0, 1) if n % 2 else (1, 0):
                    if side:
                        ours(what, new)
                    else:
                        theirs(what, self.bare, bare)
        for name in sorted(got):
            self.note(name, *got[name])

    # -- moving ----------------------------------------------------------------

    def moves(self):
        work = self.tier.mnt / "work"
        got = {"release": [], "restore": []}
        for _ in range(self.args.runs):
            for what, took in got.items():
                took.append(seconds(self.tier.do, what, "-r", work)
                            / self.args.moves * 1e6)
                settle(self.tier)
        for what, took in got.items():
            self.note(f"{what}, us", *took)

    def make_due(self):
        """All in old/ are changed, and then have not been used for long."""
        then = time.time() - OLD
        for i in range(self.args.moves):
            path = self.tier.mnt / "old" / f"file-{i:05}.dat"
            with open(path, "r+b") as f:
                f.write(b"changed")
            os.utime(path, (then, then))

    def engine(self):
        """What the policy's own thread takes."""
        def migrated():
            return self.tier.mount_status()["policy"]["migrated"]["files"]

        pid, got = self.tier.daemon.pid, []
        for _ in range(self.args.runs):
            have, before = migrated(), cpu(pid, "policy")
            self.make_due()
            wait_for(lambda n=have: migrated() >= n + self.args.moves, 300)
            settle(self.tier)
            got.append((cpu(pid, "policy") - before) / self.args.moves * 1e6)
        self.note("engine's pick cpu, us", *got)

    def dry_run(self):
        self.make_due()
        settle(self.tier)
        pid, got, used = self.tier.daemon.pid, [], []
        for _ in range(self.args.runs):
            before = cpu_ticks(pid)
            start = time.monotonic()
            planned = self.tier.do("--mount", self.tier.mnt, "policy", "run",
                                   "--dry-run")
            got.append((time.monotonic() - start) / self.args.moves * 1e6)
            used.append(cpu_ticks(pid) - before)
            assert len(planned) >= self.args.moves, len(planned)
        self.note("dry run, us", *got)
        self.note("dry run cpu, us",
                  statistics.mean(used) / self.args.moves * 1e6)

    # -- mounting --------------------------------------------------------------

    def mounts(self):
        got = {"mount": [], "mount empty": []}
        for n in range(self.args.runs):
            for name in sorted(got, reverse=n % 2):
                tier = self.empty if "empty" in name else self.tier
                drop_caches()
                got[name].append(answer(tier, "policy=manual", *OPTIONS)
                                 * 1e3)
                umount(tier)
        for name, took in got.items():
            self.note(f"{name}, ms", *took)

    def memory(self):
        """Of nodes, and how long they take to go."""
        tier = self.tier
        for _ in range(3):
            tier.mount("policy=manual", *OPTIONS)
            settle(tier)
            had, before = metric(tier, "tierfs_nodes"), tier.rss()
            start = time.monotonic()
            subprocess.run(["find", tier.mnt, "-size", "+1G"], check=True,
                           stdout=subprocess.DEVNULL)
            walk = time.monotonic() - start
            nodes, after = metric(tier, "tierfs_nodes") - had, tier.rss()
            start = time.monotonic()
            self.umount()
            gone = time.monotonic() - start
            # Else the kernel dropped some, asked to or short of memory.
            if nodes >= self.files:
                break
            progress(f"{nodes} nodes of {self.files}")
        self.note("walk, us", walk / self.files * 1e6)
        self.note("nodes", nodes)
        self.note("node, bytes", (after - before) / nodes)
        self.note("RSS, MiB", after / MIB)
        self.note("umount, ms", gone * 1e3)

    # -- all -------------------------------------------------------------------

    def measure(self):
        """All but the mounts and the memory."""
        self.tier.mount("policy=auto", *OPTIONS)
        self.ops()
        self.moves()
        self.engine()
        self.umount()
        self.tier.mount("policy=manual", *OPTIONS)
        self.dry_run()
        self.umount()

    def umount(self):
        # Who asks all daemons for their status looks at the mount.
        wait_for(lambda: not run("umount", self.tier.mnt,
                                 check=False).returncode)
        self.tier.ended()

    def table(self):
        sizes = sorted(self.rows)
        print(f"{'':24}" + "".join(f"{size:>11,}" for size in sizes))
        for name in self.rows[sizes[0]]:
            print(f"{name:24}" + "".join(
                f"{self.median(size, name):11.1f}" for size in sizes)
                + "   lowest" + "".join(
                    f"{min(self.rows[size][name]):9.1f}" for size in sizes))

    def verdicts(self):
        first, last = min(self.rows), max(self.rows)

        def grew(name, goal):
            a, b = self.rows[first][name], self.rows[last][name]
            a0, b0 = statistics.median(a), statistics.median(b)
            if not a0:  # too little for the clock
                return
            report(f"{name}: {last} files to {first}", b0 / a0, goal,
                   at_most=True, first=a0, last=b0, lowest=min(b) / a0,
                   highest=max(b) / a0,
                   curve={str(n): round(self.median(n, name), 2)
                          for n in sorted(self.rows)})

        for what in ("stat", "create", "unlink"):
            for more in (", us", " cpu, us", " bare, us"):
                grew(what + more, 1.25)
        for name in ("release, us", "restore, us", "engine's pick cpu, us",
                     "dry run, us", "dry run cpu, us", "mount, ms"):
            grew(name, 1.25)
        report("mount beyond an empty front's",
               self.median(last, "mount, ms")
               - self.median(last, "mount empty, ms"), 20, at_most=True,
               unit="ms", files=last,
               empty=self.median(last, "mount empty, ms"))
        report("memory of a node", self.median(last, "node, bytes"), 200,
               at_most=True, unit="bytes", files=last,
               rss=self.median(last, "RSS, MiB"))


def cpu_ticks(pid):
    """The same with threads that have ended, but coarse."""
    fields = Path(f"/proc/{pid}/stat").read_text(
        encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    args = arguments(__doc__, sizes="10000,100000,1000000", runs=5, names=2000,
                     moves=1000)
    args.sizes = sorted(int(n) for n in args.sizes.split(","))
    with rig() as r:
        scale = Scale(r, args)
        for files in args.sizes:
            scale.grow(files)
            scale.measure()
            scale.mounts()
            scale.memory()
        scale.table()
        scale.verdicts()
        # The disk goes as a whole; to remove the files one by one takes long.
        r.drop(scale.disk)


if __name__ == "__main__":
    main()
