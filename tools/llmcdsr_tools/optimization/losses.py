"""Training losses: value and gradients, each beside its formula.

Every loss takes the features of T tokens and the item rows that follow them, and returns the loss, the
gradient of the features and the gradients of item rows as (rows, values) pairs in which rows may repeat.
Below each is its tangent: the speed of the gradient of the features, when features and item embeddings
move (see `train.tangents`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.model.layers import FloatArray, softmax
from llmcdsr_lite.model.sasrec import RowGradient
from llmcdsr_tools.optimization.soft_labels import Teacher, TeacherCandidates

RowArray = npt.NDArray[np.int64]

_BLOCK = 128  # tokens whose scores are in memory at a time: 4 MB with 8,192 negatives
_LANES = 2  # parts of a domain's tokens that threads can share; fixed, so that sums have one order


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
    shared_negatives: Sequence[RowArray],
    domain_starts: Sequence[int],
    threads: Executor | None = None,
    teacher: Teacher | None = None,
) -> LossGradients:
    """Softmax cross-entropy of the next item against negatives of its domain that the batch shares.

    ``mean(log(exp(f.e(pos)) + sum_j exp(f.e(neg_j))) - f.e(pos))``; a negative that is the positive
    itself is left out of the sum. Tokens are taken in blocks, so that memory does not grow with their
    number times that of the negatives.

    Parameters
    ----------
    features : float array (T, H)
    item_embedding : float array (items + 1, H)
    positives : int64 array (T,)
        The next item of each token.
    shared_negatives : sequence of int64 arrays (m,)
        Distinct negatives of each domain, drawn once for the batch.
    domain_starts : sequence of int
        First row of each domain.
    threads : Executor, optional
        Shares the work; the result does not depend on it.
    teacher : Teacher, optional
        Softens the labels, see `soft_labels`: with labels y the loss is
        ``mean(log(exp(f.e(pos)) + sum_j exp(f.e(neg_j))) - sum_c y(c) f.e(c))`` over the candidates c.
    """
    loss = 0.0
    d_features = np.empty_like(features)
    rows: list[RowArray] = []
    d_rows: list[FloatArray] = []
    for negatives, tokens in _by_domain(positives, shared_negatives, domain_starts):
        f, targets = features[tokens], positives[tokens]  # (t, H), (t,)
        e_positive, e_negative = item_embedding[targets], item_embedding[negatives]  # (t, H), (m, H)
        own = _own_columns(targets, negatives)
        middle = -(-len(tokens) // _LANES)
        lanes = [slice(n * middle, (n + 1) * middle) for n in range(_LANES)]

        parts = ([array[lane] for lane in lanes] for array in (f, e_positive, own))
        taught: list[TeacherCandidates | None] = [None] * _LANES
        if teacher is not None:
            t_negative = teacher.item_embedding[negatives]  # (m, K)
            taught = [teacher.candidates(tokens[lane], targets[lane], t_negative) for lane in lanes]
        share = map if threads is None else threads.map
        found = list(share(_softmax_lane, *parts, repeat(e_negative, _LANES), taught))
        loss += sum(lane.loss for lane in found)
        df = np.concatenate([lane.d_features for lane in found])
        df /= features.dtype.type(len(features))
        d_features[tokens] = df
        d_positive = np.concatenate([lane.d_positive for lane in found])[:, None] * f
        d_negative = found[0].d_negative
        for lane in found[1:]:
            d_negative += lane.d_negative
        for gradient in (d_positive, d_negative):
            gradient /= features.dtype.type(len(features))
        rows += [targets, negatives]
        d_rows += [d_positive, d_negative]
    return LossGradients(loss / len(features), d_features, np.concatenate(rows), np.concatenate(d_rows))


@dataclass(frozen=True)
class _SoftmaxLane:
    """Summed loss of some tokens (t,) and its gradients."""

    loss: float
    d_features: FloatArray  # (t, H)
    d_positive: FloatArray  # (t,), of the positive's score
    d_negative: FloatArray  # (m, H)


def _softmax_lane(
    f: FloatArray,
    e_positive: FloatArray,
    own: RowArray,
    e_negative: FloatArray,
    taught: TeacherCandidates | None,
) -> _SoftmaxLane:
    """Softmax of tokens f (t, H) over their positives (t, H) and the negatives (m, H), block by block."""
    positive = np.einsum("th,th->t", f, e_positive)
    d_features, d_negative = np.empty_like(f), np.zeros_like(e_negative)
    d_positive = np.empty_like(positive)
    product = np.empty_like(e_negative)
    scores = np.empty((min(_BLOCK, len(f)), len(e_negative)), dtype=f.dtype)
    ones = np.ones((len(e_negative), 1), dtype=f.dtype)
    loss = 0.0
    for start in range(0, len(f), _BLOCK):
        block = slice(start, start + _BLOCK)
        x, p = f[block], scores[: len(f[block])]
        np.matmul(x, e_negative.T, out=p)
        label: FloatArray = np.ones_like(positive[block])
        if taught is not None:
            labels, label = taught.labels(block, own[block])  # (block, m), (block,)
            loss -= float(np.einsum("tm,tm->", labels, p))
        hit = np.flatnonzero(own[block] >= 0)
        p[hit, own[block][hit]] = -np.inf
        top = np.maximum(p.max(axis=1), positive[block])[:, None]
        p -= top
        np.exp(p, out=p)
        of_positive = np.exp(positive[block, None] - top)
        total = p @ ones + of_positive  # (block, 1): a product sums up several times faster than sum
        loss += float(np.sum(np.log(total) + top)) - float(np.sum(label * positive[block]))
        share = of_positive / total - label[:, None]
        if taught is not None:
            p /= total
            p -= labels
            total = np.ones_like(total)
        d_positive[block] = share[:, 0]
        d_features[block] = (p @ e_negative) / total + share * e_positive[block]
        np.matmul(p.T, x / total, out=product)
        d_negative += product
    return _SoftmaxLane(loss, d_features, d_positive, d_negative)


def _own_columns(targets: RowArray, negatives: RowArray) -> RowArray:
    """Place of each target (t,) among the negatives, -1 where it is none of them."""
    order = np.argsort(negatives)
    ordered = negatives[order]
    places = np.minimum(np.searchsorted(ordered, targets), max(0, len(ordered) - 1))
    if not len(ordered):
        return np.full(len(targets), -1)
    return np.where(ordered[places] == targets, order[places], -1)


def sampled_softmax_tangent(
    features: FloatArray,
    features_dot: FloatArray,
    item_embedding: FloatArray,
    item_dot: RowGradient,
    positives: RowArray,
    shared_negatives: Sequence[RowArray],
    domain_starts: Sequence[int],
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
    positives, shared_negatives, domain_starts
        As for `sampled_softmax`.
    """
    n_tokens = len(features)
    d_features_dot = np.empty_like(features)
    for negatives, tokens in _by_domain(positives, shared_negatives, domain_starts):
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
    positives: RowArray, shared_negatives: Sequence[RowArray], domain_starts: Sequence[int]
) -> Iterator[tuple[RowArray, RowArray]]:
    """Negatives of each domain, and the tokens whose next item is of it; no domain without tokens."""
    domains = np.searchsorted(domain_starts, positives, side="right") - 1
    for domain, negatives in enumerate(shared_negatives):
        tokens = np.flatnonzero(domains == domain)
        if len(tokens):
            yield negatives, tokens


def _logits(
    f: FloatArray, targets: RowArray, e_positive: FloatArray, negatives: RowArray, e_negative: FloatArray
) -> FloatArray:
    """Scores (t, 1 + m) of the positive and of the negatives, ``-inf`` where those are the positive."""
    logits = np.empty((len(f), 1 + len(negatives)), dtype=f.dtype)
    logits[:, 0] = np.einsum("th,th->t", f, e_positive)
    np.matmul(f, e_negative.T, out=logits[:, 1:])
    own = _own_columns(targets, negatives)
    hit = np.flatnonzero(own >= 0)
    logits[hit, 1 + own[hit]] = -np.inf
    return logits


def _sigmoid(x: FloatArray) -> Any:
    return np.exp(-np.logaddexp(0, -x))
