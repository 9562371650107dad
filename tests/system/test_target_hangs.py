# SPDX-License-Identifier: MIT
"""A target that hangs: what is on the front goes on, and the mount ends in time,
whatever the kernel still holds."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from files import MIB, put
from rig import drop_caches, run, wait_for
from test_target_fails import becomes, move_to, told

READER = "import sys; open(sys.argv[1], 'rb', buffering=0).read(65536)"


@pytest.fixture(name="own")
def own_target(rig, one):
    """A tier whose target's disk can be made to hang, for reads or writes."""
    disk = rig.disk("hang", "ext4", 128 * MIB)
    move_to(one, disk)
    one.frozen = False
    one.old = []
    yield one
    go_on(one)
    for daemon in one.old:
        daemon.wait(60)
    one.close()
    rig.drop(disk)


def hang(tier, what):
    if what == "writes":
        run("fsfreeze", "-f", tier.target_disk.path)
        tier.frozen = True
        return
    tier.target_disk.settle()
    drop_caches()
    if not tier.target_disk.throttle(read_bps=1):
        pytest.skip("the blkio cgroup of this machine can't be used")


def go_on(tier):
    if tier.frozen:
        run("fsfreeze", "-u", tier.target_disk.path)
        tier.frozen = False
    tier.target_disk.throttle(read_bps=0)


def prepare(tier, *options):
    tier.mount("restore_after=never", *options)
    known = {tier.mnt / name: put(tier.mnt / name, size, name)
             for name, size in (("cold", 3 * MIB), ("warm", 70000),
                                ("new", 300000))}
    tier.release(tier.mnt / "cold")
    tier.migrate(tier.mnt / "warm")
    return known


def stuck(tier, what):
    """Something waits for the target in the kernel."""
    if what == "writes":
        tier.do("migrate", "--no-wait", tier.mnt / "new")
        wait_for(lambda: tier.state(tier.mnt / "new") == "migrating")
        return None
    reader = subprocess.Popen([sys.executable, "-c", READER,
                               tier.mnt / "cold"], stderr=subprocess.DEVNULL)
    wait_for(lambda: "folio" in Path(f"/proc/{reader.pid}/wchan").read_text())
    return reader


def leave(tier, how):
    """Ends the mount; its process may stay."""
    daemon, tier.daemon = tier.daemon, None
    tier.rig.daemons.remove(daemon)
    tier.old.append(daemon)
    if how == "umount":
        run("umount", tier.mnt)
    elif how == "SIGTERM":
        daemon.send_signal(signal.SIGTERM)
        wait_for(lambda: not os.path.ismount(tier.mnt), 20)
    else:
        daemon.kill()
        stat = Path(f"/proc/{daemon.pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(") ")[2][0] in "ZX")
        run("umount", "-l", tier.mnt)
    return daemon


@pytest.mark.parametrize("how", ["umount", "SIGTERM", "kill"])
@pytest.mark.parametrize("what", ["reads", "writes"])
def test_end(own, what, how):
    """It ends in time, and the front can be mounted again at once."""
    known = prepare(own)
    hang(own, what)
    reader = stuck(own, what)
    if reader:
        reader.kill()
        reader.wait(20)
    start = time.monotonic()
    old = leave(own, how)
    own.mount("restore_after=never", "recall_timeout=2s")
    took = time.monotonic() - start
    print(f"{took:.1f} s, the old one: {old.poll()}")
    assert took < 20
    if what == "writes":
        assert old.poll() is None, "nothing hung"
    for name in ("warm", "new"):
        assert (own.mnt / name).read_bytes() == known[own.mnt / name]
    put(own.mnt / "more", 1000)
    if how != "kill" and old.poll() is None:
        assert len(told(own, "does not answer: ending without it")) == 1
    go_on(own)
    assert old.wait(60) == (-9 if how == "kill" else 0)
    becomes(own, "ok")
    for path, content in known.items():
        assert path.read_bytes() == content
    # What was to be migrated still is.
    wait_for(lambda: not own.do("--mount", own.mnt, "queue"))
    own.release(own.mnt)
    for path, content in known.items():
        assert path.read_bytes() == content
    assert {own.state(path) for path in known} == {"released"}


def test_stalls(own):
    """It is said once, nothing else waits, and all goes on when it answers."""
    known = prepare(own, "recall_timeout=2s")
    (own.mnt / "cold").unlink()
    wait_for(lambda: not own.objects() or len(own.objects()) == 1)
    hang(own, "writes")
    stuck(own, "writes")
    put(own.mnt / "gone", 5000)
    os.truncate(own.mnt / "warm", 0)  # its object is to be deleted
    known[own.mnt / "warm"] = b""
    becomes(own, "stalled", "no answer for")
    wait_for(lambda: told(own, "is stalled: "))
    for path in (own.mnt / "warm", own.mnt / "new"):
        assert path.read_bytes() == known[path]
    put(own.mnt / "more", 1000)
    go_on(own)
    becomes(own, "ok")
    wait_for(lambda: own.state(own.mnt / "new") == "migrated")
    wait_for(lambda: len(own.objects()) == 1)
    assert len(told(own, "is stalled: ")) == 1
    assert len(told(own, "answers again")) == 1


@pytest.mark.parametrize("what", ["reads"])
def test_hangs_at_the_start(own, what):
    """The mount comes up all the same."""
    known = prepare(own)
    own.umount()
    hang(own, what)
    start = time.monotonic()
    own.mount("restore_after=never", "recall_timeout=2s")
    assert time.monotonic() - start < 15
    assert (own.mnt / "warm").read_bytes() == known[own.mnt / "warm"]
    assert own.mount_status()["targets"][0]["condition"] == "offline"
    with pytest.raises(OSError):
        (own.mnt / "cold").read_bytes()
    go_on(own)
    becomes(own, "ok")
    assert (own.mnt / "cold").read_bytes() == known[own.mnt / "cold"]
