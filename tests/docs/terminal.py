"""A terminal of a fixed size without a screen: runs a command in it and knows what a person would see.

It knows the few control sequences that rich writes: enough for records and tests, not for an editor.
"""

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_SEQUENCE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|\x1b[=>\]][^\x07]*?\x07?|.", re.DOTALL)


@dataclass
class Screen:
    """Lines of text and a cursor; the other screen, of full-screen programs, is kept apart."""

    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    other: list[str] = field(default_factory=list)
    """What was last on the full screen."""
    is_other: bool = False
    cursor_is_hidden: bool = False
    _kept: tuple[list[str], int, int] = ([], 0, 0)

    def write(self, text: str) -> None:
        for found in _SEQUENCE.finditer(text):
            private, numbers, letter = found.group(1), found.group(2), found.group(3)
            if letter is None:
                self._put(found.group())
            elif private:
                self._switch(numbers, on=letter == "h")
            else:
                self._move(letter, [int(number or 0) for number in numbers.split(";")])

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip() + "\n"

    @property
    def main(self) -> list[str]:
        """The lines of the usual screen, also while the full one is shown."""
        return self._kept[0] if self.is_other else self.lines

    def _put(self, letter: str) -> None:
        if letter == "\n":
            self.row, self.column = self.row + 1, 0
        elif letter == "\r":
            self.column = 0
        elif letter >= " ":
            while len(self.lines) <= self.row:
                self.lines.append("")
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
            self.column += 1

    def _move(self, letter: str, numbers: Sequence[int]) -> None:
        first = numbers[0]
        if letter == "A":
            self.row = max(0, self.row - max(1, first))
        elif letter == "H":
            self.row, self.column = max(0, first - 1), 0
        elif letter == "K" and self.row < len(self.lines):
            self.lines[self.row] = "" if first == 2 else self.lines[self.row][: self.column]
        elif letter == "J":
            self.lines = [""]

    def _switch(self, which: str, *, on: bool) -> None:
        if which == "25":
            self.cursor_is_hidden = not on
        elif which == "1049" and on != self.is_other:
            self.is_other = on
            if on:
                self._kept = (self.lines, self.row, self.column)
                self.lines, self.row, self.column = [""], 0, 0
            else:
                self.other = self.lines
                self.lines, self.row, self.column = self._kept


class Terminal:
    """A command in a terminal of its own."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int,
        rows: int,
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self.screen = Screen()
        self._master, slave = pty.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env={**os.environ, "TERM": "xterm-256color", **env},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - Ctrl-C is the terminal's
        )
        os.close(slave)
        self._half = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def resize(self, columns: int, rows: int) -> None:
        """As a person who drags the window's corner."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def until(self, words: str, within_s: float) -> None:
        """Read until the words can be seen."""
        deadline = time.monotonic() + within_s
        while words not in self.screen.text():
            assert time.monotonic() < deadline, f"no '{words}' in {within_s} s but:\n{self.screen.text()}"
            assert self._read(0.2) or self.process.poll() is None, f"ended:\n{self.screen.text()}"

    def until_not(self, words: str, within_s: float) -> None:
        """Read until the words can no longer be seen."""
        deadline = time.monotonic() + within_s
        while words in self.screen.text():
            assert time.monotonic() < deadline, f"'{words}' still after {within_s} s:\n{self.screen.text()}"
            assert self._read(0.2) or self.process.poll() is None, f"ended:\n{self.screen.text()}"

    def ends(self, within_s: float) -> int:
        """Read until the command has ended and return its exit code."""
        deadline = time.monotonic() + within_s
        while self._read(0.2) or self.process.poll() is None:
            assert time.monotonic() < deadline, f"not ended in {within_s} s:\n{self.screen.text()}"
        return self.process.wait()

    def close(self) -> None:
        """End what still runs in it."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._master)

    def _read(self, within_s: float) -> bool:
        """Take in what was written; False when nothing came."""
        if not select.select([self._master], [], [], within_s)[0]:
            return False
        try:
            came = os.read(self._master, 65536)
        except OSError:  # nobody holds the other end any more
            return False
        if not came:
            return False
        complete = self._half + self._decode(came)
        # half a control sequence waits for its end
        cut = complete.rfind("\x1b")
        if cut >= 0 and not re.match(r"\x1b\[\??[\d;]*[A-Za-z]|\x1b[^\[]", complete[cut:]):
            complete, self._half = complete[:cut], complete[cut:]
        else:
            self._half = ""
        self.screen.write(complete)
        return True
