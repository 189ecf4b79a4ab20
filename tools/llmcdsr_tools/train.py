"""Training: SASRec on the histories of a data set, with early stopping on validation HR@10.

Every random number of an epoch comes from (seed, epoch), so a resumed run repeats what an undisturbed
one does, to the byte (on the same machine with the same number of BLAS threads).
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from llmcdsr_lite.backend import NumpyBackend
from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.reference import losses, sasrec
from llmcdsr_lite.reference.parameters import SASRecConfig, SASRecParameters
from llmcdsr_tools.batches import (
    TrainingBatch,
    TrainingSequences,
    epoch_batches,
    same_domain_negatives,
    shared_negatives,
)
from llmcdsr_tools.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, save_model
from llmcdsr_tools.curves import plot_curves
from llmcdsr_tools.dataset import Dataset, load_dataset
from llmcdsr_tools.evaluate import Result, evaluate
from llmcdsr_tools.optimizers import Adam, AdamSettings, RowAdam
from llmcdsr_tools.run import (
    EarlyStopping,
    EpochMetrics,
    RunHeader,
    file_hash,
    folder_hash,
    open_run,
    write_metrics,
)
from llmcdsr_tools.text_initialization import initialize_from_text, load_text_embeddings

Loss = Literal["bce", "sampled-softmax"]
ItemUpdates = Literal["rows", "dense"]


@dataclass(frozen=True)
class TrainSettings:
    """What a run is trained with; the defaults are the official recipe.

    Parameters
    ----------
    loss : {"bce", "sampled-softmax"}
        Binary cross-entropy with one negative a position, or softmax with shared negatives.
    n_negatives : int
        Shared negatives of each domain, for the sampled softmax.
    n_epochs : int
        At most so many epochs.
    patience : int
        Training stops when neither domain's validation HR@10 has risen for so many epochs.
    batch_size : int
        Sequences a step.
    learning_rate : float
    hidden, n_blocks, n_heads, max_length, dropout
        See `SASRecConfig`.
    item_updates : {"rows", "dense"}
        Whether Adam moves only the rows that a step touches (see `optimizers`) or the whole table.
    text_deviation : float
        Root mean square of item embeddings that start from text.
    seed : int
    """

    loss: Loss = "bce"
    n_negatives: int = 256
    n_epochs: int = 200
    patience: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    hidden: int = 64
    n_blocks: int = 2
    n_heads: int = 1
    max_length: int = 50
    dropout: float = 0.5
    item_updates: ItemUpdates = "rows"
    text_deviation: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_negatives", "n_epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("learning_rate", "text_deviation"):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f"{name} must be above 0, found {getattr(self, name)}")
        if self.seed < 0:
            raise TrainingError(f"seed must be at least 0, found {self.seed}")
        for name, choices in (("loss", get_args(Loss)), ("item_updates", get_args(ItemUpdates))):
            if getattr(self, name) not in choices:
                raise TrainingError(
                    f"{name} must be one of {', '.join(choices)}, found {getattr(self, name)!r}"
                )

    def model_config(self, n_items: int) -> SASRecConfig:
        """Sizes of the model for a catalogue of `n_items`."""
        try:
            return SASRecConfig(
                n_items, self.hidden, self.n_blocks, self.n_heads, self.max_length, self.dropout
            )
        except ValueError as error:
            raise TrainingError(str(error)) from None


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    run: Path
    epochs: tuple[EpochMetrics, ...]
    best_epoch: int
    best_hr10: float
    stopped_early: bool


class Observer:
    """Told how training goes; does nothing, override what you need."""

    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        """Take note of step `step` of `n_steps`, counted from 1."""

    def epoch(self, metrics: EpochMetrics, improved: list[str]) -> None:
        """Take note of an epoch that is trained, validated and saved."""


def train(
    dataset: Path,
    run: Path,
    settings: TrainSettings | None = None,
    *,
    text_embeddings: Path | None = None,
    resume: bool = False,
    threads: int = 1,
    observer: Observer | None = None,
) -> TrainResult:
    """Train a recommender.

    Parameters
    ----------
    dataset : Path
        Data set folder.
    run : Path
        Folder for the run; it must not hold one yet, unless `resume` is true.
    settings : TrainSettings, optional
    text_embeddings : Path, optional
        ``.npy`` matrix (items, E) that the item embeddings start from.
    resume : bool
        Go on after the last full epoch of the run in that folder, if there is one. The settings must
        be those it was started with; only `n_epochs` and `patience` may change.
    threads : int
        Threads of NumPy's matrix products. The products are small: a second thread gains little, and
        loses much on a machine that is busy. Another number may change the last bits of the result.
    observer : Observer, optional

    Returns
    -------
    TrainResult

    Raises
    ------
    DataError
        If the data set or the text embeddings cannot be read.
    TrainingError
        If the folder holds another run, or the loss is not finite.
    """
    settings = settings or TrainSettings()
    observer = observer or Observer()
    data = load_dataset(dataset)
    header = RunHeader(
        asdict(settings),
        dataset.resolve(),
        folder_hash(dataset),
        None if text_embeddings is None else file_hash(text_embeddings),
    )
    with threadpool_limits(threads, user_api="blas"):
        training = _Training(data, settings, text_embeddings)  # what it refuses leaves no run behind
        open_run(run, header, resume)
        done = training.restore(run) if resume and (run / "checkpoint.npz").exists() else []
        return _run_epochs(training, run, done, observer)


def _run_epochs(training: _Training, run: Path, done: list[EpochMetrics], observer: Observer) -> TrainResult:
    """Train on from the epochs that are done, saving each, until a reason to stop."""
    settings, stopping = training.settings, training.stopping
    domains = tuple(d.name for d in training.data.catalogue.domains)
    write_metrics(run, done)
    while len(done) < settings.n_epochs and not stopping.finished(len(done), settings.patience):
        metrics = training.run_epoch(len(done) + 1, observer)
        improved = stopping.update(metrics)
        for name in improved:
            save_model(run / f"{name}.npz", training.parameters, {"epoch": metrics.epoch})
        done.append(metrics)
        training.save(run, done)
        write_metrics(run, done)
        plot_curves(run / "curves.svg", done, domains)
        observer.epoch(metrics, improved)
    return TrainResult(
        run,
        tuple(done),
        stopping.best_epoch[0],
        stopping.best[0],
        stopping.finished(len(done), settings.patience),
    )


class _Training:
    """The state of a run in memory."""

    def __init__(self, data: Dataset, settings: TrainSettings, text_embeddings: Path | None) -> None:
        self.data = data
        self.settings = settings
        config = settings.model_config(len(data.catalogue))
        self.sequences = TrainingSequences.from_histories(data.train, settings.max_length)
        if not len(self.sequences):
            raise TrainingError("the data set has no training history of two items or more")
        if not (data.valid.lengths >= 2).any():
            raise TrainingError("the data set has no validation user to choose the best epoch on")
        self.parameters = SASRecParameters.initial(config, np.random.default_rng([settings.seed, 0]))
        if text_embeddings is not None:
            text = load_text_embeddings(text_embeddings, config.n_items)
            initialize_from_text(self.parameters.item_embedding, text, settings.text_deviation)
        adam = AdamSettings(learning_rate=settings.learning_rate)
        self.dense_adam = Adam(self.parameters.dense, adam)
        self.item_adam = RowAdam(self.parameters.item_embedding, adam)
        self.gradients = self.parameters.zeros_like()
        self.stopping = EarlyStopping.start()

    def run_epoch(self, epoch: int, observer: Observer) -> EpochMetrics:
        """One pass over the training sequences, then validation."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        n_steps = math.ceil(len(self.sequences) / self.settings.batch_size)
        total = 0.0
        start = time.perf_counter()
        for step, batch in enumerate(epoch_batches(self.sequences, self.settings.batch_size, rng), 1):
            loss = self.step(batch, rng)
            if not math.isfinite(loss):
                kept = (
                    f"the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else "no epoch was finished"
                )
                raise TrainingError(
                    f"epoch {epoch}, step {step}: the loss is {loss}; {kept}. A lower learning rate may help."
                )
            total += loss
            observer.step(epoch, step, n_steps, loss)
        seconds = time.perf_counter() - start
        a, b = self.validate()
        return EpochMetrics(epoch, total / n_steps, seconds, (a.hr10, b.hr10), (a.ndcg10, b.ndcg10))

    def step(self, batch: TrainingBatch, rng: np.random.Generator) -> float:
        """One optimiser step; the loss before it."""
        table = self.parameters.item_embedding
        features, cache = sasrec.forward(self.parameters, batch.inputs, rng)
        catalogue = self.data.catalogue
        if self.settings.loss == "bce":
            negatives = same_domain_negatives(batch.targets, catalogue, rng)
            loss = losses.binary_cross_entropy(features, table, batch.targets, negatives)
        else:
            shared = shared_negatives(catalogue, self.settings.n_negatives, rng)
            loss = losses.sampled_softmax(features, table, batch.targets, shared, catalogue.domains[1].start)
        d_inputs = sasrec.backward(self.parameters, loss.d_features, cache, self.gradients)
        items = sasrec.sum_rows(
            np.concatenate([batch.inputs.rows, loss.rows]), np.concatenate([d_inputs, loss.d_rows])
        )
        self.dense_adam.step(self.gradients.dense)
        if self.settings.item_updates == "rows":
            self.item_adam.step_rows(items)
        else:
            whole = np.zeros_like(table)
            whole[items.rows] = items.values
            self.item_adam.step(whole)
        return loss.loss

    def validate(self) -> tuple[Result, Result]:
        """Sampled metrics of the validation users, target domain A and B."""
        backend = NumpyBackend(self.parameters)
        table = self.parameters.item_embedding
        results = evaluate(backend, table, self.data, split="valid", groups=("all",))
        a, b = (r for r in results if r.protocol == "sampled")
        return a, b

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "item_embedding": self.parameters.item_embedding,
            "dense": self.parameters.dense,
            "item_first": self.item_adam.first,
            "item_second": self.item_adam.second,
            "dense_first": self.dense_adam.first,
            "dense_second": self.dense_adam.second,
        }

    def save(self, run: Path, done: list[EpochMetrics]) -> None:
        """Write the checkpoint."""
        description = {
            "n_steps": self.dense_adam.n_steps,
            "stopping": asdict(self.stopping),
            "epochs": [asdict(m) for m in done],
        }
        save_checkpoint(run / "checkpoint.npz", Checkpoint(self._state(), description))

    def restore(self, run: Path) -> list[EpochMetrics]:
        """Go back to the checkpoint; the epochs it has behind it."""
        path = run / "checkpoint.npz"
        checkpoint = load_checkpoint(path)
        try:
            for name, array in self._state().items():
                if checkpoint.arrays[name].shape != array.shape:
                    raise ValueError(f"{name} has shape {checkpoint.arrays[name].shape}")
                array[:] = checkpoint.arrays[name]
            description = checkpoint.description
            self.dense_adam.n_steps = self.item_adam.n_steps = description["n_steps"]
            self.stopping = EarlyStopping(**description["stopping"])
            epochs = [EpochMetrics.from_json(e) for e in description["epochs"]]
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{path}: does not fit this run: {error}") from None
        return epochs
