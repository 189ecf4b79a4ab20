from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundle_damage import edit_config, refusal, set_field, signed

from llmcdsr_lite.bundle.folder import Bundle, read_bundle


@pytest.mark.parametrize("content", ["[]", "3", '"x"', "null"])
def test_config_that_is_no_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert refusal(folder) == f"{folder / 'config.json'}: must be a JSON object"


def test_huge_config(folder: Path) -> None:
    (folder / "config.json").write_text(" " * (1 << 20) + "{}")
    assert refusal(folder) == f"{folder / 'config.json'}: larger than 1,048,576 bytes"


@pytest.mark.parametrize("field", ["format", "format_version", "domains", "model", "training", "files"])
def test_config_without_a_field(folder: Path, field: str) -> None:
    edit_config(folder, lambda config: config.pop(field))
    message = refusal(folder)
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert f"'{field}'" in message


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (["format"], "other", "field 'format' is 'other'"),
        (
            ["format_version"],
            5,
            "field 'format_version' is 5, expected 1: the bundle was made by another",
        ),
        (["format_version"], 0, "field 'format_version' is 0"),
        (["format_version"], True, "field 'format_version' is True"),
        (["format_version"], "1", "field 'format_version' is '1'"),
        (["format_version"], 1.0, "field 'format_version' is 1.0"),
        (["domains"], [], "must list 1 to 64 domains"),
        (["domains"], "ab", "must list 1 to 64 domains"),
        (["domains", 0], "a", "needs a name"),
        (["domains", 0, "name"], 3, "needs a name"),
        (["domains", 0, "name"], "", "needs a name"),
        (["domains", 0, "name"], "\ud800", "needs a name"),
        (["domains", 0, "name"], "kitchen", "two of 'domains' are named 'kitchen'"),
        (["domains", 0, "items"], 0, "field 'items' is 0"),
        (["domains", 0, "items"], -5, "field 'items' is -5"),
        (["domains", 0, "items"], True, "field 'items' is True"),
        (["domains", 0, "items"], 12.0, "field 'items' is 12.0"),
        (["domains", 0, "items"], 10**30, "field 'items' is 1000"),
        (["model"], [], "field 'model' must be an object"),
        (["model", "hidden"], True, "field 'hidden' is True"),
        (["model", "hidden"], 10**9, "field 'hidden' is 1000000000"),
        (["model", "n_blocks"], 10**9, "field 'n_blocks' is 1000000000"),
        (["model", "n_heads"], 3, "n_heads must divide hidden"),
        (["model", "n_heads"], None, "field 'n_heads' is None"),
        (["model", "max_length"], 0, "field 'max_length' is 0"),
        (["model", "epsilon"], 0.0, "'model.epsilon' is 0.0"),
        (["model", "epsilon"], 1e-40, "'model.epsilon' is 1e-40"),
        (["model", "epsilon"], float("nan"), "not valid JSON: NaN is not finite"),
        (["training", "loss"], float("nan"), "not valid JSON: NaN is not finite"),
        (["training", "loss"], float("-inf"), "not valid JSON: -Infinity is not finite"),
        (["model", "epsilon"], "1e-8", "'model.epsilon' is '1e-8'"),
        (["training"], [], "field 'training' must be an object"),
        (["files"], [], "field 'files' must be an object"),
        (["files", "dense.npy"], None, "entry 'dense.npy' of 'files' needs bytes and sha256"),
        (["files", "dense.npy", "bytes"], None, "entry 'dense.npy' of 'files' needs bytes and sha256"),
        (["files", "dense.npy", "bytes"], True, "entry 'dense.npy' of 'files' needs bytes and sha256"),
    ],
)
def test_wrong_field(folder: Path, keys: list[Any], value: Any, reason: str) -> None:
    set_field(folder, keys, value)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert reason in message


def write_unsigned(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change config.json and leave its checksum as it is."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_the_checksum_of_the_configuration(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert json.loads(signed(config)) == config
    write_unsigned(folder, lambda config: None)  # spelled in another way
    (folder / "config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    assert read_bundle(folder).training == {"epoch": 3}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: [d.update(items=d["items"] + step) for d, step in zip(c["domains"], (1, -1), strict=True)],
        lambda c: c["domains"].reverse(),
        lambda c: c["training"].update(epoch=4),
        lambda c: c["training"].update(epoch=3.0),
        lambda c: c.update(more=1),
        lambda c: c.update(config_sha256=None),
        lambda c: c.update(config_sha256="0" * 64),
    ],
)
def test_a_configuration_that_was_changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    write_unsigned(folder, change)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'config.json'}: the SHA-256 of its content is ")
    assert message.endswith(": damaged or changed")


def test_a_configuration_without_a_checksum_as_it_was_once(folder: Path) -> None:
    write_unsigned(folder, lambda config: config.pop("config_sha256"))
    assert read_bundle(folder).training == {"epoch": 3}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"format": ', '"format": "other", "format": ', "key 'format' is repeated"),
        ('"epoch": 3', '"epoch": 3, "epoch": 3', "key 'epoch' is repeated"),
        ('"epoch": 3', '"epoch": 1e999', "1e999 is not finite"),
        ('"epoch": 3', '"epoch": -Infinity', "-Infinity is not finite"),
    ],
)
def test_json_that_readers_take_differently(folder: Path, old: str, new: str, reason: str) -> None:
    text = (folder / "config.json").read_text()
    assert old in text
    (folder / "config.json").write_text(text.replace(old, new, 1))
    assert refusal(folder) == f"{folder / 'config.json'}: not valid JSON: {reason}"


def test_a_summary_with_numbers_for_keys_and_none(
    bundle_data: Bundle, build_bundle: Callable[[Bundle, Path], Path], tmp_path: Path
) -> None:
    summary = {"hr": {10: 0.5, 9: (1, float("nan"))}}
    folder = build_bundle(replace(bundle_data, training=summary), tmp_path / "bundle")
    assert read_bundle(folder).training == {"hr": {"10": 0.5, "9": [1, None]}}
