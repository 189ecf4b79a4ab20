"""What a data set holds, in figures: as a table to read, and for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_tools.dataset import SPLITS, Dataset, density, summarize


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
