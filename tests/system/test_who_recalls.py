# SPDX-License-Identifier: MIT
"""Who may bring data back: rules, O_NONBLOCK, the budget, one pass."""

import errno
import fcntl
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from files import MIB, put
from rig import NOBODY, binary, run, wait_for

GROUP = 4242

# Prints what the first read gives: a number of bytes, or the error.
READ = """
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    print(len(os.read(fd, 1 << 20)))
except OSError as e:
    print(errno.errorcode[e.errno])
"""


def conf(tier, text):
    """The option for a configuration file with text."""
    path = tier.rig.dir / f"{tier.name}.conf"
    path.write_text(text, encoding="ascii")
    return f"config={path}"


def reads(path, **who):
    return run(sys.executable, "-c", READ, path, **who).stdout.strip()


def counts(tier):
    return {r["name"]: (r["opens"], r["refused"] > 0)
            for r in tier.mount_status()["recall"]}


def ask_root(tier, *files):
    """Any may use the files; the mountpoint's own mode is the front's."""
    tier.front.chmod(0o755)
    for path in files:
        path.chmod(0o666)


def test_users_and_groups(one):
    one.mount("restore_after=never", conf(one, f"""
        [recall nobodies]
        user = 12345 {NOBODY}
        action = refuse
        [recall staff]
        group = {GROUP}
        action = refuse
        """))
    path = one.mnt / "f"
    content = put(path, 2 * MIB)
    ask_root(one, path)
    one.release(path)
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    assert reads(path, **nobody) == "EAGAIN"
    assert reads(path, user=1000, group=1000,
                 extra_groups=[7, GROUP, 8]) == "EAGAIN"
    assert reads(path, user=1000, group=GROUP, extra_groups=[]) == "EAGAIN"
    assert reads(path, user=1000, group=1000, extra_groups=[7]) == str(MIB)
    # Attributes are nobody's to refuse, nor the rest of an open.
    assert run("stat", "-c%s", path, **nobody).stdout == f"{2 * MIB}\n"
    run("sh", "-c", f": < {path}", **nobody)
    assert path.read_bytes() == content
    seen = counts(one)
    assert seen == {"nobodies": (2, True), "staff": (2, True)}
    rule, _ = one.mount_status()["recall"]
    assert rule["action"] == "refuse" and rule["line"] == 2
    text = run(binary("tierctl"), "--mount", one.mnt, "status").stdout
    assert "nobodies (refuse): 2 opens" in text
    # What is on the front is anybody's.
    one.do("restore", path)
    assert reads(path, **nobody) == str(MIB)
    assert counts(one) == seen


def test_command_in_place(one):
    """Read in place by one command, restored by the first of others."""
    looker = one.rig.dir / "looker"
    shutil.copy(shutil.which("cat"), looker)
    one.mount("restore_after=0", conf(one, """
        [recall look]
        command = thumb* looker
        action = in-place
        """))
    path = one.mnt / "f"
    content = put(path, MIB)
    one.release(path)
    for _ in range(5):
        assert run(looker, path, text=False).stdout == content
    assert not one.do("--mount", one.mnt, "queue")
    assert one.state(path) == "released"
    assert counts(one) == {"look": (5, False)}
    assert run("cat", path, text=False).stdout == content
    wait_for(lambda: one.state(path) == "migrated")
    looker.unlink()


def test_reload(one):
    """Rules are replaced as a whole; who has a file open keeps what was said,
    and counting goes on by name."""
    def rules(actions):
        return conf(one, "".join(f"[recall {name}]\naction = {action}\n"
                                 for name, action in actions))

    one.mount("restore_after=never", rules([("a", "refuse")]))
    path = one.mnt / "f"
    put(path, 8 * MIB)
    one.release(path)
    with open(path, "rb") as f:
        gives(errno.EAGAIN, lambda: os.pread(f.fileno(), 10, 0))
        rules([("a", "wrong")])
        one.daemon.send_signal(signal.SIGHUP)
        wait_for(lambda: "action = wrong" in one.log.read_text())
        assert reads(path) == "EAGAIN"
        rules([("b", "in-place"), ("a", "refuse")])
        one.daemon.send_signal(signal.SIGHUP)
        wait_for(lambda: "b" in counts(one))
        assert reads(path) == str(MIB)
        # Not what the other left in memory.
        gives(errno.EAGAIN, lambda: os.pread(f.fileno(), 10, 6 * MIB))
    assert counts(one) == {"a": (2, True), "b": (1, False)}


def a_cgroup(name):
    for top in ("unified", "", "blkio", "freezer", "pids"):
        group = Path("/sys/fs/cgroup", top, name)
        if not (group.parent / "cgroup.procs").exists():
            continue
        try:
            (group / "deep").mkdir(parents=True)
            return group
        except OSError:
            continue
    pytest.skip("no cgroup can be made")


def test_cgroup(one):
    """A cgroup, and what is below it."""
    group = a_cgroup(one.name)
    try:
        one.mount("restore_after=never", conf(one, f"""
            [recall indexers]
            cgroup = /no/such /{one.name[:-1]}?
            action = refuse
            """))
        path = one.mnt / "f"
        put(path, 2 * MIB)
        one.release(path)
        for where, gives in (("", "EAGAIN"), ("deep", "EAGAIN"),
                             ("..", str(MIB))):
            procs = group / where / "cgroup.procs"
            assert reads(path, preexec_fn=lambda procs=procs: procs.write_text(
                "0", encoding="ascii")) == gives
    finally:
        (group / "deep").rmdir()
        group.rmdir()


def gives(err, call):
    with pytest.raises(OSError) as e:
        call()
    assert e.value.errno == err, e.value


def test_writes_of_the_refused(one):
    """They need no recall, but those that need a restore first."""
    one.mount(conf(one, """
        [recall all]
        action = refuse
        """))
    large, small = one.mnt / "large", one.mnt / "small"
    content = put(large, 2 * MIB)
    put(small, 5000)
    one.release(large, small)
    with open(large, "r+b", buffering=0) as f:
        f.write(b"x" * 4096)
        gives(errno.EAGAIN, lambda: os.pread(f.fileno(), 10, MIB))
        # All of it is in the log: nothing has to come.
        assert os.pread(f.fileno(), 4096, 0) == b"x" * 4096
        assert os.lseek(f.fileno(), 0, os.SEEK_HOLE) == 2 * MIB
    assert one.state(large) == "dirty"
    gives(errno.EAGAIN, lambda: open(small, "r+b"))
    gives(errno.EAGAIN, lambda: os.truncate(small, 10))
    assert one.state(small) == "released"
    os.truncate(small, 0)
    assert small.stat().st_size == 0
    with open(large, "rb") as f, mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED,
                                           mmap.PROT_READ) as m:
        child = os.fork()
        if not child:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            os._exit(m[MIB] & 1)
        assert os.waitpid(child, 0)[1] & 127 == signal.SIGBUS
    one.do("restore", large)
    assert large.read_bytes() == b"x" * 4096 + content[4096:]


def test_nonblock_reader(slow):
    """Never waits; who tries again finds the data on the front."""
    slow.mount(conf(slow, """
        [recall look]
        command = looker
        action = in-place
        [recall dd]
        command = dd
        group = 4242
        action = restore
        nonblock = wait
        """))
    paths = [slow.mnt / f"f{i}" for i in range(3)]
    for i, path in enumerate(paths):
        content = put(path, 2 * MIB, i)
    slow.release(slow.mnt)
    slow.rig.disks["slow"].drop_caches()
    slow.slow(MIB)
    fd = os.open(paths[2], os.O_RDONLY | os.O_NONBLOCK)
    try:
        start = time.monotonic()
        gives(errno.EAGAIN, lambda: os.read(fd, 1000))
        # One look at each file is none that brings it back.
        assert run("dd", f"if={paths[0]}", "iflag=nonblock", "of=/dev/null",
                   check=False).returncode == 1
        assert not slow.do("--mount", slow.mnt, "queue")
        took = time.monotonic() - start
        time.sleep(0.1)
        gives(errno.EAGAIN, lambda: os.read(fd, 1000))
        assert slow.do("--mount", slow.mnt, "queue")
    finally:
        slow.slow(0)

    def again():
        try:
            return os.pread(fd, 1000, 0)
        except BlockingIOError:
            return None
    assert wait_for(again) == content[:1000]
    wait_for(lambda: slow.state(paths[2]) == "migrated")
    assert took < 15, f"{took:.1f} s"
    os.close(fd)
    # Who has not opened it so does not mean it; nor who has thought better.
    fd = os.open(paths[1], os.O_RDONLY | os.O_NONBLOCK)
    gives(errno.EAGAIN, lambda: os.read(fd, 1000))
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    assert len(os.read(fd, 1000)) == 1000
    os.close(fd)
    fd = os.open(paths[1], os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
    assert len(os.pread(fd, 1000, MIB)) == 1000
    os.close(fd)
    # A rule may let them wait, a mount all.
    dd = ["dd", f"if={paths[0]}", "iflag=nonblock", "of=/dev/null"]
    assert run(*dd, check=False).returncode == 1
    run(*dd, group=4242)
    slow.change("nonblock=wait")
    run(*dd)
    assert slow.state(paths[0]) == "released"


def test_nonblock_without_meaning_it(one):
    """tar, grep and file open everything so, and would find it damaged."""
    one.mount()
    path = one.mnt / "f"
    path.write_bytes(b"some text\n" * 5000)
    one.release(path)
    tar = run("sh", "-c", f"tar -cf - -C {one.mnt} f | tar -xOf -")
    assert tar.stdout == "some text\n" * 5000 and not tar.stderr
    grep = run("grep", "-r", "-m1", "some", one.mnt)
    assert "some text" in grep.stdout and not grep.stderr
    if shutil.which("file"):
        assert "text" in run("file", path).stdout
    assert one.state(path) == "released"


def test_nonblock_writer(slow):
    """An open for writing that needs a restore first begins it."""
    slow.mount()
    small, large = slow.mnt / "small", slow.mnt / "large"
    content = put(small, 5000)
    put(large, 2 * MIB)
    slow.release(small, large)
    slow.rig.disks["slow"].drop_caches()
    slow.slow(1024)
    try:
        gives(errno.EAGAIN, lambda: os.open(small, os.O_RDWR | os.O_NONBLOCK))
        fd = os.open(large, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b"logged")
        os.close(fd)
        assert slow.state(large) == "dirty"
        assert slow.do("--mount", slow.mnt, "queue")
    finally:
        slow.slow(0)
    wait_for(lambda: slow.state(small) == "migrated")
    with open(os.open(small, os.O_RDWR | os.O_NONBLOCK), "r+b") as f:
        f.write(b"now")
    assert small.read_bytes() == b"now" + content[3:]


def nothing_queued(tier):
    return not tier.do("--mount", tier.mnt, "queue")


def test_budget(one):
    """So many bytes a day, also over a remount; then in place."""
    options = ["restore_after=0", "restore_budget=5M"]
    one.mount(*options)
    paths = [one.mnt / f"f{i}" for i in range(5)]
    content = {p: put(p, 2 * MIB, i) for i, p in enumerate(paths)}
    one.release(*paths)

    def read(path):
        assert path.read_bytes() == content[path]
        wait_for(lambda: nothing_queued(one))
        return one.state(path)

    assert [read(p) for p in paths[:3]] == ["migrated", "migrated", "released"]
    one.remount(*options)
    assert [read(p) for p in paths[2:4]] == ["released", "released"]
    seen = one.mount_status()["restores"]
    assert seen["budget"] == 5 * MIB and seen["used"] == 4 * MIB
    assert seen["over_budget"] >= 2
    # What is asked for, and what a write needs, is not bounded.
    one.do("restore", paths[2])
    assert one.state(paths[2]) == "migrated"
    assert one.mount_status()["restores"]["used"] == 4 * MIB
    one.change("restore_budget=6M")
    assert read(paths[3]) == "migrated"
    assert read(paths[4]) == "released"
    metrics = run(binary("tierctl"), "--mount", one.mnt, "metrics").stdout
    assert f"tierfs_restored_day_bytes{{name=\"{one.name}\"}} {6 * MIB}" \
        in metrics


def test_no_room(rig):
    """A restore that doesn't fit isn't begun; the file is read in place."""
    disk = rig.disk("who-front", "ext4", 64 * MIB)
    tier = rig.tier(front=disk, target=rig.disk("target-ext4", "ext4",
                                                4 << 30))
    try:
        tier.mount("restore_after=0")
        path = tier.mnt / "f"
        content = put(path, 16 * MIB)
        tier.release(path)
        st = os.statvfs(tier.front)
        with open(tier.mnt / "fill", "wb") as f:
            os.posix_fallocate(f.fileno(), 0,
                               st.f_bavail * st.f_frsize - 12 * MIB)
        for _ in range(3):
            assert path.read_bytes() == content
        wait_for(lambda: nothing_queued(tier))
        assert tier.state(path) == "released"
        assert tier.mount_status()["restores"]["no_room"] >= 3
        (tier.mnt / "fill").unlink()
        # Its room comes back a little later.
        wait_for(lambda: path.read_bytes() == content
                 and tier.state(path) == "migrated")
    finally:
        tier.close()
        rig.drop(disk)


def test_passes(one):
    """Backups restore nothing; what is read again and again comes back."""
    one.mount("restore_after=3")
    top = one.mnt / "tree"
    top.mkdir()
    for i in range(20):
        put(top / f"f{i}", 20000 * (i + 1), i)
    one.release(top)
    held = [os.open(top / f"f{i}", os.O_PATH) for i in range(20)]

    def states():
        wait_for(lambda: nothing_queued(one))
        return [s["state"] for s in one.do(
            "status", *[top / f"f{i}" for i in range(20)])]

    for _ in range(2):  # tar knows /dev/null
        run("sh", "-c", f"tar -cf - -C {top} . | sha256sum")
    assert states() == ["released"] * 20
    # One that opens a file many times passes once.
    for i in range(10):
        for _ in range(4):
            (top / f"f{i}").read_bytes()
    assert states() == ["released"] * 20
    run("cat", top / "f3", stdout=subprocess.DEVNULL, capture_output=False)
    wait_for(lambda: one.state(top / "f3") == "migrated")
    assert states().count("released") == 19
    for fd in held:
        os.close(fd)
