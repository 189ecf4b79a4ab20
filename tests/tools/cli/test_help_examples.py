"""The example of every command's help, run as it is printed, each on what those before it made."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_encoder import E, make_tiny_model, write_encoder

from demo_world.world import write_demo_world
from llmcdsr_tools.cli.commands import cli

ROOT = Path(__file__).parents[3]
ORDER = (
    *(
        "score",
        "recommend",
        "similar",
        "inspect",
        "ingest",
        "histories",
        "embed",
        "neighbours",
        "embed-names",
    ),
    *("generate", "pretrain", "train", "evaluate", "export", "refit", "add-items", "index"),
    "fit",
)
SHORTER = {
    "train": "--epochs 1",
    "pretrain": "--epochs 1",
}  # what an example takes by default is too long for a test


def example_of(command: str) -> str:
    """The command line at the end of a command's help."""
    text = CliRunner().invoke(cli, [command, "--help"]).output
    (found,) = re.findall(r"Example:\n +(llmcdsr .*)$", text, re.MULTILINE)
    return str(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo model, an encoder, and an invented shop's files by the names of the examples."""
    place = tmp_path_factory.mktemp("examples")
    (place / "models").mkdir()
    for path in (ROOT / "models").iterdir():
        (place / "models" / path.name).symlink_to(path)
    world = write_demo_world(place / "world", n_users=1200)  # few of both domains
    new_names = {"groceries": "food", "kitchenware": "kitchen"}
    for source, target, opener in (
        (world.interactions, "ratings.csv.gz", gzip.open),
        (world.interactions, "interactions.csv.gz", gzip.open),
        (world.items, "items.csv", open),
    ):
        with opener(source, "rt", encoding="utf-8", newline="") as file:
            rows = [[new_names.get(cell, cell) for cell in row] for row in csv.reader(file)]
        with opener(place / target, "wt", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    write_encoder(place / "minilm", make_tiny_model())
    new = [{"id": "n1", "domain": "kitchen", "title": "red pan"}]
    new += [{"id": "n2", "domain": "food", "embedding": [0.5] * E}]
    (place / "new.jsonl").write_text("".join(json.dumps(item) + "\n" for item in new), encoding="utf-8")
    return place


def test_every_command_is_among_the_examples() -> None:
    assert sorted(ORDER) == sorted(cli.commands)


@pytest.mark.parametrize("command", ORDER)
def test_the_example_works(
    place: Path, llmcdsr: Callable[..., subprocess.CompletedProcess[bytes]], command: str
) -> None:
    if command == "index":
        pytest.importorskip("hnswlib")
    line = example_of(command)
    assert shlex.split(line)[1] == command
    if command == "fit":  # its first half: the second is the pipeline, which tests of its own run
        line = line.partition(";")[0]
    line = f"{line} {SHORTER.get(command, '')}"
    if not set("|;&<>$") & set(line):  # no shell is needed
        plain = llmcdsr(*shlex.split(line)[1:], cwd=place)
        assert plain.returncode == 0, plain.stderr.decode()
        assert b"Error" not in plain.stderr
        return
    shell = f'llmcdsr() {{ "$PYTHON" -m llmcdsr_tools "$@"; }}; {line}'
    environment = {**os.environ, "PYTHON": sys.executable, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        ["sh", "-c", shell], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
