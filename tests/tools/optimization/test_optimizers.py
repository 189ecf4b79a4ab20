"""Adam against one number at a time, as the paper has it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.model.sasrec import RowGradient
from llmcdsr_tools.optimization.optimizers import Adam, AdamSettings, RowAdam, WeightAverage

SETTINGS = AdamSettings(learning_rate=0.03, beta1=0.8, beta2=0.9, epsilon=1e-3)
Array = npt.NDArray[np.float64]


def scalar_adam(value: float, gradients: list[float | None], settings: AdamSettings) -> float:
    """Algorithm 1 of the paper for one number; None is a step that does not touch it."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        if g is None:
            continue
        m = settings.beta1 * m + (1 - settings.beta1) * g
        v = settings.beta2 * v + (1 - settings.beta2) * g**2
        m_hat, v_hat = m / (1 - settings.beta1**t), v / (1 - settings.beta2**t)
        value -= settings.learning_rate * m_hat / (math.sqrt(v_hat) + settings.epsilon)
    return value


@pytest.mark.parametrize("settings", [SETTINGS, AdamSettings()])
def test_adam_is_the_papers_algorithm(settings: AdamSettings) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 2))
    gradients = rng.normal(size=(7, 3, 2))
    gradients[2] = 0
    expected = [
        [scalar_adam(values[i, j], gradients[:, i, j].tolist(), settings) for j in range(2)] for i in range(3)
    ]
    adam = Adam(values, settings)
    for gradient in gradients:
        adam.step(gradient)
    assert adam.values is values  # in place
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert adam.n_steps == 7


def test_the_gradient_is_not_changed() -> None:
    gradient = np.ones(3)
    Adam(np.zeros(3), SETTINGS).step(gradient)
    assert gradient.tolist() == [1, 1, 1]
    rows = RowGradient(np.array([1]), np.ones((1, 3)))
    RowAdam(np.zeros((3, 3)), SETTINGS).step_rows(rows)
    assert rows.values.tolist() == [[1, 1, 1]]


def test_row_adam_is_adam_where_all_rows_are_touched() -> None:
    rng = np.random.default_rng(1)
    dense, by_row = Adam(np.ones((4, 3)), SETTINGS), RowAdam(np.ones((4, 3)), SETTINGS)
    for gradient in rng.normal(size=(6, 4, 3)):
        dense.step(gradient)
        by_row.step_rows(RowGradient(np.arange(4), gradient))
    np.testing.assert_allclose(by_row.values, dense.values, rtol=1e-14)
    np.testing.assert_allclose(by_row.first, dense.first, rtol=1e-14)
    np.testing.assert_allclose(by_row.second, dense.second, rtol=1e-14)


def test_row_adam_leaves_other_rows_alone() -> None:
    rng = np.random.default_rng(2)
    start = rng.normal(size=(5, 2))
    adam = RowAdam(start.copy(), SETTINGS)
    touched = [[1, 3], [3], [], [1, 4], [3, 4]]
    gradients: list[list[Array | None]] = [[None] * 5 for _ in touched]
    for step, rows in enumerate(touched):
        before = [adam.values.copy(), adam.first.copy(), adam.second.copy()]
        values = rng.normal(size=(len(rows), 2))
        adam.step_rows(RowGradient(np.array(rows, dtype=np.int64), values))
        for row, value in zip(rows, values, strict=True):
            gradients[step][row] = value
        others = [row for row in range(5) if row not in rows]
        for now, then in zip([adam.values, adam.first, adam.second], before, strict=True):
            assert np.array_equal(now[others], then[others])
    for row in range(5):
        for column in range(2):
            seen = [None if g[row] is None else float(g[row][column]) for g in gradients]
            expected = scalar_adam(start[row, column], seen, SETTINGS)
            assert adam.values[row, column] == pytest.approx(expected, rel=1e-12)


def test_float32_stays_float32() -> None:
    adam = RowAdam(np.zeros((3, 2), dtype=np.float32), AdamSettings())
    adam.step_rows(RowGradient(np.array([1]), np.ones((1, 2), dtype=np.float32)))
    adam.step(np.ones((3, 2), dtype=np.float32))
    assert adam.values.dtype == adam.first.dtype == adam.second.dtype == np.float32


@pytest.mark.parametrize("horizon", [1.0, 2.5, 4.0, 100.0])
def test_an_average_is_a_mean_first_and_exponential_then(horizon: float) -> None:
    rng = np.random.default_rng(5)
    samples = rng.normal(size=(9, 3))
    values = np.zeros(3)
    average = WeightAverage([values], horizon)
    expected = [0.0] * 3
    for n, sample in enumerate(samples, 1):
        values[:] = sample
        average.sample()
        share = 1 / n if n < horizon else 1 / horizon
        expected = [(1 - share) * e + share * x for e, x in zip(expected, sample.tolist(), strict=True)]
    np.testing.assert_allclose(average.means[0], expected, rtol=1e-12)
    if horizon == 100.0:
        np.testing.assert_allclose(average.means[0], samples.mean(axis=0), rtol=1e-12)
