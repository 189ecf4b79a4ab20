"""Rows of Parquet and Arrow files, a record batch at a time; pyarrow is imported when one is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from llmcdsr_lite.errors import DataError, MissingDependencyError, install_hint

ColumnarFormat = Literal["parquet", "arrow"]
_ROWS = 1024  # made Python objects at a time
_BUFFER = 1 << 20  # bytes of a column that are read at a time: a row group may be larger than the memory


def import_pyarrow(purpose: str) -> Any:
    """The module pyarrow.

    Raises
    ------
    MissingDependencyError
        If it is not installed; the message begins with `purpose`.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs pyarrow ({error}): {install_hint('parquet')}"
        ) from None
    return pyarrow


def read_rows(
    path: Path, format: ColumnarFormat, required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Read some columns of a file, row after row.

    Parameters
    ----------
    path : Path
    format : {"parquet", "arrow"}
        Arrow is the file format of Arrow IPC, which Feather 2 is, too.
    required, optional : sequence of str
        Columns; others are not read.

    Yields
    ------
    tuple
        The values of the columns, None for that of a column that is not there.

    Raises
    ------
    DataError
        If the file cannot be read, is damaged or of another format, or lacks a required column.
    MissingDependencyError
        If pyarrow is not installed.
    """
    pyarrow = import_pyarrow(f"{path}: reading a file of the format {format!r}")
    batches = _parquet_batches if format == "parquet" else _arrow_batches
    try:
        with path.open("rb") as file:
            for batch in batches(path, file, required, optional):
                batch.validate(full=True)  # offsets of a damaged file lead anywhere in memory
                for start in range(0, batch.num_rows, _ROWS):
                    yield from _rows(batch.slice(start, _ROWS), [*required, *optional])
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot be read as {format!r}: {error}") from None


def _parquet_batches(
    path: Path, file: IO[bytes], required: Sequence[str], optional: Sequence[str]
) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as source:
        names = _present(path, source.schema_arrow.names, required, optional)
        yield from source.iter_batches(_ROWS, columns=names, use_threads=False)


def _arrow_batches(
    path: Path, file: IO[bytes], required: Sequence[str], optional: Sequence[str]
) -> Iterator[Any]:
    from pyarrow import ipc

    with ipc.open_file(file) as source:
        names = source.schema.names
        wanted = [names.index(name) for name in _present(path, names, required, optional)]
    file.seek(0)
    with ipc.open_file(file, options=ipc.IpcReadOptions(included_fields=wanted)) as source:
        for number in range(source.num_record_batches):
            yield source.get_batch(number)


def _present(path: Path, names: list[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """Columns of the file that are wanted."""
    present = [name for name in names if name in {*required, *optional}]
    if not set(required) <= set(present) or len(present) > len(set(present)):
        expected = f"{' and '.join(required)} and, optionally, {' and '.join(optional)}, each once"
        raise DataError(f"{path}: the columns are {names}, expected {expected}")
    return present


def _rows(batch: Any, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Rows of a record batch."""
    nothing = [None] * batch.num_rows
    present = batch.schema.names
    return zip(
        *(batch.column(name).to_pylist() if name in present else nothing for name in names), strict=True
    )
