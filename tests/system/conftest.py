# SPDX-License-Identifier: MIT
"""Fixtures. A test that takes `tier` runs once for each front's file system
with kernel passthrough on and off; $TIERFS_TEST_MODES ("ext4-on,xfs-off")
limits that. A test that takes longer than its time (mark `slow(seconds)`,
otherwise 120) has its daemon ended, and fails."""

import os
import threading

import pytest

import rig as rig_module

MODES = [m for m in ("ext4-on", "ext4-off", "xfs-on", "xfs-off")
         if m in os.environ.get("TIERFS_TEST_MODES", m).split(",")]
PATIENCE = float(os.environ.get("TIERFS_TEST_PATIENCE", "1"))

_the_rig = None


def pytest_configure(config):
    config.addinivalue_line("markers", "slow(seconds): may take that long")
    config.addinivalue_line("markers", "long: only with --long")
    if os.geteuid() != 0:
        pytest.exit("the system tests mount file systems: run them as root", 1)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true",
                     help="the stress tests at full length")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        skip = pytest.mark.skip(reason="only with --long")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)


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


@pytest.fixture(name="bare")
def bare_directory(rig, mode):
    """A directory on the front's file system without a tier."""
    return rig.directory(mode[0])
