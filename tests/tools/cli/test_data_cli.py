"""The command `ingest`: its figures as JSON, what it refuses, and its counter on a terminal."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llmcdsr_tools.cli.stages import cli
from llmcdsr_tools.ingest.interactions import PROGRESS_EVERY


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight users with two items of each domain; one item without a title, one that nobody has."""
    monkeypatch.chdir(tmp_path)
    items = [("item", "domain", "title"), ("a", "food", "A"), ("b", "food", ""), ("c", "tools", "C")]
    items += [("d", "tools", "D"), ("e", "tools", "E")]
    rows = [("user", "item", "timestamp")]
    rows += [(f"u{n}", item, f"2024-01-0{day}") for n in range(8) for day, item in enumerate("acbd", 1)]
    rows += [("short", "a", "2024-01-01")]
    for name, table in (("items", items), ("interactions", rows)):
        with Path(f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
    return tmp_path


def ingest(line: str) -> Result:
    result = CliRunner().invoke(cli, ["ingest", *line.split()])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


FILES = "interactions.csv --items items.csv --domain food --domain tools -o dataset"


def test_json_has_all_that_the_summary_and_the_notes_say(place: Path) -> None:
    found = json.loads(ingest(f"{FILES} --core 1 --json").stdout)
    assert found["domains"] == [
        {"name": "food", "items": 2, "untitled": 1},
        {"name": "tools", "items": 2, "untitled": 0},
    ]
    assert [found[split]["users_overlapped"] for split in ("train", "valid", "test")] == [6, 1, 1]
    assert found["density"] == 1.0
    assert found["dropped"] == {
        "users": 0,
        "items": 1,
        "interactions": 0,
        "short_users": 1,
        "stray_titles": 0,
    }


@pytest.mark.parametrize(
    ("domains", "expected"),
    [
        ("", ["food", "tools"]),  # all of the file, in order of appearance
        ("--domain tools --domain food", ["tools", "food"]),
    ],
)
def test_domains_are_those_of_the_file_unless_named(place: Path, domains: str, expected: list[str]) -> None:
    line = f"interactions.csv --items items.csv -o dataset --core 1 {domains}"
    assert [d["name"] for d in json.loads(ingest(f"{line} --json").stdout)["domains"]] == expected
    for named, message in (
        ("--domain food", "items.csv:4: domain 'tools', expected 'food'"),
        ("--domain food --domain tools --domain garden", "items.csv: no item of domain 'garden'"),
    ):
        refused = ingest(f"interactions.csv --items items.csv -o other {named}")
        assert refused.exit_code == 1
        assert message in refused.stderr
        assert not Path("other").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (". -o dataset --core 5", "--core: of no effect, as . is a folder, which must be filtered and split"),
        (". -o dataset --split overlapped --user-column nope", "--split, --user-column: of no effect"),
        (f"{FILES} --split leave-one-out --test-share 0.1", "--test-share: of no effect, as leave-one-out"),
        (". -o ../dataset --items items.csv", "is a folder, which has its own items"),
        ("interactions.csv -o dataset", "an interactions file needs an items file"),
        ("interactions.csv --items items.csv -o dataset --domain a --domain a", "1 to 64 different names"),
        (f"{FILES} --user-column item", "one name stands for two columns"),
        (f"{FILES} --valid-share 0.6 --test-share 0.6", "at most 1 together"),
    ],
)
def test_options_that_do_not_go_together_end_with_status_2(place: Path, line: str, message: str) -> None:
    result = ingest(line)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("dataset").exists()


def test_the_help_tells_which_files_and_timestamps_are_taken(place: Path) -> None:
    text = " ".join(ingest("--help").stdout.split())
    for word in (".csv", ".tsv", ".jsonl", ".ndjson", ".gz", "ISO 8601", "docs/data.md"):
        assert word in text


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        (PROGRESS_EVERY, [f"{PROGRESS_EVERY:,} interactions, ", "Error: interactions.csv:131074: item 'x'"]),
        (1, ["Error: interactions.csv:3: item 'x' is not in the items file"]),
    ],
)
def test_an_error_on_a_terminal_has_a_line_of_its_own(place: Path, rows: int, shown: list[Any]) -> None:
    pty = pytest.importorskip("pty")
    Path("interactions.csv").write_text("user,item,timestamp\n" + "u,a,1\n" * rows + "u,x,1\n")
    controller, terminal = pty.openpty()
    command = Path(sys.executable).with_name("llmcdsr")
    done = subprocess.run([command, "ingest", *FILES.split()], stderr=terminal, timeout=60, check=False)
    os.close(terminal)
    lines = os.read(controller, 10_000).decode().replace("\r\n", "\n").splitlines()
    os.close(controller)
    assert done.returncode == 1
    assert len([line for line in lines if line]) == len(shown)
    for line, start in zip((line for line in lines if line), shown, strict=True):
        assert line.startswith(start)
