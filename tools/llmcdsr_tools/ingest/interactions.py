"""An items file and an interactions file, read into integer codes and arrays.

The items file has an item id, a domain and a title a record; the interactions file a user id, an item
id and a timestamp, and maybe a domain, which must then agree with the items file. See `records` for
the formats. Ten million interactions take 16 bytes each and one string a user.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.config import MAX_DOMAINS
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.ingest.records import ABSENT, read_records
from llmcdsr_tools.ingest.settings import Columns
from llmcdsr_tools.ingest.timestamps import Timestamps

PROGRESS_EVERY = 1 << 17


@dataclass(frozen=True)
class ItemTable:
    """The items, domain after domain; each item's code is its position.

    Parameters
    ----------
    ids, titles : list of str
        Id and title of every item; a title of white space is made empty.
    domains : tuple of str
        Names of the domains.
    stops : tuple of int
        Of each domain, the code after that of its last item.
    code_of : dict of str to int
        Code of every id.
    """

    ids: list[str]
    titles: list[str]
    domains: tuple[str, ...]
    stops: tuple[int, ...]
    code_of: dict[str, int]

    def domain_of(self, code: int) -> str:
        """Name of the domain of an item."""
        return self.domains[bisect_right(self.stops, code)]


@dataclass(frozen=True)
class InteractionTable:
    """The interactions in file order.

    Parameters
    ----------
    users, items : int32 array (interactions,)
        Codes of user and item.
    times : int64 or float64 array (interactions,)
        Seconds since 1970 where the file has dates, else its numbers; int64 if all of them are whole.
    user_ids : list of str
        Id of every user code, in order of first appearance.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    times: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    user_ids: list[str]


def read_items(path: Path, columns: Columns, domains: tuple[str, ...] | None = None) -> ItemTable:
    """Read an items file.

    Parameters
    ----------
    path : Path
        CSV, TSV or JSON Lines with the columns item, domain and title.
    columns : Columns
        Names of the columns.
    domains : tuple of str, optional
        Names of the domains as the domain column has them; by default all that it has, in order of
        appearance.

    Raises
    ------
    DataError
        If the file is not as described, an item id is empty or listed twice, a domain is none of those
        named, or one of them has no item.
    """
    ids: dict[str, list[str]] = {name: [] for name in domains or ()}
    titles: dict[str, list[str]] = {name: [] for name in domains or ()}
    line_of: dict[str, int] = {}
    with closing(read_records(path, (columns.item, columns.domain, columns.title))) as records:
        for line, (item, domain, title) in records:
            if domain not in ids:
                if domains is not None:
                    raise DataError(f"{path}:{line}: {_other_domain(domain, domains)}")
                if not domain.strip():
                    raise DataError(f"{path}:{line}: the domain is empty")
                if len(ids) == MAX_DOMAINS:
                    raise DataError(
                        f"{path}:{line}: {domain!r:.60} is one domain more than {MAX_DOMAINS}, the most that "
                        "there may be; give each item one of fewer"
                    )
                ids[domain], titles[domain] = [], []
            if not item or item.isspace():
                raise DataError(f"{path}:{line}: the item id is empty")
            first = line_of.setdefault(item, line)
            if first != line:
                how = "listed twice" if item in ids[domain] else "in two domains"
                raise DataError(f"{path}:{line}: item {item!r:.60} is {how}; it was first on line {first}")
            ids[domain].append(item)
            titles[domain].append("" if title.isspace() else title)
    for name, of_domain in ids.items():
        if not of_domain:
            raise DataError(f"{path}: no item of domain {name!r}")
    if not ids:
        raise DataError(f"{path}: no items after the header")
    all_ids = list(chain.from_iterable(ids.values()))
    return ItemTable(
        all_ids,
        list(chain.from_iterable(titles.values())),
        tuple(ids),
        tuple(accumulate(map(len, ids.values()))),
        {item: code for code, item in enumerate(all_ids)},
    )


def read_interactions(
    path: Path,
    items: ItemTable,
    columns: Columns,
    progress: Callable[[int], None] | None = None,
) -> InteractionTable:
    """Read an interactions file.

    Parameters
    ----------
    path : Path
        CSV, TSV or JSON Lines with the columns user, item and timestamp, and maybe domain.
    items : ItemTable
        What `read_items` returned.
    columns : Columns
        Names of the columns.
    progress : callable, optional
        Called now and then, and at the end, with the number of interactions read.

    Raises
    ------
    DataError
        If the file is not as described, a user id is empty, an item is not in the items file or in
        another domain there, a timestamp is not one or of another kind than those before, or there is no
        interaction.
    """
    users, codes, times = array("i"), array("i"), Timestamps()
    user_codes: dict[str, int] = {}
    wanted = (columns.user, columns.item, columns.timestamp)
    with closing(read_records(path, wanted, (columns.domain,))) as records:
        for line, (user, item, when, domain) in records:
            try:
                codes.append(_item_code(items, item, domain))
                users.append(_user_code(user_codes, user))
                times.append(when, line)
            except ValueError as error:
                raise DataError(f"{path}:{line}: {error}") from None
            if progress is not None and not len(times) % PROGRESS_EVERY:
                progress(len(times))
    if not len(times):
        raise DataError(f"{path}: no interactions after the header")
    if progress is not None:
        progress(len(times))
    # the arrays share the memory of the buffers: nothing is copied
    return InteractionTable(
        np.frombuffer(users, dtype=np.int32),
        np.frombuffer(codes, dtype=np.int32),
        times.array(),
        list(user_codes),
    )


def _item_code(items: ItemTable, item: str, domain: str) -> int:
    """Code of an item that must be in the items file, and there in this domain."""
    code = items.code_of.get(item)
    if code is None:
        raise ValueError(
            f"item {item!r:.60} is not in the items file" if item.strip() else "the item id is empty"
        )
    expected = items.domain_of(code)
    if domain != expected and domain != ABSENT:
        if domain not in items.domains:
            raise ValueError(_other_domain(domain, items.domains))
        raise ValueError(
            f"item {item!r:.60} with domain {domain!r:.60}, but the items file has it in {expected!r}"
        )
    return code


def _user_code(user_codes: dict[str, int], user: str) -> int:
    """Code of a user, a new one at the first appearance."""
    code = user_codes.get(user)
    if code is None:
        if not user or user.isspace():
            raise ValueError("the user id is empty")
        user_codes[user] = code = len(user_codes)
    return code


def _other_domain(domain: str, domains: tuple[str, ...]) -> str:
    return f"domain {domain!r:.60}, expected {' or '.join(map(repr, domains))}"
