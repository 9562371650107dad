# SPDX-License-Identifier: MIT
"""What the benchmarks share: a rig, pairs of measurements, and the report.

Both sides of a comparison are measured in turn in one run, and the number is
the median of the ratios of the pairs: what else the machine does hits both.
Each number is one line of JSON on stdout; progress goes to stderr.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "system"))

from files import MIB
from rig import BLKIO, Rig, drop_caches  # noqa: E402 pylint: disable=C0413

# A hard disk: bytes and I/Os a second; and I/Os where it seeks for each.
HDD_BPS, HDD_IOPS, SEEKS = 100 * MIB, 400, 200


def arguments(doc, **defaults):
    """--runs=N and further numbers, with their defaults."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value,
                            help=f"default {value}")
    if os.geteuid() != 0:
        sys.exit("benchmarks mount file systems: run them as root")
    return parser.parse_args()


@contextmanager
def rig():
    # What ends it (timeout(1)) must not leave mounts and loop devices.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    it = Rig()
    try:
        yield it
    finally:
        it.close()


def progress(text):
    print(f"  {text}", file=sys.stderr, flush=True)


def seconds(call, *args):
    start = time.monotonic()
    call(*args)
    return time.monotonic() - start


def serviced(disk):
    """I/Os of a throttled disk so far, as the throttle counts them: before the
    block layer merges what is adjacent."""
    rdev = os.stat(disk.loop).st_rdev
    total = f"{os.major(rdev)}:{os.minor(rdev)} Total "
    text = (BLKIO / "blkio.throttle.io_serviced_recursive").read_text(
        encoding="ascii")
    return sum(int(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if line.startswith(total))


def cold(call, *args):
    """seconds(), with empty caches."""
    drop_caches()
    return seconds(call, *args)


def compare(name, runs, ours, theirs, goal, at_most=False, unit="",
            higher=True):
    """Measures ours() and theirs() in turn, and reports how ours does in
    terms of theirs. higher: larger measurements are better (bytes a second),
    and the ratio is ours / theirs; else (seconds) theirs / ours is the speed,
    unless at_most, where the ratio is of the times."""
    pairs = []
    for n in range(runs):
        # Who is first changes.
        if n % 2:
            b, a = theirs(), ours()
        else:
            a, b = ours(), theirs()
        pairs.append((a, b))
        progress(f"{name}: {a:.4g} to {b:.4g} {unit}")
    return report_pairs(name, pairs, goal, at_most, unit, higher)


def report_pairs(name, pairs, goal, at_most=False, unit="", higher=True,
                 **more):
    """compare()'s report of what was measured: [(ours, theirs)]."""
    ratios = [a / b if higher or at_most else b / a for a, b in pairs]
    ratio = statistics.median(ratios)
    report(name, ratio, goal, at_most, runs=len(pairs), unit=unit,
           ours=statistics.median(a for a, _ in pairs),
           theirs=statistics.median(b for _, b in pairs),
           lowest=min(ratios), highest=max(ratios), **more)
    return ratio


def report(name, value, goal, at_most=False, **more):
    ok = value <= goal if at_most else value >= goal
    line = {"bench": Path(sys.argv[0]).stem, "name": name,
            "value": round(value, 4), "goal": goal,
            "better": "lower" if at_most else "higher", "ok": ok,
            "load": round(os.getloadavg()[0], 2)}
    for key, number in more.items():
        line[key] = round(number, 6) if isinstance(number, float) else number
    print(json.dumps(line), flush=True)
    return ok
