"""What the commands of several stages share: options, the missing extra, and progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from llmcdsr_lite.errors import MissingDependencyError, install_hint

if TYPE_CHECKING:
    from llmcdsr_tools.run import EpochMetrics
    from llmcdsr_tools.train.stage import Observer

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there.")


def needs_train_extra(function: Callable[..., Any]) -> Callable[..., Any]:
    """Say which installation brings a package that is missing."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"this command needs {error.name}: {install_hint('train')}"
            ) from None

    return run


def training_progress() -> Observer:
    """One line an epoch, and on a terminal a bar within it."""
    from llmcdsr_tools.train.stage import Observer

    class Progress(Observer):
        def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
            if sys.stderr.isatty() and (step % 10 == 0 or step == n_steps):
                bar = "#" * (30 * step // n_steps)
                click.echo(f"\repoch {epoch} [{bar:<30}] loss {loss:.4f} ", nl=False, err=True)

        def epoch(self, metrics: EpochMetrics, improved: list[str]) -> None:
            a, b = metrics.hr10
            start = "\r\033[K" if sys.stderr.isatty() else ""
            click.echo(
                f"{start}epoch {metrics.epoch}: loss {metrics.loss:.4f}, validation HR@10 {a:.4f} (A) "
                f"{b:.4f} (B), {metrics.seconds:.1f} s{' *' if 'best' in improved else ''}",
                err=True,
            )

    return Progress()
