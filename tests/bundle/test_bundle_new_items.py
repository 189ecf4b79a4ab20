"""What makes vectors of new items in a bundle: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_damage import edit_config, npy, put, refusal, set_field

from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.text.title_neighbours import TitleMap


@pytest.fixture(scope="module")
def written(
    bundle_data: Bundle,
    title_map: TitleMap,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("new_items") / "bundle"
    return build_bundle(replace(bundle_data, new_items=replace(title_map, added=(0, 2))), folder)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def test_round_trip(written: Path, title_map: TitleMap) -> None:
    found = read_bundle(written).new_items
    assert found is not None
    assert np.array_equal(found.components, title_map.components)
    assert np.array_equal(found.directions, title_map.directions)
    assert isinstance(found.directions, np.memmap)
    assert found.weighings == title_map.weighings
    assert (found.n_neighbours, found.added, found.dimension) == (5, (0, 2), 7)
    config = json.loads((written / "config.json").read_text())
    assert config["new_items"]["text"] == 7
    assert sorted(p.name for p in written.iterdir()) == sorted(["config.json", *config["files"]])


def test_a_bundle_without(bundle_folder: Path) -> None:
    assert read_bundle(bundle_folder).new_items is None


@pytest.mark.parametrize("name", ["title_components.npy", "title_directions.npy"])
def test_all_files_or_none(folder: Path, name: str) -> None:
    edit_config(folder, lambda config: config["files"].pop(name))
    assert f"field 'files' does not list {name}, which 'new_items' needs" in refusal(folder)


DIRECTIONS = np.zeros((31, 4), np.int8)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("title_components.npy", np.zeros((7, 4), np.float32), "shape (7, 4), expected float32 (8, 4)"),
        ("title_components.npy", np.zeros((8, 5), np.float32), "shape (8, 5), expected float32 (8, 4)"),
        ("title_components.npy", np.zeros((8, 4)), "float64 array"),
        ("title_components.npy", np.full((8, 4), np.nan, np.float32), "not finite"),
        ("title_directions.npy", DIRECTIONS[1:], "shape (30, 4), expected int8 (31, 4)"),
        ("title_directions.npy", DIRECTIONS.astype(np.uint8), "uint8 array"),
        ("title_directions.npy", DIRECTIONS + np.int8(1), "row 0 is padding and must be zero"),
    ],
)
def test_wrong_array_with_the_right_hash(folder: Path, name: str, array: Any, reason: str) -> None:
    put(folder, name, npy(array))
    message = refusal(folder)
    assert message.startswith(f"{folder / name}: ")
    assert reason in message


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (["new_items"], [], "field 'new_items' must be an object"),
        (["new_items"], None, "lists title_components.npy, but has no field 'new_items'"),
        (["new_items", "text"], 0, "field 'text' is 0"),
        (["new_items", "size"], 10**9, "field 'size' is 1000000000"),
        (["new_items", "neighbours"], None, "field 'neighbours' is None"),
        (["new_items", "added"], [0], "field 'new_items.added' is [0], expected numbers below those of"),
        (["new_items", "added"], [12, 0], "below those of each domain's items"),
        (["new_items", "added"], [0, -1], "new_items.added"),
        (["new_items", "added"], [0, True], "new_items.added"),
        (["new_items", "weighings"], {}, "'new_items.weighings' must list 2 domains"),
        (["new_items", "weighings", 0], 3, "must hold objects with a 'validation'"),
        (["new_items", "weighings", 0, "validation"], [], "must hold objects with a 'validation'"),
        (["new_items", "weighings", 1, "sharpness"], 0.0, "'sharpness' is 0.0, expected a number above 0"),
        (["new_items", "weighings", 1, "sharpness"], float("nan"), "NaN is not finite"),
        (["new_items", "weighings", 1, "scale"], float("inf"), "Infinity is not finite"),
        (["new_items", "weighings", 1, "scale"], None, "'scale' is None"),
    ],
)
def test_wrong_field(folder: Path, keys: list[Any], value: Any, reason: str) -> None:
    set_field(folder, keys, value)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert reason in message
