from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_tools.data.dataset import Histories
from llmcdsr_tools.train.augmentation import AugmentedBatch, insert_pseudo_items

PSEUDO = 100  # real items are below, pseudo items above


def augment(histories: list[list[int]], k: int, max_length: int, seed: int) -> AugmentedBatch:
    """The users in reverse order, with pseudo items of their own."""
    packed = Histories.from_lists([[], *histories], [str(n) for n in range(len(histories) + 1)])
    users = np.arange(len(histories), 0, -1)
    pseudo = PSEUDO + 10 * users[:, None] + np.arange(k)
    return insert_pseudo_items(packed, users, pseudo, max_length, np.random.default_rng(seed))


def sequences_of(augmented: AugmentedBatch) -> list[tuple[list[int], dict[int, int]]]:
    """Inputs of every sequence in the caller's order, and the targets by place in it."""
    batch = augmented.batch
    assert batch.scored is not None
    target_of = dict(zip(batch.scored.tolist(), batch.targets.tolist(), strict=True))
    found = {}
    start = 0
    for place, last in zip(batch.inputs.order.tolist(), batch.inputs.last.tolist(), strict=True):
        tokens = range(start, last + 1)
        targets = {t - start: target_of[t] for t in tokens if t in target_of}
        found[place] = (batch.inputs.rows[start : last + 1].tolist(), targets)
        start = last + 1
    return [found[place] for place in range(len(found))]


@given(
    st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=7), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_pseudo_items_stand_before_real_ones(
    histories: list[list[int]], k: int, max_length: int, seed: int
) -> None:
    augmented = augment(histories, k, max_length, seed)
    for user, (inputs, targets) in zip(range(len(histories), 0, -1), sequences_of(augmented), strict=True):
        history = histories[user - 1][-max_length - 1 :]
        whole = [*inputs, history[-1]]
        assert len(inputs) == min(len(history) + k - 1, max_length)
        real = [row for row in whole if row < PSEUDO]
        assert real == history[len(history) - len(real) :]  # in order, cut at the start alone
        inserted = [row for row in whole if row >= PSEUDO]
        assert len(set(inserted)) == len(inserted)
        assert set(inserted) <= {PSEUDO + 10 * user + i for i in range(k)}
        if len(inputs) < max_length:
            assert (len(real), len(inserted)) == (len(history), k)
        after = whole[1:]
        assert targets == {i: row for i, row in enumerate(after) if row < PSEUDO}
    rows = augmented.batch.inputs.rows
    assert np.array_equal(augmented.inserted, np.flatnonzero(rows >= PSEUDO))
    assert np.array_equal(augmented.batch.frozen, augmented.inserted)
    owners = len(histories) - (rows[augmented.inserted] - PSEUDO) // 10
    assert np.array_equal(augmented.owners, owners)


def test_every_place_is_as_likely() -> None:
    histories = [[1, 2, 3]] * 3000
    packed = Histories.from_lists(histories, [str(n) for n in range(3000)])
    pseudo = np.tile([100, 101], (3000, 1))
    augmented = insert_pseudo_items(packed, np.arange(3000), pseudo, 10, np.random.default_rng(0))
    counts: dict[tuple[int, ...], int] = {}
    for inputs, _ in sequences_of(augmented):
        key = tuple(inputs)
        counts[key] = counts.get(key, 0) + 1
    # each of the two before any of three items; two before the same one come in either order
    for first in range(3):
        for second in range(3):
            orders = [(100, 101), (101, 100)] if first == second else [(100, 101)]
            for order in orders:
                whole: list[int] = []
                for place, item in enumerate((1, 2, 3)):
                    whole += [p for p in order if (first if p == 100 else second) == place] + [item]
                assert counts[tuple(whole[:-1])] == pytest.approx(3000 / 9 / len(orders), rel=0.3)
    assert len(counts) == 12


def test_it_comes_from_the_rng_alone() -> None:
    histories = [[1, 2, 3, 4, 5]] * 4
    assert sequences_of(augment(histories, 3, 9, 1)) == sequences_of(augment(histories, 3, 9, 1))
    assert sequences_of(augment(histories, 3, 9, 1)) != sequences_of(augment(histories, 3, 9, 2))


def test_straight_through_is_the_mean_over_the_recalled() -> None:
    augmented = augment([[1, 2], [3], [4, 5, 6, 7, 8]], 3, 5, 0)
    d_inputs = np.random.default_rng(0).normal(size=(len(augmented.batch.inputs.rows), 4))
    found = augmented.straight_through(d_inputs, 3)
    expected = np.zeros((3, 4))
    for token, row in enumerate(augmented.batch.inputs.rows.tolist()):
        if row >= PSEUDO:
            expected[3 - (row - PSEUDO) // 10] += d_inputs[token] / 3  # also where one was cut off
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(augmented.inserted) < 9  # some were cut off
