"""Item ids, titles and domains, and the rows that stand for them in every array.

Row 0 is padding; domain A holds rows 1..|A|, domain B rows |A|+1..|A|+|B|.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError, UnknownItemError, UsageError

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Domain:
    """One of the two catalogues: a name and its item rows ``start <= row < stop``."""

    name: str
    start: int
    stop: int

    @property
    def n_items(self) -> int:
        """Number of items in the domain."""
        return self.stop - self.start


@dataclass(frozen=True, repr=False)
class Catalogue:
    """The items of both domains in row order.

    Parameters
    ----------
    ids : sequence of str
        Item ids, those of domain A first. ``ids[i]`` is the item of row ``i + 1``.
    titles : sequence of str
        Titles in the same order; an empty title is allowed.
    domains : tuple of two Domain
        Domain A and domain B.

    Raises
    ------
    DataError
        If ids and titles differ in length, an id occurs twice, or the domains do not cover the rows.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    domains: tuple[Domain, Domain]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.titles):
            raise DataError(f"catalogue: {len(self.ids)} item ids but {len(self.titles)} titles")
        first, second = self.domains
        if (first.start, first.stop, second.stop) != (1, second.start, len(self.ids) + 1):
            raise DataError(
                f"catalogue: domains cover rows {first.start}..{first.stop - 1} and "
                f"{second.start}..{second.stop - 1}, expected 1..{len(self.ids)} without a gap"
            )
        if first.n_items < 1 or second.n_items < 1:
            raise DataError("catalogue: each of the two domains needs at least one item")
        if first.name == second.name:
            raise DataError(f"catalogue: both domains are named {first.name!r}")

    @classmethod
    def from_sizes(
        cls, ids: Sequence[str], titles: Sequence[str], names: tuple[str, str], sizes: tuple[int, int]
    ) -> Catalogue:
        """Build a catalogue from the names and sizes of domain A and domain B."""
        boundary = 1 + sizes[0]
        domains = (Domain(names[0], 1, boundary), Domain(names[1], boundary, boundary + sizes[1]))
        return cls(ids, titles, domains)

    def __repr__(self) -> str:
        domains = " and ".join(f"{d.name!r} ({d.n_items:,} items)" for d in self.domains)
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
        return self.domains[row >= self.domains[1].start]


def _words(text: str) -> list[str]:
    """Runs of letters and digits; whatever is between them parts words."""
    found: list[str] = _WORD.findall(text.casefold())
    return found
