"""Line charts as SVG: no script, no font, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 230  # of a chart, in pixels
STYLE = """\
svg text { font-size: 11px; fill: #445; }
svg text.title { font-size: 13px; font-weight: 600; }
svg text.value { text-anchor: end; }
svg text.epoch { text-anchor: middle; }
svg text.label { fill: currentColor; font-weight: 600; }
svg .grid { stroke: #e6eaef; }
svg .kept { stroke: #889; stroke-dasharray: 3 3; }
"""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 30, 34
_COLORS = ("#1f6fb4", "#d1602d", "#3f8f4f", "#8a5aa8")
_N_TICKS = 4


@dataclass(frozen=True)
class Line:
    """One line of a chart; places without a finite value are left out.

    Parameters
    ----------
    label : str
    values : sequence of float
        One an epoch, from epoch 1.
    """

    label: str
    values: Sequence[float]


def line_chart(title: str, lines: Sequence[Line], *, mark: int | None = None) -> str:
    """Draw lines over epochs.

    Parameters
    ----------
    title : str
    lines : sequence of Line
    mark : int, optional
        An epoch to mark with a dashed line: the one that was kept.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    points = [v for line in lines for v in line.values if math.isfinite(v)]
    n_epochs = max((len(line.values) for line in lines), default=0)
    if not points:
        return f"<p>{escape(title)}: nothing to draw.</p>"
    low, high = min(points), max(points)
    if high == low:
        low, high = low - 0.5, high + 0.5

    def x(epoch: float) -> float:
        return _LEFT + (epoch - 1) / max(1, n_epochs - 1) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">',
        f'<text x="{_LEFT}" y="14" class="title">{escape(title)}</text>',
    ]
    for tick in range(_N_TICKS + 1):
        value = low + (high - low) * tick / _N_TICKS
        at = f"{y(value):.1f}"
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at}" y2="{at}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y(value) + 4:.1f}" class="value">{value:.3g}</text>')
    parts.extend(
        f'<text x="{x(epoch):.1f}" y="{HEIGHT - _BOTTOM + 15}" class="epoch">{epoch}</text>'
        for epoch in sorted({1, (1 + n_epochs) // 2, n_epochs})
    )
    if mark is not None:
        parts.append(
            f'<line x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" class="kept"/>'
        )
    for number, line in enumerate(lines):
        color = _COLORS[number % len(_COLORS)]
        drawn = [(x(e), y(v)) for e, v in enumerate(line.values, 1) if math.isfinite(v)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in drawn)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        if len(drawn) == 1:
            parts.append(f'<circle cx="{drawn[0][0]:.1f}" cy="{drawn[0][1]:.1f}" r="3" fill="{color}"/>')
        place = _LEFT + number * (WIDTH - _LEFT - _RIGHT) // max(2, len(lines))
        parts.append(
            f'<text x="{place}" y="{HEIGHT - 4}" style="color: {color}" class="label">'
            f"{escape(line.label)}</text>"
        )
    return "\n".join([*parts, "</svg>"])
