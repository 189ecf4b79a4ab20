"""The commands of docs/training.md on going on from an earlier model, run as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.run_folder import read_metrics
from llmcdsr_tools.train.training_run import TrainResult

DOCS = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_day_again(
    small_world: Any, small_run: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_world.folder, "dataset-today")
    export(small_run.run, "bundle")
    section = DOCS.split("## Every day again\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "llmcdsr"
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
    assert len(read_metrics(Path("run-today"))) == 3
    bundle = read_bundle(Path("bundle-today"))
    assert bundle.parameters.config.hidden == 16
    assert bundle.training["item_start"] == "an earlier model"
    train = cli.commands["train"]
    known = {option for parameter in train.params for option in parameter.opts}
    assert set(re.findall(r"`(--[a-z-]+)", section)) <= known
