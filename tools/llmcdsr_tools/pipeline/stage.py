"""The whole pipeline, `fit`: from interactions to a bundle and a report, as one configuration says.

The stages (`plan`) are kept by the hash of what they are made from (`stage_cache`). A second call does
nothing; after a change, the stages that depend on it run; after a kill, the stage that was running goes
on. The bundle has the same bytes either way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmcdsr_lite.bundle.folder import BUNDLE
from llmcdsr_lite.errors import DataError, TrainingError
from llmcdsr_lite.files import check_folder
from llmcdsr_tools.pipeline.config import FitConfig, load_config
from llmcdsr_tools.pipeline.measures import Measures, read_measures
from llmcdsr_tools.pipeline.observer import FitObserver, StageOutcome
from llmcdsr_tools.pipeline.plan import plan
from llmcdsr_tools.pipeline.stage_cache import complete, finished

__all__ = ["FitObserver", "FitResult", "StageOutcome", "fit"]


@dataclass(frozen=True)
class FitResult:
    """What `fit` made.

    Parameters
    ----------
    bundle, report : Path
    stages : tuple of StageOutcome
        In order.
    measures : Measures
        Of the test users.
    """

    bundle: Path
    report: Path
    stages: tuple[StageOutcome, ...]
    measures: Measures


def fit(config: str | Path | FitConfig, *, observer: FitObserver | None = None) -> FitResult:
    """Run the pipeline.

    Parameters
    ----------
    config : str or Path or FitConfig
        The configuration, or the file that has it.
    observer : FitObserver, optional

    Returns
    -------
    FitResult

    Raises
    ------
    LlmcdsrError
        What a stage raises; the stages before it stay done.
    """
    config = config if isinstance(config, FitConfig) else Path(config)
    config = load_config(config) if isinstance(config, Path) else config
    observer = observer or FitObserver()
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
    return FitResult(config.bundle, config.report, tuple(outcomes), read_measures(made["evaluate"]))


def _check_outputs(config: FitConfig) -> None:
    """Refuse, before hours of work, to replace what `fit` did not make."""
    bundle, report = config.bundle, config.report
    check_folder(bundle, BUNDLE, overwrite=True)
    if report.is_dir():
        raise DataError(f"{report}: is a folder, expected the name of an HTML file")


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the working folder against another process; a process that dies lets go of it."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("w") as file:
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
