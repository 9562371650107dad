# SPDX-License-Identifier: MIT
"""The catalog follows the files: report and find against a walk."""

import os
import random
import stat
import subprocess
import time
from collections import defaultdict
from contextlib import suppress

import pytest

from files import (FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, MIB, RENAME_EXCHANGE,
                   RENAME_NOREPLACE, data, fallocate, libc, put, renameat2)
from rig import NOBODY, run, wait_for

WEEK = 604800
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
RESTORE = "restore_below=0"  # what is written to a released file makes it dirty


@pytest.fixture(name="tier")
def one_mounted(one):
    return one.mount(RESTORE)


def catalog(tier):
    return tier.mount_status()["catalog"]


def walked(tier):
    """Waits until the catalog knows of all."""
    wait_for(lambda: tier.do("report", tier.mnt)[0]["complete"], 60)


def walk(top):
    """(names by inode, stat by inode) of the regular files below top."""
    names, stats = defaultdict(set), {}
    for parent, _, files in os.walk(top):
        for name in files:
            path = os.path.join(parent, name)
            st = os.lstat(path)
            if stat.S_ISREG(st.st_mode):
                names[st.st_ino].add(path)
                stats[st.st_ino] = st
    return names, stats


def wrong_row(row, st, state, names):
    want = {"size": st.st_size, "uid": st.st_uid, "gid": st.st_gid,
            "nlink": st.st_nlink, "state": state}
    got = {key: row[key] for key in want}
    if got != want:
        return f"{row['path']}: {got}, not {want}"
    if abs(row["mtime"] - st.st_mtime_ns / 1e9) > 1e-3:
        return f"{row['path']}: mtime {row['mtime']}, not {st.st_mtime_ns}"
    if abs(row["ctime"] - st.st_ctime_ns / 1e9) > 1e-3:
        return f"{row['path']}: ctime {row['ctime']}, not {st.st_ctime_ns}"
    if row["access"] < st.st_atime_ns / 1e9 - 1e-3:
        return f"{row['path']}: access before {st.st_atime_ns}"
    if row["path"] not in names:
        return f"{row['path']}: not one of {names}"
    return None


def bucket(size):
    return 1 << size.bit_length()


def counted(rows):
    """What report says of a directory that has these."""
    want = {"files": len(rows), "bytes": sum(r["size"] for r in rows)}
    states, sizes, ages = (defaultdict(lambda: [0, 0]) for _ in range(3))
    for row in rows:
        for table, key in ((states, row["state"]),
                           (sizes, bucket(row["size"])),
                           (ages, int(row["mtime"] // WEEK) * WEEK)):
            table[key][0] += 1
            table[key][1] += row["size"]
    return want | {"states": dict(states), "sizes": dict(sizes),
                   "ages": dict(ages)}


def reported(report):
    got = {key: report[key] for key in ("files", "bytes")}
    got["states"] = {name: [c["files"], c["bytes"]]
                     for name, c in report["states"].items() if c["files"]}
    for table, key in (("sizes", "below"), ("ages", "since")):
        got[table] = {c[key]: [c["files"], c["bytes"]] for c in report[table]}
    return got


def found(tier, *tests, **kwargs):
    rows = tier.do("find", tier.mnt, *tests, **kwargs)
    for row in rows:
        if "path_hex" in row:
            row["path"] = os.fsdecode(bytes.fromhex(row["path_hex"]))
    return rows


def difference(tier):
    """What the catalog says otherwise than a walk, or None."""
    rows = found(tier)
    names, stats = walk(tier.mnt)
    seen = {}
    for row in rows:
        inode = next((i for i, n in names.items() if row["path"] in n), None)
        if inode is None or inode in seen:
            return f"{row['path']}: isn't there, or is there twice"
        state = os.getxattr(row["path"], "user.tierfs.state").decode()
        wrong = wrong_row(row, stats[inode], state, names[inode])
        if wrong:
            return wrong
        seen[inode] = row
    if seen.keys() != names.keys():
        return f"missing: {[names[i] for i in names.keys() - seen.keys()]}"
    dirs = [parent for parent, _, _ in os.walk(tier.mnt)]
    for path, report in zip(dirs, tier.do("report", *dirs), strict=True):
        want = counted([r for r in rows
                        if r["path"].startswith(path + "/")])
        if report["path"] != path or reported(report) != want:
            return f"{path}: {reported(report)}, not {want}"
    return None


def follows(tier):
    """Closing is asynchronous, and a log is settled every second."""
    last = None

    def same():
        nonlocal last
        last = difference(tier)
        return last is None
    try:
        wait_for(same, 30, 0.1)
    except AssertionError:
        raise AssertionError(f"{last}\n{catalog(tier)}") from None


# -- every kind of change ------------------------------------------------------

def link_tmpfile(directory, name):
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(fd, bytes(5000))
        assert not libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(),
                               AT_FDCWD, os.fsencode(directory / name),
                               AT_SYMLINK_FOLLOW)
    finally:
        os.close(fd)


def test_each_change(tier):
    """One of each, compared after each: what is told of none other."""
    top, there = tier.mnt / "top", tier.mnt / "there"

    def released(name, size=2 * MIB):
        put(top / name, size)
        tier.release(top / name)
        return top / name

    def cut_open():
        with open(top / "f", "r+b") as f:
            follows(tier)  # the open is told, too
            f.truncate(10)
            follows(tier)

    def punch():
        with open(top / "g", "r+b") as f:
            follows(tier)
            fallocate(f.fileno(), 0, 0, 100000)
            follows(tier)
            fallocate(f.fileno(), FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 0,
                      4096)

    steps = [
        top.mkdir, there.mkdir, (top / "d").mkdir,
        lambda: put(top / "f", 100), lambda: os.mknod(top / "g"),
        lambda: os.symlink("f", top / "s"), lambda: os.mkfifo(top / "p"),
        lambda: put(top / "f", 5000), cut_open,
        lambda: os.truncate(top / "f", 70000), punch,
        lambda: os.chmod(top / "f", 0o600),
        lambda: os.chown(top / "f", 1, 2),
        lambda: os.utime(top / "f", (1e9, 1e9)),
        lambda: os.setxattr(top / "f", "user.a", b"1"),
        lambda: os.removexattr(top / "f", "user.a"),
        lambda: run("chattr", "+d", top / "f"),
        lambda: os.link(top / "f", there / "l"),
        lambda: os.link(top / "f", top / "l"),
        lambda: os.unlink(top / "f"), lambda: os.unlink(there / "l"),
        lambda: os.rename(top / "l", top / "f"),
        lambda: os.rename(top / "f", there / "f"),
        lambda: os.link(there / "f", top / "f"),
        lambda: os.rename(there / "f", top / "f"),  # both stay
        lambda: os.rename(top / "f", top / "g"),
        lambda: put(top / "h", 1),
        lambda: renameat2(top / "g", top / "h", RENAME_EXCHANGE),
        lambda: renameat2(top / "h", there / "h", RENAME_NOREPLACE),
        lambda: renameat2(top, there, RENAME_EXCHANGE),
        lambda: renameat2(top, there, RENAME_EXCHANGE),
        lambda: put(top / "d" / "x", 3),
        lambda: os.rename(top / "d", there / "d"),
        lambda: (there / "e").mkdir(),
        lambda: os.rename(there / "d", there / "e"),
        lambda: os.unlink(there / "e" / "x"), (there / "e").rmdir,
        lambda: link_tmpfile(top, "t"),
        lambda: tier.migrate(top / "t"), lambda: tier.release(top / "t"),
        lambda: tier.do("restore", top / "t"),
        lambda: tier.release(top / "t"),
        lambda: os.unlink(top / "t"),
        lambda: tier.do("pin", top / "g"), lambda: tier.do("unpin", top / "g"),
        lambda: os.truncate(released("cut"), 0),
        lambda: os.truncate(released("shorter"), MIB),
        lambda: os.rename(released("a"), released("b")),
        lambda: os.chmod(top / "b", 0o640),
        lambda: put(top / "b", 10),
        lambda: os.link(released("two"), top / "names"),
        lambda: tier.do("restore", top / "two"),
    ]
    for number, step in enumerate(steps):
        step()
        try:
            follows(tier)
        except AssertionError as e:
            raise AssertionError(f"step {number}: {e}") from None
    with open(released("log"), "r+b") as f:
        f.seek(2 * MIB)
        f.write(b"more")
    assert tier.state(top / "log") == "dirty"
    follows(tier)
    tier.do("restore", top / "log")
    follows(tier)


class Mix:
    """Random changes of a tree."""

    def __init__(self, tier, seed):
        self.tier, self.dice = tier, random.Random(seed)
        self.serial = 0

    def files(self):
        return [os.path.join(p, n) for p, _, files in os.walk(self.tier.mnt)
                for n in files]

    def dirs(self):
        return [p for p, _, _ in os.walk(self.tier.mnt)]

    def new(self):
        self.serial += 1
        return os.path.join(self.dice.choice(self.dirs()), f"n{self.serial}")

    def old(self):
        return self.dice.choice(self.files() or [self.new()])

    def create(self):
        put(self.new(), self.dice.choice([0, 1, 4095, 4096, 70000, 2 * MIB]))

    def write(self):
        with open(self.old(), "r+b") as f:
            f.seek(self.dice.randrange(300000))
            f.write(data(self.dice.randrange(1, 5000)))

    def move_dir(self):
        dirs = self.dirs()[1:]
        if dirs:
            os.rename(self.dice.choice(dirs), self.new())

    def step(self):
        tier, dice = self.tier, self.dice
        dice.choice([
            self.create, self.create, self.write, self.write, self.move_dir,
            lambda: os.mkdir(self.new()),
            lambda: os.rmdir(dice.choice(self.dirs()[1:] or [self.new()])),
            lambda: os.unlink(self.old()),
            lambda: os.link(self.old(), self.new()),
            lambda: os.rename(self.old(), self.new()),
            lambda: os.rename(self.old(), self.old()),
            lambda: renameat2(self.old(), self.old(), RENAME_EXCHANGE),
            lambda: renameat2(dice.choice(self.dirs()), self.old(),
                              RENAME_EXCHANGE),
            lambda: os.truncate(self.old(), dice.randrange(100000)),
            lambda: os.chown(self.old(), dice.randrange(9), 5),
            lambda: os.utime(self.old(), (dice.randrange(1 << 30),) * 2),
            lambda: tier.ctl("migrate", self.old()),
            lambda: tier.ctl("migrate", "--release", self.old(), self.old()),
            lambda: tier.ctl("restore", self.old()),
        ])()

    def steps(self, n):
        for _ in range(n):
            with suppress(OSError):
                self.step()


@pytest.mark.slow(240)
def test_random_changes(one, long):
    tier = one.mount(RESTORE)
    mix = Mix(tier, 1)
    for _ in range(20 if long else 3):
        mix.steps(150)
        follows(tier)
    tier.remount(RESTORE)
    follows(tier)
    mix.steps(100)
    tier.kill()
    tier.mount(RESTORE)
    mix.steps(20)
    walked(tier)
    follows(tier)


def test_everything_at_once(tier):
    """More is told than there is room for, by several at a time."""
    code = ("import os, sys\n"
            "top = sys.argv[1]\n"
            "os.mkdir(top)\n"
            "for i in range(4000):\n"
            "    p = f'{top}/{i % 7}'\n"
            "    os.makedirs(p, exist_ok=True)\n"
            "    open(f'{p}/{i}', 'w').close()\n"
            "    if i % 3 == 0: os.unlink(f'{p}/{i}')\n"
            "    if i % 500 == 0: os.rename(p, f'{top}/moved{i}')\n")
    them = [subprocess.Popen(["/usr/bin/python3", "-c", code,
                              str(tier.mnt / f"p{i}")]) for i in range(3)]
    assert not any(p.wait(60) for p in them)
    walked(tier)
    follows(tier)


# -- without it, and before it ---------------------------------------------------

def remove_catalog(tier):
    for path in (tier.front / ".tierfs").glob("catalog.db*"):
        path.unlink()


def some_tree(top):
    for i in range(30):
        (top / f"d{i % 5}" / f"e{i % 3}").mkdir(parents=True, exist_ok=True)
        put(top / f"d{i % 5}" / f"e{i % 3}" / f"f{i}", 1000 * i, i)
    os.link(top / "d1" / "e1" / "f1", top / "link")


def test_an_old_tree_is_adopted(one):
    some_tree(one.front)
    one.mount()
    walked(one)
    follows(one)
    assert catalog(one)["files"] == 30 and not catalog(one)["walking"]


def test_an_old_tree_is_adopted_at_the_rate_that_was_asked_for(one):
    some_tree(one.front)
    one.mount("walk_rate=20")  # of 51 entries
    start = time.monotonic()
    wait_for(lambda: not catalog(one)["walking"], 60)
    assert time.monotonic() - start > 1
    assert catalog(one)["files"] == 30
    follows(one)


def test_it_can_be_removed(tier):
    some_tree(tier.mnt)
    tier.release(tier.mnt / "d2")
    tier.do("pin", tier.mnt / "d1" / "e0" / "f6")
    tier.umount()
    remove_catalog(tier)
    tier.mount()
    walked(tier)
    follows(tier)
    (pinned,) = tier.do("find", tier.mnt, "-pinned")
    assert pinned["path"] == str(tier.mnt / "d1" / "e0" / "f6")


def test_a_damaged_one_is_made_anew(tier):
    some_tree(tier.mnt)
    tier.umount()
    (tier.front / ".tierfs" / "catalog.db").write_bytes(b"\1" * 8192)
    tier.mount()
    walked(tier)
    follows(tier)
    assert "catalog" in tier.tail()


def test_changes_without_it(one):
    """Of a mount without a catalog, the next one finds what has changed."""
    tier = one.mount()
    some_tree(tier.mnt)
    follows(tier)
    tier.remount("catalog=off")
    assert catalog(tier) is None
    answer = tier.ctl("report", tier.mnt)
    assert answer.status == 1 and "no catalog" in answer.err
    assert tier.ctl("find", tier.mnt).status == 1
    metrics = tier.ctl("--mount", tier.mnt, "metrics", text=True).out
    assert "tierfs_catalog" not in metrics
    (tier.mnt / "d0" / "e0" / "f0").unlink()
    os.rename(tier.mnt / "d1", tier.mnt / "d9")
    tier.release(tier.mnt / "d2")
    tier.remount()
    walked(tier)
    follows(tier)


def test_repairs_without_it(tier):
    """tierctl check --front changes attributes behind its back."""
    some_tree(tier.mnt)
    tier.migrate(tier.mnt / "d2")
    follows(tier)
    tier.umount()
    objects = len(tier.objects())
    for path in tier.objects():
        path.unlink()
    answer = tier.ctl("check", "--repair", "--front", tier.front,
                      f"--target={tier.target.name}={tier.target}")
    assert answer.status == 0 and len(answer.json) == objects > 0
    tier.mount()
    walked(tier)
    follows(tier)
    assert not tier.do("find", tier.mnt, "-state", "migrated")


def test_it_cannot_be_had(one):
    """The mount is there without it."""
    (one.front / ".tierfs").mkdir(exist_ok=True)
    (one.front / ".tierfs" / "catalog.db").mkdir()
    (one.front / ".tierfs" / "catalog.db" / "x").mkdir()
    one.mount()
    put(one.mnt / "f", 10)
    assert catalog(one) is None
    assert "no catalog" in one.tail()


# -- asking ------------------------------------------------------------------------

def test_others_see_what_they_could(tier):
    some_tree(tier.mnt)
    os.chmod(tier.mnt / "d1", 0o700)
    os.chmod(tier.mnt / "d2", 0o711)  # its names are not to be told
    os.chmod(tier.mnt / "d3" / "e0", 0o744)  # nor what is in it
    follows(tier)
    rows = tier.do("find", tier.mnt, user=NOBODY)
    hidden = [str(tier.mnt / d) for d in ("d1", "d3/e0")]
    want = {r["path"] for r in tier.do("find", tier.mnt)
            if not any(r["path"].startswith(h + "/") for h in hidden)}
    assert {r["path"] for r in rows} == want
    for path in (*hidden, tier.mnt / "d1" / "e0", tier.mnt / "d2"):
        for command in ("report", "find"):
            answer = tier.ctl(command, path, user=NOBODY)
            assert answer.status == 1 and "ermission denied" in answer.err
            assert not answer.out
    assert tier.do("report", tier.mnt, user=NOBODY)[0]["files"] == 30
    assert tier.do("report", tier.mnt / "d2" / "e0", user=NOBODY)


TESTS = ["-size +10k", "-size -4", "-size 0", "-size 3", "-size +5000c",
         "-size -2M", "-empty", "-mtime +3", "-mtime -2", "-mtime 5",
         "-mmin +100", "-mmin -5000", "-atime +20", "-atime -20", "-name *1*",
         "-name f[12]?", "-user 7", "-user root", "-group 8",
         "-newer {mnt}/d1/e1/f1", "-size +1k -mtime +3 -name f2*",
         "-type f", "-user 7 -user 8", "-size +1k -size -3k"]


def test_find_as_find_does(tier):
    some_tree(tier.mnt)
    dice = random.Random(3)
    now = time.time()
    for n, path in enumerate(sorted(tier.mnt.rglob("f*"))):
        if n % 4 == 0:
            os.chown(path, 7, 8)
        os.utime(path, (now - dice.randrange(40 * 86400),
                        now - dice.randrange(10 * 86400)))
    os.mknod(os.fsencode(tier.mnt / "d1") + b"/line\nfeed\xff")
    os.unlink(tier.mnt / "link")
    follows(tier)
    for text in TESTS:
        expr = text.format(mnt=tier.mnt).split()
        want = run("find", tier.mnt, "-type", "f", *expr, "-print0",
                   encoding="utf-8", errors="surrogateescape")
        got = tier.ctl("find", tier.mnt, *expr, "-print0", text=True)
        assert got.status == 0, got.err
        assert set(got.out.split("\0")) == set(want.stdout.split("\0")), text
    tier.release(tier.mnt / "d2")
    got = {r["path"] for r in tier.do("find", tier.mnt, "-state", "released")}
    want = {str(p) for p in (tier.mnt / "d2").rglob("f*") if p.stat().st_size}
    assert got == want and want
    assert not tier.do("find", tier.mnt, "-state", "dirty,migrating")
    answer = tier.ctl("find", ".", "-name", "f7", text=True, cwd=tier.mnt)
    assert answer.out == "./d2/e1/f7\n"
    answer = tier.ctl("find", f"{tier.mnt}/d2/", "-name", "f7", "-ls",
                      text=True)
    assert answer.out.startswith("released ")
    assert answer.out.endswith(f" {tier.mnt}/d2/e1/f7\n")


@pytest.mark.parametrize("expr", [
    ["-size", "x"], ["-size", "1x"], ["-size"], ["-exec", "x"], ["-o"],
    ["-mtime", "1d"], ["-state", "gone"], ["-user", "nobody-is-called-so"],
    ["-newer", "/nonexistent"], ["!", "-empty"], ["-name", "a", "-name", "b"],
    ["-type", "d"], ["-recursive"]])
def test_find_usage(rig, expr):
    from rig import binary  # pylint: disable=C0415
    done = run(binary("tierctl"), "find", "/", *expr, check=False)
    assert done.returncode == 2 and done.stderr, done


def test_who_does_not_read_holds_up_nobody(tier):
    """A client that takes no answers; the mount goes on, and the catalog."""
    for i in range(3000):
        (tier.mnt / f"a file with a long name, to fill a socket, {i}").touch()
    follows(tier)
    from rig import binary  # pylint: disable=C0415
    argv = [binary("tierctl"), "--json", "find", tier.mnt]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as p:
        p.stdout.readline()  # it is under way, and the pipe fills up
        for i in range(0, 3000, 2):
            os.unlink(tier.mnt /
                      f"a file with a long name, to fill a socket, {i}")
        follows(tier)
        rest = p.stdout.read().count(b"\n")
        assert p.wait(60) == 0 and rest <= 3000


def test_report_for_people(tier):
    put(tier.mnt / "f", 3 * MIB)
    put(tier.mnt / "g", 10)
    os.utime(tier.mnt / "g", (1e9, 1e9))
    tier.release(tier.mnt / "f")
    follows(tier)
    out = tier.ctl("--mount", tier.mnt, "report", text=True).out
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == [f"{tier.mnt}:", "2", "files,", "3.0M"]
    assert ["released", "1", "##########", "3.0M", "#" * 20] in lines
    assert ["none", "1", "##########", "10", "#"] in lines
    assert ["<", "4.0M", "1", "##########", "3.0M", "#" * 20] in lines
    assert ["older", "1", "##########", "10", "#"] in lines
    assert tier.ctl("report", tier.mnt / "f").status == 1
    assert tier.ctl("report", tier.mnt / "nothing").status == 1
    out = tier.ctl("--mount", tier.mnt, "status", text=True).out
    assert "catalog     2 files, 1 directories" in out


def test_what_is_told_of_it(tier):
    put(tier.mnt / "f", 10)
    follows(tier)
    got = catalog(tier)
    assert (got["files"], got["dirs"], got["error"]) == (1, 1, "")
    assert not got["walking"] and got["marked"] == got["dropped"] == 0
    assert got["events"] > 0
    text = tier.ctl("--mount", tier.mnt, "metrics", text=True).out
    assert f'tierfs_catalog_entries{{name="{tier.name}",kind="files"}} 1' \
        in text
    for name in ("queued", "marked", "walking", "failing", "events_total",
                 "dropped_total", "walked_total"):
        assert f"\ntierfs_catalog_{name}{{" in text


def test_reading_is_access(tier):
    put(tier.mnt / "f", 100)
    put(tier.mnt / "g", 100)
    for name in "fg":
        os.utime(tier.mnt / name, (1e9, 1e9))
    tier.release(tier.mnt)
    follows(tier)
    rows = {r["path"][-1]: r["access"] for r in tier.do("find", tier.mnt)}
    assert rows == {"f": 1e9, "g": 1e9}
    (tier.mnt / "f").read_bytes()

    def accessed():
        rows = {r["path"][-1]: r["access"] for r in tier.do("find", tier.mnt)}
        return rows["g"] == 1e9 and abs(rows["f"] - time.time()) < 300
    wait_for(accessed, 20)
    os.utime(tier.mnt / "f", (1e9, 1e9))
    wait_for(lambda: {r["access"] for r in tier.do("find", tier.mnt)} == {1e9},
             20)


@pytest.mark.parametrize("turn", range(3))
def test_a_power_cut_in_the_first_walk(own, turn):
    """Nothing of it was synced: it begins anew, whatever the disk has of it."""
    for i in range(4000):
        path = own.front / f"d{i % 40}" / f"f{i}"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    own.disk.settle()
    own.mount("walk_rate=2000")
    wait_for(lambda: catalog(own)["files"] > 500 + turn * 1000)
    if turn:  # some pages get to the disk
        os.sync()
        time.sleep(0.3)
    own.disk.power_cut()
    own.kill()
    own.disk.umount()
    own.disk.mount()
    own.mount()
    walked(own)
    assert catalog(own)["files"] == 4000
    follows(own)
    wait_for(lambda: own.mount_status()["states"]["none"]["files"] == 4000)
