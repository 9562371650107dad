# SPDX-License-Identifier: MIT
"""pjdfstest, where $PJDFSTEST names a built one, and what it doesn't ask."""

import errno
import os
import re
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from files import (MIB, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT,
                   libc, put, renameat2)
from rig import NOBODY, run, wait_for

PJDFSTEST = os.environ.get("PJDFSTEST")


def pjd_failures(directory):
    """{"chmod/00.t: 5", ...} of a run in directory."""
    tests = Path(PJDFSTEST) / "tests"
    done = subprocess.run(
        ["prove", "-rQ", "-j", "16", str(tests)], check=False, cwd=directory,
        capture_output=True, text=True, timeout=1700)
    failed = set()
    name = None
    for line in done.stdout.splitlines():
        found = re.match(rf"{re.escape(str(tests))}/(\S+\.t) +\(", line)
        if found:
            name = found[1]
        found = re.match(r" +Failed tests?: +(.*)", line)
        if found:
            for part in re.split(r",? +", found[1].strip()):
                first, _, last = part.strip(",").partition("-")
                failed |= {f"{name}: {n}" for n in
                           range(int(first), int(last or first) + 1)}
        elif "Bad plan" in line or "Non-zero exit" in line:
            failed.add(f"{name}: {line.strip()}")
    assert re.search(r"Files=\d{3}", done.stdout), done.stdout + done.stderr
    return failed


front_failures = {}


@pytest.mark.slow(1800)
@pytest.mark.skipif(not PJDFSTEST, reason="$PJDFSTEST doesn't name a build")
def test_pjdfstest(tier, bare):
    """Whatever passes on the front passes on the mount."""
    if tier.fs not in front_failures:
        front_failures[tier.fs] = pjd_failures(bare)
    expected = front_failures[tier.fs]
    got = pjd_failures(tier.mnt)
    assert not got - expected, "\n".join(sorted(got - expected))


def as_user(call, uid=NOBODY, gid=NOBODY, groups=(), umask=0o022):
    """call() in a child with other credentials; its errno, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(list(groups))
            os.setgid(gid)
            os.setuid(uid)
            os.umask(umask)
            call()
            os._exit(0)
        except OSError as e:
            os._exit(e.errno)
        except BaseException:  # pylint: disable=broad-except
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_owner_of_what_is_created(tier):
    top = tier.mnt / "open"
    top.mkdir()
    top.chmod(0o777)
    makers = {
        "file": lambda p: os.close(os.open(p, os.O_CREAT | os.O_WRONLY, 0o666)),
        "dir": lambda p: os.mkdir(p, 0o777),
        "fifo": lambda p: os.mkfifo(p, 0o666),
        "symlink": lambda p: os.symlink("x", p),
        "socket": lambda p: socket.socket(socket.AF_UNIX).bind(str(p)),
    }
    for name, make in makers.items():
        assert as_user(lambda m=make, n=name: m(top / n), 1234, 5678,
                       umask=0o027) == 0
        st = (top / name).lstat()
        assert (st.st_uid, st.st_gid) == (1234, 5678), name
        if name not in ("symlink", "socket"):
            assert stat.S_IMODE(st.st_mode) & 0o027 == 0, name
    # A setgid directory hands on its group, and to directories the bit.
    os.chown(top, 0, 99)
    top.chmod(0o2777)
    assert as_user(lambda: os.mkdir(top / "sub"), 1234, 5678) == 0
    st = (top / "sub").stat()
    assert (st.st_gid, bool(st.st_mode & stat.S_ISGID)) == (99, True)


def test_supplementary_groups(tier):
    path = tier.mnt / "f"
    put(path, 10)
    os.chown(path, 0, 4242)
    path.chmod(0o640)
    read = lambda: path.read_bytes()  # noqa: E731
    assert as_user(read, groups=[4242]) == 0
    assert as_user(read, groups=[4243]) == errno.EACCES
    os.chown(path, NOBODY, NOBODY)
    assert as_user(lambda: os.chown(path, -1, 4242), groups=[4242]) == 0
    assert as_user(lambda: os.chown(path, -1, 4243), groups=[4242]) == \
        errno.EPERM


def test_permissions_of_released_files(tier):
    """A released file is as closed as a resident one."""
    path = tier.mnt / "f"
    put(path, MIB)
    path.chmod(0o600)
    tier.release(path)
    assert as_user(lambda: path.read_bytes()) == errno.EACCES
    assert as_user(lambda: path.write_bytes(b"")) == errno.EACCES
    assert as_user(lambda: os.truncate(path, 5)) == errno.EACCES
    path.chmod(0o604)
    assert as_user(lambda: path.read_bytes()) == 0
    os.chown(path, NOBODY, NOBODY)
    assert as_user(lambda: open(path, "r+b").write(b"mine")) == 0
    assert path.stat().st_uid == NOBODY
    assert path.read_bytes()[:4] == b"mine"
    assert path.stat().st_size == MIB


def test_setuid_cleared_by_write(tier, bare):
    """By a user's write: buffered, direct, by fallocate, in every state."""
    def modes(top, prepare):
        got = []
        for state in ("none", "migrated", "released"):
            for how in ("write", "truncate", "fallocate"):
                path = top / f"{state}-{how}"
                put(path, 100000)
                path.chmod(0o6777)
                prepare(path, state)

                def change(p=path, h=how):
                    with open(p, "r+b", buffering=0) as f:
                        if h == "write":
                            f.write(b"x")
                        elif h == "truncate":
                            f.truncate(5)
                        else:
                            os.posix_fallocate(f.fileno(), 0, 200000)
                assert as_user(change) == 0
                got.append((state, how, oct(path.stat().st_mode)))
        return got
    assert modes(tier.mnt, tier.bring) == modes(bare, lambda *_: None)


def test_setuid_set_while_open(tier, bare):
    """The bits that a writer may not keep go, though the file had none when it
    was opened; root keeps them, and a group's member setgid without x."""
    writes = {
        "write": lambda fd: os.write(fd, b"x"),
        "truncate": lambda fd: os.ftruncate(fd, 5),
        "fallocate": lambda fd: os.posix_fallocate(fd, 0, 200000),
        "copy": lambda fd: os.copy_file_range(fd, fd, 100, 0, 50000),
    }
    who = {"root": (0, 0), "owner": (1234, 1234), "other": (NOBODY, NOBODY),
           "member": (NOBODY, NOBODY, [1234])}

    def modes(top):
        got = {}
        for name, user in who.items():
            for how, write in writes.items():
                for mode in (0o4777, 0o2777, 0o2767):
                    path = top / f"{name}-{how}-{mode:o}"
                    put(path, 100000)
                    os.chown(path, 1234, 1234)
                    fd = os.open(path, os.O_RDWR)
                    os.write(fd, b"x")
                    path.chmod(mode)
                    assert as_user(lambda w=write, f=fd: w(f), *user) == 0
                    os.close(fd)
                    got[path.name] = oct(path.stat().st_mode)
        return got
    assert modes(tier.mnt) == modes(bare)


def test_sticky_directory(tier):
    top = tier.mnt / "tmp"
    top.mkdir()
    top.chmod(0o1777)
    put(top / "roots", 10)
    assert as_user(lambda: os.unlink(top / "roots")) == errno.EPERM
    assert as_user(lambda: os.rename(top / "roots", top / "x")) == errno.EPERM


def test_default_acl(tier, bare):
    for top in (tier.mnt, bare):
        (top / "d").mkdir()
        subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx,o::-", top / "d"],
                       check=True)
        os.close(os.open(top / "d/f", os.O_CREAT | os.O_WRONLY, 0o664))
        (top / "d/s").mkdir()
    for name in ("f", "s"):
        acls = [subprocess.run(["getfacl", "-cn", f"d/{name}"], cwd=top,
                               check=True, capture_output=True).stdout
                for top in (tier.mnt, bare)]
        assert acls[0] == acls[1]


def test_acl_and_setgid(tier, bare):
    """An ACL that the owner sets takes the setgid bit, unless she is in the file's
    group (as xfstests' generic/375 asks)."""
    modes = []
    for top in (tier.mnt, bare):
        put(top / "f", 10)
        (top / "d").mkdir()
        for name in ("f", "d"):
            os.chown(top / name, NOBODY, 4711)
            for gid, groups in ((4711, ()), (NOBODY, (4711,)), (NOBODY, ())):
                os.chmod(top / name, 0o2755)
                as_user(lambda: subprocess.run(
                    ["setfacl", "-m", "u::rwx,g::rwx,o::rwx", name], cwd=top,
                    check=True), gid=gid, groups=groups)
                modes.append((top / name).stat().st_mode & 0o7777)
    assert modes == 2 * 2 * [0o2777, 0o2777, 0o777]


def test_renameat2(tier):
    for state in ("none", "released"):
        a, b = tier.mnt / f"a-{state}", tier.mnt / f"b-{state}"
        one, two = put(a, MIB, 1), put(b, MIB, 2)
        tier.bring(a, state)
        with pytest.raises(OSError) as e:
            renameat2(a, b, RENAME_NOREPLACE)
        assert e.value.errno == errno.EEXIST
        renameat2(a, b, RENAME_EXCHANGE)
        assert (a.read_bytes(), b.read_bytes()) == (two, one)
        with pytest.raises(OSError):
            renameat2(a, tier.mnt / "w", RENAME_WHITEOUT)
        assert a.read_bytes() == two
        renameat2(a, tier.mnt / f"c-{state}", RENAME_NOREPLACE)
        assert not a.exists()
        # A file and a directory change places.
        (tier.mnt / f"d-{state}").mkdir()
        renameat2(b, tier.mnt / f"d-{state}", RENAME_EXCHANGE)
        assert b.is_dir()
        assert (tier.mnt / f"d-{state}").read_bytes() == one


def link_fd(fd, path):
    at_symlink_follow = 0x400  # os.link() doesn't
    assert libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100,
                       os.fsencode(path), at_symlink_follow) == 0


def test_tmpfile(tier):
    fd = os.open(tier.mnt, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.write(fd, b"anonymous")
        assert os.fstat(fd).st_nlink == 0
        link_fd(fd, tier.mnt / "named")
    finally:
        os.close(fd)
    assert (tier.mnt / "named").read_bytes() == b"anonymous"
    tier.release(tier.mnt / "named")
    assert (tier.mnt / "named").read_bytes() == b"anonymous"


def test_tmpfile_is_counted_when_linked(one):
    """Without a name a file is none that status tells of."""
    one.mount()

    def counted():
        none = one.mount_status()["states"]["none"]
        return none["files"], none["bytes"]
    assert counted() == (0, 0)

    def tmpfile(link, size):
        fd = os.open(one.mnt, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(fd, bytes(size))
        if link == "reopened":  # nobody writes any more
            readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
            os.close(fd)
            fd = readable
        if link:
            link_fd(fd, one.mnt / link)
        if link == "written":
            os.write(fd, bytes(size))
        os.close(fd)
    tmpfile(None, 5000)
    assert counted() == (0, 0)
    tmpfile("plain", 1000)
    wait_for(lambda: counted() == (1, 1000))
    tmpfile("reopened", 100)
    wait_for(lambda: counted() == (2, 1100))
    tmpfile("written", 10)
    wait_for(lambda: counted() == (3, 1120))
    for name in ("plain", "reopened", "written"):
        (one.mnt / name).unlink()
    wait_for(lambda: counted() == (0, 0))


@pytest.mark.parametrize("state", ["none", "migrated", "released", "restored"])
def test_immutable_and_append_only(tier, state):
    """What may not be changed cannot have copies: it comes back before."""
    kept, log = tier.mnt / "kept", tier.mnt / "log"
    for path, flag in ((kept, "+i"), (log, "+a")):
        content = put(path, 2 * MIB)
        tier.bring(path, state)
        before = path.stat()
        run("chattr", flag, path)
        assert flag[1] in run("lsattr", path).stdout.split()[0]
        assert tier.state(path) == "none"
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        assert path.read_bytes() == content
        answer = tier.ctl("migrate", "--release", path)
        assert answer.status == 1 and "immutable" in answer.err
        with pytest.raises(OSError):
            os.truncate(path, 5)
        with pytest.raises(OSError):
            path.unlink()
    with open(log, "ab") as f:
        f.write(b"tail")
    assert log.read_bytes() == content + b"tail"
    tier.remount()
    with pytest.raises(OSError):
        kept.open("ab")
    with open(log, "ab") as f:
        f.write(b"more")
    run("chattr", "-i", kept)
    run("chattr", "-a", log)
    wait_for(lambda: not tier.objects())
    tier.release(kept, log)
    assert log.read_bytes() == content + b"tailmore"


def test_large_directory(tier):
    """Read while it changes: what stays is listed once."""
    top = tier.mnt / "large"
    top.mkdir()
    stay = {f"stay{i:05}" for i in range(3000)}
    for name in stay:
        (top / name).touch()
    over = threading.Event()

    def change():
        i = 0
        while not over.is_set():
            path = top / f"come-and-go{i % 50}"
            path.touch()
            path.unlink()
            i += 1
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(5):
            seen = [n for n in os.listdir(top) if n.startswith("stay")]
            assert len(seen) == len(stay)
            assert set(seen) == stay
    finally:
        over.set()
        thread.join()


def test_rename_of_open_directory(tier):
    (tier.mnt / "a/b/c").mkdir(parents=True)
    put(tier.mnt / "a/b/c/f", 100)
    fd = os.open(tier.mnt / "a/b", os.O_RDONLY)
    try:
        os.rename(tier.mnt / "a", tier.mnt / "z")
        assert os.listdir(fd) == ["c"]
        os.stat("c/f", dir_fd=fd)
        os.fsync(fd)
    finally:
        os.close(fd)
    with pytest.raises(OSError):
        os.rename(tier.mnt / "z", tier.mnt / "z/b/z")


def test_locks(tier):
    """POSIX locks between processes."""
    import fcntl
    path = tier.mnt / "f"
    put(path, 100)
    with open(path, "r+b") as f:
        fcntl.lockf(f, fcntl.LOCK_EX, 10, 0)

        def other(start):
            with open(path, "r+b") as g:
                fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)
        assert as_user(lambda: other(0), 0, 0) == errno.EAGAIN
        assert as_user(lambda: other(50), 0, 0) == 0


def test_access_time(tier):
    path = tier.mnt / "f"
    put(path, 100)
    os.utime(path, (1, 1))
    path.read_bytes()
    assert path.stat().st_atime > 1


def test_no_space(rig, one):
    """A full front gives ENOSPC, and what was there stays."""
    small = rig.disk("small-front", "ext4", 32 * MIB)
    one.front.rmdir()
    one.front = small.path / one.name
    one.front.mkdir()
    one.mount()
    content = put(one.mnt / "kept", MIB)
    with pytest.raises(OSError) as e:
        with open(one.mnt / "big", "wb", buffering=0) as f:
            for _ in range(64):
                f.write(bytes(MIB))
            os.fsync(f.fileno())
    assert e.value.errno == errno.ENOSPC
    assert (one.mnt / "kept").read_bytes() == content
    (one.mnt / "big").unlink()
    # The kernel tells of the close a little later than close() returns.
    wait_for(lambda: os.statvfs(one.mnt).f_bavail * 4096 > 16 * MIB)
    put(one.mnt / "again", MIB)
    # A restore that doesn't fit fails; the file stays released and readable.
    big = put(one.mnt / "cold", 12 * MIB)
    one.release(one.mnt / "cold")
    usage = os.statvfs(one.mnt)
    with open(one.mnt / "filler", "wb") as f:
        os.posix_fallocate(f.fileno(), 0,
                           usage.f_bavail * usage.f_frsize - 4 * MIB)
    assert one.ctl("restore", one.mnt / "cold").status == 1
    assert one.state(one.mnt / "cold") == "released"
    assert (one.mnt / "cold").read_bytes() == big


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_removing_makes_room(rig, one, fs):
    """A front without a free block: what has copies can be removed, replaced
    and cut off, as what has none."""
    small = rig.disk(f"full-{fs}", fs, 320 * MIB)
    one.front = small.path / one.name
    one.front.mkdir()
    one.mount("restore_after=never")
    names = [one.mnt / f"{i:03}{'n' * 200}" for i in range(150)]
    for path in names:
        put(path, 8192)
    new = [one.mnt / f"new{i}" for i in range(30)]
    for path in new:
        put(path, 100)
    one.release(*names[:100])
    one.do("restore", *names[:50])
    one.migrate(*names[100:])
    opened = [open(path, "rb") for path in names[40:60]]
    with open(one.mnt / "filler", "wb", buffering=0) as f:
        for size in (MIB, 4096, 512):
            try:
                while True:
                    f.write(bytes(size))
            except OSError as e:
                assert e.errno == errno.ENOSPC
    with pytest.raises(OSError):
        for i in range(10000):
            (one.mnt / f"{i}{'m' * 240}").mkdir()
    for path, over in zip(new, names[30:150:4]):
        os.rename(path, over)
    for path in names:
        path.unlink()
    for f in opened[::4]:
        assert len(f.read()) in (8192, 100)
    for f in opened:
        f.close()
    wait_for(lambda: not one.objects(), 60)
    for name in ("orphans", "inodes", "staging"):
        wait_for(lambda n=name: not os.listdir(one.front / ".tierfs" / n))
    (one.mnt / "filler").unlink()

    def written():  # the front frees what it held a moment after
        try:
            return put(one.mnt / "again", MIB)
        except OSError as e:
            assert e.errno == errno.ENOSPC
    wait_for(written)
