# SPDX-License-Identifier: MIT
"""What is in use is not migrated or released, however well it hides."""

import contextlib
import ctypes
import mmap
import os
import subprocess

import pytest

from files import MIB, put
from rig import NOBODY, wait_for


def refused(tier, *command):
    """The command is refused with status 1, a reason, and a line for people."""
    answer = tier.ctl(*command)
    assert answer.status == 1, answer
    (result,) = answer.json
    assert result["result"] == "refused", result
    assert result["reason"]
    assert f"tierctl: {result['path']}: " in answer.err
    return result


def mapped(path, writable=True):
    """A shared mapping of a file whose handle is closed again."""
    with open(path, "r+b" if writable else "rb") as f:
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        fd = f.fileno()
        size = os.fstat(fd).st_size
        # mmap.mmap() would keep a descriptor of its own.
        address = libc.mmap(None, size, prot, mmap.MAP_SHARED, fd, 0)
    assert address not in (None, ctypes.c_void_p(-1).value)
    return address, size


libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int,
                      ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@pytest.mark.parametrize("state", ["none", "migrated", "restored"])
def test_mapping_outlives_its_handle(tier, state):
    """Map, close, migrate and release refused, write through the mapping, read
    it back."""
    path = tier.mnt / "f"
    content = put(path, MIB)
    tier.bring(path, state)
    address, size = mapped(path)
    try:
        refused(tier, "migrate", "--release", path)
        refused(tier, "release", path)
        ctypes.memmove(address + 5000, b"through the mapping", 19)
    finally:
        libc.munmap(address, size)
    expected = content[:5000] + b"through the mapping" + content[5019:]
    assert path.read_bytes() == expected
    # Unmapped, it goes, with what was written.
    wait_for(lambda: tier.ctl("migrate", "--release", path).status == 0)
    assert tier.state(path) == "released"
    assert path.read_bytes() == expected


def test_mapping_of_a_released_file(tier):
    """What is written through it comes as writes, and so into the log: the file
    is released all along, and refused only once there is a log to apply."""
    path = tier.mnt / "f"
    content = put(path, MIB)
    tier.release(path)
    address, size = mapped(path)
    try:
        # Nothing to do, and nothing done that would lose what follows.
        (result,) = tier.do("release", path)
        assert result["result"] == "already"
        assert tier.state(path) == "released"
        ctypes.memmove(address + size - 3, b"end", 3)
        assert libc.msync(address, size, 4) == 0
        assert tier.state(path) == "dirty"
        refused(tier, "release", path)
        ctypes.memmove(address, b"begin", 5)
    finally:
        libc.munmap(address, size)
    tier.remount()
    assert path.read_bytes() == b"begin" + content[5:-3] + b"end"


def test_mapping_for_reading(tier):
    """A read-only mapping sees the same bytes whatever is done."""
    path = tier.mnt / "f"
    content = put(path, MIB)
    address, size = mapped(path, writable=False)
    try:
        tier.ctl("migrate", "--release", path)
        assert ctypes.string_at(address, size) == content
        libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), 4)
        assert ctypes.string_at(address, size) == content
    finally:
        libc.munmap(address, size)


def test_open_for_writing(tier):
    path = tier.mnt / "f"
    content = put(path, MIB)
    with open(path, "r+b") as f:
        assert tier.status(path)["open"] >= 1
        refused(tier, "migrate", path)
        refused(tier, "migrate", "--release", path)
        f.write(b"late")
    wait_for(lambda: tier.ctl("migrate", "--release", path).status == 0)
    assert path.read_bytes() == b"late" + content[4:]


def test_open_for_reading(tier):
    """Being read doesn't hinder migration; data isn't dropped under it."""
    path = tier.mnt / "f"
    content = put(path, MIB)
    with open(path, "rb", buffering=0) as f:
        assert f.read(10) == content[:10]
        tier.do("migrate", path)
        assert tier.state(path) == "migrated"
        tier.ctl("release", path)
        f.seek(0)
        assert f.read() == content


def test_what_was_open_is_not(tier):
    """What is kept of a closed file for its next open hinders nobody: neither its
    data's going nor that of the file, nor an unmounting of the front."""
    path, other = tier.mnt / "f", tier.mnt / "g"
    content = put(path, MIB)
    for _ in range(2):
        for _ in range(3):
            assert path.read_bytes() == content
        wait_for(lambda: tier.status(path)["open"] == 0)
        tier.do("migrate", path)
        assert path.read_bytes() == content
        wait_for(lambda: tier.status(path)["open"] == 0)
        (result,) = tier.do("release", path)
        assert result["result"] == "done", result
        assert os.stat(tier.front / "f").st_size == 0
        tier.do("restore", path)
    # As another user, who is not to write as the one before.
    path.chmod(0o666)
    assert subprocess.run(["cat", path], check=True, capture_output=True,
                          user=NOBODY).stdout == content

    def free():
        fd = os.open(tier.front, os.O_RDONLY)
        libc.syncfs(fd)
        os.close(fd)
        return os.statvfs(tier.front).f_bfree

    before = free()
    big = put(other, 16 * MIB)
    assert other.read_bytes() == big
    other.unlink()
    wait_for(lambda: free() >= before - 512)


def holds(stack, path):
    """An O_PATH descriptor of it, until the stack is closed or it is."""
    fd = os.open(path, os.O_PATH)
    return stack.enter_context(open(fd, "rb"))


@pytest.mark.parametrize("removed", ["unlink", "rename"])
def test_removed_and_not_yet_open(tier, removed):
    """Who holds a file without having it open still finds its data; what it left
    on the target goes when nobody holds it any more."""
    paths = [tier.mnt / f"f{i}" for i in range(3)]
    contents = [put(path, MIB, path.name) for path in paths]
    tier.release(*paths)
    with contextlib.ExitStack() as stack:
        held = [holds(stack, path) for path in paths[:2]]
        for path in paths:
            if removed == "unlink":
                path.unlink()
            else:
                put(tier.mnt / "new", 5)
                os.rename(tier.mnt / "new", path)
        # Nobody holds the last one. The others' time would have come, too.
        wait_for(lambda: len(tier.objects()) == 2)
        for by, content in zip(held, contents):
            with open(f"/proc/self/fd/{by.fileno()}", "rb") as f:
                assert f.read() == content
        assert len(tier.objects()) == 2
        held[0].close()
        wait_for(lambda: len(tier.objects()) == 1)
        with open(f"/proc/self/fd/{held[1].fileno()}", "rb") as f:
            held[1].close()
            assert f.read() == contents[1]
    wait_for(lambda: not tier.objects())
    wait_for(lambda: not os.listdir(tier.front / ".tierfs" / "orphans"))


def test_opened_while_it_is_removed(tier):
    """Who still could open it finds it whole."""
    content = put(tier.mnt / "content", 300000)
    paths = [tier.mnt / f"f{i}" for i in range(150)]
    for path in paths:
        path.write_bytes(content)
    tier.release(*paths)
    caught = []
    with contextlib.ExitStack() as stack:
        rm = stack.enter_context(subprocess.Popen(["xargs", "-n1", "rm"],
                                                  stdin=subprocess.PIPE))
        rm.stdin.write("".join(f"{path}\n" for path in paths).encode())
        rm.stdin.close()
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                while True:
                    f = stack.enter_context(open(path, "rb", buffering=0))
                    if os.fstat(f.fileno()).st_nlink == 0:
                        caught.append(f)
                    else:
                        f.close()
        assert rm.wait() == 0
        wait_for(lambda: len(tier.objects()) == len(caught))
        for f in caught:
            assert f.read() == content
    wait_for(lambda: not tier.objects())


def test_written_behind_its_back_between(tier):
    """Written after migration: the copy is stale, release must not use it."""
    path = tier.mnt / "f"
    content = put(path, MIB)
    tier.migrate(path)
    with open(path, "r+b") as f:
        f.write(b"stale")
    refused(tier, "release", path)
    tier.release(path)
    assert path.read_bytes() == b"stale" + content[5:]


def test_opened_and_not_written(tier):
    """The copy is kept if nothing was written: releasing needs no new one."""
    path = tier.mnt / "f"
    put(path, MIB)
    tier.migrate(path)
    (before,) = tier.status(path)["copies"]
    os.close(os.open(path, os.O_RDWR))
    wait_for(lambda: tier.state(path) == "migrated")
    assert tier.status(path)["copies"] == [before]


def test_executed(tier):
    """A running program isn't released from under itself."""
    import shutil
    import subprocess
    path = tier.mnt / "sleep"
    shutil.copy2("/bin/sleep", path)
    program = subprocess.Popen([path, "60"])
    try:
        tier.ctl("migrate", "--release", path)
        assert program.poll() is None
    finally:
        program.terminate()
        assert program.wait() == -15
