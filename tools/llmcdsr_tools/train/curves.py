"""The plot of a training run: losses and validation HR@10 by epoch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import MissingDependencyError, install_hint
from llmcdsr_lite.files import atomic_file
from llmcdsr_tools.evaluation.official import N_NEGATIVES, ranked_among

if TYPE_CHECKING:
    from llmcdsr_tools.run_folder import EpochMetrics


def plot_curves(path: Path, epochs: Sequence[EpochMetrics], domains: Sequence[Domain]) -> None:
    """Draw the training loss and the validation measure of each target domain as an SVG.

    Parameters
    ----------
    path : Path
        Written atomically; the same numbers give the same bytes.
    epochs : sequence of EpochMetrics
    domains : sequence of Domain
        The targets; the legend says what their items are ranked among.

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
    for i in range(len(domains)):
        right.plot(numbers, [e.merits[i] for e in epochs], marker=".", label=str(i))
    sampled = epochs[-1].criterion == "sampled-hr"
    right.set(xlabel="epoch", ylabel=f"validation {epochs[-1].merit_name}")
    legend = right.legend(title="target domain")
    for text, domain in zip(legend.get_texts(), domains, strict=True):
        # put in afterwards: a line whose label starts with "_" gets no entry
        among = ranked_among(N_NEGATIVES, domain.n_items) if sampled else f"all {domain.n_items:,} items"
        text.set_text(f"{_drawable(domain.name)}, {among}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with (
        matplotlib.rc_context({"svg.hashsalt": "llmcdsr"}),
        warnings.catch_warnings(),
        atomic_file(path) as temporary,
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _drawable(name: str) -> str:
    """A name without what starts a formula, and without what XML cannot hold."""
    visible = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name
    )
    return visible.replace("$", r"\$")
