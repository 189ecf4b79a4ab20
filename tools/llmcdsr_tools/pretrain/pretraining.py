"""Stage `pretrain`: for each domain, item vectors and a projection of text into their space.

Each domain is trained by itself (`domain_training`): a SASRec on its sequences, and 0.1 x a contrastive
loss between P text(i) and e(i) of the distinct items of a batch. The arrays of the epoch with the best
validation HR@10 are kept. The result is what the recall network searches.

While it runs, ``<output>.partial`` lies beside the output: the state after the last full epoch. The next
call with the same inputs goes on from there, and ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError, TrainingError
from llmcdsr_tools.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.pretrain.domain_data import DomainData
from llmcdsr_tools.pretrain.domain_training import DomainEpoch, DomainTraining
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.run_folder import file_hash, folder_hash
from llmcdsr_tools.text_initialization import load_text_embeddings

__all__ = [
    "PretrainObserver",
    "PretrainResult",
    "PretrainSettings",
    "Pretrained",
    "load_pretrained",
    "pretrain",
]

_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Pretrained:
    """What pre-training yields.

    Parameters
    ----------
    projections : tuple of float32 arrays (H, E)
        Text embedding to the space of each domain.
    items : tuple of float32 arrays (items of the domain, H)
        Item vectors of each domain, in row order; there is no padding row.
    description : dict
        Settings, hashes of what it was made from, and for each domain, all epochs and which was best.
    """

    projections: tuple[npt.NDArray[np.float32], ...]
    items: tuple[npt.NDArray[np.float32], ...]
    description: dict[str, Any]

    @property
    def hidden(self) -> int:
        """Hidden size H."""
        return len(self.projections[0])

    @property
    def dimension(self) -> int:
        """Length E of a text embedding."""
        return int(self.projections[0].shape[1])


@dataclass(frozen=True)
class PretrainResult:
    """How pre-training ended.

    Parameters
    ----------
    output : Path
    epochs : tuple of tuples of DomainEpoch
        Of each domain.
    best_epoch : tuple of int
    n_resumed : int
        Epochs, of all domains, that an earlier call had finished.
    warnings : tuple of str
    """

    output: Path
    epochs: tuple[tuple[DomainEpoch, ...], ...]
    best_epoch: tuple[int, ...]
    n_resumed: int
    warnings: tuple[str, ...]


class PretrainObserver:
    """Told how pre-training goes; does nothing, override what you need."""

    def epoch(self, domain: str, metrics: DomainEpoch, improved: bool) -> None:
        """Take note of an epoch that is trained, validated and saved."""


def pretrain(
    dataset: str | Path,
    text_embeddings: str | Path,
    output: str | Path,
    settings: PretrainSettings | None = None,
    *,
    threads: int = 1,
    overwrite: bool = False,
    observer: PretrainObserver | None = None,
) -> PretrainResult:
    """Pre-train every domain, going on where an earlier call was interrupted.

    Parameters
    ----------
    dataset : str or Path
        Data set folder.
    text_embeddings : str or Path
        ``.npy`` matrix (items, E).
    output : str or Path
        The ``.npz`` file to write, see `Pretrained`.
    settings : PretrainSettings, optional
    threads : int
        Threads of NumPy's matrix products. Another number may change the last bits of the result.
    overwrite : bool
        Replace a file that is there.
    observer : PretrainObserver, optional

    Returns
    -------
    PretrainResult

    Raises
    ------
    DataError
        If an input cannot be read, or the output exists and must not be overwritten.
    TrainingError
        If a domain has nothing to train or to validate on, or a loss is not finite.
    """
    from threadpoolctl import threadpool_limits  # not where settings alone are wanted, as by the commands

    dataset = Path(dataset)
    text_embeddings = Path(text_embeddings)
    output = Path(output)
    settings = settings or PretrainSettings()
    observer = observer or PretrainObserver()
    data = load_dataset(dataset)
    text = load_text_embeddings(text_embeddings, len(data.catalogue))
    made_from = {
        "format_version": _FORMAT_VERSION,
        "settings": asdict(settings),
        "dataset_sha256": folder_hash(dataset),
        "text_embeddings_sha256": file_hash(text_embeddings),
    }
    partial = output.with_name(output.name + ".partial")
    with threadpool_limits(threads, user_api="blas"):
        trainings = [
            DomainTraining(DomainData.from_dataset(data, domain, text, settings.max_length), settings, index)
            for index, domain in enumerate(data.catalogue.domains)
        ]
        n_resumed, warnings = _resume(partial, made_from, trainings)
        if output.is_dir() or (output.exists() and not overwrite and not n_resumed):
            raise DataError(f"{output}: exists already; choose another name or ask for it to be overwritten")
        output.parent.mkdir(parents=True, exist_ok=True)
        for training in trainings:
            while not training.finished:
                metrics = training.run_epoch()
                _save_partial(partial, made_from, trainings)
                observer.epoch(training.data.domain.name, metrics, training.best_epoch == metrics.epoch)
    _save_result(output, made_from, trainings)
    partial.unlink(missing_ok=True)
    epochs = tuple(tuple(training.epochs) for training in trainings)
    best_epoch = tuple(training.best_epoch for training in trainings)
    return PretrainResult(output, epochs, best_epoch, n_resumed, warnings)


def load_pretrained(path: str | Path, dataset: Dataset | None = None) -> Pretrained:
    """Read what `pretrain` wrote.

    Parameters
    ----------
    path : str or Path
    dataset : Dataset, optional
        Check that it has as many items as this one.

    Raises
    ------
    DataError
        If the file is missing or damaged, or is not of the data set.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected what `llmcdsr pretrain` writes")
    try:
        checkpoint = load_checkpoint(path)
        n_domains = len(checkpoint.description["domains"])
        names = [[f"{what}_{n}" for n in range(1, n_domains + 1)] for what in ("projection", "items")]
        projections, items = (tuple(checkpoint.arrays[name] for name in of_kind) for of_kind in names)
        if not n_domains:
            raise KeyError("no domain")
    except (TrainingError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a file of `llmcdsr pretrain`: {error}") from None
    arrays = {name: checkpoint.arrays[name] for of_kind in names for name in of_kind}
    if any(a.ndim != 2 or a.dtype != np.float32 or not np.isfinite(a).all() for a in arrays.values()):
        raise DataError(f"{path}: {', '.join(arrays)} must be finite float32 matrices")
    found = Pretrained(projections, items, checkpoint.description)
    if {a.shape for a in projections} != {(found.hidden, found.dimension)} or any(
        a.shape[1] != found.hidden for a in items
    ):
        shapes = ", ".join(f"{name} {a.shape}" for name, a in arrays.items())
        raise DataError(f"{path}: the arrays do not fit together: {shapes}")
    if dataset is not None:
        sizes = [d.n_items for d in dataset.catalogue.domains]
        if [len(a) for a in items] != sizes:
            theirs = " and ".join(str(len(a)) for a in items)
            raise DataError(f"{path}: is of {theirs} items, the data set has {' and '.join(map(str, sizes))}")
    return found


def _resume(
    partial: Path, made_from: dict[str, Any], trainings: list[DomainTraining]
) -> tuple[int, tuple[str, ...]]:
    """Put the trainings where an earlier call left them: epochs done, and why its work is not used."""
    if not partial.exists():
        return 0, ()
    try:
        checkpoint = load_checkpoint(partial)
        description = checkpoint.description
        if description["made_from"] != made_from:
            return 0, (f"{partial}: made from something else, starting over",)
        for training, done in zip(trainings, description["domains"], strict=True):
            if done["epochs"]:
                prefix = f"{training.index}/"
                arrays = {
                    k.removeprefix(prefix): v for k, v in checkpoint.arrays.items() if k.startswith(prefix)
                }
                training.restore(arrays, [DomainEpoch(**e) for e in done["epochs"]], done["best_epoch"])
    except (TrainingError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{partial}: cannot be gone on with ({error}); remove it to start over") from None
    return sum(len(t.epochs) for t in trainings), ()


def _save_partial(path: Path, made_from: dict[str, Any], trainings: list[DomainTraining]) -> None:
    """Write the state of every domain."""
    arrays = {f"{t.index}/{name}": array for t in trainings if t.epochs for name, array in t.state().items()}
    domains = [{"epochs": [asdict(e) for e in t.epochs], "best_epoch": t.best_epoch} for t in trainings]
    save_checkpoint(path, Checkpoint(arrays, {"made_from": made_from, "domains": domains}))


def _save_result(path: Path, made_from: dict[str, Any], trainings: list[DomainTraining]) -> None:
    """Write the arrays of the best epochs; nothing in the file depends on when or how fast it was made."""
    arrays, domains = {}, []
    for number, training in enumerate(trainings, 1):
        arrays[f"projection_{number}"] = training.best_projection
        arrays[f"items_{number}"] = training.best_items[1:]
        epochs = [{k: v for k, v in asdict(e).items() if k != "seconds"} for e in training.epochs]
        name = training.data.domain.name
        domains.append({"name": name, "best_epoch": training.best_epoch, "epochs": epochs})
    save_checkpoint(path, Checkpoint(arrays, {**made_from, "domains": domains}))
