"""The layers of SASRec: one function a formula, its backward right below it.

A forward returns its output and what the backward needs; the backward takes the gradient of the output
and returns the gradients of the inputs and parameters. T is the number of tokens of a packed batch, H
the hidden size. All work in the dtype of their inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.model.packing import Group

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LayerNormCache:
    """What `layer_norm_backward` needs."""

    normalized: FloatArray  # (T, H)
    inverse_deviation: FloatArray  # (T, 1)
    weight: FloatArray  # (H,)


def layer_norm(
    x: FloatArray, weight: FloatArray, bias: FloatArray, epsilon: float
) -> tuple[FloatArray, LayerNormCache]:
    """Layer normalisation over the last axis: ``(x - mean) / sqrt(var + epsilon) * weight + bias``.

    Parameters
    ----------
    x : float array (T, H)
    weight, bias : float arrays (H,)
    epsilon : float
        Added to the (biased) variance.

    Returns
    -------
    y : float array (T, H)
    cache : LayerNormCache
    """
    hidden = x.shape[1]
    centred = x - (x @ np.full((hidden, 1), 1 / hidden, dtype=x.dtype))
    variance = np.einsum("th,th->t", centred, centred) / hidden
    inverse_deviation = (1 / np.sqrt(variance + x.dtype.type(epsilon)))[:, None]
    centred *= inverse_deviation
    y = centred * weight
    y += bias
    return y, LayerNormCache(centred, inverse_deviation, weight)


def layer_norm_backward(dy: FloatArray, cache: LayerNormCache) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Gradients of `layer_norm`: of x (T, H), of weight (H,), of bias (H,)."""
    normalized = cache.normalized
    hidden = dy.shape[1]
    d_weight = np.einsum("th,th->h", dy, normalized)
    d_bias = _column_sums(dy)
    dx = dy * cache.weight
    projection = np.einsum("th,th->t", dx, normalized)[:, None] / hidden
    dx -= dx @ np.full((hidden, 1), 1 / hidden, dtype=dx.dtype)
    dx -= normalized * projection
    dx *= cache.inverse_deviation
    return dx, d_weight, d_bias


def linear(x: FloatArray, weight: FloatArray, bias: FloatArray) -> FloatArray:
    """Affine map ``x @ weight.T + bias``: x (T, I), weight (O, I), bias (O,) to (T, O)."""
    y = x @ weight.T
    y += bias
    return y


def linear_backward(
    dy: FloatArray, x: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Gradients of `linear`: of x (T, I), of weight (O, I), of bias (O,)."""
    return dy @ weight, dy.T @ x, _column_sums(dy)


def _column_sums(x: FloatArray) -> FloatArray:
    """Sum over the first axis; as a product it is several times faster than ``sum(axis=0)``."""
    return np.ones(len(x), dtype=x.dtype) @ x


def dropout_mask(
    shape: tuple[int, ...], rate: float, rng: np.random.Generator, dtype: npt.DTypeLike
) -> FloatArray:
    """Inverted dropout: an array of zeros (with probability `rate`) and ``1 / (1 - rate)``.

    The probability is rounded to 1/256, and to 255/256 at most: one random byte decides an element,
    several times faster than a float. A rate up to 0.0019 drops nothing.
    """
    n = math.prod(shape)
    threshold = min(round(rate * 256), 255)
    words = rng.integers(0, 2**64, -(-n // 8), dtype=np.uint64)  # the fastest source of random bytes
    kept = words.view(np.uint8)[:n].reshape(shape) >= threshold
    mask: FloatArray = kept.astype(dtype)
    mask *= 256 / (256 - threshold)
    return mask


@dataclass(frozen=True)
class PaddingKey:
    """The official code's quirk: padding takes part in attention as one key with a weight.

    A padded position has a zero input, so its key is the key bias and its value the value bias. All of
    them together act as one key whose weight is their number, ``max_length - length``.
    """

    key_value_bias: FloatArray  # (2H,)
    max_length: int


@dataclass(frozen=True)
class AttentionCache:
    """What `causal_attention_backward` needs."""

    query: FloatArray  # (T, H)
    key_value: FloatArray  # (T, 2H)
    groups: tuple[Group, ...]
    n_heads: int
    padding: PaddingKey | None
    weights: list[FloatArray]  # per group (count, heads, length, keys), before dropout
    masks: list[FloatArray | None]  # per group, the dropout applied to them


def causal_attention(
    query: FloatArray,
    key_value: FloatArray,
    groups: tuple[Group, ...],
    n_heads: int,
    padding: PaddingKey | None = None,
    rate: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[FloatArray, AttentionCache]:
    """Scaled dot-product attention of every token to itself and the tokens before it.

    ``softmax(Q K^T / sqrt(H / heads) + causal mask) V``, with dropout on the softmax.

    Parameters
    ----------
    query : float array (T, H), or (sequences, H)
        Of every token; or of the last one of every sequence alone, without dropout and backward.
    key_value : float array (T, 2H)
        Keys, then values.
    groups : tuple of Group
        The sequences of equal length that the tokens belong to.
    n_heads : int
        Number of heads; divides H.
    padding : PaddingKey, optional
        Let padding take part, as the official code does.
    rate : float
        Dropout rate, used when `rng` is given.
    rng : Generator, optional
        Source of the dropout masks; None means no dropout.

    Returns
    -------
    output : float array of the shape of `query`
    cache : AttentionCache
    """
    output = np.empty_like(query)
    query_groups = groups if len(query) == len(key_value) else _last_tokens(groups)
    masks = _attention_masks(groups, n_heads, padding, rate, rng, query.dtype)
    cache = AttentionCache(query, key_value, groups, n_heads, padding, [], masks)
    for group, queries, mask in zip(groups, query_groups, masks, strict=True):
        q = split_heads(query, queries, n_heads)
        k, v = keys_values(key_value, group, n_heads, padding)
        scores = q @ k.swapaxes(-1, -2)  # (count, heads, queries, keys)
        scores *= attention_scale(query, n_heads)
        scores += _additive_mask(group, padding, scores.dtype)[-queries.length :]
        weights = softmax(scores)
        cache.weights.append(weights)
        mixed = (weights if mask is None else weights * mask) @ v  # (count, heads, queries, H / heads)
        output[queries.start : queries.stop] = merge_heads(mixed)
    return output, cache


def _last_tokens(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Groups of the last tokens of the sequences, one token a sequence."""
    stops = accumulate(group.count for group in groups)
    return tuple(Group(stop - g.count, stop, g.count, 1) for g, stop in zip(groups, stops, strict=True))


def causal_attention_backward(
    d_output: FloatArray, cache: AttentionCache
) -> tuple[FloatArray, FloatArray, FloatArray | None]:
    """Gradients of `causal_attention`: of query (T, H), of key_value (T, 2H), of the padding key (2H,)."""
    d_query = np.empty_like(cache.query)
    d_key_value = np.empty_like(cache.key_value)
    d_padding = None if cache.padding is None else np.zeros_like(cache.padding.key_value_bias)
    hidden = cache.query.shape[1]
    scale = attention_scale(cache.query, cache.n_heads)
    for group, weights, mask in zip(cache.groups, cache.weights, cache.masks, strict=True):
        q = split_heads(cache.query, group, cache.n_heads)
        k, v = keys_values(cache.key_value, group, cache.n_heads, cache.padding)
        d_mixed = split_heads(d_output, group, cache.n_heads)
        applied = weights if mask is None else weights * mask
        dv = applied.swapaxes(-1, -2) @ d_mixed  # (count, heads, keys, H / heads)
        d_scores = d_mixed @ v.swapaxes(-1, -2)  # (count, heads, length, keys)
        if mask is not None:
            d_scores *= mask
        # softmax: dS = P * (dP - sum(dP * P))
        d_scores -= np.einsum("bhqk,bhqk->bhq", d_scores, weights)[..., None]
        d_scores *= weights
        d_scores *= scale
        dk = d_scores.swapaxes(-1, -2) @ q
        tokens = slice(group.start, group.stop)
        d_query[tokens] = merge_heads(d_scores @ k)
        d_key_value[tokens, :hidden] = merge_heads(dk[:, :, : group.length])
        d_key_value[tokens, hidden:] = merge_heads(dv[:, :, : group.length])
        if d_padding is not None:
            d_padding[:hidden] += dk[:, :, group.length].sum(axis=0).reshape(hidden)
            d_padding[hidden:] += dv[:, :, group.length].sum(axis=0).reshape(hidden)
    return d_query, d_key_value, d_padding


def softmax(scores: FloatArray) -> FloatArray:
    """Softmax over the last axis, in place; ``-inf`` gives a weight of zero."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _attention_masks(
    groups: tuple[Group, ...],
    n_heads: int,
    padding: PaddingKey | None,
    rate: float,
    rng: np.random.Generator | None,
    dtype: npt.DTypeLike,
) -> list[FloatArray | None]:
    """Dropout masks (count, heads, length, keys) of all groups, drawn at once; None for no dropout."""
    if rng is None or rate == 0:
        return [None] * len(groups)
    n_extra = 0 if padding is None else 1
    shapes = [(g.count, n_heads, g.length, g.length + n_extra) for g in groups]
    stops = list(accumulate(map(math.prod, shapes)))
    flat = dropout_mask((stops[-1] if stops else 0,), rate, rng, dtype)
    return [
        flat[stop - math.prod(shape) : stop].reshape(shape) for shape, stop in zip(shapes, stops, strict=True)
    ]


def keys_values(
    key_value: FloatArray, group: Group, n_heads: int, padding: PaddingKey | None
) -> tuple[FloatArray, FloatArray]:
    """Keys and values of a group, each (count, heads, length, H / heads).

    With `padding` they have one more entry at the end of the length axis.
    """
    hidden = key_value.shape[1] // 2
    k = split_heads(key_value[:, :hidden], group, n_heads)
    v = split_heads(key_value[:, hidden:], group, n_heads)
    if padding is not None:
        shape = (group.count, n_heads, 1, hidden // n_heads)
        key, value = padding.key_value_bias.reshape(2, 1, n_heads, 1, -1)
        k = np.concatenate([k, np.broadcast_to(key, shape)], axis=2)
        v = np.concatenate([v, np.broadcast_to(value, shape)], axis=2)
    return k, v


def split_heads(x: FloatArray, group: Group, n_heads: int) -> FloatArray:
    """(T, H) to the group's (count, heads, length, H / heads), a view."""
    tokens = x[group.start : group.stop]
    return tokens.reshape(group.count, group.length, n_heads, -1).swapaxes(1, 2)


def merge_heads(x: FloatArray) -> FloatArray:
    """(count, heads, length, H / heads) to (count * length, H)."""
    count, n_heads, length, size = x.shape
    return x.swapaxes(1, 2).reshape(count * length, n_heads * size)


def attention_scale(query: FloatArray, n_heads: int) -> Any:
    """``1 / sqrt(H / heads)`` in the dtype of the query (T, H)."""
    return query.dtype.type((query.shape[1] // n_heads) ** -0.5)


def _additive_mask(group: Group, padding: PaddingKey | None, dtype: npt.DTypeLike) -> FloatArray:
    """Zero where a query may look, ``-inf`` where not; the padding key's column is log(its weight)."""
    mask = _causal_mask(group.length).astype(dtype, copy=False)
    if padding is None:
        return mask
    n_padded = padding.max_length - group.length
    column = np.full((group.length, 1), np.log(n_padded) if n_padded else -np.inf, dtype=dtype)
    return np.concatenate([mask, column], axis=1)


@cache
def _causal_mask(length: int) -> FloatArray:
    return np.triu(np.full((length, length), -np.inf, dtype=np.float32), 1)
