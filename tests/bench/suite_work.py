# SPDX-License-Identifier: MIT
"""Metadata: single operations on many files, and what people do with trees.

Each work is a sequence that ends as it began, and each of its steps is a row.
With two clients, both do the same at once, each in a directory of its own but
where only looking is done."""

import os
import random
import resource
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

from bench import drop_caches
from rig import build_dir, run
from suite_report import REQUEST

METAOPS_MS = 40
SOURCES, SOURCE_DIRS = 4000, 250


def metaops(*args):
    program = build_dir() / "tests" / "bench" / "metaops"
    took, ops, cpu = run(program, *args, timeout=600).stdout.split()
    return float(took) / int(ops), int(ops), float(cpu)


def cpu_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def at_once(ops, *argvs):
    """Runs the commands at the same time; (seconds for each of ops, ops, seconds
    of CPU time). Fails when one does."""
    with tempfile.TemporaryFile() as said:
        start, cpu = time.monotonic(), cpu_of_children()
        running = [subprocess.Popen(  # pylint: disable=R1732
            [str(a) for a in argv], stdout=subprocess.DEVNULL, stderr=said)
            for argv in argvs]
        # Not wait(600): it looks each 50 ms.
        bad = [p.args[0] for p in running if p.wait()]
        took = time.monotonic() - start
        if bad:
            said.seek(0)
            raise AssertionError(f"{bad[0]}: " + said.readline().decode(
                errors="replace").strip())
    return took / ops, ops, cpu_of_children() - cpu


class Work:
    """A sequence of steps."""

    needs = ()
    main = True
    name = ""
    rows = ()

    def __init__(self, args):
        self.args = args

    def warm(self, system, clients):
        pass

    def __str__(self):
        return self.name

    @staticmethod
    def fresh(system, clients, name="ops"):
        top = system.mnt / name
        shutil.rmtree(top, ignore_errors=True)
        top.mkdir()
        for n in range(clients):
            (top / str(n)).mkdir()
        return top


class Ops(Work):
    name = "ops"
    rows = ("create", "stat warm", "stat absent", REQUEST, "open+close",
            "rename", "unlink", "create+write 4k", "open+read+close")

    def run(self, system, clients, step):
        top, files = self.fresh(system, clients), self.args.ops

        def do(row, op, warm=False):
            if warm:
                metaops(op, top, files, clients)
            step(row, lambda: metaops(op, top, files, clients, METAOPS_MS))

        do("create", "create")
        do("stat warm", "stat", warm=True)
        do("stat absent", "absent", warm=True)
        do(REQUEST, "getattr", warm=True)
        do("open+close", "open", warm=True)
        do("rename", "rename")
        metaops("back", top, files, clients)
        do("unlink", "unlink")
        do("create+write 4k", "create4k")
        do("open+read+close", "read4k", warm=True)
        shutil.rmtree(top)


class StatCold(Work):
    name = "stat cold"
    rows = ("stat cold",)

    def run(self, system, clients, step):
        top = self.fresh(system, clients)
        metaops("create", top, self.args.ops, clients)
        drop_caches()
        step("stat cold",
             lambda: metaops("stat1", top, self.args.ops, clients))
        shutil.rmtree(top)


class Walk(Work):
    """Of a tree that was there before the mount."""

    name = "walk"
    needs = ("walk",)
    rows = ("find -size cold", "find -size warm", "ls -lR cold", "ls -lR warm")

    def run(self, system, clients, step):
        top = system.mnt / "walk"
        for row, argv in (
                ("find -size", ("find", top, "-size", "+1000k")),
                ("ls -lR", ("ls", "-lR", top))):
            def walk(argv=argv):
                return at_once(self.args.files * clients,
                               *[argv] * clients)
            drop_caches()
            step(f"{row} cold", walk)
            walk()
            step(f"{row} warm", walk)


class Git(Work):
    name = "git"
    needs = ("git",)
    rows = ("git status cold", "git status warm")

    def run(self, system, clients, step):
        argv = ("git", "--no-optional-locks", "-c", "safe.directory=*", "-C",
                system.mnt / "git", "status", "--porcelain")

        def status():
            return at_once(SOURCES * clients, *[argv] * clients)

        # Times and numbers differ after a copy: the index learns them.
        run("git", "-c", "safe.directory=*", "-C", system.mnt / "git",
            "update-index", "-q", "--refresh")
        drop_caches()
        step("git status cold", status)
        status()
        step("git status warm", status)


class Tree(Work):
    name = "tree"
    rows = ("untar", "rm -rf")

    def run(self, system, clients, step):
        top = self.fresh(system, clients, "tree")
        tar = self.args.dir / "sources.tar"
        for row, argvs in (
                ("untar", [("tar", "-xf", tar, "-C", top / str(n))
                           for n in range(clients)]),
                ("rm -rf", [("rm", "-rf", top / str(n) / "src")
                            for n in range(clients)])):
            step(row, lambda argvs=argvs: at_once(SOURCES * clients, *argvs))
            self.args.disk.settle()
        shutil.rmtree(top)


def make_sources(directory):
    """A tree of the shape of a source tree, the same each time, and its tar."""
    rand = random.Random(1)
    top = directory / "sources" / "src"
    for i in range(SOURCES):
        d = rand.randrange(SOURCE_DIRS)
        parent = top / f"part{d % 16:02}" / f"module{d:03}"
        parent.mkdir(parents=True, exist_ok=True)
        size = min(int(rand.lognormvariate(8.6, 1.2)), 400_000)
        (parent / f"file{i:04}.c").write_bytes(rand.randbytes(size))
    with tarfile.open(directory / "sources.tar", "w") as tar:
        tar.add(top, arcname="src")
    shutil.rmtree(directory / "sources")


def make_git(directory, where):
    """A repository of it."""
    top = where / "git"
    top.mkdir()
    git = ("git", "-c", "safe.directory=*", "-c", "gc.auto=0", "-c",
           "user.name=bench", "-c", "user.email=bench@localhost", "-C", top)
    run("tar", "-xf", directory / "sources.tar", "-C", top)
    run(*git, "init", "-q")
    run(*git, "add", ".")
    run(*git, "commit", "-q", "-m", "sources")


def fill(args, needs, front: Path):
    """What the works look at, in a directory that is not mounted yet."""
    if "data" in needs:
        for n in range(max(args.clients)):
            os.link(args.disk.path / f"data{n}", front / f"data{n}")
    if "walk" in needs:
        (front / "walk" / "0").mkdir(parents=True)
        metaops("tree", front / "walk", args.files)
    if "git" in needs:
        make_git(args.dir, front)


def all_of(args):
    return [Ops(args), StatCold(args), Walk(args), Git(args), Tree(args)]
