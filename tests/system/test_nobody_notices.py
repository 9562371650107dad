# SPDX-License-Identifier: MIT
"""A tree with every kind of file, looked at by the tools that people have,
while it is migrated, released and restored beneath them: nothing differs."""

import ctypes
import hashlib
import os
import random
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from files import (CAPABILITY, MIB, data, digest, holes, libc, look_all,
                   put)
from rig import run, wait_for

FUTURE = 7_000_000_000_123456789  # 2191
# Only where the file's own data are needed, and never so often that it would be
# restored by itself.
OPTIONS = ["restore_after=never"]

# A tree is the same to both file systems, whatever passthrough is.
BOTH = ["ext4-on", "xfs-off"]


@pytest.fixture(name="both", params=BOTH)
def both_tiers(rig, request):
    tier = rig.tier(*request.param.split("-"))
    tier.mount(*OPTIONS)
    yield tier
    tier.close()


def chattr(path, flags):
    return run("chattr", flags, path, check=False).returncode == 0


# -- the tree ----------------------------------------------------------------

def sparse(path, size, *pieces):
    with open(path, "wb") as f:
        f.truncate(size)  # first: xfs reserves room at an end that grows
        for at, length in pieces:
            f.seek(at)
            f.write(data(length, at))


def make_names(top):
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, 1234567):
        put(top / f"size-{size}", size)
    put(top / ("n" * 255), 5000)
    put(top / ("\u00fc" * 127), 5000)
    put(top / os.fsdecode(b"\xff\xfe bytes"), 5000)
    put(top / "line\nbreak", 5000)
    deep = top.joinpath(*("d" * 100 for _ in range(8)))
    deep.mkdir(parents=True)
    put(deep / "f", 5000)
    for i in range(3):
        os.link(top / "size-65536", top / f"link-{i}")
    os.symlink("size-4096", top / "symlink")
    os.symlink("x" * 1000, top / "dangling")


def make_special(top):
    os.mkfifo(top / "fifo", 0o600)
    with socket.socket(socket.AF_UNIX) as s:
        cwd = os.getcwd()
        os.chdir(top)
        s.bind("socket")
        os.chdir(cwd)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))


def make_sparse(top):
    sparse(top / "hole", 20 * MIB)
    sparse(top / "end", 9 * MIB, (9 * MIB - 5, 5))
    sparse(top / "begin", 9 * MIB, (0, 5))
    sparse(top / "comb", 8 * MIB, *((i * MIB, 70000) for i in range(8)))
    with open(top / "zeros", "wb") as f:  # written, not a hole
        f.write(bytes(MIB))
    with open(top / "reserved", "wb") as f:
        f.write(data(10000))
        libc.fallocate(f.fileno(), 1, ctypes.c_long(0), ctypes.c_long(MIB))


def make_attributes(top):
    for mode in (0o0, 0o400, 0o4755, 0o2755, 0o6711, 0o1644):
        path = put_at(top / f"mode-{mode:o}", 30000)
        os.chown(path, 1234, 5678)
        path.chmod(mode)
    path = put_at(top / "xattrs", 30000)
    for i in range(20):
        os.setxattr(path, f"user.{i}", bytes([i]) * i * 7)
    os.setxattr(path, "trusted.note", b"n" * 1500)
    path = put_at(top / "acl", 30000)
    run("setfacl", "-m", "u:1234:rw,g:99:r,m::rw", path)
    (top / "inherits").mkdir()
    run("setfacl", "-d", "-m", "u:1234:rwx", top / "inherits")
    put(top / "inherits/f", 30000)
    for name, links in (("capable", 1), ("capable-linked", 2)):
        path = put_at(top / name, 300000)
        path.chmod(0o6755)
        os.setxattr(path, "security.capability", CAPABILITY)
        if links > 1:
            os.link(path, top / f"{name}-too")
    for flag in "SdAcsutim":
        path = put_at(top / f"flag-{flag}", 30000)
        chattr(path, f"+{flag}")
    path = put_at(top / "flag-a", 30000)
    chattr(path, "+a")


def put_at(path, size):
    put(path, size)
    return path


def make_times(top):
    """Of files and directories; last, for what is made changes them."""
    for i, ns in enumerate((0, 1, -10**18, 10**18 + 123456789, FUTURE)):
        put(top / f"time-{i}", 30000)
        os.utime(top / f"time-{i}", ns=(ns, ns))
        (top / f"dir-{i}").mkdir()
        put(top / f"dir-{i}/f", 30000)
        os.utime(top / f"dir-{i}", ns=(ns, ns))


def make_tree(top):
    top.mkdir()
    make_names(top)
    make_special(top)
    make_sparse(top)
    make_attributes(top)
    make_times(top)
    os.sync()


FLAGGED = {"flag-i", "flag-a"}  # the front itself refuses


def unflag(top):
    for name in FLAGGED:
        chattr(top / name, "-ia")


# -- what is seen --------------------------------------------------------------

def pipe(*argv):
    """The digest of what a command writes; what it says is a failure."""
    done = subprocess.run([os.fspath(a) for a in argv], capture_output=True,
                          check=True)
    said = [line for line in done.stderr.splitlines()
            if b"socket ignored" not in line]
    assert not said, said
    return hashlib.sha256(done.stdout).hexdigest()


def archives(top):
    """Digests of archives that a user could make: to the byte, and with what
    they say of times. Reading is O_NOATIME, or it would change what is compared."""
    tar = ["tar", "-C", top, "--sort=name", "--atime-preserve=system"]
    files = run("find", top, "!", "-type", "d", "!", "-type", "s", "-printf",
                r"%P\0", text=False).stdout
    listed = top.parent / "list"
    listed.write_bytes(b"\0".join(sorted(files.split(b"\0")[:-1])))
    posix = ["--format=posix", "--xattrs", "--xattrs-include=*", "--acls",
             "--pax-option=exthdr.name=%d/PaxHeaders/%f"]
    named = ["--null", "--no-recursion", "-T", listed]
    seen = {
        "gnu": pipe(*tar, "-cf", "-", "."),
        "sparse": pipe(*tar, "--sparse", "-cf", "-", "."),
        # atime, ctime and mtime of all but directories
        "posix": pipe(*tar, *posix, "-cf", "-", *named),
        "directories": pipe(*tar, *posix, "--pax-option=delete=ctime,"
                            "delete=atime", "-cf", "-", "."),
    }
    listed.unlink()
    return seen


def stats(top):
    """What stat(1) says by statx(2), with the birth time; but not the ctime of
    directories, nor the atime of what was read to look at it."""
    seen = []
    for types, form in (("bcdpfls", r"%i %f %h %u %g %s %b %B %t %T %w %y %n\0"),
                        ("bcpfls", r"%z %n\0"), ("bcpfs", r"%x %n\0")):
        seen += run("find", top, "-type", ",".join(types), "-exec", "stat",
                    "--printf", form, "{}", "+", text=False).stdout.split(b"\0")
    return sorted(seen)


def flags(top):
    return sorted(run("lsattr", "-R", "-a", top, text=False,
                      check=False).stdout.splitlines())


def everything(top):
    return {"stat": stats(top), "look": look_all(top), "flags": flags(top),
            "du": run("du", "-a", top, text=False).stdout,
            "holes": {p.name: holes(p) for p in top.iterdir()
                      if p.name in ("hole", "end", "begin", "comb")}}


def compare(before, after, step):
    for what, seen in before.items():
        if after[what] == seen:
            continue
        if isinstance(seen, dict):
            pairs = [(k, v, after[what].get(k)) for k, v in seen.items()
                     if after[what].get(k) != v]
        else:
            pairs = [p for p in zip(seen, after[what]) if p[0] != p[1]] \
                if isinstance(seen, list) else [(seen, after[what])]
        raise AssertionError(f"{what} differs after {step}: {pairs[:3]}")


# -- tests -----------------------------------------------------------------------

def move(tier, *command):
    """Runs a command that moves all but what the front forbids."""
    answer = tier.ctl(*command)
    wrong = [o for o in answer.json if o["result"] not in ("done", "already")
             and os.path.basename(o["path"]) not in FLAGGED]
    assert not wrong, wrong
    assert answer.json or command[0] == "release"


def states(tier, top):
    """{state: names} of all that has data."""
    seen = {}
    for path in (Path(p, n) for p, _, names in os.walk(top) for n in names):
        st = path.lstat()
        if stat.S_ISREG(st.st_mode) and st.st_size:
            seen.setdefault(os.getxattr(path, "user.tierfs.state").decode(),
                            set()).add(path.name)
    return seen


@pytest.mark.slow(600)
def test_every_kind_of_file(both):
    top = both.mnt / "tree"
    make_tree(top)
    try:
        seen, packed = everything(top), archives(top)

        def unchanged(step):
            compare(seen, everything(top), step)
            compare(packed, archives(top), f"{step} (archive)")
            compare(seen, everything(top), f"archiving after {step}")

        unchanged("nothing")
        move(both, "migrate", "-r", top)
        unchanged("migrate")
        move(both, "release", "-r", top)
        assert states(both, top).keys() <= {"released", "none"}
        assert states(both, top).get("none", set()) <= FLAGGED | {
            "size-0"}, states(both, top)["none"]
        unchanged("release")
        both.remount(*OPTIONS)
        unchanged("a remount")
        half = sorted(p for p in top.iterdir()
                      if stat.S_ISREG(p.lstat().st_mode))[::2]
        move(both, "restore", *half)
        assert {"released", "migrated"} <= states(both, top).keys()
        unchanged("half a restore")
        both.kill()
        both.mount(*OPTIONS)
        unchanged("kill -9")
        move(both, "restore", "-r", top)
        assert "released" not in states(both, top)
        unchanged("restore")
        move(both, "migrate", "-r", "--release", top)
        unchanged("a second release")
        move(both, "restore", "-r", top)
        both.remount(*OPTIONS)
        unchanged("a second restore")
    finally:
        unflag(top)


def test_directories_through_restores(both):
    """The times of a directory that is open stay while files in it are restored,
    and tar, which looks whether they do, has nothing to say; what its users do
    shows."""
    top = both.mnt / "tree"
    top.mkdir()
    for i in range(60):
        put(top / f"f{i:02}", 20000 + i, i)
    with os.scandir(top):
        through_restores(both, top)


def through_restores(both, top):
    def times():
        return run("stat", "--cached=never", "-c", "%y %z", top).stdout

    before = times()
    for _ in range(2):
        both.release(top)
        both.do("restore", "-r", top)
        assert times() == before
    over = threading.Event()

    def moving():
        while not over.is_set():
            both.ctl("release", "-r", top)
            both.ctl("restore", "-r", top)

    mover = threading.Thread(target=moving)
    mover.start()
    try:
        for _ in range(40):
            pipe("tar", "-C", top, "--atime-preserve=system", "-cf", "-", ".")
            assert times() == before
    finally:
        over.set()
        mover.join()
    (top / "new").touch()
    assert times() > before
    now = times()
    both.do("migrate", "-r", "--release", top)
    both.do("restore", "-r", top)
    assert times() == now


def test_looking_costs_no_io(both):
    """Tools that look at attributes alone ask the target nothing."""
    top = both.mnt / "tree"
    make_tree(top)
    try:
        move(both, "migrate", "-r", "--release", top)
        stamp = both.rig.dir / f"{both.name}.stamp"
        time.sleep(0.02)
        stamp.touch()
        copy = both.rig.dir / f"{both.name}.copy"
        run("rsync", "-aHAXS", f"{top}/", copy)
        both.remount("restore_after=3")
        newer = ["find", top, "-type", "f", "!", "-name", "time-4"]
        tools = {
            ("ls", "-laR", top): None,
            ("du", "-a", top): None,
            ("lsattr", "-R", "-a", top): None,
            ("getfattr", "-dm-", "-R", "-h", top): None,
            ("getfacl", "-R", top): None,
            ("tar", "-cf", "/dev/null", "-C", top, "."): b"",
            ("rsync", "-aHAXSin", f"{top}/", copy): b"",
            (*newer, "-newer", stamp): b"",
            (*newer, "-cnewer", stamp): b"",
        }
        disk = both.target_disk
        with disk.frozen():
            for tool, says in tools.items():
                def look(tool=tool, says=says):
                    out = run(*tool, text=False, check=False).stdout
                    assert says is None or out == says, tool
                disk.untouched_by(look)
            # An open that reads nothing is none that a restore comes after.
            for _ in range(5):
                disk.untouched_by(lambda: flags(top))
        assert "migrated" not in states(both, top)
        run("rm", "-r", copy)
    finally:
        unflag(top)


def test_sparse_copies_lose_nothing(both):
    """cp and tar ask where the data are; what they copy is all there, and
    nothing is restored for it."""
    top = both.mnt / "tree"
    top.mkdir()
    make_sparse(top)
    want = {p.name: digest(p) for p in top.iterdir()}
    move(both, "migrate", "-r", "--release", top)
    away = both.rig.directory(both.fs)
    for how in ("auto", "always", "never"):
        out = away / how
        run("cp", "-a", f"--sparse={how}", top, out)
        assert {p.name: digest(p) for p in out.iterdir()} == want, how
    assert (away / "auto/hole").stat().st_blocks == 0
    (away / "tar").mkdir()
    run("sh", "-c", 'tar --sparse -C "$1" -cf - . | tar -C "$2" -xf -', "sh",
        top, away / "tar")
    assert {p.name: digest(p) for p in (away / "tar").iterdir()} == want
    assert states(both, top).keys() == {"released"}


# -- inode numbers ---------------------------------------------------------------

class Numbers:
    """The st_ino of every file that lives, which must stay and be its own."""

    def __init__(self, tier):
        self.tier, self.known, self.count = tier, {}, 0
        self.dead, self.reused = set(), 0
        self.dice = random.Random(1)

    def made(self, path):
        number = os.lstat(path).st_ino
        self.reused += number in self.dead
        self.known[path] = number

    def create(self, n):
        for _ in range(n):
            self.count += 1
            top = self.tier.mnt / f"d{self.count % 3}"
            path = top / f"f{self.count}"
            top.mkdir(exist_ok=True)
            kind = self.dice.randrange(12)
            if kind == 0:
                path.mkdir()
            elif kind == 1:
                path.symlink_to("nowhere")
            else:
                path.write_bytes(bytes([self.count & 255]) * 4100)
            self.made(path)
            if kind == 2:
                os.link(path, top / f"l{self.count}")
                self.made(top / f"l{self.count}")

    def forget(self, path):
        number = self.known.pop(path)
        if number not in self.known.values():
            self.dead.add(number)

    def destroy(self, n):
        for path in self.dice.sample(sorted(self.known), n):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif self.dice.randrange(4) == 0:  # replaced by a new file
                new = path.with_name("new")
                new.write_bytes(b"n" * 4200)
                number = new.stat().st_ino
                os.rename(new, path)
                self.forget(path)
                self.known[path] = number
                continue
            else:
                path.unlink()
            self.forget(path)

    def check(self):
        seen = {path: os.lstat(path).st_ino for path in self.known}
        moved = [(str(p), n, seen[p]) for p, n in self.known.items()
                 if seen[p] != n]
        assert not moved, moved[:5]
        files = {}
        for path, number in seen.items():
            other = files.setdefault(number, path)
            assert other == path or (other.name[1:] == path.name[1:] and
                                     os.lstat(path).st_nlink == 2), \
                (other, path, number)
        listed = {p: e.inode() for p, e in (
            (self.tier.mnt / d / e.name, e) for d in ("d0", "d1", "d2")
            for e in os.scandir(self.tier.mnt / d))}
        assert listed == seen


@pytest.mark.slow(1800)
def test_numbers_are_unique_and_stay(both, long):
    """Thousands of restores between thousands of creations and deletions."""
    rounds, files = (40, 250) if long else (6, 100)
    numbers = Numbers(both)
    numbers.create(3 * files)
    restored = 0
    for i in range(rounds):
        both.do("migrate", "-r", "--release", both.mnt)
        numbers.check()
        numbers.destroy(files // 3)
        numbers.create(files // 3)
        restored += sum(o["result"] == "done"
                        for o in both.do("restore", "-r", both.mnt))
        numbers.check()
        numbers.destroy(files // 2)
        numbers.create(files)
        numbers.check()
        if i % 3 == 1:
            both.remount(*OPTIONS)
            numbers.check()
        elif i % 3 == 2:
            both.kill()
            both.mount(*OPTIONS)
            numbers.check()
        numbers.destroy(len(numbers.known) - 3 * files)
    assert restored > rounds * files
    # Or nothing was forced.
    assert numbers.reused > files, numbers.reused
    # What held the numbers goes with their files.
    numbers.destroy(len(numbers.known))
    hold = both.front / ".tierfs/inodes"
    wait_for(lambda: not os.listdir(hold), 60)
    wait_for(lambda: not os.listdir(both.front / ".tierfs/orphans"), 60)
