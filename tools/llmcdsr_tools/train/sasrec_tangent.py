"""How the gradient of SASRec's inputs changes when its parameters move: forward-over-reverse.

`forward_tangent` and `backward_tangent` follow `sasrec.forward` and `sasrec.backward` line by line, with
the pieces of `tangents`. They need the cache of one `forward`, and are the directional derivative of that
very pass, dropout masks included.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.parameters import BlockParameters, SASRecParameters
from llmcdsr_lite.model.sasrec import BlockCache, FeedForwardCache, ForwardCache
from llmcdsr_tools.train.tangents import (
    AttentionTangent,
    LayerNormTangent,
    causal_attention_backward_tangent,
    causal_attention_tangent,
    layer_norm_backward_tangent,
    layer_norm_tangent,
    linear_backward_tangent,
    linear_tangent,
)


@dataclass(frozen=True)
class BlockTangent:
    """What the tangent of `block_backward` needs."""

    norm: LayerNormTangent
    attention: AttentionTangent
    feed_forward_norm: LayerNormTangent


@dataclass(frozen=True)
class ForwardTangent:
    """What `backward_tangent` needs."""

    blocks: tuple[BlockTangent, ...]
    norm: LayerNormTangent


def forward_tangent(
    parameters: SASRecParameters, direction: SASRecParameters, items_dot: FloatArray, cache: ForwardCache
) -> tuple[FloatArray, ForwardTangent]:
    """Speed of the features of every token.

    Parameters
    ----------
    parameters : SASRecParameters
    direction : SASRecParameters
        Speed of everything but the item embedding; its item embedding is not read.
    items_dot : float array (T, H)
        Speed of the item embedding that each token takes in.
    cache : ForwardCache
        From `sasrec.forward`.

    Returns
    -------
    features_dot : float array (T, H)
    tangent : ForwardTangent
    """
    x_dot: FloatArray = items_dot * items_dot.dtype.type(parameters.config.hidden**0.5)
    x_dot += direction.position_embedding[cache.batch.positions]
    if cache.input_mask is not None:
        x_dot *= cache.input_mask
    tangents = []
    for block, moving, block_cache in zip(parameters.blocks, direction.blocks, cache.blocks, strict=True):
        x_dot, tangent = _block_tangent(x_dot, block, moving, block_cache)
        tangents.append(tangent)
    features_dot, norm = layer_norm_tangent(x_dot, direction.norm_weight, direction.norm_bias, cache.norm)
    return features_dot, ForwardTangent(tuple(tangents), norm)


def backward_tangent(
    parameters: SASRecParameters,
    direction: SASRecParameters,
    d_features: FloatArray,
    cache: ForwardCache,
    tangent: ForwardTangent,
) -> FloatArray:
    """Gradient of the item embedding that each token takes in, and its speed.

    Parameters
    ----------
    parameters, direction : SASRecParameters
        As for `forward_tangent`.
    d_features : float array (2, T, H)
        Gradient of the features, and its speed.
    cache : ForwardCache
        From `sasrec.forward`.
    tangent : ForwardTangent
        From `forward_tangent`.

    Returns
    -------
    float array (2, T, H)
    """
    dx = layer_norm_backward_tangent(d_features, cache.norm, tangent.norm)
    layers = zip(parameters.blocks, direction.blocks, cache.blocks, tangent.blocks, strict=True)
    for block, moving, block_cache, block_tangent in reversed(list(layers)):
        dx = _block_backward_tangent(dx, block, moving, block_cache, block_tangent)
    if cache.input_mask is not None:
        dx *= cache.input_mask
    dx *= dx.dtype.type(parameters.config.hidden**0.5)
    return dx


def _block_tangent(
    x_dot: FloatArray, block: BlockParameters, moving: BlockParameters, cache: BlockCache
) -> tuple[FloatArray, BlockTangent]:
    """Speed of the output of `sasrec.block_forward`: (T, H) to (T, H)."""
    normalized_dot, norm = layer_norm_tangent(
        x_dot, moving.attention_norm_weight, moving.attention_norm_bias, cache.norm
    )
    query_dot = linear_tangent(
        normalized_dot, cache.normalized, block.query_weight, moving.query_weight, moving.query_bias
    )
    key_value_dot = linear_tangent(
        x_dot, cache.x, block.key_value_weight, moving.key_value_weight, moving.key_value_bias
    )
    mixed_dot, attention = causal_attention_tangent(
        query_dot, key_value_dot, moving.key_value_bias, cache.attention
    )
    y_dot = linear_tangent(
        mixed_dot, cache.mixed, block.output_weight, moving.output_weight, moving.output_bias
    )
    y_dot += normalized_dot
    y_dot, feed_forward_norm = _feed_forward_tangent(y_dot, block, moving, cache.feed_forward)
    return y_dot, BlockTangent(norm, attention, feed_forward_norm)


def _block_backward_tangent(
    dy: FloatArray,
    block: BlockParameters,
    moving: BlockParameters,
    cache: BlockCache,
    tangent: BlockTangent,
) -> FloatArray:
    """Gradient of the input of `sasrec.block_forward` and its speed: (2, T, H) to (2, T, H)."""
    d_sum = _feed_forward_backward_tangent(dy, block, moving, cache.feed_forward, tangent.feed_forward_norm)
    d_mixed = linear_backward_tangent(d_sum, block.output_weight, moving.output_weight)
    d_query, d_key_value = causal_attention_backward_tangent(d_mixed, cache.attention, tangent.attention)
    dx = linear_backward_tangent(d_key_value, block.key_value_weight, moving.key_value_weight)
    d_normalized = linear_backward_tangent(d_query, block.query_weight, moving.query_weight)
    d_normalized += d_sum
    dx += layer_norm_backward_tangent(d_normalized, cache.norm, tangent.norm)
    return dx


def _feed_forward_tangent(
    y_dot: FloatArray, block: BlockParameters, moving: BlockParameters, cache: FeedForwardCache
) -> tuple[FloatArray, LayerNormTangent]:
    """Speed of the output of `sasrec.feed_forward`: (T, H) to (T, H)."""
    x_dot, norm = layer_norm_tangent(
        y_dot, moving.feed_forward_norm_weight, moving.feed_forward_norm_bias, cache.norm
    )
    inner_dot = linear_tangent(
        x_dot, cache.inner_input, block.inner_weight, moving.inner_weight, moving.inner_bias
    )
    inner_dot *= _inner_slope(cache)
    outer_dot = linear_tangent(
        inner_dot, cache.inner, block.outer_weight, moving.outer_weight, moving.outer_bias
    )
    if cache.outer_mask is not None:
        outer_dot *= cache.outer_mask
    outer_dot += x_dot
    return outer_dot, norm


def _feed_forward_backward_tangent(
    dy: FloatArray,
    block: BlockParameters,
    moving: BlockParameters,
    cache: FeedForwardCache,
    norm: LayerNormTangent,
) -> FloatArray:
    """Gradient of the input of `sasrec.feed_forward` and its speed: (2, T, H) to (2, T, H)."""
    d_outer = dy if cache.outer_mask is None else dy * cache.outer_mask
    d_inner = linear_backward_tangent(d_outer, block.outer_weight, moving.outer_weight)
    d_inner *= _inner_slope(cache)
    dx = linear_backward_tangent(d_inner, block.inner_weight, moving.inner_weight)
    dx += dy
    return layer_norm_backward_tangent(dx, cache.norm, norm)


def _inner_slope(cache: FeedForwardCache) -> FloatArray:
    """Slope (T, H) of ReLU and dropout, which is constant where it is defined."""
    slope = (cache.inner > 0).astype(cache.inner.dtype)
    if cache.inner_mask is not None:
        slope *= cache.inner_mask
    return slope
