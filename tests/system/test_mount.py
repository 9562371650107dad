# SPDX-License-Identifier: MIT
"""Mounting, unmounting, and every way that a mount is refused."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

from files import MIB, contents, put
from rig import binary, is_mounted, mount_type, run, wait_for


def test_background(one):
    """Without -f, 0 means that the mount answers; umount ends the daemon."""
    argv = [a for a in one.argv() if a != "-f"]
    with open(one.log, "wb") as log:
        done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL,
                              stdout=log, stderr=log, timeout=60,
                              env=one.rig.env)
    assert done.returncode == 0, one.tail()
    assert mount_type(one.mnt) == "fuse.tierfs"
    put(one.mnt / "f", 5000)
    one.release(one.mnt / "f")
    run("umount", one.mnt)
    # Whoever mounts again at once finds the front free.
    for _ in range(3):
        done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=60,
                              env=one.rig.env)
        assert done.returncode == 0, done.stderr
        # As mount(8) of any other: nothing to say when nothing is wrong.
        assert not done.stdout + done.stderr
        assert len((one.mnt / "f").read_bytes()) == 5000
        run("umount", one.mnt)


def test_helper(one):
    """As mount(8) calls it: mount.fuse.tierfs FRONT DIR -o OPTIONS."""
    options = one.argv("rw", "_netdev", "nofail")[3]
    helper = one.rig.dir / "mount.fuse.tierfs"
    helper.symlink_to(binary("tierfs"))
    done = run(helper, one.front, one.mnt, "-n", "-o", options, check=False,
               timeout=60, env=one.rig.env)
    assert done.returncode == 0, done.stderr
    assert mount_type(one.mnt) == "fuse.tierfs"
    (one.mnt / "d").mkdir()
    run("umount", one.mnt)
    assert (one.front / "d").is_dir()


def test_sigterm(tier):
    put(tier.mnt / "f", 100)
    tier.daemon.send_signal(signal.SIGTERM)
    tier.ended()
    assert not is_mounted(tier.mnt)
    assert (tier.front / "f").stat().st_size == 100
    tier.mount()


def test_mounted_over_the_front(cold):
    put(cold.front / "before", 3 * MIB, 1)
    cold.mnt.rmdir()
    cold.mnt = cold.front
    cold.mount()
    content = put(cold.mnt / "after", 3 * MIB, 2)
    cold.release(cold.mnt)
    assert cold.state(cold.mnt / "before") == "released"
    assert (cold.mnt / "after").read_bytes() == content
    assert ".tierfs" not in os.listdir(cold.mnt)
    cold.umount()
    assert ".tierfs" in os.listdir(cold.front)


def test_adopts_what_is_there(cold):
    """An existing tree becomes a tier as it is, and can be one no more."""
    (cold.front / "a/b").mkdir(parents=True)
    content = put(cold.front / "a/b/c", MIB)
    cold.mount()
    cold.release(cold.mnt)
    assert (cold.front / "a/b/c").stat().st_blocks < 16
    assert (cold.mnt / "a/b/c").read_bytes() == content
    cold.do("restore", "-r", cold.mnt)
    cold.umount()
    assert (cold.front / "a/b/c").read_bytes() == content


def test_read_only(one):
    content = put(one.front / "f", MIB)
    one.mount()
    one.release(one.mnt / "f")
    one.remount("ro")
    assert (one.mnt / "f").read_bytes() == content
    with pytest.raises(OSError) as e:
        (one.mnt / "g").touch()
    assert e.value.errno == 30  # EROFS
    with pytest.raises(OSError):
        (one.mnt / "f").write_bytes(b"")


def test_statfs_is_the_fronts(tier):
    ours, theirs = os.statvfs(tier.mnt), os.statvfs(tier.front)
    for field in ("f_blocks", "f_bsize", "f_frsize", "f_namemax", "f_files"):
        assert getattr(ours, field) == getattr(theirs, field), field


@pytest.mark.parametrize("option", [
    "no_such_option", "migrate_age=soon", "migrate_size=10X", "high=101",
    "low=-1", "high=50,low=60", "passthrough=maybe", "restore_after=x",
    "policy=sometimes", "dirty_entries=", "config=/nonexistent/tierfs.conf",
    "name=a/b", "bwlimit=fast"])
def test_options_not_understood(one, option):
    put(one.front / "f", 1000)
    before = contents(one.front)
    message = one.refused(option)
    name, _, value = option.split(",")[0].partition("=")
    assert name in message, message
    assert value in message, message
    assert contents(one.front) == before


def refused_untouched(tier, *words, **kwargs):
    """Refused with a message that has all of the words; front intact."""
    before = contents(tier.front) if tier.front.is_dir() else None
    message = tier.refused(**kwargs)
    for word in words:
        assert str(word) in message, message
    if before is not None:
        assert contents(tier.front) == before


def test_front_is_a_file(one):
    one.front.rmdir()
    one.front.write_text("x")
    refused_untouched(one, one.front)
    assert one.front.read_text() == "x"
    one.front.unlink()


def test_front_is_missing(one):
    one.front.rmdir()
    refused_untouched(one, one.front)
    assert not one.front.exists()


def test_no_target(one):
    argv = [a.replace(f"spill={one.target},", "") for a in one.argv()]
    done = run(*argv, check=False, timeout=60)
    assert done.returncode == 1
    assert "spill" in done.stderr


def test_target_is_missing(one):
    put(one.front / "f", 1000)
    one.target.rmdir()
    refused_untouched(one, one.target)
    assert not one.target.exists()


def test_target_is_a_file(one):
    one.target.rmdir()
    one.target.write_text("x")
    refused_untouched(one, one.target)
    one.target.unlink()


def test_target_inside_the_front(one):
    inside = one.front / "hdd"
    inside.mkdir()
    refused_untouched(one, inside, spill=inside)
    assert not list(inside.iterdir())


def test_front_inside_the_target(one):
    refused_untouched(one, one.front, spill=one.front.parent)
    refused_untouched(one, one.front, spill=one.front)


def test_mountpoint_inside_front_or_target(one):
    for where in (one.front, one.target):
        inside = where / "mnt"
        inside.mkdir()
        refused_untouched(one, inside, mnt=inside)
        inside.rmdir()


def test_target_is_read_only(one):
    put(one.front / "f", 1000)
    run("mount", "--bind", one.target, one.target)
    run("mount", "-o", "remount,bind,ro", one.target)
    try:
        refused_untouched(one, one.target)
    finally:
        run("umount", one.target)
    assert not list(one.target.iterdir())


def test_target_is_another_fronts(rig, one):
    """The same name on the same target, but another front's UUID."""
    one.mount()
    put(one.mnt / "f", MIB)
    one.release(one.mnt)
    one.umount()
    other = rig.directory()
    done = run(*[a if a != str(one.front) else str(other)
                 for a in one.argv()], check=False, timeout=60)
    assert done.returncode == 1
    assert str(one.target) in done.stderr
    assert len(one.objects()) == 1
    one.mount()
    assert len((one.mnt / "f").read_bytes()) == MIB


def test_target_holds_something_else(one):
    """A directory of our name that isn't ours is never touched."""
    foreign = one.target / one.name
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    refused_untouched(one, one.target)
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]
    shutil.rmtree(foreign)


def test_two_daemons_on_one_front(rig, one):
    content = put(one.front / "f", 100000)
    one.mount()
    other = rig.dir / "other-mnt"
    other.mkdir(exist_ok=True)
    message = one.refused(mnt=other)
    assert str(one.front) in message
    assert (one.mnt / "f").read_bytes() == content
    assert one.daemon.poll() is None


def test_known_target_is_missing(one):
    """The disk isn't mounted: its mountpoint is an empty directory."""
    one.mount()
    cold = put(one.mnt / "cold", MIB, 1)
    warm = put(one.mnt / "warm", MIB, 2)
    one.release(one.mnt / "cold")
    one.umount()

    away = one.target.with_name(one.target.name + "-away")
    one.target.rename(away)
    one.target.mkdir()
    one.mount()
    target = one.mount_status()["targets"][0]
    assert target["online"] is False
    assert target["why"]
    assert (one.mnt / "warm").read_bytes() == warm
    assert (one.mnt / "cold").stat().st_size == MIB
    with pytest.raises(OSError) as e:
        (one.mnt / "cold").read_bytes()
    assert e.value.errno == 5  # EIO
    assert one.ctl("migrate", one.mnt / "warm").status == 1
    assert not list(one.target.iterdir()), "written to a foreign directory"
    assert "target" in one.log.read_text()

    # It comes back by itself.
    one.target.rmdir()
    away.rename(one.target)

    def readable():
        try:
            return (one.mnt / "cold").read_bytes() == cold
        except OSError:
            return False
    wait_for(readable, 60, 0.5)
    assert one.mount_status()["targets"][0]["online"] is True


def test_target_is_full(rig, one):
    """Migration fails, says why, and nothing is lost or left over."""
    small = rig.disk("small", "ext4", 24 * MIB)
    spill = small.path / "full"
    spill.mkdir(exist_ok=True)
    one.target.rmdir()
    one.target = spill
    one.mount()
    content = put(one.mnt / "big", 64 * MIB)
    little = put(one.mnt / "little", 100000)
    answer = one.ctl("migrate", "--release", one.mnt / "big")
    assert answer.status == 1
    (result,) = answer.json
    assert result["result"] == "failed"
    assert re.search("full|space", result["reason"].lower())
    assert "big" in answer.err
    assert one.state(one.mnt / "big") == "none"
    assert (one.mnt / "big").read_bytes() == content
    # What fits still goes, once the failed copy is cleared away.
    wait_for(lambda: one.ctl("migrate", "--release", one.mnt / "little")
             .status == 0, 20)
    assert (one.mnt / "little").read_bytes() == little
    wait_for(lambda: len(one.objects()) == 1)


def mount_as_helped(*argv):
    """mount(8), which finds this build as /sbin/mount.fuse.tierfs, in a mount
    namespace of its own."""
    script = ('mount -t tmpfs none /usr/sbin && '
              f'ln -s {binary("tierfs")} /usr/sbin/mount.fuse.tierfs && '
              'exec mount "$@"')
    return run("unshare", "--mount", "sh", "-c", script, "sh", *argv,
               check=False, timeout=60)


def remount(tier, options):
    return mount_as_helped("-o", f"remount,{options}", tier.mnt)


def test_remount_option(one):
    one.mount("restore_after=never", "recall_timeout=5m")
    content = put(one.mnt / "f", MIB)
    one.release(one.mnt / "f")
    for _ in range(3):
        (one.mnt / "f").read_bytes()
    done = remount(one, "high=70,low=60,bwlimit=10M,recall_timeout=none")
    assert done.returncode == 0, done.stderr
    front = one.mount_status()["front"]
    assert (front["high"], front["low"]) == (70, 60)
    assert one.state(one.mnt / "f") == "released"
    done = remount(one, "restore_after=0")
    assert done.returncode == 0, done.stderr
    assert (one.mnt / "f").read_bytes() == content
    wait_for(lambda: one.state(one.mnt / "f") == "migrated")
    # The others are as they were.
    assert one.mount_status()["front"]["high"] == 70
    assert one.daemon.poll() is None


def test_remount_read_only(one):
    one.mount()
    (one.mnt / "f").touch()

    def shown():
        return run("findmnt", "-no", "OPTIONS", one.mnt).stdout.split(",")
    options = shown()
    with open(one.mnt / "f", "wb"):
        done = remount(one, "ro,high=50,low=40")
        assert done.returncode != 0
        assert "open for writing" in done.stderr, done.stderr
    assert shown() == options
    assert one.mount_status()["front"]["high"] == 90
    done = remount(one, "ro,noatime")
    assert done.returncode == 0, done.stderr
    assert "ro" in shown()
    with pytest.raises(OSError) as e:
        (one.mnt / "g").touch()
    assert e.value.errno == 30  # EROFS
    done = remount(one, "rw")
    assert done.returncode == 0, done.stderr
    assert "rw" in shown()
    (one.mnt / "g").touch()


@pytest.mark.parametrize("passthrough", ["on", "off"])
def test_noatime(one, passthrough):
    """Also for what passes through, and when changed while mounted."""
    one.passthrough = passthrough
    one.mount("noatime")
    names = [one.mnt / "f", one.mnt / "d", one.mnt / "l"]
    names[0].write_bytes(bytes(100000))
    names[1].mkdir()
    names[2].symlink_to("f")

    def moved():
        for path in names:
            os.utime(path, (1, 1), follow_symlinks=False)
        names[0].read_bytes()
        list(names[1].iterdir())
        names[2].readlink()
        return [path.lstat().st_atime > 1 for path in names]
    assert moved() == [False] * 3
    assert remount(one, "noatime=off").returncode == 0
    assert moved() == [True] * 3
    assert remount(one, "noatime").returncode == 0
    assert moved() == [False] * 3


@pytest.mark.parametrize("option", [
    "name=other", "spill=/elsewhere", "spill=relative", "passthrough=on",
    "max_threads=3", "io_uring=auto", "allow_other=off", "config=/etc/fstab",
    "no_such_option", "bwlimit=fast", "high=10", "max_read=4096",
    "user_id=1"])
def test_remount_refused(one, option):
    """What cannot be changed is named, and nothing is changed."""
    one.mount()
    done = remount(one, f"ro,migrate_age=3d,low=55,{option}")
    assert done.returncode != 0
    name, _, value = option.partition("=")
    assert name in done.stderr and value in done.stderr, done.stderr
    assert one.mount_status()["front"]["low"] == 80
    (one.mnt / "f").touch()


def test_remount_with_what_is_so(one):
    """fstab's options come along."""
    one.mount("max_threads=7")
    done = remount(one, f"_netdev,nofail,spill={one.target},name={one.name},"
                   f"passthrough={one.passthrough},max_threads=7,low=55")
    assert done.returncode == 0, done.stderr
    assert one.mount_status()["front"]["low"] == 55


def test_remount_of_nothing(rig, one):
    done = run(binary("tierfs"), "-o", "remount,low=55", one.front, one.mnt,
               check=False)
    assert done.returncode == 1
    assert str(one.mnt) in done.stderr
    one.mount()
    done = run(binary("tierfs"), "-o", "remount,low=55", rig.directory(),
               one.mnt, check=False)
    assert done.returncode == 1
    assert str(one.front) in done.stderr
    # Nobody but root may.
    done = run(binary("tierfs"), "-o", "remount,low=55", one.front, one.mnt,
               check=False, user=65534, group=65534)
    assert done.returncode == 1
    assert one.mount_status()["front"]["low"] == 80
    run(binary("tierfs"), "-o", "remount,low=55", one.front, one.mnt)
    assert one.mount_status()["front"]["low"] == 55


def test_waits_for_one_that_is_ending(one):
    """umount has returned, and its daemon still syncs the front."""
    one.mount()
    one.umount()
    with open(one.front / ".tierfs" / "lock", "r+b") as lock:
        said = lock.read()
        assert said.endswith(b"ending\n")
        # That daemon has died in fact: one that lives holds it.
        lock.seek(0)
        owner = f"{os.getpid()} {said.split()[1].decode()}\n"
        lock.write(owner.encode().ljust(64, b"\0") + said[64:])
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        timer = threading.Timer(6, fcntl.flock, (lock, fcntl.LOCK_UN))
        timer.start()
        start = time.monotonic()
        one.mount()
        assert time.monotonic() - start >= 6
        timer.join()
    assert b"ending" not in (one.front / ".tierfs" / "lock").read_bytes()
