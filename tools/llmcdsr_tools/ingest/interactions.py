"""An items file and an interactions file, read into integer codes and arrays.

The items file has an item id, a domain and a title a record; the interactions file a user id, an item
id and a timestamp, and maybe a domain, which must then agree with the items file. See `records` for
the formats. Ten million interactions take 16 bytes each and one string a user.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.ingest.records import ABSENT, read_records

PROGRESS_EVERY = 1 << 17
MAX_TIME = 1e300  # nothing real comes near; comparing with it refuses NaN and the infinities at once


@dataclass(frozen=True)
class Columns:
    """Names of the columns (in JSON Lines, of the fields) that hold what is wanted."""

    user: str = "user"
    item: str = "item"
    domain: str = "domain"
    timestamp: str = "timestamp"
    title: str = "title"

    def __post_init__(self) -> None:
        for wanted in (
            (self.user, self.item, self.domain, self.timestamp),
            (self.item, self.domain, self.title),
        ):
            if len(set(wanted)) != len(wanted):
                raise DataError(f"columns: one name stands for two columns: {', '.join(wanted)}")


@dataclass(frozen=True)
class ItemTable:
    """The items, those of domain A first; each item's code is its position.

    Parameters
    ----------
    ids, titles : list of str
        Id and title of every item; a title of white space is made empty.
    n_a : int
        Number of items in domain A.
    code_of : dict of str to int
        Code of every id.
    """

    ids: list[str]
    titles: list[str]
    n_a: int
    code_of: dict[str, int]


@dataclass(frozen=True)
class InteractionTable:
    """The interactions in file order.

    Parameters
    ----------
    users, items : int32 array (interactions,)
        Codes of user and item.
    times : float64 array (interactions,)
        Seconds since 1970 where the file had dates, else the numbers of the file.
    user_ids : list of str
        Id of every user code, in order of first appearance.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    times: npt.NDArray[np.float64]
    user_ids: list[str]


def read_items(path: Path, columns: Columns, domains: tuple[str, str]) -> ItemTable:
    """Read an items file.

    Parameters
    ----------
    path : Path
        CSV, TSV or JSON Lines with the columns item, domain and title.
    columns : Columns
        Names of the columns.
    domains : tuple of two str
        What stands in the domain column for domain A and for domain B.

    Raises
    ------
    DataError
        If the file is not as described, an item id is empty or listed twice, a domain is none of the
        two, or one of them has no item.
    """
    ids: tuple[list[str], list[str]] = ([], [])
    titles: tuple[list[str], list[str]] = ([], [])
    line_of: dict[str, int] = {}
    number_of = {name: number for number, name in enumerate(domains)}
    with closing(read_records(path, (columns.item, columns.domain, columns.title))) as records:
        for line, (item, domain, title) in records:
            number = number_of.get(domain)
            if number is None:
                raise DataError(f"{path}:{line}: {_other_domain(domain, domains)}")
            if not item or item.isspace():
                raise DataError(f"{path}:{line}: the item id is empty")
            first = line_of.setdefault(item, line)
            if first != line:
                how = "listed twice" if item in ids[number] else "in both domains"
                raise DataError(f"{path}:{line}: item {item!r} is {how}; it was first on line {first}")
            ids[number].append(item)
            titles[number].append("" if title.isspace() else title)
    for number, name in enumerate(domains):
        if not ids[number]:
            raise DataError(f"{path}: no item of domain {name!r}")
    all_ids = ids[0] + ids[1]
    return ItemTable(all_ids, titles[0] + titles[1], len(ids[0]), {i: code for code, i in enumerate(all_ids)})


def read_interactions(
    path: Path,
    items: ItemTable,
    columns: Columns,
    domains: tuple[str, str],
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
    domains : tuple of two str
        What stands in the domain column for domain A and for domain B.
    progress : callable, optional
        Called now and then, and at the end, with the number of interactions read.

    Raises
    ------
    DataError
        If the file is not as described, a user id is empty, an item is not in the items file or in
        another domain there, a timestamp is not one, or there is no interaction.
    """
    users, codes, times = array("i"), array("i"), array("d")
    user_codes: dict[str, int] = {}
    code_of, n_a = items.code_of, items.n_a
    wanted = (columns.user, columns.item, columns.timestamp)
    with closing(read_records(path, wanted, (columns.domain,))) as records:
        for line, (user, item, when, domain) in records:
            code = code_of.get(item)
            if code is None:
                what = f"item {item!r} is not in the items file" if item.strip() else "the item id is empty"
                raise DataError(f"{path}:{line}: {what}")
            if domain != ABSENT and domain != domains[code >= n_a]:
                raise DataError(
                    f"{path}:{line}: {_wrong_domain(item, domain, domains, domains[code >= n_a])}"
                )
            user_code = user_codes.get(user)
            if user_code is None:
                if not user or user.isspace():
                    raise DataError(f"{path}:{line}: the user id is empty")
                user_codes[user] = user_code = len(user_codes)
            try:
                times.append(parse_time(when))
            except ValueError as error:
                raise DataError(f"{path}:{line}: {error}") from None
            users.append(user_code)
            codes.append(code)
            if progress is not None and not len(times) % PROGRESS_EVERY:
                progress(len(times))
    if not times:
        raise DataError(f"{path}: no interactions after the header")
    if progress is not None:
        progress(len(times))
    # the arrays share the memory of the buffers: nothing is copied
    return InteractionTable(
        np.frombuffer(users, dtype=np.int32),
        np.frombuffer(codes, dtype=np.int32),
        np.frombuffer(times, dtype=np.float64),
        list(user_codes),
    )


def parse_time(text: str) -> float:
    """Time that a timestamp stands for.

    A number is taken as it is, in whatever unit the file counts (so ``20240131`` is a number, not a
    date); all else must be ISO 8601 and becomes seconds since 1970, in UTC where it names no zone.
    Kept as float64: whole numbers are exact up to 2**53, dates to the microsecond.

    Raises
    ------
    ValueError
        If the text is neither, or not finite.
    """
    try:
        time = float(text)
    except ValueError:
        return _parse_date(text)
    if not -MAX_TIME < time < MAX_TIME:
        raise ValueError(f"timestamp {text!r} is not finite")
    if "_" in text:  # Python's own way to group digits, in no file format
        raise ValueError(_not_a_time(text))
    return time


def _parse_date(text: str) -> float:
    try:
        date = datetime.fromisoformat(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(_not_a_time(text)) from None


def _not_a_time(text: str) -> str:
    return f"timestamp {text!r} is neither a number nor an ISO 8601 date"


def _other_domain(domain: str, domains: tuple[str, str]) -> str:
    return f"domain {domain!r}, expected {domains[0]!r} or {domains[1]!r}"


def _wrong_domain(item: str, domain: str, domains: tuple[str, str], expected: str) -> str:
    if domain not in domains:
        return _other_domain(domain, domains)
    return f"item {item!r} with domain {domain!r}, but the items file has it in {expected!r}"
