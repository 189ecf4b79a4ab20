"""The bilevel step: the gradient of the poolers through one step of a virtual copy of the recommender.

Let X be the embeddings that stand in the sequences for inserted pseudo items, and w the poolers. With
``g`` the gradient of the loss over the batch and the augmented sequences, the virtual copy is
``theta' = theta - step(g(theta, X))``, and its loss on overlapped users is differentiated by w:

1. ``a``, the gradient of the meta loss by ``theta'``;
2. ``v = slope * a``: what a change of g does to the meta loss, by minus v;
3. ``dL/dX = -d/de [grad_X L(theta + e v, X)]`` at ``e = 0``, since mixed derivatives commute: one tangent
   of the augmented sequences' backward (`sasrec_tangent`). The rest of the batch does not depend on X;
4. straight through the recall: X holds the recommender's own embeddings of the pseudo items, and each
   passes ``1 / k`` of its gradient to the pooled vector of its user, k the number recalled.

X is taken for constant when theta moves, as the official code has it: an inserted item's row of the item
embedding neither gets a gradient from where it is inserted nor moves what stands there. Official is, too,
that the real items of augmented sequences are frozen like that; training here lets them learn (see
`TrainingBatch.frozen`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_lite.model.sasrec import RowGradient
from llmcdsr_tools.train.gradients import BatchGradient, BatchPass
from llmcdsr_tools.train.inner_steps import VirtualStep
from llmcdsr_tools.train.sasrec_tangent import backward_tangent, forward_tangent


@contextmanager
def virtual_copy(
    parameters: SASRecParameters, gradient: BatchGradient, step: VirtualStep
) -> Iterator[SASRecParameters]:
    """The parameters after a virtual step.

    The item embedding is not copied: the rows that the step moves are written into the table, and put
    back, to the bit, when the context ends. Until then the real parameters must not be used.
    """
    table, rows = parameters.item_embedding, gradient.items.rows
    before = table[rows]
    table[rows] = before - step.items.change
    try:
        yield SASRecParameters(parameters.config, table, parameters.dense - step.dense.change)
    finally:
        table[rows] = before


def meta_gradient(
    parameters: SASRecParameters,
    gradient: BatchGradient,
    step: VirtualStep,
    augmented: BatchPass,
    meta: Callable[[SASRecParameters], BatchGradient],
) -> tuple[float, FloatArray]:
    """The meta loss, and its gradient by the inputs of the augmented sequences.

    Parameters
    ----------
    parameters : SASRecParameters
        Where the step starts; the same again afterwards.
    gradient : BatchGradient
        Of the batch and the augmented sequences together.
    step : VirtualStep
        The step along it.
    augmented : BatchPass
        The augmented sequences' part in `gradient`.
    meta : callable
        Loss and gradient on overlapped users of given parameters.

    Returns
    -------
    loss : float
        The meta loss.
    d_inputs : float array (T, H)
        Gradient by the embedding that every token of the augmented sequences takes in; of use for the
        frozen ones.
    """
    with virtual_copy(parameters, gradient, step) as virtual:
        of_copy = meta(virtual)
    rows = gradient.items.rows
    direction = parameters.zeros_like()
    direction.dense[:] = of_copy.dense * step.dense.slope
    item_dot = RowGradient(rows, of_copy.items.take(rows) * step.items.slope)
    speed = input_gradient_speed(parameters, direction, item_dot, augmented)
    share = len(augmented.batch.targets) / gradient.n_scored
    return of_copy.loss, speed * speed.dtype.type(-share)


def input_gradient_speed(
    parameters: SASRecParameters, direction: SASRecParameters, item_dot: RowGradient, run: BatchPass
) -> FloatArray:
    """Speed of the gradient by the embedding of every token (T, H), when the parameters move.

    Parameters
    ----------
    parameters : SASRecParameters
    direction : SASRecParameters
        Speed of the dense parameters.
    item_dot : RowGradient
        Speed of the item rows that move; what frozen tokens take in stands still.
    run : BatchPass
        The pass whose gradient it is.
    """
    batch = run.batch
    inputs_dot = item_dot.take(batch.inputs.rows)
    if batch.frozen is not None:
        inputs_dot[batch.frozen] = 0
    features_dot, tangent = forward_tangent(parameters, direction, inputs_dot, run.cache)
    scored = slice(None) if batch.scored is None else batch.scored
    d_features = np.zeros((2, *run.features.shape), dtype=run.features.dtype)
    d_features[0] = run.d_features
    d_features[1, scored] = run.objective.tangent(
        run.features[scored], features_dot[scored], parameters.item_embedding, item_dot, batch.targets
    )
    speed: FloatArray = backward_tangent(parameters, direction, d_features, run.cache, tangent)[1]
    return speed
