# SPDX-License-Identifier: MIT
"""Data: fio in short slots on a file that is the same for all systems (hard
links), so that neither its place on the disk nor its pages differ."""

import json
import os

from files import MIB
from rig import run


class Fio:
    """One row of fio."""

    needs = ("data",)

    def __init__(self, args, rw, bs, how, engine, depth):
        self.args, self.rw, self.bs, self.how = args, rw, bs, how
        self.engine, self.depth = engine, depth
        self.name = f"{rw} {bs} {how}"
        if how != "mmap":
            self.name += f" {engine} d{depth}"
        self.main = depth == 1 and engine != "io_uring"
        self.rows = [self.name]

    def __str__(self):
        return self.name

    def warm(self, system, clients):
        """Everything cached that will be."""
        if self.how == "direct":
            return
        for n in range(clients):
            with open(system.mnt / f"data{n}", "rb", buffering=0) as f:
                while f.read(MIB):
                    pass

    def run(self, system, clients, step):
        if "write" in self.rw:
            self.args.disk.settle()
        if self.how == "direct":
            self.forget(clients)
        step(self.name, lambda: self.slot(system, clients))

    def forget(self, clients):
        """What a system that does not pass O_DIRECT on has left in the page
        cache makes the next one's writes wait: they have to invalidate it."""
        for n in range(clients):
            with open(self.args.disk.path / f"data{n}", "rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def slot(self, system, clients):
        argv = ["fio", f"--rw={self.rw}", f"--bs={self.bs}",
                f"--direct={int(self.how == 'direct')}",
                f"--size={self.args.mib}m", f"--ioengine={self.engine}",
                f"--iodepth={self.depth}", "--thread", "--time_based",
                f"--runtime={self.args.ms}ms", "--invalidate=0",
                "--randrepeat=0", "--norandommap", "--fallocate=none",
                "--output-format=json"]
        for n in range(clients):
            argv += [f"--name=client{n}",
                     f"--filename={system.mnt / f'data{n}'}"]
        done = run(*argv, timeout=120, cwd=self.args.dir)
        speed = ios = cpu = 0
        for job in json.loads(done.stdout[done.stdout.index("{"):])["jobs"]:
            side = job["write" if "write" in self.rw else "read"]
            if job["error"] or not side["total_ios"]:
                raise AssertionError(f"fio: error {job['error']}")
            speed += float(side["bw_bytes"])
            ios += side["total_ios"]
            cpu += (job["usr_cpu"] + job["sys_cpu"]) / 1e5 * side["runtime"]
        return speed, ios, cpu


def all_of(args):
    rows = []
    for how in ("buffered", "direct"):
        for engine, depth in (("psync", 1), ("io_uring", 1), ("io_uring", 16)):
            rows += [(how, engine, depth)]
    rows.append(("mmap", "mmap", 1))
    return [Fio(args, rw, bs, *row) for row in rows for bs in ("4k", "1m")
            for rw in ("read", "randread", "write", "randwrite")
            if row[0] != "mmap" or bs == "4k"]
