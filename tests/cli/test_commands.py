"""The runtime's commands, called as users do, whole outputs compared."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import ok, run

from llmcdsr_lite import Recommender, __version__
from llmcdsr_lite.score.job import ScoreSettings, score_histories
from llmcdsr_tools.cli.commands import cli

COMMANDS = sorted(cli.commands)
Command = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def recommender(bundle_folder: Path) -> Recommender:
    return Recommender.load(bundle_folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example(command: str) -> None:
    text = ok(command, "--help")
    example = re.search(r"^  Example:\n    (llmcdsr .*)$", text, re.MULTILINE)
    assert example is not None
    words = example[1].split()
    assert words[1] == command
    known = {name for p in cli.commands[command].params for name in (*p.opts, *p.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known
    assert ok(command, "-h") == text


def test_the_runtime_and_training_commands_are_all_there() -> None:
    help_text = ok("--help")
    for command in (
        "score",
        "recommend",
        "similar",
        "inspect",
        "ingest",
        "train",
        "evaluate",
        "export",
        "histories",
    ):
        assert f"\n  {command} " in help_text
    assert ok("--version") == f"llmcdsr, version {__version__}\n"


def lines_of(items: Any) -> list[str]:
    width = max(len(item.id) for item in items)
    domain = max(len(item.domain) for item in items)
    return [
        f"  {item.score:8.3f}  {item.id:<{width}}  {item.domain:<{domain}}  {item.title}" for item in items
    ]


def test_recommend_prints_a_table(recommender: Recommender, bundle_folder: Path) -> None:
    output = ok("recommend", "f1", "k12", "--model", bundle_folder, "-k", "6")
    assert output.splitlines() == [
        "history",
        "  f1   food     Café beans No. 1",
        '  k12  kitchen  Pan, "size 12"',
        "recommended",
        *lines_of(recommender.recommend(["f1", "k12"], k=6)),
    ]


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
def test_recommend_as_json(bundle_folder: Path, backend: str) -> None:
    output = ok(
        *("recommend", "f1", "--domain", "kitchen", "-k", "3", "--backend", backend, "--json"),
        *("--model", bundle_folder),
    )
    expected = Recommender.load(bundle_folder, backend=backend).recommend(["f1"], domain="kitchen", k=3)  # type: ignore[arg-type]
    assert json.loads(output) == {
        "history": ["f1"],
        "recommendations": [
            {"id": i.id, "title": i.title, "domain": "kitchen", "score": i.score} for i in expected
        ],
    }


def test_items_are_found_by_title(bundle_folder: Path) -> None:
    output = ok(
        *("recommend", "f3", "--title", "no. 11 CAFÉ", "--title", '"size 4"', "--json"),
        *("--model", bundle_folder),
    )
    assert json.loads(output)["history"] == ["f3", "f11", "k4"]


def test_of_several_titles_the_most_popular_is_taken(recommender: Recommender, bundle_folder: Path) -> None:
    food, kitchen = (
        recommender.bundle.item_counts[1:13].tolist(),
        recommender.bundle.item_counts[13:].tolist(),
    )
    expected = [f"f{food.index(max(food))}", f"k{kitchen.index(max(kitchen))}"]
    output = ok("recommend", "--title", "beans", "--title", "pan", "--json", "--model", bundle_folder)
    assert json.loads(output)["history"] == expected
    assert expected != ["f0", "k0"]


def test_nothing_left_to_recommend(bundle_folder: Path) -> None:
    history = [f"f{n}" for n in range(12)]
    output = ok("recommend", *history, "--domain", "food", "--json", "--model", bundle_folder)
    assert json.loads(output) == {"history": history, "recommendations": []}
    assert ok("recommend", *history, "--domain", "food", "--model", bundle_folder).count("\n") == 15


def test_similar(recommender: Recommender, bundle_folder: Path) -> None:
    expected = recommender.similar("k3", 5)
    assert ok("similar", "k3", "-k", "5", "--model", bundle_folder).splitlines() == lines_of(expected)
    output = ok("similar", "k3", "-k", "2", "--domain", "food", "--json", "--model", bundle_folder)
    assert json.loads(output) == [vars(item) for item in recommender.similar("k3", 2, domain="food")]


def test_inspect(bundle_folder: Path) -> None:
    config = json.loads((bundle_folder / "config.json").read_text())
    files = {name: (bundle_folder / name).stat().st_size for name in config["files"]}
    assert ok("inspect", bundle_folder).splitlines() == [
        f"{bundle_folder}: format version 1, verified, {sum(files.values()) / 1e6:.2f} MB",
        "domain food: 12 items",
        "domain kitchen: 18 items",
        "model: SASRec, hidden size 8, 2 blocks, 2 heads, histories up to 6 items",
        *(f"  {size:>12,}  {name}" for name, size in files.items()),
    ]
    assert json.loads(ok("inspect", bundle_folder, "--json")) == {"verified": True, **config}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".jsonl.gz"])
def test_score_is_score_histories(
    recommender: Recommender, bundle_folder: Path, source: Path, tmp_path: Path, suffix: str
) -> None:
    output, expected = tmp_path / f"out{suffix}", tmp_path / f"expected{suffix}"
    result = run("score", source, "--model", bundle_folder, "-k", "3", "--titles", "-o", output)
    summary = score_histories(recommender, source, expected, ScoreSettings(k=3, titles=True))
    unpack = gzip.decompress if suffix.endswith(".gz") else bytes
    assert unpack(output.read_bytes()) == unpack(expected.read_bytes())
    assert result.stdout == ""
    assert result.stderr == (
        f"30 users scored, 0 bad records left out, {summary.unknown_items} unknown items skipped, "
        f"{summary.fallbacks} users without a known item\n"
    )


def test_score_between_pipes(
    llmcdsr_process: Command, recommender: Recommender, bundle_folder: Path, source: Path, tmp_path: Path
) -> None:
    expected = tmp_path / "expected.csv"
    settings = ScoreSettings(k=2, domain="food", exclude_seen=False, output_format="csv", batch_size=7)
    score_histories(recommender, source, expected, settings)
    done = llmcdsr_process(
        *("score", "-", "--model", bundle_folder, "-k", "2", "--domain", "food", "--include-seen"),
        *("--output-format", "csv", "--batch-size", "7"),
        input=source.read_bytes(),
    )
    assert done.returncode == 0
    assert done.stdout == expected.read_bytes()
    assert done.stderr.startswith(b"30 users scored, ")


def test_bad_records_are_reported_by_number(bundle_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("user,history\nu1,f1;k2\nu2\nu3,f3\n")
    arguments = ("score", source, "--model", bundle_folder, "--separator", ";")
    result = run(*arguments, "--on-error", "skip", "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 0
    assert result.stderr == (
        f"{source}:3: 1 fields, expected 2\n"
        "2 users scored, 1 bad records left out, 0 unknown items skipped, 0 users without a known item\n"
    )
    result = run(*arguments, "-o", tmp_path / "other.jsonl")
    assert (result.exit_code, result.stderr) == (1, f"Error: {source}:3: 1 fields, expected 2\n")
    assert not (tmp_path / "other.jsonl").exists()


def test_score_resumes(bundle_folder: Path, source: Path, tmp_path: Path) -> None:
    arguments = ("score", source, "--model", bundle_folder, "-o", tmp_path / "out.jsonl")
    ok(*arguments, "--resume")
    first = (tmp_path / "out.jsonl").read_bytes()
    assert len(first.splitlines()) == 30
    refused = run(*arguments, "--resume")
    assert refused.exit_code == 1
    assert "out.jsonl: is there, and no interrupted output to continue" in refused.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == first


def test_the_runtime_works_without_the_training_extra(
    llmcdsr_process: Command, bundle_folder: Path, source: Path, without_train_extra: dict[str, str]
) -> None:
    for arguments in (
        ("recommend", "f1", "--model", bundle_folder),
        ("similar", "f1", "--model", bundle_folder),
        ("inspect", bundle_folder),
        ("score", source, "--model", bundle_folder),
    ):
        done = llmcdsr_process(*arguments, env=without_train_extra)
        assert (done.returncode, b"Error" in done.stderr) == (0, False)


def test_every_command_is_a_click_command() -> None:
    assert all(isinstance(command, click.Command) for command in cli.commands.values())


def test_several_domains_and_several_items(place: Path) -> None:
    both = run("recommend", "f1", "--model", str(place), "--domain", "kitchen", "--domain", "food", "--json")
    every = run("recommend", "f1", "--model", str(place), "--json")
    assert (both.exit_code, both.stdout) == (0, every.stdout)
    found = json.loads(run("similar", "f1", "f2", "--model", str(place), "--domain", "food", "--json").stdout)
    assert {item["id"] for item in found} == {f"f{n}" for n in range(12) if n not in (1, 2)}
    wrong = run("similar", "f1", "--model", str(place), "--domain", "foods")
    assert (wrong.exit_code, "did you mean 'food'" in wrong.stderr) == (2, True)
