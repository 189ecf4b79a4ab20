"""The best items for a user representation in very large catalogues: approximate, with hnswlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.search.bonus import SparseBonus
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.hnsw_graph import Graph, GraphSettings, build_graph, import_hnswlib, make_index
from llmcdsr_lite.search.protocol import RowFilter, Rows, Scores
from llmcdsr_lite.search.rescoring import best_with_bonuses
from llmcdsr_lite.search.top_k import top_k

DEFAULT_SEARCH_WIDTH = 128  # of a graph that nobody has measured
_FEW = 64
_LARGEST_SHARE = 0.25  # of a domain: for more candidates than this, scoring all of it is no slower


@dataclass(frozen=True, eq=False)
class SearchGraph:
    """A graph, and how wide it is searched.

    Parameters
    ----------
    graph : Graph
    ef_search : tuple of int
        For each domain, how many candidates a search keeps.
    measured : mapping
        JSON-able: how it was built, and the recall that was found for these ef_values.
    ef_search_together : int, optional
        How many it keeps in each domain at most where several are searched at once: fewer of each are among
        the best of all. Without it they are searched as wide as alone.
    """

    graph: Graph
    ef_search: tuple[int, ...]
    measured: Mapping[str, Any] = field(default_factory=dict)
    ef_search_together: int | None = None


class HnswSearch:
    """Approximate search in a graph of neighbours (hnswlib), one index a domain.

    Searches with an allow list, those for rows that are not whole domains, and those for which the graph
    finds too few items, are answered exactly; so is the part of a domain that a large share is wanted of.

    Parameters
    ----------
    item_vectors : float32 array (items + 1, H)
    domains : tuple of Domain
    threads : int
    graph : SearchGraph, optional
        Without faults (`graph_fault`), of these vectors. If there is none it is built now, which takes about
        a minute for 100,000 items.

    Raises
    ------
    MissingDependencyError
        If hnswlib is not installed.
    """

    name = "hnsw"

    def __init__(
        self,
        item_vectors: npt.NDArray[np.float32],
        domains: Sequence[Domain],
        threads: int,
        graph: SearchGraph | None = None,
    ) -> None:
        import_hnswlib()  # before anything takes long
        if graph is None:
            built = build_graph(item_vectors, domains, GraphSettings(threads=threads))
            graph = SearchGraph(built, (DEFAULT_SEARCH_WIDTH,) * len(domains))
        if len(graph.graph.links) != len(item_vectors):
            raise ValueError(f"a graph of {len(graph.graph.links)} rows for {len(item_vectors)} item vectors")
        self._exact = ExactSearch(item_vectors)
        self._indexes = [
            (domain, ef, make_index(graph.graph, item_vectors, domain, threads))
            for domain, ef in zip(domains, graph.ef_search, strict=True)
        ]
        self._ef_search_together = graph.ef_search_together

    def set_ef_search(self, ef: int) -> None:
        """Set how many candidates a search keeps, in every domain."""
        self._indexes = [(domain, ef, index) for domain, _, index in self._indexes]

    def set_ef_search_together(self, ef: int | None) -> None:
        """Set how many candidates a search of several domains keeps in each at most."""
        self._ef_search_together = ef

    def search(
        self,
        users: npt.NDArray[np.floating[Any]],
        k: int,
        wanted: RowFilter,
        bonuses: Sequence[SparseBonus | None] | None = None,
    ) -> tuple[Rows, Scores]:
        """See `Search.search`.

        What bonuses touch is scored beside what the graph finds by dot product alone.
        """
        start, stop, blocked = wanted.start, wanted.stop, wanted.blocked
        n_wanted = k + max(map(len, blocked), default=0)
        indexes = [one for one in self._indexes if start <= one[0].start and one[0].stop <= stop]
        large = [2 * n_wanted <= _LARGEST_SHARE * domain.n_items for domain, _, _ in indexes]
        if (
            wanted.allowed is not None
            or not len(users)
            or sum(domain.n_items for domain, _, _ in indexes) != stop - start
            or not any(large)
        ):
            return self._exact.search(users, k, wanted, bonuses)
        found_rows, found_scores = [], []
        together = None if len(indexes) == 1 else self._ef_search_together
        for (domain, ef, index), by_graph in zip(indexes, large, strict=True):
            if not by_graph:
                whole = self._exact.search(users, k, RowFilter(domain.start, domain.stop, blocked))
                found_rows.append(whole[0])
                found_scores.append(whole[1])
                continue
            ef = min(ef if together is None else min(ef, together), domain.n_items)
            # of a narrow search, which is as wide as what is asked for, the best of twice as many
            n = n_wanted if ef >= 2 * n_wanted else 2 * n_wanted
            try:
                labels, distances = index.knn_query(users, k=max(ef, n))  # nearest first
            except RuntimeError:  # the graph does not reach so many items
                return self._exact.search(users, k, wanted, bonuses)
            found_rows.append(labels[:, :n].astype(np.int64))
            found_scores.append(1 - distances[:, :n])
        rows = found_rows[0] if len(indexes) == 1 else np.concatenate(found_rows, axis=1)
        scores = found_scores[0] if len(indexes) == 1 else np.concatenate(found_scores, axis=1)
        for i, forbidden in enumerate(blocked):
            if len(forbidden):
                scores[i, _among(rows[i], forbidden)] = -np.inf
        if bonuses is not None and any(bonus is not None for bonus in bonuses):
            there = np.where(scores > -np.inf, rows, 0)
            vectors, exact_users = self._exact.item_vectors, users.astype(np.float64)
            rows, best = best_with_bonuses(vectors, exact_users, there, k, wanted, bonuses)
            if not (best[:, -1] == -np.inf).any():
                return rows, best
            return self._exact.search(users, k, wanted, bonuses)
        columns, best = top_k(scores, k)
        if (best[:, -1] == -np.inf).any():
            return self._exact.search(users, k, wanted, bonuses)
        return rows[np.arange(len(rows))[:, None], columns], best


def _among(rows: Rows, forbidden: Rows) -> npt.NDArray[np.bool_]:
    """Which rows are forbidden."""
    if len(forbidden) > _FEW:
        return np.isin(rows, forbidden)
    found: npt.NDArray[np.bool_] = (rows[:, None] == forbidden).any(axis=1)  # several times faster for few
    return found
