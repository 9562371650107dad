# SPDX-License-Identifier: MIT
"""SIGHUP: the configuration file is read again, all of it or nothing."""

import signal

import pytest

from files import put
from rig import wait_for

RULES = """
[rule scratch]
path = /scratch/**
migrate = now
[rule pinned]
path = /home/**
keep = yes
"""


@pytest.fixture(name="conf")
def fixture_conf(one):
    path = one.rig.dir / f"{one.name}.conf"
    path.write_text("[tierfs]\nhigh = 70\nlow = 60\n", encoding="ascii")
    return path


def said(one, since=0):
    return [line for line in one.log.read_text(errors="replace").splitlines()
            if "configuration" in line and "reloaded" in line][since:]


def hangup(one):
    """Sends the signal; returns what the daemon says."""
    before = len(said(one))
    one.daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: len(said(one)) > before, 60)
    return said(one)[-1]


def high(one):
    return one.mount_status()["front"]["high"]


def test_whole_or_nothing(one, conf):
    one.mount(f"config={conf}")
    put(one.mnt / "f", 5000)
    assert high(one) == 70
    conf.write_text("[tierfs]\nhigh = 75\nlow = 50\n" + RULES,
                    encoding="ascii")
    assert "configuration reloaded: 2 rules" in hangup(one)
    assert high(one) == 75

    # A mistake far below what could be taken.
    conf.write_text("[tierfs]\nhigh = 55\n" + RULES + "size = 10M\n",
                    encoding="ascii")
    line = hangup(one)
    assert f"{conf}:10: [rule pinned] size = 10M: " in line, line
    assert high(one) == 75
    # What holds of all together, and no file at all.
    conf.write_text("[tierfs]\nhigh = 55\nlow = 60\n", encoding="ascii")
    assert "low is not below high" in hangup(one)
    conf.unlink()
    assert f"configuration file {conf}: No such file" in hangup(one)
    assert high(one) == 75

    conf.write_text("[tierfs]\nhigh = 92\n", encoding="ascii")
    assert "configuration reloaded: 0 rules" in hangup(one)
    assert high(one) == 92
    assert one.mount_status()["front"]["low"] == 80
    assert (one.mnt / "f").stat().st_size == 5000


def test_what_cannot_change(one, conf):
    """Is refused by name, with all the rest."""
    one.mount(f"config={conf}")
    for text, name in (("name = other\n", None), # -o name= wins
                       ("max_threads = 3\n", "max_threads"),
                       ("allow_other = off\n", "allow_other"),
                       ("walk_rate = 7\n", "walk_rate"),
                       ("ro = on\n", "ro"),
                       ("nosuid = on\n", "mount options")):
        conf.write_text("[tierfs]\nhigh = 91\n" + text, encoding="ascii")
        line = hangup(one)
        if name:
            assert f"{conf}: {name}: c" in line and high(one) == 70, line
        else:
            assert "reloaded: 0 rules" in line, line
            conf.write_text("[tierfs]\nhigh = 70\nlow = 60\n",
                            encoding="ascii")
            hangup(one)


def test_options_win(one, conf):
    """Those of the command line, and of remounts since."""
    one.mount(f"config={conf}", "restore_after=7")
    one.change("high=95", "ro")
    one.change("rw")
    conf.write_text("[tierfs]\nhigh = 65\nlow = 40\n", encoding="ascii")
    assert "configuration reloaded: 0 rules" in hangup(one)
    front = one.mount_status()["front"]
    assert (front["high"], front["low"]) == (95, 40)


def test_many_at_once(one, conf):
    """Signals that come while one is handled, and while the mount ends."""
    one.mount(f"config={conf}")
    for i in range(200):
        conf.write_text(f"[tierfs]\nhigh = {70 + i % 20}\nlow = 60\n" +
                        (RULES if i % 2 else "[rule"), encoding="ascii")
        one.daemon.send_signal(signal.SIGHUP)
    for _ in range(20):
        one.daemon.send_signal(signal.SIGHUP)
    one.daemon.send_signal(signal.SIGTERM)
    one.daemon.send_signal(signal.SIGHUP)
    one.ended()
