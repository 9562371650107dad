# SPDX-License-Identifier: MIT
"""Fixtures. A test that takes `tier` runs once for each front's file system
with kernel passthrough on and off, or twice if it is long (mark `crossed`);
$TIERFS_TEST_MODES ("ext4-on,xfs-off") limits that. A test that takes longer than its time (mark `slow(seconds)`,
otherwise 120) has its daemon ended, and fails."""

import os
import threading

import pytest

import rig as rig_module

ALL_MODES = ("ext4-on", "ext4-off", "xfs-on", "xfs-off")
MODES = [m for m in ALL_MODES
         if m in os.environ.get("TIERFS_TEST_MODES", m).split(",")]
# Two modes that have each file system and each way of passing through once.
CROSSED = (("ext4-on", "xfs-off"), ("ext4-off", "xfs-on"))
PATIENCE = float(os.environ.get("TIERFS_TEST_PATIENCE", "1"))

_the_rig = None


def pytest_configure(config):
    config.addinivalue_line("markers", "slow(seconds): may take that long")
    config.addinivalue_line("markers", "long: only with --long")
    config.addinivalue_line("markers", "crossed(n): in two of the four modes, "
                            "n says which; with --long in all")
    if os.geteuid() != 0:
        pytest.exit("the system tests mount file systems: run them as root", 1)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true",
                     help="the stress tests at full length")


def pytest_collection_modifyitems(config, items):
    def seconds(item):
        mark = item.get_closest_marker("slow")
        return mark.args[0] if mark else 0

    # The longest first: with several at a time (-n) none is left for the end.
    items.sort(key=seconds, reverse=True)
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="only with --long")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skip)
    left_out = [item for item in items if not is_crossed(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if is_crossed(item)]


def is_crossed(item):
    """Does this item run in its mode?"""
    mark = item.get_closest_marker("crossed")
    return (not mark or len(MODES) < len(ALL_MODES) or
            item.callspec.params["mode"] in CROSSED[mark.args[0] % 2])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    mark = item.get_closest_marker("slow")
    seconds = (mark.args[0] if mark else 120) * PATIENCE

    def overdue():
        said = _the_rig.give_up() if _the_rig else ""
        os.write(2, f"\n{item.nodeid}: ended after {seconds:.0f} s\n{said}\n"
                 .encode())

    timer = threading.Timer(seconds, overdue)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


@pytest.fixture(scope="session", name="rig")
def the_rig():
    global _the_rig
    _the_rig = rig_module.Rig()
    yield _the_rig
    _the_rig.close()


@pytest.fixture
def long(request):
    return request.config.getoption("--long")


@pytest.fixture(params=MODES)
def mode(request):
    """(file system, passthrough)"""
    return request.param.split("-")


@pytest.fixture(name="cold")
def cold_tier(rig, mode):
    """A tier that isn't mounted yet."""
    tier = rig.tier(*mode)
    yield tier
    tier.close()


@pytest.fixture(name="tier")
def mounted_tier(cold):
    """A mounted tier."""
    cold.mount()
    yield cold


@pytest.fixture(name="one")
def one_tier(rig):
    """A tier that isn't mounted yet, of one kind: for what depends neither on
    the front's file system nor on passthrough."""
    tier = rig.tier("ext4")
    yield tier
    tier.close()


@pytest.fixture(name="slow")
def slow_tier(rig, one):
    """A tier whose target does 2 MiB a second for reading once slow() is
    called."""
    disk = rig.disk("slow", "ext4", 1 * rig_module.GIB)
    one.target.rmdir()
    one.target = disk.path / one.name
    one.target.mkdir()
    if not disk.throttle(read_bps=0):
        pytest.skip("the blkio cgroup of this machine can't be used")
    one.slow = lambda bps=2 << 20: disk.throttle(read_bps=bps)
    yield one
    disk.throttle(read_bps=0)


@pytest.fixture(name="bare")
def bare_directory(rig, mode):
    """A directory on the front's file system without a tier."""
    return rig.directory(mode[0])


@pytest.fixture(name="own")
def own_disks(rig, mode):
    """A tier on disks of its own, whose power can be cut."""
    front = rig.disk(f"own-front-{mode[0]}", mode[0], 1 * rig_module.GIB)
    target = rig.disk(f"own-target-{mode[0]}", mode[0], 1 * rig_module.GIB)
    tier = rig.tier(*mode, front=front, target=target)
    yield tier
    tier.close()
    rig.drop(front)
    rig.drop(target)
