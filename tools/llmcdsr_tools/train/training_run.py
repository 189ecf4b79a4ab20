"""Training: SASRec on the histories of a data set, with early stopping on validation.

Every random number of an epoch comes from (seed, epoch), so a resumed run repeats what an undisturbed
one does, to the byte (on the same machine with the same number of BLAS threads).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError, SettingsError, TrainingError
from llmcdsr_lite.model.ensemble import Model
from llmcdsr_tools.checkpoint import load_members, load_model, save_model
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.embed_names import load_embedded_names
from llmcdsr_tools.pretrain.pretraining import Pretrained, load_pretrained
from llmcdsr_tools.run_folder import (
    CHECKPOINT,
    CURVES,
    EpochMetrics,
    RunHeader,
    best_model,
    best_names,
    file_hash,
    folder_hash,
    models_sha256,
    open_run,
    read_metrics,
    read_run,
    write_metrics,
)
from llmcdsr_tools.text_initialization import load_text_embeddings
from llmcdsr_tools.train.curves import plot_curves
from llmcdsr_tools.train.meta_learning import MetaLearning
from llmcdsr_tools.train.recipes import TrainSettings
from llmcdsr_tools.train.starting_model import read_starting_model
from llmcdsr_tools.train.training import Observer, Training
from llmcdsr_tools.word_vectors import WordEncoder


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    run: Path
    epochs: tuple[EpochMetrics, ...]
    best_epoch: int
    best_merit: float
    stopped_early: bool


def train(
    dataset: str | Path,
    run: str | Path,
    settings: TrainSettings | None = None,
    *,
    text_embeddings: str | Path | None = None,
    names: str | Path | None = None,
    pretrained: str | Path | None = None,
    teachers: Sequence[str | Path] = (),
    start_from: str | Path | None = None,
    member: tuple[int, int] = (1, 1),
    whole: bool = False,
    resume: bool = False,
    threads: int = 1,
    observer: Observer | None = None,
) -> TrainResult:
    """Train a recommender.

    Parameters
    ----------
    dataset : str or Path
        Data set folder.
    run : str or Path
        Folder for the run; it must not hold one yet, unless `resume` is true.
    settings : TrainSettings, optional
    text_embeddings : str or Path, optional
        ``.npy`` matrix (items, E) that the item embeddings start from; without it, see
        `TrainSettings.item_start`.
    names : str or Path, optional
        Embedded names (see `embed_names`): every step gets augmented sequences with pseudo items that
        are recalled for them. Needs `pretrained`.
    pretrained : str or Path, optional
        What `pretrain` wrote: projections and item vectors of the recall network, and where the item
        embeddings start if `pretrained_items` is set.
    teachers : sequence of str or Path
        Folders of runs on the same data set; the mean of their best models' scores softens the labels of the
        sampled softmax (see `optimization.soft_labels`). Not together with names.
    start_from : str or Path, optional
        Folder of a bundle or of a run whose parameters training starts from, on a catalogue that may be
        another one: see `starting_model`. Sizes in `settings` that differ from the defaults must be the
        model's; the others are taken from it. Text embeddings are then those that new items start from.
    member : tuple of int
        Number of this run, from 1, and of how many: of `start_from`, it starts from that member.
    whole : bool
        Train on the held-out histories, too (`Dataset.whole`), for all epochs, as nothing is left to measure.
    resume : bool
        Go on after the last full epoch of the run in that folder, if there is one. The settings must
        be those it was started with; only `n_epochs` and `patience` may change.
    threads : int
        Threads that share the products of the sampled softmax; the result does not depend on it.
    observer : Observer, optional

    Returns
    -------
    TrainResult

    Raises
    ------
    DataError
        If the data set, the text embeddings, the names or the pre-training cannot be read.
    BundleError
        If the bundle to start from cannot be read.
    SettingsError
        If teachers are given together with names or binary cross-entropy.
    TrainingError
        If the folder holds another run, what is given does not fit together, or the loss is not finite.
    """
    from threadpoolctl import threadpool_limits  # not where settings alone are wanted, as by the commands

    dataset = Path(dataset)
    run = Path(run)
    text_embeddings = None if text_embeddings is None else Path(text_embeddings)
    names = None if names is None else Path(names)
    pretrained = None if pretrained is None else Path(pretrained)
    observer = observer or Observer()
    data = load_dataset(dataset)
    data = data.whole() if whole else data
    settings = settings or TrainSettings()
    model = None if start_from is None else read_starting_model(Path(start_from), *member)
    if model is not None:
        settings = model.sized(settings)
    settings = settings.for_data(data)
    settings = replace(settings, inner_optimizer=settings.chosen_inner_optimizer(names is not None))
    teacher, teacher_sha256 = _teacher(list(map(Path, teachers)), dataset, settings, names is not None)
    header = RunHeader(
        asdict(settings),
        dataset.resolve(),
        folder_hash(dataset),
        tuple(domain.name for domain in data.catalogue.domains),
        text_embeddings_sha256=_hash(text_embeddings),
        names_sha256=_hash(names),
        pretrained_sha256=_hash(pretrained),
        teacher_sha256=teacher_sha256,
        start_from_sha256=None if model is None else model.sha256,
        whole=whole,
    )
    # NumPy's own threads gain little on products of this size, and lose much on a busy machine
    with threadpool_limits(1, user_api="blas"), _executor(threads) as executor:
        # what is refused here leaves no run behind
        text = _text(data, settings, text_embeddings, starts_from_text=model is None)
        start = None if model is None else model.start(data.catalogue, text)
        found = None if pretrained is None else load_pretrained(pretrained, data)
        training = Training(
            data,
            settings,
            text,
            _pretrained_items(settings, found, text_embeddings is not None or start is not None),
            _meta_learning(data, settings, names, found),
            executor,
            teacher,
            start,
            validates=not whole,
        )
        open_run(run, header, resume)
        done = _restored(training, run)
        if start is not None and not done:
            observer.started(start)
        return _run_epochs(training, run, done, observer)


def _hash(path: Path | None) -> str | None:
    return None if path is None else file_hash(path)


@contextmanager
def _executor(threads: int) -> Iterator[Executor | None]:
    """Threads to share work with the calling one, which waits for them; None for one thread."""
    if threads == 1:
        yield None
        return
    with ThreadPoolExecutor(threads) as executor:
        yield executor


def _restored(training: Training, run: Path) -> list[EpochMetrics]:
    """Go back to the checkpoint of a run, if it has one, and make its best models those of the checkpoint.

    Only the models of the checkpoint's own epoch can be missing after a stop: they are written after it.
    """
    best = [run / f"{name}.npz" for name in best_names(len(training.data.catalogue.domains))]
    if not (run / CHECKPOINT).exists():
        found = next((path for path in best if path.exists()), None)
        if found is not None:
            raise TrainingError(
                f"{run / CHECKPOINT}: no such file, though there is {found.name}: the run cannot go on; "
                "choose another folder to start over"
            )
        return []
    done = training.restore(run)
    for path, epoch in zip(best, training.stopping.best_epoch, strict=True):
        if epoch == len(done):
            _save_best(training, path, epoch)
        elif epoch:  # 0: a domain without validation users
            found_epoch = load_model(path)[1].get("epoch") if path.exists() else None
            if found_epoch != epoch:
                state = "no such file" if found_epoch is None else f"is of epoch {found_epoch}"
                raise TrainingError(
                    f"{path}: {state}, the checkpoint's best is of epoch {epoch}: the run cannot go on; "
                    "choose another folder to start over"
                )
    return _with_seconds(run, done)


def _with_seconds(run: Path, done: list[EpochMetrics]) -> list[EpochMetrics]:
    """The epochs with the seconds that metrics.jsonl has, if it can be read: the checkpoint has none."""
    try:
        seconds = {m.epoch: m.seconds for m in read_metrics(run)}
    except DataError:
        return done
    return [replace(m, seconds=seconds.get(m.epoch, m.seconds)) for m in done]


def _save_best(training: Training, path: Path, epoch: int) -> None:
    save_model(path, training.validated_parameters(), {"epoch": epoch}, training.poolers)


def _run_epochs(training: Training, run: Path, done: list[EpochMetrics], observer: Observer) -> TrainResult:
    """Train on from the epochs that are done, saving each, until a reason to stop.

    The checkpoint makes an epoch done: all that is written after it is made good by the next call.
    """
    settings, stopping = training.settings, training.stopping
    domains = training.data.catalogue.domains
    write_metrics(run, done)
    if done:
        plot_curves(run / CURVES, done, domains)
    while len(done) < settings.n_epochs and not training.is_finished(len(done)):
        metrics = training.run_epoch(len(done) + 1, observer)
        improved = stopping.update(metrics)
        done.append(metrics)
        write_metrics(run, done)  # before the checkpoint, which does without the seconds
        training.save(run, done)
        for name in improved:
            _save_best(training, run / f"{name}.npz", metrics.epoch)
        plot_curves(run / CURVES, done, domains)
        observer.epoch(metrics, improved)
    return TrainResult(
        run,
        tuple(done),
        stopping.best_epoch[0],
        stopping.best[0],
        training.is_finished(len(done)),
    )


def _text(
    data: Dataset, settings: TrainSettings, text_embeddings: Path | None, *, starts_from_text: bool
) -> npt.NDArray[np.float32] | None:
    """Text embeddings (items, E): those that are given, or word vectors where items start from text."""
    if text_embeddings is not None:
        return load_text_embeddings(text_embeddings, len(data.catalogue))
    if not starts_from_text or settings.item_start == "random" or settings.pretrained_items:
        return None
    return WordEncoder.of_dataset(data).encode(data.catalogue.titles)


def _pretrained_items(
    settings: TrainSettings, pretrained: Pretrained | None, start_elsewhere: bool
) -> npt.NDArray[np.float32] | None:
    """Item vectors (items, H) that the item embedding starts from, if it does."""
    if not settings.pretrained_items:
        return None
    if pretrained is None or start_elsewhere:
        raise SettingsError(
            "pretrained_items needs the file of pre-training, and no text embeddings or model to start from"
        )
    vectors = np.concatenate(pretrained.items)
    if vectors.shape[1] != settings.hidden:
        raise TrainingError(
            f"pre-training was done with hidden size {vectors.shape[1]}, the recommender has "
            f"{settings.hidden}"
        )
    return vectors


def _teacher(
    runs: list[Path], dataset: Path, settings: TrainSettings, has_names: bool
) -> tuple[Model | None, str | None]:
    """The best models of some runs as one, and the hash of their files; None for no runs."""
    if not runs:
        return None, None
    if has_names or settings.loss != "sampled-softmax":
        raise SettingsError("a teacher softens the labels of the sampled softmax, without names")
    for run in runs:
        read_run(run, dataset)  # refuses another data set
    model, _ = load_members([best_model(run) for run in runs])
    if model.config.max_length != settings.max_length:
        raise SettingsError(
            f"max_length is {settings.max_length}, expected {model.config.max_length}, the teacher's"
        )
    return model, models_sha256(runs)


def _meta_learning(
    data: Dataset, settings: TrainSettings, names: Path | None, pretrained: Pretrained | None
) -> MetaLearning | None:
    """What augments sequences, if anything is to."""
    if names is None:
        if settings.inner_optimizer != "none":
            raise SettingsError(f"inner_optimizer {settings.inner_optimizer!r} needs embedded names")
        if pretrained is not None and not settings.pretrained_items:
            raise SettingsError(
                "pre-training is given, but no names to recall items for, and pretrained_items is false"
            )
        return None
    if pretrained is None:
        raise SettingsError(f"{names}: names need the file of pre-training, to recall items for them")
    return MetaLearning(data, load_embedded_names(names, data), pretrained, settings)
