"""The plot of a training run: losses and validation HR@10 by epoch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmcdsr_lite.errors import MissingDependencyError, install_hint
from llmcdsr_lite.files import atomic_file

if TYPE_CHECKING:
    from llmcdsr_tools.run import EpochMetrics


def plot_curves(path: Path, epochs: Sequence[EpochMetrics], domains: tuple[str, ...]) -> None:
    """Draw the training loss and the validation HR@10 of each target domain as an SVG.

    Parameters
    ----------
    path : Path
        Written atomically; the same numbers give the same bytes.
    epochs : sequence of EpochMetrics
    domains : tuple of str
        Names of domain A and B.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(f"{error}: {install_hint('train')}") from None
    numbers = [e.epoch for e in epochs]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(numbers, [e.loss for e in epochs], color="tab:gray", marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    for i, name in enumerate(domains):
        label = name.replace("$", r"\$")  # not the start of a formula
        right.plot(numbers, [e.hr10[i] for e in epochs], marker=".", label=label)
    right.set(xlabel="epoch", ylabel="validation HR@10, 999 negatives")
    right.legend(title="target domain")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with (
        matplotlib.rc_context({"svg.hashsalt": "llmcdsr"}),
        warnings.catch_warnings(),
        atomic_file(path) as temporary,
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        figure.savefig(temporary, format="svg", metadata={"Date": None})
