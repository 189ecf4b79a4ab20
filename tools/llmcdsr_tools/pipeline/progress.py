"""What the commands tell while they work: a line an epoch or a stage, and counts on a terminal."""

from __future__ import annotations

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
def counter(what: str) -> Iterator[Callable[..., None] | None]:
    """A line on a terminal that counts up; nothing where stderr is none.

    What is yielded takes how many are done and, where it is known, of how many. The line is ended before
    anything else is said, an error included.
    """
    if not sys.stderr.isatty():
        yield None
        return
    start = time.perf_counter()
    shown = False

    def show(done: int, n: int | None = None) -> None:
        nonlocal shown
        shown = True
        of = "" if n is None else f" of {n:,}"
        seconds = time.perf_counter() - start
        click.echo(f"\r{done:,}{of} {what}, {seconds:,.0f} s ", nl=False, err=True)

    try:
        yield show
    finally:
        if shown:
            click.echo(err=True)


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
            start = f"member {member}, " if member else "\r\033[K" if sys.stderr.isatty() else ""
            click.echo(
                f"{start}epoch {metrics.epoch}: loss {metrics.loss:.4f}, validation {metrics.merit_name} "
                f"{merits}, {metrics.seconds:.1f} s{' *' if 'best' in improved else ''}",
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
