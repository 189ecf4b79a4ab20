from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(bundle_folder: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return shutil.copytree(bundle_folder, tmp_path / "bundle")
