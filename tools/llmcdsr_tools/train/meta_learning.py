"""Training with pseudo items: the augmented sequences of a step, and the step of the poolers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.embed_names import EmbeddedNames
from llmcdsr_tools.optimization.batches import TrainingSequences
from llmcdsr_tools.optimization.losses import RowArray
from llmcdsr_tools.optimization.optimizers import Adam, AdamSettings
from llmcdsr_tools.pretrain.pretraining import Pretrained
from llmcdsr_tools.train.augmentation import AugmentedBatch, insert_pseudo_items
from llmcdsr_tools.train.bilevel import meta_gradient
from llmcdsr_tools.train.gradients import BatchGradient, combine, differentiate
from llmcdsr_tools.train.inner_steps import virtual_step
from llmcdsr_tools.train.objectives import Objective
from llmcdsr_tools.train.pseudo_items import Recalled, RecallNetwork
from llmcdsr_tools.train.recipes import TrainSettings

Draw = Callable[[RowArray], Objective]


@dataclass(frozen=True)
class Optimizers:
    """The recommender's optimisers, of the dense parameters and of the item embedding."""

    dense: Adam
    items: Adam


class MetaLearning:
    """The recall network and its poolers, in training.

    Parameters
    ----------
    data : Dataset
    embedded : EmbeddedNames
        Names generated for train users.
    pretrained : Pretrained
    settings : TrainSettings

    Attributes
    ----------
    poolers : float32 array (domains, H)
        Of the names of each domain.
    adam : Adam
        Their optimiser.

    Raises
    ------
    TrainingError
        If names, pre-training and settings do not fit each other or the data set.
    """

    def __init__(
        self, data: Dataset, embedded: EmbeddedNames, pretrained: Pretrained, settings: TrainSettings
    ) -> None:
        self.settings = settings
        self.optimizer = settings.chosen_inner_optimizer(has_names=True)
        self.histories = data.train
        self.network = RecallNetwork.build(data, embedded, pretrained)
        self.overlapped = TrainingSequences.overlapped(data.train, data.catalogue, settings.max_length)
        self.poolers: npt.NDArray[np.float32] = np.zeros(
            (len(data.catalogue.domains), self.network.hidden), dtype=np.float32
        )
        self.adam = Adam(self.poolers, AdamSettings(learning_rate=settings.pooler_learning_rate))
        smallest = min(d.n_items for d in data.catalogue.domains)
        if settings.recall_k > smallest:
            raise TrainingError(f"recall_k is {settings.recall_k}, but a domain has {smallest} items")
        if self.optimizer == "none":
            return
        if self.network.hidden != settings.hidden:  # a pseudo item hands its gradient to a pooled vector
            raise TrainingError(
                f"pre-training was done with hidden size {self.network.hidden}, meta-learning needs that of "
                f"the recommender, {settings.hidden}"
            )
        if not len(self.overlapped):
            raise TrainingError("meta-learning needs overlapped users, and the data set has none")

    def step(
        self,
        parameters: SASRecParameters,
        base: BatchGradient,
        optimizers: Optimizers,
        draw: Draw,
        draw_meta: Draw,
        rng: np.random.Generator,
    ) -> tuple[BatchGradient, float | None]:
        """Train the poolers, unless they stay at zero, and add the augmented sequences to a batch.

        The gradient of the batch itself depends on no pooler: the virtual step and the real one share it.

        Parameters
        ----------
        parameters : SASRecParameters
        base : BatchGradient
            Of the batch without augmented sequences.
        optimizers : Optimizers
        draw, draw_meta : callable
            Objective for given targets, of augmented sequences and of overlapped users.
        rng : Generator

        Returns
        -------
        gradient : BatchGradient
            Of the batch and the augmented sequences, with the poolers after their step.
        meta_loss : float or None
        """
        n = min(self.settings.n_augmented, len(self.network))
        entries = rng.choice(len(self.network), n, replace=False, shuffle=False)
        meta_loss = None
        if self.optimizer != "none":
            meta_loss = self._train_poolers(parameters, base, entries, optimizers, draw, draw_meta, rng)
        augmented, _ = self._augment(entries, rng)
        of_augmented, _ = differentiate(parameters, augmented.batch, draw, rng)
        return combine(base, of_augmented), meta_loss

    def _train_poolers(
        self,
        parameters: SASRecParameters,
        base: BatchGradient,
        entries: RowArray,
        optimizers: Optimizers,
        draw: Draw,
        draw_meta: Draw,
        rng: np.random.Generator,
    ) -> float:
        """One bilevel step; the meta loss."""
        augmented, recalled = self._augment(entries, rng)
        of_augmented, run = differentiate(parameters, augmented.batch, draw, rng)
        gradient = combine(base, of_augmented)
        step = virtual_step(
            self.optimizer,
            gradient,
            optimizers.dense,
            optimizers.items,
            self.settings.inner_learning_rate,
        )
        n_meta = min(self.settings.n_overlapped, len(self.overlapped))
        overlapped = self.overlapped.batch(rng.choice(len(self.overlapped), n_meta, replace=False))

        def meta(virtual: SASRecParameters) -> BatchGradient:
            return differentiate(virtual, overlapped, draw_meta, rng)[0]

        loss, d_inputs = meta_gradient(parameters, gradient, step, run, meta)
        d_pooled = augmented.straight_through(d_inputs, len(entries))
        self.adam.step(self.network.backward(d_pooled, recalled))
        return loss

    def _augment(self, entries: RowArray, rng: np.random.Generator) -> tuple[AugmentedBatch, Recalled]:
        """Augmented sequences of some entries, with the poolers as they are."""
        recalled = self.network.recall(entries, self.poolers, self.settings.recall_k)
        users = self.network.users[entries]
        return insert_pseudo_items(
            self.histories, users, recalled.rows, self.settings.max_length, rng
        ), recalled
