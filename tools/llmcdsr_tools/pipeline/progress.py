"""What the commands tell while they work: a line an epoch or a stage, and counts on a terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from llmcdsr_tools.pipeline.observer import FitObserver, StageOutcome
    from llmcdsr_tools.pipeline.stage_cache import Stage
    from llmcdsr_tools.pretrain.domain_training import DomainEpoch
    from llmcdsr_tools.pretrain.pretraining import PretrainObserver
    from llmcdsr_tools.run_folder import EpochMetrics
    from llmcdsr_tools.train.starting_model import Start
    from llmcdsr_tools.train.training import Observer


@contextmanager
def _status_line() -> Iterator[Callable[[str], None] | None]:
    """A line that is written again and again, with the seconds; None where stderr is no terminal.

    The line is ended before anything else is said, an error included.
    """
    if not sys.stderr.isatty():
        yield None
        return
    start = time.perf_counter()
    shown = False

    def show(text: str) -> None:
        nonlocal shown
        shown = True
        click.echo(f"\r\033[K{text}, {time.perf_counter() - start:,.0f} s ", nl=False, err=True)

    try:
        yield show
    finally:
        if shown:
            click.echo(err=True)


@contextmanager
def counter(what: str) -> Iterator[Callable[..., None] | None]:
    """A status line that takes how many are done and, where it is known, of how many."""

    def text(done: int, n: int | None = None) -> str:
        return f"{done:,}{'' if n is None else f' of {n:,}'} {what}"

    with _status_line() as show:
        yield None if show is None else lambda *count: show(text(*count))


@contextmanager
def percentage() -> Iterator[Callable[[str, float], None] | None]:
    """A status line that takes what is done and how many per cent of it are."""
    with _status_line() as show:
        yield None if show is None else lambda what, percent: show(f"{what}: {percent:.0f} %")


def training_progress() -> Observer:
    """One line an epoch, and on a terminal a bar within it."""
    return member_progress(0)


def member_progress(member: int) -> Observer:
    """The same for a member of several, whose lines begin with its number; 0 is the only model."""
    from llmcdsr_tools.train.training import Observer

    class Progress(Observer):
        def started(self, start: Start) -> None:
            of = f"member {member}, " if member else ""
            click.echo(
                f"{of}start from {start.path}: {start.n_kept:,} items as they were, {start.n_new:,} new, "
                f"{start.n_gone:,} gone",
                err=True,
            )

        def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
            if not member and sys.stderr.isatty() and (step % 10 == 0 or step == n_steps):
                bar = "#" * (30 * step // n_steps)
                click.echo(f"\repoch {epoch} [{bar:<30}] loss {loss:.4f} ", nl=False, err=True)

        def epoch(self, metrics: EpochMetrics, improved: list[str]) -> None:
            merits = " / ".join(f"{merit:.4f}" for merit in metrics.merits)  # in the order of the domains
            nothing = math.isnan(metrics.merit)  # is held out
            validation = "" if nothing else f"validation {metrics.merit_name} {merits}, "
            is_best = "best" in improved and not nothing
            start = f"member {member}, " if member else "\r\033[K" if sys.stderr.isatty() else ""
            click.echo(
                f"{start}epoch {metrics.epoch}: loss {metrics.loss:.4f}, "
                f"{validation}{metrics.seconds:.1f} s{' *' if is_best else ''}",
                err=True,
            )

    return Progress()


def pretraining_progress() -> PretrainObserver:
    """One line an epoch."""
    from llmcdsr_tools.pretrain.pretraining import PretrainObserver

    class Progress(PretrainObserver):
        def epoch(self, domain: str, metrics: DomainEpoch, improved: bool) -> None:
            click.echo(
                f"{domain}, epoch {metrics.epoch}: loss {metrics.loss:.4f}, contrastive "
                f"{metrics.contrastive:.4f}, validation HR@10 {metrics.hr10:.4f}, title's median rank "
                f"{metrics.title_rank:g}, {metrics.seconds:.1f} s{' *' if improved else ''}",
                file=sys.stderr,
            )

    return Progress()


def fit_progress() -> FitObserver:
    """What every stage tells of itself."""
    from llmcdsr_tools.pipeline.observer import FitObserver

    class Progress(FitObserver):
        members = staticmethod(member_progress)
        training = training_progress()
        pretraining = pretraining_progress()

        def started(self, stage: Stage) -> None:
            click.echo(f"{stage.name} ...", err=True)

        def done(self, outcome: StageOutcome) -> None:
            how = "done before" if outcome.cached else f"{outcome.seconds:.1f} s"
            click.echo(f"{outcome.name}: {how}", err=True)

        def progress(self, done: int, of: int) -> None:
            if sys.stderr.isatty():
                click.echo(f"\r{done:,} of {of:,} ", nl=done == of, err=True)

        def warning(self, message: str) -> None:
            click.echo(f"warning: {message}", err=True)

    return Progress()
