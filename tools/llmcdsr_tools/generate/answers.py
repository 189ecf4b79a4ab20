"""The answers of a language model on disk: appended one by one, so that only those in flight are ever lost.

JSON Lines. The first line tells what decides the answers, each other line is one answer as it came::

    {"format": "llmcdsr-answers", "format_version": 1, "run": {"model": "...", ...}}
    {"user": "u1", "domain": "kitchen", "answer": "1. ...", "output_format": "list", "cut_off": false,
     "tokens_in": 700, "tokens_out": 160, "seconds": 4.2}

Every line is on disk before the next is written. A last line without an end is of a process that was
killed: it is cut off, and its user is asked again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from llmcdsr_lite.errors import DataError, GenerationError

FORMAT = "llmcdsr-answers"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Answer:
    """What the model wrote for a user.

    Parameters
    ----------
    user : str
    domain : str
        Name of the domain that names were asked of.
    answer : str
        As it came.
    output_format : str
        ``json`` or ``list``: what was asked for.
    cut_off : bool
        Whether it ended because it became too long.
    tokens_in, tokens_out : int or None
        As the server counts them.
    seconds : float
        Of the request that was answered.
    """

    user: str
    domain: str
    answer: str
    output_format: str
    cut_off: bool
    tokens_in: int | None
    tokens_out: int | None
    seconds: float


@dataclass
class AnswersFile:
    """An open answers file: what is in it, and `append`."""

    path: Path
    answers: dict[tuple[str, str], Answer]  # by user and domain
    _file: IO[bytes]

    def append(self, answer: Answer) -> None:
        """Add an answer; it is on disk when this returns."""
        self.answers[answer.user, answer.domain] = answer
        _write_line(self._file, asdict(answer))


@contextmanager
def open_answers(path: Path, run: dict[str, Any]) -> Iterator[AnswersFile]:
    """Open an answers file to go on with it, or start one.

    Parameters
    ----------
    path : Path
    run : dict
        JSON-able: all that decides the answers. A file of another run is refused.

    Raises
    ------
    DataError
        If the file is damaged before its last line.
    GenerationError
        If it is of another run, or another process writes to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _lock(file, path)
        whole = _cut_torn_line(file)
        if whole:
            before, answers = _read(path, file)
            _check_same(path, before, run)
        else:
            answers = {}
            _write_line(file, {"format": FORMAT, "format_version": FORMAT_VERSION, "run": run})
        yield AnswersFile(path, answers, file)


def _lock(file: IO[bytes], path: Path) -> None:
    """Keep a second process from the file; the lock goes when its holder does, however that ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise GenerationError(f"{path}: another process is writing to it") from None


def _cut_torn_line(file: IO[bytes]) -> int:
    """Drop what follows the last line end; the number of bytes left."""
    size = file.seek(0, os.SEEK_END)
    place = size
    while place > 0:
        start = max(0, place - 65536)
        file.seek(start)
        found = file.read(place - start).rfind(b"\n")
        if found >= 0:
            place = start + found + 1
            break
        place = start
    if place != size:
        file.truncate(place)
    return place


def _read(path: Path, file: IO[bytes]) -> tuple[dict[str, Any], dict[tuple[str, str], Answer]]:
    file.seek(0)
    header: dict[str, Any] = {}
    answers: dict[tuple[str, str], Answer] = {}
    for number, line in enumerate(file, 1):
        try:
            value = json.loads(line)
            if number == 1:
                header = _header(value)
                continue
            answer = Answer(**value)
            if not all(isinstance(getattr(answer, name), str) for name in ("user", "domain", "answer")):
                raise TypeError("user, domain and answer must be strings")
        except (ValueError, TypeError, RecursionError) as error:
            known = ", ".join(field.name for field in fields(Answer))
            what = f"the line that begins a {FORMAT} file" if number == 1 else f"an answer with {known}"
            raise DataError(f"{path}:{number}: expected {what}: {error}") from None
        answers[answer.user, answer.domain] = answer
    return header, answers


def _header(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("run"), dict):
        raise ValueError("it is something else")
    version = value.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"format_version is {version!r}, this version reads {FORMAT_VERSION}")
    run: dict[str, Any] = value["run"]
    return run


def _check_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    now = json.loads(json.dumps(now))
    changed = [
        f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise GenerationError(
            f"{path}: holds answers of another run: {'; '.join(changed)}; choose another output, or remove it"
        )


def _write_line(file: IO[bytes], value: dict[str, Any]) -> None:
    file.write(json.dumps(value).encode() + b"\n")  # ASCII: half a character in an answer is kept as it is
    file.flush()
    os.fsync(file.fileno())
