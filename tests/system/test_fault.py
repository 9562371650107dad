# SPDX-License-Identifier: MIT
"""The daemon dies at a named step of an operation on a real mount (a build with
-Dfaults=true). After the next mount all contents are as before, no object is
missing or too many, and the operation can be done."""

import os
import subprocess

import pytest

from files import MIB, put
from rig import binary, run, wait_for

HAS_FAULTS = run(binary("tierfs"), "--version", check=False, env={
    **os.environ, "TIERFS_FAULT": "no-such-fault"}).returncode == 2

pytestmark = pytest.mark.skipif(not HAS_FAULTS, reason="built without faults")

NAMES = ["small", "big", "twice"]


def tool(tier, *args):
    """tierctl, which may lose its daemon."""
    subprocess.run([binary("tierctl"), *args], stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, timeout=60, check=False)


def paths(tier):
    return [tier.mnt / name for name in NAMES]


def migrate(tier, _):
    tool(tier, "migrate", *paths(tier))


def release(tier, _):
    tool(tier, "release", *paths(tier))


def restore(tier, _):
    tool(tier, "restore", *paths(tier))


def write(tier, known):
    """Changes one byte; whether it is there after the crash, both are right."""
    path = tier.mnt / "big"
    changed = b"x" + known[path][1:]
    try:
        with open(path, "r+b") as f:
            f.write(b"x")
    except OSError:
        pass
    known[path] = (known[path], changed)


def unlink(tier, known):
    path = tier.mnt / "big"
    try:
        path.unlink()
    except OSError:
        pass
    known[path] = (known[path], None)


# Fault, the state before it, the operation.
POINTS = [
    ("migrate-journaled", "none", migrate),
    ("migrate-marked", "none", migrate),
    ("copy-created:2", "none", migrate),
    ("migrate-copied", "none", migrate),
    ("migrate-committed", "none", migrate),
    ("release-journaled", "migrated", release),
    ("release-marked", "migrated", release),
    ("release-cut:2", "migrated", release),
    ("restore-copied", "released", restore),
    ("restore-exchanged", "released", restore),
    ("fill-synced", "released", restore),
    ("write-marked", "migrated", write),
    ("unlink-moved", "released", unlink),
    ("delete-object", "released", unlink),
    ("delete-orphan", "released", unlink),
]


def bring(tier, state):
    if state != "none":
        tier.migrate(*paths(tier))
    if state == "released":
        tier.release(*paths(tier))


def fits(path, want):
    """Is its content one of those that it may have?"""
    content = path.read_bytes() if path.exists() else None
    return content in (want if isinstance(want, tuple) else (want,))


@pytest.mark.parametrize("fault, state, operation", POINTS,
                         ids=[p[0].replace(":", "-") for p in POINTS])
def test_dies_at(one, fault, state, operation):
    one.mount("restore_after=never")
    known = {one.mnt / name: put(one.mnt / name, size, name) for name, size in
             (("small", 5000), ("big", 2 * MIB + 5), ("twice", 70000))}
    os.link(one.mnt / "twice", one.mnt / "other")  # restored in place
    bring(one, state)
    one.umount()
    one.rig.env["TIERFS_FAULT"] = fault
    one.may_die = True
    try:
        one.mount("restore_after=never")
    finally:
        del one.rig.env["TIERFS_FAULT"]
    operation(one, known)
    assert one.daemon.wait(60) == -9, "it did not come to that point"
    one.daemon = None
    one.may_die = False
    run("umount", "-l", one.mnt)
    one.mount("restore_after=never")
    for path, want in known.items():
        assert fits(path, want), path
    assert (one.mnt / "other").read_bytes() == known[one.mnt / "twice"]
    # It can be done now, whatever it was, and around again.
    there = [p for p in known if p.exists()]
    for command in (["migrate"], ["migrate", "--release"], ["restore"],
                    ["release"]):
        one.do(*command, *there)
    for path, want in known.items():
        assert fits(path, want), path
    wait_for(lambda: len(one.objects()) == len(there))
