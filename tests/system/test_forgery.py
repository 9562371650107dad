# SPDX-License-Identifier: MIT
"""What is the daemon's own can be neither reached nor forged through the
mount, by root either; and nobody at its socket holds up others."""

import contextlib
import ctypes
import errno
import json
import os
import socket
import stat
import struct
import time
from pathlib import Path

import pytest

from files import (MIB, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT,
                   data, libc, put, renameat2)
from rig import EA_SPILL, NOBODY, run, wait_for

META = ".tierfs"
OURS = [EA_SPILL, "user.tierfs.spill", "trusted.tierfs.origin",
        "trusted.tierfs.btime", "trusted.tierfs.", "user.tierfs.",
        "user.tierfs.state", "user.tierfs.other", "trusted.tierfs.\xff",
        "trusted.tierfs." + "x" * 240, "user.tierfs." + "x" * 243]
SIZES = [0, 1, 8, 51, 59, 60, 61, 87, 255, 4095, 4096, 65535, 65536]


@contextlib.contextmanager
def as_user(uid):
    """Runs what is inside as another user."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def errno_of(what, *args, **kwargs):
    try:
        got = what(*args, **kwargs)
    except OSError as e:
        return e.errno
    raise AssertionError(f"{what.__name__}{args} gave {got!r}")


def raw_get(path, name, size):
    """lgetxattr(2) with any size: its value or -errno."""
    buf = ctypes.create_string_buffer(max(size, 1))
    n = libc.lgetxattr(os.fsencode(path), os.fsencode(name), buf,
                       ctypes.c_size_t(size))
    return n if n >= 0 else -ctypes.get_errno()


def raw_list(path, size):
    """llistxattr(2) with any size: the names, the size, or -errno."""
    buf = ctypes.create_string_buffer(max(size, 1))
    n = libc.llistxattr(os.fsencode(path), buf, ctypes.c_size_t(size))
    if n < 0:
        return -ctypes.get_errno()
    return buf.raw[:n].split(b"\0")[:-1] if size else n


def eas(top):
    """All attributes of everything on the front, by path."""
    seen = {}
    for parent, dirs, files in os.walk(os.fsencode(top)):
        for name in dirs + files + [b"."]:
            path = os.path.join(parent, name)
            seen[path] = {n: os.getxattr(path, n, follow_symlinks=False)
                          for n in os.listxattr(path, follow_symlinks=False)}
    return seen


@pytest.fixture(name="tree")
def tree_of_all(one):
    """A mounted tier with one of each kind and state."""
    one.mount()
    mnt = one.mnt
    (mnt / "d/e").mkdir(parents=True)
    for name in ("none", "migrated", "released", "d/below"):
        put(mnt / name, MIB)
    one.migrate(mnt / "migrated")
    one.release(mnt / "released")
    os.symlink("none", mnt / "symlink")
    os.mkfifo(mnt / "fifo")
    one.do("pin", mnt / "d/e")
    yield one


# -- attributes --------------------------------------------------------------

def set_and_get(path, privileged):
    for name in OURS:
        known = name == "user.tierfs.state" and path.is_file() \
            and not path.is_symlink()
        for size in SIZES:
            for flags in (0, os.XATTR_CREATE, os.XATTR_REPLACE):
                got = errno_of(os.setxattr, path, name, bytes(size), flags,
                               follow_symlinks=False)
                assert got in (errno.EPERM, errno.EACCES, errno.ENODATA), (
                    path, name, size)
            if not known:
                assert raw_get(path, name, size) in (
                    -errno.ENODATA, -errno.EPERM), (path, name, size)
        assert errno_of(os.removexattr, path, name, follow_symlinks=False) in (
            errno.EPERM, errno.EACCES), (path, name)
    for size in SIZES:
        names = raw_list(path, size)
        assert names in ([], 0), (path, size, names, privileged)


def test_attributes(tree):
    """They are neither set, read, listed nor removed, whoever asks with
    whatever sizes; those beside them are."""
    mnt = tree.mnt
    before = eas(tree.front)
    paths = [mnt, mnt / "d", mnt / "d/e", mnt / "none", mnt / "migrated",
             mnt / "released", mnt / "symlink", mnt / "fifo"]
    for path in paths:
        set_and_get(path, True)
        with as_user(NOBODY):
            set_and_get(path, False)
    assert os.getxattr(mnt / "released", "user.tierfs.state") == b"released"
    for size, want in ((0, 8), (7, -errno.ERANGE), (8, 8), (9, 8)):
        assert raw_get(mnt / "released", "user.tierfs.state", size) == want
    assert eas(tree.front) == before
    for name in ("trusted.tierfs", "trusted.tierfsx.y", "user.tierf",
                 "user.tierfs", "user.x.trusted.tierfs.spill",
                 "user.Tierfs.spill"):
        os.setxattr(mnt / "released", name, b"value")
        assert os.getxattr(mnt / "released", name) == b"value"
        assert os.listxattr(mnt / "released") == [name]
        os.removexattr(mnt / "released", name)
    assert tree.state(mnt / "released") == "released"
    assert (mnt / "released").read_bytes() == data(MIB)


def test_copied_in(tree, rig):
    """A stub of the front, copied into the mount with its attributes by every
    program, becomes the empty file that it looks like."""
    bare = rig.directory()
    stub = bare / "stub"
    stub.touch()
    os.setxattr(stub, EA_SPILL, os.getxattr(tree.front / "released", EA_SPILL))
    os.setxattr(stub, "user.tierfs.spill", b"x")
    os.setxattr(stub, "user.color", b"blue")
    mnt = tree.mnt
    run("cp", "-a", stub, mnt / "cp", check=False)
    run("cp", "--preserve=all", stub, mnt / "cp2", check=False)
    run("rsync", "-aX", "--fake-super", stub, mnt / "rsync", check=False)
    run("rsync", "-aX", stub, mnt / "rsync2", check=False)
    archive = run("tar", "--xattrs", "--xattrs-include=*", "-cf", "-", "-C",
                  bare, "stub", text=False).stdout
    (mnt / "tar").mkdir()
    run("tar", "--xattrs", "--xattrs-include=*", "-xf", "-", "-C",
        mnt / "tar", input=archive, text=False, check=False)
    dump = run("getfattr", "-d", "-m", "-", "--absolute-names", stub).stdout
    (mnt / "setfattr").touch()
    run("setfattr", "--restore=-", check=False,
        input=dump.replace(str(stub), str(mnt / "setfattr")))
    run("mv", stub, mnt / "mv", check=False)
    for name in ("cp", "cp2", "rsync", "rsync2", "tar/stub", "setfattr", "mv"):
        path = mnt / name
        assert path.stat().st_size == 0, name
        assert not [n for n in os.listxattr(tree.front / name)
                    if n.startswith(("trusted.tierfs.", "user.tierfs."))], name
        assert tree.state(path) == "none"
    assert os.getxattr(mnt / "cp", "user.color") == b"blue"
    (mnt / "cp").unlink()
    (mnt / "mv").write_bytes(b"new")
    assert (mnt / "released").read_bytes() == data(MIB)


# -- the daemon's directory ------------------------------------------------------

def refused_names(mnt):
    """Everything that a system call can do with the name."""
    names = [META, f"./{META}", f"{META}/", f"{META}/.", f"d/../{META}",
             f"d/e/../../{META}", f"{META}/format", f"{META}/staging",
             f"{META}/journal.db", f"{META}/../none", "to-meta",
             "to-meta/format", "d/up/../../" + META]
    for name in names:
        path = f"{mnt}//{name}"
        yield from ((f, path) for f in (
            os.stat, os.listdir, os.chdir, os.statvfs, os.rmdir,
            os.listxattr))
        if not name.startswith("to-meta") or "/" in name:
            yield from ((os.lstat, path), (os.unlink, path),
                        (os.readlink, path),
                        (os.mkfifo, path), (os.mkdir, path),
                        (os.symlink, "x", path), (os.link, f"{mnt}/none", path),
                        (os.rename, path, f"{mnt}/out"),
                        (os.rename, f"{mnt}/none", path),
                        (os.rename, f"{mnt}/d/e", path),
                        (renameat2, path, f"{mnt}/d", RENAME_EXCHANGE),
                        (renameat2, f"{mnt}/d", path, RENAME_EXCHANGE),
                        (renameat2, f"{mnt}/d", path, RENAME_NOREPLACE),
                        (renameat2, path, f"{mnt}/out", RENAME_WHITEOUT),
                        (os.link, path, f"{mnt}/out"))
        yield from ((os.chmod, path, 0o777), (os.chown, path, 1, 1),
                    (os.utime, path), (os.truncate, path, 0),
                    (os.getxattr, path, "user.tierfs.state"),
                    (os.setxattr, path, "user.a", b"b"))
        for flags in (os.O_RDONLY, os.O_PATH, os.O_RDWR,
                      os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_TMPFILE,
                      os.O_RDONLY | os.O_DIRECTORY):
            yield os.open, path, flags
        if not name.startswith("to-meta"):
            yield os.open, path, os.O_CREAT | os.O_RDWR
            yield os.open, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY


def assert_none_named(mnt):
    assert META not in os.listdir(mnt)
    assert META not in [e.name for e in os.scandir(mnt)]
    fd = os.open(mnt, os.O_RDONLY)
    buf, seen = ctypes.create_string_buffer(48), b""
    while True:
        n = libc.syscall(217, fd, buf, 48)  # getdents64, entry by entry
        if n <= 0:
            break
        seen += buf.raw[:n]
    os.close(fd)
    assert META.encode() not in seen


def front_state(tier):
    """What of the daemon's directory nobody but it may change."""
    meta = tier.front / META
    return (sorted(os.listdir(meta)), (meta / "format").read_bytes(),
            stat.S_IMODE(meta.stat().st_mode), meta.stat().st_uid)


def test_meta_directory(tree):
    mnt = tree.mnt
    os.symlink(META, mnt / "to-meta")
    (mnt / "d/up").mkdir()
    before, here = front_state(tree), os.getcwd()
    for _ in range(2):  # the kernel knows the name the second time
        for what, *args in refused_names(mnt):
            got = errno_of(what, *args)
            assert got in (errno.ENOENT, errno.EPERM, errno.ENOTDIR,
                           errno.EXDEV, errno.EINVAL, errno.EISDIR), (
                what, args, got)
    assert os.getcwd() == here
    assert not os.path.lexists(mnt / "out")
    fd = os.open(mnt, os.O_RDWR | os.O_TMPFILE, 0o600)
    linked = libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100,
                         os.fsencode(mnt / META), 0x400)
    os.close(fd)
    assert (linked, ctypes.get_errno()) == (-1, errno.EPERM)
    assert run("mount", "--bind", mnt / META, mnt / "d",
               check=False).returncode
    assert_none_named(mnt)
    assert mnt.stat().st_nlink == 2 + sum(p.is_dir() and not p.is_symlink()
                                          for p in mnt.iterdir())
    # Another name, and elsewhere: ordinary.
    for name in (".TIERFS", ".tierf", ".tierfs.", ".tierfs ", "d/.tierfs"):
        (mnt / name).mkdir()
        put(mnt / name / "f", 10)
        os.rename(mnt / name, mnt / "d/moved")
        assert errno_of(os.rename, mnt / "d/moved", mnt / META) == errno.EPERM
        (mnt / "d/moved/f").unlink()
        (mnt / "d/moved").rmdir()
    assert front_state(tree) == before


def test_by_tierctl(tree):
    """Nor can its files be named at the socket."""
    before = front_state(tree)
    for path in ("/.tierfs", "//.tierfs", "/.tierfs/", "/.tierfs/format",
                 "//.tierfs//journal.db", "/d/../.tierfs", "/./.tierfs",
                 "/d/e/../../.tierfs/format", "/..", "/../target"):
        for command in ("status", "migrate", "release", "restore", "pin"):
            said = ask(tree, command=command, paths=[path])
            ok = [a for a in said if a["type"] == "result" and
                  a["data"].get("result") not in ("failed", "refused")]
            assert not ok, (command, path, said)
    tree.do("migrate", "-r", tree.mnt)
    assert len(tree.objects()) == 4
    assert front_state(tree) == before


def handle_of(path, flags=0, size=128):
    buf = ctypes.create_string_buffer(struct.pack("Ii", size, 0) +
                                      bytes(size))
    mount = ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), buf,
                              ctypes.byref(mount), flags):
        return -ctypes.get_errno()
    n = struct.unpack_from("I", buf.raw)[0]
    return buf.raw[:8 + n]


def open_handle(fd, handle):
    got = libc.open_by_handle_at(fd, handle, os.O_RDONLY | os.O_PATH)
    if got < 0:
        return -ctypes.get_errno()
    name = os.readlink(f"/proc/self/fd/{got}")
    os.close(got)
    return name


def test_handles(tree):
    """No handle of the mount is opened, its own or a forged one."""
    mnt = tree.mnt
    fd = os.open(mnt, os.O_RDONLY)
    handles = [handle_of(p, flags) for flags in (0, 0x200)  # AT_HANDLE_FID
               for p in (mnt, mnt / "none", mnt / "d", mnt / "released")]
    handles += [handle_of(tree.front / p) for p in (
        META, f"{META}/format", "none", ".")]
    meta = (tree.front / META).stat().st_ino
    for ino in (0, 1, 2, meta, 1 << 63, 0xffffffffffffffff):
        low, high = ino & 0xffffffff, ino >> 32
        for generation in (0, 1):
            handles.append(struct.pack("Ii3I", 12, 0x81, high, low,
                                       generation))
            handles.append(struct.pack("Ii6I", 24, 0x82, high, low, generation,
                                       high, low, generation))
            handles.append(struct.pack("Ii2I", 8, 1, low, generation))
        handles.append(struct.pack("IiQ", 8, 0xfe, ino))
    for handle in handles:
        if isinstance(handle, int):
            assert handle in (-errno.EOPNOTSUPP, -errno.EOVERFLOW)
            continue
        got = open_handle(fd, handle)
        assert got in (-errno.ESTALE, -errno.EOPNOTSUPP, -errno.EINVAL,
                       -errno.EPERM), (handle, got)
    os.close(fd)
    assert os.listdir(mnt / "d/e") == []


def test_sideways(tree, rig):
    """By bind mounts, ".." and descriptors there is no way either."""
    mnt = tree.mnt
    side = rig.dir / f"{tree.name}.side"
    side.mkdir()
    run("mount", "--bind", mnt / "d", side)
    try:
        fd = os.open(side / "e", os.O_PATH)
        for path in (f"/proc/self/fd/{fd}/../{META}",
                     f"/proc/self/fd/{fd}/../../{META}",
                     side / ".." / META / "format", side / META):
            assert errno_of(os.stat, path) == errno.ENOENT
        os.rename(mnt / "d/e", mnt / "e")  # out of the bind mount
        assert errno_of(os.stat, f"../{META}", dir_fd=fd) == errno.ENOENT
        assert errno_of(os.stat, META, dir_fd=fd) == errno.ENOENT
        os.close(fd)
    finally:
        run("umount", side)
        side.rmdir()
    fd = os.open(mnt / "d", os.O_PATH)
    assert errno_of(os.open, f"../{META}", os.O_RDONLY, dir_fd=fd) == \
        errno.ENOENT
    assert errno_of(os.rename, "below", f"../{META}", src_dir_fd=fd,
                    dst_dir_fd=fd) == errno.EPERM
    os.close(fd)


def test_over_the_front(one):
    """Mounted over the front, its path leads to nothing but the mount."""
    before = one.mnt
    one.mnt = one.front
    try:
        one.mount()
        put(one.mnt / "f", MIB)
        one.release(one.mnt / "f")
        assert errno_of(os.stat, one.front / META) == errno.ENOENT
        assert_none_named(one.front)
        assert os.listxattr(one.front / "f") == []
        assert (one.front / "f").read_bytes() == data(MIB)
        one.umount()
    finally:
        one.mnt = before
    assert (one.front / META / "format").exists()


def test_front_without_case(rig):
    """A front that takes .TIERFS for .tierfs is refused."""
    if not Path("/sys/fs/ext4/features/casefold").exists():
        pytest.skip("this kernel's ext4 has no casefold")
    disk = rig.disk("casefold", "ext4", 64 * MIB, ("-O", "casefold"))
    tier = rig.tier(front=disk)
    try:
        run("chattr", "+F", tier.front)
        assert "case" in tier.refused()
    finally:
        tier.close()
        rig.drop(disk)


# -- the socket ------------------------------------------------------------------

def connect(tier, timeout=60):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    s.connect(f"/run/tierfs/{tier.name}.sock")
    return s


def answers(s):
    """All that comes until the daemon closes, as objects."""
    text = b""
    with contextlib.suppress(ConnectionResetError):
        while block := s.recv(1 << 16):
            text += block
    return [json.loads(line) for line in text.splitlines()]


def send(tier, what):
    """Sends bytes, closes that direction; the answers."""
    with connect(tier) as s:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            s.sendall(what)
            s.shutdown(socket.SHUT_WR)
        return answers(s)


def ask(tier, **request):
    line = json.dumps({"version": 1, **request}) + "\n"
    return send(tier, line.encode())


def greeted(tier):
    """A connection that was let in, or None."""
    s = connect(tier)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        s.sendall(b'{"version":1,"command":"hello"}\n')
        if b'"result"' in s.recv(4096):
            return s
    s.close()
    return None


def test_socket_rights(tree):
    """Who is nobody can move, cancel, change and see nothing of others."""
    mnt = tree.mnt
    put(mnt / "theirs", MIB)
    os.chown(mnt / "theirs", NOBODY, NOBODY)
    (mnt / "secret").mkdir(mode=0o700)
    put(mnt / "secret/f", MIB)
    before = eas(tree.front)
    with as_user(NOBODY):
        for command in ("status", "queue", "metrics"):
            assert ask(tree, command=command)[-1]["status"] == "denied"
        for options in ([], ["ro"], ["spill=/tmp"]):
            said = ask(tree, command="remount", options=options)
            assert said[-1]["status"] == "denied"
        assert ask(tree, command="cancel", job=1)[-1]["status"] == "failed"
        for path in ("/none", "/released", "/migrated", "/secret/f", "/d"):
            for command in ("migrate", "release", "restore", "pin", "unpin"):
                said = ask(tree, command=command, paths=[path],
                           recursive=True)
                assert all(a["data"]["result"] in ("refused", "failed")
                           for a in said[:-1]), (command, path, said)
        said = ask(tree, command="status", paths=["/secret/f"])
        assert said[0]["data"]["result"] == "refused"
    assert eas(tree.front) == before
    with as_user(NOBODY):
        said = ask(tree, command="migrate", paths=["/theirs"])
        assert said[0]["data"]["result"] == "done"


def test_socket_forged(tree):
    """Nonsense is answered with an error and the end."""
    size = 65536
    deep = b'{"version":1,"command":' + b"[" * 3000 + b"\n"
    lines = [b"\n", b"\0\n", b"{}\n", b"[]\n", b"null\n", b"{\n", b"\xff\xfe\n",
             b'{"version":1}\n', b'{"command":"hello"}\n',
             b'{"version":1.0,"command":"hello"}\n',
             b'{"version":99999999999999999999,"command":"hello"}\n',
             b'{"version":1,"command":"hello\\u0000"}\n',
             b'{"version":1,"command":"migrate","paths":{"/":1}}\n',
             b'{"version":1,"command":"migrate","paths":[1]}\n',
             b'{"version":1,"command":"migrate","paths":["none"]}\n',
             b'{"version":1,"command":"migrate","paths":[""],"more":true}\n',
             b'{"version":1,"command":"status","more":true}\n',
             b'{"version":1,"command":"cancel","job":"1"}\n',
             b'{"version":1,"command":"remount","options":[1]}\n',
             b'{"stop":true}\n', deep, b"x" * (size - 1) + b"\n",
             b"x" * size, b" " * (size + 1) + b"\n", b"x" * MIB]
    with as_user(NOBODY):
        for line in lines:
            said = send(tree, line)
            assert said and said[-1]["type"] == "end", line[:60]
            assert said[-1]["status"] in ("error", "denied"), line[:60]
            assert said[-1]["reason"], line[:60]
        assert send(tree, b"") == []
        assert send(tree, b'{"version":1,"command":"hello"}') == []
        # Descriptors that come along are not taken.
        with connect(tree) as s, open("/dev/null", "rb") as f:
            for _ in range(200):
                s.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                    struct.pack("i", f.fileno()))])
    fds = len(os.listdir(f"/proc/{tree.daemon.pid}/fd"))
    assert fds < 200
    assert ask(tree, command="hello")[0]["data"]["name"] == tree.name


def test_socket_silence(tree):
    """Clients that say half, or do not listen, hold up nobody else; nor does a
    flood of them keep root out, or the daemon from ending."""
    held = []
    half = b'{"version":1,"command":"status","more":true'
    many = half + b"}\n" + b"".join(
        b'{"paths":[%s],"more":true}\n' % b",".join([b'"/none"'] * 4000)
        for _ in range(4))
    with as_user(NOBODY):
        for what in (half, half, half + b"}\n", half + b"}\n"):
            s = connect(tree)
            s.sendall(what)
            held.append(s)
        for _ in range(4):
            s = connect(tree)
            s.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                s.sendall(many)
            held.append(s)
        for _ in range(2000):
            s = connect(tree)
            with contextlib.suppress(BrokenPipeError):
                s.sendall(b"{")
            said = answers(s)
            s.close()
            assert said[-1]["reason"].startswith("too many connections")
    with as_user(NOBODY - 1):
        assert ask(tree, command="hello")[-1]["status"] == "done"
    # Those who have been waited for lose their places to who wants them.
    with as_user(NOBODY):
        for _ in range(8):
            held.append(wait_for(lambda: greeted(tree)))
    assert tree.state(tree.mnt / "none") == "none"
    tree.do("migrate", tree.mnt / "none")
    tree.umount()
    for s in held:
        s.close()


def test_socket_lines_at_once(tree):
    """Lines that are there already are taken one after another, at once."""
    lines = b'{"version":1,"command":"status","more":true}\n' + \
        b'{"paths":["/none"],"more":true}\n' * 100 + b'{"paths":[]}\n'
    begin = time.monotonic()
    said = send(tree, lines)
    assert len(said) == 101 and said[-1]["status"] == "done"
    assert time.monotonic() - begin < 25  # half a second for each, once
