"""Generator without a language model: the titles that similar users have in a domain that a user lacks.

For a user without items of a domain, the neighbours are the train users with items of it and of others that
have the highest cosine between the sets of items in those others, each item weighted by its idf,
``log(users / users that have it)``. The score of a title of the domain is the sum of the similarities of
those neighbours that have it; the highest are the user's names. It is a baseline to beat and what works
offline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_tools.cold_histories import cold_histories
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.names import GeneratedNames, write_names

if TYPE_CHECKING:
    import scipy.sparse as sp

GENERATOR = "neighbours"
N_NEIGHBORS = 100
N_NAMES = 10
_CHUNK = 1024  # users at a time

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class NeighboursResult:
    """What `neighbours` did.

    Parameters
    ----------
    output : Path
        The names file.
    n_users : int
        Users with names; one who lacks several domains counts for each.
    n_without : int
        Likewise, those that share no item with a possible neighbour, and so have none.
    n_names : int
        Names of all users.
    """

    output: Path
    n_users: int
    n_without: int
    n_names: int


def neighbours(
    dataset: str | Path | Dataset,
    output: str | Path,
    *,
    n_neighbors: int = N_NEIGHBORS,
    n_names: int = N_NAMES,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> NeighboursResult:
    """Write names for every train user of each domain that the user has no item of.

    Parameters
    ----------
    dataset : str or Path or Dataset
        The data set folder, or what was read from it.
    output : str or Path
        The names file.
    n_neighbors : int
        Neighbours of a user, at most.
    n_names : int
        Names a user, at most.
    overwrite : bool
        Replace a file that is there.
    progress : callable, optional
        Called with the number of users done and of all.

    Returns
    -------
    NeighboursResult

    Raises
    ------
    DataError
        If the data set cannot be read, or the output exists and must not be overwritten.
    UsageError
        If `n_neighbors` or `n_names` is less than 1, or there is one domain alone.
    """
    dataset = dataset if isinstance(dataset, Dataset) else Path(dataset)
    output = Path(output)
    if output.exists() and not overwrite:
        raise DataError(f"{output}: exists already; choose another name or ask for it to be overwritten")
    data = load_dataset(dataset) if isinstance(dataset, Path) else dataset
    if len(data.catalogue.domains) < 2:
        raise UsageError("names are of a domain that a user lacks, but the data set has one domain alone")
    single = cold_histories(data, "train")
    names: dict[tuple[str, int], tuple[str, ...]] = {}
    for domain in range(len(data.catalogue.domains)):
        wanted = [history for history in single if history.domain == domain]
        generated = neighbour_names(
            data,
            [history.rows for history in wanted],
            domain,
            [history.user for history in wanted],
            n_neighbors=n_neighbors,
            n_names=n_names,
        )
        for history, found in zip(wanted, generated, strict=True):
            names[history.user, domain] = found
            if progress is not None and (len(names) % _CHUNK == 0 or len(names) == len(single)):
                progress(len(names), len(single))
    domains = data.catalogue.domains
    records = [
        GeneratedNames(history.user, domains[history.domain].name, found, GENERATOR)
        for history in single
        if (found := names[history.user, history.domain])
    ]
    write_names(output, records)
    total = sum(len(record.names) for record in records)
    return NeighboursResult(output, len(records), len(single) - len(records), total)


def neighbour_names(
    dataset: Dataset,
    histories: Sequence[IntArray],
    domain: int,
    users: Sequence[str | None],
    *,
    n_neighbors: int = N_NEIGHBORS,
    n_names: int = N_NAMES,
) -> Iterator[tuple[str, ...]]:
    """Names of a domain for any histories, in the same order.

    Parameters
    ----------
    dataset : Dataset
        Of whose train users the neighbours are.
    histories : sequence of n int arrays
        Item rows. Only those of other domains count: what a history holds of `domain` is ignored, so
        a user with one domain hidden may be given as is.
    domain : int
        Index of the domain that the names are of.
    users : sequence of n str or None
        Whose histories they are: no user is a neighbour of its own. None stands for somebody new.
    n_neighbors, n_names : int

    Yields
    ------
    tuple of at most n_names str
        Best first, distinct, ties by item row; none where no neighbour shares an item.

    Raises
    ------
    UsageError
        If a number is less than 1, there is no such domain, or the lengths differ.
    """
    if n_neighbors < 1 or n_names < 1:
        raise UsageError(f"n_neighbors is {n_neighbors} and n_names is {n_names}, expected 1 or more")
    n_domains = len(dataset.catalogue.domains)
    if domain not in range(n_domains) or len(users) != len(histories):
        raise UsageError(
            f"domain is {domain!r}, expected a number below {n_domains}; {len(histories)} histories of "
            f"{len(users)} users"
        )
    index = _Index.build(dataset, domain)
    for start in range(0, len(histories), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        similar = index.similarities(histories[chunk], users[chunk])  # (chunk, neighbours)
        scores = _highest(similar, n_neighbors) @ index.titles_of_user  # (chunk, titles)
        best = _highest(scores, n_names)
        for i in range(best.shape[0]):
            row = slice(best.indptr[i], best.indptr[i + 1])
            order = np.lexsort((best.indices[row], -best.data[row]))
            yield tuple(index.titles[title] for title in best.indices[row][order])


@dataclass(frozen=True)
class _Index:
    """Train users with items of a domain and of others: the items of others, the titles of the domain."""

    user_places: dict[str, int]
    idf: npt.NDArray[np.float64]  # (items + 1,), zero for rows of the names' domain
    unit_items_of_user: sp.csr_array  # (neighbours, items + 1), rows of length 1
    titles_of_user: sp.csr_array  # (neighbours, titles), ones
    titles: list[str]  # in the order of the first row that has each

    @classmethod
    def build(cls, dataset: Dataset, domain: int) -> _Index:
        catalogue, train = dataset.catalogue, dataset.train
        n_rows = len(catalogue) + 1
        items = _item_sets(list(train), n_rows)  # (users, items + 1)
        wanted = catalogue.domains[domain]
        n_users_of_item = np.bincount(items.indices, minlength=n_rows)
        idf = np.log(max(1, len(train)) / np.maximum(n_users_of_item, 1))
        idf[0] = idf[wanted.start : wanted.stop] = 0
        has = train.has_domains(catalogue)
        overlapped = np.flatnonzero(has[:, domain] & (has.sum(axis=1) > 1))
        items = items[overlapped]
        titles: dict[str, int] = {}
        columns, kept = [], []  # item row -> title, where there is one
        for row in range(wanted.start, wanted.stop):
            title = catalogue.titles[row - 1]
            if title.strip():
                kept.append(row)
                columns.append(titles.setdefault(title, len(titles)))
        places = {train.users[user]: place for place, user in enumerate(overlapped.tolist())}
        title_of_item = _ones(kept, columns, (n_rows, len(titles)))
        titles_of_user = (items @ title_of_item).tocsr()
        titles_of_user.data[:] = 1  # two items of one title count once
        return cls(places, idf, _unit_rows(items, idf), titles_of_user, list(titles))

    def similarities(self, histories: Sequence[IntArray], users: Sequence[str | None]) -> sp.csr_array:
        """Cosines (n, neighbours), zero for the user itself."""
        queries = _unit_rows(_item_sets(histories, len(self.idf)), self.idf)
        similar = (queries @ self.unit_items_of_user.T).tocsr()
        for i, user in enumerate(users):
            place = None if user is None else self.user_places.get(user)
            if place is not None:
                row = slice(similar.indptr[i], similar.indptr[i + 1])
                similar.data[row][similar.indices[row] == place] = 0
        return similar


def _item_sets(histories: Sequence[IntArray], n_rows: int) -> sp.csr_array:
    """Ones where a user has an item: (users, items + 1)."""
    sets = [np.unique(history) for history in histories]
    users = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    rows = np.concatenate([np.empty(0, dtype=np.int64), *sets])
    return _ones(users, rows, (len(sets), n_rows))


def _ones(rows: Any, columns: Any, shape: tuple[int, int]) -> sp.csr_array:
    import scipy.sparse as sp

    return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _unit_rows(sets: sp.csr_array, idf: npt.NDArray[np.float64]) -> sp.csr_array:
    """Sets (n, items + 1) weighted by idf, every row divided by its length."""
    weighted = sets.copy()
    weighted.data = idf[weighted.indices]
    counts = np.diff(weighted.indptr)
    lengths = np.sqrt(np.bincount(np.repeat(np.arange(len(counts)), counts), weighted.data**2, len(counts)))
    weighted.data /= np.repeat(np.where(lengths > 0, lengths, 1), counts)
    weighted.eliminate_zeros()
    return weighted


def _highest(scores: sp.csr_array, k: int) -> sp.csr_array:
    """The k highest positive entries of every row, ties by column; the others become zero."""
    import scipy.sparse as sp

    kept = []
    for i in range(scores.shape[0]):
        start, stop = scores.indptr[i : i + 2]
        order = np.lexsort((scores.indices[start:stop], -scores.data[start:stop]))[:k]
        kept.append(np.sort(start + order[scores.data[start + order] > 0]))
    places = np.concatenate([np.empty(0, dtype=np.int64), *kept])
    indptr = np.concatenate([[0], np.cumsum([len(k) for k in kept], dtype=np.int64)])
    return sp.csr_array((scores.data[places], scores.indices[places], indptr), shape=scores.shape)
