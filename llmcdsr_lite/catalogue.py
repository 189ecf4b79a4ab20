"""Item ids, titles and domains, and the rows that stand for them in every array.

Row 0 is padding; the items of the first domain hold the rows from 1 on, those of each other one follow.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError, UnknownItemError, UsageError

Ranges = tuple[tuple[int, int], ...]  # of rows start <= row < stop, in order and not adjacent
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Domain:
    """One of the catalogues of a shop: a name and its item rows ``start <= row < stop``."""

    name: str
    start: int
    stop: int

    @property
    def n_items(self) -> int:
        """Number of items in the domain."""
        return self.stop - self.start


@dataclass(frozen=True, repr=False)
class Catalogue:
    """The items of all domains in row order.

    Parameters
    ----------
    ids : sequence of str
        Item ids, domain after domain. ``ids[i]`` is the item of row ``i + 1``.
    titles : sequence of str
        Titles in the same order; an empty title is allowed.
    domains : tuple of Domain
        One or more.

    Raises
    ------
    DataError
        If ids and titles differ in length, the domains do not cover the rows, or share a name.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    domains: tuple[Domain, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.titles):
            raise DataError(f"catalogue: {len(self.ids)} item ids but {len(self.titles)} titles")
        starts = [domain.start for domain in self.domains]
        stops = [domain.stop for domain in self.domains]
        if [*starts, len(self.ids) + 1] != [1, *stops]:
            covered = " and ".join(f"{d.start}..{d.stop - 1}" for d in self.domains) or "none"
            raise DataError(
                f"catalogue: domains cover rows {covered}, expected 1..{len(self.ids)} without a gap"
            )
        seen: set[str] = set()
        for domain in self.domains:
            if domain.n_items < 1:
                raise DataError(f"catalogue: domain {domain.name!r} has no item, expected one at least")
            if domain.name in seen:
                raise DataError(f"catalogue: two domains are named {domain.name!r}")
            seen.add(domain.name)

    @classmethod
    def from_sizes(
        cls, ids: Sequence[str], titles: Sequence[str], names: Sequence[str], sizes: Sequence[int]
    ) -> Catalogue:
        """Build a catalogue from the names and numbers of items of its domains."""
        stops = [1 + sum(sizes[: number + 1]) for number in range(len(sizes))]
        starts = [stop - size for stop, size in zip(stops, sizes, strict=True)]
        return cls(ids, titles, tuple(map(Domain, names, starts, stops)))

    def __repr__(self) -> str:
        domains = ", ".join(f"{d.name!r} ({d.n_items:,} items)" for d in self.domains)
        return f"<Catalogue of {domains}>"

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        """Item ids in row order."""
        return iter(self.ids)

    def __contains__(self, item_id: object) -> bool:
        """Whether there is an item of that id."""
        return item_id in self.row_of_id

    @cached_property
    def row_of_id(self) -> dict[str, int]:
        """Row of every item id, built on first use.

        Raises
        ------
        DataError
            If an id occurs twice.
        """
        rows = dict(zip(self.ids, range(1, len(self.ids) + 1), strict=True))
        if len(rows) != len(self.ids):
            seen: set[str] = set()
            twice = next(i for i in self.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise DataError(f"catalogue: item id {twice!r} occurs more than once")
        return rows

    @cached_property
    def id_of_row(self) -> npt.NDArray[np.object_]:
        """Item id of every row (items + 1,), None for row 0; built on first use."""
        return np.array([None, *self.ids], dtype=object)

    def row(self, item_id: str) -> int:
        """Row of one item.

        Raises
        ------
        UnknownItemError
            If the id is not in the catalogue.
        """
        try:
            return self.row_of_id[item_id]
        except (KeyError, TypeError):
            raise UnknownItemError(
                f"item {item_id!r} is not in the catalogue of {len(self):,} items"
            ) from None

    def rows(self, item_ids: Iterable[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Rows of the known ids, in order, and the ids that are not in the catalogue."""
        get = self.row_of_id.get
        item_ids = list(item_ids)
        rows = list(map(get, item_ids))
        if None not in rows:
            return np.array(rows, dtype=np.int64), []
        unknown = [item_id for item_id, row in zip(item_ids, rows, strict=True) if row is None]
        return np.array([row for row in rows if row is not None], dtype=np.int64), unknown

    def find_titles(self, text: str) -> npt.NDArray[np.int64]:
        """Rows of the items whose title has every word of `text`, whatever the case.

        Where none has, the last word may be the beginning of one: "coffee bean" finds "Coffee beans".
        """
        words = _words(text)
        whole: list[int] = []
        begun: list[int] = []
        for row, title in enumerate(self.titles, 1):
            folded = title.casefold()
            if not words or not all(word in folded for word in words):  # fast: hardly any title gets on
                continue
            of_title = _words(folded)
            if set(words) <= set(of_title):
                whole.append(row)
            elif set(words[:-1]) <= set(of_title) and any(one.startswith(words[-1]) for one in of_title):
                begun.append(row)
        return np.array(whole or begun, dtype=np.int64)

    def domain(self, name: str) -> Domain:
        """Domain by name.

        Raises
        ------
        UsageError
            If there is no domain of that name.
        """
        for domain in self.domains:
            if domain.name == name:
                return domain
        names = [domain.name for domain in self.domains]
        near = get_close_matches(str(name).casefold(), map(str.casefold, names), n=1)
        hint = f"; did you mean {next(n for n in names if n.casefold() == near[0])!r}?" if near else ""
        raise UsageError(f"no domain is named {name!r:.60}, expected {' or '.join(map(repr, names))}{hint}")

    def domain_of_row(self, row: int) -> Domain:
        """Domain that an item row belongs to."""
        return self.domains[bisect_right(self._starts, row) - 1]

    def domain_indices(self, rows: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Place among the domains of the one that each item row belongs to, an array of the same shape."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    @cached_property
    def _starts(self) -> list[int]:
        return [domain.start for domain in self.domains]


def joined_ranges(domains: Iterable[Domain]) -> Ranges:
    """Ranges of rows of domains that are given in order, those of adjacent ones as one."""
    ranges: list[tuple[int, int]] = []
    for domain in domains:
        start = domain.start
        if ranges and ranges[-1][1] == start:
            start, _ = ranges.pop()
        ranges.append((start, domain.stop))
    return tuple(ranges)


def _words(text: str) -> list[str]:
    """Runs of letters and digits; whatever is between them parts words."""
    found: list[str] = _WORD.findall(text.casefold())
    return found
