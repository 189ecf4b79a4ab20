"""Speed and peak memory of reading random interactions in each form: ``python benchmarks/reading.py``.

DuckDB writes the interactions to a temporary folder; each form is read, filtered and split in a process of
its own, whose peak resident memory is printed. A process of a frame holds the frame, too; its seconds are
without making it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.data.ingestion import read_dataset
from llmcdsr_tools.data.sources import Query

FORMS = {
    "parquet": "interactions.parquet",
    "csv": "interactions.csv",
    "tsv": "interactions.tsv",
    "csv.gz": "interactions.csv.gz",
    "jsonl": "interactions.jsonl",
    "database": "interactions.duckdb",
    "pandas": "interactions.parquet",
    "polars": "interactions.parquet",
    "arrow": "interactions.parquet",
}
WRITTEN = {
    ".parquet": "",
    ".csv": "(HEADER)",
    ".tsv": "(HEADER, DELIM '\t', QUOTE '')",
    ".csv.gz": "(HEADER, COMPRESSION gzip)",
    ".jsonl": "(FORMAT json)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--interactions", type=int, default=5_000_000)
    parser.add_argument("--users", type=int, help="a tenth of the interactions by default")
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--split", default="time", choices=("time", "overlapped", "leave-one-out"))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        read(options.child[0], Path(options.child[1]), options.split)
        return
    print(f"{'form':<10}{'MiB':>8}{'seconds':>10}{'a second':>14}{'peak MiB':>10}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder, options)
        for form in options.forms:
            child = [sys.executable, __file__, "--split", options.split, "--child", form, str(folder)]
            process = subprocess.Popen(child, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            seconds = float(process.stdout.read())
            _, status, used = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{form}: the process ended with status {status}")
            size = (folder / FORMS[form]).stat().st_size / 2**20
            rate = options.interactions / seconds
            print(
                f"{form:<10}{size:>8,.0f}{seconds:>10.1f}{rate:>14,.0f}{used.ru_maxrss / 2**10:>10,.0f}",
                flush=True,
            )


def write_events(folder: Path, options: argparse.Namespace) -> None:
    """Interactions of each user with items of no particular taste, and the items of two domains."""
    users = options.users or max(options.interactions // 10, 1)
    with duckdb.connect(str(folder / "interactions.duckdb")) as connection:
        connection.execute("SELECT setseed(0.5)")
        connection.execute(
            "CREATE TABLE interactions AS SELECT format('user-{:07d}', (random() * ?)::INT) AS user, "
            "format('item-{:07d}', (random() * ?)::INT) AS item, "
            "1500000000 + (random() * 200000000)::BIGINT AS timestamp FROM range(?)",
            [users, options.items - 1, options.interactions],
        )
        for form in options.forms:
            path = folder / FORMS[form]
            how = next((h for suffix, h in WRITTEN.items() if path.name.endswith(suffix)), None)
            if how is not None and not path.exists():
                connection.execute(f"COPY interactions TO '{path}' {how}")
        connection.execute(
            "COPY (SELECT format('item-{:07d}', i) AS item, 'AB'[i % 2 + 1] AS domain, "
            f"'A title of about usual length, number ' || i AS title FROM range({options.items}) t(i)) "
            f"TO '{folder / 'items.parquet'}'"
        )


def read(form: str, folder: Path, split: str) -> None:
    """Read one form and print the seconds."""
    path, source = folder / FORMS[form], None
    if form == "pandas":
        import pandas

        source = pandas.read_parquet(path)
    elif form == "polars":
        import polars

        source = polars.read_parquet(path)
    elif form == "arrow":
        import pyarrow.parquet

        source = pyarrow.parquet.read_table(path)
    elif form == "database":
        source = Query("select * from interactions", path)
    settings: dict[str, Any] = {"split": split}
    started = time.perf_counter()
    read_dataset(
        path if source is None else source,
        items=folder / "items.parquet",
        settings=IngestSettings(**settings),
    )
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
