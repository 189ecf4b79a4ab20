"""The two training losses with the negatives drawn for a batch: value, gradients, and tangent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.sasrec import RowGradient
from llmcdsr_tools.optimization.batches import same_domain_negatives, shared_negatives
from llmcdsr_tools.optimization.losses import (
    LossGradients,
    RowArray,
    binary_cross_entropy,
    binary_cross_entropy_tangent,
    sampled_softmax,
    sampled_softmax_tangent,
)
from llmcdsr_tools.optimization.soft_labels import Teacher
from llmcdsr_tools.setting_fields import Loss


class Objective(Protocol):
    """A loss of features (T, H) and the items that follow them."""

    @property
    def negative_rows(self) -> RowArray:
        """Item rows of the negatives, in any order."""

    def loss(self, features: FloatArray, item_embedding: FloatArray, targets: RowArray) -> LossGradients:
        """Loss and gradients."""

    def tangent(
        self,
        features: FloatArray,
        features_dot: FloatArray,
        item_embedding: FloatArray,
        item_dot: RowGradient,
        targets: RowArray,
    ) -> FloatArray:
        """Speed of the gradient of the features (T, H), when they and item rows move."""


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """`losses.binary_cross_entropy` with one negative for every target."""

    negatives: RowArray  # (T,)

    @property
    def negative_rows(self) -> RowArray:
        """See `Objective.negative_rows`."""
        return self.negatives

    def loss(self, features: FloatArray, item_embedding: FloatArray, targets: RowArray) -> LossGradients:
        """See `Objective.loss`."""
        return binary_cross_entropy(features, item_embedding, targets, self.negatives)

    def tangent(
        self,
        features: FloatArray,
        features_dot: FloatArray,
        item_embedding: FloatArray,
        item_dot: RowGradient,
        targets: RowArray,
    ) -> FloatArray:
        """See `Objective.tangent`."""
        return binary_cross_entropy_tangent(
            features, features_dot, item_embedding, item_dot, targets, self.negatives
        )


@dataclass(frozen=True)
class SampledSoftmax:
    """`losses.sampled_softmax` with the negatives that all targets share; no tangent with a teacher."""

    negatives: Sequence[RowArray]
    domain_starts: Sequence[int]
    threads: Executor | None = None
    teacher: Teacher | None = None

    @property
    def negative_rows(self) -> RowArray:
        """See `Objective.negative_rows`."""
        return np.concatenate(self.negatives)

    def loss(self, features: FloatArray, item_embedding: FloatArray, targets: RowArray) -> LossGradients:
        """See `Objective.loss`."""
        return sampled_softmax(
            features,
            item_embedding,
            targets,
            self.negatives,
            self.domain_starts,
            self.threads,
            self.teacher,
        )

    def tangent(
        self,
        features: FloatArray,
        features_dot: FloatArray,
        item_embedding: FloatArray,
        item_dot: RowGradient,
        targets: RowArray,
    ) -> FloatArray:
        """See `Objective.tangent`."""
        return sampled_softmax_tangent(
            features,
            features_dot,
            item_embedding,
            item_dot,
            targets,
            self.negatives,
            self.domain_starts,
        )


@dataclass(frozen=True)
class ObjectiveSource:
    """Draws the objective of a batch once its targets are known."""

    kind: Loss
    n_negatives: int
    catalogue: Catalogue
    rng: np.random.Generator
    threads: Executor | None = None
    teacher: Teacher | None = None  # of the batch's tokens

    def __call__(self, targets: RowArray) -> Objective:
        """Objective for some targets, with negatives of its own."""
        if self.kind == "bce":
            return BinaryCrossEntropy(same_domain_negatives(targets, self.catalogue, self.rng))
        negatives = shared_negatives(self.catalogue, self.n_negatives, self.rng)
        starts = [domain.start for domain in self.catalogue.domains]
        return SampledSoftmax(negatives, starts, self.threads, self.teacher)

    def like(self, other: Objective) -> Callable[[RowArray], Objective]:
        """Draw so that a second batch and one with objective `other` are one: shared negatives stay."""
        return (lambda _: other) if isinstance(other, SampledSoftmax) else self
