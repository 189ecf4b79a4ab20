"""Reading history files, one record at a time.

Histories come as JSON Lines, ``{"user": "u1", "history": ["a", "b"], "domain": "kitchenware"}`` (domain
is optional), or as CSV with the columns user, history and, optionally, domain, where the history is item
ids with a separator between them. Either may be gzip-compressed: what the file begins with tells. Parquet and
Arrow files have the same columns, and a list of item ids for a history. Whole numbers stand for their text.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeGuard, get_args

from llmcdsr_lite.columnar import ColumnarFormat, read_rows
from llmcdsr_lite.errors import DataError, UsageError

FileFormat = Literal["jsonl", "csv", "parquet", "arrow"]
STREAM = Path("-")  # standard input or output
MAX_LINE = 1 << 24  # characters of a record
_COLUMNS = ("user", "history", "domain")
_GZIP_MAGIC = b"\x1f\x8b"
_FORMATS: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}


@dataclass(frozen=True)
class HistoryRecord:
    """One user of a history file; `line` counts from 1, or is a row, from 0, of a Parquet or Arrow file."""

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
    """Format that a file name tells by its suffix, before ``.gz`` if that is there; else `default`."""
    return _FORMATS.get(Path(path.name.lower().removesuffix(".gz")).suffix, default)


def is_columnar(format: FileFormat) -> TypeGuard[ColumnarFormat]:
    """True for a binary format of columns."""
    return format in get_args(ColumnarFormat)


def check_columnar(path: Path, format: FileFormat) -> None:
    """Refuse a stream, or gzip, where the format is one of columns.

    Raises
    ------
    UsageError
    """
    if not is_columnar(format):
        return
    if path == STREAM:
        raise UsageError(f"-: the format {format!r} needs a file, not standard input or output")
    if named_gzip(path):
        raise UsageError(f"{path}: the format {format!r} is not compressed again; name a file without .gz")


def located(path: Path, format: FileFormat | None, record: BadRecord) -> str:
    """Message of a bad record: its file, its line or row, and why."""
    where = f" row {record.line}" if is_columnar(format or file_format(path)) else record.line
    return f"{path}:{where}: {record.reason}"


def named_gzip(path: Path) -> bool:
    """True if a file is gzip by its name."""
    return path.suffix.lower() == ".gz"


def read_histories(
    path: Path, format: FileFormat | None = None, separator: str = " "
) -> Generator[HistoryRecord | BadRecord, None, None]:
    """Read a history file, record after record; close the generator if it is not read to its end.

    Parameters
    ----------
    path : Path
        ``-`` is standard input.
    format : {"jsonl", "csv", "parquet", "arrow"}, optional
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
        If the file cannot be read, is not gzip though it is named so, or has no usable header or columns.
    UsageError
        If a Parquet or Arrow file is to come from standard input, or named gzip.
    MissingDependencyError
        If it needs pyarrow, which is not installed.
    """
    format = format or file_format(path)
    check_columnar(path, format)
    if is_columnar(format):
        for row, values in enumerate(read_rows(path, format, _COLUMNS[:2], _COLUMNS[2:])):
            yield checked_record(row, *values)
        return
    with open_binary(path) as file:
        # Bytes that are not UTF-8 become lone surrogates: each record can then be refused by its number.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        try:
            if format == "csv":
                yield from _read_csv(path, text, separator)
            else:
                yield from _read_jsonl(text)
        except (EOFError, OSError, zlib.error) as error:  # of gzip: cut off, or not gzip at all
            raise DataError(f"{path}: cannot be read to its end: {error}") from None
        finally:
            text.detach()


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, or standard input for ``-``, and unpack it where it is gzip.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    if path == STREAM and sys.stdin is None:
        raise DataError("-: cannot be read: standard input is closed")
    try:
        if path == STREAM:
            yield _unpacked(sys.stdin.buffer)
            return
        with path.open("rb") as file:
            yield gzip.GzipFile(fileobj=file) if named_gzip(path) else _unpacked(file)  # type: ignore[misc]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    """The file, or what is in it where it is gzip."""
    peek = getattr(file, "peek", None)  # what stands in for standard input may have none
    is_gzip = peek is not None and peek(2)[:2] == _GZIP_MAGIC
    return gzip.GzipFile(fileobj=file) if is_gzip else file  # type: ignore[return-value]


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
    history : list of str or int
    domain : str or None

    Returns
    -------
    HistoryRecord or BadRecord
        A bad one if a value is not what it must be.
    """
    if not _is_id(user):
        return BadRecord(number, f"field 'user' must be a string or a number, found {user!r:.60}")
    if not isinstance(history, list) or not (set(map(type, history)) <= {str} or all(map(_is_id, history))):
        return BadRecord(number, f"field 'history' must be a list of item ids, found {history!r:.60}")
    if domain is not None and not isinstance(domain, str):
        return BadRecord(number, f"field 'domain' must be a string, found {domain!r:.60}")
    return _checked(HistoryRecord(number, str(user), list(map(str, history)), domain))


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _read_csv(path: Path, text: IO[str], separator: str) -> Iterator[HistoryRecord | BadRecord]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))  # of the process; `_CsvLines` has our own
    lines = _CsvLines(text)
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise DataError(f"{path}:1: the header is not CSV: {error}") from None
    if header is None:
        return
    places = _places(path, header)
    while True:
        number = lines.next_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = lines.read_again()
            quote = f", with a quote that is open up to line {end}" if end > number else ""
            yield BadRecord(number, f"not CSV: {error}{quote}")
            continue
        if not fields:
            continue
        if len(fields) != len(header):
            yield BadRecord(number, f"{len(fields)} fields, expected {len(header)}")
            continue
        user, history, domain = (fields[place] if place is not None else "" for place in places)
        items = [item for item in history.split(separator) if item]
        yield _checked(HistoryRecord(number, user, items, domain or None))


def _places(path: Path, header: list[str]) -> list[int | None]:
    """Where `_COLUMNS` are; a name that is nearly one of them must not be passed over."""
    known = [name for name in header if name.strip().lower() in _COLUMNS]
    if not {"user", "history"} <= set(known) <= set(_COLUMNS) or len(known) > len(set(known)):
        expected = "the columns user and history and, optionally, domain, each once and in small letters"
        raise DataError(f"{path}:1: the header is {header}, expected {expected}")
    return [header.index(name) if name in header else None for name in _COLUMNS]


class _CsvLines:
    """Lines for csv.reader, which can have them again.

    A quote that is never closed takes all that follows for its field, though those are records of their own.
    """

    def __init__(self, text: IO[str]) -> None:
        self._lines = _lines(text)
        self._again: deque[str | None] = deque()
        self._record: list[str | None] = []
        self._n_characters = 0
        self._number = 1  # of the first line of the record

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._record.append(line)
        self._n_characters += len(line or "")
        if line is None or self._n_characters > MAX_LINE:
            raise csv.Error(f"longer than {MAX_LINE:,} characters")
        return line

    def next_record(self) -> int:
        """Number of the line that the next record begins with."""
        self._number += len(self._record)
        self._record.clear()
        self._n_characters = 0
        return self._number

    def read_again(self) -> int:
        """Let the lines after the record's first one be read again; number of the last of them."""
        end = self._number + len(self._record) - 1
        self._again.extendleft(reversed(self._record[1:]))
        del self._record[1:]
        return end


def _checked(record: HistoryRecord) -> HistoryRecord | BadRecord:
    """Refuse text that is not UTF-8: it would break the output."""
    try:
        "".join((record.user, *record.history, record.domain or "")).encode()
    except UnicodeEncodeError:
        return BadRecord(record.line, "not valid UTF-8")
    return record
