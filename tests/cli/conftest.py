"""Inputs of the commands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def source(tmp_path: Path, history_lines: Callable[[int], list[str]]) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(history_lines(30)), encoding="utf-8")
    return path


@pytest.fixture
def place(bundle_folder: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with good and bad inputs."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundle_folder, "damaged")
    Path("damaged/dense.npy").unlink()
    Path("bad.gz").write_bytes(b"not gzip")
    Path("bad.jsonl").write_bytes(b"\xff\n")
    return bundle_folder
