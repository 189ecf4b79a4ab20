from __future__ import annotations

import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_summary import describe, format_summary


def small() -> Dataset:
    """Rows 1..3 are of food, 4..5 of tools."""
    catalogue = Catalogue.from_sizes(list("abcde"), ["A", "", "C", "D", "E"], ("food", "tools"), (3, 2))
    train = Histories.from_lists([[1, 2], [4, 5, 4], [1, 4], [], [3]], list("vwxyz"))
    valid = Histories.from_lists([[1, 4, 2]], ["p"])
    test = Histories.from_lists([[5, 1], [2, 3]], ["q", "é"])
    return Dataset(catalogue, train, valid, test)


def test_readable_summary_has_the_numbers() -> None:
    lines = format_summary(small()).splitlines()
    assert lines[0].split() == ["items", "all", "untitled"]
    assert lines[1].split() == ["food", "3", "1"]
    assert lines[2].split() == ["tools", "2", "0"]
    assert ["interactions", "8", "3", "4"] in [line.split() for line in lines]
    assert lines[-1] == "training density 32.0000%"


def test_figures_by_hand() -> None:
    found = describe(small())
    assert found["domains"] == [
        {"name": "food", "items": 3, "untitled": 1},
        {"name": "tools", "items": 2, "untitled": 0},
    ]
    assert found["density"] == pytest.approx(8 / 25)
    assert [found[split]["interactions"] for split in ("train", "valid", "test")] == [8, 3, 4]
