"""What a data set holds, in figures: as a table to read, and for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_tools.data.dataset import SPLITS, Dataset, Histories


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split.

    Parameters
    ----------
    users, users_overlapped : int
        All, and those with items of more than one domain.
    users_of_one : tuple of int
        Users with items of each domain alone.
    interactions : int
    interactions_of : tuple of int
        Of each domain.
    length_min, length_median, length_mean, length_max
        Of the histories.
    """

    users: int
    users_of_one: tuple[int, ...]
    users_overlapped: int
    interactions: int
    interactions_of: tuple[int, ...]
    length_min: int
    length_median: float
    length_mean: float
    length_max: int


def summarize(histories: Histories, catalogue: Catalogue) -> SplitSummary:
    """Count users by kind, interactions by domain and lengths."""
    lengths = histories.lengths if len(histories) else np.zeros(1, dtype=np.int64)
    counts = histories.counts(catalogue)  # (users, domains)
    of_one = (counts > 0).sum(axis=1) == 1
    return SplitSummary(
        users=len(histories),
        users_of_one=tuple(((counts > 0) & of_one[:, None]).sum(axis=0).tolist()),
        users_overlapped=int(((counts > 0).sum(axis=1) > 1).sum()),
        interactions=len(histories.rows),
        interactions_of=tuple(counts.sum(axis=0).tolist()),
        length_min=int(lengths.min()),
        length_median=float(np.median(lengths)),
        length_mean=float(lengths.mean()),
        length_max=int(lengths.max()),
    )


def density(dataset: Dataset) -> float:
    """Share of the user x item matrix that the training interactions fill."""
    return len(dataset.train.rows) / max(1, len(dataset.train) * len(dataset.catalogue))


def describe(dataset: Dataset) -> dict[str, Any]:
    """The figures of `format_summary`: items of every domain, counts of every split, density."""
    catalogue = dataset.catalogue
    return {
        **{split: asdict(summarize(dataset.split(split), catalogue)) for split in SPLITS},
        "domains": [
            {"name": d.name, "items": d.n_items, "untitled": n_untitled(catalogue, d)}
            for d in catalogue.domains
        ],
        "density": density(dataset),
    }


def n_untitled(catalogue: Catalogue, domain: Domain) -> int:
    """Items of a domain without a title."""
    return sum(not title for title in catalogue.titles[domain.start - 1 : domain.stop - 1])


def format_summary(dataset: Dataset) -> str:
    """Readable summary: items by domain; users by kind, interactions and lengths by split; density."""
    catalogue = dataset.catalogue
    names = list(enumerate(domain.name for domain in catalogue.domains))
    of = [summarize(dataset.split(split), catalogue) for split in SPLITS]
    items = [
        ("items", "all", "untitled"),
        *((d.name, f"{d.n_items:,}", f"{n_untitled(catalogue, d):,}") for d in catalogue.domains),
    ]
    splits = [
        ("", *SPLITS),
        ("users", *(f"{s.users:,}" for s in of)),
        *((f"  {name} only", *(f"{s.users_of_one[i]:,}" for s in of)) for i, name in names),
        ("  overlapped", *(f"{s.users_overlapped:,}" for s in of)),
        ("interactions", *(f"{s.interactions:,}" for s in of)),
        *((f"  {name}", *(f"{s.interactions_of[i]:,}" for s in of)) for i, name in names),
        ("history length", "", "", ""),
        ("  shortest", *(f"{s.length_min:,}" for s in of)),
        ("  median", *(f"{s.length_median:g}" for s in of)),
        ("  mean", *(f"{s.length_mean:.2f}" for s in of)),
        ("  longest", *(f"{s.length_max:,}" for s in of)),
    ]
    return f"{_table(items)}\n\n{_table(splits)}\n\ntraining density {density(dataset):.4%}"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns in line: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
