"""A line of a terminal that counts the users scored."""

from __future__ import annotations

import sys
import time

from llmcdsr_lite.score.settings import ScoreSummary


class Counter:
    """Counts on standard error if that is a terminal, and keeps messages off the line that it counts on."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr is not None and sys.stderr.isatty()
        self._is_open = False
        self._first: tuple[int, float] | None = None

    def show(self, done: ScoreSummary) -> None:
        """Count; the rate is of the batches since the first one, not of what an earlier job did."""
        if self._first is None:
            self._first = done.users, time.perf_counter()
        users, start = self._first
        seconds = time.perf_counter() - start
        rate = f", {(done.users - users) / seconds:,.0f} a second" if done.users > users and seconds else ""
        self._write(f"\r{done.users:,} users{rate} ")
        self._is_open = True

    def tell(self, message: str) -> None:
        """A message on a line of its own."""
        self.end()
        self._write(f"{message}\n")

    def end(self) -> None:
        """End the line that counts, if there is one."""
        if self._is_open:
            self._write("\n")
        self._is_open = False

    def _write(self, text: str) -> None:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()
