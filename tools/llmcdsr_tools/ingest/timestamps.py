"""Timestamps of an interactions file, kept so that they order the interactions as the file means it.

A file has numbers or dates, never both: in which unit its numbers count is not known, so nothing says how
they stand to dates. Whole numbers are exact up to 64 bits, nanoseconds since 1970 included. Fractions and
dates are kept as float64, which tells microseconds of our time apart.
"""

from __future__ import annotations

from array import array
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_TIME = 1e300  # nothing real comes near; comparing with it refuses NaN and the infinities at once
MAX_EXACT = 1 << 53  # whole numbers up to here are exact in float64


class Timestamps:
    """The timestamps of one file, taken in one by one."""

    def __init__(self) -> None:
        self._times: array[Any] = array("q")  # int64; float64 from the first fraction or date on
        self._kind = ""
        self._first = 0  # line of the first timestamp
        self._fraction = 0  # line of the first that is not a whole number
        self._large = 0  # line of the first whole number beyond MAX_EXACT

    def __len__(self) -> int:
        return len(self._times)

    def append(self, text: str, line: int) -> None:
        """Take in what stands on a line of the file.

        Raises
        ------
        ValueError
            If it is no timestamp, not of the kind of those before, or they cannot be kept exactly together.
        """
        time: int | float | None = parse_number(text)
        kind = "date" if time is None else "number"
        if time is None:
            time = parse_date(text)
        if kind != self._kind:
            if self._kind:
                raise ValueError(
                    f"timestamp {text!r:.60} is a {kind}, but that of line {self._first} is a {self._kind}; "
                    "a file must have numbers alone or dates alone"
                )
            self._kind, self._first = kind, line
        if isinstance(time, float):
            if not self._fraction:
                self._fraction = line
                self._times = array("d", self._times)
        elif not self._large and not -MAX_EXACT <= time <= MAX_EXACT:
            self._large = line
        if self._large and self._fraction:
            raise ValueError(
                f"timestamps: line {self._large} has a whole number beyond 2**53 and line {self._fraction} "
                "one with a fraction or exponent, which cannot be kept exactly together; "
                "use whole numbers alone"
            )
        self._times.append(time)

    def array(self) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
        """All of them, in order; shares the memory of what was taken in."""
        if self._fraction:
            return np.frombuffer(self._times, dtype=np.float64)
        return np.frombuffer(self._times, dtype=np.int64)


def parse_number(text: str) -> int | float | None:
    """Number that a text stands for, in whatever unit; None if it is none.

    Eight digits such as ``20240131`` are a number, too, not a date.

    Raises
    ------
    ValueError
        If it is not finite, or a whole number beyond 64 bits.
    """
    if "_" in text:  # Python's own way to group digits, in no file format
        return None
    try:
        whole = int(text)
    except ValueError:
        return _parse_fraction(text)
    if not -(1 << 63) <= whole < 1 << 63:
        raise ValueError(f"timestamp {text!r:.60} is beyond 64 bits")
    return whole


def _parse_fraction(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if not -MAX_TIME < number < MAX_TIME:
        raise ValueError(f"timestamp {text!r:.60} is not finite")
    return number


def parse_date(text: str) -> float:
    """Seconds since 1970 that an ISO 8601 date or time stands for, in UTC where it names no zone.

    Raises
    ------
    ValueError
        If it is none.
    """
    try:
        date = datetime.fromisoformat(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"timestamp {text!r:.60} is neither a number nor an ISO 8601 date") from None
