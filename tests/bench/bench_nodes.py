#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Memory of the daemon with a million nodes cached."""

import os
import subprocess

from bench import arguments, progress, report, rig, seconds
from files import GIB, MIB
from rig import run


def main():
    args = arguments(__doc__, files=1000000)
    with rig() as r:
        front = r.disk("front", "ext4", 4 * GIB,
                       options=["-N", str(args.files + 20000)])
        tier = r.tier("ext4", front=front)
        for i in range(args.files):
            if i % 1000 == 0:
                top = os.open(tier.front, os.O_PATH)
                name = f"d{i // 1000:04}"
                os.mkdir(name, dir_fd=top)
                here = os.open(name, os.O_RDONLY, dir_fd=top)
                os.close(top)
            os.mknod(f"file{i}", dir_fd=here)
            if i % 1000 == 999:
                os.close(here)
        tier.mount()
        empty = tier.rss()
        took = seconds(lambda: subprocess.run(
            ["ls", "-lR", tier.mnt], check=True, stdout=subprocess.DEVNULL))
        full = tier.rss()
        progress(f"{empty / MIB:.0f} MiB before, {full / MIB:.0f} MiB after")
        report(f"RSS with {args.files} nodes", full / MIB, 300, at_most=True,
               unit="MiB", empty=empty / MIB, walk_seconds=took,
               bytes_a_node=(full - empty) / args.files,
               descriptors=int(run("sh", "-c", f"ls /proc/{tier.daemon.pid}/fd"
                                   " | wc -l").stdout))
        tier.close()


if __name__ == "__main__":
    main()
