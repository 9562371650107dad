# SPDX-License-Identifier: MIT
"""Targets that fail: what is on the front goes on, what needs the target gets
EIO, one line says which target and why, and it is taken up again by itself."""

import os
import re
import shutil
import subprocess
import uuid

import pytest

from files import MIB, put
from rig import binary, run, wait_for

NEW = {"offline": "is offline: ", "readonly": "can only be read: ",
       "full": "is full: ", "failing": "fails: "}


@pytest.fixture(name="own")
def own_target(rig, one):
    """A tier whose target has a small disk of its own, which tests break."""
    disk = rig.disk("own", "ext4", 128 * MIB)
    move_to(one, disk)
    yield one
    if not os.path.ismount(disk.path):
        shutil.rmtree(one.target, ignore_errors=True)
        disk.mount()
    one.close()
    rig.drop(disk)


def move_to(tier, disk):
    tier.target.rmdir()
    tier.target_disk = disk
    tier.target = disk.path / tier.name
    tier.target.mkdir()


def condition(tier):
    return tier.mount_status()["targets"][0]["condition"]


def becomes(tier, what, why=""):
    """Waits until status says so."""
    def so():
        target = tier.mount_status()["targets"][0]
        return target["condition"] == what and why in target.get("why", "")
    wait_for(so, 60)


def told(tier, what):
    """The log's lines that say what of the target."""
    return [line for line in tier.log.read_text().splitlines()
            if f"target {tier.target.name} " in line and what in line]


def fails(path, times=1):
    for _ in range(times):
        with pytest.raises(OSError) as e:
            path.read_bytes()
        assert e.value.errno == 5, e.value


def settled(tier):
    """No job runs or waits, but for looking at the target."""
    wait_for(lambda: all(job["op"] == "probe" for job in
                         tier.do("--mount", tier.mnt, "queue")))


def prepare(tier):
    """Two released files and a resident one: their contents."""
    tier.mount("restore_after=never")
    known = {tier.mnt / name: put(tier.mnt / name, size, name)
             for name, size in (("cold", 300000), ("big", 5 * MIB),
                                ("warm", 70000))}
    tier.release(tier.mnt / "cold", tier.mnt / "big")
    tier.target_disk.settle()
    return known


def identity(tier, **change):
    path = tier.target / tier.name / "identity"
    text = path.read_text()
    for key, value in change.items():
        text = re.sub(f"(?m)^{key}=.*$", f"{key}={value}", text)
    path.write_text(text)


def unmount(tier):
    run("umount", "-l", tier.target_disk.path)  # the daemon uses it
    tier.target.mkdir()  # an empty mountpoint


def another_front(tier):
    tier.moved = tier.target.rename(f"{tier.target}.away")
    shutil.copytree(tier.moved, tier.target)
    identity(tier, front=uuid.uuid4())


def another_target(tier):
    tier.moved = tier.target.rename(f"{tier.target}.away")
    shutil.copytree(tier.moved, tier.target)
    identity(tier, uuid=uuid.uuid4())


def foreign(tier):
    tier.moved = tier.target.rename(f"{tier.target}.away")
    (tier.target / tier.name).mkdir(parents=True)
    (tier.target / tier.name / "notes.txt").write_text("not yours")


def put_back(tier):
    if tier.target_disk and not os.path.ismount(tier.target_disk.path):
        tier.target.rmdir()
        tier.target_disk.mount()
    else:
        shutil.rmtree(tier.target)
        tier.moved.rename(tier.target)


def below(top):
    return {p: p.stat().st_mtime_ns for p in top.rglob("*")}


@pytest.mark.parametrize("when, how, why", [
    ("before", unmount, "not mounted?"),
    ("before", another_front, "belongs to another front"),
    ("before", another_target, "is another target"),
    ("before", foreign, "identity: No such file"),
    ("meanwhile", unmount, "not mounted?"),
    ("meanwhile", another_target, "is another target")],
    ids=lambda a: getattr(a, "__name__", a))
def test_not_there(own, when, how, why):
    """Absent, or something else in its place."""
    known = prepare(own)
    if when == "before":
        own.umount()
        how(own)
        own.mount("restore_after=never")
    else:
        how(own)
    becomes(own, "offline", why)
    strange = below(own.target)
    fails(own.mnt / "cold", 300)
    assert (own.mnt / "warm").read_bytes() == known[own.mnt / "warm"]
    put(own.mnt / "new", 200000)
    failed = own.ctl("migrate", own.mnt / "new", own.mnt / "warm", text=True)
    assert failed.status == 1 and failed.err.count("no target is online") == 2
    failed = own.ctl("restore", own.mnt / "cold", text=True)
    assert failed.status == 1 and str(own.mnt / "cold") in failed.err
    (own.mnt / "big").unlink()  # its object can wait
    assert below(own.target) == strange, "something was written there"
    put_back(own)
    becomes(own, "ok")
    assert (own.mnt / "cold").read_bytes() == known[own.mnt / "cold"]
    wait_for(lambda: len(own.objects()) == 1)
    assert own.ctl("migrate", own.mnt / "new").status == 0
    # In whatever steps the operator did it, each is told once.
    lines = told(own, "offline")
    assert len(lines) == len(set(lines)) <= 2, lines
    assert why in lines[-1]
    assert len(told(own, "is online again")) == 1


def test_readonly(own):
    """Can be read; what is to be deleted waits until it can be written."""
    known = prepare(own)
    own.target_disk.remount("ro")
    becomes(own, "readonly")
    assert (own.mnt / "cold").read_bytes() == known[own.mnt / "cold"]
    assert own.ctl("migrate", own.mnt / "warm").status == 1
    (own.mnt / "big").unlink()
    wait_for(lambda: own.mount_status()["targets"][0]["deletes"] == 1)
    settled(own)
    assert own.ctl("restore", own.mnt / "cold").status == 0
    assert len(own.objects()) == 2
    own.target_disk.remount("rw")
    becomes(own, "ok")
    wait_for(lambda: len(own.objects()) == 1)
    assert own.ctl("migrate", own.mnt / "warm").status == 0
    assert len(told(own, NEW["readonly"])) == 1
    assert len(told(own, "can be written again")) == 1


def test_opened_again_without_a_name(own):
    """As long as somebody can come to it it can be read; what it leaves is
    queued once, and named until it is deleted."""
    known = prepare(own)
    top = own.front / ".tierfs"
    own.do("restore", own.mnt / "cold")
    own.target_disk.remount("ro")
    becomes(own, "readonly")
    objects = len(own.objects())
    held = os.open(own.mnt / "cold", os.O_PATH)
    (own.mnt / "cold").unlink()
    with open(f"/proc/self/fd/{held}", "rb") as f:
        assert f.read() == known[own.mnt / "cold"]
    settled(own)
    assert own.mount_status()["targets"][0]["deletes"] == 0
    os.close(held)
    wait_for(lambda: own.mount_status()["targets"][0]["deletes"] == 1)
    settled(own)
    assert own.mount_status()["targets"][0]["deletes"] == 1
    assert len(os.listdir(top / "orphans")) == 1
    assert len(os.listdir(top / "inodes")) == 1
    own.target_disk.remount("rw")
    becomes(own, "ok")
    wait_for(lambda: len(own.objects()) == objects - 1)
    wait_for(lambda: not os.listdir(top / "orphans")
             and not os.listdir(top / "inodes"))


def test_mounted_readonly_at_the_start(own):
    known = prepare(own)
    own.umount()
    own.target_disk.remount("ro")
    own.mount("restore_after=never")
    assert (own.mnt / "cold").read_bytes() == known[own.mnt / "cold"]
    assert condition(own) == "readonly"
    own.target_disk.remount("rw")
    becomes(own, "ok")


def test_full(own):
    """Each file is told of, none leaves a partial object, nothing tries again
    and again, and restoring does not need room there."""
    known = prepare(own)
    top = own.mnt / "more"
    top.mkdir()
    for i in range(12):
        known[top / f"{i}"] = put(top / f"{i}", [MIB // 2, 3 * MIB][i % 2], i)
    ballast = own.target_disk.path / "ballast"
    free = os.statvfs(own.target_disk.path)
    with open(ballast, "wb") as f:
        os.posix_fallocate(f.fileno(), 0,
                           free.f_bavail * free.f_frsize - 2 * MIB)
    own.target_disk.settle()
    failed = own.ctl("migrate", "-r", top, text=True)
    assert failed.status == 1
    fit = [p for p in top.iterdir() if own.state(p) == "migrated"]
    lines = [line for line in failed.err.splitlines() if str(top) in line]
    assert len(lines) == 12 - len(fit) >= 6, failed.err
    assert all(line.endswith(f"target {own.target.name} is full")
               for line in lines), failed.err
    becomes(own, "full", "No space left")
    wait_for(lambda: len(own.objects()) == 2 + len(fit))
    settled(own)
    # Nobody tries again by himself.
    before = below(own.target)
    with pytest.raises(AssertionError):
        print(wait_for(lambda: below(own.target) != before
                       and (before, below(own.target))
                       or [j for j in own.do("--mount", own.mnt, "queue")
                           if j["op"] not in ("probe", "delete")], 2.5))
    own.do("restore", own.mnt / "cold", own.mnt / "big")
    for path, content in known.items():
        assert path.read_bytes() == content
    ballast.unlink()
    becomes(own, "ok")
    own.release(own.mnt)
    for path, content in known.items():
        assert path.read_bytes() == content
    assert len(told(own, NEW["full"])) == 1
    assert len(told(own, "has room again")) == 1


def test_dies_under_open_files(own):
    """All its I/O fails; when the disk is back, so are files open since
    before, without a remount."""
    known = prepare(own)
    with open(own.mnt / "big", "rb", buffering=0) as f:
        assert f.read(4096) == known[own.mnt / "big"][:4096]
        own.target_disk.power_cut()
        fails(own.mnt / "cold", 300)
        with pytest.raises(OSError):
            os.pread(f.fileno(), 4096, 4 * MIB + 300000)
        becomes(own, "offline", "Input/output error")
        fails(own.mnt / "cold", 300)
        assert (own.mnt / "warm").read_bytes() == known[own.mnt / "warm"]
        put(own.mnt / "new", 200000)
        run("umount", "-l", own.target_disk.path)
        own.target_disk.mount()
        becomes(own, "ok")
        assert os.pread(f.fileno(), 4096, 4 * MIB + 600000) == \
            known[own.mnt / "big"][4 * MIB + 600000:][:4096]
    for path, content in known.items():
        assert path.read_bytes() == content
    own.release(own.mnt / "new")
    lines = told(own, ": ")
    assert len(lines) <= 2, lines  # one may be "no longer there"
    assert len(told(own, "is online again")) == 1


@pytest.mark.parametrize("how", ["unmounted", "dead"])
@pytest.mark.parametrize("command", ["migrate", "restore"])
def test_vanishes_meanwhile(own, command, how):
    """During a copy, or a recall: it fails or is whole, and can be done
    later."""
    known = prepare(own)
    put(own.mnt / "large", 32 * MIB)
    if not own.target_disk.throttle(read_bps=0):
        pytest.skip("the blkio cgroup of this machine can't be used")
    if command == "restore":
        own.release(own.mnt / "large")
        own.target_disk.drop_caches()
    name = {"migrate": "write_bps", "restore": "read_bps"}[command]
    own.target_disk.throttle(**{name: 8 * MIB})
    tool = subprocess.Popen([binary("tierctl"), command, own.mnt / "large"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True)
    try:
        wait_for(lambda: any(j["done"] > MIB for j in
                             own.do("--mount", own.mnt, "queue")))
        if how == "dead":
            own.target_disk.power_cut()
        run("umount", "-l", own.target_disk.path)
    finally:
        own.target_disk.throttle(**{name: 0})
    failed = tool.wait(60)
    # Whether what is open there already is done before it is seen to be gone.
    assert failed or how == "unmounted", tool.stderr.read()
    if not failed:
        assert own.state(own.mnt / "large") == "migrated"
    if how == "dead":
        assert re.search("large: .*Input/output error", tool.stderr.read())
    becomes(own, "offline")
    fails(own.mnt / "cold")
    own.target_disk.mount()
    becomes(own, "ok")
    own.do(command, own.mnt / "large")
    own.release(own.mnt / "large")
    for path, content in known.items():
        assert path.read_bytes() == content
    wait_for(lambda: len(own.objects()) == 3)


def test_write_errors(rig, one):
    """The target's disk has no room for what its file system thinks it has.
    No file is taken for migrated."""
    tmpfs = rig.dir / "tiny"
    tmpfs.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", tmpfs)
    try:
        disk = rig.disk("bad", "ext4", 16 * MIB, ("-O", "^has_journal"))
        disk.umount()
        shutil.move(disk.image, tmpfs / "image")
        run("losetup", "-d", disk.loop)
        with open(tmpfs / "image", "r+b") as f:
            f.truncate(200 * MIB)
        disk.loop = run("losetup", "--find", "--show",
                        tmpfs / "image").stdout.strip()
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", disk.loop)
        disk.mount()
        disk.image.touch()
        move_to(one, disk)
        one.mount()
        known = {one.mnt / f"{i}": put(one.mnt / f"{i}", 6 * MIB, i)
                 for i in range(8)}
        failed = one.ctl("migrate", "--release", *known, text=True)
        assert failed.status == 1, failed
        assert re.search("Input/output error|is full", failed.err)
        states = {p: one.state(p) for p in known}
        assert "none" in states.values()
        for path, content in known.items():
            if states[path] == "none":
                assert path.read_bytes() == content
        assert condition(one) != "ok"
        one.close()
        rig.drop(disk)
    finally:
        run("umount", "-l", tmpfs, check=False)
