# SPDX-License-Identifier: MIT
"""Objects that aren't what was migrated: found when a file is restored, and when
it is read in place, by the read that completes it. Never wrong data that looks
right, and never is the object thrown away."""

import contextlib
import os
import random
import threading
from pathlib import Path

import pytest

from files import MIB, data, put
from rig import wait_for

SIZE = 9 * MIB + 12345


@pytest.fixture(name="cold_file")
def released_file(one):
    """(tier, path, contents, path of the object)"""
    one.mount("restore_after=never")
    path = one.mnt / "f"
    content = put(path, SIZE)
    one.release(path)
    return one, path, content, object_of(one, path)


def object_of(tier, path):
    return Path(tier.status(path)["copies"][0]["object"])


def flip(path, offset):
    """One bit."""
    with open(path, "r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes([byte ^ 4]))


def eio(call, *args):
    with pytest.raises(OSError) as e:
        call(*args)
    assert e.value.errno == 5, e.value


def damaged(tier, path):
    return tier.status(path).get("damaged", False)


def told(tier, obj, what):
    return [line for line in tier.log.read_text().splitlines()
            if what in line and tier.target.name in line and str(obj) in line
            and " of /f " in line]


def repaired(tier, path, obj, content, offset):
    """It is tried when asked for, and is as before once the operator put the
    right bytes back."""
    kept = obj.read_bytes()
    assert tier.ctl("restore", path).status == 1
    assert obj.read_bytes() == kept
    flip(obj, offset)
    tier.do("restore", path)
    assert path.read_bytes() == content
    assert not damaged(tier, path)
    tier.do("release", path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("offset", [0, 5 * MIB, SIZE - 1])
def test_restore(cold_file, offset):
    tier, path, content, obj = cold_file
    flip(obj, offset)
    failed = tier.ctl("restore", path, text=True)
    assert failed.status == 1 and "damaged" in failed.err, failed
    assert tier.state(path) == "released" and damaged(tier, path)
    assert len(told(tier, obj, "damaged")) == 1
    eio(path.read_bytes)
    repaired(tier, path, obj, content, offset)


@pytest.mark.parametrize("offset", [0, 5 * MIB, SIZE - 1])
def test_read_to_the_end(cold_file, offset):
    """All reads but the last can't know."""
    tier, path, content, obj = cold_file
    flip(obj, offset)
    got = b""
    with open(path, "rb", buffering=0) as f:
        with pytest.raises(OSError) as e:
            while block := f.read(MIB):
                got += block
    assert e.value.errno == 5
    assert len(got) < SIZE
    wait_for(lambda: damaged(tier, path))
    assert len(told(tier, obj, "damaged")) == 1
    eio(lambda: open(path, "rb", buffering=0).read(100))
    # It is known after a restart, too.
    tier.remount("restore_after=0")
    eio(path.read_bytes)
    assert damaged(tier, path) and tier.state(path) == "released"
    repaired(tier, path, obj, content, offset)


def test_read_again_after_repair(cold_file):
    tier, path, content, obj = cold_file
    flip(obj, 4711)
    eio(path.read_bytes)
    wait_for(lambda: damaged(tier, path))
    flip(obj, 4711)

    def works():
        try:
            return path.read_bytes() == content
        except OSError:
            return False
    wait_for(works, 60, 0.2)
    assert not damaged(tier, path)


def in_random_order(path):
    """All of it, past the page cache."""
    buffer = bytearray(SIZE)
    places = list(range(0, SIZE, 65536))
    random.Random(1).shuffle(places)
    with open(path, "rb", buffering=0) as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for at in places:
            part = os.pread(f.fileno(), 65536, at)
            buffer[at:at + len(part)] = part
        yield bytes(buffer)


@pytest.mark.slow(300)
def test_random_order(cold_file):
    """Then it is read once more, in the background."""
    tier, path, content, obj = cold_file
    for got in in_random_order(path):
        assert got == content
    flip(obj, 3 * MIB)

    def found():
        """The check after the first pass may still go on as the bit flips:
        then it is the next reader's turn."""
        if not damaged(tier, path):
            with contextlib.suppress(OSError):
                for got in in_random_order(path):
                    assert got != content
        return damaged(tier, path)
    wait_for(found)
    assert len(told(tier, obj, "damaged")) == 1
    eio(path.read_bytes)
    repaired(tier, path, obj, content, 3 * MIB)


def test_short(cold_file):
    """An object that was cut off does not read as zeros."""
    tier, path, content, obj = cold_file
    os.truncate(obj, 4 * MIB)
    with open(path, "rb", buffering=0) as f:
        assert os.pread(f.fileno(), 4096, MIB) == content[MIB:][:4096]
        eio(os.pread, f.fileno(), 4096, 6 * MIB)
    eio(path.read_bytes)
    wait_for(lambda: damaged(tier, path))
    obj.write_bytes(content)
    tier.do("restore", path)
    assert path.read_bytes() == content


def test_missing(cold_file):
    tier, path, content, obj = cold_file
    away = obj.rename(tier.target / "away")
    eio(path.read_bytes)
    wait_for(lambda: damaged(tier, path))
    assert len(told(tier, obj, "missing")) == 1
    failed = tier.ctl("restore", path, text=True)
    assert failed.status == 1 and "missing" in failed.err
    away.rename(obj)
    tier.do("restore", path)
    assert path.read_bytes() == content


def test_written(cold_file):
    """What is written to it is there, over what cannot be read."""
    tier, path, content, obj = cold_file
    flip(obj, 5 * MIB)
    eio(path.read_bytes)
    wait_for(lambda: damaged(tier, path))
    with open(path, "r+b", buffering=0) as f:
        f.seek(MIB)
        f.write(b"new" * 4096)
    assert tier.state(path) == "dirty"
    with open(path, "rb", buffering=0) as f:
        assert os.pread(f.fileno(), 12288, MIB) == b"new" * 4096
        eio(os.pread, f.fileno(), 4096, 3 * MIB)
    assert tier.ctl("restore", path).status == 1
    assert tier.state(path) == "dirty" and damaged(tier, path)
    flip(obj, 5 * MIB)
    tier.do("restore", path)
    assert path.read_bytes() == content[:MIB] + b"new" * 4096 + \
        content[MIB + 12288:]
    assert not damaged(tier, path)


def test_readers_at_once(cold_file):
    """From different places, in any order: nobody waits for another's turn."""
    tier, path, content, _ = cold_file
    wrong = []

    def reader(k):
        start = k * SIZE // 6
        with open(path, "rb", buffering=65536) as f:
            f.seek(start)
            if f.read() != content[start:]:
                wrong.append(k)
            f.seek(0)
            if f.read(start) != content[:start]:
                wrong.append(k)

    threads = [threading.Thread(target=reader, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not damaged(tier, path)
    assert data(SIZE) == content


def test_damaged_object(one):
    """A checksum that doesn't fit: EIO and a word, never wrong contents."""
    one.mount()
    path = one.mnt / "f"
    put(path, MIB)
    one.release(path)
    (copy,) = one.status(path)["copies"]
    with open(copy["object"], "r+b") as f:
        f.seek(5000)
        f.write(b"flipped")
    answer = one.ctl("restore", path)
    assert answer.status == 1
    assert answer.json[0]["result"] == "failed"
    assert one.state(path) == "released"
    assert copy["object"] in one.log.read_text()
