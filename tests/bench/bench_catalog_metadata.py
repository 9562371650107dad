#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the catalog costs: creating, looking at and removing files through a
mount with catalog=on, in terms of one with catalog=off."""

import os
import subprocess

from bench import arguments, compare, rig, seconds

# In processes of their own, as users' programs are; each has its directories.
CODE = """
import os, sys
what, top, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
if what == "create":
    os.mkdir(top)
for i in range(n):
    if what == "create":
        if i % 500 == 0:
            os.mkdir(f"{top}/{i // 500}")
        os.close(os.open(f"{top}/{i // 500}/{i}", os.O_CREAT | os.O_WRONLY))
    elif what == "stat":
        os.stat(f"{top}/{i // 500}/{i}")
    else:
        os.unlink(f"{top}/{i // 500}/{i}")
"""


def main():
    args = arguments(__doc__, runs=7, files=8000, procs=1)
    with rig() as r:
        tiers = {}
        for which in ("on", "off"):
            tiers[which] = r.tier("ext4")
            tiers[which].mount(f"catalog={which}")
        count = {"on": 0, "off": 0}

        def work(which, what):
            if what == "create":
                count[which] += 1
            tops = [tiers[which].mnt / f"r{count[which]}-{p}"
                    for p in range(args.procs)]

            def all_of_them():
                them = [subprocess.Popen(["/usr/bin/python3", "-c", CODE, what,
                                          str(t), str(args.files)])
                        for t in tops]
                assert not any(p.wait() for p in them)
            if what == "stat":  # what the kernel has cached costs nothing
                tiers[which].remount(f"catalog={which}")
            # The other's events are not to be paid for here.
            for tier in tiers.values():
                tier.do("--mount", tier.mnt, "status")
            os.sync()
            return args.files * args.procs / seconds(all_of_them)

        for what in ("create", "stat", "unlink"):
            if what == "create":
                # Each round has files of its own; those of the last are left.
                compare(what, args.runs, lambda: work("on", "create"),
                        lambda: work("off", "create"), 0.95, unit="files/s")
            elif what == "stat":
                compare(what, args.runs, lambda: work("on", "stat"),
                        lambda: work("off", "stat"), 0.95, unit="files/s")
            else:
                def unlink(which):
                    rate = work(which, "unlink")
                    count[which] -= 1
                    return rate
                compare(what, args.runs, lambda: unlink("on"),
                        lambda: unlink("off"), 0.95, unit="files/s")
        for tier in tiers.values():
            tier.close()


if __name__ == "__main__":
    main()
