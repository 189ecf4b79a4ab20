"""Reading history files and writing ranked recommendations, one record at a time.

Histories come as JSON Lines, ``{"user": "u1", "history": ["a", "b"], "domain": "kitchenware"}`` (domain
is optional), or as CSV with the columns user, history and, optionally, domain, where the history is item
ids with a separator between them. Either may be gzip-compressed (``.gz``).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from llmcdsr_lite.errors import DataError

FileFormat = Literal["jsonl", "csv"]
STREAM = Path("-")  # standard input or output
MAX_LINE = 1 << 24  # characters


@dataclass(frozen=True)
class HistoryRecord:
    """One user of a history file; `line` counts from 1."""

    line: int
    user: str
    history: list[str]
    domain: str | None = None


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used, and why."""

    line: int
    reason: str


def file_format(path: Path, default: FileFormat = "jsonl") -> FileFormat:
    """Format that a file name tells (``.csv`` or ``.csv.gz``: CSV; all else: `default`)."""
    suffixes = path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]
    if ".csv" in suffixes:
        return "csv"
    return "jsonl" if ".jsonl" in suffixes else default


def read_histories(
    path: Path, format: FileFormat | None = None, separator: str = " "
) -> Iterator[HistoryRecord | BadRecord]:
    """Read a history file, record after record.

    Parameters
    ----------
    path : Path
        ``-`` is standard input.
    format : {"jsonl", "csv"}, optional
        Told by the file name where not given.
    separator : str
        Between the item ids of a CSV history.

    Yields
    ------
    HistoryRecord or BadRecord
        In file order. Blank lines are passed over.

    Raises
    ------
    DataError
        If the file cannot be read, is not gzip though it is named so, or a CSV has no usable header or a
        line of more than `MAX_LINE` characters.
    """
    with _open_binary(path) as file:
        # Bytes that are not UTF-8 become lone surrogates: each record can then be refused by its number.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        try:
            if (format or file_format(path)) == "csv":
                yield from _read_csv(path, text, separator)
            else:
                yield from _read_jsonl(text)
        except (EOFError, OSError, zlib.error) as error:  # of gzip: cut off, or not gzip at all
            raise DataError(f"{path}: cannot be read to its end: {error}") from None
        finally:
            text.detach()


@contextmanager
def _open_binary(path: Path) -> Iterator[IO[bytes]]:
    if path == STREAM:
        yield sys.stdin.buffer
        return
    try:
        with path.open("rb") as file:
            yield gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file  # type: ignore[misc]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_jsonl(lines: IO[str]) -> Iterator[HistoryRecord | BadRecord]:
    for number, line in enumerate(_lines(lines), 1):
        if line is None:
            yield BadRecord(number, f"longer than {MAX_LINE:,} characters")
            continue
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadRecord(number, f"not valid JSON: {error}")
            continue
        yield _json_record(number, value)


def _lines(text: IO[str]) -> Iterator[str | None]:
    """Lines; None for one so long that it would fill the memory, as a small gzip file can hold."""
    while line := text.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line
            continue
        while line and not line.endswith(("\n", "\r")):
            line = text.readline(MAX_LINE)
        yield None


def _csv_lines(path: Path, text: IO[str]) -> Iterator[str]:
    for number, line in enumerate(_lines(text), 1):
        if line is None:
            raise DataError(f"{path}:{number}: longer than {MAX_LINE:,} characters")
        yield line


def _json_record(number: int, value: Any) -> HistoryRecord | BadRecord:
    if not isinstance(value, dict):
        return BadRecord(number, f"expected a JSON object, found {type(value).__name__}")
    return checked_record(number, value.get("user"), value.get("history"), value.get("domain"))


def checked_record(number: int, user: Any, history: Any, domain: Any) -> HistoryRecord | BadRecord:
    """Make a record of values of any type.

    Parameters
    ----------
    number : int
        Line, or row, of the record.
    user : str or int
    history : list of str
    domain : str or None

    Returns
    -------
    HistoryRecord or BadRecord
        A bad one if a value is not what it must be.
    """
    if not isinstance(user, str | int) or isinstance(user, bool):
        return BadRecord(number, f"field 'user' must be a string or a number, found {user!r:.60}")
    if not isinstance(history, list) or not all(isinstance(item, str) for item in history):
        return BadRecord(number, f"field 'history' must be a list of item ids, found {history!r:.60}")
    if domain is not None and not isinstance(domain, str):
        return BadRecord(number, f"field 'domain' must be a string, found {domain!r:.60}")
    return _checked(HistoryRecord(number, str(user), history, domain))


def _read_csv(path: Path, lines: IO[str], separator: str) -> Iterator[HistoryRecord | BadRecord]:
    reader = csv.reader(_csv_lines(path, lines), strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise DataError(f"{path}:1: the header is not CSV: {error}") from None
    if header is None:
        return
    if "user" not in header or "history" not in header:
        raise DataError(f"{path}:1: the header is {header}, expected the columns user and history")
    user, history = header.index("user"), header.index("history")
    domain = header.index("domain") if "domain" in header else None
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRecord(number, f"not CSV: {error}")
            continue
        if not fields:
            continue
        if len(fields) != len(header):
            yield BadRecord(number, f"{len(fields)} fields, expected {len(header)}")
            continue
        items = [item for item in fields[history].split(separator) if item]
        wanted = fields[domain] or None if domain is not None else None
        yield _checked(HistoryRecord(number, fields[user], items, wanted))


def _checked(record: HistoryRecord) -> HistoryRecord | BadRecord:
    """Refuse text that is not UTF-8: it would break the output."""
    try:
        "".join((record.user, *record.history, record.domain or "")).encode()
    except UnicodeEncodeError:
        return BadRecord(record.line, "not valid UTF-8")
    return record
