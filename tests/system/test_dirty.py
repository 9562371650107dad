# SPDX-License-Identifier: MIT
"""DIRTY: what is written to a released file is there, whatever comes after it,
and the target has nothing to do with it."""

import contextlib
import errno
import mmap
import os
import random
import stat
import struct
import subprocess
import sys
import threading
import time

import pytest

from both import SIZE, Both, dirty, released, stub
from conftest import MODES
from files import FALLOC_KEEP_SIZE, FALLOC_ZERO_RANGE, GIB, MIB, data, put
from rig import EA_SPILL, NOBODY, binary, run, wait_for
from test_load import Churn

TWO_MODES = [m.split("-") for m in MODES if m in ("ext4-on", "xfs-off")]

CHANGES = {
    "write": lambda f: f.write(100000, b"middle"),
    "write_page": lambda f: f.write(8192, data(4096, "page")),
    "write_first": lambda f: f.write(0, b"first"),
    "write_beyond": lambda f: f.write(SIZE + 50000, b"far"),
    "write_all": lambda f: f.write(0, data(SIZE + 5, "all")),
    "append": lambda f: f.append(b"tail"),
    "shorter": lambda f: f.truncate(70001),
    "longer": lambda f: f.truncate(SIZE + 100000),
    "shorter_longer": lambda f: (f.truncate(5000), f.truncate(SIZE)),
    "punch": lambda f: f.punch(5000, 65536),
    "punch_end": lambda f: f.punch(SIZE - 10, 65536),
    "zero": lambda f: f.zero(10, 100000, FALLOC_ZERO_RANGE),
    "zero_keep": lambda f: f.zero(
        SIZE - 10, 50000, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE),
    "zero_beyond": lambda f: f.zero(SIZE - 10, 50000, FALLOC_ZERO_RANGE),
}


@pytest.fixture(name="small")
def small_tier(one):
    """A tier whose smallest files are written to as they are."""
    one.mount("restore_below=0", "restore_after=never")
    yield one


# -- what is written ----------------------------------------------------------

def test_changes_do_no_io_at_the_target(small):
    """Each is there at once, after a mount and after a restore; until it is
    read, with the caches dropped, the target's disk has nothing to do."""
    files = {n: Both(small.mnt / n, seed=n) for n in CHANGES}
    small.release(small.mnt)
    small.remount("restore_below=0", "restore_after=never")
    disk = small.target_disk
    disk.drop_caches()
    # What the daemon looks at now and then, to see that the disk is there.
    (small.target / small.name / "identity").read_bytes()
    with disk.frozen():
        before = disk.ios()[0]
        for name, change in CHANGES.items():
            change(files[name])
            fd = os.open(files[name].path, os.O_WRONLY)
            os.fsync(fd)
            os.close(fd)
            assert files[name].path.stat().st_size == len(files[name].bytes)
            assert small.state(files[name].path) == "dirty", name
        # What was written over as a whole isn't read there either.
        files["write_all"].check()
        assert disk.ios()[0] == before
    for _ in range(2):
        for both in files.values():
            both.check()
        small.remount("restore_below=0", "restore_after=never")
        with disk.frozen():
            for both in files.values():
                assert both.path.stat().st_size == len(both.bytes)
    small.do("restore", "-r", small.mnt)
    for both in files.values():
        assert small.state(both.path) == "none"
        both.check()
    wait_for(lambda: not small.objects())


def test_many_changes(small):
    """In any order, one on the other, the file moved in between."""
    dice = random.Random(3)
    both = Both(small.mnt / "f")
    for _ in range(12):
        # One that was cut to nothing may be on its way back.
        wait_for(lambda: small.ctl("migrate", "--release",
                                   both.path).status == 0)
        for _ in range(dice.choice([1, 5, 60])):
            both.any_change(dice)
            if dice.randrange(5) == 0:
                both.check()
        both.check()
        if dice.randrange(3) == 0:
            small.remount("restore_below=0")
            both.check()
    small.do("restore", both.path)
    both.check()
    wait_for(lambda: not small.objects())


def test_mapping(small):
    """A mapping of a released file reads the object, and is written to."""
    both = released(small, "f")
    with open(both.path, "r+b") as f:
        with mmap.mmap(f.fileno(), 0) as m:
            for at in (0, 5000, 4096 * 50 - 2, SIZE - 4):
                m[at:at + 4] = b"mmap"
                both.written(at, b"mmap")
            m.flush()
            both.check()
            m[9000:9005] = b"after"
            both.written(9000, b"after")
        both.check()
    both.check()
    small.remount("restore_below=0")
    both.check()
    small.release(both.path)
    both.check()


def test_handles(small):
    """What one writes, all others read; each by a way of its own."""
    both = released(small, "f")
    fds = [os.open(both.path, flags) for flags in (
        os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY)]
    reader, second, appender, writer = fds
    assert os.pread(reader, 100, 50) == both.bytes[50:150]
    both.write(60, b"one", writer)
    both.write(62, b"two", second)
    for fd in (reader, second):
        assert os.pread(fd, 100, 50) == both.bytes[50:150]
    for n in range(20):
        piece = b"%d," % n
        assert os.write(appender, piece) == len(piece)
        both.bytes += piece
    os.ftruncate(writer, SIZE + 10)
    del both.bytes[SIZE + 10:]
    assert os.write(appender, b"end") == 3
    both.bytes += b"end"
    assert os.lseek(second, 0, os.SEEK_END) == len(both.bytes)
    both.check()
    small.do("restore", both.path)
    # They all go on.
    both.write(70, b"after", writer)
    assert os.write(appender, b"more") == 4
    both.bytes += b"more"
    assert os.pread(reader, SIZE * 2, 0) == both.bytes
    for fd in fds:
        os.close(fd)
    both.check()


def test_what_a_write_shows(small):
    """Times as on any file; inode number and blocks stay what they were or
    grow; setuid goes when another writes."""
    both = released(small, "f")
    os.chmod(both.path, 0o4777)
    before = both.path.stat()
    time.sleep(0.02)
    both.write(5, b"x")
    after = both.path.stat()
    assert after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_ino == before.st_ino
    assert after.st_blocks >= before.st_blocks > 0
    small.mnt.chmod(0o755)
    run(sys.executable, "-c", "import os, sys; "
        "os.pwrite(os.open(sys.argv[1], os.O_WRONLY), b'y', 6)", both.path,
        user=NOBODY, group=NOBODY, extra_groups=[])
    both.written(6, b"y")
    assert stat.S_IMODE(both.path.stat().st_mode) == 0o777
    shown = both.path.stat()
    small.remount("restore_below=0")
    # Settled, mounted again, restored: nothing of it shows.
    for _ in range(2):
        now = both.path.stat()
        for name in ("st_mtime_ns", "st_ctime_ns", "st_ino", "st_size",
                     "st_mode"):
            assert getattr(now, name) == getattr(shown, name), name
        assert now.st_blocks > 0
        small.do("restore", both.path)
    both.check()


# -- when it is restored ------------------------------------------------------

def test_restored_first(one):
    """Small files and those with several names; a link ends a log."""
    one.mount("restore_below=200K")
    big = released(one, "big")
    little = released(one, "little", 100000)
    named = released(one, "named")
    os.link(named.path, one.mnt / "other")
    for both in (big, little, named):
        both.write(7, b"write")
    assert one.state(big.path) == "dirty"
    assert one.state(little.path) == one.state(named.path) == "none"
    os.link(big.path, one.mnt / "link")
    assert one.state(big.path) == "none"
    assert (one.mnt / "link").samefile(big.path)
    assert big.path.stat().st_nlink == 2
    for both in (big, little, named):
        both.check()
    assert (one.mnt / "link").read_bytes() == big.bytes
    wait_for(lambda: not one.objects())


@pytest.fixture(name="slow")
def slow_disk(rig):
    disk = rig.disk("slow", "ext4", GIB)
    if not disk.throttle(read_bps=0):
        pytest.skip("the blkio cgroup of this machine can't be used")
    yield disk
    disk.throttle(read_bps=0)


@pytest.mark.parametrize("limit", ["dirty_entries=20", "dirty_bytes=64K"])
def test_past_a_limit(rig, slow, limit):
    """Restored in the background from a slow disk, while writes go on and
    wait for nothing."""
    tier = rig.tier(target=slow)
    try:
        tier.mount("restore_below=0", limit)
        both = released(tier, "f", 6 * MIB)
        slow.throttle(read_bps=MIB)
        dice, longest, count = random.Random(1), 0, 0
        with open(both.path, "r+b", buffering=0) as f:
            until = time.monotonic() + 60
            while tier.state(both.path) == "dirty" or count < 10:
                assert time.monotonic() < until, "never restored"
                start = time.monotonic()
                for _ in range(10):
                    both.write(dice.randrange(6 * MIB), dice.randbytes(1000),
                               f.fileno())
                longest = max(longest, time.monotonic() - start)
                count += 10
                time.sleep(0.01)
            assert tier.state(both.path) == "none"
            both.write(dice.randrange(6 * MIB), b"after", f.fileno())
        print(f"{count} writes, 10 in at most {longest * 1000:.0f} ms")
        # The restore takes six seconds. The end of it, when the front is
        # synced, may be waited for where the machine is busy.
        assert longest < 4
        both.check()
        wait_for(lambda: not tier.objects())
    finally:
        slow.throttle(read_bps=0)
        tier.close()


def test_cut_to_nothing(small):
    """truncate(0) and O_TRUNC need nothing of the object any more."""
    a, b, c = dirty(small, "a"), dirty(small, "b"), released(small, "c")
    with small.target_disk.frozen():
        a.truncate(0)
        b.path.write_bytes(b"new")
        c.truncate(0)
        a.write(3, b"again")
        b.bytes = bytearray(b"new")
        for both in (a, b, c):
            both.check()
    wait_for(lambda: {small.state(p.path) for p in (a, b, c)} == {"none"})
    for both in (a, b, c):
        both.check()
    wait_for(lambda: not small.objects())


def fill_up(path):
    """Not a block is free then, root's reserve included."""
    with open(path, "wb", buffering=0) as f:
        for size in (MIB, 4096):
            with contextlib.suppress(OSError):
                while True:
                    f.write(b"x" * size)


def test_no_space(rig, one):
    """A full front gives ENOSPC; what was written before is there, also after
    a kill, and with room it goes on."""
    disk = rig.disk("dirty-front", "ext4", 32 * MIB)
    one.front.rmdir()
    one.front = disk.path / one.name
    one.front.mkdir()
    one.mount("restore_below=0")
    both = released(one, "f", 8 * MIB)
    filler, dice = one.mnt / "filler", random.Random(5)
    usage = os.statvfs(one.mnt)
    with open(filler, "wb") as f:
        os.posix_fallocate(f.fileno(), 0,
                           usage.f_bavail * usage.f_frsize - MIB)
    with pytest.raises(OSError) as e:
        for _ in range(40):
            both.write(dice.randrange(8 * MIB), dice.randbytes(60000))
    assert e.value.errno == errno.ENOSPC
    both.check()
    one.kill()
    ballast = disk.path / "ballast"
    fill_up(ballast)
    one.mount("restore_below=0")
    both.check()
    filler.unlink()
    ballast.unlink()
    both.write(77, b"room")
    both.check()
    assert one.state(both.path) == "dirty"
    one.do("restore", both.path)
    both.check()


# -- names ---------------------------------------------------------------------

def test_unlinked(small):
    """Its end leaves no object and no log."""
    gone, over, used = (dirty(small, n) for n in ("gone", "over", "used"))
    put(small.mnt / "new", 100)
    with open(used.path, "r+b", buffering=0) as f:
        for both in (gone, used):
            both.path.unlink()
        os.rename(small.mnt / "new", over.path)
        used.write(2000, b"still here", f.fileno())
        assert os.pread(f.fileno(), SIZE, 0) == used.bytes
        assert os.fstat(f.fileno()).st_nlink == 0
    assert over.path.read_bytes() == data(100)
    wait_for(lambda: not small.objects())
    wait_for(lambda: not [p for d in ("orphans", "staging", "inodes")
                          for p in (small.front / ".tierfs" / d).iterdir()])


def test_renamed(small):
    both = dirty(small, "f")
    (small.mnt / "dir").mkdir()
    new = small.mnt / "dir" / "g"
    os.rename(both.path, new)
    both.path = new
    both.write(50, b"more")
    both.check()
    assert small.state(new) == "dirty"
    small.do("restore", new)
    both.check()


# -- what is asked for -----------------------------------------------------------

def test_commands(small):
    both = dirty(small, "f")
    status = small.status(both.path)
    assert status["size"] == SIZE and status["front_bytes"] > 0
    assert len(status["copies"]) == 1
    assert os.getxattr(both.path, "user.tierfs.state") == b"dirty"
    assert small.mount_status()["states"]["dirty"] == {
        "files": 1, "bytes": SIZE}
    assert "dirty" in small.ctl("status", both.path, text=True).out
    answer = small.ctl("migrate", both.path)
    assert answer.status == 1 and answer.json[0]["result"] == "refused"
    assert "restore" in answer.json[0]["reason"]
    assert small.state(both.path) == "dirty"
    for command in (["release"], ["migrate", "--release"]):
        old = small.status(both.path)["copies"]
        small.do(*command, both.path)
        assert small.state(both.path) == "released"
        assert small.status(both.path)["copies"] != old
        both.check()
        wait_for(lambda: len(small.objects()) == 1)
        both.write(9, b"again")
        assert small.state(both.path) == "dirty"
    small.do("pin", both.path)
    wait_for(lambda: small.state(both.path) == "none")
    both.check()
    counts = small.mount_status()["states"]
    assert counts["dirty"]["files"] == 0 and counts["none"]["files"] == 1


def test_target_is_away(rig, one):
    """Writing and fsync go on, and what was written is read."""
    disk = rig.disk("gone", "ext4", 256 * MIB)
    one.target.rmdir()
    one.target = disk.path / one.name
    one.target.mkdir()
    one.mount("restore_below=0")
    both, new = dirty(one, "f"), released(one, "new")
    one.umount()
    disk.umount()
    try:
        one.mount("restore_below=0")
        for file in (both, new):
            with open(file.path, "r+b", buffering=0) as f:
                file.write(102400, data(8192, "away"), f.fileno())
                os.fsync(f.fileno())
            file.append(b"tail")
            assert one.state(file.path) == "dirty"
            with open(file.path, "rb", buffering=0) as f:
                assert os.pread(f.fileno(), 8192, 102400) == data(8192, "away")
                with pytest.raises(OSError) as e:
                    os.pread(f.fileno(), 4096, 200000)
                assert e.value.errno == errno.EIO
        one.umount()
    finally:
        disk.mount()
    one.mount("restore_below=0")
    for file in (both, new):
        file.check()
    one.do("restore", "-r", one.mnt)
    for file in (both, new):
        file.check()


# -- crashes -----------------------------------------------------------------------

def test_kill_9(small):
    """What write(2) took is there, whoever is killed."""
    files = [released(small, f"f{i}") for i in range(4)]
    dice = random.Random(11)
    for turn in range(4):
        for n, both in enumerate(files):
            for _ in range(dice.randrange(1, 20)):
                both.any_change(dice)
            if n % 2:
                subprocess.run(["sync", both.path], check=True)
        small.kill()
        small.mount("restore_below=0")
        for both in files:
            both.check()
        if turn == 2:
            small.release(files[0].path)
    small.do("restore", "-r", small.mnt)
    for both in files:
        both.check()
    wait_for(lambda: not small.objects())


def test_torn_tails(small):
    """The last entry cut or followed by what is none: it is dropped, and the
    log goes on."""
    files = {n: dirty(small, n) for n in ("cut", "rest", "zeros", "whole")}
    small.remount("restore_below=0")
    for both in files.values():
        both.write(5000, b"last")
    small.kill()
    cut = stub(small, files["cut"])
    os.truncate(cut, cut.stat().st_size - 1)
    files["cut"].bytes[5000:5004] = data(SIZE, "cut")[5000:5004]
    with open(stub(small, files["rest"]), "ab") as f:
        f.write(data(1000, "rest"))
    with open(stub(small, files["zeros"]), "ab") as f:
        f.write(bytes(100))
    before = {n: stub(small, b).stat().st_mtime_ns for n, b in files.items()}
    small.mount("restore_below=0")
    for name, both in files.items():
        both.check()
        assert both.path.stat().st_mtime_ns == before[name], name
        both.write(7000, b"next")
        both.check()
    small.remount("restore_below=0")
    for both in files.values():
        both.check()
        small.do("restore", both.path)
        both.check()


def crc32c(buf):
    crc = 0xffffffff
    for byte in buf:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def test_damaged_logs(small):
    """A synced log that rotted or is of a newer version gives EIO and a
    message for each file, and is left as it is."""
    files = {n: dirty(small, n) for n in ("rotten", "cut", "newer", "good")}
    for both in files.values():
        both.write(SIZE, b"more")
    small.umount()
    names = {n: stub(small, b) for n, b in files.items()}
    rotten = bytearray(names["rotten"].read_bytes())
    rotten[100] ^= 1
    names["rotten"].write_bytes(rotten)
    os.truncate(names["cut"], names["cut"].stat().st_size - 1)
    newer = bytearray(names["newer"].read_bytes())
    newer[8:16] = struct.pack("<II", 2, 0)
    newer[12:16] = struct.pack("<I", crc32c(newer[:64]))
    names["newer"].write_bytes(newer)
    small.damaged = {"damaged-log"}
    was = {n: (p.read_bytes(), os.getxattr(p, EA_SPILL))
           for n, p in names.items()}
    small.mount("restore_below=0")
    for name in ("rotten", "cut", "newer"):
        with pytest.raises(OSError) as e:
            files[name].path.read_bytes()
        assert e.value.errno == errno.EIO, name
        with pytest.raises(OSError) as e:
            files[name].write(0, b"x")
        assert e.value.errno == errno.EIO, name
        assert small.ctl("restore", files[name].path).status == 1
        wait_for(lambda n=name: f" {n} (inode " in small.tail())
        assert names[name].read_bytes() == was[name][0], name
        assert os.getxattr(names[name], EA_SPILL) == was[name][1], name
    files["good"].check()


@pytest.mark.parametrize("mode", [m.split("-") for m in MODES
                                  if m in ("ext4-on", "xfs-on")],
                         ids=lambda m: m[0])
def test_power_cut(own):
    """What was fsynced is there, and of what came after some first part."""
    own.mount("restore_below=0", "restore_after=never")
    files = [released(own, f"f{i}") for i in range(6)]
    dice = random.Random(13)
    for _ in range(3):
        own.disk.settle()
        for n, both in enumerate(files):
            both.synced()
            for _ in range(dice.randrange(1, 12)):
                both.any_change(dice)
                if n % 3 and dice.randrange(4) == 0:
                    subprocess.run(["sync", both.path], check=True)
                    both.synced()
        own.disk.power_cut()
        own.kill()
        own.disk.umount()
        own.disk.mount()
        own.mount("restore_below=0", "restore_after=never")
        for both in files:
            assert own.state(both.path) == "dirty"
            found = both.path.read_bytes()
            assert any(found == step for step in both.steps), both.path
            both.bytes = bytearray(found)
            both.step()
            both.check()
    own.do("restore", "-r", own.mnt)
    for both in files:
        both.check()
    wait_for(lambda: not own.objects())


# -- load ---------------------------------------------------------------------------

@pytest.mark.slow(300)
@pytest.mark.parametrize("mode", TWO_MODES, ids="-".join)
def test_writers_and_readers(cold, long):
    """Of few files that are moved all the time, past small limits too."""
    cold.mount("restore_below=0", "dirty_entries=30")
    files = [Both(cold.mnt / f"f{i}", SIZE, i) for i in range(4)]
    locks = [threading.Lock() for _ in files]
    end, errors = time.monotonic() + (120 if long else 5), []

    def work(seed):
        dice = random.Random(seed)
        try:
            while time.monotonic() < end and not errors:
                n = dice.randrange(len(files))
                both = files[n]
                if dice.randrange(2):
                    with locks[n]:
                        both.any_change(dice)
                elif dice.randrange(2):
                    with locks[n]:
                        both.check()
                else: # only that it doesn't fail, with a writer beside it
                    both.path.read_bytes()
        except Exception as e:  # pylint: disable=broad-except
            errors.append(e)
            raise

    with Churn(cold) as churn:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors, errors[:3]
    churn.check()
    for both in files:
        both.check()
    # A restore that a log's length has asked for may be under way.
    wait_for(lambda: cold.ctl("migrate", "-r", "--release",
                              cold.mnt).status == 0)
    cold.remount()
    for both in files:
        both.check()
    wait_for(lambda: len(cold.objects()) == len(files))


@pytest.mark.slow(900)
@pytest.mark.parametrize("mode", TWO_MODES, ids="-".join)
def test_fsx(cold, long):
    """From released over and over; what needs a restore is given up, so that
    the logs become long."""
    cold.mount("restore_below=0")
    path = cold.mnt / "fsx"
    seed = random.randrange(1 << 31)
    # The tool's last close may not have reached the daemon.
    release = (f"for i in 1 2 3 4 5 6 7 8; do {binary('tierctl')} -q migrate "
               f"--release {path} 2>/dev/null && exit; sleep 0.$i; done; "
               f"exec {binary('tierctl')} migrate --release {path}")
    done = run(binary("fsx"), "-q", "-N", 200_000 if long else 5000, "-S", seed,
               "-l", MIB, "-x", "collapse", "-x", "insert", "-x", "fallocate",
               "-i", 100, "-c", release, path, check=False, timeout=800)
    assert done.returncode == 0, f"seed {seed}\n{done.stderr[-4000:]}"
