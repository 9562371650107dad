# SPDX-License-Identifier: MIT
"""Extended attributes as on the front, whoever gave them and whenever they are
asked for."""

import concurrent.futures
import errno
import os
import random
import stat
import struct
import threading

import pytest

from files import CAPABILITY, put


def acl(mode):
    """Somebody's, and mode's for the others: tag, permissions, whose."""
    entries = [(0x01, mode >> 6, -1), (0x02, 6, 1234), (0x04, mode >> 3 & 7, -1),
               (0x10, 7, -1), (0x20, mode & 7, -1)]
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHi", *entry) for entry in entries)


VALUES = {
    "user.one": b"1", "user.two": b"2" * 300, "trusted.note": b"note",
    "security.capability": CAPABILITY, "security.other": b"other",
    "system.posix_acl_access": acl(0o640),
    "system.posix_acl_default": acl(0o750),
}


def ask(path, name):
    try:
        return os.getxattr(path, name)
    except OSError as e:
        return e.errno


def seen(path):
    """All that can be asked of path's attributes."""
    st = path.lstat()
    return (stat.filemode(st.st_mode), sorted(os.listxattr(path)),
            {name: ask(path, name) for name in (*VALUES, "user.none")})


class Pair:
    """The same tree on the mount and on the front's file system."""

    def __init__(self, tier, bare, seed):
        self.tier, self.tops = tier, (tier.mnt, bare)
        self.random = random.Random(seed)
        self.files, self.dirs, self.made = [], ["."], 0

    def both(self, call):
        """call(top) for both: it ends in the same way."""
        ends = []
        for top in self.tops:
            try:
                call(top)
                ends.append(0)
            except OSError as e:
                ends.append(e.errno)
        assert ends[0] == ends[1]

    def compare(self, paths):
        for path in paths:
            here, there = (seen(top / path) for top in self.tops)
            assert here == there, path

    def any(self):
        return self.random.choice(self.files + self.dirs)

    def make(self):
        self.made += 1
        name = f"{self.random.choice(self.dirs)}/{self.made}"
        if self.random.random() < 0.3:
            self.both(lambda top: (top / name).mkdir())
            self.dirs.append(name)
        elif self.random.random() < 0.2:
            self.both(lambda top: os.mkfifo(top / name))
            self.files.append(name)
        else:
            self.both(lambda top: put(top / name, 5000))
            self.files.append(name)

    def give(self):
        path, name = self.any(), self.random.choice(list(VALUES))
        self.both(lambda top: os.setxattr(top / path, name, VALUES[name]))

    def take(self):
        path, name = self.any(), self.random.choice(list(VALUES))
        self.both(lambda top: os.removexattr(top / path, name))

    def change_mode(self):
        path, mode = self.any(), self.random.choice([0o755, 0o600, 0o2771])
        self.both(lambda top: (top / path).chmod(mode))

    def move(self):
        if self.files:
            self.made += 1
            old = self.random.choice(self.files)
            new = f"{self.random.choice(self.dirs)}/{self.made}"
            self.both(lambda top: (top / old).rename(top / new))
            self.files[self.files.index(old)] = new

    def write(self):
        regular = [f for f in self.files if (self.tops[0] / f).is_file()]
        if regular:
            path = self.random.choice(regular)
            self.both(lambda top: put(top / path, 6000))

    def bring(self):
        path = self.tops[0] / self.any()
        state = self.random.choice(["migrated", "released", "restored"])
        if path.is_file() and self.tier.state(path) == "none":
            self.tier.bring(path, state)

    def forget(self):
        # Dropping caches would, too, but those of other tests' mounts as well.
        self.tier.remount()
        if self.random.random() < 0.5:
            os.listdir(self.tops[0])

    def step(self):
        self.random.choices(
            [self.make, self.give, self.take, self.change_mode, self.move,
             self.write, self.bring, self.forget],
            [4, 6, 2, 2, 2, 2, 2, 1])[0]()
        self.compare({self.any() for _ in range(3)})


@pytest.mark.crossed(0)
def test_random_attributes(tier, bare):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    pair = Pair(tier, bare, seed)
    for _ in range(1500):
        pair.step()
    tier.remount()
    pair.compare(pair.files + pair.dirs)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_given_while_it_is_met(one, kind):
    """Whoever is the first to meet the file may find it without."""
    one.mount()
    path = one.mnt / "d" / "it"
    path.parent.mkdir()
    if kind == "file":
        put(path, 10)
    else:
        path.mkdir()
    go = threading.Barrier(2)

    def give():
        go.wait(60)
        os.setxattr(path, "user.one", b"1")

    def meet():
        go.wait(60)
        for entry in os.scandir(path.parent):
            entry.stat()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(30):
            one.remount()
            for job in (pool.submit(give), pool.submit(meet)):
                job.result(60)
            assert os.getxattr(path, "user.one") == b"1"
            os.removexattr(path, "user.one")
            assert ask(path, "user.one") == errno.ENODATA
