from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_tools.data.dataset import Histories
from llmcdsr_tools.optimization.batches import (
    TrainingSequences,
    epoch_batches,
    same_domain_negatives,
    shared_negatives,
)


def catalogue_of(*sizes: int) -> Catalogue:
    """Of twelve items in domains of these sizes."""
    return Catalogue.from_sizes([str(i) for i in range(12)], [""] * 12, "abc"[: len(sizes)], sizes)


CATALOGUE = catalogue_of(5, 7)
SIZES = [(12,), (5, 7), (5, 3, 4)]


def packed(histories: list[list[int]]) -> Histories:
    return Histories.from_lists(histories, [f"u{n}" for n in range(len(histories))])


def test_sequences_by_hand() -> None:
    histories = packed([[1, 2, 3, 4, 5], [6], [], [7, 8]])
    sequences = TrainingSequences.from_histories(histories, 3)
    assert len(sequences) == 2
    inputs = [
        sequences.rows[s : s + n].tolist() for s, n in zip(sequences.starts, sequences.lengths, strict=True)
    ]
    assert inputs == [[2, 3, 4], [7]]


@given(st.lists(st.lists(st.integers(1, 12), max_size=13), max_size=9), st.integers(1, 5))
def test_windows_have_every_item_but_the_first_as_a_target_once(
    histories: list[list[int]], max_length: int
) -> None:
    sequences = TrainingSequences.from_histories(packed(histories), max_length, windows=True)
    found = [
        (sequences.rows[s : s + n].tolist(), sequences.targets[s : s + n].tolist())
        for s, n in zip(sequences.starts, sequences.lengths, strict=True)
    ]
    expected = []
    for history in histories:
        stop = len(history)
        while stop >= 2:  # from the end back
            start = max(0, stop - 1 - max_length)
            expected.append((history[start : stop - 1], history[start + 1 : stop]))
            stop = start + 1
    assert found == expected


@given(
    st.lists(st.lists(st.integers(1, 12), max_size=9), max_size=15),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(0, 3),
)
def test_an_epoch_has_every_sequence_once_with_what_came_next(
    histories: list[list[int]], max_length: int, batch_size: int, seed: int
) -> None:
    sequences = TrainingSequences.from_histories(packed(histories), max_length)
    batches = list(epoch_batches(sequences, batch_size, np.random.default_rng(seed)))
    found, sizes = [], []
    for batch in batches:
        sizes.append(len(batch.inputs.order))
        start = 0
        for last in batch.inputs.last.tolist():
            sequence = slice(start, last + 1)
            found.append((batch.inputs.rows[sequence].tolist(), batch.targets[sequence].tolist()))
            start = last + 1
    expected = [(h[:-1][-max_length:], h[1:][-max_length:]) for h in histories if len(h) >= 2]
    assert sorted(found) == sorted(expected)
    assert sizes == [batch_size] * (len(expected) // batch_size) + (
        [len(expected) % batch_size] if len(expected) % batch_size else []
    )


def test_cold_sequences_by_hand() -> None:
    # 1..5 are of domain a, 6..12 of domain b
    histories = packed([[1, 6, 2, 7, 8, 3], [1, 2], [6, 1], []])
    cold = TrainingSequences.cold(histories, CATALOGUE, 2)
    found = [
        (cold.rows[s : s + n].tolist(), cold.targets[s : s + n].tolist())
        for s, n in zip(cold.starts, cold.lengths, strict=True)
    ]
    assert found == [([7, 8], [3, 3]), ([6], [1]), ([1, 2], [6, 7])]


def test_cold_sequences_of_three_domains_by_hand() -> None:
    # 1..5 are of domain a, 6..8 of b, 9..12 of c
    histories = packed([[1, 6, 9, 2, 7], [3, 3], [12, 8]])
    cold = TrainingSequences.cold(histories, catalogue_of(5, 3, 4), 3)
    found = [
        (cold.rows[s : s + n].tolist(), cold.targets[s : s + n].tolist())
        for s, n in zip(cold.starts, cold.lengths, strict=True)
    ]
    assert found == [
        ([6, 9], [2, 2]),
        ([1, 9, 2], [6, 7, 7]),
        ([12], [8]),
        ([1, 6], [9, 9]),
    ]
    assert not len(TrainingSequences.cold(histories, catalogue_of(12), 3))  # nothing to hide


@given(
    st.lists(st.lists(st.integers(1, 12), max_size=9), max_size=12),
    st.integers(1, 5),
    st.sampled_from(SIZES),
)
def test_cold_sequences_are_those_of_a_loop(
    histories: list[list[int]], max_length: int, sizes: tuple[int, ...]
) -> None:
    expected = []
    for hidden in (range(sum(sizes[:n]) + 1, sum(sizes[: n + 1]) + 1) for n in range(len(sizes))):
        for history in histories:
            steps = []
            for place, item in enumerate(history):
                later = [i for i in history[place:] if i in hidden]
                if item not in hidden and later:
                    steps.append((item, later[0]))
            if steps:
                expected.append(steps[-max_length:])
    cold = TrainingSequences.cold(packed(histories), catalogue_of(*sizes), max_length)
    found = [
        list(zip(cold.rows[s : s + n].tolist(), cold.targets[s : s + n].tolist(), strict=True))
        for s, n in zip(cold.starts, cold.lengths, strict=True)
    ]
    assert found == expected


def test_joined_sequences_keep_their_targets() -> None:
    histories = packed([[1, 6, 2], [3, 7]])
    plain = TrainingSequences.from_histories(histories, 3)
    joined = plain.joined(TrainingSequences.cold(histories, CATALOGUE, 3))
    batch = joined.batch(np.arange(len(joined)))
    pairs = sorted(zip(batch.inputs.rows.tolist(), batch.targets.tolist(), strict=True))
    assert pairs == sorted([(1, 6), (6, 2), (3, 7), (6, 2), (1, 6), (3, 7)])


def test_epochs_come_in_another_order() -> None:
    histories = packed([[i % 12 + 1, i % 12 + 1] for i in range(40)])
    sequences = TrainingSequences.from_histories(histories, 5)

    def order(seed: int) -> list[int]:
        (batch,) = epoch_batches(sequences, 40, np.random.default_rng(seed))
        return batch.inputs.rows.tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


def test_same_domain_negatives_are_uniform_over_the_domain() -> None:
    targets = np.repeat([1, 5, 6, 12], 5000)
    negatives = same_domain_negatives(targets, CATALOGUE, np.random.default_rng(0))
    assert negatives.dtype == np.int64
    counts = np.bincount(negatives[targets <= 5], minlength=13)
    assert counts[1:6] == pytest.approx(2000, rel=0.1)
    assert counts.sum() == counts[1:6].sum()
    counts = np.bincount(negatives[targets >= 6], minlength=13)
    assert counts[6:] == pytest.approx(10_000 / 7, rel=0.1)
    assert counts.sum() == counts[6:].sum()


@pytest.mark.parametrize("sizes", SIZES)
def test_same_domain_negatives_of_any_number_of_domains(sizes: tuple[int, ...]) -> None:
    targets = np.repeat(np.arange(1, 13), 2000)
    negatives = same_domain_negatives(targets, catalogue_of(*sizes), np.random.default_rng(1))
    start = 1
    for size in sizes:
        mine = negatives[(targets >= start) & (targets < start + size)]
        counts = np.bincount(mine, minlength=13)
        assert counts[start : start + size] == pytest.approx(2000, rel=0.1)
        assert counts.sum() == counts[start : start + size].sum() == 2000 * size
        start += size


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("n", [1, 4, 5, 6, 100])
def test_shared_negatives_are_distinct_items_of_each_domain(n: int, sizes: tuple[int, ...]) -> None:
    for seed in range(20):
        drawn = shared_negatives(catalogue_of(*sizes), n, np.random.default_rng(seed))
        start = 1
        for rows, size in zip(drawn, sizes, strict=True):
            assert len(set(rows.tolist())) == len(rows) == min(n, size)
            assert set(rows.tolist()) <= set(range(start, start + size))
            start += size


def test_shared_negatives_reach_every_item() -> None:
    rng = np.random.default_rng(0)
    drawn = [row for _ in range(60) for part in shared_negatives(CATALOGUE, 2, rng) for row in part.tolist()]
    assert set(drawn) == set(range(1, 13))
