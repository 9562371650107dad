#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the catalog costs: creating, looking at and removing files through a
mount with catalog=on, in terms of one with catalog=off.

In many short turns, so that what else the machine does hits both; what the
catalog was told of in one turn it takes in during the next ones, too, of either
side."""

import os

from bench import arguments, compare, rig, seconds


class Side:
    """One mount, and how far each kind of work has come on it."""

    def __init__(self, tier, which, files):
        self.tier, self.which, self.files = tier, which, files
        tier.mount(f"catalog={which}")
        self.at = {"create": 0, "stat": 0, "unlink": 0}

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
        return self.files / seconds(call)


def main():
    args = arguments(__doc__, runs=31, files=1500)
    with rig() as r:
        on, off = (Side(r.tier("ext4"), which, args.files)
                   for which in ("on", "off"))
        for side in (on, off):
            side.turn("create")  # the first is slower
        for what in ("create", "stat", "unlink"):
            if what == "stat":  # what the kernel knows costs nothing
                for side in (on, off):
                    side.tier.remount(f"catalog={side.which}")
            compare(what, args.runs, lambda w=what: on.turn(w),
                    lambda w=what: off.turn(w), 0.95, unit="files/s")
        for side in (on, off):
            side.tier.close()


if __name__ == "__main__":
    main()
