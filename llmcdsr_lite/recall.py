"""The recall network at request time: from names to items of a domain that a history lacks.

The name that each item stands for is in the bundle as a vector in the space of every domain that it is *not*
of, so that no text encoder is needed: its projected title, or the mean of the items that its other users have
there. Free-text names are encoded where there is an encoder (`NameVectors`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.model.recall_network import pool, project, unit_rows
from llmcdsr_lite.search.protocol import RowFilter, Rows, Scores, Search
from llmcdsr_lite.search.top_k import top_k
from llmcdsr_lite.text.encoder_object import Encoder

FloatArray = npt.NDArray[np.floating[Any]]
_CHUNK_SCORES = 1 << 22  # similarities in memory at a time


@dataclass(frozen=True, eq=False)
class RecallNetwork:
    """Names of items, item vectors and poolers.

    Parameters
    ----------
    names : float32 array (domains - 1, items + 1, H')
        Name of every item in the space of each domain that it is not of, in the order of the domains; zero
        for row 0 and for items without a name, such as those without a title.
    items : float32 array (items + 1, H')
        Item vectors that recall searches, of length 1 or zero; row 0 zero.
    poolers : float32 array (domains, H')
        Of names of each domain; zeros weigh all names alike.
    projections : float32 array (domains, H', E), optional
        Text embedding to the space of each domain.
    title_lengths : tuple of float
        Mean length of projected titles in the space of each domain.
    search : Search, optional
        Finds items approximately in very large catalogues; without it all are scored.
    """

    names: FloatArray
    items: FloatArray
    poolers: FloatArray
    projections: FloatArray | None
    title_lengths: tuple[float, ...]
    search: Search | None = None

    @property
    def hidden(self) -> int:
        """Hidden size H'."""
        return int(self.items.shape[1])

    def names_of(self, rows: npt.NDArray[np.integer[Any]], domain: int, catalogue: Catalogue) -> FloatArray:
        """Names of items of other domains in the space of a domain (m, H'), the non-zero ones."""
        slots = slot(catalogue.domain_indices(rows), domain)
        names = np.asarray(self.names[slots, rows])
        return names[names.any(axis=1)]

    def directions(self, names: Sequence[FloatArray], domain: int, *, weigh: bool = True) -> FloatArray:
        """Pooled vectors of length 1.

        Parameters
        ----------
        names : sequence of n float arrays (m, H')
            Names of each user, at least one.
        domain : int
            Index of the domain whose items are wanted.
        weigh : bool
            Use the pooler, which has learned from projected text; if not, the vector is the mean.

        Returns
        -------
        float32 array (n, H')
        """
        offsets = np.cumsum([0, *map(len, names)])
        pooler = np.asarray(self.poolers[domain])
        pooled, _ = pool(np.concatenate(names), offsets, pooler if weigh else np.zeros_like(pooler))
        return unit_rows(pooled)

    def nearest(self, directions: FloatArray, start: int, stop: int, k: int) -> tuple[Rows, Scores]:
        """The k items of the rows ``start <= row < stop`` with the highest cosine, and the cosines.

        Parameters
        ----------
        directions : float array (n, H')
            Of length 1.
        start, stop, k : int

        Returns
        -------
        rows : int64 array (n, min(k, stop - start))
        similarities : float32 array of the same shape
        """
        if self.search is not None:
            nothing = np.zeros(0, dtype=np.int64)
            k = min(k, stop - start)
            return self.search.search(directions, k, RowFilter(start, stop, [nothing] * len(directions)))
        places, similarities = recall(directions, np.asarray(self.items[start:stop]), k)
        return places + start, similarities


def recall(pooled: FloatArray, unit_items: FloatArray, k: int) -> tuple[Rows, Scores]:
    """The k items with the highest cosine to every pooled vector.

    Parameters
    ----------
    pooled : float array (users, H)
    unit_items : float array (items, H)
        Item vectors of the domain, of length 1 (see `unit_rows`; make them once).
    k : int

    Returns
    -------
    places : int64 array (users, min(k, items))
        Indices into `unit_items`, most similar first, ties by index.
    similarities : float32 array (users, min(k, items))
        Their cosines.
    """
    directions = unit_rows(pooled)
    places = np.empty((len(pooled), min(k, len(unit_items))), dtype=np.int64)
    similarities = np.empty(places.shape, dtype=np.float32)
    size = max(1, _CHUNK_SCORES // max(1, len(unit_items)))
    for start in range(0, len(pooled), size):
        chunk = slice(start, start + size)
        places[chunk], similarities[chunk] = top_k(directions[chunk] @ unit_items.T, k)
    return places, similarities


class NameVectors:
    """Projected vectors of names: of items by id or title without an encoder, of other text with one.

    Parameters
    ----------
    catalogue : Catalogue
    network : RecallNetwork
    encoder : Encoder, optional
        The one that the network was trained with.
    """

    def __init__(self, catalogue: Catalogue, network: RecallNetwork, encoder: Encoder | None = None) -> None:
        self._catalogue = catalogue
        self._network = network
        self._encoder = encoder

    def __call__(self, names: Sequence[str], domain: int) -> FloatArray:
        """Non-zero vectors of names in the space of a domain (m, H').

        An item of the domain itself stands for its item vector, an item of another domain for its name
        there, both made as long as a projected title is on average.

        Parameters
        ----------
        names : sequence of str
            Ids or titles of items, or free text.
        domain : int
            Index of the domain.

        Raises
        ------
        UsageError
            If there is free text and no encoder.
        """
        vectors = np.zeros((len(names), self._network.hidden), dtype=np.float32)
        rows = [self._row(name, domain) for name in names]
        for i, row in enumerate(rows):
            if row is not None:
                own = int(self._catalogue.domain_indices(np.array(row)))
                table = self._network.items if own == domain else self._network.names[slot(own, domain)]
                vectors[i] = table[row]
        vectors = unit_rows(vectors) * np.float32(self._network.title_lengths[domain])
        others = [i for i, row in enumerate(rows) if row is None]
        if others:
            vectors[others] = self._encode([names[i] for i in others], domain)
        return vectors[vectors.any(axis=1)]

    def _row(self, name: str, domain: int) -> int | None:
        """Row of the item with that id, or else that title, preferably one of the domain."""
        row = self._catalogue.row_of_id.get(name)
        if row is None:
            titles = self._rows_of_titles
            of_domain = titles[domain].get(name)
            others = (titles_of.get(name) for titles_of in titles)
            row = next((row for row in others if row is not None), None) if of_domain is None else of_domain
        return row

    def _encode(self, names: list[str], domain: int) -> FloatArray:
        if self._encoder is None or self._network.projections is None:
            raise UsageError(
                f"pseudo: {names[0]!r} is neither the id nor the title of an item, and there is no encoder "
                "for free text: load the bundle with encoder=FOLDER, in a command --encoder FOLDER"
            )
        # one at a time: a quantised model gives a text another vector in other company
        text = self._encoder.encode(names, batch_size=1)
        return project(text, np.asarray(self._network.projections[domain]))

    @cached_property
    def _rows_of_titles(self) -> list[dict[str, int]]:
        """Row of every title of each domain; the first item of those that share one."""
        titles = self._catalogue.titles
        return [
            {titles[row - 1]: row for row in range(d.stop - 1, d.start - 1, -1) if titles[row - 1]}
            for d in self._catalogue.domains
        ]


def slot(domain: Any, target: Any) -> Any:
    """Place in `RecallNetwork.names` of the names of a domain's items in the space of another, by index."""
    return target - (target > domain)
