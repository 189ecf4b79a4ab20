"""Inner steps against scalar formulas, their slopes against central differences."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.model.sasrec import RowGradient
from llmcdsr_tools.optimization.optimizers import Adam, AdamSettings, RowAdam
from llmcdsr_tools.train.gradients import BatchGradient
from llmcdsr_tools.train.inner_steps import adam_step, fresh_adam_step, sgd_step, virtual_step

Array = npt.NDArray[np.float64]

SETTINGS = AdamSettings(learning_rate=0.01, beta1=0.9, beta2=0.98, epsilon=1e-3)
GRADIENT = np.array([0.5, -0.2, 1e-3, -1e-4, 0.0, 3.0])
FIRST = np.array([0.1, 0.3, -0.2, 0.0, 0.05, 1.0])
SECOND = np.array([0.4, 0.01, 1e-4, 1e-3, 0.02, 2.0])


def scalar_adam(g: float, m: float, v: float, t: int) -> float:
    s = SETTINGS
    m, v = s.beta1 * m + (1 - s.beta1) * g, s.beta2 * v + (1 - s.beta2) * g * g
    return s.learning_rate * m / (1 - s.beta1**t) / (math.sqrt(v / (1 - s.beta2**t)) + s.epsilon)


def scalar_fresh(g: float) -> float:
    """First step from nothing; the epsilon is added before the second moment is corrected."""
    s = SETTINGS
    root = math.sqrt((1 - s.beta2) * g * g) + s.epsilon
    return s.learning_rate * math.sqrt(1 - s.beta2) / (1 - s.beta1) * (1 - s.beta1) * g / root


def test_sgd() -> None:
    step = sgd_step(GRADIENT, 0.25)
    assert step.change.tolist() == (0.25 * GRADIENT).tolist()
    assert step.slope.tolist() == [0.25] * 6


@pytest.mark.parametrize("t", [1, 2, 11])
def test_adam(t: int) -> None:
    before = FIRST.copy(), SECOND.copy(), GRADIENT.copy()
    step = adam_step(FIRST, SECOND, GRADIENT, t, SETTINGS)
    for array, was in zip((FIRST, SECOND, GRADIENT), before, strict=True):
        assert np.array_equal(array, was)  # only read
    h = 1e-6
    for i, (g, m, v) in enumerate(zip(GRADIENT, FIRST, SECOND, strict=True)):
        assert step.change[i] == pytest.approx(scalar_adam(g, m, v, t), rel=1e-12)
        expected = (scalar_adam(g + h, m, v, t) - scalar_adam(g - h, m, v, t)) / (2 * h)
        assert step.slope[i] == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_fresh_adam() -> None:
    step = fresh_adam_step(GRADIENT, SETTINGS)
    h = 1e-7
    for i, g in enumerate(GRADIENT.tolist()):
        assert step.change[i] == pytest.approx(scalar_fresh(g), rel=1e-12)
        expected = (scalar_fresh(g + h) - scalar_fresh(g - h)) / (2 * h)
        assert step.slope[i] == pytest.approx(expected, rel=1e-3)


def test_an_element_that_never_had_a_gradient_gives_no_warning() -> None:
    step = adam_step(np.zeros(2), np.zeros(2), np.array([0.0, 1.0]), 1, SETTINGS)
    assert np.isfinite(step.slope).all()
    assert step.change[0] == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "fresh-adam"])
def test_float32_is_as_good_as_it_can_be(optimizer: str) -> None:
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=500) * 10.0 ** rng.integers(-9, 1, 500)
    first, second = rng.normal(size=500), rng.random(500)

    def step(dtype: npt.DTypeLike) -> tuple[Array, Array]:
        g, m, v = (a.astype(dtype) for a in (gradient, first, second))
        found = {
            "sgd": lambda: sgd_step(g, 0.1),
            "adam": lambda: adam_step(m, v, g, 5, SETTINGS),
            "fresh-adam": lambda: fresh_adam_step(g, AdamSettings()),
        }[optimizer]()
        assert found.change.dtype == found.slope.dtype == dtype
        return found.change, found.slope

    for coarse, fine in zip(step(np.float32), step(np.float64), strict=True):
        np.testing.assert_allclose(coarse, fine, rtol=2e-5, atol=1e-5 * np.abs(fine).max())
    if optimizer == "fresh-adam":  # in closed form: nothing cancels
        np.testing.assert_allclose(step(np.float32)[1], step(np.float64)[1], rtol=2e-5)


def test_the_virtual_step_with_carried_adam_is_the_step_that_the_recommender_would_take() -> None:
    rng = np.random.default_rng(0)
    dense, table = rng.normal(size=7), rng.normal(size=(5, 3))
    dense_adam, item_adam = Adam(dense, SETTINGS), RowAdam(table, SETTINGS)
    rows = np.array([1, 3, 4])
    for _ in range(3):  # moments to carry
        dense_adam.step(rng.normal(size=7))
        item_adam.step_rows(RowGradient(rows, rng.normal(size=(3, 3))))
    gradient = BatchGradient(1.0, 4, rng.normal(size=7), RowGradient(rows, rng.normal(size=(3, 3))))
    before = dense.copy(), table.copy()
    step = virtual_step("adam", gradient, dense_adam, item_adam, 0.1)
    assert np.array_equal(dense, before[0])
    assert np.array_equal(table, before[1])
    dense_adam.step(gradient.dense)
    item_adam.step_rows(gradient.items)
    np.testing.assert_allclose(before[0] - step.dense.change, dense, rtol=1e-12)
    np.testing.assert_allclose(before[1][rows] - step.items.change, table[rows], rtol=1e-12)


def test_none_is_no_step() -> None:
    gradient = BatchGradient(1.0, 1, np.zeros(1), RowGradient(np.array([1]), np.zeros((1, 1))))
    adam = Adam(np.zeros(1), SETTINGS)
    with pytest.raises(ValueError, match="'none'"):
        virtual_step("none", gradient, adam, adam, 0.1)
