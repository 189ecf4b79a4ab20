"""Items whose vectors point the same way."""

from __future__ import annotations

import numpy as np

from llmcdsr_lite.arguments import checked_k, item_id, wanted_domains
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.results import Recommendations, described
from llmcdsr_lite.search.exact import ExactSearch


class SimilarItems:
    """Searches for items by the cosine of their vectors.

    Parameters
    ----------
    bundle : Bundle
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._search: ExactSearch | None = None  # made at first use: it has a copy of all vectors

    def find(self, item: str, k: int, domain: str | None) -> Recommendations:
        """The k items most similar to another one, see `Recommender.similar`."""
        catalogue = self._bundle.catalogue
        k = checked_k(catalogue, k)
        row = catalogue.row(item_id("item", item))
        domains = wanted_domains(catalogue, domain)
        if self._search is None:  # two threads may both do this: they do the same
            vectors = self._bundle.item_vectors
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            self._search = ExactSearch(vectors / np.maximum(norms, 1e-12))
        search = self._search
        itself = np.array([row])
        rows, cosines = search.search(
            search.item_vectors[itself], k, domains[0].start, domains[-1].stop, [itself], None
        )
        return Recommendations(described(catalogue, rows[0], cosines[0]))
