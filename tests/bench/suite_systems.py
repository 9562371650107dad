# SPDX-License-Identifier: MIT
"""What the suite compares: each system serves a directory of its own on the same
disk, all are mounted at the same time, and only one at a time has work."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from bench import progress
from rig import build_dir, is_mounted, run, wait_for

ENABLE_URING = Path("/sys/module/fuse/parameters/enable_uring")

# name: what it is. The first is what all are measured by.
SYSTEMS = {
    "bare": "the front itself",
    "uring": "tierfs over io_uring, with passthrough",
    "dev": "tierfs over /dev/fuse, with passthrough",
    "uring-off": "tierfs over io_uring, passthrough=off",
    "dev-off": "tierfs over /dev/fuse, passthrough=off",
    "hp": "libfuse's passthrough_hp, its defaults",
    "hp-xattr": "passthrough_hp with extended attributes and ACLs to ask for, as "
                "the front and tierfs have, and its own build has not",
    "mergerfs": "mergerfs, cache.files=off",
    "mergerfs-fast": "mergerfs, with all of its caches",
}
OURS = ("uring", "dev", "uring-off", "dev-off")
RIVALS = ("hp", "hp-xattr", "mergerfs", "mergerfs-fast")

# Its free space is looked at before each create, and is less than the default.
MERGERFS = "allow_other,use_ino,minfreespace=0,category.create=ff"
MERGERFS_HOW = {
    "mergerfs": "cache.files=off",
    "mergerfs-fast": "cache.files=auto-full,cache.writeback=true,"
                     "cache.entry=86400,cache.attr=86400,"
                     "cache.negative_entry=86400,cache.readdir=true,"
                     "cache.symlinks=true,cache.statfs=60,"
                     "security_capability=false",
}


class Unavailable(Exception):
    """A system that this machine does not have; says why."""


class System:
    """A directory on the disk, and where it is seen."""

    def __init__(self, name, front):
        self.name, self.front, self.mnt = name, front, front
        self.daemon = self.tier = None

    @property
    def pid(self):
        return self.daemon.pid if self.daemon else None

    def cpu(self):
        """Seconds of CPU time that its daemon has taken."""
        spent = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has ended
                spent += int((task / "schedstat").read_text().split()[0])
        return spent / 1e9

    def settled(self):
        """cpu(), when it has stopped working: at most two seconds later."""
        if not self.pid:
            return 0
        spent, end = self.cpu(), time.monotonic() + 2
        while time.monotonic() < end:
            time.sleep(0.02)
            before, spent = spent, self.cpu()
            if spent - before < 0.0005:
                break
        return spent

    @property
    def connection(self):
        """What the kernel's trace calls it."""
        return os.minor(os.stat(self.mnt).st_dev)


class Enabled:
    """The kernel offers io_uring to what is mounted meanwhile, or does not."""

    def __init__(self, yes):
        self.want, self.was = "Y" if yes else "N", None

    def __enter__(self):
        try:
            self.was = ENABLE_URING.read_text(encoding="ascii").strip()
            if self.was != self.want:
                ENABLE_URING.write_text(self.want, encoding="ascii")
        except OSError as e:
            if self.want == "Y":
                raise Unavailable(f"no FUSE over io_uring: {e}") from e

    def __exit__(self, *_):
        if self.was not in (None, self.want):
            ENABLE_URING.write_text(self.was, encoding="ascii")


HP_DEFINES = {"hp": [], "hp-xattr": ["-DHAVE_SETXATTR", "-DHAVE_SYS_XATTR_H"]}


def make_passthrough_hp(name):
    """Builds it from the source that the daemon's libfuse is from, against the
    same library; or finds it."""
    given = os.environ.get("PASSTHROUGH_HP")
    if given and name == "hp":
        return given
    source = Path(__file__).resolve().parents[2]
    built = next(build_dir().glob("subprojects/fuse-*/lib/libfuse3.a"), None)
    if not built:
        raise Unavailable("no libfuse3.a: the build uses the system's libfuse; "
                          "set PASSTHROUGH_HP")
    source = source / "subprojects" / built.parents[1].name
    program = build_dir() / "tests" / "bench" / f"passthrough_{name}"
    if program.exists() and program.stat().st_mtime > built.stat().st_mtime:
        return program
    if not shutil.which("g++"):
        raise Unavailable("no g++ to build passthrough_hp with")
    progress("building passthrough_hp")
    done = run("g++", "-O2", "-std=gnu++17", "-D_FILE_OFFSET_BITS=64",
               "-D_GNU_SOURCE", "-DFUSE_USE_VERSION=319", "-w",
               *HP_DEFINES[name],
               "-I", built.parents[1], "-I", source / "include",
               "-I", source / "lib", "-o", program,
               source / "example" / "passthrough_hp.cc", built,
               "-lpthread", "-ldl", "-luring", check=False)
    if done.returncode:
        raise Unavailable(f"passthrough_hp: {done.stderr[-300:]}")
    return program


def start(rig, system, argv):
    """A daemon that serves system.mnt until the rig is closed."""
    log = rig.dir / f"{system.mnt.name}.log"
    with open(log, "ab") as out:
        system.daemon = subprocess.Popen(
            [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out,
            stderr=out)
    rig.daemons.append(system.daemon)
    wait_for(lambda: is_mounted(system.mnt)
             or system.daemon.poll() is not None, 30)
    if not is_mounted(system.mnt):
        raise Unavailable(f"{system.name} does not mount: "
                          f"{log.read_text(errors='replace')[-300:]}")


def mount_tierfs(system):
    uring = system.name.startswith("uring")
    with Enabled(uring):
        try:
            system.tier.mount(f"io_uring={'on' if uring else 'off'}")
        except AssertionError as e:
            raise Unavailable(str(e)) from e
    system.daemon = system.tier.daemon
    status = system.tier.mount_status()
    if uring and not status["io_uring"]:
        raise Unavailable(status["io_uring_why"])


def know(system):
    """tierfs learns in the background what was there before it was mounted."""
    wait_for(lambda: system.tier.do("report", system.mnt)[0]["complete"], 600)


def prepare(rig, fs, name, disk):
    """Its directories; not mounted yet, so that they can be filled."""
    if name in OURS:
        tier = rig.tier(fs, "off" if name.endswith("off") else "on", front=disk)
        system = System(name, tier.front)
        system.mnt, system.tier = tier.mnt, tier
        return system
    system = System(name, disk.path / name)
    system.front.mkdir()
    if name != "bare":
        system.mnt = rig.dir / f"mnt-{name}-{fs}"
        system.mnt.mkdir()
    return system


def mount(rig, system):
    """Raises Unavailable where this machine cannot."""
    if system.tier:
        mount_tierfs(system)
        know(system)
    elif system.name in HP_DEFINES:
        start(rig, system, [make_passthrough_hp(system.name), "--foreground",
                            system.front, system.mnt])
    elif system.name in MERGERFS_HOW:
        if not shutil.which("mergerfs"):
            raise Unavailable("no mergerfs (apt-get install mergerfs)")
        start(rig, system, ["mergerfs", "-f", "-o",
                            f"{MERGERFS},{MERGERFS_HOW[system.name]}",
                            system.front, system.mnt])
