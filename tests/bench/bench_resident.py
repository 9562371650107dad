#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fio on a resident file, with passthrough, against the bare front; and against
libfuse's passthrough_hp, where that is built ($PASSTHROUGH_HP, or examples=true
for the subproject): what it loses, too, is the kernel's part.

    bench_resident.py                      everything
    bench_resident.py --only=read,4k       what has it in its name

The same file is read and written by all, so that neither its place on the disk
nor its pages differ. One fio runs all sides in turn, in short slots: what else
the machine does hits all. by_cpu is the ratio of the bytes a second of CPU time:
other processes do not change it, so it tells how sure the first one is where
nothing waits for a disk (what is cached).

Measured with Linux 6.18: a cached read costs 0.1 us more a call, in
fuse_passthrough_read_iter(), backing_file_read_iter(), vfs_iter_read() and the
second check of permissions; no request is sent. That is nothing for 1 MiB, an
eighth of a random read of 4 KiB, a fifth of a sequential one (0.38 us), and the
same for passthrough_hp: no flag of ours would change it.
"""

import json
import os
import shutil
import statistics
import subprocess
from contextlib import contextmanager

from bench import arguments, drop_caches, progress, report, rig
from files import MIB
from rig import build_dir, is_mounted, run, wait_for

JOBS = [(rw, bs, how) for how in ("cached", "cold", "O_DIRECT")
        for bs in ("4k", "1m")
        for rw in ("read", "randread", "write", "randwrite")
        if how != "cold" or "read" in rw]


def goal(rw, bs, how):
    if "write" in rw and bs == "4k":
        return 0.9 if how == "O_DIRECT" else 0.75
    return 0.95


def passthrough_hp():
    """Its path, or None."""
    for path in (os.environ.get("PASSTHROUGH_HP"),
                 shutil.which("passthrough_hp"),
                 *build_dir().glob("subprojects/fuse-*/example/passthrough_hp")):
        if path and os.access(path, os.X_OK):
            return path
    return None


@contextmanager
def mounted_hp(r, source):
    """Mounts source by passthrough_hp, and yields where; or None."""
    program = passthrough_hp()
    if not program:
        progress("no passthrough_hp to compare with")
        yield None
        return
    top = r.dir / "hp"
    top.mkdir()
    with subprocess.Popen([program, "--foreground", source, top],
                          stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as daemon:
        try:
            wait_for(lambda: is_mounted(top) or daemon.poll() is not None, 30)
            yield top if is_mounted(top) else None
        finally:
            run("umount", top, check=False)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


def fio(sides, rw, bs, how, args):
    """Bytes a second of each slot, and bytes a second of CPU time: for each a
    list for each side, in step."""
    argv = ["fio", f"--rw={rw}", f"--bs={bs}",
            f"--direct={int(how == 'O_DIRECT')}",
            f"--size={args.mib}m", "--ioengine=psync", "--thread",
            f"--runtime={args.ms}ms", "--invalidate=0",
            "--randrepeat=0", "--norandommap", "--fallocate=none",
            "--output-format=json"]
    if how == "cold":
        argv += ["--exec_prerun=sh -c 'echo 1 >/proc/sys/vm/drop_caches'"]
    else:
        argv += ["--time_based"]
    if "write" in rw:
        argv += [f"--exec_prerun=sync -f {sides['bare']}"]
    order = list(sides)
    for n in range(args.runs):
        # Who is first changes.
        for side in order[n % len(order):] + order[:n % len(order)]:
            argv += [f"--name={side}", f"--filename={sides[side]}",
                     "--stonewall"]
    # Where it puts what the command before a job says.
    done = run(*argv, timeout=600, cwd=args.dir)
    speeds, by_cpu = {side: [] for side in sides}, {side: [] for side in sides}
    for job in json.loads(done.stdout[done.stdout.index("{"):])["jobs"]:
        speed = float(job["write" if "write" in rw else "read"]["bw_bytes"])
        speeds[job["jobname"]].append(speed)
        by_cpu[job["jobname"]].append(
            speed / (job["usr_cpu"] + job["sys_cpu"] + 0.01) * 100)
    return speeds, by_cpu


def ratios(speeds, side, to):
    return sorted(a / b for a, b in zip(speeds[side], speeds[to]))


def measure(sides, rw, bs, how, args):
    drop_caches()
    if how == "cached":
        with open(sides["bare"], "rb") as f:
            while f.read(MIB):
                pass
    speeds, by_cpu = fio(sides, rw, bs, how, args)
    ours = ratios(speeds, "tierfs", "bare")
    more = {side: statistics.median(values) for side, values in speeds.items()}
    more["by_cpu"] = statistics.median(ratios(by_cpu, "tierfs", "bare"))
    if "hp" in sides:
        for what, side, to in (("hp_to_bare", "hp", "bare"),
                               ("to_hp", "tierfs", "hp")):
            more[what] = statistics.median(ratios(speeds, side, to))
            more[what + "_by_cpu"] = statistics.median(
                ratios(by_cpu, side, to))
    report(f"{rw} {bs} {how}", statistics.median(ours), goal(rw, bs, how),
           runs=args.runs, unit="bytes/s", lower_quartile=ours[len(ours) // 4],
           upper_quartile=ours[-1 - len(ours) // 4], **more)


def main():
    args = arguments(__doc__, runs=21, ms=500, mib=256, only="")
    with rig() as r:
        tier = r.tier("ext4", "on")
        tier.mount()
        args.dir = r.dir
        with open(tier.mnt / "f", "wb") as f:
            for _ in range(args.mib):
                f.write(os.urandom(MIB))
        with mounted_hp(r, tier.front) as hp:
            sides = {"bare": tier.front / "f", "tierfs": tier.mnt / "f"}
            if hp:
                sides["hp"] = hp / "f"
            for job in JOBS:
                if args.only in ",".join(job):
                    measure(sides, *job, args)
        tier.close()


if __name__ == "__main__":
    main()
