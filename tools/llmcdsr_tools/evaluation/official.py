"""The official protocol: how well the held-out last item of each user is ranked within its own domain.

Two protocols, side by side because sampled metrics alone can mislead: against 999 distinct uniform
negatives of the target's domain (the official one; all others where there are fewer), and against the
whole domain. Two groups of users:
all, and *cold cross-domain*: the same users with every item of the target's domain taken out of the
history, kept where 3 items or more remain. Ties count against the model.

A bundle with a mix is measured twice: its model alone, and as it answers, with the mix and pseudo items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.folder import CONFIG, ONNX, read_bundle
from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.model.backends import Backend, NumpyBackend, OnnxBackend
from llmcdsr_tools.checkpoint import load_members
from llmcdsr_tools.data.dataset import Dataset, Split
from llmcdsr_tools.evaluation.expected import N_NEGATIVES as N_NEGATIVES
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import Scorer, bundle_scorers
from llmcdsr_tools.run_folder import MEAN, REFITTED, best_model, folder_hash, member_runs, read_run

CUTOFFS = (1, 3, 5, 10)
_CHUNK = 256  # users scored at a time: 256 x 36,000 float32 scores are 37 MB

Protocol = Literal["sampled", "full"]
Group = Literal["all", "cold"]
ScoredBy = Literal["model", "bundle"]


@dataclass(frozen=True)
class Result:
    """Metrics of one protocol, group of users and target domain.

    Parameters
    ----------
    protocol : {"sampled", "full"}
    group : {"all", "cold"}
    domain : str
        Name of the target's domain.
    n_users : int
    n_negatives : int
        Items that every target is ranked among, itself left out.
    n_items : int
        Items of the domain.
    hr, ndcg : tuple of float
        Hit rate and normalised discounted cumulative gain at `CUTOFFS`, in [0, 1]; nan without users.
    scored_by : {"model", "bundle"}
        By the model alone, or as the bundle answers.
    """

    protocol: Protocol
    group: Group
    domain: str
    n_users: int
    n_negatives: int
    n_items: int
    hr: tuple[float, ...]
    ndcg: tuple[float, ...]
    scored_by: ScoredBy = "model"

    @property
    def ranked_among(self) -> str:
        """What the target is ranked among, in words."""
        return "whole domain" if self.protocol == "full" else ranked_among(self.n_negatives, self.n_items)

    @property
    def hr10(self) -> float:
        """Hit rate at 10."""
        return self.hr[CUTOFFS.index(10)]

    @property
    def ndcg10(self) -> float:
        """NDCG at 10."""
        return self.ndcg[CUTOFFS.index(10)]


def evaluate(
    backend: Backend,
    item_embedding: npt.NDArray[np.floating[Any]],
    dataset: Dataset,
    *,
    split: Split = "test",
    seed: int = 0,
    groups: tuple[Group, ...] = ("all", "cold"),
    n_negatives: int = N_NEGATIVES,
    answers: Scorer | None = None,
) -> list[Result]:
    """Rank the last item of every user of a split.

    Parameters
    ----------
    backend : Backend
        Gives the user representations.
    item_embedding : float array (items + 1, H)
        A score is the dot product of a user representation with a row of it.
    dataset : Dataset
    split : {"test", "valid", "train"}
    seed : int
        Of the negatives. The same seed draws the same negatives for every model.
    groups : tuple of {"all", "cold"}
    n_negatives : int
        Negatives of the sampled protocol; a domain that has fewer gives all it has.
    answers : Scorer, optional
        A bundle as it answers, measured, too; see `open_answers`.

    Returns
    -------
    list of Result
        For each group, domain, "model" and (given `answers`) "bundle", and protocol.
    """
    everyone = Queries.from_split(dataset.split(split))
    results = []
    for group in groups:
        queries = everyone if group == "all" else everyone.cold(dataset.catalogue)
        for domain in dataset.catalogue.domains:
            chosen = queries.into(domain)
            negatives = draw_negatives(chosen.targets, domain, n_negatives, seed)
            for scorer in (None,) if answers is None else (None, answers):
                sampled, full = ranks(backend, item_embedding, chosen, domain, negatives, scorer)
                by: ScoredBy = "model" if scorer is None else "bundle"
                n_drawn = negatives.shape[1]
                results.append(_result("sampled", group, domain, sampled, n_drawn, by))
                results.append(_result("full", group, domain, full, domain.n_items - 1, by))
    return results


def open_model(
    model: Path, dataset: Dataset, best_for: str = MEAN, *, folder: Path | None = None
) -> tuple[Backend, npt.NDArray[np.floating[Any]]]:
    """Backend and item embedding of a bundle (through ONNX) or of a training run.

    Parameters
    ----------
    model : Path
        Folder of a bundle or of a run.
    dataset : Dataset
        What it will be evaluated on.
    best_for : str
        Which of a run's models: the best on the mean of all domains ("mean"), or for the domain of that name.
    folder : Path, optional
        Where the data set is, to be sure that a run was trained on it: a run knows its files by their hash,
        a bundle its items by their ids.

    Raises
    ------
    DataError, TrainingError
        If the folder is neither, or the model is not of the data set.
    UsageError
        If a bundle was refitted on the held-out histories of the folder.
    """
    if (model / CONFIG).exists():
        bundle = read_bundle(model)
        ours, theirs = bundle.catalogue, dataset.catalogue
        if list(ours.ids) != list(theirs.ids) or ours.domains != theirs.domains:
            raise DataError(f"{model}: its items are not those of the data set")
        refitted = bundle.training.get(REFITTED)
        if refitted and folder is not None and refitted["dataset_sha256"] == folder_hash(folder):
            raise UsageError(
                f"{model}: is refitted on the held-out histories of {folder}, too, which cannot measure it; "
                "evaluate the bundle that it was made of"
            )
        vectors = bundle.item_vectors
        return OnnxBackend(model / ONNX, vectors, bundle.parameters.config.max_length, 1), vectors
    runs = member_runs(model)
    best = best_model(runs[0], best_for)
    if not best.exists():
        raise DataError(f"{model}: is neither a bundle ({CONFIG}) nor a training run ({best.name})")
    if folder is not None:
        for run in runs:
            read_run(run, folder)
    parameters, _ = load_members([best_model(run, best_for) for run in runs])
    if parameters.config.n_items != len(dataset.catalogue):
        raise DataError(
            f"{best}: has {parameters.config.n_items} items, the data set {len(dataset.catalogue)}"
        )
    return NumpyBackend(parameters), parameters.item_embedding


def open_answers(model: Path, *, pseudo: bool = True) -> Scorer | None:
    """A bundle as it answers, if that adds anything to its model's scores; None for any other model."""
    if not (model / CONFIG).exists():
        return None
    bundle = read_bundle(model)
    backend = OnnxBackend(model / ONNX, bundle.item_vectors, bundle.parameters.config.max_length, 1)
    scorer, *alone = bundle_scorers(bundle, backend, pseudo=pseudo)
    return scorer if alone else None


def draw_negatives(
    targets: npt.NDArray[np.int64], domain: Domain, n_negatives: int, seed: int
) -> npt.NDArray[np.int64]:
    """Distinct uniform negatives of a domain for every target, the target itself left out.

    Returns
    -------
    int64 array (n, min(n_negatives, items - 1))
        Item rows.
    """
    rng = np.random.default_rng([seed, domain.start])
    others = domain.n_items - 1
    size = min(n_negatives, others)
    negatives = np.empty((len(targets), size), dtype=np.int64)
    for i, target in enumerate(targets):
        drawn = domain.start + rng.choice(others, size, replace=False, shuffle=False)
        negatives[i] = drawn + (drawn >= target)
    return negatives


def ranked_among(n_negatives: int, n_items: int) -> str:
    """What the sampled protocol ranks among in a domain of `n_items`, in words."""
    return f"all {n_items - 1:,} others" if n_items <= n_negatives + 1 else f"{n_negatives:,} negatives"


def ranks(
    backend: Backend,
    item_embedding: npt.NDArray[np.floating[Any]],
    queries: Queries,
    domain: Domain,
    negatives: npt.NDArray[np.int64],
    answers: Scorer | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Zero-based rank of every target among its negatives and in the whole domain, by the model or `answers`.

    An item that scores as high as the target, or whose score is not a number, ranks before it.

    Returns
    -------
    sampled, full : int64 arrays (n,)
    """
    table = item_embedding[domain.start : domain.stop]
    sampled = np.empty(len(queries.targets), dtype=np.int64)
    full = np.empty_like(sampled)
    for chunk in _chunks(len(sampled)):
        histories, columns = queries.histories[chunk], queries.targets[chunk] - domain.start
        if answers is None:
            users = backend.represent(histories)  # (chunk, H)
            ahead = _ahead(users @ table.T, users, table, columns)  # (chunk, items of the domain)
        else:
            scores = answers.scores(histories, domain)
            ahead = ~(scores < np.take_along_axis(scores, columns[:, None], axis=1))
        full[chunk] = ahead.sum(axis=1) - 1  # the target itself
        sampled[chunk] = np.take_along_axis(ahead, negatives[chunk] - domain.start, axis=1).sum(axis=1)
    return sampled, full


def _ahead(
    scores: npt.NDArray[np.floating[Any]],
    users: npt.NDArray[np.floating[Any]],
    table: npt.NDArray[np.floating[Any]],
    columns: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Whether each item ranks before each user's target, or is it (chunk, items).

    A product may sum up the columns at its edges in another order than the rest. So items whose vector is the
    target's, to the bit, are looked for among those that seem to score less by no more than rounding.
    """
    of_target = np.take_along_axis(scores, columns[:, None], axis=1)
    below = scores < of_target
    lengths = np.linalg.norm(users, axis=1) * np.linalg.norm(table[columns], axis=1)
    rounding = 2 * table.shape[1] * np.finfo(scores.dtype).eps * lengths[:, None]
    near = below & ~(scores < of_target - rounding)
    for user in np.flatnonzero(near.any(axis=1)):
        others = np.flatnonzero(near[user])
        below[user, others] = (table[others] != table[columns[user]]).any(axis=1)
    return ~below


def format_results(results: list[Result]) -> str:
    """Readable table of results; with a column for what scores where a bundle is measured as it answers."""
    with_bundle = any(r.scored_by == "bundle" for r in results)
    head = f"{'ranked among':<16}{'users':<19}{'target':<14}{'n':>6}{'  scored by' if with_bundle else ''}"
    lines = [
        head + "".join(f"{f'HR@{k}':>8}" for k in CUTOFFS) + "".join(f"{f'NDCG@{k}':>9}" for k in CUTOFFS)
    ]
    for r in results:
        group = "all" if r.group == "all" else "cold cross-domain"
        by = f"{r.scored_by:>11}" if with_bundle else ""
        numbers = "".join(f"{x:8.4f}" for x in r.hr) + "".join(f"{x:9.4f}" for x in r.ndcg)
        lines.append(f"{r.ranked_among:<16}{group:<19}{r.domain:<14}{r.n_users:>6}{by}{numbers}")
    return "\n".join(lines)


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK))


def _result(
    protocol: Protocol,
    group: Group,
    domain: Domain,
    rank: npt.NDArray[np.int64],
    n_negatives: int,
    scored_by: ScoredBy,
) -> Result:
    n = len(rank)
    gain = 1 / np.log2(rank + 2)
    hr = tuple(float((rank < k).mean()) if n else float("nan") for k in CUTOFFS)
    ndcg = tuple(float((gain * (rank < k)).mean()) if n else float("nan") for k in CUTOFFS)
    return Result(protocol, group, domain.name, n, n_negatives, domain.n_items, hr, ndcg, scored_by)
