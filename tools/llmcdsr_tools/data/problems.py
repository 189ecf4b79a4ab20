"""Records that cannot be taken: the first few of them as an error, or all of them in a file."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file
from llmcdsr_tools.data.sources import GZIP_MAGIC, Opened

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SHOWN = 5
"""Problems that an error tells; of the others their number."""


@dataclass(frozen=True)
class Problem:
    """One record that cannot be taken.

    Parameters
    ----------
    message : str
    record : int
        Number of the record in its file, from 1; 0 where `line` is known.
    line : int
        Of the file; 0 where it is not known.
    file : str
        Empty where the source is no file, or one alone.
    first : int
        An earlier record that the message speaks of, or 0.
    text : str
        The line, or the values that were found.
    """

    message: str
    record: int = 0
    line: int = 0
    file: str = ""
    first: int = 0
    text: str = ""


def take_rejects(connection: DuckDBPyConnection, limit: int | None = None) -> tuple[list[Problem], int]:
    """Lines that DuckDB could not read since the last call, the first of each, and how many they are."""
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE table_name = 'reject_errors'")
    if tables.fetchone() is None:
        return [], 0
    rows = connection.execute(
        "SELECT DISTINCT ON (file_path, e.line) e.line, file_path, error_type, error_message, csv_line "
        "FROM temp.reject_errors e JOIN temp.reject_scans s USING (scan_id, file_id) "
        f"ORDER BY file_path, e.line {'' if limit is None else f'LIMIT {limit}'}"
    ).fetchall()
    count = connection.execute("SELECT count(DISTINCT (file_id, line)) FROM temp.reject_errors").fetchone()
    connection.execute("DROP TABLE temp.reject_errors; DROP TABLE temp.reject_scans")
    assert count is not None
    problems = [
        Problem(_reason(kind, message), line=line, file=file, text=(text or "")[:1000])
        for line, file, kind, message, text in rows
    ]
    return problems, count[0]


def _reason(kind: str, message: str) -> str:
    reasons = {
        "INVALID ENCODING": "not UTF-8 text; convert the file to UTF-8",
        "LINE SIZE OVER MAXIMUM": f"longer than {1 << 20:,} bytes, or a quote in it is not closed",
        "UNQUOTED VALUE": "a quote is not closed, or text follows the closing one",
    }
    if kind in reasons:
        return reasons[kind]
    numbers = [word for word in message.replace(":", " ").split() if word.isdigit()]
    if kind in ("MISSING COLUMNS", "TOO MANY COLUMNS") and len(numbers) == 2:
        return f"{numbers[1]} fields, expected {numbers[0]} as in the header"
    return message.splitlines()[0]


def refuse(opened: Opened, problems: Sequence[Problem], count: int) -> None:
    """Raise the first problems, if there are any.

    Raises
    ------
    DataError
        With file and line of each, and how many more there are.
    """
    if not count:
        return
    places = _places(opened, problems)
    sentences = [
        f"{place}: {message}" for place, message in zip(places, _messages(opened, problems), strict=True)
    ]
    if count > len(problems):
        sentences.append(f"and {count - len(problems):,} more")
    raise DataError("\n  ".join(sentences))


def write_problems(
    path: Path, opened: Opened, problems: Sequence[Problem], *, more: bool = False, complete: bool = True
) -> None:
    """Write problems as JSON Lines: where, why, and what stands there.

    Parameters
    ----------
    path : Path
    opened : Opened
    problems : sequence of Problem
    more : bool
        After what the file holds already.
    complete : bool
        Whether every record of the source could be read; otherwise numbers of records do not lead to lines.
    """
    before = path.read_text(encoding="utf-8") if more else ""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(before)
        places = _places(opened, problems, complete=complete)
        messages = _messages(opened, problems if complete else [replace(p, first=0) for p in problems])
        for place, message, problem in zip(places, messages, problems, strict=True):
            entry = {"where": place, "problem": message, "found": problem.text}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _messages(opened: Opened, problems: Sequence[Problem]) -> list[str]:
    firsts = [Problem("", record=p.first, file=p.file) for p in problems if p.first]
    places = iter(_places(opened, firsts, bare=True))
    return [f"{p.message}; it was first on {next(places)}" if p.first else p.message for p in problems]


def _places(
    opened: Opened, problems: Sequence[Problem], *, bare: bool = False, complete: bool = True
) -> list[str]:
    """File and line of every problem; of a frame, a query or a Parquet file the row, from 0."""
    lines: dict[tuple[str, int], int] = {}
    if opened.kind in ("csv", "tsv") and complete:
        for name in {p.file or opened.name for p in problems if p.record}:
            wanted = {p.record for p in problems if p.record and (p.file or opened.name) == name}
            lines |= {(name, record): line for record, line in _lines_of(Path(name), opened.kind, wanted)}
    places = []
    for problem in problems:
        name = problem.file or opened.name
        line = problem.line or lines.get((name, problem.record), 0)
        if opened.kind == "json" and complete:
            line = line or problem.record
        if line:
            places.append(f"line {line}" if bare else f"{name}:{line}")
        elif not complete:
            places.append(f"{name}, record {problem.record} of those that can be read")
        else:
            row = f"row {problem.record - 1}"
            places.append(row if bare else f"{name}, {row}")
    return places


def _lines_of(path: Path, kind: str, records: set[int]) -> Iterator[tuple[int, int]]:
    """Line that each of some records starts on; read again, as DuckDB counts records alone."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            with io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="") as text:
                yield from _count_lines(text, kind, records)
    except (OSError, EOFError, csv.Error):  # packed otherwise, or not as Python would have it
        return


def _count_lines(text: Iterable[str], kind: str, records: set[int]) -> Iterator[tuple[int, int]]:
    reader = csv.reader(text) if kind == "csv" else csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    number, before, last = -1, 0, max(records)
    for fields in reader:
        number += bool(fields)
        if fields and number in records:
            yield number, before + 1
        if number >= last:
            return
        before = reader.line_num
