#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How long a mount takes to answer: of a front with a million files that was
killed under load, against an empty one; and the mount after a clean umount."""

import os
import random
import socket
import struct
import subprocess
import threading
import time

from bench import arguments, progress, report, rig, seconds
from files import GIB
from rig import drop_caches, run, wait_for

SMALL = 3000  # bytes


def fill(top, files):
    """files small ones, a thousand a directory, by descriptors."""
    content = os.urandom(SMALL)
    for i in range(files):
        if i % 1000 == 0:
            name = top / f"d{i // 1000:04}"
            name.mkdir()
            here = os.open(name, os.O_RDONLY)
        fd = os.open(f"file{i}", os.O_WRONLY | os.O_CREAT, 0o644,
                     dir_fd=here)
        os.write(fd, content)
        os.close(fd)
        if i % 1000 == 999:
            os.close(here)


def answer(tier, *options):
    """Seconds from the start of the daemon to the first file read."""
    argv = [a for a in tier.argv(*options) if a != "-f"]

    def first():
        with open(tier.log, "ab") as log:
            done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=log, env=tier.rig.env)
        assert done.returncode == 0, tier.tail()
        os.stat(tier.mnt / "first")

    took = seconds(first)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"/run/tierfs/{tier.name}.sock")
        tier.pid = struct.unpack("3i", s.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return took


def umount(tier):
    # Who asks all daemons for their status looks at the mount.
    wait_for(lambda: not run("umount", tier.mnt, check=False).returncode)
    wait_for(lambda: not os.path.exists(f"/proc/{tier.pid}"), 300)


def kill(tier):
    os.kill(tier.pid, 9)
    wait_for(lambda: not os.path.exists(f"/proc/{tier.pid}"), 60)
    run("umount", "-l", tier.mnt)


class Load:
    """fio, and whatever moves files, until it is stopped."""

    def __init__(self, tier, dirs):
        self.tier, self.dirs, self.stop = tier, dirs, False
        (tier.mnt / "fio").mkdir(exist_ok=True)
        self.threads = [threading.Thread(target=self.move, args=(n,))
                        for n in range(2)]
        self.threads.append(threading.Thread(target=self.write))
        self.fio = subprocess.Popen(
            ["fio", "--name=f", f"--directory={tier.mnt}/fio",
             "--rw=randrw", "--bs=4k", "--size=64m", "--numjobs=2",
             "--runtime=600", "--time_based", "--fallocate=none",
             "--ioengine=psync", "--thread", "--minimal"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for thread in self.threads:
            thread.start()

    def move(self, n):
        rand = random.Random(n)
        while not self.stop:
            # Each its own: two that ask for one file wait for each other.
            top = self.tier.mnt / f"d{rand.randrange(self.dirs) // 2 * 2 + n:04}"
            if not os.path.lexists(top):
                continue  # or killed already
            how = rand.choice([["migrate"], ["migrate", "--release"],
                               ["restore"]])
            self.tier.ctl("--quiet", *how, "-r", top, timeout=600)

    def write(self):
        """Opens for writing, changes and removes."""
        rand = random.Random(99)
        held = []
        while not self.stop:
            i = rand.randrange(self.dirs * 1000)
            path = self.tier.mnt / f"d{i // 1000:04}" / f"file{i}"
            try:
                held.append(os.open(path, os.O_RDWR))
                os.write(held[-1], b"changed")
                if rand.random() < 0.1:
                    os.unlink(path)
                if len(held) > 200:
                    os.close(held.pop(0))
            except OSError:
                pass
        for fd in held:
            try:
                os.close(fd)
            except OSError:
                pass

    def end(self):
        self.stop = True
        self.fio.kill()
        self.fio.wait()
        for thread in self.threads:
            thread.join()


def main():
    args = arguments(__doc__, files=1000000, runs=3, seconds=10)
    with rig() as r:
        front = r.disk("front", "ext4", 12 * GIB,
                       options=["-b", "4096", "-N", str(args.files + 50000)])
        tier, empty = r.tier("ext4", front=front), r.tier("ext4", front=front)
        for one in (tier, empty):
            (one.front / "first").touch()
        progress(f"{args.files} files made in "
                 f"{seconds(fill, tier.front, args.files):.0f} s")
        first = answer(tier)
        progress(f"first mount {first:.3f} s")
        started = time.monotonic()
        wait_for(lambda: tier.mount_status()["states"]["none"]["files"]
                 >= args.files, 600, 0.2)
        progress(f"adopted in {time.monotonic() - started:.0f} s")
        umount(tier)
        base = min(clean(empty) for _ in range(args.runs))
        worst = 0
        for n in range(args.runs):
            answer(tier)
            load = Load(tier, args.files // 1000)
            time.sleep(args.seconds)
            states = tier.mount_status()["states"]
            kill(tier)
            load.end()
            drop_caches()
            took = answer(tier)
            steps = [line for line in tier.tail().splitlines()
                     if "in flight" in line][-1:]
            progress(f"killed: {took:.3f} s, empty {base:.3f} s; "
                     f"{ {s: v['files'] for s, v in states.items()} } {steps}")
            worst = max(worst, took)
            if n == args.runs - 1:
                walk = seconds(lambda: subprocess.run(
                    ["ls", "-lR", tier.mnt], check=True,
                    stdout=subprocess.DEVNULL))
                start = time.monotonic()
                run("umount", tier.mnt)
                gone = time.monotonic() - start
                again = answer(tier)
                progress(f"walked in {walk:.0f} s; umount {gone:.3f} s, "
                         f"mounted at once {again:.3f} s")
                report("mount at once after the umount of a million nodes",
                       again - base, 1, at_most=True, unit="s",
                       umount=gone)
            umount(tier)
        ok = report("mount after kill -9 under load, beyond an empty one's",
                    worst - base, 1, at_most=True, unit="s", empty=base,
                    worst=worst, files=args.files)
        progress(f"checked in {seconds(tier.compare):.1f} s")
        tier.close()
        empty.close()
        raise SystemExit(not ok)


def clean(tier):
    drop_caches()
    took = answer(tier)
    umount(tier)
    return took


if __name__ == "__main__":
    main()
