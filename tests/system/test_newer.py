# SPDX-License-Identifier: MIT
"""What a newer version of tierfs wrote is refused with a message that names
it, and stays as it is, byte for byte."""

import contextlib
import os
import shutil
import sqlite3
import struct

import pytest

from files import MIB, contents, put, renameat2
from rig import ALL, EA_SPILL, run, wait_for

EIO, EPERM = 5, 1


def crc32c(data, crc=0):
    crc ^= 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def newer_ea(ea, room=0):
    """The same EA of version 2, longer by room bytes."""
    ea = bytearray(ea + bytes(range(room % 256)) + bytes(room - room % 256))
    ea[0] = 2
    ea[4:8] = struct.pack("<I", crc32c(ea[8:], crc32c(ea[:4])))
    return bytes(ea)


def errno_of(what, *args, **kwargs):
    with pytest.raises(OSError) as e:
        what(*args, **kwargs)
    return e.value.errno


def objects(tier):
    return {p: p.read_bytes() for p in tier.objects()}


@pytest.fixture(autouse=True)
def compared_by_hand(one):
    one.damaged = ALL


@pytest.fixture(name="files")
def newer_files(one):
    """A tier with a released, a migrated and a plain file, of which a newer
    version then wrote the EAs; mounted again."""
    one.mount()
    for name in ("released", "migrated", "none", "long"):
        put(one.mnt / name, MIB)
    one.release(one.mnt / "released", one.mnt / "long")
    one.migrate(one.mnt / "migrated")
    (one.mnt / "dir").mkdir()
    put(one.mnt / "dir/below", MIB)
    put(one.mnt / "other", 1000)
    one.do("pin", one.mnt / "dir")
    one.do("pin", one.mnt / "none")
    one.umount()
    eas = {}
    for name in ("released", "migrated", "none", "long", "dir"):
        path = one.front / name
        eas[name] = newer_ea(os.getxattr(path, EA_SPILL),
                             1000 if name == "long" else 0)
        os.setxattr(path, EA_SPILL, eas[name])
    front, kept = contents(one.front), objects(one)
    one.mount()
    yield one
    one.umount()
    assert {name: os.getxattr(one.front / name, EA_SPILL)
            for name in eas} == eas
    assert contents(one.front) == front
    assert kept.items() <= objects(one).items()


def test_files(files):
    """Nothing can be done with a file whose EA is newer."""
    mnt = files.mnt
    other = mnt / "other"
    for name in ("released", "migrated", "none", "long"):
        path = mnt / name
        for what, *args in (
                (os.stat, path), (os.open, path, os.O_RDONLY),
                (os.open, path, os.O_WRONLY), (os.truncate, path, 0),
                (os.open, path, os.O_WRONLY | os.O_TRUNC),
                (os.open, path, os.O_WRONLY | os.O_CREAT),
                (os.unlink, path), (os.rename, path, mnt / "moved"),
                (os.rename, other, path), (os.link, path, mnt / "link"),
                (os.link, other, path), (renameat2, other, path, 2),
                (os.chmod, path, 0o600), (os.utime, path),
                (os.listxattr, path), (os.setxattr, path, "user.a", b"b"),
                (os.mkdir, path), (os.symlink, "x", path)):
            assert errno_of(what, *args) == EIO, (name, what, args)
        for command in ("status", "migrate", "release", "restore", "pin",
                        "unpin"):
            answer = files.ctl(command, path)
            assert answer.status == 1, command
            assert "newer version" in answer.err + answer.out, command
    assert sorted(os.listdir(mnt)) == sorted(
        ["released", "migrated", "none", "long", "dir", "other"])
    assert run("rm", "-rf", mnt / "released", check=False).returncode
    # It is named, and the rest works.
    wait_for(lambda: "of the front): its spill EA is of a newer version"
             in files.tail())
    assert len(other.read_bytes()) == 1000


def test_directory(files):
    """A directory whose EA is newer: it works, but nothing is pinned by it,
    and nothing below it leaves the front."""
    top = files.mnt / "dir"
    assert top.stat() and os.listdir(top) == ["below"]
    put(top / "new", 5000)
    os.unlink(top / "new")
    assert "newer" in files.ctl("pin", top).err
    assert "newer" in files.ctl("unpin", top).err
    files.migrate(top / "below")
    answer = files.ctl("release", top / "below")
    assert answer.status == 1 and "pinned" in answer.err + answer.out
    files.do("restore", "-r", top)
    (top / "below").unlink()
    put(top / "below", MIB)


def test_changed_meanwhile(one):
    """What the kernel knows already is asked for the last time: nor is a file
    removed whose EA became a newer one under the mount."""
    one.mount()
    put(one.mnt / "f", MIB)
    put(one.mnt / "g", 100)
    one.release(one.mnt / "f")
    assert (one.mnt / "f").stat().st_size == MIB
    path = one.front / "f"
    ea = newer_ea(os.getxattr(path, EA_SPILL))
    os.setxattr(path, EA_SPILL, ea)
    kept = objects(one)
    assert errno_of(os.unlink, one.mnt / "f") == EIO
    assert errno_of(os.rename, one.mnt / "g", one.mnt / "f") == EIO
    assert errno_of(os.truncate, one.mnt / "f", 0) == EIO
    one.umount()
    assert os.getxattr(path, EA_SPILL) == ea and objects(one) == kept


def test_recovery(one):
    """An intent that a crash left, of a file that a newer version changed."""
    one.mount()
    put(one.mnt / "f", MIB)
    one.migrate(one.mnt / "f")
    fd = os.open(one.mnt / "f", os.O_WRONLY)
    one.kill()
    os.close(fd)
    path = one.front / "f"
    ea = newer_ea(os.getxattr(path, EA_SPILL))
    os.setxattr(path, EA_SPILL, ea)
    kept = objects(one)
    assert kept
    one.mount()
    assert "newer version" in one.tail()
    assert errno_of(os.unlink, one.mnt / "f") == EIO
    one.umount()
    assert os.getxattr(path, EA_SPILL) == ea and objects(one) == kept


def test_format(one):
    """The front's format file."""
    one.mount()
    put(one.mnt / "f", MIB)
    one.release(one.mnt / "f")
    one.umount()
    path = one.front / ".tierfs/format"
    text = path.read_bytes().replace(b"version=1", b"version=2")
    path.write_bytes(text)
    before = contents(one.front)
    why = one.refused()
    assert f"{path}:" in why and "newer" in why
    assert path.read_bytes() == text and contents(one.front) == before


def test_journal(one):
    """The journal."""
    one.mount()
    put(one.mnt / "f", MIB)
    one.umount()
    path = one.front / ".tierfs/journal.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=1000")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    before = path.read_bytes()
    why = one.refused()
    assert "journal.db" in why and "newer" in why
    assert path.read_bytes() == before


def test_identity(one):
    """A target's identity: of a known target, which is offline, and of one
    that the front does not know."""
    one.mount()
    put(one.mnt / "f", MIB)
    put(one.mnt / "g", 1000)
    one.release(one.mnt / "f")
    one.umount()
    path = one.target / one.name / "identity"
    text = b"version=2\nmore=" + path.read_bytes()
    path.write_bytes(text)
    kept = objects(one)
    one.mount()
    target = one.mount_status()["targets"][0]
    assert not target["online"]
    assert str(path) in target["why"] and "newer" in target["why"]
    assert errno_of((one.mnt / "f").read_bytes) == EIO
    assert len((one.mnt / "g").read_bytes()) == 1000
    (one.mnt / "f").unlink()
    assert one.ctl("migrate", one.mnt / "g").status == 1
    one.umount()
    assert path.read_bytes() == text and objects(one) == kept
    shutil.rmtree(one.front / ".tierfs")
    why = one.refused()
    assert str(path) in why and "newer" in why
    assert path.read_bytes() == text and objects(one) == kept


def test_log(one):
    """The log of a file that was written to while released: its data cannot be
    had, and it is not written to."""
    options = ("restore_below=0", "restore_after=never")
    one.mount(*options)
    path = put(one.mnt / "f", MIB) and one.mnt / "f"
    put(one.mnt / "other", 1000)
    one.release(path)
    with open(path, "r+b") as f:
        f.seek(100)
        f.write(b"x" * 4096)
        os.fsync(f.fileno())
    assert one.state(path) == "dirty"
    one.umount()
    log = bytearray((one.front / "f").read_bytes())
    assert log[:8] == b"TIERFSLG"
    log[8:16] = struct.pack("<II", 2, 0)
    log[12:16] = struct.pack("<I", crc32c(log[:64]))
    (one.front / "f").write_bytes(log)
    ea, kept = os.getxattr(one.front / "f", EA_SPILL), objects(one)
    one.mount(*options)
    assert path.stat().st_size == MIB
    assert errno_of(path.read_bytes) == EIO
    assert errno_of(os.truncate, path, 5000) == EIO
    assert errno_of(os.truncate, path, 0) == EIO
    assert errno_of(os.open, path, os.O_WRONLY | os.O_TRUNC) == EIO
    with contextlib.suppress(OSError), open(path, "r+b", buffering=0) as f:
        assert errno_of(f.write, b"y") == EIO
    for command in ("restore", "migrate"):
        assert one.ctl(command, path).status == 1, command
    wait_for(lambda: "its log of writes is of a newer version" in one.tail())
    assert len((one.mnt / "other").read_bytes()) == 1000
    os.rename(path, one.mnt / "moved")
    one.umount()
    assert (one.front / "moved").read_bytes() == log
    assert os.getxattr(one.front / "moved", EA_SPILL)[:2] == ea[:2]
    assert objects(one) == kept
    # Who removes it wants neither.
    one.mount(*options)
    (one.mnt / "moved").unlink()
    wait_for(lambda: not one.objects())
