# SPDX-License-Identifier: MIT
"""Requests over io_uring: which way is taken, and that one who waits there keeps
nobody else from being answered."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rig import drop_caches, fuse_parameter, is_mounted, wait_for

# The kernel has one parameter for all.
pytestmark = pytest.mark.xdist_group("io_uring")

DATA = b"x" * 65536
CPU = min(os.sched_getaffinity(0))

# Asks something of the mount at argv[2] argv[3] times, on the CPU argv[1].
ASK = """
import errno, os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
for i in range(int(sys.argv[3])):
    for ask in (lambda: os.stat(f"{sys.argv[2]}/none-{os.getpid()}-{i}"),
                lambda: os.getxattr(f"{sys.argv[2]}/known", "user.none")):
        try:
            ask()
            sys.exit("what is not there was found")
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ENODATA):
                raise
"""

READ = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
sys.stdout.write("r")
sys.stdout.flush()
with open(sys.argv[2], "rb") as f:
    sys.exit(f.read() != b"x" * 65536)
"""

# Waits for the file to be restored, and can be interrupted, even if the tests run
# in the background of a shell, which has them ignore it.
OPEN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.sched_setaffinity(0, {int(sys.argv[1])})
sys.stdout.write("r")
sys.stdout.flush()
os.open(sys.argv[2], os.O_WRONLY)
"""

# io_uring_setup(2) fails with EPERM for the command that follows, as it does in
# many containers.
FORBID = """
import ctypes, os, struct, sys
code = (0x20, 0, 0, 0), (0x15, 0, 1, 425), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)
filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(filters))
if ctypes.CDLL(None, use_errno=True).prctl(22, 2, program):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(name="over")
def over_io_uring(one):
    """Mounts with the option given, where io_uring is on in the kernel."""
    def mount(*options):
        with fuse_parameter("Y"):
            one.mount("io_uring=on", *options)
        assert one.mount_status()["io_uring"], one.mount_status()
        return one
    return mount


def two_ask(tier, times=50):
    """Two clients, on the CPU whose ring has requests that wait."""
    asking = [subprocess.Popen([sys.executable, "-c", ASK, str(CPU),
                                str(tier.mnt), str(times)])
              for _ in range(2)]
    try:
        return [p.wait(30) for p in asking] == [0, 0]
    except subprocess.TimeoutExpired:
        return False
    finally:
        for p in asking:
            p.kill()


def reader(script, name):
    return subprocess.Popen([sys.executable, "-c", script, str(CPU),
                             str(name)], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL)


def waits(process):
    """Does it wait for an answer?"""
    where = Path(f"/proc/{process.pid}/wchan").read_text(encoding="ascii")
    return "folio" in where or "request" in where


def tasks(tier, comm):
    """The states of the daemon's threads whose names begin so."""
    found = []
    for task in Path(f"/proc/{tier.daemon.pid}/task").iterdir():
        try:
            name, rest = (task / "stat").read_text().split(") ")
        except FileNotFoundError:
            continue
        if name.split("(", 1)[1].startswith(comm):
            found.append(rest[0])
    return found


def test_which_way(one):
    with fuse_parameter("Y"):
        one.mount("io_uring=auto")
        assert one.mount_status()["io_uring"] is True
        assert "requests come over io_uring" in one.log.read_text()
        assert "io_uring    yes" in one.ctl("--mount", one.mnt, "status",
                                            text=True).out
        one.remount("io_uring=off")
        status = one.mount_status()
        assert status["io_uring"] is False
        assert "io_uring=off" in status["io_uring_why"]
        assert "/dev/fuse: switched off" in one.log.read_text()
        one.umount()
    with fuse_parameter("N"):
        one.mount("io_uring")
        status = one.mount_status()
        assert status["io_uring"] is False
        assert "enable_uring" in status["io_uring_why"]
        assert "enable_uring" in one.ctl("--mount", one.mnt, "status",
                                         text=True).out
        (one.mnt / "f").write_bytes(b"x")
        one.umount()
    assert "io_uring=perhaps: none of" in one.refused("io_uring=perhaps")


def test_io_uring_is_forbidden(one):
    """Then neither the kernel's requests nor the targets' I/O can have it."""
    with fuse_parameter("Y"):
        one.mount("io_uring=on", wrapper=(sys.executable, "-c", FORBID))
    status = one.mount_status()
    assert status["io_uring"] is False
    assert "not permitted" in status["io_uring_why"]
    name = one.mnt / "f"
    name.write_bytes(DATA)
    one.release(name)
    assert one.state(name) == "released"
    assert name.read_bytes() == DATA
    one.do("restore", name)
    assert name.read_bytes() == DATA
    one.umount()


def test_writers_that_wait(over, one):
    """The front takes no writes, and those who write are more than a ring has
    entries, and more than there are workers."""
    one.passthrough = "off"
    tier = over()
    (tier.mnt / "known").touch()
    names = [tier.mnt / f"w{i}" for i in range(40)]
    fds = [os.open(n, os.O_WRONLY | os.O_CREAT) for n in names]

    def write(fd):
        os.sched_setaffinity(0, {CPU})  # of this thread
        os.write(fd, b"x" * 4096)

    writers = [threading.Thread(target=write, args=(fd,)) for fd in fds]
    with tier.disk.frozen():
        for thread in writers:
            thread.start()
        wait_for(lambda: "D" in tasks(tier, "fuse-"))
        assert two_ask(tier)
    for thread in writers:
        thread.join()
    for fd in fds:
        os.close(fd)
    assert all(n.stat().st_size == 4096 for n in names)
    assert set(tasks(tier, "fuse-ring")) <= {"S", "R"}


def test_readers_that_wait(over, slow):
    """The target is slow, and more wait for it than a ring has entries."""
    tier = over("restore_after=never", "policy=manual")
    (tier.mnt / "known").touch()
    names = [tier.mnt / f"r{i}" for i in range(24)]
    for name in names:
        name.write_bytes(DATA)
    tier.release(*names)
    drop_caches()
    slow.slow(1)
    readers = [reader(OPEN if name == names[0] else READ, name)
               for name in names]
    try:
        for p in readers:
            assert p.stdout.read(1) == b"r"
        wait_for(lambda: all(map(waits, readers)))
        assert two_ask(tier)
        # One that waits can be interrupted.
        readers[0].send_signal(signal.SIGINT)
        assert readers[0].wait(30) != 0
        assert readers[1].poll() is None
        slow.slow(0)
        assert [p.wait(60) for p in readers[1:]] == [0] * (len(names) - 1)
    finally:
        slow.slow(0)
        for p in readers:
            p.kill()
            p.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_with_requests_in_flight(over, slow, how, monkeypatch):
    # What is open at the end is left to the end of the process.
    monkeypatch.setitem(slow.rig.env, "ASAN_OPTIONS",
                        slow.rig.env["ASAN_OPTIONS"].replace(
                            "detect_leaks=1", "detect_leaks=0"))
    tier = over("restore_after=never")
    name = tier.mnt / "f"
    name.write_bytes(DATA)
    tier.release(name)
    drop_caches()
    slow.slow(1)
    waiting = reader(READ, name)
    assert waiting.stdout.read(1) == b"r"
    wait_for(lambda: waits(waiting))
    daemon = tier.daemon
    daemon.send_signal(how)
    assert waiting.wait(30) != 0
    slow.slow(0)
    if how == signal.SIGTERM:
        tier.ended()
        assert not is_mounted(tier.mnt)
    else:
        daemon.wait(60)
        tier.daemon = None
        subprocess.run(["umount", "-l", tier.mnt], check=True)
    over()
    assert name.read_bytes() == DATA
