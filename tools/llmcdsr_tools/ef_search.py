"""The smallest `ef_search` of a graph that finds what is wanted: the values are tried in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.hnsw import HnswSearch, SearchGraph
from llmcdsr_lite.search.hnsw_graph import GraphSettings, Progress, build_graph
from llmcdsr_lite.search.protocol import RowFilter, Rows

K = 10  # recall@10
EF_SEARCH = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_TIMED_USERS = 200
_BATCH = 256

Vectors = npt.NDArray[np.float32]
Histories = Sequence[Rows]


@dataclass(frozen=True)
class Measure:
    """What one `ef_search` finds, and the median time for one user, of it and of exact search."""

    part: str
    domain: str
    ef_search: int
    recall: float
    milliseconds: float
    exact_milliseconds: float
    reached: bool


Observer = Callable[[Measure], None]


class WidthTrial:
    """Builds graphs and chooses how wide they are searched.

    Parameters
    ----------
    settings : GraphSettings
    recall : float
        Share of the ten best items that searches must find.
    source : str
        Where the histories are from.
    progress : callable, optional
        Told how many items are linked, of how many.
    observer : callable, optional
        Told of every ef_search that is tried.
    """

    def __init__(
        self,
        settings: GraphSettings,
        recall: float,
        source: str,
        progress: Progress | None,
        observer: Observer | None,
    ) -> None:
        self._settings = settings
        self._recall = recall
        self._source = source
        self._progress = progress
        self._observer = observer
        self.chosen: list[Measure] = []

    def run(
        self,
        part: str,
        vectors: Vectors,
        domains: tuple[Domain, ...],
        users: Sequence[Vectors],
        histories: Histories | None,
    ) -> SearchGraph:
        """Build the graph of a part, and choose `ef_search` for the users of each domain."""
        graph = build_graph(vectors, domains, self._settings, self._progress)
        exact = ExactSearch(vectors)
        chosen = []
        for domain, of_domain in zip(domains, users, strict=True):
            searched = HnswSearch(vectors, [domain], 1, SearchGraph(graph, (EF_SEARCH[0],)))
            chosen.append(
                self._choose(
                    part, domain, EF_SEARCH, searched, searched.set_ef_search, exact, of_domain, histories
                )
            )
        self.chosen += chosen
        measured: dict[str, Any] = {
            "graph": {f.name: getattr(self._settings, f.name) for f in fields(GraphSettings)},
            "wanted_recall": self._recall,
            "histories": self._source,
            "domains": [
                _described(measure, len(of_domain)) for measure, of_domain in zip(chosen, users, strict=True)
            ],
        }
        return SearchGraph(graph, tuple(measure.ef_search for measure in chosen), measured)

    def together(
        self,
        part: str,
        alone: SearchGraph,
        vectors: Vectors,
        domains: tuple[Domain, ...],
        users: Vectors,
        histories: Histories,
    ) -> SearchGraph:
        """Choose how wide all domains are searched at once, if that may be narrower than one alone."""
        both = Domain(" and ".join(d.name for d in domains), domains[0].start, domains[-1].stop)
        searched = HnswSearch(vectors, domains, 1, alone)
        ef_values = [ef for ef in EF_SEARCH if ef <= max(alone.ef_search)]
        measure = self._choose(
            part,
            both,
            ef_values,
            searched,
            searched.set_ef_search_together,
            ExactSearch(vectors),
            users,
            histories,
        )
        if not measure.reached:
            return alone
        self.chosen.append(measure)
        measured = {**alone.measured, "together": _described(measure, len(users))}
        return replace(alone, measured=measured, ef_search_together=measure.ef_search)

    def _choose(
        self,
        part: str,
        domain: Domain,
        ef_values: Sequence[int],
        search: HnswSearch,
        set_ef_search: Callable[[int], None],
        exact: ExactSearch,
        users: Vectors,
        histories: Histories | None,
    ) -> Measure:
        nothing = np.zeros(0, dtype=np.int64)
        blocked = [nothing] * len(users) if histories is None else histories
        k, wanted = min(K, domain.n_items), RowFilter(domain.start, domain.stop, blocked)
        expected = np.concatenate(
            [
                exact.search(users[i : i + _BATCH], k, wanted.of_users(slice(i, i + _BATCH)))[0]
                for i in range(0, len(users), _BATCH)
            ]
            or [nothing]
        )
        exact_time = _median_time(exact, users[: _TIMED_USERS // 10], k, wanted)
        for ef_search in ef_values:
            set_ef_search(ef_search)
            # one at a time, as requests come: among others a user's search is as wide as that of any of them
            found = [
                search.search(users[i : i + 1], k, wanted.of_users(slice(i, i + 1)))[0][0]
                for i in range(len(users))
            ]
            hits = [
                int(np.isin(a[a > 0], b).sum()) / max(1, int(np.count_nonzero(b)))
                for a, b in zip(found, expected, strict=True)
            ]
            recall = float(np.mean(hits)) if hits else 1.0
            taken = _median_time(search, users[:_TIMED_USERS], k, wanted)
            reached = recall >= self._recall
            measure = Measure(part, domain.name, ef_search, recall, taken, exact_time, reached)
            if self._observer is not None:
                self._observer(measure)
            if reached:
                break
        return measure


def _described(measure: Measure, n_users: int) -> dict[str, Any]:
    """What config.json says of an ef_search."""
    return {
        "users": n_users,
        "recall_at_10": round(measure.recall, 4),
        "milliseconds": round(measure.milliseconds, 4),
        "exact_milliseconds": round(measure.exact_milliseconds, 4),
    }


def _median_time(search: HnswSearch | ExactSearch, users: Vectors, k: int, wanted: RowFilter) -> float:
    """Median time in milliseconds of a search for one user."""
    times = []
    for i in range(len(users)):
        begun = time.perf_counter()
        search.search(users[i : i + 1], k, wanted.of_users(slice(i, i + 1)))
        times.append(time.perf_counter() - begun)
    return float(np.median(times)) * 1e3 if times else 0.0
