# SPDX-License-Identifier: MIT
"""Batches: one job in the queue, its progress, its order; without waiting it
outlives the mount; budgets, and what is kept."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

from files import GIB, MIB, data, put
from rig import NOBODY, binary, run, wait_for

BIG = MIB + 4096  # a job of its own

pytestmark = pytest.mark.slow(240)


@pytest.fixture(name="own")
def with_a_target_of_its_own(rig):
    tier = rig.tier(target=rig.disk("batch", "ext4", GIB))
    if not tier.target_disk.throttle(read_bps=0):
        pytest.skip("this machine's cgroups throttle no disks")
    yield tier
    tier.target_disk.throttle(read_bps=0, write_bps=0, read_iops=0)
    tier.close()


def queue(tier, *args):
    """But for the looks at the target."""
    return [j for j in tier.do("--mount", tier.mnt, "queue", *args)
            if j["op"] != "probe"]


def ended(tier, job):
    """The batch, once it has ended."""
    return wait_for(lambda: next(
        (j for j in queue(tier, "--all")
         if j["id"] == job and j["state"] in ("done", "failed", "cancelled")),
        None))


def asked(tier, *args, **kwargs):
    """Asks without waiting; the number of the batch."""
    (job,) = {o["id"] for o in tier.do(args[0], "--no-wait", *args[1:],
                                       **kwargs)}
    return job


def released(tier, n, size, top="d"):
    """n released files: their contents, by path."""
    (tier.mnt / top).mkdir()
    known = {tier.mnt / top / f"f{i:03}": put(tier.mnt / top / f"f{i:03}",
                                              size, i) for i in range(n)}
    tier.release(tier.mnt / top)
    return known


def count(tier, known, state):
    return sum(tier.state(path) == state for path in known)


def test_progress_and_cancel(own):
    """A command is one line of the queue, with a time left that is right; it
    can be cancelled by its number, and what is done stays done."""
    own.mount("restore_after=never")
    known = released(own, 60, BIG)
    own.target_disk.drop_caches()
    own.target_disk.throttle(read_bps=4 * MIB)
    with subprocess.Popen(
            [binary("tierctl"), "--json", "restore", "-r", own.mnt / "d"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True) as tool:
        job = wait_for(lambda: next((j for j in queue(own)
                                     if j["eta"] and j["done"] > 6 * MIB),
                                    None))
        assert (job["op"], job["path"]) == ("restore", str(own.mnt / "d"))
        assert (job["bytes"], job["files"]) == (60 * BIG, 60)
        assert job["state"] == "running"
        assert job["target"] == own.target.name
        assert job["jobs_running"] > 0
        left = job["bytes"] - job["done"]
        assert MIB < job["rate"] < 16 * MIB
        assert job["eta"] == pytest.approx(left / job["rate"], abs=1.1)
        assert sum(j["op"] == "restore" for j in queue(own)) == 1
        assert len(queue(own, "--all")) > 1
        own.do("--mount", own.mnt, "cancel", str(job["id"]))
        out, err = tool.communicate(timeout=60)
    assert tool.returncode == 1
    assert "cancelled" in err
    own.target_disk.throttle(read_bps=0)
    wait_for(lambda: not queue(own))
    done = [o["path"] for o in map(json.loads, out.splitlines())
            if o["result"] == "done"]
    assert 3 <= len(done) < 60
    assert all(own.state(path) == "migrated" for path in done)
    assert count(own, known, "released") == 60 - len(done)
    assert own.ctl("--mount", own.mnt, "cancel", str(job["id"])).status == 1


@pytest.mark.parametrize("how", ["umount", "kill"])
def test_goes_on_after_a_mount(own, how):
    own.mount("restore_after=never")
    known = released(own, 40, BIG)
    own.target_disk.drop_caches()
    own.target_disk.throttle(read_bps=6 * MIB)
    job = asked(own, "restore", "-r", own.mnt / "d")
    wait_for(lambda: next(j["results"]["done"] for j in queue(own)) > 2)
    if how == "kill":
        time.sleep(3)  # its counts are noted by then
        own.daemon.kill()
        own.daemon.wait()
        own.daemon = None
        run("umount", "-l", own.mnt)
    else:
        own.umount()
    own.target_disk.throttle(read_bps=0)
    own.mount("restore_after=never")
    last = ended(own, job)
    assert last["state"] == "done", last
    results = last["results"]
    assert (results["refused"], results["failed"]) == (0, 0)
    assert results["done"] + results["already"] == 40
    # What was done before counts; a crash loses the last seconds' count.
    assert results["already"] == 0 or how == "kill" and results["done"] > 3
    assert last["detached"] is True
    assert count(own, known, "migrated") == 40
    assert all(path.read_bytes() == content
               for path, content in known.items())
    assert not queue(own)
    # Another one has another number.
    assert asked(own, "release", "-r", own.mnt / "d") > job
    wait_for(lambda: count(own, known, "released") == 40)


def test_a_command_ends_with_its_daemon(own):
    """Who waits is told; nothing goes on."""
    own.mount("restore_after=never")
    released(own, 20, MIB)
    own.target_disk.drop_caches()
    own.target_disk.throttle(read_bps=2 * MIB)
    with subprocess.Popen([binary("tierctl"), "restore", "-r", own.mnt / "d"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as tool:
        wait_for(lambda: any(j["done"] for j in queue(own)))
        own.daemon.kill()
        own.daemon.wait()
        own.daemon = None
        _, err = tool.communicate(timeout=60)
    assert tool.returncode == 1
    assert "has gone" in err
    run("umount", "-l", own.mnt)
    own.target_disk.throttle(read_bps=0)
    own.mount()
    assert not queue(own) and not queue(own, "--all")


def test_cancel_a_batch(own):
    own.mount("restore_after=never")
    known = released(own, 30, BIG)
    own.target_disk.drop_caches()
    own.target_disk.throttle(read_bps=4 * MIB)
    job = asked(own, "restore", "-r", own.mnt / "d")
    wait_for(lambda: next(j["results"]["done"] for j in queue(own)) > 1)
    own.do("--mount", own.mnt, "cancel", str(job))
    last = ended(own, job)
    assert last["state"] == "cancelled"
    own.target_disk.throttle(read_bps=0)
    done = 30 - count(own, known, "released")
    assert last["results"]["done"] == done < 30
    own.remount("restore_after=never")
    assert [j["state"] for j in queue(own, "--all")] == ["cancelled"]
    assert count(own, known, "released") == 30 - done


def test_order(own):
    """20,000 would take long: what is asked for in any order is read in that
    of the objects, also across what goes to the tier at once."""
    own.mount("restore_after=never")
    (own.mnt / "d").mkdir()
    paths = [own.mnt / "d" / f"f{i:05}" for i in range(4000)]
    for path in paths:
        path.write_bytes(b"x" * 100)
    own.release(own.mnt / "d")
    oids = {o["path"]: int(o["copies"][0]["oid"], 16)
            for o in own.do("status", *paths)}
    random.Random(1).shuffle(paths)
    got = own.do("restore", "-0", "--files-from=-",
                 input="".join(f"{p}\0" for p in paths))
    order = [oids[o["path"]] for o in got if o["result"] == "done"]
    assert len(order) == 4000
    # Two workers: neighbours may change places, not more.
    ranks = {oid: i for i, oid in enumerate(sorted(order))}
    off = max(abs(ranks[oid] - i) for i, oid in enumerate(order))
    assert off < 1500, f"{off} places off"


def test_names_from_a_file(own):
    """10,000 names, whatever is in them, are one batch."""
    own.mount()
    (own.mnt / "d").mkdir()
    names = [own.mnt / "d" / f"new\nline {i}" for i in range(9990)]
    names += [own.mnt / "d" / os.fsdecode(b"\xff%d" % i) for i in range(10)]
    for name in names:
        name.write_bytes(b"data")
    job = asked(own, "migrate", "--release", "-0", "--files-from=-",
                input="".join(f"{n}\0" for n in names))
    last = ended(own, job)
    assert last["results"]["done"] == 10000, last
    assert last["path"] == "10000 files"
    assert own.mount_status()["states"]["released"]["files"] == 10000


def test_reasons_and_rights(own):
    """A batch has the rights of who asked, when its turn comes; what came of
    it can be asked for afterwards."""
    own.mount("restore_after=never")
    known = released(own, 3, 100000)
    mine, given, gone = known
    for path in known:
        os.chown(path, NOBODY, NOBODY)
    own.target_disk.drop_caches()
    own.target_disk.throttle(read_bps=MIB // 2)
    # Two of this user's run at a time.
    put(own.mnt / "big", 2 * MIB)
    os.link(own.mnt / "big", own.mnt / "big2")
    own.release(own.mnt / "big")
    os.chown(own.mnt / "big", NOBODY, NOBODY)
    first = [asked(own, "restore", own.mnt / n, user=NOBODY)
             for n in ("big", "big2")]
    job = asked(own, "restore", *known, user=NOBODY)
    assert next(j for j in queue(own) if j["id"] == job)["state"] == "waiting"
    os.chown(given, 0, 0)
    gone.unlink()
    assert own.ctl("--mount", own.mnt, "cancel", str(first[0]),
                   user=NOBODY + 1).status == 1
    for id in first:
        own.do("--mount", own.mnt, "cancel", str(id), user=NOBODY)
    own.target_disk.throttle(read_bps=0)
    last = ended(own, job)
    assert last["state"] == "failed"
    assert last["results"] == {"done": 1, "already": 0, "refused": 1,
                               "failed": 1}
    assert any("f001: permission denied" in r for r in last["reasons"])
    assert any("f002: No such file" in r for r in last["reasons"])
    assert own.state(mine) == "migrated" and own.state(given) == "released"
    text = own.ctl("--mount", own.mnt, "queue", "--all", text=True).out
    assert "permission denied" in text


def test_budget_and_keep(own):
    """What was used last comes back, as much as may; it isn't released before
    its time, nor after a mount."""
    own.mount("restore_after=never", "noatime")
    (own.mnt / "d").mkdir()
    paths = [own.mnt / "d" / f"f{i}" for i in range(8)]
    for i, path in enumerate(paths):
        put(path, MIB, i)
        os.utime(path, (1_600_000_000 + i * 7 % 8, 1_600_000_000))
    own.migrate(own.mnt / "d")
    own.do("release", *paths[1:])
    recent = sorted(paths[1:], key=lambda p: p.stat().st_atime)[-3:]
    got = own.do("restore", "--budget", "3M", "--keep", "2w", own.mnt / "d")
    assert {o["path"] for o in got if o["result"] == "done"} == \
        {str(p) for p in recent}
    assert "4 files" in next(o["reason"] for o in got
                             if o["result"] == "skipped")
    # The one that was on the front is kept, too.
    kept = {str(p) for p in [paths[0], *recent]}
    for _ in range(2):
        answer = own.ctl("release", "-r", own.mnt / "d")
        assert answer.status == 1
        assert {o["path"] for o in answer.json
                if o["result"] == "refused"} == kept
        assert all("kept until 20" in o["reason"] for o in answer.json
                   if o["result"] == "refused")
        until = own.status(recent[0])["kept_until"]
        assert abs(until - time.time() - 14 * 86400) < 600
        assert "kept_until" not in own.status(own.mnt / "d" / "f4") or \
            str(own.mnt / "d" / "f4") in kept
        own.remount("restore_after=never", "noatime")
    own.do("unkeep", "-r", own.mnt / "d")
    own.do("release", "-r", own.mnt / "d")
    assert count(own, paths, "released") == 8
    # As named, without waiting; it ends by itself.
    job = asked(own, "restore", "--budget", "2M", "--keep", "3s",
                *[own.mnt / "d" / f"f{i}" for i in (5, 2, 7)])
    last = ended(own, job)
    assert last["results"]["done"] == 2
    assert any("1 files" in r for r in last["reasons"])
    assert [own.state(own.mnt / "d" / f"f{i}") for i in (5, 2, 7)] == \
        ["migrated", "migrated", "released"]
    wait_for(lambda: own.ctl("release", "-r", own.mnt / "d").status == 0)


def test_what_budgets_and_times_are_refused(own):
    own.mount()
    path = own.mnt / "f"
    put(path, MIB)
    answer = own.ctl("restore", "--budget", "1T", path)
    assert answer.status == 1
    assert "room" in answer.err
    for keep in ("2020-01-01", "soon", "2199-02-30", "-3d"):
        assert own.ctl("restore", f"--keep={keep}", path).status == 2
    assert own.ctl("restore", "--budget=much", path).status == 2
    assert own.ctl("migrate", "--keep=1d", path).status == 2
    for keep in ("fri", "Tomorrow", "2199-12-01", "2199-12-01 12:00"):
        own.do("restore", f"--keep={keep}", path)
    assert time.localtime(own.status(path)["kept_until"])[:5] == \
        (2199, 12, 1, 12, 0)


def test_without_its_database(own):
    """A damaged batches.db is put aside; deleting it loses just what it is
    for."""
    own.mount()
    path = own.mnt / "f"
    put(path, MIB)
    own.migrate(path)
    own.do("restore", "--keep=1d", path)
    own.umount()
    meta = own.front / ".tierfs"
    for name in ("batches.db-wal", "batches.db"):
        (meta / name).write_bytes(b"\x5a" * 20000)
    own.mount()
    assert "batches.db: damaged" in own.tail()
    assert (meta / "batches.db.bad").exists()
    own.do("release", path)
    assert path.read_bytes() == data(MIB)
    own.do("restore", "--keep=1d", path)
    own.umount()
    for name in os.listdir(meta):
        if name.startswith("batches"):
            (meta / name).unlink()
    own.mount()
    own.do("release", path)


def test_interrupting_drops_it(own):
    """A list that never ended was asked for by nobody."""
    own.mount()
    put(own.mnt / "f", MIB)
    reading, writing = os.pipe()
    with subprocess.Popen([binary("tierctl"), "migrate", "--no-wait",
                           "--files-from=-"], stdin=reading,
                          stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as tool:
        os.close(reading)
        os.write(writing, f"{own.mnt}/f\n".encode())
        time.sleep(0.5)
        tool.send_signal(signal.SIGINT)
        tool.wait(60)
        os.close(writing)
    assert tool.returncode == 1
    wait_for(lambda: not queue(own))
    assert own.state(own.mnt / "f") == "none"
    assert not queue(own, "--all")
