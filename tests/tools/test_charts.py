from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

from llmcdsr_tools.charts import Line, line_chart


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    lines = ElementTree.fromstring(svg).iter("polyline")
    return [[tuple(map(float, p.split(","))) for p in (e.get("points") or "").split()] for e in lines]  # type: ignore[misc]


def test_lines_are_drawn_to_scale() -> None:
    svg = line_chart("HR@10", [Line("food", [0.1, 0.3, 0.2]), Line("tools", [0.2, 0.2, 0.5])], mark=2)
    (food, tools) = points_of(svg)
    assert len(food) == len(tools) == 3
    xs = [x for x, _ in food]
    assert xs[1] - xs[0] == xs[2] - xs[1] > 0
    low, high = food[0][1], tools[2][1]  # the least value is at the bottom, the greatest at the top
    assert low == max(y for _, y in food + tools)
    assert high == min(y for _, y in food + tools)
    middle = food[1][1]  # 0.3 is half-way between 0.1 and 0.5
    assert math.isclose(middle, (low + high) / 2, abs_tol=0.11)
    (kept,) = [e for e in ElementTree.fromstring(svg).iter("line") if e.get("class") == "kept"]
    assert float(kept.get("x1") or 0) == xs[1]


def test_text_is_escaped() -> None:
    svg = line_chart("<b> & 'c'", [Line("</svg><script>", [1.0, 2.0])])
    texts = [e.text for e in ElementTree.fromstring(svg).iter("text")]
    assert "<b> & 'c'" in texts
    assert "</svg><script>" in texts


def test_places_without_a_value_are_left_out() -> None:
    (line,) = points_of(line_chart("t", [Line("a", [math.nan, 1.0, math.inf, 2.0])]))
    assert len(line) == 2


def test_one_value_and_equal_values_are_seen() -> None:
    svg = line_chart("t", [Line("a", [3.0])])
    assert len(list(ElementTree.fromstring(svg).iter("circle"))) == 1
    (line,) = points_of(line_chart("t", [Line("a", [3.0, 3.0])]))
    assert line[0][1] == line[1][1]


def test_nothing_to_draw() -> None:
    assert line_chart("t < u", []) == "<p>t &lt; u: nothing to draw.</p>"
    assert "<svg" not in line_chart("t", [Line("a", [math.nan])])
