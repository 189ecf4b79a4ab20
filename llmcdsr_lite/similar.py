"""Items whose vectors point the same way."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from llmcdsr_lite.arguments import ItemFilter, item_id, known_rows, listed, wanted_items
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.ranking import best_of_ranges
from llmcdsr_lite.results import Recommendations, described
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter


class SimilarItems:
    """Searches for items by the cosine of their vectors.

    Parameters
    ----------
    bundle : Bundle
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._search: ExactSearch | None = None  # made at first use: it has a copy of all vectors

    def find(
        self,
        item: str | Iterable[str],
        k: int,
        domain: str | Iterable[str] | None,
        allow: Iterable[str] | ItemFilter | None,
        exclude: Iterable[str] | None,
    ) -> Recommendations:
        """The k items most similar to one or several others, see `Recommender.similar`."""
        catalogue = self._bundle.catalogue
        items = [item] if isinstance(item, str | int | np.integer) else listed("item", item, "item ids")
        if not items:
            raise UsageError("item names no item, expected one at least")
        rows, _ = known_rows(catalogue, "item", [item_id("item", one) for one in items], "error")
        wanted = wanted_items(catalogue, k, domain, None, (), allow, exclude, "skip")
        if self._search is None:  # two threads may both do this: they do the same
            vectors = self._bundle.item_vectors
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            self._search = ExactSearch(vectors / np.maximum(norms, 1e-12))
        search, filters = self._search, wanted.filters
        mean = search.item_vectors[rows].mean(axis=0, keepdims=True)
        if len(rows) > 1:
            mean /= max(float(np.linalg.norm(mean)), 1e-12)
        blocked = [np.concatenate([rows, filters.excluded])]
        found = [
            search.search(mean, wanted.k, RowFilter(start, stop, blocked, filters.allowed))
            for start, stop in filters.ranges
        ]
        best, cosines = best_of_ranges(found, wanted.k)
        return Recommendations(described(catalogue, best[0], cosines[0]), unknown_filter_items=wanted.unknown)
