"""Records of a CSV, TSV or JSON Lines file, plain or gzip, one at a time, with the line each starts on.

The file's name tells the format: ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson``, and ``.gz`` after it
for gzip. CSV and TSV start with a header line. CSV is quoted as RFC 4180 has it; TSV has no quoting,
so a ``"`` in a title is just that. In JSON Lines a number stands for its text as it is written, and
``null`` for an empty cell. Text is UTF-8, with or without a byte order mark; lines end in LF or CRLF;
blank lines are passed over. Nothing is held in memory but the record at hand.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NoReturn

from llmcdsr_lite.errors import DataError

ABSENT = "\0"
"""Stands for the cells of an optional column that is not there. No real cell can be it: NUL is refused."""

MAX_LINE = 1 << 20
"""Longest line in characters: a file without line ends must not fill the memory."""

Format = Literal["csv", "tsv", "json"]
FORMATS: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "json", ".ndjson": "json"}
GZIP_MAGIC = b"\x1f\x8b"


def read_records(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> Generator[tuple[int, Sequence[str]], None, None]:
    """Read the wanted columns of a file, record by record.

    Parameters
    ----------
    path : Path
        The file; its name tells the format.
    required : sequence of str
        Names of the columns (of the fields, in JSON Lines) that must be there, at least two.
    optional : sequence of str
        Names of columns that may be missing; `ABSENT` takes their place.

    Yields
    ------
    line : int
        Line that the record starts on, counted from 1.
    values : sequence of str
        The cells, `required` first, in the order asked for.

    Raises
    ------
    DataError
        If the file is not as described above; the message names it and the line.
    """
    kind = file_format(path)
    with _open_text(path) as stream:
        lines = _checked_lines(path, stream)
        if kind == "json":
            yield from _json_records(path, lines, required, optional)
        else:
            yield from _delimited_records(path, lines, kind, required, optional)


def file_format(path: Path) -> Format:
    """Format that a file's name stands for.

    Raises
    ------
    DataError
        If its suffix is none of those known.
    """
    name = path.name.lower().removesuffix(".gz")
    for suffix, kind in FORMATS.items():
        if name.endswith(suffix):
            return kind
    raise DataError(
        f"{path}: the format is told by the name, which must end in {', '.join(FORMATS)} "
        "or one of these and .gz"
    )


@contextmanager
def _open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open as text, unpacking gzip; bytes that are not UTF-8 become surrogates, found line by line later."""
    named_gzip = path.name.lower().endswith(".gz")
    try:
        raw = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    with raw:
        magic = raw.peek(2)[:2]
        if not magic:
            raise DataError(f"{path}: the file is empty")
        if named_gzip and magic != GZIP_MAGIC:
            raise DataError(
                f"{path}: named .gz but does not hold gzip data; unpack it or take .gz off the name"
            )
        if not named_gzip and magic == GZIP_MAGIC:
            raise DataError(f"{path}: holds gzip data; its name must end in .gz")
        buffer = io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 18) if named_gzip else raw
        # newline="" leaves line ends as they are, which quoted CSV cells may hold
        with io.TextIOWrapper(buffer, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            yield stream


def _checked_lines(path: Path, stream: io.TextIOWrapper) -> Iterator[str]:
    """Lines with their ends; refuses what no text file should hold, and names the line."""
    number = 0
    try:
        for line in iter(partial(stream.readline, MAX_LINE), ""):
            number += 1
            if len(line) == MAX_LINE:
                raise DataError(f"{path}:{number}: the line is longer than {MAX_LINE:,} characters")
            if "\0" in line:
                raise DataError(f"{path}:{number}: holds a NUL byte; is this a text file?")
            if not line.isascii() and not is_utf8(line):
                raise DataError(f"{path}:{number}: not UTF-8 text; convert the file to UTF-8")
            yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}:{number + 1}: the gzip data is damaged or cut short here ({error})"
        ) from None
    except OSError as error:
        raise DataError(f"{path}:{number + 1}: cannot be read: {error.strerror}") from None


def is_utf8(text: str) -> bool:
    """Whether a string can be written as UTF-8: it holds no lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _delimited_records(
    path: Path, lines: Iterator[str], kind: Format, required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, Sequence[str]]]:
    if kind == "csv":
        reader = csv.reader(lines, strict=True)
    else:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    before = 0  # lines before the record at hand: a quoted cell may span several
    try:
        header = next((fields for fields in reader if fields), None)
        if header is None:
            raise DataError(f"{path}: the file is empty")
        pick = itemgetter(*_positions(path, reader.line_num, header, required, optional))
        before = reader.line_num
        for fields in reader:
            if len(fields) != len(header):
                if not fields:
                    before = reader.line_num
                    continue
                raise DataError(
                    f"{path}:{before + 1}: {len(fields)} fields, expected {len(header)} as in the header"
                )
            if fields == header:
                raise DataError(
                    f"{path}:{before + 1}: the header line again; were files joined without taking it off?"
                )
            fields.append(ABSENT)
            yield before + 1, pick(fields)
            before = reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}:{before + 1}: not valid {kind.upper()}: {error}") from None


def _positions(
    path: Path, line: int, header: list[str], required: Sequence[str], optional: Sequence[str]
) -> list[int]:
    """Where the wanted columns stand; one past the end, where `ABSENT` goes, for those that do not."""
    found = ", ".join(repr(name) for name in header)
    for name in (*required, *optional):
        if header.count(name) > 1:
            raise DataError(f"{path}:{line}: more than one column is named {name!r}; found {found}")
        if name in required and name not in header:
            raise DataError(f"{path}:{line}: no column is named {name!r}; found {found}")
    return [header.index(name) if name in header else len(header) for name in (*required, *optional)]


def _json_records(
    path: Path, lines: Iterator[str], required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, Sequence[str]]]:
    decode = json.JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_refuse_constant).decode
    pick = itemgetter(*required)
    nothing = True
    for number, line in enumerate(lines, 1):
        try:
            record = decode(line)
        except (ValueError, RecursionError) as error:
            if line.isspace():
                continue
            raise DataError(f"{path}:{number}: not a line of JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: a JSON {_json_type(record)}, expected an object")
        try:
            values = (*pick(record), *(record.get(name, ABSENT) for name in optional))
        except KeyError as error:
            found = ", ".join(repr(name) for name in record)
            raise DataError(f"{path}:{number}: no field is named {error}; found {found}") from None
        nothing = False
        cells = [value if type(value) is str else _cell(path, number, value) for value in values]
        if "\\u" in line:
            _check_escapes(path, number, [record[name] for name in (*required, *optional) if name in record])
        yield number, cells
    if nothing:
        raise DataError(f"{path}: the file is empty")


def _check_escapes(path: Path, line: int, values: list[Any]) -> None:
    """Refuse what an escape spells that `_checked_lines` would have refused standing there as such."""
    for value in values:
        if isinstance(value, str) and ("\0" in value or not is_utf8(value)):
            raise DataError(f"{path}:{line}: an escape stands for NUL or half a surrogate pair")


class _Number(str):
    """A JSON number as it is written: two ids may differ beyond what a float can hold."""


def _cell(path: Path, line: int, value: Any) -> str:
    """Text of a JSON value that is not a string."""
    if value is None:
        return ""
    if isinstance(value, _Number):
        return str(value)
    raise DataError(f"{path}:{line}: a field is a JSON {_json_type(value)}, expected text or a number")


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
