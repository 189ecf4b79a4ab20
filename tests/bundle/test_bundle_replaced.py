"""Another bundle takes the place of one that is being read: what is read is one or the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.model.parameters import SASRecParameters


@pytest.fixture
def others(bundle_data: Bundle, build_bundle: Callable[[Bundle, Path], Path], tmp_path: Path) -> list[Path]:
    """Two bundles of the same sizes, with other ids, titles, counts and weights."""
    found = []
    for n in range(2):
        catalogue = bundle_data.catalogue
        catalogue = replace(catalogue, ids=[f"{n}-{one}" for one in catalogue.ids])
        parameters = bundle_data.parameters
        parameters = SASRecParameters(
            parameters.config, (1 + n) * parameters.item_embedding, (1 + n) * parameters.dense
        )
        bundle = replace(
            bundle_data, catalogue=catalogue, parameters=parameters, item_counts=n + bundle_data.item_counts
        )
        found.append(build_bundle(bundle, tmp_path / f"bundle-{n}"))
    return found


@pytest.mark.parametrize(
    "where", ["folder.check_files", "folder.read_strings", "folder.read_array", "folder.check_graph"]
)
def test_a_bundle_that_is_replaced_while_it_is_read(
    others: list[Path], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    swap_before(f"llmcdsr_lite.bundle.{where}", others, monkeypatch, times=1)
    found, expected = read_bundle(others[0]), read_bundle(others[0])
    assert found.catalogue.ids[0] == "1-f0"
    assert found.hashes == expected.hashes
    assert found.catalogue == expected.catalogue
    for name in ("item_vectors", "item_counts"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert np.array_equal(found.parameters.dense, expected.parameters.dense)


def swap_before(name: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let two folders change their names whenever a function is about to be called, so many times."""
    function, left = resolve_name(name), [None] * times

    def swapping(*arguments: Any) -> Any:
        if left:
            left.pop()
            first, second = folders
            first.rename(first.with_name("aside"))
            second.rename(first)
            first.with_name("aside").rename(second)
        return function(*arguments)

    monkeypatch.setattr(name, swapping)


def test_a_bundle_that_is_replaced_for_ever(others: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    swap_before("llmcdsr_lite.bundle.folder.check_graph", others, monkeypatch, times=10**6)
    with pytest.raises(BundleError, match=r"bundle-0: was replaced 5 times while it was read$"):
        read_bundle(others[0])


def test_a_bundle_that_is_replaced_before_its_session_is_made(
    others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    swap_before("llmcdsr_lite.recommender.make_backend", others, monkeypatch, times=1)
    found = Recommender.load(others[0]).recommend(["1-f1", "1-k2"])
    assert found == Recommender.load(others[0]).recommend(["1-f1", "1-k2"])
    assert not found.unknown_items
