#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Reading a released file in place from the throttled target, against reading
the object itself: all of it by cat, and its first 4 KiB."""

import mmap
import os
import sys

from bench import HDD_BPS, HDD_IOPS, arguments, cold, compare, rig
from rig import GIB, MIB, run


def cat(path):
    run("sh", "-c", 'exec cat "$1" >/dev/null', "sh", path)


def head(path, flags=0):
    fd = os.open(path, os.O_RDONLY | flags)
    buf = mmap.mmap(-1, 4096)
    assert os.preadv(fd, [buf], 0) == 4096
    os.close(fd)


def main():
    args = arguments(__doc__, runs=3, heads=15, mib=1024)
    with rig() as r:
        front = r.disk("front", "ext4", 3 * GIB)
        target = r.disk("target", "ext4", 3 * GIB)
        tier = r.tier("ext4", front=front, target=target)
        tier.mount("restore_after=never")
        path = tier.mnt / "f"
        with open(path, "wb") as f:
            for _ in range(args.mib):
                f.write(os.urandom(MIB))
        tier.release(path)
        copy = tier.status(path)["copies"][0]["object"]
        # The names' blocks are not what is measured.
        if not target.throttle(read_bps=HDD_BPS, read_iops=HDD_IOPS):
            sys.exit("the blkio cgroup of this machine can't be used")
        compare(f"read {args.mib} MiB", args.runs, lambda: cold(cat, path),
                lambda: cold(cat, copy), 0.95, unit="s", higher=False)
        compare("first 4 KiB", args.heads, lambda: cold(head, path),
                lambda: cold(head, copy, os.O_DIRECT), 1.2, at_most=True,
                unit="s")
        assert tier.state(path) == "released"
        tier.close()


if __name__ == "__main__":
    main()
