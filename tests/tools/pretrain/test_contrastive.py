"""The contrastive loss against a scalar loop, central differences and the official numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from padded_sasrec import assert_gradient, numerical_gradient

from llmcdsr_tools.pretrain.contrastive import nt_xent

Array = npt.NDArray[np.float64]
OFFICIAL = Path(__file__).parents[4] / "shared" / "conformance"


def views(n_items: int = 5, hidden: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(8)
    return rng.normal(size=(n_items, hidden)), rng.normal(size=(n_items, hidden))


def scalar_loss(text: Array, collaborative: Array, temperature: float) -> float:
    """Anchor by anchor, negative by negative."""
    n = len(text)
    everything = [list(map(float, v)) for v in (*text, *collaborative)]

    def similarity(i: int, j: int) -> float:
        return sum(a * b for a, b in zip(everything[i], everything[j], strict=True)) / temperature

    total = 0.0
    for anchor in range(2 * n):
        positive = anchor + n if anchor < n else anchor - n
        negatives = [j for j in range(2 * n) if j not in (anchor, positive)]
        assert len(negatives) == 2 * n - 2
        numerator = math.exp(similarity(anchor, positive))
        total -= math.log(numerator / (numerator + sum(math.exp(similarity(anchor, j)) for j in negatives)))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
@pytest.mark.parametrize("n_items", [1, 2, 5])
def test_it_is_its_formula(n_items: int, temperature: float) -> None:
    text, collaborative = views(n_items)
    found = nt_xent(text, collaborative, temperature)
    assert found.loss == pytest.approx(scalar_loss(text, collaborative, temperature), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_gradients(temperature: float) -> None:
    text, collaborative = views()
    found = nt_xent(text, collaborative, temperature)

    def objective() -> float:
        return scalar_loss(text, collaborative, temperature)

    assert_gradient(found.d_text, numerical_gradient(objective, text), "text")
    assert_gradient(found.d_collaborative, numerical_gradient(objective, collaborative), "collaborative")


@pytest.mark.parametrize("name", ["case_1.npz", "case_2.npz"])
def test_the_official_numbers(name: str) -> None:
    if not (OFFICIAL / name).exists():
        pytest.skip(f"the official case is not at {OFFICIAL / name}")
    with np.load(OFFICIAL / name, allow_pickle=False) as case:
        found = nt_xent(case["contrastive/text"], case["contrastive/collaborative"])
        for actual, expected in (
            (found.loss, case["contrastive/loss"]),
            (found.d_text, case["contrastive/grad_text"]),
            (found.d_collaborative, case["contrastive/grad_collaborative"]),
        ):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_one_item_has_nothing_to_be_told_from() -> None:
    found = nt_xent(*views(1))
    assert found.loss == 0
    assert not found.d_text.any()
    assert not found.d_collaborative.any()


def test_a_step_downhill_brings_the_views_together() -> None:
    text, collaborative = views(40, 8)

    def paired_share(t: Array, c: Array) -> float:
        return float(((t @ c.T).argmax(axis=1) == np.arange(len(t))).mean())

    before = paired_share(text, collaborative)
    for _ in range(50):
        found = nt_xent(text, collaborative)
        text -= 2 * found.d_text
        collaborative -= 2 * found.d_collaborative
    assert before < 0.3
    assert paired_share(text, collaborative) == 1


def test_products_of_thousands_stay_finite() -> None:
    text = np.array([[100.0, 0.0], [0.0, 100.0]], dtype=np.float32)
    found = nt_xent(text, -text)  # the other view is the least similar of all
    assert found.loss == pytest.approx(10_000 + math.log(2), rel=1e-6)  # two negatives at 0
    assert np.isfinite(found.d_text).all()
    assert np.isfinite(found.d_collaborative).all()


def test_float32_stays_float32_and_the_views_are_left_alone() -> None:
    text, collaborative = (v.astype(np.float32) for v in views())
    before = text.copy(), collaborative.copy()
    found = nt_xent(text, collaborative, 0.5)
    assert found.d_text.dtype == found.d_collaborative.dtype == np.float32
    assert isinstance(found.loss, float)
    assert (text == before[0]).all()
    assert (collaborative == before[1]).all()


@pytest.mark.parametrize("shapes", [((2, 3), (3, 3)), ((2, 3), (2, 4)), ((0, 3), (0, 3))])
def test_views_that_do_not_match_are_refused(shapes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match=r"expected two \(n, H\)"):
        nt_xent(*(np.zeros(s) for s in shapes))
