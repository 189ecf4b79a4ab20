"""Soft labels of the sampled softmax: distillation of a teacher into a student (Hinton et al., 2015).

A token's label is ``(1 - SOFT_SHARE) onehot + SOFT_SHARE q``, with q the softmax (temperature 1) of the
teacher's scores over the candidates of the student's own softmax: the positive and the negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.model.layers import FloatArray

SOFT_SHARE = 0.75  # chosen on validation, see docs/results.md

RowArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Teacher:
    """Features of a batch's tokens and item vectors, whose dot products are the teacher's scores.

    Parameters
    ----------
    features : float array (T, K)
    item_embedding : float array (items + 1, K)
    """

    features: FloatArray
    item_embedding: FloatArray

    def candidates(self, tokens: RowArray, targets: RowArray, e_negative: FloatArray) -> TeacherCandidates:
        """The same for some tokens (t,) with targets (t,), and the vectors of their negatives (m, K)."""
        return TeacherCandidates(self.features[tokens], self.item_embedding[targets], e_negative)


@dataclass(frozen=True)
class TeacherCandidates:
    """Features (t, K) of tokens, and vectors of their positives (t, K) and of the negatives (m, K)."""

    f: FloatArray
    e_positive: FloatArray
    e_negative: FloatArray

    def labels(self, block: slice, own: RowArray) -> tuple[FloatArray, FloatArray]:
        """Labels of the negatives (b, m) and of the positives (b,) of a block of tokens.

        `own` (b,) is the place of the positive among the negatives, where its label is 0; -1 for none.
        """
        f = self.f[block]
        positive = np.einsum("tk,tk->t", f, self.e_positive[block])
        q: FloatArray = f @ self.e_negative.T
        hit = np.flatnonzero(own >= 0)
        q[hit, own[hit]] = -np.inf
        top = np.maximum(q.max(axis=1), positive)
        q -= top[:, None]
        np.exp(q, out=q)
        of_positive = np.exp(positive - top)
        total = q.sum(axis=1) + of_positive
        share = q.dtype.type(SOFT_SHARE)
        q *= (share / total)[:, None]
        return q, 1 - share + share * of_positive / total
