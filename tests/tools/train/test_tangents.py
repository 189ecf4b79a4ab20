"""Each tangent against central differences of the function itself along a direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.model.layers import (
    AttentionCache,
    PaddingKey,
    causal_attention,
    causal_attention_backward,
    layer_norm,
    layer_norm_backward,
    linear,
    linear_backward,
)
from llmcdsr_lite.model.packing import Group
from llmcdsr_tools.train.tangents import (
    causal_attention_backward_tangent,
    causal_attention_tangent,
    layer_norm_backward_tangent,
    layer_norm_tangent,
    linear_backward_tangent,
    linear_tangent,
)

Array = npt.NDArray[np.float64]

GROUPS = (Group(0, 2, 2, 1), Group(2, 11, 3, 3), Group(11, 16, 1, 5))
N_TOKENS, MAX_LENGTH = 16, 5
EPSILON = 0.01  # large enough to be noticed if it were left out


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def speed(function: Callable[..., Array], values: list[Array], speeds: list[Array], h: float = 1e-6) -> Array:
    """Central difference of a function of several arrays, each moving at its own speed."""
    above = function(*(v + h * s for v, s in zip(values, speeds, strict=True)))
    below = function(*(v - h * s for v, s in zip(values, speeds, strict=True)))
    return (above - below) / (2 * h)


def assert_speed(found: Array, expected: Array) -> None:
    assert np.abs(expected).max() > 0.01  # something moved
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_layer_norm_tangents() -> None:
    values = [normal(1, 5, 6), normal(2, 6), normal(3, 6), normal(4, 5, 6)]  # x, weight, bias, dy
    speeds = [normal(5, 5, 6), normal(6, 6), normal(7, 6), normal(8, 5, 6)]

    def forward(x: Array, weight: Array, bias: Array, dy: Array) -> Array:
        return layer_norm(x, weight, bias, EPSILON)[0]

    def backward(x: Array, weight: Array, bias: Array, dy: Array) -> Array:
        return layer_norm_backward(dy, layer_norm(x, weight, bias, EPSILON)[1])[0]

    cache = layer_norm(*values[:3], EPSILON)[1]
    y_dot, tangent = layer_norm_tangent(*speeds[:3], cache)
    assert_speed(y_dot, speed(forward, values, speeds))
    dy = np.stack([values[3], speeds[3]])
    before = dy.copy()
    dx, dx_dot = layer_norm_backward_tangent(dy, cache, tangent)
    assert np.array_equal(dy, before)
    np.testing.assert_allclose(dx, backward(*values), rtol=1e-12, atol=1e-14)
    assert_speed(dx_dot, speed(backward, values, speeds))


def test_linear_tangents() -> None:
    values = [normal(1, 3, 4), normal(2, 5, 4), normal(3, 5), normal(4, 3, 5)]  # x, weight, bias, dy
    speeds = [normal(5, 3, 4), normal(6, 5, 4), normal(7, 5), normal(8, 3, 5)]
    x, weight, _, dy = values
    y_dot = linear_tangent(speeds[0], x, weight, speeds[1], speeds[2])
    assert_speed(y_dot, speed(lambda x, w, b, _: linear(x, w, b), values, speeds))

    def backward(x: Array, weight: Array, bias: Array, dy: Array) -> Array:
        return linear_backward(dy, x, weight)[0]

    dx, dx_dot = linear_backward_tangent(np.stack([dy, speeds[3]]), weight, speeds[1])
    np.testing.assert_allclose(dx, backward(*values), rtol=1e-12, atol=1e-14)
    assert_speed(dx_dot, speed(backward, values, speeds))


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("n_heads", "hidden"), [(1, 2), (2, 4), (3, 6), (4, 4)])
def test_causal_attention_tangents(n_heads: int, hidden: int, padded: bool, rate: float) -> None:
    shapes: list[tuple[int, ...]] = [(N_TOKENS, hidden), (N_TOKENS, 2 * hidden), (2 * hidden,)]
    shapes.append((N_TOKENS, hidden))  # query, key_value, the padding key, d_output
    values = [normal(i, *shape) for i, shape in enumerate(shapes)]
    speeds = [normal(10 + i, *shape) for i, shape in enumerate(shapes)]

    def attention(query: Array, key_value: Array, padding: Array) -> tuple[Array, AttentionCache]:
        key = PaddingKey(padding, MAX_LENGTH) if padded else None
        rng = np.random.default_rng(5)  # the same masks every time
        return causal_attention(query, key_value, GROUPS, n_heads, key, rate, rng)

    def forward(query: Array, key_value: Array, padding: Array, d_output: Array) -> Array:
        return attention(query, key_value, padding)[0]

    def backward(query: Array, key_value: Array, padding: Array, d_output: Array) -> Array:
        d_query, d_key_value, _ = causal_attention_backward(d_output, attention(query, key_value, padding)[1])
        return np.concatenate([d_query, d_key_value], axis=1)

    cache: Any = attention(*values[:3])[1]
    output_dot, tangent = causal_attention_tangent(*speeds[:3], cache)
    assert_speed(output_dot, speed(forward, values, speeds))
    d_query, d_key_value = causal_attention_backward_tangent(np.stack([values[3], speeds[3]]), cache, tangent)
    both = np.concatenate([d_query, d_key_value], axis=2)
    np.testing.assert_allclose(both[0], backward(*values), rtol=1e-10, atol=1e-12)
    assert_speed(both[1], speed(backward, values, speeds))
