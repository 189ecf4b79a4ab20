"""Gradients of batches: together as one, of some positions, without frozen tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from padded_sasrec import assert_gradient, numerical_gradient

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_tools.data.dataset import Histories
from llmcdsr_tools.optimization.batches import TrainingBatch, TrainingSequences
from llmcdsr_tools.train.gradients import BatchGradient, combine, differentiate, with_all_rows
from llmcdsr_tools.train.objectives import BinaryCrossEntropy, Objective, ObjectiveSource, SampledSoftmax

HISTORIES = [[1, 2, 3, 4], [5, 1], [7, 7, 2], [8, 3, 5]]


def model() -> SASRecParameters:
    parameters = SASRecParameters.zeros(SASRecConfig(9, 4, 1, 2, 5, 0.0), np.float64)
    rng = np.random.default_rng(3)
    parameters.item_embedding[:] = rng.normal(0, 0.5, parameters.item_embedding.shape)
    parameters.dense[:] = rng.normal(0, 0.5, parameters.dense.shape)
    return parameters


def batch_of(histories: list[list[int]]) -> TrainingBatch:
    packed = Histories.from_lists(histories, [str(i) for i in range(len(histories))])
    return TrainingSequences.from_histories(packed, 5).batch(np.arange(len(histories)))


def shared(_: npt.NDArray[np.int64]) -> Objective:
    return SampledSoftmax((np.array([1, 4]), np.array([6, 9])), [1, 6])


def paired(targets: npt.NDArray[np.int64]) -> Objective:
    return BinaryCrossEntropy(10 - targets)


def dense_table(gradient: BatchGradient) -> npt.NDArray[np.float64]:
    table = np.zeros((10, 4))
    table[gradient.items.rows] = gradient.items.values
    return table


@pytest.mark.parametrize("draw", [shared, paired])
def test_two_batches_are_one(draw: object) -> None:
    parameters = model()
    parts = [differentiate(parameters, batch_of(h), draw, None)[0] for h in (HISTORIES[:1], HISTORIES[1:])]
    whole, _ = differentiate(parameters, batch_of(HISTORIES), draw, None)
    found = combine(*parts)
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)
    assert found.n_scored == whole.n_scored == 8
    np.testing.assert_allclose(found.dense, whole.dense, rtol=1e-9, atol=1e-14)
    assert np.array_equal(found.items.rows, whole.items.rows)
    np.testing.assert_allclose(found.items.values, whole.items.values, rtol=1e-9, atol=1e-14)


def test_only_scored_positions_count() -> None:
    parameters, batch = model(), batch_of(HISTORIES)
    scored = np.array([1, 4, 6])
    some = replace(batch, scored=scored, targets=batch.targets[scored])

    def objective() -> float:
        return differentiate(parameters, some, paired, None)[0].loss

    gradient, _ = differentiate(parameters, some, paired, None)
    assert gradient.n_scored == 3
    assert_gradient(dense_table(gradient), numerical_gradient(objective, parameters.item_embedding))
    assert_gradient(gradient.dense, numerical_gradient(objective, parameters.dense))


def test_frozen_tokens_hand_nothing_to_their_rows() -> None:
    """They take in rows of their own, the other occurrences learn as before."""
    parameters, batch = model(), batch_of([[1, 2, 1, 3]])
    parameters.item_embedding[8] = parameters.item_embedding[1]
    frozen = np.array([0, 2])  # both of row 1
    gradient, _ = differentiate(parameters, replace(batch, frozen=frozen), paired, None)
    apart = batch.inputs.rows.copy()
    apart[frozen] = 8
    free, _ = differentiate(
        parameters, replace(batch, inputs=replace(batch.inputs, rows=apart)), paired, None
    )
    expected = dense_table(free)
    from_loss = differentiate(parameters, replace(batch, frozen=np.arange(3)), paired, None)[0]
    expected[8] = dense_table(from_loss)[8]  # what row 8 is told as a negative alone
    np.testing.assert_allclose(dense_table(gradient), expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(gradient.dense, free.dense, rtol=1e-9, atol=1e-14)


def test_all_rows() -> None:
    parameters = model()
    gradient, _ = differentiate(parameters, batch_of(HISTORIES), shared, None)
    whole = with_all_rows(gradient, parameters)
    assert whole.items.rows.tolist() == list(range(10))
    assert np.array_equal(whole.items.values, dense_table(gradient))


def test_batches_that_are_one_share_the_negatives_of_a_softmax() -> None:
    catalogue = Catalogue.from_sizes([str(i) for i in range(40)], [""] * 40, ("a", "b"), (20, 20))
    targets = np.array([1, 25])
    softmax = ObjectiveSource("sampled-softmax", 5, catalogue, np.random.default_rng(0))
    first = softmax(targets)
    assert softmax.like(first)(targets) is first
    bce = ObjectiveSource("bce", 5, catalogue, np.random.default_rng(0))
    first, other = bce(targets), bce.like(bce(targets))(np.array([1, 2, 3]))
    assert isinstance(other, BinaryCrossEntropy)
    assert len(other.negatives) == 3
