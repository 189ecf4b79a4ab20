"""Tables written and read as Parquet, Arrow and Feather files; without pyarrow the tests are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scored_files import parsed

pa = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")

SCHEMA = pa.schema({"user": pa.string(), "history": pa.list_(pa.string()), "domain": pa.string()})
SUFFIXES = pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])


def write(path: Path, table: Any, **options: Any) -> Path:
    """Write a table in the format of the path's name."""
    if path.suffix == ".parquet":
        parquet.write_table(table, path, **options)
    elif path.suffix == ".feather":
        feather.write_feather(table, str(path), chunksize=7)
    else:
        with pa.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table, 7)
    return path


def read(path: Path) -> Any:
    return parquet.read_table(path) if path.suffix == ".parquet" else feather.read_table(str(path))


def table_of(source: Path) -> Any:
    return pa.Table.from_pylist(parsed(source), SCHEMA)
