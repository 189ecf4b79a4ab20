"""Layers of the recall network: names generated for a user, projected and pooled, forward and backward.

``z = G P^T``; ``weights = softmax(z . w)`` over the user's names; ``pooled = sum(weights * z)``; the
pseudo items are the k items with the highest cosine to `pooled` (`llmcdsr_lite.recall`). The
names of all users lie one after the other in one flat array, as `offsets` has it, so that no arithmetic is
spent on padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.model.layers import FloatArray

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PoolCache:
    """What `pool_backward` needs."""

    names: FloatArray  # (n, H)
    offsets: IntArray  # (users + 1,)
    weights: FloatArray  # (n,), they add up to 1 for every user


def project(text: FloatArray, projection: FloatArray) -> FloatArray:
    """Text (n, E) to collaborative space (n, H): ``text @ projection.T``, projection (H, E)."""
    projected: FloatArray = text @ projection.T
    return projected


def pool(names: FloatArray, offsets: IntArray, pooler: FloatArray) -> tuple[FloatArray, PoolCache]:
    """Attention pooling of every user's names.

    Parameters
    ----------
    names : float array (n, H)
        Projected names of all users, one user after the other.
    offsets : int64 array (users + 1,)
        The names of user u are ``names[offsets[u] : offsets[u + 1]]``, at least one.
    pooler : float array (H,)
        The weights w of the attention; zeros make it the mean.

    Returns
    -------
    pooled : float array (users, H)
    cache : PoolCache

    Raises
    ------
    ValueError
        If a user has no names, or the offsets do not end where the names do.
    """
    counts = np.diff(offsets)
    if (counts < 1).any() or offsets[0] != 0 or offsets[-1] != len(names):
        raise ValueError(f"offsets must rise from 0 to {len(names)}, with a name for every user")
    if not len(counts):
        return names[:0], PoolCache(names, offsets, names[:, 0])
    starts = offsets[:-1]
    weights = names @ pooler  # (n,)
    weights -= np.repeat(np.maximum.reduceat(weights, starts), counts)
    np.exp(weights, out=weights)
    weights /= np.repeat(np.add.reduceat(weights, starts), counts)
    pooled = np.add.reduceat(weights[:, None] * names, starts)  # (users, H)
    return pooled, PoolCache(names, offsets, weights)


def pool_backward(d_pooled: FloatArray, cache: PoolCache) -> FloatArray:
    """Gradient of the pooler (H,) from that of `pooled` (users, H).

    Names and projection get none: only the pooler is trained by it.
    """
    if not len(d_pooled):
        return np.zeros(cache.names.shape[1], dtype=cache.names.dtype)
    counts, starts = np.diff(cache.offsets), cache.offsets[:-1]
    d_logits = np.einsum("nh,nh->n", cache.names, np.repeat(d_pooled, counts, axis=0))  # of the weights
    d_logits -= np.repeat(np.add.reduceat(d_logits * cache.weights, starts), counts)
    d_logits *= cache.weights
    d_pooler: FloatArray = d_logits @ cache.names
    return d_pooler


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Vectors (n, H) divided by their length; rows of zeros stay."""
    lengths = np.sqrt(np.einsum("nh,nh->n", vectors, vectors))[:, None]
    unit: FloatArray = vectors / np.where(lengths > 0, lengths, 1)
    return unit
