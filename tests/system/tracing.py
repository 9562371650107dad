# SPDX-License-Identifier: MIT
"""The kernel's tracepoints, in a buffer of our own, so that who else traces is
not disturbed."""

import os
from pathlib import Path

from rig import is_mounted, run


def instance(rig, kib):
    """The directory of a new buffer of so many KiB a CPU, for os.rmdir(); tracefs
    is mounted for the test where nobody has."""
    top = Path("/sys/kernel/tracing")
    if not (top / "instances").is_dir():
        top = rig.dir / "tracefs"
        top.mkdir(exist_ok=True)
        if not is_mounted(top):
            run("mount", "-t", "tracefs", "none", top)
    path = top / "instances" / f"tierfs-{os.getpid()}"
    path.mkdir()
    (path / "buffer_size_kb").write_text(f"{kib}\n", encoding="ascii")
    return path
