"""The best items for a user representation in very large catalogues: approximate, with hnswlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import MissingDependencyError
from llmcdsr_lite.search import ExactSearch, Rows, Scores, top_k


class HnswSearch:
    """Approximate search in a graph of neighbours (hnswlib), one index a domain, built in memory.

    Searches with an allow list, and those for which the graph finds too few items, are answered exactly.

    Parameters
    ----------
    item_vectors : float32 array (items + 1, H)
    domains : tuple of Domain
    threads : int

    Raises
    ------
    MissingDependencyError
        If hnswlib is not installed.
    """

    name = "hnsw"
    _LINKS, _BUILD_WIDTH, _SEARCH_WIDTH = 16, 200, 128

    def __init__(
        self, item_vectors: npt.NDArray[np.float32], domains: tuple[Domain, ...], threads: int
    ) -> None:
        try:
            import hnswlib
        except ImportError as error:
            raise MissingDependencyError(
                f"search 'hnsw' needs hnswlib ({error}): pip install 'llmcdsr-lite[hnsw]' (it compiles), "
                "or use search='exact'"
            ) from None
        self._exact = ExactSearch(item_vectors)
        self._indexes = []
        for domain in domains:
            index = hnswlib.Index(space="ip", dim=item_vectors.shape[1])
            index.init_index(domain.n_items, ef_construction=self._BUILD_WIDTH, M=self._LINKS, random_seed=0)
            index.set_num_threads(threads)
            index.set_ef(self._SEARCH_WIDTH)  # once: searches of several threads share the index
            labels = np.arange(domain.start, domain.stop)
            index.add_items(item_vectors[domain.start : domain.stop], labels)
            self._indexes.append((domain, index))

    def search(
        self,
        users: npt.NDArray[np.floating[Any]],
        k: int,
        start: int,
        stop: int,
        blocked: Sequence[Rows],
        allowed: Rows | None,
    ) -> tuple[Rows, Scores]:
        """See `Search.search`."""
        if allowed is not None or not len(users):
            return self._exact.search(users, k, start, stop, blocked, allowed)
        wanted = k + max(map(len, blocked))
        found_rows, found_scores = [], []
        for domain, index in self._indexes:
            if start <= domain.start and domain.stop <= stop:
                n = min(2 * wanted, domain.n_items)  # also the width of the search: twice as many as needed
                try:
                    labels, distances = index.knn_query(users, k=n)
                except RuntimeError:  # the graph does not reach so many items
                    return self._exact.search(users, k, start, stop, blocked, None)
                found_rows.append(labels.astype(np.int64))
                found_scores.append(1 - distances)
        rows, scores = np.concatenate(found_rows, axis=1), np.concatenate(found_scores, axis=1)
        for i, forbidden in enumerate(blocked):
            scores[i, np.isin(rows[i], forbidden)] = -np.inf
        columns, best = top_k(scores, k)
        if best.shape[1] < k or np.isneginf(best).any():
            return self._exact.search(users, k, start, stop, blocked, None)
        return np.take_along_axis(rows, columns, axis=1), best
