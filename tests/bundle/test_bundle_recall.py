"""A recall network in a bundle: what is written is read, and nothing else is."""

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

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.bundle.recall import PROJECTIONS, RECALL_FILES
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.recall import RecallNetwork

FILES = (*RECALL_FILES, PROJECTIONS)
MIXES = (
    DomainMix(cold=ExpertWeights(similar=0.1), validation={"gain": 0.25}, source="both", n_recalled=5),
    DomainMix(named=ExpertWeights(similar=2.0, inserted=0.5)),
)


@pytest.fixture(scope="module")
def written(
    bundle_data: Bundle,
    recall_network: RecallNetwork,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    bundle = replace(bundle_data, recall=recall_network, mix=MIXES)
    return build_bundle(bundle, tmp_path_factory.mktemp("recall") / "bundle")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def test_round_trip(written: Path, recall_network: RecallNetwork) -> None:
    bundle = read_bundle(written)
    assert bundle.recall is not None
    for name in ("names", "items", "poolers", "projections"):
        found = getattr(bundle.recall, name)
        assert isinstance(found, np.memmap)
        assert np.array_equal(found, getattr(recall_network, name))
    assert bundle.mix == MIXES
    config = json.loads((written / "config.json").read_text())
    assert (config["recall"]["hidden"], config["recall"]["text"]) == (5, 7)
    assert bundle.recall.title_lengths == tuple(config["recall"]["title_lengths"]) == (1.5, 2.5)
    assert set(FILES) < set(config["files"])
    assert sorted(p.name for p in written.iterdir()) == sorted(["config.json", *config["files"]])


def test_projections_may_be_left_out(
    bundle_data: Bundle,
    recall_network: RecallNetwork,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path: Path,
) -> None:
    bundle = replace(bundle_data, recall=replace(recall_network, projections=None))
    folder = build_bundle(bundle, tmp_path / "bundle")
    found = read_bundle(folder)
    assert found.recall is not None
    assert found.recall.projections is None
    assert found.mix == (DomainMix(), DomainMix())
    assert not (folder / PROJECTIONS).exists()


def test_a_bundle_may_have_none(bundle_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    assert read_bundle(folder).recall is None
    assert Recommender.load(folder).recommend(["f1"], domain="kitchen", explain=True)


@pytest.mark.parametrize("name", FILES)
def test_all_files_or_none(folder: Path, name: str) -> None:
    edit_config(folder, lambda config: config["files"].pop(name))
    assert f"field 'files' does not list {name}, which 'recall" in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_missing_changed_or_grown(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refusal(folder).startswith(f"{folder / name}: SHA-256 is")
    (folder / name).write_bytes(content + b"x")
    assert refusal(folder).startswith(f"{folder / name}: {len(content) + 1} bytes, expected")
    (folder / name).unlink()
    assert refusal(folder).startswith(f"{folder / name}: is missing")


ITEMS = np.zeros((31, 5), np.float32)
ITEMS[1:, 2] = -1
LONG = ITEMS.copy()
LONG[7] *= 1.1
NOT_FINITE = ITEMS.copy()
NOT_FINITE[7, 0] = np.nan


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("recall_names.npy", ITEMS[None, :-1], "shape (1, 30, 5), expected float32 (1, 31, 5)"),
        ("recall_names.npy", ITEMS, "shape (31, 5), expected float32 (1, 31, 5)"),
        ("recall_names.npy", ITEMS[None] - 1, "row 0 is padding and must be zero"),
        ("recall_names.npy", NOT_FINITE[None], "not finite"),
        ("recall_items.npy", ITEMS.astype(float), "float64 array"),
        ("recall_items.npy", ITEMS - 1, "row 0 is padding and must be zero"),
        ("recall_items.npy", LONG, "row 7 has length 1.1, expected 1 (or 0)"),
        ("recall_items.npy", NOT_FINITE, "not finite"),
        ("recall_poolers.npy", ITEMS[:1], "shape (1, 5), expected float32 (2, 5)"),
        ("recall_poolers.npy", NOT_FINITE[6:8], "not finite"),
        ("recall_projections.npy", np.ones((2, 5, 8), np.float32), "expected float32 (2, 5, 7)"),
        ("recall_projections.npy", np.full((2, 5, 7), np.inf, np.float32), "not finite"),
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
        (["recall"], [], "field 'recall' must be an object"),
        (["recall"], None, "lists recall_names.npy, but has no field 'recall'"),
        (["recall", "hidden"], 0, "field 'hidden' is 0"),
        (["recall", "hidden"], 10**9, "field 'hidden' is 1000000000"),
        (["recall", "text"], True, "field 'text' is True"),
        (["recall", "text"], None, "lists recall_projections.npy, but field 'recall.text' is not set"),
        (["recall", "title_lengths"], [1.0], "field 'recall.title_lengths' is [1.0], expected 2 lengths"),
        (["recall", "title_lengths"], [1.0, 0.0], "title_lengths"),
        (["recall", "title_lengths"], [1.0, float("nan")], "NaN is not finite"),
        (["recall", "title_lengths"], [1.0, True], "title_lengths"),
        (["recall", "title_lengths"], None, "title_lengths"),
        (["mix"], None, "has a recall network, but no field 'mix'"),
        (["mix", 0, "source"], "hearsay", "source is 'hearsay'"),
        (["mix", 0, "n_recalled"], 10**9, "n_recalled is 1000000000"),
        (["mix", 0, "cold", "similar"], float("nan"), "NaN is not finite"),
        (["mix", 0, "cold", "inserted"], None, "inserted is None"),
        (["mix", 0, "warm", "similar"], 1.0, "warm is model + similar 1, expected weights of"),
        (["mix", 1, "named", "similar"], -1.0, "similar is -1.0"),
        (["mix", 1, "named", "next"], 1.0, "expected weights of pseudo items alone"),
        (["mix", 1, "named"], None, "field 'mix'"),
    ],
)
def test_wrong_field(folder: Path, keys: list[Any], value: Any, reason: str) -> None:
    set_field(folder, keys, value)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert reason in message


def test_pseudo_items_need_a_recall_network(folder: Path) -> None:
    def without(config: dict[str, Any]) -> None:
        del config["recall"]
        for name in FILES:
            del config["files"][name]

    edit_config(folder, without)
    assert "field 'mix' weighs pseudo items, but there is no recall network" in refusal(folder)
