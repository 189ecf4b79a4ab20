"""The invented items of the demo world, read from ``items.toml``.

Groceries and kitchenware share interests (coffee, baking, ...); an interest has threads, and each
thread lists groceries and kitchenware that go together. The order of a list is the order in which
people come to the items. Ids are made of the titles: ``g-coffee-espresso-roast-whole-bean``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from llmcdsr_lite.errors import DataError

DOMAINS = ("groceries", "kitchenware")
"""Names of the two domains."""

_SOURCE = "items.toml"
_FILLER = {"a", "and", "at", "for", "from", "in", "no", "of", "on", "the", "to", "with"}


@dataclass(frozen=True)
class DemoItem:
    """One item of the demo world.

    Parameters
    ----------
    id, title : str
        Readable id, unique over both domains, and the title as a shop would have it.
    domain : str
        One of `DOMAINS`.
    threads : tuple of str
        Threads that it belongs to, like "coffee/espresso", its own first; empty for a neutral staple.
    """

    id: str
    title: str
    domain: str
    threads: tuple[str, ...]

    @property
    def interests(self) -> frozenset[str]:
        """Interests that it belongs to; empty for a neutral staple."""
        return frozenset(thread.split("/")[0] for thread in self.threads)


@dataclass(frozen=True)
class DemoInterest:
    """A shared interest.

    Parameters
    ----------
    name : str
        Its name, like "coffee".
    related : tuple of str
        Interests that often come with it.
    threads : tuple of tuple of two tuples of int
        For every thread its groceries and its kitchenware, as positions in `DemoCatalogue.items`.
    """

    name: str
    related: tuple[str, ...]
    threads: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


class SampleHistory(NamedTuple):
    """A readable history to try the demo with: user name, item ids oldest first, domain wanted."""

    user: str
    history: tuple[str, ...]
    domain: str


@dataclass(frozen=True)
class DemoCatalogue:
    """All there is in the demo world.

    Parameters
    ----------
    items : tuple of DemoItem
        Groceries first, then kitchenware.
    interests : tuple of DemoInterest
        Most popular first.
    neutral : tuple of two tuples of int
        Positions of the groceries and of the kitchenware that belong to no interest.
    samples : tuple of SampleHistory
        Sample histories.
    """

    items: tuple[DemoItem, ...]
    interests: tuple[DemoInterest, ...]
    neutral: tuple[tuple[int, ...], tuple[int, ...]]
    samples: tuple[SampleHistory, ...]

    @cached_property
    def n_groceries(self) -> int:
        """Number of items in the first domain, which are the first of `items`."""
        return sum(item.domain == DOMAINS[0] for item in self.items)


@cache
def load_demo_items() -> DemoCatalogue:
    """Read the invented items that come with this package.

    Raises
    ------
    DataError
        If two titles make one id, or a title names a thread that there is not.

    Examples
    --------
    >>> load_demo_items().items[0].title
    'Espresso Roast Whole Bean Coffee, 1 kg'
    """
    text = Path(__file__).with_name(_SOURCE).read_text(encoding="utf-8")
    source = tomllib.loads(text)
    items = tuple(item for domain in DOMAINS for item in _read_items(source, domain))
    _check(items, source["interest"])
    interests = tuple(
        DemoInterest(
            interest["name"],
            tuple(interest["related"]),
            tuple(_members(items, f"{interest['name']}/{t['name']}") for t in interest["thread"]),
        )
        for interest in source["interest"]
    )
    samples = (SampleHistory(s["user"], tuple(s["history"]), s["domain"]) for s in source["sample"])
    return DemoCatalogue(items, interests, _members(items, None), tuple(samples))


def item_id(domain: str, group: str, title: str) -> str:
    """Id of an item: first letter of the domain, its interest, and the words before the first comma.

    The name of the interest and words that say little are left out of the title's words.

    Examples
    --------
    >>> item_id("groceries", "coffee", "Dark Roast Whole Bean Coffee, 1 kg")
    'g-coffee-dark-roast-whole-bean'
    """
    words = re.findall(r"[a-z0-9]+", title.split(",")[0].lower().replace("'", ""))
    return "-".join([domain[0], group, *(word for word in words if word not in _FILLER | {group})])


def _read_items(source: dict[str, Any], domain: str) -> Iterable[DemoItem]:
    for interest in source["interest"]:
        for thread in interest["thread"]:
            for line in thread[domain].splitlines():
                title, *others = (part.strip() for part in line.split("@"))
                threads = (f"{interest['name']}/{thread['name']}", *others)
                yield DemoItem(item_id(domain, interest["name"], title), title, domain, threads)
    for title in source["neutral"][domain].splitlines():
        yield DemoItem(item_id(domain, "staple", title), title, domain, ())


def _members(items: Sequence[DemoItem], thread: str | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Groceries and kitchenware of a thread, its own before those it borrows; None for the neutral ones."""
    found = [n for n, item in enumerate(items) if (thread in item.threads if thread else not item.threads)]
    # sorted is stable, so the order of the file stays within its own and within the borrowed ones
    found = sorted(found, key=lambda n: thread is not None and items[n].threads[0] != thread)
    groceries, kitchenware = (tuple(n for n in found if items[n].domain == domain) for domain in DOMAINS)
    return groceries, kitchenware


def _check(items: Sequence[DemoItem], interests: Sequence[dict[str, Any]]) -> None:
    threads = {
        f"{interest['name']}/{thread['name']}" for interest in interests for thread in interest["thread"]
    }
    seen: dict[str, str] = {}
    for item in items:
        if item.id in seen:
            raise DataError(f"{_SOURCE}: {item.title!r} and {seen[item.id]!r} make one id, {item.id!r}")
        seen[item.id] = item.title
        for thread in item.threads:
            if thread not in threads:
                raise DataError(f"{_SOURCE}: {item.title!r} is put into {thread!r}, which is no thread")
