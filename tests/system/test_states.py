# SPDX-License-Identifier: MIT
"""Every operation does to a file in any state what it does on the front's own
file system: the same result, the same contents after."""

import fcntl
import mmap
import os
import shutil
import stat
import struct
import subprocess
import time

import pytest

from conftest import MODES
from files import (FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, MIB,
                   data, fallocate, holes, put)
from rig import run, wait_for

SIZE = 300 * 1024 + 7
STATES = ["none", "migrated", "released", "restored"]


# -- operations: each gets a path, and returns what a program can tell -----

def op_read(path):
    return path.read_bytes()


def op_read_pieces(path):
    with open(path, "rb", buffering=0) as f:
        pieces = [os.pread(f.fileno(), n, at) for n, at in (
            (1, 0), (4096, 4095), (100000, 123456), (10, SIZE - 5),
            (10, SIZE), (10, SIZE + 100000))]
    return pieces


def op_write_middle(path):
    with open(path, "r+b") as f:
        f.seek(100000)
        return f.write(b"middle")


def op_write_past_end(path):
    with open(path, "r+b") as f:
        f.seek(SIZE + 50000)
        return f.write(b"far")


def op_append(path):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        return os.write(fd, b"tail"), os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        os.close(fd)


def op_read_write(path):
    with open(path, "r+b", buffering=0) as f:
        head = f.read(5000)
        f.write(head[::-1])
        f.seek(0)
        return f.read()


def op_open_write_only_closed(path):
    os.close(os.open(path, os.O_WRONLY))


def op_o_trunc(path):
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"new")
    os.close(fd)
    return path.stat().st_size


def op_truncate_zero(path):
    os.truncate(path, 0)
    return path.stat().st_size


def op_truncate_shorter(path):
    os.truncate(path, 70001)
    return path.stat().st_size


def op_truncate_longer(path):
    os.truncate(path, SIZE + 100000)
    return path.read_bytes()[-100000:]


def op_ftruncate(path):
    with open(path, "r+b") as f:
        f.truncate(8192)
        f.seek(10)
        f.write(b"x")


def op_o_direct_read(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buf = mmap.mmap(-1, 1 * MIB)
    try:
        n = os.preadv(fd, [buf], 0)
        return n, buf[:n]
    finally:
        os.close(fd)


def op_o_direct_write(path):
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    buf = mmap.mmap(-1, 8192)
    buf.write(data(8192, "direct"))
    try:
        return os.pwritev(fd, [buf], 4096)
    finally:
        os.close(fd)


def op_mmap_read(path):
    with open(path, "rb") as f:
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            return m[:10], m[200000:200100], m[-10:]


def op_mmap_write(path):
    with open(path, "r+b") as f:
        with mmap.mmap(f.fileno(), 0) as m:
            m[5000:5004] = b"mmap"
            m.flush()
            return m[4990:5010]


def op_mmap_private(path):
    with open(path, "rb") as f:
        with mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE,
                       prot=mmap.PROT_READ | mmap.PROT_WRITE) as m:
            m[0:4] = b"priv"
            return m[0:8]


def op_punch(path):
    with open(path, "r+b") as f:
        fallocate(f.fileno(), FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 4096,
                  65536)


def op_zero_range(path):
    with open(path, "r+b") as f:
        fallocate(f.fileno(), FALLOC_ZERO_RANGE, 10, 100000)


def op_fallocate(path):
    with open(path, "r+b") as f:
        fallocate(f.fileno(), 0, 0, SIZE + 65536)
    return path.stat().st_size


def op_fallocate_keep(path):
    with open(path, "r+b") as f:
        fallocate(f.fileno(), FALLOC_KEEP_SIZE, 0, SIZE + 65536)
    return path.stat().st_size


def op_copy_file_range_from(path):
    other = path.with_name("copy")
    with open(path, "rb") as i, open(other, "wb") as o:
        n = os.copy_file_range(i.fileno(), o.fileno(), 100000, 50000, 10)
    return n, other.read_bytes()


def op_copy_file_range_to(path):
    other = path.with_name("source")
    put(other, 200000, "source")
    with open(other, "rb") as i, open(path, "r+b") as o:
        return os.copy_file_range(i.fileno(), o.fileno(), 100000, 5, 777)


def op_sendfile(path):
    other = path.with_name("sent")
    with open(path, "rb") as i, open(other, "wb") as o:
        n = os.sendfile(o.fileno(), i.fileno(), 50, 100000)
    return n, other.read_bytes()


def op_rename(path):
    path.rename(path.with_name("renamed"))
    path.with_name("renamed").rename(path)


def op_rename_over(path):
    other = path.with_name("other")
    put(other, 1000, "other")
    os.rename(other, path)
    return path.read_bytes()


def op_rename_onto(path):
    other = path.with_name("other")
    put(other, 1000, "other")
    os.rename(path, other)
    os.rename(other, path)


def op_link(path):
    other = path.with_name("link")
    os.link(path, other)
    with open(other, "r+b") as f:
        f.write(b"by the link")
    return path.stat().st_nlink, path.read_bytes()[:20]


def op_link_unlink(path):
    other = path.with_name("link")
    os.link(path, other)
    os.unlink(path)
    content = other.read_bytes()
    os.rename(other, path)
    return content


def op_unlinked_open(path):
    with open(path, "r+b", buffering=0) as f:
        os.unlink(path)
        head = f.read(100000)
        f.seek(0)
        f.write(b"still here")
        f.seek(0)
        return head, f.read(), os.fstat(f.fileno()).st_nlink, path.exists()


def op_unlink_recreate(path):
    os.unlink(path)
    put(path, 10, "again")


def op_setuid_cleared(path):
    os.chmod(path, 0o6755)
    os.chown(path, 1234, 1234)
    return stat.S_IMODE(path.stat().st_mode)


def op_chmod_utime(path):
    os.chmod(path, 0o640)
    os.utime(path, ns=(10**18, 10**18 + 5))
    st = path.stat()
    return st.st_mode, st.st_mtime_ns, st.st_atime_ns


def op_xattrs(path):
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.big", b"v" * 1000)
    os.setxattr(path, "user.a", b"2")
    got = os.getxattr(path, "user.a"), sorted(os.listxattr(path))
    os.removexattr(path, "user.a")
    return got, os.listxattr(path)


def op_acl(path):
    subprocess.run(["setfacl", "-m", "u:1234:rwx,g:77:r", path], check=True)
    out = subprocess.run(["getfacl", "-cn", path], check=True,
                         capture_output=True, text=True).stdout
    return out, stat.S_IMODE(path.stat().st_mode)


def op_flags(path):
    """FS_IOC_GETFLAGS, then append-only, and off again."""
    fd = os.open(path, os.O_RDONLY)
    try:
        old = struct.unpack("i", fcntl.ioctl(fd, 0x80086601, b"\0" * 4 + b"\0" * 4)[:4])[0]
        fcntl.ioctl(fd, 0x40086602, struct.pack("l", old | 0x20))
        try:
            os.truncate(path, 0)
            refused = False
        except PermissionError:
            refused = True
        fcntl.ioctl(fd, 0x40086602, struct.pack("l", old))
        return refused
    finally:
        os.close(fd)


def op_fsync(path):
    with open(path, "r+b") as f:
        f.write(b"synced")
        f.flush()
        os.fsync(f.fileno())
        os.fdatasync(f.fileno())


def op_lock(path):
    with open(path, "r+b") as f, open(path, "r+b") as g:
        fcntl.flock(f, fcntl.LOCK_EX)
        try:
            fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "held"
    return "not held"


def op_two_readers_one_writer(path):
    with open(path, "rb", buffering=0) as a, open(path, "rb") as b:
        head = a.read(1000)
        with open(path, "r+b", buffering=0) as w:
            w.write(b"W" * 2000)
            os.fsync(w.fileno())
            seen = b.read(2000), a.read(2000)
        return head, seen


def op_cp(path):
    other = path.with_name("cp")
    subprocess.run(["cp", "-a", path, other], check=True)
    return other.read_bytes()


OPERATIONS = sorted(name for name in globals() if name.startswith("op_"))


def outcome(op, directory):
    """What op gives on a file in directory, and everything there after."""
    path = directory / "file"
    try:
        result = op(path)
    except OSError as e:
        result = ("errno", e.errno)
    return result, {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.mark.slow(600)
@pytest.mark.parametrize("state", STATES)
def test_as_on_the_front(tier, bare, state):
    """All operations; one report of all that differ."""
    all_operations(tier, bare, state)


@pytest.mark.slow(600)
@pytest.mark.parametrize("mode", [m.split("-") for m in MODES
                                  if m in ("ext4-on", "xfs-off")],
                         ids="-".join)
@pytest.mark.parametrize("state", ["released", "dirty"])
def test_as_on_the_front_with_a_log(cold, bare, state):
    """The same where small files aren't restored for a write."""
    all_operations(cold.mount("restore_below=0"), bare, state)


def all_operations(tier, bare, state):
    differ = []
    for name in OPERATIONS:
        op = globals()[name]
        ours, theirs = tier.mnt / name, bare / name
        for directory in (ours, theirs):
            directory.mkdir()
            put(directory / "file", SIZE, "states")
        tier.bring(ours / "file", state)
        expected = outcome(op, theirs)
        got = outcome(op, ours)
        if got[0] != expected[0]:
            differ.append(f"{name}: {str(got[0])[:200]} instead of "
                          f"{str(expected[0])[:200]}")
        elif got[1] != expected[1]:
            differ.append(f"{name}: left other contents")
    assert not differ, "\n".join(differ)
    # Nothing shows only in caches either.
    after = {name: outcome(op_read, tier.mnt / name)[1] for name in OPERATIONS}
    tier.remount()
    for name in OPERATIONS:
        assert outcome(op_read, tier.mnt / name)[1] == after[name], name
    # And everything can go around once more.
    tier.release(tier.mnt)
    for name in OPERATIONS:
        assert outcome(op_read, tier.mnt / name)[1] == after[name], name


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1 * MIB, 9 * MIB + 1])
def test_sizes(tier, size):
    path = tier.mnt / "f"
    content = put(path, size)
    (result,) = tier.do("migrate", "--release", path)
    assert result["result"] == ("done" if size else "already"), result
    assert tier.state(path) == ("released" if size else "none")
    assert path.read_bytes() == content
    tier.do("restore", path)
    assert path.read_bytes() == content
    assert path.stat().st_size == size


@pytest.mark.crossed(0)
def test_20_gib_sparse(tier):
    path = tier.mnt / "sparse"
    size = 20 << 30
    pieces = {0: b"head", 5 << 30: data(MIB, 5), (20 << 30) - 10: b"0123456789"}
    with open(path, "wb") as f:
        f.truncate(size)
        for at, piece in pieces.items():
            f.seek(at)
            f.write(piece)
        os.fsync(f.fileno())
    blocks, extents = path.stat().st_blocks, holes(path)
    start = time.monotonic()
    tier.release(path)
    assert time.monotonic() - start < 60, "holes were copied"
    for _ in range(2):
        assert path.stat().st_blocks == blocks
        assert holes(path) == extents
        with open(path, "rb") as f:
            for at, piece in pieces.items():
                f.seek(at)
                assert f.read(len(piece)) == piece
            f.seek(3 << 30)
            assert f.read(MIB) == bytes(MIB)
        tier.do("restore", path)
    (obj,) = tier.status(path)["copies"]
    assert os.stat(obj["object"]).st_blocks * 512 < 16 * MIB


@pytest.mark.parametrize("name", [
    "with\nnewline", "n" * 255, " ", "-rf", "ä€𝄞", b"\xff\xfe\x80", "a\tb\\c\"d'",
    ".hidden", "..."])
def test_names(tier, name):
    path = os.path.join(os.fsencode(tier.mnt), os.fsencode(name))
    with open(path, "wb") as f:
        f.write(data(50000))
    text = os.fsdecode(path)
    tier.do("migrate", "--release", text)
    (status,) = tier.do("status", text)
    assert status["state"] == "released"
    if isinstance(name, str):
        assert status["path"] == text
    with open(path, "rb") as f:
        assert f.read() == data(50000)
    tier.do("restore", text)
    assert os.fsencode(name) in os.listdir(os.fsencode(tier.mnt))
    done = tier.ctl("release", "-0", "--files-from=-",
                    input=text + "\0")
    assert done.status == 0, done.err
    assert tier.state(text) == "released"


def test_exec_released(tier):
    path = tier.mnt / "true"
    shutil.copy2("/bin/true", path)
    os.sync()
    tier.release(path)
    assert subprocess.run([path], check=False).returncode == 0
    script = tier.mnt / "script"
    script.write_text("#!/bin/sh\necho from a script\n")
    script.chmod(0o755)
    tier.release(script)
    assert subprocess.run([script], check=True, capture_output=True,
                          text=True).stdout == "from a script\n"


def test_released_tree_moves_and_goes(tier):
    """Directories of released files; objects go when their files do."""
    top = tier.mnt / "a"
    top.mkdir()
    for i in range(20):
        put(top / f"f{i}", 10000 + i, i)
    tier.release(top)
    assert len(tier.objects()) == 20
    top.rename(tier.mnt / "b")
    assert (tier.mnt / "b/f7").read_bytes() == data(10007, 7)
    shutil.rmtree(tier.mnt / "b")
    wait_for(lambda: not tier.objects())


def test_object_of_unlinked_open_file(tier):
    """The object stays as long as someone can read it."""
    path = tier.mnt / "f"
    content = put(path, 2 * MIB)
    tier.release(path)
    with open(path, "rb") as f:
        path.unlink()
        time.sleep(0.5)
        assert f.read() == content
    wait_for(lambda: not tier.objects())


def test_rename_over_released(tier):
    put(tier.mnt / "old", MIB, 1)
    new = put(tier.mnt / "new", MIB, 2)
    tier.release(tier.mnt)
    os.rename(tier.mnt / "new", tier.mnt / "old")
    assert (tier.mnt / "old").read_bytes() == new
    wait_for(lambda: len(tier.objects()) == 1)


def test_hard_links(tier):
    """One file with three names, whichever name is used."""
    names = [tier.mnt / "a", tier.mnt / "b", tier.mnt / "d/c"]
    (tier.mnt / "d").mkdir()
    content = put(names[0], 2 * MIB)
    os.link(names[0], names[1])
    os.link(names[0], names[2])
    inode = names[0].stat().st_ino
    tier.release(names[1])
    assert len(tier.objects()) == 1
    for name in names:
        assert tier.state(name) == "released"
        assert name.stat().st_nlink == 3
        assert name.stat().st_ino == inode
        assert name.read_bytes() == content
    tier.do("restore", names[2])
    for name in names:
        assert tier.state(name) == "migrated"
        assert name.stat().st_ino == inode
        assert name.stat().st_nlink == 3
        assert name.read_bytes() == content
    with open(names[0], "ab") as f:
        f.write(b"more")
    tier.remount()
    for name in names:
        assert name.read_bytes() == content + b"more"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_restore_after(cold, count):
    """Read in place by so many opens; the next restores it."""
    cold.mount(f"restore_after={count}")
    path = cold.mnt / "f"
    content = put(path, MIB)
    cold.release(path)
    # The kernel keeps it, and so tierfs the count, whoever drops caches.
    held = os.open(path, os.O_PATH)
    # Each by a process of its own: one that comes again is one pass.
    for _ in range(count):
        assert run("cat", path, text=False).stdout == content
        assert cold.state(path) == "released"
    assert run("cat", path, text=False).stdout == content
    wait_for(lambda: cold.state(path) == "migrated")
    assert path.read_bytes() == content
    os.close(held)


def test_never_restored(one):
    one.mount("restore_after=never")
    path = one.mnt / "f"
    content = put(path, MIB)
    one.release(path)
    for _ in range(20):
        assert path.read_bytes() == content
    assert one.state(path) == "released"


def test_restore_under_readers(tier):
    """Open handles keep working through release, restore and release."""
    path = tier.mnt / "f"
    content = put(path, 4 * MIB)
    tier.release(path)
    with open(path, "rb", buffering=0) as f:
        assert f.read(1000) == content[:1000]
        tier.do("restore", path)
        assert f.read(MIB) == content[1000:1000 + MIB]
        f.seek(3 * MIB)
        assert f.read() == content[3 * MIB:]
    # The name now leads to another inode on the front, for the same file.
    with open(path, "rb", buffering=0) as f, open(path, "r+b") as g:
        g.write(b"changed")
        g.flush()
        assert f.read(7) == b"changed"


def test_write_after_reading_in_place(tier):
    """A reader has it open released; a writer comes; both agree."""
    path = tier.mnt / "f"
    content = put(path, 2 * MIB)
    tier.release(path)
    with open(path, "rb", buffering=0) as f:
        assert f.read(100) == content[:100]
        with open(path, "r+b", buffering=0) as g:
            g.seek(MIB)
            g.write(b"written")
        f.seek(MIB)
        assert f.read(7) == b"written"
        f.seek(0)
        assert f.read(100) == content[:100]


def test_changed_after_restore_is_migrated_anew(tier):
    path = tier.mnt / "f"
    put(path, MIB)
    tier.bring(path, "restored")
    with open(path, "r+b") as f:
        f.write(b"new")
    content = path.read_bytes()
    tier.release(path)
    assert path.read_bytes() == content
    assert content[:3] == b"new"
    wait_for(lambda: len(tier.objects()) == 1)
