"""Each layer against a loop written here, each backward against central differences."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from padded_sasrec import assert_gradient, numerical_gradient

from llmcdsr_lite.model.layers import (
    PaddingKey,
    causal_attention,
    causal_attention_backward,
    dropout_mask,
    layer_norm,
    layer_norm_backward,
    linear,
    linear_backward,
    softmax,
)
from llmcdsr_lite.model.packing import Group

Array = npt.NDArray[np.float64]

# Two sequences of one token, three of three tokens, one of five.
GROUPS = (Group(0, 2, 2, 1), Group(2, 11, 3, 3), Group(11, 16, 1, 5))
N_TOKENS, N_SEQUENCES = 16, 6
LAST = [0, 1, 4, 7, 10, 15]
MAX_LENGTH = 5  # the group of five has no padding at all
EPSILON = 0.01  # large enough to be noticed if it were left out


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def loop_attention(query: Array, key_value: Array, n_heads: int, padding: PaddingKey | None) -> Array:
    """Attention token by token; padding as so many keys of their own."""
    hidden = query.shape[1]
    size = hidden // n_heads
    output = np.zeros_like(query)
    for group in GROUPS:
        for start in range(group.start, group.stop, group.length):
            for token in range(start, start + group.length):
                seen = list(key_value[start : token + 1])
                if padding is not None:
                    seen += [padding.key_value_bias] * (padding.max_length - group.length)
                for head in range(n_heads):
                    part = slice(head * size, (head + 1) * size)
                    scores = [math.exp(query[token, part] @ kv[part] / math.sqrt(size)) for kv in seen]
                    for score, kv in zip(scores, seen, strict=True):
                        output[token, part] += score / sum(scores) * kv[hidden:][part]
    return output


def padding_key(hidden: int, used: bool) -> PaddingKey | None:
    return PaddingKey(normal(2 * hidden, seed=3), MAX_LENGTH) if used else None


def test_layer_norm_is_its_formula() -> None:
    x, weight, bias = normal(4, 6), normal(6), normal(6, seed=1)
    y, _ = layer_norm(x, weight, bias, EPSILON)
    for row, found in zip(x, y, strict=True):
        mean = sum(row) / 6
        deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / 6 + EPSILON)
        assert found == pytest.approx((row - mean) / deviation * weight + bias)


def test_layer_norm_leaves_its_input_alone() -> None:
    x = normal(4, 6)
    before = x.copy()
    layer_norm(x, normal(6), normal(6, seed=1), EPSILON)
    assert np.array_equal(x, before)


def test_layer_norm_of_equal_values_is_the_bias() -> None:
    y, _ = layer_norm(np.full((2, 4), 3.5), normal(4), np.arange(4.0), 1e-8)
    assert y == pytest.approx(np.tile(np.arange(4.0), (2, 1)), abs=1e-3)


def test_layer_norm_backward() -> None:
    x, weight, bias, dy = normal(5, 6), normal(6), normal(6, seed=1), normal(5, 6, seed=2)

    def objective() -> float:
        return float((layer_norm(x, weight, bias, EPSILON)[0] * dy).sum())

    before = dy.copy()
    dx, d_weight, d_bias = layer_norm_backward(dy, layer_norm(x, weight, bias, EPSILON)[1])
    assert np.array_equal(dy, before)
    assert_gradient(dx, numerical_gradient(objective, x), "x")
    assert_gradient(d_weight, numerical_gradient(objective, weight), "weight")
    assert_gradient(d_bias, numerical_gradient(objective, bias), "bias")


def test_linear_is_its_formula() -> None:
    x, weight, bias = normal(3, 4), normal(5, 4), normal(5)
    y = linear(x, weight, bias)
    for t in range(3):
        for o in range(5):
            assert y[t, o] == pytest.approx(sum(x[t, i] * weight[o, i] for i in range(4)) + bias[o])


def test_linear_backward() -> None:
    x, weight, bias, dy = normal(3, 4), normal(5, 4), normal(5), normal(3, 5, seed=2)

    def objective() -> float:
        return float((linear(x, weight, bias) * dy).sum())

    dx, d_weight, d_bias = linear_backward(dy, x, weight)
    assert_gradient(dx, numerical_gradient(objective, x), "x")
    assert_gradient(d_weight, numerical_gradient(objective, weight), "weight")
    assert_gradient(d_bias, numerical_gradient(objective, bias), "bias")


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("n_heads", [1, 2, 3, 4])
def test_causal_attention_is_a_loop_over_tokens(n_heads: int, padded: bool) -> None:
    hidden = 12
    query, key_value = normal(N_TOKENS, hidden), normal(N_TOKENS, 2 * hidden)
    padding = padding_key(hidden, padded)
    output, _ = causal_attention(query, key_value, GROUPS, n_heads, padding)
    expected = loop_attention(query, key_value, n_heads, padding)
    np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-14)
    last, _ = causal_attention(query[LAST], key_value, GROUPS, n_heads, padding)
    np.testing.assert_allclose(last, expected[LAST], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("n_heads", "hidden"), [(1, 2), (2, 4), (3, 6), (4, 4)])
def test_causal_attention_backward(n_heads: int, hidden: int, padded: bool, rate: float) -> None:
    query, key_value = normal(N_TOKENS, hidden), normal(N_TOKENS, 2 * hidden)
    d_output = normal(N_TOKENS, hidden, seed=2)
    padding = padding_key(hidden, padded)

    def forward() -> tuple[Array, object]:
        rng = np.random.default_rng(5)  # the same masks every time
        return causal_attention(query, key_value, GROUPS, n_heads, padding, rate, rng)

    def objective() -> float:
        return float((forward()[0] * d_output).sum())

    d_query, d_key_value, d_padding = causal_attention_backward(d_output, forward()[1])
    assert_gradient(d_query, numerical_gradient(objective, query), "query")
    assert_gradient(d_key_value, numerical_gradient(objective, key_value), "key_value")
    if padding is None:
        assert d_padding is None
    else:
        assert_gradient(d_padding, numerical_gradient(objective, padding.key_value_bias), "padding")


def test_dropout_on_attention_drops_whole_weights() -> None:
    """With values of one, the output of a query is the sum of the mask over its keys, weighted."""
    query, key_value = np.zeros((N_TOKENS, 2)), np.ones((N_TOKENS, 4))
    output, _ = causal_attention(query, key_value, GROUPS, 1, None, 0.5, np.random.default_rng(0))
    for group in GROUPS:
        for place, token in enumerate(range(group.start, group.start + group.length), 1):
            kept = output[token, 0] * place / 2  # each kept weight is 1 / place, doubled
            assert kept == pytest.approx(round(kept))
            assert output[token, 0] == output[token, 1]
    assert len(set(output[:, 0].tolist())) > 2


def test_without_rng_or_rate_there_is_no_dropout() -> None:
    query, key_value = normal(N_TOKENS, 4), normal(N_TOKENS, 8)
    plain, _ = causal_attention(query, key_value, GROUPS, 2)
    without_rng, _ = causal_attention(query, key_value, GROUPS, 2, None, 0.5, None)
    without_rate, _ = causal_attention(query, key_value, GROUPS, 2, None, 0.0, np.random.default_rng(0))
    assert np.array_equal(plain, without_rng)
    assert np.array_equal(plain, without_rate)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_mask_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    mask = dropout_mask((300, 201), rate, np.random.default_rng(0), np.float32)
    assert mask.dtype == np.float32
    assert mask.shape == (300, 201)
    dropped = (mask == 0).mean()
    assert dropped == pytest.approx(rate, abs=0.01)
    (kept,) = set(mask[mask > 0].tolist())
    assert kept == pytest.approx(1 / (1 - rate), rel=0.02)
    assert mask.mean() == pytest.approx(1, abs=0.04)


def test_dropout_mask_comes_from_the_rng_alone() -> None:
    def mask(seed: int) -> Array:
        return dropout_mask((7, 13), 0.5, np.random.default_rng(seed), np.float64)

    assert np.array_equal(mask(1), mask(1))
    assert not np.array_equal(mask(1), mask(2))


def test_dropout_mask_never_drops_everything() -> None:
    mask = dropout_mask((64, 1024), 0.9999, np.random.default_rng(0), np.float64)
    assert np.isfinite(mask).all()
    assert (mask > 0).any()


def test_dropout_mask_elements_are_independent() -> None:
    """Neighbours, and elements eight apart (one random word), are as often equal as chance has it."""
    flat = dropout_mask((80_000,), 0.5, np.random.default_rng(0), np.float64)
    for apart in (1, 2, 8):
        assert (flat[apart:] == flat[:-apart]).mean() == pytest.approx(0.5, abs=0.01)


def test_softmax_is_its_formula_and_takes_minus_infinity_and_large_scores() -> None:
    weights = softmax(np.array([[1.0, 2.0, -np.inf], [1000.0, 1001.0, -1000.0]]))
    e = math.e
    expected = [[1 / (1 + e), e / (1 + e), 0], [1 / (1 + e), e / (1 + e), 0]]
    assert weights == pytest.approx(np.array(expected))


def test_float32_stays_float32() -> None:
    query, key_value = normal(N_TOKENS, 4).astype(np.float32), normal(N_TOKENS, 8).astype(np.float32)
    padding = PaddingKey(normal(8).astype(np.float32), MAX_LENGTH)
    output, cache = causal_attention(query, key_value, GROUPS, 2, padding, 0.5, np.random.default_rng(0))
    gradients = causal_attention_backward(output, cache)
    y, norm = layer_norm(query, query[0], query[1], 1e-8)
    found = [output, *gradients, y, *layer_norm_backward(y, norm), linear(query, query[:4], query[0])]
    assert {array.dtype for array in found if array is not None} == {np.dtype(np.float32)}
