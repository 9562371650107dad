# SPDX-License-Identifier: MIT
"""A client that asks alone is served on its own CPU, by threads that give way; and
nobody has to wait for them."""

import contextlib
import os
import subprocess
import sys
import time

import pytest

from rig import fuse_parameter, wait_for

CPUS = sorted(os.sched_getaffinity(0))

pytestmark = [
    # Nobody else is to be busy; and the kernel has one parameter for io_uring.
    pytest.mark.xdist_group("io_uring"),
    pytest.mark.skipif(len(CPUS) < 2, reason="one CPU is the client's anyway"),
]

# Asks something of the file argv[1] all the time, on CPU argv[2] if there is one,
# and prints a line in a while.
ASK = """
import os, sys
if len(sys.argv) > 2:
    os.sched_setaffinity(0, {int(sys.argv[2])})
while True:
    for _ in range(1000):
        try:
            os.getxattr(sys.argv[1], "user.none")
        except OSError:
            pass
    print(flush=True)
"""

# The slowest of some requests of the file argv[1], in seconds, on CPU argv[2].
SLOWEST = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[2])})
slowest = 0
for _ in range(200):
    begun = time.monotonic()
    try:
        os.getxattr(sys.argv[1], "user.none")
    except OSError:
        pass
    slowest = max(slowest, time.monotonic() - begun)
    time.sleep(0.01)
print(slowest)
"""

BUSY = "while :; do :; done"


@pytest.fixture(name="way", params=["/dev/fuse", "io_uring"])
def way_of_requests(request):
    return request.param


def mount(tier, way, **kwargs):
    with fuse_parameter("Y"):
        tier.mount("io_uring=" + ("on" if way == "io_uring" else "off"),
                   **kwargs)
    (tier.mnt / "f").touch()
    return tier.mnt / "f"


@contextlib.contextmanager
def running(*argv):
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def asking(name, *cpu):
    return running(sys.executable, "-c", ASK, str(name), *map(str, cpu))


def scheduled(tier):
    """(name, policy, CPUs) of the daemon's threads."""
    found = []
    for tid in os.listdir(f"/proc/{tier.daemon.pid}/task"):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            with open(f"/proc/{tid}/comm", encoding="utf-8") as f:
                name = f.read().strip()
            found.append((name, os.sched_getscheduler(int(tid)),
                          os.sched_getaffinity(int(tid))))
    return found


def giving_way(tier):
    return [t for t in scheduled(tier) if t[1] == os.SCHED_IDLE]


def as_usual(tier):
    return all(policy != os.SCHED_IDLE and
               (cpus == set(CPUS) or name.startswith("fuse-ring"))
               for name, policy, cpus in scheduled(tier))


def test_together_while_alone(one, way):
    name = mount(one, way)
    # The conductor has tried first whether it can return.
    wait_for(lambda: as_usual(one))
    with asking(name):
        wait_for(lambda: giving_way(one))
    wait_for(lambda: as_usual(one))
    # Again: what was found is no longer than it has to be.
    with asking(name):
        wait_for(lambda: giving_way(one))
    wait_for(lambda: as_usual(one))
    # What their threads start is like others.
    with asking(name):
        wait_for(lambda: giving_way(one))
        os.listdir(one.mnt)
        mine = [t for t in scheduled(one)
                if not t[0].startswith(("fuse-ring", "fuse_worker", "turns"))]
        assert all(policy != os.SCHED_IDLE and cpus == set(CPUS)
                   for _, policy, cpus in mine), mine
    assert way == "/dev/fuse" or "fuse-work" in [t[0] for t in mine]
    wait_for(lambda: as_usual(one))


def test_where_the_client_is(one):
    name = mount(one, "/dev/fuse")
    for cpu in (*CPUS[:2], *CPUS[:2]):
        with asking(name, cpu):
            wait_for(lambda: [t for t in giving_way(one)
                              if t[0].startswith("fuse") and t[2] == {cpu}])
        wait_for(lambda: as_usual(one))


def test_two_are_apart(one, way):
    """Other tests of this file show that one of them alone would be together."""
    name = mount(one, way)
    with asking(name, CPUS[0]) as first, asking(name, CPUS[1]) as second:
        first.stdout.readline()
        second.stdout.readline()
        time.sleep(0.2)
        seen = []
        for _ in range(100):
            seen.append(bool(giving_way(one)))
            time.sleep(0.01)
    # One may have had to wait for its CPU for a while.
    assert sum(seen) < len(seen) / 4


def test_somebody_else_wants_the_cpu(one, way):
    """The client goes on though others never sleep."""
    name = mount(one, way)
    with asking(name) as client:
        wait_for(lambda: giving_way(one))
        with contextlib.ExitStack() as stack:
            for cpu in CPUS:
                stack.enter_context(running("taskset", "-c", str(cpu), "sh",
                                            "-c", BUSY))
            for _ in range(20):
                assert client.stdout.readline()


def test_nobody_can_keep_it_from_serving(one):
    """Somebody of a real-time priority takes the CPU where they are together:
    clients elsewhere are served nevertheless. As apart, it may take as long as it
    takes until a thread that had just been about to answer is run."""
    name = mount(one, "/dev/fuse")
    with asking(name, CPUS[0]):
        wait_for(lambda: [t for t in giving_way(one) if t[2] == {CPUS[0]}])
        with running("chrt", "-f", "1", "taskset", "-c", str(CPUS[0]), "sh",
                     "-c", BUSY):
            wait_for(lambda: not giving_way(one), 10)
            slowest = subprocess.run(
                [sys.executable, "-c", SLOWEST, name, str(CPUS[1])],
                check=True, stdout=subprocess.PIPE).stdout
    assert float(slowest) < 0.5


def test_without_the_right_to_return(one, way):
    name = mount(one, way, wrapper=("setpriv", "--bounding-set", "-sys_nice"))
    with asking(name) as client:
        for _ in range(50):
            assert client.stdout.readline()
            assert not giving_way(one)


def test_where_it_may_not_run(one):
    """taskset(1) has the last word."""
    name = mount(one, "/dev/fuse")
    # It gives up where a thread ends before its turn comes.
    wait_for(lambda: not subprocess.run(
        ["taskset", "-acp", str(CPUS[0]), str(one.daemon.pid)],
        stdout=subprocess.DEVNULL).returncode)
    with asking(name, CPUS[1]) as client:
        for _ in range(50):
            assert client.stdout.readline()
            assert all(t[2] == {CPUS[0]} for t in scheduled(one))
