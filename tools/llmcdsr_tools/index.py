"""Index: build the graphs of approximate search of a bundle, and search them as wide as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.backend import NumpyBackend
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.bundle.index import BundleIndex
from llmcdsr_lite.bundle.saving import read_card, save_bundle
from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.histories import BadRecord, read_histories
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.hnsw import HnswSearch, SearchGraph
from llmcdsr_lite.search.hnsw_graph import GraphSettings, Progress, build_graph, import_hnswlib
from llmcdsr_lite.search.protocol import Rows

K = 10  # recall@10
WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_TIMED_USERS = 200
_BATCH = 256

Vectors = npt.NDArray[np.float32]
Histories = Sequence[Rows]


@dataclass(frozen=True)
class IndexSettings:
    """How the graphs are built, and what they must find.

    Parameters
    ----------
    graph : GraphSettings
    recall : float
        Share of the ten best items that searches must find.
    n_users : int
        How many histories to measure it on.
    """

    graph: GraphSettings = field(default_factory=GraphSettings)
    recall: float = 0.97
    n_users: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise UsageError(f"recall is {self.recall}, expected a share above 0, up to 1")
        if self.n_users < 1:
            raise UsageError(f"n_users is {self.n_users}, expected 1 or more")


@dataclass(frozen=True)
class Measure:
    """What one width of the search finds, and the median time for one user, of it and of exact search."""

    part: str
    domain: str
    width: int
    recall: float
    milliseconds: float
    exact_milliseconds: float
    reached: bool


Observer = Callable[[Measure], None]


def index(
    bundle: Path,
    output: Path | None = None,
    *,
    settings: IndexSettings | None = None,
    histories: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    observer: Observer | None = None,
) -> tuple[Measure, ...]:
    """Write a bundle with graphs of its item vectors, and of those of its recall network.

    For each the smallest search width is chosen that finds the wanted share of the ten best items, seen
    items excluded, as requests have it. If even the largest width does not, it is taken.

    Parameters
    ----------
    bundle : Path
    output : Path, optional
        The bundle to write; `bundle` is replaced if it is not given.
    settings : IndexSettings, optional
    histories : Path, optional
        History file to measure on. If it is not given, histories are drawn (`draw_histories`).
    overwrite : bool
        Replace `output` if it is there.
    progress : callable, optional
        Told how many items are linked, of how many.
    observer : callable, optional
        Told of every width that is tried.

    Returns
    -------
    tuple of Measure
        The widths that were chosen.

    Raises
    ------
    MissingDependencyError
        If hnswlib is not installed.
    DataError
        If the history file has no known item, or the output is there and must not be overwritten.
    """
    import_hnswlib()
    settings = settings or IndexSettings()
    if output is not None and output.exists() and not overwrite:  # before anything takes long
        raise DataError(f"{output}: exists already; choose another name or ask for it to be overwritten")
    found = read_bundle(bundle)
    card = read_card(found)
    rng = np.random.default_rng(settings.graph.seed)
    if histories is None:
        sample = draw_histories(found, settings.n_users, rng)
    else:
        sample = _known_histories(found, histories, settings.n_users)
    source = "drawn" if histories is None else histories.name
    trial = _Trial(settings, source, progress, observer)
    backend = NumpyBackend(found.parameters)
    users = np.concatenate([backend.represent(sample[i : i + _BATCH]) for i in range(0, len(sample), _BATCH)])
    items = trial.run("items", found.item_vectors, found.catalogue.domains, [users, users], sample)
    recall = None
    if found.recall is not None:
        directions = [_directions(found, found.recall, n, sample) for n in (0, 1)]
        vectors = np.asarray(found.recall.items, dtype=np.float32)
        recall = trial.run("recall", vectors, found.catalogue.domains, directions, None)
    save_bundle(
        replace(found, index=BundleIndex(items, recall)),
        card,
        bundle if output is None else output,
        overwrite=output is None or overwrite,
    )
    return tuple(trial.chosen)


def draw_histories(bundle: Bundle, n: int, rng: np.random.Generator) -> list[Rows]:
    """Draw histories: items of the one domain, of the other or of both, as popular as in training.

    They have no order and no taste: what searches for real users find may differ a little.
    """
    a, b = bundle.catalogue.domains
    cumulated = np.cumsum(bundle.item_counts + 1)  # row 0 is below every start
    histories = []
    for user in range(n):
        start, stop = ((a.start, a.stop), (b.start, b.stop), (a.start, b.stop))[user % 3]
        length = int(rng.integers(1, bundle.parameters.config.max_length + 1))
        places = rng.integers(cumulated[start - 1], cumulated[stop - 1], length)
        histories.append(np.searchsorted(cumulated, places, side="right"))
    return histories


def _known_histories(bundle: Bundle, path: Path, n: int) -> list[Rows]:
    """The first n histories of a file that have an item of the catalogue."""
    histories: list[Rows] = []
    for record in read_histories(path):
        if isinstance(record, BadRecord):
            raise DataError(f"{path}: line {record.line}: {record.reason}")
        rows, _ = bundle.catalogue.rows(record.history)
        if len(rows):
            histories.append(rows)
        if len(histories) == n:
            break
    if not histories:
        raise DataError(f"{path}: no history has an item of the catalogue")
    return histories


def _directions(bundle: Bundle, network: RecallNetwork, domain: int, sample: Histories) -> Vectors:
    """What the histories' items of the other domain say of this one (n, H'), for those that say something."""
    other = bundle.catalogue.domains[1 - domain]
    names = [network.said(rows[(rows >= other.start) & (rows < other.stop)]) for rows in sample]
    names = [vectors for vectors in names if len(vectors)]
    weigh = bundle.pseudo[domain].source == "titles"
    if not names:
        return np.zeros((0, network.hidden), np.float32)
    return np.asarray(network.directions(names, domain, weigh=weigh), dtype=np.float32)


class _Trial:
    """Builds a graph and tries widths."""

    def __init__(
        self, settings: IndexSettings, source: str, progress: Progress | None, observer: Observer | None
    ) -> None:
        self._settings = settings
        self._source = source
        self._progress = progress
        self._observer = observer
        self.chosen: list[Measure] = []

    def run(
        self,
        part: str,
        vectors: Vectors,
        domains: tuple[Domain, Domain],
        users: Sequence[Vectors],
        histories: Histories | None,
    ) -> SearchGraph:
        """Build the graph of a part, and choose widths for the users of each domain."""
        settings = self._settings
        graph = build_graph(vectors, domains, settings.graph, self._progress)
        chosen = []
        for domain, of_domain in zip(domains, users, strict=True):
            searched = HnswSearch(vectors, [domain], 1, SearchGraph(graph, (WIDTHS[0],)))
            chosen.append(self._choose(part, domain, searched, ExactSearch(vectors), of_domain, histories))
        self.chosen += chosen
        measured: dict[str, Any] = {
            "graph": asdict(settings.graph),
            "wanted_recall": settings.recall,
            "histories": self._source,
            "domains": [
                {
                    "users": len(of_domain),
                    "recall_at_10": round(measure.recall, 4),
                    "milliseconds": round(measure.milliseconds, 4),
                    "exact_milliseconds": round(measure.exact_milliseconds, 4),
                }
                for measure, of_domain in zip(chosen, users, strict=True)
            ],
        }
        return SearchGraph(graph, tuple(measure.width for measure in chosen), measured)

    def _choose(
        self,
        part: str,
        domain: Domain,
        search: HnswSearch,
        exact: ExactSearch,
        users: Vectors,
        histories: Histories | None,
    ) -> Measure:
        nothing = np.zeros(0, dtype=np.int64)
        blocked = [nothing] * len(users) if histories is None else histories
        within = (min(K, domain.n_items), domain.start, domain.stop)
        expected = np.concatenate(
            [
                exact.search(users[i : i + _BATCH], *within, blocked[i : i + _BATCH], None)[0]
                for i in range(0, len(users), _BATCH)
            ]
            or [nothing]
        )
        exact_time = _median_time(exact, users[: _TIMED_USERS // 10], within, blocked)
        for width in WIDTHS:
            search.set_width(width)
            # one at a time, as requests come: among others a user's search is as wide as that of any of them
            found = [
                search.search(users[i : i + 1], *within, blocked[i : i + 1], None)[0][0]
                for i in range(len(users))
            ]
            hits = [
                int(np.isin(a[a > 0], b).sum()) / max(1, int(np.count_nonzero(b)))
                for a, b in zip(found, expected, strict=True)
            ]
            recall = float(np.mean(hits)) if hits else 1.0
            taken = _median_time(search, users[:_TIMED_USERS], within, blocked)
            reached = recall >= self._settings.recall
            measure = Measure(part, domain.name, width, recall, taken, exact_time, reached)
            if self._observer is not None:
                self._observer(measure)
            if reached:
                break
        return measure


def _median_time(
    search: HnswSearch | ExactSearch, users: Vectors, within: tuple[int, int, int], blocked: Histories
) -> float:
    """Median time in milliseconds of a search for one user."""
    times = []
    for i in range(len(users)):
        begun = time.perf_counter()
        search.search(users[i : i + 1], *within, blocked[i : i + 1], None)
        times.append(time.perf_counter() - begun)
    return float(np.median(times)) * 1e3 if times else 0.0
