"""The folder of a training run: what it was trained with and how it went.

================ ==============================================================================
file             content
================ ==============================================================================
run.json         settings, and the hashes of the data set, text embeddings, names, pre-training and the
                 model that training started from; whether it is trained on the held-out histories, too
checkpoint.npz   parameters, poolers, optimiser state and early-stopping state after the last full epoch
best.npz         the model of the epoch with the best mean of all domains on validation
best_1.npz       the model that was best for the first domain; best_2.npz, for the second, and so on
metrics.jsonl    one line an epoch
curves.svg       losses and validation by epoch
================ ==============================================================================
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite.errors import DataError, TrainingError, UsageError
from llmcdsr_lite.files import atomic_file
from llmcdsr_tools.data.dataset_folder import FILES, HEADER
from llmcdsr_tools.setting_fields import Criterion

CHECKPOINT = "checkpoint.npz"
METRICS = "metrics.jsonl"
CURVES = "curves.svg"
MEAN = "mean"  # in place of a domain's name: the mean of all
RUN_HEADER = "run.json"
REFITTED = "refitted"  # what a bundle's description of its training has where `refit` made it


@dataclass(frozen=True)
class RunHeader:
    """Content of run.json: what a run is trained with."""

    settings: dict[str, Any]
    dataset: Path
    dataset_sha256: str
    domains: tuple[str, ...]
    text_embeddings_sha256: str | None = None
    names_sha256: str | None = None
    pretrained_sha256: str | None = None
    teacher_sha256: str | None = None
    start_from_sha256: str | None = None
    whole: bool = False


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.jsonl.

    Parameters
    ----------
    epoch : int
        Counted from 1.
    loss : float
        Mean over the epoch's steps.
    seconds : float
        Training time, without validation; nan if it is not known any more.
    hr10, ndcg10 : tuple of float
        Validation, each target domain, by the protocol of `criterion`; nan for a domain without validation
        targets.
    meta_loss : float or None
        Mean loss of the virtual copies on overlapped users; None without meta-learning.
    criterion : {"ndcg", "sampled-hr"}
        What epochs are compared by: NDCG@10 in the whole domain at every position of the validation
        histories, or, as the official code does, HR@10 of the last item among 999 negatives.
    """

    epoch: int
    loss: float
    seconds: float
    hr10: tuple[float, ...]
    ndcg10: tuple[float, ...]
    meta_loss: float | None = None
    criterion: Criterion = "ndcg"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EpochMetrics:
        """Read back what `to_json` gave; seconds may be missing."""
        hr10, ndcg10 = (tuple(map(_number, value[name])) for name in ("hr10", "ndcg10"))
        measured = _number(value.get("seconds")), hr10, ndcg10
        return cls(value["epoch"], value["loss"], *measured, value["meta_loss"], value["criterion"])

    def to_json(self) -> dict[str, Any]:
        """JSON-able; null stands for nan, which JSON does not know."""
        numbers = {"seconds": [self.seconds], "hr10": self.hr10, "ndcg10": self.ndcg10}
        found = {name: [None if math.isnan(x) else x for x in values] for name, values in numbers.items()}
        return {**asdict(self), **found, "seconds": found["seconds"][0]}

    @property
    def merits(self) -> tuple[float, ...]:
        """The measure that decides, of each target domain."""
        return self.ndcg10 if self.criterion == "ndcg" else self.hr10

    @property
    def merit(self) -> float:
        """Its mean over the domains that have validation targets; nan without any."""
        measured = [merit for merit in self.merits if not math.isnan(merit)]
        return float(np.mean(measured)) if measured else math.nan

    @property
    def merit_name(self) -> str:
        """What it is called."""
        return "NDCG@10" if self.criterion == "ndcg" else "HR@10"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@dataclass
class EarlyStopping:
    """Best merit on validation so far: of the mean, then of each domain."""

    best: list[float]
    best_epoch: list[int]

    @classmethod
    def start(cls, n_domains: int) -> EarlyStopping:
        """Nothing seen yet."""
        return cls([-math.inf] * (1 + n_domains), [0] * (1 + n_domains))

    def update(self, metrics: EpochMetrics) -> list[str]:
        """Take in an epoch; the names of `best_names` that it is now.

        Where nothing is held out to measure, the best epoch is the last.
        """
        improved = []
        names = best_names(len(metrics.merits))
        for i, value in enumerate((metrics.merit, *metrics.merits)):
            if value > self.best[i] or (i == 0 and math.isnan(value)):
                self.best[i], self.best_epoch[i] = value, metrics.epoch
                improved.append(names[i])
        return improved

    def finished(self, epoch: int, patience: int) -> bool:
        """Whether no domain has improved for `patience` epochs."""
        return all(epoch - last >= patience for last in self.best_epoch[1:])


def read_run(run: Path, dataset: Path | None = None) -> RunHeader:
    """Read what a run was trained with, and check that its data set is still the same.

    Parameters
    ----------
    run : Path
    dataset : Path, optional
        Where the data set is now, if not where it was.

    Raises
    ------
    TrainingError
        If the folder holds no run, or the data set is another one.
    """
    header = read_header(run)
    where = dataset or header.dataset
    if not where.is_dir():
        raise TrainingError(f"{run}: its data set is not at {where} any more; name its folder")
    if folder_hash(where) != header.dataset_sha256:
        raise TrainingError(f"{run}: {where} is not the data set that the run was trained on")
    return replace(header, dataset=where)


def member_runs(run: Path) -> list[Path]:
    """Folders of the members of a run, in order; of a run that is none of members, itself.

    Raises
    ------
    TrainingError
        If members are missing between others.
    """
    found = member_folders(run)
    if (run / RUN_HEADER).exists() or not found:
        return [run]
    expected = [f"member-{number}" for number in range(1, len(found) + 1)]
    if [path.name for path in found] != expected:
        names = ", ".join(path.name for path in found)
        raise TrainingError(f"{run}: holds {names}, expected {', '.join(expected)}")
    return found


def member_folders(run: Path) -> list[Path]:
    """Folders of members in that of a run, in order: its own, or those that a student learned from."""
    return sorted(run.glob("member-*"), key=lambda path: (len(path.name), path.name))


def best_names(n_domains: int) -> tuple[str, ...]:
    """Names, without suffix, of a run's best models: on the mean of all domains, then for each in order."""
    return ("best", *(f"best_{number}" for number in range(1, n_domains + 1)))


def best_model(run: Path, best_for: str = MEAN) -> Path:
    """Model file of the epoch that was best on the mean of all domains, or for the domain of that name.

    Raises
    ------
    UsageError
        If the run has no domain of that name.
    TrainingError
        If the folder holds a run, but not this file.
    """
    domains = read_header(run).domains if (run / RUN_HEADER).exists() else ()
    if best_for not in (MEAN, *domains):
        expected = ", ".join(map(repr, (MEAN, *domains)))
        raise UsageError(f"{run}: no domain is named {best_for!r}, expected one of {expected}")
    name = "best" if best_for == MEAN else best_names(len(domains))[1 + domains.index(best_for)]
    path = run / f"{name}.npz"
    if domains and not path.exists():
        never = "" if best_for == MEAN else f", or no validation user has a target in domain {best_for!r}"
        raise TrainingError(f"{path}: no such file; the run has not finished an epoch{never}")
    return path


def models_sha256(runs: Sequence[Path]) -> str:
    """Hash of the best models of some runs, in order."""
    return hashlib.sha256("".join(file_hash(best_model(run)) for run in runs).encode()).hexdigest()


def open_run(run: Path, header: RunHeader, resume: bool) -> None:
    """Make the run folder, or check that the one there is the same run."""
    if (run / RUN_HEADER).exists():
        if not resume:
            raise TrainingError(f"{run}: holds a run already; resume it, or choose another folder")
        _check_same(run, read_header(run), header)
    elif run.exists() and (not run.is_dir() or any(p not in _expected(run, header) for p in run.iterdir())):
        raise TrainingError(f"{run}: is not empty and holds no run (no {RUN_HEADER}); choose another folder")
    run.mkdir(parents=True, exist_ok=True)
    for path in _leftovers(run):
        path.unlink()
    with atomic_file(run / RUN_HEADER) as temporary:
        content = {**asdict(header), "dataset": str(header.dataset)}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _expected(run: Path, header: RunHeader) -> list[Path]:
    """What a folder may hold before its run is begun; a student is beside the members it learns from."""
    return _leftovers(run) + ([] if header.teacher_sha256 is None else member_folders(run))


def _leftovers(run: Path) -> list[Path]:
    """Files half written by a process that was killed; see `atomic_file`."""
    names = (RUN_HEADER, CHECKPOINT, METRICS, CURVES, "best.npz", "best_*.npz")
    return [path for name in names for path in run.glob(f".{name}.*.tmp")]


def _check_same(run: Path, before: RunHeader, now: RunHeader) -> None:
    """Refuse to go on with other data or other settings."""
    if before.dataset_sha256 != now.dataset_sha256:
        raise TrainingError(f"{run}: the run was started with another data set")
    for name, what in (
        ("text_embeddings_sha256", "text embeddings"),
        ("names_sha256", "names"),
        ("pretrained_sha256", "pre-training"),
        ("teacher_sha256", "teacher"),
        ("start_from_sha256", "parameters to start from"),
        ("whole", "histories"),
    ):
        if getattr(before, name) != getattr(now, name):
            raise TrainingError(f"{run}: the run was started with other {what}, or none")
    changed = [
        f"{name} was {before.settings.get(name)!r} and is now {value!r}"
        for name, value in now.settings.items()
        if name not in ("n_epochs", "patience") and before.settings.get(name) != value
    ]
    if changed:
        raise TrainingError(f"{run}: settings differ from the run's: {'; '.join(changed)}")


def read_header(run: Path) -> RunHeader:
    """Read what a run was trained with; its data set is not looked at.

    Raises
    ------
    TrainingError
        If the folder holds no run, or run.json is damaged.
    """
    path = run / RUN_HEADER
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        dataset, domains = Path(content["dataset"]), tuple(content["domains"])
        header = RunHeader(**{**content, "dataset": dataset, "domains": domains})
        if not isinstance(header.settings, dict):
            raise TypeError("settings is not an object")
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file; is {run} the folder of a training run?") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: damaged: {error}") from None
    return header


def write_metrics(run: Path, done: list[EpochMetrics]) -> None:
    """Write metrics.jsonl."""
    with atomic_file(run / METRICS) as temporary:
        lines = (json.dumps(m.to_json(), allow_nan=False) + "\n" for m in done)
        temporary.write_text("".join(lines), encoding="utf-8")


def read_metrics(run: Path) -> list[EpochMetrics]:
    """Read metrics.jsonl.

    Raises
    ------
    DataError
        If it is missing or damaged.
    """
    path = run / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [EpochMetrics.from_json(json.loads(line)) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read as metrics: {error}") from None


def folder_hash(folder: Path) -> str:
    """Hash of a data set's own files; of its header, only the domains, not where the data came from."""
    names = sorted(name for name in FILES if name != HEADER)
    try:
        domains = json.loads((folder / HEADER).read_text(encoding="utf-8"))["domains"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / HEADER}: cannot be read: {error}") from None
    content = [json.dumps(domains, sort_keys=True), *(n + file_hash(folder / n) for n in names)]
    return hashlib.sha256("".join(content).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
