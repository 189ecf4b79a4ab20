"""What `fit` tells of itself while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmcdsr_tools.pipeline.stage_cache import Stage
from llmcdsr_tools.pretrain.pretraining import PretrainObserver
from llmcdsr_tools.train.members import quiet
from llmcdsr_tools.train.training import Observer


@dataclass(frozen=True)
class StageOutcome:
    """How one stage of a call went.

    Parameters
    ----------
    name : str
    output : Path
    cached : bool
        Whether there was nothing to do.
    seconds : float
        Of the call that made the output.
    """

    name: str
    output: Path
    cached: bool
    seconds: float


class FitObserver:
    """Told how the pipeline goes; does nothing, override what you need.

    `members` makes the observer of each member of several; it is sent to other processes.
    """

    members = staticmethod(quiet)
    training: Observer | None = None
    pretraining: PretrainObserver | None = None

    def started(self, stage: Stage) -> None:
        """Take note of a stage that will run."""

    def done(self, outcome: StageOutcome) -> None:
        """Take note of a stage that is done, or was so before."""

    def progress(self, done: int, of: int) -> None:
        """Take note of how far a stage is that counts texts or users."""

    def warning(self, message: str) -> None:
        """Take note of something asked for that cannot be had; the pipeline goes on without it."""
