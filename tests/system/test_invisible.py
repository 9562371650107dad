# SPDX-License-Identifier: MIT
"""Nobody who uses the mount can tell a released file from a resident one."""

import hashlib
import os
import subprocess
import time

import pytest

from files import (MIB, RENAME_EXCHANGE, data, holes, look, look_all, put,
                   renameat2)
from rig import EA_SPILL, run


def make_tree(top):
    """A tree with one of everything."""
    (top / "d/e").mkdir(parents=True)
    put(top / "plain", 100000)
    put(top / "d/large", 3 * MIB)
    put(top / "d/e/one", 1)
    (top / "empty").touch()
    os.symlink("d/large", top / "symlink")
    os.mkfifo(top / "fifo")
    os.link(top / "plain", top / "d/link")
    with open(top / "sparse", "wb") as f:
        f.truncate(8 * MIB)
        f.seek(2 * MIB)
        f.write(data(MIB))
    put(top / "attributes", 50000)
    os.setxattr(top / "attributes", "user.color", b"blue")
    os.setxattr(top / "attributes", "trusted.note", b"n" * 300)
    run("setfacl", "-m", "u:1234:rw,g:99:r", top / "attributes")
    run("setfacl", "-d", "-m", "u:1234:rwx", top / "d")
    put(top / "owned", 70000)
    os.chown(top / "owned", 1234, 5678)
    os.chmod(top / "owned", 0o6751)
    put(top / "old", 30000)
    os.utime(top / "old", ns=(10**18, 10**18 + 123456789))
    os.sync()


def tar(top):
    """The digest of everything, as a backup would see it. A swap changes the
    ctime of the directory it is in; that of files look_all() compares."""
    done = subprocess.run(
        ["tar", "--sort=name", "--format=posix", "--xattrs", "--acls",
         "--sparse", "--sparse-version=0.0",
         "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=[ac]time",
         "-cf", "-", "-C", top, "."], check=True, capture_output=True)
    return hashlib.sha256(done.stdout).hexdigest()


def assert_same(before, after):
    differ = [f"{name}: {field} was {value}, is {after[name].get(field)}"
              for name, fields in before.items() if name in after
              for field, value in fields.items()
              if after[name].get(field) != value]
    assert before.keys() == after.keys()
    assert not differ, "\n".join(differ)


@pytest.mark.slow(300)
def test_tree(tier):
    """stat, xattrs, holes and tar are the same before, between and after."""
    make_tree(tier.mnt)
    seen, archive = look_all(tier.mnt), tar(tier.mnt)
    extents = holes(tier.mnt / "sparse")

    def unchanged(step):
        try:
            assert_same(seen, look_all(tier.mnt))
            assert holes(tier.mnt / "sparse") == extents
        except AssertionError as e:
            raise AssertionError(f"after {step}: {e}") from None

    unchanged("tar")
    tier.migrate(tier.mnt)
    unchanged("migrate")
    tier.do("release", "-r", tier.mnt)
    assert tier.state(tier.mnt / "sparse") == "released"
    unchanged("release")
    tier.remount()
    unchanged("a remount of the released tree")
    assert tar(tier.mnt) == archive
    tier.do("restore", "-r", tier.mnt)
    assert tier.state(tier.mnt / "sparse") == "migrated"
    unchanged("restore")
    tier.remount()
    unchanged("a remount of the restored tree")
    assert tar(tier.mnt) == archive
    tier.release(tier.mnt)
    unchanged("a second release")
    tier.kill()
    tier.mount()
    unchanged("kill -9 and mounting again")
    assert tar(tier.mnt) == archive


def test_backup_recalls_nothing(tier):
    """Incremental tar, rsync and find -newer see nothing new."""
    make_tree(tier.mnt)
    time.sleep(1.1)
    stamp = tier.rig.dir / f"{tier.name}.stamp"
    stamp.touch()
    snar = tier.rig.dir / f"{tier.name}.snar"
    copy = tier.rig.dir / f"{tier.name}.rsync"
    incremental = ["tar", "-cf", "/dev/null", "-v", "-g", str(snar),
                   "--no-check-device", "-C", str(tier.mnt), "."]
    run(*incremental)
    run("rsync", "-a", f"{tier.mnt}/", copy)
    time.sleep(1.1)
    tier.release(tier.mnt)
    tier.remount()
    listed = [n for n in run(*incremental).stdout.splitlines()
              if not n.endswith("/")]
    assert listed == []
    assert run("rsync", "-ain", f"{tier.mnt}/", copy).stdout == ""
    assert run("find", tier.mnt, "-type", "f", "-newer", stamp).stdout == ""
    assert run("find", tier.mnt, "-type", "f", "-cnewer", stamp).stdout == ""
    run("rm", "-r", copy)


def test_atime_and_mtime_of_release(tier):
    path = tier.mnt / "f"
    put(path, MIB)
    os.utime(path, ns=(1_500_000_000_123456789, 1_400_000_000_987654321))
    before = path.stat()
    tier.release(path)
    after = path.stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_atime_ns == before.st_atime_ns
    tier.do("restore", path)
    after = path.stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_atime_ns == before.st_atime_ns


def test_ctime_moves_when_the_user_changes_something(tier):
    path = tier.mnt / "f"
    put(path, MIB)
    tier.release(path)
    before = path.stat().st_ctime_ns
    time.sleep(0.02)
    os.chmod(path, 0o600)
    moved = path.stat().st_ctime_ns
    assert moved > before
    assert tier.state(path) == "released"
    tier.remount()
    assert path.stat().st_ctime_ns == moved
    time.sleep(0.02)
    tier.do("restore", path)
    assert path.stat().st_ctime_ns == moved
    assert path.stat().st_mode & 0o777 == 0o600


def test_ctime_moves_with_the_names(tier):
    """Of what gets or loses one, whatever it is, and while it is open."""
    for state in ("none", "migrated", "released", "restored"):
        path, second = tier.mnt / state, tier.mnt / f"{state}-2"
        other = tier.mnt / f"{state}-other"
        put(path, MIB)
        tier.bring(path, "released" if state == "restored" else state)
        if state == "restored":
            tier.do("restore", path)
        with open(path, "rb") as f:
            def moves(name, what, step, fd=f.fileno()):
                # What is set beside keeps the ctime for itself.
                tier.do("pin", name)
                tier.do("unpin", name)
                before = os.fstat(fd).st_ctime_ns
                time.sleep(0.02)
                step()
                assert os.fstat(fd).st_ctime_ns > before, (state, what)
            moves(path, "link", lambda: os.link(path, second))
            moves(path, "unlink", second.unlink)
            os.link(path, second)
            put(other, 10)
            moves(path, "rename over", lambda: other.rename(second))
            put(other, 10)
            moves(path, "exchange",
                  lambda: renameat2(other, path, RENAME_EXCHANGE))
            moves(other, "rename", lambda: other.rename(path))
            moves(path, "last unlink", path.unlink)


def test_mtime_moves_when_it_is_written(tier):
    """Through a handle, and through a mapping alone."""
    import mmap
    for state in ("none", "migrated", "released"):
        path = tier.mnt / state
        put(path, MIB)
        tier.bring(path, state)
        before = path.stat()
        time.sleep(0.02)
        with open(path, "r+b") as f:
            f.write(b"x")
        after = path.stat()
        assert after.st_mtime_ns > before.st_mtime_ns, state
        assert after.st_ctime_ns > before.st_ctime_ns, state
        time.sleep(0.02)
        with open(path, "r+b") as f:
            m = mmap.mmap(f.fileno(), 0)
        m[0:1] = b"y"
        m.flush()
        m.close()
        assert path.stat().st_mtime_ns > after.st_mtime_ns, state


def test_directory_mtime(tier):
    """The swap of a restore puts back the times of the directory."""
    top = tier.mnt / "d"
    top.mkdir()
    put(top / "f", MIB)
    tier.release(top)
    before = top.stat().st_mtime_ns
    time.sleep(0.02)
    tier.do("restore", top / "f")
    assert top.stat().st_mtime_ns == before


def test_inode_numbers_stay_unique(tier):
    """Numbers of restored files are not given to others."""
    for i in range(30):
        put(tier.mnt / f"f{i}", 5000, i)
    numbers = {p.name: p.stat().st_ino for p in tier.mnt.iterdir()}
    tier.release(tier.mnt)
    tier.do("restore", "-r", tier.mnt)
    for i in range(100):
        put(tier.mnt / f"new{i}", 10)
    tier.remount()
    now = {p.name: p.stat().st_ino for p in tier.mnt.iterdir()}
    assert len(set(now.values())) == len(now), "two files, one number"
    for name, number in numbers.items():
        assert now[name] == number, name
    listed = {e.name: e.inode() for e in os.scandir(tier.mnt)}
    assert listed == now


def test_meta_directory_is_hidden(tier):
    assert ".tierfs" not in os.listdir(tier.mnt)
    assert not os.path.lexists(tier.mnt / ".tierfs")
    with pytest.raises(OSError):
        (tier.mnt / ".tierfs/format").read_bytes()
    with pytest.raises(OSError):
        os.mkdir(tier.mnt / ".tierfs")
    with pytest.raises(OSError):
        os.rename(tier.mnt / ".tierfs", tier.mnt / "x")
    # Only there: elsewhere the name is a name.
    (tier.mnt / "sub/.tierfs").mkdir(parents=True)
    assert (tier.front / ".tierfs/format").exists()


def test_spill_ea_is_hidden(tier):
    path = tier.mnt / "f"
    put(path, MIB)
    tier.release(path)
    assert os.getxattr(tier.front / "f", EA_SPILL)
    assert os.listxattr(path) == []
    with pytest.raises(OSError):
        os.getxattr(path, EA_SPILL)
    for name in (EA_SPILL, "trusted.tierfs.other", "user.tierfs.state"):
        with pytest.raises(OSError):
            os.setxattr(path, name, b"x")
        with pytest.raises(OSError):
            os.removexattr(path, name)
    assert os.getxattr(path, "user.tierfs.state") == b"released"
    assert look(path)["xattrs"] == {}


def test_damaged_ea_is_never_touched(one):
    """What is no EA of any version: EIO, and it stays as it is."""
    one.damaged = {"damaged-attribute"}
    path = one.front / "f"
    path.touch()
    os.setxattr(path, EA_SPILL, b"\xfe" + bytes(59))
    put(one.front / "other", 1000)
    one.mount()
    with pytest.raises(OSError) as e:
        (one.mnt / "f").read_bytes()
    assert e.value.errno == 5
    with pytest.raises(OSError):
        (one.mnt / "f").write_bytes(b"x")
    assert one.ctl("migrate", one.mnt / "f").status == 1
    assert len((one.mnt / "other").read_bytes()) == 1000
    one.umount()
    assert os.getxattr(path, EA_SPILL) == b"\xfe" + bytes(59)
