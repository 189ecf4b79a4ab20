"""What an item table of less precision would change: the ten best items, and the bundle's size.

    python benchmarks/table_precision.py BUNDLE DATASET

The table is rounded, both as input of the model and to score with, and the test users of the data set are
ranked again by exact search. Their last item is left out of the history.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter, Rows
from llmcdsr_tools.data.dataset_folder import load_dataset

Table = npt.NDArray[np.float32]
K = 10


def main() -> None:
    bundle, data = read_bundle(Path(sys.argv[1])), load_dataset(Path(sys.argv[2]))
    histories = [history[:-1].astype(np.int64) for history in data.test if len(history) > 1]
    table = np.array(bundle.item_vectors)
    domains = bundle.catalogue.domains
    ranges = {"all": (1, domains[-1].stop), **{d.name: (d.start, d.stop) for d in domains}}
    exact = {name: best(bundle, table, histories, *rows) for name, rows in ranges.items()}
    whole = sum(path.stat().st_size for path in Path(sys.argv[1]).iterdir())
    print(f"{len(histories)} test users, {len(table) - 1:,} items, bundle of {whole / 1e6:.1f} MB")
    print(
        f"{'table':<10}{'MB':>6}{'bundle MB':>11}"
        + "".join(f"{name:>10}" for name in ranges)
        + f"  overlap@{K}"
    )
    for name, rounded, n_bytes in precisions(table):
        smaller = (whole - table.nbytes + n_bytes) / 1e6
        overlaps = [
            overlap(exact[domain], best(bundle, rounded, histories, *rows)) for domain, rows in ranges.items()
        ]
        print(f"{name:<10}{n_bytes / 1e6:>6.1f}{smaller:>11.1f}" + "".join(f"{x:>10.4f}" for x in overlaps))


def precisions(table: Table) -> list[tuple[str, Table, int]]:
    """Names, rounded tables, and the bytes that they take where they are stored."""
    largest = np.abs(table).max(axis=1, keepdims=True)  # int8 with a float32 unit for every row
    unit = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return [
        ("float32", table, table.nbytes),
        ("float16", table.astype(np.float16).astype(np.float32), table.size * 2),
        ("int8", np.rint(table / unit) * unit, table.size + unit.nbytes),
    ]


def best(bundle: Bundle, table: Table, histories: list[Rows], start: int, stop: int) -> Rows:
    """Rows of the best items of every user (n, K)."""
    backend = NumpyBackend(SASRecParameters(bundle.parameters.config, table, bundle.parameters.dense))
    users = backend.represent(histories)
    return ExactSearch(table).search(users, K, RowFilter(start, stop, histories))[0]


def overlap(expected: Rows, found: Rows) -> float:
    """Mean share of the expected items that were found."""
    pairs = zip(expected.tolist(), found.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in pairs]))


if __name__ == "__main__":
    main()
