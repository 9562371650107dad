#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fio on resident files, with passthrough, against the bare front."""

import json

from bench import arguments, compare, drop_caches, rig
from rig import MIB, run

JOBS = [(rw, bs, direct) for direct in (0, 1) for bs in ("4k", "1m")
        for rw in ("read", "randread", "write", "randwrite")]


def goal(rw, bs, direct):
    if "write" in rw and bs == "4k":
        return 0.9 if direct else 0.75
    return 0.95


def fio(directory, rw, bs, direct, args):
    """Bytes a second."""
    drop_caches()
    done = run("fio", "--name=f", f"--directory={directory}", f"--rw={rw}",
               f"--bs={bs}", f"--direct={direct}", f"--size={args.mib}m",
               "--ioengine=psync", f"--runtime={args.seconds}", "--time_based",
               "--invalidate=0", "--randrepeat=0", "--norandommap",
               "--fallocate=none", "--output-format=json")
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    return float(job["write" if "write" in rw else "read"]["bw_bytes"])


def main():
    args = arguments(__doc__, runs=5, seconds=3, mib=256)
    with rig() as r:
        bare = r.directory("ext4")
        tier = r.tier("ext4", "on")
        tier.mount()
        for top in (bare, tier.mnt):
            with open(top / "f.0.0", "wb") as f:
                for _ in range(args.mib):
                    f.write(bytes(range(256)) * (MIB // 256))
        for rw, bs, direct in JOBS:
            compare(f"{rw} {bs} {'O_DIRECT' if direct else 'buffered'}",
                    args.runs,
                    lambda: fio(tier.mnt, rw, bs, direct, args),
                    lambda: fio(bare, rw, bs, direct, args),
                    goal(rw, bs, direct), unit="bytes/s")
        tier.close()


if __name__ == "__main__":
    main()
