"""From what a caller says to rows: arguments checked, ids looked up, filters made."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from llmcdsr_lite.catalogue import Catalogue, Domain, Ranges, joined_ranges
from llmcdsr_lite.errors import UnknownItemError, UsageError
from llmcdsr_lite.search.protocol import Rows

Asked = Literal["auto", "off"] | Sequence[str]  # pseudo items of one user: by the mix, none, or by names
UnknownPolicy = Literal["skip", "error"]
_UNKNOWN_POLICIES = get_args(UnknownPolicy)  # to ask for them costs more than the check
_NO_ROWS = np.zeros(0, dtype=np.int64)
MAX_THREADS = 256  # thousands keep onnxruntime busy starting them


@dataclass(frozen=True, eq=False)
class Request:
    """Items that may be recommended, and how many; the same for all users of a call.

    Parameters
    ----------
    k : int
        Items a user, no more than the catalogue has.
    domains : tuple of Domain
        Those that are asked for, in order.
    ranges : tuple of (int, int)
        Their rows, ``start <= row < stop``.
    allowed : int64 array, optional
        Nothing but these, sorted and distinct.
    excluded : int64 array
        None of these.
    seen : tuple of (int, int)
        Nothing of the history whose row is in one of these ranges. Pseudo items are not of it: they may be
        recommended.
    unknown : tuple of str
        Ids of the filters that are not in the catalogue.
    """

    k: int
    domains: tuple[Domain, ...]
    ranges: Ranges
    allowed: Rows | None
    excluded: Rows
    seen: Ranges
    unknown: tuple[str, ...]

    @property
    def bounds(self) -> tuple[int, int]:
        """First row asked for, and the one after the last."""
        return self.ranges[0][0], self.ranges[-1][1]

    def blocked(self, history: Rows) -> Rows:
        """Rows that a user with this history must not get."""
        if not self.seen:
            return self.excluded
        start, stop = self.bounds
        first, last = self.seen[0]
        if len(self.seen) > 1 or first > start or last < stop:
            history = history[np.any([(history >= a) & (history < b) for a, b in self.seen], axis=0)]
        return np.concatenate([history, self.excluded]) if len(self.excluded) else history


@dataclass(frozen=True, eq=False)
class ItemFilter:
    """Items that may be recommended, looked up once; see `Recommender.filter`.

    Parameters
    ----------
    rows : int64 array (m,)
        Item rows, sorted and distinct.
    unknown : tuple of str
        Ids that are not in the catalogue.
    catalogue : Catalogue
        That the rows are of.
    """

    rows: Rows
    unknown: tuple[str, ...]
    catalogue: Catalogue

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<ItemFilter: {len(self):,} of {len(self.catalogue):,} items>"


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the choices."""
    if value not in choices:
        raise UsageError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def whole_number(name: str, value: Any) -> int:
    """The argument `name` as an int; refuses what is none, truth values too."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"{name} is {value!r:.60}, expected a whole number")


def checked_threads(threads: Any) -> int:
    """Return the number of threads, if it is within bounds."""
    number = whole_number("threads", threads)
    if not 1 <= number <= MAX_THREADS:
        raise UsageError(f"threads must be from 1 to {MAX_THREADS}, found {number}")
    return number


def known_rows(
    catalogue: Catalogue, name: str, item_ids: Iterable[str], unknown: UnknownPolicy
) -> tuple[Rows, list[str]]:
    """Rows of the known ids, and the unknown ids, of the argument `name`."""
    check_choice("unknown", unknown, _UNKNOWN_POLICIES)
    ids = listed(name, item_ids, "item ids")
    try:
        rows, missing = catalogue.rows(ids)
    except TypeError:  # something that has no hash
        rows, missing = _NO_ROWS, ids
    if not missing:
        return rows, missing
    if not all(isinstance(unknown_id, str) for unknown_id in missing):  # known ids are strings
        rows, missing = catalogue.rows([item_id(name, value) for value in ids])
    if unknown == "error":
        raise UnknownItemError(f"{name}: item {missing[0]!r} is not in the catalogue")
    return rows, missing


def history_rows(
    catalogue: Catalogue, name: str, history: Iterable[str], unknown: UnknownPolicy
) -> tuple[Rows, list[str]]:
    """Rows of the known ids, and the unknown ids, of the history `name`, oldest first."""
    if isinstance(history, set | frozenset):
        raise UsageError(f"{name} is a set, which has no order; expected a sequence of item ids")
    return known_rows(catalogue, name, history, unknown)


def item_id(name: str, value: Any) -> str:
    """An item id of the argument `name`: a string, or a whole number for the string that it is written as."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(value)
    raise UsageError(f"{name} holds {value!r:.60}, expected item ids, strings or whole numbers")


def item_ids(name: str, items: Any) -> list[str]:
    """Ids of the argument `name`, which is an item id or a sequence of one or more."""
    ids = [items] if isinstance(items, str | int | np.integer) else listed(name, items, "item ids")
    if not ids:
        raise UsageError(f"{name} names no item, expected one at least")
    return [item_id(name, value) for value in ids]


def listed(name: str, values: Any, what: str) -> list[Any]:
    """The values of the argument `name`, which must be a sequence, and not one string."""
    if isinstance(values, str | bytes):
        raise UsageError(f"{name} is one string, expected a sequence of {what}")
    try:
        iterator = iter(values)
    except TypeError:
        raise UsageError(f"{name} is {values!r:.60}, expected a sequence of {what}") from None
    return list(iterator)


def known_rows_of_each(
    catalogue: Catalogue, histories: Iterable[Sequence[str]], unknown: UnknownPolicy
) -> tuple[list[Rows], tuple[tuple[str, ...], ...]]:
    """Rows of the known ids, and the unknown ids, of each history."""
    each = listed("histories", histories, "histories")
    pairs = [history_rows(catalogue, f"history {n}", history, unknown) for n, history in enumerate(each)]
    return [rows for rows, _ in pairs], tuple(tuple(missing) for _, missing in pairs)


def item_filter(
    catalogue: Catalogue,
    allow: Iterable[str] | ItemFilter | None,
    exclude: Iterable[str] | None,
    unknown: UnknownPolicy,
) -> ItemFilter:
    """Items that are allowed and not excluded."""
    allowed, excluded, missing = _filter_rows(catalogue, allow, exclude, unknown)
    rows = np.arange(1, len(catalogue) + 1) if allowed is None else allowed
    return ItemFilter(np.setdiff1d(rows, excluded), missing, catalogue)


def checked_request(
    catalogue: Catalogue,
    k: int,
    domain: str | Iterable[str] | None,
    allow: Iterable[str] | ItemFilter | None,
    exclude: Iterable[str] | None,
    unknown: UnknownPolicy = "skip",
    *,
    exclude_seen: bool | None = None,
    seen_by_default: Ranges = (),
) -> Request:
    """Check the arguments of `Recommender.recommend` and look up their names.

    `seen_by_default` are the ranges of rows of which items of a history are left out where `exclude_seen` is
    None.
    """
    number = whole_number("k", k)
    if number < 1:
        raise UsageError(f"k must be at least 1, found {number}")
    domains = _checked_domains(catalogue, domain)
    allowed, excluded, missing = _filter_rows(catalogue, allow, exclude, unknown)
    if exclude_seen not in (None, True, False):
        raise UsageError(f"exclude_seen is {exclude_seen!r:.60}, expected True, False or None")
    everything = ((1, len(catalogue) + 1),)
    seen = seen_by_default if exclude_seen is None else everything if exclude_seen else ()
    k = min(number, len(catalogue))
    return Request(k, domains, joined_ranges(domains), allowed, excluded, seen, missing)


def _checked_domains(catalogue: Catalogue, domain: str | Iterable[str] | None) -> tuple[Domain, ...]:
    """Domain of that name, or those of several names, in order; all of them for None."""
    if domain is None:
        return catalogue.domains
    if isinstance(domain, str):
        return (catalogue.domain(domain),)
    named = {catalogue.domain(name) for name in listed("domain", domain, "names of domains")}
    if not named:
        raise UsageError("domain names no domain, expected one at least, or None for all")
    return tuple(one for one in catalogue.domains if one in named)


def _filter_rows(
    catalogue: Catalogue,
    allow: Iterable[str] | ItemFilter | None,
    exclude: Iterable[str] | None,
    unknown: UnknownPolicy,
) -> tuple[Rows | None, Rows, tuple[str, ...]]:
    """Rows of `allow`, sorted and distinct, or None for all; rows of `exclude`; the unknown ids of both."""
    allowed, excluded = None, _NO_ROWS
    missing: Sequence[str] = ()
    if isinstance(allow, ItemFilter):
        if allow.catalogue is not catalogue:
            raise UsageError("allow is a filter of another recommender; make it with this one's `filter`")
        allowed, missing = allow.rows, allow.unknown
    elif allow is not None:
        rows, missing = known_rows(catalogue, "allow", allow, unknown)
        allowed = np.unique(rows)
    if exclude is not None:
        excluded, others = known_rows(catalogue, "exclude", exclude, unknown)
        missing = [*missing, *others]
    return allowed, excluded, tuple(missing)


def asked_pseudo(name: str, pseudo: Any) -> Asked:
    """Check the argument `name` for one user: "auto", "off" or names."""
    if isinstance(pseudo, str):
        if pseudo not in ("auto", "off"):
            raise UsageError(f"{name} is {pseudo!r}, expected 'auto', 'off' or a list of names")
        return pseudo
    names = listed(name, pseudo, "names")
    if not all(isinstance(one, str) for one in names):
        raise UsageError(f"{name} holds something that is not a string, expected a list of names")
    return names


def asked_of_each(pseudo: Literal["auto", "off"] | Sequence[Asked], n: int) -> list[Asked]:
    """Check the argument `pseudo`, for each of n users."""
    if isinstance(pseudo, str):
        return [asked_pseudo("pseudo", pseudo)] * n
    each = listed("pseudo", pseudo, "'auto', 'off' or names, one for each history")
    asked = [asked_pseudo(f"pseudo of history {i}", one) for i, one in enumerate(each)]
    if len(asked) != n:
        raise UsageError(f"pseudo is for {len(asked)} histories, found {n}")
    return asked
