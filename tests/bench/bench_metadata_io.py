#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""I/Os at the target for ls -lR, find, du and stat over a released tree with
caches dropped; none are wanted."""

import os
import subprocess

from bench import arguments, drop_caches, report, rig, seconds
from files import put


def main():
    args = arguments(__doc__, files=10000, size=4096)
    with rig() as r:
        tier = r.tier("ext4")
        tier.mount()
        for i in range(args.files):
            top = tier.mnt / f"d{i // 100:04}"
            top.mkdir(exist_ok=True)
            put(top / f"f{i}", args.size, i % 100)
        tier.release(tier.mnt)
        assert len(tier.objects()) == args.files
        tier.remount()
        disk = tier.target_disk

        def stat_all():
            for parent, _, files in os.walk(tier.mnt):
                for name in files:
                    os.stat(os.path.join(parent, name))

        def command(*argv):
            return lambda: subprocess.run([*argv], check=True,
                                          stdout=subprocess.DEVNULL)

        for name, walk in (
                ("ls -lR", command("ls", "-lR", tier.mnt)),
                ("find", command("find", tier.mnt, "-size", "+1k")),
                ("du", command("du", "-s", tier.mnt)),
                ("stat", stat_all)):
            disk.settle()
            drop_caches()
            before = disk.ios()
            took = seconds(walk)
            after = disk.ios()
            report(name, after[0] - before[0] + after[1] - before[1], 0,
                   at_most=True, unit="I/Os", files=args.files, seconds=took)
        tier.close()


if __name__ == "__main__":
    main()
