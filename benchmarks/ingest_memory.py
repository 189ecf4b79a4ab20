"""Peak memory and time of `ingest` over many random interactions: ``python benchmarks/ingest_memory.py``.

The interactions go to a temporary folder; `ingest` runs in a process of its own, whose peak resident
memory is what is printed.
"""

from __future__ import annotations

import argparse
import gzip
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TextIO

import numpy as np

CHUNK = 100_000  # small: a child starts from the peak of its parent
CHILD = """
import sys
from pathlib import Path
from llmcdsr_tools.dataset_summary import format_summary
from llmcdsr_tools.ingest.settings import IngestSettings
from llmcdsr_tools.ingest.stage import ingest
source, items, output, split = sys.argv[1:]
settings = IngestSettings(domains=("A", "B"), split=split)
result = ingest(Path(source), Path(output), items=Path(items), settings=settings)
print(format_summary(result.dataset), *result.warnings, sep="\\n")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--suffix", default=".csv", help=".csv, .tsv or .jsonl, or one of these and .gz")
    parser.add_argument("--split", default="overlapped", choices=("overlapped", "leave-one-out"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items, source = folder / "items.tsv", folder / f"interactions{options.suffix}"
        write_items(items, options.items)
        write_interactions(source, options)
        size = source.stat().st_size
        print(f"{options.interactions:,} interactions in {source.name}, {size / 2**20:,.0f} MiB", flush=True)
        command = [sys.executable, "-c", CHILD, source, items, folder / "dataset", options.split]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10  # KiB on Linux
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"peak memory of ingest {peak:,.0f} MiB (this script {own:,.0f} MiB)")
    print(f"{seconds:.1f} s, {options.interactions / seconds:,.0f} interactions a second")


def write_items(path: Path, n_items: int) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.write("item\tdomain\ttitle\n")
        for item in range(n_items):
            out.write(f"item-{item:07d}\t{'AB'[item % 2]}\tA title of about usual length, number {item}\n")


def write_interactions(path: Path, options: argparse.Namespace) -> None:
    rng = np.random.default_rng(options.seed)
    with closing(open_for_writing(path)) as out:
        if "json" in path.name:
            line = '{"user": "user-%07d", "item": "item-%07d", "timestamp": %d}\n'
        else:
            line = "user-%07d\titem-%07d\t%d\n" if "tsv" in path.name else "user-%07d,item-%07d,%d\n"
            out.write(line.replace("-%07d", "").replace("%d", "timestamp"))
        for start in range(0, options.interactions, CHUNK):
            n = min(CHUNK, options.interactions - start)
            users = rng.integers(options.users, size=n).tolist()
            items = rng.integers(options.items, size=n).tolist()
            times = rng.integers(1_500_000_000, 1_700_000_000, size=n).tolist()
            out.writelines(map(line.__mod__, zip(users, items, times, strict=True)))


def open_for_writing(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "wt", compresslevel=1, encoding="utf-8")
    return path.open("w", encoding="utf-8")


if __name__ == "__main__":
    main()
