from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from llmcdsr_tools.run import EpochMetrics
from llmcdsr_tools.train.curves import plot_curves

EPOCHS = [EpochMetrics(n, 1 / n, 0.1, (0.1 * n, math.nan), (0.05, math.nan)) for n in (1, 2, 3)]


def test_is_an_svg_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("1.svg", "2.svg"):
        plot_curves(tmp_path / name, EPOCHS, ("food", "tools"))
    content = (tmp_path / "1.svg").read_bytes()
    assert content == (tmp_path / "2.svg").read_bytes()
    assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    comments = content.decode()
    for text in ("food", "tools", "training loss", "validation HR@10, 999 negatives", "target domain"):
        assert f"<!-- {text} -->" in comments
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.svg", "2.svg"]


def test_the_curve_follows_the_numbers(tmp_path: Path) -> None:
    plot_curves(tmp_path / "a.svg", EPOCHS, ("food", "tools"))
    other = [*EPOCHS[:2], EpochMetrics(3, 0.9, 0.1, (0.3, 0.2), (0.05, 0.1))]
    plot_curves(tmp_path / "b.svg", other, ("food", "tools"))
    assert (tmp_path / "a.svg").read_bytes() != (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("name", ["price in $", r"$\nothing$", "_hidden", "食品", "a<b&c"])
def test_any_name_of_a_domain_can_be_drawn(tmp_path: Path, name: str) -> None:
    """Training must not end, or warn, because of what a domain is called."""
    plot_curves(tmp_path / "c.svg", EPOCHS, (name, "tools"))
    ElementTree.parse(tmp_path / "c.svg")
