"""The gradient of one batch, and of several as if they were one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from llmcdsr_lite.model import sasrec
from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_lite.model.sasrec import ForwardCache, RowGradient
from llmcdsr_tools.optimization.batches import TrainingBatch
from llmcdsr_tools.optimization.losses import RowArray
from llmcdsr_tools.train.objectives import Objective


@dataclass(frozen=True)
class BatchGradient:
    """Loss of a batch and its gradient.

    Parameters
    ----------
    loss : float
        Mean over the positions that it counts.
    n_scored : int
        Number of those positions.
    dense : float array (`dense_size(config)`,)
    items : RowGradient
        Of the item rows that the batch touches.
    """

    loss: float
    n_scored: int
    dense: FloatArray
    items: RowGradient


@dataclass(frozen=True)
class BatchPass:
    """What is left of a forward and backward pass, for its tangent."""

    batch: TrainingBatch
    objective: Objective
    features: FloatArray  # (T, H)
    cache: ForwardCache
    d_features: FloatArray  # (T, H), zero where the loss does not count


def differentiate(
    parameters: SASRecParameters,
    batch: TrainingBatch,
    draw: Callable[[RowArray], Objective],
    rng: np.random.Generator | None,
) -> tuple[BatchGradient, BatchPass]:
    """Gradient of a batch.

    Parameters
    ----------
    parameters : SASRecParameters
    batch : TrainingBatch
        Its frozen tokens hand no gradient to the item embedding.
    draw : callable
        The objective for given targets.
    rng : Generator, optional
        Source of the dropout masks; None means no dropout.

    Returns
    -------
    gradient : BatchGradient
    run : BatchPass
    """
    features, cache = sasrec.forward(parameters, batch.inputs, rng)
    objective = draw(batch.targets)
    scored = batch.scored
    loss = objective.loss(
        features if scored is None else features[scored], parameters.item_embedding, batch.targets
    )
    d_features = loss.d_features
    if scored is not None:
        d_features = np.zeros_like(features)
        d_features[scored] = loss.d_features
    gradients = parameters.zeros_like()
    d_inputs = sasrec.backward(parameters, d_features, cache, gradients)
    rows = batch.inputs.rows
    if batch.frozen is not None:
        rows, d_inputs = np.delete(rows, batch.frozen), np.delete(d_inputs, batch.frozen, axis=0)
    items = sasrec.sum_rows(np.concatenate([rows, loss.rows]), np.concatenate([d_inputs, loss.d_rows]))
    gradient = BatchGradient(loss.loss, len(batch.targets), gradients.dense, items)
    return gradient, BatchPass(batch, objective, features, cache, d_features)


def combine(first: BatchGradient, second: BatchGradient) -> BatchGradient:
    """The gradient of two batches as if they were one: the mean over the positions of both."""
    n_scored = first.n_scored + second.n_scored
    shares = [first.dense.dtype.type(g.n_scored / n_scored) for g in (first, second)]
    return BatchGradient(
        (first.loss * first.n_scored + second.loss * second.n_scored) / n_scored,
        n_scored,
        shares[0] * first.dense + shares[1] * second.dense,
        sasrec.sum_rows(
            np.concatenate([first.items.rows, second.items.rows]),
            np.concatenate([shares[0] * first.items.values, shares[1] * second.items.values]),
        ),
    )


def with_all_rows(gradient: BatchGradient, parameters: SASRecParameters) -> BatchGradient:
    """The same gradient with zeros for the item rows that it does not have."""
    table = np.zeros_like(parameters.item_embedding)
    table[gradient.items.rows] = gradient.items.values
    return replace(gradient, items=RowGradient(np.arange(len(table)), table))
