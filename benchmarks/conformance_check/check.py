"""Check the NumPy models against numbers of the official implementation.

``python benchmarks/conformance.py FILE...`` reads case files (.npz: parameters under PyTorch's names,
inputs, outputs and gradients, float64, dropout off), prints the largest relative error of each group and
exits with status 1 if one is out of tolerance, or none is checked. Arrays that no check reads are named.
The relative error of an array is the largest absolute difference divided by the largest absolute value
expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from conformance_check.case import Array, Case, pack_padded, parameters_of
from conformance_check.meta import check_meta, check_meta_sgd, check_meta_warm, check_recall
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.model import sasrec
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_tools.optimization import losses
from llmcdsr_tools.pretrain.contrastive import nt_xent


@dataclass(frozen=True)
class GroupResult:
    """Outcome of one group of a case file.

    Parameters
    ----------
    group : str
    error : float or None
        Largest relative error, None for a group that is not checked yet.
    worst : str
        The array it was found in.
    tolerance : float
    unread : tuple of str
        Arrays of the group that no comparison asked for.
    """

    group: str
    error: float | None = None
    worst: str = ""
    tolerance: float = 0.0
    unread: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """False if the error is out of tolerance (or not a number)."""
        return self.error is None or self.error <= self.tolerance


def check(path: Path) -> list[GroupResult]:
    """Check every group of a case file.

    Parameters
    ----------
    path : Path
        A case file.

    Returns
    -------
    list of GroupResult
        In file order.

    Raises
    ------
    DataError
        If the file cannot be read, has no group that is checked, lacks an array, or its arrays do not fit
        together.
    """
    case = Case(path)
    results = []
    for group in case.groups():
        if group not in _CHECKS:
            results.append(GroupResult(group))
            continue
        try:
            with np.errstate(all="ignore"):  # what is not finite fails the comparison
                result = _check_group(case, group)
            results.append(replace(result, unread=case.unread(group)))
        except (ValueError, IndexError, TypeError) as error:
            raise DataError(f"{path}: arrays of group {group!r} do not fit together: {error}") from None
    if all(r.error is None for r in results):
        raise DataError(f"{path}: has none of the groups {', '.join(_CHECKS)}: nothing is checked")
    return results


def _check_group(case: Case, group: str) -> GroupResult:
    compare, tolerance = _CHECKS[group]
    worst, error = "", 0.0
    for name, actual, expected in compare(case):
        this = relative_error(actual, expected)
        if not this <= error and not math.isnan(error):  # nothing is worse than nan, and nothing may hide it
            worst, error = name, this
    return GroupResult(group, error, worst, tolerance)


def relative_error(actual: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """Largest absolute difference divided by the largest absolute value expected."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        return float("inf")
    if not actual.size:
        return 0.0
    scale = np.abs(expected).max()
    return float(np.abs(actual - expected).max() / (scale if scale > 0 else 1.0))


def _check_forward(case: Case) -> Iterator[tuple[str, Array, Array]]:
    parameters = parameters_of(case)
    batch, tokens = pack_padded(case["forward/seq"])
    features, cache = sasrec.forward(parameters, batch)
    yield "features", features, case["forward/features"].reshape(-1, features.shape[1])[tokens]

    positives, negatives = case["forward/pos"].ravel()[tokens], case["forward/neg"].ravel()[tokens]
    loss = losses.binary_cross_entropy(features, parameters.item_embedding, positives, negatives)
    yield "loss", np.array(loss.loss), case["forward/loss"]

    gradients = SASRecParameters.zeros(parameters.config, np.float64)
    d_inputs = sasrec.backward(parameters, loss.d_features, cache, gradients)
    rows = sasrec.sum_rows(np.concatenate([batch.rows, loss.rows]), np.concatenate([d_inputs, loss.d_rows]))
    gradients.item_embedding[rows.rows] = rows.values
    expected = parameters_of(case, "forward/grad/")
    yield "grad/item_embedding", gradients.item_embedding, expected.item_embedding
    for name, array in gradients.arrays.items():
        yield f"grad/{name}", array, expected.arrays[name]


def _check_predict(case: Case) -> Iterator[tuple[str, Array, Array]]:
    parameters = parameters_of(case)
    batch, _ = pack_padded(case["forward/seq"])
    users = sasrec.user_representations(parameters, batch)
    candidates = parameters.item_embedding[case["predict/candidates"]]  # (n, candidates, H)
    yield "scores", np.einsum("nh,nch->nc", users, candidates), case["predict/scores"]


def _check_contrastive(case: Case) -> Iterator[tuple[str, Array, Array]]:
    found = nt_xent(case["contrastive/text"], case["contrastive/collaborative"])
    yield "loss", np.array(found.loss), case["contrastive/loss"]
    yield "grad_text", found.d_text, case["contrastive/grad_text"]
    yield "grad_collaborative", found.d_collaborative, case["contrastive/grad_collaborative"]


_CHECKS: dict[str, tuple[Callable[[Case], Iterator[tuple[str, Array, Array]]], float]] = {
    "forward": (_check_forward, 1e-9),
    "predict": (_check_predict, 1e-9),
    "recall": (check_recall, 1e-9),
    "meta": (check_meta, 1e-7),
    "meta_sgd": (check_meta_sgd, 1e-7),
    "meta_warm": (check_meta_warm, 1e-7),
    "contrastive": (_check_contrastive, 1e-9),
}
