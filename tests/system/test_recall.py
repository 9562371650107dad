# SPDX-License-Identifier: MIT
"""Clients that wait for a slow target: never stuck, never in the way."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from files import MIB, data, digest, put
from rig import binary, drop_caches, run, wait_for


# Signals end it, as they end cat; a handler would wait for the page.
READER = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
with open(sys.argv[1], "rb", buffering=0) as f:
    f.read(int(sys.argv[2]))
"""


@pytest.mark.crossed(0)
@pytest.mark.slow(400)
def test_two_thousand_files_by_fifty_readers(tier):
    """All come back whole, and meanwhile ls doesn't stall."""
    top = tier.mnt / "many"
    top.mkdir()
    for i in range(2000):
        put(top / f"{i:04}", 16384, i)
    tier.release(top)
    tier.remount("restore_after=0")
    wrong, stalls, over = [], [], threading.Event()

    def reader(k):
        for i in range(k, 2000, 50):
            if (top / f"{i:04}").read_bytes() != data(16384, i):
                wrong.append(i)

    def lister():
        while not over.is_set():
            start = time.monotonic()
            subprocess.run(["ls", "-l", top], check=True,
                           stdout=subprocess.DEVNULL)
            stalls.append(time.monotonic() - start)
            time.sleep(0.05)

    threads = [threading.Thread(target=reader, args=(k,)) for k in range(50)]
    listing = threading.Thread(target=lister)
    listing.start()
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - start
    over.set()
    listing.join()
    print(f"{took:.1f} s, ls at most {max(stalls):.2f} s")
    assert not wrong
    # However slow the machine is: none waited until all were read.
    assert max(stalls) < max(5, took / 2)
    wait_for(lambda: {s["state"] for s in tier.do(
        "status", *[top / f"{i:04}" for i in range(0, 2000, 97)])}
        == {"migrated"})


def test_metadata_does_not_wait(slow):
    """With readers stuck at the target, everything else answers at once."""
    slow.mount()
    for i in range(8):
        put(slow.mnt / f"cold{i}", 8 * MIB, i)
    warm = put(slow.mnt / "warm", MIB)
    slow.release(*[slow.mnt / f"cold{i}" for i in range(8)])
    slow.slow(MIB // 2)
    readers = [subprocess.Popen([sys.executable, "-c", READER,
                                 slow.mnt / f"cold{i}", str(8 * MIB)])
               for i in range(8)]
    writers = [subprocess.Popen(
        [sys.executable, "-c", "import sys; open(sys.argv[1], 'ab').write(b'x')",
         slow.mnt / f"cold{i}"]) for i in range(4)]
    try:
        time.sleep(0.5)
        start = time.monotonic()
        os.listdir(slow.mnt)
        assert (slow.mnt / "cold5").stat().st_size == 8 * MIB
        put(slow.mnt / "new", 1000)
        os.rename(slow.mnt / "new", slow.mnt / "newer")
        assert (slow.mnt / "warm").read_bytes() == warm
        slow.status(slow.mnt / "cold1")
        took = time.monotonic() - start
        # The readers take two minutes.
        assert took < 20, f"{took:.1f} s"
        assert any(r.poll() is None for r in readers), "not slow enough"
    finally:
        slow.slow(0)
    for process in readers + writers:
        assert process.wait(60) == 0


def test_many_wait_in_the_background(slow):
    """More than the kernel allows by default: closing a file is a request in the
    background, too, and is told the daemon all the same."""
    slow.mount("restore_after=never", "policy=manual")
    put(slow.mnt / "cold", 8 * MIB)
    put(slow.mnt / "closed", 5000)
    slow.release(slow.mnt / "cold")
    slow.migrate(slow.mnt / "closed")
    drop_caches()
    slow.slow(1)
    reader = subprocess.Popen(
        ["fio", "--name=r", f"--filename={slow.mnt / 'cold'}", "--rw=randread",
         "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=64",
         "--thread"], stdout=subprocess.DEVNULL, cwd=slow.front.parent)
    try:
        wait_for(lambda: slow.unanswered() >= 13)
        # Not in this process, which could not be ended while it waits.
        run(sys.executable, "-c", READER, slow.mnt / "closed", 1, timeout=60)
        slow.do("release", slow.mnt / "closed")
        assert slow.state(slow.mnt / "closed") == "released"
        assert reader.poll() is None, "not slow enough"
    finally:
        slow.slow(0)
        assert reader.wait(60) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_waiting_reader_is_interrupted(slow, how):
    slow.mount()
    put(slow.mnt / "f", 32 * MIB)
    slow.release(slow.mnt / "f")
    slow.slow(MIB // 4)
    reader = subprocess.Popen([sys.executable, "-c", READER, slow.mnt / "f",
                               str(32 * MIB)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        assert reader.poll() is None, "not slow enough"
        start = time.monotonic()
        reader.send_signal(how)
        reader.wait(60)
        took = time.monotonic() - start
    finally:
        slow.slow(0)
    assert took < 20, f"{took:.1f} s, not two minutes"
    assert reader.returncode == -how
    assert digest(slow.mnt / "f")


# Python's own handler, which isn't there where SIGINT is ignored (as it is in
# what a script started with "&"): open(2) must give EINTR for it to run.
WRITER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
open(sys.argv[1], "r+b")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_waiting_writer_is_interrupted(slow, how):
    """An open for writing of a file with two names waits for the restore; the
    restore outlives it or is cancelled, and the file is whole either way."""
    slow.mount()
    content = put(slow.mnt / "f", 16 * MIB)
    os.link(slow.mnt / "f", slow.mnt / "second")
    slow.release(slow.mnt / "f")
    slow.slow(MIB // 4)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, slow.mnt / "f"],
                              stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: slow.do("--mount", slow.mnt, "queue"))
        assert writer.poll() is None, "not slow enough"
        start = time.monotonic()
        writer.send_signal(how)
        writer.wait(60)
        took = time.monotonic() - start
    finally:
        slow.slow(0)
    assert took < 20, f"{took:.1f} s, not one minute"
    assert writer.returncode == -how
    assert (slow.mnt / "f").read_bytes() == content


def test_umount_while_migrating(slow):
    """Nothing in flight is lost."""
    disk = slow.rig.disks["slow"]
    slow.mount()
    content = put(slow.mnt / "f", 64 * MIB)
    disk.throttle(write_bps=8 * MIB)
    try:
        slow.do("migrate", "--no-wait", "--release", slow.mnt / "f")
        time.sleep(0.5)
        slow.umount()
    finally:
        disk.throttle(write_bps=0)
    slow.mount()
    assert (slow.mnt / "f").read_bytes() == content


def test_queue_and_cancel(slow):
    disk = slow.rig.disks["slow"]
    slow.mount()
    content = put(slow.mnt / "f", 64 * MIB)
    disk.throttle(write_bps=4 * MIB)
    try:
        slow.do("migrate", "--no-wait", slow.mnt / "f")
        (job,) = wait_for(lambda: slow.do("--mount", slow.mnt, "queue"))
        assert {"id", "op", "path", "target", "bytes", "done", "rate", "eta",
                "state"} <= job.keys()
        assert job["op"] == "migrate"
        assert job["path"] == str(slow.mnt / "f")
        assert job["bytes"] == 64 * MIB
        # Its intent is committed before.
        assert wait_for(lambda: slow.state(slow.mnt / "f") == "migrating")
        slow.do("--mount", slow.mnt, "cancel", str(job["id"]))
        wait_for(lambda: not slow.do("--mount", slow.mnt, "queue"))
    finally:
        disk.throttle(write_bps=0)
    assert slow.state(slow.mnt / "f") == "none"
    wait_for(lambda: not slow.objects())
    assert (slow.mnt / "f").read_bytes() == content
    assert slow.ctl("--mount", slow.mnt, "cancel", str(job["id"])).status == 1


def test_interrupting_tierctl_cancels(slow):
    disk = slow.rig.disks["slow"]
    slow.mount()
    put(slow.mnt / "f", 64 * MIB)
    disk.throttle(write_bps=4 * MIB)
    try:
        tool = subprocess.Popen([binary("tierctl"), "migrate", slow.mnt / "f"],
                                stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        wait_for(lambda: slow.do("--mount", slow.mnt, "queue"))
        tool.send_signal(signal.SIGINT)
        assert tool.wait(60) != 0
        wait_for(lambda: not slow.do("--mount", slow.mnt, "queue"))
    finally:
        disk.throttle(write_bps=0)
    assert slow.state(slow.mnt / "f") == "none"


def test_open_for_writing_cancels_migration(slow):
    """A writer doesn't wait for the copy to the target."""
    disk = slow.rig.disks["slow"]
    slow.mount()
    content = put(slow.mnt / "f", 160 * MIB)
    disk.throttle(write_bps=4 * MIB)
    try:
        slow.do("migrate", "--no-wait", slow.mnt / "f")
        wait_for(lambda: slow.state(slow.mnt / "f") == "migrating")
        start = time.monotonic()
        with open(slow.mnt / "f", "r+b") as f:
            f.write(b"first")
        took = time.monotonic() - start
    finally:
        disk.throttle(write_bps=0)
    assert took < 15, f"{took:.1f} s, not 40"
    assert (slow.mnt / "f").read_bytes() == b"first" + content[5:]
    assert slow.state(slow.mnt / "f") == "none"
    wait_for(lambda: not slow.objects())


def overdue(call, seconds=1):
    """call() gives EIO, when recall_timeout says so."""
    start = time.monotonic()
    with pytest.raises(OSError) as e:
        call()
    took = time.monotonic() - start
    assert e.value.errno == 5, e.value
    # Without it, an hour.
    assert seconds * 0.9 < took < seconds + 30, f"{took:.1f} s"


@pytest.mark.parametrize("call", [
    lambda f: f.read_bytes(), lambda f: open(f, "r+b").close(),
    lambda f: os.truncate(f, 5000)], ids=["read", "open", "truncate"])
def test_recall_timeout(slow, call):
    """A target that is there and doesn't answer in time: EIO, and a line that
    says why. When it answers again, all is as before. The files have two names
    each: others are written to without a restore."""
    slow.mount("recall_timeout=1s", "restore_after=never")
    top = slow.mnt / "dir"
    top.mkdir()
    before = {i: put(top / f"f{i}", MIB, i) for i in range(30)}
    for i in before:
        os.link(top / f"f{i}", top / f"second{i}")
    slow.release(top)
    slow.rig.disks["slow"].drop_caches()
    slow.slow(1024)
    try:
        overdue(lambda: call(top / "f0"))
        # Also when many wait, and nothing else waits for them.
        failed = []

        def client(i):
            try:
                call(top / f"f{i}")
            except OSError as e:
                failed.append(e.errno)
        threads = [threading.Thread(target=client, args=(i,))
                   for i in range(30)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        assert slow.mnt.stat() and os.listdir(slow.mnt) == ["dir"]
        for thread in threads:
            thread.join(60)
        took = time.monotonic() - start
        assert failed == [5] * 30
        assert took < 20, f"{took:.1f} s, not 30, one after the other"
    finally:
        slow.slow(0)
    lines = [line for line in slow.log.read_text().splitlines()
             if "did not answer" in line]
    assert lines and "/dir/f0" in lines[0] and slow.target.name in lines[0]
    assert len(lines) < took + 4, lines
    slow.remount("restore_after=0")
    for i, content in before.items():
        assert (top / f"f{i}").read_bytes() == content


def test_recall_timeout_is_changed(slow):
    """It holds for who waits already."""
    slow.mount("restore_after=never")
    content = put(slow.mnt / "f", 4 * MIB)
    slow.release(slow.mnt / "f")
    slow.rig.disks["slow"].drop_caches()
    slow.slow(1024)

    changer = threading.Timer(2, slow.change, ["recall_timeout=3s"])
    try:
        changer.start()
        overdue((slow.mnt / "f").read_bytes, 3)
        slow.change("recall_timeout=none")
    finally:
        slow.slow(0)
        changer.join()
    assert (slow.mnt / "f").read_bytes() == content


def test_recall_timeout_of_a_hung_target(slow):
    """The target's file system hangs, and then goes on."""
    slow.mount("recall_timeout=1s", "restore_after=never")
    content = put(slow.mnt / "f", 8 * MIB)
    slow.release(slow.mnt / "f")
    slow.rig.disks["slow"].drop_caches()
    slow.slow(1)
    try:
        overdue((slow.mnt / "f").read_bytes)
    finally:
        slow.slow(0)
    slow.umount()
    slow.mount()
    assert (slow.mnt / "f").read_bytes() == content


def test_no_recall_timeout(slow):
    """Without one nobody is given up, however long it takes."""
    slow.mount("recall_timeout=none")
    content = put(slow.mnt / "f", 4 * MIB)
    slow.release(slow.mnt / "f")
    slow.rig.disks["slow"].drop_caches()
    slow.slow(MIB)
    try:
        assert (slow.mnt / "f").read_bytes() == content
    finally:
        slow.slow(0)
