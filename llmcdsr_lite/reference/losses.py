"""Training losses: value and gradients, each beside its formula.

Every loss takes the features of T tokens and the item rows that follow them, and returns the loss, the
gradient of the features and the gradients of item rows as (rows, values) pairs in which rows may repeat.
Below each is its tangent: the speed of the gradient of the features, when features and item embeddings
move (see `tangents`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.reference.layers import FloatArray, softmax
from llmcdsr_lite.reference.sasrec import RowGradient

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


def binary_cross_entropy_tangent(
    features: FloatArray,
    features_dot: FloatArray,
    item_embedding: FloatArray,
    item_dot: RowGradient,
    positives: RowArray,
    negatives: RowArray,
) -> FloatArray:
    """Speed of the gradient of the features (T, H) of `binary_cross_entropy`.

    Parameters
    ----------
    features, features_dot : float arrays (T, H)
        Features and their speed.
    item_embedding : float array (items + 1, H)
    item_dot : RowGradient
        Speed of the item rows that move.
    positives, negatives : int64 arrays (T,)
    """
    n_tokens = len(features)
    d_features_dot = np.zeros_like(features)
    for rows, sign in ((positives, -1), (negatives, 1)):  # the term is softplus(sign * f.e)
        e, e_dot = item_embedding[rows], item_dot.take(rows)  # (T, H)
        score = sign * np.einsum("th,th->t", features, e)
        score_dot = np.einsum("th,th->t", features_dot, e)
        score_dot += np.einsum("th,th->t", features, e_dot)
        slope = _sigmoid(score)
        d_score = sign * slope / n_tokens
        d_score_dot = slope * _sigmoid(-score) * score_dot / n_tokens
        d_features_dot += d_score_dot[:, None] * e
        d_features_dot += d_score[:, None] * e_dot
    return d_features_dot


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
    for negatives, tokens in _by_domain(positives, shared_negatives, second_domain_start):
        f, targets = features[tokens], positives[tokens]  # (t, H), (t,)
        e_positive, e_negative = item_embedding[targets], item_embedding[negatives]  # (t, H), (m, H)
        logits = _logits(f, targets, e_positive, negatives, e_negative)
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


def sampled_softmax_tangent(
    features: FloatArray,
    features_dot: FloatArray,
    item_embedding: FloatArray,
    item_dot: RowGradient,
    positives: RowArray,
    shared_negatives: tuple[RowArray, RowArray],
    second_domain_start: int,
) -> FloatArray:
    """Speed of the gradient of the features (T, H) of `sampled_softmax`.

    Of probabilities p of logits l it is ``p' = p * (l' - sum(p * l'))``.

    Parameters
    ----------
    features, features_dot : float arrays (T, H)
        Features and their speed.
    item_embedding : float array (items + 1, H)
    item_dot : RowGradient
        Speed of the item rows that move.
    positives, shared_negatives, second_domain_start
        As for `sampled_softmax`.
    """
    n_tokens = len(features)
    d_features_dot = np.empty_like(features)
    for negatives, tokens in _by_domain(positives, shared_negatives, second_domain_start):
        f, f_dot, targets = features[tokens], features_dot[tokens], positives[tokens]
        e_positive, e_negative = item_embedding[targets], item_embedding[negatives]
        e_positive_dot, e_negative_dot = item_dot.take(targets), item_dot.take(negatives)
        p = softmax(_logits(f, targets, e_positive, negatives, e_negative))  # (t, 1 + m)
        p_dot = np.empty_like(p)  # so far l'
        p_dot[:, 0] = np.einsum("th,th->t", f_dot, e_positive) + np.einsum("th,th->t", f, e_positive_dot)
        p_dot[:, 1:] = f_dot @ e_negative.T
        p_dot[:, 1:] += f @ e_negative_dot.T
        p_dot -= np.einsum("tm,tm->t", p, p_dot)[:, None]
        p_dot *= p
        df_dot = p_dot[:, 1:] @ e_negative
        df_dot += p[:, 1:] @ e_negative_dot
        df_dot += p_dot[:, :1] * e_positive
        df_dot += (p[:, :1] - 1) * e_positive_dot
        d_features_dot[tokens] = df_dot / n_tokens
    return d_features_dot


def _by_domain(
    positives: RowArray, shared_negatives: tuple[RowArray, RowArray], second_domain_start: int
) -> Iterator[tuple[RowArray, RowArray]]:
    """Negatives of each domain, and the tokens whose next item is of it; no domain without tokens."""
    in_second = positives >= second_domain_start
    for negatives, chosen in zip(shared_negatives, (~in_second, in_second), strict=True):
        tokens = np.flatnonzero(chosen)
        if len(tokens):
            yield negatives, tokens


def _logits(
    f: FloatArray, targets: RowArray, e_positive: FloatArray, negatives: RowArray, e_negative: FloatArray
) -> FloatArray:
    """Scores (t, 1 + m) of the positive and of the negatives, ``-inf`` where those are the positive."""
    logits = np.empty((len(f), 1 + len(negatives)), dtype=f.dtype)
    logits[:, 0] = np.einsum("th,th->t", f, e_positive)
    np.matmul(f, e_negative.T, out=logits[:, 1:])
    logits[:, 1:][targets[:, None] == negatives] = -np.inf
    return logits


def _sigmoid(x: FloatArray) -> Any:
    return np.exp(-np.logaddexp(0, -x))
