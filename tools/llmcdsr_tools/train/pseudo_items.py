"""The recall network in training: the names of all users, projected once, and pseudo items by the poolers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.packing import token_indices
from llmcdsr_lite.model.recall_network import PoolCache, pool, pool_backward, project, unit_rows
from llmcdsr_lite.recall import recall
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.embed_names import EmbeddedNames
from llmcdsr_tools.optimization.losses import RowArray
from llmcdsr_tools.pretrain.pretraining import Pretrained


@dataclass(frozen=True)
class Recalled:
    """Pseudo items of some users, and what `RecallNetwork.backward` needs.

    Parameters
    ----------
    rows : int64 array (n, k)
        Item rows, most similar first.
    parts : tuple of (int64 array, PoolCache)
        For the names of each domain: the places of the users that have them, and their pooling.
    """

    rows: RowArray
    parts: tuple[tuple[RowArray, PoolCache], ...]


@dataclass(frozen=True)
class RecallNetwork:
    """Names, projections and item vectors; everything but the poolers, which training changes.

    Parameters
    ----------
    users : int64 array (entries,)
        Row in the train split of each user with names of a domain; rows may repeat.
    domains : int64 array (entries,)
        Domain that the names are of, one that the user has no items in.
    offsets : int64 array (entries + 1,)
        The names of entry e are ``index[offsets[e] : offsets[e + 1]]``.
    index : int64 array (names,)
        Row of ``names[domain]`` for each name.
    names : tuple of float arrays (texts, H)
        Distinct names, projected to the space of each domain.
    unit_items : tuple of float arrays (items, H)
        Item vectors of length 1, of each domain.
    starts : tuple of int
        First item row of each domain.
    """

    users: RowArray
    domains: RowArray
    offsets: RowArray
    index: RowArray
    names: tuple[FloatArray, ...]
    unit_items: tuple[FloatArray, ...]
    starts: tuple[int, ...]

    @classmethod
    def build(cls, data: Dataset, embedded: EmbeddedNames, pretrained: Pretrained) -> RecallNetwork:
        """Project the names and normalise the item vectors.

        Names of users that have items of the very domain that the names are of, or no item at all, are left
        out.

        Raises
        ------
        TrainingError
            If names and pre-training differ in E, or no user has names of a domain that is missing.
        """
        dimension = pretrained.dimension
        if embedded.text.shape[1] != dimension:
            raise TrainingError(
                f"names have embeddings of {embedded.text.shape[1]} values, pre-training was done with "
                f"{dimension}; use one encoder for both"
            )
        has = data.train.has_domains(data.catalogue)[embedded.users]  # (entries, domains)
        lacks = ~has[np.arange(len(has)), embedded.domains]
        kept = np.flatnonzero(lacks & has.any(axis=1))
        if not len(kept):
            raise TrainingError("no user has names of a domain that the history has no item of")
        counts = np.diff(embedded.offsets)[kept]
        index = embedded.index[token_indices(embedded.offsets[kept], counts)]
        domains = embedded.domains[kept]
        of_name = np.repeat(domains, counts)
        names = []
        for domain, projection in enumerate(pretrained.projections):
            own = of_name == domain
            texts, index[own] = np.unique(index[own], return_inverse=True)
            names.append(project(embedded.text[texts], projection))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return cls(
            embedded.users[kept],
            domains,
            offsets,
            index,
            tuple(names),
            tuple(unit_rows(items) for items in pretrained.items),
            tuple(domain.start for domain in data.catalogue.domains),
        )

    def __len__(self) -> int:
        return len(self.users)

    @property
    def hidden(self) -> int:
        """Hidden size H of pooled vectors and item vectors."""
        return int(self.unit_items[0].shape[1])

    def recall(self, entries: RowArray, poolers: FloatArray, k: int) -> Recalled:
        """Pseudo items of some entries.

        Parameters
        ----------
        entries : int64 array (n,)
        poolers : float array (domains, H)
            Of the names of each domain.
        k : int
            At most the number of items of each domain.
        """
        rows = np.empty((len(entries), k), dtype=np.int64)
        parts = []
        for domain in range(len(self.names)):
            places = np.flatnonzero(self.domains[entries] == domain)
            chosen = entries[places]
            counts = self.offsets[chosen + 1] - self.offsets[chosen]
            names = self.names[domain][self.index[token_indices(self.offsets[chosen], counts)]]
            offsets = np.concatenate([[0], np.cumsum(counts)])
            pooled, cache = pool(names, offsets, poolers[domain])
            found, _ = recall(pooled, self.unit_items[domain], k)
            rows[places] = found + self.starts[domain]
            parts.append((places, cache))
        return Recalled(rows, tuple(parts))

    def backward(self, d_pooled: FloatArray, recalled: Recalled) -> FloatArray:
        """Gradient of the poolers (domains, H) from that of the pooled vectors (n, H)."""
        return np.stack([pool_backward(d_pooled[places], cache) for places, cache in recalled.parts])
