"""Every script says what it does; whether it does is up to those who have the data."""

from __future__ import annotations

import runpy
import sys
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
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # some set it for themselves
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert ended.value.code in (0, None)
    assert "usage:" in capsys.readouterr().out.lower()
