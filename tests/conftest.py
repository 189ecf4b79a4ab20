"""Fixtures that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def food_kitchen() -> Path:
    """The official data, which is never part of the repository."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "food-kitchen"
    if not folder.is_dir():
        pytest.skip(f"the official data is not at {folder}")
    return folder
