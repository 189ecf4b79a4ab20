"""What makes vectors of new items, fitted to a trained model: the space of titles, and how neighbours weigh.

Titles are compared in the space of their principal components. How sharply neighbours are weighed, and how
long the mean is made, is chosen on the places of validation histories, for each domain, with items of the
catalogue playing new ones: a tenth of them at a time has vectors made of the others' titles instead of its
own. The merit of a choice is HR@10 of all places (against 999 negatives, in expectation over their draw),
those of the new tenth and those of the rest in the proportion of their items: what a longer vector gains
for new items, others lose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.model.backends import Backend
from llmcdsr_lite.text.title_neighbours import LEVELS, TitleMap, Weighing, nearest, stored, weighted_mean
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.evaluation.expected import ExpectedMetrics
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.holdout import occurrences

N_COMPONENTS = 64
N_NEIGHBOURS = 50
N_FOLDS = 10
SHARPNESS = (5.0, 10.0, 20.0, 30.0, 40.0, 60.0, 100.0)
SCALES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
DEFAULT = (30.0, 1.0)  # where there is nothing to choose on
_MAX_PLACES = 5000  # a domain
_CHUNK = 512  # histories at a time

FloatArray = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Fold:
    """Items that play new ones, and places of validation histories to measure them on.

    Parameters
    ----------
    items : int64 array (n,)
        Rows of the new items.
    rest : float array (m, H)
        Vectors of all other items of the domain.
    neighbours, cosines : arrays (n, k)
        Rows of items of the rest, and how similar their titles are.
    new : tuple of users (p, H), places (p,)
        Users whose next item is the new one of that place in `items`.
    old : tuple of users (q, H), scores (q,)
        Users whose next item is of the rest, and its score.
    """

    items: Rows
    rest: FloatArray
    neighbours: Rows
    cosines: FloatArray
    new: tuple[FloatArray, Rows]
    old: tuple[FloatArray, FloatArray]


def fit_title_map(
    data: Dataset, text: npt.NDArray[np.float32], backend: Backend, table: FloatArray, seed: int = 0
) -> TitleMap:
    """Fit to a trained model.

    Parameters
    ----------
    data : Dataset
    text : float32 array (items, E)
        Text embeddings; zeros where there is no title.
    backend : Backend
    table : float array (items + 1, H)
        Item vectors.
    seed : int
        Of the tenths.
    """
    domains = data.catalogue.domains
    start = default_title_map(text, len(domains))
    rng = np.random.default_rng([seed, 6])
    weighings = tuple(
        choose_weighing(data, start.directions, backend, table, domain, rng) for domain in domains
    )
    return replace(start, weighings=weighings)


def default_title_map(text: npt.NDArray[np.float32], n_domains: int) -> TitleMap:
    """The map of text embeddings (items, E), zeros where there is no title, with nothing chosen."""
    components = principal_components(text)
    start = TitleMap(
        components, np.zeros((1, 1), np.int8), (Weighing(*DEFAULT),) * n_domains, n_neighbours=N_NEIGHBOURS
    )
    placed = start.directions_of(text)
    return replace(start, directions=stored(np.concatenate([np.zeros_like(placed[:1]), placed])))


def principal_components(text: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Components of text (items, E), and what places the mean at zero: (E + 1, min(E, `N_COMPONENTS`))."""
    titled: FloatArray = text[text.any(axis=1)].astype(np.float64)
    n_components = min(N_COMPONENTS, text.shape[1])
    mean = titled.mean(axis=0) if len(titled) else np.zeros(text.shape[1])
    titled -= mean
    _, vectors = np.linalg.eigh(titled.T @ titled)  # eigenvalues rise
    components = vectors[:, ::-1][:, :n_components]
    # an eigenvector's sign is arbitrary: fix it, so that every machine writes the same file
    largest = components[np.abs(components).argmax(axis=0), np.arange(n_components)]
    signed = components * np.where(largest < 0, -1, 1)
    return np.concatenate([signed, -(mean @ signed)[None]]).astype(np.float32)


def choose_weighing(
    data: Dataset,
    directions: npt.NDArray[np.int8],
    backend: Backend,
    table: FloatArray,
    domain: Domain,
    rng: np.random.Generator,
) -> Weighing:
    """The sharpness and scale with the highest HR@10 of all places of the validation histories."""
    queries = occurrences(data.valid, np.arange(domain.start, domain.stop))
    if len(queries.targets) > _MAX_PLACES:
        kept = np.sort(rng.choice(len(queries.targets), _MAX_PLACES, replace=False))
        queries = Queries([queries.histories[i] for i in kept.tolist()], queries.targets[kept])
    folds = list(_folds(queries, directions, backend, table, domain, rng))
    n_new = sum(len(fold.new[1]) for fold in folds)
    n_old = sum(len(fold.old[1]) for fold in folds)
    if not n_new or not n_old:
        return Weighing(*DEFAULT, {"n_places": 0})
    metrics = ExpectedMetrics(domain.n_items)
    hits = np.zeros((len(SHARPNESS), len(SCALES), 2))  # of places of new items, of others
    trained = np.zeros(2)
    for fold in folds:
        scores = [users @ fold.rest.T for users in (fold.new[0], fold.old[0])]
        own = table[fold.items]
        trained += [hit.sum() for hit in _hits(fold, scores, own, metrics)]
        for i, sharpness in enumerate(SHARPNESS):
            means = weighted_mean(table, fold.neighbours, fold.cosines, sharpness)
            for j, scale in enumerate(SCALES):
                hits[i, j] += [hit.sum() for hit in _hits(fold, scores, means * np.float32(scale), metrics)]
    hits /= [n_new, n_old]
    trained /= [n_new, n_old]
    share = 1 / len(folds)
    merit = hits @ [share, 1 - share]
    i, j = divmod(int(merit.argmax()), len(SCALES))
    return Weighing(
        SHARPNESS[i],
        SCALES[j],
        {
            "n_places": n_new,
            "share_new": share,
            "hr10_new": float(hits[i, j, 0]),
            "hr10_new_trained": float(trained[0]),
            "hr10_others": float(hits[i, j, 1]),
            "hr10_others_trained": float(trained[1]),
        },
    )


def _folds(
    queries: Queries,
    directions: npt.NDArray[np.int8],
    backend: Backend,
    table: FloatArray,
    domain: Domain,
    rng: np.random.Generator,
) -> Iterator[_Fold]:
    """Tenths of the titled items; places of the next tenth stand for those of all others."""
    titled = domain.start + np.flatnonzero(directions[domain.start : domain.stop].any(axis=1))
    n_folds = min(N_FOLDS, len(titled))
    if n_folds < 2:
        return
    fold_of = np.full(domain.stop, -1)  # (rows,)
    fold_of[rng.permutation(titled)] = np.arange(len(titled)) % n_folds
    chunks = range(0, len(queries.histories), _CHUNK)
    represented = [backend.represent(queries.histories[i : i + _CHUNK]) for i in chunks]
    users = np.concatenate(represented) if represented else np.zeros((0, table.shape[1]), np.float32)
    of_target = fold_of[queries.targets]
    for fold in range(n_folds):
        items = np.flatnonzero(fold_of == fold)
        others = domain.start + np.flatnonzero(fold_of[domain.start :] != fold)
        known = others[fold_of[others] >= 0]  # that have a title
        places, cosines = nearest(
            directions[items].astype(np.float32) / LEVELS, directions[known], N_NEIGHBOURS
        )
        new, old = of_target == fold, of_target == (fold + 1) % n_folds
        yield _Fold(
            items,
            table[others],
            known[places],
            cosines,
            (users[new], np.searchsorted(items, queries.targets[new])),
            (users[old], np.einsum("nh,nh->n", users[old], table[queries.targets[old]])),
        )


def _hits(
    fold: _Fold, scores: Sequence[FloatArray], vectors: FloatArray, metrics: ExpectedMetrics
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Expected hits of the places of new items with these vectors (n, H), and of the others beside them."""
    users, places = fold.new
    among_new = users @ vectors.T  # (p, n)
    target = np.take_along_axis(among_new, places[:, None], axis=1)
    ahead = (scores[0] >= target).sum(axis=1) + (among_new >= target).sum(axis=1) - 1  # the target itself
    others, target_scores = fold.old
    reached = target_scores[:, None]
    # the target's own column counts and is taken off again: a hair below, as another product rounds otherwise
    least = reached - 1e-5 * np.abs(reached)
    beside = (scores[1] >= least).sum(axis=1) - 1 + (others @ vectors.T >= reached).sum(axis=1)
    return metrics.hits(ahead), metrics.hits(beside)
