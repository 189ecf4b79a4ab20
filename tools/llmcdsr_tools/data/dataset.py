"""A data set in memory: a catalogue, and the histories of the three splits.

Item rows: 0 is padding and never occurs, the first domain begins at 1, each other one after the one before.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import UsageError

Split = Literal["train", "valid", "test"]
Positions = Literal["last", "every"]
SPLITS: tuple[Split, ...] = get_args(Split)

MIN_HELD_OUT = 2
"""Items a held-out history needs: one to see and the target."""


@dataclass(frozen=True, repr=False)
class Histories:
    """The histories of one split, packed.

    Parameters
    ----------
    rows : int32 array (interactions,)
        Item rows of all histories one after the other, each oldest item first.
    offsets : int64 array (users + 1,)
        History u is ``rows[offsets[u]:offsets[u + 1]]``.
    users : sequence of str
        User ids.
    """

    rows: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    users: Sequence[str]

    @classmethod
    def from_lists(cls, histories: Sequence[Sequence[int]], users: Sequence[str]) -> Histories:
        """Pack a list of histories."""
        offsets = np.zeros(len(histories) + 1, dtype=np.int64)
        np.cumsum([len(h) for h in histories], out=offsets[1:])
        rows = np.fromiter((row for h in histories for row in h), dtype=np.int32, count=int(offsets[-1]))
        return cls(rows, offsets, list(users))

    def __repr__(self) -> str:
        return f"<Histories: {len(self):,} users, {len(self.rows):,} interactions>"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> npt.NDArray[np.int32]:
        return self.rows[self.offsets[user] : self.offsets[user + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[np.int32]]:
        return (self[user] for user in range(len(self)))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Length of every history (users,)."""
        return np.diff(self.offsets)

    def counts(self, catalogue: Catalogue) -> npt.NDArray[np.int64]:
        """Items of every history in each domain (users, domains)."""
        counts = np.zeros((len(self), len(catalogue.domains)), dtype=np.int64)
        for number, domain in enumerate(catalogue.domains):
            # prefix sums rather than reduceat: they are right for empty histories too
            upto = np.zeros(len(self.rows) + 1, dtype=np.int64)
            np.cumsum((self.rows >= domain.start) & (self.rows < domain.stop), out=upto[1:])
            counts[:, number] = upto[self.offsets[1:]] - upto[self.offsets[:-1]]
        return counts

    def has_domains(self, catalogue: Catalogue) -> npt.NDArray[np.bool_]:
        """Whether every history has items of each domain (users, domains)."""
        return self.counts(catalogue) > 0

    def overlapped(self, catalogue: Catalogue) -> npt.NDArray[np.int64]:
        """Users with items of more than one domain."""
        return np.flatnonzero(self.has_domains(catalogue).sum(axis=1) > 1)


@dataclass(frozen=True, repr=False)
class Dataset:
    """A catalogue and the histories of the three splits.

    Parameters
    ----------
    catalogue : Catalogue
    train, valid, test : Histories
        The last item of those in `valid` and `test` is a target.
    test_positions : {"last", "every"}
        The targets of `test`: the last item of each history, or every item that earlier splits do not have.
    notes : tuple of str
        What `from_interactions` found worth telling; not saved.
    """

    catalogue: Catalogue
    train: Histories
    valid: Histories
    test: Histories
    test_positions: Positions = "last"
    notes: tuple[str, ...] = ()

    @classmethod
    def from_interactions(
        cls, events: Any, items: Any = None, *, columns: Mapping[str, str] | None = None, **settings: Any
    ) -> Dataset:
        """Read interactions, filter and split them.

        Parameters
        ----------
        events : str, Path, Query, DataFrame or Arrow data
            Files of CSV, TSV, JSON Lines or Parquet, by path, glob or folder; a query; or a frame, table or
            relation of pandas, polars, Arrow or DuckDB. Columns user, item and timestamp, by these names or
            their usual aliases.
        items : the same, optional
            Columns item, domain and title; without it they are columns of the events.
        columns : mapping of str to str, optional
            Names of columns that are called otherwise, such as ``{"user": "shopper"}``.
        **settings
            Fields of `IngestSettings`: `domains`, `where`, `core`, `split` and so on.

        Raises
        ------
        DataError
            If a source cannot be read, a record of it cannot be taken, or nothing is left.
        UsageError
            If an argument cannot be meant.

        Examples
        --------
        >>> Dataset.from_interactions("events.parquet", items="items.csv", domains=("food", "kitchen"))
        ... # doctest: +SKIP
        """
        from llmcdsr_tools.data.ingest_settings import Columns, IngestSettings
        from llmcdsr_tools.data.ingestion import read_dataset
        from llmcdsr_tools.setting_fields import from_keywords

        if not isinstance(columns, Mapping | None):
            raise UsageError(f"columns is {columns!r:.60}, expected a mapping such as {{'user': 'shopper'}}")
        named = from_keywords(Columns, columns or {}, [f.name for f in fields(Columns)])
        known = ["events", "items", *(f.name for f in fields(IngestSettings))]
        chosen = from_keywords(IngestSettings, {"columns": named, **settings}, known)
        result = read_dataset(events, items=items, settings=chosen)
        return replace(result.dataset, notes=tuple(result.warnings))

    def describe(self) -> str:
        """What is in it, as a table to read."""
        from llmcdsr_tools.data.dataset_summary import format_summary

        return "\n".join([format_summary(self), *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.describe())}</pre>"

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write a data set folder, see `save_dataset`."""
        from llmcdsr_tools.data.dataset_folder import save_dataset

        save_dataset(self, folder, overwrite=overwrite)

    def __repr__(self) -> str:
        users = ", ".join(f"{len(self.split(split)):,} {split}" for split in SPLITS)
        return f"<Dataset: {self.catalogue!r}, users: {users}>"

    def whole(self) -> Dataset:
        """All histories for training and none held out: of a user in several splits, the longest.

        A held-out history begins with what the user has in earlier splits. Of one id with histories that do
        not begin alike, all are kept.
        """
        taken: dict[str, npt.NDArray[np.int32]] = {}
        rows, users = [], []
        for histories in (self.test, self.valid, self.train):
            for user, history in zip(histories.users, histories, strict=True):
                longest = taken.setdefault(user, history)
                if longest is history or not np.array_equal(longest[: len(history)], history):
                    rows.append(history)
                    users.append(user)
        offsets = np.concatenate([[0], np.cumsum([len(history) for history in rows], dtype=np.int64)])
        nobody = Histories.from_lists([], [])
        packed = np.concatenate([np.zeros(0, dtype=np.int32), *rows])
        return replace(self, train=Histories(packed, offsets, users), valid=nobody, test=nobody)

    def split(self, name: Split) -> Histories:
        """Histories of a split by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]


def content_hash(dataset: Dataset) -> str:
    """SHA-256 of all that a data set holds but its notes."""
    digest = hashlib.sha256(dataset.test_positions.encode())
    texts = [dataset.catalogue.ids, dataset.catalogue.titles]
    digest.update(json.dumps([[d.name, d.n_items] for d in dataset.catalogue.domains]).encode())
    for split in SPLITS:
        histories = dataset.split(split)
        digest.update(histories.rows.tobytes() + histories.offsets.tobytes())
        texts.append(histories.users)
    digest.update(json.dumps([list(some) for some in texts]).encode())
    return digest.hexdigest()
