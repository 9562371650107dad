# SPDX-License-Identifier: MIT
"""tierctl top on a terminal: a pseudo one, whose screen is kept as xterm does."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading

import pytest

from files import put
from rig import binary, wait_for

ENTER, LEAVE = "\033[?1049h", "\033[?1049l"


class Screen:
    """tierctl top in a terminal."""

    def __init__(self, mnt, rows, cols):
        self.master, slave = pty.openpty()
        self.rows, self.cols, self.text = rows, cols, ""
        self.resize(rows, cols)
        self.before = termios.tcgetattr(slave)
        self.tool = subprocess.Popen(
            [binary("tierctl"), "--mount", mnt, "top"], stdin=slave,
            stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.slave = slave
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            while part := os.read(self.master, 65536):
                self.text += part.decode()
        except OSError:
            pass

    def resize(self, rows, cols):
        self.rows, self.cols = rows, cols
        fcntl.ioctl(self.master, termios.TIOCSWINSZ,
                    struct.pack("HHHH", rows, cols, 0, 0))

    def key(self, text):
        os.write(self.master, text.encode())

    def frames(self):
        """How often it was drawn."""
        return self.text.count("\033[H")

    def screen(self):
        """The lines, as they are to be seen after all that was written. What
        is wider than the screen, or scrolls it, is an error here."""
        lines, y, x, last = [""] * self.rows, 0, 0, False
        text = self.text[self.text.rfind("\033[H"):].split(LEAVE)[0]
        for seq, char in re.findall(r"\033\[([?0-9]*[A-Za-z])|(.)", text,
                                    re.DOTALL):
            if seq == "H":
                y = x = 0
            elif seq == "K":
                # With the last column full that takes its character away.
                lines[y] = lines[y][:x - last]
            elif seq == "J":
                lines[y] = lines[y][:x - last]
                lines[y + 1:] = [""] * (self.rows - y - 1)
            elif char == "\r":
                x, last = 0, False
            elif char == "\n":
                y += 1
                assert y < self.rows, "it scrolls"
            elif char:
                assert not last, f"wider than {self.cols}: {lines[y]}"
                lines[y] = lines[y][:x].ljust(x) + char + lines[y][x + 1:]
                x += 1
                last = x == self.cols
        return lines

    def drawn_anew(self):
        n = self.frames()
        wait_for(lambda: self.frames() >= n + 2, 20)

    def ended(self):
        """Its status; the terminal is as it was."""
        status = self.tool.wait(20)
        wait_for(lambda: LEAVE in self.text, 10)
        assert termios.tcgetattr(self.slave) == self.before
        assert self.text.index("\033[?25h") > self.text.rindex("\033[?25l")
        return status

    def close(self):
        if self.tool.poll() is None:
            self.tool.kill()
            self.tool.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture(name="top")
def a_screen(one):
    one.mount("policy=manual")
    for i in range(5):
        put(one.mnt / f"f{i}", 5000)
    screen = Screen(one.mnt, 24, 80)
    wait_for(lambda: screen.frames() or screen.tool.poll() is not None)
    yield screen
    screen.close()


def test_a_screen(one, top):
    """All of it is there, nothing is echoed, other keys do no harm; q ends it."""
    top.drawn_anew()
    text = "\n".join(top.screen())
    assert str(one.mnt) in text and "policy manual" in text
    assert "high 90%" in text and "5 resident" in text
    n = top.frames()
    top.key("xyz\033[A\032")  # an arrow, Ctrl-Z
    top.drawn_anew()
    assert top.frames() <= n + 4
    assert "xyz" not in top.text
    top.key("q")
    assert top.ended() == 0


def test_any_size(top):
    """Each line is cut to the width, whole to its last column, and there are
    no more than fit; a change of the size is drawn at once."""
    wide = top.screen()
    for rows, cols in ((24, 20), (3, 132), (1, 1)):
        n = top.frames()
        top.resize(rows, cols)
        wait_for(lambda: top.frames() >= n + 2, 20)
        lines = top.screen()
        assert len(lines) == rows
        assert lines[0] == wide[0][:cols]
        assert any(len(line) == cols for line in lines) or cols > 80
    top.resize(24, 80)
    top.drawn_anew()
    assert [len(x) > 0 for x in top.screen()] == [len(x) > 0 for x in wide]
    top.key("Q")
    assert top.ended() == 0


def test_ctrl_c(top):
    top.key("\003")
    assert top.ended() == 0


def test_hangup_and_end(one, top):
    """SIGTERM ends it as well; and when the daemon goes, what is said of it is
    on the screen that stays."""
    top.tool.send_signal(signal.SIGTERM)
    assert top.ended() == 0
    other = Screen(one.mnt, 24, 80)
    try:
        wait_for(other.frames)
        one.umount()
        assert other.ended() == 3
        assert "tierctl: " in other.text[other.text.rindex(LEAVE):]
    finally:
        other.close()
