"""The README's code and commands, run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from demo_world.world import write_demo_world

Command = Callable[..., subprocess.CompletedProcess[bytes]]
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def commands(containing: str) -> list[list[str]]:
    """The llmcdsr commands of the one shell block that contains a text."""
    (block,) = (b for b in blocks("sh") if containing in b)
    lines = [shlex.split(line, comments=True) for line in block.splitlines() if line.startswith("llmcdsr ")]
    assert lines
    return lines


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ok(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.stderr.decode()}"
    return done.stdout.decode()


@pytest.mark.slow
def test_a_model_of_the_sample_in_ten_lines(tmp_path: Path) -> None:
    code, _ = blocks("python")
    assert len(code.strip().splitlines()) <= 10
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    text = run(code, tmp_path)
    assert len([line for line in text.splitlines()[-3:] if "spresso" in line or "offee" in line]) >= 2
    assert (tmp_path / "bundle" / "config.json").exists()
    assert "kitchenware: model is" in text


def test_python_block_recommends_coffee_kitchenware() -> None:
    _, code = blocks("python")
    lines = run(code, ROOT).splitlines()
    assert len(code.strip().splitlines()) <= 11
    assert len([line for line in lines[:5] if " k-coffee-" in line]) >= 4
    assert "[False  True]" in "\n".join(lines)


def test_the_service_of_the_documents_answers() -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    service, frame = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert run(service, ROOT).count("'domain': 'kitchenware'") == 3
    pytest.importorskip("pandas")
    lines = run(frame, ROOT).splitlines()
    assert [line.split()[1:3] for line in lines[1:7]] == [
        [user, rank] for user in ("17", "23") for rank in "123"
    ]
    assert all(re.search(r" k-coffee-\S+ +False +9\.95$", line) for line in lines[1:7])


def test_runtime_commands(tmp_path: Path, llmcdsr: Command) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    output = [ok(llmcdsr(*command[1:], cwd=tmp_path)) for command in commands("llmcdsr inspect")]
    scored = [json.loads(line) for line in (tmp_path / "recommendations.jsonl").read_text().splitlines()]
    wanted = (ROOT / "models" / "demo-histories.jsonl").read_text().splitlines()
    assert [record["user"] for record in scored] == [json.loads(line)["user"] for line in wanted]
    assert all(len(record["items"]) == 10 for record in scored)
    assert "Espresso" in output[1]
    assert "verified" in output[3]


def test_training_commands(tmp_path: Path, llmcdsr: Command) -> None:
    write_demo_world(tmp_path, n_users=800)
    for command in commands("llmcdsr ingest"):
        quick = ["--epochs", "2"] if command[1] == "train" else []
        ok(llmcdsr(*command[1:], *quick, cwd=tmp_path))
    n_users = len((tmp_path / "test-histories.jsonl").read_text().splitlines())
    assert n_users > 5
    assert len((tmp_path / "recommendations.jsonl").read_text().splitlines()) == n_users


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets_exist(target: str) -> None:
    assert f"make {target} " in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
