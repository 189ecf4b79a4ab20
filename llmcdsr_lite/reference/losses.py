"""Training losses: value and gradients, each beside its formula.

Every loss takes the features of T tokens and the item rows that follow them, and returns the loss, the
gradient of the features and the gradients of item rows as (rows, values) pairs in which rows may repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.reference.layers import FloatArray

RowArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LossGradients:
    """A loss and its gradients.

    Parameters
    ----------
    loss : float
    d_features : float array (T, H)
    rows : int64 array (n,)
        Item rows that the loss touches; they may repeat.
    d_rows : float array (n, H)
        Gradient of the embedding of each.
    """

    loss: float
    d_features: FloatArray
    rows: RowArray
    d_rows: FloatArray


def binary_cross_entropy(
    features: FloatArray, item_embedding: FloatArray, positives: RowArray, negatives: RowArray
) -> LossGradients:
    """Official loss: ``mean(softplus(-f.e(pos))) + mean(softplus(f.e(neg)))``.

    Parameters
    ----------
    features : float array (T, H)
    item_embedding : float array (items + 1, H)
    positives, negatives : int64 arrays (T,)
        The next item of each token, and one drawn at random.
    """
    n_tokens = len(features)
    e_positive = item_embedding[positives]  # (T, H)
    e_negative = item_embedding[negatives]
    positive = np.einsum("th,th->t", features, e_positive)
    negative = np.einsum("th,th->t", features, e_negative)
    loss = float(np.logaddexp(0, -positive).mean() + np.logaddexp(0, negative).mean())
    d_positive = (-_sigmoid(-positive) / n_tokens)[:, None]
    d_negative = (_sigmoid(negative) / n_tokens)[:, None]
    d_features = d_positive * e_positive
    d_features += d_negative * e_negative
    return LossGradients(
        loss,
        d_features,
        np.concatenate([positives, negatives]),
        np.concatenate([d_positive * features, d_negative * features]),
    )


def sampled_softmax(
    features: FloatArray,
    item_embedding: FloatArray,
    positives: RowArray,
    shared_negatives: tuple[RowArray, RowArray],
    second_domain_start: int,
) -> LossGradients:
    """Softmax cross-entropy of the next item against negatives of its domain that the batch shares.

    ``mean(log(exp(f.e(pos)) + sum_j exp(f.e(neg_j))) - f.e(pos))``; a negative that is the positive
    itself is left out of the sum.

    Parameters
    ----------
    features : float array (T, H)
    item_embedding : float array (items + 1, H)
    positives : int64 array (T,)
        The next item of each token.
    shared_negatives : two int64 arrays (m,)
        Negatives of domain A and of domain B, drawn once for the batch.
    second_domain_start : int
        First row of domain B.
    """
    loss = 0.0
    d_features = np.empty_like(features)
    rows: list[RowArray] = []
    d_rows: list[FloatArray] = []
    in_second = positives >= second_domain_start
    for negatives, tokens in zip(
        shared_negatives, (np.flatnonzero(~in_second), np.flatnonzero(in_second)), strict=True
    ):
        if not len(tokens):
            continue
        f = features[tokens]  # (t, H)
        targets = positives[tokens]
        e_positive = item_embedding[targets]  # (t, H)
        e_negative = item_embedding[negatives]  # (m, H)
        logits = np.empty((len(tokens), 1 + len(negatives)), dtype=features.dtype)
        logits[:, 0] = np.einsum("th,th->t", f, e_positive)
        np.matmul(f, e_negative.T, out=logits[:, 1:])
        logits[:, 1:][targets[:, None] == negatives] = -np.inf
        top = logits.max(axis=1, keepdims=True)
        positive = logits[:, 0] - top[:, 0]
        logits -= top
        np.exp(logits, out=logits)
        total = logits.sum(axis=1, keepdims=True)
        loss += float(np.sum(np.log(total[:, 0]) - positive))
        logits /= total * len(features)  # now the gradient of the logits, but for the positive's -1/T
        d_positive = logits[:, :1] - features.dtype.type(1 / len(features))
        d_negative = logits[:, 1:]
        df = d_negative @ e_negative
        df += d_positive * e_positive
        d_features[tokens] = df
        rows += [targets, negatives]
        d_rows += [d_positive * f, d_negative.T @ f]
    return LossGradients(loss / len(features), d_features, np.concatenate(rows), np.concatenate(d_rows))


def _sigmoid(x: FloatArray) -> Any:
    return np.exp(-np.logaddexp(0, -x))
