"""What the Makefile would do, told by ``make -n``; nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def planned(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", f"VENV={folder}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment as make sees it, newer than all sources."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    return tmp_path


@pytest.mark.parametrize(
    "changed",
    [
        "llmcdsr_lite/cli/commands.py",
        "llmcdsr_lite/search/exact.py",
        "tools/llmcdsr_tools/pipeline/example.toml",
        "pyproject.toml",
    ],
)
def test_the_demo_runs_the_sources_as_they_are(environment: Path, changed: str) -> None:
    (environment / ".runtime").touch()
    future = (ROOT / changed).stat().st_mtime + 10**9
    os.utime(environment / ".runtime", (future, future))
    assert "pip install" not in planned(environment, "demo")
    assert "pip install --quiet --disable-pip-version-check .\n" in planned(
        environment, "-W", changed, "demo"
    )


def test_the_demo_leaves_an_editable_installation(environment: Path) -> None:
    (environment / ".development").touch()
    future = (ROOT / "pyproject.toml").stat().st_mtime + 10**9
    os.utime(environment / ".development", (future, future))
    for target in ("demo", "test"):
        assert "pip install" not in planned(environment, "-W", "llmcdsr_lite/cli/commands.py", target)
    assert "pip install" in planned(environment, "-W", "pyproject.toml", "test")


def test_what_the_test_command_leaves_out_is_run_before_a_change_lands(environment: Path) -> None:
    (environment / ".development").touch()
    future = (ROOT / "pyproject.toml").stat().st_mtime + 10**9
    os.utime(environment / ".development", (future, future))
    assert '-m "not slow"' in planned(environment, "test")
    assert '-m "slow or hypothesis"' in planned(environment, "test-slow")
    assert planned(environment, "test-all") == planned(environment, "test") + planned(
        environment, "test-slow"
    )
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert steps.index("make test") < steps.index("make test-slow")
