# SPDX-License-Identifier: MIT
"""What the system tests stand on: disks on loop devices, and a mounted tier.

Everything is made below one scratch directory ($TIERFS_TEST_DIR or /var/tmp)
and undone by it: Rig.close() unmounts, detaches and removes only what this
process made, and ends only daemons that it started.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from files import GIB, libc

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NOBODY = 65534

SANITIZER = re.compile(r"(Address|Leak|Thread|UndefinedBehavior)Sanitizer"
                       r"|: runtime error: ")
EA_SPILL = "trusted.tierfs.spill"
ALL = object()
BLKIO = Path("/sys/fs/cgroup/blkio")
# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN, without a flush of the journal.
IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


def build_dir():
    return Path(os.environ.get("TIERFS_BUILD", ROOT / "build")).resolve()


def binary(name):
    """The built program name, wherever the build puts it."""
    for path in (build_dir() / "src" / name, build_dir() / name,
                 build_dir() / "tests" / "tools" / name):
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    raise FileNotFoundError(f"{name} isn't built in {build_dir()}")


def run(*argv, check=True, **kwargs):
    kwargs.setdefault("capture_output", True)
    kwargs.setdefault("text", True)
    done = subprocess.run([str(a) for a in argv], check=False, **kwargs)
    if check and done.returncode:
        raise AssertionError(f"{argv} gave {done.returncode}: {done.stderr}")
    return done


def wait_for(what, timeout=60.0, step=0.02):
    """Polls what() until it is true; returns its value, or fails."""
    end = time.monotonic() + timeout
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s in vain")
        time.sleep(step)


def is_mounted(path):
    path = str(path)
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        return any(line.split()[4] == path for line in f)


def mount_type(path):
    """The type of the topmost mount at path, or None."""
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        for line in f:
            left, right = line.split(" - ", 1)
            if left.split()[4] == str(path):
                found = right.split()[0]
    return found


@contextlib.contextmanager
def fuse_parameter(value):
    """What is mounted meanwhile is offered io_uring by the kernel, or not."""
    path = Path("/sys/module/fuse/parameters/enable_uring")
    if not path.exists():
        pytest.skip("this kernel's FUSE has no io_uring")
    before = path.read_text(encoding="ascii").strip()
    try:
        path.write_text(value, encoding="ascii")
    except OSError as e:
        pytest.skip(f"{path}: {e.strerror}")
    try:
        yield
    finally:
        path.write_text(before, encoding="ascii")


def waiting_threads(pid):
    """How many of its threads wait for something that a FUSE daemon answers."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            where = (task / "wchan").read_text(encoding="ascii")
            found += any(word in where for word in ("folio", "request",
                                                    "fuse"))
    return found


# -- disks -----------------------------------------------------------------

class Disk:
    """A file system of its own on a loop device."""

    def __init__(self, rig, name, fs, size, options=()):
        self.rig, self.name, self.fs = rig, name, fs
        self.made_as = fs, size, options
        self.image = rig.dir / f"{name}.img"
        self.path = rig.dir / name
        self.path.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(size)
        self.loop = run("losetup", "--find", "--show", "--direct-io=on",
                        self.image).stdout.strip()
        self.throttled = {}
        if fs == "ext4":
            run("mkfs.ext4", "-q", "-E",
                "lazy_itable_init=0,lazy_journal_init=0", "-m", "0", *options, self.loop)
        else:
            run(f"mkfs.{fs}", "-q", "-f", *options, self.loop)
        self.mount()

    def mount(self):
        run("mount", "-t", self.fs, self.loop, self.path)

    def umount(self):
        """Until it is gone: what holds it still, such as another mount
        namespace, would have the next mount find the same file system, as it
        was, a dead one dead."""
        run("umount", self.path)
        wait_for(self.is_free, 60)

    def is_free(self):
        try:
            os.close(os.open(self.loop, os.O_RDONLY | os.O_EXCL))
            return True
        except OSError as e:
            assert e.errno == errno.EBUSY, e
            return False

    def remount(self, options):
        run("mount", "-o", f"remount,{options}", self.path)

    def ios(self):
        """(reads, writes) that the device has done so far."""
        return self.stat(0), self.stat(4)

    def sectors(self):
        """(read, written): those of ios() that aren't only a flush, as each
        sync(2) of anybody on the machine sends one to every disk."""
        return self.stat(2), self.stat(6)

    def stat(self, field):
        """Of Documentation/block/stat.rst."""
        return int(Path("/sys/block", os.path.basename(self.loop),
                        "stat").read_text(encoding="ascii").split()[field])

    def untouched_by(self, what):
        """What what() does causes no I/O. A flush of the disk may be
        another's sync(2), but not each time."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            forget_caches()
            ios, sectors = self.ios(), self.sectors()
            what()
            assert self.sectors() == sectors
            if self.ios() == ios:
                return
        assert self.ios() == ios

    def settle(self):
        """Everything written back, so that what is counted next is caused."""
        fd = os.open(self.path, os.O_RDONLY)
        libc.syncfs(fd)
        os.close(fd)

    @contextlib.contextmanager
    def frozen(self, seconds=60):
        """Nothing is written to the disk meanwhile, not even by its own file
        system; who wants to write is stuck. Reading goes on. After seconds
        it ends by itself, and fails: nothing else frees who is stuck."""
        fd = os.open(self.path, os.O_RDONLY)

        def thaw():
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, FITHAW, 0)

        timer = threading.Timer(seconds, thaw)
        fcntl.ioctl(fd, FIFREEZE, 0)
        timer.start()
        try:
            yield
            assert timer.is_alive(), f"something was stuck for {seconds} s"
        finally:
            timer.cancel()
            timer.join()
            thaw()
            os.close(fd)

    def power_cut(self):
        """What isn't durable is lost, as when the power fails."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(fd)

    def throttle(self, **limits):
        """read_bps=, write_bps=, read_iops=, write_iops= (0: none). False
        where this machine's cgroups don't let us."""
        rdev = os.stat(self.loop).st_rdev
        device = f"{os.major(rdev)}:{os.minor(rdev)}"
        for name, value in limits.items():
            try:
                (BLKIO / f"blkio.throttle.{name}_device").write_text(
                    f"{device} {value}", encoding="ascii")
            except OSError:
                return False
            self.throttled[name] = value
        return True

    def drop_caches(self):
        self.settle()
        drop_caches()

    def close(self):
        self.throttle(**{name: 0 for name, v in self.throttled.items() if v})
        if is_mounted(self.path):
            if run("umount", self.path, check=False).returncode:
                run("umount", "-l", self.path, check=False)
        run("losetup", "-d", self.loop, check=False)
        self.image.unlink()
        if not is_mounted(self.path):
            self.path.rmdir()


def drop_caches():
    os.sync()
    forget_caches()


def forget_caches():
    """What is clean."""
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")


# -- the tier --------------------------------------------------------------

@dataclass
class Answer:
    status: int
    out: str
    err: str

    @property
    def json(self):
        return [json.loads(line) for line in self.out.splitlines()]


class Tier:
    """A front, a target and a mountpoint, and the daemon that serves them."""

    def __init__(self, rig, front, target, mnt, passthrough="auto"):
        self.rig = rig
        self.front, self.target, self.mnt = front, target, mnt
        self.passthrough = passthrough
        self.name = front.name
        self.log = rig.dir / f"{self.name}.log"
        self.daemon = None
        self.may_die = False
        # What a test leaves on purpose: kinds of findings, or all of them.
        self.damaged = set()
        self.targets = {}  # further ones: {name: directory}
        self.disk = self.target_disk = None
        self.fs = None

    # The daemon

    def argv(self, *options, mnt=None, spill=None):
        opts = [f"spill={spill or self.target}", f"name={self.name}",
                f"passthrough={self.passthrough}"]
        if not any(o.startswith("policy=") for o in options):
            opts.append("policy=manual")
        # Whatever else runs on the machine has switched on in the kernel.
        if not any(o.startswith("io_uring") for o in options):
            opts.append("io_uring=" + os.environ.get("TIERFS_TEST_IO_URING",
                                                     "off"))
        opts += options
        return [binary("tierfs"), "-f", "-o", ",".join(opts),
                str(self.front), str(mnt or self.mnt)]

    def mount(self, *options, mnt=None, wrapper=()):
        """Mounts, and returns when the mount answers."""
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen(
                [*wrapper, *self.argv(*options, mnt=mnt)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env=self.rig.env)
        self.rig.daemons.append(self.daemon)
        wait_for(lambda: self.daemon.poll() is not None
                 or (mount_type(mnt or self.mnt) or "").startswith("fuse"), 60)
        if self.daemon.poll() is not None:
            raise AssertionError(
                f"tierfs ended with {self.daemon.returncode}: {self.tail()}")
        os.statvfs(mnt or self.mnt)
        # tierctl finds it a moment later.
        wait_for(lambda: self.daemon.poll() is not None or self.listens(), 60)
        return self

    def listens(self):
        """Does the daemon answer at its socket?"""
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(f"/run/tierfs/{self.name}.sock") == 0

    def refused(self, *options, **kwargs):
        """Mounts what must be refused; returns the message."""
        done = run(*self.argv(*options, **kwargs), check=False, timeout=60,
                   env=self.rig.env)
        assert done.returncode == 1, (done.returncode, done.stderr)
        assert done.stderr.strip(), "refused without a word"
        assert not SANITIZER.search(done.stderr), done.stderr
        assert not is_mounted(kwargs.get("mnt") or self.mnt)
        return done.stderr

    def umount(self):
        run("umount", self.mnt)
        self.ended()

    def ended(self, status=0):
        """Waits for the daemon's own end."""
        try:
            got = self.daemon.wait(60)
        except subprocess.TimeoutExpired:
            raise AssertionError("the daemon doesn't end") from None
        self.daemon = None
        assert got == status, f"the daemon ended with {got}: {self.tail()}"

    def remount(self, *options):
        self.umount()
        return self.mount(*options)

    def change(self, *options):
        """mount -o remount: the daemon goes on."""
        run(binary("tierfs"), "-o", ",".join(("remount", *options)),
            self.front, self.mnt)

    def kill(self):
        """kill -9, and the dead mount removed."""
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None
        run("umount", "-l", self.mnt)

    def tail(self, lines=40):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def rss(self):
        """Resident memory of the daemon in bytes."""
        status = Path(f"/proc/{self.daemon.pid}/status").read_text(
            encoding="ascii")
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024

    def check(self):
        """Fails when the daemon died or a sanitizer has something to say."""
        if self.daemon and self.daemon.poll() is not None and not self.may_die:
            raise AssertionError(f"the daemon died with "
                                 f"{self.daemon.returncode}: {self.tail()}")
        report = self.log.read_text(errors="replace") if self.log.exists() \
            else ""
        found = SANITIZER.search(report)
        if found:
            raise AssertionError(report[max(0, found.start() - 500):
                                        found.start() + 6000])

    def close(self):
        """Undoes the mount; fails as check() does."""
        try:
            self.check()
            if self.daemon and self.daemon.poll() is None:
                if is_mounted(self.mnt):
                    self.umount()
                else:
                    self.daemon.terminate()
                    self.ended()
                self.check()
            self.compare()
        finally:
            self.rig.end(self.daemon)
            self.daemon = None
            while is_mounted(self.mnt):
                run("umount", "-l", self.mnt)
            for path in (self.front, self.target):
                shutil.rmtree(path, ignore_errors=True)

    def compare(self, *options):
        """tierctl check of the front and its target, which nobody serves:
        fails for what the test didn't announce; returns the findings."""
        if (self.damaged is ALL or is_mounted(self.mnt)
                or not (self.front / ".tierfs" / "format").exists()):
            return []
        answer = self.ctl(
            "check", "--front", self.front, *options,
            *(f"--target={name}={path}"
              for name, path in self.known_targets().items()))
        bad = [f for f in answer.json if f["kind"] not in self.damaged]
        assert not bad and answer.status == (1 if answer.json else 0), (
            f"{answer.status}: {answer.err}\n" + "\n".join(map(str, bad)))
        return answer.json

    def known_targets(self):
        """{name: directory} of what the front knows and where it is."""
        text = (self.front / ".tierfs" / "format").read_text(encoding="ascii")
        paths = {self.target.name: self.target} | self.targets
        return {name: paths[name]
                for name in re.findall(r"^target\.\d+=(\S+) ", text, re.M)
                if name in paths}

    # tierctl

    def ctl(self, *args, user=None, timeout=120, text=False, **kwargs):
        """Runs tierctl --json (or without, text=True); never raises."""
        argv = [binary("tierctl")] + ([] if text else ["--json"])
        if user is not None:
            kwargs |= {"user": user, "group": user, "extra_groups": []}
        done = run(*argv, *args, check=False, timeout=timeout,
                   env=self.rig.env, encoding="utf-8",
                   errors="surrogateescape", **kwargs)
        assert not SANITIZER.search(done.stderr), done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)

    def do(self, *args, **kwargs):
        """ctl() that must succeed; returns the objects."""
        answer = self.ctl(*args, **kwargs)
        assert answer.status == 0, (f"{args}: {answer.status}\n{answer.err}\n"
                                    f"{self.tail()}")
        return answer.json

    def status(self, path):
        return self.do("status", path)[0]

    def state(self, path):
        return self.status(path)["state"]

    def unanswered(self):
        """How many requests the kernel has for the daemon, or waits for."""
        top = self.rig.dir / "fusectl"
        if not is_mounted(top):
            top.mkdir(exist_ok=True)
            run("mount", "-t", "fusectl", "none", top)
        number = os.minor(os.stat(self.mnt).st_dev)
        return int((top / str(number) / "waiting").read_text(encoding="ascii"))

    def mount_status(self):
        return next(o for o in self.do("--mount", self.mnt, "status")
                    if o["mount"] == str(self.mnt))

    def migrate(self, *paths):
        return self.do("migrate", "-r", *paths)

    def release(self, *paths):
        """Migrates and releases; what has data must be released then."""
        return self.do("migrate", "-r", "--release", *paths)

    def bring(self, path, state):
        """Brings a file that has data to a state: none, migrated, released,
        dirty (what it held is written again), or restored (migrated again
        after a release)."""
        if state == "migrated":
            self.migrate(path)
        elif state in ("released", "restored", "dirty"):
            head = Path(path).read_bytes()[:6000]
            self.release(path)
        if state == "dirty":
            with open(path, "r+b") as f:
                f.write(head)
        if state == "restored":
            self.do("restore", path)
        want = {"restored": "migrated"}.get(state, state)
        assert self.state(path) == want
        return path

    def objects(self):
        """Paths of all objects at the target."""
        return [p for p in (self.target / self.name).rglob("*")
                if p.is_file() and re.fullmatch("[0-9a-f]{14}", p.name)]


class Rig:
    """All that one test run makes, and its end."""

    def __init__(self):
        base = os.environ.get("TIERFS_TEST_DIR", "/var/tmp")
        self.dir = Path(tempfile.mkdtemp(prefix="tierfs-test.", dir=base))
        self.dir.chmod(0o755)
        self.disks, self.daemons, self.count = {}, [], 0
        self.env = {**os.environ,
                    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:"
                                    f"suppressions={HERE}/asan.supp",
                    "LSAN_OPTIONS": f"suppressions={HERE}/lsan.supp:"
                                    "print_suppressions=0",
                    "UBSAN_OPTIONS": "print_stacktrace=1",
                    "TSAN_OPTIONS": "second_deadlock_stack=1"}

    def disk(self, name, fs, size, options=()):
        """The disk of that name, made at its first use. Who uses it later, in any
        order, must mean the same one."""
        if name not in self.disks:
            self.disks[name] = Disk(self, name, fs, size, options)
        assert self.disks[name].made_as == (fs, size, options), name
        return self.disks[name]

    def drop(self, disk):
        del self.disks[disk.name]
        disk.close()

    def tier(self, fs="ext4", passthrough="auto", front=None, target=None):
        """A tier, not yet mounted, in directories of its own on the shared
        disks of that file system, or on those given."""
        self.count += 1
        # Sockets are named by it: another run's must be others.
        name = f"t{os.getpid()}-{self.count}"
        disk = front or self.disk(f"front-{fs}", fs, 2 * GIB)
        target_disk = target or self.disk(f"target-{fs}", fs, 4 * GIB)
        tier = Tier(self, disk.path / name, target_disk.path / name,
                    self.dir / f"mnt-{name}", passthrough)
        tier.disk, tier.target_disk, tier.fs = disk, target_disk, fs
        for path in (tier.front, tier.target, tier.mnt):
            path.mkdir()
        return tier

    def directory(self, fs="ext4"):
        """A bare directory on the same front, to compare with."""
        self.count += 1
        path = self.disk(f"front-{fs}", fs, 2 * GIB).path / f"d{self.count}"
        path.mkdir()
        return path

    def end(self, daemon):
        if daemon and daemon.poll() is None:
            daemon.kill()
            daemon.wait()

    def give_up(self):
        """A test hangs: say where the daemons are, then end them, which ends
        every request that waits for them."""
        said = []
        for daemon in self.daemons:
            if daemon.poll() is not None:
                continue
            for task in sorted(Path(f"/proc/{daemon.pid}/task").iterdir()):
                try:
                    said.append(f"{task.name} "
                                f"{(task / 'comm').read_text().strip()} in "
                                f"{(task / 'wchan').read_text()}")
                except OSError:
                    pass
            daemon.send_signal(signal.SIGKILL)
        return "\n".join(said)

    def close(self):
        for daemon in self.daemons:
            self.end(daemon)
        with open("/proc/self/mountinfo", encoding="utf-8") as f:
            mine = [line.split()[4] for line in f
                    if line.split()[4].startswith(str(self.dir) + "/")]
        disks = [str(d.path) for d in self.disks.values()]
        for path in reversed(mine):
            if path not in disks:
                run("umount", "-l", path, check=False)
        for disk in self.disks.values():
            disk.close()
        shutil.rmtree(self.dir, ignore_errors=True)
