from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from llmcdsr_lite.catalogue import Domain
from llmcdsr_tools.run_folder import EpochMetrics
from llmcdsr_tools.train.curves import plot_curves

EPOCHS = [
    EpochMetrics(n, 1 / n, 0.1, (0.1 * n, math.nan), (0.05, math.nan), criterion="sampled-hr")
    for n in (1, 2, 3)
]

DOMAINS = (Domain("food", 1, 416), Domain("tools", 416, 2000))


def texts_of(path: Path) -> list[str | None]:
    return [element.text for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_is_an_svg_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("1.svg", "2.svg"):
        plot_curves(tmp_path / name, EPOCHS, DOMAINS)
    content = (tmp_path / "1.svg").read_bytes()
    assert content == (tmp_path / "2.svg").read_bytes()
    assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    texts = texts_of(tmp_path / "1.svg")
    for text in (
        "food, all 414 others",
        "tools, 999 negatives",
        "training loss",
        "validation HR@10",
        "target domain",
    ):
        assert text in texts
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.svg", "2.svg"]


def test_without_validation_there_is_the_loss_alone(tmp_path: Path) -> None:
    nan = (math.nan, math.nan)
    plot_curves(tmp_path / "c.svg", [replace(e, hr10=nan, ndcg10=nan) for e in EPOCHS], DOMAINS)
    assert "training loss" in texts_of(tmp_path / "c.svg")
    assert not [text for text in texts_of(tmp_path / "c.svg") if text and "validation" in text]
    tags = {element.tag.split("}")[1] for element in ElementTree.parse(tmp_path / "c.svg").iter()}
    assert tags <= {"svg", "style", "rect", "line", "text", "polyline", "circle"}


def test_whole_domains_are_told(tmp_path: Path) -> None:
    plot_curves(tmp_path / "c.svg", [replace(e, criterion="ndcg") for e in EPOCHS], DOMAINS)
    texts = texts_of(tmp_path / "c.svg")
    for text in ("food, all 415 items", "tools, all 1,584 items", "validation NDCG@10"):
        assert text in texts


def test_every_domain_has_a_curve(tmp_path: Path) -> None:
    domains = (*DOMAINS, Domain("garden", 2000, 2010))
    for n in (1, 2, 3):
        epochs = [EpochMetrics(e, 1 / e, 0.1, (0.1 * e,) * n, (0.05,) * n) for e in (1, 2)]
        plot_curves(tmp_path / "c.svg", epochs, domains[:n])
        texts = texts_of(tmp_path / "c.svg")
        names = ("food, all 415 items", "tools, all 1,584 items", "garden, all 10 items")
        assert [name in texts for name in names] == [i < n for i in range(3)]


def test_the_curve_follows_the_numbers(tmp_path: Path) -> None:
    plot_curves(tmp_path / "a.svg", EPOCHS, DOMAINS)
    other = [*EPOCHS[:2], replace(EPOCHS[2], hr10=(0.3, 0.2))]
    plot_curves(tmp_path / "b.svg", other, DOMAINS)
    assert (tmp_path / "a.svg").read_bytes() != (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    "name", ["price in $", r"$\nothing$", "_hidden", "食品", "a<b&c", "a\0b", "\x1b", "\ud800", ""]
)
def test_any_name_of_a_domain_can_be_drawn(tmp_path: Path, name: str) -> None:
    """Training must not end, or warn, because of what a domain is called."""
    plot_curves(tmp_path / "c.svg", EPOCHS, (replace(DOMAINS[0], name=name), DOMAINS[1]))
    ElementTree.parse(tmp_path / "c.svg")


def test_a_name_with_an_underscore_is_in_the_legend(tmp_path: Path) -> None:
    plot_curves(tmp_path / "c.svg", EPOCHS, (replace(DOMAINS[0], name="_food"), DOMAINS[1]))
    assert "_food, all 414 others" in texts_of(tmp_path / "c.svg")
