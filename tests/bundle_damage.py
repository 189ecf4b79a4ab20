"""Damage to a bundle folder whose hashes still agree, and what reading it then says."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.errors import BundleError


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(signed(config))


def signed(config: dict[str, Any]) -> str:
    """Text of a config.json with the checksum of its content."""
    rest = {name: value for name, value in config.items() if name != "config_sha256"}
    plain = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return json.dumps({**rest, "config_sha256": hashlib.sha256(plain.encode("ascii")).hexdigest()})


def set_field(folder: Path, keys: list[Any], value: Any) -> None:
    """Set the field of config.json that these keys lead to."""

    def change(config: Any) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    edit_config(folder, change)


def put(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and make config.json agree with it."""
    (folder / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_config(folder, lambda config: config["files"].update({name: entry}))


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    return str(caught.value)
