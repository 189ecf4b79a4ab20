"""Stage `evaluate` of the pipeline: all measures of a bundle in one JSON file, for the report.

Beside what `evaluate` gives for validation and test users, the test users by kind: whose history has
items of the target's domain only, of the other domain only, or of both.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from llmcdsr_lite.backend import Backend
from llmcdsr_lite.bundle.folder import CONFIG, read_bundle
from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.pseudo import PseudoRecall
from llmcdsr_tools.dataset import Dataset, load_dataset
from llmcdsr_tools.evaluation.official import (
    N_NEGATIVES,
    Result,
    draw_negatives,
    evaluate,
    open_model,
    open_pseudo,
    ranks,
)
from llmcdsr_tools.evaluation.queries import Queries

Kind = Literal["target domain only", "other domain only", "both domains"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class KindResult:
    """Measures of the users of one kind by the sampled protocol.

    Parameters
    ----------
    kind : str
        What the history has items of.
    domain : str
        Name of the target's domain.
    n_users : int
    hr10, ndcg10 : float
        nan without users.
    """

    kind: Kind
    domain: str
    n_users: int
    hr10: float
    ndcg10: float


@dataclass(frozen=True)
class Measures:
    """What is measured of a bundle.

    Parameters
    ----------
    test, valid : tuple of Result
        See `evaluate`.
    kinds : tuple of KindResult
        Test users, for each target domain.
    """

    test: tuple[Result, ...]
    valid: tuple[Result, ...]
    kinds: tuple[KindResult, ...]


def measure(model: Path, dataset: Path, *, seed: int = 0) -> Measures:
    """Measure a bundle without pseudo items, and, if it would use any, as it answers.

    Parameters
    ----------
    model : Path
        Folder of a bundle, or of a training run.
    dataset : Path
        Data set folder.
    seed : int
        Of the negatives.
    """
    data = load_dataset(dataset)
    backend, table = open_model(model, data, folder=dataset)
    uses = (model / CONFIG).exists() and any(c.auto.mode != "off" for c in read_bundle(model).pseudo)
    pseudo = open_pseudo(model) if uses else None  # else it answers as it does without
    test, valid = (
        tuple(evaluate(backend, table, data, split=split, seed=seed, pseudo=pseudo))
        for split in ("test", "valid")
    )
    return Measures(test, valid, tuple(measure_kinds(backend, table, data, seed, pseudo)))


def measure_kinds(
    backend: Backend, table: Any, data: Dataset, seed: int, pseudo: PseudoRecall | None = None
) -> list[KindResult]:
    """Sampled measures of the test users by kind; each meets the negatives that it meets in `evaluate`."""
    results = []
    everyone = Queries.from_split(data.test)
    for domain in data.catalogue.domains:
        queries = everyone.into(domain)
        negatives = draw_negatives(queries.targets, domain, N_NEGATIVES, seed)
        rank, _ = ranks(backend, table, queries, domain, negatives, pseudo)
        of_user = [kind_of(history, domain) for history in queries.histories]
        for kind in KINDS:
            of_kind = rank[[k == kind for k in of_user]]
            n = len(of_kind)
            hr10 = float((of_kind < 10).mean()) if n else math.nan
            ndcg10 = float(((of_kind < 10) / np.log2(of_kind + 2)).mean()) if n else math.nan
            results.append(KindResult(kind, domain.name, n, hr10, ndcg10))
    return results


def kind_of(history: Any, domain: Domain) -> Kind:
    """Kind of a user by the items of the history, and the target's domain."""
    inside = (history >= domain.start) & (history < domain.stop)
    return "target domain only" if inside.all() else "both domains" if inside.any() else "other domain only"


def write_measures(path: Path, measures: Measures) -> None:
    """Write measures as JSON, atomically; null stands for nan."""
    with atomic_file(path) as temporary:
        content = json.dumps(without_nan(asdict(measures)), indent=1, allow_nan=False)
        temporary.write_text(content + "\n", encoding="utf-8")


def read_measures(path: Path) -> Measures:
    """Read back what `write_measures` wrote.

    Raises
    ------
    DataError
        If the file cannot be read or is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        test, valid = (
            tuple(
                Result(**{**r, "hr": _numbers(r["hr"]), "ndcg": _numbers(r["ndcg"])}) for r in content[name]
            )
            for name in ("test", "valid")
        )
        kinds = tuple(
            KindResult(**{**k, "hr10": _number(k["hr10"]), "ndcg10": _number(k["ndcg10"])})
            for k in content["kinds"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as measures: {error}") from None
    return Measures(test, valid, kinds)


def without_nan(value: Any) -> Any:
    """JSON-able values with None for nan, which JSON does not know and which a measure of no users is."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _numbers(values: list[float | None]) -> tuple[float, ...]:
    return tuple(map(_number, values))
