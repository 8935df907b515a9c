"""Telling a person what is going on: steps with their times, and a bar where something is long.

On a terminal the bar redraws itself on one line; elsewhere (a file, a service's journal) a line is printed at
each quarter. Written to standard error, so that standard output holds results alone. Nothing ends because nobody reads
it: a terminal that was closed, or a full disk, is passed over.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import TextIO

WIDTH = 24
REDRAW_SECONDS = 0.1


def _put(stream: TextIO, text: str) -> None:
    with contextlib.suppress(OSError):
        stream.write(text)
        stream.flush()


class Progress:
    """Prints steps and bars to one stream."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self.terminal = self._stream.isatty()
        """Whether a person sees this as it is written."""

    def say(self, line: str) -> None:
        """One line."""
        _put(self._stream, f"{line}\n")

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say what begins, and, unless it fails, how long it took."""
        self.say(f"  {what} ...")
        began = time.monotonic()
        yield
        self.say(f"  {what}: done in {time.monotonic() - began:.1f} s")

    @contextlib.contextmanager
    def bar(self, what: str, total: int) -> Iterator[Bar]:
        """A bar over `total` pieces; it is cleared away at the end."""
        bar = Bar(self._stream, self.terminal, what, total)
        try:
            yield bar
        finally:
            bar.clear()


class Bar:
    """How much of something is done. Made by Progress.bar."""

    def __init__(self, stream: TextIO, terminal: bool, what: str, total: int):
        self._stream, self._terminal, self._what, self._total = stream, terminal, what, max(1, total)
        self._done = 0
        self._drawn = 0.0
        self._quarter = 0

    def advance(self, pieces: int = 1, note: str = "") -> None:
        """So many more pieces are done; `note` says what comes now."""
        self._done = min(self._total, self._done + pieces)
        if self._terminal:
            if time.monotonic() - self._drawn >= REDRAW_SECONDS or self._done == self._total:
                self._draw(note)
        elif (quarter := 4 * self._done // self._total) > self._quarter:
            self._quarter = quarter
            _put(self._stream, f"  {self._what}: {25 * quarter} %\n")

    def _draw(self, note: str) -> None:
        filled = WIDTH * self._done // self._total
        line = f"  {self._what} [{'#' * filled}{'.' * (WIDTH - filled)}] {100 * self._done // self._total:3} %  {note}"
        _put(self._stream, f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
        self._drawn = time.monotonic()

    def clear(self) -> None:
        """Remove the bar from the terminal."""
        if self._terminal:
            _put(self._stream, "\r\x1b[K")
