from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_tools.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_model,
    load_poolers,
    save_checkpoint,
    save_model,
)

CONFIG = SASRecConfig(n_items=5, hidden=4, n_blocks=1, n_heads=2, max_length=3, dropout=0.25)


def test_round_trip(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, 2], dtype=np.int8), "c": np.zeros((0, 2))}
    description = {"epoch": 3, "nested": {"list": [1.5, None, "é"]}, "infinite": float("-inf")}
    save_checkpoint(tmp_path / "c.npz", Checkpoint(arrays, description))
    found = load_checkpoint(tmp_path / "c.npz")
    assert found.description == description
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, description in (("1", {"a": 1, "b": 2}), ("2", {"b": 2, "a": 1})):
        save_checkpoint(tmp_path / name, Checkpoint({"x": np.arange(3)}, description))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_model_round_trip(tmp_path: Path) -> None:
    parameters = SASRecParameters.initial(CONFIG, np.random.default_rng(0))
    save_model(tmp_path / "m.npz", parameters, {"epoch": 7})
    found, description = load_model(tmp_path / "m.npz")
    assert found.config == CONFIG
    assert description["epoch"] == 7
    assert np.array_equal(found.dense, parameters.dense)
    assert np.array_equal(found.item_embedding, parameters.item_embedding)


def refused(path: Path, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    refused(path, "no such file; is this the folder of a training run?")
    for content in (b"", b"hello", b"PK\x03\x04 not really"):
        path.write_bytes(content)
        refused(path, "damaged checkpoint")
    np.savez(path, a=np.zeros(3))
    refused(path, "damaged checkpoint")
    np.savez(path, description=np.frombuffer(b"{", dtype=np.uint8))
    refused(path, "damaged checkpoint")
    np.savez(path, description=np.array([None]))
    refused(path, "damaged checkpoint")


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "m.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    refused(tmp_path / "m.npz", "damaged checkpoint")


def test_every_cut_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    save_model(path, SASRecParameters.initial(CONFIG, np.random.default_rng(0)), {"epoch": 7})
    content = path.read_bytes()
    for n in range(0, len(content), 97):
        path.write_bytes(content[:n])
        refused(path, "damaged checkpoint")


def test_flipped_bytes_of_an_array_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    parameters = SASRecParameters.initial(CONFIG, np.random.default_rng(0))
    save_model(path, parameters, {"epoch": 7})
    content = path.read_bytes()
    place = content.index(parameters.dense[:8].tobytes())
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    refused(path, "damaged checkpoint")


def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """What zipfile, its decompressors and NumPy raise for damage has no common base."""
    path = tmp_path / "m.npz"
    parameters = SASRecParameters.initial(CONFIG, np.random.default_rng(0))
    save_model(path, parameters, {"epoch": 7})
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    tail = content.rindex(b"PK\1\2")  # every header of the archive, and some of the arrays
    headers = [
        place + n
        for part in (b"PK\3\4", b"PK\1\2", b"PK\5\6")
        for place in places(content, part)
        for n in range(46)
    ]
    n_refused = 0
    for place in {*headers, *range(tail, len(content)), *rng.integers(0, len(content), 300).tolist()}:
        if place >= len(content):
            continue
        changed = bytes([content[place] ^ int(rng.integers(1, 256))])
        path.write_bytes(content[:place] + changed + content[place + 1 :])
        try:
            with warnings.catch_warnings(action="ignore"):
                found, _ = load_model(path)
        except TrainingError:
            n_refused += 1
        else:
            assert np.array_equal(found.dense, parameters.dense)
    assert n_refused > 300


def places(content: bytes, part: bytes) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(part), content)]


@pytest.mark.parametrize("name", ["item_embedding", "dense", "poolers"])
@pytest.mark.parametrize("dtype", [np.int64, np.complex64, np.float16, np.str_])
def test_arrays_that_are_no_floats_are_refused(tmp_path: Path, name: str, dtype: Any) -> None:
    changed_model(tmp_path / "m.npz", name, lambda array: array.astype(dtype))
    with pytest.raises(TrainingError, match=r"m\.npz: .* holds .*, expected float32"):
        load_poolers(tmp_path / "m.npz") if name == "poolers" else load_model(tmp_path / "m.npz")


@pytest.mark.parametrize("name", ["item_embedding", "dense", "poolers"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    changed_model(tmp_path / "m.npz", name, lambda array: np.where(array == array.flat[-1], value, array))
    with pytest.raises(TrainingError, match=r"m\.npz: .* not finite"):
        load_poolers(tmp_path / "m.npz") if name == "poolers" else load_model(tmp_path / "m.npz")


def changed_model(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    parameters = SASRecParameters.initial(CONFIG, np.random.default_rng(0))
    save_model(path, parameters, {"epoch": 7}, np.ones((2, 4), np.float32))
    found = load_checkpoint(path)
    save_checkpoint(path, Checkpoint({**found.arrays, name: change(found.arrays[name])}, found.description))


@pytest.mark.parametrize(
    "description",
    [
        {},
        [],
        {"config": 3},
        {"config": {"n_items": 5, "unknown": 1}},
        {"config": {**vars(CONFIG), "n_heads": 3}},
        {"config": {**vars(CONFIG), "hidden": 8}},
        {"config": {**vars(CONFIG), "n_items": "5"}},
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path: Path, description: Any) -> None:
    parameters = SASRecParameters.zeros(CONFIG)
    np.savez(
        tmp_path / "m.npz",
        description=np.frombuffer(json.dumps(description).encode(), dtype=np.uint8),
        item_embedding=parameters.item_embedding,
        dense=parameters.dense,
    )
    refused(tmp_path / "m.npz", "not a model of this version")
