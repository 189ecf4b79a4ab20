"""Index: build the graphs of approximate search of a bundle, and search them as wide as it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from llmcdsr_lite.bundle.folder import BUNDLE, Bundle, read_bundle
from llmcdsr_lite.bundle.index import BundleIndex
from llmcdsr_lite.bundle.saving import read_card, save_bundle
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import check_folder
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.score.histories import BadRecord, located, read_histories
from llmcdsr_lite.search.hnsw_graph import GraphSettings, Progress, import_hnswlib
from llmcdsr_lite.search.protocol import Rows
from llmcdsr_tools.ef_search import Histories, Measure, Observer, Vectors, WidthTrial
from llmcdsr_tools.setting_fields import Bounds, Count, Flag, Natural, check_settings

_BATCH = 256


@dataclass(frozen=True)
class IndexSettings(GraphSettings):
    """How the graphs are built, and what they must find.

    Parameters
    ----------
    M : int
        Links of an item, at most.
    ef_construction : int
        How many candidates an item's links are chosen from.
    seed : int
        Of the levels, and of histories that are drawn.
    threads : int
        Of building; the result is reproducible with one alone.
    recall : float
        Share of the ten best items that searches must find.
    n_users : int
        How many histories to measure it on.
    """

    M: Annotated[int, Bounds(2, 256), Flag("--m")] = GraphSettings.M
    ef_construction: Annotated[int, Bounds(1, 10_000)] = GraphSettings.ef_construction
    seed: Natural = GraphSettings.seed
    threads: Annotated[int, Bounds(1, 256)] = GraphSettings.threads
    recall: Annotated[float, Bounds(0, 1, low_open=True)] = 0.97
    n_users: Count = 1000

    def __post_init__(self) -> None:
        check_settings(self)


def index(
    bundle: str | Path,
    output: str | Path | None = None,
    *,
    settings: IndexSettings | None = None,
    histories: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    observer: Observer | None = None,
) -> tuple[Measure, ...]:
    """Write a bundle with graphs of its item vectors, and of those of its recall network.

    For each the smallest ef_search is chosen that finds the wanted share of the ten best items, seen
    items excluded, as requests have it. If even the largest ef does not, it is taken. For all domains at
    once another one is chosen, on the ten best items of both: fewer of each are among them.

    Parameters
    ----------
    bundle : str or Path
    output : str or Path, optional
        The bundle to write; `bundle` is replaced if it is not given.
    settings : IndexSettings, optional
    histories : str or Path, optional
        History file to measure on. If it is not given, histories are drawn (`draw_histories`).
    overwrite : bool
        Replace `output` if it is there.
    progress : callable, optional
        Told how many items are linked, of how many.
    observer : callable, optional
        Told of every ef that is tried.

    Returns
    -------
    tuple of Measure
        The ef_values that were chosen.

    Raises
    ------
    MissingDependencyError
        If hnswlib is not installed.
    DataError
        If the history file has no known item, or the output is there and must not be overwritten.
    """
    bundle = Path(bundle)
    output = None if output is None else Path(output)
    histories = None if histories is None else Path(histories)
    import_hnswlib()
    settings = settings or IndexSettings()
    target, overwrite = (bundle, True) if output is None else (output, overwrite)
    check_folder(target, BUNDLE, overwrite=overwrite)  # before anything takes long
    found = read_bundle(bundle)
    card = read_card(found)
    rng = np.random.default_rng(settings.seed)
    if histories is None:
        sample = draw_histories(found, settings.n_users, rng)
    else:
        sample = _known_histories(found, histories, settings.n_users)
    source = "drawn" if histories is None else histories.name
    trial = WidthTrial(settings, settings.recall, source, progress, observer)
    backend = NumpyBackend(found.parameters)
    users = np.concatenate([backend.represent(sample[i : i + _BATCH]) for i in range(0, len(sample), _BATCH)])
    domains = found.catalogue.domains
    items = trial.run("items", found.item_vectors, domains, [users] * len(domains), sample)
    if len(domains) > 1:
        items = trial.together("items", items, found.item_vectors, domains, users, sample)
    recall = None
    if found.recall is not None:
        directions = [_directions(found, found.recall, n, sample) for n in range(len(domains))]
        vectors = np.asarray(found.recall.items, dtype=np.float32)
        recall = trial.run("recall", vectors, domains, directions, None)
    save_bundle(replace(found, index=BundleIndex(items, recall)), card, target, overwrite=overwrite)
    return tuple(trial.chosen)


def draw_histories(bundle: Bundle, n: int, rng: np.random.Generator) -> list[Rows]:
    """Draw histories: items of each domain in turn, then of all, as popular as in training.

    They have no order and no taste: what searches for real users find may differ a little.
    """
    domains = bundle.catalogue.domains
    ranges = [(domain.start, domain.stop) for domain in domains]
    if len(domains) > 1:
        ranges.append((1, domains[-1].stop))
    cumulated = np.cumsum(bundle.item_counts + 1)  # row 0 is below every start
    histories = []
    for user in range(n):
        start, stop = ranges[user % len(ranges)]
        length = int(rng.integers(1, bundle.parameters.config.max_length + 1))
        places = rng.integers(cumulated[start - 1], cumulated[stop - 1], length)
        histories.append(np.searchsorted(cumulated, places, side="right"))
    return histories


def _known_histories(bundle: Bundle, path: Path, n: int) -> list[Rows]:
    """The first n histories of a file that have an item of the catalogue."""
    histories: list[Rows] = []
    for record in read_histories(path):
        if isinstance(record, BadRecord):
            raise DataError(located(path, None, record))
        rows, _ = bundle.catalogue.rows(record.history)
        if len(rows):
            histories.append(rows)
        if len(histories) == n:
            break
    if not histories:
        raise DataError(f"{path}: no history has an item of the catalogue")
    return histories


def _directions(bundle: Bundle, network: RecallNetwork, domain: int, sample: Histories) -> Vectors:
    """Pooled names of the histories' items of other domains (n, H'), of histories with any."""
    catalogue = bundle.catalogue
    others = [rows[catalogue.domain_indices(rows) != domain] for rows in sample]
    names = [network.names_of(rows, domain, catalogue) for rows in others]
    names = [vectors for vectors in names if len(vectors)]
    weigh = bundle.mix[domain].source == "titles"
    if not names:
        return np.zeros((0, network.hidden), np.float32)
    return np.asarray(network.directions(names, domain, weigh=weigh), dtype=np.float32)
