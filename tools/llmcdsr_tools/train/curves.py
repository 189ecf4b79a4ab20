"""The plot of a training run: losses and the validation measure by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.files import atomic_file
from llmcdsr_tools.charts import HEIGHT, STYLE, WIDTH, Line, line_chart
from llmcdsr_tools.evaluation.official import N_NEGATIVES, ranked_among

if TYPE_CHECKING:
    from llmcdsr_tools.run_folder import EpochMetrics

_ROW = 16  # height of a line of the legend, in pixels


def plot_curves(path: Path, epochs: Sequence[EpochMetrics], domains: Sequence[Domain]) -> None:
    """Draw the training loss and, where it was measured, validation of each target domain as an SVG.

    Parameters
    ----------
    path : Path
        Written atomically; the same numbers give the same bytes.
    epochs : sequence of EpochMetrics
    domains : sequence of Domain
        The targets; the legend says what their items are ranked among.
    """
    loss = line_chart("training loss", [Line("", [e.loss for e in epochs])])
    measured = any(math.isfinite(e.merit) for e in epochs)
    validation = _validation(epochs, domains) if measured else []
    width, height = WIDTH * (1 + measured), HEIGHT + measured * _ROW * (len(domains) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif">',
        f"<style>\n{STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        loss,
        *validation,
        "</svg>\n",
    ]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _validation(epochs: Sequence[EpochMetrics], domains: Sequence[Domain]) -> list[str]:
    """The chart of validation, right of that of the loss, and what each domain is ranked among."""
    sampled = epochs[-1].criterion == "sampled-hr"
    names = [_drawable(domain.name) for domain in domains]
    lines = [Line(name, [e.merits[i] for e in epochs]) for i, name in enumerate(names)]
    legend = ["target domain"]
    for name, domain in zip(names, domains, strict=True):
        among = ranked_among(N_NEGATIVES, domain.n_items) if sampled else f"all {domain.n_items:,} items"
        legend.append(f"{name}, {among}")
    chart = line_chart(f"validation {epochs[-1].merit_name}", lines)
    texts = (
        f'<text x="{WIDTH}" y="{HEIGHT + _ROW * row}">{escape(text)}</text>'
        for row, text in enumerate(legend, 1)
    )
    return [f'<g transform="translate({WIDTH})">\n{chart}\n</g>', *texts]


def _drawable(name: str) -> str:
    """A name without what XML cannot hold."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name
    )
