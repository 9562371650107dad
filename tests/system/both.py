# SPDX-License-Identifier: MIT
"""A file that is changed, and what it must hold."""

import os

from files import (FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, MIB,
                   fallocate, put)

SIZE = 300 * 1024 + 7


class Both:
    """A file, and the bytes that it must hold."""

    def __init__(self, path, size=SIZE, seed=0):
        self.path, self.bytes = path, bytearray(put(path, size, seed))
        self.steps = [bytes(self.bytes)]

    def step(self):
        self.steps.append(bytes(self.bytes))

    def synced(self):
        """No older contents may come back."""
        del self.steps[:-1]

    def write(self, at, piece, fd=None):
        if fd is None:
            with open(self.path, "r+b", buffering=0) as f:
                self.write(at, piece, f.fileno())
            return
        while piece:
            # The kernel may split it; what was taken counts.
            n = os.pwrite(fd, piece, at)
            self.written(at, piece[:n])
            at, piece = at + n, piece[n:]

    def written(self, at, piece):
        # The kernel does what reaches the end of the page on its own.
        for part in piece[:-at % 4096], piece[-at % 4096:]:
            if part:
                self.bytes.extend(bytes(max(0, at - len(self.bytes))))
                self.bytes[at:at + len(part)] = part
                self.step()
                at += len(part)

    def append(self, piece):
        with open(self.path, "ab") as f:
            f.write(piece)
        self.written(len(self.bytes), piece)

    def truncate(self, size):
        os.truncate(self.path, size)
        del self.bytes[size:]
        self.bytes.extend(bytes(size - len(self.bytes)))
        self.step()

    def zero(self, at, length, mode):
        with open(self.path, "r+b") as f:
            fallocate(f.fileno(), mode, at, length)
        end = at + length
        if mode & FALLOC_KEEP_SIZE:
            end = min(end, len(self.bytes))
        if end > at:
            self.written(at, bytes(end - at))

    def punch(self, at, length):
        self.zero(at, length, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE)

    def any_change(self, dice):
        """One at random, on at most 1 MiB."""
        at, length = dice.randrange(MIB), dice.choice([1, 100, 4096, 20000])
        op = dice.randrange(8)
        if op == 0:
            self.truncate(at)
        elif op == 1:
            self.punch(at, length)
        elif op == 2:
            self.zero(at, length, FALLOC_ZERO_RANGE)
        elif op == 3:
            self.append(dice.randbytes(100))
        else:
            self.write(at, dice.randbytes(length))

    def check(self):
        assert self.path.stat().st_size == len(self.bytes), self.path
        assert self.path.read_bytes() == self.bytes, self.path


def released(tier, name, size=SIZE):
    both = Both(tier.mnt / name, size, name)
    tier.release(both.path)
    return both


def dirty(tier, name, size=SIZE):
    both = released(tier, name, size)
    both.write(1000, b"dirty")
    assert tier.state(both.path) == "dirty"
    return both


def stub(tier, both):
    """Its name on the front."""
    return tier.front / both.path.relative_to(tier.mnt)
