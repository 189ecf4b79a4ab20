"""Directional derivatives of the layers and losses, forward and backward (forward-over-reverse).

Let all inputs and parameters of a layer move along a direction, at speeds marked ``_dot``. A function
``f_tangent`` returns the speed of the output of ``f``, and what the backward's tangent needs; a function
``f_backward_tangent`` takes the gradient of the output *and its speed*, stacked on a first axis of 2, and
returns the same of the inputs. Parameters get no gradient here: the meta step asks for the speed of the
inputs' gradient alone. Everything that the layers keep in their caches, dropout masks too, is used again.
T is the number of tokens, H the hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llmcdsr_lite.model.layers import (
    AttentionCache,
    FloatArray,
    LayerNormCache,
    attention_scale,
    keys_values,
    merge_heads,
    split_heads,
)
from llmcdsr_lite.model.packing import Group


@dataclass(frozen=True)
class LayerNormTangent:
    """What `layer_norm_backward_tangent` needs."""

    normalized_dot: FloatArray  # (T, H)
    log_deviation_dot: FloatArray  # (T, 1), the speed of the deviation divided by the deviation
    weight_dot: FloatArray  # (H,)


def layer_norm_tangent(
    x_dot: FloatArray, weight_dot: FloatArray, bias_dot: FloatArray, cache: LayerNormCache
) -> tuple[FloatArray, LayerNormTangent]:
    """Speed of ``y = n * weight + bias`` (T, H), with n the normalised x.

    ``n' = (c' - n * mean(n * c')) / deviation`` with the centred speed ``c' = x' - mean(x')``.
    """
    n = cache.normalized
    n_dot = x_dot - x_dot.mean(axis=1, keepdims=True)
    n_dot *= cache.inverse_deviation
    log_deviation_dot = np.einsum("th,th->t", n, n_dot)[:, None] / n.shape[1]
    n_dot -= n * log_deviation_dot
    y_dot = n_dot * cache.weight
    y_dot += n * weight_dot
    y_dot += bias_dot
    return y_dot, LayerNormTangent(n_dot, log_deviation_dot, weight_dot)


def layer_norm_backward_tangent(
    dy: FloatArray, cache: LayerNormCache, tangent: LayerNormTangent
) -> FloatArray:
    """Gradient of x and its speed: dy (2, T, H) to dx (2, T, H).

    ``dx = (g - mean(g) - n * mean(g * n)) / deviation`` with ``g = dy * weight``.
    """
    n, n_dot = cache.normalized, tangent.normalized_dot
    g = dy * cache.weight  # (2, T, H)
    g[1] += dy[0] * tangent.weight_dot
    g -= g.mean(axis=2, keepdims=True)  # n has mean 0: mean(g * n) stays what it is
    projection = np.einsum("dth,th->dt", g, n)[:, :, None] / n.shape[1]
    projection[1] += np.einsum("th,th->t", g[0], n_dot)[:, None] / n.shape[1]
    g -= n * projection
    g[1] -= n_dot * projection[0]
    g[1] -= g[0] * tangent.log_deviation_dot
    g *= cache.inverse_deviation
    return g


def linear_tangent(
    x_dot: FloatArray, x: FloatArray, weight: FloatArray, weight_dot: FloatArray, bias_dot: FloatArray
) -> FloatArray:
    """Speed of ``x @ weight.T + bias``: x (T, I) to (T, O)."""
    y_dot = x_dot @ weight.T
    y_dot += x @ weight_dot.T
    y_dot += bias_dot
    return y_dot


def linear_backward_tangent(dy: FloatArray, weight: FloatArray, weight_dot: FloatArray) -> FloatArray:
    """Gradient of x and its speed: dy (2, T, O) to dx (2, T, I)."""
    dx = dy @ weight
    dx[1] += dy[0] @ weight_dot
    return dx


@dataclass(frozen=True)
class AttentionTangent:
    """What `causal_attention_backward_tangent` needs."""

    query_dot: FloatArray  # (T, H)
    key_value_dot: FloatArray  # (T, 2H)
    padding_dot: FloatArray  # (2H,), of the padding key; not read where there is none
    weights_dot: list[FloatArray]  # per group (count, heads, length, keys), before dropout


def causal_attention_tangent(
    query_dot: FloatArray, key_value_dot: FloatArray, padding_dot: FloatArray, cache: AttentionCache
) -> tuple[FloatArray, AttentionTangent]:
    """Speed of the output (T, H) of attention, ``A = P * mask``, ``P = softmax(S)``, ``S = Q K^T * scale``.

    ``P' = P * (S' - sum(P * S'))``; ``output' = A' V + A V'``.
    """
    output_dot = np.empty_like(query_dot)
    tangent = AttentionTangent(query_dot, key_value_dot, padding_dot, [])
    scale = attention_scale(cache.query, cache.n_heads)
    for group, weights, mask in zip(cache.groups, cache.weights, cache.masks, strict=True):
        q, k, v, q_dot, k_dot, v_dot = _queries_keys_values(group, cache, tangent)
        weights_dot = q_dot @ k.swapaxes(-1, -2)  # (count, heads, length, keys), so far S'
        weights_dot += q @ k_dot.swapaxes(-1, -2)
        weights_dot *= scale
        weights_dot -= np.einsum("bhqk,bhqk->bhq", weights, weights_dot)[..., None]
        weights_dot *= weights
        tangent.weights_dot.append(weights_dot)
        mixed_dot = (weights_dot if mask is None else weights_dot * mask) @ v
        mixed_dot += (weights if mask is None else weights * mask) @ v_dot
        output_dot[group.start : group.stop] = merge_heads(mixed_dot)
    return output_dot, tangent


def causal_attention_backward_tangent(
    d_output: FloatArray, cache: AttentionCache, tangent: AttentionTangent
) -> tuple[FloatArray, FloatArray]:
    """Gradients of query and key_value and their speeds: d_output (2, T, H) to (2, T, H), (2, T, 2H).

    ``dV = A^T dO``; ``dA = dO V^T``; ``dS = P * (D - sum(D * P)) * scale`` with ``D = dA * mask``;
    ``dQ = dS K``; ``dK = dS^T Q``. The speed of each is the sum over its factors.
    """
    d_query = np.empty_like(d_output)
    hidden = d_output.shape[2]
    d_key_value = np.empty((*d_output.shape[:2], 2 * hidden), dtype=d_output.dtype)
    scale = attention_scale(cache.query, cache.n_heads)
    groups = zip(cache.groups, cache.weights, tangent.weights_dot, cache.masks, strict=True)
    for group, weights, weights_dot, mask in groups:
        q, k, v, q_dot, k_dot, v_dot = _queries_keys_values(group, cache, tangent)
        d_mixed = split_heads(d_output[0], group, cache.n_heads)  # (count, heads, length, H / heads)
        d_mixed_dot = split_heads(d_output[1], group, cache.n_heads)

        applied = weights if mask is None else weights * mask
        applied_dot = weights_dot if mask is None else weights_dot * mask
        dv = applied.swapaxes(-1, -2) @ d_mixed  # (count, heads, keys, H / heads)
        dv_dot = applied_dot.swapaxes(-1, -2) @ d_mixed
        dv_dot += applied.swapaxes(-1, -2) @ d_mixed_dot

        ds = d_mixed @ v.swapaxes(-1, -2)  # (count, heads, length, keys), so far dA
        ds_dot = d_mixed_dot @ v.swapaxes(-1, -2)
        ds_dot += d_mixed @ v_dot.swapaxes(-1, -2)
        if mask is not None:
            ds *= mask
            ds_dot *= mask
        ds -= np.einsum("bhqk,bhqk->bhq", ds, weights)[..., None]
        # here sum(D * P') = sum((D - sum(D * P)) * P'), since the speeds of weights add up to zero
        ds_dot -= np.einsum("bhqk,bhqk->bhq", ds_dot, weights)[..., None]
        ds_dot -= np.einsum("bhqk,bhqk->bhq", ds, weights_dot)[..., None]
        ds_dot *= weights
        ds_dot += ds * weights_dot
        ds_dot *= scale
        ds *= weights
        ds *= scale

        dk = ds.swapaxes(-1, -2) @ q
        dk_dot = ds_dot.swapaxes(-1, -2) @ q
        dk_dot += ds.swapaxes(-1, -2) @ q_dot
        dq_dot = ds_dot @ k
        dq_dot += ds @ k_dot
        tokens = slice(group.start, group.stop)
        real = slice(group.length)  # the padding key comes after the real ones
        d_query[0, tokens], d_query[1, tokens] = merge_heads(ds @ k), merge_heads(dq_dot)
        d_key_value[0, tokens, :hidden] = merge_heads(dk[:, :, real])
        d_key_value[1, tokens, :hidden] = merge_heads(dk_dot[:, :, real])
        d_key_value[0, tokens, hidden:] = merge_heads(dv[:, :, real])
        d_key_value[1, tokens, hidden:] = merge_heads(dv_dot[:, :, real])
    return d_query, d_key_value


def _queries_keys_values(
    group: Group, cache: AttentionCache, tangent: AttentionTangent
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Q, K, V of a group and their speeds, each (count, heads, length or keys, H / heads)."""
    heads, padding = cache.n_heads, cache.padding
    k, v = keys_values(cache.key_value, group, heads, padding)
    moving = None if padding is None else replace(padding, key_value_bias=tangent.padding_dot)
    k_dot, v_dot = keys_values(tangent.key_value_dot, group, heads, moving)
    return (
        split_heads(cache.query, group, heads),
        k,
        v,
        split_heads(tangent.query_dot, group, heads),
        k_dot,
        v_dot,
    )
