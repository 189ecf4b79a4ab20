"""What the commands of the training side refuse, how they say it, and with which exit status they end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.cli.options import Number
from llmcdsr_tools.cli.pipeline import example_config
from llmcdsr_tools.neighbours import neighbours
from llmcdsr_tools.setting_fields import usable_threads


@pytest.fixture
def place(small_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a data set and files that are something else."""
    monkeypatch.chdir(tmp_path)
    Path("dataset").symlink_to(small_world.folder, target_is_directory=True)
    neighbours(small_world.folder, Path("names.jsonl"))
    np.save("matrix.npy", np.ones((66, 4), np.float32))
    Path("text.npz").write_text("no archive")
    Path("users.txt").write_bytes(b"train1\ntrain2\xff\n")
    return tmp_path


def run(line: str) -> Result:
    result = CliRunner().invoke(cli, line.split())
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train dataset -o run --learning-rate -1", "-1.0 is not in the range x>0"),
        ("train dataset -o run --learning-rate inf", "'inf' is not a finite number"),
        ("train dataset -o run --pooler-learning-rate nan", "'nan' is not a finite number"),
        ("train dataset -o run --hidden 10 --heads 3", "n_heads must divide hidden"),
        ("train dataset -o run --hidden 99999999", "is not in the range 1<=x<=8192"),
        ("train dataset -o run --names names.jsonl", "names need the file of pre-training"),
        ("train dataset -o run --inner-optimizer adam", "inner_optimizer 'adam' needs embedded names"),
        ("train dataset -o run --pretrained-items", "pretrained_items needs the file of pre-training"),
        ("pretrain dataset -o p.npz --text-embeddings matrix.npy --temperature 0", "is not in the range x>0"),
        ("pretrain dataset -o p.npz --text-embeddings matrix.npy --heads 3", "n_heads must divide hidden"),
        ("generate dataset -o n --model m --dry-run --temperature nan", "'nan' is not a finite number"),
        ("generate dataset -o n --model m --dry-run --price-in nan", "'nan' is not a finite number"),
        ("index bundle --recall nan", "'nan' is not a finite number"),
        ("neighbours dataset -o n --neighbors 0", "is not in the range x>=1"),
        ("fit", "name a configuration"),
    ],
)
def test_usage_ends_with_status_2(place: Path, line: str, message: str) -> None:
    before = sorted(place.iterdir())
    result = run(line)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("generate dataset -o n --model m --dry-run --users users.txt", "users.txt:2: not UTF-8"),
        (
            "generate dataset -o n --model m --dry-run --users none.txt",
            "none.txt: cannot be read: No such file",
        ),
        (
            "export nothing --standalone x.onnx",
            "nothing: no such folder, expected a training run",
        ),
        ("neighbours dataset -o names.jsonl", "names.jsonl: exists already"),
        ("embed-names names.jsonl dataset -o matrix.npy", "matrix.npy: exists already"),
        ("generate dataset -o names.jsonl --model m --base-url http://127.0.0.1:1", "jsonl: exists already"),
        (
            "train dataset -o run --pretrained text.npz --pretrained-items",
            "text.npz: not a file of",
        ),
        (
            "train dataset -o run --pretrained matrix.npy --pretrained-items",
            "matrix.npy: not a file of",
        ),
    ],
)
def test_a_failed_job_ends_with_status_1(place: Path, line: str, message: str) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    result = run(line)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert "pickle" not in result.stderr
    assert result.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == before


def test_names_are_overwritten_if_asked(place: Path) -> None:
    Path("names.jsonl").write_text("kept")
    assert run("neighbours dataset -o names.jsonl").exit_code == 1
    assert Path("names.jsonl").read_text() == "kept"
    assert run("neighbours dataset -o names.jsonl --overwrite").exit_code == 0
    assert Path("names.jsonl").read_text() == ""  # every user of this world has both domains


def test_numbers_are_finite_and_in_range() -> None:
    parameter = Number(0, 1)
    assert parameter.convert("0.5", None, None) == 0.5
    for text in ("nan", "inf", "-inf", "2", "x"):
        with pytest.raises(click.BadParameter):
            parameter.convert(text, None, None)


def test_no_more_threads_than_processors() -> None:
    n = int(subprocess.run(["nproc"], capture_output=True, check=True).stdout)
    assert usable_threads(99999) == n
    assert usable_threads(1) == 1


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing of the extra `train` can be imported."""
    for name in ("onnx", "scipy", "threadpoolctl", "tokenizers"):
        text = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
        (tmp_path / f"{name}.py").write_text(text)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def bare_run(bare: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], env=bare, capture_output=True, text=True, check=False
    )


def test_the_example_of_a_configuration_needs_no_extra(bare: dict[str, str]) -> None:
    done = bare_run(bare, "llmcdsr_tools", "fit", "--example")
    assert (done.returncode, done.stdout, done.stderr) == (0, example_config(), "")


def test_the_demo_says_what_brings_a_missing_package(bare: dict[str, str], tmp_path: Path) -> None:
    path = f"{bare['PYTHONPATH']}{os.pathsep}{Path(__file__).parents[3] / 'examples'}"
    done = bare_run({**bare, "PYTHONPATH": path}, "demo_world", str(tmp_path / "models"))
    assert (done.returncode, done.stdout) == (1, "")
    hint = r"Error: this command needs \w+: pip install '.\[train\]' in a checkout, .*\n"
    assert re.fullmatch(hint, done.stderr)
    assert not (tmp_path / "models").exists()


def test_the_index_is_told_once_and_as_json(bundle_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("hnswlib")
    told = run(f"index {bundle_folder} -o {tmp_path / 'one'} --users 20")
    assert told.stderr == ""
    searched = ["food", "kitchen", "food and kitchen"]
    assert [line.split(":")[0] for line in told.stdout.splitlines()] == [f"items, {s}" for s in searched]
    measures = json.loads(run(f"index {bundle_folder} -o {tmp_path / 'two'} --users 20 --json").stdout)
    assert [(m["part"], m["domain"], m["reached"]) for m in measures] == [
        ("items", searched_domains, True) for searched_domains in searched
    ]
