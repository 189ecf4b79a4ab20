"""What docs/data.md says, as it stands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.data.dataset_folder import FILES, HEADER, load_dataset
from llmcdsr_tools.data.events import read_events
from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.data.official import PICKLES, TEXT_FILES
from llmcdsr_tools.data.sources import FORMATS, MAX_LINE
from llmcdsr_tools.data.splits import MIN_LEAVE_ONE_OUT, MIN_TRAIN

DOCS = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, flags=re.DOTALL | re.MULTILINE)


def first_cells(heading: str) -> list[str]:
    """The words in code of the first column of the table under a heading."""
    part = DOCS.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("|")]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def test_the_example_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in zip(("items.csv", "interactions.csv"), blocks("csv"), strict=True):
        Path(name).write_text(text, encoding="utf-8")
    (commands,) = blocks("sh")
    for line in commands.splitlines():
        command, _, said = line.partition("   # ")
        result = CliRunner().invoke(cli, shlex.split(command)[1:])
        assert result.exit_code == 0, result.output
        if said:
            assert json.loads(result.stdout) == json.loads(said)
    assert set(load_dataset(Path("dataset")).valid.users) == {"ann"}
    for name, dtype in (("rows", np.int32), ("offsets", np.int64)):
        array = np.load(f"dataset/train_{name}.npy")
        assert (array.dtype, array.ndim) == (dtype, 1)
        assert f"| `train_{name}.npy` | {array.dtype} (" in DOCS


def test_the_tables_name_all_files_and_formats() -> None:
    assert first_cells("What is read")[-len(FORMATS) :] == list(FORMATS)
    assert sorted(first_cells("The official layout")) == sorted((*TEXT_FILES, *PICKLES))
    named = first_cells("The data set folder")
    assert [name for name in FILES if not any(Path(name).match(pattern) for pattern in named)] == []


def test_figures_are_those_of_the_code() -> None:
    defaults = IngestSettings()
    assert f"(`--core`, {defaults.core})" in DOCS
    assert defaults.valid_share == defaults.test_share
    assert f"(`--test-share`, {defaults.test_share})" in DOCS
    assert f"(`--valid-share`, {defaults.valid_share})" in DOCS
    assert f"every history of {MIN_LEAVE_ONE_OUT} items or more" in DOCS
    assert f"fewer than {MIN_TRAIN} items are dropped" in DOCS
    assert f"lines of {MAX_LINE:,} bytes or more" in DOCS


def test_python_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in zip(("items.csv", "interactions.csv"), blocks("csv"), strict=True):
        Path(name).write_text(text, encoding="utf-8")
    command, *_ = blocks("sh")[0].splitlines()
    assert CliRunner().invoke(cli, shlex.split(command)[1:]).exit_code == 0
    (example,) = blocks("python")
    exec(compile(example, "data.md", "exec"), {})
    for name in FILES:
        if name != HEADER:
            assert Path("dataset-2", name).read_bytes() == Path("dataset", name).read_bytes()


def test_the_dates_are_taken(tmp_path: Path) -> None:
    (sentence,) = re.findall(r"or ISO 8601: (.*?) and the like", DOCS, flags=re.DOTALL)
    dates = re.findall(r"`([^`]+)`", sentence)
    (tmp_path / "x.csv").write_text(
        "user,item,timestamp\n" + "".join(f"u{n},i,{date}\n" for n, date in enumerate(dates))
    )
    table = read_events(tmp_path / "x.csv", None, IngestSettings())
    # midnight, half past six in the evening, and the same two hours earlier with 5.25 s more
    assert (table.times / 1e6 - 1706659200).tolist() == [0, 66600, 66605.25 - 7200]
    assert table.unit == "date"
