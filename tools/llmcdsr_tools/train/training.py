"""The state of a training run: parameters, optimisers, poolers; a step, an epoch, a checkpoint."""

from __future__ import annotations

import math
import time
from concurrent.futures import Executor
from dataclasses import asdict
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.model import sasrec
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.ensemble import Model
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_tools.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.evaluation.measures import measure
from llmcdsr_tools.evaluation.official import evaluate
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import ModelScorer
from llmcdsr_tools.optimization.batches import TrainingBatch, TrainingSequences, epoch_batches
from llmcdsr_tools.optimization.optimizers import Adam, AdamSettings, RowAdam, WeightAverage
from llmcdsr_tools.optimization.soft_labels import Teacher
from llmcdsr_tools.run_folder import CHECKPOINT, EarlyStopping, EpochMetrics
from llmcdsr_tools.text_initialization import initialize_from_text
from llmcdsr_tools.train.gradients import differentiate
from llmcdsr_tools.train.meta_learning import MetaLearning, Optimizers
from llmcdsr_tools.train.objectives import ObjectiveSource
from llmcdsr_tools.train.recipes import TrainSettings
from llmcdsr_tools.train.starting_model import Start

AVERAGE_SAMPLES = 64  # of the average, an epoch
VALIDATION_TARGETS = 10_000  # of a domain, at most, that an epoch is measured on


class Observer:
    """Told how training goes; does nothing, override what you need."""

    def started(self, start: Start) -> None:
        """Take note of the earlier model that training starts from."""

    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        """Take note of step `step` of `n_steps`, counted from 1."""

    def epoch(self, metrics: EpochMetrics, improved: list[str]) -> None:
        """Take note of an epoch that is trained, validated and saved."""


class Training:
    """The state of a run in memory.

    Parameters
    ----------
    data : Dataset
    settings : TrainSettings
        Of which the data have decided what they do (`TrainSettings.for_data`).
    text : float32 array (items, E), optional
        What the item embedding starts from.
    vectors : float32 array (items, H), optional
        Item vectors that it starts from instead.
    meta : MetaLearning, optional
        Where sequences are augmented.
    threads : Executor, optional
        Shares the work of the sampled softmax.
    teacher : SASRecParameters or SASRecEnsemble, optional
        Softens the labels of the sampled softmax.
    start : Start, optional
        What all parameters start from, in place of `text` and `vectors`.
    validates : bool
        Whether epochs are measured; otherwise all of them are trained, and the last is the best.

    Raises
    ------
    TrainingError
        If there is no history to train on, or none to validate on.
    """

    def __init__(
        self,
        data: Dataset,
        settings: TrainSettings,
        text: npt.NDArray[np.float32] | None = None,
        vectors: npt.NDArray[np.float32] | None = None,
        meta: MetaLearning | None = None,
        threads: Executor | None = None,
        teacher: Model | None = None,
        start: Start | None = None,
        *,
        validates: bool = True,
    ) -> None:
        self.data = data
        self.settings = settings
        self.meta = meta
        self.threads = threads
        self.teacher = teacher
        config = settings.model_config(len(data.catalogue))
        self.sequences = TrainingSequences.from_histories(
            data.train, config.max_length, windows=settings.windows
        )
        if settings.cold_sequences:
            cold = TrainingSequences.cold(data.train, data.catalogue, config.max_length)
            self.sequences = self.sequences.joined(cold)
        if not len(self.sequences):
            raise TrainingError("the data set has no training history of two items or more")
        self.validates = validates
        if validates and not (data.valid.lengths >= 2).any():
            raise TrainingError("the data set has no validation user to choose the best epoch on")
        self.parameters = SASRecParameters.initial(config, np.random.default_rng([settings.seed, 0]))
        if text is not None and start is None:
            initialize_from_text(self.parameters.item_embedding, text, settings.text_deviation)
        if vectors is not None:
            self.parameters.item_embedding[1:] = vectors
        if start is not None:
            self.parameters.item_embedding[1:] = start.items
            self.parameters.dense[:] = start.dense
        adam = AdamSettings(learning_rate=settings.learning_rate)
        self.dense_adam = Adam(self.parameters.dense, adam)
        self.item_adam = RowAdam(self.parameters.item_embedding, adam)
        self.average = self._average() if settings.average_epochs else None
        self.stopping = EarlyStopping.start(len(data.catalogue.domains))

    def is_finished(self, epoch: int) -> bool:
        """Whether validation has not risen for long enough to stop after so many epochs."""
        return self.validates and self.stopping.finished(epoch, self.settings.patience)

    @property
    def n_steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.sequences) / self.settings.batch_size)

    @property
    def sample_every(self) -> int:
        """Steps between two samples of the average."""
        return max(1, self.n_steps // AVERAGE_SAMPLES)

    def _average(self) -> WeightAverage:
        samples = self.n_steps / self.sample_every * self.settings.average_epochs
        return WeightAverage([self.parameters.item_embedding, self.parameters.dense], max(1.0, samples))

    def run_epoch(self, epoch: int, observer: Observer) -> EpochMetrics:
        """One pass over the training sequences, then validation."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        n_steps = self.n_steps
        total, meta_total = 0.0, 0.0
        start = time.perf_counter()
        for step, batch in enumerate(epoch_batches(self.sequences, self.settings.batch_size, rng), 1):
            loss, meta_loss = self.step(batch, rng)
            if not math.isfinite(loss + (meta_loss or 0.0)):
                raise _diverged(epoch, f", step {step}: the loss is {loss}")
            total += loss
            meta_total += meta_loss or 0.0
            if self.average is not None and step % self.sample_every == 0:
                self.average.sample()
            observer.step(epoch, step, n_steps, loss)
        seconds = time.perf_counter() - start
        if not self._is_finite():
            raise _diverged(epoch, ": the model is not finite after its last step")
        hr10, ndcg10 = self.validate()
        trains_poolers = self.meta is not None and self.meta.optimizer != "none"
        mean_meta = meta_total / n_steps if trains_poolers else None
        return EpochMetrics(epoch, total / n_steps, seconds, hr10, ndcg10, mean_meta, self.settings.criterion)

    def step(self, batch: TrainingBatch, rng: np.random.Generator) -> tuple[float, float | None]:
        """One optimiser step; the loss before it, and the meta loss where the poolers are trained."""
        draw = ObjectiveSource(
            self.settings.loss,
            self.settings.n_negatives,
            self.data.catalogue,
            rng,
            self.threads,
            None if self.teacher is None else _teach(self.teacher, batch),
        )
        gradient, run = differentiate(self.parameters, batch, draw, rng)
        meta_loss = None
        if self.meta is not None:
            optimizers = Optimizers(self.dense_adam, self.item_adam)
            shared = draw.like(run.objective)  # the batch and its augmented sequences are one
            gradient, meta_loss = self.meta.step(self.parameters, gradient, optimizers, shared, draw, rng)
        self.dense_adam.step(gradient.dense)
        self.item_adam.step_rows(gradient.items)
        return gradient.loss, meta_loss

    @cached_property
    def _validation(self) -> Queries:
        """Every position of the validation histories, or of so many users that they fit."""
        queries = Queries.of_data(self.data, "valid", "every")
        parts = [queries.into(d).sample(VALIDATION_TARGETS) for d in self.data.catalogue.domains]
        return reduce(Queries.joined, parts)

    def validate(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """HR@10 and NDCG@10 of each target domain on validation, see `EpochMetrics.criterion`."""
        if not self.validates:
            nothing = (math.nan,) * len(self.data.catalogue.domains)
            return nothing, nothing
        parameters = self.validated_parameters()
        backend, table = NumpyBackend(parameters), parameters.item_embedding
        if self.settings.criterion == "ndcg":
            scorer = ModelScorer(backend, table)
            measured = measure(
                [scorer],
                self.data,
                "valid",
                "every",
                groups=("all",),
                parts=False,
                queries=self._validation,
            )
            found = [(m.hr10, m.ndcg10) for m in measured.measures]
        else:
            results = evaluate(backend, table, self.data, split="valid", groups=("all",))
            found = [(r.hr10, r.ndcg10) for r in results if r.protocol == "sampled"]
        return tuple(hr10 for hr10, _ in found), tuple(ndcg10 for _, ndcg10 in found)

    def validated_parameters(self) -> SASRecParameters:
        """What an epoch leaves behind: the averaged weights, where there are any, or the last ones."""
        if self.average is None or not self.average.n_samples:
            return self.parameters
        return SASRecParameters(self.parameters.config, *self.average.means)

    def _is_finite(self) -> bool:
        """Whether parameters, poolers and what the model makes of a history are numbers."""
        arrays = [self.parameters.dense, self.parameters.item_embedding]
        arrays += [] if self.poolers is None else [self.poolers]
        if not all(np.isfinite(array).all() for array in arrays):
            return False
        longest = self.data.train[int(self.data.train.lengths.argmax())]  # parameters of every position
        return bool(np.isfinite(NumpyBackend(self.parameters).represent([longest])).all())

    @property
    def poolers(self) -> npt.NDArray[np.float32] | None:
        """Poolers (domains, H) of the recall network, where there is one."""
        return None if self.meta is None else self.meta.poolers

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        arrays = {
            "item_embedding": self.parameters.item_embedding,
            "dense": self.parameters.dense,
            "item_first": self.item_adam.first,
            "item_second": self.item_adam.second,
            "dense_first": self.dense_adam.first,
            "dense_second": self.dense_adam.second,
        }
        if self.average is not None:
            arrays |= dict(zip(("item_average", "dense_average"), self.average.means, strict=True))
        if self.meta is not None:
            arrays |= {
                "poolers": self.meta.poolers,
                "pooler_first": self.meta.adam.first,
                "pooler_second": self.meta.adam.second,
            }
        return arrays

    def save(self, run: Path, done: list[EpochMetrics]) -> None:
        """Write the checkpoint."""
        description = {
            "n_steps": self.dense_adam.n_steps,
            "stopping": asdict(self.stopping),
            # without seconds: the same training gives the same bytes
            "epochs": [{k: v for k, v in m.to_json().items() if k != "seconds"} for m in done],
        }
        save_checkpoint(run / CHECKPOINT, Checkpoint(self._state(), description))

    def restore(self, run: Path) -> list[EpochMetrics]:
        """Go back to the checkpoint; the epochs it has behind it."""
        path = run / CHECKPOINT
        checkpoint = load_checkpoint(path)
        try:
            for name, array in self._state().items():
                found = checkpoint.arrays[name]
                if (found.shape, found.dtype) != (array.shape, array.dtype):
                    raise ValueError(f"{name} is {found.dtype} of shape {found.shape}")
                array[:] = found
            description = checkpoint.description
            poolers = [] if self.meta is None else [self.meta.adam]
            for adam in (self.dense_adam, self.item_adam, *poolers):
                adam.n_steps = description["n_steps"]
            if self.average is not None:
                self.average.n_samples = (
                    description["n_steps"] // self.n_steps * (self.n_steps // self.sample_every)
                )
            self.stopping = EarlyStopping(**description["stopping"])
            epochs = [EpochMetrics.from_json(e) for e in description["epochs"]]
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{path}: does not fit this run: {error}") from None
        return epochs


def _teach(teacher: Model, batch: TrainingBatch) -> Teacher:
    """The teacher's features of a batch, without dropout, the members' side by side."""
    features = [sasrec.forward(member, batch.inputs)[0] for member in teacher.members]
    return Teacher(np.concatenate(features, axis=1), teacher.item_embedding)


def _diverged(epoch: int, what: str) -> TrainingError:
    kept = f"the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else "no epoch was finished"
    return TrainingError(f"epoch {epoch}{what}; {kept}. A lower learning rate may help.")
