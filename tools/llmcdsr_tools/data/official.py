"""The layout of the data that the authors of LLMCDSR published: a folder of text files and pickles.

==================== ==========================================================================
file                 content
==================== ==========================================================================
num.txt              number of items in domain A, number in domain B, one a line
item_set_A.pkl, _B   dict of item id to its position in the domain, 0-based
text_A.pkl, _B       dict of item id to title; an item that is missing has no title
train_A.txt, _B      users of one domain: ``user<TAB>i,j,k``, oldest item first; items are 0-based,
                     those of B come after those of A
train_overlap.txt    users of both domains, the same way
valid.txt, test.txt  held-out users, the same way; their last item is the target
==================== ==========================================================================

A line ends in LF, the last one may go without. User numbers start again in every file, so a user's id
becomes the file's name and the number: ``train_A/1``. Item rows follow the numbering of the files:
row = number + 1. The pickles are read without ever running code (see `plain_pickle`).
"""

from __future__ import annotations

import io
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite.bundle.files import is_utf8
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.plain_pickle import read_plain_pickle

TRAIN_FILES = ("train_A.txt", "train_B.txt", "train_overlap.txt")
TEXT_FILES = ("num.txt", *TRAIN_FILES, "valid.txt", "test.txt")
PICKLES = ("item_set_A.pkl", "item_set_B.pkl", "text_A.pkl", "text_B.pkl")

_ITEMS = re.compile(r"[0-9]{1,9}(?:,[0-9]{1,9})*", re.ASCII)


@dataclass(frozen=True)
class _Rule:
    """What the items of one file must be."""

    start: int  # first item number allowed
    stop: int  # first item number beyond
    both_domains: bool  # whether each history must have items of A and of B
    least: int  # fewest items of a history
    what: str  # for messages: the items that belong here


def is_official(source: object) -> bool:
    """Whether a source is a folder with files of the official layout."""
    if not isinstance(source, (str, Path)):
        return False
    return any((Path(source) / name).is_file() for name in (*TEXT_FILES, *PICKLES))


def read_official(folder: Path, domains: tuple[str, str] = ("A", "B")) -> tuple[Dataset, int]:
    """Read a folder in the official layout. All items are kept, all users, and the splits as they are.

    Parameters
    ----------
    folder : Path
        The folder.
    domains : tuple of two str
        Names for domain A and domain B; the layout itself has none.

    Returns
    -------
    dataset : Dataset
    stray_titles : int
        Titles of items that are in no item set, which are passed over.

    Raises
    ------
    DataError
        If a file is missing or not as described above, or no title of a domain is of one of its items;
        the message names the file and the line.
    """
    missing = [name for name in (*TEXT_FILES, *PICKLES) if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: not the official layout, it has no {', '.join(missing)}")
    n_a, n_b = sizes = _read_sizes(folder / "num.txt")
    catalogue, stray_titles = _read_catalogue(folder, domains, sizes)
    only_a = _Rule(0, n_a, False, 1, f"items of A, 0..{n_a - 1}")
    only_b = _Rule(n_a, n_a + n_b, False, 1, f"items of B, {n_a}..{n_a + n_b - 1}")
    both = _Rule(0, n_a + n_b, True, 2, f"items 0..{n_a + n_b - 1}")
    held_out = _Rule(0, n_a + n_b, False, 2, both.what)
    packer = _Packer(boundary=n_a)
    for name, rule in zip(TRAIN_FILES, (only_a, only_b, both), strict=True):
        packer.read(folder / name, rule)
    train = packer.pack()
    packer.read(folder / "valid.txt", held_out)
    valid = packer.pack()
    packer.read(folder / "test.txt", held_out)
    return Dataset(catalogue, train, valid, packer.pack()), stray_titles


class _Packer:
    """Reads history files one after another; `pack` hands over what has come together since the last time."""

    def __init__(self, boundary: int) -> None:
        self.boundary = boundary
        self._start_over()

    def _start_over(self) -> None:
        self.rows = array("i")
        self.offsets = array("q", [0])
        self.users: list[str] = []

    def read(self, path: Path, rule: _Rule) -> None:
        line_of: dict[str, int] = {}
        for line, user, items in _read_lines(path):
            first = line_of.setdefault(user, line)
            if first != line:
                raise DataError(f"{path}:{line}: user {user!r} again; it was first on line {first}")
            _check_items(path, line, items, rule, self.boundary)
            self.rows.extend(item + 1 for item in items)
            self.offsets.append(len(self.rows))
            self.users.append(f"{path.stem}/{user}")

    def pack(self) -> Histories:
        packed = Histories(
            np.frombuffer(self.rows, dtype=np.int32),
            np.frombuffer(self.offsets, dtype=np.int64),
            self.users,
        )
        self._start_over()
        return packed


def _read_lines(path: Path) -> Iterator[tuple[int, str, list[int]]]:
    """Line number, user and items of every line."""
    line = 0
    with _open_binary(path) as stream:
        for line, raw in enumerate(stream, 1):
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{path}:{line}: not UTF-8 text") from None
            if line == 1 and text.startswith("\ufeff"):
                raise DataError(f"{path}:1: starts with a byte order mark, expected none; take it off")
            if text.endswith("\r\n"):
                raise DataError(f"{path}:{line}: ends in CRLF, expected LF; convert the line ends")
            fields = text.removesuffix("\n").split("\t")
            if len(fields) != 2:
                raise DataError(f"{path}:{line}: {len(fields)} fields, expected 2: user, tab, items")
            user, items = fields
            if not user.strip() or "\0" in user:
                raise DataError(f"{path}:{line}: the user id is empty or holds a NUL byte")
            if not _ITEMS.fullmatch(items):
                bad = next((i for i in items.split(",") if not _ITEMS.fullmatch(i)), items)
                raise DataError(f"{path}:{line}: item {bad[:50]!r}, expected numbers with commas between")
            yield line, user, [int(item) for item in items.split(",")]
    if not line:
        raise DataError(f"{path}: the file is empty")


def _check_items(path: Path, line: int, items: list[int], rule: _Rule, boundary: int) -> None:
    lowest, highest = min(items), max(items)
    if lowest < rule.start or highest >= rule.stop:
        bad = lowest if lowest < rule.start else highest
        raise DataError(f"{path}:{line}: item {bad} does not belong here, expected {rule.what}")
    if rule.both_domains and not lowest < boundary <= highest:
        raise DataError(f"{path}:{line}: items of one domain only, expected both: these are overlapped users")
    if len(items) < rule.least:
        raise DataError(f"{path}:{line}: 1 item, expected a history and its target")


def _read_sizes(path: Path) -> tuple[int, int]:
    with _open_binary(path) as stream:
        text = stream.read(1000).decode("utf-8", errors="replace")
    lines = [line.rstrip(" \t") for line in text.removesuffix("\n").split("\n")] if text else []
    for number, line in enumerate(lines, 1):
        if not re.fullmatch(r"[1-9][0-9]{0,8}", line, re.ASCII):
            raise DataError(f"{path}:{number}: {line[:50]!r}, expected a number of items, 1 or more")
    if len(lines) != 2:
        raise DataError(f"{path}: {len(lines)} lines, expected 2: the number of items in A, and in B")
    return int(lines[0]), int(lines[1])


def _read_catalogue(folder: Path, domains: tuple[str, str], sizes: tuple[int, int]) -> tuple[Catalogue, int]:
    """The items, and how many titles are of none of them."""
    ids: list[str] = []
    titles: list[str] = []
    stray = 0
    for letter, size in zip("AB", sizes, strict=True):
        path = folder / f"item_set_{letter}.pkl"
        in_order = _read_item_set(path, size)
        if letter == "B" and (shared := set(ids).intersection(in_order)):
            raise DataError(f"{path}: item {min(shared)!r} is in item_set_A.pkl too")
        title_of = _read_titles(folder / f"text_{letter}.pkl")
        n_found = sum(item in title_of for item in in_order)
        if title_of and not n_found:
            raise DataError(
                f"{folder / f'text_{letter}.pkl'}: none of its {len(title_of):,} item ids is in {path.name}; "
                f"found {next(iter(title_of))!r:.60}, expected ids such as {in_order[0]!r:.60}"
            )
        stray += len(title_of) - n_found
        ids += in_order
        titles += [title_of.get(item, "") for item in in_order]
    titles = ["" if title.isspace() else title for title in titles]
    return Catalogue.from_sizes(ids, titles, domains, sizes), stray


def _read_item_set(path: Path, size: int) -> list[str]:
    """Item ids in order of their position."""
    positions = read_plain_pickle(path)
    if len(positions) != size:
        raise DataError(f"{path}: {len(positions):,} items, expected {size:,} as num.txt has it")
    in_order: list[str | None] = [None] * size
    for item, position in positions.items():
        _check_text(path, "item id", item)
        if type(position) is not int or not 0 <= position < size:
            raise DataError(f"{path}: item {item!r} has position {position!r:.50}, expected 0..{size - 1}")
        if in_order[position] is not None:
            raise DataError(
                f"{path}: items {in_order[position]!r} and {item!r} both have position {position}"
            )
        in_order[position] = item
    return [item for item in in_order if item is not None]


def _read_titles(path: Path) -> dict[str, str]:
    title_of = read_plain_pickle(path)
    for item, title in title_of.items():
        _check_text(path, "item id", item)
        if title:
            _check_text(path, f"title of item {item!r}", title)
        elif title != "":
            raise DataError(f"{path}: title of item {item!r} is {title!r:.50}, expected text")
    return title_of


def _check_text(path: Path, what: str, value: Any) -> None:
    if not isinstance(value, str) or not value or not is_utf8(value):
        raise DataError(f"{path}: {what} is {value!r:.50}, expected text")


@contextmanager
def _open_binary(path: Path) -> Iterator[io.BufferedReader]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
