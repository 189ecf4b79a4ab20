"""The plot of a training run: losses and the validation measure by epoch."""

from __future__ import annotations

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
    """Draw the training loss and the validation measure of each target domain as an SVG.

    Parameters
    ----------
    path : Path
        Written atomically; the same numbers give the same bytes.
    epochs : sequence of EpochMetrics
    domains : sequence of Domain
        The targets; the legend says what their items are ranked among.
    """
    sampled = epochs[-1].criterion == "sampled-hr"
    names = [_drawable(domain.name) for domain in domains]
    loss = line_chart("training loss", [Line("", [e.loss for e in epochs])])
    measure = line_chart(
        f"validation {epochs[-1].merit_name}",
        [Line(name, [e.merits[i] for e in epochs]) for i, name in enumerate(names)],
    )
    legend = ["target domain"]
    for name, domain in zip(names, domains, strict=True):
        among = ranked_among(N_NEGATIVES, domain.n_items) if sampled else f"all {domain.n_items:,} items"
        legend.append(f"{name}, {among}")
    height = HEIGHT + _ROW * (len(legend) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{height}" '
        'font-family="sans-serif">',
        f"<style>\n{STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        loss,
        f'<g transform="translate({WIDTH})">\n{measure}\n</g>',
    ]
    parts.extend(
        f'<text x="{WIDTH}" y="{HEIGHT + _ROW * row}">{escape(text)}</text>'
        for row, text in enumerate(legend, 1)
    )
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def _drawable(name: str) -> str:
    """A name without what XML cannot hold."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name
    )
