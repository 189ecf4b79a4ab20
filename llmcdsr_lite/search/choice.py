"""Which search a catalogue gets."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import MissingDependencyError
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.hnsw import HnswSearch, SearchGraph
from llmcdsr_lite.search.protocol import Search
from llmcdsr_lite.search.two_pass import TwoPassSearch

SearchName = Literal["auto", "exact", "hnsw"]
AUTO_HNSW_ITEMS = 300_000  # where the two are as fast, see benchmarks/large_catalogue.py


def make_search(
    name: SearchName,
    item_vectors: npt.NDArray[np.float32],
    domains: tuple[Domain, ...],
    threads: int,
    *,
    scan: bool = False,
    graph: SearchGraph | None = None,
) -> Search:
    """Make the search of that name; ``auto`` takes hnswlib for large catalogues where it is installed.

    With `scan`, an exact search looks at all items in 8 bits first, where onnxruntime is installed. Without
    `graph`, approximate search builds its own.
    """
    if name == "hnsw":
        return HnswSearch(item_vectors, domains, threads, graph)
    if name == "auto" and len(item_vectors) > AUTO_HNSW_ITEMS:
        try:
            return HnswSearch(item_vectors, domains, threads, graph)
        except MissingDependencyError:
            pass  # no compiler, no hnswlib: exact search gives the same answers, later
    if scan:
        try:
            return TwoPassSearch(item_vectors, domains, threads)
        except (ImportError, ValueError):
            pass  # the same answers, later
    return ExactSearch(item_vectors)
