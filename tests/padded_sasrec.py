"""A second SASRec for the tests: one history, one token, one head at a time, padding and all.

Written from the description of the model, not from the package: it takes the arrays by name and shares
no code with the package. Slow on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def padded_features(
    arrays: Mapping[str, Array],
    item_embedding: Array,
    history: Sequence[int],
    *,
    n_blocks: int,
    n_heads: int,
    max_length: int,
    padding_keys: bool,
    epsilon: float = 1e-8,
) -> Array:
    """Features (len(history), H) of one history, which is left-padded to `max_length`."""
    hidden = item_embedding.shape[1]
    n_padded = max_length - len(history)
    x = np.zeros((max_length, hidden))
    for place, row in enumerate(history, n_padded):
        x[place] = item_embedding[row] * hidden**0.5 + arrays["position_embedding"][place]
    for block in range(n_blocks):
        x = _block(
            x,
            {k.split(".")[2]: v for k, v in arrays.items() if k.startswith(f"blocks.{block}.")},
            n_padded,
            n_heads,
            padding_keys,
            epsilon,
        )
    return np.array(
        [_norm(token, arrays["norm_weight"], arrays["norm_bias"], epsilon) for token in x[n_padded:]]
    )


def _block(
    x: Array, p: dict[str, Array], n_padded: int, n_heads: int, padding_keys: bool, epsilon: float
) -> Array:
    length, hidden = x.shape
    size = hidden // n_heads
    key_weight, value_weight = p["key_value_weight"][:hidden], p["key_value_weight"][hidden:]
    key_bias, value_bias = p["key_value_bias"][:hidden], p["key_value_bias"][hidden:]
    y = np.zeros_like(x)  # padding is reset to zero
    for place in range(n_padded, length):
        normalized = _norm(x[place], p["attention_norm_weight"], p["attention_norm_bias"], epsilon)
        query = p["query_weight"] @ normalized + p["query_bias"]
        mixed = np.zeros(hidden)
        for head in range(n_heads):
            part = slice(head * size, (head + 1) * size)
            weights, values = [], []
            for other in range(0 if padding_keys else n_padded, place + 1):
                key = key_weight @ x[other] + key_bias
                weights.append(np.exp(query[part] @ key[part] / size**0.5))
                values.append((value_weight @ x[other] + value_bias)[part])
            mixed[part] = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        attended = normalized + p["output_weight"] @ mixed + p["output_bias"]
        inner_input = _norm(attended, p["feed_forward_norm_weight"], p["feed_forward_norm_bias"], epsilon)
        inner = p["inner_weight"] @ inner_input + p["inner_bias"]
        inner = np.where(inner > 0, inner, 0)
        y[place] = inner_input + p["outer_weight"] @ inner + p["outer_bias"]
    return y


def _norm(x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return (x - mean) / (variance + epsilon) ** 0.5 * weight + bias


def numerical_gradient(function: Callable[[], float], x: Array, step: float = 1e-6) -> Array:
    """Central differences of `function`, which reads `x`, by every element of `x`."""
    gradient = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        before = x[index]
        x[index] = before + step
        above = function()
        x[index] = before - step
        below = function()
        x[index] = before
        gradient[index] = (above - below) / (2 * step)
    return gradient


def assert_gradient(actual: Array, expected: Array, what: str = "") -> None:
    """Fail unless two gradients agree to what central differences in float64 can tell."""
    assert actual.shape == expected.shape, what
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7, err_msg=what)
