#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/check-includes finds each kind of violation, and only violations."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOOL = Path(__file__).resolve().parent.parent / "tools" / "check-includes"

GOOD = {
    "src/util.h": "",
    "src/journal.h": '#include "util.h"\n',
    "src/journal.c": '#include "journal.h"\n#include <sqlite3.h>\n',
    "src/node.h": '#include "journal.h"\n',
    "src/target_dir.c": '#include "tierfs/target.h"\n',
    "include/tierfs/target.h": '#include "tierfs/format.h"\n',
    "include/tierfs/format.h": "",
    "src/fs_dir.c": '#include "node.h"\n#include <fuse_lowlevel.h>\n',
    "src/main.c": '#include "node.h"\n\nint main(void)\n{\n}\n',
    "src/tierctl.c": '#include "util.h"\n',
}


class CheckIncludes(unittest.TestCase):
    def check(self, **changes):
        """Exit status and output for the good tree with changes."""
        with tempfile.TemporaryDirectory() as root:
            for name, text in {**GOOD, **changes.get("files", {})}.items():
                path = Path(root, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            run = subprocess.run([sys.executable, TOOL, root],
                                 capture_output=True, text=True, check=False)
            return run.returncode, run.stdout + run.stderr

    def refused(self, name, text, *words):
        status, output = self.check(files={name: text})
        self.assertEqual(status, 1, output)
        self.assertEqual(len(output.splitlines()), 1, output)
        for word in (name, *words):
            self.assertIn(word, output)

    def test_good(self):
        self.assertEqual(self.check(), (0, ""))

    def test_upwards(self):
        self.refused("src/journal.c", '#include "node.h"\n', "above", ":1:")

    def test_upwards_from_include(self):
        self.refused("include/tierfs/format.h", '#include "node.h"\n',
                     "above")

    def test_owner(self):
        self.refused("src/node.c", "#include <sqlite3.h>\n", "journal")
        self.refused("src/main.c", "#include <fuse_lowlevel.h>\n", "fs")
        self.refused("src/target_dir.c", "#  include <liburing.h>\n", "ring")

    def test_unknown_module(self):
        self.refused("src/thing.c", "", "table")

    def test_program(self):
        self.refused("src/tierctl.c", '#include "node.h"\n', "tierctl")

    def test_circle(self):
        status, output = self.check(files={
            "src/front.h": '#include "log.h"\n',
            "src/log.h": '#include "front.h"\n'})
        self.assertEqual(status, 1)
        self.assertIn("circle", output)

    def test_long_file(self):
        self.refused("src/node.c", "\n" * 601, "601 lines")

    def test_long_function(self):
        self.refused("src/node.c", "int f(void)\n{\n" + "\tf();\n" * 80 + "}\n",
                     "82 lines", ":2:")

    def test_no_sources(self):
        with tempfile.TemporaryDirectory() as root:
            run = subprocess.run([sys.executable, TOOL, root], check=False,
                                 capture_output=True)
            self.assertEqual(run.returncode, 1)


if __name__ == "__main__":
    unittest.main()
