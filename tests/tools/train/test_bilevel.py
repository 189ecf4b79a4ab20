"""The meta gradient against central differences of the whole procedure: poolers to meta loss.

In the second computation every inserted token takes its embedding from a row of its own at the end of the
item table. That row moves by 1 / k of what the pooled vector of its user moves by (straight through), and
takes no step: what the tangents say of frozen tokens is nowhere assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_lite.model.recall_network import pool, pool_backward
from llmcdsr_tools.data.dataset import Histories
from llmcdsr_tools.optimization.batches import TrainingBatch, TrainingSequences
from llmcdsr_tools.optimization.optimizers import Adam, AdamSettings
from llmcdsr_tools.train.augmentation import AugmentedBatch, insert_pseudo_items
from llmcdsr_tools.train.bilevel import meta_gradient, virtual_copy
from llmcdsr_tools.train.gradients import BatchGradient, combine, differentiate
from llmcdsr_tools.train.inner_steps import virtual_step
from llmcdsr_tools.train.objectives import BinaryCrossEntropy, Objective, SampledSoftmax
from llmcdsr_tools.train.recipes import InnerOptimizer

Array = npt.NDArray[np.float64]

N_ITEMS, HIDDEN, MAX_LENGTH, K, SECOND = 20, 8, 6, 3, 9
SETTINGS = AdamSettings(learning_rate=1.0, epsilon=0.02)
OFFSETS = np.array([0, 3, 4, 9])


@dataclass(frozen=True)
class Example:
    """A recommender, three batches, and names of three users."""

    parameters: SASRecParameters
    base: TrainingBatch
    augmented: AugmentedBatch
    meta: TrainingBatch
    names: Array
    pooler: Array
    adams: tuple[Adam, Adam]
    softmax: bool

    def objective(self, targets: npt.NDArray[np.int64]) -> Objective:
        if self.softmax:
            return SampledSoftmax((np.array([1, 5, 8]), np.array([9, 12, 19])), [1, SECOND])
        return BinaryCrossEntropy(1 + (targets * 7 + 3) % N_ITEMS)

    def differentiate(self, parameters: SASRecParameters, batch: TrainingBatch, seed: int) -> BatchGradient:
        return differentiate(parameters, batch, self.objective, np.random.default_rng(seed))[0]


def example(*, softmax: bool, n_heads: int, padding_keys: bool) -> Example:
    rng = np.random.default_rng(7)
    config = SASRecConfig(N_ITEMS, HIDDEN, 2, n_heads, MAX_LENGTH, dropout=0.3, padding_keys=padding_keys)
    parameters = SASRecParameters.zeros(config, np.float64)
    parameters.item_embedding[1:] = rng.normal(0, 0.5, (N_ITEMS, HIDDEN))
    parameters.dense[:] = rng.normal(0, 0.4, parameters.dense.shape)

    def histories(*lengths: int) -> Histories:
        lists = [rng.integers(1, N_ITEMS + 1, n).tolist() for n in lengths]
        return Histories.from_lists(lists, [str(i) for i in range(len(lists))])

    base = TrainingSequences.from_histories(histories(2, 4, 7, 3), MAX_LENGTH).batch(np.arange(4))
    meta = TrainingSequences.from_histories(histories(6, 3, 9), MAX_LENGTH).batch(np.arange(3))
    pseudo = rng.integers(1, N_ITEMS + 1, (3, K))
    augmented = insert_pseudo_items(histories(2, 3, 6), np.arange(3), pseudo, MAX_LENGTH, rng)
    adams = Adam(parameters.dense, SETTINGS), Adam(parameters.item_embedding, SETTINGS)
    for adam in adams:  # as after ten steps
        adam.first[:] = rng.normal(0, 0.1, adam.first.shape)
        adam.second[:] = rng.random(adam.second.shape) * 0.1
        adam.n_steps = 10
    return Example(
        parameters,
        base,
        augmented,
        meta,
        rng.normal(size=(9, HIDDEN)),
        rng.normal(size=HIDDEN),
        adams,
        softmax,
    )


def pooler_gradient(e: Example, optimizer: InnerOptimizer) -> tuple[float, Array]:
    """By the code under test."""
    of_augmented, run = differentiate(e.parameters, e.augmented.batch, e.objective, np.random.default_rng(2))
    gradient = combine(e.differentiate(e.parameters, e.base, 1), of_augmented)
    step = virtual_step(optimizer, gradient, *e.adams, 0.3)
    loss, d_inputs = meta_gradient(
        e.parameters, gradient, step, run, lambda virtual: e.differentiate(virtual, e.meta, 3)
    )
    _, cache = pool(e.names, OFFSETS, e.pooler)
    return loss, pool_backward(e.augmented.straight_through(d_inputs, 3), cache)


def steps_by_hand(optimizer: InnerOptimizer) -> Callable[[Array, Array, Array], Array]:
    """What is subtracted, from gradient and moments."""
    s = SETTINGS

    def adam(g: Array, first: Array, second: Array) -> Array:
        m, v = s.beta1 * first + (1 - s.beta1) * g, s.beta2 * second + (1 - s.beta2) * g**2
        return s.learning_rate * (m / (1 - s.beta1**11)) / (np.sqrt(v / (1 - s.beta2**11)) + s.epsilon)

    def fresh(g: Array, first: Array, second: Array) -> Array:
        return s.learning_rate * g / (np.sqrt(g**2) + s.epsilon / np.sqrt(1 - s.beta2))

    return {"sgd": lambda g, first, second: 0.3 * g, "adam": adam, "fresh-adam": fresh}[optimizer]


def meta_loss_by_hand(e: Example, optimizer: InnerOptimizer, pooler: Array) -> float:
    """From the pooler to the meta loss, by gradients alone."""
    was, now = pool(e.names, OFFSETS, e.pooler)[0], pool(e.names, OFFSETS, pooler)[0]
    inserted = e.augmented.inserted
    inputs = e.augmented.batch.inputs
    own_rows = inputs.rows.copy()
    own_rows[inserted] = N_ITEMS + 1 + np.arange(len(inserted))
    moved = e.parameters.item_embedding[inputs.rows[inserted]] + (now - was)[e.augmented.owners] / K
    longer = SASRecParameters(
        replace(e.parameters.config, n_items=N_ITEMS + len(inserted)),
        np.concatenate([e.parameters.item_embedding, moved]),
        e.parameters.dense,
    )
    free = replace(e.augmented.batch, inputs=replace(inputs, rows=own_rows), frozen=None)
    parts = e.differentiate(e.parameters, e.base, 1), e.differentiate(longer, free, 2)
    n_scored = sum(p.n_scored for p in parts)
    dense = sum(p.dense * p.n_scored for p in parts) / n_scored
    table = np.zeros_like(longer.item_embedding)
    for p in parts:
        table[p.items.rows] += p.items.values * p.n_scored / n_scored
    table = table[: N_ITEMS + 1]
    change = steps_by_hand(optimizer)
    dense_adam, item_adam = e.adams
    new_table = e.parameters.item_embedding - change(table, item_adam.first, item_adam.second)
    still = ~table.any(axis=1)  # the virtual copy moves rows with a gradient alone
    new_table[still] = e.parameters.item_embedding[still]
    new_dense = e.parameters.dense - change(dense, dense_adam.first, dense_adam.second)
    return e.differentiate(SASRecParameters(e.parameters.config, new_table, new_dense), e.meta, 3).loss


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize(("n_heads", "padding_keys"), [(1, True), (2, False)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "fresh-adam"])
def test_the_gradient_of_the_pooler(
    optimizer: InnerOptimizer, n_heads: int, padding_keys: bool, softmax: bool
) -> None:
    e = example(softmax=softmax, n_heads=n_heads, padding_keys=padding_keys)
    loss, found = pooler_gradient(e, optimizer)
    assert loss == pytest.approx(meta_loss_by_hand(e, optimizer, e.pooler), rel=1e-12)
    h = 1e-5
    expected = np.empty(HIDDEN)
    for i in range(HIDDEN):
        above, below = e.pooler.copy(), e.pooler.copy()
        above[i] += h
        below[i] -= h
        difference = meta_loss_by_hand(e, optimizer, above) - meta_loss_by_hand(e, optimizer, below)
        expected[i] = difference / (2 * h)
    assert np.abs(expected).max() > 1e-5
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_parameters_are_the_same_afterwards() -> None:
    e = example(softmax=False, n_heads=1, padding_keys=False)
    before = e.parameters.copy()
    pooler_gradient(e, "adam")
    assert np.array_equal(e.parameters.item_embedding, before.item_embedding)
    assert np.array_equal(e.parameters.dense, before.dense)


def test_the_rows_are_put_back_even_after_an_error() -> None:
    e = example(softmax=False, n_heads=1, padding_keys=False)
    before = e.parameters.item_embedding.copy()
    gradient = e.differentiate(e.parameters, e.base, 1)
    step = virtual_step("sgd", gradient, *e.adams, 0.3)

    def fail() -> None:
        with virtual_copy(e.parameters, gradient, step) as virtual:
            assert not np.array_equal(virtual.item_embedding, before)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert np.array_equal(e.parameters.item_embedding, before)
