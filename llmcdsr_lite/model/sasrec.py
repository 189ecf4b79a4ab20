"""SASRec (Kang and McAuley, ICDM 2018) in the form that LLMCDSR uses, forward and backward.

Input of a token: ``item_embedding[row] * sqrt(H) + position_embedding[position]``, positions counted
from the end. Per block: ``Q = LN(x)``; ``x = Q + attention(Q, x, x)``; ``x = LN(x)``;
``x = x + W2 relu(W1 x)``. A last layer norm gives the features; the score of an item is the dot product
of the feature of the last token, the *user representation*, with the item's embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.model.layers import (
    AttentionCache,
    FloatArray,
    LayerNormCache,
    PaddingKey,
    causal_attention,
    causal_attention_backward,
    dropout_mask,
    layer_norm,
    layer_norm_backward,
    linear,
    linear_backward,
)
from llmcdsr_lite.model.packing import Group, PackedSequences
from llmcdsr_lite.model.parameters import BlockParameters, SASRecConfig, SASRecParameters


@dataclass(frozen=True)
class RowGradient:
    """Gradient of a few rows of the item embedding; every row occurs once, in rising order."""

    rows: npt.NDArray[np.int64]  # (n,)
    values: FloatArray  # (n, H)

    def take(self, wanted: npt.NDArray[np.int64]) -> FloatArray:
        """Values of the wanted rows (m,), zero for those it has not: (m, H)."""
        if not len(self.rows):
            return np.zeros((len(wanted), self.values.shape[1]), dtype=self.values.dtype)
        places = np.minimum(np.searchsorted(self.rows, wanted), len(self.rows) - 1)
        taken: FloatArray = self.values[places]
        taken[self.rows[places] != wanted] = 0
        return taken


@dataclass(frozen=True)
class FeedForwardCache:
    """What `feed_forward_backward` needs."""

    norm: LayerNormCache
    inner_input: FloatArray  # (T, H)
    inner: FloatArray  # (T, H), after ReLU and dropout
    inner_mask: FloatArray | None
    outer_mask: FloatArray | None


@dataclass(frozen=True)
class BlockCache:
    """What `block_backward` needs."""

    x: FloatArray  # (T, H)
    norm: LayerNormCache
    normalized: FloatArray  # (T, H), Q before its projection
    attention: AttentionCache
    mixed: FloatArray  # (T, H)
    feed_forward: FeedForwardCache


@dataclass(frozen=True)
class ForwardCache:
    """What `backward` needs."""

    batch: PackedSequences
    input_mask: FloatArray | None
    blocks: tuple[BlockCache, ...]
    norm: LayerNormCache


def forward(
    parameters: SASRecParameters, batch: PackedSequences, rng: np.random.Generator | None = None
) -> tuple[FloatArray, ForwardCache]:
    """Features of every token.

    Parameters
    ----------
    parameters : SASRecParameters
    batch : PackedSequences
        T tokens.
    rng : Generator, optional
        Source of the dropout masks; None means no dropout (inference).

    Returns
    -------
    features : float array (T, H)
    cache : ForwardCache
    """
    config = parameters.config
    x = token_inputs(parameters, batch)
    x, input_mask = _dropout(x, config.dropout, rng)
    caches = []
    for block in parameters.blocks:
        x, cache = block_forward(x, block, batch.groups, config, rng)
        caches.append(cache)
    features, norm = layer_norm(x, parameters.norm_weight, parameters.norm_bias, config.epsilon)
    return features, ForwardCache(batch, input_mask, tuple(caches), norm)


def backward(
    parameters: SASRecParameters, d_features: FloatArray, cache: ForwardCache, gradients: SASRecParameters
) -> FloatArray:
    """Gradients of all parameters but the item embedding, and of the inputs of the item embedding.

    Parameters
    ----------
    parameters : SASRecParameters
    d_features : float array (T, H)
        Gradient of the features.
    cache : ForwardCache
        From `forward`.
    gradients : SASRecParameters
        Its dense part is overwritten; its item embedding is not touched.

    Returns
    -------
    d_items : float array (T, H)
        Gradient of ``item_embedding[batch.rows]``, token by token; see `sum_rows`.
    """
    config = parameters.config
    dx, gradients.norm_weight[:], gradients.norm_bias[:] = layer_norm_backward(d_features, cache.norm)
    layers = zip(parameters.blocks, cache.blocks, gradients.blocks, strict=True)
    for block, block_cache, block_gradients in reversed(list(layers)):
        dx = block_backward(dx, block, block_cache, block_gradients)
    if cache.input_mask is not None:
        dx *= cache.input_mask
    gradients.position_embedding[:] = 0
    for group in cache.batch.groups:
        per_position = dx[group.start : group.stop].reshape(group.count, -1).sum(axis=0)
        gradients.position_embedding[-group.length :] += per_position.reshape(group.length, -1)
    dx *= dx.dtype.type(config.hidden**0.5)
    return dx


def token_inputs(parameters: SASRecParameters, batch: PackedSequences) -> FloatArray:
    """Input of the first block (T, H)."""
    x = parameters.item_embedding[batch.rows]
    x *= x.dtype.type(parameters.config.hidden**0.5)
    x += parameters.position_embedding[batch.positions]
    return x


def block_forward(
    x: FloatArray,
    block: BlockParameters,
    groups: tuple[Group, ...],
    config: SASRecConfig,
    rng: np.random.Generator | None = None,
    last: npt.NDArray[np.int64] | None = None,
) -> tuple[FloatArray, BlockCache]:
    """One block: x (T, H) to (T, H), or (n, H) for the last tokens (n,) of the sequences alone."""
    queries = x if last is None else x[last]
    normalized, norm = layer_norm(
        queries, block.attention_norm_weight, block.attention_norm_bias, config.epsilon
    )
    query = linear(normalized, block.query_weight, block.query_bias)
    key_value = linear(x, block.key_value_weight, block.key_value_bias)
    mixed, attention = causal_attention(
        query, key_value, groups, config.n_heads, _padding_key(block, config), config.dropout, rng
    )
    y = linear(mixed, block.output_weight, block.output_bias)
    y += normalized
    y, feed_forward_cache = feed_forward(y, block, config, rng)
    return y, BlockCache(x, norm, normalized, attention, mixed, feed_forward_cache)


def block_backward(
    dy: FloatArray, block: BlockParameters, cache: BlockCache, gradients: BlockParameters
) -> FloatArray:
    """Gradient of the block's input (T, H); those of its parameters are written to `gradients`."""
    d_sum = feed_forward_backward(dy, block, cache.feed_forward, gradients)
    d_mixed, gradients.output_weight[:], gradients.output_bias[:] = linear_backward(
        d_sum, cache.mixed, block.output_weight
    )
    d_query, d_key_value, d_padding = causal_attention_backward(d_mixed, cache.attention)
    dx, gradients.key_value_weight[:], gradients.key_value_bias[:] = linear_backward(
        d_key_value, cache.x, block.key_value_weight
    )
    if d_padding is not None:
        gradients.key_value_bias[:] += d_padding
    d_normalized, gradients.query_weight[:], gradients.query_bias[:] = linear_backward(
        d_query, cache.normalized, block.query_weight
    )
    d_normalized += d_sum
    d_norm, gradients.attention_norm_weight[:], gradients.attention_norm_bias[:] = layer_norm_backward(
        d_normalized, cache.norm
    )
    dx += d_norm
    return dx


def feed_forward(
    y: FloatArray, block: BlockParameters, config: SASRecConfig, rng: np.random.Generator | None = None
) -> tuple[FloatArray, FeedForwardCache]:
    """``x = LN(y)``; ``x + W2 relu(W1 x)``, dropout after each matrix: y (T, H) to (T, H)."""
    x, norm = layer_norm(y, block.feed_forward_norm_weight, block.feed_forward_norm_bias, config.epsilon)
    inner = linear(x, block.inner_weight, block.inner_bias)
    np.maximum(inner, 0, out=inner)
    inner, inner_mask = _dropout(inner, config.dropout, rng)
    outer = linear(inner, block.outer_weight, block.outer_bias)
    outer, outer_mask = _dropout(outer, config.dropout, rng)
    outer += x
    return outer, FeedForwardCache(norm, x, inner, inner_mask, outer_mask)


def feed_forward_backward(
    dy: FloatArray, block: BlockParameters, cache: FeedForwardCache, gradients: BlockParameters
) -> FloatArray:
    """Gradient of the input of `feed_forward` (T, H); those of its parameters go to `gradients`."""
    d_outer = dy if cache.outer_mask is None else dy * cache.outer_mask
    d_inner, gradients.outer_weight[:], gradients.outer_bias[:] = linear_backward(
        d_outer, cache.inner, block.outer_weight
    )
    if cache.inner_mask is not None:
        d_inner *= cache.inner_mask
    d_inner *= cache.inner > 0
    dx, gradients.inner_weight[:], gradients.inner_bias[:] = linear_backward(
        d_inner, cache.inner_input, block.inner_weight
    )
    dx += dy
    dx, gradients.feed_forward_norm_weight[:], gradients.feed_forward_norm_bias[:] = layer_norm_backward(
        dx, cache.norm
    )
    return dx


def user_representations(parameters: SASRecParameters, batch: PackedSequences) -> FloatArray:
    """Features of the last token of every sequence, without dropout.

    The last block is computed for the last tokens only: one query a sequence.

    Parameters
    ----------
    parameters : SASRecParameters
    batch : PackedSequences
        n sequences.

    Returns
    -------
    float array (n, H)
        In the order of the caller's batch, not of the packed one.
    """
    config = parameters.config
    x = token_inputs(parameters, batch)
    for block in parameters.blocks[:-1]:
        x, _ = block_forward(x, block, batch.groups, config)
    x, _ = block_forward(x, parameters.blocks[-1], batch.groups, config, last=batch.last)
    features, _ = layer_norm(x, parameters.norm_weight, parameters.norm_bias, config.epsilon)
    in_callers_order = np.empty_like(features)
    in_callers_order[batch.order] = features
    return in_callers_order


def sum_rows(rows: npt.NDArray[np.int64], values: FloatArray) -> RowGradient:
    """Add up the values of equal rows.

    Parameters
    ----------
    rows : int64 array (n,)
        Item rows, repeated ones allowed.
    values : float array (n, H)
        A gradient for each.
    """
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(rows) else order
    counts = np.diff(first, append=len(rows))
    total = values[order[first]]
    # All second occurrences are added at once, then all third ones, and so on: few rows occur often,
    # and this is several times faster than adding up row after row (np.add.reduceat).
    occurrence, more = 1, np.flatnonzero(counts > 1)
    while len(more):
        total[more] += values[order[first[more] + occurrence]]
        occurrence += 1
        more = more[counts[more] > occurrence]
    return RowGradient(ordered[first], total)


def _padding_key(block: BlockParameters, config: SASRecConfig) -> PaddingKey | None:
    return PaddingKey(block.key_value_bias, config.max_length) if config.padding_keys else None


def _dropout(
    x: FloatArray, rate: float, rng: np.random.Generator | None
) -> tuple[FloatArray, FloatArray | None]:
    """Apply dropout in place; returns x and the mask, None where there is no dropout."""
    if rng is None or rate == 0:
        return x, None
    mask = dropout_mask(x.shape, rate, rng, x.dtype)
    x *= mask
    return x, mask
