"""Recall against a sort of all items by cosine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite import recall as recall_module
from llmcdsr_lite.model.recall_network import unit_rows
from llmcdsr_lite.recall import recall


def normal(seed: int, *shape: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


@pytest.mark.parametrize("chunk", [1, 100, 1 << 22])
def test_recall_is_a_sort_by_cosine(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_module, "_CHUNK_SCORES", chunk)
    pooled, items = normal(1, 7, 4), normal(2, 50, 4)
    items[30:40] = items[10:20] * np.arange(1, 11)[:, None]  # as similar as each other
    places, similarities = recall(pooled, unit_rows(items), 6)
    for user, found, values in zip(pooled, places, similarities, strict=True):
        cosines = [float(user @ i / np.linalg.norm(user) / np.linalg.norm(i)) for i in items]
        expected = sorted(range(50), key=lambda place: (-round(cosines[place], 9), place))[:6]
        assert found.tolist() == expected
        assert values == pytest.approx([cosines[place] for place in expected], abs=1e-6)


def test_ties_go_to_the_lower_row() -> None:
    items = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    places, similarities = recall(np.array([[2.0, 0.0], [0.0, 0.0]]), unit_rows(items), 4)
    assert places.tolist() == [[1, 3, 4, 0], [0, 1, 2, 3]]
    assert similarities.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]


def test_a_small_domain_gives_what_it_has() -> None:
    assert recall(normal(1, 2, 3), unit_rows(normal(2, 4, 3)), 10)[0].shape == (2, 4)
