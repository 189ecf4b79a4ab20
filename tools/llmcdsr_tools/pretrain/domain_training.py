"""One domain's pre-training: SASRec on its sequences alone, and a projection of its titles, together.

Item rows are counted within the domain (`domain_data`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.model import sasrec
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_tools.evaluation.official import N_NEGATIVES, draw_negatives, ranks
from llmcdsr_tools.optimization import losses
from llmcdsr_tools.optimization.batches import TrainingBatch, epoch_batches
from llmcdsr_tools.optimization.optimizers import Adam, AdamSettings, RowAdam
from llmcdsr_tools.pretrain.contrastive import nt_xent
from llmcdsr_tools.pretrain.domain_data import DomainData
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.text_initialization import initialize_from_text

N_ALIGNED = 500  # items whose titles are ranked after every epoch, where none are held out


@dataclass(frozen=True)
class DomainEpoch:
    """How one epoch of one domain went.

    Parameters
    ----------
    epoch : int
        Counted from 1.
    loss, contrastive : float
        Recommendation loss and unweighted contrastive loss, means over the epoch's steps.
    seconds : float
        Training time, without validation.
    hr10, ndcg10 : float
        Next item of the domain from the domain's own history, sampled protocol, validation users.
    title_rank : float
        Median rank, from 1, of an item's vector in the domain by cosine with its projected title; of
        the items held out, or of a sample if there are none.
    title_recall10 : float
        Share of those items within the first ten.
    """

    epoch: int
    loss: float
    contrastive: float
    seconds: float
    hr10: float
    ndcg10: float
    title_rank: float
    title_recall10: float


class DomainTraining:
    """The state of one domain's pre-training in memory.

    Parameters
    ----------
    data : DomainData
    settings : PretrainSettings
    index : int
        Of the domain; each draws other random numbers.
    """

    def __init__(self, data: DomainData, settings: PretrainSettings, index: int) -> None:
        self.data = data
        self.settings = settings
        self.index = index
        n_items, dimension = data.text.shape
        config = settings.model_config(n_items)
        rng = np.random.default_rng([settings.seed, index, 0])
        self.parameters = SASRecParameters.initial(config, rng)
        if settings.text_initialization:
            initialize_from_text(self.parameters.item_embedding, data.text, settings.text_deviation)
        deviation = (2 / (config.hidden + dimension)) ** 0.5  # Xavier, as all other matrices
        self.projection: FloatArray = rng.normal(0, deviation, (config.hidden, dimension)).astype(np.float32)
        titled = data.text.any(axis=1)
        held_out = rng.permutation(np.flatnonzero(titled))[: round(settings.held_out * titled.sum())]
        self.contrasted = np.concatenate([[False], titled])  # (items + 1,)
        self.contrasted[held_out + 1] = False
        aligned = held_out if len(held_out) else rng.permutation(np.flatnonzero(titled))[:N_ALIGNED]
        self.aligned = np.sort(aligned) + 1  # rows whose titles are ranked
        adam = AdamSettings(learning_rate=settings.learning_rate)
        self.dense_adam = Adam(self.parameters.dense, adam)
        self.item_adam = RowAdam(self.parameters.item_embedding, adam)
        self.projection_adam = Adam(self.projection, adam)
        self.gradients = self.parameters.zeros_like()
        self.best_items = self.parameters.item_embedding.copy()
        self.best_projection = self.projection.copy()
        self.epochs: list[DomainEpoch] = []
        self.best_epoch = 0

    @property
    def finished(self) -> bool:
        """Whether there is a reason to stop."""
        done = len(self.epochs)
        return done >= self.settings.n_epochs or done - self.best_epoch >= self.settings.patience

    def run_epoch(self) -> DomainEpoch:
        """One pass over the domain's sequences, validation, and the best epoch's arrays set aside."""
        epoch = len(self.epochs) + 1
        rng = np.random.default_rng([self.settings.seed, self.index, epoch])
        start = time.perf_counter()
        steps: list[tuple[float, float]] = []
        for batch in epoch_batches(self.data.sequences, self.settings.batch_size, rng):
            loss, contrastive = self.step(batch, rng)
            if not math.isfinite(loss + contrastive):
                raise TrainingError(
                    f"domain {self.data.domain.name!r}, epoch {epoch}, step {len(steps) + 1}: the loss is "
                    f"{loss}, the contrastive loss {contrastive}. A lower learning rate may help."
                )
            steps.append((loss, contrastive))
        seconds = time.perf_counter() - start
        if not self._is_finite():
            raise TrainingError(
                f"domain {self.data.domain.name!r}, epoch {epoch}: the model is not finite after its last "
                "step. A lower learning rate may help."
            )
        loss, contrastive = (float(x) for x in np.mean(steps, axis=0))
        metrics = DomainEpoch(epoch, loss, contrastive, seconds, *self.validate(), *self.align())
        if not self.best_epoch or metrics.hr10 > self.epochs[self.best_epoch - 1].hr10:
            self.best_epoch = epoch
            self.best_items[:] = self.parameters.item_embedding
            self.best_projection[:] = self.projection
        self.epochs.append(metrics)
        return metrics

    def step(self, batch: TrainingBatch, rng: np.random.Generator) -> tuple[float, float]:
        """One optimiser step; both losses before it."""
        features, cache = sasrec.forward(self.parameters, batch.inputs, rng)
        loss = self._recommendation_loss(features, batch, rng)
        d_inputs = sasrec.backward(self.parameters, loss.d_features, cache, self.gradients)
        contrastive, rows, d_rows, d_projection = self.contrast(batch)
        items = sasrec.sum_rows(
            np.concatenate([batch.inputs.rows, loss.rows, rows]),
            np.concatenate([d_inputs, loss.d_rows, d_rows]),
        )
        self.dense_adam.step(self.gradients.dense)
        self.item_adam.step_rows(items)
        self.projection_adam.step(d_projection)
        return loss.loss, contrastive

    def contrast(self, batch: TrainingBatch) -> tuple[float, npt.NDArray[np.int64], FloatArray, FloatArray]:
        """Contrastive loss of the distinct titled items of a batch: ``nt_xent(text P^T, e)``.

        Returns
        -------
        loss : float
            Without its weight.
        rows : int64 array (n,)
            The items.
        d_rows : float array (n, H)
            Weighted gradient of their embeddings.
        d_projection : float array (H, E)
            Weighted gradient of the projection.
        """
        rows = np.unique(np.concatenate([batch.inputs.rows, batch.targets]))
        rows = rows[self.contrasted[rows]]
        if len(rows) < 2:  # nothing to be told from
            return 0.0, rows[:0], self.parameters.item_embedding[:0], np.zeros_like(self.projection)
        text = self.data.text[rows - 1]  # (n, E)
        found = nt_xent(
            text @ self.projection.T, self.parameters.item_embedding[rows], self.settings.temperature
        )
        weight = np.float32(self.settings.contrastive_weight)
        return found.loss, rows, weight * found.d_collaborative, weight * (found.d_text.T @ text)

    def validate(self) -> tuple[float, float]:
        """HR@10 and NDCG@10 of the validation users."""
        domain, valid = self.data.domain, self.data.valid
        negatives = draw_negatives(valid.targets, domain, N_NEGATIVES, 0)
        backend = NumpyBackend(self.parameters)
        rank, _ = ranks(backend, self.parameters.item_embedding, valid, domain, negatives)
        return float((rank < 10).mean()), float(((rank < 10) / np.log2(rank + 2)).mean())

    def align(self) -> tuple[float, float]:
        """Median rank of items by their projected titles, and the share within the first ten."""
        if not len(self.aligned):
            return math.nan, math.nan
        projected = self.data.text[self.aligned - 1] @ self.projection.T
        rank = title_ranks(projected, self.parameters.item_embedding[1:], self.aligned - 1)
        return float(np.median(rank)), float((rank <= 10).mean())

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that changes in training, by name; the arrays themselves."""
        return {
            "item_embedding": self.parameters.item_embedding,
            "dense": self.parameters.dense,
            "projection": self.projection,
            "best_items": self.best_items,
            "best_projection": self.best_projection,
            **{
                f"{name}_{moment}": array
                for name, adam in self._optimizers().items()
                for moment, array in (("first", adam.first), ("second", adam.second))
            },
        }

    def restore(
        self, arrays: dict[str, npt.NDArray[Any]], epochs: list[DomainEpoch], best_epoch: int
    ) -> None:
        """Go back to a state that `state` gave after `epochs`.

        Raises
        ------
        KeyError, ValueError
            If an array is missing or does not fit.
        """
        for name, array in self.state().items():
            if arrays[name].shape != array.shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, expected {array.shape}")
            array[:] = arrays[name]
        self.epochs, self.best_epoch = list(epochs), best_epoch
        steps = len(epochs) * math.ceil(len(self.data.sequences) / self.settings.batch_size)
        for adam in self._optimizers().values():
            adam.n_steps = steps

    def _is_finite(self) -> bool:
        """Whether all that was trained, and what the model makes of a history, are numbers."""
        some = NumpyBackend(self.parameters).represent(self.data.valid.histories[:1])
        return all(np.isfinite(array).all() for array in (some, *self.state().values()))

    def _optimizers(self) -> dict[str, Adam]:
        return {"dense": self.dense_adam, "item": self.item_adam, "projection": self.projection_adam}

    def _recommendation_loss(
        self, features: FloatArray, batch: TrainingBatch, rng: np.random.Generator
    ) -> losses.LossGradients:
        table, n_items = self.parameters.item_embedding, self.data.domain.n_items
        if self.settings.loss == "bce":
            negatives = 1 + (rng.random(len(batch.targets)) * n_items).astype(np.int64)
            return losses.binary_cross_entropy(features, table, batch.targets, negatives)
        drawn = 1 + rng.choice(n_items, min(self.settings.n_negatives, n_items), replace=False, shuffle=False)
        return losses.sampled_softmax(features, table, batch.targets, [drawn], [1])


def title_ranks(
    projected: FloatArray, items: FloatArray, own: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Rank, from 1, of each title's own item among all by cosine; ties count against it.

    Parameters
    ----------
    projected : float array (n, H)
        Projected titles; their length does not matter.
    items : float array (items, H)
    own : int64 array (n,)
        Index of each title's item.
    """
    unit = items / np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
    cosines = projected @ unit.T  # (n, items), each row times the length of its title
    mine = np.take_along_axis(cosines, own[:, None], axis=1)
    ahead: npt.NDArray[np.int64] = (~(cosines < mine)).sum(axis=1)
    return ahead
