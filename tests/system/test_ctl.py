# SPDX-License-Identifier: MIT
"""tierctl: exit codes, JSON fields, what it refuses and to whom."""

import json
import os
import subprocess

import pytest

from files import MIB, data, put
from rig import NOBODY, binary, run, wait_for

STATES = {"none", "migrating", "migrated", "released", "dirty"}


@pytest.fixture(name="tier")
def one_mounted(one):
    one.mount()
    return one


def test_status_of_files(tier):
    path = tier.mnt / "f"
    put(path, 3 * MIB)
    want = {"path": str(path), "state": "none", "size": 3 * MIB,
            "pinned": False, "open": 0, "copies": []}
    got = tier.status(path)
    assert {k: got[k] for k in want} == want
    assert got["front_bytes"] >= 3 * MIB
    tier.migrate(path)
    got = tier.status(path)
    assert got["state"] == "migrated"
    (copy,) = got["copies"]
    oid = copy["oid"]
    assert copy["target"] == tier.target.name
    assert len(oid) == 16 and int(oid, 16) >= 0
    assert copy["object"] == str(tier.target / tier.name / oid[:2] / oid[2:])
    assert os.stat(copy["object"]).st_size == 3 * MIB
    mode = os.stat(copy["object"])
    assert (mode.st_mode & 0o7777, mode.st_uid) == (0o600, 0)
    tier.release(path)
    got = tier.status(path)
    assert (got["state"], got["size"]) == ("released", 3 * MIB)
    assert got["front_bytes"] < 65536
    with open(path, "rb"):
        assert tier.status(path)["open"] >= 1


def test_status_of_mounts(tier):
    for i in range(5):
        put(tier.mnt / f"f{i}", MIB)
    tier.migrate(tier.mnt / "f0")
    tier.release(tier.mnt / "f1", tier.mnt / "f2")
    got = tier.mount_status()
    assert got["name"] == tier.name
    front = got["front"]
    assert front["path"] == str(tier.front)
    assert (front["high"], front["low"]) == (90, 80)
    assert 0 < front["used"] < front["bytes"]
    states = got["states"]
    assert STATES <= states.keys()
    assert states["migrated"] == {"files": 1, "bytes": MIB}
    assert states["released"] == {"files": 2, "bytes": 2 * MIB}
    (target,) = got["targets"]
    assert target["name"] == tier.target.name
    assert target["path"] == str(tier.target)
    assert target["online"] is True
    assert 0 < target["used"] < target["bytes"]
    assert "capabilities" in target
    assert "queues" in got
    assert isinstance(got["passthrough"], bool)
    if not got["passthrough"]:
        assert got["why"]
    # The counts follow the files, a remount included.
    tier.remount()
    assert tier.mount_status()["states"]["released"]["files"] == 2
    (tier.mnt / "f1").unlink()
    with open(tier.mnt / "f2", "r+b") as f:
        f.write(b"x")
    wait_for(lambda: tier.mount_status()["states"]["released"]["files"] == 0)


def test_text_for_people(tier):
    put(tier.mnt / "f", 3 * MIB)
    tier.release(tier.mnt / "f")
    for argv in (["status", tier.mnt / "f"], ["--mount", tier.mnt, "status"],
                 ["--mount", tier.mnt, "queue"]):
        answer = tier.ctl(*argv, text=True)
        assert answer.status == 0, answer
        assert "{" not in answer.out
    out = tier.ctl("status", tier.mnt / "f", text=True).out
    assert "released" in out and "3" in out
    out = tier.ctl("--mount", tier.mnt, "status", text=True).out
    for word in (str(tier.mnt), str(tier.front), str(tier.target)):
        assert word in out


def test_results(tier):
    """done, already, refused and failed; the rest is done all the same."""
    put(tier.mnt / "f", MIB)
    put(tier.mnt / "open", MIB)
    (result,) = tier.do("migrate", tier.mnt / "f")
    assert {"path": str(tier.mnt / "f"), "op": "migrate", "result": "done",
            "bytes": MIB}.items() <= result.items()
    assert "reason" in result
    assert tier.do("migrate", tier.mnt / "f")[0]["result"] == "already"
    (result,) = tier.do("release", tier.mnt / "f")
    assert (result["op"], result["result"]) == ("release", "done")
    assert tier.do("release", tier.mnt / "f")[0]["result"] == "already"
    assert tier.do("migrate", tier.mnt / "f")[0]["result"] == "already"
    (result,) = tier.do("restore", tier.mnt / "f")
    assert (result["op"], result["result"]) == ("restore", "done")
    assert tier.do("restore", tier.mnt / "f")[0]["result"] == "already"
    with open(tier.mnt / "open", "ab"):
        answer = tier.ctl("migrate", "--release", tier.mnt / "open",
                          tier.mnt / "f", tier.mnt / "missing")
        assert answer.status == 1
        results = {os.path.basename(o["path"]): o["result"]
                   for o in answer.json}
        assert results["open"] == "refused"
        assert results["f"] == "done"
        assert f"tierctl: {tier.mnt}/missing: " in answer.err
        assert f"tierctl: {tier.mnt}/open: " in answer.err
        assert tier.state(tier.mnt / "f") == "released"
    answer = tier.ctl("release", tier.mnt / "open")
    assert answer.status == 1
    assert answer.json[0]["result"] == "refused"
    assert "migrated" in answer.json[0]["reason"]


def test_what_has_no_data_is_no_failure(tier):
    top = tier.mnt / "d"
    (top / "sub").mkdir(parents=True)
    (top / "empty").touch()
    os.symlink("nowhere", top / "symlink")
    os.mkfifo(top / "fifo")
    put(top / "f", 1000)
    for command in (["migrate", "-r"], ["release", "-r"], ["restore", "-r"],
                    ["migrate", "-r", "--release"]):
        answer = tier.ctl(*command, top)
        assert answer.status == 0, answer
    assert tier.state(top / "f") == "released"
    assert os.readlink(top / "symlink") == "nowhere"


def test_exit_codes(tier, rig):
    assert tier.ctl("no-such-command").status == 2
    assert tier.ctl().status == 2
    assert tier.ctl("migrate").status == 2
    assert tier.ctl("migrate", "--no-such-option", tier.mnt).status == 2
    outside = rig.dir / "outside"
    outside.touch()
    assert tier.ctl("status", outside).status == 3
    assert tier.ctl("--mount", rig.dir, "status").status == 3
    assert tier.ctl("status", tier.mnt / "missing").status == 1
    assert tier.ctl("--help", text=True).status == 0
    assert tier.ctl("--version", text=True).status == 0


def test_no_daemon(one):
    assert one.ctl("--mount", one.mnt, "status").status == 3
    assert one.ctl("migrate", one.mnt).status == 3


def test_global_options_before_and_after(tier):
    put(tier.mnt / "f", 1000)
    for argv in (["--json", "--mount", tier.mnt, "status"],
                 ["status", "--json", "--mount", tier.mnt]):
        done = run(binary("tierctl"), *argv)
        assert json.loads(done.stdout)["mount"] == str(tier.mnt)
    done = run(binary("tierctl"), "--quiet", "migrate", tier.mnt / "f")
    assert done.stdout == ""


def test_relative_paths(tier):
    (tier.mnt / "d").mkdir()
    put(tier.mnt / "d/f", 1000)
    done = run(binary("tierctl"), "--json", "migrate", "--release", "f",
               cwd=tier.mnt / "d")
    assert json.loads(done.stdout)["path"] in ("f", str(tier.mnt / "d/f"))
    assert tier.state(tier.mnt / "d/f") == "released"


def test_symlinks_in_the_way(tier, rig):
    """A path may lead to the mount by a symlink; one at its end is a symlink,
    not what it names."""
    put(tier.mnt / "f", 1000)
    way = rig.dir / f"{tier.name}-way"
    way.symlink_to(tier.mnt)
    assert tier.ctl("migrate", way / "f").status == 0
    assert tier.state(tier.mnt / "f") == "migrated"
    os.symlink("f", tier.mnt / "s")
    tier.ctl("migrate", "--release", tier.mnt / "s")
    assert tier.state(tier.mnt / "f") == "migrated"


def test_pin(tier):
    """A pinned file, or all below a pinned directory, stays resident."""
    top = tier.mnt / "d"
    top.mkdir()
    for name in ("a", "b"):
        put(top / name, 10000)
    tier.do("pin", top / "a")
    assert tier.status(top / "a")["pinned"] is True
    assert tier.status(top / "b")["pinned"] is False
    answer = tier.ctl("migrate", "-r", "--release", top)
    assert answer.status == 1
    assert tier.state(top / "a") != "released"
    assert tier.state(top / "b") == "released"
    assert "pinned" in next(o["reason"] for o in answer.json
                            if o["path"].endswith("/a"))
    tier.remount()
    assert tier.status(top / "a")["pinned"] is True
    tier.do("unpin", top / "a")
    tier.do("migrate", "--release", top / "a")
    assert tier.state(top / "a") == "released"
    # A directory: what is below, what comes later too.
    tier.do("pin", top)
    put(top / "later", 10000)
    (top / "sub").mkdir()
    put(top / "sub/deep", 10000)
    answer = tier.ctl("migrate", "--release", top / "later", top / "sub/deep")
    assert answer.status == 1
    assert [o["result"] for o in answer.json] == ["refused", "refused"]
    tier.do("unpin", top)
    tier.do("migrate", "--release", top / "later", top / "sub/deep")
    assert (top / "sub/deep").read_bytes() == data(10000)


def test_pin_survives_a_write(tier):
    path = tier.mnt / "f"
    put(path, 1000)
    tier.do("pin", path)
    with open(path, "ab") as f:
        f.write(b"x")
    assert tier.status(path)["pinned"] is True
    assert tier.ctl("migrate", "--release", path).status == 1
    assert path.read_bytes() == data(1000) + b"x"


def test_no_wait(tier):
    for i in range(20):
        put(tier.mnt / f"f{i}", 100000, i)
    assert tier.ctl("migrate", "-r", "--no-wait", "--release",
                    tier.mnt).status == 0
    wait_for(lambda: all(tier.state(tier.mnt / f"f{i}") == "released"
                         for i in range(20)))
    assert (tier.mnt / "f13").read_bytes() == data(100000, 13)


def test_files_from(tier, rig):
    names = [tier.mnt / f"f{i}" for i in range(3)] + [tier.mnt / "new\nline"]
    for name in names:
        put(name, 1000)
    listed = rig.dir / f"{tier.name}.list"
    listed.write_text("".join(f"{n}\n" for n in names[:2]))
    tier.do("migrate", f"--files-from={listed}")
    tier.do("migrate", "-0", "--files-from=-",
            input="".join(f"{n}\0" for n in names[2:]))
    assert {tier.state(n) for n in names} == {"migrated"}


def test_many_arguments(tier):
    for i in range(3000):
        (tier.mnt / f"f{i:04}").write_bytes(b"%d" % i)
    got = tier.release(tier.mnt)
    assert sum(o["result"] == "done" for o in got) == 3000
    assert tier.mount_status()["states"]["released"]["files"] == 3000
    assert (tier.mnt / "f1234").read_bytes() == b"1234"


def test_virtual_attribute(tier):
    path = tier.mnt / "f"
    put(path, MIB)
    for state in ("none", "migrated", "released"):
        tier.bring(path, state)
        assert os.getxattr(path, "user.tierfs.state") == state.encode()
        assert os.listxattr(path) == []


def test_credentials(tier):
    """Root and the owner may move data; who can read may ask."""
    theirs, others, secret = (tier.mnt / n for n in
                              ("theirs", "others", "secret"))
    for path in (theirs, others, secret):
        put(path, 10000)
    os.chown(theirs, NOBODY, NOBODY)
    secret.chmod(0o600)
    theirs.chmod(0o644)
    others.chmod(0o644)
    assert tier.ctl("migrate", "--release", theirs, user=NOBODY).status == 0
    assert tier.state(theirs) == "released"
    assert tier.ctl("status", others, user=NOBODY).status == 0
    answer = tier.ctl("migrate", others, user=NOBODY)
    assert answer.status in (1, 3)
    assert "permi" in answer.err.lower()
    assert tier.state(others) == "none"
    tier.migrate(others)
    for command in (["release"], ["restore"], ["pin"], ["unpin"]):
        assert tier.ctl(*command, others, user=NOBODY).status in (1, 3)
    assert tier.state(others) == "migrated"
    assert tier.status(others)["pinned"] is False
    assert tier.ctl("status", secret, user=NOBODY).status in (1, 3)
    assert tier.ctl("--mount", tier.mnt, "cancel", "1",
                    user=NOBODY).status in (1, 3)


def test_unreadable_directory(tier):
    """Below a directory that one may not search, one may not ask."""
    top = tier.mnt / "private"
    top.mkdir(mode=0o700)
    put(top / "f", 1000)
    os.chown(top / "f", NOBODY, NOBODY)
    assert tier.ctl("status", top / "f", user=NOBODY).status in (1, 3)
    assert tier.ctl("migrate", top / "f", user=NOBODY).status in (1, 3)
    assert tier.state(top / "f") == "none"


def test_garbage_on_the_socket(tier):
    """Nobody brings the daemon down by talking nonsense to it."""
    import socket
    where = f"/run/tierfs/{tier.name}.sock"
    for nonsense in (b"", b"\0" * 5000, b"{}\n", b"[" * 100000 + b"\n",
                     b'{"cmd": 5}\n', os.urandom(4096), b"\xff\xff\xff\xff"):
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(where)
            except OSError:
                s2 = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                s2.connect(where)
                s2.close()
                continue
            try:
                s.sendall(nonsense)
            except OSError:
                pass
    idle = []
    for _ in range(40):  # who connects and says nothing holds up nobody
        s = socket.socket(socket.AF_UNIX)
        s.connect(where)
        idle.append(s)
    put(tier.mnt / "f", 1000)
    assert tier.state(tier.mnt / "f") == "none"
    for s in idle:
        s.close()


def test_closed_output(tier):
    """tierctl | head"""
    for i in range(500):
        put(tier.mnt / f"f{i}", 10)
    done = subprocess.run(
        f"{binary('tierctl')} status {tier.mnt}/f* | head -n 1", shell=True,
        check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip()
    assert tier.mount_status()
