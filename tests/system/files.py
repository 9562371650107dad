# SPDX-License-Identifier: MIT
"""Files: what the tests put into them, and all that can be seen of them."""

import ctypes
import hashlib
import os
import random
import stat
import struct
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
# A value of security.capability.
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


def data(size, seed=0):
    """size bytes that are the same for the same seed."""
    return random.Random(f"{seed}/{size}").randbytes(size)


def put(path, size, seed=0):
    """Writes data(size, seed) to path; returns the bytes."""
    content = data(size, seed)
    Path(path).write_bytes(content)
    return content


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(MIB):
            h.update(block)
    return h.hexdigest()


def cached(path):
    """Bytes of the file that are in the page cache; None: Linux before 6.5."""
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    stats = (ctypes.c_uint64 * 5)()
    err = libc.syscall(451, fd, (ctypes.c_uint64 * 2)(0, 0), stats, 0)
    os.close(fd)
    return None if err else stats[0] * os.sysconf("SC_PAGESIZE")


def look(path):
    """Everything that a program can see of one file, but its atime."""
    st = os.lstat(path)
    seen = {name: getattr(st, name) for name in (
        "st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size",
        "st_mtime_ns", "st_ctime_ns", "st_blocks", "st_blksize", "st_rdev")}
    if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
        seen["xattrs"] = {n: os.getxattr(path, n)
                          for n in sorted(os.listxattr(path))}
    if stat.S_ISLNK(st.st_mode):
        seen["link"] = os.readlink(path)
    if stat.S_ISDIR(st.st_mode):
        del seen["st_ctime_ns"]  # a restore may change it
        del seen["st_blocks"]
    return seen


def look_all(top):
    """look() at everything below top, by name."""
    seen = {".": look(top)}
    for parent, dirs, files in os.walk(os.fsencode(top)):
        for name in dirs + files:
            path = os.path.join(parent, name)
            seen[os.path.relpath(path, os.fsencode(top))] = look(path)
    return seen


def holes(path):
    """The map of a file by SEEK_DATA and SEEK_HOLE: [(start, end), ...]."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size, at, extents = os.fstat(fd).st_size, 0, []
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            extents.append((start, at))
        return extents
    finally:
        os.close(fd)


def contents(top):
    """What must not change on a front: names, kinds, data. No .tierfs."""
    seen = {}
    for parent, dirs, files in os.walk(top):
        if parent == str(top) and ".tierfs" in dirs:
            dirs.remove(".tierfs")
        for name in dirs + files:
            path = Path(parent, name)
            kind = stat.S_IFMT(path.lstat().st_mode)
            seen[str(path.relative_to(top))] = (
                kind, digest(path) if stat.S_ISREG(kind) else None)
    return seen


libc = ctypes.CDLL(None, use_errno=True)
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4


def renameat2(old, new, flags):
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")
