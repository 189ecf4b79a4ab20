"""Where interactions and items come from: files, frames, relations and queries, opened by DuckDB.

Of text files every wanted column is text as it stands in the file, so that ids and times mean the same in all
forms; a line that cannot be read is a *reject*, kept with its number and the reason.
"""

from __future__ import annotations

import csv
import glob
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmcdsr_lite.errors import DataError, UsageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Format = Literal["csv", "tsv", "json", "parquet"]
FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
PACKED = (".gz", ".zst")
GZIP_MAGIC = b"\x1f\x8b"
RECORD, REJECT, FILE = "llmcdsr_record", "llmcdsr_reject", "llmcdsr_file"
MAX_LINE = 1 << 20
"""Longest line in bytes: a file without line ends must not fill the memory."""


@dataclass(frozen=True)
class Query:
    """A query to a database.

    Parameters
    ----------
    sql : str
        One SELECT of DuckDB's SQL, which may also read files.
    database : str or Path, optional
        Of DuckDB; opened for reading alone. Without one the query reads files.
    """

    sql: str
    database: str | Path | None = None


@dataclass(frozen=True)
class Opened:
    """A source that DuckDB reads.

    Parameters
    ----------
    name : str
        For messages: the path, or what stands for it.
    scan : str
        What DuckDB reads, to stand after FROM; of JSON Lines it has the one column `line`.
    types : mapping of str to str
        Type of every column, in DuckDB's words; of text files, what the content looks like.
    files : tuple of Path
        Empty unless it is of files.
    kind : {"csv", "tsv", "json", "parquet"} or None
        Of the files.
    repeated : frozenset of str
        Names that several columns have, in small letters: DuckDB does not tell capitals apart.
    """

    name: str
    scan: str
    types: Mapping[str, str]
    files: tuple[Path, ...] = ()
    kind: Format | None = None
    repeated: frozenset[str] = frozenset()

    @property
    def place(self) -> str:
        """Where the names of its columns stand, for messages."""
        return f"{self.files[0]}:1" if self.kind in ("csv", "tsv") else self.name

    @property
    def is_text(self) -> bool:
        """Whether every value is text, as it stands in the file."""
        return self.kind in ("csv", "tsv", "json")

    def select(self, columns: Mapping[str, str], where: str | None) -> str:
        """A SELECT of some columns, under names of ours.

        It has `RECORD`, the number of the record, from 1 (in JSON Lines, of the line), `REJECT`, why the
        record cannot be read, or NULL, and of several files `FILE`.

        Parameters
        ----------
        columns : mapping of str to str
            The source's name of each column.
        where : str, optional
            A condition in SQL on the source's columns, with the types that their content has.
        """
        own = [RECORD, REJECT, *([FILE] if len(self.files) > 1 else [])]
        values = [f"{self._value(name)} AS {ours}" for ours, name in columns.items()]
        base = f"SELECT *, row_number() OVER () AS {RECORD} FROM {self.scan}"
        if self.kind == "json":
            base = (
                f"SELECT *, {_json_problem([columns[c] for c in columns])} AS {REJECT} FROM (SELECT *, "
                f"CASE WHEN json_valid(line) THEN line END AS json FROM ({base}) "
                "WHERE trim(line, E' \t\r') <> '')"
            )
        else:
            base = f"SELECT *, NULL::VARCHAR AS {REJECT} FROM ({base})"
        if where is None:
            return f"SELECT {', '.join([*own, *values])} FROM ({base})"
        typed = [
            f"TRY_CAST({self._value(name)} AS {kind}) AS {quoted(name)}" if self.is_text else quoted(name)
            for name, kind in self.types.items()
        ]
        everything = f"SELECT {', '.join([*own, *values, *typed])} FROM ({base})"
        kept = f"{REJECT} IS NOT NULL OR ({where})"
        return f"SELECT {', '.join([*own, *columns])} FROM ({everything}) WHERE {kept}"

    def _value(self, name: str) -> str:
        """A column's value in SQL."""
        return f"json_extract_string(json, {_json_path(name)})" if self.kind == "json" else quoted(name)


def quoted(name: str) -> str:
    """A name as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a literal in SQL."""
    return "'" + text.replace("'", "''") + "'"


def open_source(connection: DuckDBPyConnection, source: Any, role: str, *, typed: bool = False) -> Opened:
    """Open a source.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
    source : str, Path, Query, DataFrame or Arrow data
        A file, a glob, a folder of files of one format, a query, or anything with Arrow's C stream interface
        (pandas, polars, pyarrow, a relation of DuckDB).
    role : str
        ``events`` or ``items``, for messages.
    typed : bool
        Find out what the values of text files look like, for a condition on them.

    Raises
    ------
    DataError
        If there is nothing to read, or not in a form that can be.
    UsageError
        If it is none of these.
    """
    if isinstance(source, (str, Path)):
        return _open_files(connection, Path(source), typed=typed)
    if isinstance(source, Query):
        return _open_query(connection, source, role)
    if hasattr(source, "collect"):  # a lazy frame of polars
        source = source.collect()
    if hasattr(source, "iloc"):  # pandas: without pyarrow, too
        connection.register(f"{role}_frame", source)
    elif hasattr(source, "__arrow_c_stream__"):
        connection.register(f"{role}_frame", _Stream(source))
    else:
        raise UsageError(
            f"{role}: expected a path, a Query, or a frame or table (pandas, polars, Arrow, DuckDB), found "
            f"{type(source).__name__}"
        )
    scan = f"{role}_frame"
    names = [str(name) for name in getattr(source, "column_names", getattr(source, "columns", ()))]
    return Opened(f"the {role}", scan, _types(connection, scan), repeated=_repeated(names))


def _repeated(names: Sequence[str]) -> frozenset[str]:
    counts = Counter(name.lower() for name in names)
    return frozenset(name for name, count in counts.items() if count > 1)


class _Stream:
    """Arrow data and nothing else of an object: DuckDB would not take a relation of another connection."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._source.__arrow_c_stream__(requested_schema)


def _types(connection: DuckDBPyConnection, scan: str) -> dict[str, str]:
    described = connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()
    return {row[0]: row[1] for row in described if row[0] != FILE}


def _open_query(connection: DuckDBPyConnection, query: Query, role: str) -> Opened:
    if query.database is not None:
        path = Path(query.database)
        if not path.is_file():
            raise DataError(f"{path}: cannot be read: no such file")
        connection.execute(f"ATTACH IF NOT EXISTS {literal(str(path))} AS source (READ_ONLY)")
        connection.execute("USE source")
    scan = f"({query.sql.strip().rstrip(';')})"
    return Opened(f"the query for the {role}", scan, _types(connection, scan))


def _open_files(connection: DuckDBPyConnection, path: Path, *, typed: bool) -> Opened:
    files = list_files(path)
    kind, *others = sorted({file_format(file) for file in files})
    if others:
        raise DataError(f"{path}: files of several formats, {kind} and {others[0]}; expected one")
    for file in files:
        _check_packing(file)
    listed = "[" + ", ".join(literal(str(file)) for file in files) + "]"
    named = f", filename={literal(FILE)}" if len(files) > 1 else ""
    if kind == "parquet":
        scan = f"read_parquet({listed}{named})"
        repeated = _repeated(_parquet_names(connection, files[0]))
        return Opened(str(path), scan, _types(connection, scan), tuple(files), kind, repeated)
    if kind == "json":
        lines = _lines(listed, named)
        types = dict.fromkeys(_json_names(connection, lines), "VARCHAR")
        if typed:
            sample = f"read_json({listed}, format='newline_delimited', ignore_errors=true, sample_size=20000)"
            types |= _types(connection, sample)
        return Opened(str(path), lines, types, tuple(files), kind)
    return _open_delimited(connection, path, files, listed, kind, named, typed=typed)


def _parquet_names(connection: DuckDBPyConnection, file: Path) -> list[str]:
    """Names of the columns as the file has them, without those inside of a column."""
    schema = f"SELECT name, coalesce(num_children, 0) FROM parquet_schema({literal(str(file))})"
    names, inside = [], 0
    for name, n_children in connection.execute(schema).fetchall()[1:]:  # the first is the root
        if not inside:
            names.append(name)
        inside += n_children - (inside > 0)
    return names


def _json_names(connection: DuckDBPyConnection, lines: str) -> list[str]:
    """Names of the fields that the first objects have."""
    objects = f"SELECT line FROM {lines} WHERE json_valid(line) AND json_type(line) = 'OBJECT' LIMIT 1000"
    found = connection.execute(f"SELECT unnest(json_keys(line)) FROM ({objects})").fetchall()
    return list(dict.fromkeys(row[0] for row in found))


def _open_delimited(
    connection: DuckDBPyConnection,
    path: Path,
    files: list[Path],
    listed: str,
    kind: Format,
    named: str,
    *,
    typed: bool,
) -> Opened:
    header = _header(connection, files[0], kind)
    for file in files[1:]:
        names = _header(connection, file, kind)
        if names != header:
            raise DataError(f"{file}:1: columns {listing(names)}, but {files[0]} has {listing(header)}")
    dialect = "delim=',', quote='\"', escape='\"'" if kind == "csv" else "delim='\t', quote='', escape=''"
    sample = f"read_csv({listed}, header=true, {dialect}, ignore_errors=true, null_padding=true)"
    guessed = _types(connection, sample) if typed else {}
    # a name that comes twice is of use only if it is not wanted; an index of pandas has none
    repeated = _repeated(header)
    names = [
        name if name and name.lower() not in repeated else f"{name} ({n})" for n, name in enumerate(header, 1)
    ]
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    scan = (
        f"read_csv({listed}, columns={{{columns}}}, header=true, auto_detect=false, {dialect}, "
        f"strict_mode=true, max_line_size={MAX_LINE}, store_rejects=true, rejects_limit=0{named})"
    )
    types = {name: guessed.get(name, "VARCHAR") for name in names}
    return Opened(str(path), scan, types, tuple(files), kind, repeated)


def _header(connection: DuckDBPyConnection, path: Path, kind: Format) -> list[str]:
    """Names of the columns, from the first line that is not blank."""
    lines = _lines(literal(str(path)))
    first = connection.execute(f"SELECT line FROM {lines} WHERE trim(line, E' \r') <> '' LIMIT 1").fetchone()
    if first is None:
        raise DataError(f"{path}: the file is empty")
    line = str(first[0]).rstrip("\r")
    if "\0" in line:
        raise DataError(f"{path}:1: holds a NUL byte; is this a text file?")
    return line.split("\t") if kind == "tsv" else next(csv.reader([line]))


def _lines(listed: str, named: str = "") -> str:
    """Scan of whole lines, as the one column `line`; NULL for a blank one."""
    return (
        f"read_csv({listed}, columns={{'line': 'VARCHAR'}}, header=false, auto_detect=false, delim=chr(1), "
        f"quote='', escape='', strict_mode=false, max_line_size={MAX_LINE}, store_rejects=true, "
        f"rejects_limit=0{named})"
    )


def _json_path(name: str) -> str:
    """A field's name as a JSON path in SQL."""
    return literal('$."' + name.replace('"', '\\"') + '"')


def _json_problem(names: Sequence[str]) -> str:
    """Why a line of JSON cannot be read, in SQL; NULL if it can."""
    kinds = " ".join(
        f"WHEN json_type(json, {_json_path(name)}) IN ('OBJECT', 'ARRAY', 'BOOLEAN') THEN "
        f"{literal(f'field {name!r} is a JSON ')} || lower(json_type(json, {_json_path(name)})) || "
        "', expected text or a number'"
        for name in names
    )
    return (
        "CASE WHEN json IS NULL THEN 'not a line of JSON' WHEN json_type(json) <> 'OBJECT' THEN 'a JSON ' || "
        f"lower(json_type(json)) || ', expected an object' {kinds} END"
    )


def listing(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(map(repr, names))


def list_files(path: Path) -> list[Path]:
    """Files that a path, a glob or a folder stands for, in order of their names.

    Raises
    ------
    DataError
        If there is none.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and _suffix(p) is not None)
        if not files:
            raise DataError(
                f"{path}: no file in it ends in {', '.join(FORMATS)}, and none is of the official layout"
            )
        return files
    if not path.exists() and glob.has_magic(str(path)):
        files = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if not files:
            raise DataError(f"{path}: no file has a name like that")
        return files
    return [path]


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), None)


def file_format(path: Path) -> Format:
    """Format that a file's name stands for.

    Raises
    ------
    DataError
        If its suffix is none of those known.
    """
    suffix = _suffix(path)
    if suffix is None:
        raise DataError(
            f"{path}: the format is told by the name, which must end in {', '.join(FORMATS)}, or one of "
            f"these and {' or '.join(PACKED)}"
        )
    return FORMATS[suffix]


def _check_packing(path: Path) -> None:
    """Refuse a name that does not tell how the file is packed: DuckDB would read it as text."""
    try:
        with path.open("rb") as file:
            magic = file.read(2)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not magic:
        raise DataError(f"{path}: the file is empty")
    named = path.name.lower().endswith(".gz")
    if named and magic != GZIP_MAGIC:
        raise DataError(f"{path}: named .gz but does not hold gzip data; unpack it or take .gz off the name")
    if not named and magic == GZIP_MAGIC:
        raise DataError(f"{path}: holds gzip data; its name must end in .gz")
