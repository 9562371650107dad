#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the policy engine and its catalog cost: creating, looking at and removing
files through a mount with policy=auto, in terms of one with policy=manual and
without a catalog.

In turns that are long in terms of the tenth of a second for which events gather,
so that what the catalog takes in competes with the side that told of it; before
the other's turn comes it is done with it."""

import os
import statistics
import time
from pathlib import Path

from bench import arguments, compare, progress, rig, seconds


class Side:
    """One mount, and how far each kind of work has come on it."""

    def __init__(self, tier, files, *options):
        self.tier, self.files, self.options = tier, files, options
        tier.mount(*options)
        self.at = {"create": 0, "stat": 0, "unlink": 0}
        self.cpu = {what: [] for what in self.at}

    def turn(self, what):
        top = self.tier.mnt / f"r{self.at[what]}"
        self.at[what] += 1
        names = [f"{top}/{i}" for i in range(self.files)]

        def create():
            os.mkdir(top)
            for name in names:
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY))

        def stat():
            for name in names:
                os.stat(name)

        def unlink():
            for name in names:
                os.unlink(name)

        call = {"create": create, "stat": stat, "unlink": unlink}[what]
        before = self.cpu_seconds()
        took = seconds(call)
        self.settle()
        self.cpu[what].append((self.cpu_seconds() - before) / self.files)
        return self.files / took

    def cpu_seconds(self):
        """The client's and the daemon's."""
        used = os.times()
        fields = Path(f"/proc/{self.tier.daemon.pid}/stat").read_text(
            encoding="ascii").rsplit(")", 1)[1].split()
        return used.user + used.system + (
            int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self):
        """What was told is taken in."""
        catalog = self.tier.mount_status()["catalog"]
        while catalog and catalog["queued"]:
            time.sleep(0.05)
            catalog = self.tier.mount_status()["catalog"]


def main():
    args = arguments(__doc__, runs=15, files=4000)
    with rig() as r:
        on = Side(r.tier("ext4"), args.files, "policy=auto")
        off = Side(r.tier("ext4"), args.files, "policy=manual", "catalog=off")
        for side in (on, off):
            side.turn("create")  # the first is slower
        for what in ("create", "stat", "unlink"):
            if what == "stat":  # what the kernel knows costs nothing
                for side in (on, off):
                    side.tier.remount(*side.options)
            compare(what, args.runs, lambda w=what: on.turn(w),
                    lambda w=what: off.turn(w), 0.95, unit="files/s")
            progress(f"{what}: CPU a file, client and daemon: " + " to ".join(
                f"{statistics.median(side.cpu[what]) * 1e6:.1f}"
                for side in (on, off))
                + f" us, load {os.getloadavg()[0]:.1f}")
        for side in (on, off):
            side.tier.close()


if __name__ == "__main__":
    main()
