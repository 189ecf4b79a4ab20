"""From a title to an item vector: what the items with the most similar titles have, and how much of it.

``direction = unit(text @ components - shift)``; ``vector = scale * sum(w_i * v_i)`` over the items of the
domain with the most similar directions, ``w = softmax(sharpness * cosine)``. A trained vector holds much
that no title says, so a map fitted to all of them gives vectors close to their mean, which rank nowhere;
a mean of a few alike keeps its distance from it. `scale` makes up for the length that a mean loses, as far
as it does not push the new items in front of everything. Both are chosen on validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.model.recall_network import unit_rows

FloatArray = npt.NDArray[np.floating[Any]]
LEVELS = 127  # a value of a direction is stored as a number from -127 to 127
_CHUNK_COSINES = 1 << 22  # in memory at a time: 16 MB


@dataclass(frozen=True)
class Weighing:
    """How the items with similar titles are weighed, for one domain.

    Parameters
    ----------
    sharpness : float
        How fast an item's weight falls with its cosine.
    scale : float
    validation : mapping
        JSON-able: how the two were chosen and what they are worth.
    """

    sharpness: float
    scale: float
    validation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TitleMap:
    """From titles to item vectors.

    Parameters
    ----------
    components : float32 array (E + 1, D)
        Text embedding to the space in which titles are compared; the last row is added to all.
    directions : int8 array (items + 1, D)
        Titles of the trained items there, of length 1, times `LEVELS`; zero for items that stand for no
        other: those without a title, and those that were added.
    weighings : tuple of Weighing
        Of each domain.
    n_neighbours : int
        How many items a new one is made of.
    added : tuple of int
        How many items of each domain, its last ones, were added after training; none unless given.
    """

    components: npt.NDArray[np.float32]
    directions: npt.NDArray[np.int8]
    weighings: tuple[Weighing, ...]
    n_neighbours: int = 50
    added: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.added:
            object.__setattr__(self, "added", (0,) * len(self.weighings))

    @property
    def dimension(self) -> int:
        """Length E of a text embedding."""
        return len(self.components) - 1

    def directions_of(self, text: FloatArray) -> npt.NDArray[np.float32]:
        """Directions (n, D) of text embeddings (n, E), of length 1; zero for text of zeros."""
        placed = unit_rows((text @ self.components[:-1] + self.components[-1]).astype(np.float32))
        placed[~text.any(axis=1)] = 0
        return placed.astype(np.float32, copy=False)

    def item_vectors(
        self, text: FloatArray, table: FloatArray, start: int, stop: int, weighing: Weighing
    ) -> npt.NDArray[np.float32]:
        """Vectors for new items.

        Parameters
        ----------
        text : float array (n, E)
        table : float array (items + 1, H)
            Vectors of the trained items.
        start, stop : int
            Rows of the domain.
        weighing : Weighing

        Returns
        -------
        float32 array (n, H)
            Zero where no item has a title.
        """
        own = self.directions[start:stop]
        rows = start + np.flatnonzero(own.any(axis=1))
        places, cosines = nearest(self.directions_of(text), self.directions[rows], self.n_neighbours)
        return weighted_mean(table, rows[places], cosines, weighing.sharpness) * np.float32(weighing.scale)


def stored(directions: FloatArray) -> npt.NDArray[np.int8]:
    """Directions (n, D) as they are kept."""
    return np.rint(directions * LEVELS).astype(np.int8)


def nearest(
    directions: FloatArray, titles: npt.NDArray[np.int8], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Places and cosines (n, min(k, m)) of the titles (m, D) nearest to directions (n, D), in no order."""
    known = titles.astype(np.float32) / LEVELS  # (m, D)
    k = min(k, len(known))
    places = np.empty((len(directions), k), dtype=np.int64)
    cosines = np.empty((len(directions), k), dtype=np.float32)
    size = max(1, _CHUNK_COSINES // max(1, len(known)))
    for first in range(0, len(directions), size):
        chunk = slice(first, first + size)
        found = directions[chunk] @ known.T  # (chunk, m)
        if k:
            places[chunk] = np.argpartition(found, len(known) - k, axis=1)[:, len(known) - k :]
            cosines[chunk] = np.take_along_axis(found, places[chunk], axis=1)
    return places, cosines


def weighted_mean(
    table: FloatArray, rows: npt.NDArray[np.int64], cosines: FloatArray, sharpness: float
) -> npt.NDArray[np.float32]:
    """Mean (n, H) of the table's rows (n, k), weighed by ``softmax(sharpness * cosine)``, cosines (n, k)."""
    means = np.zeros((len(rows), table.shape[1]), dtype=np.float32)
    if rows.shape[1] == 0:
        return means
    weights = np.exp(sharpness * (cosines - cosines.max(axis=1, keepdims=True)))  # (n, k)
    weights /= weights.sum(axis=1, keepdims=True)
    for place in range(rows.shape[1]):  # one neighbour of all at a time: no (n, k, H) in memory
        means += weights[:, place, None].astype(np.float32) * table[rows[:, place]]
    return means
