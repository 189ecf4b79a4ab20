"""Both losses against scalar loops, their gradients against central differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from padded_sasrec import assert_gradient, numerical_gradient

from llmcdsr_tools.optimization.losses import LossGradients, binary_cross_entropy, sampled_softmax
from llmcdsr_tools.optimization.soft_labels import SOFT_SHARE, Teacher

Array = npt.NDArray[np.float64]

SECOND = 6  # rows 1..5 are of domain A, 6..12 of B
TABLE_SHAPE = (13, 3)


def example() -> tuple[Array, Array]:
    rng = np.random.default_rng(4)
    return rng.normal(size=(7, 3)), rng.normal(size=TABLE_SHAPE)


POSITIVES = np.array([1, 6, 12, 1, 5, 7, 2])
NEGATIVES = np.array([2, 6, 8, 2, 1, 12, 1])  # also one that is the positive itself
SHARED = (np.array([2, 5, 3]), np.array([12, 9, 6, 7]))


def scalar_softmax(
    features: Array, table: Array, positives: npt.NDArray[np.int64], shared: tuple[npt.ArrayLike, ...]
) -> float:
    total = 0.0
    for feature, positive in zip(features, positives.tolist(), strict=True):
        negatives = np.asarray(shared[positive >= SECOND]).tolist()
        rows = [positive] + [n for n in negatives if n != positive]
        scores = [sum(feature * table[row]) for row in rows]
        total += math.log(sum(map(math.exp, scores))) - scores[0]
    return total / len(positives)


def check_gradients(compute: Callable[[Array, Array], LossGradients], features: Array, table: Array) -> None:
    def objective() -> float:
        return compute(features, table).loss

    found = compute(features, table)
    d_table = np.zeros_like(table)
    for row, gradient in zip(found.rows.tolist(), found.d_rows, strict=True):
        d_table[row] += gradient
    assert_gradient(found.d_features, numerical_gradient(objective, features), "features")
    assert_gradient(d_table, numerical_gradient(objective, table), "item_embedding")


def test_binary_cross_entropy_is_its_formula() -> None:
    features, table = example()
    expected = 0.0
    for f, p, n in zip(features, POSITIVES, NEGATIVES, strict=True):
        expected += math.log(1 + math.exp(-sum(f * table[p]))) + math.log(1 + math.exp(sum(f * table[n])))
    found = binary_cross_entropy(features, table, POSITIVES, NEGATIVES)
    assert found.loss == pytest.approx(expected / 7, rel=1e-12)


def test_binary_cross_entropy_gradients() -> None:
    check_gradients(lambda f, e: binary_cross_entropy(f, e, POSITIVES, NEGATIVES), *example())


def test_sampled_softmax_is_its_formula() -> None:
    features, table = example()
    found = sampled_softmax(features, table, POSITIVES, SHARED, [1, SECOND])
    assert found.loss == pytest.approx(scalar_softmax(features, table, POSITIVES, SHARED), rel=1e-12)


def test_sampled_softmax_in_blocks_and_threads() -> None:
    rng = np.random.default_rng(7)
    features, table = rng.normal(size=(600, 3)), rng.normal(size=(400, 3))
    positives = rng.integers(1, 400, 600)
    shared = (rng.permutation(np.arange(1, 100)), rng.permutation(np.arange(100, 400))[:250])
    found = sampled_softmax(features, table, positives, shared, [1, 100])
    expected, d_features, d_table = 0.0, np.zeros_like(features), np.zeros_like(table)
    for t, positive in enumerate(positives.tolist()):
        rows = [positive, *(n for n in shared[positive >= 100].tolist() if n != positive)]
        scores = table[rows] @ features[t]
        p = np.exp(scores) / np.exp(scores).sum()
        expected -= math.log(p[0]) / 600
        p[0] -= 1
        d_features[t] = p @ table[rows] / 600
        d_table[rows] += p[:, None] * features[t] / 600
    assert found.loss == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(found.d_features, d_features, rtol=1e-8, atol=1e-12)
    gradient = np.zeros_like(table)
    np.add.at(gradient, found.rows, found.d_rows)
    np.testing.assert_allclose(gradient, d_table, rtol=1e-8, atol=1e-12)
    with ThreadPoolExecutor(2) as threads:
        shared_out = sampled_softmax(features, table, positives, shared, [1, 100], threads)
    assert shared_out.loss == found.loss
    np.testing.assert_array_equal(shared_out.d_features, found.d_features)
    np.testing.assert_array_equal(shared_out.d_rows, found.d_rows)


def test_sampled_softmax_gradients() -> None:
    check_gradients(lambda f, e: sampled_softmax(f, e, POSITIVES, SHARED, [1, SECOND]), *example())


def teacher_example() -> Teacher:
    rng = np.random.default_rng(5)
    return Teacher(rng.normal(size=(7, 4)), rng.normal(size=(13, 4)))


def test_soft_labels_are_their_formula() -> None:
    features, table = example()
    teacher, expected = teacher_example(), 0.0
    for t, positive in enumerate(POSITIVES.tolist()):
        rows = [positive] + [n for n in SHARED[positive >= SECOND].tolist() if n != positive]
        scores = [sum(features[t] * table[row]) for row in rows]
        taught = [math.exp(sum(teacher.features[t] * teacher.item_embedding[row])) for row in rows]
        total = math.log(sum(map(math.exp, scores)))
        for place, (score, weight) in enumerate(zip(scores, taught, strict=True)):
            label = (1 - SOFT_SHARE) * (place == 0) + SOFT_SHARE * weight / sum(taught)
            expected += label * (total - score) / len(POSITIVES)
    found = sampled_softmax(features, table, POSITIVES, SHARED, [1, SECOND], teacher=teacher)
    assert found.loss == pytest.approx(expected, rel=1e-12)


def test_soft_label_gradients() -> None:
    teacher = teacher_example()
    check_gradients(
        lambda f, e: sampled_softmax(f, e, POSITIVES, SHARED, [1, SECOND], teacher=teacher), *example()
    )


def test_soft_labels_in_blocks_and_threads() -> None:
    """Tokens one by one say what all of them do, block by block."""
    rng = np.random.default_rng(7)
    features, table = rng.normal(size=(600, 3)), rng.normal(size=(400, 3))
    teacher = Teacher(rng.normal(size=(600, 5)), rng.normal(size=(400, 5)))
    positives = rng.integers(1, 400, 600)
    shared = (rng.permutation(np.arange(1, 100)), rng.permutation(np.arange(100, 400))[:250])
    found = sampled_softmax(features, table, positives, shared, [1, 100], teacher=teacher)
    loss, d_features, d_table = 0.0, np.zeros_like(features), np.zeros_like(table)
    for t in range(600):
        one = Teacher(teacher.features[[t]], teacher.item_embedding)
        alone = sampled_softmax(features[[t]], table, positives[[t]], shared, [1, 100], teacher=one)
        loss += alone.loss / 600
        d_features[t] = alone.d_features[0] / 600
        np.add.at(d_table, alone.rows, alone.d_rows / 600)
    assert found.loss == pytest.approx(loss, rel=1e-10)
    np.testing.assert_allclose(found.d_features, d_features, rtol=1e-8, atol=1e-12)
    gradient = np.zeros_like(table)
    np.add.at(gradient, found.rows, found.d_rows)
    np.testing.assert_allclose(gradient, d_table, rtol=1e-8, atol=1e-12)
    with ThreadPoolExecutor(2) as threads:
        parallel = sampled_softmax(features, table, positives, shared, [1, 100], threads, teacher)
    assert parallel.loss == found.loss
    np.testing.assert_array_equal(parallel.d_rows, found.d_rows)


@pytest.mark.parametrize("kept", [[0, 3, 4, 6], [1, 2, 5]])
def test_sampled_softmax_of_one_domain(kept: list[int]) -> None:
    features, table = example()
    features, positives = features[kept], POSITIVES[kept]
    found = sampled_softmax(features, table, positives, SHARED, [1, SECOND])
    assert found.loss == pytest.approx(scalar_softmax(features, table, positives, SHARED), rel=1e-12)
    check_gradients(lambda f, e: sampled_softmax(f, e, positives, SHARED, [1, SECOND]), features, table)


def test_sampled_softmax_boundary_row_is_of_the_second_domain() -> None:
    features, table = example()
    positives = np.array([SECOND, SECOND - 1])
    found = sampled_softmax(features[:2], table, positives, SHARED, [1, SECOND])
    assert found.loss == pytest.approx(scalar_softmax(features[:2], table, positives, SHARED))


def test_nothing_to_tell_the_positive_from_costs_nothing() -> None:
    features, table = example()
    only = (np.array([1]), np.array([6]))
    found = sampled_softmax(features[:2], table, np.array([1, 6]), only, [1, SECOND])
    assert found.loss == 0
    assert not found.d_features.any()
    assert not found.d_rows.any()


def test_scores_of_a_thousand_stay_finite() -> None:
    features, table = np.array([[1000.0], [-1000.0]]), np.array([[0.0], [1.0], [-1.0]])
    bce = binary_cross_entropy(features, table, np.array([1, 1]), np.array([2, 2]))
    assert bce.loss == pytest.approx(1000)  # the second token alone: 1000 + 1000, over two tokens
    assert bce.d_features.tolist() == [[0.0], [-1.0]]
    softmax = sampled_softmax(features, table, np.array([1, 1]), (np.array([2]), np.array([3])), [1, 3])
    assert softmax.loss == pytest.approx(1000)
    assert softmax.d_features.tolist() == [[0.0], [-1.0]]


@pytest.mark.parametrize("loss", ["bce", "softmax", "soft labels"])
def test_float32_stays_float32(loss: str) -> None:
    features, table = (a.astype(np.float32) for a in example())
    if loss == "bce":
        found = binary_cross_entropy(features, table, POSITIVES, NEGATIVES)
    else:
        teacher = Teacher(*(a.astype(np.float32) for a in vars(teacher_example()).values()))
        given = teacher if loss == "soft labels" else None
        found = sampled_softmax(features, table, POSITIVES, SHARED, [1, SECOND], teacher=given)
    assert found.d_features.dtype == np.float32
    assert found.d_rows.dtype == np.float32
    assert isinstance(found.loss, float)
    assert len(found.rows) == len(found.d_rows)
