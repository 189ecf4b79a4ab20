"""Other numbers of domains from a data set of two: ``python benchmarks/domains.py DATASET OUT``.

Writes two data set folders: ``OUT/three``, in which the second domain is split by the first letter of the
titles (A to L; M to Z, digits and untitled ones), and ``OUT/one``, the first domain alone, of users with two
items of it or more. `quality.py` trains and measures each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_tools.data.dataset import SPLITS, Dataset, Histories
from llmcdsr_tools.data.dataset_folder import load_dataset, save_dataset

LAST = "L"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--titles", type=Path, help="matrix of `llmcdsr embed`; written for both, too")
    arguments = parser.parse_args()
    data = load_dataset(arguments.dataset)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, order, n_domains in (("three", *three(data)), ("one", *one(data))):
        save_dataset(reordered(data, order, n_domains), arguments.out / name)
        if arguments.titles is not None:
            np.save(arguments.out / f"{name}.npy", np.load(arguments.titles)[order - 1])


Names = list[tuple[str, int]]  # of domains, and their items


def three(data: Dataset) -> tuple[np.ndarray, Names]:
    """Old rows in their new order, and the domains."""
    first, second = data.catalogue.domains
    rows = np.arange(second.start, second.stop)
    early = np.array(["A" <= data.catalogue.titles[row - 1][:1].upper() <= LAST for row in rows.tolist()])
    names = [(first.name, first.n_items), (f"{second.name} A-{LAST}", int(early.sum()))]
    names.append((f"{second.name} others", int((~early).sum())))
    return np.concatenate([np.arange(first.start, first.stop), rows[early], rows[~early]]), names


def one(data: Dataset) -> tuple[np.ndarray, Names]:
    """Old rows of the first domain, and its name and size."""
    first = data.catalogue.domains[0]
    return np.arange(first.start, first.stop), [(first.name, first.n_items)]


def reordered(data: Dataset, order: np.ndarray, domains: Names) -> Dataset:
    """The data set with these old rows as its items, in that order."""
    new_row = np.zeros(len(data.catalogue) + 1, dtype=np.int32)
    new_row[order] = np.arange(1, len(order) + 1)
    ids, titles = (
        [strings[row - 1] for row in order] for strings in (data.catalogue.ids, data.catalogue.titles)
    )
    names, sizes = zip(*domains, strict=True)
    splits = {}
    for split in SPLITS:
        histories = data.split(split)
        kept = [
            (left, user)
            for h, user in zip(histories, histories.users, strict=True)
            if len(left := _left(new_row[h])) > 1
        ]
        splits[split] = Histories.from_lists([h.tolist() for h, _ in kept], [user for _, user in kept])
    catalogue = Catalogue.from_sizes(ids, titles, names, sizes)
    return Dataset(catalogue, splits["train"], splits["valid"], splits["test"], data.test_positions)


def _left(rows: np.ndarray) -> np.ndarray:
    return rows[rows > 0]


if __name__ == "__main__":
    main()
