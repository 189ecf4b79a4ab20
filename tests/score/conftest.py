"""What the tests of scoring share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmcdsr_lite.recommender import Recommender


@pytest.fixture(scope="session")
def recommender(bundle_folder: Path) -> Recommender:
    return Recommender.load(bundle_folder, backend="numpy")


@pytest.fixture
def source(tmp_path: Path, history_lines: Callable[[int], list[str]]) -> Path:
    """50 sound records."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(history_lines(50)), encoding="utf-8")
    return path
