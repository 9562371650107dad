# SPDX-License-Identifier: MIT
"""Programs write and verify while everything is migrated, released and
restored in a loop beneath them."""

import os
import random
import re
import subprocess
import threading
import time

import pytest

from files import MIB
from rig import binary, run


class Churn:
    """Migrates, releases and restores everything below the mount in a loop,
    in its own thread; what is in use is refused, which is no failure."""

    def __init__(self, tier, top=None):
        self.tier, self.top = tier, top or tier.mnt
        self.over, self.done, self.failed = threading.Event(), 0, []
        self.last = "no command ended"
        self.thread = threading.Thread(target=self.loop)

    def loop(self):
        dice = random.Random(1)
        while not self.over.is_set():
            command = dice.choice([["migrate", "-r", "--release"],
                                   ["migrate", "-r"], ["release", "-r"],
                                   ["restore", "-r"]])
            try:
                answer = self.tier.ctl(*command, self.top, timeout=300)
            except subprocess.TimeoutExpired as e:
                self.failed.append(str(e))
                return
            self.last = str(answer)[:2000]
            if answer.status not in (0, 1):
                self.failed.append(str(answer)[:2000])
                return
            for line in answer.json:
                self.done += line["result"] == "done"
                # Writers cancel moves, and files go: neither is a failure.
                if line["result"] == "failed" and not re.search(
                        "no such file|cancelled", line["reason"].lower()):
                    self.failed.append(str(line))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def wait_for_moves(self, seconds=60):
        """Until something was moved since now, or seconds are over."""
        before, until = self.done, time.monotonic() + seconds
        while self.done == before and time.monotonic() < until:
            time.sleep(0.05)

    def check(self):
        assert not self.failed, "\n".join(self.failed[:20])
        assert self.done > 0, f"nothing was ever moved: {self.last}"


def fio(directory, *args, seconds):
    done = run("fio", f"--directory={directory}", "--size=24m", "--numjobs=2",
               "--randseed=7", "--verify_fatal=1", "--do_verify=1",
               "--fallocate=none", "--group_reporting", "--output-format=terse",
               "--nrfiles=4", *args, check=False, timeout=seconds + 400,
               cwd=directory.parent.parent)  # for its state files
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


WORKLOADS = {
    "random": ["--rw=randrw", "--bs=4k", "--verify=crc32c", "--ioengine=psync"],
    "sequential": ["--rw=write", "--bs=128k", "--verify=xxhash",
                   "--ioengine=psync", "--loops=4"],
    "direct": ["--rw=randwrite", "--bs=16k", "--verify=crc32c", "--direct=1",
               "--ioengine=io_uring", "--iodepth=8"],
    "mmap": ["--rw=randwrite", "--bs=4k", "--verify=crc32c",
             "--ioengine=mmap"],
    "closing": ["--rw=randwrite", "--bs=8k", "--verify=crc32c",
                "--ioengine=psync", "--file_service_type=random",
                "--openfiles=1"],
}


@pytest.mark.slow(900)
@pytest.mark.parametrize("workload", [
    pytest.param(name, marks=pytest.mark.crossed(n))
    for n, name in enumerate(WORKLOADS)])
def test_fio_verify(tier, workload, long):
    """Each round lays out, writes, and verifies; then once more from cold."""
    args = WORKLOADS[workload]
    rounds = 20 if long else 2
    top = tier.mnt / workload
    top.mkdir()
    with Churn(tier) as churn:
        for _ in range(rounds):
            fio(top, f"--name={workload}", *args, seconds=60)
            # While nobody has them open the files can be moved: the next
            # round begins on what is elsewhere.
            churn.wait_for_moves()
    churn.check()
    tier.remount()
    tier.release(tier.mnt)
    fio(top, f"--name={workload}", *args, "--verify_only=1", seconds=60)


def worker(top, seed, seconds, wrong):
    """Small files: made, rewritten, appended to, renamed, linked, truncated,
    removed, read; compared with what a dictionary says they hold."""
    dice, known, end = random.Random(seed), {}, time.monotonic() + seconds
    count = 0
    while time.monotonic() < end and not wrong:
        op = dice.choice(["new", "new", "read", "read", "read", "write",
                          "append", "rename", "truncate", "unlink", "replace"])
        if op == "new" or not known:
            count += 1
            path = os.path.join(top, f"{seed}-{count}")
            known[path] = dice.randbytes(dice.choice([1, 100, 5000, 200000]))
            with open(path, "wb") as f:
                f.write(known[path])
            continue
        path = dice.choice(list(known))
        if op == "read":
            with open(path, "rb") as f:
                if f.read() != known[path]:
                    wrong.append(path)
        elif op == "write":
            at = dice.randrange(len(known[path]) + 1)
            piece = dice.randbytes(dice.choice([1, 4096]))
            with open(path, "r+b") as f:
                f.seek(at)
                f.write(piece)
            old = known[path]
            known[path] = old[:at] + piece + old[at + len(piece):]
        elif op == "append":
            with open(path, "ab") as f:
                f.write(b"tail")
            known[path] += b"tail"
        elif op == "rename":
            count += 1
            new = os.path.join(top, f"{seed}-{count}")
            os.rename(path, new)
            known[new] = known.pop(path)
        elif op == "replace":
            other = dice.choice(list(known))
            if other != path:
                os.rename(path, other)
                known[other] = known.pop(path)
        elif op == "truncate":
            size = dice.randrange(len(known[path]) + 1)
            os.truncate(path, size)
            known[path] = known[path][:size]
        elif op == "unlink":
            os.unlink(path)
            del known[path]
    for path, content in known.items():
        with open(path, "rb") as f:
            if f.read() != content:
                wrong.append(path)
    return known


@pytest.mark.slow(900)
def test_small_files(tier, long):
    """Many small files under four workers, and all of them from cold after."""
    seconds = 300 if long else 8
    wrong, known, errors = [], {}, []

    def guarded(seed):
        try:
            known.update(worker(str(tier.mnt), seed, seconds, wrong))
        except Exception as e:  # pylint: disable=broad-except
            errors.append(e)

    with Churn(tier) as churn:
        threads = [threading.Thread(target=guarded, args=(i,))
                   for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors, errors[:3]
    assert not wrong, wrong[:5]
    churn.check()
    tier.release(tier.mnt)
    tier.remount()
    for path, content in known.items():
        with open(path, "rb") as f:
            assert f.read() == content, path
    assert {p.name for p in tier.mnt.iterdir()} == \
        {os.path.basename(p) for p in known}


@pytest.mark.slow(1800)
@pytest.mark.parametrize("churn", [False, True], ids=["alone", "churned"])
def test_fsx(tier, long, churn):
    """One file under every operation that changes contents."""
    operations = 1_000_000 if long else 10_000
    seed = random.randrange(1 << 31)
    argv = [binary("fsx"), "-q", "-N", str(operations), "-S", str(seed),
            "-l", str(MIB), str(tier.mnt / "fsx")]
    moving = Churn(tier)
    if churn:
        with moving:  # it is moved while it is closed
            done = run(*argv[:-1], "-c", "sleep 0.02", argv[-1], check=False,
                       timeout=1700)
    else:
        done = run(*argv, check=False, timeout=1700)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stderr[-4000:]}"
    if churn:
        assert not moving.failed, moving.failed[:5]
        assert moving.done > 0, moving.last
