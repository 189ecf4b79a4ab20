"""Contrastive loss between the two views of items, text and collaborative, forward and backward.

NT-Xent (Chen et al., ICML 2020) as LLMCDSR uses it: over dot products, not cosines. Of n items there are
2n vectors, a text view and a collaborative view of each. Every vector is an anchor once; its positive is
the other view of the same item, its negatives are the remaining 2n - 2 vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmcdsr_lite.model.layers import FloatArray


@dataclass(frozen=True)
class ContrastiveGradients:
    """A contrastive loss and its gradients.

    Parameters
    ----------
    loss : float
    d_text, d_collaborative : float arrays (n, H)
        Gradient of each view.
    """

    loss: float
    d_text: FloatArray
    d_collaborative: FloatArray


def nt_xent(text: FloatArray, collaborative: FloatArray, temperature: float = 1.0) -> ContrastiveGradients:
    """Mean over all anchors: ``log(sum_{j != i} exp(z_i.z_j / temperature)) - z_i.z_pair(i) / temperature``.

    Parameters
    ----------
    text, collaborative : float arrays (n, H)
        Row i of both is the same item; n is at least 1. One item alone has no negatives and no loss.
    temperature : float
        Above 0.

    Raises
    ------
    ValueError
        If there is no item, or the shapes differ.
    """
    n_items = len(text)
    if text.shape != collaborative.shape or not n_items:
        raise ValueError(f"views of shapes {text.shape} and {collaborative.shape}, expected two (n, H)")
    views = np.concatenate([text, collaborative])  # (2n, H)
    n_views = len(views)
    anchors = np.arange(n_views)
    pairs = (anchors + n_items) % n_views
    logits = views @ views.T  # (2n, 2n)
    logits *= logits.dtype.type(1 / temperature)
    logits[anchors, anchors] = -np.inf  # a vector is no negative of itself
    logits -= logits.max(axis=1, keepdims=True)
    positive = logits[anchors, pairs]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(total[:, 0]) - positive))
    logits /= total * n_views  # now the gradient of the logits, but for the positive's -1/2n
    logits[anchors, pairs] -= logits.dtype.type(1 / n_views)
    # vector i is in row i as the anchor, and in column i as what other anchors are compared with
    d_views = logits @ views
    d_views += logits.T @ views
    d_views *= d_views.dtype.type(1 / temperature)
    return ContrastiveGradients(loss, d_views[:n_items], d_views[n_items:])
