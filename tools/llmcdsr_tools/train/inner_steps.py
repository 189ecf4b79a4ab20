"""The step that the virtual copy takes, and how it depends on the gradient.

The three optimisers work element by element, so the derivative of a step by its gradient is a *slope* an
element. With g the gradient and lr the learning rate, the values change by minus

====== ============================================================ ==================================
sgd    ``lr g``                                                     slope ``lr``
adam   Adam with the moments that the recommender's optimiser has   of its formula, see `adam_step`
fresh  Adam with empty moments: ``lr g / (|g| + eps)``              ``lr eps / (|g| + eps)^2``
====== ============================================================ ==================================

The last is what the official code does. Its slope is about ``eps / |g|`` of the step itself: as good as
zero, but for elements without a gradient.

The official code has it from a library that adds 1e-8 to the root of the second moment before that is
corrected for its start at zero; so ``eps = 1e-8 / sqrt(1 - b2)``, 7e-8, in ``fresh``. In ``adam`` it is added
afterwards, as in the recommender's own optimiser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_tools.optimization.optimizers import Adam, AdamSettings, adam_change
from llmcdsr_tools.train.gradients import BatchGradient
from llmcdsr_tools.train.recipes import InnerOptimizer


@dataclass(frozen=True)
class InnerStep:
    """A step of some values: what is subtracted from them, and its derivative by the gradient."""

    change: FloatArray
    slope: FloatArray


@dataclass(frozen=True)
class VirtualStep:
    """A step of the dense parameters, and one of the item rows that have a gradient."""

    dense: InnerStep  # (`dense_size(config)`,)
    items: InnerStep  # (rows, H)


def sgd_step(gradient: FloatArray, learning_rate: float) -> InnerStep:
    """One step of gradient descent."""
    slope = np.broadcast_to(gradient.dtype.type(learning_rate), gradient.shape)
    return InnerStep(slope * gradient, slope)


def adam_step(
    first: FloatArray, second: FloatArray, gradient: FloatArray, n_steps: int, settings: AdamSettings
) -> InnerStep:
    """One step of Adam from moments m0 and v0, which are left as they are.

    With ``m = b1 m0 + (1 - b1) g``, ``v = b2 v0 + (1 - b2) g^2``, ``R = sqrt(v / (1 - b2^t))``,
    ``D = R + eps`` and ``c = lr / (1 - b1^t)`` the step is ``c m / D`` and its slope
    ``c / D * (1 - b1 - m / D * (1 - b2) / (1 - b2^t) * g / R)``.

    Parameters
    ----------
    first, second, gradient : float arrays of one shape
    n_steps : int
        Number of this step, counted from 1.
    settings : AdamSettings
    """
    s = settings
    corrected = 1 - s.beta2**n_steps
    first, second = first.copy(), second.copy()
    change = adam_change(first, second, gradient, n_steps, s)  # the moments are m and v now
    root = np.sqrt(second / corrected)
    denominator = root + s.epsilon
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(root > 0, gradient / root, 0)  # no root, no gradient
    slope = first / denominator
    slope *= ratio
    slope *= -(1 - s.beta2) / corrected
    slope += 1 - s.beta1
    slope /= denominator
    slope *= s.learning_rate / (1 - s.beta1**n_steps)
    return InnerStep(change, slope)


def fresh_adam_step(gradient: FloatArray, settings: AdamSettings) -> InnerStep:
    """The first step of an Adam that has not seen a gradient before.

    In closed form, without the cancellation of the general one: exact in float32 too.
    """
    epsilon = settings.epsilon * (1 - settings.beta2) ** -0.5
    denominator = np.abs(gradient)
    denominator += epsilon
    change = settings.learning_rate * gradient / denominator
    slope = settings.learning_rate * epsilon / (denominator * denominator)
    return InnerStep(change, slope)


def virtual_step(
    optimizer: InnerOptimizer,
    gradient: BatchGradient,
    dense_adam: Adam,
    item_adam: Adam,
    sgd_learning_rate: float,
) -> VirtualStep:
    """The step that the virtual copy takes along a gradient.

    Only item rows that have a gradient take it. Dense Adam would move on the others,
    too, by what is left of their moments: a difference of one step in rows that the batch does not
    have, which depends on no gradient. A gradient that has all rows makes up for it, at dense Adam's price.

    Parameters
    ----------
    optimizer : {"sgd", "adam", "fresh-adam"}
    gradient : BatchGradient
    dense_adam, item_adam : Adam
        The recommender's optimisers: settings, and for ``adam`` the moments, which are only read.
    sgd_learning_rate : float
        For ``sgd``.
    """
    rows, values = gradient.items.rows, gradient.items.values
    if optimizer == "sgd":
        return VirtualStep(sgd_step(gradient.dense, sgd_learning_rate), sgd_step(values, sgd_learning_rate))
    if optimizer == "fresh-adam":
        return VirtualStep(
            fresh_adam_step(gradient.dense, dense_adam.settings), fresh_adam_step(values, item_adam.settings)
        )
    if optimizer == "adam":
        n_steps, settings = dense_adam.n_steps + 1, dense_adam.settings
        return VirtualStep(
            adam_step(dense_adam.first, dense_adam.second, gradient.dense, n_steps, settings),
            adam_step(item_adam.first[rows], item_adam.second[rows], values, n_steps, settings),
        )
    raise ValueError(f"no inner step for {optimizer!r}")
