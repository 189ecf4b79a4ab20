"""docs/tutorial.md, run as it stands: from a frame to a service."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import serving

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_it_ends_with_a_service(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "kitchenware: model is" in done.stdout
    *_, similar = done.stdout.splitlines()
    assert similar.count("Espresso") >= 2
    assert (tmp_path / "report.html").exists()
    (commands,) = blocks("sh")
    start, ask = commands.splitlines()
    assert start.startswith(
        "LLMCDSR_ROOT=bundles LLMCDSR_BUNDLE=monday uvicorn --factory app:from_environment"
    )
    words = shlex.split(ask)
    body = json.loads(words[words.index("-d") + 1])
    with serving.serving(tmp_path / "bundles", "monday") as server:
        reply = server.ask("POST", "/recommend", body)
    assert reply.status == 200
    (answer,) = reply.body["answers"]
    assert len(answer["items"]) == 3
