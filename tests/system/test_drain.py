# SPDX-License-Identifier: MIT
"""tierctl drain: the front is a plain directory again."""

import os
import subprocess
import time

import rig as r
from files import GIB, MIB, data, look, look_all, put

NAMES = ("none", "migrated", "released", "restored")


def fill(tier, size=50000):
    for name in NAMES:
        put(tier.mnt / name, size, name)
        tier.bring(tier.mnt / name, name)
    put(tier.mnt / "dirty", 2 * MIB, "dirty")
    tier.release(tier.mnt / "dirty")
    with open(tier.mnt / "dirty", "r+b") as f:
        f.write(b"changed")
    assert tier.state(tier.mnt / "dirty") == "dirty"
    sub = tier.mnt / "dir" / "deep"
    sub.mkdir(parents=True)
    put(sub / "a", 100, "a")
    os.link(sub / "a", tier.mnt / "dir" / "b")
    with open(sub / "sparse", "wb") as f:
        f.truncate(10 * MIB)
        f.seek(5 * MIB)
        f.write(b"x")
    os.setxattr(sub / "a", "user.mine", b"kept")
    tier.release(tier.mnt / "dir")
    tier.do("pin", tier.mnt / "none")
    (tier.mnt / "pinned").mkdir()
    tier.do("pin", tier.mnt / "pinned")


def is_plain(tier, before):
    """The front as it was seen through the mount, and nothing of ours."""
    for name, was in before.items():
        path = os.path.join(os.fsencode(tier.front), os.fsencode(name))
        assert not [n for n in os.listxattr(path) if "tierfs" in n], path
        now = look(path)
        for volatile in ("st_ino", "st_ctime_ns", "st_blocks", "st_blksize"):
            now.pop(volatile, None)
            was.pop(volatile, None)
        if name != b"." and name != ".":
            assert now == was, path
    for name in NAMES:
        assert (tier.front / name).read_bytes() == data(50000, name)
    assert (tier.front / "dirty").read_bytes() == (
        b"changed" + data(2 * MIB, "dirty")[7:])
    assert os.listxattr(tier.front / "dir/deep/a") == ["user.mine"]


def test_drain(tier):
    fill(tier)
    before = look_all(tier.mnt)
    held = os.open(tier.mnt / "released", os.O_RDONLY)
    done = tier.do("--mount", tier.mnt, "drain")
    assert {o["path"] for o in done if o["result"] == "done"} >= {
        str(tier.mnt / "released"), str(tier.mnt / "dir/deep/sparse")}
    assert os.read(held, 9) == data(50000, "released")[:9]
    os.close(held)
    assert tier.objects() == []
    states = tier.mount_status()["states"]
    assert {s for s, v in states.items() if v["files"]} == {"none"}
    # What the mount shows is the front's now, and each number is one's.
    inodes = [os.lstat(tier.mnt / name).st_ino for name in NAMES]
    assert len(set(inodes)) == len(NAMES)
    refused = tier.ctl("migrate", tier.mnt / "none")
    assert refused.status == 1 and "drained" in refused.err
    assert tier.do("--mount", tier.mnt, "drain") == []
    for name in ("inodes", "orphans", "staging"):
        assert os.listdir(tier.front / ".tierfs" / name) == []
    tier.umount()
    is_plain(tier, before)
    assert tier.compare() == []
    # It can be mounted again, as any.
    tier.mount()
    tier.release(tier.mnt / "none")


def test_no_room(one):
    """Refused before it starts; sparse files need less."""
    disk = one.rig.disk("drain-front", "ext4", 96 * MIB)
    tier = one.rig.tier("ext4", front=disk)
    try:
        tier.mount()
        for i in range(3):
            put(tier.mnt / f"f{i}", 30 * MIB, i)
            tier.release(tier.mnt / f"f{i}")
        answer = tier.ctl("--mount", tier.mnt, "drain")
        assert answer.status == 1
        assert "needs 90M, has " in answer.json[0]["reason"]
        assert all(tier.state(tier.mnt / f"f{i}") == "released"
                   for i in range(3))
        # Nothing was begun.
        os.unlink(tier.mnt / "f0")
        os.unlink(tier.mnt / "f1")
        with open(tier.mnt / "sparse", "wb") as f:
            f.truncate(GIB)
            f.write(b"x")
        tier.release(tier.mnt / "sparse")
        tier.do("--mount", tier.mnt, "drain")
        assert (tier.mnt / "f2").read_bytes() == data(30 * MIB, 2)
    finally:
        tier.close()
        one.rig.drop(disk)


def test_interrupted_and_killed(one):
    """It goes on where it was stopped."""
    one.mount()
    for i in range(12):
        put(one.mnt / f"f{i}", 4 * MIB, i)
    one.release(one.mnt)
    slow = one.target_disk.throttle(read_bps=16 * MIB)
    r.drop_caches()
    drain = [r.binary("tierctl"), "drain", "--mount", one.mnt]

    def released():
        return one.mount_status()["states"]["released"]["files"]

    child = subprocess.Popen(drain, stderr=subprocess.PIPE)
    r.wait_for(lambda: released() < 12)
    child.terminate()
    _, err = child.communicate(timeout=60)
    if slow:
        assert child.returncode == 1 and b"interrupted" in err
        assert 0 < released() < 12
    # Stopped, it is a tier as any.
    put(one.mnt / "new", 5000)
    one.release(one.mnt / "new")
    child = subprocess.Popen(drain, stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    one.kill()
    child.wait(30)
    assert child.returncode != 0 or not slow
    one.target_disk.throttle(read_bps=0)
    one.mount()
    one.do("--mount", one.mnt, "drain")
    assert one.objects() == []
    for i in range(12):
        assert (one.mnt / f"f{i}").read_bytes() == data(4 * MIB, i)
    one.umount()
    assert [n for n in os.listdir(one.front) if os.listxattr(
        one.front / n)] == []


def test_target_is_gone(one):
    """What can't be restored is said, and nothing of it is touched."""
    one.mount()
    put(one.mnt / "f", 5000)
    one.release(one.mnt / "f")
    where, away = one.target / one.name, one.target / "away"
    where.rename(away)
    one.remount()
    answer = one.ctl("--mount", one.mnt, "drain")
    assert answer.status == 1
    assert [o["path"] for o in answer.json] == [str(one.mnt / "f")]
    assert one.state(one.mnt / "f") == "released"
    away.rename(where)
    one.remount()
    one.do("--mount", one.mnt, "drain")
    assert one.objects() == []


def test_who_may(one):
    one.mount()
    answer = one.ctl("--mount", one.mnt, "drain", user=r.NOBODY)
    assert answer.status == 3
