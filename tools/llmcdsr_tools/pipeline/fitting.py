"""`fit`, the stages of the pipeline one after another, and what it gives back.

The stages (`stages`) are kept by the hash of what they are made from (`stage_cache`). A second call does
nothing; after a change, the stages that depend on it run; after a kill, the stage that was running goes
on. The bundle has the same bytes either way.
"""

from __future__ import annotations

import inspect
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property, partial
from html import escape
from pathlib import Path
from typing import Any

from llmcdsr_lite.bundle.folder import BUNDLE
from llmcdsr_lite.errors import DataError, TrainingError, UsageError
from llmcdsr_lite.files import atomic_file, check_folder, writing
from llmcdsr_lite.recommender import Recommender
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.evaluation.table import format_measures, format_repeats
from llmcdsr_tools.pipeline.config_file import FitConfig, load_config
from llmcdsr_tools.pipeline.fit_config import EmbedTable
from llmcdsr_tools.pipeline.measures import Measures, read_measures
from llmcdsr_tools.pipeline.observer import FitObserver, StageOutcome
from llmcdsr_tools.pipeline.progress import fit_progress
from llmcdsr_tools.pipeline.stage_cache import complete, finished
from llmcdsr_tools.pipeline.stages import plan
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.setting_fields import Count, check_settings, from_keywords, usable_threads
from llmcdsr_tools.train.recipes import Recipe, TrainSettings, recipe_settings
from llmcdsr_tools.train.starting_model import read_starting_model
from llmcdsr_tools.word_vectors import WordEncoder

__all__ = ["FitObserver", "FitResult", "StageOutcome", "fit"]


@dataclass(frozen=True)
class FitResult:
    """What `fit` made.

    Parameters
    ----------
    bundle : Path
    stages : tuple of StageOutcome
        In order.
    metrics : Measures
        Of the test users, and of the validation users.
    config : FitConfig
        What was asked for.
    """

    bundle: Path
    stages: tuple[StageOutcome, ...]
    metrics: Measures
    config: FitConfig = field(repr=False)

    @cached_property
    def recommender(self) -> Recommender:
        """The bundle, loaded; `Recommender.save` writes it where it is to stay."""
        encoder = self.config.encoder or self.config.embed.encoder
        if encoder is None:
            encoder = WordEncoder.of_dataset(self.stages[0].output, self.config.embed.dimension)
        return Recommender.load(self.bundle, encoder=encoder)

    def report(self, path: str | Path | None = None) -> Path:
        """The report, an HTML page; copied to `path` if that is given."""
        made = self.stages[-1].output
        if path is None:
            return made
        with atomic_file(Path(path)) as temporary:
            shutil.copyfile(made, temporary)
        return Path(path)

    def table(self) -> str:
        """The measures of the test users as a table to read, and what they say, in words."""
        test = self.metrics.test
        refitted = any(stage.name == "refit" for stage in self.stages)
        note = ["Figures are of the model before it was trained again on all histories."] if refitted else []
        return "\n".join([format_measures(test), format_repeats(test), *self.metrics.verdicts, *note])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.table())}</pre>"


def fit(
    data: Dataset | FitConfig | str | Path,
    *,
    encoder: Any = None,
    recipe: Recipe = "best",
    members: int = 1,
    distill: bool = False,
    refit: bool | None = None,
    start_from: str | Path | None = None,
    threads: int = 1,
    work: str | Path | None = None,
    observer: FitObserver | None = None,
    **settings: Any,
) -> FitResult:
    """Run the pipeline.

    Parameters
    ----------
    data : Dataset, FitConfig, str or Path
        The data; or a configuration, or the TOML file that has it, which says all that stands below.
    encoder : str, Path or object, optional
        Encoder folder, or an object of model2vec, fastembed or the like, see `embed`; without one, titles are
        compared by their words.
    recipe : {"best", "official"}
        What ranks best, or the paper's.
    members : int
        Models to train, whose mean answers.
    distill : bool
        Train one more model on their scores, which answers in place of them.
    refit : bool, optional
        When all is measured, train again on all histories, held-out ones too, for as many epochs as were
        best; the measures are those of the model before. By default where the split is by time, as it is the
        newest interactions that were held out.
    start_from : str or Path, optional
        Bundle or run that training goes on from, such as yesterday's: items are matched by id, new ones start
        from their titles.
    threads : int
        Of matrix products and of the encoder. Another number may change the last bits of the result.
    work : str or Path, optional
        Folder of the stages' outputs. Without one they are kept in a temporary folder until the process ends;
        a call that was interrupted goes on when it is made again, either way.
    observer : FitObserver, optional
        Told how it goes. Without one, of a Dataset lines on a terminal or in a notebook tell of it.
    **settings
        Fields of `TrainSettings`, in place of the recipe's.

    Returns
    -------
    FitResult

    Raises
    ------
    LlmcdsrError
        What a stage raises; the stages before it stay done.

    Examples
    --------
    >>> result = fit(Dataset.from_interactions("events.csv", "items.csv"))  # doctest: +SKIP
    >>> result.recommender.save("bundle")  # doctest: +SKIP
    """
    if start_from is not None:
        start_from = _path("start_from", start_from, "the folder of a bundle or run")
    if isinstance(data, Dataset):
        models = _Models(recipe, members, distill, refit, start_from, threads)
        config = _config(data, encoder, models, work, settings)
        shows = sys.stderr.isatty() or "ipykernel" in sys.modules
        observer = observer or (fit_progress() if shows else FitObserver())
    else:
        if (
            settings
            or encoder is not None
            or work is not None
            or _Models(recipe, members, distill, refit, start_from, threads) != _Models()
        ):
            raise UsageError("a configuration says all; give a Dataset to set things in the call")
        expected = "a Dataset (Dataset.from_interactions makes one), a FitConfig, or a path to a TOML file"
        config = data if isinstance(data, FitConfig) else load_config(_path("data", data, expected))
    return _run(config, observer or FitObserver())


@dataclass(frozen=True)
class _Models:
    """What is trained, beside the fields of `TrainSettings`."""

    recipe: Recipe = "best"
    members: Count = 1
    distill: bool = False
    refit: bool | None = None
    start_from: Path | None = None
    threads: Count = 1

    def __post_init__(self) -> None:
        check_settings(self)


def _config(
    data: Dataset,
    encoder: Any,
    models: _Models,
    work: str | Path | None,
    settings: dict[str, Any],
) -> FitConfig:
    """The configuration that a call asks for."""
    given = {**asdict(models), **settings}
    is_folder = isinstance(encoder, (str, Path))
    if encoder is not None:
        given["encoder"] = str(encoder) if is_folder else type(encoder).__name__
    known = {*inspect.signature(fit).parameters, *(f.name for f in fields(TrainSettings))}
    train = from_keywords(partial(recipe_settings, models.recipe), settings, known)
    if models.start_from is not None:
        train = read_starting_model(models.start_from, members=models.members).sized(train)
    return FitConfig(
        "fit",
        f"fit(data, {', '.join(f'{name}={value!r}' for name, value in given.items())})\n",
        _path("work", _session_folder().name if work is None else work, "a folder"),
        data,
        encoder=None if is_folder else encoder,
        threads=usable_threads(models.threads),
        text_initialization=not train.pretrained_items,
        members=models.members,
        distill=models.distill,
        refit=models.refit,
        start_from=models.start_from,
        embed=EmbedTable(Path(encoder) if is_folder else None),
        pretrain=PretrainSettings(hidden=train.hidden),
        train=train,
    )


def _path(name: str, given: Any, expected: str) -> Path:
    try:
        return Path(given)
    except TypeError:
        raise UsageError(f"{name} is of the type {type(given).__name__}, expected {expected}") from None


@cache
def _session_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that is there until the process ends."""
    return tempfile.TemporaryDirectory(prefix="llmcdsr-fit-")


def _run(config: FitConfig, observer: FitObserver) -> FitResult:
    outcomes: list[StageOutcome] = []
    hashes: dict[str, str] = {}  # of the outputs
    _check_outputs(config)
    with _alone(config.work):
        for stage in plan(config, observer, outcomes):
            made_from = {read.name: hashes[read.name] for read in stage.after}
            before = finished(stage, made_from)
            if before is None:
                observer.started(stage)
            record = before or complete(stage, made_from)
            hashes[stage.name] = record.output_sha256
            outcomes.append(StageOutcome(stage.name, stage.output, before is not None, record.seconds))
            observer.done(outcomes[-1])
    made = {o.name: o.output for o in outcomes}
    metrics = read_measures(made["evaluate"])
    return FitResult(made.get("refit", made["export"]), tuple(outcomes), metrics, config)


def _check_outputs(config: FitConfig) -> None:
    """Refuse, before hours of work, to replace what `fit` did not make."""
    if config.bundle is not None:
        check_folder(config.bundle, BUNDLE, overwrite=True)
    if config.report is not None and config.report.is_dir():
        raise DataError(f"{config.report}: is a folder, expected the name of an HTML file")


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the working folder against another process; a process that dies lets go of it."""
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / ".lock").open("w")
    with lock as file:
        try:
            import fcntl
        except ImportError:  # Windows: two calls at once are the user's affair
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingError(f"{work}: another `llmcdsr fit` is working in this folder") from None
        yield
