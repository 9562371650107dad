# SPDX-License-Identifier: MIT
"""How many requests the kernel sends to a FUSE daemon, by kind: counted by the
tracepoint fuse:fuse_request_send. FORGET is not among them: nobody waits for
it."""

import os
import re
from collections import Counter

from tracing import instance

BUFFER_KB = 65536
SENT = re.compile(r"fuse_request_send: .*\(FUSE_(\w+)\)")


class Requests:
    """Counts what one connection at a time is sent."""

    def __init__(self, rig):
        self.dir = instance(rig, BUFFER_KB)
        self.event = self.dir / "events/fuse/fuse_request_send"

    @staticmethod
    def write(path, value):
        path.write_text(f"{value}\n", encoding="ascii")

    def start(self, connection):
        self.write(self.event / "filter", f"connection == {connection}")
        self.write(self.dir / "trace", "")
        self.write(self.event / "enable", 1)

    def stop(self):
        """{kind: number}, or None if there were more than there is room for."""
        self.write(self.event / "enable", 0)
        for cpu in (self.dir / "per_cpu").iterdir():
            stats = (cpu / "stats").read_text(encoding="ascii")
            if int(re.search(r"overrun: (\d+)", stats)[1]):
                return None
        counts = Counter()
        with open(self.dir / "trace", encoding="ascii",
                  errors="replace") as lines:
            for line in lines:
                found = SENT.search(line)
                if found:
                    counts[found[1]] += 1
        return counts

    def close(self):
        self.write(self.event / "enable", 0)
        os.rmdir(self.dir)


def requests(rig):
    """A counter, or None where there is none; and why."""
    try:
        return Requests(rig), ""
    except (OSError, AssertionError) as e:
        return None, f"requests are not counted: {e}"
