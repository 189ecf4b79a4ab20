"""Every script says what it does; whether it does is up to those who have the data."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TAKES_NOTHING = {"peers_child.py"}  # by another Python
PLAIN = {
    "complete_journey.py",
    "reading.py",
    "install_size.py",
    "table_precision.py",
}  # without options
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if path.name not in TAKES_NOTHING | PLAIN)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str, script: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    done = script(name, "--help")
    assert done.returncode == 0, done.stderr.decode()
    assert b"usage:" in done.stdout.lower()
